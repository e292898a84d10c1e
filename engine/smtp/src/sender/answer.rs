//! The replies of a server, read: lines into answers, with everything about them bounded.
//!
//! ```text
//! Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP [ textstring ] ] CRLF    RFC 5321 section 4.2
//! textstring = [ status-code SP ] text                                                   RFC 2034 section 4
//! ```
//!
//! A line may end in LF alone, and may be longer than RFC 5321 section 4.5.3.1.5 allows: some servers' are, and what they
//! mean is plain. A code that is none, or that changes within a reply, is not: after it nobody knows which command the
//! next reply is for.

use crate::Class;
use memchr::memchr;
use std::rc::Rc;

/// An enhanced status code: class, subject and detail (RFC 3463 section 2).
pub type EnhancedStatus = (u8, u16, u16);

/// Longest line of a reply that is read, its end included: four times what RFC 5321 section 4.5.3.1.5 has.
pub const ANSWER_LINE_MAX: usize = 2048;

/// Most lines of a reply. Answers to EHLO have some twenty; a server that never ends its reply is not waited for.
const LINES_MAX: u32 = 256;

/// Most octets kept of the text of a reply, for the log and for reports; the rest is cut off.
pub const ANSWER_TEXT_MAX: usize = 1024;

/// What is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// One line of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerLine<'a> {
    pub(super) code: u16,
    pub(super) last: bool,
    pub(super) text: &'a [u8],
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) status: Option<EnhancedStatus>,
    pub(super) text: Rc<str>,
}

impl Answer {
    pub(super) fn class(&self) -> Class {
        class(self.code)
    }
}

fn class(code: u16) -> Class {
    match code / 100 {
        2 => Class::Positive,
        3 => Class::Intermediate,
        4 => Class::Transient,
        _ => Class::Permanent,
    }
}

/// Reads the line at the start of `input`; gives it and its length, or nothing if its end is not there yet.
pub(super) fn line(input: &[u8]) -> Result<Option<(usize, AnswerLine<'_>)>, Malformed> {
    let window = &input[..input.len().min(ANSWER_LINE_MAX)];
    let Some(newline) = memchr(b'\n', window) else {
        return if window.len() < ANSWER_LINE_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = window[..newline].strip_suffix(b"\r").unwrap_or(&window[..newline]);
    let (digits, rest) = line.split_at_checked(3).ok_or(Malformed)?;
    // RFC 5321 section 4.2.1: of the first digits there are four; the others are read as they come.
    if !(b'2'..=b'5').contains(&digits[0]) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let (last, text) = match rest {
        [] => (true, rest),
        [b' ', text @ ..] => (true, text),
        [b'-', text @ ..] => (false, text),
        _ => return Err(Malformed),
    };
    Ok(Some((newline + 1, AnswerLine { code, last, text })))
}

/// Gathers the lines of one reply after the other.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Lines of the reply so far.
    lines: u32,
    code: u16,
    status: Option<EnhancedStatus>,
    text: String,
}

impl Gathering {
    /// Whether the next line is the first of its reply.
    pub(super) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Takes a line; gives the reply if it is whole with it.
    pub(super) fn take(&mut self, line: &AnswerLine<'_>) -> Result<Option<Answer>, Malformed> {
        if self.lines > 0 && line.code != self.code || self.lines == LINES_MAX {
            return Err(Malformed);
        }
        let (status, text) = enhanced(line.code, line.text);
        if self.lines == 0 {
            (self.code, self.status) = (line.code, status);
        }
        self.lines += 1;
        self.add(text);
        if !line.last {
            return Ok(None);
        }
        let Self { code, status, text, .. } = std::mem::take(self);
        Ok(Some(Answer { code, status, text: text.into() }))
    }

    /// What isn't printable ASCII becomes a question mark: the text goes into logs and reports.
    fn add(&mut self, text: &[u8]) {
        let text = text.trim_ascii();
        let separator = if self.text.is_empty() || text.is_empty() { "" } else { " " };
        let room = ANSWER_TEXT_MAX - self.text.len();
        let clean = String::from_utf8_lossy(text);
        let clean = clean.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
        self.text.extend(separator.chars().chain(clean).take(room));
    }
}

/// Takes the enhanced status code off the start of a text. One whose class is not that of the reply is a part of the text
/// (RFC 2034 section 4: they agree), and so is one of a reply that can't have any.
fn enhanced(code: u16, text: &[u8]) -> (Option<EnhancedStatus>, &[u8]) {
    let end = memchr(b' ', text).unwrap_or(text.len());
    match status(&text[..end]) {
        Some(status) if u16::from(status.0) == code / 100 => (Some(status), &text[end..]),
        _ => (None, text),
    }
}

/// RFC 3463 section 2: a class of 2, 4 or 5, and two numbers of up to three digits.
fn status(text: &[u8]) -> Option<EnhancedStatus> {
    let mut parts = text.split(|byte| *byte == b'.');
    let class = number(parts.next()?).filter(|class| [2, 4, 5].contains(class))?;
    let (subject, detail) = (number(parts.next()?)?, number(parts.next()?)?);
    parts.next().is_none().then_some((class as u8, subject, detail))
}

fn number(digits: &[u8]) -> Option<u16> {
    let holds = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    holds.then(|| digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a reply that is all of `input`.
    fn read(input: &[u8]) -> Result<Option<Answer>, Malformed> {
        let (mut gathering, mut rest) = (Gathering::default(), input);
        while let Some((length, line)) = line(rest)? {
            rest = &rest[length..];
            if let Some(answer) = gathering.take(&line)? {
                assert!(rest.is_empty(), "a reply ends early");
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    #[test]
    fn replies_that_are_read() {
        for (input, code, status, text) in [
            ("250 2.1.0 ok\r\n", 250, Some((2, 1, 0)), "ok"),
            ("250 ok\n", 250, None, "ok"),
            ("250\r\n", 250, None, ""),
            ("250 \r\n", 250, None, ""),
            ("354 2.0.0 go\r\n", 354, None, "2.0.0 go"),
            ("550 5.7.1\r\n", 550, Some((5, 7, 1)), ""),
            ("550-5.7.1 first\r\n550-5.7.1\r\n550 5.7.1 last\r\n", 550, Some((5, 7, 1)), "first last"),
            ("550-first\r\n550 5.7.1 last\r\n", 550, None, "first last"),
            // The classes differ: it says nothing then.
            ("450 5.1.1 unsure\r\n", 450, None, "5.1.1 unsure"),
            ("550 5.1.1.1 no\r\n", 550, None, "5.1.1.1 no"),
            ("550 5.1000.1 no\r\n", 550, None, "5.1000.1 no"),
            ("571 5.999.123 no\r\n", 571, Some((5, 999, 123)), "no"),
        ] {
            let answer = read(input.as_bytes()).expect("is a reply").expect("is whole");
            assert_eq!((answer.code, answer.status, &*answer.text), (code, status, text), "{input:?}");
        }
    }

    #[test]
    fn what_is_no_reply() {
        for input in ["25 ok\r\n", "2x0 ok\r\n", "150 ok\r\n", "650 ok\r\n", "250_ok\r\n", "\r\n", "250-a\r\n251 b\r\n"]
        {
            assert_eq!(read(input.as_bytes()), Err(Malformed), "{input:?}");
        }
        assert_eq!(read(&[b'2'; ANSWER_LINE_MAX]), Err(Malformed));
        assert_eq!(read(&[b'2'; ANSWER_LINE_MAX - 1]), Ok(None));
        assert_eq!(read(&b"250-x\r\n".repeat(LINES_MAX as usize)), Ok(None));
        assert_eq!(read(&b"250-x\r\n".repeat(LINES_MAX as usize + 1)), Err(Malformed));
    }

    #[test]
    fn text_is_clean_and_bounded() {
        let answer = read(b"550 a\x1b[2J\tb\xff\xc3\xa9\r\r\n").expect("is a reply").expect("is whole");
        assert_eq!(&*answer.text, "a?[2J?b??");
        let long = [b"550-5.7.1 ".as_slice(), &[b'x'; 1000], b"\r\n550 5.7.1 ", &[b'y'; 1000], b"\r\n"].concat();
        let answer = read(&long).expect("is a reply").expect("is whole");
        assert_eq!((answer.text.len(), answer.status), (ANSWER_TEXT_MAX, Some((5, 7, 1))));
        assert!(answer.text.ends_with("x yyyyyyyyyyyyyyyyyyyyyyy"), "{}", answer.text);
    }
}
