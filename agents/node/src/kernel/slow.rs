//! Writes for which the kernel takes its time: it answers a `memory.high` below what is charged, and a `memory.reclaim`,
//! only when it has reclaimed, which behind a slow disk takes seconds. A thread of its own makes them, one after the
//! other, so that the agent goes on looking and acting meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use duosuan_cgroup::{Cgroup, Error};
use duosuan_policy::action::RECLAIM;

use super::slot;
use crate::journal::Key;

/// Whether the kernel may keep the writer of it waiting.
pub(super) fn is_slow(slot: &str) -> bool {
    slot == RECLAIM || slot == "memory.high"
}

/// A write to be made.
#[derive(Debug)]
struct Job {
    key: Key,
    group: Cgroup,
    value: String,
}

/// What the thread and the agent share.
#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, when there is one; none when no more will come.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A write that was made: bytes that it took off what is charged to the cgroup.
pub(super) type Done = (Key, Result<u64, Error>);

/// Writes under way, and the thread that makes them.
#[derive(Debug)]
pub(super) struct Slow {
    shared: Arc<Shared>,
    done: Receiver<Done>,
    under_way: Vec<Key>,
}

impl Slow {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (tell, done) = channel();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("reclaim".to_owned())
            .stack_size(128 << 10)
            .spawn(move || work(&theirs, &tell))?;
        Ok(Self {
            shared,
            done,
            under_way: Vec::new(),
        })
    }

    /// Has a value written.
    pub(super) fn write(&mut self, key: Key, group: Cgroup, value: String) {
        self.under_way.push(key.clone());
        self.shared.lock().jobs.push_back(Job { key, group, value });
        self.shared.more.notify_one();
    }

    /// Whether a write of it is under way.
    pub(super) fn writes(&self, key: &Key) -> bool {
        self.under_way.contains(key)
    }

    /// Takes a write back; false if it is being made.
    pub(super) fn take_back(&mut self, key: &Key) -> bool {
        if !self.writes(key) {
            return true;
        }
        let mut queue = self.shared.lock();
        let before = queue.jobs.len();
        queue.jobs.retain(|job| job.key != *key);
        let taken = queue.jobs.len() < before;
        drop(queue);
        if taken {
            self.under_way.retain(|k| k != key);
        }
        taken
    }

    /// One that was made since the last call.
    pub(super) fn done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.under_way.retain(|key| *key != done.0);
        Some(done)
    }

    /// Takes back what is not being made yet, and waits a while for what is. From then on nothing counts as under way.
    pub(super) fn settle(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        for key in self.under_way.clone() {
            self.take_back(&key);
        }
        while !self.under_way.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((key, _)) = self.done.recv_timeout(left) else {
                break;
            };
            self.under_way.retain(|k| *k != key);
        }
        self.under_way.clear();
    }
}

impl Drop for Slow {
    /// The thread ends by itself: nobody waits here for a kernel that is at work.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_one();
    }
}

fn work(shared: &Shared, tell: &Sender<Done>) {
    while let Some(job) = shared.next() {
        let made = make(&job);
        if tell.send((job.key, made)).is_err() {
            return;
        }
    }
}

fn make(job: &Job) -> Result<u64, Error> {
    let (_, file) = &job.key;
    if file != RECLAIM {
        return slot::write(&job.group, file, &job.value).map(|()| 0);
    }
    let before = job.group.memory_current()?.unwrap_or(0);
    // What is not found to reclaim is asked for again where it is still wanted.
    job.group.reclaim(job.value.parse().unwrap_or(0))?;
    Ok(before.saturating_sub(job.group.memory_current()?.unwrap_or(before)))
}
