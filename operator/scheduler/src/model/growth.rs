//! Elastic claims: what one holds above its minimum, quantum by quantum.

use crate::{
    amount::Totals,
    model::{Model, Place, Share, claim::GroupSlot, tier_index},
    slab::{ClaimOrd, PodOrd},
};

impl GroupSlot {
    /// Pods of the next step up from so many that are there; `None` if it is at its maximum, or below its minimum.
    pub(crate) fn step_up(&self, have: u32) -> Option<u32> {
        let above = have.checked_sub(self.min())?;
        let steps = (above / self.quantum()).saturating_add(1);
        let target = self.min().saturating_add(steps.saturating_mul(self.quantum()));
        target.min(self.max()).checked_sub(have).filter(|step| *step > 0)
    }

    /// Pods of the next step down from so many that are there; `None` if it is at its minimum.
    pub(crate) fn step_down(&self, have: u32) -> Option<u32> {
        let above = have.checked_sub(self.min()).filter(|above| *above > 0)?;
        Some(match above % self.quantum() {
            0 => self.quantum(),
            part => part,
        })
    }
}

impl Model {
    /// Pods of a group that are there, or finished.
    pub(crate) fn have(&self, group: &GroupSlot) -> u32 {
        let counts = |p: &&PodOrd| self.pods[**p].finished || self.pods[**p].is_live();
        let there = group.members.iter().filter(counts).count();
        group
            .done_and_gone
            .saturating_add(u32::try_from(there).unwrap_or(u32::MAX))
    }

    /// Pods of a group that can be taken back, the newest first.
    fn can_go<'a>(&'a self, group: &'a GroupSlot) -> impl Iterator<Item = PodOrd> + 'a {
        let bound = |p: &PodOrd| self.pods[*p].is_live() && matches!(self.pods[*p].place, Place::Bound(_));
        group.members.iter().rev().copied().filter(bound)
    }

    /// The quanta that a claim can give back, the first to go first.
    pub(crate) fn quanta_above_minimum(&self, claim: ClaimOrd) -> Vec<Vec<PodOrd>> {
        let mut quanta = Vec::new();
        for group in &self.claims[claim].groups {
            let mut have = self.have(group);
            let mut can_go = self.can_go(group);
            while let Some(step) = group.step_down(have) {
                let quantum: Vec<PodOrd> = can_go.by_ref().take(step as usize).collect();
                if quantum.len() < step as usize {
                    break;
                }
                have = have.saturating_sub(step);
                quanta.push(quantum);
            }
        }
        quanta
    }

    /// The next quantum that a claim gives back, those first of which it is of use; empty if there is none.
    pub(crate) fn quantum_to_give_back(&self, claim: ClaimOrd, of_use: impl Fn(PodOrd) -> bool) -> Vec<PodOrd> {
        for group in &self.claims[claim].groups {
            let Some(step) = group.step_down(self.have(group)) else {
                continue;
            };
            let (mut first, rest): (Vec<PodOrd>, Vec<PodOrd>) = self.can_go(group).partition(|&p| of_use(p));
            first.extend(rest);
            if !first.is_empty() && first.len() >= step as usize {
                first.truncate(step as usize);
                return first;
            }
        }
        Vec::new()
    }

    /// Keeps the list of those that hold more than their minimum.
    pub(crate) fn note_grown(&mut self, ord: ClaimOrd) {
        let claim = &self.claims[ord];
        let above = |group: &GroupSlot| group.max() > group.min() && group.step_down(self.have(group)).is_some();
        if claim.listed_running && claim.groups.iter().any(above) {
            self.grown.insert(ord);
        } else {
            self.grown.remove(&ord);
        }
    }

    /// The largest share of the cluster that a claim holds of any resource.
    pub(crate) fn share_of_claim(&self, ord: ClaimOrd) -> Share {
        let mut used: [Totals; 3] = Default::default();
        let tier = tier_index(self.claims[ord].tier);
        if let Some(used) = used.get_mut(tier) {
            for pod in self.members(ord).map(|p| &self.pods[p]).filter(|p| p.is_live()) {
                used.add(&self.shapes.value(pod.shape).ask);
            }
        }
        self.largest_in_use(&used, 1)
    }
}
