//! A cluster as facts for the core, from files or from an API server: the objects go the way that the operator's watches
//! take.

mod budget;
mod claims;
mod defaults;
mod document;
mod edge;
mod finite;
mod live;
mod read;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::bail;
use duosuan_controller::{site::Site, translate::pod::Readiness, watch::Fact};
use duosuan_planner::budgets::{Disruption, Unready};
use duosuan_scheduler::{Event, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use document::{Document, Place};
use edge::Volumes;
pub(crate) use live::from_server;

/// Objects of a kind that were read and that nothing is done about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NotActedOn {
    /// The kind.
    pub(crate) kind: &'static str,
    /// How many.
    pub(crate) objects: u32,
    /// What follows from it.
    pub(crate) effect: &'static str,
}

/// A cluster.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// All that the core has to be told.
    pub(crate) events: Vec<Event>,
    /// What volumes have to say of bindings.
    pub(crate) edge: Volumes,
    /// Disruption budgets, and what is not ready.
    pub(crate) disruption: Disruption,
    /// When all this was so: the latest time that any of it names.
    pub(crate) now: Time,
    /// Milliseconds that pods go on to run, by UID.
    pub(crate) run_times: BTreeMap<String, i64>,
    /// Kinds that were read and that nothing is done about.
    pub(crate) not_acted_on: Vec<NotActedOn>,
    /// Kinds that are none of a scheduler's business, with how many objects.
    pub(crate) skipped: BTreeMap<String, u32>,
    /// Pods without a node that name another scheduler, by its name.
    pub(crate) of_others: BTreeMap<String, u32>,
    /// What else is to be said of what was read.
    pub(crate) remarks: Vec<String>,
}

impl Objects {
    /// Takes in facts, by the index that the operator has before its core. Without any report, what a node offers is
    /// believed as it stands.
    fn take(&mut self, facts: Vec<Fact>, reports: bool, site: &Site) {
        let index = &mut self.edge.0;
        for mut fact in facts {
            site.complete(&mut fact);
            if let Fact::Pod(pod) = &fact
                && pod.pod.node.is_some()
            {
                let unready = match pod.readiness {
                    Readiness::Ready => None,
                    Readiness::Unready => Some(Unready::Running),
                    Readiness::Starting => Some(Unready::Starting),
                };
                self.disruption
                    .unready
                    .extend(unready.map(|why| (pod.pod.uid.clone(), why)));
            }
            index.apply(fact, self.now, &mut self.events);
        }
        let synced = Fact::Synced {
            kind: "NodeReport",
            served: reports,
        };
        index.apply(synced, self.now, &mut self.events);
    }
}

/// Reads a cluster from files, for an operator that is told this of it.
///
/// # Errors
///
/// If a file cannot be read, or an object in it is broken: with file, document and field.
pub(crate) fn from_files(files: &[PathBuf], site: &Site) -> anyhow::Result<Objects> {
    let mut documents = Vec::new();
    for file in files {
        documents.extend(document::of_file(file)?);
    }
    from_documents(documents, site)
}

/// The objects of a file as they stand, each with its place.
///
/// # Errors
///
/// If it cannot be read, or is neither YAML nor JSON.
pub(crate) fn documents_of(file: &Path) -> anyhow::Result<Vec<(Place, Value)>> {
    let documents = document::of_file(file)?;
    Ok(documents.into_iter().map(|d| (d.place, d.value)).collect())
}

fn from_documents(documents: Vec<Document>, site: &Site) -> anyhow::Result<Objects> {
    if documents.is_empty() {
        bail!("the files hold no Kubernetes object; did the command that writes them fail?");
    }
    let mut objects = Objects {
        now: documents
            .iter()
            .filter_map(|d| latest(&d.value))
            .max()
            .unwrap_or_default(),
        ..Objects::default()
    };
    let mut seen: BTreeMap<(String, String), Place> = BTreeMap::new();
    let mut reader = read::Reader::new(&site.scheduler_name, objects.now);
    let mut identified = Vec::with_capacity(documents.len());
    for Document { mut place, value } in documents {
        let identity = read::identify(&place, &value)?;
        place.object = identity.to_string();
        if let Some(first) = seen.insert((identity.group.clone(), identity.to_string()), place.clone()) {
            bail!("{place} is there already: {first}; leave one of the two out");
        }
        reader.priority_class(&place, &identity, &value)?;
        reader.claim_template(&identity, &value);
        identified.push((place, identity, value));
    }
    for (place, identity, value) in identified {
        reader.document(&place, &identity, value)?;
    }
    let reports = reader.facts.iter().any(|fact| matches!(fact, Fact::Report(..)));
    objects.take(reader.facts, reports, site);
    objects.disruption.budgets = reader.budgets;
    objects.run_times = reader.run_times;
    objects.skipped = reader.skipped;
    objects.of_others = reader.of_others;
    objects.not_acted_on = read::not_acted_on(&reader.read_only);
    Ok(objects)
}

/// The latest time that an object names.
fn latest(value: &Value) -> Option<Time> {
    let at = |path: &str| {
        let text = value.pointer(path)?.as_str()?;
        let time: Timestamp = text.parse().ok()?;
        Some(Time(time.as_millisecond()))
    };
    ["/metadata/creationTimestamp", "/status/startTime", "/status/time"]
        .into_iter()
        .filter_map(at)
        .max()
}
