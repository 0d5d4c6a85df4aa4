//! Processes outside pods that a policy counts to a tier.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;

use duosuan_crds::ColocationPolicySpec;
use duosuan_node::{
    machine::Machine,
    selection::{Choice, translate},
};
use duosuan_policy::{NamedGroup, Observation, Policy, Resources, Tier};
use folder::Folder;

const SPARK: &str = "spark.slice/worker";

fn following(tier: Option<Tier>) -> Choice {
    let groups = tier.into_iter().map(|tier| NamedGroup {
        path: SPARK.to_owned(),
        tier,
    });
    Choice::Policy {
        name: "default".to_owned(),
        policy: Policy {
            groups: groups.collect(),
            ..Policy::default()
        },
    }
}

/// A folder with a cgroup outside the pods, which looks as one of prod's does.
fn scene() -> Folder {
    let folder = Folder::of(10);
    std::fs::create_dir_all(folder.root().join(SPARK)).unwrap();
    for file in std::fs::read_dir(folder.pod_group(0)).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), folder.root().join(SPARK).join(file.file_name())).unwrap();
        }
    }
    folder
}

#[test]
fn a_group_is_guarded_with_its_tier_while_the_policy_names_it_and_left_as_it_was_afterwards() {
    let folder = scene();
    let idle = || std::fs::read_to_string(folder.root().join(SPARK).join("cpu.idle")).unwrap();
    let mut agent = folder.agent();
    let mut now = 0;
    let mut used = |choice: Choice| {
        agent.follow(choice);
        let mut report = None;
        for _ in 0..3 {
            now += 1_000;
            report = Some(agent.look(now).report);
        }
        let tiers = report.unwrap().tiers;
        (tiers[0].usage.memory.unwrap(), tiers[2].usage.memory.unwrap())
    };
    let before = used(following(None));
    assert_eq!(idle(), "0\n");
    // Twenty megabytes, six of them page cache that was not used lately.
    let batch = used(following(Some(Tier::Batch)));
    assert_eq!(batch, (before.0, before.1 + 14_000_000));
    assert_eq!(idle().trim(), "1");
    assert_eq!(used(following(Some(Tier::Prod))), (before.0 + 14_000_000, before.1));
    assert_eq!(idle().trim(), "0", "prod is not idle");
    used(following(Some(Tier::Batch)));
    assert_eq!(used(Choice::None), before);
    assert_eq!(idle().trim(), "0", "put back");
}

#[test]
fn a_group_that_the_node_does_not_have_is_none_there_until_it_comes() {
    let folder = Folder::of(10);
    let mut kernel = folder.kernel();
    kernel.name(&[NamedGroup {
        path: SPARK.to_owned(),
        tier: Tier::Batch,
    }]);
    let mut seen = Observation::default();
    kernel.observe(&folder.pods(), 0, &mut seen);
    assert!(seen.complete && seen.group(SPARK).is_none());
    assert_eq!(kernel.act(&[]).failed, []);
    std::fs::create_dir_all(folder.root().join(SPARK)).unwrap();
    kernel.observe(&folder.pods(), 1_000, &mut seen);
    assert_eq!(seen.group(SPARK).unwrap().tier, Tier::Batch);
}

fn spec(value: serde_json::Value) -> ColocationPolicySpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn groups_outside_pods_are_taken_over_unless_one_lies_in_another_or_nowhere() {
    let given = spec(serde_json::json!({"groups": [
        {"path": "yarn.slice/nm", "tier": "batch"}, {"path": "yarn.slice/nm2", "tier": "mid"}]}));
    let group = |path: &str, tier| NamedGroup {
        path: path.to_owned(),
        tier,
    };
    let expected = [group("yarn.slice/nm", Tier::Batch), group("yarn.slice/nm2", Tier::Mid)];
    assert_eq!(translate(&given, Resources::default()).unwrap().groups, expected);
    let bad = spec(serde_json::json!({"groups": [
        {"path": "a/../b", "tier": "prod"}, {"path": "c", "tier": "prod"}, {"path": "c/d", "tier": "batch"}]}));
    let problems = translate(&bad, Resources::default()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("groups.path is \"a/../b\": give a path below"),
        "{problems:?}"
    );
    assert!(
        problems[1].starts_with("groups.path is \"c\" and \"c/d\": give cgroups"),
        "{problems:?}"
    );
}
