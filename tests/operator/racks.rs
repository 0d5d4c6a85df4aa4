//! Claims that have to stand in one rack.

use std::collections::BTreeSet;

use duosuan_crds::CapacityClaim;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::lab::{Lab, bound, message, running};

/// Two racks of two nodes with two cores each, and a large node in none.
async fn racks(lab: &Lab) {
    let resources = |cpu: &str| json!({"cpu": cpu, "memory": "64Gi", "pods": "110"});
    for node in ["racks-a0", "racks-a1", "racks-b0", "racks-b1"] {
        let rack = if node.starts_with("racks-a") { "a" } else { "b" };
        lab.labelled_node(node, resources("2"), json!({"duosuan.io/rack": rack}))
            .await;
    }
    lab.node("racks-none", resources("64")).await;
}

fn claim(count: u32, topology: Value) -> Value {
    json!({"groups": [{"name": "w", "count": count}], "topology": topology})
}

async fn members(lab: &Lab, claim: &str, count: u32) {
    for i in 0..count {
        lab.member(&format!("{claim}-{i}"), claim, "w", json!({"cpu": "1"}))
            .await;
    }
}

/// Nodes of a claim's pods, without the last letter.
async fn racks_of(lab: &Lab, claim: &str) -> BTreeSet<String> {
    let all = ListParams::default().labels(&format!("duosuan.io/claim={claim}"));
    let pods = lab.api::<Pod>().list(&all).await.unwrap();
    let nodes = pods.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone());
    nodes.map(|n| n[..n.len() - 1].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_requires_a_rack_gets_one_is_repaired_in_it_and_says_what_is_missing() {
    let lab = Lab::start("racks").await;
    racks(&lab).await;
    let operator = lab.operator().await;
    let rack = json!({"pack": "rack", "mode": "required"});
    lab.claim("train", claim(3, rack.clone())).await;
    members(&lab, "train", 3).await;
    lab.wait::<CapacityClaim>("train", running).await;
    let home = racks_of(&lab, "train").await;
    assert_eq!(home.len(), 1, "{home:?}");

    // One that no rack can hold, though a node in none could.
    lab.claim("huge", claim(5, rack)).await;
    members(&lab, "huge", 5).await;
    let wanted = "it needs 5 pods in one rack; the best rack has 4";
    let huge = lab
        .wait::<CapacityClaim>("huge", |c| message(c).starts_with(wanted))
        .await;
    let status = huge.status.as_ref().unwrap();
    assert_eq!(status.reason.as_deref(), Some("TopologyTooSmall"));
    assert!(
        message(&huge).contains("had room for 1 more of its pods"),
        "{}",
        message(&huge)
    );

    // A lost pod comes back to the rack of the others.
    let pods: Api<Pod> = lab.api();
    pods.delete("train-0", &DeleteParams::default()).await.unwrap();
    lab.wait::<CapacityClaim>("train", |c| !running(c)).await;
    lab.member("train-again", "train", "w", json!({"cpu": "1"})).await;
    lab.wait::<Pod>("train-again", bound).await;
    assert_eq!(racks_of(&lab, "train").await, home);

    // The label of a node changes, and with it what its rack holds.
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let other = if home.contains("racks-a") { "b" } else { "a" };
    let patch = json!({"metadata": {"labels": {"duosuan.io/rack": other}}});
    nodes
        .patch("racks-none", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    lab.wait::<CapacityClaim>("huge", running).await;
    let there = racks_of(&lab, "huge").await;
    assert!(there.is_disjoint(&home), "{there:?} and {home:?}");
    operator.end().await;
}
