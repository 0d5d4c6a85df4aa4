#![allow(clippy::unwrap_used, reason = "tests")]

use duosuan_crds::ColocationPolicyStatus;
use serde_json::json;

use super::*;
use crate::script::{Answer, Script};

const STATUS: &str = "PATCH /apis/duosuan.io/v1alpha1/colocationpolicies/p/status";

fn nodes(nodes: u32) -> (Target, Patch) {
    let target = Target::Policy("p".into());
    let patch = target.apply(&ColocationPolicyStatus {
        nodes,
        ..ColocationPolicyStatus::default()
    });
    (target, patch)
}

#[test]
fn times_are_written_in_whole_seconds() {
    let time = Timestamp::UNIX_EPOCH + SignedDuration::from_millis(1999);
    assert_eq!(seconds(time), "1970-01-01T00:00:01Z");
}

#[test]
fn a_pod_group_is_written_in_the_version_in_which_it_is_served() {
    for version in ["v1beta1", "v1alpha2"] {
        let name = ("ns".to_owned(), pod_group::claim_name("g"));
        let patch = Target::PodGroup(name, version).apply(&json!({"conditions": []}));
        let path = format!("/apis/scheduling.k8s.io/{version}/namespaces/ns/podgroups/g/status?");
        assert!(patch.path.starts_with(&path), "{}", patch.path);
        let api_version = format!(r#""apiVersion":"scheduling.k8s.io/{version}""#);
        assert!(patch.body.contains(&api_version), "{}", patch.body);
    }
}

#[tokio::test(start_paused = true)]
async fn of_one_object_only_the_last_word_is_written() {
    // The first one takes a second try, and meanwhile there are two more.
    let script = Script::default()
        .on(STATUS, Answer::fails(500, "ill"))
        .on(STATUS, Answer::ok())
        .on(STATUS, Answer::ok());
    let (patches, patches_in) = mpsc::unbounded_channel();
    let (_binding, binding_in) = watch::channel(false);
    let end = CancellationToken::new();
    let task = tokio::spawn(run(
        script.client(),
        Retry::default(),
        patches_in,
        binding_in,
        end.clone(),
    ));
    patches.send(nodes(1)).unwrap();
    while script.bodies(STATUS).is_empty() {
        tokio::task::yield_now().await;
    }
    patches.send(nodes(2)).unwrap();
    patches.send(nodes(3)).unwrap();
    while script.bodies(STATUS).len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    end.cancel();
    task.await.unwrap();
    script.played();
    let written: Vec<_> = script
        .bodies(STATUS)
        .iter()
        .map(|b| b.pointer("/status/nodes").cloned())
        .collect();
    assert_eq!(written, [Some(json!(1)), Some(json!(1)), Some(json!(3))]);
}

#[test]
fn a_pod_that_waits_says_so_as_under_kube_scheduler() {
    let pod = PodName {
        uid: "u".into(),
        namespace: "ns".into(),
        name: "p".into(),
    };
    let patch = pod_status(
        &pod,
        &PodStatus {
            message: Some("why".into()),
            nominated: Some(None),
        },
        Timestamp::UNIX_EPOCH,
    );
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "why", "lastTransitionTime": "1970-01-01T00:00:00Z"});
    let body: serde_json::Value = serde_json::from_str(&patch.body).unwrap();
    assert_eq!(
        body,
        json!({"metadata": {"uid": "u"}, "status": {"conditions": [condition], "nominatedNodeName": null}})
    );
    assert_eq!(
        patch.path,
        "/api/v1/namespaces/ns/pods/p/status?fieldManager=duosuan-operator"
    );
}
