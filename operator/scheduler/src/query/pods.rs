//! Pods, one by one.

use serde::{Deserialize, Serialize};

use crate::{Cluster, event::Time, slab::PodOrd};

/// How a pod stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// Its UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// When it was created.
    pub created: Time,
    /// Group of its claim that its label names.
    pub group: String,
    /// Node of a pod that is bound or about to be.
    pub node: Option<String>,
    /// Devices on that node.
    pub devices: Vec<u16>,
    /// It has ended.
    pub finished: bool,
    /// It could be placed now, as far as it alone is concerned.
    pub waits: bool,
    /// It is one of ours.
    pub ours: bool,
}

impl Cluster {
    /// A pod, by UID.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<PodView> {
        Some(self.pod_view(*self.model.pods_by_uid.get(uid)?))
    }

    /// A pod, by namespace and name; the youngest, where one that is going has the name of one that came. Looks at every
    /// pod.
    #[must_use]
    pub fn pod_named(&self, namespace: &str, name: &str) -> Option<PodView> {
        let named = |(_, pod): &(PodOrd, &crate::model::PodSlot)| &*pod.namespace == namespace && &*pod.name == name;
        let youngest = self.model.pods.iter().filter(named);
        let (ord, _) = youngest.max_by(|a, b| (a.1.created, &a.1.uid).cmp(&(b.1.created, &b.1.uid)))?;
        Some(self.pod_view(ord))
    }

    /// The pods of a claim, by name.
    #[must_use]
    pub fn pods_of_claim(&self, uid: &str) -> Vec<PodView> {
        let Some(&claim) = self.model.claims_by_uid.get(uid) else {
            return Vec::new();
        };
        let mut pods: Vec<PodView> = self.model.members(claim).map(|pod| self.pod_view(pod)).collect();
        pods.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        pods
    }

    /// All pods, by namespace, name and UID.
    #[must_use]
    pub fn pod_views(&self) -> Vec<PodView> {
        let mut pods: Vec<PodView> = self.model.pods.iter().map(|(ord, _)| self.pod_view(ord)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        pods
    }

    fn pod_view(&self, ord: PodOrd) -> PodView {
        let pod = &self.model.pods[ord];
        let seat = pod.place.seat().filter(|_| pod.place.is_taken());
        PodView {
            uid: pod.uid.to_string(),
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            created: pod.created,
            group: pod.group.to_string(),
            node: seat.map(|seat| self.model.nodes[seat.node].name.to_string()),
            devices: seat.map(|seat| seat.devices.to_vec()).unwrap_or_default(),
            finished: pod.finished,
            waits: pod.waits(),
            ours: pod.ours,
        }
    }
}
