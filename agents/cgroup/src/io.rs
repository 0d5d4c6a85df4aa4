//! `io.*`.

use crate::{dir::Cgroup, error::Error};

/// One device of `io.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Cgroup {
    /// `io.stat`: calls `take` with each device (`major:minor`).
    ///
    /// # Errors
    ///
    /// If it cannot be read, or a line is not a device and keyed numbers.
    pub fn io_stat(&self, mut take: impl FnMut(&str, IoStat)) -> Result<Option<()>, Error> {
        self.read_again("io.stat", |text| {
            for line in text.lines() {
                let wrong = || self.wrong("io.stat", line, "a device and keyed numbers");
                let mut words = line.split_ascii_whitespace();
                let device = words.next().filter(|d| d.contains(':')).ok_or_else(wrong)?;
                let mut stat = IoStat::default();
                for word in words {
                    let (key, value) = word.split_once('=').ok_or_else(wrong)?;
                    let number = || value.parse().map_err(|_| wrong());
                    match key {
                        "rbytes" => stat.read_bytes = number()?,
                        "wbytes" => stat.written_bytes = number()?,
                        "rios" => stat.reads = number()?,
                        "wios" => stat.writes = number()?,
                        _ => {}
                    }
                }
                take(device, stat);
            }
            Ok(())
        })
    }

    /// The default of `io.weight`, 1 to 10000.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has no default weight.
    pub fn io_weight(&self) -> Result<Option<u64>, Error> {
        let Some(text) = self.read("io.weight")? else {
            return Ok(None);
        };
        let weight = text
            .lines()
            .find_map(|line| line.strip_prefix("default ")?.trim().parse().ok());
        weight
            .map(Some)
            .ok_or_else(|| self.wrong("io.weight", &text, "a default weight"))
    }

    /// Writes the default of `io.weight`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set_io_weight(&self, weight: u64) -> Result<(), Error> {
        self.write("io.weight", &format!("default {weight}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn io_stat_is_read_by_device() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        put(
            "io.stat",
            "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n",
        );
        put("io.weight", "default 100\n254:0 50\n");
        let c = Cgroup::open(dir.path()).unwrap();
        let devices = |c: &Cgroup| {
            let mut devices = Vec::new();
            c.io_stat(|device, stat| devices.push((device.to_owned(), stat)))
                .map(|found| found.map(|()| devices))
        };
        let first = IoStat {
            read_bytes: 1,
            written_bytes: 2,
            reads: 3,
            writes: 4,
        };
        let both = vec![("254:0".to_owned(), first), ("8:16".to_owned(), IoStat::default())];
        assert_eq!(devices(&c).unwrap(), Some(both));
        assert_eq!(c.io_weight().unwrap(), Some(100));
        put("io.stat", "rbytes=1");
        let error = devices(&c).unwrap_err().to_string();
        assert!(error.contains("\"rbytes=1\" is not a device"), "{error}");
        std::fs::remove_file(dir.path().join("io.stat")).unwrap();
        assert_eq!(devices(&Cgroup::open(dir.path()).unwrap()).unwrap(), None);
    }
}
