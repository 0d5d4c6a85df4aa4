//! The operator's own binary: how it starts, what it says when it cannot, and how it ends.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use duosuan_crds::CapacityClaim;
use duosuan_embedded::ControlPlane;
use duosuan_planner::record::{Reader, Replay, Tail};
use duosuan_scheduler::Decision;
use duosuan_tests::cluster::{admin, eventually, install_crds};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr},
};

use crate::lab::{Lab, PATIENCE, bound, cluster, running};

/// The binary, built now if it is not up to date.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| duosuan_tests::binary::binary("duosuan-operator").unwrap())
}

/// A running operator. It is killed when this is dropped.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
}

impl Process {
    fn start(kubeconfig: &Path, flags: &[&str]) -> Self {
        let mut command = tokio::process::Command::new(binary());
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Nothing of what surrounds the test.
        let mut child = command.env_remove("DUOSUAN_LOG").spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            log,
            said: Vec::new(),
        }
    }

    /// Waits until it says something.
    async fn says(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                self.said.push(line.clone());
                if line.contains(text) {
                    return Some(line);
                }
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found
            .ok()
            .flatten()
            .unwrap_or_else(|| panic!("it did not say {text:?}, but:\n{}", self.said.join("\n")))
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits until it has ended; how, and all that it said.
    async fn ended(mut self) -> (ExitStatus, String) {
        let all = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                self.said.push(line);
            }
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, all).await;
        let said = self.said.join("\n");
        (
            status.unwrap_or_else(|_| panic!("it does not end; it said:\n{said}")),
            said,
        )
    }
}

/// A kubeconfig of the operator's service account.
fn kubeconfig(plane: &ControlPlane, change: impl Fn(&mut Value)) -> NamedTempFile {
    let text = std::fs::read_to_string(plane.kubeconfig()).unwrap();
    let mut config: Value = serde_yaml::from_str(&text).unwrap();
    let user = &mut config["users"][0]["user"];
    user["as"] = json!("system:serviceaccount:duosuan-system:duosuan-operator");
    user["as-groups"] = json!([
        "system:serviceaccounts",
        "system:serviceaccounts:duosuan-system",
        "system:authenticated"
    ]);
    change(&mut config);
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_yaml::to_string(&config).unwrap()).unwrap();
    file
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The status line and body of a page.
async fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_records_of_a_real_cluster_replays_to_the_same_decisions() {
    let lab = Lab::start("recorded").await;
    lab.node("recorded-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let config = kubeconfig(cluster(), |_| ());
    let flags = [
        "--no-leader-election",
        "--record",
        record.to_str().unwrap(),
        "--record-decisions",
    ];
    let operator = Process::start(config.path(), &flags);
    lab.pod("one", json!({"cpu": "1"}), json!({})).await;
    lab.wait::<Pod>("one", bound).await;
    lab.pod("large", json!({"cpu": "40"}), json!({})).await;
    let refused = |p: &Pod| {
        let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|c| c.reason.as_deref() == Some("Unschedulable"))
    };
    lab.wait::<Pod>("large", refused).await;
    operator.signal(Signal::TERM);
    let (status, said) = operator.ended().await;
    assert!(status.success(), "{said}");

    let mut reader = Reader::new(File::open(&record).unwrap()).unwrap();
    let mut replay = Replay::default();
    let mut decisions = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        decisions.extend(replay.take(entry).unwrap());
    }
    assert_eq!(reader.tail(), Some(Tail::Whole));
    let uid = lab.api::<Pod>().get("one").await.unwrap().uid().unwrap();
    let binds = |decision: &&Decision| matches!(decision, Decision::Bind { pod, .. } if *pod == uid);
    assert_eq!(decisions.iter().filter(binds).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_no_warning_it_loses_nothing_and_binds_nothing_twice() {
    let lab = Lab::start("sigkill").await;
    for node in ["sigkill-1", "sigkill-2"] {
        lab.node(
            node,
            json!({"cpu": "64", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "16"}),
        )
        .await;
    }
    lab.claim("gang", json!({"groups": [{"name": "g", "count": 8}]})).await;
    for i in 0..8 {
        lab.member(
            &format!("g-{i}"),
            "gang",
            "g",
            json!({"cpu": "1", "nvidia.com/gpu": "1"}),
        )
        .await;
    }
    for i in 0..24 {
        lab.pod(&format!("p-{i}"), json!({"cpu": "1", "nvidia.com/gpu": "1"}), json!({}))
            .await;
    }
    let file = kubeconfig(cluster(), |_| {});
    for at_least in [1, 3, 10, 20] {
        let process = Process::start(file.path(), &["--no-leader-election"]);
        lab.until_bound(at_least).await;
        process.signal(Signal::KILL);
        let (status, _) = process.ended().await;
        assert!(!status.success());
    }
    let process = Process::start(file.path(), &["--no-leader-election"]);
    lab.until_bound(32).await;
    lab.wait::<CapacityClaim>("gang", running).await;
    let mut seats = Vec::new();
    for pod in lab.api::<Pod>().list(&ListParams::default()).await.unwrap() {
        assert!(bound(&pod));
        seats.push((
            pod.spec.as_ref().unwrap().node_name.clone().unwrap(),
            pod.annotations()["duosuan.io/gpus"].clone(),
        ));
    }
    seats.sort();
    let all = seats.len();
    seats.dedup();
    assert_eq!((all, seats.len()), (32, 32), "a device was given twice");
    process.signal(Signal::TERM);
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_releases_the_lease_and_ends_in_order() {
    let lab = Lab::start("sigterm").await;
    let file = kubeconfig(cluster(), |_| {});
    let (metrics, health) = (free_address(), free_address());
    let flags = [
        "--log-format=json",
        &format!("--metrics-addr={metrics}"),
        &format!("--health-addr={health}"),
    ];
    let mut process = Process::start(file.path(), &flags);
    let leading = process.says("leading").await;
    assert!(serde_json::from_str::<Value>(&leading).is_ok(), "not JSON: {leading}");

    assert!(page(health, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(page(health, "/readyz").await.starts_with("HTTP/1.1 200"));
    let measured = page(metrics, "/metrics").await;
    assert!(measured.contains("duosuan_leader 1"), "{measured}");

    let leases: Api<Lease> = Api::namespaced(lab.client.clone(), "duosuan-system");
    assert!(
        leases
            .get("duosuan-operator")
            .await
            .unwrap()
            .spec
            .unwrap()
            .holder_identity
            .is_some()
    );
    let began = Instant::now();
    process.signal(Signal::TERM);
    let (status, said) = process.ended().await;
    let took = began.elapsed();
    assert!(status.success(), "{said}");
    assert_eq!(
        leases
            .get("duosuan-operator")
            .await
            .unwrap()
            .spec
            .unwrap()
            .holder_identity,
        None,
        "{said}"
    );
    // It takes some 20 ms, and has to take less than a second; what is above that is a wait for something that never comes.
    assert!(took < Duration::from_secs(5), "it took {took:?}:\n{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_start_it_says_why_and_fails() {
    let missing = Process::start(Path::new("/no/such/kubeconfig"), &[]);
    let (status, said) = missing.ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("--kubeconfig /no/such/kubeconfig cannot be read"),
        "{said}"
    );

    // A certificate replaced by a token that nobody issued, or not any more.
    let expired = kubeconfig(cluster(), |config| {
        config["users"][0]["user"] = json!({"token": "expired"})
    });
    let (status, said) = Process::start(expired.path(), &[]).ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("refuses the credentials (401") && said.contains("expired"),
        "{said}"
    );

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let good = kubeconfig(cluster(), |_| {});
    let (status, said) = Process::start(good.path(), &["--metrics-addr", &address.to_string()])
        .ended()
        .await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains(&format!("cannot listen on {address}")) && said.contains("--metrics-addr"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_cannot_be_reached_is_tried_again_until_the_end() {
    let address = free_address();
    let file = kubeconfig(cluster(), |config| {
        config["clusters"][0]["cluster"]["server"] = json!(format!("https://{address}"))
    });
    let mut process = Process::start(file.path(), &[]);
    for _ in 0..2 {
        let line = process.says("cannot be reached; trying again").await;
        assert!(line.contains(&address.to_string()), "{line}");
    }
    process.signal(Signal::TERM);
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_crds_it_is_a_plain_scheduler_and_finds_them_when_they_come() {
    let plane = tokio::task::spawn_blocking(|| {
        ControlPlane::start(&duosuan_embedded::Options {
            kwok: true,
            controller_manager: true,
            ..Default::default()
        })
    });
    let plane = plane.await.unwrap().unwrap();
    let lab = Lab::on(admin(&plane).await.unwrap(), "plain").await;
    lab.node("n", json!({"cpu": "4", "memory": "4Gi", "pods": "10"})).await;
    let file = kubeconfig(&plane, |_| {});
    let health = free_address();
    let flags = ["--no-leader-election", "--health-addr", &health.to_string()];
    let mut process = Process::start(file.path(), &flags);
    let missing = "the CRDs of duosuan.io are not installed: working without CapacityClaim, ColocationPolicy, \
                   NodeReport, Queue. To have them: duosuan crds | kubectl apply -f -";
    process.says(missing).await;
    let answer = page(health, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(missing),
        "{answer}"
    );
    lab.pod("p", json!({"cpu": "1"}), json!({})).await;
    lab.wait::<Pod>("p", bound).await;

    install_crds(&lab.client).await.unwrap();
    lab.claim("c", json!({"groups": [{"name": "g", "count": 1}]})).await;
    lab.member("m", "c", "g", json!({"cpu": "1"})).await;
    lab.wait::<CapacityClaim>("c", running).await;
    // Each kind is found by its own watch, and all of them in the end.
    let complete = eventually("the operator knows all its kinds", async || {
        let answer = page(health, "/readyz").await;
        Ok((answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok")).then_some(()))
    });
    complete.await.unwrap();
    process.signal(Signal::TERM);
    let (status, said) = process.ended().await;
    assert!(status.success());
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");

    // A definition from before a field was added.
    let crds: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(lab.client.clone());
    let mut older = serde_json::to_value(crds.get("nodereports.duosuan.io").await.unwrap()).unwrap();
    older["metadata"] = json!({"name": "nodereports.duosuan.io"});
    older["status"].take();
    let status = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    status.as_object_mut().unwrap().remove("capabilities").unwrap();
    crds.patch(
        "nodereports.duosuan.io",
        &PatchParams::apply("duosuan-tests").force(),
        &Patch::Apply(&older),
    )
    .await
    .unwrap();
    until_published(&lab, |text| !text.contains("\"capabilities\"")).await;
    let mut process = Process::start(file.path(), &["--no-leader-election"]);
    let told = process.says("is older than this operator and lacks fields").await;
    assert!(
        told.contains("NodeReport") && told.contains("status.capabilities"),
        "{told}"
    );
}

/// Waits until the API server's description of our kinds is as wanted; it follows a change after a while.
async fn until_published(lab: &Lab, wanted: impl Fn(&str) -> bool) {
    let published = async {
        let mut every = tokio::time::interval(Duration::from_millis(200));
        loop {
            every.tick().await;
            let request = http::Request::get("/openapi/v3/apis/duosuan.io/v1alpha1")
                .body(Vec::new())
                .unwrap();
            if lab.client.request_text(request).await.is_ok_and(|text| wanted(&text)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, published)
        .await
        .expect("the API server does not publish the change");
}
