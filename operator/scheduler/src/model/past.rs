//! What a queue used in the past: an average in which what lies a half-life back counts half. Integers only, and time is
//! given: the same events at the same times lead to the same average everywhere.

use crate::{
    amount::{Amount, Totals},
    event::Time,
    model::{Model, QueueSlot, share::HELD_BITS},
    slab::{QueueOrd, ResourceOrd},
};

/// Steps in which a half-life is counted, as a power of two: of a day, 1.3 s.
const STEPS: u32 = 16;

/// Bits behind the point of a factor. An average is below 2^83 (2^63 units of 2^-20), so that a product fits into 2^123.
const BITS: u32 = 40;

/// 2^(-1/2), 2^(-1/4), ... 2^(-1/2^16), in units of 2^-40: each is the square root of the one before it.
const ROOTS: [i128; STEPS as usize] = roots();

const fn roots() -> [i128; STEPS as usize] {
    // In units of 2^-60 while they are found: the root of x 2^60 times 2^60.
    const FINE: u32 = 60;
    let mut roots = [0; STEPS as usize];
    let mut root: u128 = 1 << (FINE - 1);
    let mut i = 0;
    while i < roots.len() {
        root = (root << FINE).isqrt();
        #[allow(clippy::indexing_slicing, reason = "i is below the length")]
        {
            roots[i] = (root >> (FINE - BITS)) as i128;
        }
        i += 1;
    }
    roots
}

/// 2^(-steps / 2^16), in units of 2^-40.
fn factor(steps: i64) -> i128 {
    let halvings = u32::try_from(steps >> STEPS).unwrap_or(u32::MAX);
    if halvings >= BITS {
        return 0;
    }
    let bit = |i: usize| steps >> (STEPS as usize - 1 - i) & 1 == 1;
    let rest = ROOTS.iter().enumerate().filter(|(i, _)| bit(*i));
    rest.fold(1 << BITS, |product, (_, root)| (product * root) >> BITS) >> halvings
}

/// The average of what was used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Past {
    /// Milliseconds, at least 1.
    half_life: i64,
    /// When the average was what it says, in units of 2^-16 milliseconds: a step of the half-life is a whole number of these.
    at: i128,
    /// By tier and resource, in units of 2^-20.
    average: [Vec<i128>; 3],
    /// What was used until something changed since the last cycle. Facts have no time: they count from the next cycle on.
    before: Option<[Totals; 3]>,
}

impl Past {
    /// The average of something that used the same for ever.
    fn of(half_life: i64, at: Time, used: &[Totals; 3]) -> Past {
        let mut past = Past {
            half_life,
            at: i128::from(at.0) << STEPS,
            average: Default::default(),
            before: None,
        };
        for (average, used) in past.average.iter_mut().zip(used) {
            for (resource, amount) in used.iter() {
                set(average, resource, fine(amount));
            }
        }
        past
    }

    /// Whole steps of the half-life until a time.
    fn steps(&self, now: Time) -> i128 {
        ((i128::from(now.0) << STEPS) - self.at).max(0) / i128::from(self.half_life)
    }

    /// The average of a resource at a time until which `used` was used.
    fn average(&self, now: Time, tier: usize, resource: ResourceOrd, used: Amount) -> i128 {
        let average = self.average.get(tier).and_then(|of| of.get(resource.index()));
        let used = fine(used);
        let left = factor(i64::try_from(self.steps(now)).unwrap_or(i64::MAX));
        used + (((average.copied().unwrap_or(0) - used) * left) >> BITS)
    }

    /// Brings the average up to a time until which `used` was used.
    fn settle(&mut self, now: Time, used: &[Totals; 3]) {
        let steps = self.steps(now);
        if steps == 0 {
            return; // What is shorter than a step counts as what comes after it.
        }
        for (tier, used) in used.iter().enumerate() {
            let known = self.average.get(tier).map_or(0, Vec::len);
            let longest = used.iter().map(|(r, _)| r.index() + 1).max().unwrap_or(0).max(known);
            for resource in (0..longest).map(ResourceOrd::new) {
                let is = self.average(now, tier, resource, used.of(resource));
                if let Some(average) = self.average.get_mut(tier) {
                    set(average, resource, is);
                }
            }
        }
        self.at += steps * i128::from(self.half_life);
    }
}

fn fine(amount: Amount) -> i128 {
    i128::from(amount.get()) << HELD_BITS
}

fn set(average: &mut Vec<i128>, resource: ResourceOrd, value: i128) {
    if average.len() <= resource.index() {
        average.resize(resource.index() + 1, 0);
    }
    if let Some(slot) = average.get_mut(resource.index()) {
        *slot = value;
    }
}

impl QueueSlot {
    /// Notes what it used so far; to be called before that changes. Within a cycle the time is known.
    pub(crate) fn settle_past(&mut self, in_cycle: Option<Time>) {
        let Some(past) = &mut self.past else { return };
        match in_cycle {
            Some(now) => past.settle(now, &self.used),
            None if past.before.is_none() => past.before = Some(self.used.clone()),
            None => {}
        }
    }

    /// Gives it another half-life, or none. Its past stays.
    pub(crate) fn set_half_life(&mut self, half_life: Option<i64>, now: Time) {
        let past = half_life.map(|half_life| match self.past.take() {
            Some(past) => Past { half_life, ..*past },
            None => Past::of(half_life, now, &self.used),
        });
        self.past = past.map(Box::new);
    }

    /// Its half-life in milliseconds.
    pub(crate) fn half_life(&self) -> Option<i64> {
        self.past.as_ref().map(|past| past.half_life)
    }
}

impl Model {
    /// Until when the use of queues that changes now was what it was, if that is known: within a cycle.
    pub(crate) fn changes_at(&self) -> Option<Time> {
        self.deciding.then_some(self.now)
    }

    /// Brings the past of each queue up to now, by what was used until the last cycle.
    pub(crate) fn settle_pasts(&mut self) {
        let unsettled = |queue: &QueueOrd| {
            self.queues[*queue]
                .past
                .as_ref()
                .is_some_and(|past| past.before.is_some())
        };
        let queues: Vec<QueueOrd> = self.queues_by_name.values().copied().filter(unsettled).collect();
        for queue in queues {
            if let Some(past) = &mut self.queues[queue].past
                && let Some(before) = past.before.take()
            {
                past.settle(self.now, &before);
            }
        }
    }
}

impl Model {
    /// What a queue counts as holding of a resource, in units of 2^-20: what it uses, or, if its past counts, the mean of
    /// that and of the average. So its share grows with each place that it is given, stays what it is for one that goes
    /// on as before, and halves with each half-life for one that uses nothing any more.
    pub(crate) fn counted(&self, queue: QueueOrd, tier: usize, resource: ResourceOrd) -> i128 {
        let queue = &self.queues[queue];
        let used = queue.used(tier, resource);
        match &queue.past {
            None => fine(used),
            Some(past) => (fine(used) + past.average(self.now, tier, resource, used)) / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn used(milli: i64) -> [Totals; 3] {
        let mut totals = Totals::default();
        *totals.of_mut(ResourceOrd::new(0)) += Amount::taken_in(milli);
        [totals, Totals::default(), Totals::default()]
    }

    fn milli(past: &Past, now: i64, used: i64) -> i128 {
        let average = past.average(Time(now), 0, ResourceOrd::new(0), Amount::taken_in(used));
        (average + (1 << (HELD_BITS - 1))) >> HELD_BITS
    }

    #[test]
    fn a_half_life_later_half_of_it_is_left() {
        let mut past = Past::of(DAY, Time(0), &used(1_000_000));
        for (days, left) in [(0, 1_000_000), (1, 500_000), (2, 250_000), (10, 977)] {
            assert_eq!(milli(&past, days * DAY, 0), left);
        }
        assert_eq!(milli(&past, DAY / 2, 0), 707_107);
        assert_eq!(milli(&past, i64::MAX, 0), 0);
        // And the other way round for what is used from then on.
        past.settle(Time(100 * DAY), &used(0));
        assert_eq!(milli(&past, 101 * DAY, 1_000_000), 500_000);
    }

    /// Each small step used to round away what it added.
    #[test]
    fn many_small_steps_come_to_the_same_as_one_large_one() {
        let mut past = Past::of(DAY, Time(0), &used(0));
        for second in 1..=86_400 {
            past.settle(Time(second * 1000), &used(1000));
        }
        assert_eq!(milli(&past, DAY, 1000), 500);
        let mut short = Past::of(10, Time(0), &used(1000));
        for millisecond in 1..=10 {
            short.settle(Time(millisecond), &used(0));
        }
        assert_eq!(milli(&short, 10, 0), 500);
    }

    #[test]
    fn absurd_times_and_amounts_do_not_overflow() {
        let mut past = Past::of(i64::MAX, Time(i64::MIN), &used(1 << 53));
        past.settle(Time(i64::MAX), &used(0));
        past.settle(Time(0), &used(i64::MAX));
        assert!(milli(&past, i64::MAX, 0) >= 0);
    }
}
