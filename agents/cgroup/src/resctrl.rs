//! resctrl: groups of tasks that have a part of the last-level cache and of the memory bandwidth.

use std::{collections::BTreeSet, io, path::Path};

use rustix::io::Errno;

use crate::{
    dir::{Cgroup, failure},
    error::Error,
};

/// Where resctrl is mounted.
#[derive(Debug)]
pub struct Resctrl {
    root: Cgroup,
    folders: Folders,
}

/// How a group comes and goes: it is a folder, whose files the kernel puts in and takes out.
#[derive(Clone, Copy, Debug)]
pub struct Folders {
    /// Makes one.
    pub create: fn(&Path) -> io::Result<()>,
    /// Removes one.
    pub remove: fn(&Path) -> io::Result<()>,
}

impl Default for Folders {
    fn default() -> Self {
        Self {
            create: |path| std::fs::create_dir(path),
            remove: |path| std::fs::remove_dir(path),
        }
    }
}

/// Something that resctrl controls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its name in `schemata`: `L3`, or `L3CODE` and `L3DATA`, or `MB`.
    pub resource: String,
    /// Caches, or memory controllers, by number.
    pub domains: Vec<u32>,
    /// What may be set.
    pub range: Range,
}

/// What may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Some of the ways of a cache, next to each other.
    Ways {
        /// All ways.
        mask: u64,
        /// Fewest that may be given.
        least: u32,
    },
    /// A part of the bandwidth.
    Percent {
        /// Least that may be given.
        least: u32,
        /// It goes by steps of this.
        step: u32,
    },
}

/// A setting: `0=f` in the line `L3:0=f;1=f`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// `L3`.
    pub resource: String,
    /// Number of the domain.
    pub domain: u32,
    /// Its value, hexadecimal without leading zeros for a cache.
    pub value: String,
}

/// What a group uses, of all domains together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Last-level cache that it fills, bytes.
    pub occupancy: u64,
    /// Bytes that it moved from and to memory since the group was made.
    pub traffic: u64,
}

impl Resctrl {
    /// Opens it; `None` if resctrl is not mounted there, or there is nothing.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be opened.
    pub fn open(path: &Path, folders: Folders) -> Result<Option<Self>, Error> {
        match Cgroup::open(path) {
            Ok(root) => Ok(root.has("schemata").then_some(Self { root, folders })),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What can be controlled. Bandwidth that is counted in megabytes, by a mount option, is left out.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not what resctrl says.
    pub fn controls(&self) -> Result<Vec<Control>, Error> {
        let mut controls: Vec<Control> = Vec::new();
        for setting in self.settings(None)? {
            if let Some(control) = controls.iter_mut().find(|c| c.resource == setting.resource) {
                control.domains.push(setting.domain);
                continue;
            }
            if let Some(range) = self.range(&setting)? {
                controls.push(Control {
                    resource: setting.resource,
                    domains: vec![setting.domain],
                    range,
                });
            }
        }
        Ok(controls)
    }

    fn range(&self, setting: &Setting) -> Result<Option<Range>, Error> {
        let info = match self.root.child(&format!("info/{}", setting.resource)) {
            Ok(info) => info,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error),
        };
        let number = |file: &'static str, radix| {
            let Some(text) = info.read(file)? else { return Ok(None) };
            let number = u64::from_str_radix(text.trim(), radix);
            number.map(Some).map_err(|_| info.wrong(file, &text, "a whole number"))
        };
        let small = |number: Option<u64>| number.and_then(|n| u32::try_from(n).ok());
        if setting.resource.starts_with("L3") {
            let (mask, least) = (number("cbm_mask", 16)?, small(number("min_cbm_bits", 10)?));
            return Ok(mask.zip(least).map(|(mask, least)| Range::Ways { mask, least }));
        }
        let (least, step) = (
            small(number("min_bandwidth", 10)?),
            small(number("bandwidth_gran", 10)?),
        );
        let percent = setting.resource == "MB" && setting.value.parse().is_ok_and(|v: u32| v <= 100);
        let range = least.zip(step).map(|(least, step)| Range::Percent { least, step });
        Ok(range.filter(|_| percent))
    }

    /// Makes a group; one of that name that is there already is taken.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: ENOSPC where the processor has no more classes.
    pub fn create(&self, group: &str) -> Result<(), Error> {
        match (self.folders.create)(&self.root.path().join(group)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(self.refused(group, "create", &error)),
            _ => Ok(()),
        }
    }

    /// Removes a group; its tasks go to the default group. One that is not there is removed already.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn remove(&self, group: &str) -> Result<(), Error> {
        match (self.folders.remove)(&self.root.path().join(group)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.refused(group, "remove", &error)),
            _ => Ok(()),
        }
    }

    fn refused(&self, group: &str, action: &str, error: &io::Error) -> Error {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        failure(&self.root.path().join(group), action, errno)
    }

    /// `schemata` of a group, of the default group if none is given.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no list of settings.
    pub fn settings(&self, group: Option<&str>) -> Result<Vec<Setting>, Error> {
        let dir = self.dir(group)?;
        let text = dir.read("schemata")?.unwrap_or_default();
        settings(&text).map_err(|line| dir.wrong("schemata", line, "a resource and its domains"))
    }

    /// Writes `schemata` of a group: a line for each resource.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn set(&self, group: &str, schemata: &str) -> Result<(), Error> {
        self.dir(Some(group))?
            .write("schemata", &format!("{}\n", schemata.trim_end()))
    }

    /// Tasks of a group, of the default group if none is given.
    ///
    /// # Errors
    ///
    /// If they cannot be read, or are no list of numbers.
    pub fn tasks(&self, group: Option<&str>) -> Result<BTreeSet<i32>, Error> {
        let dir = self.dir(group)?;
        let text = dir.read("tasks")?.unwrap_or_default();
        let task = |line: &str| line.parse().map_err(|_| dir.wrong("tasks", line, "a task id"));
        text.lines().map(task).collect()
    }

    /// Moves a task to a group, to the default group if none is given. One that has ended is nowhere.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn move_task(&self, group: Option<&str>, task: i32) -> Result<(), Error> {
        match self.dir(group)?.write("tasks", &task.to_string()) {
            Err(error) if error.is_no_process() => Ok(()),
            other => other,
        }
    }

    /// What a group uses; `None` where the processor does not count it.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn usage(&self, group: Option<&str>) -> Result<Option<Usage>, Error> {
        let counted = match self.dir(group)?.child("mon_data") {
            Ok(counted) => counted,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut usage = None;
        for name in counted.children()?.iter().filter(|n| n.starts_with("mon_L3")) {
            let domain = counted.child(name)?;
            let sum: &mut Usage = usage.get_or_insert_default();
            for (file, sum) in [
                ("llc_occupancy", &mut sum.occupancy),
                ("mbm_total_bytes", &mut sum.traffic),
            ] {
                // Right after a group was made the processor says `Unavailable`.
                let value = domain.read(file)?.and_then(|text| text.trim().parse().ok());
                *sum = sum.saturating_add(value.unwrap_or(0));
            }
        }
        Ok(usage)
    }

    fn dir(&self, group: Option<&str>) -> Result<Cgroup, Error> {
        self.root.child(group.unwrap_or_default())
    }
}

/// The settings of a text as `schemata` has it, or the line that is none.
///
/// # Errors
///
/// The line.
pub fn settings(text: &str) -> Result<Vec<Setting>, &str> {
    let mut settings = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (resource, domains) = line.split_once(':').ok_or(line)?;
        for domain in domains.split(';') {
            let (domain, value) = domain.split_once('=').ok_or(line)?;
            let value = value.trim();
            settings.push(Setting {
                resource: resource.trim().to_owned(),
                domain: domain.trim().parse().map_err(|_| line)?,
                value: value.trim_start_matches('0').to_ascii_lowercase(),
            });
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs;

    use super::*;

    fn mounted() -> (tempfile::TempDir, Resctrl) {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("schemata", "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n    L2:0=ff\n");
        put("tasks", "1\n42\n");
        put("info/L3/cbm_mask", "fffff\n");
        put("info/L3/min_cbm_bits", "2\n");
        put("info/MB/min_bandwidth", "10\n");
        put("info/MB/bandwidth_gran", "10\n");
        put("mon_data/mon_L3_00/llc_occupancy", "4096\n");
        put("mon_data/mon_L3_01/llc_occupancy", "Unavailable\n");
        put("mon_data/mon_L3_00/mbm_total_bytes", "5\n");
        put("mon_data/mon_L3_01/mbm_total_bytes", "7\n");
        let resctrl = Resctrl::open(dir.path(), Folders::default()).unwrap().unwrap();
        (dir, resctrl)
    }

    #[test]
    fn what_can_be_controlled_is_found_out() {
        let (dir, resctrl) = mounted();
        let bandwidth = Control {
            resource: "MB".to_owned(),
            domains: vec![0, 1],
            range: Range::Percent { least: 10, step: 10 },
        };
        let cache = Control {
            resource: "L3".to_owned(),
            domains: vec![0, 1],
            range: Range::Ways {
                mask: 0xf_ffff,
                least: 2,
            },
        };
        assert_eq!(resctrl.controls().unwrap(), [bandwidth, cache.clone()]);
        // Mounted with mba_MBps.
        fs::write(
            dir.path().join("schemata"),
            "MB:0=4294967295;1=4294967295\nL3:0=fffff;1=fffff\n",
        )
        .unwrap();
        assert_eq!(resctrl.controls().unwrap(), [cache]);
        fs::write(dir.path().join("info/L3/cbm_mask"), "ways\n").unwrap();
        assert!(
            resctrl
                .controls()
                .unwrap_err()
                .to_string()
                .contains("\"ways\" is not a whole number")
        );
    }

    #[test]
    fn settings_tasks_and_use_are_read() {
        let (dir, resctrl) = mounted();
        let values: Vec<String> = resctrl.settings(None).unwrap().into_iter().map(|s| s.value).collect();
        assert_eq!(values, ["100", "100", "fffff", "fffff", "ff"]);
        assert_eq!(settings("L3:0=00f;1=0F0").unwrap().pop().unwrap().value, "f0");
        assert_eq!(settings("L3:0"), Err("L3:0"));
        assert_eq!(settings("L3=0"), Err("L3=0"));
        assert_eq!(settings("L3:x=f"), Err("L3:x=f"));
        assert_eq!(resctrl.tasks(None).unwrap(), BTreeSet::from([1, 42]));
        let usage = Usage {
            occupancy: 4096,
            traffic: 12,
        };
        assert_eq!(resctrl.usage(None).unwrap(), Some(usage));
        fs::write(dir.path().join("tasks"), "one\n").unwrap();
        assert!(resctrl.tasks(None).is_err());
        fs::remove_dir_all(dir.path().join("mon_data")).unwrap();
        assert_eq!(resctrl.usage(None).unwrap(), None);
    }

    #[test]
    fn where_it_is_not_mounted_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| Resctrl::open(path, Folders::default()).unwrap().is_none();
        assert!(open(dir.path()) && open(&dir.path().join("absent")));
    }

    #[test]
    fn a_group_comes_and_goes_and_is_not_missed() {
        let (dir, resctrl) = mounted();
        resctrl.create("batch").unwrap();
        resctrl.create("batch").unwrap();
        assert!(dir.path().join("batch").is_dir());
        resctrl.remove("batch").unwrap();
        resctrl.remove("batch").unwrap();
        assert!(resctrl.settings(Some("batch")).unwrap_err().is_gone());
        let full = Folders {
            create: |_| Err(io::Error::from_raw_os_error(28)),
            ..Folders::default()
        };
        let full = Resctrl::open(dir.path(), full).unwrap().unwrap();
        assert!(
            full.create("batch")
                .unwrap_err()
                .to_string()
                .contains("create: No space left")
        );
    }
}
