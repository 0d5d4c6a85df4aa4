//! Many simulated nodes in one task: one watch of pods, nodes and policies for all, and each node's own identity
//! towards the API server when it writes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use duosuan_crds::{ColocationPolicy, ColocationPolicySpec};
use duosuan_policy::{Millis, Report, State, Tier};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, ResourceExt, runtime::watcher};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    clock::Clock,
    evict::Evictions,
    identity,
    metrics::Metrics,
    mirror::{Changed, Mirror},
    node::{self, NodeInfo},
    pods::{self, PodInfo},
    publish::{Draft, PublishError, Publisher},
    selection,
    status::{self, Parts},
    watching::{Watched, watch},
};

use super::machine::{SimulatedMachine, mix};

/// How a fleet of simulated nodes runs.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Names of the nodes; those that do not exist (yet) wait until they do.
    pub nodes: Vec<String>,
    /// Time between two reports of a node.
    pub report_period: Duration,
    /// Least time between two reports of a node when something moved by more than 5 %.
    pub report_spacing: Duration,
    /// Time between two looks at a node.
    pub step: Duration,
    /// Past that a node lives through, in simulated time, before its first report under a policy, so that its forecast
    /// has something to go by.
    pub past: Duration,
    /// Decides how pods behave.
    pub seed: u64,
    /// Requests to the API server in flight at most.
    pub in_flight: usize,
    /// Writes as each node's own agent by impersonation. Off: as the client's user.
    pub impersonate: bool,
    /// Where to count, if anywhere.
    pub metrics: Option<Arc<Metrics>>,
}

impl FleetOptions {
    /// The defaults of a real agent: looks every second, reports every 15 s.
    pub fn new(nodes: Vec<String>) -> Self {
        Self {
            nodes,
            report_period: Duration::from_secs(15),
            report_spacing: Duration::from_secs(3),
            step: Duration::from_secs(1),
            past: Duration::from_secs(900),
            seed: 1,
            in_flight: 16,
            impersonate: true,
            metrics: None,
        }
    }
}

/// Runs a simulated machine, with the real agent's `decide()` in it, for each node, until `shutdown`.
///
/// Expected flow: the node objects exist or are created at any time; a ColocationPolicy that selects a node makes it
/// offer capacity, as on a real node. Without one, nodes report and offer nothing.
///
/// # Errors
///
/// If an identity cannot be made of a node's name. What goes wrong with the API server is retried and logged.
pub async fn run_fleet(client: Client, options: FleetOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut fleet = Fleet::new(client.clone(), options)?;
    let mut events = stream::select_all([
        watch::<Pod>(&client, watcher::Config::default().fields("spec.nodeName!="))
            .map(Watched::Pod)
            .boxed(),
        watch::<Node>(&client, watcher::Config::default())
            .map(Watched::Node)
            .boxed(),
        watch::<ColocationPolicy>(&client, watcher::Config::default())
            .map(Watched::Policy)
            .boxed(),
    ]);
    let mut tick = tokio::time::interval((fleet.options.step / 4).max(Duration::from_millis(20)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut publishing: JoinSet<Published> = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = events.next() => fleet.take(event),
            Some(done) = publishing.join_next() => {
                // A task that panicked took its node's publisher with it; the node gets a new one.
                if let Ok(done) = done {
                    fleet.published(done);
                }
            }
            _ = tick.tick() => fleet.step(),
        }
        fleet.publish(&mut publishing);
    }
    publishing.shutdown().await;
    Ok(())
}

/// Pasts that are lived through in one step, some milliseconds each.
const PASTS: u32 = 32;

struct Fleet {
    options: FleetOptions,
    clock: Clock,
    clients: BTreeMap<String, Client>,
    pods: Mirror<PodInfo>,
    nodes: Mirror<NodeInfo>,
    policies: Mirror<ColocationPolicySpec>,
    /// Keys of pods by node, so that a node's list is made without looking at the others'.
    by_node: BTreeMap<String, BTreeSet<String>>,
    placed: BTreeMap<String, String>,
    members: BTreeMap<String, Member>,
    /// Nodes that have something to publish, in the order in which they came to it.
    queue: VecDeque<String>,
}

struct Member {
    agent: Agent<SimulatedMachine>,
    info: NodeInfo,
    /// What was seen last.
    last: Option<Report>,
    queued: bool,
    /// Absent while a publication is in flight.
    publisher: Option<Publisher>,
    evictions: Evictions,
    lived: bool,
    dirty: bool,
    next_look: Millis,
    reported: Option<(Millis, Report)>,
    not_before: Millis,
    failures: u32,
    /// When a report last reached the API server.
    delivered: Option<Millis>,
}

struct Published {
    node: String,
    publisher: Publisher,
    outcome: Result<(), PublishError>,
}

impl Fleet {
    fn new(client: Client, options: FleetOptions) -> anyhow::Result<Self> {
        let mut clients = BTreeMap::new();
        for node in &options.nodes {
            let own = if options.impersonate {
                identity::as_agent_of(&client, node)?
            } else {
                client.clone()
            };
            clients.insert(node.clone(), own);
        }
        Ok(Self {
            options,
            clock: Clock::start(),
            clients,
            pods: Mirror::default(),
            nodes: Mirror::default(),
            policies: Mirror::default(),
            by_node: BTreeMap::new(),
            placed: BTreeMap::new(),
            members: BTreeMap::new(),
            queue: VecDeque::new(),
        })
    }

    fn take(&mut self, event: Watched) {
        match event {
            Watched::Pod(event) => {
                let changed = self.pods.apply(event, |pod: &Pod| {
                    (
                        format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                        pods::reduce(pod),
                    )
                });
                self.pods_changed(changed);
            }
            Watched::Node(event) => {
                let ours = &self.clients;
                let changed = self.nodes.apply(event, |node: &Node| {
                    let name = node.name_any();
                    let info = ours.contains_key(&name).then(|| node::reduce(node));
                    (name, info)
                });
                match changed {
                    Changed::Nothing => {}
                    Changed::One(name) => self.node_changed(&name),
                    Changed::All => {
                        let names: BTreeSet<String> = self
                            .members
                            .keys()
                            .chain(self.nodes.objects().keys())
                            .cloned()
                            .collect();
                        names.iter().for_each(|name| self.node_changed(name));
                    }
                }
            }
            Watched::Policy(event) => {
                let changed = self.policies.apply(event, |policy: &ColocationPolicy| {
                    (policy.name_any(), Some(policy.spec.clone()))
                });
                if changed != Changed::Nothing {
                    for member in self.members.values_mut() {
                        member.follow(self.policies.objects());
                    }
                }
            }
        }
    }

    fn pods_changed(&mut self, changed: Changed) {
        match changed {
            Changed::Nothing => {}
            Changed::One(key) => {
                if let Some(node) = self.placed.remove(&key) {
                    self.by_node.entry(node.clone()).or_default().remove(&key);
                    self.mark(&node);
                }
                if let Some(node) = self.pods.objects().get(&key).map(|p| p.node.clone()) {
                    self.by_node.entry(node.clone()).or_default().insert(key.clone());
                    self.mark(&node);
                    self.placed.insert(key, node);
                }
            }
            Changed::All => {
                self.by_node.clear();
                self.placed.clear();
                for (key, pod) in self.pods.objects() {
                    self.by_node.entry(pod.node.clone()).or_default().insert(key.clone());
                    self.placed.insert(key.clone(), pod.node.clone());
                }
                for member in self.members.values_mut() {
                    member.dirty = true;
                }
            }
        }
    }

    fn mark(&mut self, node: &str) {
        if let Some(member) = self.members.get_mut(node) {
            member.dirty = true;
        }
    }

    fn node_changed(&mut self, name: &str) {
        let Some(info) = self.nodes.objects().get(name).cloned() else {
            self.members.remove(name);
            return;
        };
        if let Some(member) = self.members.get_mut(name) {
            member.agent.machine.resize(info.allocatable);
            if let Some(publisher) = &mut member.publisher {
                publisher.set_node_uid(info.uid.clone());
            }
            member.info = info;
            member.follow(self.policies.objects());
            return;
        }
        let Some(client) = self.clients.get(name) else { return };
        let machine = SimulatedMachine::new(info.allocatable, mix(name, self.options.seed));
        let mut publisher = Publisher::new(client.clone(), name);
        publisher.set_node_uid(info.uid.clone());
        let step = millis(self.options.step).max(1);
        let mut member = Member {
            agent: Agent::new(machine, State::default()),
            info,
            last: None,
            queued: false,
            publisher: Some(publisher),
            evictions: Evictions::new(client.clone(), name),
            lived: false,
            dirty: true,
            // Looks of different nodes fall on different moments.
            next_look: self.clock.now() + mix(name, 0) % step,
            reported: None,
            not_before: 0,
            failures: 0,
            delivered: None,
        };
        member.follow(self.policies.objects());
        self.members.insert(name.to_owned(), member);
    }

    fn step(&mut self) {
        // Without a full list of pods every node would look empty.
        if !(self.pods.ready() && self.nodes.ready() && self.policies.ready()) {
            return;
        }
        let now = self.clock.now();
        let mut pasts = PASTS;
        for (name, member) in &mut self.members {
            if now < member.next_look {
                continue;
            }
            member.next_look = now + millis(self.options.step);
            if member.dirty {
                member.dirty = false;
                let keys = self.by_node.get(name).into_iter().flatten();
                member
                    .agent
                    .set_pods(keys.filter_map(|key| self.pods.objects().get(key)).cloned().collect());
            }
            if !member.lived && !member.agent.choice().suspended() {
                // A few pasts in one go, so that watches and the end are not kept waiting by a thousand of them.
                if pasts == 0 {
                    member.next_look = now;
                    continue;
                }
                pasts -= 1;
                member.lived = true;
                member.live_through(now, millis(self.options.past), mix(name, self.options.seed));
            }
            while let Some(done) = member.evictions.try_done() {
                done.tell(&mut member.agent, name, self.options.metrics.as_deref(), now);
            }
            let look = member.agent.look(now);
            let (allowed, gangs) = (member.agent.evicts(), || member.agent.gang_names());
            member.evictions.follow(&look.report.eviction, allowed, gangs, now);
            if let Some(metrics) = &self.options.metrics {
                metrics.record(name, &look.report, &look.acted);
                if let Some(at) = member.delivered {
                    metrics.report_age(name, now.saturating_sub(at) as f64 / 1000.0);
                }
            }
            if !member.queued && member.due(&look.report, now, &self.options) {
                member.queued = true;
                self.queue.push_back(name.clone());
            }
            member.last = Some(look.report);
        }
    }

    /// Starts publications while there is room, first come first served, so that no node waits for ever on the others.
    fn publish(&mut self, publishing: &mut JoinSet<Published>) {
        while publishing.len() < self.options.in_flight {
            let Some(node) = self.queue.pop_front() else { return };
            let Some(member) = self.members.get_mut(&node) else {
                continue;
            };
            member.queued = false;
            let Some(report) = member.last.clone() else { continue };
            let Some(mut publisher) = member.publisher.take() else {
                continue;
            };
            let draft = member.draft(&report, self.clock.wall());
            member.reported = Some((self.clock.now(), report));
            publishing.spawn(async move {
                let outcome = publisher.publish(draft).await;
                Published {
                    node,
                    publisher,
                    outcome,
                }
            });
        }
    }

    fn published(&mut self, done: Published) {
        let Some(member) = self.members.get_mut(&done.node) else {
            return;
        };
        let mut publisher = done.publisher;
        publisher.set_node_uid(member.info.uid.clone());
        member.publisher = Some(publisher);
        match done.outcome {
            Ok(()) => {
                member.failures = 0;
                member.delivered = Some(self.clock.now());
            }
            Err(error) => {
                tracing::warn!(node = %done.node, "{error}");
                // Latest only: the next report is made anew, 1, 2, 4 ... 60 s from now.
                member.failures = member.failures.saturating_add(1);
                let wait = 1000_u64 << (member.failures - 1).min(6);
                member.not_before = self.clock.now() + wait.min(60_000);
                member.reported = None;
            }
        }
    }
}

impl Member {
    fn follow(&mut self, policies: &BTreeMap<String, ColocationPolicySpec>) {
        self.agent
            .follow(selection::choose(policies, &self.info.labels, self.info.allocatable));
    }

    /// Looks at the machine as it would have been, in steps of 5 s. Machine and memory begin anew for that: where there
    /// was no policy for a while, they know later moments already, and time never goes back in them.
    fn live_through(&mut self, now: Millis, past: Millis, seed: u64) {
        const STEP: Millis = 5_000;
        self.agent.machine = SimulatedMachine::new(self.info.allocatable, seed);
        self.agent.state = State::default();
        // Pods that run now were not evicted then.
        self.agent.observe_only(true);
        for back in (1..=past / STEP).rev() {
            self.agent.look(now.saturating_sub(back * STEP));
        }
        self.agent.observe_only(false);
        self.agent.state.forget_evictions();
    }

    fn due(&self, report: &Report, now: Millis, options: &FleetOptions) -> bool {
        if now < self.not_before || self.publisher.is_none() {
            return false;
        }
        let Some((at, before)) = &self.reported else {
            return true;
        };
        let age = now.saturating_sub(*at);
        let withdrawn = [Tier::Mid, Tier::Batch]
            .iter()
            .any(|tier| report.offer(*tier).cpu == 0 && before.offer(*tier).cpu > 0);
        age >= millis(options.report_period)
            || withdrawn
            || (age >= millis(options.report_spacing) && status::moved(before, report))
    }

    fn draft(&self, report: &Report, now: Timestamp) -> Draft {
        let parts = Parts {
            gpus: self.info.gpu_reports(),
        };
        Draft::of(report, &self.agent, &parts, now)
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
