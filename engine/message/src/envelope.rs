//! The envelope, and how it is kept in the spool.
//!
//! On disk an envelope is a version byte and then, in order: id (16 bytes), time of arrival (8, little endian), flags
//! (1), session text, client address text, HELO name, sender, the envelope id if the flags say so, the number of
//! recipients (4) and each recipient: its bits (1), its address, and, if the bits say so, its original address and its mailbox. Every
//! text is its length (4, little endian) and its UTF-8 bytes. A new field is a new version; old versions stay readable:
//! in version 1 there were the first two flags, no envelope id, and of a recipient the address only.

use crate::reports::{Notify, Ret};
use ringpost_base::{SpoolId, Timestamp};
use std::fmt;

const VERSION: u8 = 2;
/// Before reports, TLS and binary messages were kept.
const VERSION_1: u8 = 1;

const FLAG_UTF8: u8 = 1;
const FLAG_EIGHT_BIT: u8 = 2;
const FLAG_BINARY: u8 = 4;
const FLAG_REQUIRE_TLS: u8 = 8;
const FLAG_RET_FULL: u8 = 16;
const FLAG_RET_HEADERS: u8 = 32;
const FLAG_ENVID: u8 = 64;
const FLAGS: u8 = FLAG_BINARY | FLAG_REQUIRE_TLS | FLAG_RET_FULL | FLAG_RET_HEADERS | FLAG_ENVID | FLAGS_1;
const FLAGS_1: u8 = FLAG_UTF8 | FLAG_EIGHT_BIT;

/// Of a recipient: an original address follows. The lower bits are its `Notify`.
const BIT_ORIGINAL: u8 = 0x80;
/// Of a recipient: a mailbox follows.
const BIT_MAILBOX: u8 = 0x40;

const _: () = assert!(Notify::ALL & (BIT_ORIGINAL | BIT_MAILBOX) == 0);

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
    /// The client's address, as text; where a proxy presented the client, the presented one.
    pub client: Box<str>,
    /// The client's HELO or EHLO name.
    pub helo: Box<str>,
    /// The reverse-path; empty for bounces.
    pub from: Box<str>,
    /// The recipients in the order accepted, each address once.
    pub recipients: Vec<Recipient>,
    /// SMTPUTF8 was given with MAIL.
    pub utf8: bool,
    /// BODY=8BITMIME was given with MAIL.
    pub eight_bit: bool,
    /// BODY=BINARYMIME was given with MAIL: the message need not consist of lines, and no DATA command can carry it on
    /// (RFC 3030 section 3).
    pub binary: bool,
    /// REQUIRETLS was given with MAIL: it is passed on over TLS or not at all (RFC 8689 section 4.2.1).
    pub require_tls: bool,
    /// RET= of MAIL: what a report of failure returns.
    pub ret: Option<Ret>,
    /// ENVID= of MAIL, in xtext as given.
    pub envid: Option<Box<str>>,
}

/// A recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where the message goes.
    pub address: Box<str>,
    /// What the sender called the recipient, as an ORCPT value (`type;xtext`): what ORCPT= of RCPT said, or the address
    /// before an alias (RFC 5321 section 3.9.1), which a report names (RFC 3461 section 5.2.7.2, RFC 3461 section
    /// 5.2.7.3).
    pub original: Option<Box<str>>,
    /// NOTIFY= of RCPT: when the sender wants a report.
    pub notify: Notify,
    /// The address of the mailbox that it is kept in, where that is another: without the detail of a subaddress.
    pub mailbox: Option<Box<str>>,
}

impl Recipient {
    /// The address of the mailbox that it is kept in.
    pub fn kept_in(&self) -> &str {
        self.mailbox.as_ref().unwrap_or(&self.address)
    }

    /// A recipient of whom nothing else was said.
    pub fn new(address: impl Into<Box<str>>) -> Self {
        Self { address: address.into(), original: None, notify: Notify::default(), mailbox: None }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let original = if self.original.is_some() { BIT_ORIGINAL } else { 0 };
        let mailbox = if self.mailbox.is_some() { BIT_MAILBOX } else { 0 };
        out.push(self.notify.bits() | original | mailbox);
        for text in [Some(&self.address), self.original.as_ref(), self.mailbox.as_ref()].into_iter().flatten() {
            put_text(text, out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let [bits] = reader.take()?;
        let notify = Notify::from_bits(bits & !(BIT_ORIGINAL | BIT_MAILBOX));
        let notify = notify.ok_or(DecodeError("unknown bits of a recipient"))?;
        let address = reader.text()?;
        let original = if bits & BIT_ORIGINAL != 0 { Some(reader.text()?) } else { None };
        let mailbox = if bits & BIT_MAILBOX != 0 { Some(reader.text()?) } else { None };
        Ok(Self { address, original, notify, mailbox })
    }
}

impl Envelope {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(&self.arrived.unix_micros().to_le_bytes());
        out.push(self.flags());
        for text in [&self.session, &self.client, &self.helo, &self.from].into_iter().chain(&self.envid) {
            put_text(text, out);
        }
        out.extend_from_slice(&(self.recipients.len() as u32).to_le_bytes());
        for recipient in &self.recipients {
            recipient.encode(out);
        }
    }

    fn flags(&self) -> u8 {
        let set = [
            (self.utf8, FLAG_UTF8),
            (self.eight_bit, FLAG_EIGHT_BIT),
            (self.binary, FLAG_BINARY),
            (self.require_tls, FLAG_REQUIRE_TLS),
            (self.ret == Some(Ret::Full), FLAG_RET_FULL),
            (self.ret == Some(Ret::Headers), FLAG_RET_HEADERS),
            (self.envid.is_some(), FLAG_ENVID),
        ];
        set.into_iter().filter(|(holds, _)| *holds).fold(0, |flags, (_, flag)| flags | flag)
    }

    /// Reads the stored form of this version or an earlier one, all of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        // The flags there are, how a recipient is read, and how many bytes it takes at least.
        type ReadRecipient = fn(&mut Reader<'_>) -> Result<Recipient, DecodeError>;
        let (known, recipient, size_min): (u8, ReadRecipient, usize) = match reader.take()? {
            [VERSION] => (FLAGS, Recipient::decode, 5),
            [VERSION_1] => (FLAGS_1, |reader| reader.text().map(Recipient::new), 4),
            _ => return Err(DecodeError("unknown version")),
        };
        let id = SpoolId::from_bytes(reader.take()?);
        let arrived = Timestamp::from_unix_micros(u64::from_le_bytes(reader.take()?));
        let [flags] = reader.take()?;
        if flags & !known != 0 {
            return Err(DecodeError("unknown flags"));
        }
        let ret = match flags & (FLAG_RET_FULL | FLAG_RET_HEADERS) {
            0 => None,
            FLAG_RET_FULL => Some(Ret::Full),
            FLAG_RET_HEADERS => Some(Ret::Headers),
            _ => return Err(DecodeError("flags that exclude each other")),
        };
        let [session, client, helo, from] = [reader.text()?, reader.text()?, reader.text()?, reader.text()?];
        let envid = if flags & FLAG_ENVID != 0 { Some(reader.text()?) } else { None };
        let count = u32::from_le_bytes(reader.take()?) as usize;
        // A count beyond what there is room for is damage and must not reserve memory.
        if count > reader.0.len() / size_min {
            return Err(DecodeError("more recipients than bytes"));
        }
        let recipients = (0..count).map(|_| recipient(&mut reader)).collect::<Result<_, _>>()?;
        if !reader.0.is_empty() {
            return Err(DecodeError("bytes left over"));
        }
        let [utf8, eight_bit, binary, require_tls] =
            [FLAG_UTF8, FLAG_EIGHT_BIT, FLAG_BINARY, FLAG_REQUIRE_TLS].map(|flag| flags & flag != 0);
        Ok(Self {
            id,
            arrived,
            session,
            client,
            helo,
            from,
            recipients,
            utf8,
            eight_bit,
            binary,
            require_tls,
            ret,
            envid,
        })
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

    fn recipient(address: &str, original: Option<&str>, bits: u8) -> Recipient {
        let notify = Notify::from_bits(bits).expect("bits");
        Recipient { address: address.into(), original: original.map(Into::into), notify, mailbox: None }
    }

    pub(crate) fn example() -> Envelope {
        Envelope {
            recipients: vec![
                recipient("c@d.example", Some("rfc822;e+2Bf@g.example"), 6),
                recipient("żółw@d.example", None, 0),
            ],
            eight_bit: false,
            binary: true,
            require_tls: true,
            ret: Some(Ret::Headers),
            envid: Some("QQ314159".into()),
            ..of_version_1()
        }
    }

    /// What could be said in version 1.
    fn of_version_1() -> Envelope {
        Envelope {
            id: SpoolId::from_bytes([7; 16]),
            arrived: Timestamp::from_unix_micros(0x0102_0304),
            session: "S1".into(),
            client: "192.0.2.7".into(),
            helo: "client.example".into(),
            from: "a@b.example".into(),
            recipients: vec![Recipient::new("c@d.example"), Recipient::new("e@d.example")],
            utf8: true,
            eight_bit: true,
            binary: false,
            require_tls: false,
            ret: None,
            envid: None,
        }
    }

    /// `of_version_1` as the server of version 1 stored it.
    const STORED_1: &[u8] = b"\x01\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
        \x04\x03\x02\x01\0\0\0\0\x03\x02\0\0\0S1\x09\0\0\x00192.0.2.7\x0e\0\0\0client.example\
        \x0b\0\0\0a@b.example\x02\0\0\0\x0b\0\0\0c@d.example\x0b\0\0\0e@d.example";

    fn stored(envelope: &Envelope) -> Vec<u8> {
        let mut stored = Vec::new();
        envelope.encode(&mut stored);
        stored
    }

    #[test]
    fn stored_and_read_back() {
        for envelope in [example(), of_version_1(), Envelope { ret: Some(Ret::Full), ..example() }] {
            assert_eq!(Envelope::decode(&stored(&envelope)), Ok(envelope));
        }
    }

    #[test]
    fn version_1_stays_readable() {
        assert_eq!(Envelope::decode(STORED_1), Ok(of_version_1()));
        let mut damaged = STORED_1.to_vec();
        damaged[25] |= FLAG_BINARY;
        assert_eq!(Envelope::decode(&damaged), Err(DecodeError("unknown flags")));
    }

    #[test]
    fn bits_that_say_two_things_are_damage() {
        let mut both = stored(&example());
        both[25] |= FLAG_RET_FULL | FLAG_RET_HEADERS;
        assert_eq!(Envelope::decode(&both), Err(DecodeError("flags that exclude each other")));
        let mut never_and_success = stored(&Envelope { recipients: vec![recipient("", None, 1)], ..example() });
        let at = never_and_success.len() - 5;
        never_and_success[at] |= 2;
        assert_eq!(Envelope::decode(&never_and_success), Err(DecodeError("unknown bits of a recipient")));
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_survived() {
        for stored in [stored(&example()), STORED_1.to_vec()] {
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
}
