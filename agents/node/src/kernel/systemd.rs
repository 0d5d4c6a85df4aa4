//! What systemd is told of a setting, where a cgroup is a unit of its.
//!
//! Under the kubelet's systemd driver each cgroup of a pod is a slice. systemd writes all settings of a controller again
//! whenever one of the unit's properties changes (the kubelet changes some every minute) and on each `daemon-reload`; what
//! was written into the file beside it is lost. So what systemd has a property for is set as that property, too, at run
//! time only. The file is written first: prod does not wait for a bus. What systemd has no property for (`cpu.max.burst`,
//! `memory.reclaim`) it never writes either, and of `io.max` it writes only devices that were told to it. Nor is it told
//! of `memory.high`, whose writer reclaims what is above: that must not be systemd, which starts and stops all that the
//! machine runs.

use std::{
    collections::BTreeMap,
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
    zvariant::{OwnedObjectPath, OwnedValue, Value},
};

use crate::journal::Key;

/// Where systemd's machines have it. The older `/var/run` is a link to there that a container's image may lack.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
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
/// An answer of the bus that takes longer is none. A `daemon-reload` of a large machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// A property of a unit.
type Property = (&'static str, u64);

/// systemd, behind a thread that talks to it: nobody waits for it who does not want to.
#[derive(Debug)]
pub(super) struct Systemd {
    requests: Sender<Request>,
    answers: Receiver<(Key, u64, Answer)>,
    /// What is not answered yet: the number of the last request of each setting, and since when.
    open: BTreeMap<Key, (u64, Instant)>,
    last: u64,
}

#[derive(Debug)]
struct Request {
    key: Key,
    number: u64,
    unit: String,
    properties: Vec<Property>,
}

/// What became of it: a unit that is not systemd's, or not any more, needs nothing.
pub(super) type Answer = Result<(), String>;

impl Systemd {
    /// systemd, if it runs the machine that this cgroup tree belongs to: a fixture in a folder is nobody's.
    pub(super) fn of(root: &Cgroup) -> Option<Self> {
        let real = statfs(root.path()).is_ok_and(|s| s.f_type == CGROUP2);
        // systemd lives in a cgroup of this name, on every machine that it runs.
        if !real || root.child("init.scope").is_err() {
            return None;
        }
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| BUS.to_owned());
        Self::at(address)
    }

    /// systemd behind the bus at this address.
    pub(super) fn at(address: String) -> Option<Self> {
        let (requests, received) = channel();
        let (answer, answers) = channel();
        let thread = thread::Builder::new().name("systemd".to_owned());
        match thread.spawn(move || serve(&address, &received, &answer)) {
            Ok(_) => Some(Self {
                requests,
                answers,
                open: BTreeMap::new(),
                last: 0,
            }),
            Err(error) => {
                tracing::warn!("no thread to talk to systemd: {error}; it is told nothing");
                None
            }
        }
    }

    /// Has a setting made a property of its unit, in the place of what was asked for it before. `weight` is what
    /// `cpu.weight` holds where `cpu.idle` is ended. False if the cgroup is no unit, or systemd has no such property.
    pub(super) fn tell(&mut self, key: &Key, value: &str, weight: Option<&str>) -> bool {
        let (path, slot) = key;
        let Some((unit, properties)) = unit(path).zip(properties(slot, value, weight)) else {
            return false;
        };
        self.last += 1;
        let request = Request {
            key: key.clone(),
            number: self.last,
            unit: unit.to_owned(),
            properties,
        };
        // A thread that has ended answers nobody, and there is nothing to wait for.
        let sent = self.requests.send(request).is_ok();
        if sent {
            self.open.insert(key.clone(), (self.last, Instant::now()));
        }
        sent
    }

    /// Whether systemd has been told something of this cgroup and has not answered yet. Later than it takes to give an
    /// answer up, it is not at it any more, though others may wait before it.
    pub(super) fn is_at(&self, path: &str, now: Instant) -> bool {
        let mut of_it = self.open.iter().filter(|((of, _), _)| of == path);
        of_it.any(|(_, (_, since))| now.saturating_duration_since(*since) < PATIENCE)
    }

    /// Whether it has not answered yet what it was told of this setting.
    pub(super) fn is_open(&self, key: &Key) -> bool {
        self.open.contains_key(key)
    }

    /// The next answer to what was asked last of a setting, waiting for it for so long; `None` where none came.
    pub(super) fn answer(&mut self, wait: Duration) -> Option<(Key, Answer)> {
        loop {
            let (key, number, answer) = self.answers.recv_timeout(wait).ok()?;
            if self.open.get(&key).is_some_and(|(last, _)| *last == number) {
                self.open.remove(&key);
                return Some((key, answer));
            }
        }
    }
}

/// Carries out requests, one after the other, until nobody can make any.
fn serve(address: &str, requests: &Receiver<Request>, answers: &Sender<(Key, u64, Answer)>) {
    let mut bus = Bus::default();
    while let Ok(first) = requests.recv() {
        let mut waiting = vec![first];
        waiting.extend(requests.try_iter());
        for request in latest(waiting) {
            let answer = bus.connected(address).and_then(|bus| set(bus, &request));
            if answer.as_ref().is_err_and(|error| !is_refusal(error)) {
                bus.connection = None;
            }
            let answer = answer.map_err(|error| format!("{error:#}"));
            if answers.send((request.key, request.number, answer)).is_err() {
                return;
            }
        }
    }
}

/// The last request of each setting, in their order.
fn latest(requests: Vec<Request>) -> Vec<Request> {
    let last: BTreeMap<Key, u64> = requests.iter().map(|r| (r.key.clone(), r.number)).collect();
    let is_last = |r: &Request| last.get(&r.key) == Some(&r.number);
    requests.into_iter().filter(is_last).collect()
}

/// The way to systemd.
#[derive(Default)]
struct Bus {
    connection: Option<Connection>,
    /// A connection that is being made: nothing ends the wait for a bus that accepts and says nothing, so that another thread
    /// waits for it.
    coming: Option<Receiver<zbus::Result<Connection>>>,
}

impl Bus {
    /// The connection, a new one if there is none.
    fn connected(&mut self, address: &str) -> anyhow::Result<&Connection> {
        if self.connection.is_none() {
            let coming = match self.coming.take() {
                Some(coming) => coming,
                None => connect(address.to_owned())?,
            };
            let new = match coming.recv_timeout(PATIENCE) {
                Ok(new) => new.map_err(anyhow::Error::from),
                Err(RecvTimeoutError::Timeout) => {
                    self.coming = Some(coming);
                    Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()))
                }
                Err(RecvTimeoutError::Disconnected) => Err(anyhow::anyhow!("it came to nothing")),
            };
            let new = new.context(
                "no way to systemd: mount the host's /run/dbus into the agent's container, let it be used (AppArmor and \
                 SELinux may forbid it), or set DBUS_SYSTEM_BUS_ADDRESS; until then cgroup files are written again whenever \
                 systemd takes that back",
            )?;
            tracing::info!("settings of units are made through systemd");
            self.connection = Some(new);
        }
        self.connection.as_ref().context("no connection")
    }
}

/// A connection that another thread makes.
fn connect(address: String) -> std::io::Result<Receiver<zbus::Result<Connection>>> {
    let (made, coming) = channel();
    let make = move || {
        let builder = Builder::address(address.as_str()).map(|builder| builder.method_timeout(PATIENCE));
        // If nobody waits any more, it is not needed.
        let _ = made.send(builder.and_then(Builder::build));
    };
    thread::Builder::new().name("systemd-connect".to_owned()).spawn(make)?;
    Ok(coming)
}

fn set(bus: &Connection, request: &Request) -> anyhow::Result<()> {
    let manager = Proxy::new(bus, DESTINATION, "/org/freedesktop/systemd1", MANAGER)?;
    let unit = match manager.call::<_, _, OwnedObjectPath>("GetUnit", &(&request.unit,)) {
        Ok(unit) => unit,
        Err(error) if name(&error).is_some_and(|name| name.ends_with(".NoSuchUnit")) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("asking systemd for unit {}", request.unit)),
    };
    let kind = if request.unit.ends_with(".scope") {
        "Scope"
    } else {
        "Slice"
    };
    // Not as a property of the proxy, which would ask for all 200 of them, and be told of each change from then on.
    let unit = Proxy::new(bus, DESTINATION, unit, "org.freedesktop.DBus.Properties")?;
    let place: OwnedValue = unit.call("Get", &(format!("{DESTINATION}.{kind}"), "ControlGroup"))?;
    // Another tree's unit of the same name, or one whose cgroup is not made yet, is not the one that is meant.
    let (path, _) = &request.key;
    if String::try_from(place)?.strip_prefix('/') != Some(path) {
        return Ok(());
    }
    let properties: Vec<(&str, Value<'_>)> = request.properties.iter().map(|(n, v)| (*n, Value::U64(*v))).collect();
    const RUNTIME: bool = true;
    let done = manager.call::<_, _, ()>("SetUnitProperties", &(&request.unit, RUNTIME, &properties));
    done.with_context(|| format!("setting {:?} of unit {}", request.properties, request.unit))
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

    fn key(slot: &str) -> Key {
        ("batch.slice".to_owned(), slot.to_owned())
    }

    #[test]
    fn nobody_waits_for_a_bus_that_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        // Whoever connects waits to be let in.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut systemd = Systemd::at(format!("unix:path={}", socket.display())).unwrap();
        assert!(systemd.tell(&key("io.weight"), "10", None));
        assert!(systemd.tell(&key("memory.low"), "10", None));
        let now = Instant::now();
        assert!(systemd.is_at("batch.slice", now) && !systemd.is_at("online.slice", now));
        // A rewrite after that is somebody's, and counts.
        assert!(!systemd.is_at("batch.slice", now + PATIENCE));
        assert_eq!(systemd.answer(Duration::ZERO), None);
        // It has no property for this one, and is not asked.
        assert!(!systemd.tell(&key("memory.high"), "10", None));
    }

    #[test]
    fn without_a_bus_it_is_said_how_to_give_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut systemd = Systemd::at(format!("unix:path={}/none", dir.path().display())).unwrap();
        assert!(systemd.tell(&key("cpu.weight"), "10", None));
        let (of, answer) = systemd.answer(PATIENCE).unwrap();
        assert_eq!(of, key("cpu.weight"));
        let error = answer.unwrap_err();
        assert!(
            error.starts_with("no way to systemd: mount the host's /run/dbus"),
            "{error}"
        );
        assert!(!systemd.is_at("batch.slice", Instant::now()));
    }

    #[test]
    fn of_what_was_asked_for_a_setting_the_last_counts() {
        let request = |slot, number| Request {
            key: key(slot),
            number,
            unit: "batch.slice".to_owned(),
            properties: Vec::new(),
        };
        let all = vec![
            request("cpu.idle", 1),
            request("cpu.max", 2),
            request("io.weight", 3),
            request("cpu.max", 4),
        ];
        let numbers: Vec<u64> = latest(all).iter().map(|r| r.number).collect();
        assert_eq!(numbers, [1, 3, 4]);
    }

    #[test]
    fn a_folder_that_looks_like_a_tree_is_not_systemds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("init.scope")).unwrap();
        assert!(Systemd::of(&Cgroup::open(dir.path()).unwrap()).is_none());
    }
}
