//! Co-location policies, as far as the operator looks at them.

use std::collections::BTreeMap;

use duosuan_crds::policy::{ColocationPolicySpec, ColocationPolicyStatus};

use super::FieldError;
use crate::lean::{self, Object};

/// A policy, and what its object says of where it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What it says of nodes.
    pub rules: Rules,
    /// Status, as it was read; `None` if it cannot be understood.
    pub status: Option<ColocationPolicyStatus>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its kill switch is thrown.
    pub suspended: bool,
    /// Fields that nothing is done about yet.
    pub ignored: Vec<&'static str>,
}

/// What a policy says of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Labels of the nodes that it is for, all of them; without any, it is for every node.
    pub selector: BTreeMap<String, String>,
    /// Age of a report, in milliseconds, over which nothing is placed by it.
    pub expire: Option<i64>,
    /// Load over which a node gets no new pod.
    pub lines: Lines,
}

/// Load over which a node gets no new pod, in percent of its capacity; `None` draws no line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Of its CPU.
    pub cpu: Option<u32>,
    /// Of its memory.
    pub memory: Option<u32>,
}

/// Reads a policy.
///
/// # Errors
///
/// If a field is not what it should be.
pub fn read(object: Object<lean::Policy>) -> Result<Policy, FieldError> {
    let spec: ColocationPolicySpec = object.spec.read().map_err(|e| FieldError::new("spec", e))?;
    let ignored = spec.not_acted_on();
    let expire = spec
        .reclaim
        .expire
        .map(|d| d.parse().map_err(|e| FieldError::new("spec.reclaim.expire", e)))
        .transpose()?;
    let status = if object.status.is_absent() {
        Some(ColocationPolicyStatus::default())
    } else {
        object.status.read().ok()
    };
    Ok(Policy {
        rules: Rules {
            selector: spec.node_selector,
            expire: expire.map(|d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
            lines: Lines {
                cpu: spec.placement.cpu_percent,
                memory: spec.placement.memory_percent,
            },
        },
        status,
        generation: object.metadata.generation.unwrap_or_default(),
        suspended: spec.suspended,
        ignored,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_age_at_which_a_report_expires_is_read() {
        let policy = |spec| read(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap());
        assert_eq!(policy(json!({})).unwrap().rules.expire, None);
        assert_eq!(
            policy(json!({"reclaim": {"expire": "2m"}})).unwrap().rules.expire,
            Some(120_000)
        );
        assert_eq!(
            policy(json!({"reclaim": {"expire": "late"}})).unwrap_err().field,
            "spec.reclaim.expire"
        );
    }
}
