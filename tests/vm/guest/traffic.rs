//! Traffic of a pod: who sends as much as he may over one connection, and who takes all that comes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// What is sent at once.
const BLOCK: usize = 16 << 10;
/// Between two attempts to connect: the other side may not be there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes in what anybody sends to the port.
pub(crate) fn sink(port: u64) -> io::Result<()> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    for stream in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let mut stream = stream?;
        thread::Builder::new().spawn(move || {
            let mut block = [0; BLOCK];
            while stream.read(&mut block).is_ok_and(|n| n > 0) {}
        })?;
    }
    Ok(())
}

/// Sends to a port so many KiB a second, or all that goes if that is 0.
pub(crate) fn send(address: &str, port: u64, kibibytes: u64) -> io::Result<()> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    loop {
        if let Ok(stream) = TcpStream::connect((address, port)) {
            // Whoever ends the connection is asked again.
            let _ = fill(stream, kibibytes << 10);
        }
        thread::sleep(PAUSE);
    }
}

fn fill(mut stream: TcpStream, rate: u64) -> io::Result<()> {
    let block = [0; BLOCK];
    let (start, mut sent) = (Instant::now(), 0_u64);
    loop {
        stream.write_all(&block)?;
        sent += BLOCK as u64;
        if rate > 0 {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
}
