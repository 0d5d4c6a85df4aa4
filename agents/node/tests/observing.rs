//! Mode `observe`: everything but to act, and the report says what would have been done.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;

use duosuan_node::{metrics::Metrics, publish::Draft, status::Parts};
use folder::Folder;
use jiff::Timestamp;

/// The report named the policy's mode, though the agent's own `--mode observe` held; and what would have been set nowhere.
#[test]
fn an_agent_that_only_observes_reports_what_it_would_set() {
    let folder = Folder::of(10);
    let mut agent = folder.agent();
    agent.observe_only(true);
    agent.look(1_000);
    let look = agent.look(2_000);
    let draft = Draft::of(&look.report, &agent, &Parts::default(), Timestamp::UNIX_EPOCH);
    let conditions = draft.conditions.list();
    let accepted = conditions.iter().find(|c| c.type_ == "PolicyAccepted").unwrap();
    assert_eq!(
        (accepted.status.as_str(), accepted.reason.as_str()),
        ("True", "Observing")
    );
    let low = draft.status.intended.iter().find(|i| i.file == "memory.low").unwrap();
    assert!(
        low.cgroup.starts_with("kubepods") && low.count > 0 && !low.why.is_empty(),
        "{low:?}"
    );
    let left = std::fs::read_to_string(folder.root().join(&low.cgroup).join("memory.low")).unwrap();
    assert_eq!((left.as_str(), low.value != "0"), ("0\n", true));
    let metrics = Metrics::new();
    metrics.record("n", &look.report, &look.acted);
    let text = metrics.encode();
    let counted = format!("duosuan_intended_settings{{node=\"n\"}} {}", look.report.intended.len());
    assert!(text.contains(&counted), "{text}");

    agent.observe_only(false);
    let look = agent.look(3_000);
    let draft = Draft::of(&look.report, &agent, &Parts::default(), Timestamp::UNIX_EPOCH);
    assert_eq!(draft.status.intended, []);
}
