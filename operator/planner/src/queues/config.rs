//! The queue file: what is run, why that cannot be, and the cluster that it asks for.

use duosuan_scheduler::{
    Cluster, Event, Violation,
    event::{Amounts, Node, Queue, Quota},
};
use serde::{Deserialize, Serialize};

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Cohorts: queues of one cohort borrow from each other, and from nobody else.
    pub cohorts: u32,
    /// Queues of each cohort.
    pub queues_per_cohort: u32,
    /// Cores that each queue is guaranteed.
    pub nominal_cpu: u32,
    /// Cores that each queue may use beyond that.
    pub borrow_cpu: u32,
    /// Jobs of each queue.
    pub classes: Vec<Class>,
}

/// Jobs of one kind in each queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Class {
    /// Name.
    pub name: String,
    /// Jobs in each queue.
    pub count: u32,
    /// Milliseconds from one to the next; the first comes at once.
    pub every_ms: u32,
    /// Milliseconds that each runs.
    pub runs_ms: u32,
    /// Cores that each asks for.
    pub cpu: u32,
    /// Priority: higher goes first, and may have lower ones of its queue evicted.
    pub priority: i32,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field has a value with which there is nothing to run.
    #[error("{field} is {value}: give at least 1")]
    Zero {
        /// Field of the file.
        field: String,
        /// Its value.
        value: u32,
    },
    /// A job can never run.
    #[error(
        "classes[{class}].cpu is {cpu}, and a queue may use {most}: ask for less, or raise nominalCpu, borrowCpu or \
         queuesPerCohort"
    )]
    TooLarge {
        /// Name of the class.
        class: String,
        /// Cores.
        cpu: u32,
        /// Cores at most.
        most: u32,
    },
    /// There are too many jobs to count.
    #[error("there are {jobs} jobs in all: {most} are the most that can be run")]
    TooMany {
        /// Jobs.
        jobs: u64,
        /// Jobs at most.
        most: u64,
    },
    /// Jobs wait, nothing runs and nothing is to come: a mistake of the scheduler.
    #[error("{left} jobs wait at {now} ms, nothing runs and nothing is to come; this is a mistake of the scheduler")]
    Stuck {
        /// Jobs.
        left: usize,
        /// Milliseconds.
        now: i64,
    },
    /// The scheduler decides again and again with nothing that changes.
    #[error("the scheduler does not come to rest at {now} ms; this is a mistake of the scheduler")]
    Restless {
        /// Milliseconds.
        now: i64,
    },
    /// An invariant of the scheduler does not hold.
    #[error("an invariant of the scheduler does not hold: {0:?}")]
    Broken(Vec<Violation>),
}

/// Jobs that can be run: memory for some GB.
const MOST_JOBS: u64 = 1_000_000;

impl Config {
    /// Sees to it that there is something to run, and that it can run.
    pub(super) fn check(&self) -> Result<(), Error> {
        let mut fields = vec![
            ("cohorts".to_owned(), self.cohorts),
            ("queuesPerCohort".to_owned(), self.queues_per_cohort),
            ("nominalCpu".to_owned(), self.nominal_cpu),
            (
                "classes (how many)".to_owned(),
                u32::try_from(self.classes.len()).unwrap_or(u32::MAX),
            ),
        ];
        for class in &self.classes {
            fields.push((format!("classes[{}].count", class.name), class.count));
            fields.push((format!("classes[{}].runsMs", class.name), class.runs_ms));
            fields.push((format!("classes[{}].cpu", class.name), class.cpu));
        }
        if let Some((field, value)) = fields.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::Zero { field, value });
        }
        let cohort = self.nominal_cpu.saturating_mul(self.queues_per_cohort);
        let most = self.nominal_cpu.saturating_add(self.borrow_cpu).min(cohort);
        if let Some(class) = self.classes.iter().find(|c| c.cpu > most) {
            return Err(Error::TooLarge {
                class: class.name.clone(),
                cpu: class.cpu,
                most,
            });
        }
        let queues = u64::from(self.cohorts) * u64::from(self.queues_per_cohort);
        let jobs: u64 = self.classes.iter().map(|c| u64::from(c.count)).sum();
        let jobs = jobs.saturating_mul(queues);
        if jobs > MOST_JOBS {
            return Err(Error::TooMany { jobs, most: MOST_JOBS });
        }
        Ok(())
    }

    /// Core-milliseconds of work in one queue.
    pub(super) fn work_of_queue(&self) -> u64 {
        let of = |c: &Class| u64::from(c.count) * u64::from(c.cpu) * u64::from(c.runs_ms);
        self.classes.iter().map(of).fold(0, u64::saturating_add)
    }

    pub(super) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        let milli = |cores: u32| i64::from(cores) * 1000;
        let cpu = |cores: i64| -> Amounts { [("cpu".to_owned(), cores)].into() };
        let cohort = milli(self.nominal_cpu) * i64::from(self.queues_per_cohort);
        let mut allocatable = cpu(cohort * i64::from(self.cohorts));
        allocatable.insert("pods".into(), i64::from(u32::MAX));
        cluster.apply(Event::Node(Box::new(Node {
            name: "all".into(),
            allocatable,
            ..Node::default()
        })));
        let mut queue = |name: String, parent: Option<String>, guaranteed: i64, limit: i64| {
            let quota = Quota {
                guaranteed: cpu(guaranteed),
                limit: cpu(limit),
                ..Quota::default()
            };
            cluster.apply(Event::Queue(Box::new(Queue {
                name,
                parent,
                weight: 1,
                quotas: vec![quota],
                ..Queue::default()
            })));
        };
        for c in 0..self.cohorts {
            queue(cohort_name(c), None, cohort, cohort);
            for q in 0..self.queues_per_cohort {
                let nominal = milli(self.nominal_cpu);
                queue(
                    queue_name(c, q),
                    Some(cohort_name(c)),
                    nominal,
                    nominal + milli(self.borrow_cpu),
                );
            }
        }
        cluster
    }
}

fn cohort_name(cohort: u32) -> String {
    format!("cohort-{cohort:04}")
}

/// Name of a queue of a cohort.
pub(super) fn queue_name(cohort: u32, queue: u32) -> String {
    format!("queue-{cohort:04}-{queue:04}")
}
