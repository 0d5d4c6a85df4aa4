//! What is told while things start: a bar on a terminal, plain lines elsewhere, always on standard error.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::Mutex,
    time::{Duration, Instant},
};

use duosuan_embedded::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Tells what goes on, and how long the command has run.
pub(crate) struct Reporter {
    started: Instant,
    bar: Option<ProgressBar>,
    /// When a line of the build was last printed where there is no bar.
    last: Mutex<Option<Instant>>,
}

/// Without a terminal, a build says something this often.
const PLAIN_PERIOD: Duration = Duration::from_secs(10);

impl Reporter {
    pub(crate) fn start() -> Reporter {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Reporter {
            started: Instant::now(),
            bar,
            last: Mutex::new(None),
        }
    }

    /// Seconds since the command started.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// A step begins.
    pub(crate) fn step(&self, words: &str) {
        match &self.bar {
            Some(bar) => {
                if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                    bar.set_style(style);
                }
                bar.set_message(words.to_owned());
            }
            None => self.line(words),
        }
    }

    /// A line that stays.
    pub(crate) fn line(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.println(words),
            // Nobody is there to be told that nobody listens.
            None => drop(writeln!(stderr(), "[{:6.1} s] {words}", self.seconds())),
        }
    }

    /// A step of the build.
    pub(crate) fn build(&self, progress: Progress) {
        if let Some(bar) = &self.bar {
            if progress.total > 0 {
                if let Ok(style) =
                    ProgressStyle::with_template("{bar:30} {pos}/{len} packages at most, {elapsed} {wide_msg}")
                {
                    bar.set_style(style);
                }
                bar.set_length(u64::try_from(progress.total).unwrap_or(u64::MAX));
                bar.set_position(u64::try_from(progress.done).unwrap_or(u64::MAX));
            }
            bar.set_message(progress.words);
            return;
        }
        let Ok(mut last) = self.last.lock() else { return };
        if last.is_none_or(|last| last.elapsed() >= PLAIN_PERIOD) {
            *last = Some(Instant::now());
            self.line(&progress.to_string());
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
