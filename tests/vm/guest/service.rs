//! An online service in small: it asks itself for the same work at fixed times, and says how long each request took.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Upper bounds of the buckets: from 0.25 ms to 8 s, each 1.41 times the one before.
const BUCKETS: u32 = 31;
const FIRST: f64 = 0.000_25;

/// What the requests took since the start.
#[derive(Default)]
struct Book {
    /// Requests by bucket; those above all of them are in the last.
    buckets: Vec<u64>,
    sum: f64,
    /// Microseconds of each request since they were asked for last.
    samples: Vec<u64>,
}

/// Serves `/metrics` with the histogram `request_seconds`, `/samples` with the microseconds of each request since it was
/// asked last, and `/stop` and `/start` for the requests, on the loopback address.
pub(crate) fn serve(port: u64, threads: u64, iterations: u64, period: Duration) -> io::Result<()> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let book = Arc::new(Mutex::new(Book {
        buckets: vec![0; BUCKETS as usize + 1],
        ..Book::default()
    }));
    let on = Arc::new(AtomicBool::new(true));
    for _ in 0..threads {
        let (book, on) = (Arc::clone(&book), Arc::clone(&on));
        thread::Builder::new().spawn(move || requests(&book, &on, iterations, period))?;
    }
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        // One that hangs up early is not this service's trouble.
        let _ = stream.and_then(|stream| answer(stream, &book, &on));
    }
    Ok(())
}

/// A request is due each period and waits for the one before it. What was missed is not made up for.
fn requests(book: &Mutex<Book>, on: &AtomicBool, iterations: u64, period: Duration) {
    let mut due = Instant::now();
    loop {
        due += period;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if on.load(Ordering::Relaxed) {
            for count in 0..iterations {
                black_box(count);
            }
            let took = due.elapsed();
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            let bucket = (0..BUCKETS).take_while(|at| bound(*at) < took.as_secs_f64()).count();
            if let Some(count) = book.buckets.get_mut(bucket) {
                *count += 1;
            }
            book.sum += took.as_secs_f64();
            book.samples.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        due = due.max(Instant::now());
    }
}

/// Seconds.
fn bound(bucket: u32) -> f64 {
    FIRST * 2_f64.powf(f64::from(bucket) / 2.0)
}

fn answer(mut stream: TcpStream, book: &Mutex<Book>, on: &AtomicBool) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = match request.split(' ').nth(1) {
        Some("/metrics") => metrics(&book.lock().unwrap_or_else(PoisonError::into_inner)),
        Some("/samples") => {
            let samples = std::mem::take(&mut book.lock().unwrap_or_else(PoisonError::into_inner).samples);
            samples.iter().map(|sample| format!("{sample}\n")).collect()
        }
        Some(path @ ("/start" | "/stop")) => {
            on.store(path == "/start", Ordering::Relaxed);
            String::new()
        }
        _ => return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn metrics(book: &Book) -> String {
    let mut text = "# TYPE request_seconds histogram\n".to_owned();
    let mut below = 0;
    for (at, count) in (0..).zip(&book.buckets) {
        below += count;
        let bound = if at < BUCKETS {
            bound(at).to_string()
        } else {
            "+Inf".to_owned()
        };
        let _ = writeln!(text, "request_seconds_bucket{{le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(text, "request_seconds_sum {}\nrequest_seconds_count {below}", book.sum);
    text
}
