//! The NUMA nodes of the machine, as the kernel tells them below `/sys/devices/system/node`.

use std::{fs, io, path::Path};

use duosuan_cgroup::topology;
use duosuan_crds::report::NumaReport;
use duosuan_policy::numa::NumaView;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

const MIB: i64 = 1 << 20;

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
                ..NumaReport::default()
            });
        }
    }
    nodes.sort_by_key(|node| node.index);
    Ok(nodes)
}

/// The NUMA nodes with their parts of the use and of the offers of a report. Memory is written in whole mebibytes of the running
/// sum, rounded up, so that the parts add up to the node's own figure as that is written.
pub(crate) fn with_parts(mut nodes: Vec<NumaReport>, parts: &[NumaView]) -> Vec<NumaReport> {
    let mut sums = [0; 3];
    for node in &mut nodes {
        let Some(part) = parts.iter().find(|part| part.index == node.index) else {
            continue;
        };
        let [used, mid, batch] = &mut sums;
        let cpu = |milli: i64| ("cpu".to_owned(), quantity::cores(milli));
        let memory = |sum: &mut i64, bytes: i64| {
            let whole = |bytes: i64| bytes.div_euclid(MIB) + i64::from(bytes.rem_euclid(MIB) > 0);
            let before = whole(*sum);
            *sum = sum.saturating_add(bytes);
            ("memory".to_owned(), quantity::mebibytes((whole(*sum) - before) * MIB))
        };
        let of_cpu = part.usage.cpu.map(cpu);
        node.usage = of_cpu
            .into_iter()
            .chain(part.usage.memory.map(|bytes| memory(used, bytes)))
            .collect();
        node.mid_reclaimable = [cpu(part.mid.cpu), memory(mid, part.mid.memory)].into();
        node.batch_reclaimable = [cpu(part.batch.cpu), memory(batch, part.batch.memory)].into();
    }
    nodes
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
            ..NumaReport::default()
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

    #[test]
    fn parts_are_written_so_that_they_add_up_as_written() {
        use duosuan_policy::{Resources, Signals};
        let of = |index, memory| NumaReport {
            index,
            cpu: Quantity("1".into()),
            memory: quantity::mebibytes(memory),
            ..NumaReport::default()
        };
        let part = |index, bytes| NumaView {
            index,
            usage: Signals {
                cpu: Some(1_500),
                memory: None,
            },
            batch: Resources {
                cpu: 250,
                memory: bytes,
            },
            ..NumaView::default()
        };
        let half = MIB + MIB / 2;
        let nodes = with_parts(
            vec![of(0, MIB), of(1, MIB), of(7, MIB)],
            &[part(0, half), part(1, half)],
        );
        let written: Vec<_> = nodes
            .iter()
            .map(|n| n.batch_reclaimable.get("memory").map(|q| q.0.as_str()))
            .collect();
        // Three mebibytes together.
        assert_eq!(written, [Some("2Mi"), Some("1Mi"), None]);
        assert_eq!(
            nodes.first().unwrap().usage,
            [("cpu".to_owned(), Quantity("1500m".into()))].into()
        );
        assert_eq!(
            nodes.get(1).unwrap().batch_reclaimable.get("cpu"),
            Some(&Quantity("250m".into()))
        );
    }
}
