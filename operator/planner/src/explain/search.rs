//! The search for the smallest single change that admits something. What is said to admit was tried and did; how far
//! it is searched is bounded.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_scheduler::{
    Cluster, Reason, Tier,
    classes::NodeClass,
    event::{Claim, Group, Pod, Quota},
};

use super::{
    Case, Change, Subject, Target, admitted_after,
    change::{DEVICE, asked},
};

/// Classes of nodes that more nodes are tried of, the most frequent first.
const CLASSES: usize = 8;
/// Taints whose toleration is tried.
const TAINTS: usize = 4;
/// Nodes that are added at once, at most.
const MOST_NODES: u32 = 4096;
/// How far a limit is raised, in times of what lacks at first: others that wait may take what is given.
const MOST_RAISES: i64 = 1 << 10;

/// A change that admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The change.
    pub change: Change,
    /// How much it is, in thousandths of what there is of what it changes; 1000 for what is not an amount.
    pub part: i64,
}

/// What came of a search.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// What admits, the smallest first.
    pub(super) found: Vec<Found>,
    /// Changes that were tried.
    pub(super) tried: u32,
    /// Whether everything that was thought of was tried.
    pub(super) complete: bool,
}

/// Looks for changes that admit.
pub(super) fn search(
    case: Case<'_>,
    target: &Target,
    subject: &Subject<'_>,
    reason: &Reason,
    classes: &[NodeClass],
    effort: u32,
) -> Outcome {
    let mut search = Search {
        case,
        copy: case.cluster.clone(),
        target,
        subject,
        left: effort,
        outcome: Outcome {
            complete: true,
            ..Outcome::default()
        },
    };
    search.by_reason(reason, classes);
    let mut outcome = search.outcome;
    outcome
        .found
        .sort_by_cached_key(|found| (found.part, rank(&found.change)));
    outcome
}

/// Among changes of equal part: what costs nothing first, what costs machines before what changes the work. The words
/// decide between changes of one kind.
fn rank(change: &Change) -> (u8, String) {
    let kind = match change {
        Change::Limit { .. } | Change::LendLimit { .. } | Change::Queue { .. } | Change::Namespace { .. } => 0,
        Change::Reports | Change::NoGates | Change::Pods { .. } => 1,
        Change::Nodes { .. } => 2,
        Change::Less { .. } => 3,
        Change::Fewer { .. } => 4,
        Change::Tolerate { .. } => 5,
        Change::AnyNode | Change::AnyModel | Change::AnyNeighbour | Change::AnyArea => 6,
    };
    (kind, change.to_string())
}

struct Search<'a> {
    case: Case<'a>,
    /// On which changes are tried.
    copy: Cluster,
    target: &'a Target,
    subject: &'a Subject<'a>,
    left: u32,
    outcome: Outcome,
}

impl Search<'_> {
    fn by_reason(&mut self, reason: &Reason, classes: &[NodeClass]) {
        match reason {
            Reason::WaitingForQuota {
                queue,
                resource,
                asked,
                left,
            } => {
                self.limit(queue, resource, asked - left);
                self.less(Some(resource));
                self.fewer();
            }
            Reason::ExceedsLimit {
                queue,
                resource,
                asked,
                limit,
            } => {
                self.limit(queue, resource, asked - limit);
                self.less(Some(resource));
                self.fewer();
            }
            Reason::KeptForOthers {
                queue,
                resource,
                asked,
                free,
                kept,
            } => {
                self.lend_limit(queue, resource, asked.saturating_add(*kept).saturating_sub(*free));
                self.nodes(classes);
                self.less(Some(resource));
                self.fewer();
            }
            Reason::NoNodeFits { .. }
            | Reason::TopologyTooSmall { .. }
            | Reason::StaleReports { .. }
            | Reason::WaitingForReservation { .. } => {
                if self.case.facts.nodes.values().any(|node| node.stale) {
                    self.once(Change::Reports);
                }
                self.nodes(classes);
                self.less(None);
                self.fewer();
                self.freedom(classes);
            }
            Reason::GangIncomplete { group, have, need } => self.once(Change::Pods {
                group: group.clone(),
                more: need.saturating_sub(*have),
            }),
            Reason::PodExceedsGroup {
                resource,
                asked,
                stated,
                ..
            } => {
                let groups: BTreeSet<&str> = self.subject.pods.iter().map(|pod| pod.group.as_str()).collect();
                for group in groups {
                    self.once(Change::Less {
                        group: group.to_owned(),
                        resource: resource.clone(),
                        less: asked - stated,
                    });
                }
            }
            Reason::NoSuchQueue { queue } => self.once(Change::Queue { queue: queue.clone() }),
            Reason::NoSuchParentQueue { parent, .. } => self.once(Change::Queue { queue: parent.clone() }),
            Reason::NamespaceNotAllowed { queue, namespace } => self.once(Change::Namespace {
                queue: queue.clone(),
                namespace: namespace.clone(),
            }),
            Reason::Gated => self.once(Change::NoGates),
            // No change of an amount or a place helps.
            _ => {}
        }
    }

    /// True if a change admits. False also when the effort is used up.
    fn admits(&mut self, change: &Change) -> bool {
        let events = change.events(self.case, self.subject);
        if events.is_empty() {
            return false;
        }
        if self.left == 0 {
            self.outcome.complete = false;
            return false;
        }
        self.left -= 1;
        self.outcome.tried += 1;
        admitted_after(&mut self.copy, self.case, self.target, events)
    }

    fn found(&mut self, change: Change, amount: i64, of: i64) {
        let part = i128::from(amount) * 1000 / i128::from(of.max(1));
        let part = i64::try_from(part).unwrap_or(i64::MAX);
        self.outcome.found.push(Found { change, part });
    }

    /// Something that is changed or not.
    fn once(&mut self, change: Change) {
        if self.admits(&change) {
            self.found(change, 1, 1);
        }
    }

    /// The smallest number from 1 to `most` with which a change admits, if it does with `most`, and more is never worse.
    fn smallest(&mut self, most: i64, change: &dyn Fn(i64) -> Change) -> Option<i64> {
        if most < 1 || (most > 1 && !self.admits(&change(most))) {
            return None;
        }
        // Small numbers first: they are cheap to try, and often enough.
        let (mut fails, mut admits) = (0, 1);
        while admits < most || most == 1 {
            if self.admits(&change(admits)) {
                break;
            }
            if most == 1 {
                return None;
            }
            if self.left == 0 {
                // What was tried at first admits, and is not known to be the smallest.
                admits = most;
                break;
            }
            fails = admits;
            admits = admits.saturating_mul(2).min(most);
        }
        while admits - fails > 1 && self.left > 0 {
            let middle = fails + (admits - fails) / 2;
            if self.admits(&change(middle)) {
                admits = middle;
            } else {
                fails = middle;
            }
        }
        if admits - fails > 1 {
            self.outcome.complete = false;
        }
        Some(admits)
    }

    fn tier(&self) -> Tier {
        let of_pod = || self.subject.pods.first().map(|pod| pod.tier);
        self.subject
            .claim
            .map(|claim| claim.tier)
            .or_else(of_pod)
            .unwrap_or_default()
    }

    fn limit(&mut self, queue: &str, resource: &str, lacks: i64) {
        let of = |quota: &Quota| quota.limit.get(resource).copied();
        self.raise(queue, lacks, &of, &|tier, more| Change::Limit {
            queue: queue.to_owned(),
            tier,
            resource: resource.to_owned(),
            more,
        });
    }

    fn lend_limit(&mut self, queue: &str, resource: &str, lacks: i64) {
        let of = |quota: &Quota| quota.lend_limit.get(resource).copied();
        self.raise(queue, lacks, &of, &|tier, more| Change::LendLimit {
            queue: queue.to_owned(),
            tier,
            resource: resource.to_owned(),
            more,
        });
    }

    /// More of what a quota of a queue says, `of` which it says so much now, in steps of what is lacking.
    fn raise(
        &mut self,
        queue: &str,
        lacks: i64,
        of: &dyn Fn(&Quota) -> Option<i64>,
        change: &dyn Fn(Tier, i64) -> Change,
    ) {
        let tier = self.tier();
        let raise = |times: i64| change(tier, lacks.saturating_mul(times));
        let quotas = self.case.facts.queues.get(queue).map(|queue| queue.quotas.as_slice());
        let quota = quotas.and_then(|quotas| quotas.iter().find(|quota| quota.tier == tier));
        let now = quota.and_then(of).unwrap_or_default();
        if let Some(times) = self.smallest(MOST_RAISES, &raise) {
            self.found(raise(times), lacks.saturating_mul(times), now);
        }
    }

    /// More nodes, of the class that needs the fewest.
    fn nodes(&mut self, classes: &[NodeClass]) {
        // Nodes that say different things are of one class when they are empty.
        let mut kinds: BTreeMap<_, (u32, String)> = BTreeMap::new();
        for class in classes {
            let kind = (&class.size, &class.gpus, &class.taints, &class.labels);
            let known = kinds.entry(kind).or_insert_with(|| (0, class.example.clone()));
            known.0 += class.nodes;
            known.1 = known.1.clone().min(class.example.clone());
        }
        let mut kinds: Vec<(u32, String)> = kinds.into_values().collect();
        kinds.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        self.outcome.complete &= kinds.len() <= CLASSES;
        let all = i64::try_from(self.case.facts.nodes.len()).unwrap_or(i64::MAX);
        // Twice what it needs if each pod takes one, and a few: others that wait may take the first of them.
        let pods = u32::try_from(self.subject.pods.len()).unwrap_or(u32::MAX);
        let mut most = pods.saturating_mul(2).saturating_add(8).min(MOST_NODES);
        for (_, like) in kinds.into_iter().take(CLASSES) {
            let add = |count: i64| Change::Nodes {
                like: like.clone(),
                count: u32::try_from(count).unwrap_or(u32::MAX),
            };
            if let Some(count) = self.smallest(i64::from(most), &add) {
                self.found(add(count), count, all);
                // Another class is news only if fewer of it do.
                most = u32::try_from(count - 1).unwrap_or(0);
            }
        }
    }

    /// Smaller pods: less of one resource, group by group.
    fn less(&mut self, quota: Option<&str>) {
        let mut groups: BTreeMap<&str, &Pod> = BTreeMap::new();
        for pod in &self.subject.pods {
            groups.entry(pod.group.as_str()).or_insert(pod);
        }
        for (group, pod) in groups {
            let mut resources: Vec<&str> = pod.requests.keys().map(String::as_str).collect();
            resources.push("gpu");
            for resource in resources {
                let wanted = quota.is_none_or(|quota| plain(resource) == quota);
                if wanted && resource != "nvidia.com/gpu" && resource != "pods" {
                    self.less_of(group, pod, resource);
                }
            }
        }
    }

    fn less_of(&mut self, group: &str, pod: &Pod, resource: &str) {
        let asked = asked(pod, self.subject.claim, resource);
        let step = step(resource, asked);
        // Something of it stays.
        let most = (asked - 1) / step;
        let less = |steps: i64| Change::Less {
            group: group.to_owned(),
            resource: resource.to_owned(),
            less: steps.saturating_mul(step),
        };
        if let Some(steps) = self.smallest(most, &less) {
            self.found(less(steps), steps.saturating_mul(step), asked);
        }
    }

    /// A smaller gang.
    fn fewer(&mut self) {
        let Some(claim) = self.subject.claim else { return };
        for group in &claim.groups {
            let fewer = |fewer: i64| fewer_pods(group, fewer);
            let most = i64::from(group.min) - 1;
            if let Some(count) = self.smallest(most, &fewer) {
                self.found(fewer(count), count, i64::from(group.min));
            }
        }
    }

    /// Pods that are less choosy about where they run.
    fn freedom(&mut self, classes: &[NodeClass]) {
        let mut taints: BTreeMap<&String, u32> = BTreeMap::new();
        for class in classes {
            for taint in &class.taints {
                *taints.entry(taint).or_default() += class.nodes;
            }
        }
        let mut taints: Vec<(&String, u32)> = taints.into_iter().collect();
        taints.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        for (taint, _) in taints.into_iter().take(TAINTS) {
            self.once(Change::Tolerate { taint: taint.clone() });
        }
        let chooses = |terms: &dyn Fn(&Pod) -> bool, of_group: &dyn Fn(&Claim) -> bool| {
            self.subject.pods.iter().any(|pod| terms(pod)) || self.subject.claim.is_some_and(of_group)
        };
        let by_label = chooses(&|pod| !pod.node_terms.is_empty(), &|claim| {
            claim.groups.iter().any(|group| !group.node_terms.is_empty())
        });
        let any_model = |gpus: &Option<duosuan_scheduler::event::GpuRequest>| {
            gpus.as_ref().is_some_and(|gpus| !gpus.models.is_empty())
        };
        let by_model = chooses(&|pod| any_model(&pod.gpus), &|claim| {
            claim.groups.iter().any(|group| any_model(&group.gpus))
        });
        let by_neighbour = chooses(&|pod| pod.rules.is_some(), &|_| false);
        let by_area = chooses(&|_| false, &|claim| {
            let groups = claim.groups.iter().filter_map(|group| group.topology.as_ref());
            groups.chain(claim.topology.as_ref()).any(|topology| topology.required)
        });
        for (there, change) in [
            (by_area, Change::AnyArea),
            (by_label, Change::AnyNode),
            (by_model, Change::AnyModel),
            (by_neighbour, Change::AnyNeighbour),
        ] {
            if there {
                self.once(change);
            }
        }
    }
}

fn fewer_pods(group: &Group, fewer: i64) -> Change {
    let fewer = u32::try_from(fewer).unwrap_or(u32::MAX);
    Change::Fewer {
        group: group.name.clone(),
        min: group.min.saturating_sub(fewer),
        fewer,
    }
}

/// A resource as quotas call it.
fn plain(resource: &str) -> &str {
    let batch = resource.strip_prefix("duosuan.io/batch-");
    batch
        .or_else(|| resource.strip_prefix("duosuan.io/mid-"))
        .unwrap_or(resource)
}

/// Steps in which an amount is made smaller: what people would write.
fn step(resource: &str, asked: i64) -> i64 {
    const MIB: i64 = 1 << 20;
    match plain(resource) {
        "gpu" if asked >= DEVICE => DEVICE,
        "gpu" => 10,
        "cpu" if asked > 1000 => 100,
        "cpu" => 10,
        "memory" | "ephemeral-storage" if asked > 4096 * MIB => 256 * MIB,
        "memory" | "ephemeral-storage" if asked > 256 * MIB => 16 * MIB,
        "memory" | "ephemeral-storage" if asked > MIB => MIB,
        _ => 1,
    }
}
