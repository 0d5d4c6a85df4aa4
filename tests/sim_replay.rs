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
    Budget, Cluster, Event, Policy, Time, cycle,
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
        policy: Policy::default(),
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
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("record"), file).unwrap();
    Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .args(["replay", "record"])
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
