//! Evictions through the API server: of each order a dry run, so that nobody is warned in vain, a notice, the eviction and
//! an event; and what is known there of the gangs that may be hit.
//!
//! A pod has two seconds between the notice and SIGTERM, one of mid as long as the policy says, and then its grace. The notice is the annotation
//! `duosuan.io/eviction-notice`, which a pod reads as a file by the downward API. It is taken back where nobody is to be evicted
//! any more ([`Need`]), where the agent ends before it has asked, and by the next agent where this one had no time to.

mod gangs;
mod notice;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context;
use duosuan_policy::{
    Answer, Gang, Millis,
    eviction::{Eviction, EvictionView, Outcome},
};
use http::{Request, header::CONTENT_TYPE};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{agent::Agent, machine::Machine, metrics::Metrics};
use gangs::ask;
pub use notice::left_behind;
use notice::{Leftovers, Need, Needs, note};

/// Label of an Eviction: the node of the agent that asks for it. The rules of the chart demand it of agents, and look at the
/// pods of those alone.
pub const LABEL_EVICTING_NODE: &str = "duosuan.io/evicting-node";
/// Time between the notice and the eviction. The kubelet writes a changed annotation into the pod's file within a second or so.
const NOTICE: Duration = Duration::from_secs(2);
/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two questions about gangs.
const GANGS: Millis = 30_000;
/// Longest note of an event that the API server accepts.
const LONGEST_NOTE: usize = 1024;

/// What came of something that was asked of the API server.
#[derive(Debug)]
pub enum Done {
    /// An order.
    Order {
        /// What was ordered.
        eviction: Box<Eviction>,
        /// What became of it.
        answer: Answer,
    },
    /// What is known of gangs, by `namespace/claim`.
    Gangs(BTreeMap<String, Gang>),
}

impl Done {
    /// Tells the node's agent, and counts what became of an order.
    pub fn tell<M: Machine>(self, agent: &mut Agent<M>, node: &str, metrics: Option<&Metrics>, now: Millis) {
        match self {
            Self::Order { eviction, answer } => {
                if let Some(metrics) = metrics {
                    metrics.evicted(node, &eviction, answer);
                }
                agent.evicted(&eviction.uid, answer, now);
            }
            Self::Gangs(gangs) => agent.set_gangs(gangs),
        }
    }
}

/// What one node's agent has asked of the API server.
pub struct Evictions {
    client: Client,
    node: String,
    tasks: JoinSet<Done>,
    needs: Needs,
    leftovers: Leftovers,
    asked: Option<Millis>,
}

impl std::fmt::Debug for Evictions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evictions")
            .field("node", &self.node)
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl Evictions {
    /// Nothing asked for yet.
    pub fn new(client: Client, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            tasks: JoinSet::new(),
            needs: Needs::default(),
            leftovers: Leftovers::default(),
            asked: None,
        }
    }

    /// Starts what a look ordered, and ends what is under notice where `allowed` is false: by its policy or its own flag the
    /// agent evicts nobody. Asks for the gangs where one of them may soon be hit.
    pub fn follow(
        &mut self,
        view: &EvictionView,
        allowed: bool,
        gangs: impl FnOnce() -> BTreeSet<String>,
        now: Millis,
    ) {
        self.needs.look(allowed, view.near, now);
        for order in view.orders() {
            self.leftovers.leave(&order.uid);
            let (client, node, order) = (self.client.clone(), self.node.clone(), order.clone());
            let need = self.needs.of(&order);
            self.tasks.spawn(async move {
                let answer = evict(&client, &node, &order, &need).await;
                Done::Order {
                    eviction: Box::new(order),
                    answer,
                }
            });
        }
        if view.near && self.asked.is_none_or(|at| now.saturating_sub(at) >= GANGS) {
            self.asked = Some(now);
            let (client, names) = (self.client.clone(), gangs());
            if !names.is_empty() {
                self.tasks.spawn(async move { Done::Gangs(ask(&client, names).await) });
            }
        }
    }

    /// Takes back the notices that an agent before this one left on its pods, named by UID as `namespace/name`: whom it is
    /// about, this agent would have to order anew.
    pub fn take_back(&mut self, noticed: BTreeMap<String, String>) {
        self.leftovers.take_back(&self.client, noticed);
    }

    /// Ends what is under notice, takes the notices back, and waits until nothing is under way.
    pub async fn end(&mut self) {
        self.needs.end();
        while self.tasks.join_next().await.is_some() {}
    }

    /// What is done by now, if anything.
    pub fn try_done(&mut self) -> Option<Done> {
        self.tasks.try_join_next()?.ok()
    }

    /// Waits for the next that is done; for ever while nothing is under way.
    pub async fn done(&mut self) -> Done {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(done)) => return done,
                Some(Err(error)) => tracing::error!("an eviction ended without an answer: {error}"),
                None => std::future::pending().await,
            }
        }
    }
}

/// Evicts one pod. One whose processes were killed gets neither trial nor notice: nobody is left to read it. One that is gone
/// is as good as evicted, and nothing is said of it.
async fn evict(client: &Client, node: &str, order: &Eviction, need: &Need) -> Answer {
    let Some((namespace, name)) = order.name.split_once('/') else {
        return Answer::Failed;
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let alive = order.outcome != Outcome::Killed;
    if alive {
        match ask_to_evict(client, node, order, (namespace, name), true).await {
            Some(Answer::Evicted) => {}
            Some(other) => return other,
            None => return Answer::Evicted,
        }
        let notice = format!("{} {}: {}", Timestamp::now(), order.cause.as_str(), order.why);
        note(&pods, name, &order.uid, Some(&notice)).await;
        if let Err(why) = need.lasts(NOTICE.max(Duration::from_millis(order.notice))).await {
            tracing::info!(pod = %order.name, "not evicted, its notice is taken back: {why}");
            note(&pods, name, &order.uid, None).await;
            return Answer::Withdrawn;
        }
    }
    let Some(answer) = ask_to_evict(client, node, order, (namespace, name), false).await else {
        return Answer::Evicted;
    };
    match answer {
        Answer::Evicted => {
            tracing::warn!(pod = %order.name, cause = order.cause.as_str(), "evicted: {}", order.why);
            if let Err(error) = tell(client, node, order, (namespace, name)).await {
                tracing::warn!(pod = %order.name, "no event tells of the eviction: {error:#}");
            }
        }
        Answer::Refused | Answer::Withdrawn | Answer::Failed if alive => {
            note(&pods, name, &order.uid, None).await;
        }
        Answer::Refused | Answer::Withdrawn | Answer::Failed => {}
    }
    answer
}

/// Asks for an eviction, or whether it would be granted; `None` if the pod is gone.
async fn ask_to_evict(
    client: &Client,
    node: &str,
    order: &Eviction,
    (namespace, name): (&str, &str),
    dry_run: bool,
) -> Option<Answer> {
    let body = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_EVICTING_NODE: node}},
        // Never its successor of the same name.
        "deleteOptions": {"preconditions": {"uid": order.uid}},
    });
    let query = if dry_run { "?dryRun=All" } else { "" };
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction{query}");
    let answer = match tokio::time::timeout(TIMEOUT, post(client, &path, &body)).await {
        Ok(Ok(())) => Answer::Evicted,
        Ok(Err(error)) => match error.downcast_ref::<kube::Error>() {
            // Gone, or another pod by now.
            Some(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return None,
            Some(kube::Error::Api(status)) if status.code == 429 => {
                tracing::info!(pod = %order.name, "not evicted: {}", status.message);
                Answer::Refused
            }
            _ => {
                tracing::warn!(pod = %order.name, "not evicted: {error:#}");
                Answer::Failed
            }
        },
        Err(_) => {
            tracing::warn!(pod = %order.name, "not evicted: the API server does not answer");
            Answer::Failed
        }
    };
    Some(answer)
}

/// An event on the pod, for its owner.
async fn tell(client: &Client, node: &str, order: &Eviction, (namespace, name): (&str, &str)) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let text = format!("{} on node {node}: {}", order.cause.as_str(), order.why);
    let body = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "eventTime": MicroTime(now),
        "reportingController": "duosuan.io/agent",
        "reportingInstance": node,
        "action": "Evicting",
        "reason": if order.outcome == Outcome::Killed { "Killed" } else { "Evicted" },
        "type": "Warning",
        "note": text.chars().take(LONGEST_NOTE / 4).collect::<String>(),
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": order.uid},
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    tokio::time::timeout(TIMEOUT, post(client, &path, &body))
        .await
        .context("no answer")?
}

async fn post(client: &Client, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    let request = Request::post(path)
        .header(CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(body)?)?;
    client.request_text(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::sync::{Arc, Mutex};

    use duosuan_policy::{Cause, LostWork, Tier};
    use http::Response;
    use kube::client::Body;

    use super::*;

    /// An API server that answers everything with this status, and what it was asked: method, path and body.
    fn server(status: u16) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let log = Arc::clone(&log);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let body = String::from_utf8_lossy(&body).into_owned();
                log.lock().unwrap().push(format!("{} {} {body}", head.method, head.uri));
                let answer = match status {
                    200 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}),
                    code => json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
                        "message": "no", "reason": "Some", "metadata": {}}),
                };
                let answer = Response::builder()
                    .status(status)
                    .body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, kube::Error>(answer.unwrap())
            }
        });
        (Client::new(service, "default"), asked)
    }

    fn order() -> Eviction {
        Eviction {
            at: 0,
            uid: "u-1".to_owned(),
            name: "ns/web".to_owned(),
            gang: None,
            tier: Tier::Batch,
            cause: Cause::Memory,
            notice: 0,
            why: "a test".to_owned(),
            lost: LostWork::default(),
            outcome: Outcome::Ordered,
        }
    }

    #[tokio::test]
    async fn of_a_pod_that_is_gone_its_successor_gets_neither_notice_nor_event() {
        for status in [404, 409] {
            let (client, asked) = server(status);
            assert_eq!(evict(&client, "n", &order(), &Need::default()).await, Answer::Evicted);
            let asked = asked.lock().unwrap();
            assert_eq!(asked.len(), 1, "{asked:?}");
            assert!(asked[0].starts_with("POST /api/v1/namespaces/ns/pods/web/eviction?dryRun=All"));
        }
    }

    #[tokio::test]
    async fn the_notice_is_written_to_this_pod_alone() {
        let (client, asked) = server(200);
        assert_eq!(evict(&client, "n", &order(), &Need::default()).await, Answer::Evicted);
        let asked = asked.lock().unwrap();
        let methods: Vec<&str> = asked.iter().filter_map(|a| a.split(' ').next()).collect();
        assert_eq!(methods, ["POST", "PATCH", "POST", "POST"]);
        assert!(asked[1].contains("\"uid\":\"u-1\""), "{}", asked[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_of_mid_has_the_notice_that_it_was_promised() {
        for (notice, least) in [(0, NOTICE), (60_000, Duration::from_secs(60))] {
            let (client, _) = server(200);
            let began = tokio::time::Instant::now();
            let order = Eviction { notice, ..order() };
            assert_eq!(evict(&client, "n", &order, &Need::default()).await, Answer::Evicted);
            assert!((least..least * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
    }

    fn of_mid(cause: Cause) -> Eviction {
        Eviction {
            tier: Tier::Mid,
            cause,
            notice: 60_000,
            ..order()
        }
    }

    /// What a look tells of whom it orders, and of whether anything is amiss.
    fn view(order: Option<Eviction>, near: bool) -> EvictionView {
        EvictionView {
            decided: order.into_iter().collect(),
            near,
            ..EvictionView::default()
        }
    }

    /// Follows an order of a second ago and then, each second until it is answered, looks that say this.
    async fn follow(order: Eviction, allowed: bool, near: bool) -> (Answer, Vec<String>, Millis) {
        let (client, asked) = server(200);
        let mut evictions = Evictions::new(client, "n");
        evictions.follow(&view(Some(order), true), true, BTreeSet::new, 0);
        for second in 1..120 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            evictions.follow(&view(None, near), allowed, BTreeSet::new, second * 1_000);
            if let Some(Done::Order { answer, .. }) = evictions.try_done() {
                let asked = asked.lock().unwrap().clone();
                return (answer, asked, second);
            }
        }
        unreachable!("never answered")
    }

    fn takes_the_notice_back(asked: &[String]) -> bool {
        let last = asked.last().unwrap();
        let written = |a: &String| a.starts_with("PATCH") && a.contains("eviction-notice");
        asked.iter().filter(|a| written(a)).count() == 2
            && last.starts_with("PATCH")
            && last.contains("\"duosuan.io/eviction-notice\":null")
            && !asked.iter().any(|a| a.contains("/eviction "))
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_lets_nobody_be_evicted_any_more_ends_what_is_under_notice() {
        let (answer, asked, second) = follow(of_mid(Cause::Memory), false, true).await;
        assert_eq!(answer, Answer::Withdrawn);
        assert!(takes_the_notice_back(&asked), "{asked:?}");
        assert!(second <= 3, "at once, and not at the end of the notice: {second}");
        let (answer, asked, _) = follow(order(), false, true).await;
        assert_eq!(answer, Answer::Withdrawn, "batch too");
        assert!(takes_the_notice_back(&asked), "{asked:?}");
        let killed = Eviction {
            outcome: Outcome::Killed,
            ..order()
        };
        let (answer, ..) = follow(killed, false, true).await;
        assert_eq!(answer, Answer::Evicted, "nothing is left of it to be spared");
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_mid_stays_where_nothing_is_amiss_any_more_at_the_end_of_its_notice() {
        for (order, near, stays) in [
            (of_mid(Cause::Memory), false, true),
            (of_mid(Cause::CpuStall), false, true),
            (of_mid(Cause::Memory), true, false),
            // Of a stall for memory no look says that it is over.
            (of_mid(Cause::MemoryStall), false, false),
            // What batch holds is taken back at once.
            (order(), false, false),
        ] {
            let (answer, asked, _) = follow(order.clone(), true, near).await;
            assert_eq!(answer == Answer::Withdrawn, stays, "{order:?} {near}");
            assert_eq!(takes_the_notice_back(&asked), stays, "{asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_ends_takes_its_notices_back() {
        let (client, asked) = server(200);
        let mut evictions = Evictions::new(client, "n");
        evictions.follow(&view(Some(of_mid(Cause::Memory)), true), true, BTreeSet::new, 0);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let began = tokio::time::Instant::now();
        evictions.end().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(takes_the_notice_back(&asked.lock().unwrap()), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_that_an_agent_before_left_is_taken_back_unless_its_pod_is_ordered_anew() {
        let left = || BTreeMap::from([("u-1".to_owned(), "ns/web".to_owned())]);
        for (status, times) in [(200, 1), (404, 1), (409, 1), (500, notice::TRIES)] {
            let (client, asked) = server(status);
            let mut evictions = Evictions::new(client, "n");
            evictions.take_back(left());
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            let asked = asked.lock().unwrap();
            assert_eq!(asked.len(), times, "{status}: {asked:?}");
            assert!(asked[0].contains("\"duosuan.io/eviction-notice\":null"), "{asked:?}");
            assert!(asked[0].contains("\"uid\":\"u-1\""), "{asked:?}");
        }
        let (client, asked) = server(500);
        let mut evictions = Evictions::new(client, "n");
        evictions.take_back(left());
        tokio::time::sleep(Duration::from_secs(1)).await;
        evictions.follow(&view(Some(order()), true), true, BTreeSet::new, 1_000);
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let asked = asked.lock().unwrap();
        let patched = asked.iter().filter(|a| a.starts_with("PATCH")).count();
        assert_eq!(patched, 1, "{asked:?}");
    }
}
