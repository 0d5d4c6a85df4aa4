//! `duosuan simulate openb`: what a user of the command gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn simulate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .args(["simulate", "openb"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Two nodes of two GPUs, in an order in which the second by name comes first.
fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "nodes.csv",
            "sn,cpu_milli,memory_mib,gpu,model\na,8000,1000,2,T4\nb,8000,1000,2,T4\n",
        ),
        (
            "pods.csv",
            "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\nshare,1000,1,1,400,\nboth,1000,1,2,1000,T4\nodd,1000,1,1,1000,A10\n",
        ),
        ("order.txt", "share\nboth\nodd\nshare\nshare\n"),
        ("perm.txt", "1\n0\n"),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const FILES: [&str; 6] = ["--nodes", "nodes.csv", "--pods", "pods.csv", "--order", "order.txt"];

#[test]
fn the_experiment_is_reported_as_one_json_object() {
    let folder = written();
    for (policy, more) in [
        ("standard", vec![]),
        ("fgd", vec!["--policy", "fgd", "--perm", "perm.txt"]),
    ] {
        let output = simulate(folder.path(), &[&FILES[..], &["--json"], &more[..]].concat());
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["policy"], policy);
        assert_eq!((&report["pods"], &report["failed"]), (&5.into(), &1.into()), "{report}");
        assert!(report["seconds"].as_f64().unwrap() < 10.0);
        // 400 + 2000 + 1000 (found no place) + 400 = 3800 of 4000: 95 %; then 4200: 105 %. Neither is read.
        assert_eq!(report["allocation_percent"], serde_json::json!({}));
        assert!(report["fragmentation_percent_of_idle"].is_object());
    }
}

#[test]
fn figures_are_read_at_the_published_percents() {
    let folder = written();
    std::fs::write(folder.path().join("order.txt"), "both\nshare\nshare\nshare\n").unwrap();
    let output = simulate(folder.path(), &[&FILES[..], &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // 2000, 2400, 2800, 3200 of 4000 have arrived: the last is 80 %.
    assert_eq!(report["allocation_percent"], serde_json::json!({"80": 80.0}));
    // Idle are 200 and 600: all is a fragment for `both`, a quarter of the pods, the 200 for `share`.
    assert_eq!(
        report["fragmentation_percent_of_idle"],
        serde_json::json!({"80": 43.75})
    );
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_the_file() {
    let folder = written();
    let output = simulate(
        folder.path(),
        &["--nodes", "none.csv", "--pods", "pods.csv", "--order", "order.txt"],
    );
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("duosuan: --nodes none.csv cannot be read: No such file") && said.lines().count() == 1,
        "{said}"
    );
    let output = simulate(folder.path(), &[&FILES[..], &["--policy", "worst"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("first-fit"), "{said}");
}
