//! `cpu.max.burst` of prod pods that run into their own limit: set, kept from batch, and put back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;

use duosuan_node::selection::Choice;
use duosuan_policy::Policy;
use folder::Folder;

/// The kernel was asked whether it has it, and it was never written.
#[test]
fn a_prod_container_that_its_limit_stops_may_burst_until_the_agent_ends() {
    let folder = Folder::of(10);
    let (prod, batch, calm) = (5, 1, 6);
    for (pod, throttled) in [(prod, 7_000), (batch, 7_000), (calm, 0)] {
        folder.limit(pod, "50000 100000", throttled);
    }
    let burst = |pod| folder.read_container(pod, "cpu.max.burst");
    let mut agent = folder.agent();
    let mut policy = Policy::default();
    assert_eq!(
        policy.cpu.burst_percent, 0,
        "a pod could not be resized in place below it"
    );
    policy.cpu.burst_percent = 20;
    agent.follow(Choice::Policy {
        name: "bursts".to_owned(),
        policy,
    });
    agent.look(1_000);
    assert_eq!(
        ["10000", "0", "0"],
        [burst(prod), burst(batch), burst(calm)].each_ref().map(|s| s.trim())
    );
    let restored = agent.machine.restore();
    assert_eq!((restored.failed, burst(prod).trim()), (Vec::new(), "0"));
}
