//! A block: some text, compressed, as a gzip member that says its own length.
//!
//! The length, in a field of gzip's own header for extensions, tells a file that ends too early (its writer was killed)
//! from one that is damaged; gzip's checksum and length of the text tell that it is what was written. Every other byte of
//! the header is fixed, so that no changed byte makes another text of it unnoticed.

use std::io::{self, Read};

use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

/// gzip, deflate, with an extension; no time, no flags, no system: the same text is the same block.
const FIXED: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'D', b'S', 4, 0];
/// Bytes before the compressed ones: the fixed ones and the length.
const HEAD: usize = FIXED.len() + 4;
/// Bytes behind the compressed ones: checksum and length of the text.
const TAIL: usize = 8;
/// Largest text of a block, in bytes: 256 MiB. Blocks that are written are some 256 KiB, and one object, of 1.5 MiB at
/// most in etcd, larger.
const LARGEST: usize = 256 << 20;
/// Fastest: the record must keep up with the first list of a large cluster.
const LEVEL: Compression = Compression::fast();

/// A text as a block.
///
/// # Errors
///
/// If the text is over 256 MiB.
pub fn pack(text: &[u8]) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a block holds 256 MiB of text at most");
    if text.len() > LARGEST {
        return Err(too_large());
    }
    let mut block = Vec::with_capacity(HEAD + TAIL + text.len() / 4);
    block.extend_from_slice(&FIXED);
    block.extend_from_slice(&[0; 4]);
    let mut deflate = Compress::new(LEVEL, false);
    loop {
        let done = usize::try_from(deflate.total_in()).map_err(|_| too_large())?;
        let rest = text.get(done..).unwrap_or_default();
        block.reserve(rest.len() / 4 + 1024);
        match deflate.compress_vec(rest, &mut block, FlushCompress::Finish)? {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError => {}
        }
    }
    let length = u32::try_from(block.len() - HEAD).map_err(|_| too_large())?;
    if let Some(slot) = block.get_mut(FIXED.len()..HEAD) {
        slot.copy_from_slice(&length.to_le_bytes());
    }
    let mut crc = Crc::new();
    crc.update(text);
    block.extend_from_slice(&crc.sum().to_le_bytes());
    block.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(block)
}

/// What comes next in a file of blocks.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole block: its text, and its length in the file.
    Block {
        /// The text.
        text: Vec<u8>,
        /// Bytes that the block takes in the file.
        length: u64,
    },
    /// The file ends where a block ends.
    End,
    /// The file ends within a block, which so far is as it should be.
    Truncated {
        /// Bytes of it that are there.
        bytes: u64,
    },
    /// What comes next is no block that was ever written.
    Damaged(String),
}

/// Reads the next block.
///
/// # Errors
///
/// If the reader fails.
pub fn unpack(from: &mut impl Read) -> io::Result<Next> {
    let head = up_to(from, HEAD)?;
    if head.is_empty() {
        return Ok(Next::End);
    }
    let (fixed, length) = head.split_at(head.len().min(FIXED.len()));
    if FIXED.get(..fixed.len()) != Some(fixed) {
        return Ok(Next::Damaged("it does not begin as a block of a record does".into()));
    }
    let Ok(length) = <[u8; 4]>::try_from(length) else {
        return Ok(truncated(head.len()));
    };
    let length = u32::from_le_bytes(length) as usize;
    if length > LARGEST {
        return Ok(Next::Damaged(format!("its length of {length} bytes is over {LARGEST}")));
    }
    let body = up_to(from, length + TAIL)?;
    let deflated = body.get(..length.min(body.len())).unwrap_or_default();
    let tail = body.get(length..).unwrap_or_default();
    let (Some(crc), Some(size)) = (word(tail, 0), word(tail, 4)) else {
        // Too short. If what is there is a whole stream, it is the length that is wrong.
        return Ok(match inflate(deflated, LARGEST) {
            Inflated::Whole(_, consumed) if consumed < length => {
                Next::Damaged("its length is not that of what it holds".into())
            }
            Inflated::Bad(problem) => Next::Damaged(problem),
            _ => truncated(head.len() + body.len()),
        });
    };
    let size = size as usize;
    if size > LARGEST {
        return Ok(Next::Damaged(format!("its text of {size} bytes is over {LARGEST}")));
    }
    Ok(match inflate(deflated, size) {
        Inflated::Whole(text, consumed) if consumed == length && text.len() == size => {
            let mut sum = Crc::new();
            sum.update(&text);
            if sum.sum() == crc {
                Next::Block {
                    text,
                    length: (head.len() + body.len()) as u64,
                }
            } else {
                Next::Damaged("its checksum is not that of its text".into())
            }
        }
        Inflated::Bad(problem) => Next::Damaged(problem),
        _ => Next::Damaged("its length is not that of what it holds".into()),
    })
}

fn truncated(bytes: usize) -> Next {
    Next::Truncated { bytes: bytes as u64 }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

/// So many bytes, fewer if the file ends before.
fn up_to(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    from.take(bytes as u64).read_to_end(&mut read)?;
    Ok(read)
}

enum Inflated {
    /// A whole stream: its text, and the bytes that it took.
    Whole(Vec<u8>, usize),
    /// More bytes are needed, or more room than there may be.
    Short,
    /// No stream.
    Bad(String),
}

fn inflate(bytes: &[u8], largest: usize) -> Inflated {
    let mut text = Vec::new();
    let mut inflate = Decompress::new(false);
    loop {
        let consumed = usize::try_from(inflate.total_in()).unwrap_or(usize::MAX);
        let rest = bytes.get(consumed..).unwrap_or_default();
        // One byte more than there may be shows that there is more.
        let room = (largest + 1).saturating_sub(text.len()).min(1 << 20);
        if room == 0 {
            return Inflated::Short;
        }
        text.reserve_exact(room);
        let before = (inflate.total_in(), text.len());
        match inflate.decompress_vec(rest, &mut text, FlushDecompress::None) {
            Err(error) => return Inflated::Bad(format!("it cannot be unpacked: {error}")),
            Ok(Status::StreamEnd) => {
                let consumed = usize::try_from(inflate.total_in()).unwrap_or(usize::MAX);
                return Inflated::Whole(text, consumed);
            }
            Ok(_) if (inflate.total_in(), text.len()) == before => return Inflated::Short,
            Ok(_) => {}
        }
    }
}
