//! The whole way on a real node: kubectl, API server, operator, kubelet, containers, kernel, agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use duosuan_crds::{CapacityClaim, NodeReport, RESOURCE_BATCH_CPU, claim::Phase};
use duosuan_embedded::{ControlPlane, Options, Tool, build};
use duosuan_tests::{
    access, chart, cluster,
    figures::Recorder,
    vm::{Kind, Vm},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, PostParams},
};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[path = "e2e_node/kubelet.rs"]
mod kubelet;

const NODE: &str = "vm";
/// Namespace of the components, and of the user.
const SYSTEM: &str = "duosuan-system";
const USER: &str = "default";
const AGENT: &str = "duosuan-agent";
/// Under this address a guest of QEMU's user network reaches the loopback of its host.
const HOST: &str = "10.0.2.2";
/// Where the kubelet puts pods without requests, of which the batch pods are.
const BESTEFFORT: &str = "kubepods/besteffort";
/// Some ten times what the slowest step takes on an idle machine; the agent's offer takes a minute by design.
const LIMIT: Duration = Duration::from_secs(180);

/// The offer grows at once: on two cores the usual steps of a tenth would take minutes. And the guard acts on a gross
/// stall alone: under an emulator on a busy host prod waits a tenth of the time for reasons that are not batch.
const POLICY: &str = "
apiVersion: duosuan.io/v1alpha1
kind: ColocationPolicy
metadata: {name: all}
spec: {reclaim: {growthPercent: 100}, guards: {cpu: {stallMilli: 300}}}
";

const ONLINE: &str = r#"
apiVersion: duosuan.io/v1alpha1
kind: Queue
metadata: {name: shop}
spec:
  quotas:
  - {tier: prod, limit: {cpu: "1", memory: 1Gi}}
  - {tier: batch, limit: {cpu: "1"}}
---
apiVersion: duosuan.io/v1alpha1
kind: CapacityClaim
metadata: {name: online, namespace: default}
spec: {queue: shop, tier: prod, groups: [{name: server, count: 1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: online, namespace: default, labels: {duosuan.io/claim: online, duosuan.io/group: server}}
spec:
  schedulerName: duosuan
  terminationGracePeriodSeconds: 0
  containers:
  - name: server
    image: duosuan.test/tools:1
    imagePullPolicy: Never
    # Quiet until the test puts load on it: then more bursts than two CPUs serve, on a fast host too.
    command: [sh, -c, "while sleep 0.2; do if [ -e /load/on ]; then exec guest burst 8 1000000 2000; fi; done"]
    resources: {requests: {cpu: 300m, memory: 64Mi}}
    volumeMounts: [{name: load, mountPath: /load}]
  volumes: [{name: load, hostPath: {path: /run/load, type: DirectoryOrCreate}}]
"#;

const BATCH: &str = r#"
apiVersion: duosuan.io/v1alpha1
kind: CapacityClaim
metadata: {name: batch, namespace: default}
spec: {queue: shop, tier: batch, groups: [{name: worker, count: 1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: batch, namespace: default, labels: {duosuan.io/claim: batch, duosuan.io/group: worker}}
spec:
  schedulerName: duosuan
  terminationGracePeriodSeconds: 0
  containers:
  - name: worker
    image: duosuan.test/tools:1
    imagePullPolicy: Never
    command: [guest, spin, "2"]
    resources: {requests: {duosuan.io/batch-cpu: "300"}, limits: {duosuan.io/batch-cpu: "300"}}
"#;

/// A cluster of one node. Fields end in this order.
struct World {
    operator: CancellationToken,
    client: Client,
    runtime: Runtime,
    vm: Vm,
    figures: Recorder,
    control_plane: ControlPlane,
}

#[test]
fn a_claim_goes_from_kubectl_to_a_real_kernel_and_batch_yields_to_online_there() -> Result<()> {
    let kubelet = build(Tool::Kubelet, &mut |_| {})?;
    let kubectl = build(Tool::Kubectl, &mut |_| {})?;
    let control_plane = ControlPlane::start(&Options {
        controller_manager: true,
        names: vec![HOST.to_owned()],
        ..Options::default()
    })?;
    let runtime = Runtime::new()?;
    let client = runtime.block_on(cluster::admin(&control_plane))?;
    let world = World {
        operator: CancellationToken::new(),
        client,
        vm: Vm::boot(&Kind::Node { kubelet })?,
        figures: Recorder::default(),
        runtime,
        control_plane,
    };
    let told = world.story(&|text| apply(&kubectl, world.control_plane.kubeconfig(), text));
    world.operator.cancel();
    told.map_err(|error| error.context(world.diagnosis()))
}

impl World {
    fn story(&self, apply: &dyn Fn(&str) -> Result<()>) -> Result<()> {
        self.install()?;
        self.start_operator()?;
        self.join()?;

        // Firm capacity needs no agent.
        apply(ONLINE)?;
        self.claim_runs("online")?;

        // What batch may use is there once the agent offers it.
        apply(POLICY)?;
        let limit = format!("cat /sys/fs/cgroup/{BESTEFFORT}/cpu.max");
        let untouched = self.vm.run(&limit)?;
        self.start_agent()?;
        self.eventually("the agent offers batch CPU enough on the node", || {
            let node = self.get::<Node>(Api::all(self.client.clone()), NODE)?;
            let offered = node.status.and_then(|s| s.allocatable?.remove(RESOURCE_BATCH_CPU));
            Ok(offered.is_some_and(|quantity| quantity.0.parse().is_ok_and(|milli: u32| milli >= 300)))
        })?;
        // Not before: the kubelet reads its node through a watch of its own, and fails for good a pod that is bound on an
        // offer which it has not seen yet (OutOfduosuan.io/batch-cpu, capacity 200: seen here).
        apply(BATCH)?;
        self.claim_runs("batch")?;
        let report = self.get::<NodeReport>(Api::all(self.client.clone()), NODE)?;
        ensure!(
            report.status.is_some_and(|s| s.policy.as_deref() == Some("all")),
            "the report names no policy"
        );

        // Online stalls: batch gets less, by a wide margin. The start of its container may have stalled prod before.
        self.eventually("batch has what online leaves", || Ok(self.shares()?.1 > 0.6))?;
        let (_, batch_alone) = self.shares()?;
        let guarded = self.vm.settings("kubepods")?;
        ensure!(
            guarded
                .lines()
                .any(|line| line.starts_with("kubepods/burstable/pod") && line.ends_with("/memory.low 67108864")),
            "what the online pod asked for is not protected:\n{guarded}"
        );
        // What the kubelet leaves at the kernel's defaults, the agent has to leave so, too.
        let untouched_line = |line: &str| match line.split_once(' ') {
            // It may be limited already, and the limit moves.
            Some((file, _)) if file.strip_prefix(BESTEFFORT) == Some("/cpu.max") => Some(format!("{file} {untouched}")),
            Some((file, _)) if file.ends_with("/memory.low") => Some(format!("{file} 0")),
            Some((file, _)) if file.ends_with("/io.weight") => Some(format!("{file} default 100")),
            Some((file, _)) if file.ends_with("/io.max") => None,
            _ => Some(line.to_owned()),
        };
        let before: Vec<String> = guarded.lines().filter_map(untouched_line).collect();
        self.vm.run("touch /run/load/on")?;
        self.vm.wait("the batch pods are limited", LIMIT, &limit, |text| {
            (!text.starts_with("max")).then_some(())
        })?;
        self.eventually(
            "batch has less than half of what it had, and online more than batch",
            || {
                let (online, batch) = self.shares()?;
                Ok(batch * 2.0 < batch_alone && online > batch)
            },
        )?;

        self.the_kubelet_and_the_agent_do_not_fight(apply)?;
        self.a_kubelet_that_starts_anew_fails_no_batch_while_the_offer_shrinks()?;

        // The agent ends while batch is limited, and leaves nothing of that behind.
        let agent = self.get::<Pod>(self.pods(SYSTEM), AGENT)?.metadata.uid;
        let agent = format!("kubepods/burstable/pod{}/", agent.context("a pod without a uid")?);
        self.end_agent()?;
        let after = self.vm.settings("kubepods")?;
        let changed: Vec<&String> = before
            .iter()
            .filter(|line| !after.lines().any(|now| now == line.as_str()))
            // The agent's own pod is gone, and the kubelet weighs the burstable pods anew without it.
            .filter(|line| !line.starts_with(&agent) && !line.starts_with("kubepods/burstable/cpu.weight"))
            .collect();
        self.figures.restored(changed.is_empty());
        ensure!(
            changed.is_empty(),
            "these settings are not as before: {changed:#?}\nnow:\n{after}"
        );
        Ok(())
    }

    fn install(&self) -> Result<()> {
        self.runtime.block_on(async {
            cluster::install_crds(&self.client).await?;
            for object in cluster::objects(&access::rules()?)? {
                cluster::apply(&self.client, &object).await?;
            }
            Ok(())
        })
    }

    /// The operator runs in this process, under its own access rules.
    fn start_operator(&self) -> Result<()> {
        let mut config = self.runtime.block_on(cluster::config(&self.control_plane))?;
        config.auth_info.impersonate = Some("system:serviceaccount:duosuan-system:duosuan-operator".to_owned());
        let options = duosuan_controller::options::Options {
            config: Some(config),
            ..Default::default()
        };
        let end = self.operator.clone();
        self.runtime.spawn(async move {
            if let Err(error) = duosuan_controller::run(options, end).await {
                eprintln!("the operator ended: {error:#}");
            }
        });
        Ok(())
    }

    /// The guest becomes a node.
    fn join(&self) -> Result<()> {
        let user = format!("system:node:{NODE}");
        let kubeconfig = self
            .control_plane
            .kubeconfig_for(&user, "system:nodes", Some(&self.server()))?;
        self.vm.write("/etc/kubernetes/kubeconfig", &kubeconfig)?;
        self.vm.run(&format!("start-kubelet {NODE}"))?;
        self.eventually("the node is ready", || {
            let node = self.find::<Node>(Api::all(self.client.clone()), NODE)?;
            let conditions = node.and_then(|n| n.status?.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        })
    }

    /// A pod as the chart's DaemonSet makes it; there is no scheduler of Kubernetes here that would place it.
    fn start_agent(&self) -> Result<()> {
        let rendered = rendered(&["--show-only", "templates/agent.yaml"])?;
        let template = rendered.first().context("the chart renders no agent")?.data["spec"]["template"].clone();
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": AGENT, "namespace": SYSTEM, "labels": template["metadata"]["labels"]},
            "spec": template["spec"],
        });
        let spec = &mut pod["spec"];
        spec["nodeName"] = NODE.into();
        // The guest neither routes nor translates for its pods' network, and serves no cluster addresses.
        spec["hostNetwork"] = true.into();
        let server = self.server().replace("https://", "");
        let (host, port) = server.split_once(':').context("a server without a port")?;
        let environment = spec["containers"][0]["env"].as_array_mut().context("env")?;
        environment.push(json!({"name": "KUBERNETES_SERVICE_HOST", "value": host}));
        environment.push(json!({"name": "KUBERNETES_SERVICE_PORT", "value": port}));
        // What the admission of service accounts adds elsewhere; the embedded control plane does without it.
        let volumes = spec["volumes"].as_array_mut().context("volumes")?;
        volumes.push(json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}));
        let mounts = spec["containers"][0]["volumeMounts"]
            .as_array_mut()
            .context("volumeMounts")?;
        mounts.push(json!({
            "name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true,
        }));
        let pod = serde_json::from_value(pod)?;
        self.runtime
            .block_on(self.pods(SYSTEM).create(&PostParams::default(), &pod))?;
        self.pod_runs(SYSTEM, AGENT)
    }

    /// Deletes the agent's pod: it gets SIGTERM, and the chart's time to put things back.
    fn end_agent(&self) -> Result<()> {
        self.figures.ends(&self.vm, &self.vm.run("pidof duosuan-agent")?)?;
        self.runtime
            .block_on(self.pods(SYSTEM).delete(AGENT, &DeleteParams::default()))?;
        self.eventually("the agent ends", || {
            Ok(self.find::<Pod>(self.pods(SYSTEM), AGENT)?.is_none())
        })
    }

    /// The claim runs for the operator, its pod runs on the node for the kubelet.
    fn claim_runs(&self, name: &str) -> Result<()> {
        self.pod_runs(USER, name)?;
        self.eventually(&format!("claim {name} is said to run"), || {
            let claim = self.get::<CapacityClaim>(Api::namespaced(self.client.clone(), USER), name)?;
            Ok(claim.status.is_some_and(|s| s.phase == Phase::Running))
        })
    }

    fn pod_runs(&self, namespace: &str, name: &str) -> Result<()> {
        self.eventually(&format!("pod {name} runs"), || {
            let pod = self.get::<Pod>(self.pods(namespace), name)?;
            let on = pod.spec.and_then(|s| s.node_name);
            let phase = pod.status.and_then(|s| s.phase);
            Ok(on.as_deref() == Some(NODE) && phase.as_deref() == Some("Running"))
        })
    }

    /// CPUs that prod and batch pods use, measured over a few seconds.
    fn shares(&self) -> Result<(f64, f64)> {
        let look = || -> Result<Vec<f64>> {
            let text = self.vm.run(
                "cd /sys/fs/cgroup/kubepods; cat /proc/uptime burstable/cpu.stat besteffort/cpu.stat | awk 'NR==1 {print $1} /usage_usec/ {print $2}'",
            )?;
            text.lines().map(|line| Ok(line.parse::<f64>()?)).collect()
        };
        let before = look()?;
        self.vm.run("sleep 3")?;
        let after = look()?;
        let share = |at: usize| (after[at] - before[at]) / 1e6 / (after[0] - before[0]);
        Ok((share(1), share(2)))
    }

    fn server(&self) -> String {
        self.control_plane.server().replace("127.0.0.1", HOST)
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn get<K>(&self, api: Api<K>, name: &str) -> Result<K>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        Ok(self.runtime.block_on(api.get(name))?)
    }

    fn find<K>(&self, api: Api<K>, name: &str) -> Result<Option<K>>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        Ok(self.runtime.block_on(api.get_opt(name))?)
    }

    fn eventually(&self, what: &str, seen: impl Fn() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !seen()? {
            if start.elapsed() > LIMIT {
                bail!("{what}: not so after {LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        eprintln!("{:6.1} s for: {what}", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What helps to understand a failure.
    fn diagnosis(&self) -> String {
        let said = |shell: &str| {
            self.vm
                .exec(shell)
                .map_or_else(|e| format!("{e:#}"), |output| output.text)
        };
        let pods = self
            .runtime
            .block_on(self.pods(USER).list(&kube::api::ListParams::default()));
        let pods = pods.map(|list| list.items).unwrap_or_default();
        let pods: Vec<String> = pods
            .iter()
            .filter_map(|pod| serde_json::to_string(&pod.status).ok())
            .collect();
        format!(
            "pods: {pods:#?}\nagent: {}\nkubelet: {}\nsettings: {}",
            said("tail -n 20 /var/log/pods/duosuan-system_*/agent/*.log"),
            said("grep -v '^I' /var/log/kubelet.log | tail -n 8"),
            self.vm.settings(BESTEFFORT).unwrap_or_default(),
        )
    }
}

/// What the chart renders with the agent's image of these tests.
fn rendered(arguments: &[&str]) -> Result<Vec<DynamicObject>> {
    let image = "agent.image.repository=duosuan.test/duosuan-agent,agent.image.tag=1,agent.image.pullPolicy=Never";
    let all = [&["--set-string", image][..], arguments].concat();
    cluster::objects(&chart::render(SYSTEM, &all)?)
}

/// `kubectl apply -f -`, as a user does it.
fn apply(kubectl: &std::path::Path, kubeconfig: &std::path::Path, text: &str) -> Result<()> {
    let mut command = Command::new(kubectl);
    command.arg("--kubeconfig").arg(kubeconfig).args(["apply", "-f", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "kubectl apply: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
