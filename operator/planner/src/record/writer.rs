//! Writes a record.

use std::io::{self, Write};

use serde::Serialize;

use super::{Entry, Header, block};

/// Text of a block at which it is written, in bytes: 256 KiB. Larger ones hardly compress better.
const FULL: usize = 256 << 10;

/// Collects entries and writes them block by block.
///
/// What is not [flushed](Writer::flush) is lost with the writer; what is, can be read whatever happens to it.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
    text: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a record: the header is written at once.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn new(to: W, header: &Header) -> io::Result<Self> {
        let mut writer = Writer { to, text: Vec::new() };
        writer.line(header)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Appends an entry; writes the block if it is full.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        self.line(entry)?;
        if self.text.len() >= FULL { self.flush() } else { Ok(()) }
    }

    /// Writes what is collected.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.text.is_empty() {
            // In one piece, so that another writer to the same file could not come between its parts.
            self.to.write_all(&block::pack(&self.text)?)?;
            self.text.clear();
        }
        self.to.flush()
    }

    /// Writes what is collected, and gives back what it was written to.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.to)
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.text, value)?;
        self.text.push(b'\n');
        Ok(())
    }
}
