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

/// The NUMA nodes by their number; none on a kernel that knows none.
///
/// # Errors
///
/// If they are there and cannot be read.
pub fn nodes(sys: &Path) -> Result<Vec<NumaNode>, Error> {
    let folder = match Cgroup::open(&sys.join("devices/system/node")) {
        Ok(folder) => folder,
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
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
        assert!(nodes(dir.path()).unwrap().is_empty());
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
        let found = nodes(dir.path()).unwrap();
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
}
