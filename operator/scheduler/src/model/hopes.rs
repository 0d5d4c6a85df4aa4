//! Claims that were tried in vain and may be let in by more pods, not only by fewer: those that have to be near others,
//! or are spread as others are. Only they are tried again when such a pod finds its place.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{Model, rules::Rule},
    slab::{ClaimOrd, MarkOrd, PodOrd},
};

/// Who hopes for more of whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hopes {
    by_mark: BTreeMap<MarkOrd, BTreeSet<ClaimOrd>>,
    by_claim: BTreeMap<ClaimOrd, Vec<MarkOrd>>,
    /// Claims that are to be tried again since it was last asked.
    rising: BTreeSet<ClaimOrd>,
}

impl Hopes {
    /// True if nobody hopes for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_claim.is_empty()
    }

    /// A claim waits no more, or is tried again.
    pub(crate) fn forget(&mut self, claim: ClaimOrd) {
        for mark in self.by_claim.remove(&claim).unwrap_or_default() {
            if let Some(claims) = self.by_mark.get_mut(&mark) {
                claims.remove(&claim);
                if claims.is_empty() {
                    self.by_mark.remove(&mark);
                }
            }
        }
    }

    /// Claims that are to be tried again since it was last asked.
    pub(crate) fn take_rising(&mut self) -> BTreeSet<ClaimOrd> {
        std::mem::take(&mut self.rising)
    }
}

impl Model {
    /// Notes what a claim hopes for that was tried in vain.
    pub(crate) fn hope(&mut self, claim: ClaimOrd) {
        self.hopes.forget(claim);
        let mut marks: Vec<MarkOrd> = Vec::new();
        for pod in self.members(claim).map(|pod| &self.pods[pod]).filter(|pod| pod.waits()) {
            marks.extend(self.marks.compiled(pod.shape).into_iter().flat_map(|c| c.hoped_for()));
        }
        if marks.is_empty() {
            return;
        }
        marks.sort_unstable();
        marks.dedup();
        for &mark in &marks {
            self.hopes.by_mark.entry(mark).or_default().insert(claim);
        }
        self.hopes.by_claim.insert(claim, marks);
    }

    /// A pod found its place: whoever hoped for one like it is to be tried again.
    pub(crate) fn raise_hopes(&mut self, pod: PodOrd) {
        if self.hopes.is_empty() {
            return;
        }
        let marks = self.marks.counting(self.pods[pod].identity);
        let raised: BTreeSet<ClaimOrd> = marks
            .iter()
            .filter_map(|mark| self.hopes.by_mark.get(mark))
            .flatten()
            .copied()
            .collect();
        for &claim in &raised {
            self.unpark(claim);
        }
        self.hopes.rising.extend(raised);
    }

    /// True if a pod that fits nowhere may be let in by others that come.
    pub(crate) fn waits_for_others(&self, pod: PodOrd) -> bool {
        let compiled = self.marks.compiled(self.pods[pod].shape);
        compiled.is_some_and(|compiled| compiled.hoped_for().next().is_some())
    }
}

impl super::rules::Compiled {
    /// Marks of which one more may let in a pod of the shape.
    fn hoped_for(&self) -> impl Iterator<Item = MarkOrd> + '_ {
        self.checks.iter().filter_map(|check| match check.rule {
            Rule::Near => check.mark,
            Rule::Spread(even) if even.required => check.mark,
            _ => None,
        })
    }
}
