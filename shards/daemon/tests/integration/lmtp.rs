//! LMTP from a mail system of one's own: a reply for each recipient, and every message delivered.

use crate::support::postfix::Postfix;
use crate::support::presented::Story;
use crate::support::programs::{program, run};
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id, session_id, stuffed};
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::process::Command;

/// One listener, for LMTP.
fn settings() -> Settings {
    Settings::default().listener("lmtp", "starttls").listener_line("kind = \"lmtp\"")
}

/// A session that has said LHLO.
fn lhlo(server: &Server) -> Client {
    let mut client = Client::connect(server.smtp());
    let banner = client.expect(220).text();
    assert!(banner.starts_with("220 mx.example.com LMTP ringpost "), "{banner}");
    client.say("LHLO mailstore.example.com", 250);
    client
}

/// RFC 2033 section 4.1.
#[test]
fn lmtp_is_greeted_with_lhlo_alone() {
    let server = Server::start(settings());
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    for greeting in ["EHLO client.example.org", "HELO client.example.org"] {
        client.refused(greeting, 500, "5.5.1");
    }
    client.refused("MAIL FROM:<a@example.org>", 503, "5.5.1");
    let offers = client.say("LHLO mailstore.example.com", 250).text();
    for keyword in ["PIPELINING", "ENHANCEDSTATUSCODES", "SIZE", "CHUNKING", "STARTTLS", "DSN"] {
        assert!(offers.contains(keyword), "no {keyword} in {offers}");
    }
    client.quit();
    // And SMTP without it.
    let smtp = Server::start(Settings::default());
    let mut client = Client::connect(smtp.smtp());
    client.expect(220);
    client.refused("LHLO mailstore.example.com", 500, "5.5.1");
}

/// RFC 2033 section 4.2: one reply after the dot for each RCPT that was accepted, in their order.
#[test]
fn every_recipient_has_a_reply_of_its_own() {
    let home = Home::new(1);
    let recipients = "[\"alice\", \"bob\"]";
    let server = Server::start_at(home, settings().domain("example.com", recipients, "mail/{domain}/{local}"));
    let mut client = lhlo(&server);
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.refused("RCPT TO:<nobody@example.com>", 550, "5.1.1");
    client.say("RCPT TO:<bob@example.com>", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.say("DATA", 354);
    let sent = message("each", "recipient\r\n");
    let first = client.content(&sent);
    let id = queued_id(&first);
    for _ in 1..3 {
        assert_eq!(queued_id(&client.expect(250)), id);
    }
    // What comes next is the answer to what is said next.
    client.say("NOOP", 250);
    client.quit();
    for path in ["example.com/alice", "example.com/bob"] {
        let delivered = server.maildir(path).only();
        assert_eq!(delivered.sent(), sent);
        assert!(delivered.trace().contains("\tby mx.example.com with LMTP\r\n"), "{}", delivered.trace());
    }
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), 1);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"delivered\""), 2);
}

/// The same where a message is refused, by DATA and by BDAT, and where everything comes in one go.
#[test]
fn a_refused_message_is_refused_to_every_recipient() {
    let server = Server::start(settings());
    let mut client = lhlo(&server);
    client.send(
        b"MAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nRCPT TO:<bob@example.com>\r\n\
        BDAT 12 LAST\r\nbare\nnewline",
    );
    for _ in 0..3 {
        client.expect(250);
    }
    for _ in 0..2 {
        let reply = client.expect(550);
        assert!(reply.text().starts_with("550 5.6.0 "), "{}", reply.text());
    }
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.say("RCPT TO:<bob@example.com>", 250);
    client.say("DATA", 354);
    let hops = "Received: from a by b; Fri, 20 Nov 2026 10:31:25 +0000\r\n".repeat(101);
    client.send(&stuffed(format!("{hops}\r\nloops\r\n").as_bytes()));
    for _ in 0..2 {
        let reply = client.expect(554);
        assert!(reply.text().starts_with("554 5.4.6 "), "{}", reply.text());
    }
    client.say("DATA", 503);
    client.quit();
    server.wait_for_rest();
    assert_eq!(server.metrics().total("ringpost_messages_accepted_total"), 0);
}

/// The clients of LMTP are mail systems of one's own: what is for strangers is not for them.
#[test]
fn mail_systems_of_ones_own_are_not_limited_by_address() {
    let settings = settings()
        .set("greylist", "mode = \"all\"")
        .set("screen", "weight_helo_malformed = 10")
        .set("screen", "score_reject = 10")
        .set("screen", "pregreet_wait = \"1m\"")
        .set("limits", "connections_per_ip = 1")
        .set("limits", "messages_per_ip = 1")
        .set("limits", "recipients_per_ip = 1");
    let server = Server::start(settings);
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("LHLO localhost", 250);
    let mut other = lhlo(&server);
    for _ in 0..3 {
        client.deliver("a@example.org", &["alice@example.com"], &message("own", "system\r\n"));
        other.deliver("a@example.org", &["alice@example.com"], &message("own", "system\r\n"));
    }
    server.maildir("example.com/alice").wait_for(6);
    let told = Story::of(&server, &id);
    assert!(told.steps("screen").is_empty() && told.steps("greylist").is_empty(), "{told:#?}");
}

#[test]
fn swaks_delivers_over_lmtp() {
    let server = Server::start(settings());
    let (host, port) = (server.smtp().ip().to_string(), server.smtp().port().to_string());
    for (tls, with) in [(&[][..], "LMTP"), (&["--tls"], "LMTPS")] {
        let mut command = Command::new(program("swaks", "swaks"));
        command.args(["--protocol", "LMTP", "--server", &host, "--port", &port, "--helo", "mailstore.example.com"]);
        command.args(["--from", "a@example.org", "--to", "alice@example.com,bob@example.com"]).args(tls);
        let body = lines(3, 5000).replace("\r\n", "\\n");
        let told = run(command.args(["--body", &body]), "").ok().out;
        assert_eq!(told.matches("250 2.0.0 queued as ").count(), 2, "{told}");
        for path in ["example.com/alice", "example.com/bob"] {
            let maildir = server.maildir(path);
            let count = if with == "LMTP" { 1 } else { 2 };
            let delivered = maildir.wait_for(count);
            let by = format!("by mx.example.com with {with}\r\n");
            assert!(delivered.iter().any(|message| message.trace().contains(&by)), "no {by} in {path}");
        }
    }
}

#[test]
fn a_real_postfix_delivers_over_lmtp() {
    let home = Home::new(1);
    let recipients = "[\"alice\", \"bob\"]";
    let server = Server::start_at(home, settings().domain("example.com", recipients, "mail/{domain}/{local}"));
    let (ip, port) = (server.smtp().ip(), server.smtp().port());
    let lines_of_main_cf = format!(
        "relayhost =\ndefault_transport = lmtp:inet:[{ip}]:{port}\nlmtp_tls_security_level = encrypt\n\
         lmtp_tls_loglevel = 1\n"
    );
    let postfix = Postfix::start(server.smtp(), &lines_of_main_cf);
    let body = lines(11, 4000);
    let mut client = Client::hello(postfix.smtp);
    client.begin("a@example.org", &["alice@example.com", "nobody@example.com", "bob@example.com"]);
    assert_eq!(client.content(&message("stored", &body)).code, 250);
    for path in ["example.com/alice", "example.com/bob"] {
        let delivered = server.maildir(path).only();
        assert!(delivered.body() == body.as_bytes(), "{path}: the body is another");
        assert!(delivered.trace().contains("with LMTPS\r\n\t(version=TLSv1.3 "), "{}", delivered.trace());
    }
    wait_until("Postfix has heard of each recipient", || {
        let log = postfix.log();
        log.matches("status=sent (250 2.0.0 queued as ").count() == 2 && log.contains("status=bounced")
    });
    let log = postfix.log();
    let refused = log.lines().find(|line| line.contains("status=bounced") && line.contains("nobody@example.com"));
    assert!(refused.is_some_and(|line| line.contains("550 5.1.1")), "{log}");
}
