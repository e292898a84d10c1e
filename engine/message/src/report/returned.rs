//! The part of a report that returns the message, or its header section (RFC 6522 section 3, RFC 6522 section 4).

use super::{REPORT_RETURN_MAX, Report, ReportBody, returns_message};
use crate::HEADERS_MAX;
use memchr::{memchr, memmem};
use ringpost_base::SpoolId;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Octets of a line, without its end (RFC 5322 section 2.1.1).
const LINE_MAX: usize = 998;

/// Digits of the number that ends a boundary.
const NUMBER_DIGITS: usize = 4;

/// No content has so many boundaries of one id in it that no number is left.
const _: () = assert!((REPORT_RETURN_MAX + HEADERS_MAX) / SpoolId::TEXT_LEN < 16_usize.pow(NUMBER_DIGITS as u32));

/// What is returned of a message.
pub(super) enum Returned<'a> {
    Message(&'a [u8]),
    Headers(Vec<u8>),
}

impl<'a> Returned<'a> {
    pub(super) fn of(report: &Report<'a>, utf8: bool) -> Self {
        match report.body {
            ReportBody::Full(message)
                if returns_message(report.original, report.kind, message.len() as u64) && is_lines(message) =>
            {
                Self::Message(message)
            }
            // RFC 3461 section 6.2: only the header section, if nothing has failed or it was not asked for more.
            _ => Self::Headers(headers(report.header_section, utf8)),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Message(message) => message,
            Self::Headers(headers) => headers,
        }
    }

    /// RFC 6522 section 3, RFC 6522 section 4; beyond ASCII RFC 6533 section 4.
    pub(super) fn media_type(&self, utf8: bool) -> &'static str {
        match (self, utf8) {
            (Self::Message(_), false) => "message/rfc822",
            (Self::Message(_), true) => "message/global",
            (Self::Headers(_), false) => "text/rfc822-headers",
            (Self::Headers(_), true) => "message/global-headers",
        }
    }

    /// A boundary that is nowhere in what is returned (RFC 2046 section 5.1.1). A sender that has seen ids of this server could
    /// guess the next, so the id alone is not enough.
    pub(super) fn boundary(&self, id: SpoolId) -> String {
        let stem = format!("=_{id}.");
        let bytes = self.bytes();
        let taken = memmem::find_iter(bytes, &stem).filter_map(|at| {
            let digits = bytes.get(at + stem.len()..at + stem.len() + NUMBER_DIGITS)?;
            u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        });
        let taken: BTreeSet<u32> = taken.collect();
        // The numbers are ascending, so the first that is not at its place leaves a gap before it.
        let free = (0..).zip(&taken).find(|(number, taken)| number != *taken);
        let number = free.map_or(taken.len() as u32, |(number, _)| number);
        format!("{stem}{number:0NUMBER_DIGITS$X}")
    }
}

/// Whether a message can stand within another as it is: every line ends in CRLF and is no longer than lines may be.
fn is_lines(message: &[u8]) -> bool {
    let mut rest = message;
    while let Some(newline) = memchr(b'\n', rest) {
        let Some(line) = rest[..newline].strip_suffix(b"\r") else { return false };
        if line.len() > LINE_MAX || line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return false;
        }
        rest = &rest[newline + 1..];
    }
    rest.is_empty()
}

/// The header section that a message begins with: up to the empty line, or to one that is no part of a field.
pub(super) fn section(message: &[u8]) -> &[u8] {
    let window = &message[..message.len().min(HEADERS_MAX)];
    let mut at = 0;
    while at < window.len() {
        let end = memchr(b'\n', &window[at..]).map_or(window.len(), |newline| at + newline + 1);
        if !is_of_field(&window[at..end], at == 0) {
            break;
        }
        at = end;
    }
    &window[..at]
}

/// Whether a line begins a field or goes on with one.
fn is_of_field(line: &[u8], first: bool) -> bool {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return !first;
    }
    let Some(colon) = memchr(b':', line) else { return false };
    let name = line[..colon].trim_ascii_end();
    !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
}

/// The lines of a header section, such as can stand in a message: what a line has beyond its greatest length is left
/// out, and a control character that would break it is a question mark.
fn headers(message: &[u8], utf8: bool) -> Vec<u8> {
    let section = section(message);
    let mut out = Vec::with_capacity(section.len() + 2);
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line: Vec<u8> =
            line.iter().take(LINE_MAX).map(|byte| if matches!(byte, b'\r' | 0) { b'?' } else { *byte }).collect();
        // RFC 6532 section 3.2: beyond ASCII there is only UTF-8.
        match if utf8 { String::from_utf8_lossy(&line) } else { Cow::Borrowed("") } {
            Cow::Owned(text) => out.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(LINE_MAX)]),
            Cow::Borrowed(_) => out.extend_from_slice(&line),
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_section() {
        for (message, want) in [
            ("A: b\r\n\r\nC: d\r\n", "A: b\r\n"),
            ("A: b\r\n c\r\nD : e\nF: g", "A: b\r\n c\r\nD : e\nF: g"),
            ("A: b\r\nno field\r\nC: d\r\n", "A: b\r\n"),
            (" a: b\r\n", ""),
            (": b\r\n", ""),
            ("", ""),
            ("\r\nA: b\r\n", ""),
        ] {
            assert_eq!(section(message.as_bytes()), want.as_bytes(), "{message:?}");
        }
        let endless = b"A: b\r\n".repeat(HEADERS_MAX);
        assert!(section(&endless).len() <= HEADERS_MAX);
    }

    #[test]
    fn lines_of_a_header_section_are_mended() {
        let long = format!("A: {}\r\n", "x".repeat(2000));
        assert_eq!(headers(long.as_bytes(), false).len(), LINE_MAX + 2);
        assert_eq!(headers(b"A: \0b\rc\nD: e", false), b"A: ?b?c\r\nD: e\r\n");
        assert_eq!(headers(b"A: \xff\r\n", false), b"A: \xff\r\n");
        assert_eq!(headers(b"A: \xff\r\n", true), "A: \u{fffd}\r\n".as_bytes());
        let invalid = [&b"A: "[..], &[0xff; 2000], b"\r\n"].concat();
        assert!(headers(&invalid, true).len() <= LINE_MAX + 2);
    }

    #[test]
    fn messages_that_can_be_returned_as_they_are() {
        let long = format!("A: b\r\n\r\n{}\r\n", "x".repeat(LINE_MAX + 1));
        for (message, want) in [
            ("", true),
            ("A: b\r\n\r\nc\r\n", true),
            ("A: b\r\n\r\nc", false),
            ("A: b\n\nc\n", false),
            ("A: b\r\n\r\nc\rd\r\n", false),
            ("A: b\r\n\r\n\0\r\n", false),
            (&long, false),
        ] {
            assert_eq!(is_lines(message.as_bytes()), want, "{message:?}");
        }
    }

    #[test]
    fn guessed_boundaries_are_not_used() {
        let id = SpoolId::from_bytes([7; 16]);
        let number = |content: &str| {
            let boundary = Returned::Message(content.as_bytes()).boundary(id);
            assert!(!content.contains(&boundary), "{boundary}");
            boundary.rsplit_once('.').expect("number").1.to_owned()
        };
        let guess =
            |numbers: &[u32]| -> String { numbers.iter().map(|number| format!("--=_{id}.{number:04X}\r\n")).collect() };
        assert_eq!(number(""), "0000");
        assert_eq!(number(&guess(&[0])), "0001");
        assert_eq!(number(&guess(&[1, 2])), "0000");
        assert_eq!(number(&guess(&[2, 0, 0, 1, 5])), "0003");
        assert_eq!(number(&format!("--=_{id}.000\r\n--=_{id}.")), "0000");
        assert_eq!(number(&guess(&(0..2000).collect::<Vec<_>>())), "07D0");
        assert_eq!(number(&guess(&[0]).to_lowercase()), "0000", "boundaries are compared with case");
    }
}
