//! When mid is taken back: only from where batch has no more to give, only where prod has suffered for long, and with
//! notice.
//!
//! What mid was promised is what prod was not expected to need for days. Where it needs it after all, the node first takes no
//! more of mid (the offer falls to what is bound), then its batch goes. What is left to do is evicted here:
//!
//! - memory, where less is available than the policy's line, or prod stalls for it and less than four times that is available
//!   (with more, it stalls at a limit of its own, and what mid holds is not what it lacks);
//! - CPU, where prod stalls and mid uses more than prod's peak leaves.
//!
//! Suffering counts up while it lasts and down while it does not, so that one calm second does not forget minutes, and one bad
//! second is no reason. Mid is never killed.

use crate::{
    amounts::mebibytes,
    observation::{Group, Millis, Tier},
    policy,
};

use super::{Cause, Eviction, Evictor, LONG_PAUSE, Order, Reading, clear, frees, rested};

/// Memory must have been short this long with no batch left: ten times batch's patience and more, and less than what a kernel
/// takes to kill somebody.
const SHORT: Millis = 60_000;
/// A look later than this is no witness of all the time since the one before.
const SPAN: Millis = 5_000;

/// How long prod has suffered with nothing left to take from batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Suffered {
    at: Option<Millis>,
    short: Millis,
    memory: Millis,
    cpu: Millis,
}

impl Suffered {
    /// Whether somebody of mid may have to go.
    pub(super) fn any(&self) -> bool {
        [self.short, self.memory, self.cpu].iter().any(|suffered| *suffered > 0)
    }

    fn note(&mut self, [short, memory, cpu]: [bool; 3], most: Millis, now: Millis) {
        let span = self.at.map_or(0, |at| now.saturating_sub(at)).min(SPAN);
        self.at = Some(now);
        let step = |of: &mut Millis, suffers: bool, most: Millis| {
            *of = if suffers {
                of.saturating_add(span).min(most)
            } else {
                of.saturating_sub(span)
            };
        };
        step(&mut self.short, short, SHORT);
        step(&mut self.memory, memory, most);
        step(&mut self.cpu, cpu, most);
    }
}

impl Evictor {
    /// Takes note of what prod suffers now with no batch left to take from: less memory than the line, want of memory, of CPU.
    pub(super) fn suffer(
        &mut self,
        policy: &policy::Eviction,
        reading: Reading<'_>,
        line: i64,
        now: Millis,
    ) -> [bool; 3] {
        let seen = reading.seen;
        // One that its disruption budget keeps, or that is no pod, gives nothing however long it is waited for.
        let stays = |group: &&Group| group.pod.is_some() && !self.barred.contains_key(super::key(group));
        let held = seen.batch().filter(stays).map(frees).fold(0, i64::saturating_add);
        let no_memory = held < seen.capacity.memory / 100;
        // Batch that is held at its floor, or uses no more by itself, has no more to give; but who asked for more than is left goes
        // first, as soon as it was held there for long.
        let little = reading.at_floor || reading.batch_cpu.is_some_and(|used| used <= reading.floor);
        let goes_first = reading.at_floor && reading.left.is_none_or(|left| self.asked(seen) > left);
        let no_cpu = (little && !goes_first) || !seen.batch().any(|group| stays(&group));
        let available = seen.available();
        let stalls = |stall: Option<i64>, threshold| reading.fresh && stall.is_some_and(|s| s > threshold);
        let less_than = |line: i64| available.is_some_and(|a| a < line);
        let suffers = [
            no_memory && less_than(line),
            no_memory && less_than(line.saturating_mul(4)) && stalls(reading.prod_stall.memory, reading.threshold),
            no_cpu && stalls(reading.prod_stall.cpu, reading.cpu_threshold),
        ];
        self.suffered.note(suffers, policy.suppressed_for, now);
        suffers
    }

    /// Who of mid has to leave now.
    pub(super) fn order_mid(
        &mut self,
        policy: &policy::Eviction,
        reading: Reading<'_>,
        suffers: [bool; 3],
        line: i64,
        now: Millis,
    ) -> Vec<Eviction> {
        let (seen, most) = (reading.seen, policy.suppressed_for);
        let pause = LONG_PAUSE.saturating_add(policy.mid_notice);
        if !rested(self.ordered, pause, now) {
            return Vec::new();
        }
        let Suffered { memory, cpu, .. } = self.suffered;
        let order = |cause, need| Order {
            tier: Tier::Mid,
            cause,
            need,
            notice: policy.mid_notice,
        };
        if suffers[0]
            && self.suffered.short >= SHORT
            && let Some(available) = seen.available()
        {
            let why = format!(
                "{} of the node's memory are available, the policy wants {}, and no batch is left to evict",
                mebibytes(available),
                mebibytes(line)
            );
            let need = clear(line, seen.capacity.memory) - available;
            return self.order(reading, order(Cause::Memory, need), &why, now);
        }
        if suffers[1] && memory >= most {
            let why = format!(
                "prod has lacked memory for most of {} s, and no batch is left to evict",
                most / 1_000
            );
            return self.order(reading, order(Cause::MemoryStall, seen.capacity.memory / 50), &why, now);
        }
        if suffers[2]
            && cpu >= most
            && let (Some(used), Some(left)) = (reading.mid_cpu, reading.left_to_mid)
        {
            let why = format!(
                "prod has stalled for CPU for most of {} s, batch has no more to give, and mid uses {used}m where prod's peak \
                 leaves {left}m",
                most / 1_000
            );
            return self.order(reading, order(Cause::CpuStall, used - left), &why, now);
        }
        Vec::new()
    }
}
