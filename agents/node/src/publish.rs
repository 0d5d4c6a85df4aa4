//! What the agent writes to the API server: its node's report, and its node's extended resources.
//!
//! Both by server-side apply under one field manager, without force: a resource that somebody else writes stays his,
//! and the report says so.

use duosuan_crds::{NodeReport, NodeReportStatus, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY};
use duosuan_policy::{Report, Resources, Tier};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Node,
    apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    agent::Agent,
    machine::Machine,
    status::{self, Conditions, Parts},
};

/// Field manager of everything that an agent writes.
pub const FIELD_MANAGER: &str = "duosuan-agent";
/// API of the report.
const API: &str = "duosuan.io/v1alpha1";
/// Steps of the published numbers, so that noise is not published: 100 milli-cores and 64 MiB.
const STEP: Resources = Resources {
    cpu: 100,
    memory: 64 << 20,
};

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The report, without conditions.
    pub status: NodeReportStatus,
    /// Conditions as of now; the publisher adds its own, and the times since when they hold.
    pub conditions: Conditions,
    /// Batch capacity to offer; `None` takes the resources off the node.
    pub offer: Option<Resources>,
    /// What is bound: no number below it is ever published.
    pub bound: Resources,
    /// When it was made.
    pub now: Timestamp,
}

impl Draft {
    /// What one agent has to publish after a look.
    pub fn of<M: Machine>(report: &Report, agent: &Agent<M>, parts: &Parts, now: Timestamp) -> Self {
        let mut conditions = Conditions::default();
        status::judge(&mut conditions, agent.choice(), agent.observes(), report, now);
        let bound = report
            .tiers
            .iter()
            .find(|t| t.tier == Tier::Batch)
            .map(|t| t.bound)
            .unwrap_or_default();
        // A node without a policy is as one without the agent, unless something is bound that a restart of the kubelet
        // would fail for want of the resource.
        let untouched = agent.choice().suspended() && bound == Resources::default();
        Self {
            status: status::status(report, agent.choice(), agent.machine.capabilities(), parts, now),
            conditions,
            offer: (!untouched).then(|| report.batch_offer()),
            bound,
            now,
        }
    }
}

/// A publication that did not reach the API server.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The NodeReport could not be written.
    #[error("writing NodeReport {node}: {source}")]
    Report {
        /// The node.
        node: String,
        /// Why.
        source: kube::Error,
    },
    /// The node's status could not be written.
    #[error("writing the batch capacity of node {node}: {source}")]
    Capacity {
        /// The node.
        node: String,
        /// Why.
        source: kube::Error,
    },
}

/// The writer of one node's objects.
#[derive(Clone)]
pub struct Publisher {
    client: Client,
    node: String,
    uid: Option<String>,
    /// What stands in the node's status by our hand: outer `None` if that is not known.
    published: Option<Option<Resources>>,
    conditions: Conditions,
    /// The report as the API server has it; `None` if that is not known.
    standing: Option<Standing>,
}

/// What of a report that stands counts for the next one.
#[derive(Clone, Debug, Default)]
struct Standing {
    generation: Option<i64>,
    conditions: Vec<Condition>,
}

impl Standing {
    fn of(report: NodeReport) -> Self {
        Self {
            generation: report.metadata.generation,
            conditions: report.status.unwrap_or_default().conditions,
        }
    }

    /// A condition that says what it said before has done so since then.
    fn continued(&self, mut condition: Condition) -> Condition {
        let before = self.conditions.iter().find(|c| c.type_ == condition.type_);
        if let Some(before) = before.filter(|b| b.status == condition.status) {
            condition.last_transition_time = before.last_transition_time.clone();
        }
        condition.observed_generation = self.generation;
        condition
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("node", &self.node)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// A writer that has written nothing yet.
    pub fn new(client: Client, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            uid: None,
            published: None,
            conditions: Conditions::default(),
            standing: None,
        }
    }

    /// The node's UID, which the report names as its owner; a new one means a new node, with nothing published.
    pub fn set_node_uid(&mut self, uid: Option<String>) {
        if self.uid != uid {
            self.uid = uid;
            self.published = None;
            self.standing = None;
        }
    }

    /// Forgets what was published, so that the next publication writes it again.
    pub fn forget(&mut self) {
        self.published = None;
    }

    /// What stands in the node's status by our hand, as far as is known.
    pub const fn published(&self) -> Option<Resources> {
        match self.published {
            Some(standing) => standing,
            None => None,
        }
    }

    /// Publishes. The node's status is written only where the offer fell, or grew by more than 5 %.
    ///
    /// # Errors
    ///
    /// If a write failed; what another field manager owns is no error, but a condition of the report.
    pub async fn publish(&mut self, draft: Draft) -> Result<(), PublishError> {
        let wanted = draft.offer.map(|offer| rounded(offer, draft.bound));
        let capacity = if self.differs(wanted) {
            self.write_capacity(wanted, draft.now).await
        } else {
            Ok(())
        };
        if let Err(error) = &capacity {
            self.conditions
                .set("CapacityPublished", false, "WriteFailed", error.to_string(), draft.now);
        }
        let standing = match self.standing.take() {
            Some(standing) => standing,
            None => self.read_report().await?,
        };
        let mut conditions = draft.conditions.list();
        conditions.extend(self.conditions.list());
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        let status = NodeReportStatus {
            conditions: conditions.into_iter().map(|c| standing.continued(c)).collect(),
            ..draft.status
        };
        self.standing = Some(self.write_report(&status).await?);
        capacity
    }

    /// Publishes the least that is safe: what is bound, and nothing more to place.
    ///
    /// # Errors
    ///
    /// If the write failed.
    pub async fn withdraw(&mut self, bound: Resources, now: Timestamp) -> Result<(), PublishError> {
        let wanted = (bound != Resources::default()).then_some(bound);
        if self.published == Some(wanted) {
            Ok(())
        } else {
            self.write_capacity(wanted, now).await
        }
    }

    fn differs(&self, wanted: Option<Resources>) -> bool {
        let Some(standing) = self.published else { return true };
        match (standing, wanted) {
            (None, None) => false,
            (Some(a), Some(b)) => {
                let worth = |a: i64, b: i64| b < a || (b - a).saturating_mul(20) > a;
                worth(a.cpu, b.cpu) || worth(a.memory, b.memory)
            }
            _ => true,
        }
    }

    async fn write_capacity(&mut self, wanted: Option<Resources>, now: Timestamp) -> Result<(), PublishError> {
        let written = match wanted {
            Some(wanted) => self.offer(wanted).await,
            None => self.take_off().await,
        };
        match written {
            Ok(()) => {
                self.published = Some(wanted);
                let message = match wanted {
                    Some(r) => format!("{}m of CPU and {} bytes of memory for batch", r.cpu, r.memory),
                    None => "the node offers no batch capacity".to_owned(),
                };
                self.conditions
                    .set("CapacityPublished", true, "Published", message, now);
                Ok(())
            }
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                // Retried with each report: whoever owns the keys may let them go.
                self.published = None;
                let message = format!(
                    "another field manager writes {RESOURCE_BATCH_CPU} or {RESOURCE_BATCH_MEMORY} of this node; its value stays \
                     until it lets go of them: {}",
                    answer.message
                );
                tracing::warn!(node = %self.node, "{message}");
                self.conditions
                    .set("CapacityPublished", false, "OwnedByAnother", message, now);
                Ok(())
            }
            Err(source) => {
                self.published = None;
                Err(PublishError::Capacity {
                    node: self.node.clone(),
                    source,
                })
            }
        }
    }

    /// Capacity and allocatable together: the kubelet makes allocatable of capacity at its next status update.
    async fn offer(&self, offer: Resources) -> kube::Result<()> {
        let map = json!({RESOURCE_BATCH_CPU: offer.cpu.to_string(), RESOURCE_BATCH_MEMORY: offer.memory.to_string()});
        let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node},
            "status": {"capacity": map, "allocatable": map}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .patch_status(&self.node, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&body))
            .await
            .map(|_| ())
    }

    /// Takes off the resources that are ours.
    ///
    /// Not by an apply without them: what the kubelet registered a node with has no owner in managedFields, and the apply
    /// that removes the last owned key of `capacity` takes all keys without an owner along, CPU and memory included.
    async fn take_off(&self) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = match nodes.get_metadata(&self.node).await {
            Ok(node) => node,
            // A node that is gone offers nothing.
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
            Err(error) => return Err(error),
        };
        take_off_of(&nodes, &self.node, node.managed_fields()).await.map(drop)
    }

    fn report_error(&self, source: kube::Error) -> PublishError {
        PublishError::Report {
            node: self.node.clone(),
            source,
        }
    }

    /// The report as an agent before this one left it, or a new one.
    async fn read_report(&self) -> Result<Standing, PublishError> {
        let reports: Api<NodeReport> = Api::all(self.client.clone());
        match reports.get_opt(&self.node).await {
            Ok(Some(report)) => Ok(Standing::of(report)),
            Ok(None) => self.create_report().await,
            Err(error) => Err(self.report_error(error)),
        }
    }

    async fn create_report(&self) -> Result<Standing, PublishError> {
        let mut metadata = json!({"name": self.node});
        if let (Some(uid), Some(map)) = (&self.uid, metadata.as_object_mut()) {
            let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid}]);
            map.insert("ownerReferences".to_owned(), owner);
        }
        let empty = json!({"apiVersion": API, "kind": "NodeReport", "metadata": metadata, "spec": {}});
        let reports: Api<NodeReport> = Api::all(self.client.clone());
        let created = reports
            .patch(&self.node, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&empty))
            .await;
        created.map(Standing::of).map_err(|e| self.report_error(e))
    }

    async fn write_report(&self, status: &NodeReportStatus) -> Result<Standing, PublishError> {
        let reports: Api<NodeReport> = Api::all(self.client.clone());
        let params = PatchParams::apply(FIELD_MANAGER);
        let body = json!({"apiVersion": API, "kind": "NodeReport", "metadata": {"name": self.node}, "status": status});
        let written = match reports.patch_status(&self.node, &params, &Patch::Apply(&body)).await {
            // Deleted since: what it said goes on.
            Err(kube::Error::Api(answer)) if answer.code == 404 => {
                self.create_report().await?;
                reports.patch_status(&self.node, &params, &Patch::Apply(&body)).await
            }
            other => other,
        };
        written.map(Standing::of).map_err(|e| self.report_error(e))
    }
}

/// Takes off a node the resources that are ours, by who manages what there. False if nothing there is ours.
pub(crate) async fn take_off_of(nodes: &Api<Node>, node: &str, managers: &[ManagedFieldsEntry]) -> kube::Result<bool> {
    let ours = |map: &str, resource: &str| {
        managers
            .iter()
            .filter(|f| f.manager.as_deref() == Some(FIELD_MANAGER))
            .any(|f| {
                let fields = f.fields_v1.as_ref().and_then(|fields| fields.0.get("f:status"));
                fields
                    .and_then(|s| s.get(format!("f:{map}")))
                    .and_then(|m| m.get(format!("f:{resource}")))
                    .is_some()
            })
    };
    let mut status = serde_json::Map::new();
    for map in ["capacity", "allocatable"] {
        let keys: serde_json::Map<_, _> = [RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY]
            .into_iter()
            .filter(|resource| ours(map, resource))
            .map(|resource| (resource.to_owned(), serde_json::Value::Null))
            .collect();
        if !keys.is_empty() {
            status.insert(map.to_owned(), keys.into());
        }
    }
    if status.is_empty() {
        return Ok(false);
    }
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    nodes
        .patch_status(node, &params, &Patch::Merge(&json!({"status": status})))
        .await
        .map(|_| true)
}

/// Rounded down to the step, but never below what is bound.
fn rounded(offer: Resources, bound: Resources) -> Resources {
    let down = |value: i64, step: i64, least: i64| (value - value.rem_euclid(step)).max(least).max(0);
    Resources {
        cpu: down(offer.cpu, STEP.cpu, bound.cpu),
        memory: down(offer.memory, STEP.memory, bound.memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_down_but_never_below_what_is_bound() {
        let offer = Resources {
            cpu: 1234,
            memory: (64 << 20) + 5,
        };
        let rounded_to = |bound| rounded(offer, bound);
        assert_eq!(
            rounded_to(Resources::default()),
            Resources {
                cpu: 1200,
                memory: 64 << 20
            }
        );
        let bound = Resources {
            cpu: 1230,
            memory: (64 << 20) + 1,
        };
        assert_eq!(rounded_to(bound), bound);
    }
}
