//! Where operator and agents log: to a file, or, where no table is drawn, to standard error.

use std::{
    fs::File,
    io::{IsTerminal, stderr, stdout},
    sync::Mutex,
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::arguments::Arguments;

/// Starts the log of this process.
pub(crate) fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&arguments.log_level).with_context(|| format!("--log-level {:?}", arguments.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    if let Some(path) = &arguments.log {
        let file = File::create(path).with_context(|| format!("create --log {}", path.display()))?;
        log.with_ansi(false).with_writer(Mutex::new(file)).init();
    } else if !stdout().is_terminal() && !stderr().is_terminal() {
        log.with_ansi(false).with_writer(stderr).init();
    }
    Ok(())
}
