//! A machine without a kernel: pods use what a simple model says, counters run as a kernel's would.

use std::collections::BTreeMap;

use duosuan_policy::{Action, Capabilities, Group, Millis, Observation, Resources, Stall, Tier, Work};

use crate::{
    machine::{Acted, Machine},
    pods::PodInfo,
};

/// Where the kubelet with the cgroupfs driver puts pods without requests.
const BEST_EFFORT: &str = "kubepods/besteffort";
/// What runs outside pods, thousandths of the node.
const SYSTEM_MILLI: i64 = 20;
/// Periods of an online service's load: a "day" and a shorter one, so that a short run sees both move.
const PERIODS: (Millis, Millis) = (600_000, 47_000);

/// A machine without a kernel.
///
/// Prod and mid pods use 25 to 55 % of their requests, by pod, and swing by a third of that, smoothly. Batch pods use
/// their requests as far as prod leaves it and the limit allows. Prod's stall follows the utilisation as the
/// probability to wait in an M/M/c queue does: rho^(sqrt(2(c + 1))) (Sakasegawa's approximation).
#[derive(Debug)]
pub struct SimulatedMachine {
    capacity: Resources,
    seed: u64,
    capabilities: Capabilities,
    at: Option<Millis>,
    busy: u64,
    stall: u64,
    pods: BTreeMap<String, Counters>,
    limits: BTreeMap<String, i64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    usage: u64,
    stall: u64,
}

impl SimulatedMachine {
    /// A machine of this size; `seed` decides how its pods behave.
    pub fn new(capacity: Resources, seed: u64) -> Self {
        Self {
            capacity,
            seed,
            capabilities: Capabilities {
                cpu_idle: true,
                cpu_weight: true,
                cpu_max: true,
                cpu_burst: true,
                pressure: true,
                memory_high: true,
                ..Capabilities::default()
            },
            at: None,
            busy: 0,
            stall: 0,
            pods: BTreeMap::new(),
            limits: BTreeMap::new(),
        }
    }

    /// Changes its size.
    pub fn resize(&mut self, capacity: Resources) {
        self.capacity = capacity;
    }

    /// Its size.
    pub const fn capacity(&self) -> Resources {
        self.capacity
    }

    /// What a prod or mid pod uses of its requests now, thousandths.
    fn share(&self, uid: &str, now: Millis) -> i64 {
        let hash = mix(uid, self.seed);
        let base = 250 + i64::try_from(hash % 300).unwrap_or(0);
        let (long, short) = PERIODS;
        let swing = sine(now.wrapping_add(hash % long), long) * 2 + sine(now.wrapping_add(hash % short), short);
        // The two sines together swing within 3000 thousandths; a third of the base is the most that they move it.
        base + base * swing / 9_000
    }

    /// Lets time pass.
    fn advance(&mut self, pods: &[PodInfo], now: Millis) {
        let span = self.at.map_or(0, |at| now.saturating_sub(at));
        self.at = Some(now);
        self.pods.retain(|uid, _| pods.iter().any(|p| p.uid == *uid));
        let cpus = self.capacity.cpu.max(1);
        let system = cpus * SYSTEM_MILLI / 1000;
        let firm: Vec<i64> = pods
            .iter()
            .map(|p| {
                if p.tier == Tier::Batch {
                    0
                } else {
                    p.requests.cpu * self.share(&p.uid, now) / 1000
                }
            })
            .collect();
        let online = (system + firm.iter().sum::<i64>()).min(cpus);
        let wanted: i64 = pods
            .iter()
            .filter(|p| p.tier == Tier::Batch)
            .map(|p| p.requests.cpu)
            .sum();
        let allowed = self.limits.get(BEST_EFFORT).copied().unwrap_or(cpus);
        let batch = wanted.min(allowed).min(cpus - online).max(0);
        // Batch runs idle, so that it hurts by half of what it uses: wake-ups, caches, siblings.
        let stall = stall_milli(online + batch / 2, cpus);
        for (pod, &firm_cpu) in pods.iter().zip(&firm) {
            let cpu = if pod.tier == Tier::Batch {
                let mut cpu = batch * pod.requests.cpu / wanted.max(1);
                if let Some(&limit) = self.limits.get(&path(pod)) {
                    cpu = cpu.min(limit);
                }
                cpu
            } else {
                firm_cpu
            };
            let counters = self.pods.entry(pod.uid.clone()).or_default();
            counters.usage += micros(cpu, span);
            counters.stall += micros(stall, span);
        }
        self.busy += micros(online + batch, span);
        self.stall += micros(stall_milli(online + batch, cpus), span);
    }
}

impl Machine for SimulatedMachine {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn observe(&mut self, pods: &[PodInfo], now: Millis, seen: &mut Observation) {
        self.advance(pods, now);
        let mut groups: Vec<Group> = pods
            .iter()
            .map(|pod| {
                let counters = self.pods.get(&pod.uid).copied().unwrap_or_default();
                // Memory is used in full by batch, and by others as they use CPU on average.
                let share = if pod.tier == Tier::Batch {
                    900
                } else {
                    self.share(&pod.uid, 0) + 150
                };
                Group {
                    path: path(pod),
                    tier: pod.tier,
                    requests: pod.requests,
                    cpu_usage: Some(counters.usage),
                    cpu_throttled: Some(0),
                    memory: Some(pod.requests.memory / 1000 * share),
                    memory_charged: Some(pod.requests.memory / 1000 * share),
                    memory_reclaimable: Some(0),
                    work: Work {
                        anonymous: Some(pod.requests.memory / 1000 * share),
                        page_cache: Some(0),
                        ..Work::default()
                    },
                    pod: pod.evictable.clone(),
                    stall: Stall {
                        cpu: Some(counters.stall),
                        memory: Some(0),
                        io: Some(0),
                    },
                    ..Group::default()
                }
            })
            .collect();
        groups.sort_by(|a, b| a.path.cmp(&b.path));
        let memory: i64 = groups.iter().filter_map(|g| g.memory).sum();
        *seen = Observation {
            capacity: self.capacity,
            cpu_busy: Some(self.busy),
            memory_used: Some((memory + self.capacity.memory / 1000 * SYSTEM_MILLI).min(self.capacity.memory)),
            stall: Stall {
                cpu: Some(self.stall),
                memory: Some(0),
                io: Some(0),
            },
            groups,
            complete: true,
            envelope: Some(BEST_EFFORT.to_owned()),
            bound_batch: crate::pods::bound(pods, Tier::Batch),
            bound_mid: crate::pods::bound(pods, Tier::Mid),
            ..Observation::default()
        };
    }

    fn act(&mut self, actions: &[Action]) -> Acted {
        let limits: BTreeMap<String, i64> = actions
            .iter()
            .filter(|a| a.file == "cpu.max")
            .filter_map(|a| {
                let (quota, period) = a.value.split_once(' ')?;
                let (quota, period): (i64, i64) = (quota.parse().ok()?, period.parse().ok()?);
                Some((a.path.clone(), quota * 1000 / period.max(1)))
            })
            .collect();
        let written = u64::from(limits != self.limits);
        self.limits = limits;
        Acted {
            written,
            ..Acted::default()
        }
    }
}

fn path(pod: &PodInfo) -> String {
    if pod.burstable {
        format!("kubepods/burstable/pod{}", pod.uid)
    } else {
        format!("{BEST_EFFORT}/pod{}", pod.uid)
    }
}

/// Thousandths over a span in milliseconds: microseconds.
fn micros(milli: i64, span: Millis) -> u64 {
    milli.max(0).unsigned_abs().saturating_mul(span)
}

/// Stall at a load of this many milli-cores, thousandths of wall time.
fn stall_milli(load: i64, cpus: i64) -> i64 {
    let rho = (load as f64 / cpus as f64).clamp(0.0, 1.0);
    let servers = cpus as f64 / 1000.0;
    (1000.0 * rho.powf((2.0 * (servers + 1.0)).sqrt() + 1.0)) as i64
}

/// A sine of this period, thousandths.
fn sine(at: Millis, period: Millis) -> i64 {
    let angle = (at % period) as f64 / period as f64 * std::f64::consts::TAU;
    (1000.0 * angle.sin()) as i64
}

/// FNV-1a of a text and a seed.
pub(super) fn mix(text: &str, seed: u64) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use duosuan_policy::{Policy, State};

    use super::*;
    use crate::{agent::Agent, selection::Choice};

    fn pod(uid: &str, tier: Tier, cpu: i64) -> PodInfo {
        PodInfo {
            uid: uid.to_owned(),
            tier,
            requests: Resources { cpu, memory: 1 << 30 },
            burstable: tier == Tier::Prod,
            latency: None,
            ..PodInfo::default()
        }
    }

    fn agent(pods: Vec<PodInfo>) -> Agent<SimulatedMachine> {
        let machine = SimulatedMachine::new(
            Resources {
                cpu: 16_000,
                memory: 64 << 30,
            },
            7,
        );
        let mut agent = Agent::new(machine, State::default());
        let policy = Policy {
            warm_up: 0,
            ..Policy::default()
        };
        agent.follow(Choice::Policy {
            name: "p".to_owned(),
            policy,
        });
        agent.set_pods(pods);
        agent
    }

    #[test]
    fn a_busy_node_offers_what_its_online_pods_leave() {
        let mut agent = agent(vec![pod("a", Tier::Prod, 6_000), pod("b", Tier::Prod, 6_000)]);
        let mut last = None;
        for second in 0..600 {
            last = Some(agent.look(second * 1000).report);
        }
        let offer = last.unwrap().batch_offer();
        // 16000 less the margin of 1600, system 320 and at most 12000 * 0.55 * 1.33 of prod.
        assert!((5_000..=12_000).contains(&offer.cpu), "{offer:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let run = || {
            let mut agent = agent(vec![pod("a", Tier::Prod, 9_000), pod("c", Tier::Batch, 8_000)]);
            (0..300)
                .map(|second| agent.look(second * 1000).report)
                .collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn a_limit_on_besteffort_holds_batch_to_it() {
        let mut machine = SimulatedMachine::new(
            Resources {
                cpu: 4_000,
                memory: 1 << 30,
            },
            1,
        );
        let pods = [pod("c", Tier::Batch, 4_000)];
        machine.act(&[Action {
            path: BEST_EFFORT.to_owned(),
            file: "cpu.max".to_owned(),
            value: "50000 100000".to_owned(),
            why: String::new(),
        }]);
        let mut seen = Observation::default();
        machine.observe(&pods, 0, &mut seen);
        machine.observe(&pods, 1_000, &mut seen);
        assert_eq!(seen.groups.first().unwrap().cpu_usage, Some(500_000));
    }
}
