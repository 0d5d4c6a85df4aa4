//! Step 6: the sample queues and workloads.

use anyhow::Context;
use kube::Client;

use super::{
    apply::{Applier, documents},
    report::Reporter,
};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: demo }\n";

const SAMPLES: [(&str, &str); 6] = [
    ("namespace", NAMESPACE),
    ("1-queues.yaml", include_str!("../../samples/1-queues.yaml")),
    ("2-online.yaml", include_str!("../../samples/2-online.yaml")),
    ("3-training.yaml", include_str!("../../samples/3-training.yaml")),
    ("4-inference.yaml", include_str!("../../samples/4-inference.yaml")),
    ("5-batch.yaml", include_str!("../../samples/5-batch.yaml")),
];

/// What has to run in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Namespace of all that was submitted; what else is in the cluster is shown but not waited for.
    pub(crate) namespace: &'static str,
    pub(crate) pods: usize,
    pub(crate) claims: usize,
    /// Whether pods may stay pending: a recorded cluster asks for more than there is.
    pub(crate) all: bool,
}

/// Applies the samples.
pub(crate) async fn submit(client: &Client, reporter: &Reporter) -> anyhow::Result<Expected> {
    reporter.step("applying the sample queues and workloads");
    let mut applier = Applier::default();
    for (file, text) in SAMPLES {
        for object in documents(file, text)? {
            applier
                .apply(client, &object)
                .await
                .with_context(|| format!("sample {file}"))?;
        }
    }
    expected()
}

/// Counts what the samples ask for.
fn expected() -> anyhow::Result<Expected> {
    let mut expected = Expected {
        namespace: "demo",
        all: true,
        ..Expected::default()
    };
    for (file, text) in SAMPLES {
        for object in documents(file, text)? {
            let number = |pointer: &str| {
                object
                    .data
                    .pointer(pointer)
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(0)
            };
            let pods = number("/spec/replicas") + number("/spec/parallelism");
            expected.pods += usize::try_from(pods)?;
            expected.claims += usize::from(object.types.is_some_and(|types| types.kind == "CapacityClaim"));
        }
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_samples_are_read_and_counted() {
        let expected = expected().unwrap();
        assert_eq!((expected.pods, expected.claims), (6 + 4 + 2 + 8, 3));
    }
}
