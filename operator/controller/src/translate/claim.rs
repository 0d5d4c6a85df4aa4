//! Capacity claims.

use duosuan_crds::claim::{CapacityClaimSpec, CapacityClaimStatus, Group};
use duosuan_scheduler::event::{self, Toleration};
use k8s_openapi::{api::core::v1, apimachinery::pkg::api::resource::Quantity};

use super::{FieldError, gpu, placement, quantity, tier, time};
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
    let broken = spec(object.spec, &mut claim).err();
    if broken.is_some() {
        claim.groups.clear();
    }
    Claim {
        claim,
        generation: meta.generation.unwrap_or_default(),
        status: status(object.status),
        broken,
    }
}

fn status(status: Unread) -> Option<CapacityClaimStatus> {
    if status.is_absent() {
        Some(CapacityClaimStatus::default())
    } else {
        status.read().ok()
    }
}

fn spec(spec: Unread, into: &mut event::Claim) -> Result<(), FieldError> {
    let spec: CapacityClaimSpec = spec.read().map_err(|e| FieldError::new("spec", e))?;
    into.queue = spec.queue;
    into.tier = tier(spec.tier);
    into.priority = spec.priority;
    let millis = |duration: &duosuan_crds::Duration, field: &str| {
        let parsed = duration.parse().map_err(|e| FieldError::new(field, e))?;
        Ok(i64::try_from(parsed.as_millis()).unwrap_or(i64::MAX))
    };
    into.expected_duration = spec
        .expected_duration
        .as_ref()
        .map(|d| millis(d, "spec.expectedDuration"))
        .transpose()?;
    let min_runtime = spec.interruption.as_ref().and_then(|i| i.min_runtime.as_ref());
    into.min_runtime = min_runtime.map_or(Ok(0), |d| millis(d, "spec.interruption.minRuntime"))?;
    into.groups = spec
        .groups
        .iter()
        .enumerate()
        .map(|(i, g)| group(g, &format!("spec.groups[{i}]")))
        .collect::<Result<_, _>>()?;
    Ok(())
}

fn group(group: &Group, field: &str) -> Result<event::Group, FieldError> {
    let (min, max) = sizes(group);
    if max < min {
        return Err(FieldError::new(field, format!("max {max} is below min {min}")));
    }
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
        node_terms: placement::group_terms(group.affinity.as_ref())?,
        tolerations: group.tolerations.iter().map(toleration).collect(),
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
            "queue": "q", "tier": "batch", "priority": 5, "expectedDuration": "1h", "interruption": {"minRuntime": "90s"},
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
            ..event::Claim::default()
        };
        assert_eq!((read.claim, read.generation), (expected, 3));
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
