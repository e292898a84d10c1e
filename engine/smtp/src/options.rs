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

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO for EHLO, and a final reply for each recipient.
    Lmtp,
}

/// What a peer may say of clients that it speaks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// XCLIENT: the session is taken for that of another client.
    pub xclient: bool,
    /// XFORWARD: what the log says of the client.
    pub xforward: bool,
}

/// How a listener uses TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsUse {
    /// Not at all.
    Off,
    /// STARTTLS is offered (RFC 3207).
    #[default]
    Starttls,
    /// STARTTLS is offered, and what is not needed for it gets 530 before it (RFC 3207 section 4).
    StarttlsRequired,
    /// TLS from the first byte (RFC 8314).
    Implicit,
}

impl TlsUse {
    /// As the config file has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starttls => "starttls",
            Self::StarttlsRequired => "starttls-required",
            Self::Implicit => "implicit",
        }
    }
}

/// Options of the server session. The limits are there so that no client can hold on to a session for nothing (RFC 5321
/// section 7.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name the server calls itself in the banner, in EHLO and in Received.
    pub hostname: String,
    /// Largest message, announced with SIZE (RFC 1870).
    pub message_size_max: ByteCount,
    /// Most recipients of one message; further ones get 452. RFC 5321 section 4.5.3.1.8 asks for at least 100, and to
    /// announce less does not change that (RFC 9422 section 3.5).
    pub recipients_max: usize,
    /// Error replies since the last accepted message after which the session is closed with 421.
    pub errors_max: u32,
    /// Commands since the last accepted message that led to none, above which the session is closed with 421; 0: no
    /// limit. What counts: MAIL, XCLIENT, XFORWARD, NOOP, RSET, VRFY, HELP, EXPN, EHLO said again, and every refusal,
    /// also for the time being. Accepted recipients and chunks don't count.
    pub commands_max: u32,
    /// Recipients of a session refused as unknown, above which it is closed with 421; 0: no limit.
    pub unknown_recipients_max: u32,
    /// Messages accepted in a session after which MAIL gets 421, announced with LIMITS (RFC 9422); 0: no limit.
    pub messages_per_session: u32,
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
            commands_max: 50,
            unknown_recipients_max: 10,
            messages_per_session: 0,
            bare_newline: BareNewline::Reject,
        }
    }
}
