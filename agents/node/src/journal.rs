//! What the agent changed, written down before it is changed, so that a successor can put it back whatever became of it.
//!
//! One line of JSON for each change, appended; the last line of a file of a cgroup holds. A line that was cut off by a
//! crash is one whose write to the kernel never happened, and is passed over. A journal of another boot is void: its
//! cgroups are gone. So nothing waits for the disk: as long as the kernel lives it has what was written, and an agent that
//! waited behind a slow disk would guard nobody.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use duosuan_cgroup::Identity;
use serde::{Deserialize, Serialize};

use crate::fault::{self, Point};

/// The journal is rewritten with what still holds when it grows beyond this.
const COMPACT_AT: u64 = 256 << 10;

/// A file of a cgroup.
pub type Key = (String, String);

/// What a file held before the agent came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path of the cgroup below the root.
    pub path: String,
    /// File in it.
    pub file: String,
    /// Device of the cgroup.
    pub device: u64,
    /// Inode of the cgroup: another one of the same name is not ours to restore.
    pub inode: u64,
    /// Value before.
    pub old: String,
    /// For `cpu.idle`: `cpu.weight` before, which the kernel forgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Value that the agent wrote, or was about to.
    pub new: String,
    /// Values of the agent's that may stand there instead of `new`: those that systemd was told and may still write, and last the
    /// one before it, which a crash between journal and kernel leaves.
    #[serde(flatten, with = "earlier")]
    pub was: Vec<String>,
}

/// Earlier values as they are written down: the last one by itself, for that is all that agents knew which could not tell
/// systemd, and one of those may be the next.
mod earlier {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Earlier {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        told: Vec<String>,
    }

    pub(super) fn serialize<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        let (was, told) = values.split_last().unzip();
        let told = told.map(<[String]>::to_vec).unwrap_or_default();
        let was = was.cloned();
        Earlier { was, told }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        let Earlier { was, told } = Earlier::deserialize(deserializer)?;
        Ok(told.into_iter().chain(was).collect())
    }
}

impl Entry {
    /// Which cgroup it was.
    pub const fn identity(&self) -> Identity {
        Identity {
            device: self.device,
            inode: self.inode,
        }
    }

    /// Of which file of which cgroup it is.
    pub fn key(&self) -> Key {
        (self.path.clone(), self.file.clone())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Boot { id: String },
    Set(Entry),
    Restored { path: String, file: String },
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    /// Whether the last line may be cut off: the disk was full.
    torn: bool,
    boot: String,
    entries: BTreeMap<Key, Entry>,
}

impl Journal {
    /// Opens or begins a journal. What an earlier agent of this boot left is in [`Journal::entries`].
    ///
    /// # Errors
    ///
    /// If the file cannot be read and written, with what to do.
    pub fn open(path: &Path, boot: &str) -> anyhow::Result<Self> {
        let help = || {
            format!(
                "the journal {} must be a file that can be written: give --journal FILE",
                path.display()
            )
        };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).with_context(help)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(help)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(help)?;
        let entries = replay(&String::from_utf8_lossy(&bytes), boot);
        let mut journal = Self {
            path: path.to_owned(),
            file,
            size: 0,
            torn: false,
            boot: boot.to_owned(),
            entries,
        };
        journal.compact().with_context(help)?;
        Ok(journal)
    }

    /// What is changed now, by file.
    pub const fn entries(&self) -> &BTreeMap<Key, Entry> {
        &self.entries
    }

    /// Notes a change that is about to be made.
    ///
    /// # Errors
    ///
    /// If it could not be written: then the change must not be made.
    pub fn set(&mut self, entry: Entry) -> anyhow::Result<()> {
        self.set_all(vec![entry])
    }

    /// Notes changes that are about to be made, all with one write.
    ///
    /// # Errors
    ///
    /// If they could not be written: then none of the changes must be made.
    pub fn set_all(&mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.append(entries.iter().map(|entry| Line::Set(entry.clone())))?;
        self.entries
            .extend(entries.into_iter().map(|entry| (entry.key(), entry)));
        if self.size > COMPACT_AT {
            self.compact()?;
        }
        Ok(())
    }

    /// Notes that a file holds again what it held before, or that nothing is left to restore.
    ///
    /// # Errors
    ///
    /// If it could not be written: a successor would restore once more, which does no harm.
    pub fn restored(&mut self, key: &Key) -> anyhow::Result<()> {
        self.entries.remove(key);
        let line = Line::Restored {
            path: key.0.clone(),
            file: key.1.clone(),
        };
        self.append(std::iter::once(line))?;
        if self.size > COMPACT_AT {
            self.compact()?;
        }
        Ok(())
    }

    fn append(&mut self, lines: impl Iterator<Item = Line>) -> anyhow::Result<()> {
        // What follows a line that was cut off must not be taken for its end.
        let mut text = if self.torn { "\n" } else { "" }.to_owned();
        for line in lines {
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
        if fault::is_due(Point::HalfLine) {
            self.file.write_all(half(&text))?;
            fault::die();
        }
        self.torn = true;
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("writing the journal {}", self.path.display()))?;
        self.torn = false;
        self.size += text.len() as u64;
        Ok(())
    }

    /// Writes a new file with what holds, and puts it in the place of the old one.
    fn compact(&mut self) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(&Line::Boot { id: self.boot.clone() })?;
        text.push('\n');
        for entry in self.entries.values() {
            text.push_str(&serde_json::to_string(&Line::Set(entry.clone()))?);
            text.push('\n');
        }
        let next = self.path.with_extension("new");
        if fault::is_due(Point::HalfCompacted) {
            std::fs::write(&next, half(&text))?;
            fault::die();
        }
        std::fs::write(&next, &text)?;
        fault::reach(Point::Compacted);
        std::fs::rename(&next, &self.path)?;
        fault::reach(Point::Replaced);
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.size = text.len() as u64;
        self.torn = false;
        Ok(())
    }
}

/// What is written when a write stops in its middle.
fn half(text: &str) -> &[u8] {
    text.as_bytes().get(..text.len() / 2).unwrap_or_default()
}

fn replay(text: &str, boot: &str) -> BTreeMap<Key, Entry> {
    let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
    let mut same_boot = false;
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Boot { id }) => {
                same_boot = id == boot;
                entries.clear();
            }
            Ok(Line::Set(entry)) => drop(entries.insert(entry.key(), entry)),
            Ok(Line::Restored { path, file }) => drop(entries.remove(&(path, file))),
            Err(_) => {}
        }
    }
    if same_boot { entries } else { BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn entry(path: &str, new: &str) -> Entry {
        Entry {
            path: path.to_owned(),
            file: "cpu.max".to_owned(),
            device: 1,
            inode: 2,
            old: "max 100000".to_owned(),
            weight: None,
            new: new.to_owned(),
            was: Vec::new(),
        }
    }

    #[test]
    fn what_was_set_and_not_restored_is_found_by_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        journal.set(entry("a", "1 100000")).unwrap();
        journal.set(entry("b", "2 100000")).unwrap();
        journal.set(entry("a", "3 100000")).unwrap();
        journal.restored(&("b".to_owned(), "cpu.max".to_owned())).unwrap();
        drop(journal);
        let journal = Journal::open(&path, "boot").unwrap();
        assert_eq!(
            journal.entries().values().cloned().collect::<Vec<_>>(),
            [entry("a", "3 100000")]
        );
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        journal.set(entry("a", "1 100000")).unwrap();
        journal.set(entry("b", "1 100000")).unwrap();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.get(..text.len() - 20).unwrap()).unwrap();
        let mut journal = Journal::open(&path, "boot").unwrap();
        assert_eq!(journal.entries().len(), 1);
        journal.set(entry("c", "1 100000")).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path, "boot").unwrap().entries().len(), 2);
    }

    /// The disk was full for a moment: the next line was taken for the end of the one that was cut off, and lost with it.
    #[test]
    fn a_line_after_one_that_was_cut_off_is_not_lost_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        let good = std::mem::replace(
            &mut journal.file,
            OpenOptions::new().write(true).open("/dev/full").unwrap(),
        );
        assert!(journal.set(entry("a", "1 100000")).is_err());
        journal.file = good;
        journal.file.write_all(b"{\"kind\":\"set\",\"pa").unwrap();
        journal.set(entry("b", "1 100000")).unwrap();
        drop(journal);
        let journal = Journal::open(&path, "boot").unwrap();
        assert_eq!(
            journal.entries().values().cloned().collect::<Vec<_>>(),
            [entry("b", "1 100000")]
        );
    }

    #[test]
    fn what_an_agent_before_wrote_of_a_value_before_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        journal.set(entry("a", "2 100000")).unwrap();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"new\":", "\"was\":\"1 100000\",\"new\":")).unwrap();
        let journal = Journal::open(&path, "boot").unwrap();
        let was: Vec<&Entry> = journal.entries().values().collect();
        assert_eq!(was.first().unwrap().was, ["1 100000"]);
    }

    /// An agent that knows of one value before could not read the line in which there were more, and dropped it: what its
    /// successor had changed stayed for ever when it was rolled back.
    #[test]
    fn of_several_values_before_the_last_is_written_as_agents_before_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        let mut set = entry("a", "4 100000");
        set.was = ["1 100000", "2 100000", "3 100000"].map(str::to_owned).to_vec();
        journal.set(set.clone()).unwrap();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"was\":\"3 100000\""), "{text}");
        let journal = Journal::open(&path, "boot").unwrap();
        assert_eq!(journal.entries().values().cloned().collect::<Vec<_>>(), [set]);
    }

    #[test]
    fn a_journal_of_another_boot_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::open(&path, "before")
            .unwrap()
            .set(entry("a", "1 100000"))
            .unwrap();
        assert!(Journal::open(&path, "after").unwrap().entries().is_empty());
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        for n in 0..3_000 {
            journal.set(entry("a", &format!("{n} 100000"))).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= COMPACT_AT + 1_000);
        assert_eq!(journal.entries().len(), 1);
    }

    /// The change that made the journal too large was not in the new file: an agent killed right then left it for ever.
    #[test]
    fn a_change_that_has_the_journal_rewritten_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, "boot").unwrap();
        let (mut n, mut size) = (0, journal.size);
        while journal.size >= size {
            size = journal.size;
            n += 1;
            journal.set(entry("a", &format!("{n} 100000"))).unwrap();
        }
        drop(journal);
        let journal = Journal::open(&path, "boot").unwrap();
        assert_eq!(
            journal.entries().values().cloned().collect::<Vec<_>>(),
            [entry("a", &format!("{n} 100000"))]
        );
    }

    #[test]
    fn a_journal_that_cannot_be_written_says_what_to_give() {
        let error = Journal::open(Path::new("/proc/nowhere/journal"), "boot")
            .unwrap_err()
            .to_string();
        assert!(error.contains("give --journal FILE"), "{error}");
    }
}
