//! The kubelet beside the agent: what it writes again does not undo what the agent set, and when it starts anew it fails no
//! batch pod, for the agent never offers less than is bound.

use anyhow::{Context, Result, ensure};
use duosuan_crds::RESOURCE_BATCH_CPU;
use duosuan_tests::metrics::values;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::PostParams};
use serde_json::json;

use super::{BESTEFFORT, LIMIT, NODE, USER, World};

/// Nobody's claim: the default queue takes it. Guaranteed, so that no weight changes that other pods share.
const AFTERWARDS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: afterwards, namespace: default}
spec:
  schedulerName: duosuan
  terminationGracePeriodSeconds: 0
  containers:
  - name: pause
    image: duosuan.test/pause:1
    imagePullPolicy: Never
    resources: {limits: {cpu: 100m, memory: 32Mi}}
"#;

/// What the batch pod asked for.
const BOUND: &str = "300";
/// Pods of the user that ran before.
const OLD: [&str; 3] = ["online", "batch", "afterwards"];
/// The agent's metrics, on the node's own network.
const METRICS: &str = "wget -q -O - http://127.0.0.1:9091/metrics";
const REASSERTED: &str = "duosuan_reasserted_total";
const FAILED: &str = "duosuan_kernel_errors_total";

impl World {
    /// The kubelet writes the weights of its QoS cgroups again with each new pod and each minute; somebody else writes where
    /// the agent does.
    pub(super) fn the_kubelet_and_the_agent_do_not_fight(&self, apply: &dyn Fn(&str) -> Result<()>) -> Result<()> {
        let weights = "cd /sys/fs/cgroup/kubepods && cat burstable/cpu.weight besteffort/cpu.weight";
        let own = self.vm.run(weights)?;
        let before = self.metric(REASSERTED, "")?;
        self.vm
            .run("cd /sys/fs/cgroup/kubepods && echo 77 > burstable/cpu.weight && echo 37 > besteffort/cpu.weight")?;
        apply(AFTERWARDS)?;
        self.pod_runs(USER, "afterwards")?;
        self.vm
            .wait("the kubelet writes its weights again", LIMIT, weights, |text| {
                (text.trim() == own).then_some(())
            })?;
        let limit = format!("/sys/fs/cgroup/{BESTEFFORT}/cpu.max");
        let limited = |text: &str| (!text.starts_with("max")).then_some(());
        let read = format!("cat {limit}");
        ensure!(
            limited(&self.vm.run(&read)?).is_some(),
            "the kubelet lifted the limit of batch"
        );
        ensure!(
            self.metric(REASSERTED, "")? == before,
            "the agent takes the kubelet's own weights for its own"
        );

        // One who writes once is corrected, and counted.
        self.vm.run(&format!("echo max > {limit}"))?;
        self.vm.wait("batch is limited again", LIMIT, &read, limited)?;
        self.eventually("that is counted", || Ok(self.metric(REASSERTED, "")? > before))?;

        // One who does not cease is yielded to until he does.
        let errors = self.metric(FAILED, "file=\"cpu.max\"")?;
        let writer = self.vm.run(&format!(
            "(while :; do echo max > {limit}; sleep 0.05; done) > /dev/null 2>&1 & echo $!"
        ))?;
        self.eventually("the agent yields in a fight", || {
            Ok(self.metric(FAILED, "file=\"cpu.max\"")? > errors)
        })?;
        let counted = self.metric(REASSERTED, "")?;
        self.vm.run(&format!("kill {writer}"))?;
        ensure!(counted - before < 60.0, "the agent fought {} times", counted - before);
        self.vm
            .wait("batch is limited when nobody fights", LIMIT, &read, limited)
    }

    /// While it is away a pod takes what batch was offered: more is bound than prod leaves, and just that is offered.
    pub(super) fn a_kubelet_that_starts_anew_fails_no_batch_while_the_offer_shrinks(&self) -> Result<()> {
        let containers = self.containers()?;
        self.vm
            .run("kill $(cat /run/kubelet.pid) && while [ -d /proc/$(cat /run/kubelet.pid) ]; do sleep 0.1; done")?;
        self.create("demand", "1200m")?;
        self.is_offered(BOUND)?;
        self.vm.run(&format!("start-kubelet {NODE}"))?;
        self.old_pods_run_beside("demand", &containers)?;
        // And once more, with nothing more offered than is bound from the first.
        self.vm.run(&format!("start-kubelet {NODE}"))?;
        self.create("later", "50m")?;
        self.old_pods_run_beside("later", &containers)?;
        self.is_offered(BOUND)
    }

    /// Pods are admitted in the order of their age: when a new one runs, the old ones have been looked at.
    fn old_pods_run_beside(&self, new: &str, containers: &[String]) -> Result<()> {
        self.pod_runs(USER, new)?;
        for name in OLD {
            let status = self
                .get::<Pod>(self.pods(USER), name)?
                .status
                .context("a pod without status")?;
            ensure!(
                status.phase.as_deref() == Some("Running"),
                "{name} is {:?}: {:?}",
                status.phase,
                status.message
            );
        }
        let now = self.containers()?;
        ensure!(
            containers.iter().all(|task| now.contains(task)),
            "containers ended:\n{containers:#?}\nnow\n{now:#?}"
        );
        Ok(())
    }

    /// Containers that run.
    fn containers(&self) -> Result<Vec<String>> {
        let text = self
            .vm
            .run("ctr -n k8s.io tasks ls | awk '$3 == \"RUNNING\" {print $1, $2}' | sort")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Capacity and allocatable of batch's CPU, both of them.
    fn is_offered(&self, milli: &str) -> Result<()> {
        self.eventually(&format!("{milli}m of CPU are offered to batch"), || {
            let status = self
                .get::<Node>(Api::all(self.client.clone()), NODE)?
                .status
                .context("no status")?;
            let of = |map: &Option<std::collections::BTreeMap<String, _>>| {
                map.as_ref()
                    .and_then(|m| m.get(RESOURCE_BATCH_CPU))
                    .map(|q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| q.0.clone())
            };
            let wanted = Some(milli.to_owned());
            Ok(of(&status.capacity) == wanted && of(&status.allocatable) == wanted)
        })
    }

    /// A pod that does nothing with what it asked for, bound to the node as by a scheduler.
    fn create(&self, name: &str, cpu: &str) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": USER},
            "spec": {
                "nodeName": NODE,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "pause", "image": "duosuan.test/pause:1", "imagePullPolicy": "Never",
                    "resources": {"limits": {"cpu": cpu, "memory": "32Mi"}}}],
            },
        });
        let pod = serde_json::from_value(pod)?;
        self.runtime
            .block_on(self.pods(USER).create(&PostParams::default(), &pod))?;
        Ok(())
    }

    /// The sum of what the agent counts under this name, of lines with these words.
    fn metric(&self, name: &str, words: &str) -> Result<f64> {
        Ok(values(&self.vm.run(METRICS)?, name, words).sum())
    }
}
