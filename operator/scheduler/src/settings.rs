//! How a cluster is scheduled, as far as none of its objects says it.

use serde::{Deserialize, Serialize};

use crate::score::Policy;

/// Milliseconds after which seats are held for a claim that waits, unless something else is set: 10 minutes. Most of what
/// is short is over by then, so that a hold is seldom needed.
pub(crate) const HOLD_AFTER: i64 = 10 * 60_000;

/// What a core is told once, before anything else. A record has it, so that a replay decides by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// How places are valued.
    pub policy: Policy,
    /// Milliseconds that the first claim of a queue waits, where nobody knows when those who run end, before seats are held
    /// for it; `None`: none ever are. Before that, others are placed past it; from then on, what it asks for may stand idle.
    pub hold_after: Option<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            policy: Policy::default(),
            hold_after: Some(HOLD_AFTER),
        }
    }
}
