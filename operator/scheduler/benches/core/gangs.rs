//! Gangs, anywhere and in racks: 5,000 nodes.

use duosuan_scheduler::{
    Decision,
    event::{Claim, Level, Topology},
};

use super::{MI, Row, Run, gang, plain_nodes, pod};

/// Gangs of 4, then of 1,000: how many of each.
const SIZES: [(u32, u32); 2] = [(750 + 1500 + 2250, 4), (3 + 6 + 9, 1000)];

/// All gangs, one after the other; what was decided for each goes to `see`.
fn all(mut run: Run, topology: Option<Topology>, mut see: impl FnMut(&[Decision])) -> Row {
    for (count, size) in SIZES {
        for i in 0..count {
            let claim = Claim {
                uid: format!("gang-{size}-{i}"),
                topology,
                ..Default::default()
            };
            see(&run.step(gang(claim, size, |uid| pod(uid, 100, 500 * MI))));
        }
    }
    run.row(SIZES.iter().map(|(count, size)| (count * size) as usize).sum())
}

pub(super) fn anywhere() -> Row {
    all(Run::of(plain_nodes(5000)), None, |_| {})
}

/// Each to stand in one rack if one has room, on 5,000 nodes in 50 racks.
pub(super) fn in_racks() -> Row {
    let mut nodes = plain_nodes(5000);
    for (i, node) in nodes.iter_mut().enumerate() {
        node.location.rack = Some(format!("rack-{:02}", i % 50));
    }
    let topology = Topology {
        pack: Level::Rack,
        required: false,
    };
    all(Run::of(nodes), Some(topology), |decisions| {
        let mut racks: Vec<usize> = decisions.iter().filter_map(rack_of).collect();
        racks.sort_unstable();
        racks.dedup();
        assert!(racks.len() < 2, "there is a rack with room for each");
    })
}

/// Rack of a node that was bound to.
fn rack_of(decision: &Decision) -> Option<usize> {
    match decision {
        Decision::Bind { node, .. } => Some(node.trim_start_matches("node-").parse::<usize>().unwrap() % 50),
        _ => None,
    }
}
