//! Writes that a kernel does not answer at once: what the agent does meanwhile.
//!
//! A named pipe that nobody reads stands in for a kernel at work: who opens it to write waits, as in a reclaim that does
//! not come to an end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;
#[path = "steady/watch.rs"]
mod watch;

use std::{
    io::Read,
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

use duosuan_node::{kernel::Kernel, machine::Machine};
use duosuan_policy::{Action, action::RECLAIM};
use folder::Folder;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use watch::Watch;

const BATCH: &str = "kubepods/besteffort";
const MAX: &str = "max 100000";
/// Far more than anything here takes: who is not done then waits for the pipe.
const HANGS: Duration = Duration::from_secs(30);

fn action(file: &str, value: &str) -> Action {
    Action {
        path: BATCH.to_owned(),
        file: file.to_owned(),
        value: value.to_owned(),
        why: "a test".to_owned(),
    }
}

fn file(folder: &Folder, name: &str) -> PathBuf {
    folder.root().join(BATCH).join(name)
}

fn text(folder: &Folder, name: &str) -> String {
    std::fs::read_to_string(file(folder, name)).unwrap().trim().to_owned()
}

/// Makes the kernel's answer to an order to reclaim wait for somebody who reads the pipe.
fn pipe(folder: &Folder) -> PathBuf {
    let path = file(folder, RECLAIM);
    std::fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// Does something on a thread of its own and answers what came of it, unless it hangs.
fn unless_it_hangs<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, done) = mpsc::channel();
    std::thread::spawn(move || tell.send(what()));
    done.recv_timeout(HANGS).expect("it hangs")
}

/// Acts again and again until something was written by a thread other than this one.
fn until_written(kernel: &mut Kernel, actions: &[Action]) -> u64 {
    let start = Instant::now();
    loop {
        let acted = kernel.act(actions);
        assert_eq!(acted.failed, []);
        if acted.written > 0 {
            return acted.written;
        }
        assert!(start.elapsed() < HANGS, "it is never written");
        std::thread::yield_now();
    }
}

#[test]
fn while_the_kernel_reclaims_the_agent_cuts_batch_and_orders_nothing_twice() {
    let folder = Folder::of(10);
    let pipe = pipe(&folder);
    let mut kernel = folder.kernel();
    let folder = unless_it_hangs(move || {
        let order = action(RECLAIM, "4096");
        let mut watch = Watch::on(&folder.root());
        assert_eq!(kernel.act(std::slice::from_ref(&order)).failed, []);
        // Right before the kernel is asked, what is charged is read.
        watch.until_opened("memory.current");
        for quota in ["50000 100000", "25000 100000"] {
            let acted = kernel.act(&[order.clone(), action("cpu.max", quota)]);
            assert_eq!((acted.written, acted.failed.len()), (1, 0));
            assert_eq!(text(&folder, "cpu.max"), quota);
        }
        // Nobody will ever answer the order, and the end does not wait for that.
        assert_eq!(kernel.restore().failed, []);
        assert_eq!(text(&folder, "cpu.max"), MAX);
        drop(kernel);
        folder
    });
    // The order was given once. Its writer has gone on when the pipe says that there is no more.
    let mut orders = String::new();
    std::fs::File::open(pipe).unwrap().read_to_string(&mut orders).unwrap();
    assert_eq!(orders, "4096");
    drop(folder);
}

#[test]
fn a_limit_of_memory_is_written_by_and_by_and_counted_when_it_is() {
    let folder = Folder::of(10);
    let mut kernel = folder.kernel();
    let limit = [action("memory.high", "8192")];
    assert_eq!(until_written(&mut kernel, &limit), 1);
    assert_eq!(text(&folder, "memory.high"), "8192");
    assert_eq!(kernel.act(&limit).written, 0);
    kernel.restore();
    assert_eq!(text(&folder, "memory.high"), "max");
}

/// Whether the thread has begun or not: what was asked for last holds at the end.
#[test]
fn a_limit_that_is_under_way_at_the_end_does_not_stay() {
    let folder = Folder::of(10);
    for round in 0..200 {
        let mut kernel = folder.kernel();
        assert_eq!(kernel.act(&[action("memory.high", "8192")]).failed, []);
        if round % 2 == 0 {
            // Not wanted any more while it may be under way: it goes back, now or at a later look.
            kernel.act(&[]);
        }
        assert_eq!(kernel.restore().failed, []);
        drop(kernel);
        assert_eq!(text(&folder, "memory.high"), "max", "round {round}");
    }
}
