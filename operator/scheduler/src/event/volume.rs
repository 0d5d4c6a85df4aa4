//! Volumes that several pods use.

use serde::{Deserialize, Serialize};

/// A volume that is attached to a node as long as a pod there uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SharedVolume {
    /// What tells it from all others.
    pub name: String,
    /// The resource of which a node gives it one.
    pub resource: String,
}
