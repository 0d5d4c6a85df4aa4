//! `duosuan replay`: what a user of the command gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::process::{Command, Output};

use duosuan_planner::record::{Cycle, Entry, Header, Writer};
use duosuan_scheduler::{
    Budget, Cluster, Event, Settings, Time, cycle,
    event::{Node, Pod},
};

/// A record of one pod that is bound, with the last entry that is given.
fn record(last: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let node = Event::Node(Box::new(Node {
        name: "n".into(),
        allocatable: [("cpu".into(), 2000), ("pods".into(), 10)].into(),
        ..Node::default()
    }));
    let pod = Event::Pod(Box::new(Pod {
        uid: "p".into(),
        requests: [("cpu".into(), 1000)].into(),
        ours: true,
        ..Pod::default()
    }));
    let mut cluster = Cluster::default();
    cluster.apply(node.clone());
    cluster.apply(pod.clone());
    let (now, budget) = (Time(7), Budget::default());
    let decisions = cycle(&mut cluster, now, budget);
    let start = Entry::Start {
        now: Time(6),
        settings: Settings::default(),
    };
    let cycle = Entry::Cycle(Cycle::new(now, budget, decisions, true));
    let mut writer = Writer::new(Vec::new(), &Header::new("duosuan")).unwrap();
    for entry in [start, Entry::Event(node), Entry::Event(pod), cycle]
        .into_iter()
        .chain(last)
    {
        writer.push(&entry).unwrap();
    }
    writer.finish().unwrap()
}

fn replay(file: &[u8]) -> Output {
    replay_with(file, &[])
}

fn replay_with(file: &[u8], flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("record"), file).unwrap();
    Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .args(["replay", "record"])
        .args(flags)
        .current_dir(folder.path())
        .output()
        .unwrap()
}

/// The one line that a failure says.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn a_record_that_replays_says_what_it_held_and_how_it_ends() {
    let replays = |file: &[u8]| {
        let output = replay(file);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let (first, end) = said.trim_end().split_once('\n').unwrap();
        assert!(first.starts_with("The record of scheduler duosuan (core "), "{first}");
        (first.split_once("decisions. ").unwrap().1.to_owned(), end.to_owned())
    };
    let counts = "Sessions: 1, events: 2, cycles: 1, decisions: 1.".to_owned();
    let whole = record([Entry::End {
        reason: "the operator ended".into(),
    }]);
    assert_eq!(
        replays(&whole),
        (counts.clone(), "It ends because the operator ended.".into())
    );
    let killed = record([]);
    assert_eq!(
        replays(&killed),
        (counts, "It has no end: the operator was killed, or still runs.".into())
    );
    let (_, end) = replays(&killed[..killed.len() - 3]);
    assert!(
        end.starts_with("The file ends within the block at byte ") && end.contains("are lost"),
        "{end}"
    );
}

#[test]
fn another_decision_fails_with_the_cycle_and_both_decisions() {
    let never = Cycle::new(Time(9), Budget::default(), Vec::new(), true);
    let mut wrong = never.clone();
    wrong.digest = "0".repeat(32);
    assert!(replay(&record([Entry::Cycle(never)])).status.success());
    let said = failure(&replay(&record([Entry::Cycle(wrong)])));
    assert!(
        said.starts_with("duosuan: record, block at byte ")
            && said.contains("line 5 ")
            && said.contains("cycle 2 (now = 9) decides otherwise"),
        "{said}"
    );
}

#[test]
fn what_is_no_record_is_named() {
    let said = failure(&replay(b"no record"));
    assert!(
        said.starts_with("duosuan: record: this is no record of duosuan-operator --record"),
        "{said}"
    );
    let mut damaged = record([]);
    let at = damaged.len() - 20;
    damaged[at] ^= 1;
    let said = failure(&replay(&damaged));
    assert!(said.contains("the record is damaged in the block at byte "), "{said}");
}

/// A record of three cycles on a node of two cores: a pod of 1.5 is bound, one of one core comes and waits, and the first
/// ends.
fn story() -> Vec<u8> {
    let pod = |name: &str, cpu: i64, finished: bool| {
        Event::Pod(Box::new(Pod {
            uid: format!("{name}-uid"),
            namespace: "ns".into(),
            name: name.into(),
            requests: [("cpu".into(), cpu)].into(),
            node: finished.then(|| "n".to_owned()),
            finished,
            ours: true,
            ..Pod::default()
        }))
    };
    let node = Event::Node(Box::new(Node {
        name: "n".into(),
        allocatable: [("cpu".into(), 2000), ("pods".into(), 10)].into(),
        ..Node::default()
    }));
    let steps = [
        vec![node, pod("first", 1500, false)],
        vec![pod("second", 1000, false)],
        vec![pod("first", 1500, true)],
    ];
    let mut cluster = Cluster::default();
    let mut writer = Writer::new(Vec::new(), &Header::new("duosuan")).unwrap();
    let start = Entry::Start {
        now: Time(0),
        settings: Settings::default(),
    };
    writer.push(&start).unwrap();
    for (number, events) in steps.into_iter().enumerate() {
        for event in events {
            cluster.apply(event.clone());
            writer.push(&Entry::Event(event)).unwrap();
        }
        let now = Time(i64::try_from(number).unwrap() * 1000);
        let decisions = cycle(&mut cluster, now, Budget::default());
        let recorded = Cycle::new(now, Budget::default(), decisions, true);
        writer.push(&Entry::Cycle(recorded)).unwrap();
    }
    writer.finish().unwrap()
}

fn said(flags: &[&str]) -> String {
    let output = replay_with(&story(), flags);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_replay_stops_where_it_is_told_to_and_says_what_was_decided_and_what_waits() {
    let first = said(&["--until", "1"]);
    assert!(
        first.starts_with("After cycle 1 at 1970-01-01T00:00:00Z (session 1, event 2)."),
        "{first}"
    );
    assert!(
        first.contains("  pod ns/first goes to node n\n\nWhat waits:\n  nothing"),
        "{first}"
    );
    let second = said(&["--until", "2"]);
    let waits = "pod ns/second: NoNodeFits: 0/1 nodes are available: 1 insufficient cpu";
    assert!(
        second.contains("  pod ns/second waits: NoNodeFits: ") && second.contains(waits),
        "{second}"
    );
    let third = said(&["--until", "3"]);
    assert!(
        third.contains("  pod ns/second goes to node n") && third.contains("What waits:\n  nothing"),
        "{third}"
    );
}

#[test]
fn what_waits_is_explained_at_the_point_where_the_replay_stops_and_nowhere_else() {
    let explained = |until: &str| -> serde_json::Value {
        serde_json::from_str(&said(&["--until", until, "--pod", "ns/second", "--json"])).unwrap()
    };
    let waits = explained("2");
    assert_eq!(
        (&waits["state"], &waits["reason"]),
        (&"waits".into(), &"NoNodeFits".into())
    );
    assert_eq!(waits["would_admit"], "500m cpu less asked for");
    assert_eq!(waits["classes"][0]["lacks"]["free"], 500);
    let starts = explained("3");
    assert_eq!(
        (&starts["state"], &starts["placed_now"][0][1]),
        (&"starts".into(), &"n".into())
    );
    let text = said(&["--pod", "ns/second"]);
    assert!(
        text.starts_with("After cycle 3 ") && text.contains("Pod ns/second: is placed now"),
        "{text}"
    );
    let not_there = failure(&replay_with(&story(), &["--until", "1", "--pod", "ns/second"]));
    assert_eq!(not_there, "duosuan: there is no pod ns/second\n", "it has not come yet");
}

#[test]
fn a_point_behind_the_end_and_a_question_without_an_answer_are_errors() {
    let late = failure(&replay_with(&story(), &["--until", "4"]));
    assert_eq!(late, "duosuan: record has 3 cycles, and is to stop after cycle 4\n");
    let nobody = failure(&replay_with(&story(), &["--explain", "ns/nobody"]));
    assert_eq!(nobody, "duosuan: there is no claim ns/nobody\n");
    assert!(failure(&replay_with(&story(), &["--json"])).contains("--json goes with --explain or --pod"));
}
