//! What is done before the agents are uninstalled: they end, and what they published goes with them.
//!
//! Expected flow: the DaemonSet is deleted, and gone only with its last pod, so that each agent has put its node's kernel back
//! and has had its last word to the API server; then batch's resources are taken off every node, and the reports are
//! deleted. An agent cannot do the latter itself: it may as well be replaced as uninstalled, and where a batch pod still
//! runs it leaves what that has bound.
//!
//! Guarantees: what another field manager put on a node stays. Batch pods that run go on: a kubelet ignores a resource that
//! its node does not have.

use std::time::Duration;

use anyhow::{Context, bail};
use duosuan_crds::NodeReport;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::{options::Options, publish::Publisher};

/// Name of the agents' DaemonSet, and of them as a component.
const AGENT: &str = "duosuan-agent";
/// How long agents have for their end: the chart's grace and some more. One on a node that is down ends for nobody.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions whether they have.
const PAUSE: Duration = Duration::from_millis(500);
/// Nodes of a page.
const PAGE: u32 = 500;

/// What was left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Nodes from which resources were taken.
    pub nodes: Vec<String>,
    /// Nodes whose agent did not end in time: their kernel is put back when they are up again and it ends there, or by an agent
    /// that is installed later.
    pub behind: Vec<String>,
}

/// Ends the agents of a namespace and takes what they published off the cluster.
///
/// # Errors
///
/// If there is no way to the API server, or it refuses something.
pub async fn run(options: &Options, namespace: &str) -> anyhow::Result<()> {
    let Some(client) = crate::run::client(options).await? else {
        bail!("--leave needs an API server: give --kubeconfig FILE and no --policy");
    };
    let left = leave(&client, namespace, PATIENCE).await?;
    for node in &left.behind {
        tracing::warn!(
            %node,
            "its agent has not ended within {} s: what it changed in the node's kernel holds until it ends, or the node starts anew",
            PATIENCE.as_secs()
        );
    }
    tracing::info!(
        nodes = left.nodes.len(),
        "the agents are gone, and so is what they published"
    );
    Ok(())
}

/// The same with a patience of the caller's.
///
/// # Errors
///
/// As [`run`].
pub async fn leave(client: &Client, namespace: &str, patience: Duration) -> anyhow::Result<Left> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    // It is there until its last pod is gone, and starts none meanwhile.
    if absent(sets.delete(AGENT, &DeleteParams::foreground()).await)
        .with_context(|| format!("deleting DaemonSet {namespace}/{AGENT}"))?
    {
        tracing::info!("there is no DaemonSet {namespace}/{AGENT}");
    }
    let behind = match tokio::time::timeout(patience, gone(&sets)).await {
        Ok(gone) => gone.map(|()| Vec::new())?,
        Err(_) => nodes_with_agents(client, namespace).await?,
    };
    let nodes = take_off_all(client).await?;
    let reports: Api<NodeReport> = Api::all(client.clone());
    absent(
        reports
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await,
    )
    .context("deleting the NodeReports")?;
    Ok(Left { nodes, behind })
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

/// Takes batch's resources off each node that has them by an agent's hand.
async fn take_off_all(client: &Client) -> anyhow::Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut from = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = nodes.list_metadata(&page).await.context("listing the nodes")?;
        for node in list.items {
            let name = node.name_any();
            let publisher = Publisher::new(client.clone(), &name);
            if publisher
                .take_off_of(node.managed_fields())
                .await
                .with_context(|| format!("taking batch's resources off node {name}"))?
            {
                from.push(name);
            }
        }
        match list.metadata.continue_ {
            Some(more) if !more.is_empty() => page = page.continue_token(&more),
            _ => return Ok(from),
        }
    }
}

/// Whether what was to be deleted is not there, or its kind is not.
fn absent<T>(deleted: kube::Result<T>) -> kube::Result<bool> {
    match deleted {
        Ok(_) => Ok(false),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(true),
        Err(error) => Err(error),
    }
}
