//! Records: their form on disk, making and checking them.
//!
//! ```text
//! 0   magic "RPr1"
//! 4   CRC-32C of everything behind it, payload included
//! 8   payload length
//! 12  kind (1 message, 2 message with body file, 3 settled, 4 progress, 5 state, 6 elsewhere)
//! 13  1 in the first record of a batch, else 0
//! 14  1 where a state is attached, 2 where it is a progress payload, else 0; one zero byte
//! 16  key of the segment
//! 24  message id (16)
//! 40  payload
//! ```
//!
//! Numbers are little endian. A message's payload is the envelope's length (4), the envelope, and the message's bytes;
//! with a body file, instead of the bytes, the file's length (8) and CRC-32C (4). A state payload is what the queue keeps
//! with the message. A progress payload, which format 1 had in its place, is the numbers of the recipients that are
//! done, four bytes each; it is written only to carry on what was read.
//!
//! An elsewhere record stands for a message whose record can't be copied forward, and says where that is: sequence of the
//! segment (8), offset (4) and length (4) of the record, the message's length (8), 1 if it has a body file (1), seven zero
//! bytes.
//!
//! A message that is copied or adopted has its state attached, behind the payload: the state, and its length (4). In a
//! record of its own it could be lost while the copy is not, and the copy is what counts from then on.

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
    State = 5,
    Elsewhere = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Message, Self::MessageFile, Self::Settled, Self::Progress, Self::State, Self::Elsewhere];
        all.into_iter().find(|kind| *kind as u8 == byte)
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
    /// It is the first of a batch: what stands before it was synced when it was written.
    pub(crate) begins_batch: bool,
    pub(crate) payload: &'a [u8],
    pub(crate) attached: Option<Attached<'a>>,
}

impl Raw<'_> {
    pub(crate) fn len(&self) -> usize {
        HEADER + self.payload.len() + Attached::len(self.attached)
    }
}

/// The state of a message, in the record of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached<'a> {
    pub(crate) state: &'a [u8],
    /// It is a progress payload.
    pub(crate) legacy: bool,
}

impl<'a> Attached<'a> {
    /// Octets that it takes in a record.
    pub(crate) fn len(attached: Option<Self>) -> usize {
        attached.map_or(0, |attached| attached.state.len() + 4)
    }

    /// Splits it from the payload before it; nothing where the record is not of that form.
    fn split(kind: u8, bytes: &'a [u8]) -> Option<(&'a [u8], Option<Self>)> {
        let legacy = match kind {
            0 => return Some((bytes, None)),
            1 => false,
            2 => true,
            _ => return None,
        };
        let (bytes, len) = bytes.split_last_chunk::<4>()?;
        let (payload, state) = bytes.split_at(bytes.len().checked_sub(u32::from_le_bytes(*len) as usize)?);
        Some((payload, Some(Self { state, legacy })))
    }
}

/// Appends a record whose payload is the concatenation of `parts`; its length in bytes is returned. It has no key and no
/// checksum until [`seal`] gives it both, when the segment it goes to is known.
pub(crate) fn append(
    kind: Kind,
    id: SpoolId,
    parts: &[&[u8]],
    attached: Option<Attached<'_>>,
    out: &mut Vec<u8>,
) -> usize {
    let start = out.len();
    let payload = parts.iter().map(|part| part.len()).sum::<usize>() + Attached::len(attached);
    out.reserve(HEADER + payload);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload as u32).to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, attached.map_or(0, |attached| 1 + u8::from(attached.legacy)), 0]);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&id.to_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    if let Some(Attached { state, .. }) = attached {
        out.extend_from_slice(state);
        out.extend_from_slice(&(state.len() as u32).to_le_bytes());
    }
    out.len() - start
}

/// Puts the segment's key and the checksum into a record, and whether it is the first of its batch.
pub(crate) fn seal(record: &mut [u8], key: u64, begins_batch: bool) {
    record[13] = u8::from(begins_batch);
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
    let (payload, attached) = Attached::split(header[14], &record[HEADER..])?;
    Some(Raw { kind: Kind::from_byte(header[12])?, id, begins_batch: header[13] != 0, payload, attached })
}

/// The key in what begins as a record does, whether or not it is whole.
pub(crate) fn key_of(bytes: &[u8]) -> Option<u64> {
    let header = bytes.first_chunk::<HEADER>().filter(|header| header[..4] == MAGIC)?;
    header[16..24].try_into().map(u64::from_le_bytes).ok()
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
        Kind::Settled | Kind::Progress | Kind::State | Kind::Elsewhere => return None,
    };
    Some(MessageRecord { id: raw.id, envelope, content })
}

/// The payload of a message that has a body file.
pub(crate) fn payload_of_file(envelope: &[u8], file: BodyFile) -> Vec<u8> {
    [&(envelope.len() as u32).to_le_bytes(), envelope, &file.len.to_le_bytes(), &file.crc.to_le_bytes()].concat()
}

impl Content<'_> {
    /// Length of the message in bytes, wherever they are.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
        }
    }
}

/// The numbers in a progress payload.
pub(crate) fn progress_of(payload: &[u8]) -> Vec<u32> {
    payload.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect()
}

/// The payload of those numbers.
pub(crate) fn progress(done: &[u32]) -> Vec<u8> {
    done.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Octets of an elsewhere payload.
pub(crate) const ELSEWHERE: usize = 32;

/// Where a message is whose record could not be copied forward, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// The segment's place in the log.
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// Length of the message in bytes.
    pub(crate) size: u64,
    pub(crate) has_body_file: bool,
}

impl Elsewhere {
    pub(crate) fn payload(&self) -> [u8; ELSEWHERE] {
        let mut out = [0; ELSEWHERE];
        out[..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..12].copy_from_slice(&self.offset.to_le_bytes());
        out[12..16].copy_from_slice(&self.len.to_le_bytes());
        out[16..24].copy_from_slice(&self.size.to_le_bytes());
        out[24] = u8::from(self.has_body_file);
        out
    }

    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let payload = payload.first_chunk::<ELSEWHERE>()?;
        Some(Self {
            sequence: u64::from_le_bytes(payload[..8].try_into().ok()?),
            offset: u32::from_le_bytes(payload[8..12].try_into().ok()?),
            len: u32::from_le_bytes(payload[12..16].try_into().ok()?),
            size: u64::from_le_bytes(payload[16..24].try_into().ok()?),
            has_body_file: payload[24] & 1 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SpoolId = SpoolId::from_bytes([5; 16]);

    fn example(prefix: usize) -> (Vec<u8>, usize) {
        let mut out = vec![0xaa; prefix];
        let attached = Some(Attached { state: b"state", legacy: false });
        let len = append(Kind::Message, ID, &[&3u32.to_le_bytes(), b"env", b"body"], attached, &mut out);
        seal(&mut out[prefix..], 9, true);
        (out, len)
    }

    #[test]
    fn made_and_read_back() {
        let (out, len) = example(3);
        let message = parse_message(&out[3..], 9).expect("parses");
        assert_eq!((len, message.envelope, message.content), (HEADER + 11 + 9, &b"env"[..], Content::Inline(b"body")));
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
