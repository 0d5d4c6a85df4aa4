//! One value in a cgroup: a file, or the line of one device in it.
//!
//! `io.max 254:0` is the line of that device in `io.max`; `io.weight` and `io.bfq.weight` are the default in the file of
//! that name. Everything else is a whole file.

use duosuan_cgroup::{Cause, Cgroup, CpuMax, Error};

use crate::fault::{self, Point};

/// A device that `io.max` has no line for.
const UNLIMITED: &str = "rbps=max wbps=max riops=max wiops=max";
const DEFAULT: &str = "default ";

/// The file that a slot is in.
pub(super) fn file(slot: &str) -> &str {
    slot.split_once(' ').map_or(slot, |(file, _)| file)
}

/// Whether somebody else's change of it may wait: nobody is slowed by it, and there is one for each pod.
pub(super) fn patient(slot: &str) -> bool {
    matches!(slot, "memory.low" | "io.weight" | "io.bfq.weight" | "cpu.max.burst")
}

/// What it holds; `None` if this kernel does not have the file.
pub(super) fn read(group: &Cgroup, slot: &str) -> Result<Option<String>, Error> {
    let Some(text) = group.read(file(slot))? else {
        return Ok(None);
    };
    Ok(Some(match slot.split_once(' ') {
        Some((_, device)) => {
            let line = text
                .lines()
                .find_map(|line| line.split_once(' ').filter(|(d, _)| *d == device));
            line.map_or(UNLIMITED, |(_, limits)| limits.trim()).to_owned()
        }
        None if is_weight(slot) => {
            let line = text.lines().find_map(|line| line.strip_prefix(DEFAULT));
            line.unwrap_or(&text).trim().to_owned()
        }
        None => text,
    }))
}

/// Writes it and reads it back.
pub(super) fn write(group: &Cgroup, slot: &str, value: &str) -> Result<(), Error> {
    let text = match slot.split_once(' ') {
        Some((_, device)) => format!("{device} {value}"),
        None if is_weight(slot) => format!("{DEFAULT}{value}"),
        // Nothing at all would be no write.
        None if value.is_empty() => "\n".to_owned(),
        None => value.to_owned(),
    };
    group.write(file(slot), &text)?;
    fault::reach(Point::Written);
    let now = read(group, slot)?.unwrap_or_default();
    if now == value {
        return Ok(());
    }
    let wanted = "what was just written";
    Err(Error {
        path: group.path().join(slot),
        cause: Cause::Text { text: now, wanted },
    })
}

/// What is to be written where `before` was found: a limit that was there is never loosened, a protection never lowered.
pub(super) fn combined(slot: &str, before: &str, wanted: &str) -> String {
    let keep = |keep| if keep { before } else { wanted }.to_owned();
    match file(slot) {
        "cpu.max" => keep(tighter_share(before, wanted)),
        // Whoever chose CPUs for it knows why.
        "cpuset.cpus" => keep(!before.is_empty()),
        "memory.high" => keep(bytes(before) <= bytes(wanted)),
        "memory.low" | "cpu.max.burst" => keep(bytes(before) >= bytes(wanted)),
        "io.max" => {
            let of = |key: &str| {
                let found = before.split(' ').find_map(|word| word.strip_prefix(key));
                found.unwrap_or("max")
            };
            let each = wanted.split(' ').map(|word| {
                let (key, value) = word.split_once('=').unwrap_or((word, "max"));
                let there = of(&format!("{key}="));
                format!("{key}={}", if bytes(there) < bytes(value) { there } else { value })
            });
            each.collect::<Vec<_>>().join(" ")
        }
        _ => wanted.to_owned(),
    }
}

fn is_weight(slot: &str) -> bool {
    matches!(slot, "io.weight" | "io.bfq.weight")
}

/// `max` is more than any number.
fn bytes(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

/// Whether `before` allows less CPU than `wanted`, or as much.
fn tighter_share(before: &str, wanted: &str) -> bool {
    let share = |text: &str| {
        let max: CpuMax = text.parse().ok()?;
        Some(u128::from(max.quota?) * 1_000_000 / u128::from(max.period.max(1)))
    };
    matches!((share(before), share(wanted)), (Some(b), Some(w)) if b <= w)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_line_of_io_max_and_a_default_weight_are_read_alone() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        put(
            "io.max",
            "8:0 rbps=1 wbps=max riops=max wiops=max\n254:0 rbps=2 wbps=3 riops=4 wiops=5\n",
        );
        put("io.weight", "default 100\n8:0 50\n");
        put("io.bfq.weight", "100\n");
        let group = Cgroup::open(dir.path()).unwrap();
        let slot = |name: &str| read(&group, name).unwrap();
        assert_eq!(slot("io.max 254:0").as_deref(), Some("rbps=2 wbps=3 riops=4 wiops=5"));
        assert_eq!(slot("io.max 254:16").as_deref(), Some(UNLIMITED));
        assert_eq!(slot("io.weight").as_deref(), Some("100"));
        assert_eq!(slot("io.bfq.weight").as_deref(), Some("100"));
        assert_eq!(slot("memory.high"), None);
    }

    #[test]
    fn what_was_there_is_never_loosened() {
        assert_eq!(combined("cpuset.cpus", "", "3"), "3");
        assert_eq!(combined("cpuset.cpus", "0-1", "3"), "0-1");
        assert_eq!(combined("memory.high", "4096", "8192"), "4096");
        assert_eq!(combined("memory.high", "max", "8192"), "8192");
        assert_eq!(combined("memory.low", "max", "8192"), "max");
        assert_eq!(combined("memory.low", "0", "8192"), "8192");
        assert_eq!(combined("cpu.max.burst", "9000", "8192"), "9000");
        assert_eq!(combined("cpu.max", "50000 100000", "max 100000"), "max 100000");
        assert_eq!(combined("cpu.max", "50000 100000", "60000 100000"), "50000 100000");
        assert_eq!(
            combined(
                "io.max 8:0",
                "rbps=5 wbps=max riops=9 wiops=max",
                "rbps=7 wbps=7 riops=7 wiops=7"
            ),
            "rbps=5 wbps=7 riops=7 wiops=7"
        );
    }
}
