//! Writes a record without ever standing in the way of decisions: a thread of its own compresses and writes, and a
//! queue that has run full ends the record, not the scheduling.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use duosuan_planner::record::{Cycle, Entry, Header, Writer};
use duosuan_scheduler::{Budget, Decision, Time};
use tracing::{error, info};

/// What is recorded, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The file.
    pub file: PathBuf,
    /// Whether the decisions themselves are recorded, beside their digest.
    pub decisions: bool,
}

/// Entries that wait to be written, at most: 131,072, more than a second's worth of the first list of a large cluster, at
/// 1 KiB each some 128 MiB.
const QUEUE: usize = 1 << 17;
/// What is recorded can be read from the file so long after at the latest.
const FLUSH: Duration = Duration::from_secs(1);

/// Takes what is to be recorded; without a file, nothing.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Line>,
    /// The record is over; the writer says why.
    over: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Line {
    Entry(Entry),
    Decided(Time, Budget, Vec<Decision>),
    /// The operator ends.
    Finish,
}

impl Recorder {
    /// Creates the file. One that is there already is kept by its name with `.1`.
    ///
    /// # Errors
    ///
    /// If it cannot be created or written.
    pub fn create(recording: &Recording, scheduler_name: &str) -> anyhow::Result<Self> {
        let path = &recording.file;
        let name = path.display();
        if path.is_file() {
            let mut old = path.clone().into_os_string();
            old.push(".1");
            fs::rename(path, &old)
                .with_context(|| format!("--record {name}: the record that is there cannot be kept as {name}.1"))?;
        }
        let write = || Writer::new(File::create(path)?, &Header::new(scheduler_name));
        let writer = write().with_context(|| format!("--record {name} cannot be written"))?;
        info!(file = %name, decisions = recording.decisions, "recording all that enters the core");
        Ok(Self::start(writer, recording.decisions, QUEUE)?)
    }

    fn start<W: Write + Send + 'static>(writer: Writer<W>, whole: bool, queue: usize) -> io::Result<Self> {
        let (lines, lines_in) = sync_channel(queue);
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let write = move || {
            if let Err(error) = write(&lines_in, writer, whole, &seen) {
                seen.store(true, Ordering::Relaxed);
                error!(%error, "the record cannot be written any more and ends here");
            }
        };
        let thread = thread::Builder::new().name("record".into()).spawn(write)?;
        Ok(Self(Some(Arc::new(Shared {
            queue: lines,
            over,
            writer: Mutex::new(Some(thread)),
        }))))
    }

    /// Whether anything is recorded, so that nothing is copied in vain.
    pub fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|s| !s.over.load(Ordering::Relaxed))
    }

    /// Records an entry. Never waits.
    pub fn entry(&self, entry: Entry) {
        self.send(Line::Entry(entry));
    }

    /// Records a cycle. Never waits.
    pub fn decided(&self, now: Time, budget: Budget, decisions: Vec<Decision>) {
        self.send(Line::Decided(now, budget, decisions));
    }

    fn send(&self, line: Line) {
        let Some(shared) = self.0.as_ref().filter(|_| self.is_on()) else {
            return;
        };
        match shared.queue.try_send(line) {
            Ok(()) => {}
            // With a gap it would replay to something else: it ends here.
            Err(TrySendError::Full(_)) => {
                shared.over.store(true, Ordering::Relaxed);
                error!(QUEUE, "the record cannot keep up and ends here; is its disk slow?");
            }
            Err(TrySendError::Disconnected(_)) => shared.over.store(true, Ordering::Relaxed),
        }
    }

    /// Writes what is still in the queue and ends the record. Waits for it.
    pub fn finish(self) {
        let Some(shared) = self.0 else { return };
        // If it has ended before, there is nobody to tell.
        let _ = shared.queue.send(Line::Finish);
        let thread = shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            error!("the record ended by a mistake of the operator");
        }
    }
}

fn write<W: Write>(lines: &Receiver<Line>, mut writer: Writer<W>, whole: bool, over: &AtomicBool) -> io::Result<()> {
    let mut flushed = Instant::now();
    let reason = loop {
        match lines.recv_timeout(FLUSH.saturating_sub(flushed.elapsed())) {
            Ok(Line::Entry(entry)) => writer.push(&entry)?,
            Ok(Line::Decided(now, budget, decisions)) => {
                writer.push(&Entry::Cycle(Cycle::new(now, budget, decisions, whole)))?;
            }
            Ok(Line::Finish) | Err(RecvTimeoutError::Disconnected) => {
                break if over.load(Ordering::Relaxed) {
                    FELL_BEHIND
                } else {
                    "the operator ended"
                };
            }
            // The queue is empty.
            Err(RecvTimeoutError::Timeout) if over.load(Ordering::Relaxed) => break FELL_BEHIND,
            Err(RecvTimeoutError::Timeout) => {
                writer.flush()?;
                flushed = Instant::now();
            }
        }
    };
    let reason = reason.to_owned();
    writer.push(&Entry::End { reason })?;
    writer.flush()
}

const FELL_BEHIND: &str = "the record could not keep up with the operator, and what came then is lost";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use std::sync::mpsc::{Sender, channel};

    use duosuan_planner::record::{Reader, Replay, Tail};
    use duosuan_scheduler::{
        Event, Settings,
        event::{Node, Pod},
    };

    use super::*;
    use crate::clock::Clock;
    use crate::core::Core;

    fn node(name: &str) -> Event {
        let allocatable = [("cpu".to_owned(), 2000), ("pods".to_owned(), 10)].into();
        Event::Node(Box::new(Node {
            name: name.into(),
            allocatable,
            ..Node::default()
        }))
    }

    fn pod(name: &str) -> Event {
        Event::Pod(Box::new(Pod {
            uid: name.into(),
            requests: [("cpu".to_owned(), 1000)].into(),
            ours: true,
            ..Pod::default()
        }))
    }

    fn entries(file: &[u8]) -> Vec<Entry> {
        let mut reader = Reader::new(file).unwrap();
        let mut all = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            all.push(entry);
        }
        assert_eq!(reader.tail(), Some(Tail::Whole));
        all
    }

    #[test]
    fn what_a_core_is_told_and_decides_is_recorded_and_replays() {
        let folder = tempfile::tempdir().unwrap();
        let recording = Recording {
            file: folder.path().join("record"),
            decisions: true,
        };
        fs::write(&recording.file, "the last one").unwrap();
        let recorder = Recorder::create(&recording, "duosuan").unwrap();
        let settings = Settings {
            hold_after: None,
            ..Settings::default()
        };
        let mut core = Core::new(recorder.clone(), Clock::default(), settings);
        core.apply(node("a"));
        core.apply(pod("p"));
        let first = core.cycle(Time(5), Budget::default());
        core.apply(pod("q"));
        core.apply(pod("r"));
        let second = core.cycle(Time(6), Budget { pods: 1 });
        drop(core);
        recorder.finish();

        let all = entries(&fs::read(&recording.file).unwrap());
        assert!(
            matches!(all[0], Entry::Start { settings: recorded, .. } if recorded == settings),
            "{:?}",
            all[0]
        );
        assert_eq!(all[1], Entry::Event(node("a")));
        assert_eq!(
            all.last(),
            Some(&Entry::End {
                reason: "the operator ended".into()
            })
        );
        let mut replay = Replay::default();
        let decided: Vec<Vec<Decision>> = all
            .into_iter()
            .map(|entry| replay.take(entry).unwrap())
            .filter(|decisions| !decisions.is_empty())
            .collect();
        assert_eq!(decided, [first, second]);
        let kept = folder.path().join("record.1");
        assert_eq!(fs::read(kept).unwrap(), b"the last one");
    }

    /// A disk that is as slow as the test wants.
    struct Slow {
        go: Receiver<()>,
        file: Arc<Mutex<Vec<u8>>>,
    }

    impl Slow {
        fn new() -> (Self, Sender<()>, Arc<Mutex<Vec<u8>>>) {
            let (may_go, go) = channel();
            let file = Arc::new(Mutex::new(Vec::new()));
            (
                Self {
                    go,
                    file: Arc::clone(&file),
                },
                may_go,
                file,
            )
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            self.file.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_disk_ends_the_record_where_it_is_whole_and_holds_up_nothing() {
        let (slow, go, file) = Slow::new();
        go.send(()).unwrap();
        let writer = Writer::new(slow, &Header::new("duosuan")).unwrap();
        let recorder = Recorder::start(writer, false, 3).unwrap();
        // With a disk that writes nothing, this comes to an end all the same.
        let mut told = 0_usize;
        while recorder.is_on() {
            recorder.entry(Entry::Event(node(&told.to_string())));
            told += 1;
        }
        // As much as it wants.
        for _ in 0..=told {
            go.send(()).unwrap();
        }
        recorder.finish();
        let all = entries(&file.lock().unwrap());
        let (last, others) = all.split_last().unwrap();
        assert_eq!(
            last,
            &Entry::End {
                reason: FELL_BEHIND.into()
            }
        );
        assert_eq!(others.len(), told - 1, "all but the one that found no room");
        for (i, entry) in others.iter().enumerate() {
            assert_eq!(entry, &Entry::Event(node(&i.to_string())), "no gap");
        }
    }

    #[test]
    fn a_disk_that_fails_ends_the_record_and_nothing_else() {
        let (slow, go, _) = Slow::new();
        go.send(()).unwrap();
        let writer = Writer::new(slow, &Header::new("duosuan")).unwrap();
        drop(go);
        let recorder = Recorder::start(writer, false, 1000).unwrap();
        recorder.entry(Entry::Event(node("a")));
        let started = Instant::now();
        while recorder.is_on() {
            thread::yield_now();
            assert!(started.elapsed() < Duration::from_secs(60), "it noticed nothing");
        }
        recorder.entry(Entry::Event(node("b")));
        recorder.finish();
    }

    #[test]
    fn a_file_that_cannot_be_created_is_named() {
        let recording = Recording {
            file: "/no/such/folder/record".into(),
            decisions: false,
        };
        let error = Recorder::create(&recording, "duosuan").unwrap_err();
        assert_eq!(error.to_string(), "--record /no/such/folder/record cannot be written");
    }
}
