//! `/proc/loadavg`, `vmstat` and `diskstats`: what is counted of the whole node for people to look at.

use crate::{error::Error, proc::Proc, text::Shape};

/// Bytes of a sector, as block devices are counted, whatever their own are.
const SECTOR: u64 = 512;
/// Microseconds of the milliseconds that devices are timed in.
const MILLI: u64 = 1_000;

/// `/proc/vmstat`, the part of it that is used. Pages, but for the faults and the kills; since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmStat {
    /// Read from swap.
    pub swapped_in: u64,
    /// Written to swap.
    pub swapped_out: u64,
    /// Faults that waited for a device.
    pub major_faults: u64,
    /// Reclaimed in the background.
    pub reclaimed: u64,
    /// Reclaimed by those who wanted memory, who waited for it.
    pub reclaimed_direct: u64,
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
}

/// A block device since boot, or since it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStat {
    /// Reads that were completed.
    pub reads: u64,
    /// Writes that were completed.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Time in which a request was under way, microseconds.
    pub busy: u64,
    /// The same, counted once for each request, microseconds.
    pub waited: u64,
}

impl Proc {
    /// `/proc/loadavg`: processes that ran or waited in the mean of 1, 5 and 15 minutes, hundredths. `None` where it is not there.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read.
    pub fn load(&self) -> Result<Option<[u32; 3]>, Error> {
        let root = self.root();
        root.read_again("loadavg", |text| {
            let hundredths = |word: &str| {
                let (whole, part) = word.split_once('.')?;
                let (whole, part): (u32, u32) = (whole.parse().ok()?, part.get(..2)?.parse().ok()?);
                whole.checked_mul(100)?.checked_add(part)
            };
            let mut words = text.split_ascii_whitespace().map(hundredths);
            let mut next = || words.next().flatten();
            let mut load = || Some([next()?, next()?, next()?]);
            load().ok_or_else(|| root.wrong("loadavg", text, "three loads"))
        })
    }

    /// `/proc/vmstat`; what a kernel does not count is 0. `None` where it is not there.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read.
    pub fn vmstat(&self) -> Result<Option<VmStat>, Error> {
        let root = self.root();
        root.read_in("vmstat", Shape::Any, |text| {
            let mut stat = VmStat::default();
            for line in text.lines() {
                let Some((key, value)) = line.split_once(' ') else {
                    return Err(root.wrong("vmstat", line, "a key and a whole number"));
                };
                let of = match key {
                    "pswpin" => &mut stat.swapped_in,
                    "pswpout" => &mut stat.swapped_out,
                    "pgmajfault" => &mut stat.major_faults,
                    "pgsteal_kswapd" => &mut stat.reclaimed,
                    "pgsteal_direct" => &mut stat.reclaimed_direct,
                    "oom_kill" => &mut stat.oom_kills,
                    _ => continue,
                };
                let value = value.trim().parse();
                *of = value.map_err(|_| root.wrong("vmstat", line, "a key and a whole number"))?;
            }
            Ok(stat)
        })
    }

    /// `/proc/diskstats`: calls `take` with each device by its name, partitions included. `None` where it is not there.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read, or a line is no device's.
    pub fn diskstats(&self, mut take: impl FnMut(&str, DiskStat)) -> Result<Option<()>, Error> {
        let root = self.root();
        root.read_in("diskstats", Shape::Any, |text| {
            for line in text.lines() {
                let (name, stat) =
                    disk(line).ok_or_else(|| root.wrong("diskstats", line, "a device with its counters"))?;
                take(name, stat);
            }
            Ok(())
        })
    }
}

/// `254 0 vda reads merged sectors ms writes merged sectors ms in-flight busy-ms waited-ms ...`
fn disk(line: &str) -> Option<(&str, DiskStat)> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let name = words.next()?;
    let mut next = || words.next()?.parse::<u64>().ok();
    let (reads, _, read, _) = (next()?, next()?, next()?, next()?);
    let (writes, _, written, _) = (next()?, next()?, next()?, next()?);
    let (_, busy, waited) = (next()?, next()?, next()?);
    let stat = DiskStat {
        reads,
        writes,
        read_bytes: read.saturating_mul(SECTOR),
        written_bytes: written.saturating_mul(SECTOR),
        busy: busy.saturating_mul(MILLI),
        waited: waited.saturating_mul(MILLI),
    };
    Some((name, stat))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::path::Path;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Proc) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let proc = Proc::open(dir.path()).unwrap();
        (dir, proc)
    }

    #[test]
    fn load_memory_and_disks_are_read() {
        let (_dir, proc) = folder(&[
            ("loadavg", "0.20 10.18 123.02 1/80 11206\n"),
            (
                "vmstat",
                "nr_free_pages 5\npswpin 1\npswpout 2\npgmajfault 3\npgsteal_kswapd 4\npgsteal_direct 5\noom_kill 6\n",
            ),
            (
                "diskstats",
                " 254       0 vda 10 1 16 7 20 2 32 8 0 9 15 0 0 0 0 0 0\n 254 1 vda1 1 0 8 1 0 0 0 0 0 1 1\n",
            ),
        ]);
        assert_eq!(proc.load().unwrap(), Some([20, 1_018, 12_302]));
        let expected = VmStat {
            swapped_in: 1,
            swapped_out: 2,
            major_faults: 3,
            reclaimed: 4,
            reclaimed_direct: 5,
            oom_kills: 6,
        };
        assert_eq!(proc.vmstat().unwrap(), Some(expected));
        let mut disks = Vec::new();
        proc.diskstats(|name, stat| disks.push((name.to_owned(), stat)))
            .unwrap();
        let vda = DiskStat {
            reads: 10,
            writes: 20,
            read_bytes: 8192,
            written_bytes: 16_384,
            busy: 9_000,
            waited: 15_000,
        };
        assert_eq!((disks.len(), disks.first()), (2, Some(&("vda".to_owned(), vda))));
    }

    #[test]
    fn what_is_not_there_is_none_and_nonsense_is_named() {
        let (_dir, proc) = folder(&[]);
        assert_eq!((proc.load().unwrap(), proc.vmstat().unwrap()), (None, None));
        assert_eq!(proc.diskstats(|_, _| {}).unwrap(), None);
        let (_dir, proc) = folder(&[
            ("loadavg", "0.20 much 0.1"),
            ("vmstat", "pswpin many"),
            ("diskstats", "254 0 vda 1 2"),
        ]);
        let said = |error: Error| error.to_string();
        assert!(said(proc.load().unwrap_err()).contains("is not three loads"));
        assert!(said(proc.vmstat().unwrap_err()).contains("\"pswpin many\" is not a key"));
        assert!(said(proc.diskstats(|_, _| {}).unwrap_err()).contains("is not a device with its counters"));
    }

    #[test]
    fn this_kernel_is_read() {
        let proc = Proc::open(Path::new("/proc")).unwrap();
        assert!(proc.load().unwrap().is_some());
        assert!(proc.vmstat().unwrap().is_some());
        proc.diskstats(|name, _| assert!(!name.is_empty())).unwrap();
    }
}
