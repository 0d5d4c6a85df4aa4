//! `duosuan simulate cluster`: a cluster from files, with the production core and what the operator makes of objects.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use anyhow::Context;
use clap::Args;
use duosuan_controller::{binder::cause_name, site::SiteArguments};
use duosuan_crds::Duration;
use duosuan_planner::{
    explain::{Case, Target, would_admit},
    facts::Facts,
    simulation::{Bound, Edge, Simulation, Wait},
};
use duosuan_scheduler::{LostWork, Time, occupancy::NodeView, query::QueueTierView};
use serde::Serialize;

use crate::{
    names::{Names, Subject, rfc3339},
    objects::{self, NotActedOn},
};

mod text;

/// Flags of `duosuan simulate cluster`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Read are Node, Namespace, Pod, PodGroup, PodDisruptionBudget, PriorityClass, PersistentVolume, PersistentVolumeClaim, StorageClass, \
CSINode, ResourceSlice, DeviceClass, ResourceClaim, ResourceClaimTemplate, Queue, CapacityClaim, NodeReport and ColocationPolicy; other kinds are named in the result. A volume that a pod waits \
for is there when the pod has a place. A budget counts the pods of the files that run, and those that are bound. Nothing is validated as an API server does beyond the type of each field.\n\n\
Example: kubectl get nodes,pods,priorityclasses,duosuan -A -o yaml | duosuan simulate cluster -f -\n\n\
The simulation starts at the latest time that any object names. Pods that are bound run; a pod ends after its annotation \
duosuan.io/run-time (such as 90s), others never. Evicted pods are gone: nobody creates them anew."
)]
pub(crate) struct Arguments {
    /// Kubernetes objects in YAML or JSON, as kubectl get -o yaml prints them; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Simulated time to stop at, such as 8h [default: when nothing changes any more]
    #[arg(long, value_name = "DURATION")]
    until: Option<String>,
    #[command(flatten)]
    site: SiteArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Simulated time at the start and the end, in RFC 3339.
    started: String,
    ended: String,
    bound: Vec<BoundPod>,
    evicted: Vec<EvictedPod>,
    finished: Vec<FinishedPod>,
    pending: Vec<Pending>,
    queues: Vec<Queue>,
    nodes: Vec<NodeView>,
    not_acted_on: Vec<NotActedOn>,
    skipped: BTreeMap<String, u32>,
    of_other_schedulers: BTreeMap<String, u32>,
}

#[derive(Debug, Serialize)]
struct BoundPod {
    pod: String,
    node: String,
    /// GPUs by index, then what its claims to devices have, as `driver/pool/device`.
    devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numa: Option<u16>,
    at: String,
}

/// A device that a pod has.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Device {
    Gpu(u16),
    Claimed(String),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Gpu(index) => index.fmt(f),
            Device::Claimed(name) => name.fmt(f),
        }
    }
}

fn devices(bound: &Bound) -> Vec<Device> {
    let gpus = bound.devices.iter().map(|index| Device::Gpu(*index));
    let claimed = bound.allocations.iter().flat_map(|of| &of.allocation.devices);
    let claimed = claimed.map(|device| Device::Claimed(format!("{}/{}/{}", device.driver, device.pool, device.device)));
    gpus.chain(claimed).collect()
}

#[derive(Debug, Serialize)]
struct EvictedPod {
    pod: String,
    #[serde(rename = "for")]
    by: Option<String>,
    reason: &'static str,
    /// With all pods of its claim that went with it.
    lost_work: LostWork,
    at: String,
}

#[derive(Debug, Serialize)]
struct FinishedPod {
    pod: String,
    at: String,
}

#[derive(Debug, Serialize)]
struct Pending {
    #[serde(flatten)]
    what: Subject,
    reason: &'static str,
    message: String,
    would_admit: Option<String>,
    earliest_start: Option<String>,
}

#[derive(Debug, Serialize)]
struct Queue {
    name: String,
    pending: u32,
    running: u32,
    share_milli: u64,
    tiers: Vec<QueueTierView>,
}

/// Runs the simulation; what is to be printed.
///
/// # Errors
///
/// If a file or an object in it is broken, or the core does not come to rest.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let length = arguments
        .until
        .as_ref()
        .map(|text| Duration(text.clone()).parse())
        .transpose();
    let length = length.context("--until")?;
    let site = arguments.site.site();
    let objects = objects::from_files(&arguments.files, &site)?;
    let started = objects.now;
    let until = length.map(|length| {
        let millis = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        Time(started.0.saturating_add(millis))
    });
    // Names of pods that are gone at the end.
    let mut before = Facts::default();
    objects.events.iter().for_each(|event| before.take(event));
    let mut simulation = Simulation::behind(
        objects.edge,
        objects.disruption,
        site.settings,
        started,
        objects.events,
        objects.run_times,
    );
    simulation.run(until)?;
    let names = Names(&before);
    let report = Report {
        started: rfc3339(started),
        ended: rfc3339(simulation.now()),
        bound: simulation
            .bound()
            .iter()
            .map(|bound| BoundPod {
                pod: names.pod(&bound.pod),
                node: bound.node.clone(),
                devices: devices(bound),
                numa: bound.numa,
                at: rfc3339(bound.at),
            })
            .collect(),
        evicted: simulation
            .evicted()
            .iter()
            .map(|evicted| EvictedPod {
                pod: names.pod(&evicted.pod),
                by: evicted.cause.by().map(|by| names.subject(by).name().to_owned()),
                reason: cause_name(&evicted.cause),
                lost_work: evicted.lost,
                at: rfc3339(evicted.at),
            })
            .collect(),
        finished: simulation
            .finished()
            .iter()
            .map(|(uid, at)| FinishedPod {
                pod: names.pod(uid),
                at: rfc3339(*at),
            })
            .collect(),
        pending: pending(&simulation, &names),
        queues: simulation
            .cluster()
            .queues()
            .into_iter()
            .map(|queue| Queue {
                name: queue.name,
                pending: queue.pending,
                running: queue.running,
                share_milli: queue.share_milli,
                tiers: queue.tiers,
            })
            .collect(),
        nodes: simulation.cluster().nodes(),
        not_acted_on: objects.not_acted_on,
        skipped: objects.skipped,
        of_other_schedulers: objects.of_others,
    };
    if arguments.json {
        return Ok(serde_json::to_string(&report)?);
    }
    Ok(text::of(&report))
}

/// Changes that are tried for each that waits, at most.
const EFFORT: i64 = 60;
/// Nodes and pods that are copied in all for that, at most: 20 s of work, at 2 us each.
const COPIED: i64 = 10_000_000;

fn pending<E: Edge>(simulation: &Simulation<E>, names: &Names<'_>) -> Vec<Pending> {
    let case = Case::of(simulation);
    let waits = simulation.waits();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let size = count(case.facts.nodes.len() + case.facts.pods.len()).max(1);
    let each = (COPIED / size / count(waits.len()).max(1)).min(EFFORT);
    let effort = u32::try_from(each).unwrap_or(0);
    let mut pending: Vec<Pending> = waits
        .into_iter()
        .map(|(uid, Wait { reason, counterfactual })| {
            let what = names.subject(&uid);
            let target = match what {
                Subject::Claim(_) => Target::Claim(uid.clone()),
                Subject::Pod(_) => Target::Pod(uid.clone()),
            };
            let (found, tried) = would_admit(case, &target, &reason, effort);
            // What the core says without trying stands only where nothing was tried.
            let found = found.map(|found| found.change.to_string());
            Pending {
                what,
                reason: reason.name(),
                message: reason.to_string(),
                would_admit: found.or(counterfactual.filter(|_| tried == 0)),
                earliest_start: simulation.estimate(&uid).map(rfc3339),
            }
        })
        .collect();
    pending.sort_by(|a, b| a.what.cmp(&b.what));
    pending
}
