//! Dynamic resource allocation with a real API server and its controllers: pods get devices by claims.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests; the lab has more than this one uses"
)]

#[path = "operator/lab.rs"]
mod lab;

use duosuan_tests::cluster::apply;
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    resource::v1::{DeviceClass, ResourceClaim, ResourceSlice},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::Status,
};
use lab::{Lab, bound, condition};
use serde_json::{Value, json};

/// Flags of the API server that this test binary starts.
pub const APISERVER_FLAGS: &[&str] = &[];

const DRIVER: &str = "gpu.example.com";

async fn put(lab: &Lab, object: Value) {
    apply(&lab.client, &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
}

/// A node, and the slice of its GPUs.
async fn gpu_node(lab: &Lab, name: &str, devices: Value) {
    lab.node(name, json!({"cpu": "8", "memory": "32Gi", "pods": "110"}))
        .await;
    put(
        lab,
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": format!("{name}-gpus")},
            "spec": {"driver": DRIVER, "nodeName": name, "devices": devices,
                "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}},
        }),
    )
    .await;
}

fn gpu(name: &str, model: &str, bus: i64) -> Value {
    json!({
        "name": name,
        "attributes": {"model": {"string": model}, "bus": {"int": bus}},
        "capacity": {"memory": {"value": "80Gi"}},
    })
}

/// The class of all GPUs, and the one of large ones.
async fn classes(lab: &Lab) {
    let of_driver = format!("device.driver == '{DRIVER}'");
    let large = format!(
        "device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].model == 'A100' \
         && device.capacity['{DRIVER}'].memory.compareTo(quantity('40Gi')) >= 0"
    );
    for (name, expression) in [("gpu", of_driver), ("large", large)] {
        put(
            lab,
            json!({
                "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name},
                "spec": {"selectors": [{"cel": {"expression": expression}}], "config": [
                    {"opaque": {"driver": DRIVER, "parameters": {"class": name}}},
                ]},
            }),
        )
        .await;
    }
}

fn exactly(name: &str, class: &str, more: Value) -> Value {
    let mut request = json!({"name": name, "exactly": {"deviceClassName": class}});
    for (field, value) in more.as_object().unwrap() {
        request["exactly"][field] = value.clone();
    }
    request
}

async fn template(lab: &Lab, name: &str, devices: Value) {
    put(
        lab,
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
            "metadata": {"name": name, "namespace": lab.namespace}, "spec": {"spec": {"devices": devices}},
        }),
    )
    .await;
}

async fn claim(lab: &Lab, name: &str, devices: Value) {
    put(
        lab,
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": lab.namespace}, "spec": {"devices": devices},
        }),
    )
    .await;
}

/// A pod that uses a claim: `{"resourceClaimName": ...}` or `{"resourceClaimTemplateName": ...}`.
async fn pod(lab: &Lab, name: &str, source: Value, labels: Value) {
    pod_for(lab, "duosuan", name, source, labels).await;
}

async fn pod_for(lab: &Lab, scheduler: &str, name: &str, source: Value, labels: Value) {
    let mut used = json!({"name": "gpu"});
    for (field, value) in source.as_object().unwrap() {
        used[field] = value.clone();
    }
    put(
        lab,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": lab.namespace, "labels": labels},
            "spec": {
                "schedulerName": scheduler, "terminationGracePeriodSeconds": 0, "resourceClaims": [used],
                "containers": [{"name": "c", "image": "none",
                    "resources": {"requests": {"cpu": "100m"}, "claims": [{"name": "gpu"}]}}],
            },
        }),
    )
    .await;
}

/// Somebody has allocated a device of a node to a claim, for the pod of the same name, and went no further.
async fn left_allocated(lab: &Lab, name: &str, node: &str, device: &str) {
    let uid = lab.api::<Pod>().get(name).await.unwrap().uid().unwrap();
    let allocation = json!({
        "devices": {"results": [{"request": "gpu", "driver": DRIVER, "pool": node, "device": device}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]},
        ]}]},
    });
    let reserved = json!([{"resource": "pods", "name": name, "uid": uid}]);
    let status = json!({"status": {"allocation": allocation, "reservedFor": reserved}});
    lab.api::<ResourceClaim>()
        .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

fn says(words: &'static str) -> impl Fn(&Pod) -> bool {
    move |p: &Pod| {
        condition(p, "PodScheduled")
            .and_then(|c| c.message)
            .is_some_and(|m| m.contains(words))
    }
}

/// Devices of the claims of the namespace that pods named so use: pod, `pool/device`.
async fn devices(lab: &Lab) -> Vec<(String, String)> {
    let claims = lab.api::<ResourceClaim>().list(&ListParams::default()).await.unwrap();
    let mut all = Vec::new();
    for claim in claims {
        let status = claim.status.unwrap_or_default();
        let results = status.allocation.and_then(|a| a.devices).and_then(|d| d.results);
        for consumer in status.reserved_for.unwrap_or_default() {
            for result in results.iter().flatten() {
                all.push((consumer.name.clone(), format!("{}/{}", result.pool, result.device)));
            }
        }
    }
    all.sort();
    all
}

async fn has(lab: &Lab, expected: &[(&str, &str)]) {
    let expected: Vec<(String, String)> = expected
        .iter()
        .map(|(p, d)| ((*p).to_owned(), (*d).to_owned()))
        .collect();
    assert_eq!(devices(lab).await, expected);
}

/// Nothing of devices may stay for the next test.
async fn end(lab: &Lab) {
    let (now, every) = (DeleteParams::default().grace_period(0), ListParams::default());
    lab.api::<Pod>().delete_collection(&now, &every).await.unwrap();
    let claims: Api<ResourceClaim> = lab.api();
    for claim in claims.list(&every).await.unwrap() {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let _ = claims.patch(&claim.name_any(), &PatchParams::default(), &patch).await;
        let _ = claims.delete(&claim.name_any(), &now).await;
    }
    Api::<ResourceSlice>::all(lab.client.clone())
        .delete_collection(&now, &every)
        .await
        .unwrap();
    Api::<DeviceClass>::all(lab.client.clone())
        .delete_collection(&now, &every)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_device_by_a_template_and_its_claim_says_which_before_it_is_bound() {
    let lab = Lab::start("templates").await;
    classes(&lab).await;
    gpu_node(
        &lab,
        "templates-1",
        json!([gpu("gpu-0", "A100", 0), gpu("gpu-1", "A100", 1)]),
    )
    .await;
    let operator = lab.operator().await;
    template(&lab, "one", json!({"requests": [exactly("gpu", "gpu", json!({}))]})).await;
    for name in ["a", "b", "c"] {
        pod(&lab, name, json!({"resourceClaimTemplateName": "one"}), json!({})).await;
        if name != "c" {
            lab.wait::<Pod>(name, bound).await;
        }
    }
    lab.wait::<Pod>("c", says("cannot allocate all claims")).await;
    has(&lab, &[("a", "templates-1/gpu-0"), ("b", "templates-1/gpu-1")]).await;
    let claims = lab.api::<ResourceClaim>().list(&ListParams::default()).await.unwrap();
    let of_a = claims.iter().find(|c| c.name_any().starts_with("a-gpu-")).unwrap();
    assert_eq!(of_a.finalizers(), ["resource.kubernetes.io/delete-protection"]);
    let allocation = serde_json::to_value(of_a.status.as_ref().unwrap().allocation.as_ref().unwrap()).unwrap();
    assert_eq!(
        allocation,
        json!({
            "devices": {
                "results": [{"request": "gpu", "driver": DRIVER, "pool": "templates-1", "device": "gpu-0"}],
                "config": [{"source": "FromClass", "opaque": {"driver": DRIVER, "parameters": {"class": "gpu"}}}],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["templates-1"]},
            ]}]},
        })
    );
    // The controllers give back what a pod had that is gone.
    let now = DeleteParams::default().grace_period(0);
    lab.api::<Pod>().delete("a", &now).await.unwrap();
    lab.wait::<Pod>("c", bound).await;
    has(&lab, &[("b", "templates-1/gpu-1"), ("c", "templates-1/gpu-0")]).await;
    operator.end().await;
    end(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_share_a_claim_on_the_node_where_its_devices_are() {
    let lab = Lab::start("shared").await;
    classes(&lab).await;
    gpu_node(&lab, "shared-1", json!([gpu("gpu-0", "A100", 0)])).await;
    gpu_node(&lab, "shared-2", json!([gpu("gpu-0", "A100", 0)])).await;
    let operator = lab.operator().await;
    for name in ["a", "b"] {
        pod(&lab, name, json!({"resourceClaimName": "both"}), json!({})).await;
    }
    lab.wait::<Pod>("b", says("waiting for resource claim to be created: both"))
        .await;
    claim(&lab, "both", json!({"requests": [exactly("gpu", "gpu", json!({}))]})).await;
    lab.until_bound(2).await;
    let held = devices(&lab).await;
    assert_eq!((held.len(), &held[0].1), (2, &held[1].1), "{held:?}");
    operator.end().await;
    end(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_and_constraints_say_which_devices_are_meant() {
    let lab = Lab::start("meant").await;
    classes(&lab).await;
    let mixed = json!([
        gpu("gpu-0", "T4", 0),
        gpu("gpu-1", "A100", 0),
        gpu("gpu-2", "A100", 1),
        gpu("gpu-3", "A100", 1)
    ]);
    gpu_node(&lab, "meant-1", mixed).await;
    let operator = lab.operator().await;
    let two = json!({
        "requests": [exactly("gpus", "large", json!({"count": 2}))],
        "constraints": [{"matchAttribute": format!("{DRIVER}/bus")}],
    });
    claim(&lab, "two", two).await;
    pod(&lab, "pair", json!({"resourceClaimName": "two"}), json!({})).await;
    lab.wait::<Pod>("pair", bound).await;
    has(&lab, &[("pair", "meant-1/gpu-2"), ("pair", "meant-1/gpu-3")]).await;
    // One that asks for what is not supported says so, and one whose expression fails does.
    let admin = json!({"requests": [exactly("gpu", "gpu", json!({"selectors": [
        {"cel": {"expression": format!("device.attributes['{DRIVER}'].serial == 'x'")}},
    ]}))]});
    claim(&lab, "fails", admin).await;
    pod(&lab, "fails", json!({"resourceClaimName": "fails"}), json!({})).await;
    lab.wait::<Pod>("fails", says("serial")).await;
    claim(
        &lab,
        "none",
        json!({"requests": [exactly("gpu", "no-such-class", json!({}))]}),
    )
    .await;
    pod(&lab, "none", json!({"resourceClaimName": "none"}), json!({})).await;
    lab.wait::<Pod>("none", says("device class no-such-class does not exist"))
        .await;
    operator.end().await;
    end(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_of_which_one_gets_no_device_leaves_nothing_allocated() {
    let lab = Lab::start("gang").await;
    classes(&lab).await;
    gpu_node(&lab, "gang-1", json!([gpu("gpu-0", "A100", 0)])).await;
    gpu_node(&lab, "gang-2", json!([gpu("gpu-0", "A100", 0)])).await;
    let operator = lab.operator().await;
    template(&lab, "one", json!({"requests": [exactly("gpu", "gpu", json!({}))]})).await;
    lab.claim("train", json!({"groups": [{"name": "w", "count": 3}]})).await;
    let member = json!({"duosuan.io/claim": "train", "duosuan.io/group": "w"});
    for name in ["w-0", "w-1", "w-2"] {
        pod(&lab, name, json!({"resourceClaimTemplateName": "one"}), member.clone()).await;
    }
    lab.wait::<Pod>("w-2", says("cannot allocate all claims")).await;
    has(&lab, &[]).await;
    assert_eq!(lab.bound_pods().await, Vec::<String>::new());
    gpu_node(&lab, "gang-3", json!([gpu("gpu-0", "A100", 0)])).await;
    lab.until_bound(3).await;
    assert_eq!(devices(&lab).await.len(), 3);
    operator.end().await;
    end(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_scheduler_allocated_counts_and_what_a_dead_operator_allocated_is_gone_on_with() {
    let lab = Lab::start("others").await;
    classes(&lab).await;
    gpu_node(
        &lab,
        "others-1",
        json!([gpu("gpu-0", "A100", 0), gpu("gpu-1", "A100", 1)]),
    )
    .await;
    let asks = json!({"requests": [exactly("gpu", "gpu", json!({}))]});
    for (name, scheduler, device) in [("theirs", "other", "gpu-0"), ("mine", "duosuan", "gpu-1")] {
        claim(&lab, name, asks.clone()).await;
        pod_for(&lab, scheduler, name, json!({"resourceClaimName": name}), json!({})).await;
        left_allocated(&lab, name, "others-1", device).await;
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "theirs", "namespace": lab.namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "others-1"},
    });
    let params = PostParams::default();
    let _: Status = lab
        .api::<Pod>()
        .create_subresource("binding", "theirs", &params, &binding)
        .await
        .unwrap();
    let operator = lab.operator().await;
    lab.wait::<Pod>("mine", bound).await;
    claim(&lab, "late", asks).await;
    pod(&lab, "late", json!({"resourceClaimName": "late"}), json!({})).await;
    lab.wait::<Pod>("late", says("cannot allocate all claims")).await;
    has(&lab, &[("mine", "others-1/gpu-1"), ("theirs", "others-1/gpu-0")]).await;
    operator.end().await;
    end(&lab).await;
}

/// An operator was killed between the claim and the binding, and then the node was drained, or went.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_with_devices_where_its_pod_cannot_go_gives_them_back_and_gets_others_elsewhere() {
    let lab = Lab::start("stuck").await;
    classes(&lab).await;
    gpu_node(
        &lab,
        "stuck-1",
        json!([gpu("gpu-0", "A100", 0), gpu("gpu-1", "A100", 1)]),
    )
    .await;
    gpu_node(
        &lab,
        "stuck-2",
        json!([gpu("gpu-0", "A100", 0), gpu("gpu-1", "A100", 1)]),
    )
    .await;
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    Api::<Node>::all(lab.client.clone())
        .patch("stuck-1", &PatchParams::default(), &cordon)
        .await
        .unwrap();
    let asks = json!({"requests": [exactly("gpu", "gpu", json!({}))]});
    for (name, node, device) in [("closed", "stuck-1", "gpu-0"), ("gone", "stuck-gone", "gpu-0")] {
        claim(&lab, name, asks.clone()).await;
        pod(&lab, name, json!({"resourceClaimName": name}), json!({})).await;
        left_allocated(&lab, name, node, device).await;
    }
    // What others use stays where it is.
    claim(&lab, "used", asks).await;
    for name in ["used", "late"] {
        pod(&lab, name, json!({"resourceClaimName": "used"}), json!({})).await;
    }
    left_allocated(&lab, "used", "stuck-1", "gpu-1").await;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "used", "namespace": lab.namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "stuck-1"},
    });
    let params = PostParams::default();
    let _: Status = lab
        .api::<Pod>()
        .create_subresource("binding", "used", &params, &binding)
        .await
        .unwrap();
    let operator = lab.operator().await;
    for name in ["closed", "gone"] {
        lab.wait::<Pod>(name, bound).await;
    }
    lab.wait::<Pod>("late", says("resourceclaim not available on the node"))
        .await;
    let held = devices(&lab).await;
    let mut of_two: Vec<&str> = held.iter().map(|(_, device)| device.as_str()).collect();
    of_two.sort_unstable();
    assert_eq!(of_two, ["stuck-1/gpu-1", "stuck-2/gpu-0", "stuck-2/gpu-1"], "{held:?}");
    operator.end().await;
    end(&lab).await;
}
