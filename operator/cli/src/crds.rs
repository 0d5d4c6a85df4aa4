//! `duosuan crds`.

use std::io::{ErrorKind, Write};

/// Prints every definition as a YAML document.
pub(crate) fn print() -> anyhow::Result<()> {
    let mut text = String::new();
    for crd in duosuan_crds::all() {
        text.push_str("---\n");
        text.push_str(&duosuan_crds::yaml(&crd)?);
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
