//! What Helm runs before it uninstalls the chart: the agents end first, and then nothing of what they published is left.
//!
//! With the hook's own access rules, on a real API server with Kubernetes' controllers. No kubelet: a pod that is bound ends
//! when the test lets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use duosuan_crds::{NodeReport, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_MID_CPU};
use duosuan_node::{
    leave::{Left, leave},
    publish::FIELD_MANAGER,
};
use duosuan_tests::chart::render;
use duosuan_tests::cluster::{admin, apply, cluster_with_controllers, config, eventually, install_crds, objects};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// All nodes are looked at.
static TURN: Mutex<()> = Mutex::const_new(());
/// Longer than any test.
const PATIENT: Duration = Duration::from_secs(600);

/// A release of the chart in a namespace of its own, and a node that its agent serves.
struct Release {
    namespace: String,
    client: Client,
}

impl Release {
    async fn install(namespace: &str) -> Self {
        let client = admin(cluster_with_controllers().unwrap()).await.unwrap();
        install_crds(&client).await.unwrap();
        let release = Self {
            namespace: namespace.to_owned(),
            client,
        };
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        apply(&release.client, &serde_json::from_value(object).unwrap())
            .await
            .unwrap();
        // The agents and what Helm runs before it uninstalls them.
        let shown = ["templates/agent.yaml", "templates/leave.yaml"].map(|file| ["--show-only", file]);
        let rendered = render(namespace, shown.as_flattened()).unwrap();
        for object in objects(&rendered).unwrap() {
            // Helm's own to run.
            if object.types.as_ref().unwrap().kind != "Job" {
                apply(&release.client, &object).await.unwrap();
            }
        }
        release.offer().await;
        // There is no scheduler here.
        let pods = release.pods();
        let pod = eventually("the agent's pod", async || {
            Ok(pods.list(&ListParams::default()).await?.items.pop())
        })
        .await
        .unwrap()
        .name_any();
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"apiVersion": "v1", "kind": "Node", "name": namespace}});
        pods.create_subresource::<Value, Value>("binding", &pod, &PostParams::default(), &binding)
            .await
            .unwrap();
        release
    }

    /// A node named as the namespace, with what an agent publishes, and what others do.
    async fn offer(&self) {
        let name = &self.namespace;
        let sizes = json!({"cpu": "16", "memory": "64Gi", "pods": "110"});
        let node = json!({"apiVersion": "v1", "kind": "Node", 
            // The DaemonSet's controller looks at both.
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
            "status": {"capacity": sizes, "allocatable": sizes, "conditions": [{"type": "Ready", "status": "True"}]}});
        let nodes = self.nodes();
        nodes
            .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
            .await
            .unwrap();
        let batch = json!({RESOURCE_BATCH_CPU: "4000", RESOURCE_BATCH_MEMORY: "1073741824"});
        for (manager, map) in [(FIELD_MANAGER, batch), ("somebody", json!({RESOURCE_MID_CPU: "5"}))] {
            let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"capacity": map, "allocatable": map}});
            nodes
                .patch_status(name, &PatchParams::apply(manager), &Patch::Apply(&status))
                .await
                .unwrap();
        }
        let report =
            json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": name}, "spec": {}});
        self.reports()
            .create(&PostParams::default(), &serde_json::from_value(report).unwrap())
            .await
            .unwrap();
    }

    /// As the hook's Job does it, with its service account.
    async fn leaves(&self, patience: Duration) -> anyhow::Result<Left> {
        let namespace = &self.namespace;
        let mut config = config(cluster_with_controllers()?).await?;
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:duosuan-leave"));
        leave(&Client::try_from(config)?, namespace, patience).await
    }

    async fn agent_ends(&self) {
        let pod = self.pods().list(&ListParams::default()).await.unwrap().items.pop();
        self.pods()
            .delete(&pod.unwrap().name_any(), &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }

    /// Sizes of the node by name: capacity and allocatable.
    async fn sizes(&self) -> [Value; 2] {
        let node = self.nodes().get(&self.namespace).await.unwrap();
        let status = serde_json::to_value(node.status.unwrap()).unwrap();
        ["capacity", "allocatable"].map(|map| status[map].clone())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn reports(&self) -> Api<NodeReport> {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn untouched() -> [Value; 2] {
    [(); 2].map(|()| json!({"cpu": "16", "memory": "64Gi", "pods": "110", RESOURCE_MID_CPU: "5"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_end_and_then_nothing_that_they_published_is_left_and_all_else_is() {
    let _turn = TURN.lock().await;
    let release = Release::install("leaving").await;
    let before = release.sizes().await;
    let asked = async {
        // While an agent puts its node back, what it published stands: it may yet write.
        eventually("the agent is asked to end", async || {
            let pods = release.pods().list(&ListParams::default()).await?;
            Ok(pods
                .items
                .iter()
                .all(|p| p.metadata.deletion_timestamp.is_some())
                .then_some(()))
        })
        .await
        .unwrap();
        assert_eq!(release.sizes().await, before);
        assert_eq!(
            release
                .reports()
                .list(&ListParams::default())
                .await
                .unwrap()
                .items
                .len(),
            1
        );
        release.agent_ends().await;
    };
    let (left, ()) = tokio::join!(release.leaves(PATIENT), asked);
    let left = left.unwrap();
    assert_eq!(
        left,
        Left {
            nodes: vec!["leaving".to_owned()],
            ..Left::default()
        }
    );
    assert_eq!(release.sizes().await, untouched());
    assert_eq!(release.reports().list(&ListParams::default()).await.unwrap().items, []);
    assert!(release.sets().get_opt("duosuan-agent").await.unwrap().is_none());
    assert_eq!(
        release.leaves(PATIENT).await.unwrap(),
        Left::default(),
        "again, for one that failed half way"
    );
    release
        .nodes()
        .delete("leaving", &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_end_is_named_and_what_it_published_goes_all_the_same() {
    let _turn = TURN.lock().await;
    let release = Release::install("down").await;
    let left = release.leaves(Duration::ZERO).await.unwrap();
    let down = vec!["down".to_owned()];
    assert_eq!(
        left,
        Left {
            nodes: down.clone(),
            behind: down,
            ..Left::default()
        }
    );
    assert_eq!(release.sizes().await, untouched());
    assert_eq!(release.reports().list(&ListParams::default()).await.unwrap().items, []);
    release.agent_ends().await;
    release.nodes().delete("down", &DeleteParams::default()).await.unwrap();
}
