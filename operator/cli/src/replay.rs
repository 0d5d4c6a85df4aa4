//! `duosuan replay`: an operator's record on the core of this build, to its end or to a point that is looked at.

mod point;

use std::{fs::File, io::BufReader, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use duosuan_planner::record::{Entry, Reader, Replay, Tail};
use duosuan_scheduler::Decision;

use crate::explain::{Asked, EFFORT};

/// Flags of `duosuan replay`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Exits with 1 at the first cycle that decides otherwise than the record says.")]
pub(crate) struct Arguments {
    /// What duosuan-operator --record wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Stop after this cycle, counted from 1 over all sessions, and say what it decided and what waits
    #[arg(long, value_name = "CYCLE", value_parser = clap::value_parser!(u64).range(1..))]
    until: Option<u64>,
    /// Explain this claim where the replay stops; its name may lack the namespace if it is default
    #[arg(long, value_name = "NS/CLAIM", conflicts_with = "pod")]
    explain: Option<String>,
    /// Explain this pod where the replay stops
    #[arg(long, value_name = "NS/NAME")]
    pod: Option<String>,
    /// Changes to try for an explanation, at most
    #[arg(long, value_name = "N", default_value_t = EFFORT)]
    effort: u32,
    /// Print one JSON object; only with --explain or --pod
    #[arg(long)]
    json: bool,
}

/// Replays a record; what is to be printed.
///
/// # Errors
///
/// If it cannot be read, is damaged, replays to other decisions, or ends before the point that is asked for.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let asked = match (&arguments.explain, &arguments.pod) {
        (None, None) if arguments.json => bail!("--json goes with --explain or --pod"),
        (None, None) => None,
        (claim, pod) => Some(Asked::of(claim.as_deref(), pod.as_deref(), "default")?),
    };
    let name = arguments.file.display();
    let file = File::open(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    let mut reader = Reader::new(BufReader::new(file)).with_context(|| name.to_string())?;
    let looks = asked.is_some() || arguments.until.is_some();
    let mut replay = if looks { Replay::to_explain() } else { Replay::default() };
    let mut end = None;
    let mut last: Vec<Decision> = Vec::new();
    while let Some(entry) = reader.next().with_context(|| name.to_string())? {
        if let Entry::End { reason } = &entry {
            end = Some(reason.clone());
        }
        let decides = matches!(entry, Entry::Cycle(_));
        let decisions = replay.take(entry).with_context(|| {
            let place = reader.place();
            let core = &reader.header().core;
            format!(
                "{name}, block at byte {}, line {} (recorded by core {core})",
                place.offset, place.line
            )
        })?;
        if decides {
            last = decisions;
            if Some(replay.cycles()) == arguments.until {
                break;
            }
        }
    }
    if let Some(until) = arguments.until.filter(|until| *until > replay.cycles()) {
        bail!(
            "{name} has {} cycles, and is to stop after cycle {until}",
            replay.cycles()
        );
    }
    if looks {
        return point::look(&replay, &last, asked.as_ref(), arguments.effort, arguments.json);
    }
    let end = match (reader.tail(), end) {
        (Some(Tail::Truncated { offset, bytes }), _) => format!(
            "The file ends within the block at byte {offset}: its last {bytes} bytes are lost, as after a kill of the operator."
        ),
        (_, Some(reason)) => format!("It ends because {reason}."),
        (_, None) => "It has no end: the operator was killed, or still runs.".to_owned(),
    };
    Ok(format!(
        "The record of scheduler {} (core {}) replays to the same decisions. Sessions: {}, events: {}, cycles: {}, decisions: {}.\n{end}",
        reader.header().scheduler_name,
        reader.header().core,
        replay.sessions(),
        replay.events(),
        replay.cycles(),
        replay.decisions()
    ))
}
