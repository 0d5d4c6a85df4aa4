//! An API server that follows a script: each request has its answers, in turn. A request that the script does not have
//! fails the test, and so does an answer that nobody asked for.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Code and body.
    Is(u16, Value),
    /// None, ever.
    Hangs,
}

impl Answer {
    /// All went well.
    pub(crate) fn ok() -> Self {
        Self::Is(201, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    /// A failure.
    pub(crate) fn fails(code: u16, message: &str) -> Self {
        Self::Is(
            code,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "R"}),
        )
    }

    /// A disruption budget forbids it.
    pub(crate) fn budget() -> Self {
        let details = json!({"causes": [{"reason": "DisruptionBudget", "message": "m"}]});
        Self::Is(
            429,
            json!({"kind": "Status", "status": "Failure", "code": 429, "message": "budget", "reason": "TooManyRequests", "details": details}),
        )
    }
}

#[derive(Debug, Default)]
struct State {
    answers: BTreeMap<String, VecDeque<Answer>>,
    unexpected: Vec<String>,
    bodies: Vec<(String, Value)>,
    queries: Vec<(String, String)>,
}

/// A script that is being played.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

impl Script {
    /// A request, as `POST /path`, gets one more answer.
    pub(crate) fn on(self, request: &str, answer: Answer) -> Self {
        self.0
            .lock()
            .unwrap()
            .answers
            .entry(request.to_owned())
            .or_default()
            .push_back(answer);
        self
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        let state = self.0.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = state.clone();
            async move {
                let key = format!("{} {}", request.method(), request.uri().path());
                let query = request.uri().query().unwrap_or_default().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let answer = {
                    let mut state = state.lock().unwrap();
                    state.queries.push((key.clone(), query));
                    state
                        .bodies
                        .push((key.clone(), serde_json::from_slice(&body).unwrap_or_default()));
                    let answer = state.answers.get_mut(&key).and_then(VecDeque::pop_front);
                    if answer.is_none() {
                        state.unexpected.push(key.clone());
                    }
                    answer
                };
                Ok::<_, Infallible>(match answer {
                    Some(Answer::Is(code, body)) => Response::builder()
                        .status(code)
                        .body(Body::from(body.to_string().into_bytes()))
                        .unwrap(),
                    Some(Answer::Hangs) => std::future::pending().await,
                    None => Response::builder()
                        .status(418)
                        .body(Body::from(b"not in the script".to_vec()))
                        .unwrap(),
                })
            }
        });
        Client::new(service, "default")
    }

    /// Bodies of the requests of one kind so far.
    pub(crate) fn bodies(&self, request: &str) -> Vec<Value> {
        self.0
            .lock()
            .unwrap()
            .bodies
            .iter()
            .filter(|(key, _)| key == request)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// Query strings of the requests of one kind so far.
    pub(crate) fn queries(&self, request: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let of_it = state.queries.iter().filter(|(key, _)| key == request);
        of_it.map(|(_, query)| query.clone()).collect()
    }

    /// The script must have been played to its end.
    pub(crate) fn played(&self) {
        let state = self.0.lock().unwrap();
        assert_eq!(
            state.unexpected,
            Vec::<String>::new(),
            "requests that the script does not have"
        );
        let left: Vec<_> = state
            .answers
            .iter()
            .filter(|(_, answers)| !answers.is_empty())
            .collect();
        assert!(left.is_empty(), "requests that were not made: {left:?}");
    }
}
