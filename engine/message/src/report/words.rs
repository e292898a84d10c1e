//! The part of a report that people read.
//!
//! It says in plain words what has happened, to whom, and whether there is something to be done, and quotes what the other
//! server said, since that is often the only thing that tells why.

use super::fields::DIAGNOSTIC_CHARS_MAX;
use super::fold::{clean, paragraph};
use super::{Report, ReportKind, ReportedRecipient, address};
use crate::trace::Date;

/// The report's subject.
pub(super) fn subject(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Failure => "Undeliverable: your message was not delivered",
        ReportKind::Delay => "Delayed: your message has not been delivered yet",
        ReportKind::Success => "Delivered: your message has arrived",
        ReportKind::Relayed => "Passed on: your message is on its way",
    }
}

/// What a report of a kind has to say about the message, before it names recipients.
fn opening(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Failure => {
            "Your message could not be delivered to the recipients below. It is not tried again: if they are to have it, \
             it must be sent again once the reason is gone."
        }
        ReportKind::Delay => {
            "Your message has not been delivered to the recipients below yet. You need not send it again: it is kept, \
             and delivery is tried again by itself. If it is given up, you will be told."
        }
        ReportKind::Success => "Your message was delivered to the recipients below, as you asked to be told.",
        ReportKind::Relayed => {
            "Your message was passed on to the mail servers of the recipients below, which do not tell when it is \
             delivered. So this is the last that you will hear of it, unless it fails."
        }
    }
}

/// Appends the text.
pub(super) fn write(report: &Report<'_>, utf8: bool, out: &mut Vec<u8>) {
    let host = clean(report.host, false);
    paragraph(
        "",
        &format!("This is the mail server {host}. A program wrote this, and nobody reads replies to it."),
        out,
    );
    out.extend_from_slice(b"\r\n");
    paragraph("", opening(report.kind), out);
    for reported in report.recipients {
        out.extend_from_slice(b"\r\n");
        recipient(report.kind, reported, utf8, out);
    }
    out.extend_from_slice(b"\r\n");
    let arrived = Date(report.original.arrived);
    let id = report.original.id;
    paragraph(
        "",
        &format!("The message came here on {arrived}. Those who run this server find it by the id {id}."),
        out,
    );
}

fn recipient(kind: ReportKind, reported: &ReportedRecipient<'_>, utf8: bool, out: &mut Vec<u8>) {
    let to = address::shown(&reported.recipient.address, utf8);
    let original = reported.recipient.original.as_ref();
    // What the sender wrote comes first: the address that it leads to may never have been seen by the sender.
    let named = original.and_then(|original| address::named(original, utf8)).filter(|named| **named != *to);
    match named {
        Some(named) => paragraph("  ", &format!("<{named}>, which leads to <{to}>"), out),
        None => paragraph("  ", &format!("<{to}>"), out),
    }
    let (class, subject, detail) = reported.status;
    if let Some(said) = said(reported, utf8) {
        paragraph("    ", &format!("{said} (status {class}.{subject}.{detail})"), out);
    } else if matches!(kind, ReportKind::Failure | ReportKind::Delay) {
        paragraph("    ", &format!("No reason is known. (status {class}.{subject}.{detail})"), out);
    }
    if let (ReportKind::Delay, Some(until)) = (kind, reported.will_retry_until) {
        paragraph("    ", &format!("It is given up on {}.", Date(until)), out);
    }
}

/// What was said about a recipient, and by whom.
fn said(reported: &ReportedRecipient<'_>, utf8: bool) -> Option<String> {
    let (code, text) = reported.diagnostic?;
    let text: String = text.chars().take(DIAGNOSTIC_CHARS_MAX).collect();
    let text = clean(&text, utf8);
    let text = if code == 0 { text } else { format!("{code} {text}") };
    if text.is_empty() {
        return None;
    }
    Some(match reported.remote {
        Some(remote) => format!("The server {} said: {text}", clean(remote, false)),
        None => text,
    })
}
