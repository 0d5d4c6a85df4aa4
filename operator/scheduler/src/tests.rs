//! Tests of the core as a whole.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod any_cells;
mod any_devices;
mod any_relations;
mod any_topology;
mod apart;
mod backfill;
mod beside;
mod binding;
mod cells;
mod closed_nodes;
mod device_claims;
mod device_kinds;
mod device_search;
mod device_take_back;
mod disruption;
mod elastic;
mod fairness;
pub(crate) mod fixtures;
mod gangs;
mod gpus;
mod holds;
mod images;
mod lending;
mod load;
mod lost_work;
mod making_room;
mod milp;
mod optimum;
mod preemption;
mod preferred_nodes;
mod promises;
mod properties;
mod queues;
mod relations;
mod resuming;
mod shared_volumes;
mod single_pods;
mod tiers;
mod topology;
mod topology_kept;
mod work;
