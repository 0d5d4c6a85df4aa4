//! What is done before the agents are uninstalled: they end, and what they published goes with them.
//!
//! Expected flow: the DaemonSet is deleted, and gone only with its last pod, so that each agent has put its node's kernel back
//! and has had its last word to the API server; then mid's and batch's resources are taken off every node, and the reports are
//! deleted. An agent cannot do the latter itself: it may as well be replaced as uninstalled, and where a pod of mid or batch still
//! runs it leaves what that has bound.
//!
//! Guarantees: what another field manager put on a node stays. Pods of both that run go on: a kubelet ignores a resource that
//! its node does not have.

use std::time::Duration;

use anyhow::{Context, bail};
use duosuan_crds::NodeReport;
use futures::{StreamExt, stream};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::{identity, options::Options, publish};

/// Name of the agents' DaemonSet, and of them as a component.
const AGENT: &str = "duosuan-agent";
/// How long nobody of the agents may end before the others are not waited for: the chart's grace and some more. Of thousands
/// the last is only told after minutes; one on a node that is down ends for nobody.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions whether they have.
const PAUSE: Duration = Duration::from_millis(500);
/// Nodes of a page.
const PAGE: u32 = 500;
/// Nodes that are written to at a time: 5,000 take half a minute then, of the five minutes that Helm waits.
const AT_A_TIME: usize = 32;

/// What was left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Nodes from which resources were taken.
    pub nodes: Vec<String>,
    /// Nodes whose agent did not end in time: their kernel is put back when they are up again and it ends there, or by an agent
    /// that is installed later.
    pub behind: Vec<String>,
    /// What the API server refused, with its object: the rest is done all the same.
    pub refused: Vec<String>,
}

/// Ends the agents of a namespace and takes what they published off the cluster.
///
/// # Errors
///
/// If there is no way to the API server, or it refuses something: whatever it does not refuse is done by then, and it may be
/// run again.
pub async fn run(options: &Options, namespace: &str) -> anyhow::Result<()> {
    let mut config = identity::config(options.kubeconfig.as_deref()).await?;
    // A server that does not answer has Helm say so in time. One that is overloaded is asked again by the client itself.
    config.connect_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(30));
    let client = Client::try_from(config).context("the API server's address or credentials cannot be used")?;
    let left = leave(&client, namespace, PATIENCE).await?;
    for node in &left.behind {
        tracing::warn!(
            %node,
            "its agent has not ended, nor any other within {} s: what it changed in the node's kernel holds until it ends, or the node starts anew",
            PATIENCE.as_secs()
        );
    }
    if !left.refused.is_empty() {
        bail!("what agents published is still there: {}", left.refused.join("; "));
    }
    tracing::info!(
        nodes = left.nodes.len(),
        not_ended = left.behind.len(),
        "what the agents published is taken off"
    );
    Ok(())
}

/// The same with a patience of the caller's, and no error for what is refused of a node.
///
/// # Errors
///
/// If the DaemonSet, the agents or the nodes cannot be asked for.
pub async fn leave(client: &Client, namespace: &str, patience: Duration) -> anyhow::Result<Left> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    // It is there until its last pod is gone, and starts none meanwhile.
    if absent(sets.delete(AGENT, &DeleteParams::foreground()).await)
        .with_context(|| format!("deleting DaemonSet {namespace}/{AGENT}"))?
    {
        tracing::info!("there is no DaemonSet {namespace}/{AGENT}");
    }
    let behind = ended(client, &sets, namespace, patience).await?;
    let (nodes, mut refused) = take_off_all(client).await?;
    let reports: Api<NodeReport> = Api::all(client.clone());
    if let Err(error) = absent(
        reports
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await,
    ) {
        refused.push(format!("deleting the NodeReports: {error}"));
    }
    Ok(Left { nodes, behind, refused })
}

/// Waits for the agents' end. The nodes of those that are left when none has ended for as long as the patience.
async fn ended(
    client: &Client,
    sets: &Api<DaemonSet>,
    namespace: &str,
    patience: Duration,
) -> anyhow::Result<Vec<String>> {
    let mut left = usize::MAX;
    loop {
        if let Ok(gone) = tokio::time::timeout(patience, gone(sets)).await {
            return gone.map(|()| Vec::new());
        }
        let nodes = nodes_with_agents(client, namespace).await?;
        if nodes.len() >= left || patience.is_zero() {
            return Ok(nodes);
        }
        left = nodes.len();
    }
}

async fn gone(sets: &Api<DaemonSet>) -> anyhow::Result<()> {
    while sets
        .get_metadata_opt(AGENT)
        .await
        .context("asking for the DaemonSet")?
        .is_some()
    {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn nodes_with_agents(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let agents = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENT}"));
    let agents = pods.list(&agents).await.context("listing the agents' pods")?;
    let mut nodes: Vec<String> = agents.items.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
    nodes.sort();
    Ok(nodes)
}

/// Takes mid's and batch's resources off each node that has them by an agent's hand: from which, and what was refused.
async fn take_off_all(client: &Client) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let nodes: Api<Node> = Api::all(client.clone());
    // All pages first: an API server forgets after five minutes how to go on.
    let mut listed = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = nodes.list_metadata(&page).await.context("listing the nodes")?;
        listed.extend(list.items);
        match list.metadata.continue_ {
            Some(more) if !more.is_empty() => page = page.continue_token(&more),
            _ => break,
        }
    }
    let mut answers = stream::iter(listed)
        .map(|node| {
            let nodes = &nodes;
            async move {
                let name = node.name_any();
                let taken = publish::take_off_of(nodes, &name, node.managed_fields()).await;
                (name, taken)
            }
        })
        .buffer_unordered(AT_A_TIME);
    let (mut from, mut refused) = (Vec::new(), Vec::new());
    while let Some((name, taken)) = answers.next().await {
        match taken {
            Ok(true) => from.push(name),
            Ok(false) => {}
            // It was removed since it was listed.
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            Err(error) => refused.push(format!("taking mid's and batch's resources off node {name}: {error}")),
        }
    }
    from.sort();
    refused.sort();
    Ok((from, refused))
}

/// Whether what was to be deleted is not there, or its kind is not.
fn absent<T>(deleted: kube::Result<T>) -> kube::Result<bool> {
    match deleted {
        Ok(_) => Ok(false),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;
    use crate::publish::FIELD_MANAGER;

    /// A server where the agents' pods are as many as the list says, one number a question, and then there is no DaemonSet. Nodes
    /// are named by the status with which they take a write.
    fn server(agents: &'static [usize], nodes: &'static [u16]) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, lists) = (Arc::clone(&asked), Arc::new(Mutex::new(agents.iter())));
        let service = tower::service_fn(move |request: Request<Body>| {
            let asked = format!("{} {}", request.method(), request.uri().path());
            let last = asked.rsplit('/').next().unwrap_or_default().to_owned();
            let (code, body) = match (request.method().as_str(), last.as_str()) {
                ("GET", "duosuan-agent") if lists.lock().unwrap().len() > 0 => {
                    (200, json!({"metadata": {"name": AGENT}}))
                }
                ("GET", "pods") => {
                    let count = lists.lock().unwrap().next().copied().unwrap_or_default();
                    let pod = |i| json!({"metadata": {"name": format!("a{i}")}, "spec": {"nodeName": format!("n{i}"), "containers": []}});
                    (
                        200,
                        json!({"metadata": {}, "items": (0..count).map(pod).collect::<Vec<_>>()}),
                    )
                }
                ("GET", "nodes") => {
                    let fields = json!({"f:status": {"f:capacity": {"f:duosuan.io/batch-cpu": {}}}});
                    let managed = json!([{"manager": FIELD_MANAGER, "operation": "Apply", "subresource": "status",
                        "fieldsType": "FieldsV1", "fieldsV1": fields}]);
                    let node = |code: &u16| json!({"metadata": {"name": code.to_string(), "managedFields": managed}});
                    (
                        200,
                        json!({"metadata": {}, "items": nodes.iter().map(node).collect::<Vec<_>>()}),
                    )
                }
                ("PATCH", _) => {
                    let code = asked
                        .split('/')
                        .rev()
                        .nth(1)
                        .and_then(|code| code.parse().ok())
                        .unwrap_or(500);
                    (code, json!({"metadata": {"name": "n"}}))
                }
                ("DELETE", _) => (200, json!({"metadata": {}, "items": []})),
                _ => (404, Value::Null),
            };
            log.lock().unwrap().push(asked);
            let body = if code < 300 {
                body
            } else {
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": if code == 404 { "NotFound" } else { "Invalid" }, "metadata": {}})
            };
            let answer = Response::builder()
                .status(code)
                .body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, kube::Error>(answer.unwrap()) }
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn a_node_that_refuses_or_is_gone_keeps_no_other_from_being_cleared() {
        let (client, asked) = server(&[], &[404, 422, 200]);
        let left = leave(&client, "ns", Duration::from_secs(60)).await.unwrap();
        assert_eq!((left.nodes.as_slice(), left.behind.len()), (&["200".to_owned()][..], 0));
        assert_eq!(left.refused.len(), 1, "{left:?}");
        assert!(left.refused.iter().all(|why| why.contains("node 422")), "{left:?}");
        let last = asked.lock().unwrap().last().cloned();
        assert_eq!(last.as_deref(), Some("DELETE /apis/duosuan.io/v1alpha1/nodereports"));
    }

    #[tokio::test(start_paused = true)]
    async fn agents_are_waited_for_as_long_as_they_go_on_ending() {
        let began = tokio::time::Instant::now();
        let (client, _) = server(&[900, 500, 100], &[]);
        assert_eq!(leave(&client, "ns", PATIENCE).await.unwrap(), Left::default());
        assert!(began.elapsed() >= 3 * PATIENCE, "{:?}", began.elapsed());
        let (client, _) = server(&[2, 1, 1, 1], &[]);
        let left = leave(&client, "ns", PATIENCE).await.unwrap();
        assert_eq!(
            left.behind,
            ["n0"],
            "when none ended any more, the rest is not waited for"
        );
    }
}
