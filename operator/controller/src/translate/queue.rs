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
        let field = |name: &str| format!("spec.quotas[{i}].{name}");
        let read = event::Quota {
            tier: tier(quota.tier),
            guaranteed: amounts(&quota.guaranteed, &field("guaranteed"))?,
            limit: amounts(&quota.limit, &field("limit"))?,
            lend_limit: amounts(&quota.lend_limit, &field("lendLimit"))?,
        };
        check(&read, &field)?;
        quotas.push(read);
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

/// What an API server with our rules does not admit; a file may say anything.
fn check(quota: &event::Quota, field: &dyn Fn(&str) -> String) -> Result<(), FieldError> {
    for (resource, guaranteed) in &quota.guaranteed {
        if quota.limit.get(resource).is_some_and(|limit| limit < guaranteed) {
            let problem = "the limit of a resource must not be less than its guarantee";
            return Err(FieldError::new(format!("{}[{resource}]", field("limit")), problem));
        }
    }
    for (resource, lent) in &quota.lend_limit {
        if quota
            .guaranteed
            .get(resource)
            .is_none_or(|guaranteed| lent > guaranteed)
        {
            let problem = "the lendLimit of a resource must not be more than its guarantee";
            return Err(FieldError::new(format!("{}[{resource}]", field("lendLimit")), problem));
        }
    }
    Ok(())
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
        let below = json!({"tier": "mid", "guaranteed": {"cpu": "2", "memory": "1Gi"}, "limit": {"cpu": "2", "memory": "1023Mi"}});
        let error = queue(json!({"quotas": [{"tier": "prod"}, below]})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "spec.quotas[1].limit[memory]: the limit of a resource must not be less than its guarantee"
        );
        for guaranteed in [json!({"cpu": "1"}), json!({})] {
            let quota = json!({"tier": "prod", "guaranteed": guaranteed, "lendLimit": {"cpu": "2"}});
            let error = queue(json!({"quotas": [quota]})).unwrap_err();
            assert_eq!(error.field, "spec.quotas[0].lendLimit[cpu]");
        }
        let error = queue(json!({"fairnessHalfLife": "1 day"})).unwrap_err();
        assert_eq!(error.field, "spec.fairnessHalfLife");
    }
}
