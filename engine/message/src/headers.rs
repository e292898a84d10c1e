//! The header walk: what policy and the log want to know of a message's header section.

use mail_parser::{HeaderName, MessageParser};
use memchr::memchr;

/// Octets of a message's start that are looked at. A header section longer than this is cut off for the walk, never in
/// the message.
pub const HEADERS_MAX: usize = 64 * 1024;

/// Longest Message-ID that is looked at: a line's length (RFC 5322 section 2.1.1).
const ID_MAX: usize = 998;

/// What the header section says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Received header fields: how often the message was passed on (RFC 5321 section 6.3).
    pub hops: usize,
    /// The Message-ID without brackets (RFC 5322 section 3.6.4).
    pub message_id: Option<String>,
}

impl Headers {
    /// Walks the start of a message, up to the empty line or [`HEADERS_MAX`].
    pub fn walk(message: &[u8]) -> Self {
        let window = &message[..message.len().min(HEADERS_MAX)];
        let (mut at, mut hops, mut message_id) = (0, 0, None);
        while at < window.len() {
            let end = memchr(b'\n', &window[at..]).map_or(window.len(), |newline| at + newline + 1);
            let line = &window[at..end];
            if line == b"\r\n" || line == b"\n" {
                break;
            }
            if is_field(line, b"Received:") {
                hops += 1;
            } else if message_id.is_none() && is_field(line, b"Message-ID:") {
                message_id = message_id_of(&window[at..]);
            }
            at = end;
        }
        Self { hops, message_id }
    }
}

fn is_field(line: &[u8], name: &[u8]) -> bool {
    let (name, colon) = name.split_at(name.len() - 1);
    // A blank before the colon is obsolete (RFC 5322 section 4.5) and still read.
    line.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name))
        && line[name.len()..].trim_ascii_start().starts_with(colon)
}

/// The value of the field that begins `text`, comments taken care of by the parser; nothing if it is no id that could stand
/// in a log line.
fn message_id_of(text: &[u8]) -> Option<String> {
    let field = &text[..field_end(text)];
    let parser = MessageParser::new().header_id(HeaderName::MessageId).default_header_ignore();
    let id = parser.parse_headers(field)?.message_id()?.to_owned();
    let plain = id.chars().all(|c| !c.is_whitespace() && !c.is_control());
    (!id.is_empty() && id.len() <= ID_MAX && plain).then_some(id)
}

/// Where the field ends: at the first line that does not begin with a blank (RFC 5322 section 2.2.3).
fn field_end(text: &[u8]) -> usize {
    let mut end = 0;
    while let Some(newline) = memchr(b'\n', &text[end..]) {
        end += newline + 1;
        if !matches!(text.get(end), Some(b' ' | b'\t')) {
            return end;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, hops: usize, id: Option<&str>) {
        let headers = Headers::walk(message.as_bytes());
        assert_eq!((headers.hops, headers.message_id.as_deref()), (hops, id), "{message:?}");
    }

    #[test]
    fn fields_are_found_before_the_empty_line_only() {
        check("received: a\r\nRECEIVED: b\r\n\r\nReceived: c\r\n", 2, None);
        check("Subject: Received: x\r\n Received: folded\r\nMessage-Id:\r\n <a@b>\r\n\r\n", 0, Some("a@b"));
        check("\r\nMessage-ID: <a@b>\r\n", 0, None);
        check("Message-ID: \r\n\r\n", 0, None);
        check("Received : a\r\nReceivedx: b\r\n\r\n", 1, None);
        check("Message-ID: <a\r\n b>\r\n\r\n", 0, None);
        check("", 0, None);
        check("no newline", 0, None);
    }
}
