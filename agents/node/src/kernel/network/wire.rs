//! Bytes of rtnetlink messages: a header, a fixed part and attributes, each of them padded to four bytes.

/// Header of a message: length, kind, flags, number, port.
pub(super) const HEADER: usize = 16;
/// Header of an attribute: length, kind.
const ATTRIBUTE: usize = 4;
/// Bits of an attribute's kind that say how it is encoded.
const KIND: u16 = 0x3fff;

/// Flags of a request.
pub(super) const REQUEST: u16 = 1;
pub(super) const ACKNOWLEDGE: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
/// Flag of an answer: the list changed while it was made.
pub(super) const INTERRUPTED: u16 = 0x10;

/// A message that is being written.
#[derive(Clone, Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A request of a kind, with the fixed part that this kind has.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self(bytes);
        message.pad();
        message
    }

    /// With an attribute.
    #[must_use]
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// With an attribute that is a word, as the kernel spells it: with a zero at its end.
    #[must_use]
    pub(super) fn with_name(self, kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// With an attribute that holds others.
    #[must_use]
    pub(super) fn with_nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; ATTRIBUTE]);
        let mut message = inside(self);
        let length = u16::try_from(message.0.len() - start).unwrap_or(u16::MAX);
        put(&mut message.0, start, &length.to_ne_bytes());
        put(&mut message.0, start + 2, &kind.to_ne_bytes());
        message
    }

    /// The message with its length and a number, by which its answer is known.
    pub(super) fn finish(mut self, number: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        put(&mut self.0, 0, &length.to_ne_bytes());
        put(&mut self.0, 8, &number.to_ne_bytes());
        self.0
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// A message that the kernel sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) number: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

/// The messages in what was received at once. One that is cut off is none.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let received = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            number: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// Attributes by kind. One that is cut off ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// An attribute within attributes, by the kinds on the way to it.
pub(super) fn within<'a>(bytes: &'a [u8], kinds: &[u16]) -> Option<&'a [u8]> {
    kinds.iter().try_fold(bytes, |bytes, kind| attribute(bytes, *kind))
}

/// A word, without the zero at its end.
pub(super) fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_each_part_is_padded() {
        let message = Message::new(36, CREATE, &[1, 2, 3, 4, 5])
            .with_name(1, "clsact")
            .with_nested(2, |m| m.with(7, &[9]).with_nested(8, |m| m.with_name(3, "police")))
            .with(4, &[1, 0, 0, 0]);
        let bytes = message.finish(77);
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 1);
        let message = read.first().unwrap();
        assert_eq!((message.kind, message.number), (36, 77));
        let attributes = message.body.get(8..).unwrap();
        assert_eq!(name(attribute(attributes, 1).unwrap()), "clsact");
        assert_eq!(within(attributes, &[2, 7]), Some(&[9][..]));
        assert_eq!(name(within(attributes, &[2, 8, 3]).unwrap()), "police");
        assert_eq!(u32_at(attribute(attributes, 4).unwrap(), 0), Some(1));
        assert_eq!(within(attributes, &[2, 9, 3]), None);
    }

    #[test]
    fn what_is_cut_off_or_says_a_length_that_cannot_be_ends_the_reading() {
        let whole = Message::new(36, 0, &[0; 4]).with_name(1, "clsact").finish(1);
        for end in 0..whole.len() {
            let cut = whole.get(..end).unwrap();
            assert_eq!(messages(cut).count(), 0, "{end}");
            assert!(attributes(cut.get(20..).unwrap_or_default()).count() <= 1);
        }
        assert_eq!(messages(&[0; 64]).count(), 0, "a length of nothing would never end");
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 1, 1]).count(), 0);
    }
}
