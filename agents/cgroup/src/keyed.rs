//! The two shapes of kernel text: one value, and `key value` lines.

use crate::{dir::Cgroup, error::Error};

impl Cgroup {
    /// One whole number.
    pub(crate) fn number(&self, file: &'static str) -> Result<Option<u64>, Error> {
        self.read_again(file, |text| {
            text.parse().map_err(|_| self.wrong(file, text, "a whole number"))
        })
    }

    /// Lines of `key number`: calls `take` with each. Keys that are not known are for `take` to pass over.
    pub(crate) fn keyed(&self, file: &'static str, mut take: impl FnMut(&str, u64)) -> Result<Option<()>, Error> {
        self.read_again(file, |text| {
            for line in text.lines() {
                let pair = line
                    .split_once(' ')
                    .and_then(|(key, value)| Some((key, value.trim().parse().ok()?)));
                let (key, value) = pair.ok_or_else(|| self.wrong(file, line, "a key and a whole number"))?;
                take(key, value);
            }
            Ok(())
        })
    }
}
