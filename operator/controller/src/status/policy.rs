//! What a co-location policy says of the nodes that it holds for.

use duosuan_crds::ColocationPolicyStatus;
use duosuan_scheduler::Time as Millis;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{honoured, with_condition};
use crate::{index::Index, nodes::Rival, translate::node::Answer};

/// Condition of a policy: every node that reports that it follows it can do what it asks.
const ACCEPTED: &str = "Accepted";
/// Condition of a policy, only while its kill switch is thrown: every node that it is for, or that still follows it,
/// reports that it is as without the agent.
const UNTOUCHED: &str = "Untouched";

/// Condition of a policy, only while another one is for some of its nodes, too.
const OVERLAPS: &str = "Overlaps";

/// The status that a policy shall have, if it is not what it has.
pub fn policy(index: &Index, name: &str, now: Timestamp) -> Option<ColocationPolicyStatus> {
    let entry = index.policies.get(name)?;
    let followers = index.nodes.followers(name);
    let condition = |type_: &str, (status, reason, message): (&str, &str, String)| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(entry.generation),
        last_transition_time: Time(now),
    };
    let refuse: Vec<(&str, &str)> = followers
        .iter()
        .filter_map(|(node, answer)| match answer {
            Answer::Refuses(why) => Some((*node, why.as_str())),
            Answer::Follows | Answer::Suspended => None,
        })
        .collect();
    let accepted = match refuse.first() {
        _ if followers.is_empty() => (
            "Unknown",
            "NoNodes",
            "no node reports that it follows this policy".to_owned(),
        ),
        Some((node, why)) => (
            "False",
            "Refused",
            format!(
                "{} of {} nodes offer nothing, such as {node}: {why}",
                refuse.len(),
                followers.len()
            ),
        ),
        None => ("True", "Followed", "no node that reports refuses it".to_owned()),
    };
    let says = entry.says.clone().unwrap_or_default();
    let mut conditions = with_condition(says.conditions, condition(ACCEPTED, accepted));
    conditions.retain(|c| entry.suspended || c.type_ != UNTOUCHED);
    if entry.suspended {
        conditions = with_condition(conditions, condition(UNTOUCHED, untouched(index, name, now)));
    }
    let overlaps = index.nodes.rival(name).map(|rival| overlaps(&rival));
    conditions.retain(|c| overlaps.is_some() || c.type_ != OVERLAPS);
    if let Some(overlaps) = overlaps {
        conditions = with_condition(conditions, condition(OVERLAPS, overlaps));
    }
    let wanted = ColocationPolicyStatus {
        nodes: u32::try_from(followers.len()).unwrap_or(u32::MAX),
        conditions: honoured(conditions, &entry.ignored, None, entry.generation, now),
    };
    (entry.says.as_ref() != Some(&wanted)).then_some(wanted)
}

/// Status, reason and message of the condition of a policy that shares nodes with another one.
fn overlaps(rival: &Rival<'_>) -> (&'static str, &'static str, String) {
    let Rival { yields, node, policy } = rival;
    if *yields {
        let message =
            format!("{policy} selects nodes of this policy, too, such as {node}, and yields: the first by name holds");
        return ("True", "Holds", message);
    }
    let message = format!(
        "{policy} selects nodes of this policy, too, such as {node}, and holds there in its place, since the first by name \
         does: make spec.nodeSelector of one of them narrower"
    );
    ("True", "Yields", message)
}

/// Status, reason and message of the condition of a policy whose kill switch is thrown. A node of which nothing young
/// enough is known may be touched or not: missing is never done.
fn untouched(index: &Index, name: &str, now: Timestamp) -> (&'static str, &'static str, String) {
    let nodes = index.nodes.under(name, Millis(now.as_millisecond()));
    let those = |which: &dyn Fn(Option<&Answer>) -> bool| -> Vec<&str> {
        let nodes = nodes.iter().filter(|(_, answer)| which(*answer));
        nodes.map(|(node, _)| *node).collect()
    };
    let touched = those(&|answer| answer.is_some_and(|answer| *answer != Answer::Suspended));
    let silent = those(&|answer| answer.is_none());
    let all = nodes.len();
    match (touched.first(), silent.first()) {
        _ if nodes.is_empty() => (
            "Unknown",
            "NoNodes",
            "there is no node that this policy is for".to_owned(),
        ),
        (Some(node), _) => (
            "False",
            "Returning",
            format!(
                "{} of {all} nodes have not said yet that they are as without the agent, such as {node}",
                touched.len()
            ),
        ),
        (None, Some(node)) => (
            "Unknown",
            "NoReports",
            format!(
                "{} of {all} nodes have no report that is young enough to be believed, such as {node}: see to the agent \
                 there, or leave nodes without an agent out of spec.nodeSelector",
                silent.len()
            ),
        ),
        (None, None) => (
            "True",
            "Suspended",
            "every node reports that it is as without the agent; batch pods that run are left to run".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;
    use crate::{status::HONOURED, translate, watch::Fact};

    #[derive(Default)]
    struct World(Index);

    impl World {
        fn tell(&mut self, fact: Fact) {
            self.0.apply(fact, Millis(0), &mut Vec::new());
        }

        fn policy(&mut self, spec: &Value, status: Option<&ColocationPolicyStatus>) {
            let object = json!({"metadata": {"name": "p", "generation": 7}, "spec": spec, "status": status.unwrap_or(&Default::default())});
            let policy = translate::policy::read(serde_json::from_value(object).unwrap()).unwrap();
            self.tell(Fact::Policy("p".into(), Box::new(policy)));
        }

        /// A node of which nothing is reported.
        fn bare_node(&mut self, name: &str, labels: &Value) {
            let metadata = json!({"name": name, "labels": labels});
            let node = json!({"metadata": metadata, "status": {"allocatable": {"cpu": "4"}}});
            let (node, _) = translate::node::read(&serde_json::from_value(node).unwrap());
            self.tell(Fact::Node(Box::new(node)));
        }

        /// A node, and what its agent says: reason and message.
        fn node(&mut self, name: &str, reason: &str, message: &str) {
            self.bare_node(name, &json!({}));
            let report = json!({"metadata": {"name": name}, "status": {"policy": "p", "time": "1970-01-01T00:00:00Z",
                "conditions": [{"type": "ForecastReady", "reason": "Suspended", "message": ""},
                    {"type": "PolicyAccepted", "reason": reason, "message": message}]}});
            let report = translate::node::report(serde_json::from_value(report).unwrap()).unwrap();
            self.tell(Fact::Report(name.into(), Box::new(report)));
        }

        fn wanted(&self, second: i64) -> Option<ColocationPolicyStatus> {
            policy(&self.0, "p", Timestamp::from_second(second).unwrap())
        }
    }

    /// Status, reason, message and second of a condition.
    fn said<'s>(status: &'s ColocationPolicyStatus, type_: &str) -> Option<(&'s str, &'s str, &'s str, i64)> {
        let condition = status.conditions.iter().find(|c| c.type_ == type_)?;
        assert_eq!(condition.observed_generation, Some(7));
        let since = condition.last_transition_time.0.as_second();
        Some((&condition.status, &condition.reason, &condition.message, since))
    }

    #[test]
    fn a_policy_says_which_of_its_wishes_nothing_is_done_about_until_they_are_gone() {
        let mut world = World::default();
        let wish = json!({"guards": {"gpu": {}}});
        world.policy(&wish, None);
        let nobody = world.wanted(1).unwrap();
        let message = "no node reports that it follows this policy";
        assert_eq!(said(&nobody, ACCEPTED), Some(("Unknown", "NoNodes", message, 1)));
        world.node("a", "Following", "");
        let status = world.wanted(1).unwrap();
        assert_eq!(
            said(&status, HONOURED),
            Some(("False", "FieldsIgnored", "nothing is done about spec.guards.gpu yet", 1))
        );
        world.policy(&wish, Some(&status));
        assert_eq!(world.wanted(2), None, "told once, with its first time");
        world.policy(&json!({}), Some(&status));
        let status = world.wanted(3).unwrap();
        assert_eq!(said(&status, HONOURED), None);
        assert_eq!(
            said(&status, ACCEPTED),
            Some(("True", "Followed", "no node that reports refuses it", 1))
        );
    }

    #[test]
    fn a_policy_that_some_nodes_refuse_says_how_many_and_what_the_first_says() {
        let mut world = World::default();
        world.policy(&json!({}), None);
        world.node("c", "Refused", "cannot");
        world.node("b", "Refused", "guards.cpu.floor is 17000m: give at most 16000m");
        world.node("a", "Following", "");
        let status = world.wanted(1).unwrap();
        assert_eq!(status.nodes, 3);
        let message = "2 of 3 nodes offer nothing, such as b: guards.cpu.floor is 17000m: give at most 16000m";
        assert_eq!(said(&status, ACCEPTED), Some(("False", "Refused", message, 1)));
        world.policy(&json!({}), Some(&status));
        world.node("b", "Following", "");
        world.node("c", "Following", "");
        assert_eq!(
            said(&world.wanted(2).unwrap(), ACCEPTED),
            Some(("True", "Followed", "no node that reports refuses it", 2))
        );
    }

    #[test]
    fn a_thrown_kill_switch_is_done_when_every_node_says_that_it_is_as_without_the_agent() {
        let mut world = World::default();
        let spec = json!({"suspended": true});
        world.node("a", "Suspended", "");
        world.node("b", "Following", "");
        world.policy(&spec, None);
        let status = world.wanted(1).unwrap();
        let message = "1 of 2 nodes have not said yet that they are as without the agent, such as b";
        assert_eq!(said(&status, UNTOUCHED), Some(("False", "Returning", message, 1)));
        world.policy(&spec, Some(&status));
        world.node("b", "Suspended", "");
        let status = world.wanted(2).unwrap();
        let (done, reason, _, since) = said(&status, UNTOUCHED).unwrap();
        assert_eq!((done, reason, since), ("True", "Suspended", 2));
        world.policy(&json!({}), Some(&status));
        assert_eq!(said(&world.wanted(3).unwrap(), UNTOUCHED), None);
    }
    fn untouched_at(world: &World, second: i64) -> (String, String) {
        let status = world.wanted(second).unwrap();
        let (status, reason, message, _) = said(&status, UNTOUCHED).unwrap();
        (format!("{status} {reason}"), message.to_owned())
    }

    #[test]
    fn a_node_of_which_nothing_young_is_known_may_be_touched_still() {
        let mut world = World::default();
        world.policy(&json!({"suspended": true, "nodeSelector": {"pool": "shared"}}), None);
        assert_eq!(untouched_at(&world, 1).0, "Unknown NoNodes");
        world.bare_node("other", &json!({"pool": "own"}));
        world.bare_node("silent", &json!({"pool": "shared"}));
        let silent = |of: &str| {
            format!(
                "1 of {of} nodes have no report that is young enough to be believed, such as silent: see to the agent there, \
                 or leave nodes without an agent out of spec.nodeSelector"
            )
        };
        assert_eq!(untouched_at(&world, 1), ("Unknown NoReports".into(), silent("1")));
        // It still follows the policy, though that is not for it any more.
        world.node("left", "Suspended", "");
        assert_eq!(untouched_at(&world, 1), ("Unknown NoReports".into(), silent("2")));
        // What is known not to be done comes before what is not known.
        world.node("left", "Following", "");
        assert_eq!(untouched_at(&world, 1).0, "False Returning");
        world.node("left", "Suspended", "");
        world.node("silent", "Suspended", "");
        world.bare_node("silent", &json!({"pool": "shared"}));
        assert_eq!(untouched_at(&world, 300).0, "True Suspended");
        assert_eq!(
            untouched_at(&world, 301).0,
            "Unknown NoReports",
            "its agents say nothing any more"
        );
    }

    #[test]
    fn a_node_is_under_the_first_policy_by_name_that_selects_it() {
        let mut world = World::default();
        world.policy(&json!({"suspended": true}), None);
        world.bare_node("n", &json!({"pool": "shared"}));
        assert_eq!(untouched_at(&world, 1).0, "Unknown NoReports");
        let first = json!({"metadata": {"name": "a"}, "spec": {"nodeSelector": {"pool": "shared"}}});
        let first = translate::policy::read(serde_json::from_value(first).unwrap()).unwrap();
        world.tell(Fact::Policy("a".into(), Box::new(first)));
        assert_eq!(untouched_at(&world, 1).0, "Unknown NoNodes");
    }
    /// The first by name held, and neither said a word.
    #[test]
    fn policies_that_are_for_the_same_node_say_which_of_them_holds_there() {
        let mut world = World::default();
        world.policy(&json!({"nodeSelector": {"pool": "shared"}}), None);
        world.bare_node("n", &json!({"pool": "shared", "rack": "7"}));
        world.bare_node("m", &json!({"rack": "7"}));
        assert_eq!(said(&world.wanted(1).unwrap(), OVERLAPS), None);
        let another = |name: &str, pool: &str| {
            let object = json!({"metadata": {"name": name}, "spec": {"nodeSelector": {"pool": pool}}});
            let policy = translate::policy::read(serde_json::from_value(object).unwrap()).unwrap();
            Fact::Policy(name.into(), Box::new(policy))
        };
        world.tell(another("z", "own"));
        assert_eq!(said(&world.wanted(1).unwrap(), OVERLAPS), None);
        world.tell(another("z", "shared"));
        let message = "z selects nodes of this policy, too, such as n, and yields: the first by name holds";
        let status = world.wanted(1).unwrap();
        assert_eq!(said(&status, OVERLAPS), Some(("True", "Holds", message, 1)));
        let other = policy(&world.0, "z", Timestamp::from_second(1).unwrap()).unwrap();
        let condition = other.conditions.iter().find(|c| c.type_ == OVERLAPS).unwrap();
        assert_eq!(condition.reason, "Yields");
        assert!(
            condition
                .message
                .starts_with("p selects nodes of this policy, too, such as n, and holds there")
        );
        // What is taken from it is said before what it takes.
        world.tell(another("a", "shared"));
        assert_eq!(said(&world.wanted(1).unwrap(), OVERLAPS).unwrap().1, "Yields");
        world.tell(another("a", "own"));
        world.tell(another("z", "own"));
        world.policy(&json!({"nodeSelector": {"pool": "shared"}}), Some(&status));
        assert_eq!(said(&world.wanted(2).unwrap(), OVERLAPS), None);
    }
}
