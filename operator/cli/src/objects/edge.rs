//! The operator's edge in a simulation: what volumes and claims to devices have to say of a binding.

use duosuan_controller::index::Index;
use duosuan_planner::simulation::{Bound, Edge};
use duosuan_scheduler::{ClaimAllocation, Event, event::Pod};

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
            allocations,
            ..
        } = bound;
        let Some(seen) = self.0.nodes.get(node) else {
            return Err(format!("node {node} is gone"));
        };
        let mut told = self.0.volumes.bind(pod, seen, devices, *numa).map(events)?;
        if let Some(name) = self.0.pod_name(pod) {
            told.extend(self.0.devices.granted(&name.namespace, pod, allocations));
        }
        Ok(told)
    }

    fn take_back(&mut self, pod: &str, claims: &[ClaimAllocation]) -> Vec<Event> {
        let Some(name) = self.0.pod_name(pod) else {
            return Vec::new();
        };
        self.0.devices.taken_back(&name.namespace, pod, claims)
    }

    fn left(&mut self, pod: &str) -> Vec<Event> {
        let mut told = events(self.0.volumes.left(pod));
        told.extend(self.0.devices.left(pod));
        told
    }
}

fn events(pods: Vec<Pod>) -> Vec<Event> {
    pods.into_iter().map(|pod| Event::Pod(Box::new(pod))).collect()
}
