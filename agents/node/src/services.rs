//! The services of the node that state a latency objective, and their histograms, read every two seconds.
//!
//! Each is read in a task of its own, within a second and up to a mebibyte, so that none holds up the loop or another.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use duosuan_crds::LatencyObjective;
use duosuan_policy::{Bucket, Histogram, Millis, Service, action::Slowest};
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{exposition, pods::PodInfo, status::Conditions};

/// Time between two readings of a service, milliseconds.
const EVERY: Millis = 2_000;
/// Time that a reading may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest answer, bytes.
const LONGEST: usize = 1 << 20;
/// So many are read at the same time.
const AT_ONCE: usize = 16;
/// So many of those that something is said of are named in a condition.
const NAMED: usize = 5;

/// Where a service's histogram is, and what it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    path: String,
    histogram: String,
    labels: BTreeMap<String, String>,
    quantile_milli: u32,
    /// Microseconds.
    threshold: u64,
}

impl Target {
    /// The target of an objective, at this address.
    ///
    /// # Errors
    ///
    /// The field that cannot be honoured, its value and what would be accepted.
    pub fn new(objective: &LatencyObjective, host: IpAddr) -> Result<Self, String> {
        let threshold = objective.threshold.parse().map_err(|e| format!("threshold: {e}"))?;
        let quantile_milli = objective.quantile_milli.unwrap_or(990);
        if !(500..=999).contains(&quantile_milli) {
            return Err(format!("quantileMilli is {quantile_milli}: give 500 to 999"));
        }
        if objective.histogram.is_empty() {
            return Err("histogram is empty: give the name of a Prometheus histogram in seconds".to_owned());
        }
        if objective.port == 0 {
            return Err("port is 0: give the port at which the metrics are served".to_owned());
        }
        let path = objective.path.clone().unwrap_or_else(|| "/metrics".to_owned());
        if !path.starts_with('/') || path.parse::<http::Uri>().is_err() {
            return Err(format!("path is {path:?}: give a path that begins with /"));
        }
        Ok(Self {
            address: SocketAddr::new(host, objective.port),
            path,
            histogram: objective.histogram.clone(),
            labels: objective.labels.clone(),
            quantile_milli,
            threshold: u64::try_from(threshold.as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// The target of an annotation's text.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str, host: IpAddr) -> Result<Self, String> {
        let objective = serde_json::from_str(text).map_err(|e| format!("it is no latency objective as JSON: {e}"))?;
        Self::new(&objective, host)
    }
}

/// A reading that came to an end.
#[derive(Debug)]
pub struct Done {
    service: String,
    target: Target,
    outcome: Result<Vec<Bucket>, String>,
}

#[derive(Debug)]
struct Known {
    target: Target,
    due: Millis,
    histogram: Option<Histogram>,
    problem: Option<String>,
}

/// The services of a node.
#[derive(Debug, Default)]
pub struct Services {
    /// Those outside pods.
    fixed: BTreeMap<String, Target>,
    known: BTreeMap<String, Known>,
    /// Objectives that cannot be honoured, by service.
    refused: BTreeMap<String, String>,
    running: JoinSet<Done>,
}

impl Services {
    /// Services outside pods, by name; more come with the pods.
    pub fn new(fixed: BTreeMap<String, Target>) -> Self {
        let mut services = Self {
            fixed,
            ..Self::default()
        };
        services.follow(&[]);
        services
    }

    /// Takes in the node's pods.
    pub fn follow(&mut self, pods: &[PodInfo]) {
        self.refused.clear();
        let mut targets: BTreeMap<&str, &Target> = self.fixed.iter().map(|(n, t)| (n.as_str(), t)).collect();
        for pod in pods {
            match &pod.latency {
                Some(Ok(target)) => drop(targets.insert(&pod.name, target)),
                Some(Err(problem)) => drop(self.refused.insert(pod.name.clone(), problem.clone())),
                None => {}
            }
        }
        self.known
            .retain(|name, known| targets.get(name.as_str()) == Some(&&known.target));
        for (name, target) in targets {
            self.known.entry(name.to_owned()).or_insert_with(|| Known {
                target: target.clone(),
                due: 0,
                histogram: None,
                problem: None,
            });
        }
    }

    /// Begins to read those that are due.
    pub fn read(&mut self, now: Millis) {
        let mut due: Vec<(Millis, &String, &mut Known)> = self
            .known
            .iter_mut()
            .filter(|(_, known)| known.due <= now)
            .map(|(name, known)| (known.due, name, known))
            .collect();
        // The one that has waited longest first.
        due.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        for (_, name, known) in due.into_iter().take(AT_ONCE.saturating_sub(self.running.len())) {
            // Longer than a reading may take: none is read twice at the same time.
            known.due = now.saturating_add(EVERY);
            let (service, target) = (name.clone(), known.target.clone());
            self.running.spawn(async move {
                let outcome = tokio::time::timeout(TIMEOUT, read(&target)).await;
                let outcome = outcome.unwrap_or_else(|_| Err(format!("no whole answer in {TIMEOUT:?}")));
                let place = format!("http://{}{}", target.address, target.path);
                let outcome = outcome.map_err(|problem| format!("{place}: {problem}"));
                Done {
                    service,
                    target,
                    outcome,
                }
            });
        }
    }

    /// The next reading that comes to an end; `None` while none is under way.
    pub async fn done(&mut self) -> Option<Done> {
        let done = self.running.join_next().await?;
        done.inspect_err(|error| tracing::error!("reading a service ended: {error}"))
            .ok()
    }

    /// Takes in a reading.
    pub fn take(&mut self, done: Done, now: Millis) {
        // Another pod of that name, or another promise, has come since.
        let Some(known) = self.known.get_mut(&done.service).filter(|k| k.target == done.target) else {
            return;
        };
        match done.outcome {
            Ok(buckets) => {
                let highest = buckets.iter().filter_map(|b| b.up_to).max().unwrap_or(0);
                known.problem = (highest < known.target.threshold).then(|| {
                    let (highest, threshold) = (highest / 1000, known.target.threshold / 1000);
                    format!("its highest bucket is {highest} ms, and {threshold} ms are promised: give it a higher one")
                });
                known.histogram = Some(Histogram { at: now, buckets });
            }
            Err(problem) => {
                if known.problem.as_ref() != Some(&problem) {
                    tracing::warn!(service = %done.service, "{problem}");
                }
                known.problem = Some(problem);
            }
        }
    }

    /// What is known of each.
    pub fn observed(&self) -> Vec<Service> {
        let service = |(name, known): (&String, &Known)| Service {
            name: name.clone(),
            quantile_milli: known.target.quantile_milli,
            threshold: known.target.threshold,
            histogram: known.histogram.clone(),
        };
        self.known.iter().map(service).collect()
    }

    /// Says whether every objective can be judged, and whether one is missed by its service itself, where there is one.
    pub fn judge(&self, conditions: &mut Conditions, own_misses: &[Slowest], now: Timestamp) {
        let unread = self
            .known
            .iter()
            .filter_map(|(name, k)| Some((name, k.problem.as_ref()?)));
        let problems: Vec<String> = self
            .refused
            .iter()
            .chain(unread)
            .map(|(name, problem)| format!("{name}: {problem}"))
            .collect();
        let all = self.known.len() + self.refused.len();
        if all == 0 {
            return;
        }
        let (reason, message) = if problems.is_empty() {
            let message = format!("{all} services state a latency objective, and all of them can be read");
            ("Read", message)
        } else {
            ("NotRead", first(problems.iter().cloned()))
        };
        conditions.set("LatencyKnown", problems.is_empty(), reason, message, now);
        let faults: Vec<String> = own_misses
            .iter()
            .map(|miss| format!("{}: {} of 1000 slow requests that may be", miss.service, miss.milli))
            .collect();
        let (reason, message) = if faults.is_empty() {
            let message = "no service is known to miss its latency objective with batch at its floor";
            ("NoOwnFault", message.to_owned())
        } else {
            let message = format!(
                "with batch at its floor, too, and batch answers only for what comes on top: {}",
                first(faults.iter().cloned())
            );
            ("OwnFault", message)
        };
        conditions.set("LatencyKept", faults.is_empty(), reason, message, now);
    }
}

/// The first of them, and how many more there are.
pub(crate) fn first(texts: impl ExactSizeIterator<Item = String>) -> String {
    let more = texts.len().saturating_sub(NAMED);
    let mut message = texts.take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        message.push_str(&format!("; and {more} more"));
    }
    message
}

async fn read(target: &Target) -> Result<Vec<Bucket>, String> {
    let text = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(target.address).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    // It ends with the exchange: the sender is dropped then.
    tokio::spawn(connection);
    let request = Request::get(&target.path)
        .header(header::HOST, target.address.to_string())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(text)?;
    if !response.status().is_success() {
        return Err(format!("the answer is {}", response.status()));
    }
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|e| format!("the answer cannot be read, {LONGEST} bytes at most: {e}"))?;
    let body = body.to_bytes();
    let body = std::str::from_utf8(&body).map_err(|e| format!("the answer is no text: {e}"))?;
    exposition::histogram(body, &target.histogram, &target.labels).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const GOOD: &str = "x_bucket{le=\"0.1\"} 5\nx_bucket{le=\"+Inf\"} 7\n";

    /// A service that gives everybody this answer, and its port.
    async fn serve(answer: String) -> u16 {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    // Says nothing, and does not hang up.
                    std::mem::forget(stream);
                }
            }
        });
        port
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn pod(name: &str, port: u16) -> PodInfo {
        let text = format!(r#"{{"histogram": "x", "threshold": "100ms", "port": {port}}}"#);
        PodInfo {
            name: name.to_owned(),
            latency: Some(Target::parse(&text, HOST)),
            ..PodInfo::default()
        }
    }

    async fn read_all(services: &mut Services, now: Millis) {
        services.read(now);
        while let Some(done) = services.done().await {
            services.take(done, now);
        }
    }

    /// Status and message of a condition.
    fn told(services: &Services, own_misses: &[Slowest], kind: &str) -> Option<(String, String)> {
        let mut conditions = Conditions::default();
        services.judge(&mut conditions, own_misses, Timestamp::UNIX_EPOCH);
        let condition = conditions.list().into_iter().find(|c| c.type_ == kind)?;
        Some((condition.status, condition.message))
    }

    fn said(services: &Services) -> (String, String) {
        told(services, &[], "LatencyKnown").unwrap()
    }

    #[test]
    fn a_service_that_misses_its_objective_by_itself_is_named() {
        let mut services = Services::default();
        assert_eq!(told(&services, &[], "LatencyKept"), None);
        services.follow(&[pod("ns/web", 80)]);
        assert_eq!(told(&services, &[], "LatencyKept").unwrap().0, "True");
        let miss = Slowest {
            service: "ns/web".to_owned(),
            milli: 5000,
        };
        let (status, message) = told(&services, &[miss], "LatencyKept").unwrap();
        assert_eq!(status, "False");
        assert!(
            message.ends_with("ns/web: 5000 of 1000 slow requests that may be"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_histogram_is_read_every_two_seconds() {
        let mut services = Services::default();
        services.follow(&[pod("ns/web", serve(ok(GOOD)).await)]);
        assert_eq!(services.observed().first().unwrap().histogram, None);
        read_all(&mut services, 10_000).await;
        let seen = services.observed();
        let bucket = |up_to, count| Bucket { up_to, count };
        let histogram = |at| Histogram {
            at,
            buckets: vec![bucket(Some(100_000), 5), bucket(None, 7)],
        };
        assert_eq!(seen.first().unwrap().histogram, Some(histogram(10_000)));
        read_all(&mut services, 11_999).await;
        assert_eq!(services.observed(), seen);
        read_all(&mut services, 12_000).await;
        assert_eq!(services.observed().first().unwrap().histogram, Some(histogram(12_000)));
        assert_eq!(said(&services).0, "True");
        services.follow(&[]);
        assert_eq!(services.observed(), []);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_and_the_rest_is_read() {
        let mut services = Services::default();
        let large = format!("{GOOD}# {}", "x".repeat(LONGEST));
        services.follow(&[
            pod("ns/busy", serve(String::new()).await),
            pod("ns/good", serve(ok(GOOD)).await),
            pod("ns/large", serve(ok(&large)).await),
            pod("ns/none", 1),
            pod(
                "ns/wrong",
                serve("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()).await,
            ),
        ]);
        read_all(&mut services, 10_000).await;
        let read: Vec<String> = services
            .observed()
            .into_iter()
            .filter(|s| s.histogram.is_some())
            .map(|s| s.name)
            .collect();
        assert_eq!(read, ["ns/good"]);
        let (status, message) = said(&services);
        assert_eq!(status, "False");
        for (service, problem) in [
            ("ns/busy", "no whole answer in 1s"),
            ("ns/large", "1048576 bytes at most"),
            ("ns/none", "refused"),
            ("ns/wrong", "404 Not Found"),
        ] {
            let part = message.split("; ").find(|part| part.starts_with(service)).unwrap();
            assert!(part.contains(problem), "{part}");
        }
        // An old reading outlives a failure: the guard knows its age.
        let good = services.observed();
        services.take(
            Done {
                service: "ns/good".to_owned(),
                target: services.known["ns/good"].target.clone(),
                outcome: Err("gone".to_owned()),
            },
            20_000,
        );
        assert_eq!(services.observed(), good);
    }

    #[tokio::test]
    async fn a_histogram_that_ends_below_the_objective_is_named() {
        let mut services = Services::default();
        let body = "x_bucket{le=\"0.05\"} 5\nx_bucket{le=\"+Inf\"} 7\n";
        services.follow(&[pod("ns/web", serve(ok(body)).await)]);
        read_all(&mut services, 10_000).await;
        let (status, message) = said(&services);
        assert_eq!(status, "False");
        assert!(
            message.contains("its highest bucket is 50 ms, and 100 ms are promised"),
            "{message}"
        );
    }

    #[test]
    fn an_objective_that_cannot_be_honoured_is_refused_with_the_field() {
        let error = |text: &str| Target::parse(text, HOST).unwrap_err();
        let with = |fields: &str| error(&format!(r#"{{"histogram": "x", "port": 80, {fields}}}"#));
        assert!(error("fast").contains("no latency objective as JSON"));
        assert!(with(r#""threshold": "soon""#).contains("threshold: duration \"soon\""));
        assert!(with(r#""threshold": "1s", "quantile": 99"#).contains("unknown field `quantile`"));
        assert!(with(r#""threshold": "1s", "quantileMilli": 99"#).contains("quantileMilli is 99: give 500 to 999"));
        assert!(with(r#""threshold": "1s", "path": "metrics""#).contains("path is \"metrics\""));
        assert!(with(r#""threshold": "1s", "path": "/a b""#).contains("path is \"/a b\""));
        assert!(error(r#"{"histogram": "", "threshold": "1s", "port": 80}"#).contains("histogram is empty"));
        assert!(error(r#"{"histogram": "x", "threshold": "1s", "port": 0}"#).contains("port is 0"));
    }
}
