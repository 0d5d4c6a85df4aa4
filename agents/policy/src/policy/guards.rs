//! What each guard goes by.

use serde::{Deserialize, Serialize};

/// Memory guard: a shortage takes batch's memory first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryGuard {
    /// Off: batch's memory is not touched and prod's not protected.
    pub disabled: bool,
    /// Prod's memory stall, thousandths of wall time, over which batch's memory is taken back.
    pub stall_milli: u32,
    /// Available memory under which it is taken back whatever the stall, percent of capacity.
    pub available_percent: u32,
}

impl Default for MemoryGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            stall_milli: 50,
            available_percent: 5,
        }
    }
}

/// IO guard: prod's IO stall cuts batch's IO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IoGuard {
    /// Off: batch's IO is not touched.
    pub disabled: bool,
    /// Prod's IO stall, thousandths of wall time, over which batch is cut.
    pub stall_milli: u32,
}

impl Default for IoGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            stall_milli: 100,
        }
    }
}

/// Latency guard: a service with about as many slow requests as it may have cuts batch's CPU, but for what it misses by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyGuard {
    /// Off: no service's latency cuts batch.
    pub disabled: bool,
    /// Part of the slow requests that its objective allows, percent, over which a service cuts batch.
    pub budget_percent: u32,
}

impl Default for LatencyGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            budget_percent: 80,
        }
    }
}

/// Guard of the last-level cache and of memory bandwidth: batch has a part of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LlcGuard {
    /// Off: batch uses the whole of both.
    pub disabled: bool,
    /// Part of the cache that batch may fill, percent.
    pub cache_percent: u32,
    /// Part of the bandwidth that batch may use, percent.
    pub bandwidth_percent: u32,
}

impl Default for LlcGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            cache_percent: 20,
            bandwidth_percent: 50,
        }
    }
}

/// Network guard: batch pods together have a rate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkGuard {
    /// Off: batch sends and receives as prod does.
    pub disabled: bool,
    /// What batch may send, and receive, bits a second; what prod leaves of the link if absent.
    pub rate: Option<i64>,
    /// What the link that leads out of the node carries each way, bits a second; what its driver says if absent.
    pub line: Option<i64>,
}

/// CPU guard: prod's stall cuts batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Guard {
    /// Off: batch is not touched.
    pub disabled: bool,
    /// Prod's stall, thousandths of wall time, over which batch is cut.
    pub stall_milli: u32,
    /// Batch is never cut below this, milli-cores; a twentieth of the node if absent.
    pub floor: Option<i64>,
    /// What prod may use beyond its own limit in a burst, out of what it left of it before, percent of the limit; 0 for nothing.
    pub burst_percent: u32,
    /// While batch is cut, it runs on as few whole cores as it needs.
    pub confine: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            disabled: false,
            stall_milli: 100,
            floor: None,
            burst_percent: 0,
            confine: false,
        }
    }
}

impl Guard {
    /// The kernel refuses quotas under 1 ms; in a period of 100 ms that is 10 milli-cores.
    pub const LEAST_FLOOR: i64 = 10;

    /// The floor on a node of this many milli-cores.
    pub fn floor_on(&self, capacity: i64) -> i64 {
        self.floor
            .unwrap_or(capacity / 20)
            .clamp(Self::LEAST_FLOOR, capacity.max(Self::LEAST_FLOOR))
    }
}
