//! The network guard: the batch pods of a node together send and receive no more than what prod leaves of the link that leads
//! out of the node.
//!
//! What prod needs is what goes over the link and is not batch's. It is measured over a second, and a tenth of the link stays
//! free beside it, so that a surge of prod finds room before batch is cut for it: at once, and given back by steps. What prod
//! needs does not depend on what batch is allowed, so that nothing swings; only where the link is full all the same does it not
//! show, and batch is halved until it is not. The two ways of a link are two links.

mod seen;

pub use seen::{Network, Traffic, Uplink};

use crate::{
    action::Action,
    guard::{GuardState, switched_off},
    observation::{Capabilities, Millis, Observation},
    policy,
};

/// The path of the node's network in an action, and what is set there. The value is `send=N receive=N`, in bits a second.
pub const NETWORK: &str = "network";
/// Batch's rates.
pub const RATES: &str = "rates";
/// What rates are held by.
pub const POLICE: &str = "tc.police";
/// The least rate that can be asked for, bits a second: less than that is no network.
pub const LEAST: i64 = 1_000_000;
/// A look that came sooner than this after the one before says nothing of a rate.
const SPAN: Millis = 900;
/// Of the link, in thousandths: what prod and batch together may fill, what batch always has, a step up in a second, and how
/// far two rates may be from each other and still be the same.
const MOST: i64 = 900;
const FLOOR: i64 = 50;
const STEP: i64 = 50;
const SAME: i64 = 20;
/// A link that carries this much is full: what prod needs does not show, since it gets no more.
const FULL: i64 = 950;
/// After a cut, this long no step up.
const CALM: Millis = 3_000;
/// A cut is one that is told of where it leaves batch so much less than all, in thousandths of the link; rates are told of again when they moved so far.
const TOLD: i64 = 100;
/// So long after the last cut batch is said to be cut still: prod's need goes up and down.
const CUT_FOR: Millis = 10_000;
/// What was known of the link holds so long: a driver says no speed while a cable is plugged in anew, and a kernel that is
/// kept nothing at all.
const LASTS: Millis = 300_000;

/// The guard's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkGuard {
    /// Where it is.
    pub state: GuardState,
    /// What batch may send and receive, bits a second; `None` if unlimited.
    pub rates: Option<[i64; 2]>,
    /// Times that it began to cut batch.
    pub cuts: u64,
    /// Last action and why.
    pub last_action: Option<String>,
    last: Option<Sample>,
    last_cut: [Option<Millis>; 2],
    /// The rates of which `last_action` tells, and why they are what they are now.
    told: Option<[i64; 2]>,
    why: String,
    /// The link's name and speed as its driver said them last, and when.
    speed: Option<(String, i64, Millis)>,
    /// Since when the kernel does not say how the network is.
    unread: Option<Millis>,
}

/// What had gone each way by some time, bytes: over the link, and batch's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sample {
    at: Millis,
    link: String,
    ways: [Way; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Way {
    all: u64,
    batch: Traffic,
}

/// What prod needs of a link and what that carries, bits a second each way, and the time over which that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    prod: [i64; 2],
    all: [i64; 2],
    span: Millis,
}

impl NetworkGuard {
    /// The tighter one of the two rates.
    pub fn limit(&self) -> Option<i64> {
        self.rates.map(|[send, receive]| send.min(receive))
    }

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
    pub fn step(
        &mut self,
        policy: &policy::NetworkGuard,
        capabilities: &Capabilities,
        seen: &Observation,
        now: Millis,
    ) -> Option<Action> {
        let network = seen.network.as_ref().filter(|_| capabilities.police);
        let Some(network) = network else {
            let why = if capabilities.refused.contains_key(POLICE) {
                capabilities.lack_of(POLICE)
            } else {
                "off: the agent has no right to set queues of the node's links: start it with --network and CAP_NET_ADMIN \
                 in the node's own namespaces of network and processes (agent.network in the chart's values)"
                    .to_owned()
            };
            self.switch_off(capabilities.known().then_some(why.as_str()));
            return None;
        };
        if network.unread {
            let since = *self.unread.get_or_insert(now);
            if now.saturating_sub(since) >= LASTS {
                self.switch_off(Some(
                    "off: the kernel has not said for minutes what goes over the node's links: the agent's log says why",
                ));
                self.unread = Some(since);
            }
            // Missing is never zero: what held goes on for some time.
            return self.action();
        }
        self.unread = None;
        let need = self.measure(network);
        if network.held == 0 {
            self.release(network);
            return None;
        }
        if let Some(rate) = policy.rate {
            self.fix(rate);
            return self.action();
        }
        let Some(uplink) = &network.uplink else {
            let why = match &network.hidden {
                Some(hidden) => format!("off: {hidden}: give guards.network.rate"),
                None => {
                    "off: no route leads out of the node, so that there is no link to share: give guards.network.rate"
                        .to_owned()
                }
            };
            self.switch_off(Some(&why));
            return None;
        };
        let Some(line) = policy.line.or_else(|| self.speed_of(uplink, now)) else {
            let why = format!(
                "off: the driver of {} does not say how fast it is: give guards.network.line, or guards.network.rate",
                uplink.name
            );
            // What was measured is kept: the policy may say it at the next look.
            let last = self.last.take();
            self.switch_off(Some(&why));
            self.last = last;
            return None;
        };
        if self.state == GuardState::Off {
            self.state = GuardState::Idle;
        }
        if let Some(need) = need {
            self.share(line, need, &uplink.name, now);
        }
        self.action()
    }

    /// What should hold.
    fn action(&self) -> Option<Action> {
        let [send, receive] = self.rates?;
        Some(Action::new(
            NETWORK,
            RATES,
            format!("send={send} receive={receive}"),
            &self.why,
        ))
    }

    /// How fast a link is, where its driver says so, or did a short time ago.
    fn speed_of(&mut self, uplink: &Uplink, now: Millis) -> Option<i64> {
        if let Some(speed) = uplink.speed {
            match &mut self.speed {
                Some((name, known, at)) if *name == uplink.name => (*known, *at) = (speed, now),
                other => *other = Some((uplink.name.clone(), speed, now)),
            }
        }
        let known = self.speed.as_ref().filter(|(name, ..)| *name == uplink.name);
        known
            .filter(|(.., at)| now.saturating_sub(*at) < LASTS)
            .map(|(_, speed, _)| *speed)
    }

    /// No limit, since there is nobody to hold.
    fn release(&mut self, network: &Network) {
        (self.state, self.last_cut, self.told) = (GuardState::Idle, [None; 2], None);
        if self.rates.take().is_some() {
            self.last_action = Some("gave batch the whole link: no pod of batch is left to hold".to_owned());
        }
        if let Some(why) = network.out_of_reach() {
            self.state = GuardState::Off;
            self.last_action = switched_off(self.last_action.take(), Some(&format!("off: {why}")));
        }
    }

    /// The policy's own rate, each way.
    fn fix(&mut self, rate: i64) {
        let rates = Some([rate; 2]);
        if self.rates != rates {
            self.cuts += u64::from(self.rates.is_none_or(|[send, receive]| rate < send.max(receive)));
            (self.rates, self.told) = (rates, rates);
            self.why = format!(
                "batch may send {0} Mbit/s and receive as much: the rate of the policy",
                megabits(rate)
            );
            self.last_action = Some(self.why.clone());
        }
        self.state = GuardState::Suppressing;
    }

    /// What prod leaves of a link of this many bits a second.
    fn share(&mut self, line: i64, need: Need, link: &str, now: Millis) {
        let part = |milli: i64| line / 1000 * milli;
        let (floor, most) = (part(FLOOR), part(MOST));
        let before = self.rates;
        let (mut cut, mut raised) = (false, false);
        let mut rates = [most; 2];
        for (at, ((rate, prod), all)) in rates.iter_mut().zip(need.prod).zip(need.all).enumerate() {
            let was = before.and_then(|rates| rates.get(at).copied());
            let left = (most - prod).clamp(floor, most);
            let target = match was {
                Some(was) if all > part(FULL) => left.min(was / 2).max(floor),
                _ => left,
            };
            let last_cut = self.last_cut.get_mut(at);
            *rate = match was {
                None => target,
                // More than there is on a line that the policy says is slower now.
                Some(was) if target < was - part(SAME) || was > most => {
                    cut = true;
                    if let Some(last_cut) = last_cut {
                        *last_cut = Some(now);
                    }
                    target
                }
                Some(was) if target > was + part(SAME) || (target == most && was < most) => {
                    let calm = last_cut.is_none_or(|at| at.is_none_or(|at| now.saturating_sub(at) >= CALM));
                    if calm {
                        raised = true;
                        let seconds = i64::try_from(need.span.min(1_000)).unwrap_or(1_000);
                        target.min(was + part(STEP) * seconds / 1000)
                    } else {
                        was
                    }
                }
                Some(was) => was.max(floor),
            };
        }
        self.rates = Some(rates);
        let [send, receive] = rates.map(megabits);
        let [prod_sends, prod_receives] = need.prod.map(megabits);
        let of = format!(
            "{send} Mbit/s to send and {receive} to receive: prod sends {prod_sends} and receives {prod_receives} of the {} of {link}",
            megabits(line)
        );
        let lately = self.last_cut.iter().flatten().max();
        let lately = lately.is_some_and(|at| now.saturating_sub(*at) < CUT_FOR);
        let all = rates == [most; 2];
        let clearly = rates.iter().any(|rate| *rate < most - part(TOLD));
        // Neither a cut too small to tell of nor a step between two cuts is another state.
        let state = match self.state {
            GuardState::Idle | GuardState::Recovering if cut && clearly => GuardState::Suppressing,
            GuardState::Suppressing | GuardState::Recovering if all && !lately => GuardState::Idle,
            GuardState::Suppressing if raised && !lately => GuardState::Recovering,
            state => state,
        };
        self.cuts += u64::from(state == GuardState::Suppressing && self.state != state);
        let far = self.told.is_none_or(|told| {
            let moved = |(told, now): (i64, &i64)| (told - now).abs() >= part(TOLD);
            told.into_iter().zip(&rates).any(moved)
        });
        match before {
            None => self.why = format!("batch has {of}"),
            Some(_) if cut => self.why = format!("cut batch to {of}"),
            Some(_) if raised => self.why = format!("raised batch to {of}"),
            Some(_) => {}
        }
        if state != self.state || far {
            (self.told, self.last_action) = (Some(rates), Some(self.why.clone()));
        }
        self.state = state;
    }

    /// What prod needs, where a span has passed since it was measured last.
    fn measure(&mut self, network: &Network) -> Option<Need> {
        let (uplink, now) = (network.uplink.as_ref()?, network.at);
        let sample = |ways| Sample {
            at: now,
            link: uplink.name.clone(),
            ways,
        };
        let ways = [
            Way {
                all: uplink.sent,
                batch: network.sent,
            },
            Way {
                all: uplink.received,
                batch: network.received,
            },
        ];
        let Some(last) = self.last.as_ref().filter(|last| last.link == uplink.name) else {
            self.last = Some(sample(ways));
            return None;
        };
        let span = now.saturating_sub(last.at);
        if span < SPAN {
            return None;
        }
        let (mut prod, mut carried) = ([0; 2], [0; 2]);
        let needs = prod.iter_mut().zip(&mut carried);
        for (at, (((need, carried), now), before)) in needs.zip(ways).zip(last.ways).enumerate() {
            let all = now.all.checked_sub(before.all);
            let of_batch = now.batch.bytes.checked_sub(before.batch.bytes);
            let dropped = now.batch.dropped != before.batch.dropped;
            let Some((all, mut of_batch)) = all.zip(of_batch) else {
                // Somebody counts anew: what was known before holds.
                self.last = Some(sample(ways));
                return None;
            };
            // What batch sends comes by before some of it is dropped: no more than its rate was left to go out. What it receives
            // has come in over the link, whatever is dropped of it then.
            let rate = self.rates.and_then(|rates| rates.get(at).copied());
            if let Some(rate) = rate.filter(|_| dropped && at == 0) {
                of_batch = of_batch.min(bytes_in(rate, span));
            }
            *need = bits_a_second(all.saturating_sub(of_batch), span);
            *carried = bits_a_second(all, span);
        }
        self.last = Some(sample(ways));
        Some(Need {
            prod,
            all: carried,
            span,
        })
    }
}

/// Bytes that a rate gives in so many milliseconds.
fn bytes_in(rate: i64, span: Millis) -> u64 {
    let bytes = u128::from(rate.unsigned_abs()) * u128::from(span) / 8_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn bits_a_second(bytes: u64, span: Millis) -> i64 {
    let bits = u128::from(bytes) * 8_000 / u128::from(span.max(1));
    i64::try_from(bits).unwrap_or(i64::MAX)
}

fn megabits(bits: i64) -> i64 {
    bits / 1_000_000
}

#[cfg(test)]
mod tests;
