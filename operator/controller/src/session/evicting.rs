//! Who goes, and in whose turn. For each claim all go or nobody: where several have to, it is asked first whether all of
//! them may. The answer holds as long as nobody else takes from the same disruption budgets, which are those of a
//! namespace: so claims that would have pods of the same namespaces go have their turns one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use duosuan_scheduler::{Cluster, Event, EvictCause};

use super::Session;
use crate::binder::{Eviction, Order, PodName};

/// Those who have to go, by UID of the claim that they make room for.
pub(super) type Together = BTreeMap<String, Vec<Eviction>>;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Those who go for one claim each, cycle by cycle as that was decided.
    waiting: VecDeque<Vec<Eviction>>,
    /// By namespace, what is under way.
    busy: BTreeMap<String, Busy>,
}

/// What is under way in a namespace.
#[derive(Debug)]
struct Busy {
    /// Orders without an answer.
    orders: usize,
    /// Several go for one claim. Those who go alone are asked nothing before, and do not wait for each other.
    together: bool,
}

fn namespaces(evictions: &[Eviction]) -> BTreeSet<String> {
    let namespaces = evictions.iter().map(|eviction| eviction.pod.namespace.clone());
    namespaces.collect()
}

/// True if somebody waits still for the room that an eviction makes: a claim may have gone, or found its place elsewhere,
/// since it was decided.
fn is_wanted(cluster: &Cluster, eviction: &Eviction) -> bool {
    eviction.cause.by().is_none() || cluster.makes_room(&eviction.pod.uid)
}

impl Turns {
    /// The next ones whose turn it is: those who are wanted still are under way from now on, with one order in each of
    /// their namespaces; the others come back second.
    fn next(&mut self, wanted: impl Fn(&Eviction) -> bool) -> Option<(Vec<Eviction>, Vec<Eviction>)> {
        let mut ahead = BTreeSet::new();
        let at = self.waiting.iter().position(|evictions| {
            let together = evictions.len() > 1;
            let is_free = |namespace: &String| match self.busy.get(namespace) {
                None => true,
                Some(busy) => !together && !busy.together,
            };
            let theirs = namespaces(evictions);
            let free = theirs.iter().all(|n| !ahead.contains(n) && is_free(n));
            ahead.extend(theirs);
            free
        })?;
        let (evictions, others): (Vec<_>, Vec<_>) = self.waiting.remove(at)?.into_iter().partition(wanted);
        for namespace in namespaces(&evictions) {
            self.began(&namespace, evictions.len() > 1);
        }
        Some((evictions, others))
    }

    fn began(&mut self, namespace: &str, together: bool) {
        let free = Busy { orders: 0, together };
        self.busy.entry(namespace.to_owned()).or_insert(free).orders += 1;
    }

    /// An order in a namespace is answered. True if it was the last one there.
    fn ended(&mut self, namespace: &str) -> bool {
        let Some(busy) = self.busy.get_mut(namespace) else {
            return false;
        };
        busy.orders = busy.orders.saturating_sub(1);
        let free = busy.orders == 0;
        if free {
            self.busy.remove(namespace);
        }
        free
    }
}

impl Session {
    /// Has all go that have to go for some claims, each claim in its turn.
    pub(super) fn order_evictions(&mut self, together: Together) {
        if together.is_empty() {
            return;
        }
        self.turns.waiting.extend(together.into_values());
        self.begin_turns();
    }

    fn begin_turns(&mut self) {
        while let Some((mut evictions, others)) = self.turns.next(|eviction| is_wanted(&self.cluster, eviction)) {
            others.iter().for_each(|eviction| self.called_off(eviction));
            if evictions.len() > 1 {
                self.order(Order::AskToEvict {
                    evictions,
                    kept: Vec::new(),
                    one_by_one: false,
                });
            } else if let Some(eviction) = evictions.pop() {
                self.order(Order::Evict(eviction));
            }
        }
    }

    /// It is known whether all may go that have to go for one claim. Only where a disruption budget would never let all of
    /// them go together, they go as it lets them.
    pub(super) fn asked_to_evict(&mut self, evictions: Vec<Eviction>, kept: &[(PodName, String)], one_by_one: bool) {
        let of = namespaces(&evictions);
        let kept: HashMap<&PodName, &String> = kept.iter().map(|(pod, message)| (pod, message)).collect();
        for eviction in evictions {
            match kept.get(&eviction.pod) {
                _ if !is_wanted(&self.cluster, &eviction) => self.called_off(&eviction),
                Some(message) => self.not_evicted(&eviction, (*message).clone()),
                None if kept.is_empty() || one_by_one => {
                    self.turns.began(&eviction.pod.namespace, true);
                    self.order(Order::Evict(eviction));
                }
                None => self.called_off(&eviction),
            }
        }
        self.ended(of.iter().map(String::as_str));
    }

    /// Orders in some namespaces are answered: others may have their turn.
    pub(super) fn ended<'a>(&mut self, namespaces: impl Iterator<Item = &'a str>) {
        let mut free = false;
        for namespace in namespaces {
            free |= self.turns.ended(namespace);
        }
        if free {
            self.begin_turns();
        }
    }

    pub(super) fn not_evicted(&mut self, eviction: &Eviction, message: String) {
        self.stays(eviction);
        self.tell_not_evicted(&eviction.pod, &eviction.cause, &message);
        let pod = eviction.pod.uid.clone();
        self.apply(Event::EvictFailed { pod, message });
    }

    fn called_off(&mut self, eviction: &Eviction) {
        self.stays(eviction);
        let pod = eviction.pod.uid.clone();
        self.apply(Event::EvictCalledOff { pod });
    }

    fn stays(&mut self, eviction: &Eviction) {
        if !matches!(eviction.cause, EvictCause::Shrunk { .. }) {
            self.index.set_not_evicted(&eviction.pod.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use duosuan_scheduler::LostWork;

    use super::*;

    fn going(pods: &[&str]) -> Vec<Eviction> {
        let eviction = |pod: &&str| {
            let (namespace, name) = pod.split_once('/').unwrap();
            Eviction {
                pod: PodName {
                    namespace: namespace.into(),
                    name: name.into(),
                    uid: (*pod).into(),
                },
                cause: EvictCause::Preempted { by: "claim".into() },
                lost: LostWork::default(),
                notice: 0,
            }
        };
        pods.iter().map(eviction).collect()
    }

    fn turns(of: &[&[&str]]) -> Turns {
        Turns {
            waiting: of.iter().map(|pods| going(pods)).collect(),
            ..Turns::default()
        }
    }

    fn next(turns: &mut Turns) -> Vec<String> {
        let (next, _) = turns.next(|_| true).unwrap_or_default();
        next.into_iter().map(|eviction| eviction.pod.uid).collect()
    }

    #[test]
    fn claims_that_take_from_the_same_namespace_have_their_turns_one_after_the_other() {
        let mut turns = turns(&[&["a/1", "b/1"], &["b/2", "c/2"], &["d/3", "d/4"], &["c/5"]]);
        assert_eq!(next(&mut turns), ["a/1", "b/1"]);
        assert_eq!(next(&mut turns), ["d/3", "d/4"]);
        // c/5 came after those who wait for b.
        assert!(next(&mut turns).is_empty());
        assert!(turns.ended("a") && next(&mut turns).is_empty());
        assert!(turns.ended("b"));
        assert_eq!(next(&mut turns), ["b/2", "c/2"]);
        assert!(next(&mut turns).is_empty());
        assert!(turns.ended("c"));
        assert_eq!(next(&mut turns), ["c/5"]);
    }

    #[test]
    fn those_who_go_alone_do_not_wait_for_each_other_and_others_wait_for_all_of_them() {
        let mut turns = turns(&[&["a/1"], &["a/2"], &["a/3", "a/4"], &["a/5"]]);
        assert_eq!(
            (next(&mut turns), next(&mut turns)),
            (vec!["a/1".into()], vec!["a/2".into()])
        );
        assert!(next(&mut turns).is_empty());
        assert!(!turns.ended("a") && turns.ended("a"));
        assert_eq!(next(&mut turns), ["a/3", "a/4"]);
        // Its evictions are under way beside the answer to the question.
        turns.began("a", true);
        turns.began("a", true);
        assert!(!turns.ended("a") && !turns.ended("a") && next(&mut turns).is_empty());
        assert!(turns.ended("a"));
        assert_eq!(next(&mut turns), ["a/5"]);
        assert!(turns.ended("a") && turns.busy.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn who_is_not_wanted_any_more_when_the_turn_comes_takes_no_part_in_it() {
        let mut turns = turns(&[&["a/1", "a/2", "b/3"], &["b/4", "b/5"]]);
        let (evictions, others) = turns.next(|eviction| eviction.pod.name != "3").unwrap();
        assert_eq!((evictions, others), (going(&["a/1", "a/2"]), going(&["b/3"])));
        assert_eq!(turns.next(|_| false), Some((vec![], going(&["b/4", "b/5"]))));
        assert!(turns.ended("a") && turns.busy.is_empty());
    }
}
