//! What a pod asks of the places of other pods, in the core's terms: whom it speaks of, and what is counted for that.

use std::collections::BTreeMap;

use crate::{
    event::{self, PodRules, PodTerm, Requirement, SPREADS_AT_MOST, Term},
    model::Labels,
    selector,
    slab::{KeyOrd, MarkOrd},
};

/// Labels of namespaces, by the names of these.
pub(crate) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// Which pods a term speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peers {
    /// Ascending.
    namespaces: Vec<String>,
    /// Of namespaces: an empty list matches all, `None` none.
    namespace_selector: Option<Term>,
    /// Of pods: an empty list matches all, `None` none.
    selector: Option<Term>,
}

impl Peers {
    /// The pods of a namespace that a selector matches.
    pub(crate) fn in_namespace(namespace: &str, selector: Option<Term>) -> Peers {
        Peers {
            namespaces: vec![namespace.to_owned()],
            namespace_selector: None,
            selector,
        }
    }

    fn of(term: &PodTerm, namespace: &str) -> Peers {
        let mut namespaces = term.namespaces.clone();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        namespaces.sort_unstable();
        namespaces.dedup();
        Peers {
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
            selector: term.selector.clone(),
        }
    }

    /// True if a pod is one of them. `own` says that the term is one of the pod that is to be placed: kube-scheduler
    /// looks for the namespaces of such a term among those that there are; of a term of a pod that is bound already, it
    /// asks whether it matches the labels of the namespace, and one that is not there has none.
    pub(crate) fn include(&self, namespace: &str, labels: &Labels, namespaces: &Namespaces, own: bool) -> bool {
        let Some(selector) = &self.selector else { return false };
        let there = || match (self.namespace_selector.as_deref(), namespaces.get(namespace)) {
            (None, _) => false,
            (Some([]), _) => true,
            (Some(requirements), Some(labels)) => {
                selector::labels_match(requirements, |key| labels.get(key).map(String::as_str))
            }
            (Some(requirements), None) => !own && selector::labels_match(requirements, |_| None),
        };
        (self.namespaces.iter().any(|n| n == namespace) || there())
            && selector::labels_match(selector, |key| labels.get(key))
    }

    /// A requirement that names values, one of which each of these pods has; and whether there can be any pod at all.
    pub(crate) fn anchor(&self) -> (Option<&Requirement>, bool) {
        let anchor = self
            .selector
            .iter()
            .flatten()
            .find(|r| r.operator == event::Operator::In);
        (anchor, self.selector.is_some())
    }

    /// The namespaces of these pods, if they are in no others, whatever the labels of namespaces.
    pub(crate) fn only_namespaces(&self) -> Option<&[String]> {
        self.namespace_selector.is_none().then_some(&self.namespaces)
    }

    /// True for a selector that matches every pod; spread counts none by it.
    fn is_everybody(&self) -> bool {
        self.selector.as_ref().is_some_and(Vec::is_empty)
    }
}

/// The relations of a pod of some namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// Required affinity, each by its topology key.
    pub(crate) affinity: Vec<(String, Peers)>,
    /// Required anti-affinity.
    pub(crate) anti_affinity: Vec<(String, Peers)>,
    /// Preferences, with their weights.
    pub(crate) preferences: Vec<(String, Peers, i32)>,
    pub(crate) spread: Vec<(event::Spread, Peers)>,
}

/// The bit that says that a pod matches all of its own required affinity; those below are of constraints of spread, of
/// which there are [`SPREADS_AT_MOST`].
pub(crate) const OWN_AFFINITY: u64 = 1 << 63;

impl Rules {
    pub(crate) fn of(rules: &PodRules, namespace: &str) -> Rules {
        let peers = |term: &PodTerm| (term.topology_key.clone(), Peers::of(term, namespace));
        Rules {
            affinity: rules.affinity.iter().map(peers).collect(),
            anti_affinity: rules.anti_affinity.iter().map(peers).collect(),
            preferences: rules
                .preferences
                .iter()
                .map(|p| (p.term.topology_key.clone(), Peers::of(&p.term, namespace), p.weight))
                .collect(),
            spread: rules
                .spread
                .iter()
                .take(SPREADS_AT_MOST)
                .map(|s| (s.clone(), Peers::in_namespace(namespace, s.selector.clone())))
                .collect(),
        }
    }

    /// Which of its own rules a pod itself matches: [`OWN_AFFINITY`], and a bit for each constraint of spread.
    pub(crate) fn of_oneself(&self, namespace: &str, labels: &Labels, namespaces: &Namespaces) -> u64 {
        let is = |peers: &Peers| peers.include(namespace, labels, namespaces, true);
        let mut own = 0;
        for (i, (_, peers)) in self.spread.iter().enumerate() {
            own |= u64::from(is(peers)) << i;
        }
        if !self.affinity.is_empty() && self.affinity.iter().all(|(_, peers)| is(peers)) {
            own |= OWN_AFFINITY;
        }
        own
    }

    /// What has to be counted on nodes of pods that match.
    pub(crate) fn matching(&self) -> Vec<(Option<Mark>, &str, Rule)> {
        let mut all = Vec::new();
        let whole = Mark::All(self.affinity.iter().map(|(_, peers)| peers.clone()).collect());
        for (key, _) in &self.affinity {
            all.push((Some(whole.clone()), key.as_str(), Rule::Near));
        }
        for (key, peers) in &self.anti_affinity {
            all.push((Some(Mark::Each(peers.clone())), key.as_str(), Rule::Apart));
        }
        for (key, peers, weight) in &self.preferences {
            let rule = Rule::Wish(i64::from(*weight));
            all.push((Some(Mark::Each(peers.clone())), key.as_str(), rule));
        }
        for (i, (spread, peers)) in self.spread.iter().enumerate() {
            // kube-scheduler counts nobody by a selector that everybody matches.
            let mark = (!peers.is_everybody()).then(|| Mark::Living(peers.clone()));
            let rule = Rule::Spread(Evenly {
                required: spread.required,
                max_skew: i64::from(spread.max_skew.max(1)),
                min_domains: i64::from(spread.min_domains.max(1)),
                honor_affinity: spread.honor_affinity,
                honor_taints: spread.honor_taints,
                own: 1 << i,
            });
            all.push((mark, spread.topology_key.as_str(), rule));
        }
        all
    }

    /// What has to be counted on nodes of the pods that have these rules, by topology key: it concerns other pods.
    pub(crate) fn having(&self) -> Vec<(&str, Peers, Effect)> {
        let anti = self
            .anti_affinity
            .iter()
            .map(|(key, peers)| (key.as_str(), peers.clone(), Effect::Repel));
        // kube-scheduler's `hardPodAffinityWeight` is 1: those who had to be near others are worth being near to.
        let near = self
            .affinity
            .iter()
            .map(|(key, peers)| (key.as_str(), peers.clone(), Effect::Wish(1)));
        let wishes = self
            .preferences
            .iter()
            .map(|(key, peers, weight)| (key.as_str(), peers.clone(), Effect::Wish(i64::from(*weight))));
        anti.chain(near).chain(wishes).collect()
    }
}

/// Something that is counted on each node, of the pods that sit there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    /// Pods that match all of these.
    All(Vec<Peers>),
    /// Pods that match.
    Each(Peers),
    /// Pods that match and are not being deleted.
    Living(Peers),
    /// Pods that have a term about others, which matter to those others.
    Has(KeyOrd, Peers, Effect),
}

impl Mark {
    /// The terms, all of which a pod has to match.
    pub(crate) fn peers(&self) -> &[Peers] {
        match self {
            Mark::All(peers) => peers,
            Mark::Each(peers) | Mark::Living(peers) | Mark::Has(_, peers, _) => std::slice::from_ref(peers),
        }
    }

    /// True if it counts those who have a term, not those who match one.
    pub(crate) fn is_had(&self) -> bool {
        matches!(self, Mark::Has(..))
    }
}

/// What it means for a pod that others have a term that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// It must not come near them.
    Repel,
    /// They like it near, or away where it is negative.
    Wish(i64),
}

/// What a count means for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// There has to be one.
    Near,
    /// There must be none, by the pod's own rule.
    Apart,
    /// There must be none, by the rule of those who are there.
    Kept,
    /// Each is worth so much.
    Wish(i64),
    /// They are to be spread.
    Spread(Evenly),
}

/// How pods are to be spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evenly {
    pub(crate) required: bool,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: i64,
    pub(crate) honor_affinity: bool,
    pub(crate) honor_taints: bool,
    /// Bit of [`Rules::of_oneself`].
    pub(crate) own: u64,
}

/// A count and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// `None`: nobody is counted.
    pub(crate) mark: Option<MarkOrd>,
    pub(crate) key: KeyOrd,
    pub(crate) rule: Rule,
}

/// The rules of a shape, by ordinals. It lives as long as the shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) checks: Vec<Check>,
    /// Marks that each pod of the shape has.
    pub(crate) has: Vec<MarkOrd>,
}
