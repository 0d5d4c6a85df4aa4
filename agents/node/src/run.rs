//! The agent of a real node: one loop on one thread.
//!
//! Expected flow: a tick a second, a look at once when a pressure trigger fires and a few short ones after it, watches of
//! the own pods, the own node and the policies; a report every 15 s or when something moved. The kernel side runs on
//! when the API server does not answer. At the end, the kernel is put back and the offer falls to what is bound.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use duosuan_crds::ColocationPolicy;
use duosuan_policy::{Capabilities, Millis, Report, Tier};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, ResourceExt, runtime::watcher};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    clock::Clock,
    evict::{self, Done, Evictions},
    fault,
    http::{self, Pulse},
    identity,
    kernel::{self, Kernel, Roots},
    machine::Machine,
    metrics::Metrics,
    mirror::Mirror,
    node::{self, NodeInfo},
    options::{ModeFlag, Options},
    pods::{self, PodInfo},
    policy_file::{self, PolicySource},
    publish::{Draft, Offers, PublishError, Publisher},
    selection::{self, Choice},
    services::Services,
    status::{self, Parts},
    store,
    triggers::{Arming, Triggers},
    watching::{Watched, watch},
};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);
/// After a trigger, so many looks this far apart: what stalls now shows in a short span and not in a second's mean.
const QUICK: (u32, Duration) = (5, Duration::from_millis(100));
/// Time between two reports, and the least between two when something moved.
const REPORT: (Millis, Millis) = (15_000, 1_000);
/// Time between two writes of the forecast.
const STORE: Millis = 300_000;
/// The forecast waits this long for the first list of pods and policies: without an API server it then learns of all pods as
/// of prod's.
const UNLISTED: Millis = 600_000;
/// How long the last words to the API server may take.
const FAREWELL: Duration = Duration::from_millis(700);

/// Runs the agent until `shutdown`.
///
/// # Errors
///
/// If it cannot start: no cgroup v2, no journal, a kubeconfig or a policy that is none, an address that is taken.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Some(death) = options.die_at {
        fault::arm(death);
    }
    let clock = Clock::start();
    let file = match &options.policy {
        Some(path) => Some(PolicySource::open(path, kernel::capacity(&options.proc_root)?)?),
        None => None,
    };
    let client = client(&options).await?;
    let name = match (&options.node, &client) {
        (Some(name), _) => name.clone(),
        (None, None) => "localhost".to_owned(),
        (None, Some(_)) => bail!("--node NAME is missing: give the name of this node, or set NODE_NAME"),
    };
    raise_file_limit();
    let fixed = file
        .as_ref()
        .map(|(_, file)| policy_file::services(&file.groups))
        .unwrap_or_default();
    let services = Services::new(fixed.into_iter().filter_map(|(n, t)| Some((n, t.ok()?))).collect());
    let roots = Roots {
        cgroup: options.cgroup_root.clone(),
        proc: options.proc_root.clone(),
        journal: options.journal.clone(),
        sys: options.sys_root.clone(),
        network: options.network,
    };
    let kernel = Kernel::open(&roots)?;
    let forecast = store::beside(&options.journal);
    let mut agent = Agent::new(kernel, store::load(&forecast, clock.now()));
    agent.observe_only(options.mode == ModeFlag::Observe);
    let mut source = None;
    if let Some((file_source, file)) = file {
        agent.follow(file_source.choice(&file));
        source = Some(file_source);
    }
    let metrics = Arc::new(Metrics::new());
    let pulse = Arc::new(Pulse::default());
    if let Some(addr) = options.metrics_addr {
        http::serve_metrics(addr, Arc::clone(&metrics), shutdown.clone()).await?;
    }
    if let Some(addr) = options.health_addr {
        http::serve_health(addr, Arc::clone(&pulse), clock, shutdown.clone()).await?;
    }
    let wake = Arc::new(Notify::new());
    let node = LiveNode {
        publisher: client.as_ref().map(|client| Publisher::new(client.clone(), &name)),
        evictions: client.as_ref().map(|client| Evictions::new(client.clone(), &name)),
        noticed: BTreeMap::new(),
        name,
        agent,
        source,
        clock,
        metrics,
        pulse,
        forecast,
        stored: clock.now(),
        triggers: Triggers::new(Arc::clone(&wake)),
        services,
        pods: Mirror::default(),
        info: Mirror::default(),
        policies: Mirror::default(),
        reported: None,
        delivered: None,
        not_before: 0,
        failures: 0,
        in_flight: None,
        last: None,
        learns_from: clock.now() + client.as_ref().map_or(0, |_| UNLISTED),
        features: Capabilities::default(),
    };
    node.run(client, &wake, shutdown).await
}

/// A way to the API server, unless the agent is to protect the node alone.
async fn client(options: &Options) -> anyhow::Result<Option<Client>> {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if options.kubeconfig.is_none() && !in_pod && options.policy.is_some() {
        tracing::info!("no API server: protecting the node alone, by --policy");
        return Ok(None);
    }
    let mut config = identity::config(options.kubeconfig.as_deref()).await?;
    // A watch that says nothing for long is not dead; a write that does is.
    config.connect_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(30));
    // Each asks again by its own measure: a disruption budget says no by the same 429 as an overloaded server, and then the
    // next pod is asked for.
    config.default_retry = false;
    Ok(Some(
        Client::try_from(config).context("the API server's address or credentials cannot be used")?,
    ))
}

/// Each pod keeps a few files open; the usual limit of 1024 is too low for 250 of them.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
}

fn events(client: Option<&Client>, node: &str) -> stream::BoxStream<'static, Watched> {
    let Some(client) = client else {
        return stream::pending().boxed();
    };
    let small = |config: watcher::Config| config.page_size(50);
    let own_pods = small(watcher::Config::default().fields(&format!("spec.nodeName={node}")));
    let own_node = watcher::Config::default().fields(&format!("metadata.name={node}"));
    stream::select_all([
        watch::<Pod>(client, own_pods).map(Watched::Pod).boxed(),
        watch::<Node>(client, own_node).map(Watched::Node).boxed(),
        watch::<ColocationPolicy>(client, small(watcher::Config::default()))
            .map(Watched::Policy)
            .boxed(),
    ])
    .boxed()
}

struct LiveNode {
    name: String,
    agent: Agent<Kernel>,
    source: Option<PolicySource>,
    clock: Clock,
    metrics: Arc<Metrics>,
    pulse: Arc<Pulse>,
    forecast: std::path::PathBuf,
    stored: Millis,
    triggers: Triggers,
    services: Services,
    pods: Mirror<PodInfo>,
    info: Mirror<NodeInfo>,
    policies: Mirror<duosuan_crds::ColocationPolicySpec>,
    /// Absent without an API server, and while a publication is in flight.
    publisher: Option<Publisher>,
    /// Absent without an API server.
    evictions: Option<Evictions>,
    /// Pods that have a notice of an agent before this one, by UID, until all are listed.
    noticed: BTreeMap<String, String>,
    reported: Option<(Millis, Report)>,
    delivered: Option<Millis>,
    not_before: Millis,
    failures: u32,
    in_flight: Option<JoinHandle<(Publisher, Result<(), PublishError>)>>,
    last: Option<Report>,
    /// When it begins to learn, at the latest; before, as soon as the pods and the policies were listed once.
    learns_from: Millis,
    /// What the kernel can do, as the metrics have it.
    features: Capabilities,
}

impl LiveNode {
    async fn run(mut self, client: Option<Client>, wake: &Notify, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut events = std::pin::pin!(events(client.as_ref(), &self.name));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quick_left = 0;
        let mut quick_at = Instant::now();
        tracing::info!(node = %self.name, "protecting");
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = wake.notified() => {
                    (quick_left, quick_at) = (QUICK.0, Instant::now() + QUICK.1);
                    self.look();
                }
                () = tokio::time::sleep_until(quick_at), if quick_left > 0 => {
                    (quick_left, quick_at) = (quick_left - 1, Instant::now() + QUICK.1);
                    self.look();
                }
                _ = tick.tick() => {
                    self.poll_policy();
                    self.look();
                    self.services.read(self.clock.now());
                    self.triggers.update(&self.agent.machine, &armings(self.agent.choice()));
                    self.store(false);
                }
                Some(event) = next(&mut events) => {
                    if self.take(event) {
                        self.look();
                    }
                }
                Some(done) = finished(&mut self.in_flight) => self.published(done),
                Some(done) = self.services.done() => {
                    self.services.take(done, self.clock.now());
                    self.agent.set_services(self.services.observed());
                }
                done = evicted(&mut self.evictions) => {
                    done.tell(&mut self.agent, &self.name, Some(&self.metrics), self.clock.now());
                }
            }
            self.publish();
        }
        self.end().await;
        Ok(())
    }

    fn look(&mut self) {
        let now = self.clock.now();
        let unlisted = now < self.learns_from && !(self.pods.ready() && self.policy_known());
        self.agent.unlisted(unlisted);
        let look = self.agent.look(now);
        self.metrics.record(&self.name, &look.report, &look.acted);
        let capabilities = self.agent.machine.capabilities();
        if *capabilities != self.features {
            self.features = capabilities.clone();
            self.metrics.features(&self.name, &self.features);
        }
        if let Some(at) = self.delivered {
            self.metrics
                .report_age(&self.name, now.saturating_sub(at) as f64 / 1000.0);
        }
        self.pulse.beat(now);
        if let Some(evictions) = &mut self.evictions {
            let allowed = self.agent.evicts();
            evictions.follow(&look.report.eviction, allowed, || self.agent.gang_names(), now);
        }
        if !look.report.eviction.decided.is_empty() {
            // A restart must not forget that the node is closed.
            self.store(true);
        }
        self.last = Some(look.report);
    }

    /// Whether it is known which policy the node follows, if any.
    fn policy_known(&self) -> bool {
        self.source.is_some() || (self.policies.ready() && self.info.objects().contains_key(&self.name))
    }

    fn poll_policy(&mut self) {
        if let Some(choice) = self.source.as_mut().and_then(PolicySource::poll) {
            tracing::info!(suspended = choice.suspended(), "the policy file changed");
            self.agent.follow(choice);
        }
    }

    /// Takes in an event; true if the node should be looked at now.
    fn take(&mut self, event: Watched) -> bool {
        use crate::mirror::Changed;
        match event {
            Watched::Pod(event) => {
                if let (false, watcher::Event::InitApply(pod)) = (self.pods.ready(), &event) {
                    self.noticed.extend(evict::left_behind(pod));
                }
                let changed = self.pods.apply(event, |pod: &Pod| {
                    (
                        format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                        pods::reduce(pod),
                    )
                });
                if changed != Changed::Nothing {
                    let pods: Vec<PodInfo> = self.pods.objects().values().cloned().collect();
                    self.services.follow(&pods);
                    self.agent.set_services(self.services.observed());
                    self.agent.set_pods(pods);
                    if let Some(evictions) = &mut self.evictions {
                        evictions.take_back(std::mem::take(&mut self.noticed));
                    }
                }
                // The tick comes soon enough; a list of 250 pods is no reason for 250 looks.
                false
            }
            Watched::Node(event) => {
                let changed = self
                    .info
                    .apply(event, |node: &Node| (node.name_any(), Some(node::reduce(node))));
                changed != Changed::Nothing && self.follow()
            }
            Watched::Policy(event) => {
                let changed = self
                    .policies
                    .apply(event, |p: &ColocationPolicy| (p.name_any(), Some(p.spec.clone())));
                changed != Changed::Nothing && self.follow()
            }
        }
    }

    /// Follows what the API says, unless a file does; true if that changed.
    fn follow(&mut self) -> bool {
        let info = self.info.objects().get(&self.name);
        if let (Some(publisher), Some(info)) = (&mut self.publisher, info) {
            publisher.set_node_uid(info.uid.clone());
        }
        let (Some(info), true, None) = (info, self.policies.ready(), &self.source) else {
            return false;
        };
        let capacity = self.last.as_ref().map(|r| r.capacity).unwrap_or_default();
        let choice = selection::choose(self.policies.objects(), &info.labels, capacity);
        if choice == *self.agent.choice() {
            return false;
        }
        tracing::info!(policy = choice.name(), suspended = choice.suspended(), "following");
        if let Choice::Refused { name, problems } = &choice {
            tracing::warn!("ColocationPolicy {name} cannot be honoured: {}", problems.join("; "));
        }
        self.agent.follow(choice);
        true
    }

    fn publish(&mut self) {
        // Without the list of pods, what is bound is not known, and a number below it could be published.
        if !self.pods.ready() || !self.info.ready() || !self.info.objects().contains_key(&self.name) {
            return;
        }
        let (Some(report), now) = (&self.last, self.clock.now()) else {
            return;
        };
        if self.publisher.is_none() || now < self.not_before {
            return;
        }
        let due = self.reported.as_ref().is_none_or(|(at, before)| {
            let age = now.saturating_sub(*at);
            age >= REPORT.0 || (age >= REPORT.1 && status::moved(before, report))
        });
        let Some(mut publisher) = (if due { self.publisher.take() } else { None }) else {
            return;
        };
        let gpus = self
            .info
            .objects()
            .get(&self.name)
            .map(NodeInfo::gpu_reports)
            .unwrap_or_default();
        let parts = Parts { gpus };
        let mut draft = Draft::of(report, &self.agent, &parts, self.clock.wall());
        self.services
            .judge(&mut draft.conditions, &report.own_misses, draft.now);
        self.reported = Some((now, report.clone()));
        self.in_flight = Some(tokio::spawn(async move {
            let outcome = publisher.publish(draft).await;
            (publisher, outcome)
        }));
    }

    fn published(&mut self, (mut publisher, outcome): (Publisher, Result<(), PublishError>)) {
        if let Some(info) = self.info.objects().get(&self.name) {
            publisher.set_node_uid(info.uid.clone());
        }
        self.publisher = Some(publisher);
        match outcome {
            Ok(()) => {
                self.failures = 0;
                self.delivered = Some(self.clock.now());
            }
            Err(error) => {
                // Latest only: the next report is made anew, 1, 2, 4 ... 60 s from now.
                let wait = (1_000_u64 << self.failures.min(6)).min(60_000);
                tracing::warn!("{error}; trying again in {} s", wait / 1000);
                self.failures = self.failures.saturating_add(1);
                self.not_before = self.clock.now() + wait;
                self.reported = None;
            }
        }
    }

    fn store(&mut self, at_once: bool) {
        let now = self.clock.now();
        if at_once || now.saturating_sub(self.stored) >= STORE {
            self.stored = now;
            store::save(&self.forecast, &self.agent.state, now);
        }
    }

    /// Puts the kernel back first, then lowers the offer: nobody guards the node from here on, so nothing more is to be
    /// placed on it, but what is bound stays offered, since a kubelet that restarts would fail it otherwise. Nor is anybody
    /// evicted whose notice it has given.
    async fn end(&mut self) {
        let acted = self.agent.machine.restore();
        for failure in &acted.failed {
            tracing::error!("not put back: {}", failure.message);
        }
        self.store(true);
        tracing::info!(files = acted.written, "put the kernel back");
        let farewell = async {
            if let Some(in_flight) = self.in_flight.take()
                && let Ok((publisher, _)) = in_flight.await
            {
                self.publisher = Some(publisher);
            }
            if let Some(publisher) = &mut self.publisher
                && self.pods.ready()
            {
                let bound = Offers::bound(self.agent.bound(Tier::Mid), self.agent.bound(Tier::Batch));
                return publisher.withdraw(bound, self.clock.wall()).await;
            }
            Ok(())
        };
        let notices = async {
            if let Some(evictions) = &mut self.evictions {
                evictions.end().await;
            }
        };
        let farewell = async { futures::join!(farewell, notices).0 };
        match tokio::time::timeout(FAREWELL, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the offer stays as it was: {error}"),
            Err(_) => tracing::warn!("the offer or a notice stays as it was: the API server does not answer"),
        }
    }
}

/// Where triggers fire: at half of the stall that the policy allows, so that the guard sees it coming.
fn armings(choice: &Choice) -> Vec<Arming> {
    let Choice::Policy { policy, .. } = choice else {
        return Vec::new();
    };
    [
        ("cpu.pressure", policy.cpu.disabled, policy.cpu.stall_milli),
        ("memory.pressure", policy.memory.disabled, policy.memory.stall_milli),
        ("io.pressure", policy.io.disabled, policy.io.stall_milli),
    ]
    .into_iter()
    .filter(|(_, disabled, _)| !disabled && !policy.suspended)
    .map(|(file, _, stall_milli)| (file, (stall_milli / 2).max(1)))
    .collect()
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    stream.next().await
}

/// What was asked of the API server for evictions, when it is done; pending while nothing was.
async fn evicted(evictions: &mut Option<Evictions>) -> Done {
    match evictions {
        Some(evictions) => evictions.done().await,
        None => std::future::pending().await,
    }
}

/// The publication in flight, when it is done; pending while there is none.
async fn finished(
    in_flight: &mut Option<JoinHandle<(Publisher, Result<(), PublishError>)>>,
) -> Option<(Publisher, Result<(), PublishError>)> {
    let Some(handle) = in_flight else {
        return std::future::pending().await;
    };
    let done = handle.await;
    *in_flight = None;
    done.inspect_err(|error| tracing::error!("publishing ended: {error}"))
        .ok()
}
