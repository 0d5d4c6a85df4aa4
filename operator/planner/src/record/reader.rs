//! Reads a record, a block at a time.

use std::io::Read;

use super::{Entry, Error, FORMAT, Header, block};

/// How a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Where a block ends.
    Whole,
    /// Within a block, as after a kill: what stood in that block is lost.
    Truncated {
        /// Where that block begins, in bytes from the start of the file.
        offset: u64,
        /// Bytes of it that are there.
        bytes: u64,
    },
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where its block begins, in bytes from the start of the file.
    pub offset: u64,
    /// Line in the text of that block, from 1.
    pub line: usize,
}

/// A record that is being read. Holds one block at a time.
#[derive(Debug)]
pub struct Reader<R: Read> {
    from: R,
    header: Header,
    /// Where the next block begins.
    offset: u64,
    /// Text of the current block, and what of it is read.
    text: Vec<u8>,
    read: usize,
    place: Place,
    tail: Option<Tail>,
}

impl<R: Read> Reader<R> {
    /// Begins to read: the header must be there.
    ///
    /// # Errors
    ///
    /// If this is no record, or one of another format.
    pub fn new(from: R) -> Result<Self, Error> {
        let header = Header {
            duosuan_record: 0,
            core: String::new(),
            scheduler_name: String::new(),
        };
        let mut reader = Reader {
            from,
            header,
            offset: 0,
            text: Vec::new(),
            read: 0,
            place: Place::default(),
            tail: None,
        };
        let no_record = |problem: &str| Error::NoRecord {
            problem: problem.to_owned(),
        };
        match reader.next_block() {
            Ok(true) => {}
            Ok(false) if reader.tail == Some(Tail::Whole) => return Err(no_record("the file is empty")),
            Ok(false) => return Err(no_record("it ends within its first block")),
            Err(Error::Damaged { problem, .. }) => return Err(no_record(&format!("of its first block, {problem}"))),
            Err(error) => return Err(error),
        }
        let line = reader.line().unwrap_or_default();
        reader.header = serde_json::from_slice(&line).map_err(|e| no_record(&format!("its first line: {e}")))?;
        if reader.header.duosuan_record != FORMAT {
            return Err(Error::Format {
                found: reader.header.duosuan_record,
                core: reader.header.core,
            });
        }
        Ok(reader)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How it ends; `None` before [`next`](Reader::next) has found the end.
    pub fn tail(&self) -> Option<Tail> {
        self.tail
    }

    /// Where the entry stands that was read last.
    pub fn place(&self) -> Place {
        self.place
    }

    fn next_block(&mut self) -> Result<bool, Error> {
        if self.tail.is_some() {
            return Ok(false);
        }
        let offset = self.offset;
        match block::unpack(&mut self.from).map_err(|source| Error::Io { offset, source })? {
            block::Next::Block { text, length } => {
                self.place = Place { offset, line: 0 };
                self.offset += length;
                self.text = text;
                self.read = 0;
                Ok(true)
            }
            block::Next::End => {
                self.tail = Some(Tail::Whole);
                Ok(false)
            }
            block::Next::Truncated { bytes } => {
                self.tail = Some(Tail::Truncated { offset, bytes });
                Ok(false)
            }
            block::Next::Damaged(problem) => Err(Error::Damaged { offset, problem }),
        }
    }

    /// The next line of the current block.
    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = self.text.get(self.read..).filter(|rest| !rest.is_empty())?;
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
        self.read += line.len() + 1;
        self.place.line += 1;
        Some(line)
    }

    /// The next entry; `None` at the end, whole or truncated.
    ///
    /// # Errors
    ///
    /// If the record is damaged; the offset says where. Nothing can be read behind that.
    #[allow(clippy::should_implement_trait, reason = "it borrows nothing, and an error ends it")]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some(line) = self.line() {
                return serde_json::from_slice(&line).map(Some).map_err(|error| Error::Damaged {
                    offset: self.place.offset,
                    problem: format!("line {} of its text: {error}", self.place.line),
                });
            }
            if !self.next_block()? {
                return Ok(None);
            }
        }
    }
}
