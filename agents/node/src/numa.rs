//! The NUMA nodes of a report, as the API writes them.

use duosuan_crds::report::NumaReport;
use duosuan_policy::numa::NumaView;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

const MIB: i64 = 1 << 20;

/// The NUMA nodes that have cores or memory, with their parts of the use and of the offers of a report. Memory is written in whole
/// mebibytes of the running sum, rounded up, so that the parts add up to the node's own figure as that is written.
pub(crate) fn reports(parts: &[NumaView]) -> Vec<NumaReport> {
    let mut sums = [0; 3];
    let has = |part: &&NumaView| part.capacity.cpu > 0 || part.capacity.memory > 0;
    let report = |part: &NumaView| {
        let [used, mid, batch] = &mut sums;
        let cpu = |milli: i64| ("cpu".to_owned(), quantity::cores(milli));
        let memory = |sum: &mut i64, bytes: i64| {
            let whole = |bytes: i64| bytes.div_euclid(MIB) + i64::from(bytes.rem_euclid(MIB) > 0);
            let before = whole(*sum);
            *sum = sum.saturating_add(bytes);
            ("memory".to_owned(), quantity::mebibytes((whole(*sum) - before) * MIB))
        };
        let of_cpu = part.usage.cpu.map(cpu);
        NumaReport {
            index: part.index,
            // Those that are online.
            cpu: Quantity((part.capacity.cpu / 1_000).to_string()),
            memory: quantity::mebibytes(part.capacity.memory),
            usage: of_cpu
                .into_iter()
                .chain(part.usage.memory.map(|bytes| memory(used, bytes)))
                .collect(),
            mid_reclaimable: [cpu(part.mid.cpu), memory(mid, part.mid.memory)].into(),
            batch_reclaimable: [cpu(part.batch.cpu), memory(batch, part.batch.memory)].into(),
        }
    };
    parts.iter().filter(has).map(report).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use duosuan_policy::{Resources, Signals};

    use super::*;

    #[test]
    fn parts_are_written_so_that_they_add_up_as_written() {
        let part = |index, bytes| NumaView {
            index,
            capacity: Resources {
                cpu: 4_000,
                memory: 8 * MIB,
            },
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
        let nothing = NumaView {
            index: 7,
            ..NumaView::default()
        };
        let nodes = reports(&[part(0, half), part(2, half), nothing]);
        let written: Vec<_> = nodes
            .iter()
            .map(|n| (n.index, n.batch_reclaimable.get("memory").map(|q| q.0.as_str())))
            .collect();
        // Three mebibytes together; and one has nothing.
        assert_eq!(written, [(0, Some("2Mi")), (2, Some("1Mi"))]);
        let first = nodes.first().unwrap();
        assert_eq!((first.cpu.0.as_str(), first.memory.0.as_str()), ("4", "8Mi"));
        assert_eq!(first.usage, [("cpu".to_owned(), Quantity("1500m".into()))].into());
        assert_eq!(first.batch_reclaimable.get("cpu"), Some(&Quantity("250m".into())));
    }
}
