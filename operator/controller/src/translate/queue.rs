//! Queues.

use duosuan_crds::queue::{QueueSpec, QueueStatus, ReclaimPolicy};
use duosuan_scheduler::event::{self, Amounts};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{FieldError, quantity, tier};
use crate::lean::{self, Object};

/// A queue, and what its object says of its use.
#[derive(Clone, Debug)]
pub struct Queue {
    /// For the core.
    pub queue: event::Queue,
    /// Status, as it was read; `None` if it cannot be understood.
    pub status: Option<QueueStatus>,
    /// `metadata.generation`.
    pub generation: i64,
}

/// Reads a queue.
///
/// # Errors
///
/// If a field is not what it should be.
pub fn read(object: Object<lean::Queue>) -> Result<Queue, FieldError> {
    let spec: QueueSpec = object.spec.read().map_err(|e| FieldError::new("spec", e))?;
    let mut quotas = Vec::new();
    for (i, quota) in spec.quotas.iter().enumerate() {
        quotas.push(event::Quota {
            tier: tier(quota.tier),
            guaranteed: amounts(&quota.guaranteed, &format!("spec.quotas[{i}].guaranteed"))?,
            limit: amounts(&quota.limit, &format!("spec.quotas[{i}].limit"))?,
            lend_limit: amounts(&quota.lend_limit, &format!("spec.quotas[{i}].lendLimit"))?,
        });
    }
    let half_life = spec.fairness_half_life.as_ref().map(|half_life| {
        let parsed = half_life
            .parse()
            .map_err(|e| FieldError::new("spec.fairnessHalfLife", e))?;
        Ok(i64::try_from(parsed.as_millis()).unwrap_or(i64::MAX))
    });
    let generation = object.metadata.generation.unwrap_or_default();
    let queue = event::Queue {
        name: object.metadata.name.unwrap_or_default(),
        parent: spec.parent.filter(|parent| !parent.is_empty()),
        weight: u32::try_from(i64::from(spec.weight)).unwrap_or(1).max(1),
        quotas,
        namespaces: spec.namespaces,
        never_reclaims: spec.reclaim == ReclaimPolicy::Never,
        fairness_half_life: half_life.transpose()?,
    };
    let status = if object.status.is_absent() {
        Some(QueueStatus::default())
    } else {
        object.status.read().ok()
    };
    Ok(Queue {
        queue,
        status,
        generation,
    })
}

/// Amounts of quota: as those of pods, and `gpu` in thousandths of a device.
fn amounts<'a>(
    quantities: impl IntoIterator<Item = (&'a String, &'a Quantity)>,
    field: &str,
) -> Result<Amounts, FieldError> {
    quantities
        .into_iter()
        .map(|(resource, q)| {
            let base = if resource == "gpu" { "cpu" } else { resource };
            let amount =
                quantity::amount(base, &q.0).map_err(|e| FieldError::new(format!("{field}[{resource}]"), e))?;
            Ok((resource.clone(), amount))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use duosuan_scheduler::Tier;
    use serde_json::{Value, json};

    use super::*;

    fn queue(spec: Value) -> Result<Queue, FieldError> {
        read(serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).unwrap())
    }

    #[test]
    fn quotas_count_cores_and_devices_in_thousandths() {
        let read = queue(json!({
            "parent": "root", "weight": 3, "namespaces": ["a"], "fairnessHalfLife": "24h",
            "quotas": [{
                "tier": "batch", "guaranteed": {"cpu": "1500m"}, "limit": {"gpu": "2", "memory": "1Ki"}, "lendLimit": {"cpu": 1}
            }],
        }));
        let quota = event::Quota {
            tier: Tier::Batch,
            guaranteed: [("cpu".to_owned(), 1500)].into(),
            limit: [("gpu".to_owned(), 2000), ("memory".to_owned(), 1024)].into(),
            lend_limit: [("cpu".to_owned(), 1000)].into(),
        };
        let expected = event::Queue {
            name: "q".into(),
            parent: Some("root".into()),
            weight: 3,
            quotas: vec![quota],
            namespaces: vec!["a".into()],
            never_reclaims: false,
            fairness_half_life: Some(86_400_000),
        };
        assert_eq!(read.unwrap().queue, expected);
    }

    #[test]
    fn an_empty_queue_has_weight_one_and_a_broken_one_is_named() {
        assert_eq!(
            queue(json!({})).unwrap().queue,
            event::Queue {
                name: "q".into(),
                weight: 1,
                ..event::Queue::default()
            }
        );
        let error = queue(json!({"quotas": [{"tier": "prod", "limit": {"cpu": "-1"}}]})).unwrap_err();
        assert_eq!(error.field, "spec.quotas[0].limit[cpu]");
        let error = queue(json!({"fairnessHalfLife": "1 day"})).unwrap_err();
        assert_eq!(error.field, "spec.fairnessHalfLife");
    }
}
