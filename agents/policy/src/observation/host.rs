//! What is counted of a node as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Io, Millis};

/// What is counted of the whole node for people to look at; nothing is decided by it. It is not read at each look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// When it was read last; never, where that is not known.
    pub at: Option<Millis>,
    /// Processes that ran or waited in the mean of 1, 5 and 15 minutes, hundredths.
    pub load: Option<[u32; 3]>,
    /// What its memory management did since boot.
    pub paging: Option<Paging>,
    /// Its disks by name; partitions are none.
    pub disks: BTreeMap<String, Disk>,
}

/// What a node's memory management did since boot, pages, but for the last and the faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// Read from swap.
    pub swapped_in: u64,
    /// Written to swap.
    pub swapped_out: u64,
    /// Faults that waited for a device.
    pub major_faults: u64,
    /// Reclaimed in the background.
    pub reclaimed: u64,
    /// Reclaimed by those who wanted memory and waited for it.
    pub reclaimed_direct: u64,
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
}

/// A disk since boot, or since it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// IO.
    pub io: Io,
    /// Time in which a request was under way, microseconds.
    pub busy: u64,
    /// The same, counted once for each request, microseconds.
    pub waited: u64,
}
