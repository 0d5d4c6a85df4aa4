//! Whom an eviction takes: the least lost work that frees enough.
//!
//! Lost work is what a pod has computed since its last checkpoint, else since its start. On its own node that is the CPU
//! time that it used, which is less than what it asked for where it was held back; of the time since a checkpoint its
//! even part. Where nothing was measured, it is what it asked for.
//!
//! A gang that loses a pod which it cannot spare stands still, so that its price is the lost work of all its pods; of
//! those elsewhere only the number is known, and each is taken to be worth the mean of those here. Where not even
//! the number is known, the pods here are the gang.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observation::{Gang, Group, Millis, Pod};

/// Lost work. GPUs count first: their hours are the dear ones, and there is no rate of exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LostWork {
    /// Of GPUs that were asked for, card-microseconds.
    pub cards: u64,
    /// Of CPUs, core-microseconds.
    pub cores: u64,
}

impl LostWork {
    /// What a group would lose now.
    pub fn of(group: &Group, now: Millis) -> Self {
        let Some(pod) = &group.pod else {
            return Self {
                cards: 0,
                cores: group.cpu_usage.unwrap_or(0),
            };
        };
        let lived = pod.started.map(|at| now.saturating_sub(at));
        let since = pod.checkpoint.map(|at| now.saturating_sub(at));
        let Some(span) = since.or(lived) else {
            // Neither start nor checkpoint is known: all that it ever used.
            return Self {
                cards: 0,
                cores: group.cpu_usage.unwrap_or(0),
            };
        };
        // A checkpoint from before the start saves what was done until then, and the work began with the start.
        let span = span.min(lived.unwrap_or(span));
        // Thousandths times milliseconds are microseconds.
        let asked = |milli: i64| u64::try_from(milli).unwrap_or(0).saturating_mul(span);
        let cores = match (group.cpu_usage, lived) {
            (Some(used), Some(lived)) => part(used, span, lived),
            _ => asked(group.requests.cpu),
        };
        Self {
            cards: asked(pod.cards),
            cores,
        }
    }

    /// In whole core-seconds.
    pub const fn core_seconds(self) -> u64 {
        self.cores / 1_000_000
    }

    /// In whole card-seconds.
    pub const fn card_seconds(self) -> u64 {
        self.cards / 1_000_000
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cards: self.cards.saturating_add(other.cards),
            cores: self.cores.saturating_add(other.cores),
        }
    }

    /// So many pods, where `self` is the work of `of`.
    fn scaled(self, pods: u64, of: u64) -> Self {
        let scale = |work: u64| part(work, pods, of);
        Self {
            cards: scale(self.cards),
            cores: scale(self.cores),
        }
    }
}

impl std::fmt::Display for LostWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.card_seconds(), self.core_seconds()) {
            (0, cores) => write!(f, "{cores} core-seconds"),
            (cards, cores) => write!(f, "{cards} card-seconds and {cores} core-seconds"),
        }
    }
}

fn part(of: u64, numerator: u64, denominator: u64) -> u64 {
    let part = u128::from(of) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// A group that may have to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) group: &'a Group,
    /// What its end frees, in the unit of what is needed.
    pub(crate) frees: i64,
    /// It goes already: nothing more is lost with it.
    pub(crate) leaving: bool,
}

/// A group that has to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim<'a> {
    pub(crate) group: &'a Group,
    /// The price of all that is lost with it.
    pub(crate) price: LostWork,
}

/// What is lost together, and what its parts free.
#[derive(Debug)]
struct Unit<'a> {
    price: LostWork,
    members: Vec<Candidate<'a>>,
}

impl Unit<'_> {
    fn frees(&self) -> i64 {
        self.members.iter().fold(0, |sum, c| sum.saturating_add(c.frees))
    }

    /// The last word between equals: the path, which nobody shares.
    fn key(&self) -> (LostWork, Option<&str>) {
        (self.price, self.members.first().map(|c| c.group.path.as_str()))
    }
}

/// The candidates whose end frees `need`, of the least lost work: the cheapest first until it suffices, and then
/// without those, the dearest first, whom the others make needless. All that free anything, if they do not suffice.
pub(crate) fn choose<'a>(
    candidates: Vec<Candidate<'a>>,
    gangs: &BTreeMap<String, Gang>,
    need: i64,
    now: Millis,
) -> Vec<Victim<'a>> {
    let mut units = units(candidates, gangs, now);
    units.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut freed: i64 = 0;
    let mut chosen = Vec::new();
    for unit in units {
        if freed >= need {
            break;
        }
        freed = freed.saturating_add(unit.frees());
        chosen.push(unit);
    }
    for unit in chosen.iter_mut().rev() {
        // Of a gang that has to go, too, no more pods than needed: another may repair it.
        let mut kept = Vec::new();
        while let Some(member) = unit.members.pop() {
            if freed.saturating_sub(member.frees) >= need {
                freed -= member.frees;
            } else {
                kept.push(member);
            }
        }
        kept.reverse();
        unit.members = kept;
    }
    let victims = chosen.iter().flat_map(|unit| {
        unit.members.iter().map(|member| Victim {
            group: member.group,
            price: unit.price,
        })
    });
    victims.collect()
}

/// Gangs in one piece, but for the pods that they can spare; all others by themselves.
fn units<'a>(mut candidates: Vec<Candidate<'a>>, gangs: &BTreeMap<String, Gang>, now: Millis) -> Vec<Unit<'a>> {
    let mut standing = standing(&candidates, gangs);
    candidates.retain(|c| c.frees > 0);
    let own = |c: &Candidate<'_>| {
        if c.leaving {
            LostWork::default()
        } else {
            LostWork::of(c.group, now)
        }
    };
    candidates.sort_by(|a, b| (own(a), &a.group.path).cmp(&(own(b), &b.group.path)));
    let mut units = Vec::new();
    let mut bound: BTreeMap<&str, Vec<Candidate<'a>>> = BTreeMap::new();
    for candidate in candidates {
        match gang_of(candidate.group) {
            Some((gang, _)) if !candidate.leaving => bound.entry(gang).or_default().push(candidate),
            _ => units.push(Unit {
                price: own(&candidate),
                members: vec![candidate],
            }),
        }
    }
    for (name, members) in bound {
        let known = standing.remove(name).unwrap_or_default();
        let work = members.iter().fold(LostWork::default(), |sum, c| sum.plus(own(c)));
        let here = u64::try_from(members.len()).unwrap_or(u64::MAX);
        let price = if known.broken {
            LostWork::default()
        } else {
            work.scaled(known.members.max(here), here)
        };
        let mut spare = known.spare;
        let mut needed = Vec::new();
        for member in members {
            let group = gang_of(member.group).map_or("", |(_, pod)| pod.group.as_str());
            match spare.get_mut(group) {
                Some(left) if *left > 0 && !known.broken => {
                    *left -= 1;
                    units.push(Unit {
                        price: own(&member),
                        members: vec![member],
                    });
                }
                _ => needed.push(member),
            }
        }
        // Those that free most stay to the last when needless ones are taken back.
        needed.sort_by(|a, b| b.frees.cmp(&a.frees).then_with(|| a.group.path.cmp(&b.group.path)));
        if !needed.is_empty() {
            units.push(Unit { price, members: needed });
        }
    }
    units
}

/// A gang without its pods that are leaving.
#[derive(Debug, Default)]
struct Standing {
    members: u64,
    spare: BTreeMap<String, u32>,
    /// A pod is leaving that it cannot spare: it stands still already, and nothing more is lost with the others.
    broken: bool,
}

fn standing<'a>(candidates: &[Candidate<'a>], gangs: &BTreeMap<String, Gang>) -> BTreeMap<&'a str, Standing> {
    let mut standing: BTreeMap<&str, Standing> = BTreeMap::new();
    for candidate in candidates {
        let Some((name, pod)) = gang_of(candidate.group) else {
            continue;
        };
        let gang = standing.entry(name).or_insert_with(|| {
            let known = gangs.get(name).cloned().unwrap_or_default();
            Standing {
                members: u64::from(known.members),
                spare: known.spare,
                broken: false,
            }
        });
        if !candidate.leaving {
            continue;
        }
        gang.members = gang.members.saturating_sub(1);
        match gang.spare.get_mut(&pod.group) {
            Some(left) if *left > 0 => *left -= 1,
            _ => gang.broken = true,
        }
    }
    standing
}

fn gang_of(group: &Group) -> Option<(&str, &Pod)> {
    let pod = group.pod.as_ref()?;
    Some((pod.gang.as_deref()?, pod))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::observation::Resources;
    use proptest::prelude::*;

    const NOW: Millis = 1_000_000;

    /// A pod that has used one core for so many seconds.
    fn pod(name: &str, seconds: u64) -> Group {
        Group {
            path: name.to_owned(),
            cpu_usage: Some(seconds * 1_000_000),
            pod: Some(Pod {
                uid: name.to_owned(),
                name: format!("default/{name}"),
                started: Some(NOW - seconds * 1000),
                ..Pod::default()
            }),
            ..Group::default()
        }
    }

    fn member(name: &str, gang: &str, group: &str, seconds: u64) -> Group {
        let mut group_of = pod(name, seconds);
        let pod = group_of.pod.as_mut().unwrap();
        (pod.gang, pod.group) = (Some(gang.to_owned()), group.to_owned());
        group_of
    }

    fn chosen(groups: &[(Group, i64)], gangs: &BTreeMap<String, Gang>, need: i64) -> Vec<(String, u64)> {
        let candidates = groups.iter().map(|(group, frees)| Candidate {
            group,
            frees: *frees,
            leaving: group.pod.as_ref().is_some_and(|p| p.leaving),
        });
        let victims = choose(candidates.collect(), gangs, need, NOW);
        let named = |v: &Victim<'_>| (v.group.path.clone(), v.price.core_seconds());
        victims.iter().map(named).collect()
    }

    fn names(groups: &[(Group, i64)], gangs: &BTreeMap<String, Gang>, need: i64) -> Vec<String> {
        let mut names: Vec<String> = chosen(groups, gangs, need).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    #[test]
    fn work_is_lost_since_the_last_checkpoint_else_since_the_start() {
        let mut group = pod("a", 100);
        assert_eq!(LostWork::of(&group, NOW).core_seconds(), 100);
        group.pod.as_mut().unwrap().checkpoint = Some(NOW - 10_000);
        assert_eq!(LostWork::of(&group, NOW).core_seconds(), 10, "a tenth of its life");
        group.pod.as_mut().unwrap().checkpoint = Some(NOW + 5_000);
        assert_eq!(LostWork::of(&group, NOW).core_seconds(), 0, "by a clock that is ahead");
        group.pod.as_mut().unwrap().checkpoint = Some(NOW - 500_000);
        assert_eq!(
            LostWork::of(&group, NOW).core_seconds(),
            100,
            "of a life before this one"
        );
    }

    #[test]
    fn without_a_measurement_what_was_asked_for_counts_and_cards_count_first() {
        let mut asked = pod("a", 100);
        (asked.cpu_usage, asked.requests) = (None, Resources { cpu: 2500, memory: 0 });
        assert_eq!(LostWork::of(&asked, NOW).core_seconds(), 250);
        let mut card = pod("b", 1);
        card.pod.as_mut().unwrap().cards = 500;
        assert!(LostWork::of(&card, NOW) > LostWork::of(&asked, NOW));
        let text = LostWork {
            cards: 2_000_000,
            cores: 3_000_000,
        };
        assert_eq!(text.to_string(), "2 card-seconds and 3 core-seconds");
    }

    #[test]
    fn the_lowest_lost_work_goes_first_and_no_more_than_needed() {
        let none = BTreeMap::new();
        let groups = [(pod("dear", 900), 100), (pod("mean", 50), 100), (pod("cheap", 1), 100)];
        assert_eq!(names(&groups, &none, 1), ["cheap"]);
        assert_eq!(names(&groups, &none, 101), ["cheap", "mean"]);
        assert_eq!(names(&groups, &none, 1000), ["cheap", "dear", "mean"], "not enough");
        // What the dearer one makes needless stays.
        let groups = [(pod("small", 1), 10), (pod("large", 2), 100)];
        assert_eq!(names(&groups, &none, 50), ["large"]);
        let groups = [(pod("holds nothing", 0), 0), (pod("a", 9), 1)];
        assert_eq!(names(&groups, &none, 1), ["a"]);
    }

    #[test]
    fn a_gang_is_one_price_with_its_pods_elsewhere_and_loses_no_more_than_needed() {
        let groups = [
            (member("g1", "ns/g", "worker", 30), 60),
            (member("g2", "ns/g", "worker", 30), 80),
            (pod("single", 100), 100),
        ];
        // Only what is here is known: 60 are less than 100.
        assert_eq!(chosen(&groups, &BTreeMap::new(), 50), [("g2".to_owned(), 60)]);
        // With eight pods it is 240.
        let eight = Gang {
            members: 8,
            ..Gang::default()
        };
        let gangs = BTreeMap::from([("ns/g".to_owned(), eight)]);
        assert_eq!(chosen(&groups, &gangs, 50), [("single".to_owned(), 100)]);
        assert_eq!(names(&groups, &gangs, 150), ["g2", "single"]);
    }

    #[test]
    fn a_gang_that_can_spare_a_pod_loses_only_that_pods_work() {
        let groups = [
            (member("g1", "ns/g", "executor", 30), 60),
            (member("g2", "ns/g", "executor", 40), 60),
            (pod("single", 50), 60),
        ];
        let gang = Gang {
            members: 8,
            spare: BTreeMap::from([("executor".to_owned(), 1)]),
        };
        let gangs = BTreeMap::from([("ns/g".to_owned(), gang)]);
        assert_eq!(chosen(&groups, &gangs, 60), [("g1".to_owned(), 30)]);
        assert_eq!(
            names(&groups, &gangs, 120),
            ["g1", "single"],
            "the second would break it"
        );
    }

    #[test]
    fn of_a_gang_that_is_broken_already_nothing_more_is_lost() {
        let mut gone = member("g1", "ns/g", "worker", 900);
        gone.pod.as_mut().unwrap().leaving = true;
        let groups = [
            (gone, 0),
            (member("g2", "ns/g", "worker", 900), 60),
            (pod("single", 1), 60),
        ];
        assert_eq!(chosen(&groups, &BTreeMap::new(), 60), [("g2".to_owned(), 0)]);
    }

    proptest! {
        #[test]
        fn what_is_chosen_suffices_if_anything_does_and_nobody_of_it_could_stay(
            pods in prop::collection::vec((0u64..900, 0i64..100, prop::option::of(0u8..3), any::<bool>()), 0..12),
            need in 1i64..400
        ) {
            let groups: Vec<(Group, i64)> = pods.iter().enumerate().map(|(n, (seconds, frees, gang, leaving))| {
                let name = format!("p{n:02}");
                let mut group = match gang {
                    Some(gang) => member(&name, &format!("ns/{gang}"), "worker", *seconds),
                    None => pod(&name, *seconds),
                };
                group.pod.as_mut().unwrap().leaving = *leaving;
                (group, *frees)
            }).collect();
            let gangs = BTreeMap::from([("ns/1".to_owned(), Gang {
                members: 4,
                spare: BTreeMap::from([("worker".to_owned(), 2)]),
            })]);
            let victims = names(&groups, &gangs, need);
            let frees = |name: &String| groups.iter().find(|(g, _)| g.path == *name).unwrap().1;
            let freed: i64 = victims.iter().map(frees).sum();
            let all: i64 = groups.iter().map(|(_, frees)| frees).sum();
            prop_assert!(freed >= need.min(all));
            if freed >= need {
                for victim in &victims {
                    prop_assert!(freed - frees(victim) < need, "{victim} could stay: {victims:?}");
                }
            }
            let mut reversed = groups.clone();
            reversed.reverse();
            prop_assert_eq!(names(&reversed, &gangs, need), victims);
        }
    }
}
