//! A binding that the API server refuses for good, in the middle of a gang.

use duosuan_crds::CapacityClaim;
use duosuan_tests::cluster::{apply, eventually, objects};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::Pod,
};
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::lab::{Lab, condition, message, running};

/// Nobody binds the pod w-1.
const POLICY: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: refused }
spec:
  matchConstraints:
    resourceRules:
      - { apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods/binding] }
  validations:
    - { expression: request.name != 'w-1', message: w-1 stays out }
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: refused }
spec: { policyName: refused, validationActions: [Deny] }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_api_server_refuses_to_bind_says_so_and_is_bound_when_it_is_allowed() {
    let lab = Lab::start("refused").await;
    lab.node("refused-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.claim("train", json!({"groups": [{"name": "w", "count": 3}]})).await;
    for name in ["w-0", "w-1", "w-2"] {
        lab.member(name, "train", "w", json!({"cpu": "1"})).await;
    }
    for object in objects(POLICY).unwrap() {
        apply(&lab.client, &object).await.unwrap();
    }
    let refused = eventually("the API server refuses the binding", async || {
        let path = "/api/v1/namespaces/refused/pods/w-1/binding?dryRun=All";
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": "refused-1"});
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "w-1"}, "target": target});
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .unwrap();
        Ok(lab.client.request_text(request).await.err())
    });
    let refused = refused.await.unwrap().to_string();
    assert!(refused.contains("w-1 stays out"), "{refused}");

    let operator = lab.operator().await;
    let why = "refuses to bind pod w-1";
    let claim = lab.wait::<CapacityClaim>("train", |c| message(c).contains(why)).await;
    assert!(message(&claim).contains("w-1 stays out"), "{}", message(&claim));
    let says = |p: &Pod| condition(p, "PodScheduled").is_some_and(|c| c.message.unwrap_or_default().contains(why));
    lab.wait::<Pod>("w-1", says).await;
    lab.until_bound(2).await;
    assert_eq!(lab.bound_pods().await, ["w-0", "w-2"]);

    let now = DeleteParams::default();
    let client = || lab.client.clone();
    Api::<ValidatingAdmissionPolicyBinding>::all(client())
        .delete("refused", &now)
        .await
        .unwrap();
    Api::<ValidatingAdmissionPolicy>::all(client())
        .delete("refused", &now)
        .await
        .unwrap();
    lab.wait::<CapacityClaim>("train", running).await;
    assert_eq!(lab.bound_pods().await, ["w-0", "w-1", "w-2"]);
    operator.end().await;
}
