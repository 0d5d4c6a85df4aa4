//! Kubernetes' own pod groups: to the core each is a claim, by a name that no claim of ours can have.

use duosuan_crds::LABEL_QUEUE;
use duosuan_scheduler::event::{self, Disruption};
use serde_json::Value;

use super::{FieldError, pod::tier_label, time};
use crate::lean::{self, Object, Texts};

/// What stands before the name of a pod group where a claim is named. No name of an object holds a slash.
const PREFIX: &str = "podgroup/";
/// The one group of a pod group.
pub const GROUP: &str = "pods";
/// Condition of a pod group: its pods were bound, as many as it needs. Once true, it stays so.
const INITIALLY_SCHEDULED: &str = "PodGroupInitiallyScheduled";
/// What it is called in version `v1alpha2`.
const SCHEDULED: &str = "PodGroupScheduled";

/// What a version calls the condition that a pod group was scheduled.
pub fn scheduled_condition(version: &str) -> &'static str {
    if version == "v1alpha2" {
        SCHEDULED
    } else {
        INITIALLY_SCHEDULED
    }
}

/// What a pod group is called where claims are named.
pub fn claim_name(pod_group: &str) -> String {
    format!("{PREFIX}{pod_group}")
}

/// The pod group that is called so where claims are named; `None` for a claim of ours.
pub fn of_claim_name(claim: &str) -> Option<&str> {
    claim.strip_prefix(PREFIX)
}

/// A pod group, and what its object says of where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodGroup {
    /// For the core.
    pub claim: event::Claim,
    /// The version in which it was read.
    pub version: &'static str,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether its condition says that it was scheduled, and why or why not.
    pub says: Option<(bool, String)>,
}

/// Reads a pod group. What is missing of its pods breaks it only until it was scheduled for the first time; from then on
/// they come and go each by itself, and those of a group with the basic policy do so from the beginning.
pub fn read(object: &Object<lean::PodGroup>, version: &'static str) -> PodGroup {
    let (meta, spec) = (&object.metadata, &object.spec);
    let none = Texts::new();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    let conditions = || object.status.conditions.iter();
    let says = conditions()
        .find(|c| c.type_ == scheduled_condition(version))
        .map(|c| (c.status == "True", c.message.clone().unwrap_or_default()));
    // Its word from before the API server was renewed counts, too.
    let was_scheduled =
        conditions().any(|c| c.status == "True" && [SCHEDULED, INITIALLY_SCHEDULED].contains(&c.type_.as_str()));
    let gang = spec.scheduling_policy.gang.as_ref();
    let tier = tier_label(labels);
    let disruption = disruption(&spec.disruption_mode);
    let refused = tier.as_ref().err().or(disruption.as_ref().err()).cloned();
    let refused = refused.or_else(|| undecided(spec));
    let group = event::Group {
        name: GROUP.to_owned(),
        min: gang.map_or(0, |gang| u32::try_from(gang.min_count).unwrap_or(1).max(1)),
        max: u32::MAX,
        quantum: 1,
        ..event::Group::default()
    };
    let claim = event::Claim {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: claim_name(meta.name.as_deref().unwrap_or_default()),
        created: time(meta.creation_timestamp.as_ref()),
        queue: labels.get(LABEL_QUEUE).cloned().unwrap_or_default(),
        tier: tier.unwrap_or_default(),
        priority: spec.priority.unwrap_or_default(),
        groups: vec![group],
        loose: gang.is_none() || was_scheduled,
        disruption: disruption.unwrap_or(Disruption::All),
        refused: refused.map(|error| error.to_string()),
        ..event::Claim::default()
    };
    PodGroup {
        version,
        generation: meta.generation.unwrap_or_default(),
        claim,
        says,
    }
}

/// In which parts a pod group may go: each pod by itself, if it does not say.
///
/// # Errors
///
/// If it says what no version did that we know. Nothing of it is taken by itself then.
fn disruption(mode: &Value) -> Result<Disruption, FieldError> {
    let name = match mode {
        Value::Null => "single",
        Value::String(name) => name,
        Value::Object(fields) => {
            let set = fields.iter().find(|(_, value)| !value.is_null());
            set.map_or("single", |(name, _)| name)
        }
        _ => "",
    };
    match name {
        "Pod" | "single" => Ok(Disruption::Single),
        "PodGroup" | "all" => Ok(Disruption::All),
        _ => Err(FieldError::new(
            "spec.disruptionMode",
            format!("{mode} is not known to this scheduler; write single or all (v1alpha2: Pod or PodGroup)"),
        )),
    }
}

/// The first field with a requirement that the core does not look at.
fn undecided(spec: &lean::PodGroupSpec) -> Option<FieldError> {
    let constraints = spec.scheduling_constraints.as_ref();
    let found = [
        (
            "spec.schedulingConstraints",
            constraints.is_some_and(|constraints| !constraints.topology.is_empty()),
        ),
        ("spec.resourceClaims", !spec.resource_claims.is_empty()),
        (
            "spec.parentCompositePodGroupName",
            spec.parent_composite_pod_group_name.is_some(),
        ),
    ];
    let (field, _) = found.into_iter().find(|(_, there)| *there)?;
    let problem = format!(
        "holds a requirement that this scheduler does not look at; leave it out, use a CapacityClaim (label {} of the \
         pods), or name another scheduler",
        duosuan_crds::LABEL_CLAIM
    );
    Some(FieldError::new(field, problem))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use duosuan_crds::LABEL_TIER;
    use duosuan_scheduler::Tier;
    use serde_json::{Value, json};

    use super::*;

    fn group(spec: Value, conditions: Value) -> PodGroup {
        let metadata =
            json!({"name": "g", "namespace": "ns", "uid": "u", "labels": {LABEL_QUEUE: "q", LABEL_TIER: "mid"}});
        let object = json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}});
        read(&serde_json::from_value(object).unwrap(), "v1beta1")
    }

    #[test]
    fn each_version_has_its_name_for_the_condition_and_either_counts() {
        for (version, name) in [
            ("v1beta1", INITIALLY_SCHEDULED),
            ("v1alpha3", INITIALLY_SCHEDULED),
            ("v1alpha2", SCHEDULED),
        ] {
            assert_eq!(scheduled_condition(version), name);
            let condition = json!({"type": SCHEDULED, "status": "True", "message": "m"});
            let spec = json!({"schedulingPolicy": {"gang": {"minCount": 3}}});
            let object = json!({"metadata": {"uid": "u"}, "spec": spec, "status": {"conditions": [condition]}});
            let read = read(&serde_json::from_value(object).unwrap(), version);
            assert!(read.claim.loose, "{version}");
            let says = (version == "v1alpha2").then(|| (true, "m".to_owned()));
            assert_eq!((read.version, read.says), (version, says));
        }
    }

    #[test]
    fn a_gang_is_a_claim_that_grows_without_end() {
        let read = group(
            json!({"schedulingPolicy": {"gang": {"minCount": 3}}, "priority": 7}),
            json!([]),
        );
        let claim = &read.claim;
        assert_eq!((claim.namespace.as_str(), claim.name.as_str()), ("ns", "podgroup/g"));
        assert_eq!((claim.queue.as_str(), claim.tier, claim.priority), ("q", Tier::Mid, 7));
        assert_eq!((claim.groups[0].min, claim.groups[0].quantum), (3, 1));
        assert_eq!((claim.loose, &claim.refused, &read.says), (false, &None, &None));
    }

    #[test]
    fn what_was_scheduled_once_or_is_no_gang_is_broken_by_nothing() {
        let gang = json!({"schedulingPolicy": {"gang": {"minCount": 3}}});
        let condition = |status: &str| json!([{"type": INITIALLY_SCHEDULED, "status": status, "message": "m"}]);
        assert!(group(gang.clone(), condition("True")).claim.loose);
        let waits = group(gang, condition("False"));
        assert_eq!((waits.claim.loose, waits.says), (false, Some((false, "m".into()))));
        let basic = group(json!({"schedulingPolicy": {"basic": {}}}), json!([]));
        assert_eq!((basic.claim.loose, basic.claim.groups[0].min), (true, 0));
    }

    #[test]
    fn the_disruption_mode_reads_alike_in_each_version() {
        let of = |mode: Value| {
            let spec = json!({"schedulingPolicy": {"gang": {"minCount": 3}}, "disruptionMode": mode});
            let claim = group(spec, json!([])).claim;
            (claim.disruption, claim.refused)
        };
        for mode in [
            json!(null),
            json!("Pod"),
            json!({"single": {}}),
            json!({"single": {}, "all": null}),
        ] {
            assert_eq!(of(mode), (Disruption::Single, None));
        }
        for mode in [json!("PodGroup"), json!({"all": {}})] {
            assert_eq!(of(mode), (Disruption::All, None));
        }
        for mode in [json!("Half"), json!({"half": {}}), json!(3)] {
            let (disruption, refused) = of(mode.clone());
            assert_eq!(disruption, Disruption::All);
            let expected = format!("spec.disruptionMode: {mode} is not known to this scheduler");
            assert!(refused.unwrap().starts_with(&expected), "{mode}");
        }
    }

    #[test]
    fn what_is_not_looked_at_is_refused_with_its_field() {
        let with = |field: &str, value: Value| {
            let mut spec = json!({"schedulingPolicy": {"gang": {"minCount": 3}}});
            spec[field] = value;
            group(spec, json!([])).claim.refused
        };
        assert_eq!(with("schedulingConstraints", json!({"topology": []})), None);
        for (field, value) in [
            ("schedulingConstraints", json!({"topology": [{"key": "rack"}]})),
            ("resourceClaims", json!([{"name": "c"}])),
            ("parentCompositePodGroupName", json!("p")),
        ] {
            assert!(with(field, value).unwrap().starts_with(&format!("spec.{field}: ")));
        }
    }
}
