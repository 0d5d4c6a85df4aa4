//! What a look has to know of other pods: how many of those that its rules speak of are in which part of the topology.
//!
//! The counts of the nodes are the model's; here they are summed by part, over the nodes that count for this look, as
//! the nodes change. A rule whose label has few values is judged once for all nodes that share these values, when it is
//! asked for: one more pod in a zone costs nothing for the nodes of the zone. A rule whose label has many values, such as
//! the host name, is judged node by node, for the nodes of the parts that changed.

use std::collections::BTreeMap;

use crate::{
    fit::Constraint,
    model::{
        Model, NodeSlot, Shape,
        rules::{Check, Evenly, OWN_AFFINITY, Rule},
    },
    selector,
    slab::{KeyOrd, NodeOrd},
};

/// Values of a label above which its rules are judged node by node.
const FINE: usize = 256;
/// No part: the node lacks the label, or does not count.
const NONE: u32 = u32::MAX;
/// How bad it is for preferred spread that a node lacks the label: worse than twenty million pods too many.
const NO_LABEL: i64 = 1 << 31;
/// What a pod in the same part weighs against it, where one more than others is allowed: as much as the largest
/// preference.
const EVEN: i64 = 100;

/// The sums of a look.
#[derive(Debug, Default)]
pub(super) struct Related {
    /// Those with few values first.
    keys: Vec<KeyOrd>,
    /// How many of them have few.
    coarse: usize,
    rules: Vec<Counted>,
    /// Which of its own rules the pod itself matches.
    own: u64,
    /// It is the first of those that want each other.
    first: bool,
    /// By node, then key.
    domains: Vec<u32>,
    /// By node, then rule.
    shares: Vec<Share>,
    /// By key with many values, then part: the nodes of the part.
    members: Vec<Vec<Vec<NodeOrd>>>,
}

/// A rule and its sums.
#[derive(Debug)]
struct Counted {
    check: Check,
    /// Position of its key.
    key: usize,
    /// By part.
    sums: Vec<Sum>,
    /// Of spread: how many parts have how many pods.
    levels: BTreeMap<i64, u32>,
    /// Parts that count.
    parts: i64,
    total: i64,
    /// Of spread: what the emptiest part has.
    floor: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    pods: i64,
    nodes: u32,
}

/// What a node adds to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    domain: u32,
    pods: u32,
}

const NOTHING: Share = Share { domain: NONE, pods: 0 };

impl Counted {
    fn put(&mut self, share: Share, add: bool) {
        if share.domain == NONE {
            return;
        }
        let index = share.domain as usize;
        if index >= self.sums.len() {
            self.sums.resize(index + 1, Sum::default());
        }
        let spread = matches!(self.check.rule, Rule::Spread(even) if even.required);
        let Some(sum) = self.sums.get_mut(index) else { return };
        let before = *sum;
        if add {
            sum.pods += i64::from(share.pods);
            sum.nodes += 1;
        } else {
            sum.pods -= i64::from(share.pods);
            sum.nodes = sum.nodes.saturating_sub(1);
        }
        self.total += sum.pods - before.pods;
        self.parts += i64::from(sum.nodes > 0) - i64::from(before.nodes > 0);
        if spread {
            let after = *sum;
            if before.nodes > 0 {
                self.level(before.pods, false);
            }
            if after.nodes > 0 {
                self.level(after.pods, true);
            }
        }
    }

    fn level(&mut self, pods: i64, add: bool) {
        let parts = self.levels.entry(pods).or_insert(0);
        *parts = if add { *parts + 1 } else { parts.saturating_sub(1) };
        if *parts == 0 {
            self.levels.remove(&pods);
        }
    }

    fn pods_in(&self, domain: u32) -> i64 {
        self.sums.get(domain as usize).map_or(0, |sum| sum.pods)
    }
}

fn is_fine(model: &Model, key: KeyOrd) -> bool {
    model.topology.domains(key) > FINE
}

impl Related {
    /// Nothing summed yet; `None` for a look that other pods do not matter to.
    pub(super) fn of(model: &Model, checks: Vec<Check>, own: u64) -> Option<Box<Related>> {
        if checks.is_empty() {
            return None;
        }
        let mut keys: Vec<KeyOrd> = checks.iter().map(|check| check.key).collect();
        keys.sort_by_key(|key| (is_fine(model, *key), *key));
        keys.dedup();
        let coarse = keys.iter().filter(|key| !is_fine(model, **key)).count();
        let rules = checks.into_iter().map(|check| Counted {
            key: keys.iter().position(|key| *key == check.key).unwrap_or(0),
            check,
            sums: Vec::new(),
            levels: BTreeMap::new(),
            parts: 0,
            total: 0,
            floor: 0,
        });
        Some(Box::new(Related {
            rules: rules.collect(),
            own,
            first: false,
            domains: Vec::new(),
            shares: Vec::new(),
            members: vec![Vec::new(); keys.len() - coarse],
            coarse,
            keys,
        }))
    }

    /// How much memory a node takes, in entries of a list of 80 bytes: itself, eight bytes for each rule, four for each
    /// label, and some 56 more for one of many values, which are lists of nodes.
    pub(super) fn size(&self) -> usize {
        let fine = self.keys.len() - self.coarse;
        1 + (self.rules.len() * 8 + self.keys.len() * 4 + fine * 56).div_ceil(80)
    }

    /// True if a label has become one of many values, or of few.
    pub(super) fn is_outdated(&self, model: &Model) -> bool {
        self.keys
            .iter()
            .enumerate()
            .any(|(i, key)| is_fine(model, *key) == (i < self.coarse))
    }

    /// Takes in how a node is now; those that have to be judged anew for it go to `dirty`.
    pub(super) fn take_in(
        &mut self,
        model: &Model,
        shape: &Shape,
        ord: NodeOrd,
        node: Option<&NodeSlot>,
        dirty: &mut Vec<NodeOrd>,
    ) {
        dirty.push(ord);
        let (keys, rules) = (self.keys.len(), self.rules.len());
        if self.shares.len() < (ord.index() + 1) * rules {
            self.shares.resize((ord.index() + 1) * rules, NOTHING);
            self.domains.resize((ord.index() + 1) * keys, NONE);
        }
        self.move_to_domains(ord, node);
        let Some(domains) = self.domains.get(ord.index() * keys..(ord.index() + 1) * keys) else {
            return;
        };
        let domain_of = |key: usize| domains.get(key).copied().unwrap_or(NONE);
        // A node counts for the constraints of a kind only if it has the labels of all of them.
        let has_all = |required: bool| {
            self.rules
                .iter()
                .filter(|rule| matches!(rule.check.rule, Rule::Spread(even) if even.required == required))
                .all(|rule| domain_of(rule.key) != NONE)
        };
        let counts = |even: Evenly, node: &NodeSlot| {
            let taints = || node.taints.iter().filter_map(|&taint| model.taint(taint));
            has_all(even.required)
                && (!even.honor_affinity || selector::matches(&shape.terms, node))
                && (!even.honor_taints || selector::admits(taints(), &shape.tolerations))
        };
        let share_of = |rule: &Counted| {
            let domain = domain_of(rule.key);
            match (node, rule.check.rule) {
                (None, _) => NOTHING,
                (Some(node), Rule::Spread(even)) if !counts(even, node) => NOTHING,
                (Some(node), _) if domain != NONE => Share {
                    domain,
                    pods: rule
                        .check
                        .mark
                        .and_then(|mark| node.marks.get(&mark))
                        .copied()
                        .unwrap_or(0),
                },
                _ => NOTHING,
            }
        };
        let new: Vec<Share> = self.rules.iter().map(share_of).collect();
        let Some(shares) = self.shares.get_mut(ord.index() * rules..(ord.index() + 1) * rules) else {
            return;
        };
        for ((rule, share), new) in self.rules.iter_mut().zip(shares).zip(new) {
            if *share == new {
                continue;
            }
            let old = std::mem::replace(share, new);
            rule.put(old, false);
            rule.put(new, true);
            let members = rule
                .key
                .checked_sub(self.coarse)
                .and_then(|fine| self.members.get(fine));
            for domain in [old.domain, new.domain].into_iter().filter(|d| *d != NONE) {
                dirty.extend(members.and_then(|m| m.get(domain as usize)).into_iter().flatten());
            }
        }
    }

    fn move_to_domains(&mut self, ord: NodeOrd, node: Option<&NodeSlot>) {
        for (position, key) in self.keys.iter().enumerate() {
            let new = node.and_then(|node| node.domain(*key));
            let new = new.map_or(NONE, |d| u32::try_from(d.index()).unwrap_or(NONE));
            let Some(slot) = self.domains.get_mut(ord.index() * self.keys.len() + position) else {
                continue;
            };
            let old = std::mem::replace(slot, new);
            if old == new {
                continue;
            }
            let Some(members) = position
                .checked_sub(self.coarse)
                .and_then(|fine| self.members.get_mut(fine))
            else {
                continue;
            };
            if let Some(members) = members.get_mut(old as usize) {
                members.retain(|member| *member != ord);
            }
            if new != NONE {
                if members.len() <= new as usize {
                    members.resize(new as usize + 1, Vec::new());
                }
                if let Some(members) = members.get_mut(new as usize) {
                    members.push(ord);
                }
            }
        }
    }

    /// Draws the conclusions from all that was taken in. True if every node has to be judged anew.
    pub(super) fn settle(&mut self) -> bool {
        let coarse = self.coarse;
        let near = || self.rules.iter().filter(|rule| rule.check.rule == Rule::Near);
        // kube-scheduler lets in the first of a series that has affinity to itself.
        let first = self.own & OWN_AFFINITY != 0 && near().all(|rule| rule.total == 0);
        let mut all = first != self.first && near().any(|rule| rule.key >= coarse);
        self.first = first;
        for rule in &mut self.rules {
            let Rule::Spread(even) = rule.check.rule else { continue };
            let least = rule.levels.first_key_value().map_or(0, |(pods, _)| *pods);
            let floor = if rule.parts < even.min_domains { 0 } else { least };
            all |= floor != rule.floor && even.required && rule.key >= coarse;
            rule.floor = floor;
        }
        all
    }

    /// The parts, by key with few values, that a node belongs to.
    pub(super) fn coarse_domains(&self, ord: NodeOrd) -> &[u32] {
        let at = ord.index() * self.keys.len();
        self.domains.get(at..at + self.coarse).unwrap_or_default()
    }

    /// What the rules say that are judged by node: what speaks against it, or what refuses it.
    pub(super) fn judge_node(&self, ord: NodeOrd) -> Result<i64, Constraint> {
        let at = ord.index() * self.keys.len();
        let domains = self.domains.get(at..at + self.keys.len()).unwrap_or_default();
        self.judge(domains, |key| key >= self.coarse)
    }

    /// What the other rules say of all nodes of some parts.
    pub(super) fn judge_domains(&self, domains: &[u32]) -> Result<i64, Constraint> {
        self.judge(domains, |key| key < self.coarse)
    }

    fn judge(&self, domains: &[u32], asked: impl Fn(usize) -> bool) -> Result<i64, Constraint> {
        let mut against: i64 = 0;
        for rule in self.rules.iter().filter(|rule| asked(rule.key)) {
            let domain = domains.get(rule.key).copied().unwrap_or(NONE);
            let pods = rule.pods_in(domain);
            match rule.check.rule {
                Rule::Near if domain == NONE || (pods == 0 && !self.first) => return Err(Constraint::PodAffinity),
                Rule::Apart if pods > 0 => return Err(Constraint::PodAntiAffinity),
                Rule::Kept if pods > 0 => return Err(Constraint::ExistingAntiAffinity),
                Rule::Near | Rule::Apart | Rule::Kept => {}
                Rule::Wish(weight) => against = against.saturating_sub(weight.saturating_mul(pods)),
                Rule::Spread(even) if even.required => {
                    let oneself = i64::from(self.own & even.own != 0);
                    if domain == NONE {
                        return Err(Constraint::SpreadLabel);
                    }
                    if pods + oneself - rule.floor > even.max_skew {
                        return Err(Constraint::Spread);
                    }
                }
                Rule::Spread(_) if domain == NONE => against = against.saturating_add(NO_LABEL),
                Rule::Spread(even) => against = against.saturating_add(pods * EVEN / even.max_skew),
            }
        }
        Ok(against)
    }
}
