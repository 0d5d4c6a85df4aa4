//! Whom an eviction takes: the least lost work that frees enough.
//!
//! A gang that loses a pod which it cannot spare stands still, so that its price is the lost work of all its pods; of
//! those elsewhere only the number is known, and each is taken to be worth the mean of those here. Where not even
//! the number is known, the pods here are the gang.

use std::collections::BTreeMap;

use crate::{
    lost_work::{LostWork, Told},
    observation::{Gang, Group, Millis, Pod},
};

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
    let standing = standing(&candidates, gangs);
    candidates.retain(|c| c.frees > 0);
    let own = |c: &Candidate<'_>| {
        if c.leaving {
            LostWork::default()
        } else {
            let gang = gang_of(c.group).and_then(|(name, _)| standing.get(name));
            LostWork::of(c.group, gang.map_or(Told::default(), |g| g.told), now)
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
        let Some(known) = standing.get(name) else { continue };
        let work = members.iter().fold(LostWork::default(), |sum, c| sum.plus(own(c)));
        let here = u64::try_from(members.len()).unwrap_or(u64::MAX);
        let price = if known.broken {
            LostWork::default()
        } else {
            work.scaled(known.members.max(here), here)
        };
        let mut spare = known.spare.clone();
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
    told: Told,
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
                told: Told {
                    started: None,
                    checkpoint: known.checkpoint,
                    checkpoint_every: known.checkpoint_every,
                    restart: known.restart,
                },
            }
        });
        gang.told.hear(pod);
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

    /// The cases of the scheduler's own test, in `operator/scheduler/src/tests/lost_work.rs`, and the same prices.
    #[test]
    fn what_was_done_since_the_last_checkpoint_and_the_restart_is_the_price_as_the_scheduler_has_it() {
        const MINUTE: Millis = 60_000;
        const START: Millis = 1_000_000_000;
        let now = START + 100 * MINUTE;
        let group = Group {
            requests: Resources { cpu: 1000, memory: 0 },
            pod: Some(Pod {
                gang: Some("ns/g".to_owned()),
                started: Some(START),
                ..Pod::default()
            }),
            ..Group::default()
        };
        let price = |gang: Gang| {
            let candidate = Candidate {
                group: &group,
                frees: 1,
                leaving: false,
            };
            let gangs = BTreeMap::from([("ns/g".to_owned(), gang)]);
            choose(vec![candidate], &gangs, 1, now)[0].price.core_seconds() / 60
        };
        let at = |minutes: Millis| Some(START + minutes * MINUTE);
        for (gang, minutes) in [
            (Gang::default(), 101),
            (
                Gang {
                    checkpoint_every: Some(30 * MINUTE),
                    ..Gang::default()
                },
                11,
            ),
            (
                Gang {
                    checkpoint: at(97),
                    ..Gang::default()
                },
                4,
            ),
            (
                Gang {
                    checkpoint: at(85),
                    checkpoint_every: Some(MINUTE),
                    ..Gang::default()
                },
                16,
            ),
            (
                Gang {
                    checkpoint: at(97),
                    restart: Some(5 * MINUTE),
                    ..Gang::default()
                },
                8,
            ),
            (
                Gang {
                    checkpoint: at(1000),
                    ..Gang::default()
                },
                1,
            ),
            (
                Gang {
                    checkpoint_every: Some(0),
                    ..Gang::default()
                },
                101,
            ),
        ] {
            assert_eq!(price(gang.clone()), minutes, "{gang:?}");
        }
    }

    #[test]
    fn a_pod_tells_of_the_checkpoint_of_its_whole_gang() {
        let mut told = member("g1", "ns/g", "worker", 100);
        told.pod.as_mut().unwrap().checkpoint = Some(NOW - 5_000);
        let groups = [
            (told, 60),
            (member("g2", "ns/g", "worker", 100), 60),
            (pod("single", 20), 60),
        ];
        assert_eq!(
            chosen(&groups, &BTreeMap::new(), 120),
            [("g1".to_owned(), 10), ("g2".to_owned(), 10)]
        );
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
            ..Gang::default()
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
                ..Gang::default()
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
