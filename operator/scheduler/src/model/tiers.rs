//! Tiers and the resources that carry them. CPU and memory have a name of their own in each tier, since each tier's are
//! another capacity: `cpu` is firm, `duosuan.io/batch-cpu` is what firm requests leave idle. So a pod that asks for the
//! one under the label of the other would use the one and be charged for the other, and pass the limit of its queue.
//!
//! Such a pod is refused, and so is a claim whose groups state such requests. One that runs already (its label was
//! changed, or somebody else bound it) is charged for what it holds, whatever its label says. GPUs may be asked for in
//! every tier, and a pod that requests neither CPU nor memory is best effort in each of them.

use crate::{
    amount::Amounts,
    decision::Reason,
    event::{self, Tier},
    model::{Model, resources, tier_index},
};

impl Model {
    /// The tier whose quotas a pod is charged to: its own, or, if it asks for what is another tier's, the firmest of
    /// those that it asks for.
    pub(crate) fn charged_tier(&self, requests: &Amounts, tier: Tier) -> Tier {
        let reserved = || requests.iter().filter_map(|(r, _)| self.resources.reserved_for(*r));
        if reserved().all(|of| of == tier) {
            return tier;
        }
        reserved().min_by_key(|of| tier_index(*of)).unwrap_or(tier)
    }

    /// Why a pod of a tier is refused, if it asks for what is another tier's.
    pub(crate) fn pod_contradicts(&self, requests: &Amounts, tier: Tier) -> Option<Reason> {
        let other = |resource| self.resources.reserved_for(resource).filter(|of| *of != tier);
        let (resource, of) = requests.iter().find_map(|(r, _)| Some((*r, other(*r)?)))?;
        let name = self.resources.name(resource);
        let field = format!("spec.containers[].resources.requests[{name}] (or spec.overhead)");
        let message = contradiction(&field, "pod", name, of, tier);
        Some(Reason::Refused { message })
    }
}

/// Why a claim of a tier is refused, if one of its groups states what is another tier's. Groups in the order given.
pub(crate) fn claim_contradicts(groups: &[event::Group], tier: Tier) -> Option<String> {
    groups.iter().find_map(|group| {
        let asked = group.requests.iter().filter(|(_, amount)| **amount > 0);
        let (name, of) = asked
            .filter_map(|(name, _)| Some((name, resources::reserved_for(name)?)))
            .find(|(_, of)| *of != tier)?;
        let field = format!("spec.groups[{}].requests[{name}]", group.name);
        Some(contradiction(&field, "claim", name, of, tier))
    })
}

fn contradiction(field: &str, who: &str, name: &str, of: Tier, tier: Tier) -> String {
    let (of, own) = (of.as_str(), tier.as_str());
    let instead = resources::instead(name, tier);
    format!("{field}: this is capacity of tier {of}, and the {who} is of tier {own}: write {instead} instead")
}
