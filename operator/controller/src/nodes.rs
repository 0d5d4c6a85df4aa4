//! Nodes joined with what their agents report, and how long that may be believed.

use std::collections::{BTreeMap, HashMap};

use duosuan_crds::{RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY};
use duosuan_scheduler::{Event, Time, event};

use crate::{
    translate::{
        node::{Answer, Report},
        policy::{Lines, Rules},
    },
    volumes::ATTACHED,
};

use settling::Settling;

mod settling;

/// What a node does not lend while it takes no new batch.
const BATCH: [&str; 2] = [RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY];

/// Age of a report over which nothing is placed by it, unless a policy says otherwise: 5 min.
const EXPIRE: i64 = 5 * 60 * 1000;

/// A node that was over a line gets pods again when its load is below the line by so many thousandths of its capacity, so
/// that it does not swing with each report.
const COOLED: i64 = 50;

/// What an agent lends, and a kubelet learns of only by its watch.
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
    stale: bool,
    hot: bool,
    closed: bool,
}

impl Entry {
    fn due(&self, now: Time) -> bool {
        self.lent.values().any(|lent| lent.due(now))
    }
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
        let parts = |report: &Report| (report.gpus.clone(), report.numa.clone());
        let parts_before = before.as_ref().map(|(r, _)| parts(r)).unwrap_or_default();
        let parts = report.as_ref().map(parts).unwrap_or_default();
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
        let (stale, hot, closed) = (entry.stale, entry.hot, entry.closed);
        let due = entry.due(now);
        let event = self.event(&name, now);
        let news = due
            || parts != parts_before
            || self
                .entries
                .get(&name)
                .is_some_and(|e| (e.stale, e.hot, e.closed) != (stale, hot, closed));
        event.filter(|_| news)
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
            .filter(|(_, e)| {
                e.node.is_some() && (self.stale(e, now) != e.stale || self.hot(e, now) != e.hot || e.due(now))
            })
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
                let follows = report.filter(|(report, _)| report.policy.as_deref() == Some(policy));
                let is_for = || self.policy_for(&node.labels).is_some_and(|name| name == policy);
                let believed = follows.filter(|(report, seen)| self.believed(report, *seen, now));
                (follows.is_some() || is_for()).then_some((name.as_str(), believed.map(|(report, _)| &report.answer)))
            })
            .collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        found
    }

    /// The policy for a node with these labels: of several, the first by name.
    fn policy_for(&self, labels: &BTreeMap<String, String>) -> Option<&str> {
        let selects = |rules: &Rules| rules.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let mut policies = self.policies.iter();
        policies.find_map(|(name, rules)| selects(rules).then_some(name.as_str()))
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.entries.values().filter(|e| e.node.is_some()).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn stale(&self, entry: &Entry, now: Time) -> bool {
        let Some(node) = &entry.node else { return false };
        if !self.reports_served
            || !LENT
                .iter()
                .any(|r| node.allocatable.get(*r).is_some_and(|amount| *amount > 0))
        {
            return false;
        }
        match &entry.report {
            // Missing is never fresh.
            None => true,
            Some((report, seen)) => !self.believed(report, *seen, now),
        }
    }

    /// Whether a report is young enough to be believed.
    fn believed(&self, report: &Report, seen: Time, now: Time) -> bool {
        report.time.is_some() && now.0.saturating_sub(seen.0) <= self.says(report).0
    }

    /// After how many milliseconds a report expires, and the lines of its policy.
    fn says(&self, report: &Report) -> (i64, Lines) {
        let rules = report.policy.as_ref().and_then(|name| self.policies.get(name));
        let expire = rules.and_then(|rules| rules.expire).unwrap_or(EXPIRE);
        (expire, rules.map_or_else(Lines::default, |rules| rules.lines))
    }

    /// Whether a node's load is over the line of its policy. What is too old to be known is over no line.
    fn hot(&self, entry: &Entry, now: Time) -> bool {
        let Some((report, seen)) = &entry.report else {
            return false;
        };
        let (_, lines) = self.says(report);
        let margin = if entry.hot { COOLED } else { 0 };
        let over = |load: i64, line: Option<u32>| line.is_some_and(|line| load > i64::from(line) * 10 - margin);
        self.believed(report, *seen, now)
            && (over(report.load.cpu, lines.cpu) || over(report.load.memory, lines.memory))
    }

    /// The node as the core shall see it.
    fn event(&mut self, name: &str, now: Time) -> Option<Event> {
        let (stale, hot) = (
            self.stale(self.entries.get(name)?, now),
            self.hot(self.entries.get(name)?, now),
        );
        let entry = self.entries.get_mut(name)?;
        (entry.stale, entry.hot) = (stale, hot);
        entry.closed = entry.report.as_ref().is_some_and(|(report, _)| report.closed);
        let mut node = entry.node.clone()?;
        (node.stale, node.hot) = (stale, hot);
        for (resource, lent) in &mut entry.lent {
            let counts = lent.advance(now);
            if let Some(amount) = node.allocatable.get_mut(*resource) {
                // Who was evicted would only come back; what is bound stays.
                *amount = if entry.closed && BATCH.contains(resource) {
                    0
                } else {
                    counts
                };
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use duosuan_scheduler::event::{Gpu, NumaNode};
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::translate::node::Load;

    fn node(batch: i64) -> event::Node {
        event::Node {
            name: "n".into(),
            allocatable: [(RESOURCE_BATCH_CPU.to_owned(), batch)].into(),
            ..event::Node::default()
        }
    }

    fn report(millis: i64) -> Report {
        Report {
            time: Some(Timestamp::from_millisecond(millis).unwrap()),
            policy: Some("p".into()),
            load: Load::default(),
            answer: Answer::Follows,
            closed: false,
            gpus: vec![],
            numa: vec![],
        }
    }

    fn stale(event: Option<Event>) -> Option<bool> {
        match event {
            Some(Event::Node(node)) => Some(node.stale),
            _ => None,
        }
    }

    #[test]
    fn a_report_that_does_not_come_any_more_makes_the_node_stale_and_a_new_one_fresh() {
        let mut nodes = Nodes {
            reports_served: true,
            ..Nodes::default()
        };
        assert_eq!(stale(nodes.node(node(1000), Time(0))), Some(true), "no report yet");
        assert_eq!(stale(nodes.report("n".into(), Some(report(0)), Time(0))), Some(false));
        assert!(nodes.aged(Time(EXPIRE)).is_empty());
        assert_eq!(stale(nodes.aged(Time(EXPIRE + 1)).pop()), Some(true));
        assert!(nodes.aged(Time(EXPIRE + 2)).is_empty(), "said once");
        // The agent's clock is an hour behind, but its word is new.
        assert_eq!(
            stale(nodes.report("n".into(), Some(report(1)), Time(EXPIRE + 3))),
            Some(false)
        );
    }

    #[test]
    fn a_policy_says_how_long_a_report_is_believed() {
        let mut nodes = Nodes {
            reports_served: true,
            ..Nodes::default()
        };
        let rules = Rules {
            expire: Some(1000),
            ..Rules::default()
        };
        nodes.policy("p".into(), Some(rules));
        nodes.node(node(1000), Time(0));
        nodes.report("n".into(), Some(report(0)), Time(0));
        assert_eq!(stale(nodes.aged(Time(1001)).pop()), Some(true));
    }

    #[test]
    fn a_node_that_lends_nothing_and_a_cluster_without_reports_are_never_stale() {
        let mut nodes = Nodes {
            reports_served: true,
            ..Nodes::default()
        };
        assert_eq!(stale(nodes.node(node(0), Time(0))), Some(false));
        let mut nodes = Nodes::default();
        assert_eq!(stale(nodes.node(node(1000), Time(0))), Some(false));
    }

    fn batch(event: Option<Event>) -> Option<i64> {
        match event {
            Some(Event::Node(node)) => node.allocatable.get(RESOURCE_BATCH_CPU).copied(),
            _ => None,
        }
    }

    #[test]
    fn a_raise_counts_when_it_has_stood_and_a_lowering_at_once() {
        let mut nodes = Nodes::default();
        assert_eq!(batch(nodes.node(node(200), Time(0))), Some(200), "first seen");
        assert_eq!(batch(nodes.node(node(300), Time(1000))), Some(200));
        assert_eq!(batch(nodes.node(node(400), Time(2000))), Some(200));
        assert!(nodes.aged(Time(3999)).is_empty());
        assert_eq!(
            batch(nodes.aged(Time(4000)).pop()),
            Some(300),
            "raises do not delay older ones"
        );
        assert_eq!(batch(nodes.node(node(350), Time(4500))), Some(300));
        assert_eq!(
            batch(nodes.aged(Time(5000)).pop()),
            Some(350),
            "stood since the raise to 400"
        );
        assert!(nodes.aged(Time(9000)).is_empty(), "said once");
        assert_eq!(batch(nodes.node(node(100), Time(9000))), Some(100));
        assert_eq!(batch(nodes.node(node(300), Time(9100))), Some(100), "lent again");
        assert_eq!(
            batch(nodes.report("n".into(), Some(report(0)), Time(12_100))),
            Some(300)
        );
    }

    #[test]
    fn a_node_that_evicted_batch_lends_none_until_it_takes_new_batch_again() {
        let mut nodes = Nodes::default();
        nodes.node(node(1000), Time(0));
        let told = |closed, millis| {
            let report = report(millis);
            Some(Report { closed, ..report })
        };
        assert_eq!(nodes.report("n".into(), told(false, 0), Time(0)), None);
        assert_eq!(batch(nodes.report("n".into(), told(true, 1), Time(1))), Some(0));
        assert_eq!(nodes.report("n".into(), told(true, 2), Time(2)), None, "said once");
        assert_eq!(batch(nodes.node(node(900), Time(3))), Some(0));
        // The amount has stood all the time, so that the kubelet knows it.
        assert_eq!(batch(nodes.report("n".into(), told(false, 4), Time(4))), Some(900));
    }

    #[test]
    fn a_heartbeat_is_no_news_and_reported_gpus_and_numa_nodes_are() {
        let mut nodes = Nodes::default();
        assert!(nodes.node(node(1), Time(0)).is_some());
        assert_eq!(nodes.node(node(1), Time(1)), None);
        let gpu = Gpu {
            model: "A100".into(),
            ..Gpu::default()
        };
        let with_gpu = Report {
            gpus: vec![gpu.clone()],
            numa: vec![NumaNode::default()],
            ..report(0)
        };
        let Some(Event::Node(seen)) = nodes.report("n".into(), Some(with_gpu.clone()), Time(2)) else {
            unreachable!()
        };
        assert_eq!(
            (seen.gpus.as_slice(), seen.numa.as_slice()),
            ([gpu].as_slice(), [NumaNode::default()].as_slice())
        );
        assert_eq!(nodes.report("n".into(), Some(with_gpu), Time(3)), None);
        assert_eq!(nodes.followers("p"), [("n", &Answer::Follows)]);
    }

    #[test]
    fn a_node_over_the_line_of_its_policy_is_hot_until_it_is_well_below_or_not_known_any_more() {
        let mut nodes = Nodes {
            reports_served: true,
            ..Nodes::default()
        };
        let lines = Lines {
            cpu: Some(80),
            memory: None,
        };
        let rules = Rules {
            expire: Some(60_000),
            lines,
            ..Rules::default()
        };
        nodes.policy("p".into(), Some(rules));
        nodes.node(node(0), Time(0));
        let hot = |event: Option<Event>| match event {
            Some(Event::Node(node)) => Some(node.hot),
            _ => None,
        };
        let mut now = 0;
        let mut report = |nodes: &mut Nodes, cpu, memory| {
            now += 1000;
            let report = Report {
                load: Load { cpu, memory },
                ..report(now)
            };
            hot(nodes.report("n".into(), Some(report), Time(now)))
        };
        assert_eq!(report(&mut nodes, 800, 1000), None, "at the line, and memory has none");
        assert_eq!(report(&mut nodes, 801, 0), Some(true));
        assert_eq!(report(&mut nodes, 751, 0), None, "it does not swing");
        assert_eq!(report(&mut nodes, 750, 0), Some(false));
        assert_eq!(report(&mut nodes, 900, 0), Some(true));
        assert_eq!(nodes.aged(Time(60_000)), []);
        assert_eq!(hot(nodes.aged(Time(66_000)).pop()), Some(false), "too old to be known");
        assert_eq!(report(&mut nodes, 900, 0), Some(true));
        nodes.policy("p".into(), None);
        assert_eq!(hot(nodes.aged(Time(6_000)).pop()), Some(false), "nobody draws a line");
    }
}
