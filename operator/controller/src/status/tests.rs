#![allow(clippy::unwrap_used, reason = "tests")]

use duosuan_scheduler::{Event, Time as Millis, event};

use super::*;
use crate::{
    index::Waiting,
    translate::{FieldError, claim as read_claim, pod as read_pod, pod_group as read_pod_group, queue as read_queue},
    watch::Fact,
};

#[derive(Default)]
struct World {
    index: Index,
    cluster: Cluster,
    ignored: Vec<&'static str>,
    misread: Option<FieldError>,
    queue: &'static str,
}

impl World {
    fn tell(&mut self, fact: Fact) {
        let mut events = Vec::new();
        self.index.apply(fact, Millis(0), &mut events);
        events.into_iter().for_each(|event| self.cluster.apply(event));
    }

    fn claim(&mut self, status: CapacityClaimStatus, broken: Option<FieldError>) {
        let group = event::Group {
            name: "g".into(),
            min: 1,
            max: 2,
            quantum: 1,
            ..event::Group::default()
        };
        let groups = if broken.is_some() { vec![] } else { vec![group] };
        let claim = event::Claim {
            uid: "c".into(),
            namespace: "ns".into(),
            name: "c".into(),
            queue: self.queue.into(),
            groups,
            ..event::Claim::default()
        };
        self.tell(Fact::Claim(Box::new(read_claim::Claim {
            claim,
            generation: 7,
            status: Some(status),
            broken,
            ignored: self.ignored.clone(),
            misread: self.misread.clone(),
        })));
    }

    fn pod(&mut self, name: &str, node: Option<&str>, finished: bool) {
        let pod = event::Pod {
            uid: name.into(),
            namespace: "ns".into(),
            name: name.into(),
            claim: Some("c".into()),
            group: "g".into(),
            node: node.map(str::to_owned),
            finished,
            ours: true,
            ..event::Pod::default()
        };
        self.tell(Fact::Pod(Box::new(read_pod::Pod {
            volume_claims: vec![],
            pod,
            unschedulable: None,
            nominated: None,
            readiness: Default::default(),
            broken: vec![],
        })));
    }

    fn wanted(&self, seconds: i64) -> Option<CapacityClaimStatus> {
        claim(
            &self.index,
            &self.cluster,
            &("ns".into(), "c".into()),
            Timestamp::from_second(seconds).unwrap(),
        )
    }
}

#[test]
fn a_status_that_says_all_already_is_not_written() {
    let mut world = World::default();
    world.claim(CapacityClaimStatus::default(), None);
    world.pod("a", Some("n"), false);
    let status = world.wanted(1).unwrap();
    assert_eq!(status.phase, Phase::Running);
    assert_eq!(
        status.placed,
        [Placed {
            group: "g".into(),
            count: 1,
            desired: 2
        }]
    );
    world.claim(status, None);
    assert_eq!(world.wanted(2), None, "only the time is another");
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let mut world = World::default();
    world.claim(CapacityClaimStatus::default(), None);
    let first = world.wanted(1).unwrap();
    world.claim(first, None);
    world.index.set_waiting(
        "c",
        Some(Waiting {
            reason: "NoNodeFits",
            message: "why".into(),
        }),
    );
    let second = world.wanted(2).unwrap();
    let condition = second.conditions.first().unwrap();
    assert_eq!(
        (condition.reason.as_str(), condition.last_transition_time.0.as_second()),
        ("NoNodeFits", 1)
    );
    assert_eq!(condition.observed_generation, Some(7));
    world.claim(second, None);
    world.pod("a", Some("n"), false);
    let third = world.wanted(3).unwrap();
    let condition = third.conditions.first().unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.last_transition_time.0.as_second()),
        ("True", 3)
    );
    assert_eq!((third.reason, third.message), (None, None));
}

#[test]
fn a_claim_whose_pods_have_ended_stays_finished_when_they_are_cleared_away() {
    let mut world = World::default();
    world.claim(CapacityClaimStatus::default(), None);
    world.pod("a", Some("n"), false);
    world.pod("a", Some("n"), true);
    let status = world.wanted(1).unwrap();
    assert_eq!(status.phase, Phase::Finished);
    world.claim(status, None);
    world.tell(Fact::PodGone("a".into()));
    assert_eq!(world.wanted(2), None);
    // Another operator, which knows only what it reads.
    let mut other = World::default();
    other.claim(world.index.claims.values().next().unwrap().says.clone().unwrap(), None);
    assert_eq!(other.wanted(3), None);
}

#[test]
fn a_claim_says_which_of_its_wishes_nothing_is_done_about_until_they_are_gone() {
    let mut world = World {
        ignored: vec!["spec.deadline", "spec.topology"],
        ..World::default()
    };
    world.claim(CapacityClaimStatus::default(), None);
    let status = world.wanted(1).unwrap();
    let told = status.conditions.iter().find(|c| c.type_ == HONOURED).unwrap();
    assert_eq!(
        (told.status.as_str(), told.message.as_str()),
        ("False", "nothing is done about spec.deadline, spec.topology yet")
    );
    world.claim(status.clone(), None);
    assert_eq!(world.wanted(2), None, "told once, with its first time");
    // It was said that nothing is done about it yet, as if waiting would help.
    world.misread = Some(FieldError {
        field: "metadata.annotations[a]".into(),
        problem: "\"soon\" is no time".into(),
    });
    world.claim(status.clone(), None);
    let conditions = world.wanted(3).unwrap().conditions;
    let told = conditions.iter().find(|c| c.type_ == HONOURED).unwrap();
    assert_eq!(
        told.message,
        "nothing is done about spec.deadline, spec.topology yet; metadata.annotations[a]: \"soon\" is no time"
    );
    world.misread = None;
    world.ignored.clear();
    world.claim(status, None);
    let conditions = world.wanted(3).unwrap().conditions;
    assert!(conditions.iter().all(|c| c.type_ != HONOURED), "{conditions:?}");
}

/// A claim whose evictions were all refused went on saying that it was evicted.
#[test]
fn a_claim_says_that_it_was_evicted_as_long_as_not_all_of_it_stays() {
    let mut world = World::default();
    world.claim(CapacityClaimStatus::default(), None);
    world.pod("a", None, false);
    world.pod("b", None, false);
    let waiting = Waiting {
        reason: "NoNodeFits",
        message: "why".into(),
    };
    world.index.set_waiting("c", Some(waiting));
    for pod in ["a", "b"] {
        world.index.set_evicted(pod, "evicted for another; no work lost".into());
    }
    let says = |world: &World| world.wanted(1).unwrap().message.unwrap();
    world.index.set_not_evicted("a");
    assert_eq!(says(&world), "why (evicted for another; no work lost)");
    world.index.changed_claims.clear();
    world.index.set_not_evicted("b");
    assert_eq!(says(&world), "why");
    assert_eq!(world.index.changed_claims.len(), 1, "it is written anew");
}

#[test]
fn a_claim_that_runs_says_that_its_queue_was_deleted_until_it_is_there_again() {
    let mut world = World {
        queue: "q",
        ..World::default()
    };
    let there = |world: &mut World| {
        let queue = event::Queue {
            name: "q".into(),
            ..event::Queue::default()
        };
        world.tell(Fact::Queue(Box::new(read_queue::Queue {
            queue,
            status: None,
            generation: 1,
        })));
    };
    there(&mut world);
    world.claim(CapacityClaimStatus::default(), None);
    world.pod("a", Some("n"), false);
    let status = world.wanted(1).unwrap();
    assert!(status.conditions.iter().all(|c| c.type_ != QUEUE_USABLE));
    world.claim(status, None);
    world.index.changed_claims.clear();

    world.tell(Fact::QueueGone("q".into()));
    assert_eq!(world.index.changed_claims.len(), 1, "its status is looked at again");
    let status = world.wanted(2).unwrap();
    let told = status.conditions.iter().find(|c| c.type_ == QUEUE_USABLE).unwrap();
    assert_eq!(
        (told.status.as_str(), told.reason.as_str(), told.message.as_str()),
        (
            "False",
            "NoSuchQueue",
            "queue q does not exist; what runs goes on, and nothing more of it is placed"
        )
    );
    assert_eq!(status.phase, Phase::Running);
    world.claim(status, None);
    there(&mut world);
    let status = world.wanted(3).unwrap();
    assert!(status.conditions.iter().all(|c| c.type_ != QUEUE_USABLE));
}

#[test]
fn a_claim_that_cannot_be_understood_says_which_field() {
    let mut world = World::default();
    world.claim(
        CapacityClaimStatus::default(),
        Some(FieldError {
            field: "spec.x".into(),
            problem: "bad".into(),
        }),
    );
    let status = world.wanted(1).unwrap();
    assert_eq!(
        (status.phase, status.reason.as_deref(), status.message.as_deref()),
        (Phase::Pending, Some(BROKEN), Some("spec.x: bad"))
    );
}

#[test]
fn a_pod_group_says_why_it_waits_in_the_words_of_its_version() {
    for (version, condition) in [
        ("v1beta1", "PodGroupInitiallyScheduled"),
        ("v1alpha2", "PodGroupScheduled"),
    ] {
        let object = serde_json::json!({
            "metadata": {"name": "g", "namespace": "ns", "uid": "u"},
            "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
        });
        let read = read_pod_group::read(&serde_json::from_value(object).unwrap(), version);
        let name = ("ns".to_owned(), read.claim.name.clone());
        let mut world = World::default();
        world.tell(Fact::PodGroup(Box::new(read)));
        let waiting = Waiting {
            reason: "NoNodeFits",
            message: "why".into(),
        };
        world.index.set_waiting("u", Some(waiting));
        let says = pod_group(&world.index, &name, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((says.type_.as_str(), says.message.as_str()), (condition, "why"));
    }
}

#[test]
fn a_pod_says_why_its_claim_waits_and_only_once() {
    let mut world = World::default();
    world.claim(CapacityClaimStatus::default(), None);
    world.pod("a", None, false);
    assert_eq!(says(&world, "a"), None);
    world.index.set_waiting(
        "c",
        Some(Waiting {
            reason: "NoNodeFits",
            message: "why".into(),
        }),
    );
    assert_eq!(says(&world, "a").as_deref(), Some("why"));
    world.index.pods.get_mut("a").unwrap().says = Some("why".into());
    assert_eq!(says(&world, "a"), None);
    // Of the pod alone, which goes before.
    world.index.set_waiting(
        "a",
        Some(Waiting {
            reason: "GroupFull",
            message: "full".into(),
        }),
    );
    assert_eq!(says(&world, "a").as_deref(), Some("full"));
    world.cluster.apply(Event::PodGone("a".into()));
    world.tell(Fact::PodGone("a".into()));
    assert_eq!(says(&world, "a"), None);
}

fn says(world: &World, uid: &str) -> Option<String> {
    pod(&world.index, &world.cluster, uid).and_then(|status| status.message)
}

#[test]
fn a_pod_names_the_node_where_room_is_being_made_until_it_is() {
    let mut world = World::default();
    let allocatable = [("cpu".to_owned(), 1000), ("pods".to_owned(), 10)].into();
    world.tell(Fact::Node(Box::new(event::Node {
        name: "n".into(),
        allocatable,
        ..event::Node::default()
    })));
    for (name, guaranteed) in [("owner", 1000), ("guest", 0)] {
        let quota = event::Quota {
            guaranteed: [("cpu".to_owned(), guaranteed)].into(),
            ..event::Quota::default()
        };
        world.cluster.apply(Event::Queue(Box::new(event::Queue {
            name: name.into(),
            weight: 1,
            quotas: vec![quota],
            ..event::Queue::default()
        })));
    }
    let pod_of = |queue: &str, node: Option<&str>, nominated: Option<bool>| {
        Fact::Pod(Box::new(read_pod::Pod {
            volume_claims: vec![],
            pod: event::Pod {
                uid: queue.into(),
                namespace: "ns".into(),
                name: queue.into(),
                queue: queue.into(),
                requests: [("cpu".to_owned(), 1000)].into(),
                node: node.map(str::to_owned),
                ours: true,
                ..event::Pod::default()
            },
            unschedulable: None,
            nominated: nominated.map(|ours| read_pod::Nomination { node: "n".into(), ours }),
            readiness: Default::default(),
            broken: vec![],
        }))
    };
    let nominated = |world: &World| pod(&world.index, &world.cluster, "owner").and_then(|status| status.nominated);
    world.tell(pod_of("guest", Some("n"), None));
    world.tell(pod_of("owner", None, None));
    assert_eq!(nominated(&world), None);
    duosuan_scheduler::cycle(&mut world.cluster, Millis(0), duosuan_scheduler::Budget::default());
    assert_eq!(nominated(&world), Some(Some("n".to_owned())));
    world.tell(pod_of("owner", None, Some(true)));
    assert_eq!(nominated(&world), None, "it says so");
    world.tell(Fact::PodGone("guest".into()));
    duosuan_scheduler::cycle(&mut world.cluster, Millis(1), duosuan_scheduler::Budget::default());
    assert_eq!(nominated(&world), Some(None));
    world.tell(pod_of("owner", None, Some(false)));
    assert_eq!(nominated(&world), None, "nobody takes away what another one nominated");
    world.tell(pod_of("owner", None, None));
    assert_eq!(nominated(&world), None);
}

#[test]
fn a_nomination_of_an_operator_that_died_is_taken_away() {
    let mut world = World::default();
    let left_behind = |ours: bool, finished: bool| {
        let fact = read_pod::Pod {
            pod: event::Pod {
                uid: "p".into(),
                namespace: "ns".into(),
                name: "p".into(),
                requests: [("cpu".to_owned(), 1000)].into(),
                finished,
                ours: true,
                ..event::Pod::default()
            },
            nominated: Some(read_pod::Nomination {
                node: "gone".into(),
                ours,
            }),
            ..read_pod::Pod::default()
        };
        Fact::Pod(Box::new(fact))
    };
    for (ours, finished, expected) in [(true, false, Some(None)), (false, false, None), (true, true, None)] {
        world.tell(left_behind(ours, finished));
        let status = pod(&world.index, &world.cluster, "p").and_then(|status| status.nominated);
        assert_eq!(status, expected, "ours: {ours}, finished: {finished}");
        // It is looked at though nothing of it changes any more.
        assert_eq!(world.index.nominated.contains("p"), expected.is_some());
    }
}
