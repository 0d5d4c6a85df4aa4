//! Step 7: watches until it is time to end, and shows what there is.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    arguments::Arguments,
    cluster::Cluster,
    outcome::{self, Outcome, Verdict},
    parts::Metrics,
    report::Reporter,
    samples::Expected,
    table,
    view::{Summary, View},
};

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the table is drawn anew, or a line is printed.
const DRAW: Duration = Duration::from_secs(1);
/// How long a recorded cluster must have stood still to count as settled: the operator retries within this time.
const STILL: Duration = Duration::from_secs(5);

/// Watches, shows, and returns at the end: with `--once` when everything runs or time is up, else when `stop` is cancelled.
pub(crate) async fn watch(
    arguments: &Arguments,
    reporter: &Reporter,
    cluster: &Cluster,
    metrics: Metrics,
    work: (Expected, f64),
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let (expected, seconds_to_ready) = work;
    let view = View::start(&cluster.client).await?;
    let live = stdout().is_terminal() && !arguments.json;
    reporter.step("waiting for the pods");
    if live {
        reporter.finish();
    }
    let hints = table::hints(&cluster.kubeconfig, metrics);
    if !arguments.once || live {
        say(arguments, &hints)?;
    }
    let mut screen = Screen {
        live,
        lines: 0,
        last: None,
        said: None,
    };
    let (mut last_change, mut bound) = (Instant::now(), 0);
    let (mut settled, begun) = (None, Instant::now());
    let mut look = tokio::time::interval(LOOK);
    loop {
        let stopped = tokio::select! { _ = look.tick() => false, () = stop.cancelled() => true };
        let summary = view.summary();
        if summary.pods.bound != bound {
            (bound, last_change) = (summary.pods.bound, Instant::now());
        }
        let still = expected.all || last_change.elapsed() >= STILL;
        let runs = outcome::runs(&summary, &expected) && still;
        if runs && settled.is_none() {
            // A recorded cluster was full when the last pod was bound, not when that had been noticed.
            let noticed = if expected.all {
                0.0
            } else {
                last_change.elapsed().as_secs_f64()
            };
            settled = Some(reporter.seconds() - noticed);
        }
        let verdict = if stopped {
            Some(Verdict::Interrupted)
        } else if arguments.once && runs {
            Some(Verdict::Runs)
        } else if arguments.once && begun.elapsed() >= arguments.patience() {
            Some(Verdict::Stuck(outcome::reasons(&summary, &expected)))
        } else {
            None
        };
        screen.show(arguments, reporter, &summary, verdict.is_some())?;
        if let Some(verdict) = verdict {
            return Ok(Outcome {
                verdict,
                summary,
                seconds_to_ready,
                seconds_to_all_bound: settled,
            });
        }
    }
}

/// Text for people: on standard output unless that is for JSON.
fn say(arguments: &Arguments, text: &str) -> anyhow::Result<()> {
    if arguments.json {
        write!(stderr(), "{text}")?;
    } else {
        write!(stdout(), "{text}")?;
        stdout().flush()?;
    }
    Ok(())
}

struct Screen {
    /// A table that is redrawn in place, instead of lines.
    live: bool,
    /// Lines of the table that stands on the terminal.
    lines: usize,
    last: Option<Instant>,
    said: Option<String>,
}

impl Screen {
    fn show(
        &mut self,
        arguments: &Arguments,
        reporter: &Reporter,
        summary: &Summary,
        last: bool,
    ) -> anyhow::Result<()> {
        if !last && self.last.is_some_and(|last| last.elapsed() < DRAW) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        if !self.live {
            let line = table::line(summary);
            if self.said.as_ref() != Some(&line) {
                say(arguments, &format!("[{:6.1} s] {line}\n", reporter.seconds()))?;
                self.said = Some(line);
            }
            return Ok(());
        }
        // One row stays for the cursor. What scrolled out of the terminal could not be drawn over.
        let rows = rustix::termios::tcgetwinsize(stdout())
            .map_or(usize::MAX, |size| usize::from(size.ws_row).saturating_sub(1));
        let text = table::fit(table::draw(summary), rows.max(1));
        // Back to the table's first line, and clear from there to the end of the screen.
        let back = if self.lines > 0 {
            format!("\x1b[{}F\x1b[J", self.lines)
        } else {
            String::new()
        };
        self.lines = text.lines().count();
        say(arguments, &format!("{back}{text}"))
    }
}
