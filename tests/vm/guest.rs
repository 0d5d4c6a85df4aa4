//! The program inside the virtual machines and their container images: takes commands from the test, and is the load.
//!
//! Built by `tests/vm/build` as one static file, with nothing but the standard library.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

#[path = "guest/service.rs"]
mod service;
#[path = "guest/spike.rs"]
mod spike;
#[path = "guest/traffic.rs"]
mod traffic;

const USAGE: &str = "usage: guest serve NAME | pause | spin THREADS | burst THREADS ITERATIONS SLEEP_US | touch MIB
    | read FILE THREADS KIB SLEEP_US | cache FILE | service PORT THREADS ITERATIONS PERIOD_US
    | spike PROCS FILE THREADS ITERATIONS SLEEP_US | sink PORT | send ADDRESS PORT KIB_PER_S";
/// Output goes through a file: a background process that keeps it open does not keep the reply back, as a pipe would.
const OUTPUT: &str = "/run/guest.output";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let usage = || Err(io::Error::new(io::ErrorKind::InvalidInput, USAGE));
    let done = match (arguments.first().map(String::as_str), number(1), number(2), number(3)) {
        (Some("serve"), ..) => serve(arguments.get(1).map_or("", String::as_str)),
        (Some("pause"), ..) => sleep_for_ever(),
        (Some("spin"), Some(threads), ..) => on_threads(threads, spin),
        (Some("burst"), Some(threads), Some(iterations), Some(pause)) => {
            on_threads(threads, move || burst(iterations, Duration::from_micros(pause)))
        }
        (Some("touch"), Some(mebibytes), ..) => touch(mebibytes),
        (Some("read"), ..) => match (arguments.get(1), number(2), number(3), number(4)) {
            (Some(file), Some(threads), Some(kibibytes), Some(pause)) => {
                let (file, pause) = (&*String::leak(file.clone()), Duration::from_micros(pause));
                on_threads(threads, move || read(file, kibibytes, pause))
            }
            _ => usage(),
        },
        (Some("service"), Some(port), Some(threads), Some(iterations)) => match number(4) {
            Some(period) => service::serve(port, threads, iterations, Duration::from_micros(period)),
            None => usage(),
        },
        (Some("spike"), ..) => match (arguments.get(1..3), number(3), number(4), number(5)) {
            (Some([procs, file]), Some(threads), Some(iterations), Some(pause)) => {
                spike::spike(procs, file, [threads, iterations, pause])
            }
            _ => usage(),
        },
        (Some("sink"), Some(port), ..) => traffic::sink(port),
        (Some("send"), ..) => match (arguments.get(1), number(2), number(3)) {
            (Some(address), Some(port), Some(kibibytes)) => traffic::send(address, port, kibibytes),
            _ => usage(),
        },
        (Some("cache"), ..) => cache(arguments.get(1).map_or("", String::as_str)),
        _ => usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "guest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs shell commands that come in over the virtio port of that name, one after the other, and sends back status and output.
///
/// A request is a length and as many bytes of shell; a reply is a status, a length and as many bytes of output. All
/// numbers are 32 bits, little-endian. The first reply answers no request: it says that the machine is up.
fn serve(name: &str) -> io::Result<()> {
    let mut port = OpenOptions::new().read(true).write(true).open(port(name)?)?;
    reply(&mut port, 0, &fs::read("/proc/uptime")?)?;
    loop {
        let mut length = [0; 4];
        port.read_exact(&mut length)?;
        let mut shell = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap_or(0)];
        port.read_exact(&mut shell)?;
        let (status, output) = match execute(&String::from_utf8_lossy(&shell)) {
            Ok(done) => done,
            Err(error) => (126, error.to_string().into_bytes()),
        };
        reply(&mut port, status, &output)?;
    }
}

/// The device of a port; its number depends on what else the machine has.
fn port(name: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == name {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio port is named {name:?}"),
    ))
}

fn execute(shell: &str) -> io::Result<(i32, Vec<u8>)> {
    let output = File::create(OUTPUT)?;
    let status = Command::new("/bin/sh")
        .args(["-c", shell])
        .env("PATH", "/bin")
        .env("HOME", "/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    // As a shell says it: 128 and the signal's number.
    let status = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    Ok((status, fs::read(OUTPUT)?))
}

fn reply(port: &mut File, status: i32, output: &[u8]) -> io::Result<()> {
    let mut message = status.to_le_bytes().to_vec();
    message.extend_from_slice(&u32::try_from(output.len()).unwrap_or(u32::MAX).to_le_bytes());
    message.extend_from_slice(output);
    port.write_all(&message)
}

/// Runs the same work on some threads until the process is killed.
fn on_threads(threads: u64, work: impl Fn() + Send + Copy + 'static) -> io::Result<()> {
    for _ in 0..threads {
        thread::Builder::new().spawn(work)?;
    }
    sleep_for_ever()
}

/// Takes as much CPU as it gets.
fn spin() {
    for count in 0_u64.. {
        black_box(count);
    }
}

/// An online service in small: sleeps, wakes up and has the same amount of work each time.
fn burst(iterations: u64, pause: Duration) {
    loop {
        for count in 0..iterations {
            black_box(count);
        }
        thread::sleep(pause);
    }
}

/// Holds memory, each page written once.
fn touch(mebibytes: u64) -> io::Result<()> {
    const PAGE: usize = 4096;
    let bytes = usize::try_from(mebibytes << 20).map_err(io::Error::other)?;
    let mut memory = vec![0_u8; bytes];
    for byte in memory.iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    black_box(&memory);
    sleep_for_ever()
}

/// Reads from the device itself, past the page cache, again and again from its start to its end.
fn read(file: &str, kibibytes: u64, pause: Duration) {
    const O_DIRECT: i32 = 0x4000;
    const ALIGNMENT: usize = 4096;
    let size = usize::try_from(kibibytes << 10).unwrap_or(ALIGNMENT);
    let mut buffer = vec![0_u8; size + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    loop {
        let Ok(mut device) = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(file) else {
            return;
        };
        while let Some(block) = buffer.get_mut(start..start + size)
            && device.read(block).is_ok_and(|n| n == size)
        {
            thread::sleep(pause);
        }
    }
}

/// Reads a file through the page cache for ever.
fn cache(file: &str) -> io::Result<()> {
    loop {
        io::copy(&mut File::open(file)?, &mut io::sink())?;
    }
}

fn sleep_for_ever() -> io::Result<()> {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
