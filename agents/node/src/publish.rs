//! What the agent writes to the API server: its node's report, and its node's extended resources.
//!
//! Both by server-side apply under one field manager, without force: a resource that somebody else writes stays his,
//! and the report says so.

use duosuan_crds::{
    NodeReport, NodeReportStatus, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY,
};
use duosuan_policy::{Report, Resources, Tier};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Node,
    apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::Status,
};
use serde_json::json;

use crate::{
    agent::Agent,
    machine::Machine,
    selection::Choice,
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

/// The tiers that are offered capacity, with the names of their CPU and memory.
const OFFERED: [(Tier, [&str; 2]); 2] = [
    (Tier::Mid, [RESOURCE_MID_CPU, RESOURCE_MID_MEMORY]),
    (Tier::Batch, [RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY]),
];

/// What a node offers, by tier; nothing of a tier is not the same as zero of it: its resources are not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// To mid.
    pub mid: Option<Resources>,
    /// To batch. Where there is something of mid, there is something of batch, if only zero.
    pub batch: Option<Resources>,
}

impl Offers {
    const fn of(&self, tier: Tier) -> Option<Resources> {
        match tier {
            Tier::Mid => self.mid,
            Tier::Batch => self.batch,
            Tier::Prod => None,
        }
    }

    /// What is bound, and no more than that.
    pub fn bound(mid: Resources, batch: Resources) -> Self {
        let none = Resources::default();
        Self {
            mid: (mid != none).then_some(mid),
            batch: (mid != none || batch != none).then_some(batch),
        }
    }
}

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The report, without conditions.
    pub status: NodeReportStatus,
    /// Conditions as of now; the publisher adds its own, and the times since when they hold.
    pub conditions: Conditions,
    /// What to offer; what is absent is taken off the node.
    pub offers: Offers,
    /// When it was made.
    pub now: Timestamp,
}

impl Draft {
    /// What one agent has to publish after a look.
    pub fn of<M: Machine>(report: &Report, agent: &Agent<M>, parts: &Parts, now: Timestamp) -> Self {
        let mut conditions = Conditions::default();
        status::judge(&mut conditions, agent.choice(), agent.observes(), report, now);
        let bound = |tier| report.tier(tier).map(|view| view.bound).unwrap_or_default();
        let (mid, batch) = (bound(Tier::Mid), bound(Tier::Batch));
        // A node without a policy is as one without the agent, unless something is bound that a restart of the kubelet
        // would fail for want of the resource. So is one whose policy offers mid nothing, for mid.
        let offers = match agent.choice() {
            Choice::Policy { policy, .. } if !policy.suspended => Offers {
                mid: (!policy.mid.off() || mid != Resources::default()).then(|| rounded(report.offer(Tier::Mid), mid)),
                batch: Some(rounded(report.offer(Tier::Batch), batch)),
            },
            _ => Offers::bound(mid, batch),
        };
        Self {
            status: status::status(report, agent.choice(), agent.machine.capabilities(), parts, now),
            conditions,
            offers,
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
    #[error("writing the capacity that node {node} offers: {source}")]
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
    /// What stands in the node's status by our hand; `None` if that is not known.
    published: Option<Offers>,
    /// What was logged of resources that another writes, while he does.
    contested: Option<String>,
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
            contested: None,
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

    /// Publishes. The node's status is written only where an offer fell, or grew by more than 5 %.
    ///
    /// # Errors
    ///
    /// If a write failed; what another field manager owns is no error, but a condition of the report.
    pub async fn publish(&mut self, draft: Draft) -> Result<(), PublishError> {
        let capacity = if self.differs(draft.offers) {
            self.write_capacity(draft.offers, draft.now).await
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
    pub async fn withdraw(&mut self, bound: Offers, now: Timestamp) -> Result<(), PublishError> {
        if self.published == Some(bound) {
            Ok(())
        } else {
            self.write_capacity(bound, now).await
        }
    }

    fn differs(&self, wanted: Offers) -> bool {
        let Some(standing) = self.published else { return true };
        OFFERED
            .iter()
            .any(|(tier, _)| match (standing.of(*tier), wanted.of(*tier)) {
                (None, None) => false,
                (Some(a), Some(b)) => {
                    let worth = |a: i64, b: i64| b < a || (b - a).saturating_mul(20) > a;
                    worth(a.cpu, b.cpu) || worth(a.memory, b.memory)
                }
                _ => true,
            })
    }

    async fn write_capacity(&mut self, wanted: Offers, now: Timestamp) -> Result<(), PublishError> {
        // What somebody else writes is left to him, and the rest published all the same.
        let mut theirs: Vec<&str> = Vec::new();
        let mut said = None;
        loop {
            match self.write_all_but(&theirs, wanted).await {
                Ok(()) => break,
                Err(kube::Error::Api(answer)) if answer.code == 409 => {
                    let found = contested(&answer, &theirs);
                    if found.is_empty() {
                        self.published = None;
                        return Err(self.capacity_error(kube::Error::Api(answer)));
                    }
                    theirs.extend(found);
                    said.get_or_insert(answer.message);
                }
                Err(source) => {
                    self.published = None;
                    return Err(self.capacity_error(source));
                }
            }
        }
        let (good, reason, message) = match said {
            None => {
                self.published = Some(wanted);
                self.contested = None;
                (true, "Published", sentence(wanted))
            }
            Some(said) => {
                // Retried with each report: whoever owns the keys may let them go.
                self.published = None;
                let message = format!(
                    "another field manager writes {} of this node; its value stays until it lets go of it: {said}",
                    theirs.join(" and ")
                );
                if self.contested.as_ref() != Some(&message) {
                    tracing::warn!(node = %self.node, "{message}");
                    self.contested = Some(message.clone());
                }
                (false, "OwnedByAnother", message)
            }
        };
        self.conditions.set("CapacityPublished", good, reason, message, now);
        Ok(())
    }

    fn capacity_error(&self, source: kube::Error) -> PublishError {
        PublishError::Capacity {
            node: self.node.clone(),
            source,
        }
    }

    /// Capacity and allocatable together: the kubelet makes allocatable of capacity at its next status update.
    async fn write_all_but(&self, theirs: &[&str], wanted: Offers) -> kube::Result<()> {
        let offers = OFFERED
            .iter()
            .filter_map(|(tier, names)| Some((names, wanted.of(*tier)?)));
        let map: serde_json::Map<_, _> = offers
            .flat_map(|(names, offer)| names.iter().zip([offer.cpu, offer.memory]))
            .filter(|(name, _)| !theirs.contains(name))
            .map(|(name, amount)| ((*name).to_owned(), amount.to_string().into()))
            .collect();
        if map.is_empty() {
            return self.take_off().await;
        }
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
        let keys: serde_json::Map<_, _> = OFFERED
            .iter()
            .flat_map(|(_, names)| names)
            .filter(|resource| ours(map, resource))
            .map(|resource| ((*resource).to_owned(), serde_json::Value::Null))
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

/// Resources whose writer is another, by the answer to an apply, without those that are known to be.
fn contested(answer: &Status, known: &[&str]) -> Vec<&'static str> {
    let causes = answer.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<&str> = causes.map(|cause| cause.field.as_str()).collect();
    let names = OFFERED.iter().flat_map(|(_, names)| names);
    names
        .filter(|name| !known.contains(name) && fields.iter().any(|field| field.ends_with(**name)))
        .copied()
        .collect()
}

/// What is offered, in words.
fn sentence(offers: Offers) -> String {
    let parts = OFFERED.iter().filter_map(|(tier, _)| {
        let offer = offers.of(*tier)?;
        Some(format!(
            "{}m of CPU and {} bytes of memory for {}",
            offer.cpu,
            offer.memory,
            tier.as_str()
        ))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        "the node offers no capacity to mid and batch".to_owned()
    } else {
        parts.join("; ")
    }
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
