//! Records: their form on disk, making and checking them.
//!
//! ```text
//! 0   magic "RPr1"
//! 4   CRC-32C of everything behind it, payload included
//! 8   payload length
//! 12  kind (1 message, 2 message with body file, 3 settled, 4 progress), three zero bytes
//! 16  key of the segment
//! 24  message id (16)
//! 40  payload
//! ```
//!
//! Numbers are little endian. A message's payload is the envelope's length (4), the envelope, and the message's bytes;
//! with a body file, instead of the bytes, the file's length (8) and CRC-32C (4). A progress payload is the numbers of the
//! recipients that are done, four bytes each.

use ringpost_base::SpoolId;
use std::fmt;

pub(crate) const MAGIC: [u8; 4] = *b"RPr1";
pub(crate) const HEADER: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Message = 1,
    MessageFile = 2,
    Settled = 3,
    Progress = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Message, Self::MessageFile, Self::Settled, Self::Progress].into_iter().find(|kind| *kind as u8 == byte)
    }

    pub(crate) fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::MessageFile)
    }
}

/// A body that lives in a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyFile {
    /// The file's length in bytes.
    pub len: u64,
    /// CRC-32C of its bytes.
    pub crc: u32,
}

/// Where a message's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// In the record.
    Inline(&'a [u8]),
    /// In the body file named by the id.
    File(BodyFile),
}

/// A message as its record holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRecord<'a> {
    /// The message's id.
    pub id: SpoolId,
    /// The stored envelope.
    pub envelope: &'a [u8],
    /// The message's bytes, or where they are.
    pub content: Content<'a>,
}

/// Bytes that are not the record they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError;

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("record does not match its checksum or form")
    }
}

impl std::error::Error for RecordError {}

/// A record whose checksum and key hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: SpoolId,
    pub(crate) payload: &'a [u8],
}

impl Raw<'_> {
    pub(crate) fn len(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// Appends a record whose payload is the concatenation of `parts`; its length in bytes is returned. It has no key and no
/// checksum until [`seal`] gives it both, when the segment it goes to is known.
pub(crate) fn append(kind: Kind, id: SpoolId, parts: &[&[u8]], out: &mut Vec<u8>) -> usize {
    let start = out.len();
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(HEADER + payload);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload as u32).to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&id.to_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.len() - start
}

/// Puts the segment's key and the checksum into a record.
pub(crate) fn seal(record: &mut [u8], key: u64) {
    record[16..24].copy_from_slice(&key.to_le_bytes());
    let crc = crc32c::crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the start of `bytes`, if there is a whole and true one.
pub(crate) fn parse(bytes: &[u8], key: u64) -> Option<Raw<'_>> {
    let header = bytes.first_chunk::<HEADER>()?;
    if header[..4] != MAGIC || header[16..24] != key.to_le_bytes() {
        return None;
    }
    let payload = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let record = bytes.get(..HEADER.checked_add(payload)?)?;
    if u32::from_le_bytes(header[4..8].try_into().ok()?) != crc32c::crc32c(&record[8..]) {
        return None;
    }
    let id = SpoolId::from_bytes(header[24..40].try_into().ok()?);
    Some(Raw { kind: Kind::from_byte(header[12])?, id, payload: &record[HEADER..] })
}

/// Reads a message back from the bytes of its record, checksum first.
///
/// `bytes` is what the read of [`crate::Location`] gave, `key` what it says.
pub fn parse_message(bytes: &[u8], key: u64) -> Result<MessageRecord<'_>, RecordError> {
    let raw = parse(bytes, key).ok_or(RecordError)?;
    message_of(&raw).ok_or(RecordError)
}

pub(crate) fn message_of<'a>(raw: &Raw<'a>) -> Option<MessageRecord<'a>> {
    let (len, rest) = raw.payload.split_first_chunk::<4>()?;
    let (envelope, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let content = match raw.kind {
        Kind::Message => Content::Inline(rest),
        Kind::MessageFile => {
            let (len, crc) = rest.split_first_chunk::<8>()?;
            Content::File(BodyFile { len: u64::from_le_bytes(*len), crc: u32::from_le_bytes(crc.try_into().ok()?) })
        }
        Kind::Settled | Kind::Progress => return None,
    };
    Some(MessageRecord { id: raw.id, envelope, content })
}

pub(crate) fn progress_of(payload: &[u8]) -> Vec<u32> {
    payload.chunks_exact(4).map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SpoolId = SpoolId::from_bytes([5; 16]);

    fn example(prefix: usize) -> (Vec<u8>, usize) {
        let mut out = vec![0xaa; prefix];
        let len = append(Kind::Message, ID, &[&3u32.to_le_bytes(), b"env", b"body"], &mut out);
        seal(&mut out[prefix..], 9);
        (out, len)
    }

    #[test]
    fn made_and_read_back() {
        let (out, len) = example(3);
        let message = parse_message(&out[3..], 9).expect("parses");
        assert_eq!((len, message.envelope, message.content), (HEADER + 11, &b"env"[..], Content::Inline(b"body")));
        assert!(parse_message(&out[3..], 8).is_err(), "another segment's key");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (record, _) = example(0);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&damaged, 9).is_none(), "bit {bit}");
        }
        for len in 0..record.len() {
            assert!(parse(&record[..len], 9).is_none(), "cut at {len}");
        }
    }
}
