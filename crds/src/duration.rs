//! Durations as Kubernetes spells them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration in Go's notation: `90s`, `1h30m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Duration(pub String);
