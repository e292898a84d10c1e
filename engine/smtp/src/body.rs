//! The body of a message as it arrives: dot-unstuffing, the end of DATA, chunks of BDAT, bare CR and LF, the size
//! limit. All octets are kept, whatever they mean (RFC 5321 section 2.3.9).
//!
//! Octets of a binary message (RFC 3030 section 3) are taken as they come: they need not be lines, and its end is known
//! from the sizes of its chunks alone.
//!
//! The scanner copies whole runs of lines at once: it stops only at a dot that begins a line, at a CR or LF outside a
//! pair, and at the end of the input. It keeps one small state between calls, so the input may be split anywhere.

use crate::options::BareNewline;
use memchr::memchr2;

/// How the octets of a message are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// DATA: lines that are dot-stuffed, up to a dot alone.
    Dotted,
    /// BDAT: lines, up to the end of the last chunk.
    Lines,
    /// BDAT of a binary message: octets, up to the end of the last chunk.
    Octets,
}

/// Why a message is refused although its end was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TooBig,
    BareNewline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// After CRLF, or at the start: the CRLF of the DATA command's line counts (RFC 5321 section 4.1.1.4).
    LineStart,
    /// Within a line.
    Text,
    /// After a CR.
    Cr,
    /// After a dot that began a line.
    Dot,
    /// After such a dot and a CR.
    DotCr,
}

/// The scanner of one message's body.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    at: At,
    reading: Reading,
    bare: BareNewline,
    /// Octets of the message so far, as RFC 1870 section 5 counts them: unstuffed, CRLFs included.
    size: u64,
    size_max: u64,
    fault: Option<Fault>,
}

impl Body {
    pub(crate) fn new(reading: Reading, bare: BareNewline, size_max: u64) -> Self {
        Self { at: At::LineStart, reading, bare, size: 0, size_max, fault: None }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Takes input of DATA, appends message bytes to `body`. Returns how much was used, and whether the end was found.
    pub(crate) fn data(&mut self, input: &[u8], body: &mut Vec<u8>) -> (usize, bool) {
        let mut used = 0;
        while used < input.len() {
            let byte = input[used];
            match self.at {
                At::Text => used += self.run(&input[used..], body),
                At::LineStart if byte == b'.' && self.reading == Reading::Dotted => {
                    self.at = At::Dot;
                    used += 1;
                }
                At::LineStart => self.at = At::Text,
                At::Cr if byte == b'\n' => {
                    self.push(b"\r\n", body);
                    self.at = At::LineStart;
                    used += 1;
                }
                At::Cr => self.bare(body),
                At::Dot if byte == b'\r' => {
                    self.at = At::DotCr;
                    used += 1;
                }
                // RFC 5321 section 4.5.2: the first dot goes, the rest of the line stays.
                At::Dot => self.at = At::Text,
                At::DotCr if byte == b'\n' => return (used + 1, true),
                At::DotCr => self.bare(body),
            }
        }
        (used, false)
    }

    /// Takes octets of a BDAT chunk. Line ends are checked as in DATA, unless the message is binary; dots mean nothing.
    pub(crate) fn chunk(&mut self, input: &[u8], body: &mut Vec<u8>) {
        if self.reading == Reading::Octets {
            return self.push(input, body);
        }
        let (used, ended) = self.data(input, body);
        debug_assert!(used == input.len() && !ended, "without dots there is no end");
    }

    /// The last chunk is through: a CR at its very end has no LF to come.
    pub(crate) fn finish(&mut self, body: &mut Vec<u8>) {
        if self.at == At::Cr {
            self.bare(body);
        }
    }

    /// Copies from within a line up to the next thing that needs a decision; returns how much was used.
    fn run(&mut self, input: &[u8], body: &mut Vec<u8>) -> usize {
        let mut from = 0;
        loop {
            let Some(found) = memchr2(b'\r', b'\n', &input[from..]).map(|at| from + at) else {
                self.push(input, body);
                return input.len();
            };
            match (input[found], input.get(found + 1)) {
                (b'\r', Some(b'\n')) => match input.get(found + 2) {
                    Some(b'.') | None => {
                        self.push(&input[..found + 2], body);
                        self.at = At::LineStart;
                        return found + 2;
                    }
                    Some(_) => from = found + 2,
                },
                (b'\r', _) => {
                    self.push(&input[..found], body);
                    self.at = At::Cr;
                    return found + 1;
                }
                _ => {
                    self.push(&input[..found], body);
                    self.bare(body);
                    return found + 1;
                }
            }
        }
    }

    /// A CR or LF that is not part of a pair. What follows is text: it begins no line that a dot could end.
    fn bare(&mut self, body: &mut Vec<u8>) {
        match self.bare {
            BareNewline::Reject => self.fault = self.fault.or(Some(Fault::BareNewline)),
            BareNewline::Repair => self.push(b"\r\n", body),
        }
        self.at = At::Text;
    }

    fn push(&mut self, bytes: &[u8], body: &mut Vec<u8>) {
        self.size += bytes.len() as u64;
        if self.size > self.size_max {
            self.fault = Some(Fault::TooBig);
        }
        if self.fault.is_none() {
            body.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of `input`, whether the end was found, the fault and the bytes left over, fed in every two-way split.
    fn check(input: &str, bare: BareNewline, want: &str, ended: bool, fault: Option<Fault>, left: &str) {
        let input = input.as_bytes();
        for split in 0..=input.len() {
            let mut scanner = Body::new(Reading::Dotted, bare, 1000);
            let mut body = Vec::new();
            let (mut used, mut end) = scanner.data(&input[..split], &mut body);
            if !end {
                assert_eq!(used, split);
                let (more, found) = scanner.data(&input[split..], &mut body);
                (used, end) = (used + more, found);
            }
            let label = format!("{:?} split at {split}", String::from_utf8_lossy(input));
            assert_eq!((end, scanner.fault()), (ended, fault), "{label}");
            assert_eq!(&input[used..], left.as_bytes(), "{label}");
            if fault.is_none() {
                assert_eq!(body, want.as_bytes(), "{label}");
                assert_eq!(scanner.size, body.len() as u64, "{label}");
            }
        }
    }

    #[test]
    fn ends_and_dots() {
        let reject = BareNewline::Reject;
        check("a\r\n.\r\nQUIT\r\n", reject, "a\r\n", true, None, "QUIT\r\n");
        check(".\r\n", reject, "", true, None, "");
        check("..\r\n.a\r\n...\r\n.\r\n", reject, ".\r\na\r\n..\r\n", true, None, "");
        check("a.\r\nb\r\n", reject, "a.\r\nb\r\n", false, None, "");
    }

    #[test]
    fn smuggled_end_of_data() {
        let bare = Some(Fault::BareNewline);
        for attempt in
            ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\n.\r", "\r\n.\r", "\n\n.\r\n", "\r\r\n.\r\r\n"]
        {
            let input = format!("a{attempt}MAIL FROM:<x@y>\r\n.\r\n");
            check(&input, BareNewline::Reject, "", true, bare, "");
        }
    }

    #[test]
    fn repaired_newlines_end_nothing() {
        check("a\n.\nb\r.\r\nc\r\n.\r\n", BareNewline::Repair, "a\r\n.\r\nb\r\n.\r\nc\r\n", true, None, "");
        check("a\r\n.\nb\r\n.\r\n", BareNewline::Repair, "a\r\n\r\nb\r\n", true, None, "");
        check("a\r\n.\rb\r\n.\r\n", BareNewline::Repair, "a\r\n\r\nb\r\n", true, None, "");
    }

    #[test]
    fn chunks_check_line_ends_but_no_dots() {
        let mut scanner = Body::new(Reading::Lines, BareNewline::Reject, 100);
        let mut body = Vec::new();
        for part in [&b"a\r"[..], b"\n.\r\n", b"..", b"b"] {
            scanner.chunk(part, &mut body);
        }
        scanner.finish(&mut body);
        assert_eq!((body.as_slice(), scanner.fault()), (&b"a\r\n.\r\n..b"[..], None));
        scanner.chunk(b"\r", &mut body);
        scanner.finish(&mut body);
        assert_eq!(scanner.fault(), Some(Fault::BareNewline));
    }

    #[test]
    fn binary_octets_are_kept_as_they_are() {
        let mut scanner = Body::new(Reading::Octets, BareNewline::Repair, 12);
        let mut body = Vec::new();
        for part in [&b"\r\n.\r\n"[..], b"\n\r", b"\0.\r"] {
            scanner.chunk(part, &mut body);
        }
        scanner.finish(&mut body);
        assert_eq!((body.as_slice(), scanner.fault()), (&b"\r\n.\r\n\n\r\0.\r"[..], None));
        scanner.chunk(b"xyz", &mut body);
        assert_eq!(scanner.fault(), Some(Fault::TooBig));
    }

    #[test]
    fn too_big_is_found_and_the_rest_is_thrown_away() {
        let mut scanner = Body::new(Reading::Dotted, BareNewline::Reject, 5);
        let mut body = Vec::new();
        let (used, end) = scanner.data(b"12345678\r\n.\r\n", &mut body);
        assert_eq!((used, end, scanner.fault()), (13, true, Some(Fault::TooBig)));
        assert!(body.len() <= 5);
    }
}
