//! Persistent volumes, the claims to them, their classes, and how many of them a node can attach.

use std::collections::BTreeMap;

use duosuan_scheduler::event::{Operator, Requirement, Term};

use super::{FieldError, placement, quantity, relations};
use crate::lean::{self, Object, Texts};

/// A persistent volume claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeClaim {
    /// Namespace and name.
    pub name: (String, String),
    /// UID.
    pub uid: String,
    /// Storage class; empty for none.
    pub class: String,
    /// The volume that it has; `None` while it has none.
    pub volume: Option<String>,
    /// The volume that it names, whether it has it or not.
    pub named: Option<String>,
    /// The volume that it had is gone.
    pub lost: bool,
    /// UID of the object that it was made for, if there is one.
    pub owner: Option<String>,
    /// The node for which its volume is being made.
    pub selected_node: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// What it asks of a volume.
    pub wish: Disk,
    /// Labels that it asks of a volume; empty for any.
    pub selector: Term,
    /// Field that cannot be understood: then nothing else is known of it.
    pub broken: Option<FieldError>,
}

/// What a volume has, or a claim asks of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub storage: i64,
    /// Access modes, such as `ReadWriteOnce`.
    pub modes: Vec<String>,
    /// A block device and not a file system.
    pub block: bool,
    /// Class of its attributes; empty for none.
    pub attributes: String,
}

/// A persistent volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Storage class; empty for none.
    pub class: String,
    /// Where it can be used: alternatives of conjunctions for each of its constraints, of which all have to hold.
    pub places: Vec<Vec<Term>>,
    /// CSI driver and its handle of the volume, if it is one of a CSI driver.
    pub handle: Option<(String, String)>,
    /// The claim that it is for, by namespace, name and UID, which is empty if it is not said. `None`: for any.
    pub claimed_by: Option<(String, String, String)>,
    /// It is free for any claim.
    pub available: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// What it has.
    pub has: Disk,
    /// Its labels.
    pub labels: Texts,
    /// Field that cannot be understood: then nothing else is known of it.
    pub broken: Option<FieldError>,
}

/// A storage class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Name.
    pub name: String,
    /// Who makes its volumes: the name of a driver.
    pub provisioner: String,
    /// It makes no volumes; they are made by people.
    pub made_by_hand: bool,
    /// A claim gets its volume when its first pod has a node, and not before.
    pub waits: bool,
    /// Where it makes volumes: alternatives; empty is anywhere.
    pub places: Vec<Term>,
}

/// A node's CSI drivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachable {
    /// Name of the node.
    pub node: String,
    /// Volumes at most, by driver; a driver that says no number has none.
    pub most: BTreeMap<String, i64>,
}

/// Provisioner of a class that makes no volumes.
const BY_HAND: &str = "kubernetes.io/no-provisioner";
/// Annotation of a claim that names the node for which its volume is being made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation of a claim: it is bound for good.
const BOUND: &str = "pv.kubernetes.io/bind-completed";
/// Annotation from before there was a field for the class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Labels by which a volume without node affinity says where it is: as it is spelled there, and on nodes.
const ZONES: [(&str, &str); 4] = [
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

/// Reads a claim to a volume.
pub fn claim(object: Object<lean::VolumeClaim>) -> VolumeClaim {
    let meta = object.metadata.clone();
    read_claim(object).unwrap_or_else(|error| VolumeClaim {
        name: (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
        uid: meta.uid.unwrap_or_default(),
        broken: Some(error),
        ..VolumeClaim::default()
    })
}

fn read_claim(object: Object<lean::VolumeClaim>) -> Result<VolumeClaim, FieldError> {
    let (meta, spec) = (object.metadata, object.spec);
    let owner = lean::controller(&meta).map(str::to_owned);
    let annotations = meta.annotations.unwrap_or_default();
    let phase = object.status.phase.as_deref();
    let bound = annotations.contains_key(BOUND) || phase == Some("Bound");
    let named = spec.volume_name.filter(|name| !name.is_empty());
    Ok(VolumeClaim {
        name: (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
        uid: meta.uid.unwrap_or_default(),
        class: annotations
            .get(CLASS)
            .cloned()
            .or(spec.storage_class_name)
            .unwrap_or_default(),
        volume: named.clone().filter(|_| bound),
        named,
        lost: phase == Some("Lost"),
        owner,
        selected_node: annotations.get(SELECTED_NODE).cloned(),
        deleting: meta.deletion_timestamp.is_some(),
        broken: None,
        selector: relations::selector(spec.selector.as_ref(), "spec.selector")?.unwrap_or_default(),
        wish: Disk {
            storage: storage(spec.resources.requests.as_ref(), "spec.resources.requests.storage")?,
            modes: spec.access_modes,
            block: spec.volume_mode.as_deref() == Some("Block"),
            attributes: spec.volume_attributes_class_name.unwrap_or_default(),
        },
    })
}

/// Reads a volume.
pub fn volume(object: Object<lean::Volume>) -> Volume {
    let name = object.metadata.name.clone().unwrap_or_default();
    read_volume(object).unwrap_or_else(|error| Volume {
        name,
        broken: Some(error),
        ..Volume::default()
    })
}

fn read_volume(object: Object<lean::Volume>) -> Result<Volume, FieldError> {
    let (meta, spec) = (object.metadata, object.spec);
    let labels = meta.labels.unwrap_or_default();
    let mut places = Vec::new();
    if let Some(required) = spec.node_affinity.and_then(|a| a.required) {
        places.push(placement::node_terms(None, Some(&required))?);
    }
    places.extend(zones(&labels));
    let annotations = meta.annotations.unwrap_or_default();
    Ok(Volume {
        name: meta.name.unwrap_or_default(),
        version: meta.resource_version.unwrap_or_default(),
        class: annotations
            .get(CLASS)
            .cloned()
            .or(spec.storage_class_name)
            .unwrap_or_default(),
        places,
        handle: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        claimed_by: spec.claim_ref.map(|r| (r.namespace, r.name, r.uid.unwrap_or_default())),
        available: matches!(object.status.phase.as_deref(), None | Some("Available")),
        deleting: meta.deletion_timestamp.is_some(),
        has: Disk {
            storage: storage(spec.capacity.as_ref(), "spec.capacity.storage")?,
            modes: spec.access_modes,
            block: spec.volume_mode.as_deref() == Some("Block"),
            attributes: spec.volume_attributes_class_name.unwrap_or_default(),
        },
        labels,
        broken: None,
    })
}

fn storage(amounts: Option<&Texts>, field: &str) -> Result<i64, FieldError> {
    let text = amounts.and_then(|a| a.get("storage"));
    text.map_or(Ok(0), |text| {
        quantity::amount("storage", text).map_err(|e| FieldError::new(field, e))
    })
}

/// What the labels of a volume say of where it is, as kube-scheduler reads them: a node has to be in one of the zones,
/// unless it is in none at all. An old label is looked for on the node by its old name first.
fn zones(labels: &Texts) -> Option<Vec<Term>> {
    let requirement = |key: &str, operator, values| Requirement {
        key: key.to_owned(),
        operator,
        values,
    };
    let mut within: Vec<Term> = vec![Term::new()];
    for (there, on_node) in ZONES {
        let Some(values) = labels.get(there).and_then(|value| listed(value)) else {
            continue;
        };
        let mut ways = vec![vec![requirement(there, Operator::In, values.clone())]];
        if there != on_node {
            let without = requirement(there, Operator::DoesNotExist, Vec::new());
            ways.push(vec![without, requirement(on_node, Operator::In, values)]);
        }
        let both = |a: &Term| ways.iter().map(|b| [a.as_slice(), b].concat()).collect::<Vec<Term>>();
        within = within.iter().flat_map(both).collect();
    }
    let nowhere = ZONES.map(|(key, _)| requirement(key, Operator::DoesNotExist, Vec::new()));
    let any = within.iter().any(|term| !term.is_empty());
    any.then(|| within.into_iter().chain([nowhere.to_vec()]).collect())
}

/// The zones of a label; `None` if one of them has no name, and then the label says nothing.
fn listed(value: &str) -> Option<Vec<String>> {
    let zones = value.split("__").map(|zone| zone.trim().to_owned());
    let zones: Vec<String> = zones.collect();
    zones.iter().all(|zone| !zone.is_empty()).then_some(zones)
}

/// Reads a storage class.
pub fn class(object: lean::StorageClass) -> Class {
    let term = |topology: lean::Topology| -> Term {
        let requirements = topology.match_label_expressions.into_iter();
        requirements
            .map(|r| Requirement {
                key: r.key,
                operator: Operator::In,
                values: r.values,
            })
            .collect()
    };
    Class {
        name: object.metadata.name.unwrap_or_default(),
        made_by_hand: object.provisioner == BY_HAND,
        provisioner: object.provisioner,
        waits: object.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        places: object.allowed_topologies.into_iter().map(term).collect(),
    }
}

/// Reads a node's CSI drivers.
pub fn attachable(object: Object<lean::CsiNode>) -> Attachable {
    let drivers = object.spec.drivers.into_iter();
    Attachable {
        node: object.metadata.name.unwrap_or_default(),
        most: drivers.filter_map(|d| Some((d.name, d.allocatable?.count?))).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_has_a_volume_when_the_controller_says_that_it_is_bound_and_not_when_it_is_named() {
        let read = |annotations, phase| {
            claim(
                serde_json::from_value(json!({
                    "metadata": {"namespace": "ns", "name": "c", "annotations": annotations},
                    "spec": {"volumeName": "v", "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}}},
                    "status": {"phase": phase}
                }))
                .unwrap(),
            )
        };
        assert_eq!(read(json!({}), "Pending").volume, None);
        assert_eq!(read(json!({}), "Bound").volume.as_deref(), Some("v"));
        let bound = read(json!({BOUND: "yes", SELECTED_NODE: "n"}), "Pending");
        assert_eq!(
            (bound.volume.as_deref(), bound.selected_node.as_deref()),
            (Some("v"), Some("n"))
        );
        assert_eq!((bound.class.as_str(), bound.wish.storage), ("fast", 1 << 30));
    }

    #[test]
    fn a_volume_says_where_it_is_by_affinity_and_by_the_labels_of_its_zone() {
        let read = volume(
            serde_json::from_value(json!({
                "metadata": {"name": "v", "labels": {"failure-domain.beta.kubernetes.io/zone": "a__b"}},
                "spec": {"csi": {"driver": "d", "volumeHandle": "h"}, "capacity": {"storage": "2"},
                    "claimRef": {"namespace": "ns", "name": "c"},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "host", "operator": "In", "values": ["n"]}]}]}}},
                "status": {"phase": "Available"}
            }))
            .unwrap(),
        );
        let is = |key: &str, values: &[&str]| Requirement {
            key: key.to_owned(),
            operator: Operator::In,
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        let [affinity, zone] = read.places.as_slice() else {
            unreachable!("{:?}", read.places)
        };
        assert_eq!(affinity, &[vec![is("host", &["n"])]]);
        let old = "failure-domain.beta.kubernetes.io/zone";
        let without = Requirement {
            operator: Operator::DoesNotExist,
            ..is(old, &[])
        };
        let [by_old_name, by_new_name, nowhere] = zone.as_slice() else {
            unreachable!("{zone:?}")
        };
        assert_eq!(by_old_name, &[is(old, &["a", "b"])]);
        assert_eq!(by_new_name, &[without, is("topology.kubernetes.io/zone", &["a", "b"])]);
        assert_eq!(nowhere.len(), 4, "a node without any zone is anywhere");
        assert_eq!(read.handle, Some(("d".to_owned(), "h".to_owned())));
        assert_eq!(read.claimed_by, Some(("ns".to_owned(), "c".to_owned(), String::new())));
        assert!(read.available && !read.deleting);
    }

    #[test]
    fn zones_without_a_name_say_nothing() {
        let read = |value: &str| zones(&[("topology.kubernetes.io/zone".to_owned(), value.to_owned())].into());
        assert_eq!((read(""), read("a__")), (None, None));
        let first = read("a__ b").and_then(|terms| terms.into_iter().flatten().next());
        assert_eq!(first.unwrap().values, ["a", "b"]);
    }

    #[test]
    fn a_class_and_the_drivers_of_a_node_are_read() {
        let read = class(
            serde_json::from_value(json!({"metadata": {"name": "local"}, "provisioner": BY_HAND,
                "volumeBindingMode": "WaitForFirstConsumer",
                "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]}))
            .unwrap(),
        );
        assert!(read.made_by_hand && read.waits);
        assert_eq!(
            read.places.iter().flatten().map(|r| r.key.as_str()).collect::<Vec<_>>(),
            ["zone"]
        );
        let read = attachable(
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"drivers": [
                {"name": "a", "allocatable": {"count": 3}}, {"name": "b"}, {"name": "c", "allocatable": {}}]}}))
            .unwrap(),
        );
        assert_eq!(read.most, BTreeMap::from([("a".to_owned(), 3)]));
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_not_taken_for_missing() {
        let object = json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": {"resources": {"requests": {"storage": "much"}}}});
        let read = claim(serde_json::from_value(object).unwrap());
        assert_eq!(
            (read.name.1.as_str(), read.broken.unwrap().field.as_str()),
            ("c", "spec.resources.requests.storage")
        );
        let object = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "-1"}}});
        let read = volume(serde_json::from_value(object).unwrap());
        assert_eq!(
            (read.name.as_str(), read.broken.unwrap().field.as_str()),
            ("v", "spec.capacity.storage")
        );
    }
}
