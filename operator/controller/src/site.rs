//! What no object says of a cluster, and its operator is told: which pods are its own, what nodes are labelled with, and how
//! it decides. Whoever says what it would do has to be told the same.

use std::{str::FromStr, time::Duration};

use clap::Args;
use duosuan_crds::{LABEL_BLOCK, LABEL_NVLINK, LABEL_RACK, LABEL_ZONE, SCHEDULER_NAME};
use duosuan_scheduler::Settings;

use crate::{
    translate::{
        node::{DRIVER_MEMORY, LocationLabels},
        quantity,
    },
    watch::Fact,
};

/// What an operator is told of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// `spec.schedulerName` of the pods to place.
    pub scheduler_name: String,
    /// Labels that say where nodes stand.
    pub location_labels: LocationLabels,
    /// Bytes that the driver keeps of a GPU's memory, where a node's report does not say it.
    pub driver_memory: i64,
    /// How the core decides.
    pub settings: Settings,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            scheduler_name: SCHEDULER_NAME.to_owned(),
            location_labels: LocationLabels::default(),
            driver_memory: DRIVER_MEMORY,
            settings: Settings::default(),
        }
    }
}

impl Site {
    /// Adds to a fact what its object does not say.
    pub fn complete(&self, fact: &mut Fact) {
        match fact {
            Fact::Node(node) => node.location = self.location_labels.read(&node.labels),
            Fact::Report(_, report) => report.assume_driver_memory(self.driver_memory),
            _ => {}
        }
    }
}

/// The flags for that.
#[derive(Clone, Debug, Args)]
pub struct SiteArguments {
    /// Name in spec.schedulerName of the pods that Duosuan places
    #[arg(long, value_name = "NAME", default_value = SCHEDULER_NAME)]
    scheduler_name: String,
    /// Key of the node label that names a node's zone, for claims with a topology
    #[arg(long, value_name = "KEY", default_value = LABEL_ZONE)]
    zone_label: String,
    /// Key of the node label that names a node's block, the racks under one spine
    #[arg(long, value_name = "KEY", default_value = LABEL_BLOCK)]
    block_label: String,
    /// Key of the node label that names a node's rack
    #[arg(long, value_name = "KEY", default_value = LABEL_RACK)]
    rack_label: String,
    /// Key of the node label that names a node's NVLink domain, the servers of a rack whose GPUs are linked with each other
    #[arg(long, value_name = "KEY", default_value = LABEL_NVLINK)]
    nvlink_label: String,
    /// What the driver keeps of a GPU's memory, where the node's report does not say it: shares of the device get what is
    /// left of it, as whole devices do not
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi")]
    gpu_driver_memory: DriverMemory,
    /// How long the first claim of a queue waits, where nobody knows when those who run end, before seats are held for it, or
    /// never. Sooner, a gang waits less under a stream of small pods, and more stands idle until its last seat is free; what
    /// states an expected duration that ends in time is let past it in any case
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    hold_after: HoldAfter,
}

impl SiteArguments {
    /// What they say.
    #[must_use]
    pub fn site(&self) -> Site {
        let millis = |after: Duration| i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        Site {
            scheduler_name: self.scheduler_name.clone(),
            location_labels: LocationLabels {
                zone: self.zone_label.clone(),
                block: self.block_label.clone(),
                rack: self.rack_label.clone(),
                nvlink: self.nvlink_label.clone(),
            },
            driver_memory: self.gpu_driver_memory.0,
            settings: Settings {
                hold_after: self.hold_after.0.map(millis),
                ..Settings::default()
            },
        }
    }
}

/// After how long seats are held for what waits; `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HoldAfter(Option<Duration>);

impl FromStr for HoldAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let duration = duosuan_crds::Duration(text.to_owned()).parse();
        duration.map(|d| Self(Some(d))).map_err(|e| format!("{e}, or never"))
    }
}

/// What the driver keeps of a GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DriverMemory(i64);

impl FromStr for DriverMemory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = quantity::amount("memory", text).map_err(|e| format!("{e}; write it as 600Mi or 1Gi, or 0"))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::Parser;

    use super::*;
    use crate::options::Arguments;

    #[test]
    fn how_long_it_is_waited_before_seats_are_held_is_a_duration_or_never() {
        let hold_after = |arguments: &[&str]| {
            let arguments = Arguments::try_parse_from([&["duosuan-operator"], arguments].concat());
            arguments.map(|arguments| arguments.site.site().settings.hold_after)
        };
        assert_eq!(hold_after(&[]).unwrap(), Settings::default().hold_after);
        assert_eq!(hold_after(&["--hold-after", "1h30m"]).unwrap(), Some(5_400_000));
        assert_eq!(hold_after(&["--hold-after", "never"]).unwrap(), None);
        // At once, or never: who writes it says which.
        let error = hold_after(&["--hold-after", "0s"]).unwrap_err().to_string();
        assert!(
            error.contains("\"0s\" is zero") && error.contains("or never"),
            "{error}"
        );
    }

    #[test]
    fn what_a_driver_keeps_of_a_gpu_is_a_quantity_or_nothing() {
        let driver_memory = |arguments: &[&str]| {
            let arguments = Arguments::try_parse_from([&["duosuan-operator"], arguments].concat());
            arguments.map(|arguments| arguments.site.site().driver_memory)
        };
        assert_eq!(driver_memory(&[]).unwrap(), DRIVER_MEMORY);
        assert_eq!(driver_memory(&["--gpu-driver-memory", "600Mi"]).unwrap(), 600 << 20);
        assert_eq!(driver_memory(&["--gpu-driver-memory", "0"]).unwrap(), 0);
        for wrong in ["much", "-1Gi"] {
            let error = driver_memory(&[&format!("--gpu-driver-memory={wrong}")])
                .unwrap_err()
                .to_string();
            assert!(error.contains("600Mi"), "{error}");
        }
    }
}
