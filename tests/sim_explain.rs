//! `duosuan explain` on files: what a user of the command gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::process::{Command, Output};

use serde_json::{Value, json};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clusters/small.yaml");

fn explain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .arg("explain")
        .args(arguments)
        .args(["-f", SMALL])
        .output()
        .unwrap()
}

fn json_of(arguments: &[&str]) -> Value {
    let output = explain(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failure(arguments: &[&str]) -> String {
    let output = explain(arguments);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_claim_has_one_reason_with_numbers_and_the_one_change_that_admits_it() {
    let said = json_of(&["pretrain", "-n", "lab"]);
    assert_eq!(
        (&said["claim"], &said["state"]),
        (&json!("lab/pretrain"), &json!("waits"))
    );
    assert_eq!(said["reason"], "WaitingForQuota");
    assert_eq!(
        said["message"],
        "it asks for 4 gpu, and 2 gpu are left below the limit of queue research"
    );
    // A higher limit alone would not do: two of the four GPUs are taken.
    assert_eq!(said["would_admit"], "2 gpu less per pod of group worker");
    assert_eq!((&said["alternatives"], &said["complete"]), (&json!([]), &json!(true)));
    assert_eq!(
        (&said["queue"], &said["classes_of"]),
        (&json!("research"), &json!("lab/pretrain-0"))
    );
    assert_eq!(
        json_of(&["lab/pretrain"]),
        said,
        "the namespace may stand before the name"
    );
}

#[test]
fn a_pod_is_told_class_by_class_what_blocks_it() {
    let said = json_of(&["--pod", "shop/index"]);
    assert_eq!((&said["pod"], &said["state"]), (&json!("shop/index"), &json!("waits")));
    assert_eq!(said["would_admit"], "one more node like cpu-1");
    assert_eq!(
        said["alternatives"],
        json!(["3 cpu less asked for", "a toleration of taint gpu:NoSchedule"])
    );
    let classes = said["classes"].as_array().unwrap();
    let class = |index: usize| {
        let class = &classes[index];
        (
            class["nodes"].as_u64().unwrap(),
            class["example"].as_str().unwrap(),
            class["against"].as_str().unwrap(),
        )
    };
    assert_eq!(classes.len(), 2);
    assert_eq!(class(0), (2, "cpu-1", "insufficient cpu"));
    assert_eq!(class(1), (1, "gpu-1", "taint gpu:NoSchedule"));
    assert_eq!(
        classes[0]["lacks"],
        json!({"resource": "cpu", "asked": 7000, "free": 4000})
    );
}

#[test]
fn people_read_it_in_words() {
    let output = explain(&["--pod", "shop/index"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "Pod shop/index, queue online: waits",
        "NoNodeFits: 0/3 nodes are available: 2 insufficient cpu, 1 taint gpu:NoSchedule",
        "It would be admitted with one more node like cpu-1",
        "or with 3 cpu less asked for",
        "insufficient cpu: it asks for 7 cpu; at most 4 cpu are free",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn what_runs_and_what_is_about_to_says_so_and_where() {
    let starts = json_of(&["lab/train"]);
    assert_eq!((&starts["state"], &starts["reason"]), (&json!("starts"), &Value::Null));
    assert_eq!(
        starts["placed_now"],
        json!([["lab/train-0", "gpu-1"], ["lab/train-1", "gpu-1"]])
    );
    let runs = json_of(&["--pod", "shop/web-0"]);
    assert_eq!((&runs["state"], &runs["classes"]), (&json!("runs"), &json!([])));
    assert_eq!(json_of(&["--pod", "shop/elsewhere"])["state"], "of-another-scheduler");
}

#[test]
fn a_refused_pod_names_what_is_wrong_and_no_change_is_made_up() {
    let said = json_of(&["--pod", "shop/database"]);
    assert_eq!(
        (&said["reason"], &said["would_admit"]),
        (&json!("Refused"), &Value::Null)
    );
    let message = said["message"].as_str().unwrap();
    assert!(
        message.contains("persistentvolumeclaim \"data\" is not bound"),
        "{message}"
    );
}

#[test]
fn a_small_effort_says_that_there_may_be_more() {
    let said = json_of(&["--pod", "shop/index", "--effort", "2"]);
    assert_eq!((&said["tried"], &said["complete"]), (&json!(2), &json!(false)));
}

#[test]
fn a_name_that_is_not_there_and_a_question_that_is_none_are_errors() {
    assert_eq!(failure(&["lab/nobody"]), "duosuan: there is no claim lab/nobody\n");
    assert_eq!(
        failure(&["pretrain"]),
        "duosuan: there is no claim default/pretrain; of that name there is one in lab\n"
    );
    assert!(failure(&["a/b/c"]).contains("is neither NAME nor NAMESPACE/NAME"));
    assert!(failure(&[]).contains("required"));
    assert!(failure(&["lab/train", "--pod", "shop/index"]).contains("cannot be used with"));
}

#[test]
fn without_files_a_kubeconfig_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .args(["explain", "c", "--kubeconfig", "/absent/kubeconfig"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "duosuan: --kubeconfig /absent/kubeconfig cannot be read: No such file or directory (os error 2)\n"
    );
}
