//! Disruption budgets: whether the API server would carry out an eviction. It answers by what the controller of the
//! budgets counts; here that is counted from what runs.

use std::{collections::BTreeMap, sync::Arc};

use duosuan_scheduler::{
    Event,
    event::{Pod, Term},
    labels_match,
};

/// A number of pods, or a part of all that a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(i64),
    /// So many in a hundred; rounded up to whole pods.
    Percent(i64),
}

impl Share {
    fn of(self, all: i64) -> i64 {
        match self {
            Share::Count(count) => count,
            Share::Percent(percent) => (all.saturating_mul(percent).saturating_add(99)) / 100,
        }
    }
}

/// How many pods have to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// So many, as the controller of budgets found with the sizes of workloads.
    Healthy(i64),
    /// `minAvailable`.
    Available(Share),
    /// `maxUnavailable`.
    AllBut(Share),
    /// All of them, as where neither is given.
    All,
}

/// A disruption budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels of the pods that it is for; `None` is no pod, and an empty list every pod of the namespace.
    pub selector: Option<Term>,
    /// How many of them have to stay.
    pub keeps: Keeps,
    /// Pods that are not ready may go in any case.
    pub unready_may_go: bool,
}

impl Budget {
    fn is_for(&self, pod: &Pod) -> bool {
        let selects = |selector: &Term| labels_match(selector, |key| pod.labels.get(key).map(String::as_str));
        self.namespace == pod.namespace && self.selector.as_ref().is_some_and(selects)
    }
}

/// Why a pod that has a node does not count as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// It has not started yet: no budget keeps it.
    Starting,
    /// It runs and is not ready.
    Running,
}

/// Budgets, and pods that have a node and are not ready, by UID.
#[derive(Clone, Debug, Default)]
pub struct Disruption {
    /// The budgets.
    pub budgets: Vec<Budget>,
    /// The pods.
    pub unready: BTreeMap<String, Unready>,
}

/// Budgets with what is available now. A copy costs a number per budget.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    rules: Arc<Disruption>,
    /// By budget.
    counts: Vec<Count>,
}

/// Pods of a budget.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// That have to stay.
    keeps: i64,
    /// That are available.
    available: i64,
    /// That are to be available.
    expected: i64,
}

/// Those of some pods that are to go together that budgets keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// By UID, and why.
    pods: BTreeMap<String, String>,
    /// No budget would ever let all go together: the others go now, and these later.
    one_by_one: bool,
}

impl Kept {
    /// What the core is told of a pod instead of evicting it; `None` if it goes.
    #[must_use]
    pub fn instead_of_evicting(&self, pod: &str) -> Option<Event> {
        let pod = pod.to_owned();
        match self.pods.get(&pod) {
            Some(message) => Some(Event::EvictFailed {
                pod,
                message: message.clone(),
            }),
            None if self.pods.is_empty() || self.one_by_one => None,
            None => Some(Event::EvictCalledOff { pod }),
        }
    }
}

impl Budgets {
    /// Budgets over these pods.
    pub fn new<'a>(rules: Disruption, pods: impl Iterator<Item = &'a Pod>) -> Budgets {
        let mut budgets = Budgets {
            counts: vec![Count::default(); rules.budgets.len()],
            rules: Arc::new(rules),
        };
        for pod in pods {
            budgets.observe(None, Some(pod));
            for (budget, count) in budgets.rules.budgets.iter().zip(&mut budgets.counts) {
                count.expected += i64::from(!pod.finished && budget.is_for(pod));
            }
        }
        for (budget, count) in budgets.rules.budgets.iter().zip(&mut budgets.counts) {
            let all = count.expected;
            count.keeps = match budget.keeps {
                Keeps::Healthy(count) => count,
                Keeps::Available(share) => share.of(all),
                Keeps::AllBut(share) => (all - share.of(all)).max(0),
                Keeps::All => all,
            };
        }
        budgets
    }

    /// A pod changes: as it was, if it was there, and as it is, if it is not gone.
    pub fn observe(&mut self, before: Option<&Pod>, after: Option<&Pod>) {
        for (budget, count) in self.rules.budgets.iter().zip(&mut self.counts) {
            let counts = |pod: &Pod| budget.is_for(pod) && self.rules.is_available(pod);
            count.available += i64::from(after.is_some_and(counts)) - i64::from(before.is_some_and(counts));
        }
    }

    /// Which of some pods that are to go together budgets keep, as the operator asks: each by itself, then all that one budget
    /// counts. Where the budget would let them go together if all its pods were well, they wait for that together; otherwise
    /// as many go as it lets go.
    #[must_use]
    pub fn kept_of(&self, pods: &[&Pod]) -> Kept {
        let alone = pods
            .iter()
            .filter_map(|pod| Some((pod.uid.clone(), self.may_evict(pod).err()?)));
        let mut kept = Kept {
            pods: alone.collect(),
            one_by_one: false,
        };
        if !kept.pods.is_empty() {
            return kept;
        }
        kept.one_by_one = true;
        for (budget, count) in self.rules.budgets.iter().zip(&self.counts) {
            let counted = pods
                .iter()
                .filter(|pod| budget.is_for(pod) && self.rules.is_available(pod));
            let counted: Vec<_> = counted.collect();
            let wanted = i64::try_from(counted.len()).unwrap_or(i64::MAX);
            let allowed = (count.available - count.keeps).max(0);
            if wanted <= allowed {
                continue;
            }
            let never = wanted > count.expected - count.keeps;
            kept.one_by_one &= never;
            let go = if never {
                usize::try_from(allowed).unwrap_or(0)
            } else {
                0
            };
            for pod in counted.into_iter().skip(go) {
                let message = format!(
                    "the disruption budget {} lets {allowed} of the {wanted} pods go that are to go together",
                    budget.name
                );
                kept.pods.entry(pod.uid.clone()).or_insert(message);
            }
        }
        kept
    }

    /// Whether a pod may be evicted now.
    ///
    /// # Errors
    ///
    /// If a budget keeps it: which, and the numbers.
    pub fn may_evict(&self, pod: &Pod) -> Result<(), String> {
        let unready = self.rules.unready.get(&pod.uid);
        if pod.finished || pod.terminating || pod.node.is_none() || unready == Some(&Unready::Starting) {
            return Ok(());
        }
        let over = self.rules.budgets.iter().zip(&self.counts);
        let over: Vec<_> = over.filter(|(budget, _)| budget.is_for(pod)).collect();
        match over.as_slice() {
            [] => Ok(()),
            [(budget, Count { keeps, available, .. })] => {
                // As the API server decides: of a budget that nothing has to stay for, one that is not ready goes as if
                // it were ready.
                let harmless = budget.unready_may_go || (*keeps > 0 && available >= keeps);
                if unready.is_some() && harmless || available > keeps {
                    return Ok(());
                }
                Err(format!(
                    "the disruption budget {} needs {keeps} healthy pods and has {available} currently",
                    budget.name
                ))
            }
            // As the API server answers.
            several => {
                let names: Vec<&str> = several.iter().map(|(budget, _)| budget.name.as_str()).collect();
                Err(format!(
                    "the pod has more than one disruption budget, which evictions do not support: {}",
                    names.join(", ")
                ))
            }
        }
    }
}

impl Disruption {
    fn is_available(&self, pod: &Pod) -> bool {
        pod.node.is_some() && !pod.finished && !pod.terminating && !self.unready.contains_key(&pod.uid)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod {
            uid: uid.into(),
            namespace: "ns".into(),
            labels: [("app".to_owned(), "a".to_owned())].into(),
            node: Some("n".into()),
            ..Pod::default()
        }
    }

    fn budget(keeps: Keeps) -> Budget {
        Budget {
            namespace: "ns".into(),
            name: "b".into(),
            selector: Some(Term::new()),
            keeps,
            unready_may_go: false,
        }
    }

    fn over(budgets: Vec<Budget>, unready: &[(&str, Unready)], pods: &[Pod]) -> Budgets {
        let unready = unready.iter().map(|(uid, why)| ((*uid).to_owned(), *why)).collect();
        Budgets::new(Disruption { budgets, unready }, pods.iter())
    }

    /// How many of five pods may go, one after the other.
    fn goes(keeps: Keeps) -> usize {
        let pods = ["a", "b", "c", "d", "e"].map(pod);
        let mut budgets = over(vec![budget(keeps)], &[], &pods);
        let mut gone = 0;
        while let Some(pod) = pods.get(gone).filter(|pod| budgets.may_evict(pod).is_ok()) {
            budgets.observe(Some(pod), None);
            gone += 1;
        }
        gone
    }

    #[test]
    fn as_many_stay_as_the_budget_says() {
        let cases = [
            (Keeps::Healthy(4), 1),
            (Keeps::Available(Share::Count(2)), 3),
            // 2.5 and 1.5 pods, rounded up.
            (Keeps::Available(Share::Percent(50)), 2),
            (Keeps::AllBut(Share::Percent(30)), 2),
            (Keeps::AllBut(Share::Count(0)), 0),
            (Keeps::AllBut(Share::Count(9)), 5),
            (Keeps::All, 0),
        ];
        for (keeps, expected) in cases {
            assert_eq!(goes(keeps), expected, "{keeps:?}");
        }
    }

    /// What becomes of pods that are to go together, by their first letters.
    fn together(budgets: &Budgets, pods: &[Pod]) -> Vec<&'static str> {
        let kept = budgets.kept_of(&pods.iter().collect::<Vec<_>>());
        let told = pods.iter().map(|pod| kept.instead_of_evicting(&pod.uid));
        told.map(|event| match event {
            None => "goes",
            Some(Event::EvictFailed { .. }) => "kept",
            Some(_) => "called off",
        })
        .collect()
    }

    /// One who needed the room of several waited for ever.
    #[test]
    fn who_may_never_go_together_goes_one_by_one_and_who_may_waits_for_all() {
        let pods = ["a", "b", "c", "d"].map(pod);
        let strict = over(vec![budget(Keeps::AllBut(Share::Count(1)))], &[], &pods);
        assert_eq!(together(&strict, &pods[..2]), ["goes", "kept"]);
        let two = vec![budget(Keeps::AllBut(Share::Count(2)))];
        assert_eq!(together(&over(two.clone(), &[], &pods), &pods[..2]), ["goes", "goes"]);
        // One is not ready: they wait until it is.
        let one_less = over(two, &[("d", Unready::Running)], &pods);
        assert_eq!(together(&one_less, &pods[..2]), ["kept", "kept"]);
        // One of another namespace stays with them.
        let mut other = pod("other");
        other.namespace = "elsewhere".into();
        let mixed = [pods[0].clone(), pods[1].clone(), other];
        assert_eq!(together(&one_less, &mixed), ["kept", "kept", "called off"]);
    }

    #[test]
    fn a_refusal_names_the_budget_and_its_numbers() {
        let pods = [pod("a"), pod("b")];
        let budgets = over(vec![budget(Keeps::Available(Share::Count(3)))], &[], &pods);
        let why = "the disruption budget b needs 3 healthy pods and has 2 currently";
        assert_eq!(budgets.may_evict(&pods[0]), Err(why.to_owned()));
        let twice = over(vec![budget(Keeps::Healthy(0)), budget(Keeps::Healthy(0))], &[], &pods);
        let why = "the pod has more than one disruption budget, which evictions do not support: b, b";
        assert_eq!(twice.may_evict(&pods[0]), Err(why.to_owned()));
    }

    #[test]
    fn a_budget_is_for_the_pods_that_it_selects_in_its_namespace() {
        let pods = [pod("a")];
        let of = |change: &dyn Fn(&mut Budget)| {
            let mut budget = budget(Keeps::All);
            change(&mut budget);
            over(vec![budget], &[], &pods).may_evict(&pods[0]).is_ok()
        };
        assert!(!of(&|_| {}));
        assert!(of(&|budget| budget.namespace = "other".into()));
        assert!(of(&|budget| budget.selector = None));
    }

    #[test]
    fn pods_that_are_not_ready_do_not_count_and_go_where_that_harms_nobody() {
        let pods = [pod("a"), pod("b"), pod("c")];
        let unready = [("b", Unready::Running), ("c", Unready::Starting)];
        let may = |keeps: i64, unready_may_go: bool| {
            let budget = Budget {
                unready_may_go,
                ..budget(Keeps::Healthy(keeps))
            };
            let budgets = over(vec![budget], &unready, &pods);
            pods.each_ref().map(|pod| budgets.may_evict(pod).is_ok())
        };
        assert_eq!(may(0, false), [true, true, true]);
        let alone = over(vec![budget(Keeps::Healthy(0))], &unready, &pods[1..2]);
        assert!(
            alone.may_evict(&pods[1]).is_err(),
            "the API server allows none where none is healthy"
        );
        assert_eq!(may(1, false), [false, true, true]);
        assert_eq!(may(2, false), [false, false, true]);
        assert_eq!(may(2, true), [false, true, true]);
    }
}
