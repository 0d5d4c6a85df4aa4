//! What the agent writes to the API server: its node's report, and its node's extended resources.
//!
//! Both by server-side apply under one field manager, without force: a resource that somebody else writes stays his,
//! and the report says so.

mod capacity;

use duosuan_crds::{NodeReport, NodeReportStatus};
use duosuan_policy::{Report, Resources, Tier};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

pub use capacity::Offers;
pub(crate) use capacity::take_off_of;
use capacity::{Contest, rounded};

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
    /// Resources that another writes, while he does.
    contest: Option<Contest>,
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
            contest: None,
            conditions: Conditions::default(),
            standing: None,
        }
    }

    /// The node's UID, which the report names as its owner; a new one means a new node, with nothing published.
    pub fn set_node_uid(&mut self, uid: Option<String>) {
        if self.uid != uid {
            self.uid = uid;
            (self.published, self.contest) = (None, None);
            self.standing = None;
        }
    }

    /// Forgets what was published, so that the next publication writes it again.
    pub fn forget(&mut self) {
        self.published = None;
    }

    /// Publishes. The node's status is written only where an offer fell, or grew by more than 5 %, and now and then where somebody
    /// else writes some of it.
    ///
    /// # Errors
    ///
    /// If a write failed; what another field manager owns is no error, but a condition of the report.
    pub async fn publish(&mut self, draft: Draft) -> Result<(), PublishError> {
        let capacity = if self.differs(draft.offers, draft.now) {
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
