//! Runs the checks by their names, as the test harness would, which takes no arguments of a test's own.

use std::{panic::catch_unwind, process::ExitCode, time::Instant};

use clap::Parser;

/// What takes some ten seconds on two cores.
const CASES: u64 = 6000;

/// kube-scheduler's own filters against ours, on random snapshots of clusters.
#[derive(Debug, Parser)]
pub(crate) struct Asked {
    /// Snapshots that are asked about.
    #[arg(long, default_value_t = CASES)]
    pub(crate) cases: u64,
    /// Number of the first snapshot.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Parts of the names of the checks that are to run; without any, all.
    filters: Vec<String>,
    /// The filters are whole names.
    #[arg(long)]
    exact: bool,
    /// Parts of the names of checks that are not to run.
    #[arg(long)]
    skip: Vec<String>,
    /// Says which checks there are.
    #[arg(long)]
    list: bool,
    /// Only checks that are left out otherwise: there are none.
    #[arg(long)]
    ignored: bool,
    #[command(flatten)]
    harness: Harness,
}

/// What the test harness takes, and what means nothing here: checks run one after the other, and what they print is shown.
#[derive(Debug, clap::Args)]
#[allow(dead_code, reason = "taken for the sake of those who say it to all tests")]
struct Harness {
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, visible_alias = "no-capture", hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    test: bool,
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(short = 'Z', hide = true)]
    unstable: Vec<String>,
}

impl Asked {
    fn wants(&self, name: &str) -> bool {
        let is_in = |names: &[String]| {
            let mut names = names.iter();
            names.any(|n| {
                if self.exact {
                    n == name
                } else {
                    name.contains(n.as_str())
                }
            })
        };
        !self.ignored && (self.filters.is_empty() || is_in(&self.filters)) && !is_in(&self.skip)
    }
}

/// A check: its name, and what it does.
pub(crate) type Check = (&'static str, fn(&Asked));

/// Runs those of some checks that the arguments ask for.
pub(crate) fn all(checks: &[Check]) -> ExitCode {
    let asked = Asked::parse();
    let wanted: Vec<_> = checks.iter().filter(|(name, _)| asked.wants(name)).collect();
    if asked.list {
        for (name, _) in &wanted {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let began = Instant::now();
    let mut failed = Vec::new();
    for (name, check) in &wanted {
        let passed = catch_unwind(|| check(&asked)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    let (word, passed) = (
        if failed.is_empty() { "ok" } else { "FAILED" },
        wanted.len() - failed.len(),
    );
    let out = checks.len() - wanted.len();
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {out} filtered out; finished in {:.2}s\n",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
