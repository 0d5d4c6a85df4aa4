//! Where a pod goes that is one of several replicas: of the nodes that are about as good as the best, to those that share
//! least of what fails together with the others. Better a fuller node than the same zone twice; but neither a wish, a taint
//! nor a free GPU is given up for it.
//!
//! Nobody is turned away by it, so that whether a pod has a place is found without it.

use std::collections::BTreeSet;

use super::{candidates::Candidates, lineup::Part};
use crate::{
    model::{
        Model,
        kin::{Domain, Kin, Kins, Nearness},
    },
    slab::{KinOrd, NodeOrd},
};

/// The kin that a pod is kept apart from.
#[derive(Clone, Copy)]
pub(super) struct Apart<'a> {
    model: &'a Model,
    kin: &'a Kin,
}

impl<'a> Apart<'a> {
    pub(super) fn new(model: &'a Model, kin: KinOrd) -> Apart<'a> {
        let kin = &model.kins.slots[kin];
        Apart { model, kin }
    }

    /// How many kin a node has.
    pub(super) fn on(&self, node: NodeOrd) -> u32 {
        self.kin.on(node)
    }

    /// How many nodes have kin.
    pub(super) fn nodes(&self) -> usize {
        self.kin.nodes()
    }

    /// The fault domains.
    pub(super) fn domains(&self) -> impl Iterator<Item = Domain> + '_ {
        let areas = self.model.kins.level().into_iter();
        let areas = areas.flat_map(|level| self.model.areas.of_level(level).map(Some));
        areas.chain([None])
    }

    /// The nodes of a fault domain.
    pub(super) fn part(&self, domain: Domain) -> Part {
        self.model
            .kins
            .level()
            .map_or(Part::Whole, |level| Part::Of(level, domain))
    }

    /// How near nodes are to kin, the farthest first, each with the fault domains that have such nodes: there nodes are
    /// farther that have fewer.
    pub(super) fn farthest_first(&self) -> Vec<(Nearness, Domain)> {
        let kins = &self.model.kins;
        let near = |domain: Domain| {
            let within = kins.within(self.kin, domain);
            self.counts(domain).map(move |on| (Kins::nearness(within, on), domain))
        };
        let mut all: Vec<(Nearness, Domain)> = self.domains().flat_map(near).collect();
        all.sort_by_key(|(near, _)| *near);
        all
    }

    /// How many kin nodes of a fault domain have, ascending and each once.
    fn counts(&self, domain: Domain) -> impl Iterator<Item = u32> + '_ {
        let nodes = match domain {
            Some(area) => self.model.areas.nodes(area),
            // Not more than there are.
            None => u32::try_from(self.model.nodes_by_name.len()).unwrap_or(u32::MAX),
        };
        self.kin.counts(domain, nodes)
    }

    #[cfg(test)]
    fn near(&self, node: NodeOrd) -> Nearness {
        let kins = &self.model.kins;
        let domain = kins.domain(&self.model.nodes[node].areas);
        Kins::nearness(kins.within(self.kin, domain), self.on(node))
    }

    /// The node of a list.
    pub(super) fn best_listed(&self, list: &Candidates, refused: &BTreeSet<NodeOrd>) -> Option<NodeOrd> {
        let judged: Vec<_> = list.judged().collect();
        let free = |node: &NodeOrd| !refused.contains(node);
        let first = judged.iter().filter_map(|(bucket, against)| {
            let ((cost, _), _) = bucket.fitting.iter().find(|(_, node)| free(node))?;
            Some(cost.against(*against))
        });
        let at_most = first.min()?.by_use_at_most();
        let mut best = None;
        for (bucket, against) in judged {
            let within = self.model.kins.within(self.kin, bucket.fault);
            let fewest = self.counts(bucket.fault).next().unwrap_or(0);
            for ((cost, rank), node) in bucket.fitting.iter().filter(|(_, node)| free(node)) {
                let cost = cost.against(against);
                if cost > at_most {
                    break;
                }
                let on = self.on(*node);
                let found = (Kins::nearness(within, on), cost, *rank, *node);
                if best.is_none_or(|best| found < best) {
                    best = Some(found);
                }
                // Those after it have no fewer, and cost no less.
                if on <= fewest {
                    break;
                }
            }
        }
        best.map(|(_, _, _, node)| node)
    }

    /// The same answer by looking at every node: what the index is compared with.
    #[cfg(test)]
    pub(super) fn best_of(&self, fitting: &[(crate::score::Cost, u64, NodeOrd)]) -> Option<NodeOrd> {
        let at_most = fitting.iter().min()?.0.by_use_at_most();
        let alike = fitting.iter().filter(|(cost, _, _)| *cost <= at_most);
        let best = alike.min_by_key(|(cost, rank, node)| (self.near(*node), *cost, *rank));
        best.map(|(_, _, node)| *node)
    }
}
