//! Gangs, anywhere and in racks: 5,000 nodes.

use duosuan_scheduler::{
    Decision, Event,
    event::{Claim, Group, Level, Pod, Topology},
};

use super::{MI, Row, Run, plain_nodes, pod};

pub(super) fn anywhere() -> Row {
    let mut run = Run::of(plain_nodes(5000));
    let gang = |run: &mut Run, i: usize, size: u32| {
        let name = format!("gang-{i}");
        let group = Group {
            name: "w".into(),
            min: size,
            max: size,
            quantum: 1,
            ..Default::default()
        };
        let mut events = vec![Event::Claim(Box::new(Claim {
            uid: name.clone(),
            namespace: "bench".into(),
            name: name.clone(),
            groups: vec![group],
            ..Default::default()
        }))];
        for p in 0..size {
            let member = Pod {
                claim: Some(name.clone()),
                group: "w".into(),
                ..pod(format!("{name}-{p}"), 100, 500 * MI)
            };
            events.push(Event::Pod(Box::new(member)));
        }
        run.step(events);
    };
    for i in 0..4500 {
        gang(&mut run, i, 4);
    }
    for i in 4500..4518 {
        gang(&mut run, i, 1000);
    }
    run.row(36_000)
}

/// Gangs of 4, then of 1,000, each to stand in one rack if one has room, on 5,000 nodes in 50 racks.
pub(super) fn in_racks() -> Row {
    let (small, large) = (750 + 1500 + 2250, 3 + 6 + 9);
    let mut nodes = plain_nodes(5000);
    for (i, node) in nodes.iter_mut().enumerate() {
        node.location.rack = Some(format!("rack-{:02}", i % 50));
    }
    let mut run = Run::of(nodes);
    let mut parted = 0;
    let mut gang = |run: &mut Run, i: usize, size: u32| {
        let name = format!("gang-{i}");
        let group = Group {
            name: "w".into(),
            min: size,
            max: size,
            quantum: 1,
            ..Default::default()
        };
        let mut events = vec![Event::Claim(Box::new(Claim {
            uid: name.clone(),
            namespace: "bench".into(),
            name: name.clone(),
            groups: vec![group],
            topology: Some(Topology {
                pack: Level::Rack,
                required: false,
            }),
            ..Default::default()
        }))];
        for p in 0..size {
            let member = Pod {
                claim: Some(name.clone()),
                group: "w".into(),
                ..pod(format!("{name}-{p}"), 100, 500 * MI)
            };
            events.push(Event::Pod(Box::new(member)));
        }
        let decisions = run.step(events);
        let mut racks: Vec<usize> = decisions.iter().filter_map(rack_of).collect();
        racks.sort_unstable();
        racks.dedup();
        parted += usize::from(racks.len() > 1);
    };
    for i in 0..small {
        gang(&mut run, i, 4);
    }
    for i in small..small + large {
        gang(&mut run, i, 1000);
    }
    assert_eq!(parted, 0, "there is a rack with room for each");
    run.row(small * 4 + large * 1000)
}

/// Rack of a node that was bound to.
fn rack_of(decision: &Decision) -> Option<usize> {
    match decision {
        Decision::Bind { node, .. } => Some(node.trim_start_matches("node-").parse::<usize>().unwrap() % 50),
        _ => None,
    }
}
