//! What is read of the objects of storage.

use std::borrow::Cow;

use kube::api::ObjectMeta;
use serde::Deserialize;

use super::{LabelSelector, NodeSelector, Older, Requirement, Resources, Texts, list, metadata};

/// Spec of a claim to a persistent volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct VolumeClaimSpec {
    pub storage_class_name: Option<String>,
    pub volume_name: Option<String>,
    pub volume_mode: Option<String>,
    #[serde(deserialize_with = "list")]
    pub access_modes: Vec<String>,
    pub resources: Resources,
    pub selector: Option<LabelSelector>,
    pub volume_attributes_class_name: Option<String>,
}

/// Phase of a volume or of a claim to one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Phase {
    pub phase: Option<String>,
}

/// Spec of a persistent volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct VolumeSpec {
    pub capacity: Option<Texts>,
    #[serde(deserialize_with = "list")]
    pub access_modes: Vec<String>,
    pub storage_class_name: Option<String>,
    pub volume_mode: Option<String>,
    pub claim_ref: Option<ClaimRef>,
    pub csi: Option<Csi>,
    pub node_affinity: Option<VolumeAffinity>,
    pub volume_attributes_class_name: Option<String>,
}

/// The claim that a volume is for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ClaimRef {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

/// A volume of a CSI driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Csi {
    pub driver: String,
    pub volume_handle: String,
}

/// Where a volume can be used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct VolumeAffinity {
    pub required: Option<NodeSelector>,
}

/// The claim that a pod's volume names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ClaimSource {
    pub claim_name: String,
}

/// Spec of a node's CSI drivers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct CsiNodeSpec {
    #[serde(deserialize_with = "list")]
    pub drivers: Vec<Driver>,
}

/// A CSI driver on a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Driver {
    pub name: String,
    pub allocatable: Option<Allocatable>,
}

/// Volumes that a driver attaches to a node at most.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Allocatable {
    pub count: Option<i64>,
}

/// A storage class, which has no spec: its fields stand beside its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct StorageClass {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub provisioner: String,
    pub volume_binding_mode: Option<String>,
    #[serde(deserialize_with = "list")]
    pub allowed_topologies: Vec<Topology>,
}

/// Where a class makes volumes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Topology {
    #[serde(deserialize_with = "list")]
    pub match_label_expressions: Vec<Requirement>,
}

impl kube::Resource for StorageClass {
    type DynamicType = Older;
    type Scope = kube::core::ClusterResourceScope;

    fn kind(_: &Older) -> Cow<'_, str> {
        "StorageClass".into()
    }
    fn group(_: &Older) -> Cow<'_, str> {
        "storage.k8s.io".into()
    }
    fn version(_: &Older) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural(_: &Older) -> Cow<'_, str> {
        "storageclasses".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
