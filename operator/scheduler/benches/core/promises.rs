//! Pods that are placed while a reservation for a large gang stands: each is asked whether it would move it.

use duosuan_scheduler::{Event, event::Claim};

use super::{MI, Row, Run, event, gang, plain_nodes, pod};

/// Nodes of which the gang is to have a half.
const NODES: usize = 5000;

/// Pods that would fit on every node and never end, while half of the nodes are promised to a gang that takes them whole.
pub(super) fn beside() -> Row {
    let mut run = Run::of(plain_nodes(NODES));
    // A gang runs on every node for 1,000 seconds more.
    let claim = Claim {
        uid: "running".into(),
        expected_duration: Some(1_000_000),
        ..Default::default()
    };
    run.step(gang(claim, NODES as u32, |uid| pod(uid, 3000, 500 * MI)));
    assert_eq!(run.placed, NODES);
    let claim = Claim {
        uid: "next".into(),
        expected_duration: Some(1_000_000),
        ..Default::default()
    };
    run.step(gang(claim, NODES as u32 / 2, |uid| pod(uid, 4000, 500 * MI)));
    run.start_measuring();
    let pods = 10_000_usize;
    for i in 0..pods {
        let mut events = event(pod(format!("pod-{i}"), 100, 500 * MI));
        // Those who came before go again.
        if let Some(gone) = i.checked_sub(1000) {
            events.push(Event::PodGone(format!("pod-{gone}")));
        }
        run.step(events);
    }
    assert_eq!(run.placed, pods);
    run.row(pods)
}
