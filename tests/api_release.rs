//! A real Helm with a real API server: it installs the chart, switches the agents off by an upgrade or a rollback, uninstalls
//! all of it, and nothing of what agents published is left any time.
//!
//! With Kubernetes' controllers and no kubelet: the hook's program is called by the test, with the hook's own access, and the
//! hook's pod said to have succeeded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use duosuan_crds::{NodeReport, RESOURCE_BATCH_CPU};
use duosuan_node::{
    leave::{Left, leave},
    publish::FIELD_MANAGER,
};
use duosuan_tests::{
    chart,
    cluster::{admin, cluster_with_controllers, config, eventually},
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    batch::v1::Job,
    core::v1::{Node, Pod, ServiceAccount},
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "released";
const NODE: &str = "n0";
const HOOK: &str = "duosuan-leave";

/// What Helm does with the release, from its beginning to its end.
async fn helm(arguments: &[&str]) -> String {
    let kubeconfig = cluster_with_controllers().unwrap().kubeconfig().to_str().unwrap();
    let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    all.extend(["--namespace", NAMESPACE, "--kubeconfig", kubeconfig].map(String::from));
    tokio::task::spawn_blocking(move || chart::run(&all.iter().map(String::as_str).collect::<Vec<_>>()))
        .await
        .unwrap()
        .unwrap()
}

async fn upgraded(agents: bool) -> String {
    let agents = format!("agent.enabled={agents}");
    let upgrade = [
        "upgrade",
        "--install",
        "duosuan",
        "charts/duosuan",
        "--create-namespace",
        "--set",
    ];
    helm(&[&upgrade[..], &[&agents]].concat()).await
}

/// As the agent of the node does it.
async fn publish(client: &Client) {
    let sizes = json!({RESOURCE_BATCH_CPU: "4000"});
    let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "status": {"capacity": sizes, "allocatable": sizes}});
    Api::<Node>::all(client.clone())
        .patch_status(NODE, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&status))
        .await
        .unwrap();
    let report =
        json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": NODE}, "spec": {}});
    Api::<NodeReport>::all(client.clone())
        .create(&PostParams::default(), &serde_json::from_value(report).unwrap())
        .await
        .unwrap();
}

/// Whether the node offers batch's CPU, and there are reports.
async fn published(client: &Client) -> [bool; 2] {
    let node = Api::<Node>::all(client.clone()).get(NODE).await.unwrap();
    let status: Value = serde_json::to_value(node.status).unwrap();
    let reports = Api::<NodeReport>::all(client.clone());
    let offers = ["capacity", "allocatable"].map(|map| status[map].get(RESOURCE_BATCH_CPU).is_some());
    assert_eq!(offers[0], offers[1]);
    [
        offers[0],
        !reports.list(&ListParams::default()).await.unwrap().items.is_empty(),
    ]
}

/// Waits for the hook's pod, does what it would do, and says that it did.
async fn hook_runs(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let of_hook = ListParams::default().labels(&format!("job-name={HOOK}"));
    let pod = eventually("the hook's pod", async || Ok(pods.list(&of_hook).await?.items.pop()))
        .await
        .unwrap();
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(
        sets.get_opt("duosuan-agent").await.unwrap().is_some(),
        "Helm deleted the agents before"
    );
    assert_eq!(published(client).await, [true; 2]);
    let mut access = config(cluster_with_controllers().unwrap()).await.unwrap();
    let account = pod.spec.as_ref().unwrap().service_account_name.clone().unwrap();
    access.auth_info.impersonate = Some(format!("system:serviceaccount:{NAMESPACE}:{account}"));
    let left = leave(&Client::try_from(access).unwrap(), NAMESPACE, Duration::from_secs(600))
        .await
        .unwrap();
    let expected = Left {
        nodes: vec![NODE.to_owned()],
        ..Left::default()
    };
    assert_eq!(left, expected);
    let succeeded = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&succeeded))
        .await
        .unwrap();
}

/// Neither agents, nor what they published, nor what took it off.
async fn nothing_of_agents_is_left(client: &Client) {
    assert_eq!(published(client).await, [false; 2]);
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(sets.get_opt("duosuan-agent").await.unwrap().is_none());
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let roles: Api<ClusterRole> = Api::all(client.clone());
    eventually("the hook is gone", async || {
        let left = jobs.get_opt(HOOK).await?.is_some()
            || accounts.get_opt(HOOK).await?.is_some()
            || roles.get_opt(HOOK).await?.is_some();
        Ok((!left).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_switched_off_or_uninstalled_leave_nothing_that_they_published() {
    let client = admin(cluster_with_controllers().unwrap()).await.unwrap();
    let node = json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/os": "linux"}}});
    Api::<Node>::all(client.clone())
        .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
        .await
        .unwrap();
    upgraded(true).await;
    publish(&client).await;
    tokio::join!(upgraded(false), hook_runs(&client));
    nothing_of_agents_is_left(&client).await;
    // Nobody is there to run a hook now.
    upgraded(false).await;

    // Back to where nobody was to be switched off.
    upgraded(true).await;
    publish(&client).await;
    tokio::join!(helm(&["rollback", "duosuan", "3"]), hook_runs(&client));
    nothing_of_agents_is_left(&client).await;

    upgraded(true).await;
    publish(&client).await;
    tokio::join!(helm(&["uninstall", "duosuan"]), hook_runs(&client));
    nothing_of_agents_is_left(&client).await;
    let operators: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(operators.get_opt("duosuan-operator").await.unwrap().is_none());
    // The objects of users stay, and so do their kinds.
    assert_eq!(
        Api::<NodeReport>::all(client)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items,
        []
    );
}
