//! Pods that come and go under the agent on a real kernel: it sees each of them, and keeps nothing of those that went.
//!
//! No kubelet and no API server: the pods are cgroups as the kubelet makes them. The agent takes pods that nobody told it
//! of for prod, but for those that the policy calls batch. What it sees is asked of the kernel: the files it holds open.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use duosuan_tests::figures::Usage;

#[path = "agent/scene.rs"]
mod scene;

use scene::{LIMIT, Scene};

/// Times that a fifth of the pods goes and others come, an even number.
const ROUNDS: usize = 6;
/// Of all pods, those that the policy calls batch.
const BATCH: usize = 20;
const TREE: &str = "/sys/fs/cgroup/kubepods";

/// Pods as cgroups below the kubelet's.
struct Pods<'a> {
    scene: &'a Scene,
    made: usize,
    live: BTreeSet<String>,
}

impl<'a> Pods<'a> {
    fn open(scene: &'a Scene) -> Result<Self> {
        let controllers = "echo '+cpu +memory +io' >";
        scene.vm().run(&format!(
            "rmdir {TREE}/*/*/c {TREE}/*/c {TREE}/*/* {TREE}/* {TREE} 2> /dev/null; mkdir {TREE} && cd {TREE} &&
             {controllers} cgroup.subtree_control && mkdir burstable besteffort &&
             {controllers} burstable/cgroup.subtree_control && {controllers} besteffort/cgroup.subtree_control"
        ))?;
        Ok(Self {
            scene,
            made: 0,
            live: BTreeSet::new(),
        })
    }

    /// Most are burstable, every fifth is besteffort, every tenth guaranteed.
    fn come(&mut self, count: usize) -> Result<()> {
        let class = |n| match n % 10 {
            0 => "",
            5 | 9 => "besteffort/",
            _ => "burstable/",
        };
        let names = (0..count).map(|n| self.name(class(n))).collect();
        self.make(names)
    }

    /// The name of a pod that has not been there yet.
    fn name(&mut self, class: &str) -> String {
        self.made += 1;
        format!("{class}pod{}", self.made)
    }

    /// Each has a container.
    fn make(&mut self, names: Vec<String>) -> Result<()> {
        let folders: String = names.iter().map(|name| format!(" {name} {name}/c")).collect();
        self.scene.vm().run(&format!("cd {TREE} && mkdir{folders}"))?;
        self.live.extend(names);
        Ok(())
    }

    fn go(&mut self, names: &[String]) -> Result<()> {
        let folders: String = names.iter().map(|name| format!(" {name}/c {name}")).collect();
        self.scene.vm().run(&format!("cd {TREE} && rmdir{folders}"))?;
        for name in names {
            self.live.remove(name);
        }
        Ok(())
    }

    /// A fifth goes, and as many of the same class come; half of the batch pods do, by name the same, but other ones.
    fn churn(&mut self) -> Result<()> {
        let count = self.live.len() / 5 - BATCH / 2;
        let step = (self.live.len() - BATCH) / count;
        let others = self.live.iter().filter(|name| !name.contains("batch"));
        let mut old: Vec<String> = others.step_by(step).take(count).cloned().collect();
        let mut new: Vec<String> = (0..BATCH / 2).map(batch).collect();
        let again = new.clone();
        for name in &old {
            let class = name.rfind("pod").map_or("", |at| &name[..at]);
            new.push(self.name(class));
        }
        old.extend(again);
        self.go(&old)?;
        self.make(new)
    }

    /// Waits until the agent holds files of each pod that there is, and of no other. Answers how many files it has open.
    fn all_are_seen(&self, agent: &str) -> Result<usize> {
        // The kernel says of what was removed that it is deleted, and that is no pod's name.
        let shell = format!(
            "ls -l /proc/{agent}/fd | sed -n 's|.* -> {TREE}/||p' | sed 's|\\(pod[^/ ]*\\)/[^ ]*|\\1|' | sort | uniq -c"
        );
        let held = self.scene.vm().wait("the agent holds each pod", LIMIT, &shell, |text| {
            let held: BTreeMap<&str, usize> = text
                .lines()
                .filter_map(|line| {
                    let (count, name) = line.trim().split_once(' ')?;
                    name.contains("pod").then_some((name, count.parse().ok()?))
                })
                .collect();
            let names = held.keys().copied();
            names
                .eq(self.live.iter().map(String::as_str))
                .then(|| held.values().sum())
        });
        held.map_err(|error| self.scene.explain(error))
    }
}

fn batch(number: usize) -> String {
    format!("besteffort/podbatch{number:02}")
}

/// Entries of the journal that were not taken back.
fn left(journal: &str) -> Vec<String> {
    let mut left = BTreeMap::new();
    for line in journal.lines() {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let key = format!("{} {}", line["path"], line["file"]);
        match line["kind"].as_str() {
            Some("set") => drop(left.insert(key, ())),
            Some("restored") => drop(left.remove(&key)),
            _ => {}
        }
    }
    left.into_keys().collect()
}

fn come_and_go(name: &'static str, count: usize) -> Result<()> {
    let scene = Scene::open(name)?;
    let mut pods = Pods::open(&scene)?;
    let before = scene.vm().settings("kubepods")?;
    let rules: Vec<String> = (0..BATCH)
        .map(|n| format!("{{path: kubepods/{}, tier: batch}}", batch(n)))
        .collect();
    let agent = scene.start_agent_by(&format!("spec: {{mode: act}}\ngroups: [{}]", rules.join(", ")))?;
    scene.wait_for_metric("duosuan_node_capacity")?;

    pods.make((0..BATCH).map(batch).collect())?;
    pods.come(count - BATCH)?;
    let mut open = vec![pods.all_are_seen(&agent)?];
    let mut used = vec![Usage::of(scene.vm(), &agent)?];
    for _ in 0..ROUNDS {
        pods.churn()?;
        ensure!(pods.live.len() == count, "{} pods", pods.live.len());
        open.push(pods.all_are_seen(&agent)?);
        // Each batch pod, old or new, waits for its disk behind all others.
        scene.repeat("each batch pod has the least IO weight", || {
            let weights = scene.vm().run(&format!("cat {TREE}/besteffort/podbatch*/io.weight"))?;
            let least = weights.lines().filter(|line| *line == "default 10").count();
            Ok((least == BATCH).then_some(()).ok_or(format!("{least} have")))
        })?;
        used.push(Usage::of(scene.vm(), &agent)?);
    }
    // The same number of pods takes the same number of files, as soon as all triggers are armed, and no more memory for all that have gone.
    ensure!(
        open.iter().skip(2).all(|files| *files == open[1]) && open[0] <= open[1],
        "files of pods were open: {open:?}"
    );
    let (first, last) = (used[1].resident_mib, used[ROUNDS].resident_mib);
    ensure!(
        last <= first + 1.0,
        "resident were {first:.1} MiB, and {last:.1} after {ROUNDS} rounds"
    );
    let all: Vec<String> = pods.live.iter().cloned().collect();
    pods.go(&all)?;
    let files = pods.all_are_seen(&agent)?;
    ensure!(files == 0, "{files} files of pods that are gone are open");
    ensure!(
        scene.vm().settings("kubepods")? == before,
        "the kubelet's own cgroups are not as before"
    );
    scene.end(&agent)?;
    let left = left(&scene.vm().run(&format!("cat /run/{name}/journal"))?);
    ensure!(left.is_empty(), "the journal still has {left:?}");
    scene
        .vm()
        .run(&format!("rmdir {TREE}/besteffort {TREE}/burstable {TREE}"))?;
    scene.is_as_before()
}

#[test]
fn of_110_pods_that_come_and_go_each_is_seen_and_nothing_is_left() -> Result<()> {
    come_and_go("pods110", 110)
}

#[test]
fn of_250_pods_that_come_and_go_each_is_seen_and_nothing_is_left() -> Result<()> {
    come_and_go("pods250", 250)
}
