//! What can go wrong, each in one line that says what to do.

use std::path::PathBuf;

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `go` in PATH.
    #[error("go is not in PATH: install Go {wanted} or newer (https://go.dev/dl/) to build {tool}")]
    GoMissing {
        /// Version that go.mod asks for.
        wanted: String,
        /// What was to be built.
        tool: &'static str,
    },
    /// The `go` in PATH is too old.
    #[error("{path} is Go {found}: install Go {wanted} or newer (https://go.dev/dl/) to build {tool}")]
    GoTooOld {
        /// Which `go`.
        path: PathBuf,
        /// Its version.
        found: String,
        /// Version that go.mod asks for.
        wanted: String,
        /// What was to be built.
        tool: &'static str,
    },
    /// Go modules could not be fetched.
    #[error("cannot download the Go modules of {tool}: check the network, or set GOPROXY to a reachable proxy: {tail}")]
    Network {
        /// What was to be built.
        tool: &'static str,
        /// Last words of `go`.
        tail: String,
    },
    /// No space left.
    #[error("no space left on the disk of {path}: free about 4 GB and run again")]
    DiskFull {
        /// Where.
        path: PathBuf,
    },
    /// `go build` failed.
    #[error("go build of {tool} failed: {tail}")]
    Build {
        /// What was to be built.
        tool: &'static str,
        /// Last words of `go`.
        tail: String,
    },
    /// The caller asked to stop.
    #[error("stopped before it was done")]
    Stopped,
    /// The port that the caller asked for is taken.
    #[error("port {port} on 127.0.0.1 is in use: free it or choose another")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// A component ended by itself or did not become ready.
    #[error("{component} {what}; its log ({log}) ends: {tail}", log = log.display())]
    Component {
        /// Which.
        component: &'static str,
        /// What it did.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines, joined by ` | `.
        tail: String,
    },
    /// Another control plane works in the same directory.
    #[error("{} is in use by another control plane: end it or choose another directory", path.display())]
    DirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file or process operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificates of the control plane: {0}")]
    Certificates(#[from] rcgen::Error),
}

impl Error {
    /// For `map_err`: names the operation and the path; a full disk is told as such.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull => Error::DiskFull { path },
            _ => Error::Io { action, path, source },
        }
    }
}

/// The last `lines` lines of `text` that say something, in one line.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let mut last: Vec<&str> = text
        .lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(lines)
        .collect();
    last.reverse();
    last.join(" | ")
}
