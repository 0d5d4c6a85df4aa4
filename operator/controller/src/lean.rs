//! What the operator reads of the objects that it watches, and nothing more: a cluster has many pods, and most of a
//! pod is of no concern to placement. Every field may be absent; what does not parse is found when it is translated,
//! so that no object can stall the watch of its kind.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug};

use duosuan_crds::GROUP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference, Time};
use kube::api::ObjectMeta;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};

use crate::publish::MANAGER;
use nominator::NominatedByUs;
pub use placement::{
    Affinity, LabelSelector, NodeAffinity, NodeSelector, NodeSelectorTerm, PodAffinity, PodTerm,
    PreferredSchedulingTerm, Requirement, Spread, Taint, Toleration, WeightedPodTerm,
};
pub use pod_group::{PodGroupSpec, PodGroupStatus, SchedulingGroup};
pub use report::{ReportCondition, ReportStatus, ReportedTier};
pub use storage::{StorageClass, Topology};

mod budget;
pub mod dra;
mod nominator;
mod placement;
mod pod_group;
mod report;
mod storage;

/// Texts by name.
pub type Texts = BTreeMap<String, String>;

/// What a kind is called in the API, and what is read of it.
pub trait Kind: Clone + Debug + Send + Sync + 'static {
    /// Group, empty for the core.
    const GROUP: &'static str;
    /// Version.
    const VERSION: &'static str;
    /// Versions that mean the same, for API servers that do not serve [`Kind::VERSION`]; the newest first.
    const OLDER: &'static [&'static str] = &[];
    /// Kind.
    const KIND: &'static str;
    /// Plural, as it stands in paths.
    const PLURAL: &'static str;
    /// What is read of its spec.
    type Spec: DeserializeOwned + Default + Clone + Debug + Send + 'static;
    /// What is read of its status.
    type Status: DeserializeOwned + Default + Clone + Debug + Send + 'static;
}

/// The version in which a kind is asked for, if it is not [`Kind::VERSION`].
pub type Older = Option<&'static str>;

/// An object of kind `K`: its metadata without what nobody reads (of the managed fields there is one entry at most, see
/// [`nominated_by_us`]), and the read parts of its spec and status.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub struct Object<K: Kind> {
    /// Name, namespace, UID, version, times, labels, annotations, generation.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Spec.
    #[serde(default)]
    pub spec: K::Spec,
    /// Status.
    #[serde(default)]
    pub status: K::Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<Texts>,
    annotations: Option<Texts>,
    managed_fields: NominatedByUs,
    owner_references: Option<Vec<Owner>>,
}

/// Who an object belongs to: of that only who controls it is kept.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Owner {
    kind: String,
    uid: String,
    controller: Option<bool>,
}

pub(crate) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let lean = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        generation: lean.generation,
        creation_timestamp: lean.creation_timestamp,
        deletion_timestamp: lean.deletion_timestamp,
        labels: lean.labels,
        annotations: lean.annotations,
        managed_fields: lean.managed_fields.0.then(|| {
            vec![ManagedFieldsEntry {
                manager: Some(MANAGER.to_owned()),
                ..ManagedFieldsEntry::default()
            }]
        }),
        owner_references: lean.owner_references.and_then(controlled_by).map(|owner| {
            vec![OwnerReference {
                kind: owner.kind,
                uid: owner.uid,
                controller: Some(true),
                ..OwnerReference::default()
            }]
        }),
        ..ObjectMeta::default()
    })
}

fn controlled_by(owners: Vec<Owner>) -> Option<Owner> {
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

/// UID of the object that controls this one: no other owner is kept.
pub fn controller(meta: &ObjectMeta) -> Option<&str> {
    meta.owner_references.as_ref()?.first().map(|owner| owner.uid.as_str())
}

/// UID of the object that controls this pod, if the pods of such an object are replicas of each other: not those of a
/// `DaemonSet`, which sit where their nodes are, or of a `Job`, which work together and then end.
pub fn replica_of(pod: &ObjectMeta) -> Option<&str> {
    let owner = pod.owner_references.as_ref()?.first()?;
    (!matches!(owner.kind.as_str(), "DaemonSet" | "Job" | "Node")).then_some(&owner.uid)
}

/// Whether the `nominatedNodeName` of a pod is the word of an operator of ours, this one or one before it.
pub fn nominated_by_us(pod: &ObjectMeta) -> bool {
    pod.managed_fields.is_some()
}

impl<K: Kind> kube::Resource for Object<K> {
    type DynamicType = Older;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(_: &Older) -> Cow<'_, str> {
        K::KIND.into()
    }
    fn group(_: &Older) -> Cow<'_, str> {
        K::GROUP.into()
    }
    fn version(older: &Older) -> Cow<'_, str> {
        older.unwrap_or(K::VERSION).into()
    }
    fn plural(_: &Older) -> Cow<'_, str> {
        K::PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $group:expr, $version:literal $(or $older:expr)?, $kind:literal, $plural:literal,
        $spec:ty, $status:ty;)*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Kind for $name {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            $(const OLDER: &'static [&'static str] = $older;)?
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            type Spec = $spec;
            type Status = $status;
        })*
    };
}

kinds! {
    /// A node.
    Node: "", "v1", "Node", "nodes", NodeSpec, NodeStatus;
    /// A pod.
    Pod: "", "v1", "Pod", "pods", PodSpec, PodStatus;
    /// A namespace, of which only the labels matter.
    Namespace: "", "v1", "Namespace", "namespaces", IgnoredAny, IgnoredAny;
    /// A capacity claim: a `CapacityClaimSpec` and a `CapacityClaimStatus`.
    Claim: GROUP, "v1alpha1", "CapacityClaim", "capacityclaims", Unread, Unread;
    /// A queue: a `QueueSpec` and a `QueueStatus`.
    Queue: GROUP, "v1alpha1", "Queue", "queues", Unread, Unread;
    /// A node's report: the part of a `NodeReportStatus` that placement looks at.
    Report: GROUP, "v1alpha1", "NodeReport", "nodereports", IgnoredAny, ReportStatus;
    /// A pod group of Kubernetes' own: of 1.37 the first two versions, which are alike, and of 1.36 the last.
    PodGroup: "scheduling.k8s.io", "v1beta1" or &["v1alpha3", "v1alpha2"], "PodGroup", "podgroups",
        PodGroupSpec, PodGroupStatus;
    /// A co-location policy: a `ColocationPolicySpec` and a `ColocationPolicyStatus`.
    Policy: GROUP, "v1alpha1", "ColocationPolicy", "colocationpolicies", Unread, Unread;
    /// A claim to a persistent volume.
    VolumeClaim: "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", storage::VolumeClaimSpec, storage::Phase;
    /// A persistent volume.
    Volume: "", "v1", "PersistentVolume", "persistentvolumes", storage::VolumeSpec, storage::Phase;
    /// A disruption budget.
    DisruptionBudget: "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", budget::BudgetSpec, budget::BudgetStatus;
    /// Devices of a pool that a driver offers.
    ResourceSlice: "resource.k8s.io", "v1", "ResourceSlice", "resourceslices", dra::ResourceSliceSpec, IgnoredAny;
    /// A class of devices.
    DeviceClass: "resource.k8s.io", "v1", "DeviceClass", "deviceclasses", dra::DeviceClassSpec, IgnoredAny;
    /// A claim to devices.
    ResourceClaim: "resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", dra::ResourceClaimSpec, dra::ResourceClaimStatus;
    /// The CSI drivers of a node.
    CsiNode: "storage.k8s.io", "v1", "CSINode", "csinodes", storage::CsiNodeSpec, IgnoredAny;
}

/// A list that may be `null`.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

/// Spec of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct NodeSpec {
    #[serde(deserialize_with = "list")]
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
}

/// Status of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct NodeStatus {
    pub allocatable: Texts,
    #[serde(deserialize_with = "list")]
    pub images: Vec<ContainerImage>,
}

/// An image that a node holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ContainerImage {
    #[serde(deserialize_with = "list")]
    pub names: Vec<String>,
    pub size_bytes: i64,
}

/// Spec of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub scheduler_name: Option<String>,
    pub scheduling_group: Option<SchedulingGroup>,
    pub priority: Option<i32>,
    pub preemption_policy: Option<String>,
    pub node_selector: Option<Texts>,
    pub affinity: Option<Affinity>,
    #[serde(deserialize_with = "list")]
    pub tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "list")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "list")]
    pub init_containers: Vec<Container>,
    pub overhead: Option<Texts>,
    pub resources: Option<Resources>,
    #[serde(deserialize_with = "list")]
    pub scheduling_gates: Vec<IgnoredAny>,
    #[serde(deserialize_with = "list")]
    pub topology_spread_constraints: Vec<Spread>,
    #[serde(deserialize_with = "list")]
    pub volumes: Vec<PodVolume>,
    #[serde(deserialize_with = "list")]
    pub resource_claims: Vec<dra::PodResourceClaim>,
}

/// A volume of a pod, if it is one that binds the pod to a place.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodVolume {
    pub name: String,
    pub persistent_volume_claim: Option<storage::ClaimSource>,
    pub ephemeral: Option<IgnoredAny>,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Container {
    pub name: String,
    pub image: Option<String>,
    pub resources: Resources,
    pub restart_policy: Option<String>,
    #[serde(deserialize_with = "list")]
    pub ports: Vec<Port>,
}

/// Resources of a container or a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Resources {
    pub requests: Option<Texts>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Port {
    pub host_port: i32,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub protocol: Option<String>,
}

/// Status of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodStatus {
    pub phase: Option<String>,
    pub nominated_node_name: Option<String>,
    pub start_time: Option<Time>,
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "list")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "list")]
    pub init_container_statuses: Vec<ContainerStatus>,
    pub resources: Option<Resources>,
    pub allocated_resources: Option<Texts>,
    #[serde(deserialize_with = "list")]
    pub resource_claim_statuses: Vec<dra::PodResourceClaimStatus>,
}

/// What a node says of the resources of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ContainerStatus {
    pub name: String,
    pub resources: Option<Resources>,
    pub allocated_resources: Option<Texts>,
}

/// A condition of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
}

/// A part of one of our own objects, read only when it is translated: a cluster may serve other versions of our kinds
/// than this operator was built with.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Unread(serde_json::Value);

impl Default for Unread {
    fn default() -> Self {
        Self(serde_json::Value::Null)
    }
}

impl Unread {
    /// There is none.
    pub fn is_absent(&self) -> bool {
        self.0.is_null()
    }

    /// The part as a list of what it should hold; `None` where there is none.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn read_list<T: DeserializeOwned>(self) -> Result<Option<Vec<T>>, serde_json::Error> {
        serde_json::from_value(self.0)
    }

    /// The part as what it should be; where there is none, as an empty object.
    ///
    /// # Errors
    ///
    /// If it is something else; the error names the field.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, serde_json::Error> {
        serde_json::from_value(if self.0.is_null() {
            serde_json::Value::Object(serde_json::Map::new())
        } else {
            self.0
        })
    }
}
