//! The node's extended resources: what is offered to mid and batch.

use duosuan_crds::{RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY};
use duosuan_policy::{Resources, Tier};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    core::Status,
};
use serde_json::json;

use super::{FIELD_MANAGER, PublishError, Publisher};

/// What somebody else writes is tried again after the first of these, and after twice as long each time, up to the second.
const RETRY: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(15), SignedDuration::from_mins(8));
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

/// Resources that somebody else writes.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    /// Their names, in order.
    names: Vec<&'static str>,
    message: String,
    /// When they are tried again, and how long that is after the try before.
    again: Timestamp,
    wait: SignedDuration,
}

impl Contest {
    /// Whether it is time to try again; where the clock was set back, it is.
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.again || now + RETRY.1 < self.again
    }
}

impl Publisher {
    /// Whether something is to be written: an offer fell, or grew by more than 5 %, or whoever writes it beside us may have let go.
    pub(super) fn differs(&self, wanted: Offers, now: Timestamp) -> bool {
        if self.contest.as_ref().is_some_and(|contest| contest.is_over(now)) {
            return true;
        }
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

    pub(super) async fn write_capacity(&mut self, wanted: Offers, now: Timestamp) -> Result<(), PublishError> {
        // What somebody else writes is left to him, and the rest published all the same.
        let before = self.contest.take();
        let tries = before.as_ref().is_none_or(|contest| contest.is_over(now));
        let mut theirs = match &before {
            Some(contest) if !tries => contest.names.clone(),
            _ => Vec::new(),
        };
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
                    (self.published, self.contest) = (None, before);
                    return Err(self.capacity_error(source));
                }
            }
        }
        self.published = Some(wanted);
        if theirs.is_empty() {
            self.conditions
                .set("CapacityPublished", true, "Published", sentence(wanted), now);
            return Ok(());
        }
        theirs.sort_unstable();
        let contest = match (before, said) {
            // As before: nobody was asked.
            (Some(contest), None) => contest,
            (before, said) => {
                let known = before.filter(|contest| contest.names == theirs);
                let wait = known
                    .as_ref()
                    .map_or(RETRY.0, |contest| (contest.wait * 2).min(RETRY.1));
                let contest = Contest {
                    message: format!(
                        "another field manager writes {} of this node; its value stays until it lets go of it: {}",
                        theirs.join(" and "),
                        said.unwrap_or_default()
                    ),
                    names: theirs,
                    wait,
                    again: now + wait,
                };
                if known.is_none() {
                    tracing::warn!(node = %self.node, "{}", contest.message);
                }
                contest
            }
        };
        self.conditions.set(
            "CapacityPublished",
            false,
            "OwnedByAnother",
            contest.message.clone(),
            now,
        );
        self.contest = Some(contest);
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
pub(super) fn rounded(offer: Resources, bound: Resources) -> Resources {
    let down = |value: i64, step: i64, least: i64| (value - value.rem_euclid(step)).max(least).max(0);
    Resources {
        cpu: down(offer.cpu, STEP.cpu, bound.cpu),
        memory: down(offer.memory, STEP.memory, bound.memory),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::{Arc, Mutex};

    use duosuan_crds::NodeReportStatus;
    use http::{Request, Response};
    use kube::{Client, client::Body};

    use super::{
        super::{Conditions, Draft},
        *,
    };

    /// A node of which somebody else writes a resource while this says so, and the resources that each write was of.
    #[derive(Debug, Default)]
    struct Server {
        theirs: Option<&'static str>,
        writes: Vec<Vec<String>>,
    }

    impl Server {
        fn answer(&mut self, path: &str, body: &[u8]) -> (u16, serde_json::Value) {
            if path.contains("/nodereports") {
                let report = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n"}, "spec": {}});
                return (200, report);
            }
            let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
            let capacity = asked.pointer("/status/capacity").unwrap().as_object().unwrap();
            let names: Vec<String> = capacity.keys().cloned().collect();
            let contested = self.theirs.filter(|theirs| capacity.contains_key(*theirs));
            self.writes.push(names);
            match contested {
                Some(theirs) => {
                    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict", "field": format!(".status.capacity.{theirs}")});
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
                        "message": "conflict with somebody-else", "reason": "Conflict", "details": {"causes": [cause]}});
                    (409, status)
                }
                None => (
                    200,
                    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}),
                ),
            }
        }
    }

    fn publisher() -> (Publisher, Arc<Mutex<Server>>) {
        let server = Arc::new(Mutex::new(Server::default()));
        let theirs = Arc::clone(&server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&theirs);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (code, answer) = server.lock().unwrap().answer(head.uri.path(), &body);
                let answer = Response::builder()
                    .status(code)
                    .body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, kube::Error>(answer.unwrap())
            }
        });
        (Publisher::new(Client::new(service, "default"), "n"), server)
    }

    /// Publishes the same at a second, and answers the writes that came of it.
    async fn publish(publisher: &mut Publisher, server: &Mutex<Server>, second: i64, cpu: i64) -> Vec<usize> {
        let draft = Draft {
            status: NodeReportStatus::default(),
            conditions: Conditions::default(),
            offers: Offers {
                mid: Some(Resources { cpu, memory: 1 << 30 }),
                batch: Some(Resources::default()),
            },
            now: Timestamp::from_second(second).unwrap(),
        };
        publisher.publish(draft).await.unwrap();
        let writes = std::mem::take(&mut server.lock().unwrap().writes);
        writes.iter().map(Vec::len).collect()
    }

    /// Each report of each node was two writes more, one of which was refused, as long as somebody wrote what is mid's.
    #[tokio::test]
    async fn what_another_writes_is_tried_again_less_and_less_often_and_the_rest_is_written_as_it_changes() {
        let (mut publisher, server) = publisher();
        server.lock().unwrap().theirs = Some(RESOURCE_MID_CPU);
        assert_eq!(publish(&mut publisher, &server, 0, 1_000).await, [4, 3]);
        assert_eq!(
            publish(&mut publisher, &server, 14, 1_000).await,
            [0; 0],
            "nothing changed"
        );
        assert_eq!(publish(&mut publisher, &server, 14, 500).await, [3], "his is not tried");
        let mut tries = Vec::new();
        for second in 15..3_600 {
            let writes = publish(&mut publisher, &server, second, 500).await;
            if !writes.is_empty() {
                assert_eq!(writes, [4, 3]);
                tries.push(second);
            }
        }
        assert_eq!(tries, [15, 45, 105, 225, 465, 945, 1_425, 1_905, 2_385, 2_865, 3_345]);
        server.lock().unwrap().theirs = None;
        assert_eq!(publish(&mut publisher, &server, 3_825, 500).await, [4], "he let it go");
        assert_eq!(publish(&mut publisher, &server, 4_000, 500).await, [0; 0]);
        server.lock().unwrap().theirs = Some(RESOURCE_MID_MEMORY);
        assert_eq!(publish(&mut publisher, &server, 4_001, 400).await, [4, 3]);
        assert_eq!(
            publish(&mut publisher, &server, 4_016, 400).await,
            [4, 3],
            "from the beginning"
        );
        server.lock().unwrap().theirs = None;
        assert_eq!(
            publish(&mut publisher, &server, 10, 400).await,
            [4],
            "the clock was set back by an hour"
        );
    }

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
