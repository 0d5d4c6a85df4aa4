//! Alibaba's heterogeneous GPU cluster trace "openb": nodes, pods, and the order in which the published experiment offers
//! them (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
//! USENIX ATC 2023).

use std::{collections::HashMap, io::Read};

use duosuan_scheduler::{
    Event, Time,
    event::{Gpu, GpuRequest, Node as CoreNode, Pod as CorePod},
};
use serde::{Deserialize, Serialize};

const NODES: &[u8] = include_bytes!("../../../tests/traces/openb/nodes.csv.gz");
const PODS: &[u8] = include_bytes!("../../../tests/traces/openb/default.csv.gz");
const ORDER: &[u8] = include_bytes!("../../../tests/traces/openb/default_42.txt.gz");

/// Bytes of a MiB.
const MIB: i64 = 1 << 20;

/// A node of the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Milli-cores.
    pub cpu_milli: i64,
    /// MiB of memory.
    pub memory_mib: i64,
    /// GPUs.
    pub gpus: u16,
    /// Model of the GPUs; empty without any.
    pub model: String,
}

/// A pod of the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Milli-cores.
    pub cpu_milli: i64,
    /// MiB of memory.
    pub memory_mib: i64,
    /// GPUs.
    pub num_gpu: u16,
    /// Thousandths of each GPU; below 1000 only where `num_gpu` is 1.
    pub gpu_milli: u16,
    /// Allowed models; empty allows any.
    pub gpu_spec: Vec<String>,
}

/// A trace: nodes by name, and pods in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Nodes, by name.
    pub nodes: Vec<Node>,
    /// Pods as they arrive. A name that repeats is another copy of that pod: its second has the suffix `-2`, and so on.
    pub pods: Vec<Pod>,
}

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A column is missing.
    #[error("{file}: no column {column} in the first line; is this the right file?")]
    NoColumn {
        /// What was read.
        file: &'static str,
        /// Name of the column.
        column: &'static str,
    },
    /// A value is no number of the expected size.
    #[error("{file}, line {line}: {column} is `{value}`, expected a whole number that is not negative")]
    BadNumber {
        /// What was read.
        file: &'static str,
        /// Line, from 1.
        line: usize,
        /// Name of the column.
        column: &'static str,
        /// What stands there.
        value: String,
    },
    /// The order names a pod that is not in the trace.
    #[error("order, line {line}: pod `{name}` is not among the pods; do both files belong to the same trace?")]
    NoSuchPod {
        /// Line, from 1.
        line: usize,
        /// What stands there.
        name: String,
    },
    /// The tie-break ranks are not as many as the nodes.
    #[error("perm: {ranks} ranks for {nodes} nodes; do both files belong to the same trace?")]
    RanksDiffer {
        /// Lines of the file.
        ranks: usize,
        /// Nodes of the trace.
        nodes: usize,
    },
    /// The bytes are neither text nor gzip of text.
    #[error("{file} is neither UTF-8 text nor gzip of it")]
    NotText {
        /// What was read.
        file: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The trace that the repository ships: the `default` pods in the order of seed 42.
pub fn shipped() -> Result<Trace, Error> {
    Trace::read(&text("nodes", NODES)?, &text("pods", PODS)?, &text("order", ORDER)?)
}

/// A file's text, unpacked if it is gzip.
pub fn text(file: &'static str, bytes: &[u8]) -> Result<String, Error> {
    let mut text = String::new();
    let read = if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text)
    } else {
        let mut plain = bytes;
        plain.read_to_string(&mut text)
    };
    read.map_err(|source| Error::NotText { file, source })?;
    Ok(text)
}

impl Trace {
    /// Reads a trace from the texts of its three files.
    pub fn read(nodes: &str, pods: &str, order: &str) -> Result<Trace, Error> {
        let mut nodes = read_nodes(nodes)?;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let pods = read_pods(pods)?;
        let by_name: HashMap<&str, &Pod> = pods.iter().map(|p| (p.name.as_str(), p)).collect();
        let mut copies: HashMap<&str, u32> = HashMap::new();
        let mut arrivals = Vec::new();
        for (index, name) in order
            .lines()
            .map(str::trim)
            .enumerate()
            .filter(|(_, name)| !name.is_empty())
        {
            let Some(&pod) = by_name.get(name) else {
                return Err(Error::NoSuchPod {
                    line: index + 1,
                    name: name.into(),
                });
            };
            let copy = copies.entry(name).or_insert(0);
            *copy += 1;
            let name = if *copy == 1 {
                name.to_string()
            } else {
                format!("{name}-{copy}")
            };
            arrivals.push(Pod { name, ..pod.clone() });
        }
        Ok(Trace { nodes, pods: arrivals })
    }

    /// Gives the nodes an order of their own: line i of the text is the rank of the i-th node by name. The core's node
    /// order goes by name, so that each node's name begins with its rank from then on.
    pub fn rank_nodes(&mut self, ranks: &str) -> Result<(), Error> {
        let mut parsed: Vec<u32> = Vec::new();
        for (index, line) in ranks
            .lines()
            .map(str::trim)
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
        {
            let rank = line.parse().map_err(|_| Error::BadNumber {
                file: "perm",
                line: index + 1,
                column: "rank",
                value: line.into(),
            })?;
            parsed.push(rank);
        }
        if parsed.len() != self.nodes.len() {
            return Err(Error::RanksDiffer {
                ranks: parsed.len(),
                nodes: self.nodes.len(),
            });
        }
        for (node, rank) in self.nodes.iter_mut().zip(parsed) {
            node.name = format!("{rank:06}-{}", node.name);
        }
        self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// Thousandths of GPUs that all nodes have together.
    #[must_use]
    pub fn capacity_milli(&self) -> i64 {
        self.nodes.iter().map(|n| i64::from(n.gpus) * 1000).sum()
    }
}

impl Node {
    /// As the core's fact. The published experiment knows no limit of pods per node, so it gets one that it never meets.
    #[must_use]
    pub fn event(&self) -> Event {
        let allocatable = [
            ("cpu", self.cpu_milli),
            ("memory", self.memory_mib * MIB),
            ("pods", 1000),
        ];
        let gpu = Gpu {
            model: self.model.clone(),
            ..Default::default()
        };
        Event::Node(Box::new(CoreNode {
            name: self.name.clone(),
            allocatable: allocatable.into_iter().map(|(r, a)| (r.to_string(), a)).collect(),
            gpus: vec![gpu; usize::from(self.gpus)],
            ..Default::default()
        }))
    }
}

impl Pod {
    /// Thousandths of GPUs that it asks for in all.
    #[must_use]
    pub fn total_milli(&self) -> i64 {
        i64::from(self.num_gpu) * i64::from(self.gpu_milli)
    }

    /// As the core's fact, created at this time.
    #[must_use]
    pub fn event(&self, created: Time) -> Event {
        Event::Pod(Box::new(self.fact(created)))
    }

    /// What the core is told of it, created at this time.
    #[must_use]
    pub fn fact(&self, created: Time) -> CorePod {
        let requests = [("cpu", self.cpu_milli), ("memory", self.memory_mib * MIB)];
        let gpus = (self.num_gpu > 0).then(|| GpuRequest {
            count: self.num_gpu,
            milli: self.gpu_milli,
            memory: 0,
            models: self.gpu_spec.clone(),
        });
        CorePod {
            uid: self.name.clone(),
            namespace: "openb".into(),
            name: self.name.clone(),
            created,
            requests: requests.into_iter().map(|(r, a)| (r.to_string(), a)).collect(),
            gpus,
            ours: true,
            ..Default::default()
        }
    }
}

/// A comma-separated file without quotes, by the names in its first line.
struct Table<'a> {
    file: &'static str,
    header: Vec<&'a str>,
    rows: Vec<(usize, Vec<&'a str>)>,
}

impl<'a> Table<'a> {
    fn of(file: &'static str, text: &'a str) -> Table<'a> {
        let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let cells = |line: &'a str| line.split(',').map(str::trim).collect::<Vec<_>>();
        let header = lines.next().map(|(_, line)| cells(line)).unwrap_or_default();
        let rows = lines
            .filter(|(_, l)| !l.trim().is_empty())
            .map(|(i, l)| (i + 1, cells(l)))
            .collect();
        Table { file, header, rows }
    }

    fn column(&self, column: &'static str) -> Result<usize, Error> {
        let found = self.header.iter().position(|name| *name == column);
        found.ok_or(Error::NoColumn {
            file: self.file,
            column,
        })
    }

    fn number<T: TryFrom<i64> + Default>(&self, row: &(usize, Vec<&str>), column: &'static str) -> Result<T, Error> {
        let value = row.1.get(self.column(column)?).copied().unwrap_or_default();
        // Some releases write whole numbers as `1000.0`; an empty cell is nothing.
        let whole = value.strip_suffix(".0").unwrap_or(value);
        if whole.is_empty() {
            return Ok(T::default());
        }
        let number = whole
            .parse::<i64>()
            .ok()
            .filter(|n| *n >= 0)
            .and_then(|n| T::try_from(n).ok());
        number.ok_or_else(|| Error::BadNumber {
            file: self.file,
            line: row.0,
            column,
            value: value.into(),
        })
    }

    fn word(&self, row: &(usize, Vec<&str>), column: &'static str) -> Result<String, Error> {
        Ok(row.1.get(self.column(column)?).copied().unwrap_or_default().to_string())
    }
}

fn read_nodes(text: &str) -> Result<Vec<Node>, Error> {
    let table = Table::of("nodes", text);
    let node = |row| {
        Ok(Node {
            name: table.word(row, "sn")?,
            cpu_milli: table.number(row, "cpu_milli")?,
            memory_mib: table.number(row, "memory_mib")?,
            gpus: table.number(row, "gpu")?,
            model: table.word(row, "model")?,
        })
    };
    table.rows.iter().map(node).collect()
}

fn read_pods(text: &str) -> Result<Vec<Pod>, Error> {
    let table = Table::of("pods", text);
    // The traces of many-GPU pods have no column of models.
    let has_spec = table.column("gpu_spec").is_ok();
    let pod = |row| {
        let spec = if has_spec {
            table.word(row, "gpu_spec")?
        } else {
            String::new()
        };
        Ok(Pod {
            name: table.word(row, "name")?,
            cpu_milli: table.number(row, "cpu_milli")?,
            memory_mib: table.number(row, "memory_mib")?,
            num_gpu: table.number(row, "num_gpu")?,
            gpu_milli: table.number(row, "gpu_milli")?,
            gpu_spec: spec
                .split('|')
                .map(str::trim)
                .filter(|m| !m.is_empty())
                .map(Into::into)
                .collect(),
        })
    };
    table.rows.iter().map(pod).collect()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn the_shipped_trace_is_the_published_one() {
        let trace = shipped().unwrap();
        assert_eq!((trace.nodes.len(), trace.capacity_milli()), (1213, 6_212_000));
        assert_eq!(trace.nodes.iter().map(|n| n.cpu_milli).sum::<i64>(), 107_018_000);
        assert_eq!(
            (trace.pods.len(), trace.pods[0].name.as_str()),
            (10_866, "openb-pod-0255")
        );
        let names: std::collections::BTreeSet<&str> = trace.pods.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), trace.pods.len(), "copies have names of their own");
        assert!(trace.pods.iter().all(|p| p.gpu_milli == 1000 || p.num_gpu <= 1));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_line_and_column() {
        let nodes = "sn,cpu_milli,memory_mib,gpu,model\na,1,2,x,G\n";
        let pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np,1000,1,1,500,A|B\n";
        let error = Trace::read(nodes, pods, "p").unwrap_err();
        assert_eq!(
            error.to_string(),
            "nodes, line 2: gpu is `x`, expected a whole number that is not negative"
        );
        let error = Trace::read("sn,cpu_milli\na,1\n", pods, "p").unwrap_err();
        assert_eq!(
            error.to_string(),
            "nodes: no column memory_mib in the first line; is this the right file?"
        );
        let good = "sn,cpu_milli,memory_mib,gpu,model\na,1,2,3,G\n";
        let error = Trace::read(good, pods, "p\nq\n").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("order, line 2: pod `q` is not among the pods")
        );
        let mut trace = Trace::read(good, pods, "p\np\n").unwrap();
        assert_eq!((trace.pods[1].name.as_str(), trace.pods[1].gpu_spec.len()), ("p-2", 2));
        assert_eq!(
            trace.rank_nodes("0\n1\n").unwrap_err().to_string(),
            "perm: 2 ranks for 1 nodes; do both files belong to the same trace?"
        );
        assert!(
            trace
                .rank_nodes("first\n")
                .unwrap_err()
                .to_string()
                .starts_with("perm, line 1: rank is `first`")
        );
    }

    #[test]
    fn ranks_become_the_node_order() {
        let nodes = "sn,cpu_milli,memory_mib,gpu,model\nb,1,2,3,G\na,1,2,3,G\n";
        let mut trace = Trace::read(nodes, "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n", "").unwrap();
        trace.rank_nodes("1\n0\n").unwrap();
        let names: Vec<&str> = trace.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["000000-b", "000001-a"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert!(matches!(
            text("pods", &[0xff, 0xfe]),
            Err(Error::NotText { file: "pods", .. })
        ));
        assert!(matches!(text("pods", &[0x1f, 0x8b, 1, 2]), Err(Error::NotText { .. })));
    }
}
