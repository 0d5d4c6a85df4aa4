//! Reasons in words: a sentence that a person can act on.

use std::fmt;

use crate::{
    decision::{Home, Reason},
    event::{Level, Time},
};

impl Reason {
    /// Name of the reason, of a closed set, as conditions carry it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Reason::NoSuchQueue { .. } => "NoSuchQueue",
            Reason::NoSuchParentQueue { .. } => "NoSuchParentQueue",
            Reason::QueueCycle { .. } => "QueueCycle",
            Reason::NamespaceNotAllowed { .. } => "NamespaceNotAllowed",
            Reason::NoSuchClaim { .. } => "NoSuchClaim",
            Reason::NoSuchGroup { .. } => "NoSuchGroup",
            Reason::GroupFull { .. } => "GroupFull",
            Reason::GangIncomplete { .. } => "GangIncomplete",
            Reason::PodExceedsGroup { .. } => "PodExceedsGroup",
            Reason::ExceedsLimit { .. } => "ExceedsLimit",
            Reason::WaitingForQuota { .. } => "WaitingForQuota",
            Reason::KeptForOthers { .. } => "KeptForOthers",
            Reason::NoNodeFits { .. } => "NoNodeFits",
            Reason::TopologyTooSmall { .. } => "TopologyTooSmall",
            Reason::LookingForRoom { .. } => "LookingForRoom",
            Reason::WaitingForEviction { .. } => "WaitingForEviction",
            Reason::WaitingForReservation { .. } => "WaitingForReservation",
            Reason::WaitingForWindow { .. } => "WaitingForWindow",
            Reason::WindowOver { .. } => "WindowOver",
            Reason::Gated => "Gated",
            Reason::BindingFailed { .. } => "BindingFailed",
            Reason::Refused { .. } => "Refused",
            Reason::StaleReports { .. } => "StaleReports",
        }
    }

    /// True if both say the same to a person, save for numbers that change with every pod that comes or goes
    /// elsewhere: these alone are no news.
    pub(crate) fn is_the_same_as(&self, other: &Reason) -> bool {
        match (self, other) {
            (
                Reason::NoNodeFits {
                    constraint: a,
                    placed: x,
                    need: n,
                    ..
                },
                Reason::NoNodeFits {
                    constraint: b,
                    placed: y,
                    need: m,
                    ..
                },
            ) => (a, x, n) == (b, y, m),
            (
                Reason::WaitingForQuota {
                    queue: a,
                    resource: r,
                    asked: x,
                    ..
                },
                Reason::WaitingForQuota {
                    queue: b,
                    resource: s,
                    asked: y,
                    ..
                },
            )
            | (
                Reason::KeptForOthers {
                    queue: a,
                    resource: r,
                    asked: x,
                    ..
                },
                Reason::KeptForOthers {
                    queue: b,
                    resource: s,
                    asked: y,
                    ..
                },
            ) => (a, r, x) == (b, s, y),
            (Reason::WaitingForReservation { claim: a, .. }, Reason::WaitingForReservation { claim: b, .. }) => a == b,
            (Reason::WaitingForEviction { .. }, Reason::WaitingForEviction { .. })
            | (Reason::StaleReports { .. }, Reason::StaleReports { .. }) => true,
            _ => self == other,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoSuchQueue { queue } => write!(f, "queue {queue} does not exist"),
            Reason::NoSuchParentQueue { queue, parent } => {
                write!(f, "queue {queue} is below queue {parent}, which does not exist")
            }
            Reason::QueueCycle { queue, circle } => {
                let back = circle.first().map_or("", String::as_str);
                write!(
                    f,
                    "the parents of queue {queue} lead in a circle: {} is below {back}",
                    circle.join(" is below ")
                )
            }
            Reason::NamespaceNotAllowed { queue, namespace } => {
                write!(f, "queue {queue} does not admit namespace {namespace}")
            }
            Reason::NoSuchClaim { claim } => write!(
                f,
                "claim {claim}, which the pod's label duosuan.io/claim names, does not exist; create it in the pod's \
                 namespace, or make the pod without that label"
            ),
            Reason::NoSuchGroup { group } if group.is_empty() => {
                write!(
                    f,
                    "the pod names a claim but no group of it; set the label duosuan.io/group"
                )
            }
            Reason::NoSuchGroup { group } => write!(
                f,
                "the claim has no group {group}, which the pod's label duosuan.io/group names; add the group to the \
                 claim, or make the pod with the name of one that is there"
            ),
            Reason::GroupFull { group, max } => write!(
                f,
                "group {group} has its {} already; the pod starts when one of them ends, or when the group's max is \
                 raised",
                pods(*max)
            ),
            Reason::GangIncomplete { group, have, need } => {
                write!(f, "group {group} has {have} of the {need} pods that it needs to start")
            }
            Reason::PodExceedsGroup {
                pod,
                resource,
                asked,
                stated,
            } => {
                let (asked, stated) = (amount(resource, *asked), amount(resource, *stated));
                write!(f, "pod {pod} asks for {asked} and its group states {stated}")
            }
            Reason::ExceedsLimit {
                queue,
                resource,
                asked,
                limit,
            } => {
                let (asked, limit) = (amount(resource, *asked), amount(resource, *limit));
                write!(f, "it asks for {asked}, and the limit of queue {queue} is {limit}")
            }
            Reason::WaitingForQuota {
                queue,
                resource,
                asked,
                left,
            } => {
                let (asked, left) = (amount(resource, *asked), amount(resource, *left));
                write!(
                    f,
                    "it asks for {asked}, and {left} are left below the limit of queue {queue}"
                )
            }
            Reason::KeptForOthers {
                queue,
                resource,
                asked,
                free,
                kept,
            } => {
                let [asked, free, kept] = [asked, free, kept].map(|value| amount(resource, *value));
                write!(
                    f,
                    "it asks for {asked}; of the {free} that are free, {kept} are kept for queues that do not lend them, \
                     most of it for queue {queue}"
                )
            }
            Reason::NoNodeFits {
                placed, need, nodes, ..
            } => {
                let all: u64 = nodes.iter().map(|(_, n)| u64::from(*n)).sum();
                if *need > 1 {
                    write!(f, "{placed} of {need} pods find a node at once; ")?;
                }
                write!(f, "0/{all} nodes are available")?;
                for (i, (constraint, count)) in nodes.iter().enumerate() {
                    write!(f, "{} {count} {constraint}", if i == 0 { ":" } else { "," })?;
                }
                Ok(())
            }
            Reason::TopologyTooSmall {
                level,
                unit,
                need,
                best,
                areas,
                home,
                ..
            } => {
                let is_amount = !matches!(unit.as_str(), "pods" | "GPUs");
                let written = |value: u64| amount(unit, i64::try_from(value).unwrap_or(i64::MAX));
                let (need, best, unit) = match (is_amount, *need) {
                    (true, _) => (written(*need), written(*best), String::new()),
                    (false, 1) => (
                        need.to_string(),
                        best.to_string(),
                        format!(" {}", unit.trim_end_matches('s')),
                    ),
                    (false, _) => (need.to_string(), best.to_string(), format!(" {unit}")),
                };
                let word = level.word();
                match home {
                    Home::In(area) => write!(
                        f,
                        "it needs {need} more{unit} in {word} {area}, where its others run, and that has room for {best}"
                    ),
                    Home::Apart => write!(
                        f,
                        "it needs {need} more{unit} in the same {word} as its others, and these are not in one {word}"
                    ),
                    Home::Free if *areas == 0 && matches!(level, Level::Numa | Level::Nvlink) => {
                        write!(f, "it needs {need}{unit} in one {word}, and no node reports {word}s")
                    }
                    Home::Free if *areas == 0 => write!(
                        f,
                        "it needs {need}{unit} in one {word}, and no node says which {word} it is in"
                    ),
                    Home::Free => write!(f, "it needs {need}{unit} in one {word}; the best {word} has {best}"),
                }
            }
            Reason::LookingForRoom { of: 0, .. } => write!(
                f,
                "it has no place; the work of one cycle was not enough to find out whether evictions help, and the next \
                 cycle goes on"
            ),
            Reason::LookingForRoom { level, tried, of } => write!(
                f,
                "it has no place; whether evictions help was looked for in {tried} of {of} {}s in vain, and the next \
                 cycle goes on with the others",
                level.word()
            ),
            Reason::WaitingForEviction { pods: count } => {
                write!(
                    f,
                    "its place is found, and {} that sit there are being evicted",
                    pods(*count)
                )
            }
            Reason::WaitingForReservation {
                claim,
                start,
                length,
                hold,
            } => {
                let start = moment(*start);
                if *hold {
                    write!(
                        f,
                        "there is room, and it is kept for {claim}, which has waited for long; until {start} it is lent to what ends by then; "
                    )?;
                } else {
                    write!(
                        f,
                        "there is room, and it is kept for {claim}, which starts by {start}; "
                    )?;
                }
                match length {
                    Some(length) => write!(f, "this one takes {}", span(*length)),
                    None => f.write_str("this one states no expectedDuration"),
                }
            }
            Reason::WaitingForWindow { start, kept: true } => {
                write!(
                    f,
                    "its window opens at {}, and its place is kept for then",
                    moment(*start)
                )
            }
            Reason::WaitingForWindow { start, kept: false } => {
                let start = moment(*start);
                write!(
                    f,
                    "its window opens at {start}, and no place can be kept: what runs is not expected to end by then"
                )
            }
            Reason::WindowOver { end } => {
                write!(f, "its window ended at {} without a place for it", moment(*end))
            }
            Reason::Gated => f.write_str("its pods have scheduling gates"),
            Reason::BindingFailed {
                pod,
                message,
                refused: true,
            } => write!(
                f,
                "the API server refuses to bind pod {pod}, and nothing more is bound until it allows it, which is asked \
                 every minute: {message}"
            ),
            Reason::BindingFailed { pod, message, .. } => write!(
                f,
                "pod {pod} has a place and could not be bound, which is tried again within a minute: {message}"
            ),
            Reason::Refused { message } => f.write_str(message),
            Reason::StaleReports { nodes } => {
                write!(
                    f,
                    "{nodes} nodes would fit, but their reports are too old to place anything by them"
                )
            }
        }
    }
}

fn pods(count: u32) -> String {
    if count == 1 {
        "1 pod".into()
    } else {
        format!("{count} pods")
    }
}

/// A time as people write it, to the second: `2026-12-24T06:00:00Z`.
pub(crate) fn moment(time: Time) -> String {
    let seconds = time.0.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days of the proleptic Gregorian calendar, in eras of 400 years (146,097 days) that begin on 1 March: by Howard
    // Hinnant's `civil_from_days`.
    let from_march = days.saturating_add(719_468);
    let (era, day) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A span of time as people write it: `90m`, `2h`, `45s`, `300ms`.
pub(crate) fn span(millis: i64) -> String {
    match millis {
        m if m >= 3_600_000 && m % 3_600_000 == 0 => format!("{}h", m / 3_600_000),
        m if m >= 60_000 && m % 60_000 == 0 => format!("{}m", m / 60_000),
        m if m >= 1000 => format!("{}s", m / 1000),
        m => format!("{m}ms"),
    }
}

/// An amount of a resource as people write it: `1500m cpu`, `4 cpu`, `3 Gi memory`, `0.5 gpu`.
#[must_use]
pub fn amount(resource: &str, value: i64) -> String {
    let plain = resource
        .strip_prefix("duosuan.io/batch-")
        .or_else(|| resource.strip_prefix("duosuan.io/mid-"));
    match plain.unwrap_or(resource) {
        "cpu" if value % 1000 == 0 => format!("{} {resource}", value / 1000),
        "cpu" => format!("{value}m {resource}"),
        "gpu" if value % 1000 == 0 => format!("{} {resource}", value / 1000),
        "gpu" => format!("{value}m {resource}"),
        "memory" | "ephemeral-storage" => format!("{} {resource}", bytes(value)),
        _ => format!("{value} {resource}"),
    }
}

fn bytes(value: i64) -> String {
    for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
        let one = 1_i64 << shift;
        if value >= one {
            // Rounded up: less would not be enough.
            let tenths = (i128::from(value) * 10 + i128::from(one) - 1) / i128::from(one);
            return if tenths % 10 == 0 {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            };
        }
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(amount("cpu", 1500), "1500m cpu");
        assert_eq!(amount("duosuan.io/batch-cpu", 4000), "4 duosuan.io/batch-cpu");
        assert_eq!(amount("memory", 3 << 30), "3 Gi memory");
        assert_eq!(amount("memory", (1 << 30) + 1), "1.1 Gi memory");
        assert_eq!(amount("gpu", 500), "500m gpu");
        assert_eq!(amount("example.com/nic", 2), "2 example.com/nic");
    }

    #[test]
    fn times_and_spans_read_as_people_write_them() {
        assert_eq!(moment(Time(0)), "1970-01-01T00:00:00Z");
        assert_eq!(moment(Time(1_798_092_000_999)), "2026-12-24T06:00:00Z");
        assert_eq!(moment(Time(951_782_400_000)), "2000-02-29T00:00:00Z");
        assert_eq!(moment(Time(-1)), "1969-12-31T23:59:59Z");
        assert_eq!(
            [7_200_000, 5_400_000, 61_500, 300].map(span),
            ["2h", "90m", "61s", "300ms"]
        );
    }

    #[test]
    fn a_reason_is_a_sentence_with_its_numbers() {
        let reason = Reason::NoNodeFits {
            constraint: "insufficient cpu".into(),
            placed: 2,
            need: 3,
            nodes: vec![("insufficient cpu".into(), 4), ("node affinity".into(), 1)],
        };
        assert_eq!(
            reason.to_string(),
            "2 of 3 pods find a node at once; 0/5 nodes are available: 4 insufficient cpu, 1 node affinity"
        );
    }
}
