//! SMTP over real sockets: pipelining, pieces, chunks, addresses, replies.

use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, stuffed};
use crate::support::text::{lines, message};

#[test]
fn a_whole_session_in_one_write() {
    let server = Server::start(Settings::default());
    let sent = message("pipelined", ".\r\n.dots\r\n");
    let mut wire = b"EHLO client.example.org\r\n".to_vec();
    for _ in 0..3 {
        wire.extend_from_slice(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n");
        wire.extend_from_slice(&stuffed(&sent));
    }
    wire.extend_from_slice(b"NOOP\r\nQUIT\r\n");
    let mut client = Client::connect(server.smtp());
    client.send(&wire);
    client.expect(220);
    client.expect(250);
    for _ in 0..3 {
        for code in [250, 250, 354, 250] {
            client.expect(code);
        }
    }
    client.expect(250);
    client.expect(221);
    client.ended();
    for delivered in server.maildir("example.com/alice").wait_for(3) {
        assert_eq!(delivered.sent(), sent);
    }
}

#[test]
fn commands_and_content_byte_by_byte() {
    let server = Server::start(Settings::default());
    let sent = message("slow", ".\r\n\r\n..\r\n");
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    let mut slowly = |bytes: &[u8], code| {
        for byte in bytes {
            client.send(&[*byte]);
        }
        client.expect(code);
    };
    slowly(b"EHLO client.example.org\r\n", 250);
    slowly(b"MAIL FROM:<a@example.org> SIZE=1000 BODY=8BITMIME\r\n", 250);
    slowly(b"RCPT TO:<alice@example.com>\r\n", 250);
    slowly(b"DATA\r\n", 354);
    slowly(&stuffed(&sent), 250);
    slowly(b"QUIT\r\n", 221);
    assert_eq!(server.maildir("example.com/alice").only().sent(), sent);
}

#[test]
fn chunks_split_anywhere_make_one_message() {
    let server = Server::start(Settings::default());
    let sent = message("chunks", ".\r\n\r\n.\r\nMAIL FROM:<x@y.example>\r\n");
    for split in [1, sent.len() / 2, sent.len() - 1] {
        let (first, second) = sent.split_at(split);
        let mut client = Client::hello(server.smtp());
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say("RCPT TO:<alice@example.com>", 250);
        // Chunks and what follows them in one write; the last is empty.
        let mut wire = format!("BDAT {}\r\n", first.len()).into_bytes();
        wire.extend_from_slice(first);
        wire.extend_from_slice(format!("BDAT {}\r\n", second.len()).as_bytes());
        wire.extend_from_slice(second);
        wire.extend_from_slice(b"BDAT 0 LAST\r\nNOOP\r\n");
        client.send(&wire);
        for _ in 0..4 {
            client.expect(250);
        }
        client.quit();
    }
    for delivered in server.maildir("example.com/alice").wait_for(3) {
        assert_eq!(delivered.sent(), sent);
    }
}

#[test]
fn refused_chunks_are_read_away() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.refused("BDAT 6 LAST\r\nQUIT", 503, "5.5.1");
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("BDAT 6\r\nQUIT", 554, "5.5.1");
    client.say("RCPT TO:<alice@example.com>", 250);
    client.say("BDAT 3\r\na", 250);
    client.refused("DATA", 503, "5.5.1");
    client.refused("RCPT TO:<bob@example.com>", 503, "5.5.1");
    client.say("RSET", 250);
    // Where the size can't be read, nothing that follows can be told from commands.
    client.refused("BDAT many\r\nQUIT", 501, "5.5.4");
    client.ended();
    assert_eq!(server.maildir("example.com/alice").count(), 0);
}

#[test]
fn the_null_sender_and_postmaster_are_served() {
    let server = Server::start(Settings::default().domain("example.net", "[\"bob\"]", "mail/{address}"));
    let mut client = Client::hello(server.smtp());
    client.deliver("", &["bob@example.net", "postmaster", "PostMaster@example.net"], &message("bounce", "x\r\n"));
    client.deliver("a@example.org", &["Postmaster"], &message("alone", "x\r\n"));
    client.quit();
    let bounce = server.maildir("bob@example.net").only();
    assert!(bounce.trace().starts_with("Return-Path: <>\r\n"), "{}", bounce.trace());
    server.maildir("postmaster@example.net").wait_for(2);
}

#[test]
fn strangers_and_unknown_recipients_are_refused() {
    let server = Server::start(Settings::default().domain("example.net", "[\"bob\"]", "mail/{address}"));
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@example.net>", 250);
    for relay in [
        "a@example.org",
        "a@sub.example.net",
        "bob%example.org@example.com",
        "bob@[127.0.0.1]",
        "\"bob@example.net\"@example.org",
        "a@example.net.",
        "@example.net:a@example.org",
    ] {
        let reply = {
            client.send(format!("RCPT TO:<{relay}>\r\n").as_bytes());
            client.reply()
        };
        assert!([501, 550].contains(&reply.code), "{relay}: {}", reply.text());
    }
    client.refused("RCPT TO:<a@example.org>", 550, "5.7.1");
    client.refused("RCPT TO:<alice@example.net>", 550, "5.1.1");
    client.refused("DATA", 554, "5.5.1");
    client.say("RCPT TO:<BOB@EXAMPLE.NET>", 250);
    client.quit();
    assert!(server.metrics().total("ringpost_recipients_refused_total") >= 2);
}

#[test]
fn addresses_beyond_ascii_need_smtputf8() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.refused("MAIL FROM:<żółw@example.org>", 553, "5.6.7");
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("RCPT TO:<użytkownik@example.com>", 553, "5.6.7");
    client.say("RSET", 250);
    client.say("MAIL FROM:<żółw@example.org> SMTPUTF8", 250);
    client.say("RCPT TO:<użytkownik@example.com>", 250);
}

#[test]
fn verbs_out_of_order_and_unknown_ones_are_told() {
    let server = Server::start(Settings::default().set("limits", "errors_per_session = 100"));
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    for (line, code, enhanced) in [
        ("MAIL FROM:<a@example.org>", 503, "5.5.1"),
        ("FROBNICATE", 500, "5.5.1"),
        ("EXPN list", 502, "5.5.1"),
        ("VRFY alice", 252, "2.5.2"),
        ("HELO", 501, "5.5.4"),
        ("NOOP \u{1b}[2J", 500, "5.5.2"),
        ("GET / HTTP/1.1", 500, "5.5.1"),
    ] {
        client.refused(line, code, enhanced);
    }
    let long = format!("NOOP {}", "x".repeat(20_000));
    client.refused(&long, 500, "5.5.2");
    let lone = client.say("HELO client.example.org", 250);
    assert_eq!(lone.lines.len(), 1);
    client.refused("RCPT TO:<alice@example.com>", 503, "5.5.1");
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("MAIL FROM:<a@example.org>", 503, "5.5.1");
    client.refused("MAIL FROM:<a@example.org> FOO=bar", 503, "5.5.1");
    client.say("RSET", 250);
    client.refused("MAIL FROM:<a@example.org> FOO=bar", 555, "5.5.4");
    client.say("HELP", 214);
    client.quit();
}

#[test]
fn what_ehlo_offers_is_what_there_is() {
    let server = Server::start(Settings::default().set("limits", "message_size = \"3MiB\""));
    let mut client = Client::connect(server.smtp());
    let banner = client.expect(220);
    assert!(banner.lines[0].starts_with("220 mx.example.com ESMTP"), "{}", banner.text());
    let reply = client.say("EHLO [127.0.0.1]", 250);
    let mut offers: Vec<&str> = reply.lines[1..].iter().map(|line| &line[4..]).collect();
    offers.sort_unstable();
    let want = [
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "LIMITS RCPTMAX=1000",
        "PIPELINING",
        "SIZE 3145728",
        "SMTPUTF8",
        "STARTTLS",
    ];
    assert_eq!(offers, want);
}

/// Pieces of every size over the reader's own: the server's buffers have seams where a message must not show one.
#[test]
fn content_arrives_whole_over_all_seams() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    let mut all = Vec::new();
    for size in [1_000, 65_530, 65_536, 131_072, 262_143, 262_200, 400_000] {
        let sent = message(&format!("seam-{size}"), &lines(size as u64, size));
        client.begin("a@example.org", &["alice@example.com"]);
        for piece in stuffed(&sent).chunks(7919) {
            client.send(piece);
        }
        client.expect(250);
        all.push(sent);
    }
    client.quit();
    let delivered = server.maildir("example.com/alice").wait_for(all.len());
    for sent in &all {
        assert!(delivered.iter().any(|message| message.sent() == sent), "one of {} octets is not there", sent.len());
    }
}
