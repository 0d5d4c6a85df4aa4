//! The agent and a real API server: what it publishes, what it never publishes, and who else writes there.
//!
//! The nodes are simulated; all that reaches the API server is written by the real agent's code. Waiting is for the
//! object's own change, seen by a watch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use clap::Parser;
use duosuan_crds::{NodeReport, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY};
use duosuan_node::simulated::{FleetOptions, run_fleet};
use duosuan_tests::{
    access::agent_rules,
    cluster::{admin, cluster, install_crds},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[path = "agent/lab.rs"]
mod lab;

use lab::{Lab, until};

const MIB: i64 = 1 << 20;

/// What a node has of a resource: capacity and allocatable.
fn has(node: &Node, resource: &str) -> (Option<i64>, Option<i64>) {
    let status = node.status.as_ref().unwrap();
    let of = |map: &Option<std::collections::BTreeMap<_, _>>| {
        map.as_ref()
            .and_then(|m| m.get(resource))
            .map(|q| duosuan_node::quantity::whole(q).unwrap())
    };
    (of(&status.capacity), of(&status.allocatable))
}

fn batch_cpu(node: &Node) -> Option<i64> {
    has(node, RESOURCE_BATCH_CPU).1
}

fn condition(report: &NodeReport, kind: &str) -> Option<(String, String)> {
    let status = report.status.as_ref()?;
    let found = status.conditions.iter().find(|c| c.type_ == kind)?;
    Some((found.reason.clone(), found.message.clone()))
}

fn managers(object: &impl ResourceExt, resource: &str) -> Vec<String> {
    object
        .managed_fields()
        .iter()
        .filter(|f| serde_json::to_string(&f.fields_v1).unwrap().contains(resource))
        .filter_map(|f| f.manager.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_under_a_policy_reports_and_offers_capacity_and_allocatable_alike() {
    let lab = Lab::start("agent-offers").await;
    lab.policy(json!({})).await;
    lab.pod("online", json!({"cpu": "4", "memory": "8Gi"})).await;
    let node = lab
        .node_until("batch capacity", |n| batch_cpu(n).is_some_and(|m| m > 0))
        .await;
    for resource in [RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY] {
        let (capacity, allocatable) = has(&node, resource);
        assert_eq!(capacity, allocatable, "{resource}");
        assert_eq!(managers(&node, resource), ["duosuan-agent"]);
    }
    let (cpu, memory) = (batch_cpu(&node).unwrap(), has(&node, RESOURCE_BATCH_MEMORY).1.unwrap());
    assert!(cpu <= 16_000 * 9 / 10, "{cpu}m is more than the node less its margin");
    assert!(
        memory <= 65_536 * MIB * 9 / 10,
        "{memory} bytes are more than the node less its margin"
    );

    let report = lab
        .report_until("a fresh forecast", |r| {
            condition(r, "ForecastReady").is_some_and(|c| c.0 == "Fresh")
        })
        .await;
    let status = report.status.as_ref().unwrap();
    assert_eq!(status.policy.as_deref(), Some("agent-offers"));
    assert_eq!(
        status.tiers.iter().map(|t| t.tier).collect::<Vec<_>>(),
        [
            duosuan_crds::Tier::Prod,
            duosuan_crds::Tier::Mid,
            duosuan_crds::Tier::Batch
        ]
    );
    assert_eq!(status.capacity["cpu"].0, "16");
    assert_eq!(status.gpus.len(), 2);
    assert_eq!(
        (status.gpus[1].model.as_str(), status.gpus[1].memory.0.as_str()),
        ("A100-SXM4-80GB", "81920Mi")
    );
    assert_eq!(report.owner_references()[0].uid, node.uid().unwrap());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terms_of_an_offer_and_what_guards_did_are_reported_and_shown_by_top() {
    let lab = Lab::start("agent-top").await;
    lab.policy(json!({})).await;
    lab.pod("online", json!({"cpu": "4", "memory": "8Gi"})).await;
    let report = lab
        .report_until("a fresh forecast", |r| {
            condition(r, "ForecastReady").is_some_and(|c| c.0 == "Fresh")
        })
        .await;
    let status = report.status.as_ref().unwrap();
    let parse = [duosuan_node::quantity::milli, duosuan_node::quantity::whole];
    for ((offer, resource), amount) in status.offers.iter().zip(["cpu", "memory"]).zip(parse) {
        let of = |quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| amount(quantity).unwrap();
        assert_eq!((offer.resource.as_str(), offer.basis.as_str()), (resource, "Fresh"));
        let (system, prod) = (
            of(offer.system_peak.as_ref().unwrap()),
            of(offer.prod_peak.as_ref().unwrap()),
        );
        let target = of(&offer.capacity) - of(&offer.margin) - system - prod - of(&offer.young_requests);
        // Each term is written in whole mebibytes, rounded up.
        let close = (of(offer.target.as_ref().unwrap()) - target).abs();
        assert!(close <= if resource == "cpu" { 0 } else { 6 * MIB }, "{offer:?}");
        assert!(
            of(&offer.offered) <= target + close && of(&offer.bound) == 0,
            "{offer:?}"
        );
    }
    assert!(status.system.contains_key("cpu") && status.system.contains_key("memory"));
    // What a guard cannot do is said once.
    let deed = status.actions.last().unwrap();
    assert_eq!(deed.guard, "io");
    assert!(
        deed.action
            .starts_with("off: the kernel has neither io.max nor io.weight"),
        "{deed:?}"
    );
    assert!(deed.time <= *status.time.as_ref().unwrap());

    let binary = duosuan_tests::binary::binary("duosuan").unwrap();
    let kubeconfig = cluster().unwrap().kubeconfig().display().to_string();
    let top = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        let output = command
            .arg("top")
            .args(arguments)
            .args(["--kubeconfig", &kubeconfig])
            .output();
        output.unwrap()
    };
    let shown = top(&["node", "agent-top", "--json"]);
    assert!(shown.status.success(), "{shown:?}");
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["node"], &shown["policy"]),
        (&json!("agent-top"), &json!("agent-top"))
    );
    assert_eq!(shown["offers"][0]["capacity"], "16");
    assert_eq!(shown["actions"], serde_json::to_value(&status.actions).unwrap());
    let text = String::from_utf8(top(&["nodes"]).stdout).unwrap();
    assert!(
        text.lines().any(|line| line.trim_start().starts_with("agent-top ")),
        "{text}"
    );
    let missing = top(&["node", "nobody"]);
    assert!(!missing.status.success());
    assert!(
        String::from_utf8(missing.stderr)
            .unwrap()
            .contains("there is no NodeReport nobody")
    );
    lab.end().await;
}

/// Each report began its conditions anew, so that every one of them said that the policy had been accepted just now.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_keeps_its_first_time_over_reports_and_over_restarts_of_the_agent() {
    let mut lab = Lab::start("agent-since").await;
    lab.policy(json!({})).await;
    let accepted = |r: &NodeReport| {
        let conditions = &r.status.as_ref()?.conditions;
        let condition = conditions.iter().find(|c| c.type_ == "PolicyAccepted")?;
        (condition.status == "True").then(|| (condition.last_transition_time.clone(), condition.observed_generation))
    };
    // Times of conditions are whole seconds: a report of two seconds later would show another one.
    let later = |r: &NodeReport| {
        let (since, _) = accepted(r)?;
        let report = r.status.as_ref()?.time.as_ref()?;
        (report.0.as_second() - since.0.as_second() >= 2).then_some(())
    };
    let first = lab.report_until("the policy accepted", |r| accepted(r).is_some()).await;
    let since = accepted(&first).unwrap();
    assert_eq!(since.1, first.metadata.generation);
    assert!(since.1.is_some());
    let wanted = since.clone();
    lab.report_until("a later report of the same condition", |r| {
        later(r).is_some() && accepted(r).as_ref() == Some(&wanted)
    })
    .await;
    lab.restart().await;
    let ended = lab.reports().get(&lab.node).await.unwrap().status.unwrap().time;
    let report = lab
        .report_until("a report of the next agent", |r| {
            r.status.as_ref().is_some_and(|s| s.time > ended) && accepted(r).is_some()
        })
        .await;
    assert_eq!(accepted(&report), Some(since));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_a_node_reports_and_offers_nothing() {
    let lab = Lab::start("agent-unasked").await;
    let report = lab
        .report_until("a report", |r| condition(r, "PolicyAccepted").is_some())
        .await;
    assert_eq!(condition(&report, "PolicyAccepted").unwrap().0, "NoPolicy");
    assert_eq!(report.status.as_ref().unwrap().policy, None);
    let node = lab.nodes().get(&lab.node).await.unwrap();
    assert_eq!(has(&node, RESOURCE_BATCH_CPU), (None, None));
    lab.end().await;
}

/// A node that had been looked at before its policy came got its past after that: time went back, nothing of the past
/// counted, and the node offered nothing for its first minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_comes_late_finds_a_past_too() {
    let lab = Lab::start("agent-late").await;
    lab.report_until("a report", |r| condition(r, "PolicyAccepted").is_some())
        .await;
    lab.policy(json!({})).await;
    let report = lab
        .report_until("a report under the policy", |r| {
            r.status.as_ref().is_some_and(|status| status.policy.is_some())
        })
        .await;
    assert_eq!(condition(&report, "ForecastReady").unwrap().0, "Fresh");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bound_is_never_undercut_not_even_by_the_kill_switch() {
    let lab = Lab::start("agent-bound").await;
    lab.policy(json!({})).await;
    lab.node_until("batch capacity", |n| batch_cpu(n).is_some_and(|m| m > 3_000))
        .await;
    lab.pod(
        "batch",
        json!({RESOURCE_BATCH_CPU: "2500", RESOURCE_BATCH_MEMORY: "1Gi"}),
    )
    .await;
    lab.policy(json!({"suspended": true})).await;
    let node = lab
        .node_until("no more than what is bound", |n| batch_cpu(n) == Some(2_500))
        .await;
    assert_eq!(has(&node, RESOURCE_BATCH_CPU), (Some(2_500), Some(2_500)));
    assert_eq!(has(&node, RESOURCE_BATCH_MEMORY), (Some(1 << 30), Some(1 << 30)));
    let report = lab
        .report_until("suspended", |r| {
            condition(r, "PolicyAccepted").is_some_and(|c| c.0 == "Suspended")
        })
        .await;
    let guard = &report.status.as_ref().unwrap().guards[0];
    assert_eq!(
        (guard.name.as_str(), guard.state.as_str(), guard.limit_milli),
        ("cpu", "Off", None)
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_takes_the_resources_off_an_unused_node_and_back_on() {
    let lab = Lab::start("agent-switch").await;
    lab.policy(json!({})).await;
    lab.node_until("batch capacity", |n| batch_cpu(n).is_some_and(|m| m > 0))
        .await;
    lab.policy(json!({"suspended": true})).await;
    let node = lab.node_until("no batch resource", |n| batch_cpu(n).is_none()).await;
    assert_eq!(has(&node, RESOURCE_BATCH_CPU), (None, None));
    assert_eq!(has(&node, RESOURCE_BATCH_MEMORY), (None, None));
    assert_eq!(
        has(&node, "cpu"),
        (Some(16), Some(16)),
        "what the kubelet reports is not ours to touch"
    );
    lab.policy(json!({"suspended": false})).await;
    lab.node_until("batch capacity again", |n| batch_cpu(n).is_some()).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_somebody_else_writes_stays_his_and_is_reported() {
    let lab = Lab::start("agent-conflict").await;
    let theirs = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": lab.node}, "status": {
        "capacity": {RESOURCE_BATCH_CPU: "777"}, "allocatable": {RESOURCE_BATCH_CPU: "777"}}});
    lab.nodes()
        .patch_status(&lab.node, &PatchParams::apply("somebody-else"), &Patch::Apply(&theirs))
        .await
        .unwrap();
    lab.policy(json!({})).await;
    let reason = |r: &NodeReport, reason: &str| condition(r, "CapacityPublished").is_some_and(|c| c.0 == reason);
    let report = lab.report_until("a conflict", |r| reason(r, "OwnedByAnother")).await;
    let message = condition(&report, "CapacityPublished").unwrap().1;
    assert!(message.contains("somebody-else"), "{message}");
    let node = lab.nodes().get(&lab.node).await.unwrap();
    assert_eq!(has(&node, RESOURCE_BATCH_CPU), (Some(777), Some(777)));
    assert_eq!(managers(&node, RESOURCE_BATCH_CPU), ["somebody-else"]);

    // It lets go: the agent takes over by itself.
    let nothing = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": lab.node}});
    lab.nodes()
        .patch_status(&lab.node, &PatchParams::apply("somebody-else"), &Patch::Apply(&nothing))
        .await
        .unwrap();
    lab.node_until("ours", |n| managers(n, RESOURCE_BATCH_CPU) == ["duosuan-agent"])
        .await;
    lab.report_until("published", |r| reason(r, "Published")).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_online_pod_takes_the_offer_down_at_once() {
    let lab = Lab::start("agent-down").await;
    lab.policy(json!({})).await;
    let before = lab
        .node_until("batch capacity", |n| batch_cpu(n).is_some_and(|m| m > 10_000))
        .await;
    lab.pod("online", json!({"cpu": "10", "memory": "1Gi"})).await;
    let before = batch_cpu(&before).unwrap();
    lab.node_until("a lower offer", |n| batch_cpu(n).is_some_and(|m| m <= before - 9_000))
        .await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_deleted_is_made_again() {
    let lab = Lab::start("agent-again").await;
    let first = lab.report_until("a report", |r| r.status.is_some()).await;
    lab.reports().delete(&lab.node, &DeleteParams::default()).await.unwrap();
    lab.report_until("another report", |r| r.uid() != first.uid() && r.status.is_some())
        .await;
    lab.end().await;
}

/// A folder that looks like a node's cgroups, for what the agent reports; what it does to a kernel is tested on one.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cgroup");
    for group in ["kubepods/besteffort", "kubepods/burstable"] {
        std::fs::create_dir_all(root.join(group)).unwrap();
        std::fs::write(root.join(group).join("cpu.idle"), "0\n").unwrap();
        std::fs::write(root.join(group).join("cpu.max"), "max 100000\n").unwrap();
    }
    std::fs::write(root.join("cgroup.controllers"), "cpu memory\n").unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_reports_its_node_and_withdraws_the_offer_when_it_ends() {
    let lab = Lab::start_idle("agent-real").await;
    lab.policy(json!({})).await;
    lab.pod(
        "batch",
        json!({RESOURCE_BATCH_CPU: "300", RESOURCE_BATCH_MEMORY: "1Mi"}),
    )
    .await;
    let dir = folder();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (cgroup, journal) = (at("cgroup"), at("journal"));
    let kubeconfig = cluster().unwrap().kubeconfig().display().to_string();
    let flags = [
        "duosuan-agent",
        "--node",
        "agent-real",
        "--kubeconfig",
        &kubeconfig,
        "--cgroup-root",
        &cgroup,
        "--journal",
        &journal,
    ];
    let options = duosuan_node::Options::try_parse_from(flags).unwrap();
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    // On a thread of its own, as the binary runs it.
    let end = shutdown.clone();
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(duosuan_node::run(options, end))
    });

    let report = lab
        .report_until("a report under the policy", |r| {
            condition(r, "PolicyAccepted").is_some_and(|c| c.0 == "Following")
        })
        .await;
    let status = report.status.as_ref().unwrap();
    assert_eq!(status.capabilities, ["cpu.idle", "cpu.max"]);
    assert_eq!(condition(&report, "ForecastReady").unwrap().0, "ColdStart");
    let cpus = duosuan_node::quantity::milli(&status.capacity["cpu"]).unwrap();
    assert_eq!(
        cpus,
        i64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap() * 1000
    );
    // Cold, it offers what is bound and no more.
    let node = lab.node_until("what is bound", |n| batch_cpu(n) == Some(300)).await;
    assert_eq!(has(&node, RESOURCE_BATCH_MEMORY), (Some(MIB), Some(MIB)));

    Api::<Pod>::namespaced(lab.client.clone(), "default")
        .delete("agent-real-batch", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    lab.node_until("nothing", |n| batch_cpu(n) == Some(0)).await;
    shutdown.cancel();
    tokio::task::spawn_blocking(move || agent.join().unwrap())
        .await
        .unwrap()
        .unwrap();
    let node = lab.nodes().get("agent-real").await.unwrap();
    assert_eq!(has(&node, RESOURCE_BATCH_CPU), (None, None));
    assert_eq!(has(&node, "cpu"), (Some(16), Some(16)));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_asks_for_the_impossible_is_refused_with_its_field() {
    let lab = Lab::start("agent-refused").await;
    // Admission cannot know a node's size; the agent does.
    lab.policy(json!({"guards": {"cpu": {"floor": "17"}}})).await;
    let refused = |r: &NodeReport| condition(r, "PolicyAccepted").is_some_and(|c| c.0 == "Refused");
    let report = lab.report_until("refused", refused).await;
    let message = condition(&report, "PolicyAccepted").unwrap().1;
    assert!(message.contains("guards.cpu.floor is 17000m"), "{message}");
    assert_eq!(batch_cpu(&lab.nodes().get(&lab.node).await.unwrap()), None);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_works_within_the_access_rules_of_the_chart() {
    agent_rules(&admin(cluster().unwrap()).await.unwrap()).await.unwrap();
    let lab = Lab::start_as("agent-confined", true, true).await;
    lab.policy(json!({})).await;
    lab.node_until("batch capacity", |n| batch_cpu(n).is_some_and(|m| m > 0))
        .await;
    lab.report_until("published", |r| {
        condition(r, "CapacityPublished").is_some_and(|c| c.0 == "Published")
    })
    .await;
    lab.policy(json!({"suspended": true})).await;
    lab.node_until("no batch resource", |n| batch_cpu(n).is_none()).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_requests_in_flight_every_node_of_a_fleet_still_reports() {
    // The first nodes by name once took every free place, and the others never reported.
    let client = admin(cluster().unwrap()).await.unwrap();
    install_crds(&client).await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let names: Vec<String> = (0..30).map(|n| format!("agent-many-{n:02}")).collect();
    for name in &names {
        let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi"}}});
        nodes
            .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
            .await
            .unwrap();
    }
    let mut options = FleetOptions::new(names.clone());
    (options.in_flight, options.impersonate) = (1, false);
    (options.step, options.report_period) = (Duration::from_millis(100), Duration::from_millis(200));
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    let fleet = tokio::spawn(run_fleet(client.clone(), options, shutdown.clone()));
    for name in &names {
        until(&Api::<NodeReport>::all(client.clone()), name, "a report", |r| {
            r.status.is_some()
        })
        .await;
    }
    shutdown.cancel();
    fleet.await.unwrap().unwrap();
}
