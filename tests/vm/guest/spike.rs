//! A spike of load, and the time until somebody answers it by another value in a file.

use std::fs;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at the file: a twentieth of what is measured, and little beside it.
const LOOK: Duration = Duration::from_millis(2);
/// Whoever has not answered by then does not.
const LONGEST: Duration = Duration::from_secs(60);

/// Starts this program's own `burst` in the cgroup that `procs` belongs to, prints the milliseconds until `file` has another
/// value, and ends the load.
pub(crate) fn spike(procs: &str, file: &str, burst: [u64; 3]) -> io::Result<()> {
    let before = fs::read_to_string(file)?;
    let mut load = Command::new(std::env::current_exe()?);
    load.arg("burst").args(burst.map(|number| number.to_string()));
    let start = Instant::now();
    let mut load = load.stdin(Stdio::null()).spawn()?;
    let answered = fs::write(procs, load.id().to_string()).and_then(|()| wait(file, &before, start));
    load.kill()?;
    load.wait()?;
    writeln!(io::stdout(), "{}", answered?.as_millis())
}

fn wait(file: &str, before: &str, start: Instant) -> io::Result<Duration> {
    while start.elapsed() < LONGEST {
        if fs::read_to_string(file)? != before {
            return Ok(start.elapsed());
        }
        thread::sleep(LOOK);
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{file} has kept its value for {LONGEST:?}"),
    ))
}
