//! Whether all pods that are to go for one claim may go. To evict one after the other would tell so too late: those that
//! went before the first that a disruption budget keeps would have gone for nothing.
//!
//! The API server is asked to evict each without doing it. It answers as if each were the only one; so what several of
//! them take from the same budget is counted here, from the status of the budgets.

use std::collections::BTreeMap;

use duosuan_scheduler::{event::Term, labels_match};
use futures::{StreamExt, stream};
use kube::{Api, api::ListParams};

use super::{Binder, Eviction, PodName, Unanswered};
use crate::{
    failure::Failure,
    lean::{self, Object, Texts},
    translate::relations,
};

/// Requests in flight for one question.
const AT_ONCE: usize = 16;

/// Pods that would not be evicted, and why.
type Kept = Vec<(PodName, String)>;

impl Binder {
    /// Which of some pods would not be evicted if all were to be, and why. If that cannot be found out of one, it would not.
    pub(super) async fn ask_to_evict(&self, evictions: &[Eviction]) -> Kept {
        let questions: Vec<_> = evictions.iter().map(|eviction| self.ask_one(eviction)).collect();
        let answers: Vec<_> = stream::iter(questions).buffered(AT_ONCE).collect().await;
        let mut kept: Kept = answers.into_iter().flatten().collect();
        if !kept.is_empty() {
            return kept;
        }
        let mut by_namespace: BTreeMap<String, Vec<&Eviction>> = BTreeMap::new();
        for eviction in evictions {
            let namespace = eviction.pod.namespace.clone();
            by_namespace.entry(namespace).or_default().push(eviction);
        }
        // Of one alone the API server has said all.
        by_namespace.retain(|_, all| all.len() > 1);
        for (namespace, all) in by_namespace {
            kept.extend(self.over_budgets(&namespace, &all).await);
        }
        kept
    }

    async fn ask_one(&self, eviction: &Eviction) -> Option<(PodName, String)> {
        let (pod, body) = (&eviction.pod, eviction.body());
        let answer = self
            .post(pod, "eviction?dryRun=All", &body, &Unanswered::default())
            .await;
        let (result, message) = match answer {
            // If somebody changed it at the same moment, the eviction itself says what came of that.
            Ok(()) | Err(Failure::Gone | Failure::Conflict(_)) => return None,
            Err(Failure::Budget(message)) => ("budget", message),
            Err(Failure::Refused(message)) => ("refused", message),
            Err(other) => ("failed", other.message()),
        };
        self.count(eviction, result);
        Some((pod.clone(), message))
    }

    /// Those of some pods of a namespace that are one too many for a budget.
    async fn over_budgets(&self, namespace: &str, all: &[&Eviction]) -> Kept {
        let of_first = |message: String| all.iter().take(1).map(|e| (e.pod.clone(), message.clone())).collect();
        let budgets = match self.budgets(namespace).await {
            Ok(budgets) if budgets.is_empty() => return Kept::new(),
            Ok(budgets) => budgets,
            Err(failure) => return of_first(format!("disruption budgets cannot be read: {}", failure.message())),
        };
        let questions: Vec<_> = all.iter().map(|eviction| self.get(&eviction.pod)).collect();
        let pods: Vec<_> = stream::iter(questions).buffered(AT_ONCE).collect().await;
        let mut taken: BTreeMap<&str, i64> = BTreeMap::new();
        let mut kept = Kept::new();
        for (eviction, found) in all.iter().zip(&pods) {
            let pod = match found {
                Ok(pod) if pod.metadata.uid.as_deref() == Some(&eviction.pod.uid) => pod,
                Ok(_) | Err(Failure::Gone) => continue,
                Err(failure) => {
                    kept.push((eviction.pod.clone(), failure.clone().message()));
                    continue;
                }
            };
            for budget in budgets.iter().filter(|budget| budget.counts(pod)) {
                let taken = taken.entry(&budget.name).or_default();
                *taken += 1;
                if *taken > budget.allowed {
                    let message = format!(
                        "the disruption budget {} lets {} of the {} pods go that are to go together",
                        budget.name,
                        budget.allowed,
                        all.len()
                    );
                    self.count(eviction, "budget");
                    kept.push((eviction.pod.clone(), message));
                    break;
                }
            }
        }
        kept
    }

    async fn budgets(&self, namespace: &str) -> Result<Vec<Budget>, Failure> {
        let api: Api<Object<lean::DisruptionBudget>> = Api::namespaced_with(self.client.clone(), namespace, &());
        let all = ListParams::default();
        let list = self.retry.run(|| api.list(&all)).await?;
        Ok(list.items.into_iter().filter_map(Budget::read).collect())
    }
}

/// A disruption budget of a namespace.
struct Budget {
    name: String,
    selector: Term,
    /// Pods that may go now.
    allowed: i64,
}

impl Budget {
    /// `None` if it is for no pod. One whose selector cannot be understood is kept by the API server, which is asked too.
    fn read(object: Object<lean::DisruptionBudget>) -> Option<Budget> {
        Some(Budget {
            name: object.metadata.name.unwrap_or_default(),
            selector: relations::selector(object.spec.selector.as_ref(), "spec.selector")
                .ok()
                .flatten()?,
            allowed: object.status.disruptions_allowed,
        })
    }

    /// True if a pod that goes takes one from the budget: one that has ended, has not started, goes already or is not
    /// ready goes beside it, if the API server lets it go.
    fn counts(&self, pod: &Object<lean::Pod>) -> bool {
        let none = Texts::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        let status = &pod.status;
        let ready = status
            .conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        let over = matches!(status.phase.as_deref(), Some("Pending" | "Succeeded" | "Failed"));
        let is_for = labels_match(&self.selector, |key| labels.get(key).map(String::as_str));
        is_for && ready && !over && pod.metadata.deletion_timestamp.is_none()
    }
}

#[cfg(test)]
mod tests;
