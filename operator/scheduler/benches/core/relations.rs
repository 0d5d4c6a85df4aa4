//! Pods that other pods let in or keep out: 5,000 nodes in 3 zones.

use std::collections::BTreeMap;

use duosuan_scheduler::event::{Node, Operator, Pod, PodRules, PodTerm, Preference, Requirement, Spread, Term};

use super::{MI, Row, Run, event, plain_nodes, pod};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

fn nodes() -> Vec<Node> {
    let mut nodes = plain_nodes(5000);
    for (i, node) in nodes.iter_mut().enumerate() {
        node.labels = [
            (ZONE.to_owned(), format!("zone-{}", i % 3)),
            (HOST.to_owned(), node.name.clone()),
        ]
        .into();
    }
    nodes
}

fn blue() -> Term {
    vec![Requirement {
        key: "color".into(),
        operator: Operator::In,
        values: vec!["blue".into()],
    }]
}

fn term(key: &str) -> PodTerm {
    PodTerm {
        topology_key: key.into(),
        selector: Some(blue()),
        ..Default::default()
    }
}

/// Places `first` pods, then measures `measured` ones, all of them blue and with these rules.
fn of(first: i64, measured: usize, rules: &PodRules) -> Row {
    let mut run = Run::of(nodes());
    let labels: BTreeMap<String, String> = [("color".to_owned(), "blue".to_owned())].into();
    let pod = |i: i64| Pod {
        labels: labels.clone(),
        rules: Some(Box::new(rules.clone())),
        ..pod(format!("pod-{i}"), 100, 500 * MI)
    };
    for i in 0..first {
        run.step(event(pod(i)));
    }
    run.start_measuring();
    for i in 0..measured as i64 {
        run.step(event(pod(first + i)));
    }
    run.row(measured)
}

pub(super) fn affinity() -> Row {
    of(
        5000,
        5000,
        &PodRules {
            affinity: vec![term(ZONE)],
            ..Default::default()
        },
    )
}

pub(super) fn anti_affinity() -> Row {
    of(
        1000,
        2000,
        &PodRules {
            anti_affinity: vec![term(HOST)],
            ..Default::default()
        },
    )
}

fn preferred(weight: i32) -> Row {
    let term = term(HOST);
    of(
        5000,
        5000,
        &PodRules {
            preferences: vec![Preference { weight, term }],
            ..Default::default()
        },
    )
}

pub(super) fn preferred_affinity() -> Row {
    preferred(1)
}

pub(super) fn preferred_anti_affinity() -> Row {
    preferred(-1)
}

fn spread_over(key: &str, max_skew: i32, required: bool) -> Row {
    let spread = Spread {
        topology_key: key.into(),
        max_skew,
        required,
        selector: Some(blue()),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    of(
        5000,
        5000,
        &PodRules {
            spread: vec![spread],
            ..Default::default()
        },
    )
}

pub(super) fn spread() -> Row {
    spread_over(ZONE, 5, true)
}

pub(super) fn spread_over_hosts() -> Row {
    spread_over(HOST, 1, true)
}

pub(super) fn preferred_spread() -> Row {
    spread_over(ZONE, 5, false)
}

/// 250 Deployments in turn, each spread over the zones and kept apart on hosts.
pub(super) fn many() -> Row {
    many_apart(true)
}

/// 250 Deployments in turn, each kept apart on hosts; over the zones, too, without asking for it.
pub(super) fn replicas_on_hosts() -> Row {
    many_apart(false)
}

fn many_apart(spread_by_rule: bool) -> Row {
    let kinds = 250;
    let mut nodes = nodes();
    for node in &mut nodes {
        node.location.zone = node.labels.get(ZONE).cloned();
    }
    let mut run = Run::of(nodes);
    let pod = |i: i64| {
        let app = format!("app-{}", i % kinds);
        let selector = vec![Requirement {
            key: "app".into(),
            operator: Operator::In,
            values: vec![app.clone()],
        }];
        let apart = PodTerm {
            topology_key: HOST.into(),
            selector: Some(selector.clone()),
            ..Default::default()
        };
        let spread = Spread {
            topology_key: ZONE.into(),
            max_skew: 1,
            required: true,
            selector: Some(selector),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        let rules = PodRules {
            anti_affinity: vec![apart],
            spread: if spread_by_rule { vec![spread] } else { vec![] },
            ..Default::default()
        };
        Pod {
            owner: app.clone(),
            labels: [("app".to_owned(), app)].into(),
            rules: Some(Box::new(rules)),
            ..pod(format!("pod-{i}"), 100, 500 * MI)
        }
    };
    for i in 0..kinds {
        run.step(event(pod(i)));
    }
    run.start_measuring();
    for i in 0..5000 {
        run.step(event(pod(kinds + i)));
    }
    run.row(5000)
}
