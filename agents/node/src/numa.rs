//! The NUMA nodes of the machine, as the kernel tells them below `/sys/devices/system/node`.

use std::{fs, io, path::Path};

use duosuan_cgroup::topology;
use duosuan_crds::report::NumaReport;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// Reads the NUMA nodes that have cores or memory, by their number; none on a kernel that knows none.
///
/// # Errors
///
/// If they are there and cannot be read, or say something else than what the kernel writes.
pub fn read(sys: &Path) -> io::Result<Vec<NumaReport>> {
    let folder = sys.join("devices/system/node");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(about(&folder, &error)),
    };
    let mut nodes = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| about(&folder, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(index) = name.and_then(|name| name.strip_prefix("node")?.parse().ok()) else {
            continue;
        };
        let cores = parsed(&path.join("cpulist"), cores)?;
        let memory = parsed(&path.join("meminfo"), memory)?;
        if cores > 0 || memory > 0 {
            nodes.push(NumaReport {
                index,
                cpu: Quantity(cores.to_string()),
                memory: quantity::mebibytes(memory),
            });
        }
    }
    nodes.sort_by_key(|node| node.index);
    Ok(nodes)
}

fn parsed(file: &Path, parse: fn(&str) -> Option<i64>) -> io::Result<i64> {
    let text = fs::read_to_string(file).map_err(|error| about(file, &error))?;
    parse(&text).ok_or_else(|| {
        about(
            file,
            &io::Error::other(format!("{text:?} is not what the kernel writes")),
        )
    })
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// How many cores a list such as `0-3,8` names.
fn cores(list: &str) -> Option<i64> {
    i64::try_from(topology::list(list)?.len()).ok()
}

/// Bytes in the line `Node 0 MemTotal: 1024 kB`.
fn memory(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.split_once("MemTotal:"));
    let (_, amount) = line?;
    amount
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<i64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn write(root: &Path, node: &str, cores: &str, meminfo: &str) {
        let folder = root.join("devices/system/node").join(node);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cpulist"), cores).unwrap();
        fs::write(folder.join("meminfo"), meminfo).unwrap();
    }

    #[test]
    fn each_node_has_its_cores_and_memory() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), []);
        let text = |node: u16, kib: u64| format!("Node {node} MemTotal:       {kib} kB\nNode {node} MemFree:  7 kB\n");
        write(root.path(), "node10", "4-7\n", &text(10, 2048));
        write(root.path(), "node2", "0-1,3,8-9\n", &text(2, 1024));
        write(root.path(), "node3", "\n", &text(3, 0));
        write(root.path(), "power", "nothing", "nothing");
        let of = |index, cpu: &str, memory| NumaReport {
            index,
            cpu: Quantity(cpu.into()),
            memory: quantity::mebibytes(memory),
        };
        assert_eq!(read(root.path()).unwrap(), [of(2, "5", 1 << 20), of(10, "4", 2 << 20)]);
    }

    #[test]
    fn what_the_kernel_does_not_write_is_an_error_with_its_file() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "node0", "3-1", "Node 0 MemTotal: 8 kB");
        assert!(read(root.path()).unwrap_err().to_string().contains("node0/cpulist"));
        write(root.path(), "node0", "0", "Node 0 MemTotal: 8 MB");
        assert!(read(root.path()).unwrap_err().to_string().contains("node0/meminfo"));
    }
}
