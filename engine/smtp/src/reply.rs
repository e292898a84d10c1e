//! Every reply the server gives, in one table, and how a reply is written.
//!
//! The codes are those of RFC 5321 section 4.2.2, its extensions', and 450 and 550 where policy refuses.
//! Replies have enhanced codes (RFC 2034 section 4) except where that RFC exempts them: the greeting, HELO and EHLO.
//! A refusal ends with the session's id in brackets, so that a sender's report leads to the log line, and so does every
//! reply after it. Where a limit of the config file is what refuses, its key is named.

use ringpost_base::SessionId;
use std::fmt::{self, Write};

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

    /// Whether this is `row` of the table, whatever its detail.
    pub fn is(&self, row: &Self) -> bool {
        (self.code, self.enhanced, self.text) == (row.code, row.enhanced, row.text)
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

    /// Whether the session ends with it: 421 says so (RFC 5321 section 3.8).
    pub(crate) fn closes(&self) -> bool {
        self.code == 421
    }

    pub(crate) fn write(&self, tag: Tag, out: &mut Vec<u8>) {
        let mut line = Line(out);
        let _ = write!(line, "{}", self.code);
        let _ = if self.enhanced.is_empty() { Ok(()) } else { write!(line, " {}", self.enhanced) };
        let _ = write!(line, " {}", self.text);
        if let Some(detail) = &self.detail {
            let _ = write!(line, ": {detail}");
        }
        let _ = write!(line, "{tag}\r\n");
    }
}

/// The session's id at the end of a reply, if it is to be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag(pub(crate) Option<SessionId>);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |id| write!(f, " [{id}]"))
    }
}

/// Longest detail, so that a reply line stays within 512 octets (RFC 5321 section 4.5.3.1.5).
const DETAIL_MAX: usize = 300;

/// Lets `write!` append to a byte buffer; it can't fail.
pub(crate) struct Line<'a>(pub(crate) &'a mut Vec<u8>);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
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
    /// Commands and messages refused with 5xx. Where one refusal takes several replies, as in LMTP, it counts once.
    pub errors: u32,
    /// Recipients refused as unknown; each is an error too.
    pub unknown: u32,
    /// Limits of the session that were met, by their place in [`SessionLimit::ALL`].
    limits: [u16; SessionLimit::ALL.len()],
}

/// Commands that the session answered by itself: by their nature, their form or their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// HELO, EHLO and LHLO.
    pub greetings: u16,
    /// All others.
    pub others: u16,
}

/// A limit that a session meets by itself, whatever else the server carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionLimit {
    /// `limits.message_size`.
    MessageSize,
    /// `limits.recipients`.
    Recipients,
    /// `limits.errors_per_session`.
    Errors,
    /// `limits.unknown_recipients_per_session`.
    UnknownRecipients,
    /// `limits.commands_without_progress`.
    Commands,
    /// `limits.messages_per_session`.
    Messages,
}

impl SessionLimit {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::MessageSize, Self::Recipients, Self::Errors, Self::UnknownRecipients, Self::Commands, Self::Messages];

    /// Its key in the config file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::MessageSize => "limits.message_size",
            Self::Recipients => "limits.recipients",
            Self::Errors => "limits.errors_per_session",
            Self::UnknownRecipients => "limits.unknown_recipients_per_session",
            Self::Commands => "limits.commands_without_progress",
            Self::Messages => "limits.messages_per_session",
        }
    }

    /// The reply of a client that meets it.
    pub fn reply(self) -> Reply {
        match self {
            Self::MessageSize => replies::TOO_BIG,
            Self::Recipients => replies::TOO_MANY_RECIPIENTS,
            Self::Errors => replies::TOO_MANY_ERRORS,
            Self::UnknownRecipients => replies::TOO_MANY_UNKNOWN,
            Self::Commands => replies::TOO_MANY_COMMANDS,
            Self::Messages => replies::TOO_MANY_MESSAGES,
        }
    }
}

impl Tally {
    /// How often a limit of the session was met.
    pub fn met(&self, limit: SessionLimit) -> u16 {
        self.limits[limit as usize]
    }

    /// Counts a reply that is written.
    pub(crate) fn written(&mut self, reply: &Reply) {
        self.count(reply.class());
        if reply.refuses()
            && let Some(limit) = SessionLimit::ALL.into_iter().find(|limit| reply.is(&limit.reply()))
        {
            self.limits[limit as usize] = self.limits[limit as usize].saturating_add(1);
        }
    }

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
    FORWARD_OK = 250 "2.0.0" "noted for the log";
    NOT_VERIFIED = 252 "2.5.2" "not verified: send a message and see";
    HELP = 214 "2.0.0" "RFC 5321 commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS";
    HELP_LMTP = 214 "2.0.0" "RFC 2033 commands: LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS";
    SHUTDOWN = 421 "4.3.2" "server is stopping, try again in a moment";
    TIMEOUT = 421 "4.4.2" "no command in time, closing connection: limits.command_timeout";
    DATA_TIMEOUT = 421 "4.4.2" "no part of the message in time, closing connection: limits.data_timeout";
    SESSION_TOO_LONG = 421 "4.7.0" "session has lasted too long";
    TOO_MANY_ERRORS = 421 "4.7.0" "too many errors, closing connection: limits.errors_per_session";
    TOO_MANY_COMMANDS = 421 "4.7.0" "too many commands without a message: limits.commands_without_progress";
    TOO_MANY_UNKNOWN = 421 "4.7.1" "too many unknown recipients: limits.unknown_recipients_per_session";
    TOO_MANY_MESSAGES = 421 "4.7.0" "too many messages in this session, open another: limits.messages_per_session";
    LIMITED_SESSION = 421 "4.7.0" "connection limit reached, try again later";
    LIMITED_CONNECTION_RATE = 421 "4.7.0" "connecting too often, try again later";
    LIMITED_RATE = 450 "4.7.1" "rate limit reached, try again later";
    GREYLISTED = 450 "4.7.1" "greylisted, try again in a few minutes";
    BANNED_SESSION = 421 "4.7.1" "this address is banned here";
    BANNED = 554 "5.7.1" "this address is banned here";
    // Refused in the session and never dropped after it: RFC 5321 section 6.2. RFC 5321 section 7.9 lets a server
    // refuse.
    SCREENED = 550 "5.7.1" "rejected: the sending host has a bad reputation";
    SCREENED_PREGREET = 554 "5.5.1" "client spoke before the greeting";
    PROXY_MALFORMED = 421 "4.7.0" "the connection does not begin with a PROXY header that can be read";
    PROXY_UNEXPECTED = 554 "5.7.1" "no PROXY header is taken from this address";
    XCLIENT_DENIED = 550 "5.7.0" "not authorized to speak for other clients";
    INTERNAL = 421 "4.3.0" "internal error, closing connection";
    CHECK_FAILED = 451 "4.3.0" "internal error in a check, try again later";
    STORAGE_FAILED = 451 "4.3.0" "message could not be stored, try again later";
    STORAGE_FULL = 452 "4.3.1" "not enough storage, try again later";
    NEXT_HOP_UNAVAILABLE = 451 "4.4.1" "the next hop did not take the message, try again later";
    NEXT_HOP_REFUSED = 554 "5.3.0" "the next hop refused the message";
    BUSY = 452 "4.3.2" "too many messages at once, try again later";
    BUSY_MEMORY = 452 "4.3.2" "messages take too much memory, try again later";
    TOO_MANY_RECIPIENTS = 452 "4.5.3" "too many recipients of one message, send the rest in another: limits.recipients";
    UNKNOWN_COMMAND = 500 "5.5.1" "command not known";
    LINE_TOO_LONG = 500 "5.5.2" "line too long";
    LINE_MALFORMED = 500 "5.5.2" "command lines are printable characters that end with CRLF";
    SYNTAX = 501 "5.5.4" "syntax error";
    BAD_SENDER = 501 "5.1.7" "bad sender address";
    BAD_RECIPIENT = 501 "5.1.3" "bad recipient address";
    BAD_SEQUENCE = 503 "5.5.1" "bad sequence of commands";
    BINARY_NEEDS_BDAT = 503 "5.6.1" "a message of BODY=BINARYMIME comes by BDAT";
    NO_RECIPIENTS = 554 "5.5.1" "no valid recipients";
    NO_RECIPIENTS_LMTP = 503 "5.5.1" "no valid recipients";
    // Known and not done: RFC 5321 section 4.2.4.
    NOT_EXPANDED = 502 "5.5.1" "EXPN is not offered";
    NO_TLS = 502 "5.5.1" "STARTTLS is not offered here";
    TLS_REQUIRED = 530 "5.7.0" "must issue STARTTLS first";
    REQUIRETLS_NEEDS_TLS = 530 "5.7.10" "REQUIRETLS needs a session with TLS";
    UNKNOWN_PARAMETER = 555 "5.5.4" "parameter not supported";
    // RFC 6531 section 4.2.
    NEEDS_SMTPUTF8 = 553 "5.6.7" "address needs SMTPUTF8 on MAIL";
    TOO_BIG = 552 "5.3.4" "message exceeds the size limit: limits.message_size";
    BARE_NEWLINE = 550 "5.6.0" "message has CR or LF outside a CRLF line end (RFC 5321 section 2.3.8)";
    RELAY_DENIED = 550 "5.7.1" "relaying denied: mail is taken for this server's own domains only";
    NO_SUCH_USER = 550 "5.1.1" "no such recipient here";
    LOOP = 554 "5.4.6" "too many Received header fields, message loops: limits.hops";
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
            reply.with_detail(&"x".repeat(1000)).write(Tag(Some(session)), &mut out);
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
