//! Pressure triggers of the kernel: they wake the loop when prod begins to stall.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use duosuan_cgroup::Trigger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
    task::AbortHandle,
};

use crate::kernel::Kernel;

/// Windows that are tried: the shortest that the kernel knows, which needs CAP_SYS_RESOURCE, and the shortest that does not.
const WINDOWS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// What could not be armed is tried again after this many updates, though nothing changed.
const RETRY_AFTER: u32 = 30;

/// A pressure file, and the stall in thousandths of a window at which its triggers fire.
pub type Arming = (&'static str, u32);

/// Armed triggers, by cgroup and file.
#[derive(Debug)]
pub struct Triggers {
    wake: Arc<Notify>,
    armed: BTreeMap<(String, &'static str), Armed>,
    wanted: Vec<Arming>,
    /// The kernel's generation that they were armed for, and the updates since.
    armed_for: Option<u64>,
    updates: u32,
    complained: bool,
}

#[derive(Debug)]
struct Armed(AbortHandle);

impl Drop for Armed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Triggers {
    /// None armed; `wake` is notified when one fires.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self {
            wake,
            armed: BTreeMap::new(),
            wanted: Vec::new(),
            armed_for: None,
            updates: 0,
            complained: false,
        }
    }

    /// Arms those that are missing, and drops those whose cgroup is gone or that are not wanted any more.
    pub fn update(&mut self, kernel: &Kernel, wanted: &[Arming]) {
        if *wanted != *self.wanted {
            self.armed.clear();
            self.wanted = wanted.to_vec();
            self.armed_for = None;
        }
        self.updates += 1;
        let all_stand = self.armed_for == Some(kernel.generation()) && self.updates < RETRY_AFTER;
        if wanted.is_empty() || (all_stand && !self.armed.values().any(|armed| armed.0.is_finished())) {
            return;
        }
        (self.armed_for, self.updates) = (Some(kernel.generation()), 0);
        let places = kernel.trigger_places();
        self.armed
            .retain(|(path, _), armed| !armed.0.is_finished() && places.contains(path));
        for path in places {
            for &(file, stall_milli) in wanted {
                let key = (path.clone(), file);
                if self.armed.contains_key(&key) {
                    continue;
                }
                // A cgroup that is gone again needs none.
                let Ok(group) = kernel.group(&path) else { continue };
                let attempt = |window: Duration| group.trigger(file, window * stall_milli / 1000, window);
                let [short, long] = WINDOWS;
                match attempt(short)
                    .or_else(|_| attempt(long))
                    .map(|trigger| trigger.map(|t| self.arm(t)))
                {
                    Ok(Some(Ok(armed))) => drop(self.armed.insert(key, armed)),
                    Ok(None) => {}
                    Ok(Some(Err(error))) => self.complain(&error),
                    Err(error) => self.complain(&error),
                }
            }
        }
    }

    /// How many are armed.
    pub fn len(&self) -> usize {
        self.armed.len()
    }

    /// Whether none is armed.
    pub fn is_empty(&self) -> bool {
        self.armed.is_empty()
    }

    fn arm(&self, trigger: Trigger) -> std::io::Result<Armed> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe; the trigger owns its descriptor and never changes it"
        )]
        let fd = AsyncFd::with_interest(trigger, Interest::PRIORITY)?;
        let wake = Arc::clone(&self.wake);
        let task = tokio::spawn(async move {
            while let Ok(mut guard) = fd.ready(Interest::PRIORITY).await {
                guard.clear_ready();
                wake.notify_one();
            }
        });
        Ok(Armed(task.abort_handle()))
    }

    fn complain(&mut self, error: &dyn std::fmt::Display) {
        if !self.complained {
            self.complained = true;
            tracing::warn!("no pressure trigger: {error}; looking once a second instead");
        }
    }
}
