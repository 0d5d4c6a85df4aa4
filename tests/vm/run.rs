//! `tests/vm/run`: runs cases on a real kernel, and prints a line for each with what it measured.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is what this program is for"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use duosuan_tests::{
    binary,
    cases::{CASES, Case},
    figures::{self, Figures, Line},
};
use serde::Serialize;

/// Runs the cases on a real kernel in a virtual machine, and prints what they measured. Ends non-zero if one is not ok.
#[derive(Debug, Parser)]
#[command(name = "tests/vm/run")]
struct Options {
    /// This case, and others that are named so; all of them without it.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// One JSON object a line, as soon as a case has ended.
    #[arg(long)]
    json: bool,
}

/// What came of a case.
#[derive(Debug, Serialize)]
struct Outcome {
    case: &'static str,
    ok: bool,
    #[serde(flatten)]
    figures: Figures,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let chosen = choose(&options.cases)?;
    let folder = tempfile::tempdir().context("no folder for the figures")?;
    let mut outcomes = Vec::new();
    for cases in chosen.chunk_by(|a, b| a.binary == b.binary) {
        run(cases, &folder.path().join("figures"), |outcome| {
            if options.json {
                println!("{}", serde_json::to_string(&outcome)?);
            }
            outcomes.push(outcome);
            Ok(())
        })?;
    }
    if !options.json {
        println!("{}", table(&outcomes));
    }
    let good = outcomes.iter().all(|outcome| outcome.ok);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The cases of these names, in the order of the list; all of them for no name.
fn choose(names: &[String]) -> Result<Vec<Case>> {
    if let Some(name) = names.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        let known: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        bail!("--case {name}: there is no such case; there are {}", known.join(", "));
    }
    let wanted = |case: &&Case| names.is_empty() || names.iter().any(|name| name == case.name);
    Ok(CASES.iter().filter(wanted).copied().collect())
}

/// Runs cases of one test binary and hands over what came of each when it is known.
fn run(cases: &[Case], file: &Path, mut take: impl FnMut(Outcome) -> Result<()>) -> Result<()> {
    let Some(Case { binary, .. }) = cases.first() else {
        return Ok(());
    };
    let mut cargo = binary::cargo();
    cargo.args(["test", "--locked", "--workspace", "--test", binary, "--"]);
    // Two at a time take turns in one machine: it is not booted for each of them.
    cargo.args(["--exact", "--test-threads", "2"]);
    cargo.args(cases.iter().map(|case| case.test));
    cargo
        .env(figures::FILE, file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let mut left: BTreeMap<&str, &Case> = cases.iter().map(|case| (case.test, case)).collect();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        eprintln!("{line}");
        let ended = result(&line).and_then(|(test, ok)| Some((left.remove(test)?, ok)));
        if let Some((case, ok)) = ended {
            take(Outcome {
                case: case.name,
                ok,
                figures: measured(file, case.test)?,
            })?;
        }
    }
    child.wait()?;
    // What did not come to an end, not even to build, is not ok.
    for case in left.values() {
        take(Outcome {
            case: case.name,
            ok: false,
            figures: Figures::default(),
        })?;
    }
    Ok(())
}

/// The test and whether it is ok, where a line of the test harness says so.
fn result(line: &str) -> Option<(&str, bool)> {
    let (test, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((test, result == "ok"))
}

/// What a test has written down, if anything.
fn measured(file: &Path, test: &str) -> Result<Figures> {
    let Ok(text) = fs::read_to_string(file) else {
        return Ok(Figures::default());
    };
    let lines: Vec<Line> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = lines.into_iter().rfind(|line| line.test == test);
    Ok(of.map(|line| line.figures).unwrap_or_default())
}

fn table(outcomes: &[Outcome]) -> Table {
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1}"));
    let ratio = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
    let yes = |value: Option<bool>| value.map_or("", |yes| if yes { "yes" } else { "no" }).to_owned();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "case",
        "ok",
        "RSS MiB",
        "CPU %",
        "spike ms P50",
        "P99",
        "online P99 ratio",
        "without agent",
        "node CPU %",
        "restored",
    ]);
    for Outcome { case, ok, figures } in outcomes {
        let range = figures.online_p99_ratio_range;
        let range = range.map_or(String::new(), |[low, high]| format!(" ({low:.2}-{high:.2})"));
        table.add_row([
            (*case).to_owned(),
            yes(Some(*ok)),
            number(figures.rss_mib),
            number(figures.cpu_percent),
            number(figures.spike_to_suppressed_ms_p50),
            number(figures.spike_to_suppressed_ms_p99),
            ratio(figures.online_p99_ratio) + &range,
            ratio(figures.online_p99_ratio_without_agent),
            number(figures.node_cpu_percent),
            yes(figures.restored),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_case_that_is_none_is_refused_with_those_that_are() {
        let error = choose(&["stall".to_owned(), "none".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--case none: there is no such case; there are stall, "),
            "{error}"
        );
        assert_eq!(choose(&[]).unwrap(), CASES);
        let names = ["rollback", "stall"].map(str::to_owned);
        let chosen: Vec<&str> = choose(&names).unwrap().iter().map(|case| case.name).collect();
        assert_eq!(chosen, ["stall", "rollback"]);
    }

    #[test]
    fn a_line_of_the_harness_says_what_came_of_a_test() {
        assert_eq!(result("test a_b ... ok"), Some(("a_b", true)));
        assert_eq!(result("test a_b ... FAILED"), Some(("a_b", false)));
        assert_eq!(result("test result: ok. 1 passed; 0 failed"), None);
    }

    #[test]
    fn a_line_has_every_figure_and_null_for_what_was_not_measured() {
        let outcome = Outcome {
            case: "stop",
            ok: true,
            figures: Figures {
                rss_mib: Some(7.5),
                restored: Some(true),
                ..Figures::default()
            },
        };
        assert_eq!(
            serde_json::to_string(&outcome).unwrap(),
            r#"{"case":"stop","ok":true,"rss_mib":7.5,"cpu_percent":null,"spike_to_suppressed_ms_p50":null,"spike_to_suppressed_ms_p99":null,"online_p99_ratio":null,"online_p99_ratio_range":null,"online_p99_ratio_without_agent":null,"node_cpu_percent":null,"restored":true}"#
        );
    }
}
