//! `/sys/devices/system/node/nodeN`: the CPUs and the memory of a NUMA node.

use std::path::Path;

use crate::{dir::Cgroup, error::Error, text::Shape, topology};

/// A NUMA node whose files stay open.
#[derive(Debug)]
pub struct NumaNode {
    /// Number, as the kernel counts them.
    pub index: u16,
    /// Its CPUs that are online.
    pub cpus: Vec<u32>,
    folder: Cgroup,
}

/// Memory of a NUMA node, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumaMemory {
    /// All of it.
    pub total: u64,
    /// In use and neither page cache nor slab that can be dropped.
    pub used: u64,
}

/// The NUMA nodes of the machine, found anew where one of them or a CPU went on- or offline.
#[derive(Debug)]
pub struct NumaNodes {
    /// Absent on a kernel that knows no NUMA nodes.
    folder: Option<Cgroup>,
    cpus: Option<Cgroup>,
    /// What was online when they were found; nothing before they were.
    online: Option<[String; 2]>,
    nodes: Vec<NumaNode>,
}

impl NumaNodes {
    /// Those below a folder, none of which is found yet.
    ///
    /// # Errors
    ///
    /// If they are there and cannot be read.
    pub fn open(sys: &Path) -> Result<Self, Error> {
        let open = |folder: &str| match Cgroup::open(&sys.join(folder)) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Self {
            folder: open("devices/system/node")?,
            cpus: open("devices/system/cpu")?,
            online: None,
            nodes: Vec::new(),
        })
    }

    /// Those that were found last, by their number.
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// Finds them, unless the same nodes and CPUs are online as when they were found last: then two files are read.
    ///
    /// # Errors
    ///
    /// If that cannot be read. What was found before stays.
    pub fn follow(&mut self) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let same = |of: Option<&Cgroup>, known: &str| match of {
            Some(of) => Ok(of
                .read_in("online", Shape::Any, |text| Ok(text == known))?
                .unwrap_or(true)),
            None => Ok(true),
        };
        if let Some([nodes, cpus]) = &self.online
            && same(Some(folder), nodes)?
            && same(self.cpus.as_ref(), cpus)?
        {
            return Ok(());
        }
        let text = |of: Option<&Cgroup>| match of {
            Some(of) => Ok(of
                .read_in("online", Shape::Any, |text| Ok(text.to_owned()))?
                .unwrap_or_default()),
            None => Ok(String::new()),
        };
        // Before they are found: what goes online meanwhile is found the next time.
        let online = [text(Some(folder))?, text(self.cpus.as_ref())?];
        self.nodes = nodes(folder)?;
        self.online = Some(online);
        Ok(())
    }
}

fn nodes(folder: &Cgroup) -> Result<Vec<NumaNode>, Error> {
    let mut nodes = Vec::new();
    for name in folder.children()? {
        let Some(index) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else {
            continue;
        };
        let folder = folder.child(&name)?;
        let text = folder.read("cpulist")?.unwrap_or_default();
        let cpus = topology::list(&text).ok_or_else(|| folder.wrong("cpulist", &text, "a list of CPUs"))?;
        nodes.push(NumaNode { index, cpus, folder });
    }
    nodes.sort_by_key(|node| node.index);
    Ok(nodes)
}

impl NumaNode {
    /// Its memory.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or lacks what is used.
    pub fn memory(&self) -> Result<NumaMemory, Error> {
        let read = self.folder.read_in("meminfo", Shape::Any, |text| {
            // `Node 0 MemTotal: 1024 kB`
            let find = |key: &'static str| {
                let line = text.lines().find_map(|line| {
                    let (_, rest) = line.strip_prefix("Node ")?.split_once(' ')?;
                    rest.strip_prefix(key)?.strip_prefix(':')
                });
                let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
                kib.map(|kib| kib.saturating_mul(1024))
                    .ok_or_else(|| self.folder.wrong("meminfo", line.unwrap_or_default(), key))
            };
            let total = find("MemTotal")?;
            let mut used = total.saturating_sub(find("MemFree")?);
            for key in ["Active(file)", "Inactive(file)", "SReclaimable"] {
                // Old kernels do not say the last.
                used = used.saturating_sub(find(key).unwrap_or(0));
            }
            Ok(NumaMemory { total, used })
        })?;
        Ok(read.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_node_has_its_cpus_and_what_of_its_memory_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let find = || {
            let mut nodes = NumaNodes::open(dir.path()).unwrap();
            nodes.follow().map(|()| nodes)
        };
        assert!(find().unwrap().nodes().is_empty());
        let write = |name: &str, cpus: &str, meminfo: &str| {
            let folder = dir.path().join("devices/system/node").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cpulist"), cpus).unwrap();
            std::fs::write(folder.join("meminfo"), meminfo).unwrap();
        };
        let text = "Node 1 MemTotal: 1000 kB\nNode 1 MemFree: 100 kB\nNode 1 MemUsed: 900 kB\nNode 1 Active(file): 20 kB\n\
                    Node 1 Inactive(file): 30 kB\nNode 1 SReclaimable: 50 kB\n";
        write("node1", "2-3,8\n", text);
        write("node0", "0-1\n", "Node 0 MemTotal: 8 MB\n");
        write("has_cpu", "", "");
        let nodes = find().unwrap();
        let found = nodes.nodes();
        let (first, second) = (found.first().unwrap(), found.last().unwrap());
        assert_eq!(found.len(), 2);
        assert_eq!((second.index, second.cpus.as_slice()), (1, [2, 3, 8].as_slice()));
        let expected = NumaMemory {
            total: 1000 << 10,
            used: 800 << 10,
        };
        assert_eq!(second.memory().unwrap(), expected);
        let error = first.memory().unwrap_err().to_string();
        assert!(error.contains("node0/meminfo") && error.contains("MemTotal"), "{error}");
    }
    /// Nodes and CPUs were found once, when the agent began.
    #[test]
    fn what_goes_on_or_offline_is_found_and_what_stays_is_not_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = dir.path().join("devices/system").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("node/online", "0\n");
        write("cpu/online", "0-3\n");
        write("node/node0/cpulist", "0-3\n");
        let mut nodes = NumaNodes::open(dir.path()).unwrap();
        let mut found = || {
            let outcome = nodes.follow().map_err(|error| error.to_string());
            let found: Vec<(u16, usize)> = nodes.nodes().iter().map(|node| (node.index, node.cpus.len())).collect();
            outcome.map(|()| found.clone()).map_err(|error| (error, found))
        };
        assert_eq!(found().unwrap(), [(0, 4)]);
        // Nobody said that anything changed.
        write("node/node0/cpulist", "0-2\n");
        assert_eq!(found().unwrap(), [(0, 4)]);
        write("cpu/online", "0-2\n");
        assert_eq!(found().unwrap(), [(0, 3)]);
        write("node/online", "0-1\n");
        write("node/node1/cpulist", "many\n");
        let (error, stays) = found().unwrap_err();
        assert!(error.contains("node1/cpulist"), "{error}");
        assert_eq!(stays, [(0, 3)]);
        write("node/node1/cpulist", "\n");
        assert_eq!(found().unwrap(), [(0, 3), (1, 0)], "it is tried again");
    }
}
