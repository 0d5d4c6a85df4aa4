//! Step 3: which pods of a claim have to stand close to each other, and which of these even closer.

use crate::{
    event::Topology,
    model::{Model, spot::Spots},
    slab::{ClaimOrd, PodOrd},
};

/// Pods that stand to each other as they shall, and parts of them that stand closer.
pub(super) struct Unit {
    pub(super) topology: Option<Topology>,
    pub(super) pods: Vec<PodOrd>,
    /// Where those of them stand that have a seat already.
    pub(super) home: Spots,
    /// None: all alike.
    pub(super) parts: Vec<Unit>,
}

/// True if some pods of a claim want to stand close together.
pub(super) fn has_topology(model: &Model, claim: ClaimOrd) -> bool {
    let claim = &model.claims[claim];
    claim.topology.is_some() || claim.groups.iter().any(|g| g.spec.topology.is_some())
}

/// True if some pods of a claim wait until an area has room for all of them.
pub(super) fn is_bound_to_areas(model: &Model, claim: ClaimOrd) -> bool {
    let claim = &model.claims[claim];
    let groups = claim.groups.iter().map(|g| g.spec.topology);
    std::iter::once(claim.topology)
        .chain(groups)
        .flatten()
        .any(|t| t.required)
}

/// The pods as their claim and groups want them to stand; `None` if anyhow.
pub(super) fn unit_of(model: &Model, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Unit> {
    if !has_topology(model, claim) {
        return None;
    }
    let claim = &model.claims[claim];
    let (mut parts, mut home) = (Vec::new(), Spots::default());
    let mut rest = Unit {
        topology: None,
        pods: Vec::new(),
        home: Spots::default(),
        parts: Vec::new(),
    };
    for group in &claim.groups {
        let here = model.home_of(&group.members);
        home.join(&here);
        let mine = pods
            .iter()
            .copied()
            .filter(|&p| *model.pods[p].group == *group.spec.name);
        if group.spec.topology.is_none() {
            rest.pods.extend(mine);
            continue;
        }
        let part = Unit {
            topology: group.spec.topology,
            pods: mine.collect(),
            home: here,
            parts: Vec::new(),
        };
        if !part.pods.is_empty() {
            parts.push(part);
        }
    }
    // Those that are hardest to place go first; equal ones stay in the order of groups.
    parts.sort_by_key(|part| {
        let required = part.topology.is_some_and(|t| t.required);
        (!required, std::cmp::Reverse(part.pods.len()))
    });
    if !parts.is_empty() && !rest.pods.is_empty() {
        parts.push(rest);
    }
    Some(Unit {
        topology: claim.topology,
        pods: pods.to_vec(),
        home,
        parts,
    })
}
