//! Kernel files that cannot be read or written: one signal or one setting less, told of, and the rest goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;

use duosuan_node::machine::Machine;
use duosuan_policy::{Group, Observation, Work};
use folder::Folder;

/// All that is known of a pod was thrown away when one of its files could not be read.
#[test]
fn a_file_of_a_pod_that_cannot_be_read_is_one_signal_less() {
    let folder = Folder::of(10);
    let pods = folder.pods();
    let mut kernel = folder.kernel();
    let mut seen = Observation::default();
    kernel.observe(&pods, 0, &mut seen);
    let whole = seen.groups.clone();
    let (prod, batch) = (5, 1);
    for (file, pod) in [
        ("memory.stat", prod),
        ("memory.events", prod),
        ("cpu.stat", prod),
        ("io.pressure", prod),
        ("io.stat", batch),
    ] {
        let at = whole
            .iter()
            .position(|g| g.path.contains(&format!("{pod:08x}-")))
            .unwrap();
        let mut expected = whole.clone();
        let group = &mut expected[at];
        match file {
            "memory.stat" => (group.memory, group.memory_reclaimable) = (None, None),
            // Whether its own limits stalled it is not known either.
            "memory.events" => (group.memory_hits, group.stall.memory, group.unread.memory) = (None, None, true),
            "cpu.stat" => (group.cpu_usage, group.stall.cpu, group.unread.cpu) = (None, None, true),
            "io.pressure" => (group.stall.io, group.unread.io) = (None, true),
            _ => group.io.clear(),
        }
        let path = folder.root().join(&whole[at].path).join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "garbled").unwrap();
        kernel.observe(&pods, 0, &mut seen);
        std::fs::write(&path, text).unwrap();
        for group in [&mut expected[at], &mut seen.groups[at]] {
            // That of its container is still known.
            group.cpu_throttled = None;
        }
        assert_eq!(bare(&seen.groups), bare(&expected), "{file}");
        let failed: Vec<String> = kernel.act(&[]).failed.into_iter().map(|f| f.file).collect();
        assert_eq!(failed, [file]);
        kernel.observe(&pods, 0, &mut seen);
        assert_eq!(bare(&seen.groups), bare(&whole), "{file} can be read again");
    }
}

/// Groups without what is only counted for people, which has a test of its own.
fn bare(groups: &[Group]) -> Vec<Group> {
    let mut groups = groups.to_vec();
    for group in &mut groups {
        group.work = Work::default();
    }
    groups
}
