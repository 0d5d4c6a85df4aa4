//! What a process does with the files of a folder, as the kernel tells it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    fs,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init},
    io::retry_on_intr,
};

/// Counts of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Opened, folders included.
    pub(crate) opened: u64,
    /// Read: several reads of a file in a row are one.
    pub(crate) read: u64,
}

/// A watch on every folder below one.
pub(crate) struct Watch {
    events: OwnedFd,
}

impl Watch {
    pub(crate) fn on(folder: &Path) -> Self {
        let events = init(CreateFlags::NONBLOCK).unwrap();
        let watch = Self { events };
        watch.add(folder);
        watch
    }

    fn add(&self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                self.add(&entry.path());
            }
        }
        add_watch(&self.events, folder, WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
    }

    /// Waits until somebody opens a file of that name.
    pub(crate) fn until_opened(&mut self, name: &str) {
        const LIMIT: Duration = Duration::from_secs(30);
        let mut buffer = [const { MaybeUninit::uninit() }; 4 << 10];
        let start = Instant::now();
        loop {
            let mut reader = Reader::new(&self.events, &mut buffer);
            while let Ok(event) = reader.next() {
                if event.file_name().is_some_and(|n| n.to_bytes() == name.as_bytes()) {
                    return;
                }
            }
            let left = Timespec::try_from(LIMIT.saturating_sub(start.elapsed())).unwrap();
            let mut events = [PollFd::new(&self.events, PollFlags::IN)];
            let some = retry_on_intr(|| poll(&mut events, Some(&left))).unwrap();
            assert!(some > 0, "nobody opens {name}");
        }
    }

    /// What was done since the last call.
    pub(crate) fn seen(&mut self) -> Files {
        let mut files = Files::default();
        let mut buffer = [const { MaybeUninit::uninit() }; 16 << 10];
        let mut reader = Reader::new(&self.events, &mut buffer);
        while let Ok(event) = reader.next() {
            let flags = event.events();
            assert!(
                !flags.contains(ReadFlags::QUEUE_OVERFLOW),
                "more happened than the kernel kept"
            );
            files.opened += u64::from(flags.contains(ReadFlags::OPEN));
            files.read += u64::from(flags.contains(ReadFlags::ACCESS));
        }
        files
    }
}
