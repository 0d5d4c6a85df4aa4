//! Every rule and bound of the API, tried from both sides on a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::process::Command;

use duosuan_embedded::Tool;
use duosuan_tests::cluster::{admin, api_of, apply, cluster, install_crds, objects};
use kube::{
    Client, ResourceExt,
    api::{DynamicObject, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A rule: a specification that passes, one that does not, the field that the refusal names, and words of its message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rule: String,
    /// What stands there, where the rule is about a change.
    #[serde(default)]
    before: Value,
    good: Value,
    bad: Value,
    field: String,
    says: String,
}

const CLAIM: &str = "{groups: [{name: worker, count: 2}]}";

fn cases(text: &str) -> Vec<Case> {
    serde_yaml::from_str(text).unwrap()
}

impl Case {
    /// What is wrong with the answers to the good and the bad specification.
    fn judge(&self, good: kube::Result<DynamicObject>, bad: kube::Result<DynamicObject>) -> Vec<String> {
        let Self { rule, field, says, .. } = self;
        let mut wrong = Vec::new();
        if let Err(error) = good {
            wrong.push(format!("{rule}: {} was refused: {error}", self.good));
        }
        match bad {
            Ok(_) => wrong.push(format!("{rule}: {} was accepted", self.bad)),
            Err(error) => {
                let text = error.to_string();
                if !text.contains(&format!("{field}: ")) || !text.contains(says) {
                    wrong.push(format!(
                        "{rule}: the refusal should name {field:?} and say {says:?}, but says: {text}"
                    ));
                }
            }
        }
        wrong
    }
}

async fn ready() -> Client {
    let client = admin(cluster().unwrap()).await.unwrap();
    install_crds(&client).await.unwrap();
    client
}

fn value(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"))
}

fn merge(target: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().expect("a specification is an object") {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            target[key] = value.clone();
        }
    }
}

fn object(kind: &str, name: &str, base: &str, spec: &Value) -> DynamicObject {
    let mut whole = value(base);
    merge(&mut whole, spec);
    let mut metadata = json!({ "name": name });
    if kind == "CapacityClaim" {
        metadata["namespace"] = json!("default");
    }
    let api = "duosuan.io/v1alpha1";
    serde_json::from_value(json!({ "apiVersion": api, "kind": kind, "metadata": metadata, "spec": whole })).unwrap()
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

async fn refusals(kind: &str, base: &str, text: &str) {
    let client = ready().await;
    let api = api_of(&client, &object(kind, "subject", base, &json!({})))
        .await
        .unwrap();
    let mut wrong = Vec::new();
    for case in cases(text) {
        let good = api.create(&dry_run(), &object(kind, "subject", base, &case.good)).await;
        let bad = api.create(&dry_run(), &object(kind, "subject", base, &case.bad)).await;
        wrong.extend(case.judge(good, bad));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn claims_that_cannot_be_honoured_are_refused_with_the_field_and_the_reason() {
    refusals("CapacityClaim", CLAIM, include_str!("crds/claims.yaml")).await;
}

#[tokio::test]
async fn queues_that_cannot_be_honoured_are_refused_with_the_field_and_the_reason() {
    refusals("Queue", "{}", include_str!("crds/queues.yaml")).await;
}

#[tokio::test]
async fn policies_that_cannot_be_honoured_are_refused_with_the_field_and_the_reason() {
    refusals("ColocationPolicy", "{}", include_str!("crds/policies.yaml")).await;
}

#[tokio::test]
async fn what_a_claim_stands_on_cannot_be_changed_and_the_rest_can() {
    let client = ready().await;
    let mut wrong = Vec::new();
    for (number, case) in cases(include_str!("crds/changes.yaml")).into_iter().enumerate() {
        let name = format!("change-{number}");
        let start = object("CapacityClaim", &name, CLAIM, &case.before);
        let api = api_of(&client, &start).await.unwrap();
        let stored = api.create(&PostParams::default(), &start).await.unwrap();
        let changed = |change: &Value| {
            let mut next = stored.clone();
            merge(&mut next.data["spec"], change);
            next
        };
        let good = api.replace(&name, &dry_run(), &changed(&case.good)).await;
        let bad = api.replace(&name, &dry_run(), &changed(&case.bad)).await;
        wrong.extend(case.judge(good, bad));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_report_asks_for_nothing() {
    let client = ready().await;
    let empty = object("NodeReport", "node-1", "{}", &json!({}));
    apply(&client, &empty).await.unwrap();
    let wish = object("NodeReport", "node-2", "{}", &json!({"replicas": 3}));
    let stored = api_of(&client, &wish)
        .await
        .unwrap()
        .create(&PostParams::default(), &wish)
        .await
        .unwrap();
    assert_eq!(stored.data["spec"], json!({}));
}

#[tokio::test]
async fn what_a_specification_leaves_out_is_filled_in() {
    let client = ready().await;
    let cases = [
        (
            "CapacityClaim",
            CLAIM,
            json!({"queue": "default", "tier": "prod", "priority": 0, "groups": [{"name": "worker", "count": 2}]}),
        ),
        ("Queue", "{}", json!({"weight": 1, "reclaim": "Any"})),
        (
            "ColocationPolicy",
            "{}",
            json!({"mode": "act", "suspended": false, "placement": {}, "reclaim": {}, "guards": {"cpu": {"confine": false, "disabled": false}}}),
        ),
        (
            "ColocationPolicy",
            "{guards: {cpu: {stallMilli: 5}}}",
            json!({"mode": "act", "suspended": false, "placement": {}, "reclaim": {}, "guards": {"cpu": {"confine": false, "disabled": false, "stallMilli": 5}}}),
        ),
        (
            "CapacityClaim",
            "{groups: [{name: a, count: 1}], topology: {pack: node}}",
            json!({"queue": "default", "tier": "prod", "priority": 0, "groups": [{"name": "a", "count": 1}], "topology": {"pack": "node", "mode": "preferred"}}),
        ),
    ];
    for (kind, spec, filled) in cases {
        let object = object(kind, "filled", spec, &json!({}));
        let stored = api_of(&client, &object)
            .await
            .unwrap()
            .create(&dry_run(), &object)
            .await
            .unwrap();
        assert_eq!(stored.data["spec"], filled, "{kind} {spec}");
    }
}

#[tokio::test]
async fn a_specification_that_requires_nothing_need_not_be_written() {
    let client = ready().await;
    for kind in ["Queue", "ColocationPolicy", "NodeReport"] {
        let mut object = object(kind, "bare", "{}", &json!({}));
        object.data.as_object_mut().unwrap().remove("spec");
        let stored = api_of(&client, &object)
            .await
            .unwrap()
            .create(&dry_run(), &object)
            .await
            .unwrap();
        assert!(stored.data["spec"].is_object(), "{kind}");
    }
}

#[tokio::test]
async fn the_types_read_what_the_server_stores_and_the_server_accepts_what_they_write() {
    let client = ready().await;
    let text = "
apiVersion: duosuan.io/v1alpha1
kind: CapacityClaim
metadata: {name: typed, namespace: default}
spec:
  groups:
  - {name: driver, count: 1, requests: {cpu: 2}}
  - {name: executor, min: 1, max: 9, quantum: 4, gpus: {share: 250, memory: 10Gi, models: [A100]}, topology: {pack: node}}
  window: {start: '2026-12-24T00:00:00Z', end: '2026-12-24T06:00:00Z'}
  interruption: {notice: 2m}
";
    apply(&client, &objects(text).unwrap()[0]).await.unwrap();
    let api: kube::Api<duosuan_crds::CapacityClaim> = kube::Api::namespaced(client.clone(), "default");
    let mut claim = api.get("typed").await.unwrap();
    assert_eq!(claim.spec.groups[1].quantum, Some(4));
    claim.spec.priority = 7;
    let replaced = api.replace("typed", &PostParams::default(), &claim).await.unwrap();
    assert_eq!(replaced.spec, claim.spec);

    // A status of every kind with nothing in it, and one with a condition: what the operator and the agent start from.
    let status = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "status": duosuan_crds::CapacityClaimStatus::default()});
    let params = kube::api::PatchParams::apply("duosuan-operator").force();
    api.patch_status("typed", &params, &kube::api::Patch::Apply(status))
        .await
        .unwrap();
    let report = duosuan_crds::NodeReport::new("typed", duosuan_crds::report::NodeReportSpec {});
    let reports: kube::Api<duosuan_crds::NodeReport> = kube::Api::all(client.clone());
    reports
        .patch("typed", &params, &kube::api::Patch::Apply(&report))
        .await
        .unwrap();
    let status = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "status": duosuan_crds::NodeReportStatus::default()});
    reports
        .patch_status("typed", &params, &kube::api::Patch::Apply(status))
        .await
        .unwrap();
    let queue = duosuan_crds::Queue::new(
        "typed",
        duosuan_crds::QueueSpec {
            weight: 1,
            ..Default::default()
        },
    );
    let queues: kube::Api<duosuan_crds::Queue> = kube::Api::all(client.clone());
    queues.create(&PostParams::default(), &queue).await.unwrap();
    let policy = duosuan_crds::ColocationPolicy::new("typed", duosuan_crds::ColocationPolicySpec::default());
    let policies: kube::Api<duosuan_crds::ColocationPolicy> = kube::Api::all(client);
    let stored = policies.create(&PostParams::default(), &policy).await.unwrap();
    assert_eq!(stored.name_any(), "typed");
}

#[tokio::test]
async fn kubectl_explain_reads_like_documentation() {
    ready().await;
    let kubectl = duosuan_embedded::build(Tool::Kubectl, &mut |_| {}).unwrap();
    let explain = |field: &str| {
        let output = Command::new(&kubectl)
            .arg("--kubeconfig")
            .arg(cluster().unwrap().kubeconfig())
            .args(["explain", field])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{field}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // kubectl breaks lines where it likes.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let groups = explain("capacityclaim.spec.groups");
    for words in [
        "The roles of the gang, 1 to 16, each a set of identical pods",
        "Step in pods in which an elastic group grows and shrinks",
        "GPUs of each pod: whole devices by count, or a part of one by share.",
        "name <string> -required-",
    ] {
        assert!(groups.contains(words), "{words:?} is not in: {groups}");
    }
    assert!(explain("queue.spec.quotas").contains("Guarantees and limits, at most one entry for each tier"));
    assert!(explain("colocationpolicy.spec.reclaim.hold").contains("Must be shorter than expire. Default: `60s`"));
    assert!(explain("nodereport.status.tiers").contains("CPU and memory, by tier"));
}
