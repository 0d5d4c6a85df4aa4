//! `duosuan top` on files: what a user of the command gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::process::{Command, Output};

use serde_json::{Value, json};

const REPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clusters/reports.yaml");

fn top(arguments: &[&str], files: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .arg("top")
        .args(arguments)
        .arg("-f")
        .args(files)
        .output()
        .unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = top(arguments, &[REPORTS]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn failure(arguments: &[&str], file: &str) -> String {
    let output = top(arguments, &[file]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The cells of a table's lines; two blanks or more part them.
fn cells(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect()
}

#[test]
fn a_node_is_shown_with_the_terms_of_its_offer_its_guards_and_their_reasons() {
    let text = text(&["node", "busy"]);
    let cells = cells(&text);
    assert_eq!(
        cells[0],
        ["Node busy: it follows policy default; reported 2026-11-29T12:00:00Z"]
    );
    let row = |first: &str| {
        let row = cells.iter().find(|row| row.first() == Some(&first));
        row.unwrap_or_else(|| panic!("no row {first} in\n{text}")).clone()
    };
    assert_eq!(row("prod"), ["prod", "6500m", "9", "10", "8192Mi", "9216Mi", "16384Mi"]);
    assert_eq!(row("system"), ["system", "300m", "-", "-", "1024Mi", "-", "-"]);
    let work = ["batch", "2048Mi", "1500Mi", "900Mi", "40Mi", "8 s", "70", "2", "1"];
    assert!(cells.iter().any(|row| *row == work), "{text}");
    // capacity - margin - system peak - prod peak - young pods = target; the offer is still on its way up to it.
    assert_eq!(
        row("cpu"),
        ["cpu", "16", "1600m", "400m", "9", "500m", "4500m", "2", "4", "Fresh"]
    );
    assert_eq!(
        row("memory"),
        [
            "memory",
            "65536Mi",
            "6554Mi",
            "-",
            "-",
            "0Mi",
            "-",
            "1024Mi",
            "1024Mi",
            "ColdStart"
        ]
    );
    assert!(text.contains("ColdStart: memory has too few samples\n"), "{text}");
    let guards: Vec<_> = cells
        .iter()
        .skip_while(|row| row.first() != Some(&"GUARD"))
        .skip(2)
        .take(4)
        .collect();
    assert_eq!(
        guards,
        [
            &vec!["cpu", "Suppressing", "2250m", "3"],
            &vec!["io", "Recovering", "62.5 % of its IO", "1"],
            &vec!["llc", "Suppressing", "30.0 % of the cache", "1"],
            &vec!["memory", "Idle", "everything", "0"]
        ]
    );
    let actions: Vec<_> = cells
        .iter()
        .skip_while(|row| row.first() != Some(&"LAST ACTIONS"))
        .skip(2)
        .take(2)
        .collect();
    assert_eq!(
        actions,
        [
            &vec![
                "2026-11-29T11:59:58Z",
                "cpu",
                "cut batch from 4500m to 2250m: prod stalled 300 of 1000, the policy allows 100"
            ],
            &vec![
                "2026-11-29T11:59:30Z",
                "io",
                "raised batch from 600/1000 of its IO to 625/1000 of its IO: prod stalled 10 of 1000"
            ]
        ]
    );
}

#[test]
fn a_node_is_shown_with_what_it_offers_mid_and_what_its_numa_nodes_and_disks_do() {
    let text = text(&["node", "busy"]);
    let cells = cells(&text);
    let below = |header: &str| {
        let rows = cells.iter().skip_while(|row| row.first() != Some(&header));
        rows.skip(2).take(2).cloned().collect::<Vec<_>>()
    };
    let mid = [
        vec![
            "cpu", "10", "9200m", "16", "1600m", "400m", "9200m", "4", "800m", "0", "800m", "Fresh",
        ],
        vec![
            "memory",
            "16384Mi",
            "-",
            "65536Mi",
            "6554Mi",
            "-",
            "-",
            "16384Mi",
            "-",
            "0Mi",
            "0Mi",
            "ColdStart",
        ],
    ];
    assert_eq!(below("OFFERED TO MID"), mid);
    let numa = [
        vec!["0", "6", "8", "200m", "1", "8192Mi", "32768Mi", "0Mi", "512Mi"],
        vec!["1", "3", "8", "600m", "3", "4096Mi", "32768Mi", "0Mi", "512Mi"],
    ];
    assert_eq!(below("NUMA"), numa);
    let disks = [
        vec!["nvme0n1", "1000", "64Mi", "2000", "512Mi", "42.5 %", "1.2"],
        vec!["sda", "5", "1Mi", "0", "0Mi", "-", "-"],
    ];
    assert_eq!(below("DISK"), disks);
    assert!(
        text.contains("Load of 1, 5 and 15 minutes: 9.50, 8.00, 7.25\n"),
        "{text}"
    );
    assert!(
        text.contains("0Mi swapped in, 3Mi out; 900Mi reclaimed in the background, 7Mi by who"),
        "{text}"
    );
}

/// Neither was shown: who looked for where batch had gone found nothing.
#[test]
fn a_node_that_evicted_batch_says_whom_and_why_and_that_it_takes_no_more() {
    let text = text(&["node", "busy"]);
    assert!(
        text.contains("It takes nothing new of mid and batch: some was evicted lately. What runs stays.\n"),
        "{text}"
    );
    let evictions: Vec<_> = cells(&text)
        .into_iter()
        .skip_while(|row| row.first() != Some(&"LAST EVICTIONS"))
        .skip(2)
        .collect();
    let expected = [
        [
            "2026-11-29T11:57:00Z",
            "bigdata/nightly-3",
            "bigdata/nightly",
            "MemoryShort",
            "Evicted",
            "40.0 core-minutes of work",
            "3 percent of memory are available, the policy wants 5",
        ],
        [
            "2026-11-29T11:56:00Z",
            "bigdata/report-7",
            "-",
            "CpuSuppressed",
            "Refused",
            "no work",
            "batch was held at its CPU floor for 60 s",
        ],
    ];
    assert_eq!(evictions, expected, "{text}");
}

/// Mode `observe` said that nothing was enforced, and not what would have been.
#[test]
fn a_node_that_only_observes_says_what_it_would_set_and_why() {
    let text = text(&["node", "trial"]);
    let rows: Vec<_> = cells(&text)
        .into_iter()
        .skip_while(|row| row.first() != Some(&"WOULD SET"))
        .skip(2)
        .collect();
    let expected = [
        vec![
            "cpu.idle",
            "1",
            "kubepods/besteffort/poda and 30 more",
            "batch runs when nobody else does",
        ],
        vec![
            "cpu.max",
            "50000 100000",
            "kubepods/besteffort",
            "cut batch from 900m to 500m: prod stalled 180 of 1000, the policy allows 100",
        ],
        vec!["and 7 settings more"],
    ];
    assert_eq!(rows, expected, "{text}");
}

/// It was said to be calm, to stall for 0.0 % and to be selected by no policy, of all of which nothing is known.
#[test]
fn of_a_node_that_has_never_reported_nothing_else_is_said() {
    assert_eq!(
        text(&["node", "silent"]),
        "Node silent: its agent has not reported yet\n"
    );
}

#[test]
fn nodes_are_shown_a_line_each_in_the_order_of_their_names() {
    let text = text(&["nodes"]);
    let rows: Vec<_> = cells(&text).into_iter().skip(2).collect();
    let expected = [
        vec![
            "busy",
            "default",
            "9",
            "16",
            "12288Mi",
            "65536Mi",
            "2200m",
            "4",
            "3072Mi",
            "1024Mi",
            "closed to batch, cpu suppressing to 2250m, io recovering to 62.5 % of its IO, llc suppressing to 30.0 % of the cache",
            "2026-11-29T12:00:00Z",
        ],
        vec!["silent", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "never"],
        vec![
            "trial",
            "trial",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "calm",
            "2026-11-29T12:00:00Z",
        ],
    ];
    assert_eq!(rows, expected, "{text}");
}

#[test]
fn programs_get_the_status_as_the_api_server_has_it() {
    let one: Value = serde_json::from_str(&text(&["node", "busy", "--json"])).unwrap();
    assert_eq!(
        (&one["node"], &one["offers"][0]["target"]),
        (&json!("busy"), &json!("4500m"))
    );
    let all: Value = serde_json::from_str(&text(&["nodes", "--json"])).unwrap();
    assert_eq!(all["nodes"][0], one);
    assert_eq!(all["nodes"][1]["node"], "silent");
}

#[test]
fn what_is_not_there_or_broken_is_said_with_its_name() {
    let error = failure(&["node", "nobody"], REPORTS);
    assert!(
        error.starts_with(
            "duosuan: there is no NodeReport nobody: does the agent run on that node? There are reports of busy, silent, trial"
        ),
        "{error}"
    );
    assert!(failure(&["nodes"], "/nowhere").contains("-f /nowhere cannot be read"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broken.yaml");
    std::fs::write(
        &file,
        "{apiVersion: duosuan.io/v1alpha1, kind: NodeReport, metadata: {name: n}, spec: {}, status: {guards: 7}}",
    )
    .unwrap();
    let error = failure(&["nodes"], file.to_str().unwrap());
    assert!(
        error.contains("broken.yaml, document 1 is no NodeReport: status.guards: "),
        "{error}"
    );
}
