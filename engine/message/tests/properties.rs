//! What holds for any message and any envelope: an envelope comes back as it was stored, damage is an error and never a
//! panic, the header walk is bounded whatever it is given, and trace header fields can't be broken out of.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use ringpost_base::{SpoolId, Timestamp};
use ringpost_message::{
    Arrival, Envelope, HEADERS_MAX, Headers, Notify, Recipient, Ret, Security, delivery_header, received,
};
use std::net::IpAddr;

/// The longest text of an envelope that is read back.
const TEXT_MAX: usize = 4096;

/// The longest line of a header field, CRLF left out (RFC 5322's limit).
const HEADER_LINE_MAX: usize = 998;

/// The longest name that fits a command line with EHLO before it.
const HELO_MAX: usize = 505;

fn text(len_max: usize) -> impl Strategy<Value = Box<str>> {
    vec(any::<char>(), 0..40).prop_map(move |chars| cut(chars.into_iter().collect(), len_max))
}

fn cut(mut text: String, len_max: usize) -> Box<str> {
    while text.len() > len_max {
        text.pop();
    }
    text.into()
}

/// Mostly short texts, and some of the greatest length.
fn envelope_text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![9 => text(TEXT_MAX), 1 => Just("x".repeat(TEXT_MAX).into())]
}

fn recipient() -> impl Strategy<Value = Recipient> {
    let notify = (0..16u8).prop_map(|bits| Notify::from_bits(bits).unwrap_or_default());
    let texts = [(); 2].map(|()| proptest::option::of(envelope_text()));
    (envelope_text(), texts, notify).prop_map(|(address, [original, mailbox], notify)| Recipient {
        address,
        original,
        notify,
        mailbox,
    })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let texts = [(); 4].map(|()| envelope_text());
    let recipients = vec(recipient(), 0..20);
    let reports = (select(vec![None, Some(Ret::Full), Some(Ret::Headers)]), proptest::option::of(envelope_text()));
    (any::<[u8; 16]>(), any::<u64>(), texts, recipients, any::<[bool; 4]>(), reports).prop_map(
        |(id, arrived, [session, client, helo, from], recipients, flags, (ret, envid))| {
            let [utf8, eight_bit, binary, require_tls] = flags;
            Envelope {
                id: SpoolId::from_bytes(id),
                arrived: Timestamp::from_unix_micros(arrived),
                session,
                client,
                helo,
                from,
                recipients,
                utf8,
                eight_bit,
                binary,
                require_tls,
                ret,
                envid,
            }
        },
    )
}

fn stored(envelope: &Envelope) -> Vec<u8> {
    let mut stored = Vec::new();
    envelope.encode(&mut stored);
    stored
}

/// A header section such as an attacker would write: fields without end, folded, commented, cut off, or none at all.
fn header_section() -> impl Strategy<Value = Vec<u8>> {
    let tokens: Vec<&[u8]> = vec![
        b"Received:",
        b"received: from x by y; Thu, 1 Jan 1970 00:00:00 +0000",
        b"Received :",
        b"Message-ID:",
        b"Message-Id: <a@b>",
        b"MESSAGE-ID: <",
        b"@b>",
        b"Subject: ",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n ",
        b"\r\n\t",
        b"\r\n\r\n",
        b":",
        b"(",
        b")",
        b"\"",
        b"\\",
        b"=?utf-8?b?",
        b"?=",
        b"<",
        b">",
        b"\0",
        b"\xff\xfe",
        b"a",
    ];
    let piece = prop_oneof![9 => Just(1usize), 1 => 2..50usize];
    let piece = (select(tokens), piece).prop_map(|(token, times)| token.repeat(times));
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// Counts Received fields with no thought of speed.
fn hops(message: &[u8]) -> usize {
    let window = &message[..message.len().min(HEADERS_MAX)];
    let lines = window.split_inclusive(|byte| *byte == b'\n').take_while(|line| *line != b"\r\n" && *line != b"\n");
    let is_hop = |line: &&[u8]| {
        let lower = line.to_ascii_lowercase();
        lower.strip_prefix(b"received").is_some_and(|rest| rest.trim_ascii_start().starts_with(b":"))
    };
    lines.filter(is_hop).count()
}

fn check_walk(message: &[u8]) -> Result<(), TestCaseError> {
    let headers = Headers::walk(message);
    prop_assert_eq!(headers.hops, hops(message));
    if let Some(id) = &headers.message_id {
        prop_assert!(!id.is_empty() && id.len() <= 4 * HEADERS_MAX, "{} octets", id.len());
    }
    let window = &message[..message.len().min(HEADERS_MAX)];
    prop_assert_eq!(Headers::walk(window), headers, "what is behind the window is not looked at");
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_envelope_comes_back_as_it_was_stored(envelope in envelope()) {
        prop_assert_eq!(Envelope::decode(&stored(&envelope)), Ok(envelope));
    }

    #[test]
    fn a_damaged_envelope_is_an_error_or_an_envelope(
        envelope in envelope(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        more in vec(any::<u8>(), 0..4),
    ) {
        let mut bytes = stored(&envelope);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend_from_slice(&more);
        if let Ok(read) = Envelope::decode(&bytes) {
            // What is stored in an earlier version grows by a byte for each recipient.
            let grown = if bytes[0] == 1 { read.recipients.len() } else { 0 };
            prop_assert_eq!(stored(&read).len(), bytes.len() + grown, "every byte was read");
            prop_assert_eq!(Envelope::decode(&stored(&read)), Ok(read));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Envelope::decode(&bytes);
        check_walk(&bytes)?;
    }

    #[test]
    fn the_header_walk_is_bounded(section in header_section(), body in vec(any::<u8>(), 0..40)) {
        check_walk(&section)?;
        check_walk(&[&section[..], b"\r\n\r\nReceived: in the body\r\n", &body].concat())?;
    }

    #[test]
    fn trace_fields_hold_what_a_client_says(
        helo in vec(any::<char>(), 0..600),
        name in proptest::option::of(vec(any::<char>(), 0..300)),
        [extended, lmtp, utf8, tls] in any::<[bool; 4]>(),
        client in any::<IpAddr>(),
        id in any::<[u8; 16]>(),
        recipient in proptest::option::of(Just("bob@example.com")),
        at in any::<u64>(),
    ) {
        let helo = cut(helo.into_iter().collect(), HELO_MAX);
        let name: Option<String> = name.map(|chars| chars.into_iter().collect());
        let security = Security { version: "TLSv1.3", cipher: "TLS13_AES_128_GCM_SHA256" };
        let arrival = Arrival {
            host: "mx.example",
            helo: &helo,
            extended,
            lmtp,
            utf8,
            client,
            client_name: name.as_deref(),
            security: tls.then_some(&security),
            id: SpoolId::from_bytes(id),
            recipient,
            at: Timestamp::from_unix_micros(at),
        };
        let mut out = Vec::new();
        received(&arrival, &mut out);
        let text = std::str::from_utf8(&out).expect("a header field is text");
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        prop_assert!(text.ends_with("\r\n") && lines[0].starts_with("Received: from "), "{text:?}");
        prop_assert!(lines[1..].iter().all(|line| line.starts_with('\t')), "a field of its own: {text:?}");
        prop_assert!(lines.iter().all(|line| line.len() <= HEADER_LINE_MAX), "too long: {text:?}");
        prop_assert!(!lines.iter().any(|line| line.contains(|c: char| c.is_control() && c != '\t')), "{text:?}");
        prop_assert_eq!(Headers::walk(&out), Headers { hops: 1, message_id: None });
    }
}

/// Shapes that would make a walk slow or deep if it were not linear and flat.
#[test]
fn shapes_of_the_greatest_size_are_survived() {
    for (start, token) in [
        ("Message-ID: ", "("),
        ("Message-ID: ", "<"),
        ("Message-ID: ", "\""),
        ("Message-ID: ", "\\("),
        ("Message-ID: ", "\r\n "),
        ("Message-ID: <", "a\r\n\t"),
        ("Message-ID: =?", "=?utf-8?q?"),
        ("", "Message-ID:\r\n"),
        ("", "Message-ID: (\r\n"),
        ("", "Received:\r\n"),
        ("", "Received:\r\n "),
        ("", "\r"),
        ("", ":"),
        ("", "a"),
    ] {
        let times = 2 * HEADERS_MAX / token.len();
        check_walk(format!("{start}{}", token.repeat(times)).as_bytes()).unwrap_or_else(|e| panic!("{token:?}: {e}"));
    }
}

#[test]
fn a_window_that_cuts_a_field_is_no_trouble() {
    for message_id in ["Message-ID: <a@b>\r\n", "Received: from x\r\n"] {
        for before in (HEADERS_MAX - message_id.len() - 3)..=HEADERS_MAX {
            let section = format!("X: {}\r\n{message_id}\r\n", "x".repeat(before.saturating_sub(5)));
            check_walk(section.as_bytes()).unwrap_or_else(|e| panic!("{before}: {e}"));
        }
    }
}

#[test]
fn delivery_headers() {
    let mut out = Vec::new();
    delivery_header("alice@client.example", ["bob@example.com", "\"c d\"@example.com"].into_iter(), &mut out);
    let want = "Return-Path: <alice@client.example>\r\nDelivered-To: bob@example.com\r\n\
                Delivered-To: \"c d\"@example.com\r\n";
    assert_eq!(String::from_utf8_lossy(&out), want);
    out.clear();
    delivery_header("", std::iter::empty(), &mut out);
    assert_eq!(out, b"Return-Path: <>\r\n");
}
