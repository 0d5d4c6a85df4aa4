//! Names of resources, and how capacity of the tiers is called in quotas.

use crate::{
    amount::{Amount, Amounts},
    event::{self, Tier},
    intern::Names,
    slab::ResourceOrd,
};

/// Prefix of extended resources that carry the capacity of tier batch.
const BATCH: &str = "duosuan.io/batch-";
/// Prefix of extended resources that carry the capacity of tier mid.
const MID: &str = "duosuan.io/mid-";

/// The names of resources, and for each its name in quotas.
#[derive(Clone, Debug)]
pub(crate) struct Resources {
    names: Names<ResourceOrd, String>,
    quota: Vec<ResourceOrd>,
    /// The tier that alone may ask for each, found once: it is asked for at every turn.
    reserved: Vec<Option<Tier>>,
    /// Pods of a node; each pod takes one.
    pub(crate) pods: ResourceOrd,
    /// Firm milli-cores.
    pub(crate) cpu: ResourceOrd,
    /// Firm bytes of memory.
    pub(crate) memory: ResourceOrd,
    /// Thousandths of GPUs, in quotas only.
    pub(crate) gpu: ResourceOrd,
    /// Whole GPUs as device plugins offer them; quotas count them as `gpu` by the pod's GPU request.
    pub(crate) plugin_gpu: ResourceOrd,
}

impl Default for Resources {
    fn default() -> Self {
        let zero = ResourceOrd::new(0);
        let mut resources = Resources {
            names: Names::default(),
            quota: Vec::new(),
            reserved: Vec::new(),
            pods: zero,
            cpu: zero,
            memory: zero,
            gpu: zero,
            plugin_gpu: zero,
        };
        resources.pods = resources.named("pods");
        resources.cpu = resources.named("cpu");
        resources.gpu = resources.named("gpu");
        resources.memory = resources.named("memory");
        resources.plugin_gpu = resources.named("nvidia.com/gpu");
        resources
    }
}

impl Resources {
    /// The ordinal of a name.
    pub(crate) fn named(&mut self, name: &str) -> ResourceOrd {
        if let Some(known) = self.names.find(name) {
            return known;
        }
        let ord: ResourceOrd = self.names.intern(name);
        let plain = name.strip_prefix(BATCH).or_else(|| name.strip_prefix(MID));
        self.quota.push(ord);
        self.reserved.push(reserved_for(name));
        if let Some(plain) = plain {
            let quota = self.named(plain);
            if let Some(slot) = self.quota.get_mut(ord.index()) {
                *slot = quota;
            }
        }
        ord
    }

    /// The name of an ordinal.
    pub(crate) fn name(&self, ord: ResourceOrd) -> &str {
        self.names.value(ord).map_or("", String::as_str)
    }

    /// The resource as quotas call it: `duosuan.io/batch-cpu` is `cpu`.
    pub(crate) fn in_quota(&self, ord: ResourceOrd) -> ResourceOrd {
        self.quota.get(ord.index()).copied().unwrap_or(ord)
    }

    /// All ordinals.
    pub(crate) fn all(&self) -> impl Iterator<Item = ResourceOrd> + use<> {
        (0..self.quota.len()).map(ResourceOrd::new)
    }

    /// Amounts from outside, zero ones left out, in the order of the names.
    pub(crate) fn taken_in(&mut self, amounts: &event::Amounts) -> Amounts {
        amounts
            .iter()
            .map(|(name, &raw)| (self.named(name), Amount::taken_in(raw)))
            .filter(|(_, amount)| !amount.is_zero())
            .collect()
    }

    /// The tier whose capacity a resource of a node is, by its name: 0 prod, 1 mid, 2 batch.
    pub(crate) fn tier_of(&self, ord: ResourceOrd) -> usize {
        let name = self.name(ord);
        if name.starts_with(BATCH) {
            2
        } else if name.starts_with(MID) {
            1
        } else {
            0
        }
    }

    /// The tier that alone may ask for a resource; `None` if every tier may.
    pub(crate) fn reserved_for(&self, ord: ResourceOrd) -> Option<Tier> {
        self.reserved.get(ord.index()).copied().flatten()
    }
}

/// The tier that alone may ask for a resource, by its name; `None` if every tier may: GPUs, which tiers share, and
/// whatever has no name of its own by tier.
pub(crate) fn reserved_for(name: &str) -> Option<Tier> {
    match name {
        "cpu" | "memory" => Some(Tier::Prod),
        _ if name.starts_with(BATCH) => Some(Tier::Batch),
        _ if name.starts_with(MID) => Some(Tier::Mid),
        _ => None,
    }
}

/// What a tier asks for instead of a resource of another one, for a person: `duosuan.io/batch-cpu (in milli-cores)`.
pub(crate) fn instead(name: &str, tier: Tier) -> String {
    let plain = name.strip_prefix(BATCH).or_else(|| name.strip_prefix(MID));
    let plain = plain.unwrap_or(name);
    let prefix = match tier {
        Tier::Prod => return plain.to_owned(),
        Tier::Mid => MID,
        Tier::Batch => BATCH,
    };
    let unit = match plain {
        "cpu" => " (in milli-cores)",
        "memory" => " (in bytes)",
        _ => "",
    };
    format!("{prefix}{plain}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_of_the_tiers_has_the_plain_name_in_quotas() {
        let mut resources = Resources::default();
        let batch = resources.named("duosuan.io/batch-cpu");
        let cpu = resources.named("cpu");
        assert_eq!(resources.in_quota(batch), cpu);
        assert_eq!(resources.in_quota(cpu), cpu);
        assert_eq!((resources.tier_of(batch), resources.tier_of(cpu)), (2, 0));
    }

    #[test]
    fn each_tier_has_its_own_name_for_cpu_and_memory_and_all_share_the_rest() {
        assert_eq!(reserved_for("memory"), Some(Tier::Prod));
        assert_eq!(reserved_for("duosuan.io/mid-memory"), Some(Tier::Mid));
        for shared in ["pods", "nvidia.com/gpu", "ephemeral-storage", "example.com/nic"] {
            assert_eq!(reserved_for(shared), None);
        }
        assert_eq!(instead("cpu", Tier::Batch), "duosuan.io/batch-cpu (in milli-cores)");
        assert_eq!(
            instead("duosuan.io/batch-memory", Tier::Mid),
            "duosuan.io/mid-memory (in bytes)"
        );
        assert_eq!(instead("duosuan.io/mid-cpu", Tier::Prod), "cpu");
    }
}
