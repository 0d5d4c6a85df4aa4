//! The guard of the last-level cache and of memory bandwidth: batch's tasks are in a resctrl group that has a part of both.
//!
//! Prod keeps the whole of both. Batch gets the lowest ways, since devices write into the highest on many processors.

use crate::{
    action::Action,
    guard::{GuardState, switched_off},
    observation::{Control, Millis, Observation, Range},
    policy,
};

/// The path of resctrl in an action, the group that is made there for batch, and the file in it.
pub const RESCTRL: &str = "resctrl";
/// The file of the group that its limits are in.
pub const SCHEMATA: &str = "schemata";
/// The group of batch's tasks.
pub const GROUP: &str = "duosuan-batch";
/// The group stays this long after the last batch pod has left.
const LINGER: Millis = 600_000;

/// The guard's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LlcGuard {
    /// Where it is.
    pub state: GuardState,
    /// Part of the cache that batch may fill, thousandths; `None` if unlimited.
    pub limit: Option<i64>,
    /// Times that it began to limit batch.
    pub cuts: u64,
    /// Last action and why.
    pub last_action: Option<String>,
    /// What batch's group is set to, as `schemata` spells it.
    schemata: String,
    batch_seen: Option<Millis>,
}

impl LlcGuard {
    /// Forgets every limit.
    pub fn switch_off(&mut self, why: Option<&str>) {
        *self = Self {
            state: GuardState::Off,
            cuts: self.cuts,
            last_action: switched_off(self.last_action.take(), why),
            ..Self::default()
        };
    }

    /// Moves by one look and answers what should hold.
    pub fn step(&mut self, guard: &policy::LlcGuard, seen: &Observation, now: Millis) -> Option<Action> {
        if seen.controls.is_empty() {
            self.switch_off(Some(
                "off: the processor or the kernel has no control of cache and bandwidth here, or resctrl is not mounted",
            ));
            return None;
        }
        if seen.batch().next().is_some() {
            self.batch_seen = Some(now);
        }
        let shared = self.batch_seen.is_some_and(|at| now.saturating_sub(at) < LINGER);
        let whole = guard.cache_percent >= 100 && guard.bandwidth_percent >= 100;
        if !shared || whole {
            if self.limit.take().is_some() {
                let why = if whole {
                    "the policy gives it all"
                } else {
                    "none runs here"
                };
                self.last_action = Some(format!("gave batch the whole cache and bandwidth: {why}"));
            }
            self.schemata.clear();
            self.state = GuardState::Idle;
            return None;
        }
        let lines: Vec<String> = seen.controls.iter().map(|c| line(c, guard)).collect();
        let schemata = lines.join("\n");
        if self.limit.is_none() {
            self.cuts = self.cuts.saturating_add(1);
        }
        self.limit = Some(i64::from(guard.cache_percent) * 10);
        if self.schemata != schemata {
            let (cache, bandwidth) = (guard.cache_percent, guard.bandwidth_percent);
            self.last_action = Some(format!(
                "batch may fill {cache} percent of the cache and use {bandwidth} of the bandwidth: {}",
                lines.join(" ")
            ));
            self.schemata.clone_from(&schemata);
        }
        self.state = GuardState::Suppressing;
        let why = self.last_action.as_deref().unwrap_or_default();
        Some(Action::new(RESCTRL, GROUP, schemata, why))
    }
}

/// A control's line in `schemata`.
fn line(control: &Control, guard: &policy::LlcGuard) -> String {
    let value = match control.range {
        Range::Ways { mask, least } => {
            let ways = (mask.count_ones() * guard.cache_percent).div_ceil(100);
            let (ways, low) = (ways.max(least).min(mask.count_ones()), mask.trailing_zeros());
            let lowest = 1_u64.checked_shl(ways).map_or(u64::MAX, |bit| bit - 1);
            format!("{:x}", lowest.checked_shl(low).unwrap_or(mask) & mask)
        }
        Range::Percent { least, step } => {
            let steps = guard.bandwidth_percent.div_ceil(step.max(1));
            (steps * step.max(1)).max(least).min(100).to_string()
        }
    };
    let each = control.domains.iter().map(|domain| format!("{domain}={value}"));
    format!("{}:{}", control.resource, each.collect::<Vec<_>>().join(";"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::observation::{Group, Tier};

    fn control(resource: &str, range: Range) -> Control {
        Control {
            resource: resource.to_owned(),
            domains: vec![0, 1],
            range,
        }
    }

    fn percent(cache_percent: u32, bandwidth_percent: u32) -> policy::LlcGuard {
        policy::LlcGuard {
            disabled: false,
            cache_percent,
            bandwidth_percent,
        }
    }

    fn node() -> Observation {
        let ways = Range::Ways {
            mask: 0xf_ffff,
            least: 1,
        };
        let group = |path: &str, tier| Group {
            path: path.to_owned(),
            tier,
            ..Group::default()
        };
        Observation {
            controls: vec![
                control("L3", ways),
                control("MB", Range::Percent { least: 10, step: 10 }),
            ],
            groups: vec![group("a", Tier::Batch), group("b", Tier::Prod)],
            ..Observation::default()
        }
    }

    #[test]
    fn batch_gets_the_lowest_ways_and_a_part_of_the_bandwidth_rounded_up() {
        let line = |range, cache, bandwidth| super::line(&control("X", range), &percent(cache, bandwidth));
        let ways = |mask, least| Range::Ways { mask, least };
        assert_eq!(line(ways(0xf_ffff, 1), 20, 1), "X:0=f;1=f");
        assert_eq!(line(ways(0x7ff, 1), 20, 1), "X:0=7;1=7");
        assert_eq!(line(ways(0x7ff, 2), 1, 1), "X:0=3;1=3");
        assert_eq!(line(ways(0xff0, 1), 50, 1), "X:0=f0;1=f0");
        assert_eq!(
            line(ways(u64::MAX, 1), 100, 1),
            "X:0=ffffffffffffffff;1=ffffffffffffffff"
        );
        assert_eq!(line(Range::Percent { least: 10, step: 10 }, 1, 41), "X:0=50;1=50");
        assert_eq!(line(Range::Percent { least: 10, step: 10 }, 1, 1), "X:0=10;1=10");
        assert_eq!(line(Range::Percent { least: 10, step: 30 }, 1, 95), "X:0=100;1=100");
    }

    #[test]
    fn batch_is_limited_while_it_runs_beside_prod_and_ten_minutes_after() {
        let (mut guard, mut node) = (LlcGuard::default(), node());
        let action = guard.step(&percent(20, 50), &node, 1_000).unwrap();
        assert_eq!(action.value, "L3:0=f;1=f\nMB:0=50;1=50");
        assert_eq!(
            (guard.state, guard.limit, guard.cuts),
            (GuardState::Suppressing, Some(200), 1)
        );
        node.groups.remove(0);
        assert!(guard.step(&percent(20, 50), &node, 600_000).is_some());
        assert_eq!(guard.step(&percent(20, 50), &node, 601_000), None);
        assert_eq!((guard.state, guard.limit, guard.cuts), (GuardState::Idle, None, 1));
    }

    #[test]
    fn another_part_of_the_bandwidth_is_told_as_another_part_of_the_cache_is_and_is_no_other_cut() {
        let (mut guard, node) = (LlcGuard::default(), node());
        guard.step(&percent(20, 50), &node, 1_000);
        let action = guard.step(&percent(20, 30), &node, 2_000).unwrap();
        assert!(action.why.contains("use 30 of the bandwidth"), "{}", action.why);
        let action = guard.step(&percent(40, 30), &node, 3_000).unwrap();
        assert!(action.why.contains("fill 40 percent of the cache"), "{}", action.why);
        assert_eq!((guard.cuts, guard.limit), (1, Some(400)));
    }

    #[test]
    fn why_batch_has_everything_back_is_told_as_it_is() {
        let (mut guard, mut node) = (LlcGuard::default(), node());
        guard.step(&percent(20, 50), &node, 1_000);
        guard.step(&percent(100, 100), &node, 2_000);
        assert!(
            guard
                .last_action
                .clone()
                .unwrap()
                .ends_with(": the policy gives it all")
        );
        guard.step(&percent(20, 50), &node, 3_000);
        node.groups.clear();
        guard.step(&percent(20, 50), &node, 3_000 + LINGER);
        assert!(guard.last_action.unwrap().ends_with(": none runs here"));
    }

    #[test]
    fn a_guard_that_was_off_already_says_what_is_missing() {
        let (mut guard, mut node) = (LlcGuard::default(), node());
        guard.switch_off(None);
        node.controls.clear();
        guard.step(&percent(20, 50), &node, 2_000);
        assert!(guard.last_action.unwrap().contains("resctrl is not mounted"));
    }

    #[test]
    fn who_may_have_everything_needs_no_group_and_where_nothing_can_be_controlled_the_guard_is_off() {
        let (mut guard, mut node) = (LlcGuard::default(), node());
        assert_eq!(guard.step(&percent(100, 100), &node, 1_000), None);
        assert_eq!(guard.state, GuardState::Idle);
        node.controls.clear();
        assert_eq!(guard.step(&percent(20, 50), &node, 2_000), None);
        assert_eq!(guard.state, GuardState::Off);
        assert!(guard.last_action.unwrap().contains("resctrl is not mounted"));
    }
}
