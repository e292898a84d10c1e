//! Trace header fields: Received at acceptance, Return-Path and Delivered-To at delivery.
//!
//! ```text
//! Received: from HELO (NAME [client address])
//! <TAB>by HOST with ESMTPS id ID
//! <TAB>for <recipient>; date-time               RFC 5321 section 4.4
//! ```

use jiff::{Timestamp as Instant, fmt::rfc2822::DateTimePrinter, tz::TimeZone};
use ringpost_base::{SpoolId, Timestamp};
use std::io::Write;
use std::net::IpAddr;

/// What is known of TLS on the connection that brought the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// Protocol version as written in RFC 5246 section 1 and its successors: `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
}

/// How a message came, for its Received field.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// This server's name.
    pub host: &'a str,
    /// The client's HELO or EHLO name.
    pub helo: &'a str,
    /// Whether it was EHLO.
    pub extended: bool,
    /// Whether LMTP is spoken in place of SMTP.
    pub lmtp: bool,
    /// Whether SMTPUTF8 was asked for.
    pub utf8: bool,
    /// The client's address; where a proxy presented the client, the presented one.
    pub client: IpAddr,
    /// The client's name in DNS, if it is known and was found to lead back to the address.
    pub client_name: Option<&'a str>,
    /// TLS, if it was on.
    pub security: Option<&'a Security>,
    /// The message's id.
    pub id: SpoolId,
    /// The recipient, if there is exactly one: more would tell each of the others (RFC 5321 section 7.2, RFC 5321
    /// section 7.6).
    pub recipient: Option<&'a str>,
    /// When.
    pub at: Timestamp,
}

/// Appends the Received field.
pub fn received(arrival: &Arrival<'_>, out: &mut Vec<u8>) {
    let literal = match arrival.client {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| format!("[IPv6:{v6}]"), |v4| format!("[{v4}]")),
    };
    // Writing to a Vec can't fail.
    let _ = write!(out, "Received: from {} (", Clean { name: arrival.helo, utf8: arrival.utf8 });
    if let Some(name) = arrival.client_name {
        // A name and a literal fill a line where the greeting's name is long too (RFC 5322 section 2.2.3).
        let _ = write!(out, "\r\n\t{} ", Clean { name, utf8: false });
    }
    let _ = write!(out, "{literal})\r\n\tby {} with {}", arrival.host, with(arrival));
    if let Some(Security { version, cipher }) = arrival.security {
        let _ = write!(out, "\r\n\t(version={version} cipher={cipher})");
    }
    let _ = write!(out, "\r\n\tid {}", arrival.id);
    if let Some(recipient) = arrival.recipient {
        let _ = write!(out, "\r\n\tfor <{recipient}>");
    }
    let _ = write!(out, ";\r\n\t{}\r\n", Date(arrival.at));
}

/// Appends what delivery puts in front: Return-Path (RFC 5321 section 4.4), and the recipients that this copy is for.
pub fn delivery_header<'a>(from: &str, recipients: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
    let _ = write!(out, "Return-Path: <{from}>\r\n");
    for recipient in recipients {
        let _ = write!(out, "Delivered-To: {recipient}\r\n");
    }
}

/// The protocol keyword (RFC 3848, RFC 6531 section 3.7.3, RFC 6531 section 4.3). LMTP has no form without extensions.
fn with(arrival: &Arrival<'_>) -> &'static str {
    match (arrival.lmtp, arrival.utf8, arrival.extended, arrival.security.is_some()) {
        (false, true, _, false) => "UTF8SMTP",
        (false, true, _, true) => "UTF8SMTPS",
        (false, false, true, false) => "ESMTP",
        (false, false, true, true) => "ESMTPS",
        (false, false, false, _) => "SMTP",
        (true, true, _, false) => "UTF8LMTP",
        (true, true, _, true) => "UTF8LMTPS",
        (true, false, _, false) => "LMTP",
        (true, false, _, true) => "LMTPS",
    }
}

/// A HELO name as it may stand in a header field: it is the client's word and could hold anything printable.
/// Characters beyond ASCII stand only in messages that may have them (RFC 6532 section 3.2).
struct Clean<'a> {
    name: &'a str,
    utf8: bool,
}

impl std::fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write;
        if self.name.is_empty() {
            return f.write_str("unknown");
        }
        self.name.chars().take(255).try_for_each(|c| {
            let harmless =
                c.is_ascii_alphanumeric() || "-._[]:".contains(c) || (self.utf8 && !c.is_ascii() && !c.is_control());
            f.write_char(if harmless { c } else { '?' })
        })
    }
}

/// A date-time of RFC 5322 section 3.3, in UTC.
pub(crate) struct Date(pub(crate) Timestamp);

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = i64::try_from(self.0.unix_seconds()).unwrap_or(i64::MAX);
        let zoned = Instant::from_second(seconds).unwrap_or(Instant::MAX).to_zoned(TimeZone::UTC);
        let text = DateTimePrinter::new().zoned_to_string(&zoned).map_err(|_| std::fmt::Error)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(security: Option<&Security>) -> Arrival<'_> {
        Arrival {
            host: "mx.example",
            helo: "a (b)\u{e9}",
            extended: true,
            lmtp: false,
            utf8: false,
            client_name: None,
            client: "2001:db8::1".parse().expect("address"),
            security,
            id: SpoolId::from_bytes([0; 16]),
            recipient: Some("c@d.example"),
            at: Timestamp::from_unix_micros(1_795_170_685_000_000),
        }
    }

    #[test]
    fn received_field() {
        let security = Security { version: "TLSv1.3", cipher: "TLS13_AES_128_GCM_SHA256" };
        let mut out = Vec::new();
        received(&arrival(Some(&security)), &mut out);
        let want = "Received: from a??b?? ([IPv6:2001:db8::1])\r\n\tby mx.example with ESMTPS\r\n\t\
                    (version=TLSv1.3 cipher=TLS13_AES_128_GCM_SHA256)\r\n\tid 00000000000000000000000000\r\n\t\
                    for <c@d.example>;\r\n\tFri, 20 Nov 2026 10:31:25 +0000\r\n";
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn a_mapped_address_is_written_as_version_4() {
        let mut out = Vec::new();
        let client = "::ffff:192.0.2.1".parse().expect("address");
        received(&Arrival { client, recipient: None, ..arrival(None) }, &mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("([192.0.2.1])") && text.contains("with ESMTP\r\n") && !text.contains("for <"), "{text}");
    }

    #[test]
    fn the_protocol_keyword() {
        let security = Security { version: "TLSv1.3", cipher: "TLS13_AES_128_GCM_SHA256" };
        for (lmtp, utf8, extended, tls, want) in [
            (false, false, false, false, "SMTP"),
            (false, false, false, true, "SMTP"),
            (false, false, true, false, "ESMTP"),
            (false, false, true, true, "ESMTPS"),
            (false, true, true, false, "UTF8SMTP"),
            (false, true, true, true, "UTF8SMTPS"),
            (true, false, true, false, "LMTP"),
            (true, false, true, true, "LMTPS"),
            (true, true, true, false, "UTF8LMTP"),
            (true, true, true, true, "UTF8LMTPS"),
        ] {
            let security = tls.then_some(&security);
            assert_eq!(with(&Arrival { lmtp, utf8, extended, ..arrival(security) }), want);
        }
    }

    #[test]
    fn a_name_stands_before_the_address() {
        let mut out = Vec::new();
        received(&Arrival { client_name: Some("mail.b\r\nx.example"), ..arrival(None) }, &mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(
            text.starts_with("Received: from a??b?? (\r\n\tmail.b??x.example [IPv6:2001:db8::1])\r\n\tby"),
            "{text}"
        );
    }
}
