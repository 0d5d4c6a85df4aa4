//! Pods.

use duosuan_crds::{LABEL_CLAIM, LABEL_GROUP, LABEL_QUEUE, LABEL_TIER};
use duosuan_scheduler::{Tier, event};

use super::{FieldError, dra, gpu, image, last_checkpoint, placement, pod_group, relations, requests, time};
use crate::lean::{self, Object, Texts};

/// A pod, and what its object says of how it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// For the core.
    pub pod: event::Pod,
    /// The claims to persistent volumes that it uses.
    pub volume_claims: Vec<placement::ClaimUse>,
    /// Message of its condition `PodScheduled`, if that is false with reason `Unschedulable`.
    pub unschedulable: Option<String>,
    /// Its `status.nominatedNodeName`, if it names a node.
    pub nominated: Option<Nomination>,
    /// Whether it has started and is ready.
    pub readiness: Readiness,
    /// Fields that cannot be understood. Such a pod is never placed; if it is bound, what can be understood counts.
    pub broken: Vec<FieldError>,
}

/// Whether a pod has started and is ready, by its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// It has not started.
    Starting,
    /// It runs, and says that it is not ready.
    Unready,
    /// It says nothing to the contrary.
    #[default]
    Ready,
}

/// The node where room is being made for a pod, by the word of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nomination {
    /// The node.
    pub node: String,
    /// An operator of ours wrote it: this one, or one before it that may have died since.
    pub ours: bool,
}

/// Reads a pod, for a scheduler of this name.
pub fn read(object: &Object<lean::Pod>, scheduler_name: &str) -> Pod {
    let (meta, spec, status) = (&object.metadata, &object.spec, &object.status);
    let none = Texts::new();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    let annotations = meta.annotations.as_ref().unwrap_or(&none);
    let label = |name: &str| labels.get(name).filter(|value| !value.is_empty()).cloned();
    let node = spec.node_name.clone().filter(|node| !node.is_empty());
    let ours = spec.scheduler_name.as_deref() == Some(scheduler_name);

    let mut broken = Vec::new();
    let mut or_default = |error: FieldError| broken.push(error);

    let requests = requests::effective(spec, status)
        .map_err(&mut or_default)
        .unwrap_or_default();
    let gpus = gpu::of_pod(annotations, &requests)
        .map_err(&mut or_default)
        .unwrap_or_default();
    // Only a bound pod has devices and a NUMA node: an annotation that a user wrote into a template means nothing.
    let (devices, numa) = if node.is_some() {
        let devices = gpu::devices(annotations).map_err(&mut or_default);
        let numa = gpu::numa(annotations).map_err(&mut or_default);
        (devices.unwrap_or_default(), numa.unwrap_or_default())
    } else {
        (Vec::new(), None)
    };
    let started = status.start_time.as_ref().filter(|_| node.is_some());
    let last_checkpoint = if node.is_some() {
        last_checkpoint(annotations)
            .map_err(&mut or_default)
            .unwrap_or_default()
    } else {
        None
    };
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let node_terms = placement::node_terms(spec.node_selector.as_ref(), required)
        .map_err(&mut or_default)
        .unwrap_or_default();
    let preferred_nodes = placement::preferred_nodes(affinity)
        .map_err(&mut or_default)
        .unwrap_or_default();
    let rules = relations::rules(spec, labels)
        .map_err(&mut or_default)
        .unwrap_or_default();
    let tier = tier_label(labels).map_err(&mut or_default).unwrap_or_default();

    if node.is_none() {
        broken.extend(dra::undecided(spec));
    }

    // A pod that names a claim of ours means that.
    let of_kubernetes = spec.scheduling_group.as_ref().and_then(|g| g.pod_group_name.as_deref());
    let (claim, group) = match (label(LABEL_CLAIM), of_kubernetes) {
        (None, Some(name)) => (Some(pod_group::claim_name(name)), pod_group::GROUP.to_owned()),
        (claim, _) => (claim, label(LABEL_GROUP).unwrap_or_default()),
    };

    let waits = status
        .conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False");
    Pod {
        volume_claims: placement::volume_claims(spec, meta.name.as_deref().unwrap_or_default()),
        unschedulable: waits
            .filter(|c| c.reason.as_deref() == Some("Unschedulable"))
            .and_then(|c| c.message.clone()),
        nominated: nomination(object),
        readiness: readiness(status),
        pod: event::Pod {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            labels: labels.clone(),
            created: time(meta.creation_timestamp.as_ref()),
            priority: spec.priority.unwrap_or_default(),
            // Of others it counts as well where they sit.
            owner: lean::replica_of(meta).unwrap_or_default().to_owned(),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            claim,
            group,
            queue: label(LABEL_QUEUE).unwrap_or_default(),
            tier,
            requests,
            gpus,
            node_terms,
            preferred_nodes,
            tolerations: spec.tolerations.iter().map(placement::toleration).collect(),
            // Of others it does not matter: they are never placed here.
            images: if ours { image::of_pod(spec) } else { Vec::new() },
            // Claims and volumes say that.
            volume_terms: Vec::new(),
            shared_volumes: Vec::new(),
            device_claims: if ours && node.is_none() {
                dra::claims_of(spec, status)
            } else {
                Vec::new()
            },
            host_ports: placement::host_ports(spec),
            rules,
            node,
            devices,
            started: started.map(|at| time(Some(at))),
            last_checkpoint,
            numa,
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: meta.deletion_timestamp.is_some(),
            gated: !spec.scheduling_gates.is_empty(),
            refused: None,
            ours,
        },
        broken,
    }
}

fn readiness(status: &lean::PodStatus) -> Readiness {
    if status.phase.as_deref() == Some("Pending") {
        return Readiness::Starting;
    }
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    match ready {
        Some(ready) if ready.status != "True" => Readiness::Unready,
        _ => Readiness::Ready,
    }
}

fn nomination(object: &Object<lean::Pod>) -> Option<Nomination> {
    let node = object.status.nominated_node_name.clone();
    node.filter(|node| !node.is_empty()).map(|node| Nomination {
        node,
        ours: lean::nominated_by_us(&object.metadata),
    })
}

pub(super) fn tier_label(labels: &Texts) -> Result<Tier, FieldError> {
    match labels.get(LABEL_TIER).map(String::as_str) {
        None | Some("" | "prod") => Ok(Tier::Prod),
        Some("mid") => Ok(Tier::Mid),
        Some("batch") => Ok(Tier::Batch),
        Some(other) => Err(FieldError::new(
            format!("metadata.labels[{LABEL_TIER}]"),
            format!("{other:?} is none of prod, mid, batch"),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn pod(object: Value) -> Pod {
        read(&serde_json::from_value(object).unwrap(), "duosuan")
    }

    /// A pod as an API server sends it; `ballast` stands in all that placement does not look at.
    fn on_the_wire(ballast: &str) -> String {
        let fields = json!({"f:spec": {"f:containers": {ballast: {}}}});
        let container = json!({
            "name": "c", "image": "registry.example.com/a:1", "command": [ballast], "env": [{"name": "E", "value": ballast}],
            "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}},
        });
        json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "a"},
                "annotations": {"note": ballast}, "managedFields": [{"manager": ballast, "fieldsV1": fields}]},
            "spec": {"schedulerName": "duosuan", "containers": [container], "hostname": ballast},
            "status": {"phase": "Pending", "message": ballast},
        })
        .to_string()
    }

    #[test]
    fn nothing_that_placement_does_not_look_at_is_copied() {
        let read_it = |ballast: &str| {
            let text = on_the_wire(ballast);
            let mut object: Option<Object<lean::Pod>> = None;
            let parsed = allocation_counter::measure(|| object = serde_json::from_str(&text).ok());
            let object = object.unwrap();
            let read = allocation_counter::measure(|| drop(read(&object, "duosuan")));
            (parsed, read)
        };
        let (small, large) = (read_it("x"), read_it(&"x".repeat(100_000)));
        assert_eq!(large.1, small.1, "translation");
        // Annotations may say something to the operator, and are read; once.
        let more = large.0.bytes_total - small.0.bytes_total;
        assert!(more < 101_000, "{more} bytes more are held of the text");
        assert_eq!(large.0.count_total, small.0.count_total);
        let (parsed, read) = (small.0.count_total, small.1.count_total);
        assert!(
            parsed <= 31 && read <= 18,
            "{parsed} allocations to parse, {read} to translate"
        );
    }

    #[test]
    fn pods_of_one_controller_are_replicas_unless_it_is_one_that_does_not_mean_that() {
        let owner = |kind: &str, controller: bool| {
            let owner =
                json!({"apiVersion": "v1", "kind": kind, "name": "o", "uid": "o-uid", "controller": controller});
            pod(json!({"metadata": {"name": "p", "ownerReferences": [owner]}}))
                .pod
                .owner
        };
        for kind in ["ReplicaSet", "StatefulSet", "CloneSet"] {
            assert_eq!(owner(kind, true), "o-uid", "{kind}");
        }
        for kind in ["DaemonSet", "Job", "Node"] {
            assert_eq!(owner(kind, true), "", "{kind}");
        }
        assert_eq!(owner("ReplicaSet", false), "", "only who controls it");
    }

    #[test]
    fn a_pod_is_ready_unless_its_status_says_otherwise() {
        let readiness = |status: Value| pod(json!({"metadata": {"name": "p"}, "status": status})).readiness;
        let ready =
            |status: &str| json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}]);
        assert_eq!(readiness(json!({})), Readiness::Ready);
        assert_eq!(readiness(json!({"phase": "Pending"})), Readiness::Starting);
        assert_eq!(
            readiness(json!({"phase": "Running", "conditions": ready("True")})),
            Readiness::Ready
        );
        assert_eq!(
            readiness(json!({"phase": "Running", "conditions": ready("Unknown")})),
            Readiness::Unready
        );
    }

    #[test]
    fn a_nomination_is_ours_if_an_operator_of_ours_wrote_that_field() {
        let nominated = |managers: Value| {
            let metadata = json!({"name": "p", "managedFields": managers});
            let object = json!({"metadata": metadata, "status": {"nominatedNodeName": "n"}});
            // As it comes over the wire.
            let object = serde_json::from_str(&object.to_string()).unwrap();
            read(&object, "duosuan").nominated.unwrap()
        };
        let wrote = |manager: &str, field: &str| {
            json!({"manager": manager, "operation": "Update", "subresource": "status", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {}, "f:status": {"f:conditions": {}, field: {}}}})
        };
        let ours = wrote("duosuan-operator", "f:nominatedNodeName");
        let other = wrote("autoscaler", "f:nominatedNodeName");
        let our_condition = wrote("duosuan-operator", "f:phase");
        for (managers, expected) in [
            (json!([ours]), true),
            (json!([other, ours]), true),
            (json!([other, our_condition]), false),
            (json!([{"manager": "duosuan-operator"}]), false),
            (json!([]), false),
            (json!(null), false),
        ] {
            let nomination = Nomination {
                node: "n".into(),
                ours: expected,
            };
            assert_eq!(nominated(managers.clone()), nomination, "{managers}");
        }
    }

    #[test]
    fn a_bound_batch_pod_is_read_whole() {
        let read = pod(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u", "creationTimestamp": "1970-01-01T00:00:05Z",
                "labels": {"duosuan.io/tier": "batch", "duosuan.io/queue": "etl", "duosuan.io/claim": "c", "duosuan.io/group": "workers"},
                "annotations": {"duosuan.io/gpus": "1,3", "duosuan.io/last-checkpoint": "1970-01-01T00:00:06Z"},
                "managedFields": [{"manager": "m"}],
            },
            "spec": {
                "schedulerName": "duosuan", "nodeName": "n1", "priority": 7, "preemptionPolicy": "Never",
                "containers": [{"name": "c", "image": "spark", "resources": {"requests": {"duosuan.io/batch-cpu": "1500", "nvidia.com/gpu": "2"}}}],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
            },
            "status": {"phase": "Running", "startTime": "1970-01-01T00:00:05.5Z"},
        }));
        let expected = event::Pod {
            owner: String::new(),
            uid: "u".into(),
            namespace: "ns".into(),
            name: "p".into(),
            labels: [
                ("claim", "c"),
                ("group", "workers"),
                ("queue", "etl"),
                ("tier", "batch"),
            ]
            .map(|(name, value)| (format!("duosuan.io/{name}"), value.to_owned()))
            .into(),
            created: event::Time(5000),
            priority: 7,
            never_preempts: true,
            claim: Some("c".into()),
            group: "workers".into(),
            queue: "etl".into(),
            tier: Tier::Batch,
            requests: [
                ("duosuan.io/batch-cpu".to_owned(), 1500),
                ("nvidia.com/gpu".to_owned(), 2),
            ]
            .into(),
            gpus: Some(event::GpuRequest {
                count: 2,
                milli: 1000,
                memory: 0,
                models: vec![],
            }),
            node_terms: vec![],
            preferred_nodes: vec![],
            tolerations: vec![event::Toleration {
                key: "k".into(),
                exists: true,
                value: String::new(),
                effect: "NoSchedule".into(),
            }],
            images: vec!["docker.io/library/spark:latest".into()],
            volume_terms: vec![],
            shared_volumes: vec![],
            device_claims: vec![],
            host_ports: vec![],
            rules: None,
            node: Some("n1".into()),
            devices: vec![1, 3],
            started: Some(event::Time(5500)),
            last_checkpoint: Some(event::Time(6000)),
            numa: None,
            finished: false,
            terminating: false,
            gated: false,
            refused: None,
            ours: true,
        };
        assert_eq!(
            read,
            Pod {
                pod: expected,
                volume_claims: vec![],
                unschedulable: None,
                nominated: None,
                readiness: Readiness::Ready,
                broken: vec![]
            }
        );
    }

    #[test]
    fn a_pod_of_another_scheduler_counts_and_is_not_ours() {
        let read = pod(json!({"metadata": {"uid": "u"}, "spec": {"schedulerName": "default-scheduler"}}));
        assert!(!read.pod.ours);
        assert!(pod(json!({"spec": {"schedulerName": "duosuan"}})).pod.ours);
    }

    #[test]
    fn a_pod_of_kubernetes_own_groups_joins_one_unless_it_names_a_claim() {
        let read = |labels: Value| {
            let spec = json!({"schedulingGroup": {"podGroupName": "g"}});
            let read = pod(json!({"metadata": {"labels": labels}, "spec": spec})).pod;
            (read.claim.unwrap(), read.group)
        };
        assert_eq!(
            read(json!({"duosuan.io/group": "x"})),
            ("podgroup/g".into(), "pods".into())
        );
        let labels = json!({"duosuan.io/claim": "c", "duosuan.io/group": "x"});
        assert_eq!(read(labels), ("c".into(), "x".into()));
    }

    #[test]
    fn devices_of_an_unbound_pod_mean_nothing() {
        let annotations = json!({"duosuan.io/gpus": "0", "duosuan.io/numa": "1"});
        let read = pod(json!({"metadata": {"annotations": annotations}, "spec": {}}));
        assert_eq!((read.pod.devices, read.pod.numa), (vec![], None));
        let read = pod(json!({"metadata": {"annotations": annotations}, "spec": {"nodeName": "n"}}));
        assert_eq!((read.pod.devices, read.pod.numa), (vec![0], Some(1)));
        let annotations = json!({"duosuan.io/numa": "left"});
        let read = pod(json!({"metadata": {"annotations": annotations}, "spec": {"nodeName": "n"}}));
        let fields: Vec<&str> = read.broken.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["metadata.annotations[duosuan.io/numa]"]);
    }

    #[test]
    fn a_broken_field_is_named_and_the_rest_is_read() {
        let read = pod(json!({
            "metadata": {"labels": {"duosuan.io/tier": "gold"}},
            "spec": {"nodeName": "n", "containers": [{"resources": {"requests": {"cpu": "1"}}}]},
        }));
        assert_eq!(read.pod.requests, [("cpu".to_owned(), 1000)].into());
        let [error] = read.broken.as_slice() else {
            unreachable!("{:?}", read.broken)
        };
        assert_eq!(
            error.to_string(),
            r#"metadata.labels[duosuan.io/tier]: "gold" is none of prod, mid, batch"#
        );
    }

    #[test]
    fn gates_and_the_message_of_a_waiting_pod_are_read() {
        let read = pod(json!({
            "spec": {"schedulingGates": [{"name": "g"}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "why"}]},
        }));
        assert!(read.pod.gated);
        assert_eq!(read.unschedulable.as_deref(), Some("why"));
    }
}
