//! A queue file, run by discrete events over the production core: cohorts of queues, each with its stream of jobs of some
//! classes. What is measured is how long all of it takes against the least that it could, and how long jobs wait.
//!
//! Each cohort is a queue without claims of its own, and the capacity of the cluster is what all queues are guaranteed. A
//! job is a claim of one pod. One that is evicted loses what it has done, and its pod is made again at once.

mod config;
mod outcome;

use std::collections::BTreeMap;

use duosuan_scheduler::{
    Budget, Cluster, Decision, Event, Time, cycle,
    event::{Claim, Group, Pod},
};

pub use config::{Class, Config, Error};
pub use outcome::{ClassOutcome, Outcome, Percentiles};

/// Cycles at one time at most.
const MOST_CYCLES: u32 = 10_000;

/// Everything that one cycle may do.
const UNBOUNDED: Budget = Budget { pods: u32::MAX };

/// Time of the first arrival. The zero of the core's clock is long before anything.
const START: i64 = 1_000_000;

/// A job of a queue.
#[derive(Clone, Debug)]
struct Job {
    class: usize,
    queue: String,
    arrives: i64,
    /// When it started first, and last.
    started: Option<(i64, i64)>,
    ended: Option<i64>,
    evictions: u32,
}

/// Something that happens to a job; ends come before arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// Its run number so-and-so is over.
    Ends(usize, u32),
    Arrives(usize),
}

struct Run<'a> {
    config: &'a Config,
    cluster: Cluster,
    jobs: Vec<Job>,
    /// What is to come, by time.
    coming: BTreeMap<i64, Vec<Happening>>,
    now: i64,
    lost_core_ms: u64,
}

/// Runs a queue file to its end.
///
/// # Errors
///
/// If the file asks for what cannot run, or the scheduler makes a mistake.
pub fn run(config: &Config) -> Result<Outcome, Error> {
    config.check()?;
    let mut run = Run {
        config,
        cluster: config.cluster(),
        jobs: Vec::new(),
        coming: BTreeMap::new(),
        now: START,
        lost_core_ms: 0,
    };
    run.arrivals();
    while let Some((now, happenings)) = run.next() {
        run.now = now;
        for happening in happenings {
            run.happens(happening);
        }
        run.settle()?;
    }
    run.cluster.check().map_err(Error::Broken)?;
    let left = run.jobs.iter().filter(|j| j.ended.is_none()).count();
    if left > 0 {
        return Err(Error::Stuck {
            left,
            now: run.now - START,
        });
    }
    Ok(run.outcome())
}

impl Run<'_> {
    fn arrivals(&mut self) {
        for c in 0..self.config.cohorts {
            for q in 0..self.config.queues_per_cohort {
                for (class, of) in self.config.classes.iter().enumerate() {
                    for i in 0..of.count {
                        let arrives = START + i64::from(i) * i64::from(of.every_ms);
                        let job = self.jobs.len();
                        self.jobs.push(Job {
                            class,
                            queue: config::queue_name(c, q),
                            arrives,
                            started: None,
                            ended: None,
                            evictions: 0,
                        });
                        self.coming.entry(arrives).or_default().push(Happening::Arrives(job));
                    }
                }
            }
        }
    }

    /// What happens next; at times at which the core alone wants to look again, nothing.
    fn next(&mut self) -> Option<(i64, Vec<Happening>)> {
        let waking = self.cluster.next_time().map(|at| at.0).filter(|at| *at > self.now);
        let (&first, _) = self.coming.first_key_value()?;
        if let Some(waking) = waking.filter(|at| *at < first) {
            return Some((waking, Vec::new()));
        }
        let (now, mut happenings) = self.coming.pop_first()?;
        happenings.sort_unstable();
        Some((now, happenings))
    }

    fn class(&self, job: &Job) -> Option<&Class> {
        self.config.classes.get(job.class)
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(job) => self.tell_claim(job),
            Happening::Ends(job, run) => {
                if self.jobs.get(job).is_some_and(|j| j.evictions == run) {
                    let uid = self.pod_uid(job);
                    self.cluster.apply(Event::PodGone(uid));
                    self.cluster.apply(Event::ClaimGone(claim_uid(job)));
                    let now = self.now;
                    if let Some(job) = self.jobs.get_mut(job) {
                        job.ended = Some(now);
                    }
                }
            }
        }
    }

    fn pod_uid(&self, job: usize) -> String {
        format!("pod-{job:07}-{}", self.jobs.get(job).map_or(0, |j| j.evictions))
    }

    fn tell_claim(&mut self, ord: usize) {
        let Some(job) = self.jobs.get(ord) else { return };
        let Some(class) = self.class(job) else { return };
        let claim = Claim {
            uid: claim_uid(ord),
            namespace: job.queue.clone(),
            name: claim_uid(ord),
            created: Time(job.arrives),
            queue: job.queue.clone(),
            priority: class.priority,
            groups: vec![Group {
                name: "job".into(),
                min: 1,
                max: 1,
                quantum: 1,
                ..Group::default()
            }],
            expected_duration: Some(i64::from(class.runs_ms)),
            ..Claim::default()
        };
        self.cluster.apply(Event::Claim(Box::new(claim)));
        self.tell_pod(ord, None);
    }

    fn tell_pod(&mut self, ord: usize, node: Option<String>) {
        let Some(job) = self.jobs.get(ord) else { return };
        let Some(class) = self.class(job) else { return };
        let uid = self.pod_uid(ord);
        let pod = Pod {
            name: uid.clone(),
            uid,
            namespace: job.queue.clone(),
            created: Time(job.arrives),
            priority: class.priority,
            claim: Some(claim_uid(ord)),
            group: "job".into(),
            requests: [("cpu".to_owned(), i64::from(class.cpu) * 1000)].into(),
            node,
            ours: true,
            ..Pod::default()
        };
        self.cluster.apply(Event::Pod(Box::new(pod)));
    }

    /// Cycles until nothing is decided, and carries all of it out.
    fn settle(&mut self) -> Result<(), Error> {
        for _ in 0..MOST_CYCLES {
            let mut changes = false;
            for decision in cycle(&mut self.cluster, Time(self.now), UNBOUNDED) {
                match decision {
                    Decision::Bind { pod, node, .. } => {
                        changes = true;
                        self.bind(&pod, node);
                    }
                    Decision::Evict { pod, .. } => {
                        changes = true;
                        self.evict(&pod);
                    }
                    _ => {}
                }
            }
            if !changes {
                return Ok(());
            }
        }
        Err(Error::Restless { now: self.now - START })
    }

    fn bind(&mut self, pod: &str, node: String) {
        let Some(ord) = job_of(pod) else { return };
        self.tell_pod(ord, Some(node));
        let now = self.now;
        let Some(job) = self.jobs.get_mut(ord) else { return };
        job.started = Some((job.started.map_or(now, |(first, _)| first), now));
        let (class, run) = (job.class, job.evictions);
        if let Some(class) = self.config.classes.get(class) {
            let end = self.now + i64::from(class.runs_ms);
            self.coming.entry(end).or_default().push(Happening::Ends(ord, run));
        }
    }

    fn evict(&mut self, pod: &str) {
        let Some(ord) = job_of(pod) else { return };
        self.cluster.apply(Event::PodGone(pod.to_owned()));
        let now = self.now;
        let Some(job) = self.jobs.get_mut(ord) else { return };
        job.evictions += 1;
        let ran = job.started.map_or(0, |(_, last)| now - last);
        let cpu = self.config.classes.get(job.class).map_or(0, |c| c.cpu);
        self.lost_core_ms += u64::from(cpu) * u64::try_from(ran).unwrap_or(0);
        self.tell_pod(ord, None);
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "figures for people; 2^53 core-milliseconds are 285,000 core-years"
    )]
    fn outcome(&self) -> Outcome {
        let last = self.jobs.iter().filter_map(|j| j.ended).max().unwrap_or(START);
        let makespan_ms = last - START;
        let floor_ms = self.config.work_of_queue() as f64 / f64::from(self.config.nominal_cpu);
        let classes = self.config.classes.iter().enumerate().map(|(class, of)| {
            let jobs: Vec<&Job> = self.jobs.iter().filter(|j| j.class == class).collect();
            let waits = jobs.iter().filter_map(|j| Some(j.started?.0 - j.arrives)).collect();
            let turnarounds = jobs.iter().filter_map(|j| Some(j.ended? - j.arrives)).collect();
            ClassOutcome {
                name: of.name.clone(),
                jobs: u32::try_from(jobs.len()).unwrap_or(u32::MAX),
                evictions: jobs.iter().map(|j| j.evictions).sum(),
                wait_ms: Percentiles::of(waits),
                turnaround_ms: Percentiles::of(turnarounds),
            }
        });
        Outcome {
            jobs: u32::try_from(self.jobs.len()).unwrap_or(u32::MAX),
            makespan_ms,
            floor_ms,
            ratio: makespan_ms as f64 / floor_ms,
            evictions: self.jobs.iter().map(|j| j.evictions).sum(),
            lost_core_seconds: self.lost_core_ms as f64 / 1000.0,
            classes: classes.collect(),
        }
    }
}

fn claim_uid(job: usize) -> String {
    format!("job-{job:07}")
}

/// The job of a pod, by its UID.
fn job_of(pod: &str) -> Option<usize> {
    pod.strip_prefix("pod-")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn class(name: &str, count: u32, every_ms: u32, runs_ms: u32, cpu: u32, priority: i32) -> Class {
        Class {
            name: name.into(),
            count,
            every_ms,
            runs_ms,
            cpu,
            priority,
        }
    }

    fn config(classes: Vec<Class>) -> Config {
        Config {
            cohorts: 1,
            queues_per_cohort: 2,
            nominal_cpu: 4,
            borrow_cpu: 4,
            classes,
        }
    }

    #[test]
    fn work_that_fills_everything_takes_the_floor() {
        // Two queues of 4 cores, each with 8 jobs of a core: two rounds of 100 ms.
        let outcome = run(&config(vec![class("one", 8, 0, 100, 1, 0)])).unwrap();
        assert_eq!((outcome.jobs, outcome.makespan_ms, outcome.evictions), (16, 200, 0));
        assert_eq!((outcome.floor_ms, outcome.ratio), (200.0, 1.0));
        let waits = Percentiles {
            p50: 0,
            p90: 100,
            p99: 100,
            max: 100,
        };
        assert_eq!(outcome.classes.first().unwrap().wait_ms, waits);
    }

    #[test]
    fn a_job_that_is_evicted_runs_again_from_its_start() {
        // The small one is alone for 100 ms; then both queues ask for all they have, at a higher priority.
        let mut classes = vec![class("small", 1, 0, 1000, 4, 0), class("large", 2, 100, 300, 4, 9)];
        classes.rotate_left(1);
        let outcome = run(&config(classes)).unwrap();
        let all: u32 = outcome.classes.iter().map(|c| c.jobs).sum();
        assert_eq!(all, outcome.jobs);
        let work = outcome.floor_ms * 8.0 / 1000.0;
        let span = f64::from(u32::try_from(outcome.makespan_ms).unwrap()) / 1000.0;
        assert!(span * 8.0 >= work + outcome.lost_core_seconds, "{outcome:?}");
    }

    /// Debug builds check the scheduler's invariants after each cycle.
    #[test]
    fn a_cohort_that_preempts_and_reclaims_stays_within_a_tenth_of_the_floor() {
        let file = Config {
            cohorts: 1,
            queues_per_cohort: 6,
            nominal_cpu: 20,
            borrow_cpu: 100,
            classes: vec![
                class("small", 35, 100, 200, 1, 50),
                class("medium", 10, 500, 500, 5, 100),
                class("large", 5, 1200, 1000, 20, 200),
            ],
        };
        let outcome = run(&file).unwrap();
        assert!(
            outcome.evictions > 0 && (1.0..=1.1).contains(&outcome.ratio),
            "{outcome:?}"
        );
    }

    #[test]
    fn what_cannot_run_is_said_with_its_field() {
        let error = run(&config(vec![class("huge", 1, 0, 1, 9, 0)])).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("classes[huge].cpu is 9, and a queue may use 8:"),
            "{error}"
        );
        let error = run(&config(vec![class("none", 0, 0, 1, 1, 0)])).unwrap_err();
        assert_eq!(error.to_string(), "classes[none].count is 0: give at least 1");
        let error = run(&config(vec![])).unwrap_err();
        assert_eq!(error.to_string(), "classes (how many) is 0: give at least 1");
        let error = run(&config(vec![class("many", u32::MAX, 0, 1, 1, 0)])).unwrap_err();
        assert!(matches!(error, Error::TooMany { .. }), "{error}");
    }

    #[test]
    fn the_same_file_gives_the_same_outcome() {
        let file = config(vec![class("a", 20, 30, 70, 1, 0), class("b", 5, 110, 130, 3, 5)]);
        assert_eq!(run(&file).unwrap(), run(&file).unwrap());
    }
}
