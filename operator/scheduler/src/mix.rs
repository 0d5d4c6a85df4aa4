//! What GPU pods there were so far: from it packing learns what to expect. Pods to come are never looked at.

use std::collections::BTreeMap;

use crate::{
    fragmentation::{Idle, Kind, Typical},
    model::Model,
    slab::PodOrd,
    worth::Outlook,
};

/// Pods after which what is expected is looked at for the first time: fewer say little.
const FIRST: u64 = 16;
/// Pods that are remembered at most: beyond, each kind counts half, so that the mix follows what is asked for lately.
/// What is expected is then looked at anew every 8,192 pods.
const REMEMBERED: u64 = 16_384;

/// Kinds that are told apart at most: the most frequent ones.
const KINDS: usize = 256;

/// GPU pods so far, by what matters of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mix {
    /// Pods that came since the last cycle. They are counted in a cycle, since only then their shape is certain: what is
    /// known of their claim may come after them.
    fresh: Vec<PodOrd>,
    /// By names of models, since their ordinals depend on what was heard of first.
    seen: BTreeMap<(Kind, Vec<String>), u64>,
    total: u64,
    /// `total` when the outlook was made.
    known: u64,
    /// Thousandths of GPUs that the cluster had then.
    gpus: i64,
    /// What is expected.
    pub(crate) outlook: Outlook,
}

impl Mix {
    /// A pod that was not known came.
    pub(crate) fn note(&mut self, pod: PodOrd) {
        self.fresh.push(pod);
    }
}

impl Model {
    /// Counts the pods that came, and looks anew at what is to be expected when they have doubled, or when the GPUs have
    /// become more or fewer by over an eighth.
    pub(crate) fn learn(&mut self) {
        for pod in std::mem::take(&mut self.mix.fresh) {
            self.count_in_mix(pod);
        }
        let [gpus, ..] = &self.capacity;
        let gpus = gpus.of(self.resources.gpu).get();
        let more_pods = self.mix.total >= FIRST && self.mix.total >= self.mix.known * 2;
        let other_gpus = self.mix.known > 0 && (gpus - self.mix.gpus).abs() * 8 > self.mix.gpus;
        if !more_pods && !other_gpus {
            return;
        }
        if self.mix.total >= REMEMBERED {
            self.mix.seen.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.mix.total = self.mix.seen.values().sum();
        }
        (self.mix.known, self.mix.gpus) = (self.mix.total, gpus);
        let counts = self.mix.seen.iter().map(|((kind, models), &count)| {
            let mut ords = models.iter().filter_map(|m| self.models.find(m.as_str()));
            let mut models: Vec<u32> = ords.by_ref().map(crate::packing::number).collect();
            models.sort_unstable();
            (Kind { models, ..kind.clone() }, count)
        });
        let mut kinds: Vec<(Kind, u64)> = counts.collect();
        // Stable: of equally frequent ones the first by names stays first.
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds.truncate(KINDS);
        let nodes = self.nodes_by_name.values().map(|&node| &self.nodes[node]);
        let idle: Vec<Idle> = nodes
            .filter(|node| node.present && !node.devices.is_empty())
            .map(|node| self.idle_on(node))
            .collect();
        let version = self.mix.outlook.version() + 1;
        self.mix.outlook = Outlook::of(Typical::covering(100, kinds), &self.gpus_by_model(), &idle, version);
    }

    fn count_in_mix(&mut self, ord: PodOrd) {
        // A pod that is gone may have left its ordinal to one that came after it.
        let Some(pod) = self.pods.find(ord).filter(|pod| !pod.counted) else {
            return;
        };
        let shape = self.shapes.value(pod.shape).clone();
        self.pods[ord].counted = true;
        let Some(need) = &shape.gpus else { return };
        let mut models: Vec<String> = need
            .models
            .iter()
            .filter_map(|&m| self.models.value(m).cloned())
            .collect();
        models.sort_unstable();
        let kind = Kind {
            models: Vec::new(),
            ..self.kind_of(&shape)
        };
        *self.mix.seen.entry((kind, models)).or_insert(0) += 1;
        self.mix.total += 1;
    }

    /// Thousandths of GPUs that the present nodes have, by model.
    fn gpus_by_model(&self) -> BTreeMap<u32, i64> {
        let mut gpus = BTreeMap::new();
        for node in self.nodes_by_name.values().map(|&node| &self.nodes[node]) {
            for device in &node.devices {
                *gpus.entry(crate::packing::number(device.model)).or_insert(0) += 1000;
            }
        }
        gpus
    }
}
