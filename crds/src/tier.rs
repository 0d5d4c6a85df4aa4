//! The tiers of capacity.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The promise behind a unit of capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Firm, never reclaimed.
    #[default]
    Prod,
    /// From prod's requests that a forecast says stay unused; rarely taken back, with notice.
    Mid,
    /// What prod and mid leave idle right now; taken back at once.
    Batch,
}

impl Tier {
    /// The name that people write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prod => "prod",
            Self::Mid => "mid",
            Self::Batch => "batch",
        }
    }
}
