//! The parts of ESMTP that change what is delivered, or whether it is: from the wire into the Maildir.

use crate::support::authority::Authority;
use crate::support::secure::Dialect;
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id};
use crate::support::text::message;

/// Sends a message by BDAT, in chunks; it must be accepted. Gives its id.
#[track_caller]
fn by_bdat(client: &mut Client, chunks: &[&[u8]]) -> String {
    let (last, before) = chunks.split_last().expect("a chunk");
    for chunk in before {
        client.send(&[format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat());
        client.expect(250);
    }
    client.send(&[format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat());
    queued_id(&client.expect(250))
}

/// RFC 3461: what a sender wants to be told is kept, and never in the way.
#[test]
fn parameters_of_delivery_reports_are_taken() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@example.org> RET=HDRS ENVID=QQ314159", 250);
    client.say("RCPT TO:<alice@example.com> NOTIFY=NEVER", 250);
    client.say("RCPT TO:<alice@example.com> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Alice+2Bx@example.com", 250);
    for wrong in ["NOTIFY=NEVER,SUCCESS", "NOTIFY=", "NOTIFY=SOMETIMES", "ORCPT=rfc822", "ORCPT=rfc822;a+ZZ"] {
        client.refused(&format!("RCPT TO:<bob@example.com> {wrong}"), 501, "5.5.4");
    }
    client.say("DATA", 354);
    let sent = message("reports", "kept\r\n");
    assert_eq!(client.content(&sent).code, 250);
    client.refused("MAIL FROM:<a@example.org> RET=ALL", 501, "5.5.4");
    client.refused("MAIL FROM:<a@example.org> ENVID=+", 501, "5.5.4");
    // Named twice, it is one recipient, served once.
    let delivered = server.maildir("example.com/alice").only();
    assert_eq!(delivered.sent(), sent);
    assert_eq!(server.maildir("example.com/bob").count(), 0);
}

/// RFC 8689: only over TLS, and delivered with what the sender said of it.
#[test]
fn requiretls_is_for_sessions_with_tls() {
    let home = Home::new(1);
    let authority = Authority::new(home.path());
    let certificate = authority.server("mx", "ec", &["mx.example.com"]);
    let line = format!("certificates = [{}]", certificate.entry());
    let server = Server::start_at(home, Settings::default().set("tls", &line));
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    let offers = client.say("EHLO client.example.org", 250).text();
    assert!(!offers.contains("REQUIRETLS"), "{offers}");
    client.refused("MAIL FROM:<a@example.org> REQUIRETLS", 530, "5.7.10");
    let mut client = Dialect::trusting(&authority.cert()).upgrade(client, "mx.example.com");
    let offers = client.say("EHLO client.example.org", 250).text();
    assert!(offers.contains("250-REQUIRETLS"), "{offers}");
    client.say("MAIL FROM:<a@example.org> REQUIRETLS", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.say("DATA", 354);
    assert_eq!(client.content(&message("required", "TLS\r\n")).code, 250);
    let trace = server.maildir("example.com/alice").only().trace().to_owned();
    assert!(trace.contains("with ESMTPS\r\n\t(version=TLSv1.3 "), "{trace}");
}

/// RFC 3030: what is not lines at all is delivered octet for octet.
#[test]
fn binary_mail_is_delivered_octet_for_octet() {
    let server = Server::start(Settings::default());
    let header = b"From: a@example.org\r\nContent-Type: application/octet-stream\r\n\
        Content-Transfer-Encoding: binary\r\n\r\n";
    let mut sent = header.to_vec();
    // Every octet, ends of messages, and a last line without an end.
    sent.extend((0..=255u8).cycle().take(3 * 256));
    sent.extend_from_slice(b"\r\n.\r\nQUIT\r\n\n.\n\r.\r\0\r\nno end");
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@example.org> BODY=BINARYMIME", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.refused("DATA", 503, "5.6.1");
    let middle = sent.len() / 2;
    by_bdat(&mut client, &[&sent[..middle], b"", &sent[middle..], b""]);
    let delivered = server.maildir("example.com/alice").only();
    assert!(delivered.sent() == sent, "{:?}", String::from_utf8_lossy(&delivered.bytes));
    // Without BINARYMIME the same is refused for its bare newlines, and nothing of it is a command.
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.send(&[format!("BDAT {} LAST\r\n", sent.len()).as_bytes(), &sent].concat());
    client.expect(550);
    client.say("NOOP", 250);
    assert_eq!(server.maildir("example.com/alice").count(), 1);
}

/// RFC 6531: addresses beyond ASCII, by DATA and by BDAT, to a Maildir of that name.
#[test]
fn international_addresses_are_delivered() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.refused("MAIL FROM:<żółw@przykład.example>", 553, "5.6.7");
    client.say("MAIL FROM:<żółw@przykład.example> SMTPUTF8 BODY=8BITMIME", 250);
    client.say("RCPT TO:<użytkownik@example.com>", 250);
    let sent = "Subject: zażółć\r\n\r\ngęślą jaźń\r\n".as_bytes();
    by_bdat(&mut client, &[sent]);
    let delivered = server.maildir("example.com/użytkownik").only();
    assert_eq!(delivered.sent(), sent);
    let trace = delivered.trace();
    let start = "Return-Path: <żółw@przykład.example>\r\nDelivered-To: użytkownik@example.com\r\nReceived: ";
    assert!(trace.starts_with(start) && trace.contains("with UTF8SMTP\r\n"), "{trace}");
    // Only where MAIL said so.
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("RCPT TO:<użytkownik@example.com>", 553, "5.6.7");
}

/// RFC 5321 section 4.1.2: a local part that needs quotes keeps them, one that does not loses them.
#[test]
fn quoted_local_parts_are_delivered() {
    let home = Home::new(1);
    let file = home.path().join("recipients");
    std::fs::write(&file, "alice\n\"john doe\"\n").expect("written");
    let recipients = format!("{{ file = \"{}\" }}", file.display());
    let settings = Settings::default().domain("example.com", &recipients, "mail/{domain}/{local}");
    let server = Server::start_at(home, settings);
    let mut client = Client::hello(server.smtp());
    let to = ["\"john doe\"@example.com", "\"john\\ doe\"@example.com", "\"alice\"@example.com", "alice@example.com"];
    client.deliver("\"a b\"@example.org", &to, &message("quoted", "parts\r\n"));
    let trace = server.maildir("example.com/alice").only().trace().to_owned();
    let start = "Return-Path: <\"a b\"@example.org>\r\nDelivered-To: alice@example.com\r\nReceived: ";
    assert!(trace.starts_with(start), "{trace}");
    let trace = server.maildir("example.com/%22john%20doe%22").only().trace().to_owned();
    assert!(trace.contains("Delivered-To: \"john doe\"@example.com\r\n"), "{trace}");
    client.refused("RCPT TO:<x@y>", 503, "5.5.1");
    client.say("MAIL FROM:<>", 250);
    client.refused("RCPT TO:<\"jane doe\"@example.com>", 550, "5.1.1");
}

/// RFC 5321 section 4.5.5: a report has no sender, and must not be answered.
#[test]
fn reports_without_a_sender_are_delivered() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.deliver("", &["alice@example.com"], &message("report", "undelivered\r\n"));
    let trace = server.maildir("example.com/alice").only().trace().to_owned();
    assert!(trace.starts_with("Return-Path: <>\r\nDelivered-To: alice@example.com\r\nReceived: "), "{trace}");
    assert_eq!(server.wait_for_line("accepted", |_| true)["from"], "");
}

/// RFC 5321 section 3.6.1, RFC 5321 section 4.1.3, RFC 5321 section 4.5.1: forms of addresses that few clients use.
#[test]
fn old_forms_of_addresses_are_delivered() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<@relay.example.net:a@example.org>", 250);
    client.say("RCPT TO:<@mx.example.com,@mx.example.net:alice@example.com>", 250);
    client.say("RCPT TO:<Postmaster>", 250);
    client.refused("RCPT TO:<alice@[127.0.0.1]>", 550, "5.7.1");
    client.say("DATA", 354);
    assert_eq!(client.content(&message("old", "forms\r\n")).code, 250);
    let trace = server.maildir("example.com/alice").only().trace().to_owned();
    assert!(trace.starts_with("Return-Path: <a@example.org>\r\nDelivered-To: alice@example.com\r\n"), "{trace}");
    server.maildir("example.com/postmaster").only();
}
