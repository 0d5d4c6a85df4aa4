//! Where two answers differ.

use std::{collections::BTreeMap, fmt};

use crate::ask::{Refusal, Verdicts};

/// By node, what turns the pod away.
pub(crate) type Ours = BTreeMap<String, Option<String>>;

/// What is said of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) node: String,
    /// `None`: this node is not known there.
    pub(crate) theirs: Option<Option<Refusal>>,
    pub(crate) ours: Option<Option<String>>,
}

impl Difference {
    /// True if both are about the same node and one answer is of the same kind.
    pub(crate) fn is_like(&self, other: &Difference) -> bool {
        let kind = |d: &Difference| {
            (
                d.theirs.clone().map(|t| t.map(|r| r.plugin)),
                d.ours.clone().map(|o| o.is_some()),
            )
        };
        self.node == other.node && kind(self) == kind(other)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}: kube-scheduler says ", self.node)?;
        match &self.theirs {
            None => f.write_str("nothing")?,
            Some(None) => f.write_str("it fits")?,
            Some(Some(refusal)) => write!(f, "no ({}: {})", refusal.plugin, refusal.reasons.join(", "))?,
        }
        f.write_str("; the core says ")?;
        match &self.ours {
            None => f.write_str("nothing"),
            Some(None) => f.write_str("it fits"),
            Some(Some(against)) => write!(f, "no ({against})"),
        }
    }
}

/// Where they differ in whether the pod fits, by node.
pub(crate) fn differences(theirs: &Verdicts, ours: &Ours) -> Vec<Difference> {
    let nodes = theirs
        .keys()
        .chain(ours.keys().filter(|node| !theirs.contains_key(*node)));
    let pairs = nodes.map(|node| Difference {
        node: node.clone(),
        theirs: theirs.get(node).cloned(),
        ours: ours.get(node).cloned(),
    });
    pairs
        .filter(|d| d.theirs.as_ref().map(Option::is_some) != d.ours.as_ref().map(Option::is_some))
        .collect()
}

pub(crate) fn a_wrong_a_missing_and_a_surplus_verdict_are_each_found() {
    let refusal = || {
        Some(Refusal {
            plugin: "NodePorts".into(),
            reasons: vec!["taken".into()],
        })
    };
    let theirs: Verdicts = [
        ("a".into(), None),
        ("b".into(), refusal()),
        ("c".into(), None),
        ("d".into(), refusal()),
    ]
    .into();
    let same: Ours = [
        ("a".into(), None),
        ("b".into(), Some("w".into())),
        ("c".into(), None),
        ("d".into(), Some("w".into())),
    ]
    .into();
    assert_eq!(differences(&theirs, &same), []);
    let mut other = same;
    other.insert("a".into(), Some("host port".into()));
    other.insert("b".into(), None);
    other.remove("c");
    other.insert("e".into(), None);
    let found: Vec<String> = differences(&theirs, &other).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "node a: kube-scheduler says it fits; the core says no (host port)",
            "node b: kube-scheduler says no (NodePorts: taken); the core says it fits",
            "node c: kube-scheduler says it fits; the core says nothing",
            "node e: kube-scheduler says nothing; the core says it fits",
        ]
    );
}
