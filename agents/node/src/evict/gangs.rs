//! What is known at the API server of the gangs whose pods may be hit.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_crds::CapacityClaim;
use duosuan_policy::{Gang, Millis};
use kube::{Api, Client};

use super::TIMEOUT;
use crate::pods;

/// What the claims say of their pods. One that cannot be read is left out: then its pods on the node are all that is known.
pub(super) async fn ask(client: &Client, names: BTreeSet<String>) -> BTreeMap<String, Gang> {
    let mut gangs = BTreeMap::new();
    for key in names {
        let Some((namespace, name)) = key.split_once('/') else {
            continue;
        };
        let claims: Api<CapacityClaim> = Api::namespaced(client.clone(), namespace);
        match tokio::time::timeout(TIMEOUT, claims.get_opt(name)).await {
            Ok(Ok(Some(claim))) => drop(gangs.insert(key, gang(&claim))),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(claim = %key, "the claim cannot be read: {error}"),
            Err(_) => tracing::warn!(claim = %key, "the claim cannot be read: no answer"),
        }
    }
    gangs
}

/// Its bound pods, of each elastic group those above its minimum, and what it tells of its checkpoints.
fn gang(claim: &CapacityClaim) -> Gang {
    let status = claim.status.clone().unwrap_or_default();
    let least: BTreeMap<&str, u32> = claim
        .spec
        .groups
        .iter()
        .map(|g| (g.name.as_str(), g.count.or(g.min).unwrap_or(0)))
        .collect();
    let spare = status.placed.iter().map(|placed| {
        let least = least.get(placed.group.as_str()).copied().unwrap_or(placed.count);
        (placed.group.clone(), placed.count.saturating_sub(least))
    });
    let annotations = claim.metadata.annotations.as_ref();
    let interruption = claim.spec.interruption.clone().unwrap_or_default();
    let span = |duration: Option<duosuan_crds::Duration>| {
        let span = duration?.parse().ok()?;
        Millis::try_from(span.as_millis()).ok()
    };
    Gang {
        members: status.placed_pods,
        spare: spare.collect(),
        checkpoint: annotations.and_then(pods::last_checkpoint),
        checkpoint_every: span(interruption.checkpoint_interval),
        restart: span(interruption.restart_time),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gang_spares_what_an_elastic_group_has_above_its_minimum() {
        let claim = json!({
            "apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "metadata": {"name": "c"},
            "spec": {"tier": "batch", "groups": [
                {"name": "driver", "count": 1}, {"name": "worker", "min": 2, "max": 8}]},
            "status": {"phase": "Running", "placedPods": 6, "placed": [
                {"group": "driver", "count": 1, "desired": 1}, {"group": "worker", "count": 5, "desired": 8}]},
        });
        let expected = Gang {
            members: 6,
            spare: BTreeMap::from([("driver".to_owned(), 0), ("worker".to_owned(), 3)]),
            ..Gang::default()
        };
        assert_eq!(gang(&serde_json::from_value(claim).unwrap()), expected);
    }

    #[test]
    fn a_claim_tells_of_the_checkpoints_of_its_gang_and_how_long_it_takes_to_start_again() {
        let claim = json!({
            "apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim",
            "metadata": {"name": "c", "annotations": {"duosuan.io/last-checkpoint": "1970-01-01T01:00:05+01:00"}},
            "spec": {"tier": "batch", "groups": [], "interruption": {"checkpointInterval": "10m", "restartTime": "30s"}},
        });
        let expected = Gang {
            checkpoint: Some(5_000),
            checkpoint_every: Some(600_000),
            restart: Some(30_000),
            ..Gang::default()
        };
        assert_eq!(gang(&serde_json::from_value(claim).unwrap()), expected);
    }
}
