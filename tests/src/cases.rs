//! The cases of `tests/vm/run`: every test on a real kernel, by a short name.

/// A test on a real kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What `--case` calls it.
    pub name: &'static str,
    /// The test binary that it is in.
    pub binary: &'static str,
    /// Its function.
    pub test: &'static str,
}

const fn case(name: &'static str, binary: &'static str, test: &'static str) -> Case {
    Case { name, binary, test }
}

/// All of them, those of a binary next to each other.
pub const CASES: &[Case] = &[
    case(
        "stall",
        "vm_agent",
        "a_stall_of_online_cuts_batch_and_calm_gives_it_back",
    ),
    case(
        "stop",
        "vm_agent",
        "an_agent_that_ends_while_it_limits_batch_leaves_every_file_as_it_was",
    ),
    case(
        "kill",
        "vm_agent",
        "an_agent_that_was_killed_leaves_a_limit_and_the_next_one_knows_what_was_before",
    ),
    case(
        "rollback",
        "vm_agent",
        "an_agent_that_only_observes_takes_back_what_a_killed_one_left",
    ),
    case(
        "observe",
        "vm_agent",
        "in_mode_observe_the_agent_says_what_it_would_do_and_changes_nothing",
    ),
    case(
        "confine",
        "vm_agent",
        "batch_that_is_cut_runs_on_whole_cores_and_has_all_of_them_again",
    ),
    case(
        "memory",
        "vm_guards",
        "a_shortage_of_memory_takes_batchs_page_cache_and_stops_its_growth_and_is_given_back",
    ),
    case(
        "memory-kill",
        "vm_guards",
        "an_agent_that_was_killed_in_a_shortage_leaves_what_the_next_one_takes_back",
    ),
    case(
        "io",
        "vm_guards",
        "a_stall_of_prods_reads_cuts_batchs_io_and_calm_gives_it_back",
    ),
    case(
        "io-kill",
        "vm_guards",
        "agents_that_are_killed_and_end_while_they_limit_batchs_io_leave_every_file_as_it_was",
    ),
    case(
        "burst",
        "vm_guards",
        "prod_that_its_own_limit_stops_bursts_where_the_policy_lets_it_and_as_before_when_the_agent_ends",
    ),
    case(
        "network",
        "vm_network",
        "batch_sends_and_receives_no_more_than_its_rate_and_prod_as_before",
    ),
    case(
        "network-left",
        "vm_network",
        "batch_has_what_prod_leaves_of_the_link_less_at_once_and_more_slowly",
    ),
    case(
        "network-others",
        "vm_network",
        "hooks_of_others_are_left_alone_and_pods_that_come_and_go_are_held_and_let_go",
    ),
    case(
        "network-kill",
        "vm_network",
        "whatever_an_agent_that_was_killed_left_on_links_the_next_one_takes_off",
    ),
    case(
        "network-modules",
        "vm_network",
        "without_the_kernels_modules_the_guard_is_off_and_says_so_and_the_rest_goes_on",
    ),
    case(
        "eviction",
        "vm_eviction",
        "batch_that_brings_memory_to_fail_is_killed_and_online_survives",
    ),
    case(
        "phases",
        "vm_chaos",
        "an_agent_that_is_killed_in_any_phase_leaves_what_the_next_one_takes_back",
    ),
    case(
        "clock",
        "vm_chaos",
        "a_clock_that_jumps_neither_stops_the_guard_nor_what_it_gives_back",
    ),
    case(
        "read-only",
        "vm_chaos",
        "a_file_that_is_read_only_is_an_error_that_is_counted_and_the_rest_goes_on",
    ),
    case(
        "masked",
        "vm_masked",
        "a_kernel_without_pressure_and_io_is_said_to_be_one_and_the_rest_goes_on",
    ),
    case("no-idle", "vm_masked", "without_cpu_idle_batch_has_the_least_weight"),
    case(
        "read-only-idle",
        "vm_masked",
        "cpu_idle_that_is_read_only_is_counted_and_the_least_weight_does",
    ),
    case(
        "pods-110",
        "vm_pods",
        "of_110_pods_that_come_and_go_each_is_seen_and_nothing_is_left",
    ),
    case(
        "pods-250",
        "vm_pods",
        "of_250_pods_that_come_and_go_each_is_seen_and_nothing_is_left",
    ),
    case(
        "spike",
        "vm_online",
        "every_spike_of_online_load_is_answered_by_a_limit_of_batch",
    ),
    case(
        "latency",
        "vm_online",
        "a_histogram_that_misses_its_objective_cuts_batch_until_it_keeps_it",
    ),
    case(
        "beside",
        "vm_online",
        "an_online_service_and_batch_share_a_node_that_is_full",
    ),
    case(
        "systemd",
        "vm_systemd",
        "what_the_agent_sets_is_the_units_own_and_outlives_a_reload",
    ),
    case(
        "node",
        "e2e_node",
        "a_claim_goes_from_kubectl_to_a_real_kernel_and_batch_yields_to_online_there",
    ),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// The test functions of a file.
    fn tests(text: &str) -> impl Iterator<Item = &str> {
        text.split("#[test]\n").skip(1).filter_map(|rest| {
            let rest = rest.trim_start().strip_prefix("fn ")?;
            rest.split('(').next()
        })
    }

    #[test]
    fn every_test_on_a_real_kernel_is_a_case() {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(binary) = name
                .strip_suffix(".rs")
                .filter(|n| n.starts_with("vm_") || *n == "e2e_node")
            else {
                continue;
            };
            let text = fs::read_to_string(Path::new(&path)).unwrap();
            found.extend(tests(&text).map(|test| (binary.to_owned(), test.to_owned())));
        }
        let listed = CASES.iter().map(|c| (c.binary.to_owned(), c.test.to_owned()));
        assert_eq!(listed.collect::<BTreeSet<_>>(), found);
    }

    #[test]
    fn a_name_is_one_case_and_those_of_a_binary_are_together() {
        let names: BTreeSet<&str> = CASES.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), CASES.len());
        let mut runs: Vec<&str> = CASES.iter().map(|c| c.binary).collect();
        runs.dedup();
        assert_eq!(runs.len(), runs.iter().collect::<BTreeSet<_>>().len());
    }
}
