#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use std::time::Duration;

use super::{
    pauses::{CALM, SHORTEST_PAUSE},
    *,
};
use crate::script::{Answer, Script};

const QUEUES: &str = "GET /apis/duosuan.io/v1alpha1/queues";

fn queue(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "Queue", "metadata": {"name": name, "resourceVersion": "1"}, "spec": spec})
}

fn list(items: &[Value]) -> Answer {
    Answer::Is(
        200,
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}),
    )
}

/// What the watch of queues says until it has no answers any more.
async fn facts(script: &Script) -> (Vec<String>, Metrics) {
    facts_of::<lean::Queue>(script).await
}

async fn facts_of<K: Watched>(script: &Script) -> (Vec<String>, Metrics) {
    let (facts, mut facts_in) = mpsc::channel(100);
    let metrics = Metrics::new();
    let watcher = Watcher {
        client: script.client(),
        site: Site::default(),
        facts,
        metrics: metrics.clone(),
    };
    let watching = tokio::spawn(async move { watcher.watch::<K>().await });
    let mut said = Vec::new();
    while let Ok(Some(fact)) = tokio::time::timeout(Duration::from_secs(60), facts_in.recv()).await {
        said.push(match fact {
            Fact::Queue(queue) => format!("queue {}", queue.queue.name),
            Fact::QueueGone(name) => format!("gone {name}"),
            Fact::Synced { served, .. } => format!("synced {served}"),
            Fact::PodGroup(group) => format!("pod group {} {}", group.claim.uid, group.version),
            Fact::PodGroupGone(uid) => format!("pod group {uid} is gone"),
            other => format!("{other:?}"),
        });
    }
    watching.abort();
    script.played();
    (said, metrics)
}

#[tokio::test(start_paused = true)]
async fn a_broken_object_is_counted_and_stalls_nothing() {
    let objects = [queue("a", json!({"weight": "heavy"})), queue("b", json!({"weight": 2}))];
    let script = Script::default().on(QUEUES, list(&objects)).on(QUEUES, Answer::Hangs);
    let (said, metrics) = facts(&script).await;
    assert_eq!(said, ["queue b", "synced true"]);
    assert_eq!(
        metrics
            .broken_objects
            .get_or_create(&metrics::Kind { kind: "Queue" })
            .get(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_the_watch_was_down_is_gone() {
    let expired =
        json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    let script = Script::default()
        .on(QUEUES, list(&[queue("a", json!({})), queue("b", json!({}))]))
        .on(QUEUES, Answer::Is(200, json!({"type": "ERROR", "object": expired})))
        .on(QUEUES, Answer::fails(500, "ill"))
        .on(QUEUES, list(&[queue("b", json!({}))]))
        .on(QUEUES, Answer::Hangs);
    let (said, _) = facts(&script).await;
    assert_eq!(
        said,
        ["queue a", "queue b", "synced true", "queue b", "gone a", "synced true"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_is_done_without_and_found_when_it_comes() {
    let script = Script::default()
        .on(QUEUES, Answer::fails(404, "no such kind"))
        .on(QUEUES, Answer::fails(404, "no such kind"))
        .on(QUEUES, list(&[queue("a", json!({}))]))
        .on(QUEUES, Answer::Hangs);
    let (said, _) = facts(&script).await;
    assert_eq!(said, ["synced false", "synced false", "queue a", "synced true"]);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_a_bound_until_it_has_been_calm() {
    let mut pauses = Pauses::of::<lean::Queue>();
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(pauses.following().as_millis());
    }
    assert_eq!(seen, [500, 1000, 2000, 4000, 8000, 8000]);
    tokio::time::advance(CALM + Duration::from_millis(1)).await;
    assert_eq!(pauses.following(), SHORTEST_PAUSE);
}

#[test]
fn what_a_list_does_not_name_any_more_is_gone() {
    let mut keys = Keys::default();
    keys.start();
    for key in ["a", "b", "c"] {
        keys.see(key);
    }
    assert!(keys.finish().is_empty());
    keys.forget("c");
    keys.start();
    keys.see("b");
    // The connection breaks in the middle of the list; the next one starts from the beginning.
    keys.start();
    keys.see("d");
    assert_eq!(keys.finish(), ["a", "b"]);
    keys.start();
    keys.see("d");
    assert!(keys.finish().is_empty());
}

const GROUPS: [&str; 3] = [
    "GET /apis/scheduling.k8s.io/v1beta1/podgroups",
    "GET /apis/scheduling.k8s.io/v1alpha3/podgroups",
    "GET /apis/scheduling.k8s.io/v1alpha2/podgroups",
];

#[tokio::test(start_paused = true)]
async fn a_kind_that_most_clusters_do_without_is_asked_for_ever_less_and_counted_by_nobody() {
    // Who may not see it may not in any version.
    for (code, versions) in [(404, &GROUPS[..]), (403, &GROUPS[..1])] {
        let mut script = Script::default();
        for version in versions {
            for _ in 0..6 {
                script = script.on(version, Answer::fails(code, "no"));
            }
        }
        // Within the first minute, that is often enough.
        script = script.on(GROUPS[0], Answer::Hangs);
        let (said, metrics) = facts_of::<lean::PodGroup>(&script).await;
        assert_eq!(said, ["synced false"; 6]);
        let restarts = metrics
            .watch_restarts
            .get_or_create(&metrics::Kind { kind: "PodGroup" });
        assert_eq!(restarts.get(), 0);
    }
}

/// A pod group, by name, as it stands in a list.
fn pod_group(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
    })
}

#[tokio::test(start_paused = true)]
async fn pod_groups_are_read_in_the_newest_version_that_is_served() {
    for served in 0..GROUPS.len() {
        let mut script = Script::default();
        for version in &GROUPS[..served] {
            script = script.on(
                version,
                Answer::fails(404, "the server could not find the requested resource"),
            );
        }
        let script = script
            .on(GROUPS[served], list(&[pod_group("g")]))
            .on(GROUPS[served], Answer::Hangs);
        let version = ["v1beta1", "v1alpha3", "v1alpha2"][served];
        assert_eq!(
            facts_of::<lean::PodGroup>(&script).await.0,
            [&format!("pod group g {version}"), "synced true"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pod_groups_stay_when_the_api_server_is_renewed_and_serves_another_version() {
    let expired =
        json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    let no = || Answer::fails(404, "the server could not find the requested resource");
    let script = Script::default()
        .on(GROUPS[0], no())
        .on(GROUPS[1], no())
        .on(GROUPS[2], list(&[pod_group("g"), pod_group("h")]))
        .on(GROUPS[2], Answer::Is(200, json!({"type": "ERROR", "object": expired})))
        .on(GROUPS[2], no())
        .on(GROUPS[0], list(&[pod_group("g")]))
        .on(GROUPS[0], Answer::Hangs);
    let said = [
        "pod group g v1alpha2",
        "pod group h v1alpha2",
        "synced true",
        "pod group g v1beta1",
        "pod group h is gone",
        "synced true",
    ];
    assert_eq!(facts_of::<lean::PodGroup>(&script).await.0, said);
}

#[tokio::test(start_paused = true)]
async fn claims_that_hold_devices_are_kept_while_their_kind_is_not_served_for_a_moment() {
    const CLAIMS: &str = "GET /apis/resource.k8s.io/v1/resourceclaims";
    let claim = |name: &str| json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": "1"}, "spec": {}});
    let expired =
        json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    for code in [404, 403] {
        let script = Script::default()
            .on(CLAIMS, list(&[claim("a"), claim("b")]))
            .on(CLAIMS, Answer::Is(200, json!({"type": "ERROR", "object": expired})))
            .on(CLAIMS, Answer::fails(code, "no"))
            .on(CLAIMS, list(&[claim("b")]))
            .on(CLAIMS, Answer::Hangs);
        let (said, _) = facts_of::<lean::ResourceClaim>(&script).await;
        let said: Vec<&str> = said.iter().map(|said| said.split('(').next().unwrap()).collect();
        let claims = "ResourceClaim";
        assert_eq!(
            said,
            [
                claims,
                claims,
                "synced true",
                claims,
                "ResourceClaimGone",
                "synced true"
            ]
        );
    }
}
