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

/// Whether a pod would be evicted by itself.
enum Answer {
    Goes,
    /// It would not, and why.
    Stays(PodName, String),
    /// Nobody knows, and why.
    Unknown(PodName, String),
}

/// Pods that would not be evicted, and why.
type Kept = Vec<(PodName, String)>;

impl Binder {
    /// Which of some pods would not be evicted if all were to be, and why; and whether a budget keeps them that would never
    /// let all go together. If it cannot be found out of one, it would not be evicted.
    pub(super) async fn ask_to_evict(&self, evictions: &[Eviction]) -> (Kept, bool) {
        let questions: Vec<_> = evictions.iter().map(|eviction| self.ask_one(eviction)).collect();
        let mut answers = std::pin::pin!(stream::iter(questions).buffered(AT_ONCE));
        let mut kept = Kept::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Answer::Goes => {}
                Answer::Stays(pod, message) => kept.push((pod, message)),
                // A server that does not answer would be waited for by all of them.
                Answer::Unknown(pod, message) => return (vec![(pod, message)], false),
            }
        }
        if !kept.is_empty() {
            return (kept, false);
        }
        let mut by_namespace: BTreeMap<String, Vec<&Eviction>> = BTreeMap::new();
        for eviction in evictions {
            let namespace = eviction.pod.namespace.clone();
            by_namespace.entry(namespace).or_default().push(eviction);
        }
        // Of one alone the API server has said all.
        by_namespace.retain(|_, all| all.len() > 1);
        let mut one_by_one = true;
        for (namespace, all) in by_namespace {
            let (more, never_together) = self.over_budgets(&namespace, &all).await;
            one_by_one &= more.is_empty() || never_together;
            kept.extend(more);
        }
        let one_by_one = one_by_one && !kept.is_empty();
        (kept, one_by_one)
    }

    async fn ask_one(&self, eviction: &Eviction) -> Answer {
        let (pod, body) = (&eviction.pod, eviction.body());
        let answer = self
            .post(pod, "eviction?dryRun=All", &body, &Unanswered::default())
            .await;
        let (result, message) = match answer {
            // If somebody changed it at the same moment, the eviction itself says what came of that.
            Ok(()) | Err(Failure::Gone | Failure::Conflict(_)) => return Answer::Goes,
            Err(Failure::Budget(message)) => ("budget", message),
            Err(Failure::Refused(message)) => ("refused", message),
            Err(other) => {
                self.count(eviction, "failed");
                return Answer::Unknown(pod.clone(), other.message());
            }
        };
        self.count(eviction, result);
        Answer::Stays(pod.clone(), message)
    }

    /// Those of some pods of a namespace that are too many for a budget, and whether each such budget would never let all of
    /// its pods go together. Of one that would, all its pods are named: who is to go together waits for it together.
    async fn over_budgets(&self, namespace: &str, all: &[&Eviction]) -> (Kept, bool) {
        let of_all = |message: &str| {
            let keep = |eviction: &&Eviction| {
                self.count(eviction, "failed");
                (eviction.pod.clone(), message.to_owned())
            };
            (all.iter().map(keep).collect(), false)
        };
        let budgets = match self.budgets(namespace).await {
            Ok(budgets) if budgets.is_empty() => return (Kept::new(), false),
            Ok(budgets) => budgets,
            Err(failure) => return of_all(&format!("disruption budgets cannot be read: {}", failure.message())),
        };
        let questions: Vec<_> = all.iter().map(|eviction| self.get(&eviction.pod)).collect();
        let pods: Vec<_> = stream::iter(questions).buffered(AT_ONCE).collect().await;
        let mut seen = Vec::new();
        for (eviction, found) in all.iter().zip(pods) {
            match found {
                Ok(pod) if pod.metadata.uid.as_deref() == Some(&eviction.pod.uid) => seen.push((eviction, pod)),
                Ok(_) | Err(Failure::Gone) => {}
                Err(failure) => return of_all(&format!("{} cannot be read: {}", eviction.pod.name, failure.message())),
            }
        }
        let mut kept: BTreeMap<&str, (&Eviction, String)> = BTreeMap::new();
        let mut never_together = true;
        for budget in &budgets {
            let counted: Vec<_> = seen.iter().filter(|(_, pod)| budget.counts(pod)).collect();
            let count = i64::try_from(counted.len()).unwrap_or(i64::MAX);
            if count <= budget.allowed {
                continue;
            }
            let message = format!(
                "the disruption budget {} lets {} of the {count} pods go that are to go together",
                budget.name, budget.allowed
            );
            let never = count > budget.most;
            never_together &= never;
            let may_go = if never {
                usize::try_from(budget.allowed).unwrap_or(0)
            } else {
                0
            };
            for (eviction, _) in counted.into_iter().skip(may_go) {
                kept.entry(&eviction.pod.uid).or_insert((eviction, message.clone()));
            }
        }
        let tell = |(eviction, message): (&Eviction, String)| {
            self.count(eviction, "budget");
            (eviction.pod.clone(), message)
        };
        (kept.into_values().map(tell).collect(), never_together)
    }

    async fn budgets(&self, namespace: &str) -> Result<Vec<Budget>, Failure> {
        let api: Api<Object<lean::DisruptionBudget>> = Api::namespaced_with(self.client.clone(), namespace, &None);
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
    /// Pods that may go at most, if all are well.
    most: i64,
    /// A pod that is not ready goes beside it.
    spares_unready: bool,
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
            most: (object.status.expected_pods - object.status.desired_healthy).max(0),
            // As the API server decides: where nobody has to be ready, it is counted unless the budget says otherwise.
            spares_unready: object.status.desired_healthy > 0
                || object.spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow"),
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
        is_for && (ready || !self.spares_unready) && !over && pod.metadata.deletion_timestamp.is_none()
    }
}

#[cfg(test)]
mod tests;
