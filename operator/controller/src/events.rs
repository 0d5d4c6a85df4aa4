//! Events for people: a bounded queue of its own behind the bindings. What does not fit is dropped and counted.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use http::Request;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::Client;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics::Metrics;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// `v1`, `duosuan.io/v1alpha1` or that of a pod group.
    pub api_version: Cow<'static, str>,
    /// Kind.
    pub kind: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub regarding: Regarding,
    /// A warning, or normal.
    pub warning: bool,
    /// `Scheduled`, `FailedScheduling`, `Reclaimed`...
    pub reason: &'static str,
    /// `Binding`, `Scheduling`, `Evicting`.
    pub action: &'static str,
    /// The sentence.
    pub note: String,
}

/// Events that wait to be written, at most.
const QUEUE: usize = 10_000;
/// Requests in flight at most, while nothing is being bound.
const CONCURRENCY: usize = 8;
/// An object gets the same words, but for their numbers, at most so often, unless it is about being bound or evicted.
const QUIET: Duration = Duration::from_secs(30);
/// Remembered pairs of object and words; beyond that the old ones are forgotten.
const REMEMBERED: usize = 10_000;
/// Longest note that the API server accepts.
const LONGEST_NOTE: usize = 1024;
/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Takes events.
#[derive(Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    metrics: Metrics,
    /// What was said lately of which object: its UID, and its words without their numbers.
    said: HashMap<(String, u64), Instant>,
}

impl Recorder {
    /// A recorder, and what it takes.
    #[cfg(test)]
    pub(crate) fn with_notes() -> (Self, mpsc::Receiver<Note>) {
        let (queue, notes) = mpsc::channel(1000);
        let (metrics, said) = (Metrics::new(), HashMap::new());
        (Self { queue, metrics, said }, notes)
    }

    /// Takes an event, or drops it if there are too many, or if this object said the same only just now.
    pub fn record(&mut self, note: Note) {
        if note.reason == "FailedScheduling" && self.said_lately(&note) {
            return;
        }
        if self.queue.try_send(note).is_err() {
            self.metrics.events_dropped.inc();
        }
    }

    fn said_lately(&mut self, note: &Note) -> bool {
        let now = Instant::now();
        let mut words = DefaultHasher::new();
        // Another number is no news; another reason is.
        note.note
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .for_each(|c| c.hash(&mut words));
        let key = (note.regarding.uid.clone(), words.finish());
        if self.said.get(&key).is_some_and(|at| now.duration_since(*at) < QUIET) {
            return true;
        }
        if self.said.len() >= REMEMBERED {
            self.said.retain(|_, at| now.duration_since(*at) < QUIET);
        }
        if self.said.len() < REMEMBERED {
            self.said.insert(key, now);
        }
        false
    }
}

/// A recorder, and the task that writes what it takes. While `binding` says that bindings are under way, events take
/// one request at a time.
pub fn start(
    client: Client,
    controller: String,
    metrics: Metrics,
    binding: watch::Receiver<bool>,
    end: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send) {
    let (sender, notes) = mpsc::channel(QUEUE);
    let recorder = Recorder {
        queue: sender,
        metrics: metrics.clone(),
        said: HashMap::new(),
    };
    (recorder, write_all(client, controller, metrics, notes, binding, end))
}

async fn write_all(
    client: Client,
    controller: String,
    metrics: Metrics,
    mut notes: mpsc::Receiver<Note>,
    mut binding: watch::Receiver<bool>,
    end: CancellationToken,
) {
    let mut flying: FuturesUnordered<_> = FuturesUnordered::new();
    let mut sequence: u64 = 0;
    loop {
        let room = if *binding.borrow_and_update() { 1 } else { CONCURRENCY };
        tokio::select! {
            () = end.cancelled() => return,
            Some(written) = flying.next(), if !flying.is_empty() => {
                let written: bool = written;
                if !written {
                    metrics.events_dropped.inc();
                }
            }
            changed = binding.changed() => if changed.is_err() { return },
            note = notes.recv(), if flying.len() < room => match note {
                Some(note) => {
                    sequence = sequence.wrapping_add(1);
                    flying.push(write(client.clone(), body(&note, &controller, sequence, Timestamp::now()), note.regarding.namespace));
                }
                None => return,
            },
        }
    }
}

/// Writes one event, once: it is not worth a second try.
async fn write(client: Client, body: Vec<u8>, namespace: String) -> bool {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let Ok(request) = Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
    else {
        return false;
    };
    match tokio::time::timeout(TIMEOUT, client.request_text(request)).await {
        Ok(Ok(_)) => true,
        // The namespace is being ended, or already gone: nobody is left to read it.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {
            debug!(%status, "an event was refused");
            true
        }
        Ok(Err(error)) => {
            debug!(%error, "an event was not written");
            false
        }
        Err(_) => false,
    }
}

fn body(note: &Note, controller: &str, sequence: u64, now: Timestamp) -> Vec<u8> {
    let regarding = &note.regarding;
    let mut text = note.note.as_str();
    if text.len() > LONGEST_NOTE {
        let end = (0..=LONGEST_NOTE)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text = text.get(..end).unwrap_or_default();
    }
    // As client-go names events: unique by time, and by number within it.
    let name = format!("{}.{:x}{:x}", regarding.name, now.as_nanosecond(), sequence);
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": regarding.namespace},
        "eventTime": MicroTime(now),
        "reportingController": controller,
        "reportingInstance": controller,
        "action": note.action,
        "reason": note.reason,
        "type": if note.warning { "Warning" } else { "Normal" },
        "note": text,
        "regarding": {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
        },
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn note(reason: &'static str, uid: &str, text: &str) -> Note {
        let regarding = Regarding {
            api_version: "v1".into(),
            kind: "Pod",
            namespace: "ns".into(),
            name: "p".into(),
            uid: uid.into(),
        };
        Note {
            regarding,
            warning: true,
            reason,
            action: "Scheduling",
            note: text.into(),
        }
    }

    #[test]
    fn an_object_that_keeps_failing_does_not_flood() {
        let (queue, mut notes) = mpsc::channel(10);
        let mut recorder = Recorder {
            queue,
            metrics: Metrics::new(),
            said: HashMap::new(),
        };
        for uid in ["a", "a", "b", "a"] {
            recorder.record(note("FailedScheduling", uid, "why"));
        }
        recorder.record(note("Scheduled", "a", "there"));
        drop(recorder);
        let mut written = Vec::new();
        while let Ok(note) = notes.try_recv() {
            written.push((note.reason, note.regarding.uid));
        }
        assert_eq!(
            written,
            [
                ("FailedScheduling", "a".into()),
                ("FailedScheduling", "b".into()),
                ("Scheduled", "a".into())
            ]
        );
    }

    #[test]
    fn another_reason_is_told_at_once_and_another_number_is_not() {
        let (queue, mut notes) = mpsc::channel(10);
        let mut recorder = Recorder {
            queue,
            metrics: Metrics::new(),
            said: HashMap::new(),
        };
        for words in ["has 0 of 4 pods", "has 3 of 4 pods", "0/10 nodes are available"] {
            recorder.record(note("FailedScheduling", "a", words));
        }
        drop(recorder);
        let written: Vec<String> = std::iter::from_fn(|| notes.try_recv().ok()).map(|n| n.note).collect();
        assert_eq!(written, ["has 0 of 4 pods", "0/10 nodes are available"]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (queue, _notes) = mpsc::channel(1);
        let mut recorder = Recorder {
            queue,
            metrics: Metrics::new(),
            said: HashMap::new(),
        };
        for uid in ["a", "b", "c"] {
            recorder.record(note("Scheduled", uid, "there"));
        }
        assert_eq!(recorder.metrics.events_dropped.get(), 2);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let body = body(
            &note("FailedScheduling", "a", &"多".repeat(1000)),
            "duosuan",
            1,
            Timestamp::UNIX_EPOCH,
        );
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(event.pointer("/note").unwrap().as_str().unwrap().len(), 1023);
    }
}
