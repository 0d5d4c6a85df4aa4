//! What an online service promises of its latency.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// A latency that a service promises for a part of its requests, and the histogram that shows whether it keeps it.
///
/// A pod of tier prod or mid states it in the annotation `duosuan.io/latency-objective`, as JSON:
/// `{"histogram": "http_request_duration_seconds", "threshold": "100ms", "port": 8080}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyObjective {
    /// Name of a Prometheus histogram in seconds, without `_bucket`. It needs a bucket that ends at the threshold, or one
    /// above it: then its requests are taken to be spread evenly.
    #[schemars(length(min = 1, max = 253))]
    pub histogram: String,
    /// Labels that a series of the histogram must have to count. Absent: all of them count together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub labels: BTreeMap<String, String>,
    /// Part of the requests that the promise is about, in thousandths, 500 to 999: 990 is the 99th percentile. Default: 990.
    /// A service that is called so rarely that not three requests of a minute may be slower is not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 500, max = 999))]
    pub quantile_milli: Option<u32>,
    /// Latency that these requests do not exceed.
    pub threshold: Duration,
    /// Port at which the pod serves its metrics, by plain HTTP.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Path of its metrics. Default: `/metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^/"))]
    pub path: Option<String>,
}
