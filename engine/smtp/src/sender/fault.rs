//! Why a session is of no use, and why a message can't go to a server: what is said of it in the log and in reports.

use super::answer::{Answer, EnhancedStatus};
use std::rc::Rc;

/// What made a session useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The banner refuses (RFC 5321 section 3.1).
    Banner,
    /// EHLO, HELO or LHLO is refused.
    Greeting,
    /// TLS is required, and the server doesn't offer it, or refuses it.
    Tls,
    /// The server said 421, or the connection is gone.
    Closing,
    /// What the server said is no reply, or none to what it was asked: nobody knows what its next reply is for.
    Nonsense,
    /// The message that was given is not of the size that was announced: a fault of ours.
    Size,
}

impl FaultKind {
    /// Whether the server waits for a command, and takes QUIT for one.
    pub(super) fn leaves_room_for_quit(self) -> bool {
        matches!(self, Self::Banner | Self::Greeting | Self::Tls)
    }
}

/// Why a session is of no use. It says nothing of any message: one that was not sent for it can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderFault {
    /// What happened.
    pub kind: FaultKind,
    /// The code of the server's reply, 0 if it is not a reply that made it so.
    pub code: u16,
    /// The enhanced status code: the server's, or ours if it said none of its own.
    pub status: Option<EnhancedStatus>,
    /// What happened in words: the server's if there are any, at most [`ANSWER_TEXT_MAX`](super::ANSWER_TEXT_MAX) octets
    /// with some of ours before them.
    pub text: Rc<str>,
}

impl SenderFault {
    fn ours(kind: FaultKind, status: EnhancedStatus, text: &str) -> Self {
        Self { kind, code: 0, status: Some(status), text: text.into() }
    }

    pub(super) fn refused(kind: FaultKind, answer: &Answer) -> Self {
        Self { kind, code: answer.code, status: answer.status, text: answer.text.clone() }
    }

    pub(super) fn closing(answer: &Answer) -> Self {
        Self::refused(FaultKind::Closing, answer)
    }

    pub(super) fn lost() -> Self {
        Self::ours(FaultKind::Closing, (4, 4, 2), "the connection ended before the server had answered")
    }

    pub(super) fn malformed() -> Self {
        Self::ours(FaultKind::Nonsense, (4, 5, 0), "the server sent what is not a reply")
    }

    pub(super) fn injected() -> Self {
        Self::ours(FaultKind::Nonsense, (4, 7, 0), "the server sent more in clear behind its answer to STARTTLS")
    }

    pub(super) fn unasked(answer: &Answer) -> Self {
        let text = format!("the server sent a reply that makes no sense here: {} {}", answer.code, answer.text);
        Self::ours(FaultKind::Nonsense, (4, 5, 0), &text)
    }

    /// After a dot that ends nothing, in LMTP, nobody knows how many replies come.
    pub(super) fn data_for_nobody() -> Self {
        Self::ours(FaultKind::Nonsense, (4, 5, 0), "the server asked for a message that has no recipients")
    }

    pub(super) fn without_tls() -> Self {
        Self::ours(FaultKind::Tls, (4, 7, 4), "TLS is required, and the server does not offer it")
    }

    pub(super) fn tls_refused(answer: &Answer) -> Self {
        let text = format!("TLS is required, and the server refuses it: {}", answer.text);
        Self { code: answer.code, ..Self::ours(FaultKind::Tls, (4, 7, 4), &text) }
    }

    pub(super) fn wrong_size() -> Self {
        Self::ours(FaultKind::Size, (4, 3, 0), "the message is not of the size that was announced")
    }
}

/// Why a message can't go to this server. If the class of the status is 5, it can't as it is at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsendable {
    /// The enhanced status code.
    pub status: EnhancedStatus,
    /// The reason in words.
    pub text: Rc<str>,
}

impl Unsendable {
    pub(super) fn new(status: EnhancedStatus, text: &str) -> Self {
        Self { status, text: text.into() }
    }

    /// Whether trying again is of no use as long as the server is as it is.
    pub fn is_permanent(&self) -> bool {
        self.status.0 == 5
    }

    pub(super) fn not_now() -> Self {
        Self::new((4, 5, 1), "the session takes no message now")
    }
}

impl std::fmt::Display for Unsendable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (class, subject, detail) = self.status;
        write!(f, "{class}.{subject}.{detail} {}", self.text)
    }
}

impl std::error::Error for Unsendable {}
