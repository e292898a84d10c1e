//! The part of a report that programs read: message/delivery-status (RFC 3464 section 2.1).

use super::fold::{clean, field};
use super::{Report, ReportKind, ReportedRecipient, address};
use crate::trace::Date;
use ringpost_base::Timestamp;
use std::net::{IpAddr, SocketAddr};

/// Characters of what a server said that are told, of each recipient: a reply of several lines of 512, cut where it would
/// go on and on.
pub(super) const DIAGNOSTIC_CHARS_MAX: usize = 2000;

/// Appends the fields of the message, and a block for each recipient.
pub(super) fn write(report: &Report<'_>, utf8: bool, out: &mut Vec<u8>) {
    if let Some(envid) = &report.original.envid {
        // RFC 3464 section 2.2.1, RFC 3461 section 4.4: as the sender wrote it before it was put into xtext.
        let decoded = address::xtext(envid).unwrap_or_else(|| envid.to_string());
        field("Original-Envelope-Id", &address::shown(&decoded, utf8), out);
    }
    // RFC 3464 section 2.2.2, RFC 3461 section 9.3.
    field("Reporting-MTA", &format!("dns; {}", clean(report.host, false)), out);
    // RFC 3464 section 2.2.5.
    field("Arrival-Date", &Date(report.original.arrived).to_string(), out);
    // RFC 3461 section 5.2.8: one report, and a block for each.
    for reported in report.recipients {
        out.extend_from_slice(b"\r\n");
        recipient(report, reported, utf8, out);
    }
}

fn recipient(report: &Report<'_>, reported: &ReportedRecipient<'_>, utf8: bool, out: &mut Vec<u8>) {
    let original = reported.recipient.original.as_ref();
    if let Some(original) = original.and_then(|original| address::original(original, utf8)) {
        field("Original-Recipient", &original, out);
    }
    field("Final-Recipient", &address::typed(&reported.recipient.address, utf8), out);
    field("Action", report.kind.action(), out);
    let (class, subject, detail) = reported.status;
    // RFC 3464 section 2.3.4.
    field("Status", &format!("{class}.{subject}.{detail}"), out);
    if let Some(remote) = reported.remote {
        field("Remote-MTA", &mta(remote), out);
    }
    if let Some((code, text)) = reported.diagnostic {
        field("Diagnostic-Code", &diagnostic(code, text, utf8), out);
    }
    // RFC 3464 section 2.3.7.
    date("Last-Attempt-Date", reported.last_attempt, out);
    // RFC 3464 section 2.3.8: what the operators of this server find the message by in its log.
    field("Final-Log-ID", &report.original.id.to_string(), out);
    if report.kind == ReportKind::Delay {
        // RFC 3464 section 2.3.9.
        date("Will-Retry-Until", reported.will_retry_until, out);
    }
}

fn date(name: &str, at: Option<Timestamp>, out: &mut Vec<u8>) {
    if let Some(at) = at {
        field(name, &Date(at).to_string(), out);
    }
}

/// The value of Diagnostic-Code (RFC 3464 section 2.3.6): of the type `smtp` what a reply said (RFC 3461 section 9.2), else
/// of a type of our own.
fn diagnostic(code: u16, text: &str, utf8: bool) -> String {
    let text: String = text.chars().take(DIAGNOSTIC_CHARS_MAX).collect();
    let text = clean(&text, utf8);
    if code == 0 { format!("x-ringpost; {text}") } else { format!("smtp; {code} {text}") }
}

/// The value of Remote-MTA (RFC 3464 section 2.3.5): a host name, or an address in brackets, is of the type `dns`; the port
/// has no place in it. What is neither is of a type of our own.
fn mta(remote: &str) -> String {
    let literal = |address: IpAddr| match address {
        IpAddr::V4(v4) => format!("dns; [{v4}]"),
        IpAddr::V6(v6) => format!("dns; [IPv6:{v6}]"),
    };
    if let Ok(address) = remote.parse::<IpAddr>() {
        return literal(address);
    }
    if let Ok(address) = remote.parse::<SocketAddr>() {
        return literal(address.ip());
    }
    let host = match remote.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => remote,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !host.is_empty() && host.bytes().all(is_name) {
        return format!("dns; {host}");
    }
    format!("x-ringpost; {}", clean(remote, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_hosts() {
        for (remote, want) in [
            ("mx.example.com", "dns; mx.example.com"),
            ("mx.example.com:25", "dns; mx.example.com"),
            ("192.0.2.1", "dns; [192.0.2.1]"),
            ("192.0.2.1:25", "dns; [192.0.2.1]"),
            ("2001:db8::1", "dns; [IPv6:2001:db8::1]"),
            ("[2001:db8::1]:25", "dns; [IPv6:2001:db8::1]"),
            ("unix:/run/dovecot/lmtp", "x-ringpost; unix:/run/dovecot/lmtp"),
            ("mx\r\nAction: delivered", "x-ringpost; mx Action: delivered"),
            ("", "x-ringpost; "),
        ] {
            assert_eq!(mta(remote), want);
        }
    }

    #[test]
    fn diagnostics() {
        for (code, text, utf8, want) in [
            (550, "5.1.1 no such user", false, "smtp; 550 5.1.1 no such user"),
            (550, "5.1.1 no such\r\n\r\nAction: delivered", false, "smtp; 550 5.1.1 no such Action: delivered"),
            (0, "connection refused", false, "x-ringpost; connection refused"),
            (550, "unbekannte Empf\u{e4}ngerin", true, "smtp; 550 unbekannte Empf\u{e4}ngerin"),
            (550, "unbekannte Empf\u{e4}ngerin", false, "smtp; 550 unbekannte Empf?ngerin"),
        ] {
            assert_eq!(diagnostic(code, text, utf8), want);
        }
        assert_eq!(diagnostic(550, &"x".repeat(9999), false).len(), DIAGNOSTIC_CHARS_MAX + "smtp; 550 ".len());
    }
}
