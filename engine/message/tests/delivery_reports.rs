//! What holds for any report, whatever strangers have said: it has three parts, its fields are those that it should have,
//! no line is too long or ends in anything but CRLF, and what it returns comes back as it was.

use mail_parser::{Message, MessageParser, MimeHeaders};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use ringpost_base::{SpoolId, Timestamp};
use ringpost_message::report::{
    REPORT_RETURN_MAX, Report, ReportBody, ReportKind, ReportedRecipient, compose, envelope_of, returns_message,
};
use ringpost_message::{Envelope, Notify, Recipient, Ret};

/// The longest line, CRLF left out (RFC 5322's limit).
const LINE_MAX: usize = 998;

/// A text such as somebody would say who wants to be taken for us.
fn said() -> impl Strategy<Value = String> {
    let tokens = vec![
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        " ",
        "\t",
        "Action: delivered",
        "Status: 2.0.0",
        "--=_",
        "--",
        ":",
        "a",
        "@",
        "\0",
        "\u{85}",
        "\u{2028}",
        "\u{17c}\u{f3}\u{142}w",
        "550 5.1.1 no such user",
        "=?utf-8?q?x?=",
        "<",
        ">",
        "\"",
    ];
    let piece = (select(tokens), prop_oneof![9 => Just(1_usize), 1 => 2..1500_usize]);
    vec(piece.prop_map(|(token, times)| token.repeat(times)), 0..12).prop_map(|pieces| pieces.concat())
}

/// An address as the server takes them: of bounded length, without control characters.
fn address() -> impl Strategy<Value = String> {
    select(vec!["bob@example.com", "\"b  c\"@example.com", "\u{17c}\u{f3}@d.example", "b+tag=x\\y@[192.0.2.1]"])
        .prop_map(str::to_owned)
}

fn recipient() -> impl Strategy<Value = Recipient> {
    let original =
        vec![None, Some("rfc822;team+2Bx@g.example"), Some("utf-8;\\x{17C}@g.example"), Some("rfc822;+0D+0AX:y")];
    (address(), select(original))
        .prop_map(|(address, original)| Recipient { original: original.map(Into::into), ..Recipient::new(address) })
}

/// A message, or what is taken for one, with lines that end a part if they can. Half of them have whole lines only.
fn message(id: SpoolId) -> impl Strategy<Value = Vec<u8>> {
    let guess = |number: u32| format!("--=_{id}.{number:04X}\r\n").into_bytes();
    let mut lines: Vec<Vec<u8>> = [0, 1, 2, 0xffff].map(guess).into();
    lines.extend([&b"Subject: x\r\n"[..], b"\r\n", b"--\r\n", b" folded\r\n", b"\xff\xc3\r\n"].map(<[u8]>::to_vec));
    lines.push(b"Content-Type: message/delivery-status\r\n\r\nAction: delivered\r\n".to_vec());
    let mut any = lines.clone();
    any.extend([&b"\n"[..], b"\r", b"\xff", b"a", b"\0", b"--"].map(<[u8]>::to_vec));
    prop_oneof![pieces(lines), pieces(any)]
}

fn pieces(tokens: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = (select(tokens), prop_oneof![9 => Just(1_usize), 1 => 2..1500_usize]);
    vec(piece.prop_map(|(token, times)| token.repeat(times)), 0..20).prop_map(|pieces| pieces.concat())
}

fn id() -> SpoolId {
    SpoolId::from_bytes([9; 16])
}

/// A part's media type, and its content.
fn parts(bytes: &[u8]) -> Vec<(String, &[u8])> {
    let message: Message<'_> = MessageParser::new().parse(bytes).expect("a message");
    let parts = message.parts.iter().filter(|part| part.content_type().is_some_and(|kind| kind.ctype() != "multipart"));
    let parts = parts.map(|part| {
        let kind = part.content_type().expect("a type");
        let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default());
        (kind, &bytes[part.offset_body as usize..part.offset_end as usize])
    });
    parts.collect()
}

fn check_lines(report: &[u8]) -> Result<(), TestCaseError> {
    prop_assert!(report.ends_with(b"\r\n"));
    for line in report.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(TestCaseError::fail(format!("ends in no CRLF: {}", line.escape_ascii())));
        };
        prop_assert!(line.len() <= LINE_MAX, "{} octets", line.len());
        prop_assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{}", line.escape_ascii());
    }
    Ok(())
}

/// The names of the fields, a block for each recipient.
fn check_fields(fields: &[u8], recipients: usize, delayed: bool) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(fields);
    let blocks: Vec<&str> = text.trim_end().split("\r\n\r\n").collect();
    prop_assert_eq!(blocks.len(), 1 + recipients);
    for (at, block) in blocks.iter().enumerate() {
        let names =
            block.lines().filter(|line| !line.starts_with(' ')).map(|line| line.split_once(':').map(|(name, _)| name));
        let names: Vec<&str> =
            names.map(Option::unwrap_or_default).filter(|name| *name != "Original-Recipient").collect();
        let of_message = ["Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"];
        let mut of_recipient = vec![
            "Final-Recipient",
            "Action",
            "Status",
            "Remote-MTA",
            "Diagnostic-Code",
            "Last-Attempt-Date",
            "Final-Log-ID",
        ];
        of_recipient.extend(delayed.then_some("Will-Retry-Until"));
        prop_assert_eq!(&names[..], if at == 0 { &of_message[..] } else { &of_recipient[..] });
    }
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_report_is_whole_whatever_was_said(
        recipients in vec(recipient(), 1..4),
        (diagnostic, remote) in (said(), said()),
        from in select(vec!["a@b.example", "\u{17c}@b.example"]),
        envid in select(vec!["QQ314159", "a+20b+0D+0AX:+20y", "+zz"]),
        message in message(id()),
        kind in select(vec![ReportKind::Failure, ReportKind::Delay, ReportKind::Success, ReportKind::Relayed]),
        (ret, utf8) in (select(vec![None, Some(Ret::Full), Some(Ret::Headers)]), any::<bool>()),
    ) {
        let at = Timestamp::from_unix_micros(1_795_170_685_000_000);
        let original = Envelope {
            id: SpoolId::from_bytes([7; 16]),
            arrived: at,
            session: "".into(),
            client: "".into(),
            helo: "".into(),
            from: from.into(),
            recipients,
            utf8,
            eight_bit: true,
            binary: false,
            require_tls: false,
            ret,
            envid: Some(envid.into()),
        };
        let reported: Vec<_> = original.recipients.iter().map(|recipient| ReportedRecipient {
            recipient,
            status: (4, 4, 7),
            diagnostic: Some((451, &diagnostic)),
            remote: Some(&remote),
            last_attempt: Some(at),
            will_retry_until: Some(at),
        }).collect();
        let report = Report {
            kind,
            host: "mx.example",
            id: id(),
            original: &original,
            recipients: &reported,
            header_section: &message,
            body: ReportBody::Full(&message),
            at,
        };
        let mut out = Vec::new();
        compose(&report, &mut out);
        check_lines(&out)?;
        let parts = parts(&out);
        prop_assert_eq!(parts.len(), 3, "{}", out.escape_ascii());
        prop_assert_eq!(&*parts[0].0, "text/plain");
        check_fields(parts[1].1, reported.len(), kind == ReportKind::Delay)?;
        if matches!(&*parts[2].0, "message/rfc822" | "message/global") {
            prop_assert!(returns_message(&original, kind, message.len() as u64) && message.len() <= REPORT_RETURN_MAX);
            prop_assert_eq!(parts[2].1, &message[..], "not a byte is changed");
        }
        let envelope = envelope_of(&report);
        prop_assert!(envelope.from.is_empty() && envelope.eight_bit != out.is_ascii());
        prop_assert!(envelope.recipients.iter().all(|recipient| recipient.notify == Notify::from_bits(1).expect("never")));
        if !envelope.utf8 {
            // The fields and the words can do without; what is returned may have it all the same.
            prop_assert!(parts[0].1.is_ascii() && parts[1].1.is_ascii());
        }
    }
}
