//! The operator's edge in a simulation: what volumes have to say of a binding.

use duosuan_controller::index::Index;
use duosuan_planner::simulation::{Bound, Edge};
use duosuan_scheduler::{Event, event::Pod};

/// The index that the operator has before its core. Volumes come into being as soon as they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Volumes(pub(super) Index);

impl Edge for Volumes {
    fn bind(&mut self, bound: &Bound) -> Result<Vec<Event>, String> {
        let Bound {
            pod,
            node,
            devices,
            numa,
            ..
        } = bound;
        match self.0.nodes.get(node) {
            Some(node) => self.0.volumes.bind(pod, node, devices, *numa).map(events),
            None => Err(format!("node {node} is gone")),
        }
    }

    fn left(&mut self, pod: &str) -> Vec<Event> {
        events(self.0.volumes.left(pod))
    }
}

fn events(pods: Vec<Pod>) -> Vec<Event> {
    pods.into_iter().map(|pod| Event::Pod(Box::new(pod))).collect()
}
