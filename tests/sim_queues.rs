//! `duosuan simulate queues`: what a user of the command gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/queues")
}

fn simulate(config: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .args(["simulate", "queues", "--config"])
        .arg(config)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn a_cohort_of_the_baseline_is_done_within_a_tenth_of_the_least_that_it_could_take() {
    let output = simulate(&files().join("small.yaml"), &["--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // 6 queues of 35 + 10 + 5 jobs; (35 x 0.2 s + 10 x 5 x 0.5 s + 5 x 20 x 1 s) / 20 cores are 6.6 s.
    assert_eq!((&report["jobs"], &report["floor_ms"]), (&300.into(), &6600.0.into()));
    let ratio = report["ratio"].as_f64().unwrap();
    assert!((1.0..=1.1).contains(&ratio), "{report}");
    assert_eq!(ratio, report["makespan_ms"].as_f64().unwrap() / 6600.0);
    // The most important wait least: not for longer than half of what they run, and then for a seat that was promised to a
    // small one of another queue, which nobody takes from it by evictions.
    let wait = |class: usize| report["classes"][class]["wait_ms"]["max"].as_i64().unwrap();
    let names: Vec<&str> = (0..3).map(|i| report["classes"][i]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["small", "medium", "large"]);
    assert!(
        wait(2) <= 500 + 200 && wait(2) <= wait(1) && wait(1) <= wait(0),
        "{report}"
    );
}

#[test]
fn the_cases_of_the_benchmarks_can_be_read_and_a_person_gets_a_table() {
    for file in ["baseline.yaml", "large.yaml"] {
        let text = std::fs::read_to_string(files().join(file)).unwrap();
        // All but the number of jobs, so that it is over soon.
        let short: String = text
            .lines()
            .map(|line| match (line.find("count: "), line.find(", everyMs")) {
                (Some(from), Some(to)) => format!("{}count: 1{}\n", &line[..from], &line[to..]),
                _ => format!("{}\n", line.replace("queuesPerCohort: 100", "queuesPerCohort: 2")),
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, short).unwrap();
        let output = simulate(&path, &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        for word in ["x the floor of", "evictions", "wait ms", "small", "medium", "large"] {
            assert!(said.contains(word), "{word} is not in\n{said}");
        }
    }
}

#[test]
fn a_bad_file_is_named_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.yaml");
    let class = "{name: a, count: 1, everyMs: 1, runsMs: 1, cpu: 9, priority: 0}";
    let head = "cohorts: 1\nqueuesPerCohort: 1\nnominalCpu: 4\nborrowCpu: 9";
    for (text, says) in [
        (
            format!("{head}\nclasses: [{class}]\n"),
            "classes[a].cpu is 9, and a queue may use 4",
        ),
        (
            format!("{head}\nclasses: []\n"),
            "classes (how many) is 0: give at least 1",
        ),
        (
            format!("{head}\nclasses: [{class}]\ncolour: red\n"),
            "unknown field `colour`",
        ),
        (head.to_owned(), "missing field `classes`"),
        (
            format!("{head}\nclasses: [{}]\n", class.replace("cpu: 9", "cpu: -1")),
            "classes",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let output = simulate(&path, &["--json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(said.contains("queues.yaml") && said.contains(says), "{said}");
    }
    let output = simulate(&folder.path().join("none.yaml"), &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("none.yaml"), "{said}");
}
