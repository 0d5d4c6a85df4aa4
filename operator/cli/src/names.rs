//! What things are called outside the core.

use anyhow::anyhow;
use duosuan_planner::facts::Facts;
use duosuan_scheduler::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

/// Names by UID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a>(pub(crate) &'a Facts);

impl Names<'_> {
    /// Namespace and name of a pod.
    pub(crate) fn pod(&self, uid: &str) -> String {
        let named = self
            .0
            .pods
            .get(uid)
            .map(|pod| format!("{}/{}", pod.namespace, pod.name));
        named.unwrap_or_else(|| uid.to_owned())
    }

    /// What waits under a UID.
    pub(crate) fn subject(&self, uid: &str) -> Subject {
        match self.0.claims.get(uid) {
            Some(claim) => Subject::Claim(format!("{}/{}", claim.namespace, claim.name)),
            None => Subject::Pod(self.pod(uid)),
        }
    }
}

/// What waits, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// A claim.
    Claim(String),
    /// A pod.
    Pod(String),
}

impl Subject {
    /// Namespace and name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Subject::Claim(name) | Subject::Pod(name) => name,
        }
    }
}

/// A time as people and programs read it.
pub(crate) fn rfc3339(time: Time) -> String {
    Timestamp::from_millisecond(time.0).unwrap_or_default().to_string()
}

/// Namespace and name, of `NAMESPACE/NAME`, or of a name and the namespace that is given beside it.
///
/// # Errors
///
/// If the text is neither.
pub(crate) fn namespaced(text: &str, namespace: &str) -> anyhow::Result<(String, String)> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(anyhow!("{text:?} is neither NAME nor NAMESPACE/NAME"));
    }
    Ok((namespace.to_owned(), name.to_owned()))
}
