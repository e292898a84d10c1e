//! The envelope, and how it is kept in the spool.
//!
//! On disk an envelope is a version byte and then, in order: id (16 bytes), time of arrival (8, little endian), flags (1),
//! session text, client address text, HELO name, sender, the number of recipients (4) and each recipient; every text
//! as its length (4, little endian) and its UTF-8 bytes. A new field is a new version; old versions stay readable.

use ringpost_base::{SpoolId, Timestamp};
use std::fmt;

const VERSION: u8 = 1;
const FLAG_UTF8: u8 = 1;
const FLAG_EIGHT_BIT: u8 = 2;

/// Longest text of a stored envelope; a longer one is damage, not data.
const TEXT_MAX: usize = 4096;

/// Who a message is from, to whom it goes, and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The message's id.
    pub id: SpoolId,
    /// When MAIL was accepted.
    pub arrived: Timestamp,
    /// The session it came in, as text.
    pub session: Box<str>,
    /// The client's address, as text.
    pub client: Box<str>,
    /// The client's HELO or EHLO name.
    pub helo: Box<str>,
    /// The reverse-path; empty for bounces.
    pub from: Box<str>,
    /// The forward-paths, in the order accepted, without repetitions.
    pub recipients: Vec<Box<str>>,
    /// SMTPUTF8 was given with MAIL.
    pub utf8: bool,
    /// BODY=8BITMIME was given with MAIL.
    pub eight_bit: bool,
}

impl Envelope {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(&self.arrived.unix_micros().to_le_bytes());
        out.push((u8::from(self.utf8) * FLAG_UTF8) | (u8::from(self.eight_bit) * FLAG_EIGHT_BIT));
        for text in [&self.session, &self.client, &self.helo, &self.from] {
            put_text(text, out);
        }
        out.extend_from_slice(&(self.recipients.len() as u32).to_le_bytes());
        for recipient in &self.recipients {
            put_text(recipient, out);
        }
    }

    /// Reads the stored form, all of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        if reader.take::<1>()? != [VERSION] {
            return Err(DecodeError("unknown version"));
        }
        let id = SpoolId::from_bytes(reader.take()?);
        let arrived = Timestamp::from_unix_micros(u64::from_le_bytes(reader.take()?));
        let [flags] = reader.take()?;
        if flags & !(FLAG_UTF8 | FLAG_EIGHT_BIT) != 0 {
            return Err(DecodeError("unknown flags"));
        }
        let [session, client, helo, from] = [reader.text()?, reader.text()?, reader.text()?, reader.text()?];
        let count = u32::from_le_bytes(reader.take()?) as usize;
        // Each recipient takes at least its length: a count beyond that is damage and must not reserve memory.
        if count > reader.0.len() / 4 {
            return Err(DecodeError("more recipients than bytes"));
        }
        let recipients = (0..count).map(|_| reader.text()).collect::<Result<_, _>>()?;
        if !reader.0.is_empty() {
            return Err(DecodeError("bytes left over"));
        }
        let (utf8, eight_bit) = (flags & FLAG_UTF8 != 0, flags & FLAG_EIGHT_BIT != 0);
        Ok(Self { id, arrived, session, client, helo, from, recipients, utf8, eight_bit })
    }
}

/// Stored bytes that are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError(&'static str);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stored envelope is damaged: {}", self.0)
    }
}

impl std::error::Error for DecodeError {}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn text(&mut self) -> Result<Box<str>, DecodeError> {
        let len = u32::from_le_bytes(self.take()?) as usize;
        if len > TEXT_MAX || len > self.0.len() {
            return Err(DecodeError("text longer than the record"));
        }
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        std::str::from_utf8(text).map(Into::into).map_err(|_| DecodeError("text is not UTF-8"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Envelope {
        Envelope {
            id: SpoolId::from_bytes([7; 16]),
            arrived: Timestamp::from_unix_micros(1_795_170_685_000_000),
            session: "S1".into(),
            client: "192.0.2.7".into(),
            helo: "client.example".into(),
            from: "a@b.example".into(),
            recipients: vec!["c@d.example".into(), "żółw@d.example".into()],
            utf8: true,
            eight_bit: false,
        }
    }

    #[test]
    fn stored_and_read_back() {
        let mut stored = Vec::new();
        example().encode(&mut stored);
        assert_eq!(Envelope::decode(&stored), Ok(example()));
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_survived() {
        let mut stored = Vec::new();
        example().encode(&mut stored);
        for len in 0..stored.len() {
            assert!(Envelope::decode(&stored[..len]).is_err(), "cut at {len}");
        }
        for at in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[at] ^= 0xff;
            let _ = Envelope::decode(&damaged);
        }
    }
}
