//! The messages of a run: a few bodies made once, and headers written anew into the session's buffer for each message.
//!
//! Every message carries what its verifier needs: `X-Ringpost-Load-Id` (`<run>-<sequence>`), `X-Ringpost-Load-Digest`
//! (CRC-32C of the body, in hex) and `X-Ringpost-Load-Size` (bytes of the body). The body is everything after the first
//! empty line, with CRLF line ends as sent, before dot-stuffing.
//!
//! Bodies are pseudo-random text that follows from the seed, in lines of up to 76 characters; about one line in twelve
//! starts with a dot, and some are only a dot, so that dot-stuffing (RFC 5321 section 4.5.2) is put to the test. Bodies
//! are shared by many messages; ids aren't. There is no MIME structure: this measures transport, not parsing.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822;

use crate::args::MailArgs;
use crate::recipients::{Recipients, write_number};
use crate::units::Size;

pub(crate) const ID_HEADER: &str = "X-Ringpost-Load-Id";
pub(crate) const DIGEST_HEADER: &str = "X-Ringpost-Load-Digest";
pub(crate) const SIZE_HEADER: &str = "X-Ringpost-Load-Size";

/// Longest line of a body, without its CRLF: what RFC 2045 section 6.8 allows an encoded line.
const LINE_CHARS_MAX: u64 = 76;

/// Different bodies of each size. Together they are larger than a first-level cache, and still cheap to make.
const BODIES_PER_SIZE: usize = 8;

/// Bodies of a size larger than this exist only once.
const BODY_BYTES_SINGLE: u64 = 256 * 1024;

/// Like real mail at an MX: (messages in a thousand, size in KiB). Median 9 KiB, mean 35 KiB, largest 5 MiB.
const MIX: [(u64, u64); 10] =
    [(150, 2), (200, 4), (200, 9), (200, 16), (120, 32), (80, 64), (30, 150), (14, 400), (5, 1024), (1, 5120)];

/// Names a message of any run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId {
    pub(crate) run: u64,
    pub(crate) sequence: u64,
}

impl MessageId {
    /// Appends the id as its header carries it.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        write_hex(out, self.run, 16);
        out.push(b'-');
        write_number(out, self.sequence);
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.run, self.sequence)
    }
}

impl FromStr for MessageId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, sequence) = text.split_once('-').ok_or(())?;
        if run.len() != 16 {
            return Err(());
        }
        Ok(Self { run: u64::from_str_radix(run, 16).map_err(drop)?, sequence: sequence.parse().map_err(drop)? })
    }
}

/// How a body goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Dot-stuffed and ended with a dot (RFC 5321 section 4.5.2)
    Data,
    /// As it is (RFC 3030)
    Bdat,
}

/// One body, ready to be sent.
pub(crate) struct Body {
    /// What is written to the wire: dot-stuffed and with the final dot for DATA.
    pub(crate) wire: Box<[u8]>,
    /// Bytes of the body itself.
    pub(crate) size: u64,
    digest: u32,
}

/// Makes the messages of a run.
pub(crate) struct Composer {
    run: u64,
    from: String,
    recipients: Recipients,
    /// (messages in a thousand, their bodies)
    classes: Vec<(u64, Vec<Body>)>,
}

impl Composer {
    pub(crate) fn new(seed: u64, mail: &MailArgs, framing: Framing) -> anyhow::Result<Self> {
        let mut composer = Self {
            run: run_id(seed),
            from: mail.from.clone(),
            recipients: Recipients::new(mail)?,
            classes: Vec::new(),
        };
        let mut header = Vec::new();
        composer.write_header(&mut header, 0, &Body::new(seed, 100, framing), &mut DateLine::default());
        let header_bytes = header.len() as u64;
        let class = |part: u64, size: u64| {
            let count = if size > BODY_BYTES_SINGLE { 1 } else { BODIES_PER_SIZE as u64 };
            let body = |index| Body::new(mix64(seed ^ (size << 8) ^ index), size.saturating_sub(header_bytes), framing);
            (part, (0..count).map(body).collect())
        };
        composer.classes = match mail.size {
            Size::Fixed(size) => vec![class(1000, size)],
            Size::Mix => MIX.iter().map(|&(part, kib)| class(part, kib * 1024)).collect(),
        };
        Ok(composer)
    }

    /// The run that the ids of all messages name.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    pub(crate) fn id(&self, sequence: u64) -> MessageId {
        MessageId { run: self.run, sequence }
    }

    pub(crate) fn from(&self) -> &str {
        &self.from
    }

    pub(crate) fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// The body of a message; the same for the same seed and sequence number.
    pub(crate) fn body(&self, sequence: u64) -> &Body {
        let random = mix64(self.run ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut part = random % 1000;
        let (last, others) = self.classes.split_last().expect("a size has at least one class");
        let class = others.iter().find(|(share, _)| {
            let found = part < *share;
            part = part.saturating_sub(*share);
            found
        });
        let bodies = &class.unwrap_or(last).1;
        &bodies[(random >> 32) as usize % bodies.len()]
    }

    /// Replaces `out` with the header of a message, the empty line included (RFC 5322 section 3.6).
    pub(crate) fn write_header(&self, out: &mut Vec<u8>, sequence: u64, body: &Body, date: &mut DateLine) {
        let id = self.id(sequence);
        out.clear();
        out.extend_from_slice(b"From: ");
        let author = if self.from.is_empty() { "postmaster@ringpost-load.example" } else { &self.from };
        out.extend_from_slice(author.as_bytes());
        out.extend_from_slice(b"\r\nTo: ");
        self.recipients.write(out, sequence, 0);
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(date.text().as_bytes());
        out.extend_from_slice(b"\r\nMessage-ID: <");
        id.write(out);
        out.extend_from_slice(b"@ringpost-load.example>\r\nSubject: ringpost-load message ");
        write_number(out, sequence);
        out.extend_from_slice(b"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n");
        out.extend_from_slice(ID_HEADER.as_bytes());
        out.extend_from_slice(b": ");
        id.write(out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(DIGEST_HEADER.as_bytes());
        out.extend_from_slice(b": ");
        write_hex(out, u64::from(body.digest), 8);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(SIZE_HEADER.as_bytes());
        out.extend_from_slice(b": ");
        write_number(out, body.size);
        out.extend_from_slice(b"\r\n\r\n");
    }
}

impl Body {
    fn new(seed: u64, size: u64, framing: Framing) -> Self {
        let text = body_text(seed, size.max(2));
        let (size, digest) = (text.len() as u64, crc32c::crc32c(&text));
        let wire = match framing {
            Framing::Bdat => text,
            Framing::Data => stuffed(&text),
        };
        Self { wire: wire.into_boxed_slice(), size, digest }
    }
}

/// The text of a Date header, made anew once a second.
#[derive(Debug, Default)]
pub(crate) struct DateLine {
    second: u64,
    text: String,
}

impl DateLine {
    fn text(&mut self) -> &str {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if self.second != now || self.text.is_empty() {
            let timestamp = Timestamp::from_second(now as i64).unwrap_or(Timestamp::UNIX_EPOCH);
            self.second = now;
            self.text.clear();
            // Writing into a String fails only for years that RFC 2822 can't tell.
            let _ = rfc2822::DateTimePrinter::new().print_timestamp(&timestamp, &mut self.text);
        }
        &self.text
    }
}

/// The id of the run that a seed gives.
pub(crate) fn run_id(seed: u64) -> u64 {
    mix64(seed ^ 0x7269_6e67_706f_7374)
}

/// Finishes one step of SplitMix64 (Steele, Lea and Flood, 2014): well mixed, and cheap.
fn mix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Text of exactly this many bytes (at least 2) that ends in CRLF.
fn body_text(seed: u64, size: u64) -> Vec<u8> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(state)
    };
    let mut text = Vec::with_capacity(size as usize);
    let mut rest = size;
    while rest > 0 {
        let kind = random();
        let dotted = (kind >> 8) % 256 < 21;
        let chars = match kind % 16 {
            0 if dotted || kind % 32 == 0 => 1,
            0 => (kind >> 32) % (LINE_CHARS_MAX + 1),
            _ => 40 + (kind >> 32) % (LINE_CHARS_MAX - 39),
        };
        let mut line = (chars + 2).min(rest);
        // One byte left over would have no room for its CRLF.
        if rest - line == 1 {
            line = if line > 2 { line - 1 } else { 3 };
        }
        rest -= line;
        let first = text.len();
        for _ in 2..line {
            let byte = random();
            text.push(if byte % 6 == 0 { b' ' } else { b'a' + (byte >> 32) as u8 % 26 });
        }
        if let Some(byte) = text.get_mut(first).filter(|_| dotted || chars == 1) {
            *byte = b'.';
        }
        // RFC 5322 section 3.1: nothing that a filter would strip from the end of a line.
        if let Some(last) = text[first..].last_mut().filter(|byte| **byte == b' ') {
            *last = b'-';
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// The text with a dot before each line that starts with one, and the line that ends the mail data.
fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + text.len() / 256 + 8);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

fn write_hex(out: &mut Vec<u8>, number: u64, digits: u32) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * digit) & 15) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn composer(options: &[&str], framing: Framing) -> Composer {
        let cli = Cli::try_parse_from([&["ringpost-load"], options].concat()).expect("parses");
        Composer::new(7, &cli.run.mail, framing).expect("valid")
    }

    #[test]
    fn body_text_is_whole_lines_of_the_size_asked_for() {
        for size in (2..400).chain([10_000, 65_537]) {
            let text = body_text(size, size);
            assert_eq!(text.len() as u64, size);
            assert!(text.ends_with(b"\r\n"), "{size}");
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                assert!(line.ends_with(b"\r\n") && line.len() <= 78, "{size}");
                assert!(!line[..line.len() - 2].iter().any(|byte| matches!(byte, b'\r' | b'\n')), "{size}");
            }
        }
        assert_eq!(body_text(3, 5000), body_text(3, 5000));
        assert_ne!(body_text(3, 5000), body_text(4, 5000));
    }

    #[test]
    fn dots_are_stuffed() {
        assert_eq!(stuffed(b"a\r\n.\r\n..b\r\n"), b"a\r\n..\r\n...b\r\n.\r\n");
        let text = body_text(1, 20_000);
        let dotted = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line[0] == b'.').count();
        assert!(dotted > 5);
        assert_eq!(stuffed(&text).len(), text.len() + dotted + 3);
    }

    #[test]
    fn messages_have_the_size_asked_for() {
        let composer = composer(&["--size", "4KiB"], Framing::Bdat);
        let mut header = Vec::new();
        for sequence in [0, 99, 1_000_000] {
            let body = composer.body(sequence);
            composer.write_header(&mut header, sequence, body, &mut DateLine::default());
            let size = header.len() as i64 + body.size as i64;
            assert!((size - 4096).abs() < 40, "{size}");
        }
    }

    #[test]
    fn mix_is_as_documented() {
        assert_eq!(MIX.iter().map(|(part, _)| part).sum::<u64>(), 1000);
        let mean = MIX.iter().map(|(part, kib)| part * kib).sum::<u64>() / 1000;
        assert_eq!(mean, 35);
        let composer = composer(&["--size", "mix"], Framing::Data);
        let mut sizes: Vec<_> = (0..20_000).map(|sequence| composer.body(sequence).size).collect();
        sizes.sort_unstable();
        assert!((8_500..9_300).contains(&sizes[10_000]), "{}", sizes[10_000]);
        let mean = sizes.iter().sum::<u64>() / 20_000;
        assert!((27_000..45_000).contains(&mean), "{mean}");
    }

    #[test]
    fn ids_round_trip() {
        let id = composer(&[], Framing::Data).id(12);
        let mut out = Vec::new();
        id.write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), id.to_string());
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "-", "12", "0123456789abcdef-", "0123456789abcdef-x", "123-4", "0123456789abcdeg-1"] {
            assert_eq!(wrong.parse::<MessageId>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn header_is_complete() {
        let composer = composer(&["--from", "a@b.example"], Framing::Data);
        let mut header = Vec::new();
        composer.write_header(&mut header, 5, composer.body(5), &mut DateLine::default());
        let text = String::from_utf8(header).expect("ASCII");
        for name in ["From: a@b.example", "To: user5@example.com", "Date: ", "Message-ID: <", ID_HEADER, SIZE_HEADER] {
            assert!(text.contains(&format!("\r\n{name}")) || text.starts_with(name), "{name} in {text}");
        }
        assert!(text.ends_with("\r\n\r\n"));
    }
}
