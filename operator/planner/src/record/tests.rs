#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use duosuan_scheduler::{
    Cluster, cycle,
    event::{Claim, Group, Node, Pod},
};
use proptest::prelude::*;

use super::*;

/// Small numbers, so that names meet.
fn any_event() -> impl Strategy<Value = Event> {
    let name = |prefix: &'static str| (0..4_u8).prop_map(move |i| format!("{prefix}{i}"));
    let node = (name("n"), 0..8_i64, any::<bool>()).prop_map(|(name, cpu, unschedulable)| {
        let allocatable = [("cpu".to_owned(), cpu * 1000), ("pods".to_owned(), 8)];
        Event::Node(Box::new(Node {
            name,
            allocatable: allocatable.into(),
            unschedulable,
            ..Node::default()
        }))
    });
    let pod =
        (name("p"), 0..4_i64, prop::option::of(name("c")), any::<bool>()).prop_map(|(uid, cpu, claim, finished)| {
            Event::Pod(Box::new(Pod {
                name: uid.clone(),
                uid,
                namespace: "default \"quoted\"\n".into(),
                requests: [("cpu".to_owned(), cpu * 700)].into(),
                claim,
                group: "g".into(),
                finished,
                ours: true,
                ..Pod::default()
            }))
        });
    let claim = (name("c"), 0..3_u32).prop_map(|(name, min)| {
        let group = Group {
            name: "g".into(),
            min,
            max: 3,
            quantum: 1,
            ..Group::default()
        };
        Event::Claim(Box::new(Claim {
            uid: format!("{name}-uid"),
            namespace: "default \"quoted\"\n".into(),
            name,
            groups: vec![group],
            ..Claim::default()
        }))
    });
    let end = prop_oneof![
        name("n").prop_map(Event::NodeGone),
        name("p").prop_map(Event::PodGone),
        name("c").prop_map(|name| Event::ClaimGone(format!("{name}-uid"))),
        name("p").prop_map(|pod| Event::BindFailed {
            pod,
            node: "n".into(),
            message: "no\u{7f}".into(),
            lasting: true,
        }),
    ];
    prop_oneof![2 => node, 5 => pod, 2 => claim, 1 => end]
}

#[derive(Clone, Debug)]
enum Step {
    Tell(Event),
    Decide(i64, u32),
    Restart,
    Flush,
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => any_event().prop_map(Step::Tell),
        4 => (0..30_000_i64, 1..9_u32).prop_map(|(after, pods)| Step::Decide(after, pods)),
        1 => Just(Step::Restart),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 0..60)
}

/// What the operator does: each thing that the core is told or asked is recorded. The file, and all that was decided.
fn record(steps: &[Step], whole: bool) -> (Vec<u8>, Vec<Decision>) {
    let mut writer = Writer::new(Vec::new(), &Header::new("duosuan")).unwrap();
    let (mut cluster, mut now, mut all) = (Cluster::default(), Time(0), Vec::new());
    let start = Entry::Start {
        now,
        settings: Settings::default(),
    };
    writer.push(&start).unwrap();
    for step in steps {
        match step {
            Step::Tell(event) => {
                writer.push(&Entry::Event(event.clone())).unwrap();
                cluster.apply(event.clone());
            }
            Step::Decide(after, pods) => {
                now.0 += after;
                let budget = Budget { pods: *pods };
                let decisions = cycle(&mut cluster, now, budget);
                all.extend(decisions.clone());
                writer
                    .push(&Entry::Cycle(Cycle::new(now, budget, decisions, whole)))
                    .unwrap();
            }
            Step::Restart => {
                cluster = Cluster::default();
                writer.push(&start).unwrap();
            }
            Step::Flush => writer.flush().unwrap(),
        }
    }
    (writer.finish().unwrap(), all)
}

/// All that a replay decides, and how the record ends.
fn replay(file: &[u8]) -> Result<(Vec<Decision>, Tail), Error> {
    let mut reader = Reader::new(file)?;
    let mut replay = Replay::default();
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        all.extend(replay.take(entry).unwrap_or_else(|difference| panic!("{difference}")));
    }
    Ok((all, reader.tail().unwrap()))
}

/// Records of before there were settings other than the policy replay as they were decided.
#[test]
fn a_start_without_settings_has_those_of_then() {
    let start = |text: &str| match serde_json::from_str(text).unwrap() {
        Entry::Start { settings, .. } => settings,
        other => panic!("{other:?}"),
    };
    let old = start(r#"{"start":{"now":7,"policy":"standard"}}"#);
    assert_eq!(old, Settings::default());
    assert_eq!(old.hold_after, Some(600_000));
    let never = Settings {
        hold_after: None,
        ..old
    };
    let entry = Entry::Start {
        now: Time(7),
        settings: never,
    };
    let text = serde_json::to_string(&entry).unwrap();
    assert_eq!(text, r#"{"start":{"now":7,"policy":"standard","holdAfter":null}}"#);
    assert_eq!(start(&text), never);
}

proptest! {
    #[test]
    fn what_is_recorded_replays_to_the_same_decisions(steps in any_steps(), whole in any::<bool>()) {
        let (file, decided) = record(&steps, whole);
        let (replayed, tail) = replay(&file).unwrap();
        prop_assert_eq!(tail, Tail::Whole);
        prop_assert_eq!(serde_json::to_vec(&replayed).unwrap(), serde_json::to_vec(&decided).unwrap());
    }

    #[test]
    fn a_changed_byte_is_an_error_with_its_place_and_never_another_replay(
        steps in any_steps(), at in any::<prop::sample::Index>(), flip in 1..=255_u8,
    ) {
        let (mut file, decided) = record(&steps, false);
        let at = at.index(file.len());
        file[at] ^= flip;
        match replay(&file) {
            // The bits that fill up the last byte of a compressed stream say nothing.
            Ok((replayed, tail)) => prop_assert_eq!((replayed, tail), (decided, Tail::Whole)),
            Err(Error::NoRecord { .. }) => prop_assert!(at < 200, "the first block holds the header alone"),
            Err(Error::Damaged { offset, .. }) => prop_assert!(offset <= at as u64),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_read_up_to_its_last_whole_block(
        steps in any_steps(), at in any::<prop::sample::Index>(),
    ) {
        let (mut file, decided) = record(&steps, false);
        let at = at.index(file.len());
        file.truncate(at);
        match replay(&file) {
            Ok((replayed, tail)) => {
                prop_assert_eq!(&replayed[..], &decided[..replayed.len()]);
                if let Tail::Truncated { offset, bytes } = tail {
                    prop_assert_eq!(offset + bytes, at as u64);
                }
            }
            Err(error) => prop_assert!(matches!(error, Error::NoRecord { .. }), "{}", error),
        }
    }
}

fn some_steps() -> Vec<Step> {
    let node = Node {
        name: "n".into(),
        allocatable: [("cpu".to_owned(), 1000), ("pods".to_owned(), 8)].into(),
        ..Node::default()
    };
    let pod = Pod {
        uid: "p".into(),
        name: "p".into(),
        requests: [("cpu".to_owned(), 700)].into(),
        ours: true,
        ..Pod::default()
    };
    vec![
        Step::Tell(Event::Node(Box::new(node))),
        Step::Decide(1, 9),
        Step::Tell(Event::Pod(Box::new(pod))),
        Step::Decide(1, 9),
    ]
}

#[test]
fn the_first_cycle_that_decides_otherwise_is_named_with_both_decisions() {
    let (file, _) = record(&some_steps(), true);
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut replay = Replay::default();
    let mut differs = None;
    while let Some(entry) = reader.next().unwrap() {
        // A core that does not know the node decides otherwise.
        if matches!(entry, Entry::Event(Event::Node(_))) {
            continue;
        }
        if let Err(difference) = replay.take(entry) {
            differs = Some(difference);
            break;
        }
    }
    let differs = differs.unwrap();
    assert_eq!((differs.cycle, differs.recorded.now), (2, Time(2)));
    let said = differs.to_string();
    assert!(
        said.starts_with("cycle 2 (now = 2) decides otherwise: the record has 1 decisions")
            && said.contains("recorded Some(Bind")
            && said.contains("replayed Some(Pending"),
        "{said}"
    );
}

#[test]
fn gzip_reads_a_record_too() {
    let (file, _) = record(&some_steps(), false);
    let text = crate::openb::text("record", &file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        serde_json::from_str::<Header>(lines[0]).unwrap(),
        Header::new("duosuan")
    );
}

#[test]
fn what_is_no_record_and_what_is_one_of_another_format_say_so() {
    let of = |file: &[u8]| Reader::new(file).unwrap_err().to_string();
    assert!(of(b"").contains("the file is empty"));
    assert!(of(b"{}").contains("does not begin as a block"));
    assert!(of(&block::pack(b"{}\n").unwrap()).contains("missing field"));
    let newer = br#"{"duosuanRecord":2,"core":"9.9.9","schedulerName":"duosuan"}"#;
    assert_eq!(
        of(&block::pack(newer).unwrap()),
        "the record has format 2, and this build reads format 1; replay it with the build that wrote it (core 9.9.9)"
    );
}

#[test]
fn a_full_block_is_written_without_being_asked() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, &Header::new("duosuan")).unwrap();
    let entry = Entry::End {
        reason: "x".repeat(1000),
    };
    for _ in 0..300 {
        writer.push(&entry).unwrap();
    }
    drop(writer);
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut read = 0;
    while reader.next().unwrap().is_some() {
        read += 1;
    }
    // Lines of 1,023 bytes: the 257th is beyond 256 KiB.
    assert_eq!((read, reader.tail()), (257, Some(Tail::Whole)));
}

#[test]
fn the_digest_is_that_of_fnv() {
    assert_eq!(digest(&[]), "6c62272e07bb014262b821756295c58d", "of nothing, its basis");
    assert_eq!(fnv(BASIS, b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
}
