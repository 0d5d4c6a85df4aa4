//! cgroup v2, pressure and resctrl files: bytes to types and back. No policy.
//!
//! A [`Cgroup`] holds its directory, so that it stays the same cgroup even when another takes its name; there is one
//! method for each kernel file. A file that this kernel does not have is `None`, `max` is a variant and no magic number, and
//! every error names the path and the text.

mod cpu;
mod dir;
mod error;
mod host;
mod io;
mod keyed;
mod membership;
mod memory;
pub mod numa;
mod pressure;
pub mod proc;
pub mod resctrl;
mod text;
pub mod topology;
mod trigger;

pub use cpu::{CpuMax, CpuStat};
pub use dir::{Cgroup, Identity};
pub use error::{Cause, Error};
pub use host::{DiskStat, VmStat};
pub use io::IoStat;
pub use membership::Events;
pub use memory::{Limit, MemoryEvents, MemoryStat};
pub use pressure::{Pressure, Stall};
pub use trigger::Trigger;
