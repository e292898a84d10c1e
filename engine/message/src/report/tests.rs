//! Whole reports, read again by a parser of mail.

use super::*;
use crate::envelope::tests::example;
use mail_parser::{Message, MessageParser, MimeHeaders};

const HEADERS: &[u8] = b"Received: from a\r\n\tby b\r\nFrom: <a@b.example>\r\nMessage-ID: <1@b.example>\r\n";
const MESSAGE: &[u8] =
    b"Received: from a\r\n\tby b\r\nFrom: <a@b.example>\r\nMessage-ID: <1@b.example>\r\n\r\nHello\r\n.dot\r\n";

/// An envelope of nothing but ASCII.
fn plain() -> Envelope {
    Envelope {
        recipients: vec![Recipient::new("c@d.example"), Recipient::new("e@d.example")],
        utf8: false,
        binary: false,
        require_tls: false,
        ret: None,
        ..example()
    }
}

fn reported(recipient: &Recipient) -> ReportedRecipient<'_> {
    ReportedRecipient {
        recipient,
        status: (5, 1, 1),
        diagnostic: Some((550, "5.1.1 no such user")),
        remote: Some("mx.d.example:25"),
        last_attempt: Some(Timestamp::from_unix_micros(1_795_170_685_000_000)),
        will_retry_until: None,
    }
}

fn report<'a>(original: &'a Envelope, recipients: &'a [ReportedRecipient<'a>]) -> Report<'a> {
    Report {
        kind: ReportKind::Failure,
        host: "mx.example",
        id: SpoolId::from_bytes([9; 16]),
        original,
        recipients,
        header_section: HEADERS,
        body: ReportBody::Full(MESSAGE),
        at: Timestamp::from_unix_micros(1_795_170_686_000_000),
    }
}

fn composed(report: &Report<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    compose(report, &mut out);
    out
}

fn parsed(bytes: &[u8]) -> Message<'_> {
    MessageParser::new().parse(bytes).expect("a message")
}

/// A part's media type and content as they were written.
fn parts(bytes: &[u8]) -> Vec<(String, String)> {
    let message = parsed(bytes);
    let text = |from: u32, to: u32| String::from_utf8_lossy(&bytes[from as usize..to as usize]).into_owned();
    let parts = message.parts[1..].iter().map(|part| {
        let kind = part.content_type().expect("a type");
        let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default());
        (kind, text(part.offset_body, part.offset_end))
    });
    parts.collect()
}

/// Checks what a failure of a message returns: the media type and the content.
fn check_returned(original: &Envelope, kind: ReportKind, message: &[u8], media_type: &str, content: &[u8]) {
    let recipients: Vec<_> = original.recipients.iter().map(reported).collect();
    let section = message.split_inclusive(|byte| *byte == b'\n').take_while(|line| **line != *b"\r\n");
    let section = section.collect::<Vec<_>>().concat();
    let report =
        Report { kind, header_section: &section, body: ReportBody::Full(message), ..report(original, &recipients) };
    let composed = composed(&report);
    let (kind, returned) = parts(&composed).pop().expect("parts");
    assert_eq!((&*kind, &*returned), (media_type, &*String::from_utf8_lossy(content)));
}

#[test]
fn a_whole_report() {
    let original = plain();
    let recipients = [reported(&original.recipients[0])];
    let message = composed(&report(&original, &recipients));
    let text = String::from_utf8(message).expect("ASCII");
    let id = SpoolId::from_bytes([9; 16]);
    let of = SpoolId::from_bytes([7; 16]);
    let want = format!(
        "From: Mail Delivery System <MAILER-DAEMON@mx.example>\n\
         To: <a@b.example>\n\
         Subject: Undeliverable: your message was not delivered\n\
         Date: Fri, 20 Nov 2026 10:31:26 +0000\n\
         Message-ID: <{id}@mx.example>\n\
         In-Reply-To: <1@b.example>\n\
         References: <1@b.example>\n\
         Auto-Submitted: auto-replied\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status;\n\
         \tboundary=\"=_{id}.0000\"\n\
         \n\
         This is a delivery report in MIME format.\n\
         \n\
         --=_{id}.0000\n\
         Content-Type: text/plain; charset=us-ascii\n\
         \n\
         This is the mail server mx.example. A program wrote this, and nobody reads\n\
         replies to it.\n\
         \n\
         Your message could not be delivered to the recipients below. It is not tried\n\
         again: if they are to have it, it must be sent again once the reason is gone.\n\
         \n\
         \x20 <c@d.example>\n\
         \x20   The server mx.d.example:25 said: 550 5.1.1 no such user (status 5.1.1)\n\
         \n\
         The message came here on Thu, 1 Jan 1970 00:00:16 +0000. Those who run this\n\
         server find it by the id {of}.\n\
         \n\
         --=_{id}.0000\n\
         Content-Type: message/delivery-status\n\
         \n\
         Original-Envelope-Id: QQ314159\n\
         Reporting-MTA: dns; mx.example\n\
         Arrival-Date: Thu, 1 Jan 1970 00:00:16 +0000\n\
         \n\
         Final-Recipient: rfc822; c@d.example\n\
         Action: failed\n\
         Status: 5.1.1\n\
         Remote-MTA: dns; mx.d.example\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\n\
         Last-Attempt-Date: Fri, 20 Nov 2026 10:31:25 +0000\n\
         Final-Log-ID: {of}\n\
         \n\
         --=_{id}.0000\n\
         Content-Type: text/rfc822-headers\n\
         \n\
         Received: from a\n\
         \tby b\n\
         From: <a@b.example>\n\
         Message-ID: <1@b.example>\n\
         \n\
         --=_{id}.0000--\n"
    );
    assert_eq!(text.replace("\r\n", "\n"), want);
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
}

#[test]
fn actions_and_dates_of_each_kind() {
    let original = plain();
    let until = Some(Timestamp::from_unix_micros(1_795_257_085_000_000));
    let recipients = [ReportedRecipient { will_retry_until: until, ..reported(&original.recipients[0]) }];
    for (kind, action, retries) in [
        (ReportKind::Failure, "failed", false),
        (ReportKind::Delay, "delayed", true),
        (ReportKind::Success, "delivered", false),
        (ReportKind::Relayed, "relayed", false),
    ] {
        let composed = composed(&Report { kind, ..report(&original, &recipients) });
        let parts = parts(&composed);
        let (_, fields) = &parts[1];
        assert!(fields.contains(&format!("\r\nAction: {action}\r\n")), "{fields}");
        assert_eq!(fields.contains("\r\nWill-Retry-Until: Sat, 21 Nov 2026 10:31:25 +0000\r\n"), retries, "{fields}");
        assert_eq!(parts[0].1.contains("given up on Sat, 21 Nov 2026 10:31:25"), retries, "{}", parts[0].1);
        assert_eq!(parsed(&composed).subject(), Some(words::subject(kind)));
    }
}

#[test]
fn a_block_for_each_recipient() {
    let mut original = plain();
    original.recipients[1].original = Some("rfc822;team+2Bx@g.example".into());
    original.envid = Some("a+20b+2B".into());
    let bare =
        ReportedRecipient { diagnostic: None, remote: None, last_attempt: None, ..reported(&original.recipients[1]) };
    let recipients = [reported(&original.recipients[0]), bare];
    let composed = composed(&report(&original, &recipients));
    let parts = parts(&composed);
    let blocks: Vec<&str> = parts[1].1.split("\r\n\r\n").collect();
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    assert!(blocks[0].starts_with("Original-Envelope-Id: a b+\r\nReporting-MTA: dns; mx.example\r\n"), "{}", blocks[0]);
    assert!(blocks[1].starts_with("Final-Recipient: rfc822; c@d.example\r\n"), "{}", blocks[1]);
    let want = "Original-Recipient: rfc822; team+x@g.example\r\nFinal-Recipient: rfc822; e@d.example\r\n\
                Action: failed\r\nStatus: 5.1.1\r\nFinal-Log-ID: ";
    assert!(blocks[2].starts_with(want), "{}", blocks[2]);
    assert!(parts[0].1.contains("  <team+x@g.example>, which leads to <e@d.example>\r\n"), "{}", parts[0].1);
    assert!(parts[0].1.contains("    No reason is known. (status 5.1.1)\r\n"), "{}", parts[0].1);
}

#[test]
fn what_is_returned() {
    let full = Envelope { ret: Some(Ret::Full), ..plain() };
    let headers = Envelope { ret: Some(Ret::Headers), ..plain() };
    let (whole, section) = ("message/rfc822", "text/rfc822-headers");
    let failure = ReportKind::Failure;
    check_returned(&full, failure, MESSAGE, whole, MESSAGE);
    check_returned(&headers, failure, MESSAGE, section, HEADERS);
    check_returned(&plain(), failure, MESSAGE, section, HEADERS);
    for kind in [ReportKind::Delay, ReportKind::Success, ReportKind::Relayed] {
        check_returned(&full, kind, MESSAGE, section, HEADERS);
    }
    check_returned(&Envelope { require_tls: true, ..full.clone() }, failure, MESSAGE, section, HEADERS);
    check_returned(&Envelope { binary: true, ..full.clone() }, failure, MESSAGE, section, HEADERS);
    let bare_newline = [MESSAGE, b"a\nb\r\n"].concat();
    check_returned(&full, failure, &bare_newline, section, HEADERS);
    let line = b"0123456789abcde\r\n";
    let large = |lines: usize| [MESSAGE, &line.repeat(lines)].concat();
    let fitting = (REPORT_RETURN_MAX - MESSAGE.len()) / line.len();
    check_returned(&full, failure, &large(fitting), whole, &large(fitting));
    check_returned(&full, failure, &large(fitting + 1), section, HEADERS);
}

#[test]
fn a_guessed_boundary_ends_no_part() {
    let original = Envelope { ret: Some(Ret::Full), ..plain() };
    let id = SpoolId::from_bytes([9; 16]);
    let forged = format!(
        "A: b\r\n\r\n--=_{id}.0000\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; forged\r\n\r\n--=_{id}.0000--\r\n"
    );
    let recipients = [reported(&original.recipients[0])];
    let report = Report { body: ReportBody::Full(forged.as_bytes()), ..report(&original, &recipients) };
    let composed = composed(&report);
    let parts = parts(&composed);
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[2], ("message/rfc822".to_owned(), forged));
}

#[test]
fn what_a_server_says_makes_no_field_and_no_part() {
    let original = plain();
    let said = "no\r\n\r\nAction: delivered\r\n--=_forged\r\nStatus: 2.0.0\u{0}\u{85}Bcc: x\n.\r\n";
    let said = ReportedRecipient {
        diagnostic: Some((550, said)),
        remote: Some("mx\r\nX: y"),
        ..reported(&original.recipients[0])
    };
    let composed = composed(&report(&original, &[said]));
    let parts = parts(&composed);
    assert_eq!(parts.len(), 3);
    let names: Vec<&str> = parts[1]
        .1
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect();
    let want = "Original-Envelope-Id Reporting-MTA Arrival-Date Final-Recipient Action Status Remote-MTA Diagnostic-Code \
                Last-Attempt-Date Final-Log-ID";
    assert_eq!(names.join(" "), want);
    assert!(parts[0].1.contains("550 no Action: delivered"), "quoted all the same: {}", parts[0].1);
}

#[test]
fn beyond_ascii() {
    let turtle = Recipient {
        original: Some("utf-8;\u{17c}\\x{F3}@g.example".into()),
        ..Recipient::new("\u{17c}\u{f3}\u{142}w@d.example")
    };
    let types = |composed: &[u8]| parts(composed).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>().join(" ");
    let ascii = "text/plain message/delivery-status text/rfc822-headers";
    let global = "text/plain message/global-delivery-status message/global-headers";

    let sent_with_utf8 = Envelope { utf8: true, recipients: vec![turtle], ..plain() };
    let recipients = [reported(&sent_with_utf8.recipients[0])];
    let by_utf8 = report(&sent_with_utf8, &recipients);
    let message = composed(&by_utf8);
    assert_eq!(types(&message), global);
    let (fields, envelope) = (&parts(&message)[1].1, envelope_of(&by_utf8));
    assert!(fields.contains("Original-Recipient: utf-8; \u{17c}\u{f3}@g.example\r\n"), "{fields}");
    assert!(fields.contains("Final-Recipient: utf-8; \u{17c}\u{f3}\u{142}w@d.example\r\n"), "{fields}");
    assert!(envelope.utf8 && envelope.eight_bit);

    // An alias led to such an address.
    let sent_without = Envelope { utf8: false, ..sent_with_utf8.clone() };
    let by_alias = Report { original: &sent_without, ..by_utf8 };
    let message = composed(&by_alias);
    assert_eq!(types(&message), ascii);
    let (fields, envelope) = (&parts(&message)[1].1, envelope_of(&by_alias));
    assert!(fields.contains("Final-Recipient: utf-8; \\x{17C}\\x{F3}\\x{142}w@d.example\r\n"), "{fields}");
    assert!(message.is_ascii() && !envelope.utf8 && !envelope.eight_bit);

    // Only the address that it goes to is such.
    let from_turtle = Envelope { from: "\u{17c}@b.example".into(), utf8: true, ..plain() };
    let recipients = [reported(&from_turtle.recipients[0])];
    let to_turtle = report(&from_turtle, &recipients);
    let message = composed(&to_turtle);
    let envelope = envelope_of(&to_turtle);
    assert!(
        envelope.utf8
            && envelope.eight_bit
            && String::from_utf8_lossy(&message).contains("To: <\u{17c}@b.example>\r\n")
    );
    assert_eq!(types(&message), global);

    // Nothing is in the report that needs it.
    let original = Envelope { utf8: true, ..plain() };
    let recipients = [reported(&original.recipients[0])];
    let needless = report(&original, &recipients);
    let message = composed(&needless);
    assert_eq!((&*types(&message), envelope_of(&needless).utf8), (ascii, false));

    // Its header section has bytes that it should not have.
    let original = plain();
    let recipients = [reported(&original.recipients[0])];
    let wrong = Report { header_section: b"Subject: caf\xe9\r\n", ..report(&original, &recipients) };
    let message = composed(&wrong);
    let envelope = envelope_of(&wrong);
    assert_eq!((&*types(&message), envelope.utf8, envelope.eight_bit), (ascii, false, true));
    let encoded = parsed(&message).parts.iter().filter(|part| part.content_transfer_encoding() == Some("8bit")).count();
    assert_eq!(encoded, 2, "the whole and the last part");
}

#[test]
fn the_envelope_of_a_report() {
    let original = Envelope { require_tls: true, ..plain() };
    let recipients = [reported(&original.recipients[0])];
    let report = report(&original, &recipients);
    let envelope = envelope_of(&report);
    assert_eq!((envelope.id, envelope.arrived, &*envelope.from), (report.id, report.at, ""));
    assert!(envelope.require_tls && !envelope.eight_bit && !envelope.utf8 && !envelope.binary);
    let recipient = &envelope.recipients[..];
    assert!(matches!(recipient, [only] if &*only.address == "a@b.example" && only.notify.never()), "{recipient:?}");
    for kind in [ReportKind::Failure, ReportKind::Delay, ReportKind::Success, ReportKind::Relayed] {
        assert!(!wanted(&envelope, &recipient[0], kind), "a report on a report");
    }
    let mut stored = Vec::new();
    envelope.encode(&mut stored);
    assert_eq!(Envelope::decode(&stored), Ok(envelope));
}

#[test]
fn who_wants_to_be_told() {
    use ReportKind::*;
    // As bits: 1 never, 2 success, 4 failure, 8 delay.
    for (from, notify, want) in [
        ("a@b.example", 0, &[Failure, Delay][..]),
        ("a@b.example", 1, &[]),
        ("a@b.example", 2, &[Success, Relayed]),
        ("a@b.example", 4, &[Failure]),
        ("a@b.example", 8, &[Delay]),
        ("a@b.example", 14, &[Failure, Delay, Success, Relayed]),
        ("", 0, &[]),
        ("", 14, &[]),
    ] {
        let original = Envelope { from: from.into(), ..plain() };
        let recipient = Recipient { notify: Notify::from_bits(notify).expect("bits"), ..Recipient::new("c@d.example") };
        let told: Vec<_> = [Failure, Delay, Success, Relayed]
            .into_iter()
            .filter(|kind| wanted(&original, &recipient, *kind))
            .collect();
        assert_eq!(told, want, "{from} {notify}");
    }
}

#[test]
fn made_again_it_is_the_same() {
    let original = plain();
    let recipients = [reported(&original.recipients[0])];
    let report = report(&original, &recipients);
    assert_eq!(composed(&report), composed(&report));
}
