//! What can go wrong with a kernel file.

use std::path::PathBuf;

use rustix::io::Errno;

/// A kernel file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct Error {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub cause: Cause,
}

/// Why a kernel file could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The kernel refused.
    #[error("{action}: {errno}")]
    Kernel {
        /// What was tried: `open`, `read`, `write "1"`.
        action: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The text is not what this file holds.
    #[error("{text:?} is not {wanted}")]
    Text {
        /// The offending line or word.
        text: String,
        /// What was expected.
        wanted: &'static str,
    },
}

impl Error {
    /// Whether the cgroup itself is gone: removed while we held it.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.cause,
            Cause::Kernel {
                errno: Errno::NODEV | Errno::NOENT,
                ..
            }
        )
    }

    /// The kernel's answer, if it is one.
    pub fn errno(&self) -> Option<Errno> {
        match self.cause {
            Cause::Kernel { errno, .. } => Some(errno),
            Cause::Text { .. } => None,
        }
    }

    /// Whether the process that it is about has ended.
    pub(crate) fn is_no_process(&self) -> bool {
        matches!(self.cause, Cause::Kernel { errno: Errno::SRCH, .. })
    }

    /// Whether the kernel did only a part of what was asked.
    pub(crate) fn is_again(&self) -> bool {
        matches!(
            self.cause,
            Cause::Kernel {
                errno: Errno::AGAIN,
                ..
            }
        )
    }
}
