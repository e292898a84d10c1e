//! What an operator can choose about the protocol.

use ringpost_base::ByteCount;

/// What happens to a message that contains a CR or LF outside a CRLF pair (RFC 5321 section 2.3.8 forbids them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// The message is refused with 550 after its end. What follows is never taken for commands or a second message.
    #[default]
    Reject,
    /// Each is replaced by CRLF. The end of DATA is CRLF.CRLF as sent, never one that the repair made.
    Repair,
}

/// How a listener uses TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsUse {
    /// Not at all.
    Off,
    /// STARTTLS is offered (RFC 3207).
    #[default]
    Starttls,
    /// STARTTLS is offered, and MAIL before it gets 530.
    StarttlsRequired,
    /// TLS from the first byte (RFC 8314).
    Implicit,
}

/// Options of the server session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name the server calls itself in the banner, in EHLO and in Received.
    pub hostname: String,
    /// Largest message, announced with SIZE (RFC 1870).
    pub message_size_max: ByteCount,
    /// Most recipients of one message; further ones get 452. RFC 5321 section 4.5.3.1.8 asks for at least 100.
    pub recipients_max: usize,
    /// Error replies after which the session is closed with 421.
    pub errors_max: u32,
    /// What to do with bare CR and LF.
    pub bare_newline: BareNewline,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            message_size_max: ByteCount::mib(50),
            recipients_max: 1000,
            errors_max: 20,
            bare_newline: BareNewline::Reject,
        }
    }
}
