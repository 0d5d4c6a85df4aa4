//! Puts an operator together and keeps it going until the end is asked for.

use std::time::Duration;

use anyhow::{Context, bail};
use kube::{Api, Client, api::ListParams};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    binder::Binder,
    clock::Clock,
    connect,
    core::Core,
    events,
    failure::Retry,
    health::{self, Readiness},
    leader::{Alone, ByLease, Election, REQUEST_TIMEOUT},
    lean::{self, Kind, Object},
    metrics::Metrics,
    options::Options,
    publish,
    record::Recorder,
    session::{CaughtUp, Ended, Links, Session},
    watch::{PAGE, Reading, Watched, Watcher},
};

/// Runs an operator until `end` is cancelled: watches, decides while it leads, and gives its lease up in the end.
///
/// # Errors
///
/// If there is no way to the API server, if that keeps refusing the credentials, or if an address cannot be had.
pub async fn run(options: Options, end: CancellationToken) -> anyhow::Result<()> {
    run_with(options, Metrics::new(), end).await
}

/// [`run`], with metrics that the caller can read.
///
/// # Errors
///
/// As [`run`].
pub async fn run_with(options: Options, metrics: Metrics, end: CancellationToken) -> anyhow::Result<()> {
    let config = connect::config(&options).await?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config.clone())
        .with_context(|| format!("the way to the API server at {server} cannot be used"))?;

    // The servers and the election outlive the session, and end with this function however it ends.
    let inner = end.child_token();
    let _stop = inner.clone().drop_guard();
    let ready = Readiness::default();
    if let Some(address) = options.metrics_addr {
        health::serve_metrics(address, metrics.clone(), inner.clone()).await?;
    }
    if let Some(address) = options.health_addr {
        health::serve_health(address, ready.clone(), inner.clone()).await?;
    }
    if connect::wait_for_api(&client, &server, &end).await?.is_none() {
        return Ok(());
    }
    connect::check_kinds(&client).await;

    let record = match &options.record {
        Some(recording) => Recorder::create(recording, &options.site.scheduler_name)?,
        None => Recorder::default(),
    };

    let (leads, leading) = watch::channel(false);
    let resign = CancellationToken::new();
    let election = tokio::spawn(election(&options, config)?.run(leads, resign.clone()));
    let _resign = resign.clone().drop_guard();

    while !end.is_cancelled() {
        let core = Core::new(record.clone(), Clock::default(), options.site.settings);
        let ended = session(&options, &client, &metrics, &ready, leading.clone(), core, &end).await;
        metrics.leader.set(0);
        match ended {
            Ended::Shutdown => {}
            Ended::LostLease => warn!("the lease is lost: starting anew as a follower, from the watches"),
            Ended::Broken => {
                if election.is_finished() {
                    bail!("the election ended by a mistake of the operator");
                }
                error!("a part of the operator ended by mistake: starting anew, from the watches");
                tokio::select! { () = end.cancelled() => {} () = tokio::time::sleep(RESTART_PAUSE) => {} }
            }
        }
    }
    tokio::task::spawn_blocking(|| record.finish()).await?;
    // Only now that nothing of this instance writes any more.
    resign.cancel();
    if election.await.is_err() {
        warn!("the election ended by a mistake of the operator; the lease ends by itself");
    }
    info!("ended");
    Ok(())
}

fn election(options: &Options, mut config: kube::Config) -> anyhow::Result<Box<dyn Election>> {
    if !options.leader_election {
        return Ok(Box::new(Alone));
    }
    // A request about the lease that hangs must not outlive it.
    config.connect_timeout = Some(REQUEST_TIMEOUT);
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    let client = Client::try_from(config)?;
    Ok(Box::new(ByLease::new(
        client,
        options.lease_namespace.clone(),
        identity(),
    )))
}

/// Who this instance is: host, process and a number that no other start on this host has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "operator" } else { host };
    let started = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    format!("{host}-{}-{started:x}", std::process::id())
}

/// How often a status is tried: it is looked at again anyhow.
const STATUS_RETRY: Retry = Retry {
    tries: 3,
    first_pause: Duration::from_millis(250),
    timeout: Duration::from_secs(10),
};
/// Pause before a session is started anew after a mistake of the operator's own.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Facts that wait to be taken in, at most: some megabytes of them; more wait at the API server.
const FACTS: usize = 1024;

async fn session(
    options: &Options,
    client: &Client,
    metrics: &Metrics,
    ready: &Readiness,
    leads: watch::Receiver<bool>,
    core: Core,
    end: &CancellationToken,
) -> Ended {
    let over = end.child_token();
    let (facts, facts_in) = mpsc::channel(FACTS);
    let (orders, orders_in) = mpsc::unbounded_channel();
    let (answers, answers_in) = mpsc::unbounded_channel();
    let (patches, patches_in) = mpsc::unbounded_channel();
    let (catch_up, catch_up_in) = mpsc::unbounded_channel();
    // A page at a time.
    let (caught_up, caught_up_in) = mpsc::channel(1);
    let (binding, binding_in) = watch::channel(false);

    let watcher = Watcher {
        client: client.clone(),
        site: options.site.clone(),
        facts,
        metrics: metrics.clone(),
    };
    let binder = Binder::new(client.clone(), Retry::default(), metrics.clone());
    let (recorder, events) = events::start(
        client.clone(),
        options.site.scheduler_name.clone(),
        metrics.clone(),
        binding_in.clone(),
        over.clone(),
    );
    let links = Links {
        facts: facts_in,
        orders,
        answers: answers_in,
        patches,
        binding,
        leads,
        catch_up,
        caught_up: caught_up_in,
        events: recorder,
        metrics: metrics.clone(),
        ready: ready.clone(),
    };
    let watching = tokio::spawn(watcher.run(over.clone()));
    let binding = tokio::spawn(binder.run(orders_in, answers, over.clone()));
    let publishing = tokio::spawn(publish::run(
        client.clone(),
        STATUS_RETRY,
        patches_in,
        binding_in,
        over.clone(),
    ));
    let telling = tokio::spawn(events);
    let catching = tokio::spawn(catch_up_when_asked(
        client.clone(),
        options.site.scheduler_name.clone(),
        catch_up_in,
        caught_up,
        over.clone(),
    ));

    // Dropped with this function, should it be, so that nothing of a session outlives it.
    let guard = over.drop_guard();
    let ended = Session::new(links, core).run(end.clone()).await;
    drop(guard);
    for task in [watching, binding, publishing, telling, catching] {
        // A task that panicked has said so on standard error.
        let _ = task.await;
    }
    ended
}

/// Answers with the pods that wait or have just been bound, and with the claims to devices, as the API server has them now,
/// page by page.
///
/// The watch may be a moment behind. A pod that the last leader bound in that moment would be missing in the sums, and
/// its place given away. Such pods have not started yet, so that they are all in the phase `Pending`: of those, and of
/// no others, the present state is asked for.
async fn catch_up_when_asked(
    client: Client,
    scheduler_name: String,
    mut asked: mpsc::UnboundedReceiver<()>,
    answers: mpsc::Sender<CaughtUp>,
    end: CancellationToken,
) {
    let all = async {
        while asked.recv().await.is_some() {
            while let Err(error) = fresh_pods(&client, &scheduler_name, &answers).await {
                warn!(%error, "cannot see what the last leader did; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            if answers.send(CaughtUp::All).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = end.cancelled() => {} () = all => {} }
}

async fn fresh_pods(client: &Client, scheduler_name: &str, answers: &mpsc::Sender<CaughtUp>) -> kube::Result<()> {
    let pods = ListParams::default().fields(&format!("spec.schedulerName={scheduler_name},status.phase=Pending"));
    fresh::<lean::Pod>(client, scheduler_name, pods, answers).await?;
    // What it allocated last: of devices nobody may get any twice.
    match fresh::<lean::ResourceClaim>(client, scheduler_name, ListParams::default(), answers).await {
        // Where claims are not served, or not to be seen, nobody allocates any.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(()),
        other => other,
    }
}

async fn fresh<K>(
    client: &Client,
    scheduler_name: &str,
    parameters: ListParams,
    answers: &mpsc::Sender<CaughtUp>,
) -> kube::Result<()>
where
    K: Watched<Read = Object<K>> + Kind,
{
    let api: Api<Object<K>> = Api::all_with(client.clone(), &None);
    let mut parameters = parameters.limit(PAGE);
    loop {
        let page = tokio::time::timeout(Duration::from_secs(30), api.list(&parameters)).await;
        let page = page.map_err(|elapsed| kube::Error::Service(elapsed.into()))??;
        let objects = page.items.into_iter();
        let facts = objects.filter_map(|object| K::fact(object, Reading::of(scheduler_name)).ok());
        if answers.send(CaughtUp::Some(facts.collect())).await.is_err() {
            return Ok(());
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}
