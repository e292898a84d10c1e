//! Reads SMTP replies out of a stream of bytes.
//!
//! ```text
//! Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF   (RFC 5321 section 4.2)
//! ```
//!
//! Lines that end in a bare LF are taken too, since the tool is to measure a server and not to judge it; a reply whose
//! lines disagree on the code, or that never ends, is refused.

use std::ops::Range;

/// The longest reply that is read, all of its lines together. RFC 5321 section 4.5.3.1.5 has 512 octets a line; an EHLO
/// answer has a dozen.
pub(crate) const REPLY_BYTES_MAX: usize = 16 * 1024;

/// A complete reply at the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The three-digit code of RFC 5321 section 4.2.1.
    pub(crate) code: u16,
    /// The bytes of the buffer that the reply takes, line ends included.
    pub(crate) bytes: Range<usize>,
}

impl Reply {
    /// Whether the command was accepted (2yz).
    pub(crate) fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }
}

/// What stands at the start of the buffer isn't an SMTP reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAReply;

/// Looks for a complete reply that starts at `start`; `None` when more bytes are needed.
pub(crate) fn parse_reply(buffer: &[u8], start: usize) -> Result<Option<Reply>, NotAReply> {
    let mut line_start = start;
    let mut first_code = None;
    while let Some(length) = buffer[line_start..].iter().position(|&byte| byte == b'\n') {
        let line = &buffer[line_start..line_start + length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, more) = parse_line(line)?;
        if *first_code.get_or_insert(code) != code {
            return Err(NotAReply);
        }
        line_start += length + 1;
        if !more {
            return Ok(Some(Reply { code, bytes: start..line_start }));
        }
    }
    if buffer.len() - start >= REPLY_BYTES_MAX { Err(NotAReply) } else { Ok(None) }
}

/// The code of one line, and whether the reply goes on after it.
fn parse_line(line: &[u8]) -> Result<(u16, bool), NotAReply> {
    let (&[a, b, c], rest) = line.split_first_chunk().ok_or(NotAReply)?;
    if !matches!(a, b'2'..=b'5') || !b.is_ascii_digit() || !c.is_ascii_digit() {
        return Err(NotAReply);
    }
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest.first() {
        Some(b'-') => Ok((code, true)),
        Some(b' ') | None => Ok((code, false)),
        Some(_) => Err(NotAReply),
    }
}

/// The texts of the lines of a reply, without code and line end.
pub(crate) fn reply_lines(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    reply.split(|&byte| byte == b'\n').filter(|line| line.len() >= 3).map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.get(4..).unwrap_or_default()
    })
}

/// What a server says in its answer to EHLO that matters to this client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// RFC 2920
    pub(crate) pipelining: bool,
    /// RFC 3030
    pub(crate) chunking: bool,
    /// RFC 3207
    pub(crate) starttls: bool,
    /// RFC 1870
    pub(crate) size: bool,
}

impl Extensions {
    /// Reads them from the whole reply to EHLO; its first line is the greeting and names none (RFC 5321 section 4.1.1.1).
    pub(crate) fn parse(reply: &[u8]) -> Self {
        let mut found = Self::default();
        for line in reply_lines(reply).skip(1) {
            let keyword = line.split(|&byte| byte == b' ').next().unwrap_or_default();
            let flag = match keyword {
                k if k.eq_ignore_ascii_case(b"PIPELINING") => &mut found.pipelining,
                k if k.eq_ignore_ascii_case(b"CHUNKING") => &mut found.chunking,
                k if k.eq_ignore_ascii_case(b"STARTTLS") => &mut found.starttls,
                k if k.eq_ignore_ascii_case(b"SIZE") => &mut found.size,
                _ => continue,
            };
            *flag = true;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        let read = |text: &str| parse_reply(text.as_bytes(), 0).map(|r| r.map(|r| (r.code, r.bytes.end)));
        assert_eq!(read("250 ok\r\n"), Ok(Some((250, 8))));
        assert_eq!(read("250\r\n"), Ok(Some((250, 5))));
        assert_eq!(read("250 ok\n"), Ok(Some((250, 7))));
        assert_eq!(read("250-a\r\n250-b\r\n250 c\r\n354 go"), Ok(Some((250, 21))));
        assert_eq!(read("250-a\r\n250 c"), Ok(None));
        assert_eq!(read(""), Ok(None));
        for wrong in ["25\r\n", "650 x\r\n", "150 x\r\n", "2x0 y\r\n", "250+ok\r\n", "250-a\r\n251 b\r\n", "\r\n"] {
            assert_eq!(read(wrong), Err(NotAReply), "{wrong:?}");
        }
    }

    #[test]
    fn replies_one_after_the_other() {
        let bytes = b"250 one\r\n354 two\r\n";
        let first = parse_reply(bytes, 0).ok().flatten().map(|r| r.bytes.end).unwrap_or_default();
        assert_eq!(parse_reply(bytes, first), Ok(Some(Reply { code: 354, bytes: 9..18 })));
    }

    #[test]
    fn endless_reply_is_refused() {
        assert_eq!(parse_reply(&vec![b'2'; REPLY_BYTES_MAX], 0), Err(NotAReply));
    }

    #[test]
    fn extensions() {
        let reply = b"250-STARTTLS.example at your service\r\n250-Pipelining\r\n250-SIZE 1000\r\n250 CHUNKINGX\r\n";
        let found = Extensions::parse(reply);
        assert_eq!(found, Extensions { pipelining: true, size: true, ..Extensions::default() });
    }
}
