//! What holds of batch's CPU: it is idle, or of the least weight, and limited while a guard asks for it.

use crate::{
    action::Action,
    observation::{Capabilities, Group, Observation, Tier},
};

/// Period of `cpu.max`, microseconds. The kernel's default.
const PERIOD: i64 = 100_000;
/// The file with the CPUs that a cgroup may use.
const CPUSET: &str = "cpuset.cpus";

/// Batch runs when nobody else wants the CPU.
pub(crate) fn weights(capabilities: &Capabilities, seen: &Observation) -> Vec<Action> {
    let (file, value, why) = if capabilities.cpu_idle {
        ("cpu.idle", "1", "batch runs when nobody else wants the CPU")
    } else if capabilities.cpu_weight {
        (
            "cpu.weight",
            "1",
            "batch has the least weight, this kernel knows no cpu.idle",
        )
    } else {
        return Vec::new();
    };
    seen.batch()
        .filter(|g| !weighted_by_kubelet(seen, g))
        .map(|g| Action::new(&g.path, file, value, why))
        .collect()
}

/// What runs into its own limit and is not batch may use in a burst what it left of it before. The kernel takes no burst above
/// the quota.
pub(crate) fn bursts(capabilities: &Capabilities, seen: &Observation, burst_percent: u32) -> Vec<Action> {
    if !capabilities.cpu_burst || burst_percent == 0 {
        return Vec::new();
    }
    let why = "prod may use in a burst what it left of its own limit";
    let firm = seen.groups.iter().filter(|g| g.tier != Tier::Batch);
    firm.flat_map(|g| &g.quotas)
        .map(|(path, quota)| {
            let burst = (quota.saturating_mul(u64::from(burst_percent)) / 100).min(*quota);
            Action::new(path, "cpu.max.burst", burst.to_string(), why)
        })
        .collect()
}

/// All of batch together uses no more than `limit` milli-cores.
pub(crate) fn limits(capabilities: &Capabilities, seen: &Observation, limit: i64, why: &str) -> Vec<Action> {
    if !capabilities.cpu_max {
        return Vec::new();
    }
    // The kubelet's besteffort cgroup holds batch pods, but others too: with one of those in it, each batch pod is limited.
    if let Some(envelope) = seen.batch_alone_in() {
        return vec![Action::new(envelope, "cpu.max", quota(limit), why)];
    }
    let total: i64 = seen.batch().map(|g| g.requests.cpu.max(1)).sum();
    seen.batch()
        .map(|group| {
            let share = i128::from(limit) * i128::from(group.requests.cpu.max(1)) / i128::from(total.max(1));
            let share = i64::try_from(share).unwrap_or(limit);
            Action::new(&group.path, "cpu.max", quota(share), why)
        })
        .collect()
}

/// Batch that may use `limit` milli-cores runs on as many whole cores, the last ones of the node: on all others, and on their
/// second threads, prod is alone.
pub(crate) fn confinement(capabilities: &Capabilities, seen: &Observation, limit: i64, why: &str) -> Vec<Action> {
    let mut cpus: Vec<u32> = Vec::new();
    for core in seen.cores.iter().rev() {
        if i64::try_from(cpus.len()).unwrap_or(i64::MAX).saturating_mul(1000) >= limit.max(1) {
            break;
        }
        cpus.extend(core);
    }
    let whole = cpus.len() >= seen.cores.iter().map(Vec::len).sum();
    if !capabilities.cpuset || whole {
        return Vec::new();
    }
    cpus.sort_unstable();
    let cpus = list(&cpus);
    let places = seen.batch_places().into_iter();
    places
        .map(|place| Action::new(place, CPUSET, cpus.as_str(), why))
        .collect()
}

/// CPUs in ascending order as the kernel writes them: `0-3,8`.
fn list(cpus: &[u32]) -> String {
    let ranges = cpus.chunk_by(|a, b| a + 1 == *b);
    let range = |range: &[u32]| match range {
        [first, .., last] => format!("{first}-{last}"),
        _ => range.iter().map(ToString::to_string).collect(),
    };
    ranges.map(range).collect::<Vec<_>>().join(",")
}

/// Whether the kubelet owns the group's cpu.weight, which cpu.idle changes too.
///
/// From 1.36 on it reads the weight of a pod's cgroup back into the pod's status and admits by that after a restart. An
/// idle pod reads weight 0, which it takes for 1.8e12 cores (unsigned 0 - 1), so that it fails every other pod with a
/// CPU request as OutOfcpu: seen on 1.37.2 in tests/vm. Nothing is lost: below a besteffort cgroup that is not itself
/// idle, an idle pod made prod stall no less there (22 to 24 % of the time either way).
fn weighted_by_kubelet(observation: &Observation, group: &Group) -> bool {
    let kubelet = observation.envelope.as_deref().and_then(|e| e.rsplit_once('/'));
    kubelet.is_some_and(|(kubepods, _)| {
        group
            .path
            .strip_prefix(kubepods)
            .is_some_and(|rest| rest.starts_with('/'))
    })
}

/// Milli-cores as `cpu.max` spells them. The kernel takes no quota under 1 ms.
fn quota(limit: i64) -> String {
    format!("{} {PERIOD}", (limit.saturating_mul(PERIOD) / 1000).max(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four cores of two threads.
    fn node() -> (Capabilities, Observation) {
        let group = |path: &str, tier| Group {
            path: path.to_owned(),
            tier,
            ..Group::default()
        };
        let seen = Observation {
            cores: (0..4).map(|n| vec![n, n + 4]).collect(),
            groups: vec![group("batch", Tier::Batch), group("online", Tier::Prod)],
            ..Observation::default()
        };
        let capabilities = Capabilities {
            cpuset: true,
            ..Capabilities::default()
        };
        (capabilities, seen)
    }

    #[test]
    fn what_runs_into_its_own_limit_may_burst_and_batch_may_not() {
        let (mut capabilities, mut seen) = node();
        for group in &mut seen.groups {
            group.quotas = [(format!("{}/c", group.path), 50_000)].into();
        }
        assert_eq!(bursts(&capabilities, &seen, 20), []);
        capabilities.cpu_burst = true;
        let actions = bursts(&capabilities, &seen, 20);
        let actions: Vec<_> = actions
            .iter()
            .map(|a| (a.path.as_str(), a.file.as_str(), a.value.as_str()))
            .collect();
        assert_eq!(actions, [("online/c", "cpu.max.burst", "10000")]);
        assert_eq!(bursts(&capabilities, &seen, 0), []);
    }

    #[test]
    fn batch_is_confined_to_as_many_whole_cores_as_its_limit_needs() {
        let (capabilities, mut seen) = node();
        let cpus = |seen: &Observation, limit| {
            let actions = confinement(&capabilities, seen, limit, "");
            actions.into_iter().map(|a| (a.path, a.file, a.value)).next()
        };
        let on = |path: &str, cpus: &str| Some((path.to_owned(), "cpuset.cpus".to_owned(), cpus.to_owned()));
        assert_eq!(cpus(&seen, 10), on("batch", "3,7"));
        assert_eq!(cpus(&seen, 2_000), on("batch", "3,7"));
        assert_eq!(cpus(&seen, 2_001), on("batch", "2-3,6-7"));
        assert_eq!(cpus(&seen, 6_000), on("batch", "1-3,5-7"));
        assert_eq!(cpus(&seen, 6_001), None);
        seen.complete = true;
        seen.envelope = Some("batch".to_owned());
        assert_eq!(cpus(&seen, 10), on("batch", "3,7"));
        assert_eq!(confinement(&Capabilities::default(), &seen, 10, ""), []);
        let batch = seen.groups.remove(0);
        assert_eq!(cpus(&seen, 10), None, "there is no batch to confine");
        seen.groups.insert(0, batch);
        seen.cores.clear();
        assert_eq!(cpus(&seen, 10), None);
    }
}
