//! What runs beside the real one need of the core: a copy to try things on, when time alone changes something, and to
//! be told again what was told before.

use crate::{Cluster, event::Time, index::Index, model::Model, steps};

/// A copy decides as the original would. It has an empty cache of its own, and counts its [work](Cluster::work) anew.
impl Clone for Cluster {
    fn clone(&self) -> Cluster {
        Cluster {
            model: self.model.clone(),
            index: Index::default(),
            policy: self.policy,
        }
    }
}

impl Cluster {
    /// Does something to the cluster and takes all of it back. This costs much less than a copy of a large cluster: of its
    /// nodes, pods, claims and kin, only those that are changed are copied. What is done begins with an empty cache, as a copy
    /// does.
    pub fn rehearse<R>(&mut self, act: impl FnOnce(&mut Cluster) -> R) -> R {
        if self.model.nodes.keeps() {
            // A rehearsal in a rehearsal.
            return act(&mut self.clone());
        }
        let rest = self.model.copy_but_for_tables();
        let index = std::mem::take(&mut self.index);
        self.model.nodes.keep();
        self.model.pods.keep();
        self.model.claims.keep();
        self.model.kins.slots.keep();
        let result = act(self);
        let mut done = std::mem::replace(&mut self.model, rest);
        done.nodes.take_back();
        done.pods.take_back();
        done.claims.take_back();
        done.kins.slots.take_back();
        self.model.take_tables_of(&mut done);
        self.index = index;
        result
    }

    /// When the next cycle may decide something with no event before it: a spared victim may go then, a pod whose binding
    /// failed is tried again, or the grace time of a gang that lost a member is over. `None` if time alone changes nothing.
    #[must_use]
    pub fn next_time(&self) -> Option<Time> {
        let broken = self.model.broken.iter().filter_map(|&claim| {
            let since = self.model.claims.find(claim)?.broken_since?;
            Some(Time(since.0.saturating_add(steps::GRACE)))
        });
        let tried_again = self.model.held_back.first().map(|(at, _)| *at);
        broken.chain(self.model.retry_at).chain(tried_again).min()
    }

    /// True if the work of the last cycle ended before it had looked for everybody who could go for those who wait: the next
    /// one goes on from there, with no event before it.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.model.unfinished
    }

    /// Has the next cycle say of all that waits why it does, as if it had never said so: with today's numbers.
    pub fn say_again(&mut self) {
        let model = &mut self.model;
        let claims: Vec<_> = model.claims.iter().map(|(claim, _)| claim).collect();
        for claim in claims {
            let pods: Vec<_> = model.members(claim).collect();
            for pod in pods {
                model.pods[pod].reported = None;
            }
            let slot = &mut model.claims[claim];
            slot.reported = None;
            slot.blocked_by = None;
            model.mark(claim);
        }
    }
}

impl Model {
    /// All but the large tables, which are left empty in it.
    fn copy_but_for_tables(&mut self) -> Model {
        let mut tables = Model::default();
        tables.take_tables_of(self);
        let copy = self.clone();
        self.take_tables_of(&mut tables);
        copy
    }

    fn take_tables_of(&mut self, other: &mut Model) {
        self.nodes = std::mem::take(&mut other.nodes);
        self.pods = std::mem::take(&mut other.pods);
        self.claims = std::mem::take(&mut other.claims);
        self.kins.slots = std::mem::take(&mut other.kins.slots);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Budget, Cluster, Decision, Event, Reason, Time, cycle,
        event::{Node, Pod},
    };

    fn pod(uid: &str, cpu: i64) -> Event {
        Event::Pod(Box::new(Pod {
            uid: uid.into(),
            requests: [("cpu".into(), cpu)].into(),
            ours: true,
            ..Pod::default()
        }))
    }

    fn full() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.apply(Event::Node(Box::new(Node {
            name: "n".into(),
            allocatable: [("cpu".into(), 2000), ("pods".into(), 10)].into(),
            ..Node::default()
        })));
        cluster.apply(pod("runs", 1500));
        cycle(&mut cluster, Time(0), Budget::default());
        cluster.apply(pod("waits", 1000));
        cycle(&mut cluster, Time(0), Budget::default());
        cluster
    }

    #[test]
    fn what_is_tried_on_a_copy_leaves_the_original_as_it_was() {
        let cluster = full();
        let mut copy = cluster.clone();
        copy.apply(Event::PodGone("runs".into()));
        let decided = cycle(&mut copy, Time(0), Budget::default());
        assert!(
            decided
                .iter()
                .any(|d| matches!(d, Decision::Bind { pod, .. } if pod == "waits"))
        );
        assert_eq!(cluster.seat_of_pod("waits"), None);
        assert_eq!(cluster.pods().bound, 1);
    }

    #[test]
    fn what_waits_says_so_again_when_it_is_asked_to_and_nothing_else_is_decided() {
        let mut cluster = full();
        assert_eq!(cycle(&mut cluster, Time(0), Budget::default()), []);
        cluster.say_again();
        let said = cycle(&mut cluster, Time(0), Budget::default());
        let [Decision::Pending { claim, reason, .. }] = said.as_slice() else {
            unreachable!("{said:?}")
        };
        assert_eq!(claim, "waits");
        assert!(matches!(reason, Reason::NoNodeFits { .. }));
        assert_eq!(cycle(&mut cluster, Time(0), Budget::default()), []);
    }

    #[test]
    fn what_waits_for_an_event_waits_for_no_time_but_the_end_of_its_patience() {
        let mut cluster = full();
        assert_eq!(cluster.next_time(), Some(Time(crate::settings::HOLD_AFTER)));
        cluster.apply(Event::PodGone("waits".into()));
        cycle(&mut cluster, Time(crate::settings::HOLD_AFTER), Budget::default());
        assert_eq!(cluster.next_time(), None);
    }

    #[test]
    fn a_binding_that_failed_twice_is_tried_again_at_a_time() {
        let mut cluster = full();
        for _ in 0..2 {
            assert!(cluster.seat_of_pod("runs").is_some());
            cluster.apply(Event::BindFailed {
                pod: "runs".into(),
                node: "n".into(),
                message: "ill".into(),
                lasting: false,
            });
            cycle(&mut cluster, Time(0), Budget::default());
        }
        assert_eq!(cluster.next_time(), Some(Time(1000)));
    }
}
