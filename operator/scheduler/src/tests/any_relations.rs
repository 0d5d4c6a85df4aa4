//! Any rules about other pods, for the properties; and what the index has to agree with.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index as Pick};

use super::relations::{HOST, ZONE, is, labels};
use crate::{
    Cluster, Event, Policy,
    event::{Namespace, Operator, PodRules, PodTerm, Preference, Requirement, Spread, Term},
    index::Index,
    slab::PodOrd,
};

const APPS: [&str; 3] = ["x", "y", "z"];

/// Labels of a pod.
pub(super) fn any_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    (0..4_usize, any::<bool>()).prop_map(|(app, tier)| {
        let mut labels = BTreeMap::new();
        if let Some(app) = APPS.get(app) {
            labels.insert("app".to_owned(), (*app).to_owned());
        }
        if tier {
            labels.insert("tier".to_owned(), "front".to_owned());
        }
        labels
    })
}

fn any_selector() -> impl Strategy<Value = Option<Term>> {
    (0..8_usize, any::<Pick>()).prop_map(|(kind, pick)| {
        let app = *pick.get(&APPS);
        let one = |operator, values: &[&str]| {
            vec![Requirement {
                key: "app".into(),
                operator,
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }]
        };
        match kind {
            0 => None,
            1 => Some(Term::new()),
            2 => Some(one(Operator::Exists, &[])),
            3 => Some(one(Operator::NotIn, &[app])),
            4 => Some(one(Operator::In, &["x", "y"])),
            _ => Some(one(Operator::In, &[app])),
        }
    })
}

fn any_term() -> impl Strategy<Value = PodTerm> {
    let namespaces = prop_oneof![
        5 => Just(None),
        1 => Just(Some(Term::new())),
        2 => Just(Some(is("team", "red"))),
    ];
    (any_selector(), any::<bool>(), namespaces, any::<[bool; 2]>()).prop_map(
        |(selector, host, namespace_selector, [other, named])| PodTerm {
            topology_key: if host { HOST } else { ZONE }.into(),
            selector,
            namespaces: if other && named { vec!["other".into()] } else { vec![] },
            namespace_selector,
        },
    )
}

fn any_spread() -> impl Strategy<Value = Spread> {
    (any_selector(), 1..3_i32, 1..4_i32, any::<[bool; 5]>()).prop_map(
        |(selector, max_skew, min_domains, [host, required, honor_affinity, honor_taints, many])| Spread {
            topology_key: if host { HOST } else { ZONE }.into(),
            max_skew,
            required,
            selector,
            min_domains: if many { min_domains } else { 1 },
            honor_affinity,
            honor_taints,
        },
    )
}

/// Rules of a pod; most have none.
pub(super) fn any_rules() -> impl Strategy<Value = Option<Box<PodRules>>> {
    use prop::collection::vec;
    let rules = (
        vec(any_term(), 0..3),
        vec(any_term(), 0..2),
        vec((any_term(), -3..4_i32), 0..2),
        vec(any_spread(), 0..3),
    );
    let rules = rules.prop_map(|(affinity, anti_affinity, preferences, spread)| PodRules {
        affinity,
        anti_affinity,
        preferences: preferences
            .into_iter()
            .map(|(term, weight)| Preference { weight, term })
            .collect(),
        spread,
    });
    prop_oneof![2 => Just(None), 3 => rules.prop_map(|rules| Some(Box::new(rules)))]
}

/// A namespace of pods.
pub(super) fn any_namespace() -> impl Strategy<Value = Event> {
    (any::<bool>(), 0..3_usize).prop_map(|(other, team)| {
        let name = if other { "other" } else { "ns" };
        match ["red", "blue"].get(team) {
            Some(team) => Event::Namespace(Box::new(Namespace {
                name: name.into(),
                labels: labels(&[("team", team)]),
            })),
            None => Event::NamespaceGone(name.into()),
        }
    })
}

/// What the live index says of each pod that waits is what one says that is built from nothing.
pub(super) fn index_is_as_if_built_anew(cluster: &mut Cluster) {
    let waiting: Vec<PodOrd> = cluster
        .model
        .pods
        .iter()
        .filter(|(_, p)| p.waits())
        .map(|(ord, _)| ord)
        .collect();
    for pod in waiting {
        let look = cluster.model.look(pod);
        let (model, policy) = (&cluster.model, Policy::Standard);
        let mut anew = Index::default();
        assert_eq!(
            (
                cluster.index.best(model, policy, look),
                cluster.index.against(model, policy, look)
            ),
            (anew.best(model, policy, look), anew.against(model, policy, look)),
            "of pod {}",
            model.pods[pod].uid
        );
    }
}
