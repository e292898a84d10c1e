//! What goes wrong between us and a server: with the connection or the session, not with the message.

use ringpost_queue::{Reason, Status};
use ringpost_smtp::sender::SenderFault;
use std::rc::Rc;

/// RFC 3463 section 3.5: no answer from the host.
pub(super) const NO_ANSWER: Status = Status(4, 4, 1);
/// RFC 3463 section 3.5: the connection was there and broke, or went silent.
pub(super) const BAD_CONNECTION: Status = Status(4, 4, 2);
/// RFC 3463 section 3.5: a directory, here the DNS, does not answer or does not know.
pub(super) const NO_DIRECTORY: Status = Status(4, 4, 3);
/// RFC 3463 section 3.8: cryptography failed.
pub(super) const NO_TLS: Status = Status(4, 7, 5);
/// RFC 3463 section 3.4: something is wrong with a mail system, here ours.
pub(super) const OUR_SYSTEM: Status = Status(4, 3, 0);

/// Why a connection could not be made, or is of no use any more. Its reason is of class 4: whatever it is, it can be mended.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// What reports and the log say of it.
    pub(super) reason: Reason,
    /// Whether the server closed the connection, in words or without; else it went silent, or spoke nonsense.
    pub(super) closed: bool,
}

impl Trouble {
    /// Something that we found out by ourselves.
    pub(super) fn own(status: Status, text: &str) -> Self {
        Self { reason: Reason::ours(status, text), closed: false }
    }

    /// What the machine found out. `label` and `name` are what the log and reports call the server.
    pub(super) fn of(fault: &SenderFault, label: &str, name: Option<&Rc<str>>) -> Self {
        let (_, subject, detail) = fault.status.unwrap_or((4, 3, 2));
        let status = Status(4, subject, detail);
        if fault.code == 0 {
            return Self::own(status, &format!("{label}: {}", fault.text));
        }
        let reason = Reason { code: fault.code, status, text: fault.text.clone(), remote: name.cloned() };
        Self { reason, closed: fault.code == super::reply::CLOSING }
    }
}
