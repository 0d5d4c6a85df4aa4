//! The text of an open kernel file, from its start, whatever was read of it before.

use std::{cell::Cell, os::fd::OwnedFd, path::PathBuf};

use rustix::io::{Errno, pread};

use crate::{
    dir::failure,
    error::{Cause, Error},
};

/// Most files fit; larger ones make the buffer grow, once.
const ROOM: usize = 8 << 10;

thread_local! {
    /// One for all files of a thread, so that a look allocates nothing.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How the kernel writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// In one piece: a read that is not filled was the last. Files that show values are so.
    Record,
    /// Perhaps in pieces, such as lists of processes.
    Any,
}

/// Calls `take` with the text, without the white space at its end. `None` if the kernel was built with this kind of accounting
/// and booted without it.
pub(crate) fn with_text<T>(
    fd: &OwnedFd,
    shape: Shape,
    path: impl Fn() -> PathBuf,
    take: impl FnOnce(&str) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let mut buffer = BUFFER.take();
    let taken = match fill(fd, shape, &mut buffer) {
        Ok(length) => {
            let bytes = buffer.get(..length).unwrap_or_default();
            match std::str::from_utf8(bytes) {
                Ok(text) => take(text.trim_end()).map(Some),
                Err(_) => Err(Error {
                    path: path(),
                    cause: Cause::Text {
                        text: String::from_utf8_lossy(bytes).into_owned(),
                        wanted: "text",
                    },
                }),
            }
        }
        Err(Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(failure(&path(), "read", errno)),
    };
    BUFFER.set(buffer);
    taken
}

/// Reads to the end and answers how many bytes that were.
fn fill(fd: &OwnedFd, shape: Shape, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            buffer.resize(buffer.len() + ROOM, 0);
        }
        let room = buffer.get_mut(length..).unwrap_or_default();
        let asked = room.len();
        match pread(fd, room, length as u64) {
            Ok(0) => return Ok(length),
            Ok(n) if n < asked && shape == Shape::Record => return Ok(length + n),
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn with(text: &[u8]) -> OwnedFd {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::File::open(file.path()).unwrap().into()
    }

    fn read(fd: &OwnedFd, shape: Shape) -> Result<Option<String>, Error> {
        with_text(fd, shape, || PathBuf::from("file"), |text| Ok(text.to_owned()))
    }

    #[test]
    fn a_file_is_read_whole_and_anew_each_time_whatever_its_length() {
        let long = "x".repeat(5 * ROOM / 2);
        let exact = "y".repeat(ROOM);
        for text in ["", "short", exact.as_str(), long.as_str()] {
            let fd = with(text.as_bytes());
            for shape in [Shape::Record, Shape::Any, Shape::Record] {
                assert_eq!(read(&fd, shape).unwrap().as_deref(), Some(text));
            }
        }
    }

    #[test]
    fn a_file_may_be_read_while_another_one_is() {
        let (outer, inner) = (with(b"outer"), with(b"inner"));
        let both = with_text(&outer, Shape::Record, PathBuf::new, |text| {
            Ok((text.to_owned(), read(&inner, Shape::Record)?, text.to_owned()))
        });
        let expected = ("outer".to_owned(), Some("inner".to_owned()), "outer".to_owned());
        assert_eq!(both.unwrap(), Some(expected));
    }

    #[test]
    fn what_is_no_text_is_an_error_with_the_path() {
        let error = read(&with(b"a\xff"), Shape::Any).unwrap_err().to_string();
        assert!(error.starts_with("file: ") && error.ends_with("is not text"), "{error}");
    }
}
