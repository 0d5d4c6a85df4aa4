//! Nodes joined with what their agents report, and how long that may be believed.

use std::collections::{BTreeMap, HashMap};

use duosuan_crds::{RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY, policy::selects};
use duosuan_scheduler::{
    Event, Time,
    event::{self, Gpu, LOAD_STEPS, NumaNode},
};

use crate::{
    translate::{
        node::{Answer, Report},
        policy::{Lines, Rules},
    },
    volumes::ATTACHED,
};

use settling::Settling;

mod settling;

/// Age of a report over which nothing is placed by it, unless a policy says otherwise: 5 min.
const EXPIRE: i64 = 5 * 60 * 1000;

/// A node that was over a line gets pods again when its load is below the line by so many thousandths of its capacity, so
/// that it does not swing with each report.
const COOLED: i64 = 50;

/// What an agent lends, and a kubelet learns of only by its watch. A node that takes nothing new of mid and batch lends none of
/// it.
const LENT: [&str; 4] = [
    RESOURCE_BATCH_CPU,
    RESOURCE_BATCH_MEMORY,
    RESOURCE_MID_CPU,
    RESOURCE_MID_MEMORY,
];

#[derive(Debug, Default)]
struct Entry {
    node: Option<event::Node>,
    lent: BTreeMap<&'static str, Settling>,
    report: Option<(Report, Time)>,
    judged: Judged,
    closed: bool,
}

/// What the core is told of a node by its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Judged {
    /// It lends by a report that is too old, or missing.
    stale: bool,
    /// Its load is over the line of its policy.
    hot: bool,
    /// How near its load is to the line of its policy, in steps.
    load: Option<u8>,
}

impl Entry {
    fn due(&self, now: Time) -> bool {
        self.lent.values().any(|lent| lent.due(now))
    }

    fn closed_by_report(&self) -> bool {
        self.report.as_ref().is_some_and(|(report, _)| report.closed)
    }

    /// Whether its node has anything of what a report vouches for.
    fn lends(&self) -> bool {
        let of = |node: &event::Node, resource: &str| node.allocatable.get(resource).is_some_and(|amount| *amount > 0);
        let node = self.node.as_ref();
        node.is_some_and(|node| LENT.iter().any(|resource| of(node, resource)))
    }

    /// Whether the load of a report is over the lines of a policy.
    fn hot(&self, report: &Report, lines: Lines) -> bool {
        let margin = if self.judged.hot { COOLED } else { 0 };
        let over = |load: Option<i64>, line: Option<u32>| {
            load.zip(line)
                .is_some_and(|(load, line)| load > i64::from(line) * 10 - margin)
        };
        over(report.load.cpu, lines.cpu) || over(report.load.memory, lines.memory)
    }

    /// How near the load of a report is to the lines of a policy, of the resource that is nearest to its own, in steps; `None`
    /// without a line, and for what is not known. It takes half a step beyond a step to leave it.
    fn load(&self, report: &Report, lines: Lines) -> Option<u8> {
        let mut halves: Option<i64> = None;
        for (load, line) in [(report.load.cpu, lines.cpu), (report.load.memory, lines.memory)] {
            let Some(line) = line.filter(|line| *line > 0) else {
                continue;
            };
            // A line of so many percent is ten times as many thousandths.
            let part = load?.saturating_mul(2 * i64::from(LOAD_STEPS)) / (i64::from(line) * 10);
            halves = halves.max(Some(part));
        }
        let halves = halves?.clamp(0, 2 * i64::from(LOAD_STEPS) - 1);
        let stands = |step: &u8| (-1..=2).contains(&(halves - 2 * i64::from(*step)));
        self.judged.load.filter(stands).or(u8::try_from(halves / 2).ok())
    }
}

/// The parts of a node that its report tells of.
fn parts(report: Option<&Report>) -> (&[Gpu], &[NumaNode]) {
    report.map_or((&[], &[]), |report| (&report.gpus, &report.numa))
}

/// A policy that is for a node that another one is for, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rival<'a> {
    /// The other one yields there: this one holds.
    pub yields: bool,
    /// The node.
    pub node: &'a str,
    /// Its name.
    pub policy: &'a str,
}

/// Nodes and reports, by name of the node.
#[derive(Debug, Default)]
pub struct Nodes {
    entries: HashMap<String, Entry>,
    policies: BTreeMap<String, Rules>,
    reports_served: bool,
}

impl Nodes {
    /// A node is there. Nodes say every few seconds that they are well; only what placement looks at counts as news.
    pub fn node(&mut self, node: event::Node, now: Time) -> Option<Event> {
        let name = node.name.clone();
        let entry = self.entries.entry(name.clone()).or_default();
        if entry.node.as_ref() == Some(&node) {
            return None;
        }
        for resource in LENT {
            let amount = node.allocatable.get(resource).copied().unwrap_or_default();
            if amount == 0 && !entry.lent.contains_key(resource) {
                // Most nodes lend nothing, and nothing is what is known of them.
                continue;
            }
            if entry.node.is_some() {
                entry.lent.entry(resource).or_default().say(amount, now);
            } else {
                // Seen for the first time: its kubelet has had it for as long as anyone can tell.
                entry.lent.insert(resource, Settling::known(amount));
            }
        }
        entry.node = Some(node);
        self.event(&name, now)
    }

    /// What a node can attach changes: amounts by resource, in place of those before.
    pub fn attachable(&mut self, name: &str, limits: &[(String, i64)], now: Time) -> Option<Event> {
        let node = self.entries.get_mut(name)?.node.as_mut()?;
        node.allocatable.retain(|resource, _| !resource.starts_with(ATTACHED));
        node.allocatable.extend(limits.iter().cloned());
        self.event(name, now)
    }

    /// A node, as it was read.
    pub fn get(&self, name: &str) -> Option<&event::Node> {
        self.entries.get(name)?.node.as_ref()
    }

    /// Names of all nodes, in order.
    pub fn names(&self) -> Vec<String> {
        let present = self.entries.iter().filter(|(_, e)| e.node.is_some());
        let mut names: Vec<String> = present.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// A node is gone; its report may outlive it.
    pub fn gone(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.node = None;
            if entry.report.is_none() {
                self.entries.remove(name);
            }
        }
    }

    /// The report of a node is there, or gone.
    pub fn report(&mut self, name: String, report: Option<Report>, now: Time) -> Option<Event> {
        let entry = self.entries.entry(name.clone()).or_default();
        let before = entry.report.take();
        let same_parts = parts(before.as_ref().map(|(report, _)| report)) == parts(report.as_ref());
        entry.report = report.map(|report| {
            // An agent's clock may be wrong: what counts is when its word changed. Only of the first report its own
            // time is believed, since that may have been lying there for long.
            let seen = match &before {
                Some((old, seen)) if old.time == report.time => *seen,
                Some(_) => now,
                None => report.time.map_or(now, |t| Time(t.as_millisecond().min(now.0))),
            };
            (report, seen)
        });
        if entry.node.is_none() {
            if entry.report.is_none() {
                self.entries.remove(&name);
            }
            return None;
        }
        // Thousands of reports a minute say nothing that is new: the node is not copied for them.
        let entry = self.entries.get(&name)?;
        let news = !same_parts
            || entry.due(now)
            || entry.closed != entry.closed_by_report()
            || entry.judged != self.judged(entry, now);
        if news { self.event(&name, now) } else { None }
    }

    /// A policy says this of nodes, or it is gone.
    pub fn policy(&mut self, name: String, rules: Option<Rules>) {
        match rules {
            Some(rules) => drop(self.policies.insert(name, rules)),
            None => drop(self.policies.remove(&name)),
        }
    }

    /// Whether the API server knows reports. If not, what a node offers is believed as it stands.
    pub fn reports_served(&mut self, served: bool, now: Time) -> Vec<Event> {
        self.reports_served = served;
        self.aged(now)
    }

    /// Nodes whose reports have become too old, or are so no more, whose load is judged otherwise by their policy now, or
    /// whose raised amounts have settled.
    pub fn aged(&mut self, now: Time) -> Vec<Event> {
        let mut names: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| e.node.is_some() && (e.judged != self.judged(e, now) || e.due(now)))
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_unstable();
        names.iter().filter_map(|name| self.event(name, now)).collect()
    }

    /// Nodes that a policy holds for and what their agents make of it, by their own word, in the order of their names.
    pub fn followers(&self, policy: &str) -> Vec<(&str, &Answer)> {
        let mut found: Vec<(&str, &Answer)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.node.is_some())
            .filter_map(|(name, entry)| Some((name.as_str(), &entry.report.as_ref()?.0)))
            .filter(|(_, report)| report.policy.as_deref() == Some(policy))
            .map(|(name, report)| (name, &report.answer))
            .collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        found
    }

    /// Nodes that a policy is for, and those that still follow it by their own word, in the order of their names, each
    /// with what its agent makes of that policy; `None` if no report that can be believed says so.
    pub fn under(&self, policy: &str, now: Time) -> Vec<(&str, Option<&Answer>)> {
        let mut found: Vec<(&str, Option<&Answer>)> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| {
                let node = entry.node.as_ref()?;
                let report = entry.report.as_ref();
                let follows = report.is_some_and(|(report, _)| report.policy.as_deref() == Some(policy));
                let is_for = || self.policy_for(&node.labels).is_some_and(|name| name == policy);
                let believed = self.believed(entry, now).filter(|_| follows);
                (follows || is_for()).then_some((name.as_str(), believed.map(|(report, _)| &report.answer)))
            })
            .collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        found
    }

    /// The policy for a node with these labels: of several, the first by name.
    fn policy_for(&self, labels: &BTreeMap<String, String>) -> Option<&str> {
        let mut policies = self.policies.iter();
        policies.find_map(|(name, rules)| selects(&rules.selector, labels).then_some(name.as_str()))
    }

    /// Another policy that is for nodes that this one is for, too, and the first such node by name: first one that holds there
    /// in its place.
    pub fn rival(&self, policy: &str) -> Option<Rival<'_>> {
        let selector = &self.policies.get(policy)?.selector;
        let others = || self.policies.iter().filter(|(name, _)| *name != policy);
        others().next()?;
        let rivals = self.entries.iter().filter_map(|(node, entry)| {
            let labels = &entry
                .node
                .as_ref()
                .filter(|node| selects(selector, &node.labels))?
                .labels;
            let (other, _) = others().find(|(_, rules)| selects(&rules.selector, labels))?;
            Some(Rival {
                yields: other.as_str() > policy,
                node,
                policy: other,
            })
        });
        rivals.min()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.entries.values().filter(|e| e.node.is_some()).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The report of a node, if it is young enough to be believed, and the lines of its policy.
    fn believed<'a>(&self, entry: &'a Entry, now: Time) -> Option<(&'a Report, Lines)> {
        let (report, seen) = entry.report.as_ref()?;
        let rules = report.policy.as_ref().and_then(|name| self.policies.get(name));
        let expire = rules.and_then(|rules| rules.expire).unwrap_or(EXPIRE);
        let young = report.time.is_some() && now.0.saturating_sub(seen.0) <= expire;
        young.then(|| (report, rules.map_or_else(Lines::default, |rules| rules.lines)))
    }

    fn judged(&self, entry: &Entry, now: Time) -> Judged {
        let believed = self.believed(entry, now);
        Judged {
            // Missing is never fresh.
            stale: self.reports_served && believed.is_none() && entry.lends(),
            hot: believed.is_some_and(|(report, lines)| entry.hot(report, lines)),
            load: believed.and_then(|(report, lines)| entry.load(report, lines)),
        }
    }

    /// The node as the core shall see it.
    fn event(&mut self, name: &str, now: Time) -> Option<Event> {
        let judged = self.judged(self.entries.get(name)?, now);
        let entry = self.entries.get_mut(name)?;
        entry.judged = judged;
        entry.closed = entry.closed_by_report();
        let mut node = entry.node.clone()?;
        (node.stale, node.hot, node.load) = (judged.stale, judged.hot, judged.load);
        for (resource, lent) in &mut entry.lent {
            let counts = lent.advance(now);
            if let Some(amount) = node.allocatable.get_mut(*resource) {
                // Who was evicted would only come back, into what he held and the node still offers; what is bound stays.
                *amount = if entry.closed { 0 } else { counts };
            }
        }
        if let Some((report, _)) = entry.report.as_ref().filter(|(r, _)| !r.gpus.is_empty()) {
            node.gpus.clone_from(&report.gpus);
        }
        if let Some((report, _)) = &entry.report {
            node.numa.clone_from(&report.numa);
        }
        Some(Event::Node(Box::new(node)))
    }
}

#[cfg(test)]
mod tests;
