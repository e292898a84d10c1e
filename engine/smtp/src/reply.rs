//! Every reply the server gives, in one table, and how a reply is written.
//!
//! Replies have enhanced codes (RFC 2034 section 4) except where that RFC exempts them: the greeting, HELO and EHLO.
//! A refusal ends with the session's id in brackets, so that a sender's report leads to the log line.

use ringpost_base::SessionId;
use std::fmt::Write;

/// The first digit of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 2xx
    Positive,
    /// 3xx
    Intermediate,
    /// 4xx
    Transient,
    /// 5xx
    Permanent,
}

/// One reply: code, enhanced code, words, and sometimes a detail after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: &'static str,
    text: &'static str,
    detail: Option<Box<str>>,
}

impl Reply {
    const fn new(code: u16, enhanced: &'static str, text: &'static str) -> Self {
        Self { code, enhanced, text, detail: None }
    }

    /// The same reply with a detail after its words. Characters outside printable ASCII become `?`.
    pub fn with_detail(&self, detail: &str) -> Self {
        let clean = detail.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
        Self { detail: Some(clean.take(DETAIL_MAX).collect()), ..self.clone() }
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced status code, empty where there is none.
    pub fn enhanced(&self) -> &'static str {
        self.enhanced
    }

    /// The words, without the detail.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The first digit.
    pub fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Positive,
            3 => Class::Intermediate,
            4 => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// Whether the reply turns something down.
    pub fn refuses(&self) -> bool {
        self.code >= 400
    }

    pub(crate) fn write(&self, session: SessionId, out: &mut Vec<u8>) {
        let mut line = Line(out);
        let _ = write!(line, "{}", self.code);
        let _ = if self.enhanced.is_empty() { Ok(()) } else { write!(line, " {}", self.enhanced) };
        let _ = write!(line, " {}", self.text);
        if let Some(detail) = &self.detail {
            let _ = write!(line, ": {detail}");
        }
        if self.refuses() {
            let _ = write!(line, " [{session}]");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Longest detail, so that a reply line stays within 512 octets (RFC 5321 section 4.5.3.1.5).
const DETAIL_MAX: usize = 300;

/// Lets `write!` append to a byte buffer; it can't fail.
pub(crate) struct Line<'a>(pub(crate) &'a mut Vec<u8>);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// How many replies of each class were written since last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// 2xx replies.
    pub positive: u32,
    /// 3xx replies.
    pub intermediate: u32,
    /// 4xx replies.
    pub transient: u32,
    /// 5xx replies.
    pub permanent: u32,
}

impl Tally {
    pub(crate) fn count(&mut self, class: Class) {
        match class {
            Class::Positive => self.positive += 1,
            Class::Intermediate => self.intermediate += 1,
            Class::Transient => self.transient += 1,
            Class::Permanent => self.permanent += 1,
        }
    }
}

macro_rules! table {
    ($($name:ident = $code:literal $enhanced:literal $text:literal;)*) => {
        /// The table of replies.
        pub mod replies {
            use super::Reply;
            $(#[doc = concat!($code, " ", $enhanced, " ", $text)]
            pub const $name: Reply = Reply::new($code, $enhanced, $text);)*
            #[cfg(test)]
            pub(crate) const ALL: &[Reply] = &[$($name),*];
        }
    };
}

table! {
    CLOSING = 221 "2.0.0" "closing connection";
    TLS_GO = 220 "2.0.0" "ready to start TLS";
    GO_AHEAD = 354 "" "end the message with CRLF.CRLF";
    OK = 250 "2.0.0" "ok";
    SENDER_OK = 250 "2.1.0" "sender ok";
    RECIPIENT_OK = 250 "2.1.5" "recipient ok";
    CHUNK_OK = 250 "2.0.0" "octets received";
    NOT_VERIFIED = 252 "2.5.2" "not verified: send a message and see";
    HELP = 214 "2.0.0" "RFC 5321 commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS";
    SHUTDOWN = 421 "4.3.2" "server is stopping, try again in a moment";
    TIMEOUT = 421 "4.4.2" "no command in time, closing connection";
    TOO_MANY_ERRORS = 421 "4.7.0" "too many errors, closing connection";
    TOO_MANY_SESSIONS = 421 "4.3.2" "too many connections, try again later";
    INTERNAL = 421 "4.3.0" "internal error, closing connection";
    STORAGE_FAILED = 451 "4.3.0" "message could not be stored, try again later";
    STORAGE_FULL = 452 "4.3.1" "not enough storage, try again later";
    BUSY = 452 "4.3.2" "too many messages at once, try again later";
    TOO_MANY_RECIPIENTS = 452 "4.5.3" "too many recipients of one message, send the rest in another";
    UNKNOWN_COMMAND = 500 "5.5.1" "command not known";
    LINE_TOO_LONG = 500 "5.5.2" "line too long";
    LINE_MALFORMED = 500 "5.5.2" "command lines are printable characters that end with CRLF";
    SYNTAX = 501 "5.5.4" "syntax error";
    BAD_SENDER = 501 "5.1.7" "bad sender address";
    BAD_RECIPIENT = 501 "5.1.3" "bad recipient address";
    BAD_SEQUENCE = 503 "5.5.1" "bad sequence of commands";
    NO_RECIPIENTS = 554 "5.5.1" "no valid recipients";
    NOT_EXPANDED = 502 "5.5.1" "EXPN is not offered";
    NO_TLS = 502 "5.5.1" "STARTTLS is not offered here";
    TLS_REQUIRED = 530 "5.7.0" "must issue STARTTLS first";
    UNKNOWN_PARAMETER = 555 "5.5.4" "parameter not supported";
    NEEDS_SMTPUTF8 = 553 "5.6.7" "address needs SMTPUTF8 on MAIL";
    TOO_BIG = 552 "5.3.4" "message exceeds the size limit";
    BARE_NEWLINE = 550 "5.6.0" "message has CR or LF outside a CRLF line end (RFC 5321 section 2.3.8)";
    RELAY_DENIED = 550 "5.7.1" "relaying denied: mail is taken for this server's own domains only";
    NO_SUCH_USER = 550 "5.1.1" "no such recipient here";
    LOOP = 554 "5.4.6" "too many Received header fields, message loops";
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::{Entropy, SessionIds, ShardId, Timestamp};

    #[test]
    fn every_reply_fits_its_line_and_its_class() {
        let session = SessionIds::new(ShardId(0), Entropy([1; 16])).next(Timestamp::default());
        for reply in replies::ALL {
            let mut out = Vec::new();
            reply.with_detail(&"x".repeat(1000)).write(session, &mut out);
            assert!(out.len() <= 512, "{reply:?}");
            // RFC 2034 section 4: the classes agree; 354 has no enhanced code.
            let class = reply.enhanced().chars().next().and_then(|digit| digit.to_digit(10)).unwrap_or(3);
            assert_eq!(class, u32::from(reply.code() / 100), "{reply:?}");
        }
    }

    #[test]
    fn a_detail_cannot_forge_a_line() {
        let reply = replies::SYNTAX.with_detail("a\r\n250 ok\u{7f}\u{e9}");
        assert_eq!(reply.detail.as_deref(), Some("a??250 ok??"));
    }
}
