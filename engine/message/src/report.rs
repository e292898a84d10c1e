//! Delivery reports: the messages that tell a sender what became of a message (RFC 3464, RFC 3461).
//!
//! A report is a message of three parts: words for a person (`words`), fields for a program (`fields`), and what is
//! returned of the message (`returned`). It goes to the reverse-path of the message, comes from the null reverse-path, and
//! so is never itself reported on. Its bytes depend on nothing but what is given: made again, it is the same.
//!
//! Diagnostics, addresses and the returned message are the words of strangers. None of them can begin a line or a field,
//! or end a part: `fold` writes what becomes part of a field, and the boundary is one that the returned message does not
//! have.

mod address;
mod fields;
mod fold;
mod returned;
#[cfg(test)]
mod tests;
mod words;

use crate::headers::Headers;
use crate::trace::Date;
use crate::{Envelope, Notify, Recipient, Ret};
use returned::Returned;
use ringpost_base::{SpoolId, Timestamp};
use std::io::Write;

/// The largest message that is returned as a whole, in bytes; of a larger one the header section is, also where RET=FULL
/// asks for all (RFC 3461 section 6.2 allows that). It is enough for a text that somebody typed, and keeps what a forged
/// sender can be sent from being large.
pub const REPORT_RETURN_MAX: usize = 64 << 10;

/// What a report tells of its recipients; all of one report have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// The message was given up (RFC 3461 section 5.2.6).
    Failure,
    /// The message waits, and is tried again.
    Delay,
    /// The message was delivered (RFC 3461 section 5.2.3).
    Success,
    /// The message was passed on to a server that does not report deliveries (RFC 3461 section 5.2.2).
    Relayed,
}

impl ReportKind {
    /// The kind as a word, for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Delay => "delay",
            Self::Success => "success",
            Self::Relayed => "relayed",
        }
    }

    /// The value of the Action field (RFC 3464 section 2.3.3).
    fn action(self) -> &'static str {
        match self {
            Self::Failure => "failed",
            Self::Delay => "delayed",
            Self::Success => "delivered",
            Self::Relayed => "relayed",
        }
    }
}

/// What is known of the message besides its header section.
#[derive(Clone, Copy, Debug)]
pub enum ReportBody<'a> {
    /// The message as a whole, header section included. It is returned if [`returns_message`] says so and if its lines are
    /// such as a part of a message can have; else the header section is.
    Full(&'a [u8]),
    /// Nothing: the header section is returned.
    HeadersOnly,
}

/// What became of one recipient.
#[derive(Clone, Copy, Debug)]
pub struct ReportedRecipient<'a> {
    /// Who, as in the envelope of the message.
    pub recipient: &'a Recipient,
    /// The status (RFC 3463): class, subject, detail.
    pub status: (u8, u16, u16),
    /// What was said about it, and the code of the SMTP reply that it was said in; 0 if it was not said in one.
    pub diagnostic: Option<(u16, &'a str)>,
    /// The host that said it: a name or an address, with or without a port, or the path of a socket.
    pub remote: Option<&'a str>,
    /// When delivery was last tried.
    pub last_attempt: Option<Timestamp>,
    /// When it is given up, in a report of delay.
    pub will_retry_until: Option<Timestamp>,
}

/// What a report is made from.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What it tells.
    pub kind: ReportKind,
    /// This server's name.
    pub host: &'a str,
    /// The id of the report as a message.
    pub id: SpoolId,
    /// The envelope of the message that is reported on.
    pub original: &'a Envelope,
    /// Whom of its recipients it is about; at least one.
    pub recipients: &'a [ReportedRecipient<'a>],
    /// The beginning of the message, with as much of its header section as there is at hand. What comes behind the empty
    /// line is not looked at.
    pub header_section: &'a [u8],
    /// The message, if there is a chance that it is returned as a whole.
    pub body: ReportBody<'a>,
    /// When the report is made.
    pub at: Timestamp,
}

/// Whether the sender of a message wants to be told of this about a recipient (RFC 3461 section 4.1). Nobody is told about
/// a message with a null reverse-path (RFC 5321 section 6.1, RFC 3834 section 2).
pub fn wanted(original: &Envelope, recipient: &Recipient, kind: ReportKind) -> bool {
    let notify = recipient.notify;
    let asked = match kind {
        ReportKind::Failure => notify.failure(),
        // RFC 3461 section 5.2.5: where nothing was said, a delay may be told, as servers always have.
        ReportKind::Delay => notify.is_unsaid() || notify.delay(),
        ReportKind::Success | ReportKind::Relayed => notify.success(),
    };
    !original.from.is_empty() && !notify.never() && asked
}

/// Whether a report returns all of a message of `size` bytes, so that it is worth reading: it failed, its sender asked for
/// it, it is not too large and consists of lines. A message that requires TLS is never returned as a whole (RFC 8689
/// section 5).
pub fn returns_message(original: &Envelope, kind: ReportKind, size: u64) -> bool {
    kind == ReportKind::Failure
        && original.ret == Some(Ret::Full)
        && size <= REPORT_RETURN_MAX as u64
        && !original.binary
        && !original.require_tls
}

/// Appends the report, a whole message with CRLF line ends.
pub fn compose(report: &Report<'_>, out: &mut Vec<u8>) {
    let parts = Parts::of(report);
    let Parts { utf8, words, fields, returned } = &parts;
    let boundary = returned.boundary(report.id);
    header(report, *utf8, &boundary, !parts.is_ascii(), out);
    // Readers that know no MIME show this; all others do not.
    out.extend_from_slice(b"This is a delivery report in MIME format.\r\n");
    let charset = if words.is_ascii() { "text/plain; charset=us-ascii" } else { "text/plain; charset=utf-8" };
    part(&boundary, charset, words, out);
    // RFC 6533 section 4: the form with addresses beyond ASCII.
    let status = if *utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
    part(&boundary, status, fields, out);
    part(&boundary, returned.media_type(*utf8), returned.bytes(), out);
    // Writing to a Vec can't fail, here and in all that follows.
    let _ = write!(out, "\r\n--{boundary}--\r\n");
}

/// The envelope of a report: from nobody (RFC 3461 section 6.1), to the sender of the message.
pub fn envelope_of(report: &Report<'_>) -> Envelope {
    let recipient = Recipient { notify: Notify::OF_REPORTS, ..Recipient::new(report.original.from.clone()) };
    let parts = Parts::of(report);
    Envelope {
        id: report.id,
        arrived: report.at,
        session: "".into(),
        client: "".into(),
        helo: report.host.into(),
        from: "".into(),
        recipients: vec![recipient],
        utf8: parts.utf8,
        eight_bit: !parts.is_ascii() || !report.original.from.is_ascii(),
        binary: false,
        // RFC 8689 section 5: what is told of the message is protected as it was.
        require_tls: report.original.require_tls,
        ret: None,
        envid: None,
    }
}

/// What a report consists of.
struct Parts<'a> {
    utf8: bool,
    words: Vec<u8>,
    fields: Vec<u8>,
    returned: Returned<'a>,
}

impl<'a> Parts<'a> {
    fn of(report: &Report<'a>) -> Self {
        let utf8 = is_utf8(report);
        let (mut words, mut fields) = (Vec::new(), Vec::new());
        words::write(report, utf8, &mut words);
        fields::write(report, utf8, &mut fields);
        Self { utf8, words, fields, returned: Returned::of(report, utf8) }
    }

    /// Whether all that is behind the report's own header is. In the header, only the address that it goes to may not be.
    fn is_ascii(&self) -> bool {
        [&self.words[..], &self.fields, self.returned.bytes()].iter().all(|part| part.is_ascii())
    }
}

/// Whether the report needs SMTPUTF8. One that can do without it is taken by more servers on its way.
fn is_utf8(report: &Report<'_>) -> bool {
    let names = |reported: &ReportedRecipient<'_>| {
        let Recipient { address, original, .. } = reported.recipient;
        address.is_ascii() && original.as_ref().is_none_or(|original| original.is_ascii())
    };
    let plain = || report.recipients.iter().all(names) && returned::section(report.header_section).is_ascii();
    !report.original.from.is_ascii() || (report.original.utf8 && !plain())
}

fn header(report: &Report<'_>, utf8: bool, boundary: &str, eight_bit: bool, out: &mut Vec<u8>) {
    let host = fold::clean(report.host, false);
    fold::field("From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"), out);
    fold::field("To", &format!("<{}>", address::shown(&report.original.from, utf8)), out);
    fold::field("Subject", words::subject(report.kind), out);
    let _ = write!(out, "Date: {}\r\nMessage-ID: <{}@{host}>\r\n", Date(report.at), report.id);
    let answered = Headers::walk(report.header_section).message_id;
    // RFC 3834 section 3.1.6: the reader's mail program shows it beside the message.
    if let Some(id) = answered.filter(|id| is_message_id(id)) {
        fold::field("In-Reply-To", &format!("<{id}>"), out);
        fold::field("References", &format!("<{id}>"), out);
    }
    // RFC 3834 section 5: so that nobody's program answers it.
    fold::field("Auto-Submitted", "auto-replied", out);
    fold::field("MIME-Version", "1.0", out);
    // RFC 6522 section 3.
    let _ =
        write!(out, "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n");
    if eight_bit {
        fold::field("Content-Transfer-Encoding", "8bit", out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether an id can stand in a field of ours without a second thought.
fn is_message_id(id: &str) -> bool {
    id.len() <= fold::OCTETS_MAX / 2 && id.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
}

fn part(boundary: &str, media_type: &str, content: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "\r\n--{boundary}\r\nContent-Type: {media_type}\r\n");
    if !content.is_ascii() {
        out.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(content);
}
