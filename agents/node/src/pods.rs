//! The pods of a node, reduced to what the agent needs of them.

use std::collections::BTreeMap;

use duosuan_crds::{
    ANNOTATION_GPU_SHARE, ANNOTATION_LAST_CHECKPOINT, ANNOTATION_LATENCY_OBJECTIVE, LABEL_CLAIM, LABEL_GROUP,
    LABEL_TIER, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_GPU, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY,
};
use duosuan_policy::{Millis, Pod as EvictablePod, Resources, Tier};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{quantity, services::Target};

/// A pod that is bound to a node and has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// UID: the name of its cgroup is made of it.
    pub uid: String,
    /// `namespace/name`, for messages.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its tier: by its label, or by the resources that it asks for, else prod.
    pub tier: Tier,
    /// What it asks for in its tier.
    pub requests: Resources,
    /// Whether it asks for CPU or memory as such, so that the kubelet does not put it in its besteffort cgroup.
    pub burstable: bool,
    /// Where to read the latency that it promises, or why that cannot be. Batch promises none, and a pod without an address
    /// has none yet.
    pub latency: Option<Result<Target, String>>,
    /// What an eviction looks at; of pods of batch, and of those of mid that ask for mid's capacity, alone.
    pub evictable: Option<EvictablePod>,
}

/// Reduces a pod; `None` if it is bound nowhere or has ended, so that it takes nothing of a node.
pub fn reduce(pod: &Pod) -> Option<PodInfo> {
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.clone().filter(|n| !n.is_empty())?;
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let sum = |name: &str| total(spec, name);
    let batch = Resources {
        cpu: sum(RESOURCE_BATCH_CPU).map_or(0, |n| n / 1000),
        memory: sum(RESOURCE_BATCH_MEMORY).map_or(0, |n| n / 1000),
    };
    let mid = Resources {
        cpu: sum(RESOURCE_MID_CPU).map_or(0, |n| n / 1000),
        memory: sum(RESOURCE_MID_MEMORY).map_or(0, |n| n / 1000),
    };
    let firm = Resources {
        cpu: sum("cpu").unwrap_or(0),
        memory: sum("memory").map_or(0, |n| n / 1000 + i64::from(n % 1000 > 0)),
    };
    let label = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(LABEL_TIER))
        .map(String::as_str);
    let (tier, requests) = match label {
        _ if batch != Resources::default() => (Tier::Batch, batch),
        _ if mid != Resources::default() => (Tier::Mid, mid),
        Some("batch") => (Tier::Batch, batch),
        Some("mid") => (Tier::Mid, mid),
        _ => (Tier::Prod, firm),
    };
    let stated = pod.metadata.annotations.as_ref();
    let stated = stated.and_then(|a| a.get(ANNOTATION_LATENCY_OBJECTIVE));
    let address = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()?.parse().ok());
    let latency = stated
        .zip(address)
        .filter(|_| tier != Tier::Batch)
        .map(|(text, address)| {
            Target::parse(text, address).map_err(|e| format!("annotation {ANNOTATION_LATENCY_OBJECTIVE}: {e}"))
        });
    Some(PodInfo {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        name: name(pod),
        node,
        tier,
        requests,
        burstable: firm != Resources::default(),
        latency,
        // A pod that calls itself mid and asks for firm CPU and memory has paid for them: nothing was lent to it.
        evictable: (tier == Tier::Batch || mid != Resources::default()).then(|| evictable(pod, spec)),
    })
}

fn evictable(pod: &Pod, spec: &PodSpec) -> EvictablePod {
    let meta = &pod.metadata;
    let label = |key: &str| meta.labels.as_ref().and_then(|l| l.get(key));
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key));
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let share = annotation(ANNOTATION_GPU_SHARE).and_then(|text| text.parse::<u16>().ok());
    EvictablePod {
        uid: meta.uid.clone().unwrap_or_default(),
        name: name(pod),
        gang: label(LABEL_CLAIM).map(|claim| format!("{namespace}/{claim}")),
        group: label(LABEL_GROUP).cloned().unwrap_or_default(),
        started: pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .map(|t| millis(t.0)),
        checkpoint: meta.annotations.as_ref().and_then(last_checkpoint),
        cards: total(spec, RESOURCE_GPU).or(share.map(i64::from)).unwrap_or(0),
        leaving: meta.deletion_timestamp.is_some(),
    }
}

/// When the last checkpoint of a pod or claim was written, if its annotations say so. A time that is none saves nothing: as
/// if there had been no checkpoint.
pub(crate) fn last_checkpoint(annotations: &BTreeMap<String, String>) -> Option<Millis> {
    let text = annotations.get(ANNOTATION_LAST_CHECKPOINT)?;
    text.parse::<Timestamp>().ok().map(millis)
}

fn millis(time: Timestamp) -> Millis {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// `namespace/name`.
fn name(pod: &Pod) -> String {
    format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or("default"),
        pod.metadata.name.as_deref().unwrap_or_default()
    )
}

/// What pods of a tier ask for together.
pub fn bound(pods: &[PodInfo], tier: Tier) -> Resources {
    pods.iter()
        .filter(|p| p.tier == tier)
        .fold(Resources::default(), |sum, pod| sum.plus(pod.requests))
}

/// What a pod asks for of one resource, in thousandths, as the kubelet counts it: the containers and those that start
/// first and stay, or the hungriest of those that run first, whichever is more, plus the sandbox.
fn total(spec: &PodSpec, name: &str) -> Option<i64> {
    let ask = |c: &Container| {
        let requests = c.resources.as_ref()?.requests.as_ref()?;
        thousandths(requests, name)
    };
    let stays = |c: &Container| c.restart_policy.as_deref() == Some("Always");
    let mut found = None;
    let mut running: i64 = 0;
    let mut peak: i64 = 0;
    for container in spec.init_containers.iter().flatten() {
        let Some(asked) = ask(container) else { continue };
        found = Some(());
        peak = peak.max(running.saturating_add(asked));
        if stays(container) {
            running = running.saturating_add(asked);
        }
    }
    for asked in spec.containers.iter().filter_map(ask) {
        found = Some(());
        running = running.saturating_add(asked);
    }
    let overhead = spec.overhead.as_ref().and_then(|o| thousandths(o, name));
    found.or(overhead.map(|_| ()))?;
    Some(peak.max(running).saturating_add(overhead.unwrap_or(0)))
}

fn thousandths(map: &BTreeMap<String, Quantity>, name: &str) -> Option<i64> {
    map.get(name).and_then(quantity::milli)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn pod(value: serde_json::Value) -> Option<PodInfo> {
        reduce(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_pod_that_asks_for_batch_capacity_is_batch_and_besteffort() {
        let info = pod(serde_json::json!({
            "metadata": {"name": "b", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n", "containers": [
                {"name": "a", "resources": {"requests": {"duosuan.io/batch-cpu": "1500", "duosuan.io/batch-memory": "1Gi"}}},
                {"name": "b", "resources": {"requests": {"duosuan.io/batch-cpu": "4k"}}}]}
        }));
        let requests = Resources {
            cpu: 5500,
            memory: 1 << 30,
        };
        let expected = PodInfo {
            uid: "u".into(),
            name: "ns/b".into(),
            node: "n".into(),
            tier: Tier::Batch,
            requests,
            burstable: false,
            latency: None,
            evictable: Some(EvictablePod {
                uid: "u".into(),
                name: "ns/b".into(),
                ..EvictablePod::default()
            }),
        };
        assert_eq!(info, Some(expected));
    }

    #[test]
    fn a_pod_without_a_word_on_its_tier_is_prod() {
        let info = pod(serde_json::json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"nodeName": "n", "overhead": {"cpu": "50m"},
                "initContainers": [
                    {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                    {"name": "big", "resources": {"requests": {"cpu": "2"}}}],
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}]}
        }))
        .unwrap();
        assert_eq!(
            (info.tier, info.requests),
            (
                Tier::Prod,
                Resources {
                    cpu: 2150,
                    memory: 1 << 20
                }
            )
        );
    }

    #[test]
    fn a_prod_pod_with_an_address_states_what_it_promises_and_a_batch_pod_cannot() {
        let latency = |tier: &str, ip: &str, text: &str| {
            pod(serde_json::json!({
                "metadata": {"name": "p", "labels": {"duosuan.io/tier": tier}, "annotations": {"duosuan.io/latency-objective": text}},
                "spec": {"nodeName": "n", "containers": []}, "status": {"podIP": ip}
            }))
            .unwrap()
            .latency
        };
        let good = r#"{"histogram": "x", "threshold": "1s", "port": 80}"#;
        assert!(latency("prod", "10.0.0.1", good).unwrap().is_ok());
        assert!(latency("prod", "fd00::1", good).unwrap().is_ok());
        let problem = latency("mid", "10.0.0.1", "{}").unwrap().unwrap_err();
        assert!(
            problem.starts_with("annotation duosuan.io/latency-objective: "),
            "{problem}"
        );
        assert_eq!(latency("batch", "10.0.0.1", good), None);
        assert_eq!(latency("prod", "", good), None);
    }

    #[test]
    fn of_a_batch_pod_its_claim_its_start_and_its_last_checkpoint_are_known() {
        let info = pod(serde_json::json!({
            "metadata": {"name": "b", "namespace": "ns", "uid": "u", "deletionTimestamp": "2026-01-01T00:01:00Z",
                "labels": {"duosuan.io/tier": "batch", "duosuan.io/claim": "c", "duosuan.io/group": "worker"},
                "annotations": {"duosuan.io/last-checkpoint": "1970-01-01T01:00:05+01:00", "duosuan.io/gpu-share": "250"}},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"startTime": "1970-01-01T00:00:02Z"}
        }));
        let expected = EvictablePod {
            uid: "u".into(),
            name: "ns/b".into(),
            gang: Some("ns/c".into()),
            group: "worker".into(),
            started: Some(2_000),
            checkpoint: Some(5_000),
            cards: 250,
            leaving: true,
        };
        assert_eq!(info.unwrap().evictable, Some(expected));
        let info = pod(serde_json::json!({
            "metadata": {"name": "b", "uid": "u", "labels": {"duosuan.io/tier": "batch"},
                "annotations": {"duosuan.io/last-checkpoint": "yesterday"}},
            "spec": {"nodeName": "n", "containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": "2"},
                "requests": {"nvidia.com/gpu": "2"}}}]}
        }));
        let batch = info.unwrap().evictable.unwrap();
        assert_eq!((batch.checkpoint, batch.cards, batch.leaving), (None, 2_000, false));
    }

    #[test]
    fn a_pod_that_only_calls_itself_mid_is_not_evicted_since_nothing_was_lent_to_it() {
        let of = |tier: &str, resource: &str| {
            let meta = serde_json::json!({"name": "p", "uid": "u", "labels": {"duosuan.io/tier": tier}});
            let containers = serde_json::json!([{"name": "a", "resources": {"requests": {resource: "1"}}}]);
            let info = pod(serde_json::json!({"metadata": meta, "spec": {"nodeName": "n", "containers": containers}}));
            let info = info.unwrap();
            (info.tier, info.evictable.is_some())
        };
        assert_eq!(of("mid", "cpu"), (Tier::Mid, false));
        assert_eq!(of("mid", "memory"), (Tier::Mid, false));
        assert_eq!(of("mid", RESOURCE_MID_MEMORY), (Tier::Mid, true));
        assert_eq!(of("prod", RESOURCE_MID_CPU), (Tier::Mid, true), "by what it asks for");
        assert_eq!(of("batch", "cpu"), (Tier::Batch, true));
        assert_eq!(of("prod", "cpu"), (Tier::Prod, false));
    }

    #[test]
    fn a_pod_that_has_ended_or_is_bound_nowhere_takes_nothing() {
        let ended = serde_json::json!({"spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Failed"}});
        assert_eq!(pod(ended), None);
        assert_eq!(pod(serde_json::json!({"spec": {"containers": []}})), None);
    }
}
