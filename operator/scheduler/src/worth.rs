//! What the idle GPUs of a node are worth: how much of them pods like those seen so far will use.
//!
//! Three things make it up. What the node would still take if such pods came one after the other, the mean of several
//! sampled sequences of them: it sees how cores and GPUs, and large and small shares, go together. Room for one kind of
//! pod that is rare in the cluster, that is for several GPUs or a lot of cores at once: it is worth more the more of it
//! those pods will want of what is left. And GPUs of a model that many pods insist on are not for those that can do
//! without: the part of them that such pods will need counts as lost.

use std::collections::{BTreeMap, HashMap};

use crate::fragmentation::{Idle, Kind, Typical};

/// Sequences of pods that are tried on a node.
const SEQUENCES: usize = 32;
/// Pods of a sequence: even of small ones enough to fill eight GPUs.
const PODS: usize = 64;
/// A millionth of a GPU is what worth is counted in: thousandths of GPUs in thousandths.
const FINE: i64 = 1000;
/// Losses are told apart in steps of two hundredths of a GPU: what is finer is chance, and the node order, which
/// fills one node before it begins the next, does better.
const STEP: i64 = 20 * FINE;
/// Cores are looked at in steps of half a core, so that more nodes are alike.
const CPU_STEP: i64 = 500;
/// Part of the wanted room that counts: enough to keep it until it is wanted. With a quarter, less is packed of
/// everything else.
const ROOM: i64 = 10;
/// What is wanted of a model is counted in parts of this.
const PARTS: i64 = 1024;
/// States of nodes whose worth is kept, at most: some 10 MiB.
const KEPT: usize = 1 << 17;

/// What pods to expect, and what they will want.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outlook {
    version: u64,
    sequences: Vec<Vec<Kind>>,
    /// Part of a model's GPUs, in [`PARTS`], that pods which insist on it want, if all GPUs were asked for.
    wanted: BTreeMap<u32, i64>,
    /// Kinds, with the part, in [`PARTS`], of all room for each that it will want.
    rooms: Vec<(Kind, i64)>,
}

impl Outlook {
    /// The outlook on pods like these, on GPUs of these models (in thousandths), with this idle on nodes now. Versions
    /// tell outlooks apart.
    pub(crate) fn of(typical: Typical, gpus: &BTreeMap<u32, i64>, nodes: &[Idle], version: u64) -> Outlook {
        Outlook {
            version,
            sequences: sequences(&typical),
            wanted: wanted(&typical, gpus),
            rooms: rooms(&typical, nodes),
        }
    }

    /// Which outlook this is; zero for none.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Steps of worth that are lost when a pod that takes so many thousandths of GPUs turns the one into the other.
    pub(crate) fn loss(&self, worths: &mut Worths, before: &Idle, after: &Idle, milli: i64) -> i64 {
        let wanted = self.wanted.get(&before.model).copied().unwrap_or(0);
        let wanted = milli * FINE / PARTS * wanted;
        let lost = worths.of(self, before) - worths.of(self, after) + wanted;
        lost.div_euclid(STEP)
    }

    /// The worth of what is idle.
    fn worth(&self, idle: &Idle) -> i64 {
        let all = idle.milli();
        let mut taken = 0;
        for sequence in &self.sequences {
            let (mut node, mut left) = (*idle, all);
            for kind in sequence {
                if node.take(kind) {
                    left -= milli(kind);
                }
                if left == 0 {
                    break;
                }
            }
            taken += all - left;
        }
        let taken = taken * FINE / i64::try_from(SEQUENCES).unwrap_or(1);
        let room = |(kind, wanted): &(Kind, i64)| idle.room_for(kind) * milli(kind) * wanted;
        let room = self.rooms.iter().map(room).sum::<i64>() * FINE / PARTS;
        taken + room / ROOM
    }
}

/// Worths that were found already: a cache.
#[derive(Debug, Default)]
pub(crate) struct Worths {
    version: u64,
    // Looked up, never iterated.
    known: HashMap<Idle, i64>,
}

impl Worths {
    fn of(&mut self, outlook: &Outlook, idle: &Idle) -> i64 {
        if self.version != outlook.version || self.known.len() >= KEPT {
            self.known.clear();
            self.version = outlook.version;
        }
        let mut idle = *idle;
        if idle.milli() == 0 {
            return 0;
        }
        idle.cpu_milli = idle.cpu_milli.div_euclid(CPU_STEP) * CPU_STEP;
        *self.known.entry(idle).or_insert_with(|| outlook.worth(&idle))
    }
}

/// Sequences of the kinds, each drawn as often as it is frequent. Always the same ones for the same kinds.
fn sequences(typical: &Typical) -> Vec<Vec<Kind>> {
    let mut sum = 0;
    let upto: Vec<i64> = typical
        .kinds()
        .iter()
        .map(|(_, count)| {
            sum += count;
            sum
        })
        .collect();
    // Marsaglia's xorshift, 13-7-17.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = i64::try_from(state >> 33).unwrap_or(0) % sum.max(1);
        let index = upto.partition_point(|&upto| upto <= at);
        typical.kinds().get(index).map(|(kind, _)| kind.clone())
    };
    (0..SEQUENCES)
        .map(|_| (0..PODS).filter_map(|_| draw()).collect())
        .collect()
}

/// Thousandths of GPUs that a pod of a kind takes.
fn milli(kind: &Kind) -> i64 {
    i64::from(kind.gpus) * i64::from(kind.gpu_milli)
}

/// Thousandths of GPUs that all typical pods take.
fn asked(typical: &Typical) -> i64 {
    typical.kinds().iter().map(|(kind, count)| count * milli(kind)).sum()
}

/// What kinds will want of the room that nodes have for each of them by itself, if pods come for all GPUs that are idle.
/// Those that will want next to nothing of it are left out.
fn rooms(typical: &Typical, nodes: &[Idle]) -> Vec<(Kind, i64)> {
    let asked = asked(typical);
    let mut alike: BTreeMap<Idle, i64> = BTreeMap::new();
    for idle in nodes {
        *alike.entry(*idle).or_insert(0) += 1;
    }
    let idle: i64 = nodes.iter().map(Idle::milli).sum();
    let wanted = typical.kinds().iter().filter_map(|(kind, count)| {
        let room: i64 = alike.iter().map(|(idle, nodes)| idle.room_for(kind) * nodes).sum();
        let coming = i128::from(*count) * i128::from(idle) * i128::from(PARTS);
        let part = coming.checked_div(i128::from(asked) * i128::from(room))?;
        let part = i64::try_from(part).map_or(PARTS, |part| part.min(PARTS));
        (part > 0).then(|| (kind.clone(), part))
    });
    wanted.collect()
}

/// What pods that insist on models want of each, if pods came for as many GPUs as there are. A pod that allows several
/// takes of each what it has of them all.
fn wanted(typical: &Typical, gpus: &BTreeMap<u32, i64>) -> BTreeMap<u32, i64> {
    let asked = asked(typical);
    let all: i64 = gpus.values().sum();
    let mut wanted: BTreeMap<u32, i64> = BTreeMap::new();
    for (kind, count) in typical.kinds().iter().filter(|(kind, _)| !kind.models.is_empty()) {
        let allowed: i64 = kind.models.iter().filter_map(|model| gpus.get(model)).sum();
        if allowed == 0 || asked == 0 {
            continue;
        }
        // In 128 bits, since counts times thousandths times thousandths may pass 2^63.
        let part = i128::from(milli(kind)) * i128::from(*count) * i128::from(all) * i128::from(PARTS)
            / (i128::from(asked) * i128::from(allowed));
        let part = i64::try_from(part.min(i128::from(PARTS))).unwrap_or(PARTS);
        for &model in &kind.models {
            let sum = wanted.entry(model).or_insert(0);
            *sum = (*sum + part).min(PARTS);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn kind(cpu_milli: i64, gpu_milli: u16, models: &[u32]) -> Kind {
        Kind {
            cpu_milli,
            gpus: 1,
            gpu_milli,
            models: models.to_vec(),
        }
    }

    fn idle(cpu_milli: i64, model: u32, free: &[u16]) -> Idle {
        let mut idle = Idle {
            cpu_milli,
            model,
            ..Default::default()
        };
        idle.free[..free.len()].copy_from_slice(free);
        idle
    }

    fn outlook(kinds: &[(Kind, u64)], gpus: &[(u32, i64)]) -> Outlook {
        Outlook::of(
            Typical::covering(100, kinds.iter().cloned()),
            &gpus.iter().copied().collect(),
            &[],
            1,
        )
    }

    #[test]
    fn idle_gpus_are_worth_what_pods_can_use_of_them() {
        let outlook = outlook(&[(kind(4000, 500, &[]), 1)], &[]);
        let worth = |idle: Idle| outlook.worth(&idle);
        assert_eq!(worth(idle(8000, 0, &[1000])), 1000 * FINE, "all of it");
        assert_eq!(worth(idle(7000, 0, &[1000])), 500 * FINE, "the cores are for one pod");
        assert_eq!(worth(idle(3000, 0, &[1000])), 0, "nobody can use it");
        assert_eq!(
            worth(idle(8000, 0, &[900])),
            500 * FINE,
            "the rest is seen when it is left"
        );
    }

    #[test]
    fn the_place_where_cores_and_shares_come_out_even_loses_least() {
        let outlook = outlook(&[(kind(1000, 300, &[]), 1), (kind(1000, 700, &[]), 1)], &[]);
        let mut worths = Worths::default();
        let mut loss = |before: &[u16], after: &[u16]| {
            let (before, after) = (idle(9000, 0, before), idle(8000, 0, after));
            outlook.loss(&mut worths, &before, &after, 300)
        };
        let (even, odd) = (loss(&[1000, 300], &[1000]), loss(&[1000, 300], &[700, 300]));
        assert!(even <= odd, "{even} {odd}");
        assert!(
            loss(&[600], &[300]) < loss(&[700], &[400]),
            "700 is of use in one piece"
        );
    }

    #[test]
    fn room_for_several_gpus_is_kept_as_far_as_it_is_wanted() {
        let pair = Kind {
            gpus: 2,
            ..kind(0, 1000, &[])
        };
        let kinds = [(kind(0, 1000, &[]), 8), (pair, 1)];
        let nodes = |whole: usize| -> Vec<Idle> {
            (0..10)
                .map(|i| idle(0, 0, &[1000; 2][..if i < whole { 2 } else { 1 }]))
                .collect()
        };
        let loss = |whole: usize| {
            let outlook = Outlook::of(
                Typical::covering(100, kinds.clone()),
                &BTreeMap::new(),
                &nodes(whole),
                1,
            );
            let mut worths = Worths::default();
            outlook.loss(&mut worths, &idle(0, 0, &[1000; 2]), &idle(0, 0, &[1000]), 1000)
        };
        assert!(
            loss(10) < loss(4) && loss(4) < loss(2),
            "{} {} {}",
            loss(10),
            loss(4),
            loss(2)
        );
    }

    #[test]
    fn gpus_that_pods_insist_on_are_kept_from_those_that_do_not() {
        let gpus = [(0, 8000), (1, 2000)];
        let outlook = outlook(&[(kind(0, 1000, &[]), 9), (kind(0, 1000, &[1]), 1)], &gpus);
        assert_eq!(
            outlook.wanted,
            [(1, PARTS / 2)].into(),
            "one of ten pods wants one of two GPUs"
        );
        let mut worths = Worths::default();
        let mut loss = |model| {
            let (before, after) = (idle(9000, model, &[1000, 1000]), idle(8000, model, &[1000]));
            outlook.loss(&mut worths, &before, &after, 1000)
        };
        assert!(loss(0) < loss(1), "{} {}", loss(0), loss(1));
    }

    #[test]
    fn worths_are_found_anew_for_another_outlook() {
        let (all, half) = (
            outlook(&[(kind(0, 500, &[]), 1)], &[]),
            Outlook {
                version: 2,
                ..outlook(&[(kind(0, 1000, &[]), 1)], &[])
            },
        );
        let mut worths = Worths::default();
        let node = idle(0, 0, &[500]);
        assert_eq!(worths.of(&all, &node), 500 * FINE);
        assert_eq!(worths.of(&half, &node), 0);
    }
}
