//! Pods with claims to devices: what a session makes of orders about them that fail, and of claims that others have left.

use serde_json::{Value, json};

use super::*;
use crate::translate::dra;

fn device_claim(name: &str, version: &str) -> Value {
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": version},
        "spec": {"devices": {"requests": [request]}},
    })
}

/// The GPU of a node.
fn gpu_on(node: &str) -> Fact {
    let slice = json!({"metadata": {"name": format!("of-{node}")}, "spec": {
        "driver": "d", "nodeName": node, "devices": [{"name": "gpu-0"}],
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
    }});
    let slice = dra::slice(serde_json::from_value(slice).unwrap()).unwrap();
    Fact::ResourceSlice(Box::new(slice))
}

fn devices_for(claims: &[&str]) -> Vec<Fact> {
    let class = json!({"metadata": {"name": "gpu"}, "spec": {}});
    let class = dra::class(serde_json::from_value(class).unwrap()).unwrap();
    let read = |name: &&str| dra::claim(serde_json::from_value(device_claim(name, "1")).unwrap());
    let claims = claims.iter().map(|name| Fact::ResourceClaim(Box::new(read(name))));
    [gpu_on("n"), Fact::DeviceClass(Box::new(class))]
        .into_iter()
        .chain(claims)
        .collect()
}

fn using(name: &str, claim: &str) -> Fact {
    let Fact::Pod(mut pod) = a_pod(name, None, None) else {
        panic!()
    };
    pod.pod.device_claims = vec![claim.to_owned()];
    Fact::Pod(pod)
}

#[tokio::test(start_paused = true)]
async fn devices_of_a_pod_that_went_while_its_binding_had_no_answer_are_free_when_that_is_found_out() {
    let facts = [node("n", 4)].into_iter().chain(devices_for(&["c", "other"]));
    let mut stage = Stage::start(facts.chain([using("a", "c")]).collect()).await;
    stage.lead().await;
    let order = stage.bind("a").await;
    stage.answer(order, Outcome::Unknown("no answer within 10 s".into()));
    stage.facts.send(Fact::PodGone("uid-a".into())).await.unwrap();
    stage.facts.send(using("b", "other")).await.unwrap();
    // What was written of the claim is not known before the API server says it.
    let order = stage.bind("a").await;
    stage.answer(order, Outcome::Gone);
    stage.bind("b").await;
}

/// Claim `c` has the device since the order was carried out.
fn write_claim(order: &mut Order) {
    let Order::Bind { grants, .. } = order else { panic!() };
    let mut written = device_claim("c", "2");
    let result = json!({"request": "r", "driver": "d", "pool": "n", "device": "gpu-0"});
    written["status"] = json!({"allocation": {"devices": {"results": [result]}}});
    grants[0].written = Some(written);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_the_watch_shows_only_after_its_pod_has_ended_holds_no_devices() {
    let facts = [node("n", 4)].into_iter().chain(devices_for(&["c", "other"]));
    let mut stage = Stage::start(facts.chain([using("a", "c")]).collect()).await;
    stage.lead().await;
    let mut order = stage.bind("a").await;
    write_claim(&mut order);
    stage.answer(order, Outcome::Done);
    stage.no_order().await;
    stage.facts.send(a_pod("a", None, Some("n"))).await.unwrap();
    stage.facts.send(Fact::PodGone("uid-a".into())).await.unwrap();
    let read = dra::claim(serde_json::from_value(device_claim("c", "3")).unwrap());
    stage.facts.send(Fact::ResourceClaim(Box::new(read))).await.unwrap();
    stage.facts.send(using("b", "other")).await.unwrap();
    stage.bind("b").await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_went_before_its_pod_was_not_bound_holds_no_devices() {
    let facts = [node("n", 4)].into_iter().chain(devices_for(&["c", "other"]));
    let mut stage = Stage::start(facts.chain([using("a", "c")]).collect()).await;
    stage.lead().await;
    let mut order = stage.bind("a").await;
    write_claim(&mut order);
    stage.facts.send(Fact::ResourceClaimGone("ns/c".into())).await.unwrap();
    stage.facts.send(Fact::PodGone("uid-a".into())).await.unwrap();
    stage.no_order().await;
    stage.answer(order, Outcome::Gone);
    stage.facts.send(using("b", "other")).await.unwrap();
    stage.bind("b").await;
}

/// The next order, which must be to take back what the claim of this pod has; whether the pod has a place.
async fn taken_back(stage: &mut Stage, name: &str) -> (Order, bool) {
    let order = stage.order().await;
    let Order::TakeBack { pod, grants, place } = &order else {
        panic!("{order:?}");
    };
    assert_eq!(
        (pod.name.as_str(), grants.len(), grants[0].of.claim.as_str()),
        (name, 1, "c")
    );
    let has_place = place.is_some();
    (order, has_place)
}

/// The answer that claim `c` has nothing any more.
fn answer_taken_back(stage: &Stage, mut order: Order) {
    let Order::TakeBack { grants, .. } = &mut order else {
        panic!("{order:?}");
    };
    grants[0].written = Some(device_claim("c", "3"));
    stage.answer(order, Outcome::Done);
}

fn is_bound_to(order: &Order, to: &str) -> bool {
    matches!(order, Order::Bind { node, .. } if node == to)
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_node_is_gone_goes_elsewhere_when_its_claim_has_nothing_there_any_more() {
    let facts = [node("n", 4)].into_iter().chain(devices_for(&["c"]));
    let mut stage = Stage::start(facts.chain([using("a", "c")]).collect()).await;
    stage.lead().await;
    let order = stage.bind("a").await;
    stage.facts.send(Fact::NodeGone("n".into())).await.unwrap();
    stage.facts.send(node("m", 4)).await.unwrap();
    stage.facts.send(gpu_on("m")).await.unwrap();
    stage.answer(order, Outcome::Unknown("no answer within 10 s".into()));
    let (order, has_place) = taken_back(&mut stage, "a").await;
    assert!(has_place);
    stage.no_order().await;
    // That failed: it is asked for again until it is known.
    stage.answer(order, Outcome::Failed("the API server is ill".into()));
    let (order, _) = taken_back(&mut stage, "a").await;
    answer_taken_back(&stage, order);
    let order = stage.bind("a").await;
    assert!(is_bound_to(&order, "m"), "{order:?}");
}

/// Claim `c` as an operator left it that was killed: it has the device of node `n`, for pod `a`.
fn left_behind() -> Fact {
    let mut left = device_claim("c", "2");
    let result = json!({"request": "r", "driver": "d", "pool": "n", "device": "gpu-0"});
    let here = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]});
    left["status"] = json!({
        "allocation": {"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [here]}},
        "reservedFor": [{"resource": "pods", "name": "a", "uid": "uid-a"}],
    });
    Fact::ResourceClaim(Box::new(dra::claim(serde_json::from_value(left).unwrap())))
}

/// A stage on which node `n` is full, and node `m` has room and a GPU; pod `a` has claim `c`, with the GPU of `n`.
async fn stuck() -> Stage {
    let facts = [node("n", 1), node("m", 1), gpu_on("m"), a_pod("other", None, Some("n"))];
    let facts = facts.into_iter().chain(devices_for(&[]));
    let mut stage = Stage::start(facts.chain([left_behind(), using("a", "c")]).collect()).await;
    stage.lead().await;
    stage
}

#[tokio::test(start_paused = true)]
async fn a_claim_with_devices_where_its_pod_cannot_go_gives_them_back_once_and_the_pod_goes_elsewhere() {
    let mut stage = stuck().await;
    let (order, has_place) = taken_back(&mut stage, "a").await;
    assert!(!has_place);
    // Nothing is bound with what is being given back, though there is room now.
    stage.facts.send(Fact::PodGone("uid-other".into())).await.unwrap();
    stage.no_order().await;
    stage.facts.send(a_pod("other", None, Some("n"))).await.unwrap();
    answer_taken_back(&stage, order);
    let order = stage.bind("a").await;
    assert!(is_bound_to(&order, "m"), "{order:?}");
    stage.answer(order, Outcome::Done);
    stage.no_order().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_back_is_asked_for_later_and_no_more_when_its_pod_runs() {
    let mut stage = stuck().await;
    let began = Instant::now();
    for seconds in [0, 1, 3] {
        let (order, _) = taken_back(&mut stage, "a").await;
        assert_eq!(began.elapsed().as_secs(), seconds);
        stage.answer(order, Outcome::Failed("forbidden".into()));
    }
    // Somebody else has bound it.
    let Fact::Pod(mut pod) = using("a", "c") else { panic!() };
    pod.pod.node = Some("n".into());
    stage.facts.send(Fact::Pod(pod)).await.unwrap();
    stage.no_order().await;
}

#[tokio::test(start_paused = true)]
async fn where_claims_are_not_served_a_pod_that_names_one_says_so() {
    let mut stage = Stage::start(vec![node("n", 1), using("a", "c")]).await;
    stage.lead().await;
    stage.says("waiting for resource claim to be created: c").await;
    let kind = "ResourceClaim";
    stage.facts.send(Fact::Synced { kind, served: false }).await.unwrap();
    let target = stage.says("resource.k8s.io/v1 is not served").await;
    assert!(matches!(target, Target::Pod(pod) if pod.name == "a"));
}
