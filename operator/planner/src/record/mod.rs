//! Records: everything that entered a core and what it decided, in a file that replays to the same decisions, byte for
//! byte. That is how a bug of the scheduler is reported.
//!
//! A record is a row of [blocks](block), each a gzip member of its own, so that `zcat` reads it too; the text in them is
//! JSON, an [`Entry`] a line, after a [`Header`]. Events are written by the type that the core takes them by, so there
//! is no second description of them that could lag behind.

pub mod block;
mod reader;
mod replay;
mod writer;

use duosuan_scheduler::{Budget, Decision, Event, Settings, Time};
use serde::{Deserialize, Serialize};

pub use reader::{Place, Reader, Tail};
pub use replay::{Difference, Replay};
pub use writer::Writer;

/// Version of the format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// First line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Version of the format.
    pub duosuan_record: u32,
    /// Version of the core that decided.
    pub core: String,
    /// Name of the scheduler, as pods have it in `spec.schedulerName`.
    pub scheduler_name: String,
}

impl Header {
    /// Of a record that this build writes.
    #[must_use]
    pub fn new(scheduler_name: &str) -> Header {
        Header {
            duosuan_record: FORMAT,
            core: duosuan_scheduler::VERSION.to_owned(),
            scheduler_name: scheduler_name.to_owned(),
        }
    }
}

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// A session begins, with an empty core.
    Start {
        /// When.
        now: Time,
        /// How its core decides.
        #[serde(flatten)]
        settings: Settings,
    },
    /// The core was told something.
    Event(Event),
    /// The core was asked to decide.
    Cycle(Cycle),
    /// The record ends here in order, or was broken off here.
    End {
        /// Why.
        reason: String,
    },
}

/// A cycle of the core, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cycle {
    /// Time that the core was given.
    pub now: Time,
    /// Budget that it was given.
    pub budget: Budget,
    /// How many decisions it made.
    pub decisions: usize,
    /// Their [digest].
    pub digest: String,
    /// The decisions themselves, if they were recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<Vec<Decision>>,
}

impl Cycle {
    /// What is recorded of a cycle; `whole` with the decisions themselves.
    #[must_use]
    pub fn new(now: Time, budget: Budget, decisions: Vec<Decision>, whole: bool) -> Cycle {
        Cycle {
            now,
            budget,
            decisions: decisions.len(),
            digest: digest(&decisions),
            list: whole.then_some(decisions),
        }
    }
}

/// Where FNV-1a of 128 bits begins, by its authors.
const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;

/// FNV-1a of 128 bits, going on from a hash.
fn fnv(hash: u128, bytes: &[u8]) -> u128 {
    const PRIME: u128 = (1 << 88) + 0x13b;
    bytes
        .iter()
        .fold(hash, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Digest of decisions: FNV-1a over their JSON, a line each, in hex. It finds differences, not forgeries.
#[must_use]
pub fn digest(decisions: &[Decision]) -> String {
    let hash = decisions.iter().fold(BASIS, |hash, decision| {
        // A decision is plain data and always has a JSON form.
        let text = serde_json::to_vec(decision).unwrap_or_default();
        fnv(fnv(hash, &text), b"\n")
    });
    format!("{hash:032x}")
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself cannot be read.
    #[error("the record cannot be read at byte {offset}")]
    Io {
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
    /// What stands there is not what was written.
    #[error("the record is damaged in the block at byte {offset}: {problem}")]
    Damaged {
        /// Where the block begins, in bytes from the start of the file.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// It is no record at all.
    #[error("this is no record of duosuan-operator --record: {problem}")]
    NoRecord {
        /// What stands there instead.
        problem: String,
    },
    /// It was written in another format.
    #[error(
        "the record has format {found}, and this build reads format {FORMAT}; replay it with the build that wrote it (core {core})"
    )]
    Format {
        /// Format of the file.
        found: u32,
        /// Version of the core that wrote it.
        core: String,
    },
}

#[cfg(test)]
mod tests;
