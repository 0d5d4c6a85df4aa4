//! The way to a setting through systemd, where a cgroup is a unit of its.
//!
//! Under the kubelet's systemd driver each cgroup of a pod is a slice. systemd writes all settings of a controller again
//! whenever one of the unit's properties changes (the kubelet changes some every minute) and on each `daemon-reload`; what
//! was written into the file beside it is lost. So what systemd has a property for is set as that property, at run time
//! only. What it has none for (`cpu.max.burst`, `memory.reclaim`) it never writes either, and of `io.max` it writes only
//! devices that were told to it: these go into the files. So does `memory.high`, whose writer reclaims what is above: that
//! must not be systemd, which starts and stops all that the machine runs.

use std::{
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use duosuan_cgroup::{Cgroup, CpuMax};
use rustix::fs::{FsWord, statfs};
use zbus::{
    blocking::{Connection, Proxy, connection::Builder},
    zvariant::{OwnedObjectPath, Value},
};

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// `statfs` of a cgroup v2 tree: `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2: FsWord = 0x6367_7270;
/// How systemd writes "no limit", and "not set".
const INFINITY: u64 = u64::MAX;
/// The period that systemd uses unless told another, microseconds.
const PERIOD: u64 = 100_000;
/// The shortest quota that systemd writes, microseconds.
const SHORTEST: u64 = 1_000;
/// An answer that takes longer holds back what the node waits for.
const PATIENCE: Duration = Duration::from_millis(500);
/// A bus that did not answer is asked again after that.
const RETRY: Duration = Duration::from_secs(30);
/// systemd answers before it has written; it writes once nothing else is to be done.
const SETTLE: Duration = Duration::from_millis(250);
const SETTLE_STEP: Duration = Duration::from_millis(2);

/// A property of a unit.
type Property = (&'static str, u64);

/// systemd, behind a thread that talks to it: whoever asks waits a bounded time, whatever the bus does.
#[derive(Debug)]
pub(super) struct Systemd {
    requests: Sender<Request>,
}

#[derive(Debug)]
struct Request {
    unit: String,
    /// Where the cgroup is, from the root of the tree, as systemd has it.
    cgroup: String,
    properties: Vec<Property>,
    answer: Sender<Answer>,
}

/// Whether the unit is systemd's and has the properties now.
type Answer = Result<bool, String>;

impl Systemd {
    /// systemd, if it runs the machine that this cgroup tree belongs to: a fixture in a folder is nobody's.
    pub(super) fn of(root: &Cgroup) -> Option<Self> {
        let real = statfs(root.path()).is_ok_and(|s| s.f_type == CGROUP2);
        // systemd lives in a cgroup of this name, on every machine that it runs.
        if !real || root.child("init.scope").is_err() {
            return None;
        }
        let (requests, received) = channel();
        let thread = thread::Builder::new().name("systemd".to_owned());
        match thread.spawn(move || serve(&received)) {
            Ok(_) => Some(Self { requests }),
            Err(error) => {
                tracing::warn!("no thread to talk to systemd: {error}; cgroup files are written directly");
                None
            }
        }
    }

    /// Sets a slot of a cgroup as a property of its unit, and waits until systemd has written it. `weight` is what
    /// `cpu.weight` holds where `cpu.idle` is ended. False if systemd does not know the unit, or has no such property.
    pub(super) fn set(&self, group: &Cgroup, path: &str, slot: &str, value: &str, weight: Option<&str>) -> Answer {
        let Some(unit) = unit(path) else { return Ok(false) };
        let Some(properties) = properties(slot, value, weight) else {
            return Ok(false);
        };
        let (answer, answered) = channel();
        let request = Request {
            unit: unit.to_owned(),
            cgroup: format!("/{path}"),
            properties,
            answer,
        };
        let gone = || "the thread that talks to systemd has ended".to_owned();
        self.requests.send(request).map_err(|_| gone())?;
        // Twice: what was asked for before may still be waited for.
        let known = answered.recv_timeout(PATIENCE * 2).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("systemd did not answer for {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => gone(),
        })??;
        if known {
            settle(group, slot, value);
        }
        Ok(known)
    }
}

/// Waits until the file has the value; whoever asked reads it once more and says what is wrong.
fn settle(group: &Cgroup, slot: &str, value: &str) {
    let start = Instant::now();
    while start.elapsed() < SETTLE {
        match super::slot::read(group, slot) {
            Ok(Some(now)) if now != value => thread::sleep(SETTLE_STEP),
            _ => return,
        }
    }
}

/// Answers requests, one after the other, until nobody can make any.
fn serve(requests: &Receiver<Request>) {
    let mut bus = None;
    let mut failed: Option<(Instant, String)> = None;
    for request in requests {
        if let Some((when, why)) = failed.as_ref().filter(|(when, _)| when.elapsed() < RETRY) {
            tracing::debug!(since = ?when.elapsed(), "systemd is left alone for a while");
            let _ = request.answer.send(Err(why.clone()));
            continue;
        }
        let answer = connected(&mut bus).and_then(|bus| set(bus, &request));
        failed = match &answer {
            Err(error) if !is_refusal(error) => {
                bus = None;
                Some((Instant::now(), format!("{error:#}")))
            }
            _ => None,
        };
        let _ = request.answer.send(answer.map_err(|error| format!("{error:#}")));
    }
}

/// The connection, a new one if there is none.
fn connected(bus: &mut Option<Connection>) -> anyhow::Result<&Connection> {
    if bus.is_none() {
        let build = Builder::system().map(|builder| builder.method_timeout(PATIENCE));
        let new = build.and_then(Builder::build).context(
            "no way to systemd: mount the host's /run/dbus into the agent's container, or set DBUS_SYSTEM_BUS_ADDRESS; \
             cgroup files are written directly, and again whenever systemd takes that back",
        )?;
        tracing::info!("settings of units are made through systemd");
        *bus = Some(new);
    }
    bus.as_ref().context("no connection")
}

fn set(bus: &Connection, request: &Request) -> anyhow::Result<bool> {
    let manager = Proxy::new(bus, DESTINATION, "/org/freedesktop/systemd1", MANAGER)?;
    let unit = match manager.call::<_, _, OwnedObjectPath>("GetUnit", &(&request.unit,)) {
        Ok(unit) => unit,
        Err(error) if name(&error).is_some_and(|name| name.ends_with(".NoSuchUnit")) => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("asking systemd for unit {}", request.unit)),
    };
    let kind = if request.unit.ends_with(".scope") {
        "Scope"
    } else {
        "Slice"
    };
    let unit = Proxy::new(bus, DESTINATION, unit, format!("{DESTINATION}.{kind}"))?;
    // Another tree's unit of the same name, or one whose cgroup is not made yet, is not the one that is meant.
    if unit.get_property::<String>("ControlGroup")? != request.cgroup {
        return Ok(false);
    }
    let properties: Vec<(&str, Value<'_>)> = request.properties.iter().map(|(n, v)| (*n, Value::U64(*v))).collect();
    const RUNTIME: bool = true;
    let done = manager.call::<_, _, ()>("SetUnitProperties", &(&request.unit, RUNTIME, &properties));
    done.with_context(|| format!("setting {:?} of unit {}", request.properties, request.unit))?;
    Ok(true)
}

/// The name of an error that systemd answered.
fn name(error: &zbus::Error) -> Option<&str> {
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.as_str()),
        _ => None,
    }
}

/// Whether systemd answered, and does not want to: asking for something else may do.
fn is_refusal(error: &anyhow::Error) -> bool {
    let answered = error.downcast_ref::<zbus::Error>().and_then(name);
    answered.is_some_and(|name| !name.ends_with(".NoReply") && !name.ends_with(".ServiceUnknown"))
}

/// The unit whose cgroup it is.
fn unit(path: &str) -> Option<&str> {
    let last = Path::new(path).file_name()?.to_str()?;
    (last.ends_with(".slice") || last.ends_with(".scope")).then_some(last)
}

/// The properties that make systemd write `value` into `slot`; `None` where there are none.
///
/// Source: `systemd.resource-control(5)`, and `org.freedesktop.systemd1(5)` for names and types on the bus.
fn properties(slot: &str, value: &str, weight: Option<&str>) -> Option<Vec<Property>> {
    let number = |text: &str| match text {
        "max" => Some(INFINITY),
        text => text.parse().ok(),
    };
    let one = |name, value| Some(vec![(name, value)]);
    match slot {
        "cpu.max" => {
            let CpuMax { quota, period } = value.parse().ok()?;
            let per_second = match quota {
                // systemd keeps microseconds per second, and never less than a millisecond per period: what it would
                // round goes into the file as it is.
                Some(quota) => {
                    let second = quota.checked_mul(1_000_000)?;
                    let exact = quota >= SHORTEST && second.checked_rem(period)? == 0;
                    exact.then_some(second / period)?
                }
                None => INFINITY,
            };
            let period = if period == PERIOD { INFINITY } else { period };
            Some(vec![("CPUQuotaPeriodUSec", period), ("CPUQuotaPerSecUSec", per_second)])
        }
        "cpu.weight" => one("CPUWeight", number(value)?),
        // Weight 0 is how the bus says "idle", since systemd 252.
        "cpu.idle" if value == "1" => one("CPUWeight", 0),
        "cpu.idle" => one("CPUWeight", weight.map_or(Some(INFINITY), number)?),
        "memory.low" => one("MemoryLow", number(value)?),
        "io.weight" => one("IOWeight", number(value)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_setting_becomes_the_property_that_makes_systemd_write_it() {
        let of = |slot, value| properties(slot, value, Some("37"));
        let quota = |period, quota| Some(vec![("CPUQuotaPeriodUSec", period), ("CPUQuotaPerSecUSec", quota)]);
        assert_eq!(of("cpu.max", "190000 100000"), quota(INFINITY, 1_900_000));
        assert_eq!(of("cpu.max", "25000 50000"), quota(50_000, 500_000));
        assert_eq!(of("cpu.max", "max 100000"), quota(INFINITY, INFINITY));
        assert_eq!(of("cpu.idle", "1"), Some(vec![("CPUWeight", 0)]));
        assert_eq!(of("cpu.idle", "0"), Some(vec![("CPUWeight", 37)]));
        assert_eq!(properties("cpu.idle", "0", None), Some(vec![("CPUWeight", INFINITY)]));
        assert_eq!(of("memory.low", "max"), Some(vec![("MemoryLow", INFINITY)]));
        assert_eq!(of("memory.low", "4096"), Some(vec![("MemoryLow", 4096)]));
        assert_eq!(of("io.weight", "10"), Some(vec![("IOWeight", 10)]));
        // It would be systemd that reclaims, and nothing of the machine starts or stops meanwhile.
        assert_eq!(of("memory.high", "4096"), None);
        // systemd does not touch these.
        assert_eq!(of("cpu.max.burst", "0"), None);
        assert_eq!(of("io.max 254:0", "rbps=1 wbps=max riops=max wiops=max"), None);
        // Not what any file would hold: the kernel is to refuse it, by name of the file.
        assert_eq!(of("cpu.max", "a lot"), None);
        assert_eq!(of("cpu.max", "18446744073709551615 100000"), None);
        assert_eq!(of("cpu.max", "5000 0"), None);
        // What systemd would round.
        assert_eq!(of("cpu.max", "500 100000"), None);
        assert_eq!(of("cpu.max", "1000 300007"), None);
    }

    #[test]
    fn only_slices_and_scopes_are_units() {
        assert_eq!(
            unit("kubepods.slice/kubepods-besteffort.slice"),
            Some("kubepods-besteffort.slice")
        );
        assert_eq!(unit("kubepods/besteffort"), None);
        assert_eq!(unit(""), None);
    }

    #[test]
    fn a_folder_that_looks_like_a_tree_is_not_systemds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("init.scope")).unwrap();
        assert!(Systemd::of(&Cgroup::open(dir.path()).unwrap()).is_none());
    }
}
