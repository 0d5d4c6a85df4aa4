//! `cgroup.*`.

use crate::{dir::Cgroup, error::Error};

/// `cgroup.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Whether there is a process in it or below.
    pub populated: bool,
    /// Whether it is frozen.
    pub frozen: bool,
}

impl Cgroup {
    /// `cgroup.procs`: processes in this very cgroup.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no list of numbers.
    pub fn procs(&self) -> Result<Option<Vec<i32>>, Error> {
        self.numbers("cgroup.procs")
    }

    /// `cgroup.threads`: threads in this very cgroup.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no list of numbers.
    pub fn threads(&self) -> Result<Option<Vec<i32>>, Error> {
        self.numbers("cgroup.threads")
    }

    fn numbers(&self, file: &'static str) -> Result<Option<Vec<i32>>, Error> {
        let Some(text) = self.read(file)? else {
            return Ok(None);
        };
        let number = |line: &str| {
            line.parse()
                .map_err(|_| self.wrong(file, line, "the id of a process or thread"))
        };
        text.lines().map(number).collect::<Result<_, _>>().map(Some)
    }

    /// `cgroup.events`; the root has none.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not keyed numbers.
    pub fn events(&self) -> Result<Option<Events>, Error> {
        let mut events = Events::default();
        let found = self.keyed("cgroup.events", |key, value| match key {
            "populated" => events.populated = value != 0,
            "frozen" => events.frozen = value != 0,
            _ => {}
        })?;
        Ok(found.map(|()| events))
    }

    /// `cgroup.controllers`: what may be enabled below.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn controllers(&self) -> Result<Option<Vec<String>>, Error> {
        Ok(self
            .read("cgroup.controllers")?
            .map(|text| text.split_ascii_whitespace().map(str::to_owned).collect()))
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
    fn members_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        put("cgroup.procs", "1\n42\n");
        put("cgroup.threads", "1\n42\n43\n");
        put("cgroup.events", "populated 1\nfrozen 0\n");
        put("cgroup.controllers", "cpu memory\n");
        let c = Cgroup::open(dir.path()).unwrap();
        assert_eq!(c.procs().unwrap(), Some(vec![1, 42]));
        assert_eq!(c.threads().unwrap(), Some(vec![1, 42, 43]));
        assert_eq!(
            c.events().unwrap(),
            Some(Events {
                populated: true,
                frozen: false
            })
        );
        assert_eq!(c.controllers().unwrap().unwrap(), ["cpu", "memory"]);
        put("cgroup.procs", "one\n");
        assert!(c.procs().is_err());
    }

    #[test]
    fn an_empty_cgroup_has_no_members_and_a_root_no_events() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        let c = Cgroup::open(dir.path()).unwrap();
        assert_eq!(c.procs().unwrap(), Some(vec![]));
        assert_eq!(c.events().unwrap(), None);
    }
}
