//! What an agent that only observes would have set, in as many entries as a report has room for.

use std::collections::BTreeMap;

use duosuan_crds::report::IntendedReport;
use duosuan_policy::Action;

/// Most entries of a report.
const ENTRIES: usize = 20;
/// Longest reason, as the API bounds it.
const WHY: usize = 1024;

/// Equal settings of several cgroups as one entry, the first entry of each file before the second of any: the one limit of all
/// batch must not be lost behind the weights of 250 pods. Beside them the settings that there was no room for.
pub(crate) fn intended(actions: &[Action]) -> (Vec<IntendedReport>, u32) {
    let mut entries: Vec<IntendedReport> = Vec::new();
    let mut known: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for action in actions {
        let key = (action.file.as_str(), action.value.as_str(), action.why.as_str());
        if let Some(entry) = known.get(&key).and_then(|at| entries.get_mut(*at)) {
            entry.count = entry.count.saturating_add(1);
            continue;
        }
        known.insert(key, entries.len());
        entries.push(IntendedReport {
            file: action.file.clone(),
            value: action.value.clone(),
            cgroup: action.path.clone(),
            count: 1,
            why: action.why.chars().take(WHY).collect(),
        });
    }
    let mut of_file: BTreeMap<String, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, IntendedReport)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let rank = of_file.entry(entry.file.clone()).or_default();
        ranked.push((*rank, entry));
        *rank += 1;
    }
    // Stable: within a rank they stay in the order in which they were decided.
    ranked.sort_by_key(|(rank, _)| *rank);
    let rest = ranked.get(ENTRIES..).unwrap_or_default();
    let more = rest
        .iter()
        .fold(0_u32, |sum, (_, entry)| sum.saturating_add(entry.count));
    ranked.truncate(ENTRIES);
    (ranked.into_iter().map(|(_, entry)| entry).collect(), more)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn action(path: &str, file: &str, value: &str) -> Action {
        Action {
            path: path.to_owned(),
            file: file.to_owned(),
            value: value.to_owned(),
            why: format!("why {file}"),
        }
    }

    #[test]
    fn equal_settings_are_one_entry_and_the_one_limit_is_not_lost_behind_many() {
        let mut actions: Vec<Action> = (0..250).map(|n| action(&format!("p{n}"), "cpu.idle", "1")).collect();
        actions.extend((0..30).map(|n| action(&format!("p{n}"), "memory.low", &n.to_string())));
        actions.push(action("batch", "cpu.max", "50000 100000"));
        let (entries, more) = intended(&actions);
        let shown: Vec<_> = entries
            .iter()
            .take(4)
            .map(|e| (e.file.as_str(), e.value.as_str(), e.cgroup.as_str(), e.count))
            .collect();
        assert_eq!(
            shown,
            [
                ("cpu.idle", "1", "p0", 250),
                ("memory.low", "0", "p0", 1),
                ("cpu.max", "50000 100000", "batch", 1),
                ("memory.low", "1", "p1", 1)
            ]
        );
        assert_eq!((entries.len(), more), (20, 12));
        assert_eq!(entries[0].why, "why cpu.idle");
        assert_eq!(intended(&[]), (Vec::new(), 0));
    }
}
