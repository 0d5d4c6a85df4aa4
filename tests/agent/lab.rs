//! A node of its own for each test, and the waits for what the agent writes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use duosuan_crds::{ColocationPolicy, NodeReport};
use duosuan_node::simulated::{FleetOptions, run_fleet};
use duosuan_tests::cluster::{cluster, config, install_crds};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A node of its own and a fleet of one on it, so that tests do not meet.
pub(crate) struct Lab {
    /// Of the administrator.
    pub(crate) client: Client,
    /// The node's name.
    pub(crate) node: String,
    options: FleetOptions,
    fleet: JoinHandle<anyhow::Result<()>>,
    shutdown: Option<DropGuard>,
}

impl Lab {
    pub(crate) async fn start(node: &str) -> Self {
        Self::start_as(node, true, false).await
    }

    /// A node that no simulated agent serves.
    pub(crate) async fn start_idle(node: &str) -> Self {
        Self::start_as(node, false, false).await
    }

    pub(crate) async fn start_as(node: &str, simulated: bool, impersonate: bool) -> Self {
        // As an agent's own: see its `run`.
        let mut config = config(cluster().unwrap()).await.unwrap();
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        install_crds(&client).await.unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node, "labels": {"lab": node, "nvidia.com/gpu.product": "A100-SXM4-80GB"}},
            "status": {
                "capacity": {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "2"},
                "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "2"},
            },
        });
        let nodes: Api<Node> = Api::all(client.clone());
        nodes
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .unwrap();
        let mut options = FleetOptions::new(if simulated { vec![node.to_owned()] } else { vec![] });
        options.report_period = Duration::from_secs(1);
        options.report_spacing = Duration::from_millis(200);
        options.step = Duration::from_millis(200);
        options.impersonate = impersonate;
        let (fleet, shutdown) = fleet(&client, &options);
        Self {
            client,
            node: node.to_owned(),
            options,
            fleet,
            shutdown: Some(shutdown),
        }
    }

    /// Ends the agents and starts others in their place.
    pub(crate) async fn restart(&mut self) {
        drop(self.shutdown.take());
        (&mut self.fleet).await.unwrap().unwrap();
        let (fleet, shutdown) = fleet(&self.client, &self.options);
        (self.fleet, self.shutdown) = (fleet, Some(shutdown));
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    pub(crate) fn reports(&self) -> Api<NodeReport> {
        Api::all(self.client.clone())
    }

    /// Creates or changes the policy of this node alone.
    pub(crate) async fn policy(&self, spec: Value) {
        let mut spec = spec;
        merge(&mut spec, json!({"nodeSelector": {"lab": self.node}}));
        let policy = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "ColocationPolicy",
            "metadata": {"name": self.node}, "spec": spec});
        let policies: Api<ColocationPolicy> = Api::all(self.client.clone());
        policies
            .patch(&self.node, &PatchParams::apply("test").force(), &Patch::Apply(policy))
            .await
            .unwrap();
    }

    pub(crate) async fn pod(&self, name: &str, requests: Value) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{}-{name}", self.node), "namespace": "default"},
            "spec": {"nodeName": self.node, "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "none", "resources": {"requests": requests, "limits": requests}}]}});
        create(&Api::<Pod>::namespaced(self.client.clone(), "default"), pod).await;
    }

    pub(crate) async fn node_until(&self, what: &str, good: impl Fn(&Node) -> bool) -> Node {
        until(&self.nodes(), &self.node, what, good).await
    }

    pub(crate) async fn report_until(&self, what: &str, good: impl Fn(&NodeReport) -> bool) -> NodeReport {
        until(&self.reports(), &self.node, what, good).await
    }

    pub(crate) async fn end(mut self) {
        drop(self.shutdown.take());
        (&mut self.fleet).await.unwrap().unwrap();
        self.nodes().delete(&self.node, &DeleteParams::default()).await.unwrap();
    }
}

fn fleet(client: &Client, options: &FleetOptions) -> (JoinHandle<anyhow::Result<()>>, DropGuard) {
    let shutdown = CancellationToken::new();
    let fleet = tokio::spawn(run_fleet(client.clone(), options.clone(), shutdown.clone()));
    (fleet, shutdown.drop_guard())
}

pub(crate) async fn create(pods: &Api<Pod>, pod: Value) {
    // The controller manager gives a namespace its service account, and may not yet have done so.
    let pod: Pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
}

pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Waits for a state of one object, by a watch of it.
pub(crate) async fn until<K>(api: &Api<K>, name: &str, what: &str, good: impl Fn(&K) -> bool) -> K
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut last = None;
    let seen = async {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut changes = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
        while let Some(change) = changes.next().await {
            let Ok(object) = change else { continue };
            if good(&object) {
                return object;
            }
            last = Some(object);
        }
        panic!("the watch of {name} ended");
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), seen).await;
    seen.unwrap_or_else(|_| panic!("{name}: not so after a minute: {what}; last: {last:#?}"))
}
