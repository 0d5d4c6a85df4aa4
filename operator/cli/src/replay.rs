//! `duosuan replay`: an operator's record on the core of this build.

use std::{fs::File, io::BufReader, path::PathBuf};

use anyhow::Context;
use clap::Args;
use duosuan_planner::record::{Entry, Reader, Replay, Tail};

/// Flags of `duosuan replay`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Exits with 1 at the first cycle that decides otherwise than the record says.")]
pub(crate) struct Arguments {
    /// What duosuan-operator --record wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Replays a record; what is to be printed.
///
/// # Errors
///
/// If it cannot be read, is damaged, or replays to other decisions.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let name = arguments.file.display();
    let file = File::open(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    let mut reader = Reader::new(BufReader::new(file)).with_context(|| name.to_string())?;
    let mut replay = Replay::default();
    let mut end = None;
    while let Some(entry) = reader.next().with_context(|| name.to_string())? {
        if let Entry::End { reason } = &entry {
            end = Some(reason.clone());
        }
        replay.take(entry).with_context(|| {
            let place = reader.place();
            let core = &reader.header().core;
            format!(
                "{name}, block at byte {}, line {} (recorded by core {core})",
                place.offset, place.line
            )
        })?;
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
