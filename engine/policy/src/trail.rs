//! The trail of a shard's sessions: what `ringpost explain` reads.
//!
//! A ring of bytes of fixed size. A note is appended by copying some 30 to 100 bytes, and pushes out the oldest ones;
//! nothing is kept per session, so an idle session costs nothing here. To explain a session is to walk the ring.
//!
//! A note in the ring, little endian: length of the whole (2 bytes), stage (1), outcome (2), session (8), time in microseconds
//! (8), microseconds taken (4), rule, number of inputs (1), and each input: name, kind (1), value. Texts are their length
//! (1) and their UTF-8 bytes; numbers are 8 bytes, addresses 16, those of IPv4 mapped. Notes wrap around the end of the ring.

use ringpost_base::{SessionId, Timestamp};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Longest text of a note; what is longer is cut at a character.
const TEXT_MAX: usize = 200;

/// Longest note. With it no ring of [`RING_MIN`] is too small for one.
const NOTE_MAX: usize = 4096;

/// Inputs of a note; further ones are left out.
const INPUTS_MAX: usize = 16;

/// Smallest ring; a smaller size turns the trail off.
pub const RING_MIN: usize = 64 << 10;

const HEAD: usize = 2 + 1 + 2 + 8 + 8 + 4;

const _: () = assert!(HEAD + 2 + TEXT_MAX + INPUTS_MAX * (2 * (TEXT_MAX + 1) + 1) > NOTE_MAX && NOTE_MAX < RING_MIN);

macro_rules! stages {
    ($($variant:ident = $name:literal, $help:literal;)*) => {
        /// What a session was at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Stage { $(#[doc = $help] $variant),* }

        impl Stage {
            /// All of them.
            pub const ALL: &'static [Stage] = &[$(Stage::$variant),*];

            /// The stage as it is printed.
            pub const fn name(self) -> &'static str {
                match self { $(Stage::$variant => $name),* }
            }
        }
    };
}

stages! {
    Connect = "connect", "The connection was taken, or turned away.";
    Proxy = "proxy", "A PROXY protocol header said where it really comes from.";
    Client = "xclient", "XCLIENT said where it really comes from.";
    Forward = "xforward", "XFORWARD said where the message comes from; for the log only.";
    Pregreet = "pregreet", "Whether the client kept silent before the banner.";
    Banner = "banner", "The banner was sent.";
    Helo = "helo", "HELO, EHLO or LHLO.";
    Tls = "tls", "The TLS handshake.";
    Lookup = "lookup", "Lookups in the DNS.";
    Screen = "screen", "What the evidence about the host came to.";
    Mail = "mail", "MAIL.";
    Rcpt = "rcpt", "RCPT.";
    Greylist = "greylist", "Whether the triplet of network, sender and recipient is known.";
    Data = "data", "DATA or the first BDAT.";
    Message = "message", "The whole message was judged.";
    Commit = "commit", "The spool made it durable, or could not.";
    Command = "command", "Commands were refused by the protocol itself.";
    Limit = "limit", "A limit of the session was met.";
    Ban = "ban", "The address was banned, or found banned.";
    Tarpit = "tarpit", "A reply was held back.";
    Close = "close", "The session ended.";
}

/// One thing that was known when it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A count, a size, or a number of milliseconds, as the input's name says.
    Number(u64),
    /// A number that may be negative.
    Score(i64),
    /// An address, which becomes text when it is read.
    Address(IpAddr),
}

/// What is noted of one step of a session.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// What the session was at.
    pub stage: Stage,
    /// The code of the SMTP reply that came of it; 0: none.
    pub outcome: u16,
    /// The rule or limit that decided, by its key in the config file; empty: nothing stood against it.
    pub rule: &'a str,
    /// How long it took.
    pub took: Duration,
    /// What was known.
    pub inputs: &'a [(&'a str, Value<'a>)],
}

/// A value as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedValue {
    /// A text.
    Text(String),
    /// A count.
    Number(u64),
    /// A number that may be negative.
    Score(i64),
}

impl fmt::Display for OwnedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => number.fmt(f),
            Self::Score(score) => score.fmt(f),
        }
    }
}

/// A note as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailStep {
    /// Whose step it was.
    pub session: SessionId,
    /// When it was noted.
    pub at: Timestamp,
    /// What the session was at.
    pub stage: Stage,
    /// The code of the SMTP reply that came of it; 0: none.
    pub outcome: u16,
    /// The rule or limit that decided; empty: nothing stood against it.
    pub rule: String,
    /// How long it took.
    pub took: Duration,
    /// What was known.
    pub inputs: Vec<(String, OwnedValue)>,
}

/// The ring of one shard.
#[derive(Debug, Default)]
pub struct Trail {
    ring: Box<[u8]>,
    /// Where the oldest note begins, and how many bytes of notes there are.
    head: usize,
    len: usize,
    /// A note while it is made.
    scratch: Vec<u8>,
}

impl Trail {
    /// A ring of so many bytes; below [`RING_MIN`] nothing is kept.
    pub fn new(bytes: usize) -> Self {
        let bytes = if bytes < RING_MIN { 0 } else { bytes };
        Self { ring: vec![0; bytes].into(), head: 0, len: 0, scratch: Vec::new() }
    }

    /// Takes another size. What was noted is forgotten if it changes.
    pub fn resize(&mut self, bytes: usize) {
        if bytes.max(RING_MIN) != self.ring.len().max(RING_MIN) || (bytes < RING_MIN) != self.ring.is_empty() {
            *self = Self::new(bytes);
        }
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Appends a note.
    pub fn note(&mut self, session: SessionId, at: Timestamp, note: &Note<'_>) {
        if !self.is_on() {
            return;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        encode(session, at, note, &mut bytes);
        while self.ring.len() - self.len < bytes.len() {
            let oldest = usize::from(u16::from_le_bytes([self.byte(0), self.byte(1)]));
            self.head = (self.head + oldest) % self.ring.len();
            self.len -= oldest;
        }
        let start = (self.head + self.len) % self.ring.len();
        let first = bytes.len().min(self.ring.len() - start);
        self.ring[start..start + first].copy_from_slice(&bytes[..first]);
        self.ring[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.len += bytes.len();
        self.scratch = bytes;
    }

    /// The steps of a session that are still there, oldest first.
    pub fn explain(&self, session: SessionId) -> Vec<TrailStep> {
        let of_session = |place: &Place| self.number(place.at + 5) == session.to_number();
        self.places().filter(of_session).filter_map(|place| self.raw(place).decode()).collect()
    }

    /// The session of a message: of the newest note that has its id as the input `id`. Other inputs are what clients say.
    pub fn find(&self, id: &str) -> Option<SessionId> {
        let has = |step: &TrailStep| {
            step.inputs
                .iter()
                .any(|(name, value)| name == "id" && matches!(value, OwnedValue::Text(text) if text == id))
        };
        let of_message = |place: &Place| {
            let stage = self.byte(place.at + 2);
            stage == Stage::Message as u8 || stage == Stage::Commit as u8
        };
        let steps = self.places().filter(of_message).filter_map(|place| self.raw(place).decode());
        steps.filter(has).last().map(|step| step.session)
    }

    /// When the oldest note was made: how far back the trail reaches.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.places().next().and_then(|place| self.raw(place).decode()).map(|step| step.at)
    }

    fn byte(&self, at: usize) -> u8 {
        self.ring[(self.head + at) % self.ring.len()]
    }

    fn number(&self, at: usize) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|byte| self.byte(at + byte)))
    }

    /// Where the notes are, oldest first.
    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.len {
                return None;
            }
            let len = usize::from(u16::from_le_bytes([self.byte(at), self.byte(at + 1)]));
            let place = Place { at, len };
            at += len;
            Some(place)
        })
    }

    fn raw(&self, Place { at, len }: Place) -> Raw {
        let start = (self.head + at) % self.ring.len();
        let first = len.min(self.ring.len() - start);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.ring[start..start + first]);
        bytes.extend_from_slice(&self.ring[..len - first]);
        Raw(bytes)
    }
}

/// Where a note is: how far behind the oldest it begins, and its length.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    len: usize,
}

fn encode(session: SessionId, at: Timestamp, note: &Note<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, note.stage as u8]);
    out.extend_from_slice(&note.outcome.to_le_bytes());
    out.extend_from_slice(&session.to_number().to_le_bytes());
    out.extend_from_slice(&at.unix_micros().to_le_bytes());
    out.extend_from_slice(&u32::try_from(note.took.as_micros()).unwrap_or(u32::MAX).to_le_bytes());
    put(note.rule, out);
    let count_at = out.len();
    out.push(0);
    for (name, value) in note.inputs.iter().take(INPUTS_MAX) {
        if out.len() + 2 * (TEXT_MAX + 1) + 9 > NOTE_MAX {
            break;
        }
        put(name, out);
        match value {
            Value::Text(text) => {
                out.push(0);
                put(text, out);
            }
            Value::Number(number) => {
                out.push(1);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Value::Score(score) => {
                out.push(2);
                out.extend_from_slice(&score.to_le_bytes());
            }
            Value::Address(address) => {
                let wide = match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => *v6,
                };
                out.push(3);
                out.extend_from_slice(&wide.octets());
            }
        }
        out[count_at] += 1;
    }
    let len = out.len() as u16;
    out[..2].copy_from_slice(&len.to_le_bytes());
}

fn put(text: &str, out: &mut Vec<u8>) {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// The bytes of one note.
struct Raw(Vec<u8>);

impl Raw {
    /// Nothing for bytes that no note left; that would be a fault of this file.
    fn decode(&self) -> Option<TrailStep> {
        let mut reader = Reader(self.0.get(2..)?);
        let stage = *Stage::ALL.get(usize::from(reader.take::<1>()?[0]))?;
        let outcome = u16::from_le_bytes(reader.take()?);
        let session = SessionId::from_number(u64::from_le_bytes(reader.take()?));
        let at = Timestamp::from_unix_micros(u64::from_le_bytes(reader.take()?));
        let took = Duration::from_micros(u32::from_le_bytes(reader.take()?).into());
        let rule = reader.text()?;
        let count = reader.take::<1>()?[0];
        let inputs = (0..count).map(|_| Some((reader.text()?, reader.value()?))).collect::<Option<_>>()?;
        Some(TrailStep { session, at, stage, outcome, rule, took, inputs })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(self.take::<1>()?[0]);
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn value(&mut self) -> Option<OwnedValue> {
        match self.take::<1>()?[0] {
            0 => self.text().map(OwnedValue::Text),
            1 => self.take().map(|bytes| OwnedValue::Number(u64::from_le_bytes(bytes))),
            2 => self.take().map(|bytes| OwnedValue::Score(i64::from_le_bytes(bytes))),
            _ => {
                let wide = Ipv6Addr::from(self.take::<16>()?);
                Some(OwnedValue::Text(wide.to_canonical().to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn note<'a>(rule: &'a str, inputs: &'a [(&'a str, Value<'a>)]) -> Note<'a> {
        Note { stage: Stage::Rcpt, outcome: 550, rule, took: Duration::from_micros(7), inputs }
    }

    #[test]
    fn a_note_reads_back() {
        let mut trail = Trail::new(RING_MIN);
        let (session, at) = (SessionId::from_number(9), Timestamp::from_unix_micros(5));
        let peers = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
        let inputs = [
            ("to", Value::Text("a@b")),
            ("count", Value::Number(u64::MAX)),
            ("score", Value::Score(-3)),
            ("peer", Value::Address(peers[0])),
            ("address", Value::Address(peers[1])),
        ];
        trail.note(session, at, &note("limits.x", &inputs));
        trail.note(SessionId::from_number(8), at, &note("", &[]));
        let steps = trail.explain(session);
        assert_eq!(steps.len(), 1);
        assert_eq!((steps[0].stage, steps[0].outcome, &*steps[0].rule), (Stage::Rcpt, 550, "limits.x"));
        assert_eq!(steps[0].inputs[2], ("score".to_owned(), OwnedValue::Score(-3)));
        for (input, peer) in steps[0].inputs[3..].iter().zip(peers) {
            assert_eq!(input.1, OwnedValue::Text(peer.to_string()));
        }
        assert_eq!(trail.oldest(), Some(at));
    }

    #[test]
    fn a_message_is_found_by_its_id_and_not_by_what_others_say() {
        let mut trail = Trail::new(RING_MIN);
        let at = Timestamp::default();
        let commit = |stage, name| (stage, [(name, Value::Text("01M7WMYRQK0000000006049SJP"))]);
        for (session, (stage, inputs)) in
            [(1, commit(Stage::Commit, "id")), (2, commit(Stage::Helo, "name")), (3, commit(Stage::Message, "to"))]
        {
            trail.note(SessionId::from_number(session), at, &Note { stage, inputs: &inputs, ..note("", &[]) });
        }
        assert_eq!(trail.find("01M7WMYRQK0000000006049SJP"), Some(SessionId::from_number(1)));
        assert_eq!(trail.find("01M7WMYRQK0000000006049SJQ"), None);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut trail = Trail::new(RING_MIN);
        let long = "é".repeat(5000);
        let inputs = vec![(&*long, Value::Text(&long)); 40];
        trail.note(SessionId::from_number(1), Timestamp::default(), &note(&long, &inputs));
        let steps = trail.explain(SessionId::from_number(1));
        assert_eq!(steps[0].rule.len(), TEXT_MAX);
        assert!(steps[0].inputs.len() <= INPUTS_MAX && !steps[0].inputs.is_empty());
    }

    #[test]
    fn a_trail_without_room_keeps_nothing() {
        let mut trail = Trail::new(100);
        trail.note(SessionId::from_number(1), Timestamp::default(), &note("", &[]));
        assert!(!trail.is_on() && trail.explain(SessionId::from_number(1)).is_empty());
        trail.resize(RING_MIN);
        trail.note(SessionId::from_number(1), Timestamp::default(), &note("", &[]));
        assert_eq!(trail.explain(SessionId::from_number(1)).len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_newest_notes_are_there_in_order(texts in proptest::collection::vec("[a-z]{0,300}", 1..900)) {
            let mut trail = Trail::new(RING_MIN);
            let mut model = VecDeque::new();
            for (at, text) in texts.iter().enumerate() {
                let at = Timestamp::from_unix_micros(at as u64);
                trail.note(SessionId::from_number(1), at, &note(text, &[("text", Value::Text(text))]));
                model.push_back((at, text[..text.len().min(TEXT_MAX)].to_owned()));
            }
            let steps = trail.explain(SessionId::from_number(1));
            prop_assert!(steps.len() == model.len() || trail.ring.len() - trail.len < NOTE_MAX);
            model.drain(..model.len() - steps.len());
            let read: Vec<_> = steps.into_iter().map(|step| (step.at, step.rule)).collect();
            prop_assert_eq!(read, Vec::from(model));
        }
    }
}
