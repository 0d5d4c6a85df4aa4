//! Queues of links: the hooks that batch's packets go by on the node's end of a pod's link, and the two police actions
//! of the node that all of them share.
//!
//! The kernel knows an action by its kind and a number. All filters that name the number go by one budget, so that batch has
//! one rate each way however many pods it has, and another rate is one message.

use rustix::io::Errno;

use super::{
    socket::Socket,
    wire::{CREATE, EXCLUSIVE, Message, REPLACE, attribute, name, u32_at, u64_at, within},
};

/// Kinds of messages.
const NEW_QDISC: u16 = 36;
const DEL_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const DEL_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const NEW_ACTION: u16 = 48;
const DEL_ACTION: u16 = 49;
const GET_ACTION: u16 = 50;

/// Attributes of queues and filters.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// Attributes of an action.
const ACTION_INDEX: u16 = 3;
const ACTION_STATS: u16 = 4;
const ACTION_COOKIE: u16 = 6;
/// Actions in a message about actions, and in a filter that matches all.
const ACTIONS: u16 = 1;
const MATCHALL_ACTIONS: u16 = 2;
/// How many packets a filter that matches all has seen.
const MATCHALL_COUNT: u16 = 4;
/// Attributes of a police action.
const POLICE: u16 = 1;
const POLICE_TABLE: u16 = 2;
const POLICE_RESULT: u16 = 5;
const POLICE_RATE64: u16 = 8;
/// Attributes of statistics: of packets taken in, and of a queue.
const STATS_BASIC: u16 = 1;
const STATS_QUEUE: u16 = 3;

/// The place of hooks on a link; there is room for one set of them, whoever put it there.
const HOOKS: u32 = 0xffff_fff1;
const HOOKS_HANDLE: u32 = 0xffff_0000;
/// Our filters are known by this priority and handle, our actions by their number and this cookie.
const OURS: u16 = 0xd05a;
const COOKIE: &[u8] = b"duosuan";
/// All protocols, in the network's order of bytes.
const ALL: u16 = 0x0003_u16.to_be();

/// Verdicts: the packet is dropped; the next filter decides.
const SHOT: i32 = 2;
const UNSPECIFIED: i32 = -1;
/// Cells of the table of rates, which the kernel wants and does not use since it divides by itself. It asks the table how the
/// link counts only where the rate does not say so: ours does.
const TABLE: [u8; 1024] = [0; 1024];
const CELL: u8 = 3;
const ETHERNET: u8 = 1;
/// The kernel counts a burst in ticks of so many nanoseconds.
const TICK: u64 = 64;
/// What may pass at once: what the rate gives in 50 ms, and at least the largest packet that offloads make, which would
/// otherwise never pass.
const BURST_PER_SECOND: u64 = 20;
const LEAST_BURST: u64 = 512 << 10;

/// Which way packets go, as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Send,
    Receive,
}

impl Way {
    pub(super) const BOTH: [Self; 2] = [Self::Send, Self::Receive];

    /// Number of the police action.
    const fn index(self) -> u32 {
        match self {
            Self::Send => 0xd05a_0001,
            Self::Receive => 0xd05a_0002,
        }
    }

    /// The hook: what the pod sends comes in on the node's end of its link.
    const fn hook(self) -> u32 {
        match self {
            Self::Send => 0xffff_fff2,
            Self::Receive => 0xffff_fff3,
        }
    }
}

/// A police action as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Police {
    /// Bytes a second.
    pub(super) rate: u64,
    /// Filters that go by it.
    pub(super) filters: u32,
    /// Bytes that came by, those that were dropped included.
    pub(super) bytes: u64,
    /// Packets that were dropped.
    pub(super) dropped: u32,
}

/// What is at the hooks of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filters {
    /// Ours.
    pub(super) ours: u32,
    /// Somebody else's.
    pub(super) others: u32,
    /// Packets that ours has seen, where the kernel (5.1) says so.
    pub(super) seen: Option<u64>,
}

/// The fixed part of messages about queues and filters.
fn fixed(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (at, word) in [(4, link), (8, handle), (12, parent), (16, info)] {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
    }
    bytes
}

/// Links that have hooks, or the older sort of them, whoever put them there.
pub(super) fn hooked(socket: &mut Socket) -> Result<Vec<u32>, Errno> {
    let mut links = Vec::new();
    socket.list(
        GET_QDISC,
        &fixed(0, 0, 0, 0),
        |m| m,
        |body| {
            if u32_at(body, 12) == Some(HOOKS) {
                links.extend(u32_at(body, 4));
            }
        },
    )?;
    Ok(links)
}

/// Puts hooks on a link that has none: `EEXIST` if it has.
pub(super) fn hook(socket: &mut Socket, link: u32) -> Result<(), Errno> {
    let fixed = fixed(link, HOOKS_HANDLE, HOOKS, 0);
    socket.order(NEW_QDISC, CREATE | EXCLUSIVE, &fixed, |m| m.with_name(KIND, "clsact"))
}

/// Takes the hooks off a link, with all filters on them.
pub(super) fn unhook(socket: &mut Socket, link: u32) -> Result<(), Errno> {
    let fixed = fixed(link, HOOKS_HANDLE, HOOKS, 0);
    socket.order(DEL_QDISC, 0, &fixed, |m| m.with_name(KIND, "clsact"))
}

/// Has all packets that go one way over a link go by the police action of this way.
pub(super) fn filter(socket: &mut Socket, link: u32, way: Way) -> Result<(), Errno> {
    let info = u32::from(OURS) << 16 | u32::from(ALL);
    let fixed = fixed(link, u32::from(OURS), way.hook(), info);
    socket.order(NEW_FILTER, CREATE | EXCLUSIVE, &fixed, |m| {
        m.with_name(KIND, "matchall").with_nested(OPTIONS, |m| {
            m.with_nested(MATCHALL_ACTIONS, |m| {
                m.with_nested(1, |m| {
                    m.with_name(KIND, "police")
                        .with_nested(OPTIONS, |m| m.with(POLICE, &parameters(way, 0)))
                })
            })
        })
    })
}

/// Takes our filter of one way off a link.
pub(super) fn unfilter(socket: &mut Socket, link: u32, way: Way) -> Result<(), Errno> {
    let info = u32::from(OURS) << 16 | u32::from(ALL);
    let fixed = fixed(link, u32::from(OURS), way.hook(), info);
    socket.order(DEL_FILTER, 0, &fixed, |m| m.with_name(KIND, "matchall"))
}

/// Filters of one way on a link.
pub(super) fn filters(socket: &mut Socket, link: u32, way: Way) -> Result<Filters, Errno> {
    let mut found = Filters::default();
    socket.list(
        GET_FILTER,
        &fixed(link, 0, way.hook(), 0),
        |m| m,
        |body| {
            let (Some(handle), Some(info)) = (u32_at(body, 8), u32_at(body, 16)) else {
                return;
            };
            let kind = body.get(20..).and_then(|rest| attribute(rest, KIND)).map(name);
            let ours = info >> 16 == u32::from(OURS) && kind.as_deref() == Some("matchall");
            match (ours, handle) {
                // It is told of twice: as one of its kind, and by itself.
                (true, 0) => {}
                (true, handle) if handle == u32::from(OURS) => {
                    found.ours += 1;
                    let rest = body.get(20..).unwrap_or_default();
                    found.seen = within(rest, &[OPTIONS, MATCHALL_COUNT]).and_then(|bytes| u64_at(bytes, 0));
                }
                _ => found.others += 1,
            }
        },
    )?;
    Ok(found)
}

/// The fixed part of messages about actions.
const ACTION: [u8; 4] = [0; 4];

/// Makes the police action of a way, or gives it another rate, in bytes a second.
pub(super) fn police(socket: &mut Socket, way: Way, rate: u64) -> Result<(), Errno> {
    socket.order(NEW_ACTION, CREATE | REPLACE, &ACTION, |m| {
        m.with_nested(ACTIONS, |m| {
            m.with_nested(1, |m| {
                m.with_name(KIND, "police")
                    .with_nested(OPTIONS, |m| {
                        m.with(POLICE, &parameters(way, rate))
                            .with(POLICE_TABLE, &TABLE)
                            .with(POLICE_RESULT, &UNSPECIFIED.to_ne_bytes())
                            .with(POLICE_RATE64, &rate.to_ne_bytes())
                    })
                    .with(ACTION_COOKIE, COOKIE)
            })
        })
    })
}

/// The police action of a way, if there is one and it is ours.
///
/// # Errors
///
/// `EEXIST` if there is one that is somebody else's.
pub(super) fn policed(socket: &mut Socket, way: Way) -> Result<Option<Police>, Errno> {
    let mut found = None;
    let asked = socket.ask(
        GET_ACTION,
        &ACTION,
        |m| named(m, way),
        |body| {
            found = body
                .get(ACTION.len()..)
                .and_then(|rest| within(rest, &[ACTIONS, 1]))
                .map(read);
        },
    );
    match (asked, found) {
        // Neither is there where nobody ever had the kernel load its module.
        (Err(Errno::NOENT | Errno::INVAL), _) => Ok(None),
        (Err(error), _) => Err(error),
        (Ok(()), None) => Ok(None),
        (Ok(()), Some(None)) => Err(Errno::EXIST),
        (Ok(()), Some(police)) => Ok(police),
    }
}

/// Takes the police action of a way away: `EPERM` while a filter goes by it, as for a moment after that was taken off.
pub(super) fn unpolice(socket: &mut Socket, way: Way) -> Result<(), Errno> {
    socket.order(DEL_ACTION, 0, &ACTION, |m| named(m, way))
}

fn named(message: Message, way: Way) -> Message {
    message.with_nested(ACTIONS, |m| {
        m.with_nested(1, |m| {
            m.with_name(KIND, "police")
                .with(ACTION_INDEX, &way.index().to_ne_bytes())
        })
    })
}

/// An action of the kernel's, if it carries our cookie.
fn read(action: &[u8]) -> Option<Police> {
    (attribute(action, ACTION_COOKIE)? == COOKIE).then_some(())?;
    let options = attribute(action, OPTIONS)?;
    let parameters = attribute(options, POLICE)?;
    let rate = attribute(options, POLICE_RATE64).and_then(|bytes| u64_at(bytes, 0));
    let statistics = attribute(action, ACTION_STATS).unwrap_or_default();
    Some(Police {
        rate: rate.or(u32_at(parameters, 28).map(u64::from))?,
        filters: u32_at(parameters, 48)?,
        bytes: attribute(statistics, STATS_BASIC)
            .and_then(|bytes| u64_at(bytes, 0))
            .unwrap_or(0),
        dropped: attribute(statistics, STATS_QUEUE)
            .and_then(|queue| u32_at(queue, 8))
            .unwrap_or(0),
    })
}

/// `struct tc_police`: number, verdict over the rate, limit, burst, largest packet, rate, peak rate, two counts and a set of
/// flags.
fn parameters(way: Way, rate: u64) -> Vec<u8> {
    let bytes = (rate / BURST_PER_SECOND).max(LEAST_BURST);
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    let burst = u32::try_from(nanoseconds / u128::from(TICK)).unwrap_or(u32::MAX);
    let mut of = Vec::with_capacity(56);
    of.extend_from_slice(&way.index().to_ne_bytes());
    of.extend_from_slice(&SHOT.to_ne_bytes());
    of.extend_from_slice(&0_u32.to_ne_bytes());
    of.extend_from_slice(&burst.to_ne_bytes());
    of.extend_from_slice(&u32::MAX.to_ne_bytes());
    // `struct tc_ratespec`: size of a cell, how the link counts, three numbers that nobody reads here, the rate.
    of.extend_from_slice(&[CELL, ETHERNET, 0, 0, 0, 0, 0, 0]);
    of.extend_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    of.resize(56, 0);
    of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_what_the_rate_gives_in_a_twentieth_of_a_second_and_never_less_than_a_large_packet() {
        let ticks = |rate| u32_at(&parameters(Way::Send, rate), 12).map(u64::from);
        // 1 GB/s: 50 ms.
        assert_eq!(ticks(1_000_000_000), Some(50_000_000 / TICK));
        // 1 MiB/s: half a second.
        assert_eq!(ticks(1 << 20), Some(500_000_000 / TICK));
        // So little a second that the kernel cannot count so far.
        assert_eq!(ticks(1), Some(u64::from(u32::MAX)));
        assert_eq!(ticks(0), Some(u64::from(u32::MAX)));
    }

    #[test]
    fn a_rate_beyond_32_bits_stands_in_the_longer_attribute_too() {
        let rate = 12_500_000_000_u64;
        let words = parameters(Way::Receive, rate);
        assert_eq!(
            (words.len(), u32_at(&words, 0), u32_at(&words, 28)),
            (56, Some(0xd05a_0002), Some(u32::MAX))
        );
    }
}
