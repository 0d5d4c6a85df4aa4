//! A cluster for one test at a time: its namespace, its nodes, and operators that act as their service account.

use std::{
    fmt::Debug,
    sync::OnceLock,
    time::{Duration, Instant},
};

use duosuan_controller::{Options, metrics::Metrics};
use duosuan_crds::{CapacityClaim, ColocationPolicy, NodeReport, Queue, claim::Phase};
use duosuan_embedded::ControlPlane;
use duosuan_tests::cluster::{admin, apply, config, install_crds, objects};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, PodCondition, ServiceAccount},
        events::v1::Event,
        policy::v1::PodDisruptionBudget,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What would take longer never comes.
pub const PATIENCE: Duration = Duration::from_secs(90);
static TURN: Mutex<()> = Mutex::const_new(());

/// Rules and names under which the operator acts.
const ACCESS: [&str; 2] = [
    include_str!("../../charts/duosuan/access/namespace.yaml"),
    include_str!("../../charts/duosuan/access/operator.yaml"),
];

/// One test's turn on the cluster.
pub struct Lab {
    /// Client of the administrator.
    pub client: Client,
    /// Namespace of the test.
    pub namespace: String,
    #[allow(dead_code, reason = "held, not read")]
    turn: Option<MutexGuard<'static, ()>>,
}

/// The control plane of this test binary.
pub fn cluster() -> &'static ControlPlane {
    static CLUSTER: OnceLock<ControlPlane> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let options = duosuan_embedded::Options {
            kwok: true,
            controller_manager: true,
            apiserver_flags: crate::APISERVER_FLAGS.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        ControlPlane::start(&options).unwrap()
    })
}

/// The way to the API server for an operator.
pub async fn operator_config() -> Config {
    let mut config = config(cluster()).await.unwrap();
    config.auth_info.impersonate = Some("system:serviceaccount:duosuan-system:duosuan-operator".to_owned());
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:duosuan-system",
        "system:authenticated",
    ];
    config.auth_info.impersonate_groups = Some(groups.map(str::to_owned).into());
    config
}

impl Lab {
    /// Waits for its turn, and clears away what the test before left.
    pub async fn start(namespace: &str) -> Self {
        let turn = TURN.lock().await;
        let client = admin(cluster()).await.unwrap();
        install_crds(&client).await.unwrap();
        let lab = Self {
            client,
            namespace: namespace.to_owned(),
            turn: Some(turn),
        };
        lab.clear().await;
        lab.furnish().await;
        lab
    }

    /// On a cluster of its own, which is empty.
    pub async fn on(client: Client, namespace: &str) -> Self {
        let lab = Self {
            client,
            namespace: namespace.to_owned(),
            turn: None,
        };
        lab.furnish().await;
        lab
    }

    async fn furnish(&self) {
        for text in ACCESS {
            for object in objects(text).unwrap() {
                apply(&self.client, &object).await.unwrap();
            }
        }
        let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        self.put::<Namespace>(&Api::all(self.client.clone()), &self.namespace, space)
            .await;
        self.wait::<ServiceAccount>("default", |_| true).await;
    }

    async fn clear(&self) {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        let all = self.client.clone();
        for pod in Api::<Pod>::all(all.clone()).list(&ListParams::default()).await.unwrap() {
            let api: Api<Pod> = Api::namespaced(all.clone(), &pod.namespace().unwrap());
            let _ = api.delete(&pod.name_any(), &now).await;
        }
        for claim in Api::<CapacityClaim>::all(all.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
        {
            let api: Api<CapacityClaim> = Api::namespaced(all.clone(), &claim.namespace().unwrap());
            let _ = api.delete(&claim.name_any(), &now).await;
        }
        for budget in Api::<PodDisruptionBudget>::all(all.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
        {
            let api: Api<PodDisruptionBudget> = Api::namespaced(all.clone(), &budget.namespace().unwrap());
            let _ = api.delete(&budget.name_any(), &now).await;
        }
        let every = ListParams::default();
        Api::<Queue>::all(all.clone())
            .delete_collection(&now, &every)
            .await
            .unwrap();
        Api::<ColocationPolicy>::all(all.clone())
            .delete_collection(&now, &every)
            .await
            .unwrap();
        Api::<NodeReport>::all(all.clone())
            .delete_collection(&now, &every)
            .await
            .unwrap();
        Api::<Node>::all(all).delete_collection(&now, &every).await.unwrap();
    }

    /// The API of a kind in the namespace of the test.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn put<K>(&self, api: &Api<K>, name: &str, object: Value) -> K
    where
        K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
    {
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object))
            .await
            .unwrap()
    }

    /// A node that kwok plays, ready and without taints.
    pub async fn node(&self, name: &str, resources: Value) {
        self.labelled_node(name, resources, json!({})).await;
    }

    /// The same with labels.
    pub async fn labelled_node(&self, name: &str, resources: Value, labels: Value) {
        let api: Api<Node> = Api::all(self.client.clone());
        let metadata = json!({"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}});
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
        self.put(&api, name, object.clone()).await;
        let mut status = object;
        status["status"] = json!({"capacity": resources, "allocatable": resources});
        api.patch_status(name, &PatchParams::apply("test").force(), &Patch::Apply(status))
            .await
            .unwrap();
        let untainted = |n: &Node| {
            n.spec
                .as_ref()
                .is_none_or(|s| s.taints.as_ref().is_none_or(Vec::is_empty))
        };
        self.wait_in(&api, name, untainted).await;
    }

    /// A pod for the operator, pending.
    pub async fn pod(&self, name: &str, requests: Value, labels: Value) {
        let limits: Value = requests
            .as_object()
            .unwrap()
            .iter()
            .filter(|(r, _)| r.contains('/'))
            .map(|(r, q)| (r.clone(), q.clone()))
            .collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {
                "schedulerName": "duosuan",
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "none", "resources": {"requests": requests, "limits": limits}}],
            },
        });
        self.put::<Pod>(&self.api(), name, object).await;
    }

    /// A pod of a claim.
    pub async fn member(&self, name: &str, claim: &str, group: &str, requests: Value) {
        self.pod(
            name,
            requests,
            json!({"duosuan.io/claim": claim, "duosuan.io/group": group}),
        )
        .await;
    }

    /// A claim.
    pub async fn claim(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "metadata": {"name": name}, "spec": spec});
        self.put::<CapacityClaim>(&self.api(), name, object).await;
    }

    /// A queue.
    pub async fn queue(&self, name: &str, spec: Value) {
        let object =
            json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "Queue", "metadata": {"name": name}, "spec": spec});
        self.put::<Queue>(&Api::all(self.client.clone()), name, object).await;
    }

    /// A policy.
    pub async fn policy(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "ColocationPolicy", "metadata": {"name": name}, "spec": spec});
        self.put::<ColocationPolicy>(&Api::all(self.client.clone()), name, object)
            .await;
    }

    /// A report of now, as the agent of a node would write it.
    pub async fn report(&self, node: &str, policy: &str) {
        let api: Api<NodeReport> = Api::all(self.client.clone());
        let object =
            json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": node}, "spec": {}});
        self.put(&api, node, object.clone()).await;
        let mut status = object;
        status["status"] = json!({"time": format!("{:.0}", Timestamp::now()), "policy": policy});
        api.patch_status(node, &PatchParams::apply("test").force(), &Patch::Apply(status))
            .await
            .unwrap();
    }

    /// Waits until an object of the namespace is as wanted.
    pub async fn wait<K>(&self, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Clone
            + Debug
            + DeserializeOwned
            + Send
            + Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + 'static,
    {
        self.wait_in(&self.api(), name, wanted).await
    }

    /// Waits until an object is as wanted.
    pub async fn wait_in<K>(&self, api: &Api<K>, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Clone + Debug + DeserializeOwned + Send + Resource<DynamicType = ()> + 'static,
    {
        let mut last = None;
        let found = async {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut changes = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
            while let Some(change) = changes.next().await {
                let Ok(object) = change else { continue };
                if wanted(&object) {
                    return object;
                }
                last = Some(object);
            }
            panic!("the watch of {name} ended")
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(object) => object,
            Err(_) => panic!("{} {name} did not become as wanted; it is {last:#?}", K::kind(&())),
        }
    }

    /// Waits for an event of a reason about an object of the namespace.
    pub async fn event(&self, about: &str, reason: &str) -> Event {
        let found = async {
            let api: Api<Event> = self.api();
            let mut events = std::pin::pin!(
                watcher(api, watcher::Config::default())
                    .default_backoff()
                    .applied_objects()
            );
            while let Some(event) = events.next().await {
                let Ok(event) = event else { continue };
                let regarding = event.regarding.as_ref().and_then(|r| r.name.as_deref());
                if regarding == Some(about) && event.reason.as_deref() == Some(reason) {
                    return event;
                }
            }
            panic!("the watch of events ended")
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("no event {reason} about {about}"))
    }

    /// Names of the bound pods of the namespace.
    pub async fn bound_pods(&self) -> Vec<String> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await.unwrap();
        let mut names: Vec<String> = pods.iter().filter(|p| bound(p)).map(ResourceExt::name_any).collect();
        names.sort();
        names
    }

    /// Waits until so many pods of the namespace are bound.
    pub async fn until_bound(&self, count: usize) {
        let enough = async {
            let mut seen = std::collections::BTreeSet::new();
            let mut pods = std::pin::pin!(
                watcher(self.api::<Pod>(), watcher::Config::default())
                    .default_backoff()
                    .applied_objects()
            );
            while let Ok(Some(pod)) = pods.try_next().await {
                if bound(&pod) {
                    seen.insert(pod.name_any());
                }
                if seen.len() >= count {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, enough)
            .await
            .unwrap_or_else(|_| panic!("fewer than {count} pods were bound"));
    }

    /// An operator that writes at once.
    pub async fn operator(&self) -> Operator {
        Operator::start(false).await
    }

    /// An operator that takes part in the election.
    pub async fn electing(&self) -> Operator {
        Operator::start(true).await
    }
}

/// An operator in this process.
pub struct Operator {
    task: JoinHandle<anyhow::Result<()>>,
    metrics: Metrics,
    end: DropGuard,
}

impl Operator {
    async fn start(leader_election: bool) -> Self {
        let options = Options {
            config: Some(operator_config().await),
            leader_election,
            ..Options::default()
        };
        let metrics = Metrics::new();
        let end = CancellationToken::new();
        let task = tokio::spawn(duosuan_controller::run_with(options, metrics.clone(), end.clone()));
        Self {
            task,
            metrics,
            end: end.drop_guard(),
        }
    }

    /// Ends it in order.
    pub async fn end(self) {
        self.check();
        self.end.disarm().cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("the operator does not end")
            .unwrap()
            .unwrap();
    }

    fn check(&self) {
        assert_eq!(
            self.metrics.violations.get(),
            0,
            "an invariant of the core did not hold"
        );
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(self) {
        self.check();
        self.task.abort();
        let _ = self.task.await;
    }

    fn text(&self) -> String {
        self.metrics.encode().unwrap()
    }

    /// Waits until its metrics are as wanted.
    pub async fn until(&self, wanted: impl Fn(&str) -> bool) {
        let began = Instant::now();
        let mut every = tokio::time::interval(Duration::from_millis(50));
        while !wanted(&self.text()) {
            assert!(
                began.elapsed() < PATIENCE,
                "the metrics did not become as wanted:\n{}",
                self.text()
            );
            every.tick().await;
        }
    }

    /// Waits until it has heard of pods, and so knows the cluster.
    pub async fn until_ready(&self) {
        self.until(|text| text.lines().any(|l| l.starts_with("duosuan_pods{")))
            .await;
    }

    /// Pods that it bound.
    pub fn bound(&self) -> u64 {
        self.metrics
            .binds
            .get_or_create(&duosuan_controller::metrics::ResultLabel { result: "bound" })
            .get()
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.metrics.leader.get() == 1
    }
}

/// The pod has a node.
pub fn bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) && pod.metadata.deletion_timestamp.is_none()
}

/// The claim runs.
pub fn running(claim: &CapacityClaim) -> bool {
    claim.status.as_ref().is_some_and(|s| s.phase == Phase::Running)
}

/// What a claim says of why it waits.
pub fn message(claim: &CapacityClaim) -> &str {
    claim
        .status
        .as_ref()
        .and_then(|s| s.message.as_deref())
        .unwrap_or_default()
}

/// A condition of a pod.
pub fn condition(pod: &Pod, type_: &str) -> Option<PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == type_)
        .cloned()
}

/// The pod is gone.
pub async fn evicted(lab: &Lab, name: &str) -> bool {
    lab.api::<Pod>()
        .get_opt(name)
        .await
        .unwrap()
        .is_none_or(|p| p.metadata.deletion_timestamp.is_some())
}
