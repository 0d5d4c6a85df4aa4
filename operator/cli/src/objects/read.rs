//! Objects by kind: into the facts that the operator's watches would make of them. What a watch would leave as it was
//! and warn of is an error here, with its field.

use std::{collections::BTreeMap, fmt};

use anyhow::{anyhow, bail};
use duosuan_controller::{
    lean::{self, Kind, Object, Older},
    translate::{FieldError, dra, node, policy, queue},
    watch::{Fact, Reading, Watched},
};
use duosuan_crds::{
    ANNOTATION_RUN_TIME, ColocationPolicySpec, Duration, GROUP, QueueSpec,
    claim::CapacityClaimSpec,
    report::{GpuReport, NumaReport},
};
use duosuan_planner::budgets::Budget;
use duosuan_scheduler::Time;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{NotActedOn, budget, claims::Templates, defaults, document::Place};

/// Version of our own kinds that this build reads.
const VERSION: &str = "v1alpha1";
/// Priorities of the classes that every cluster has.
const SYSTEM_CLASSES: [(&str, i64); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

/// Version of dynamic resource allocation that this build reads, and its kinds.
const DRA_VERSION: &str = "v1";
const CLAIMED: [&str; 4] = ["ResourceSlice", "DeviceClass", "ResourceClaim", "ResourceClaimTemplate"];

/// Kinds that placement would look at and this scheduler does not, with what follows: (group, kind, effect).
const READ_ONLY: [(&str, &str, &str); 1] = [(
    "resource.k8s.io",
    "DeviceTaintRule",
    "devices have the taints alone that their ResourceSlices say",
)];

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// API group, empty for the core.
    pub(super) group: String,
    version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_ref().map_or_else(String::new, |n| format!("{n}/"));
        write!(f, "{} {namespace}{}", self.kind, self.name)
    }
}

/// What an object is.
///
/// # Errors
///
/// If it does not say so.
pub(super) fn identify(place: &Place, value: &Value) -> anyhow::Result<Identity> {
    if ["apiVersion", "kind", "metadata"]
        .iter()
        .all(|field| value.get(field).is_none())
    {
        bail!("{place} is no object of Kubernetes: it has none of apiVersion, kind and metadata");
    }
    let text = |path: &str, field: &str| match value.pointer(path) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Null) | None => Err(anyhow!("{place}: {field}: is missing")),
        Some(other) => Err(anyhow!("{place}: {field}: {other} is no text")),
    };
    let version = text("/apiVersion", "apiVersion")?;
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = text("/kind", "kind")?;
    let namespaced = is_namespaced(&kind);
    let namespace = match value.pointer("/metadata/namespace") {
        Some(_) if namespaced => Some(text("/metadata/namespace", "metadata.namespace")?),
        None if namespaced => Some("default".to_owned()),
        _ => None,
    };
    Ok(Identity {
        group: group.to_owned(),
        version: version.to_owned(),
        name: text("/metadata/name", "metadata.name")?,
        kind,
        namespace,
    })
}

/// Objects of kinds that are skipped are told apart by namespace too, if they have one.
fn is_namespaced(kind: &str) -> bool {
    !matches!(
        kind,
        "Node"
            | "NodeReport"
            | "Queue"
            | "ColocationPolicy"
            | "PriorityClass"
            | "PersistentVolume"
            | "StorageClass"
            | "CSINode"
            | "Namespace"
            | "ResourceSlice"
            | "DeviceClass"
            | "DeviceTaintRule"
    )
}

/// Reads objects into facts.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    scheduler_name: &'a str,
    now: Time,
    pub(super) facts: Vec<Fact>,
    pub(super) budgets: Vec<Budget>,
    pub(super) run_times: BTreeMap<String, i64>,
    pub(super) skipped: BTreeMap<String, u32>,
    pub(super) of_others: BTreeMap<String, u32>,
    /// Objects of [`READ_ONLY`] kinds, by position there.
    pub(super) read_only: BTreeMap<usize, u32>,
    templates: Templates,
    classes: BTreeMap<String, i64>,
    default_class: i64,
}

impl<'a> Reader<'a> {
    /// A reader that has read nothing; `now` is when all objects were as they stand.
    pub(super) fn new(scheduler_name: &'a str, now: Time) -> Reader<'a> {
        Reader {
            scheduler_name,
            now,
            facts: Vec::new(),
            budgets: Vec::new(),
            run_times: BTreeMap::new(),
            skipped: BTreeMap::new(),
            of_others: BTreeMap::new(),
            read_only: BTreeMap::new(),
            templates: Templates::default(),
            classes: SYSTEM_CLASSES
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            default_class: 0,
        }
    }

    /// Takes in the classes that pods name, wherever they stand.
    ///
    /// # Errors
    ///
    /// If one has no value.
    pub(super) fn priority_class(&mut self, place: &Place, identity: &Identity, value: &Value) -> anyhow::Result<()> {
        if (identity.group.as_str(), identity.kind.as_str()) != ("scheduling.k8s.io", "PriorityClass") {
            return Ok(());
        }
        let Some(priority) = value.get("value").and_then(Value::as_i64) else {
            bail!("{place}: value: is missing or no integer");
        };
        if value.get("globalDefault").and_then(Value::as_bool) == Some(true) {
            self.default_class = priority;
        }
        self.classes.insert(identity.name.clone(), priority);
        Ok(())
    }

    /// Takes in the templates that pods name, wherever they stand.
    pub(super) fn claim_template(&mut self, identity: &Identity, value: &Value) {
        if (identity.group.as_str(), identity.kind.as_str()) == ("resource.k8s.io", "ResourceClaimTemplate") {
            let namespace = identity.namespace.as_deref().unwrap_or_default();
            self.templates.add(namespace, &identity.name, value);
        }
    }

    /// Takes in an object.
    ///
    /// # Errors
    ///
    /// If it is broken.
    pub(super) fn document(&mut self, place: &Place, identity: &Identity, mut value: Value) -> anyhow::Result<()> {
        let fail = |error: FieldError| anyhow!("{place}: {error}");
        match (identity.group.as_str(), identity.kind.as_str()) {
            ("", "Node") => {
                defaults::fill(&mut value, "node", false);
                defaults::fill_node(&mut value);
                let (node, broken) = node::read(&object(value).map_err(fail)?);
                if let Some(error) = broken.into_iter().next() {
                    return Err(fail(error));
                }
                self.facts.push(Fact::Node(Box::new(node)));
            }
            ("", "Pod") => self.pod(value).map_err(fail)?,
            (GROUP, kind) if identity.version != VERSION => {
                bail!("{place}: apiVersion: this build reads {kind} in version {GROUP}/{VERSION} only")
            }
            (GROUP, "CapacityClaim") => {
                defaults::fill(&mut value, "claim", true);
                part::<CapacityClaimSpec>(&value, "spec").map_err(fail)?;
                let fact =
                    lean::Claim::fact(object(value).map_err(fail)?, Reading::of(self.scheduler_name)).map_err(fail)?;
                if let Fact::Claim(claim) = &fact
                    && let Some(error) = claim.broken.as_ref().filter(|_| claim.claim.groups.is_empty())
                {
                    return Err(fail(error.clone()));
                }
                self.facts.push(fact);
            }
            (GROUP, "Queue") => {
                defaults::fill(&mut value, "queue", false);
                part::<QueueSpec>(&value, "spec").map_err(fail)?;
                let queue = queue::read(object(value).map_err(fail)?).map_err(fail)?;
                self.facts.push(Fact::Queue(Box::new(queue)));
            }
            (GROUP, "NodeReport") => {
                let status = value.get("status").unwrap_or(&Value::Null);
                part::<Vec<GpuReport>>(status, "gpus").map_err(|e| fail(within("status", &e)))?;
                part::<Vec<NumaReport>>(status, "numa").map_err(|e| fail(within("status", &e)))?;
                let report = node::report(object(value).map_err(fail)?).map_err(fail)?;
                self.facts.push(Fact::Report(identity.name.clone(), Box::new(report)));
            }
            (GROUP, "ColocationPolicy") => {
                part::<ColocationPolicySpec>(&value, "spec").map_err(fail)?;
                let policy = policy::read(object(value).map_err(fail)?).map_err(fail)?;
                self.facts.push(Fact::Policy(identity.name.clone(), Box::new(policy)));
            }
            ("", "Namespace") => self.watched::<lean::Namespace>(value).map_err(fail)?,
            ("", "PersistentVolume") => self.watched::<lean::Volume>(value).map_err(fail)?,
            ("", "PersistentVolumeClaim") => {
                defaults::fill(&mut value, "persistentvolumeclaim", true);
                self.watched::<lean::VolumeClaim>(value).map_err(fail)?;
            }
            ("storage.k8s.io", "StorageClass") => self.watched::<lean::StorageClass>(value).map_err(fail)?,
            ("resource.k8s.io", kind) if CLAIMED.contains(&kind) && identity.version != DRA_VERSION => {
                bail!("{place}: apiVersion: this build reads {kind} in version resource.k8s.io/{DRA_VERSION} only")
            }
            ("resource.k8s.io", "ResourceSlice") => self.watched::<lean::ResourceSlice>(value).map_err(fail)?,
            ("resource.k8s.io", "DeviceClass") => self.watched::<lean::DeviceClass>(value).map_err(fail)?,
            ("resource.k8s.io", "ResourceClaim") => {
                defaults::fill(&mut value, "resourceclaim", true);
                self.watched::<lean::ResourceClaim>(value).map_err(fail)?;
            }
            ("resource.k8s.io", "ResourceClaimTemplate") => {}
            ("storage.k8s.io", "CSINode") => self.watched::<lean::CsiNode>(value).map_err(fail)?,
            ("policy", "PodDisruptionBudget") => {
                defaults::fill(&mut value, "poddisruptionbudget", true);
                let budget = budget::read(object(value).map_err(fail)?).map_err(fail)?;
                self.budgets.push(budget);
            }
            ("scheduling.k8s.io", "PriorityClass") => {}
            ("scheduling.k8s.io", "PodGroup") => {
                defaults::fill(&mut value, "podgroup", true);
                let older = version_of::<lean::PodGroup>(place, identity)?;
                self.watched_in::<lean::PodGroup>(value, older).map_err(fail)?;
            }
            (group, kind) => match READ_ONLY.iter().position(|(g, k, _)| (*g, *k) == (group, kind)) {
                Some(position) => *self.read_only.entry(position).or_default() += 1,
                None => *self.skipped.entry(kind.to_owned()).or_default() += 1,
            },
        }
        Ok(())
    }

    /// Takes in an object as its watch would.
    fn watched<K: Watched>(&mut self, value: Value) -> Result<(), FieldError> {
        self.watched_in::<K>(value, None)
    }

    fn watched_in<K: Watched>(&mut self, value: Value, older: Older) -> Result<(), FieldError> {
        let reading = Reading {
            scheduler_name: self.scheduler_name,
            older,
        };
        let fact = K::fact(object(value)?, reading)?;
        let broken = match &fact {
            Fact::VolumeClaim(claim) => claim.broken.clone(),
            Fact::Volume(volume) => volume.broken.clone(),
            _ => None,
        };
        self.facts.push(fact);
        broken.map_or(Ok(()), Err)
    }

    fn pod(&mut self, mut value: Value) -> Result<(), FieldError> {
        defaults::fill(&mut value, "pod", true);
        defaults::fill_pod(&mut value);
        for mut claim in self.templates.make_for(&mut value) {
            defaults::fill(&mut claim, "resourceclaim", true);
            self.watched::<lean::ResourceClaim>(claim)?;
        }
        self.give_priority(&mut value)?;
        let started = value.pointer("/status/startTime").and_then(Value::as_str);
        let started = started.and_then(|text| text.parse::<Timestamp>().ok());
        let object: Object<lean::Pod> = object(value)?;
        let run_time = run_time(&object)?;
        let other = object
            .spec
            .scheduler_name
            .clone()
            .unwrap_or_else(|| "default-scheduler".to_owned());
        let undecided = dra::undecided(&object.spec);
        let Fact::Pod(read) = lean::Pod::fact(object, Reading::of(self.scheduler_name))? else {
            return Ok(());
        };
        // What the scheduler does not support keeps a pod waiting; what cannot be understood is a mistake in the file.
        if let Some(error) = read.broken.iter().find(|error| undecided.as_ref() != Some(*error)) {
            return Err(error.clone());
        }
        let pod = &read.pod;
        if let Some(whole) = run_time {
            let ran = started
                .filter(|_| pod.node.is_some())
                .map_or(0, |at| self.now.0 - at.as_millisecond());
            self.run_times
                .insert(pod.uid.clone(), whole.saturating_sub(ran.max(0)).max(0));
        }
        if !pod.ours && pod.node.is_none() && !pod.finished {
            *self.of_others.entry(other).or_default() += 1;
        }
        self.facts.push(Fact::Pod(read));
        Ok(())
    }

    /// As the API server's admission does: the class's value.
    fn give_priority(&self, value: &mut Value) -> Result<(), FieldError> {
        let Some(Value::Object(spec)) = value.get_mut("spec") else {
            return Ok(());
        };
        if spec.get("priority").is_some_and(|p| !p.is_null()) {
            return Ok(());
        }
        let priority = match spec
            .get("priorityClassName")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
        {
            None => self.default_class,
            Some(name) => *self.classes.get(name).ok_or_else(|| FieldError {
                field: "spec.priorityClassName".to_owned(),
                problem: format!("there is no PriorityClass {name} in the files; add it, or give spec.priority"),
            })?,
        };
        spec.insert("priority".to_owned(), priority.into());
        Ok(())
    }
}

/// Milliseconds that a pod says it runs.
fn run_time(object: &Object<lean::Pod>) -> Result<Option<i64>, FieldError> {
    let annotations = object.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|a| a.get(ANNOTATION_RUN_TIME)) else {
        return Ok(None);
    };
    let parsed = Duration(text.clone()).parse().map_err(|error| FieldError {
        field: format!("metadata.annotations[{ANNOTATION_RUN_TIME}]"),
        problem: error.to_string(),
    })?;
    Ok(Some(i64::try_from(parsed.as_millis()).unwrap_or(i64::MAX)))
}

/// The version of a kind of which several are read.
///
/// # Errors
///
/// If it is none of them.
fn version_of<K: Kind>(place: &Place, identity: &Identity) -> anyhow::Result<Older> {
    let known = K::OLDER.iter().find(|version| **version == identity.version);
    if known.is_none() && identity.version != K::VERSION {
        let (kind, group, older) = (K::KIND, K::GROUP, K::OLDER.join(", "));
        bail!(
            "{place}: apiVersion: this build reads {kind} of {group} in versions {}, {older} only",
            K::VERSION
        );
    }
    Ok(known.copied())
}

/// The parts of an object that the operator reads.
fn object<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| FieldError {
        field: error.path().to_string(),
        problem: error.inner().to_string(),
    })
}

/// Sees to it that a part of an object is what it should be, if it is there.
fn part<T: DeserializeOwned>(value: &Value, field: &str) -> Result<(), FieldError> {
    match value.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(part) => object::<T>(part.clone())
            .map(drop)
            .map_err(|error| within(field, &error)),
    }
}

/// An error of a part as one of the whole.
fn within(outer: &str, error: &FieldError) -> FieldError {
    let field = match error.field.as_str() {
        "." => outer.to_owned(),
        inner if inner.starts_with('[') => format!("{outer}{inner}"),
        inner => format!("{outer}.{inner}"),
    };
    FieldError {
        field,
        problem: error.problem.clone(),
    }
}

/// What is to be said of the kinds that were read and that nothing is done about.
pub(super) fn not_acted_on(counts: &BTreeMap<usize, u32>) -> Vec<NotActedOn> {
    let named = |(position, &objects): (&usize, &u32)| {
        let (_, kind, effect) = *READ_ONLY.get(*position)?;
        Some(NotActedOn { kind, objects, effect })
    };
    counts.iter().filter_map(named).collect()
}
