//! Capacity claims.

use duosuan_crds::claim::{CapacityClaimSpec, CapacityClaimStatus, Domain, Group, Topology, TopologyMode};
use duosuan_scheduler::event::{self, Toleration};
use k8s_openapi::{api::core::v1, apimachinery::pkg::api::resource::Quantity};

use super::{FieldError, gpu, last_checkpoint, placement, quantity, tier, time};
use crate::lean::{self, Object, Unread};

/// A claim, and what its object says of where it stands.
#[derive(Clone, Debug)]
pub struct Claim {
    /// For the core; without groups if `broken`, so that nothing of it is ever placed.
    pub claim: event::Claim,
    /// `metadata.generation`.
    pub generation: i64,
    /// Status, as it was read; `None` if it cannot be understood.
    pub status: Option<CapacityClaimStatus>,
    /// A field that cannot be understood.
    pub broken: Option<FieldError>,
    /// Fields that wish for something that is not looked at yet; the claim runs without it, and says so.
    pub ignored: Vec<&'static str>,
    /// An annotation that cannot be understood; the claim runs as without it, and says so.
    pub misread: Option<FieldError>,
}

/// Reads a claim.
pub fn read(object: Object<lean::Claim>) -> Claim {
    let meta = &object.metadata;
    let mut claim = event::Claim {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        created: time(meta.creation_timestamp.as_ref()),
        ..event::Claim::default()
    };
    let mut ignored = Vec::new();
    let broken = spec(object.spec, &mut claim, &mut ignored).err();
    if broken.is_some() {
        claim.groups.clear();
    }
    let none = lean::Texts::new();
    let checkpoint = last_checkpoint(meta.annotations.as_ref().unwrap_or(&none));
    claim.interruption.last_checkpoint = checkpoint.as_ref().copied().unwrap_or_default();
    claim.refused = broken.as_ref().map(ToString::to_string);
    Claim {
        claim,
        generation: meta.generation.unwrap_or_default(),
        status: status(object.status),
        broken,
        ignored,
        misread: checkpoint.err(),
    }
}

fn status(status: Unread) -> Option<CapacityClaimStatus> {
    if status.is_absent() {
        Some(CapacityClaimStatus::default())
    } else {
        status.read().ok()
    }
}

/// Reads the specification.
fn spec(spec: Unread, into: &mut event::Claim, ignored: &mut Vec<&'static str>) -> Result<(), FieldError> {
    let spec: CapacityClaimSpec = spec.read().map_err(|e| FieldError::new("spec", e))?;
    // Nothing is done about it yet.
    ignored.extend(spec.deadline.as_ref().map(|_| "spec.deadline"));
    into.queue = spec.queue;
    into.tier = tier(spec.tier);
    into.priority = spec.priority;
    into.topology = topology(spec.topology.as_ref());
    let millis = |duration: &duosuan_crds::Duration, field: &str| {
        let parsed = duration.parse().map_err(|e| FieldError::new(field, e))?;
        Ok(i64::try_from(parsed.as_millis()).unwrap_or(i64::MAX))
    };
    into.expected_duration = spec
        .expected_duration
        .as_ref()
        .map(|d| millis(d, "spec.expectedDuration"))
        .transpose()?;
    into.window = spec.window.as_ref().map(|w| event::Window {
        start: time(Some(&w.start)),
        end: time(Some(&w.end)),
    });
    if let Some(of) = &spec.interruption {
        let optional = |duration: &Option<duosuan_crds::Duration>, field: &str| {
            let field = format!("spec.interruption.{field}");
            duration.as_ref().map(|d| millis(d, &field)).transpose()
        };
        into.min_runtime = optional(&of.min_runtime, "minRuntime")?.unwrap_or_default();
        into.interruption.notice = optional(&of.notice, "notice")?.unwrap_or_default();
        into.interruption.checkpoint_interval = optional(&of.checkpoint_interval, "checkpointInterval")?;
        into.interruption.restart_time = optional(&of.restart_time, "restartTime")?;
    }
    into.groups = spec
        .groups
        .iter()
        .enumerate()
        .map(|(i, g)| group(g, &format!("spec.groups[{i}]")))
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// The area that a domain is to the scheduler.
fn level(domain: Domain) -> event::Level {
    match domain {
        Domain::Numa => event::Level::Numa,
        Domain::Node => event::Level::Node,
        Domain::Nvlink => event::Level::Nvlink,
        Domain::Rack => event::Level::Rack,
        Domain::Block => event::Level::Block,
        Domain::Zone => event::Level::Zone,
    }
}

fn topology(topology: Option<&Topology>) -> Option<event::Topology> {
    topology.map(|t| event::Topology {
        pack: level(t.pack),
        required: t.mode == TopologyMode::Required,
    })
}

fn group(group: &Group, field: &str) -> Result<event::Group, FieldError> {
    let (min, max) = sizes(group);
    if max < min {
        return Err(FieldError::new(field, format!("max {max} is below min {min}")));
    }
    let affinity = group.affinity.as_ref().map(placement::of_group);
    let required = affinity
        .as_ref()
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    Ok(event::Group {
        name: group.name.clone(),
        min,
        max,
        quantum: group.quantum.unwrap_or(1).max(1),
        requests: requests(&group.requests, &format!("{field}.requests"))?,
        gpus: group
            .gpus
            .as_ref()
            .map_or(Ok(None), |g| gpu::of_group(g, &format!("{field}.gpus")))?,
        node_terms: placement::node_terms(None, required)?,
        preferred_nodes: placement::preferred_nodes(affinity.as_ref())?,
        tolerations: group.tolerations.iter().map(toleration).collect(),
        topology: topology(group.topology.as_ref()),
    })
}

/// Pods of a group: at least, at most.
fn sizes(group: &Group) -> (u32, u32) {
    match group.count {
        Some(count) => (count, count),
        None => {
            let min = group.min.unwrap_or(1);
            (min, group.max.unwrap_or(min))
        }
    }
}

/// Amounts of quantities by resource.
pub(crate) fn requests<'a>(
    quantities: impl IntoIterator<Item = (&'a String, &'a Quantity)>,
    field: &str,
) -> Result<event::Amounts, FieldError> {
    quantities
        .into_iter()
        .map(|(resource, q)| {
            let amount =
                quantity::amount(resource, &q.0).map_err(|e| FieldError::new(format!("{field}[{resource}]"), e))?;
            Ok((resource.clone(), amount))
        })
        .collect()
}

fn toleration(from: &v1::Toleration) -> Toleration {
    placement::toleration(&lean::Toleration {
        key: from.key.clone(),
        operator: from.operator.clone(),
        value: from.value.clone(),
        effect: from.effect.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use duosuan_scheduler::Tier;
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> Claim {
        let metadata = json!({"name": "c", "namespace": "ns", "uid": "u", "generation": 3});
        read(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    #[test]
    fn fixed_and_elastic_groups_are_read() {
        let read = claim(json!({
            "queue": "q", "tier": "batch", "priority": 5, "expectedDuration": "1h",
            "interruption": {"minRuntime": "90s", "notice": "2m", "checkpointInterval": "10m", "restartTime": "30s"},
            "groups": [
                {"name": "driver", "count": 1, "requests": {"cpu": "500m", "memory": "1Ki"}},
                {"name": "workers", "min": 2, "max": 8, "quantum": 2, "gpus": {"count": 4, "models": ["A100"]}},
            ],
        }));
        assert_eq!(read.broken, None);
        let driver = event::Group {
            name: "driver".into(),
            min: 1,
            max: 1,
            quantum: 1,
            requests: [("cpu".to_owned(), 500), ("memory".to_owned(), 1024)].into(),
            ..event::Group::default()
        };
        let gpus = event::GpuRequest {
            count: 4,
            milli: 1000,
            memory: 0,
            models: vec!["A100".into()],
        };
        let workers = event::Group {
            name: "workers".into(),
            min: 2,
            max: 8,
            quantum: 2,
            gpus: Some(gpus),
            ..event::Group::default()
        };
        let expected = event::Claim {
            uid: "u".into(),
            namespace: "ns".into(),
            name: "c".into(),
            queue: "q".into(),
            tier: Tier::Batch,
            priority: 5,
            groups: vec![driver, workers],
            expected_duration: Some(3_600_000),
            min_runtime: 90_000,
            interruption: event::Interruption {
                notice: 120_000,
                checkpoint_interval: Some(600_000),
                restart_time: Some(30_000),
                last_checkpoint: None,
            },
            ..event::Claim::default()
        };
        assert_eq!((read.claim, read.generation), (expected, 3));
    }

    #[test]
    fn the_last_checkpoint_is_told_by_an_annotation() {
        let field = "metadata.annotations[duosuan.io/last-checkpoint]";
        for (text, at, misread) in [
            ("1970-01-01T00:01:00Z", Some(60_000), None),
            ("soon", None, Some(field)),
        ] {
            let object = json!({
                "metadata": {"name": "c", "uid": "u", "annotations": {"duosuan.io/last-checkpoint": text}},
                "spec": {"groups": [{"name": "a", "count": 1}]},
            });
            let read = read(serde_json::from_value(object).unwrap());
            assert_eq!(read.claim.interruption.last_checkpoint, at.map(duosuan_scheduler::Time));
            assert_eq!((read.broken, read.ignored), (None, vec![]));
            assert_eq!(read.misread.as_ref().map(|error| error.field.as_str()), misread);
        }
    }

    #[test]
    fn a_window_is_a_time_to_start_and_one_to_have_ended() {
        let window = json!({"start": "2026-12-24T06:00:00Z", "end": "2026-12-24T08:00:00Z"});
        let read = claim(json!({"groups": [{"name": "a", "count": 1}], "window": window}));
        let [start, end] = [1_798_092_000_000, 1_798_099_200_000].map(duosuan_scheduler::Time);
        assert_eq!(read.claim.window, Some(event::Window { start, end }));
        assert_eq!((read.broken, read.ignored.len()), (None, 0));
    }

    #[test]
    fn what_is_not_acted_on_is_told() {
        let wishes = claim(json!({
            "groups": [{"name": "a", "count": 1}], "deadline": "2026-12-24T06:00:00Z",
        }));
        assert_eq!(wishes.broken, None);
        assert_eq!(wishes.ignored, ["spec.deadline"]);
        assert_eq!(
            claim(json!({"groups": [{"name": "a", "count": 1}]})).ignored,
            Vec::<&str>::new()
        );
    }

    #[test]
    fn every_domain_is_an_area() {
        let of = |pack: &str| {
            let topology = json!({"pack": pack, "mode": "required"});
            claim(json!({"groups": [{"name": "a", "count": 1}], "topology": topology}))
                .claim
                .topology
                .unwrap()
        };
        let levels = ["numa", "node", "nvlink", "rack", "block", "zone"].map(|pack| of(pack).pack);
        assert!(levels.is_sorted_by(|a, b| a < b), "{levels:?}");
        assert_eq!(levels[0], event::Level::Numa);
        assert!(of("nvlink").required);
    }

    #[test]
    fn topologies_of_claim_and_groups_are_read() {
        let read = claim(json!({
            "topology": {"pack": "zone"},
            "groups": [
                {"name": "a", "count": 1, "topology": {"pack": "rack", "mode": "required"}},
                {"name": "b", "count": 1, "topology": {"pack": "node", "mode": "preferred"}},
                {"name": "c", "count": 1},
            ],
        }));
        let pack = |pack, required| Some(event::Topology { pack, required });
        assert_eq!((read.broken, read.ignored), (None, Vec::new()));
        assert_eq!(read.claim.topology, pack(event::Level::Zone, false));
        let groups: Vec<_> = read.claim.groups.iter().map(|g| g.topology).collect();
        assert_eq!(
            groups,
            [pack(event::Level::Rack, true), pack(event::Level::Node, false), None]
        );
    }

    #[test]
    fn a_broken_claim_keeps_its_name_and_loses_its_groups() {
        for (spec, field) in [
            (
                json!({"groups": [{"name": "a", "count": 1, "requests": {"cpu": "lots"}}]}),
                "spec.groups[0].requests[cpu]",
            ),
            (
                json!({"groups": [{"name": "a", "count": 1}], "expectedDuration": "soon"}),
                "spec.expectedDuration",
            ),
            (json!({"groups": "none"}), "spec"),
        ] {
            let read = claim(spec);
            assert_eq!((read.claim.name.as_str(), read.claim.groups.len()), ("c", 0));
            assert_eq!(read.broken.unwrap().field, field);
        }
    }
}
