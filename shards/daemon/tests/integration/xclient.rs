//! XCLIENT and XFORWARD: who is trusted speaks for others, and nobody else does.

use crate::support::limits::Told;
use crate::support::net::client_address;
use crate::support::postfix::Postfix;
use crate::support::programs::{program, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, session_id};
use crate::support::text::message;
use std::process::Command;

/// Trusts 127.0.0.1 with both.
fn settings() -> Settings {
    let settings = Settings::default().cores(2).listener_line("xclient_from = [\"127.0.0.1\"]");
    settings.listener_line("xforward_from = [\"127.0.0.1\"]")
}

/// A client whose session was taken over for an address.
fn speaking_for(server: &Server, address: &str) -> Client {
    let mut client = Client::hello(server.smtp());
    client.say(&format!("XCLIENT ADDR={address}"), 220);
    client.say("EHLO client.example.org", 250);
    client
}

#[test]
fn a_trusted_peer_speaks_for_its_client() {
    let server = Server::start(settings());
    for (number, (attributes, peer, literal)) in [
        ("ADDR=192.0.2.7 NAME=mail.example.net PORT=4000", "192.0.2.7", "mail.example.net [192.0.2.7]"),
        ("ADDR=IPv6:2001:db8::7 NAME=[UNAVAILABLE]", "2001:db8::7", "[IPv6:2001:db8::7]"),
        ("NAME=[TEMPUNAVAIL] ADDR=IPv6:::ffff:192.0.2.8 DESTADDR=192.0.2.25", "192.0.2.8", "[192.0.2.8]"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::connect(server.smtp());
        let session = session_id(&client.expect(220));
        let offers = client.say("EHLO filter.example.com", 250).text();
        assert!(offers.contains("XCLIENT NAME ADDR") && offers.contains("XFORWARD NAME ADDR"), "{offers}");
        let banner = client.say(&format!("XCLIENT {attributes}"), 220);
        assert!(banner.lines[0].starts_with("220 mx.example.com ESMTP"), "{}", banner.text());
        // The session is the client's now, who has said nothing yet.
        client.say("MAIL FROM:<a@example.org>", 503);
        client.say("EHLO client.example.org", 250);
        let to = format!("user{number}");
        let id = client.deliver("a@example.org", &[&format!("{to}@example.com")], &message("for another", "x\r\n"));
        let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
        assert_eq!(accepted["peer"], peer, "{accepted}");
        server.wait_for_line("XCLIENT", |line| line["session"] == session.as_str() && line["peer"] == peer);
        let trace = server.maildir(&format!("example.com/{to}")).only().trace().replace("\r\n\t", "");
        assert!(trace.contains(&format!("Received: from client.example.org ({literal})")), "{trace}");
        let told = server.tell(&["explain", &id]).ok().out;
        let step = told.lines().find(|line| line.contains(" xclient ")).unwrap_or_default();
        assert!(step.contains(&format!("address={peer}")), "{told}");
    }
}

/// What is named of the client's HELO is as if it had been said.
#[test]
fn a_named_helo_needs_not_be_said_again() {
    let server = Server::start(settings());
    let mut client = Client::hello(server.smtp());
    client.say("XCLIENT ADDR=192.0.2.7 HELO=client.example.net PROTO=ESMTP", 220);
    let id = client.deliver("a@example.org", &["alice@example.com"], &message("helo", "x\r\n"));
    server.wait_for_line("accepted", |line| line["id"] == id.as_str() && line["helo"] == "client.example.net");
}

#[test]
fn nobody_else_speaks_for_others() {
    let server = Server::start(settings());
    let mut client = Client::hello_from(client_address(0, 1), server.smtp());
    let offers = client.say("EHLO client.example.org", 250).text();
    assert!(!offers.contains("XCLIENT") && !offers.contains("XFORWARD"), "{offers}");
    client.refused("XCLIENT ADDR=192.0.2.7", 550, "5.7.0");
    client.refused("XFORWARD ADDR=192.0.2.7", 550, "5.7.0");
    let id = client.deliver("a@example.org", &["alice@example.com"], &message("own", "x\r\n"));
    let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
    assert_eq!((&accepted["peer"], &accepted["origin"]), (&"127.1.0.1".into(), &"".into()), "{accepted}");
}

#[test]
fn what_a_peer_says_wrongly_is_refused() {
    let server = Server::start(settings());
    let mut client = Client::hello(server.smtp());
    for (line, code) in [
        ("XCLIENT", 501),
        ("XCLIENT ADDR", 501),
        ("XCLIENT ADDR=example.org", 501),
        ("XCLIENT ADDR=192.0.2.256", 501),
        ("XCLIENT SHOE=42", 501),
        ("XFORWARD SHOE=42", 501),
    ] {
        client.say(line, code);
    }
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("XCLIENT ADDR=192.0.2.7", 503);
    client.say("XFORWARD ADDR=192.0.2.7", 503);
    client.quit();
}

/// Limits and bans hit who is spoken for, on the core that counts for it, and never the peer.
#[test]
fn limits_and_bans_are_of_who_is_spoken_for() {
    let server = Server::start(settings().set("limits", "connections_per_ip = 2"));
    let mut told = Told::default();
    let mut open: Vec<Client> = (0..2).map(|_| speaking_for(&server, "192.0.2.1")).collect();
    let mut third = Client::hello(server.smtp());
    told.hear(&third.say("XCLIENT ADDR=192.0.2.1", 421));
    third.ended();
    assert_eq!(told.count("limits.connections_per_ip"), 1);
    open.push(speaking_for(&server, "192.0.2.2"));
    server.tell(&["ban", "add", "192.0.2.0/31", "--ttl", "1h"]).ok();
    for evicted in &mut open[..2] {
        evicted.expect(421);
        evicted.ended();
    }
    open[2].say("NOOP", 250);
    let mut banned = Client::hello(server.smtp());
    let reply = banned.say("XCLIENT ADDR=192.0.2.1", 554);
    assert!(reply.lines[0].contains("banned"), "{}", reply.text());
    banned.ended();
    let refused = server.tell(&["ban", "add", "127.0.0.1"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.all());
    assert!(refused.err.contains("127.0.0.1 overlaps 127.0.0.1 of listener[mx].xclient_from"), "{}", refused.err);
    told.check(&server);
    drop(open);
    server.wait_for_metric("ringpost_address_connections", 0);
    server.wait_for_metric("ringpost_ledger_entries", 0);
}

/// A refused client must not go on as the peer that spoke for it.
#[test]
fn who_is_banned_and_spoken_for_sends_nothing() {
    let server = Server::start(settings());
    server.tell(&["ban", "add", "192.0.2.1"]).ok();
    let mut client = Client::hello(server.smtp());
    client.say("XCLIENT ADDR=192.0.2.1", 554);
    client.send(b"EHLO client.example.org\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n");
    while let Ok(Some(reply)) = client.try_reply() {
        assert!(reply.code != 354, "{}", reply.text());
    }
    assert_eq!(server.metrics().total("ringpost_recipients_accepted_total"), 0);
}

/// XFORWARD is for the log, and for one message.
#[test]
fn xforward_names_the_origin_in_the_log_only() {
    let server = Server::start(settings().set("limits", "messages_per_ip = 2"));
    server.tell(&["ban", "add", "192.0.2.1"]).ok();
    let mut client = Client::hello(server.smtp());
    client.say("XFORWARD NAME=spam.example.net ADDR=192.0.2.1", 250);
    client.say("XFORWARD HELO=spam.example.net PROTO=ESMTP SOURCE=REMOTE", 250);
    for (origin, subject) in [("192.0.2.1", "forwarded"), ("", "not forwarded")] {
        let id = client.deliver("a@example.org", &["alice@example.com"], &message(subject, "x\r\n"));
        let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
        assert_eq!((&accepted["peer"], &accepted["origin"]), (&"127.0.0.1".into(), &origin.into()), "{accepted}");
    }
    // It is the peer that is limited.
    client.say("XFORWARD ADDR=192.0.2.99", 250);
    client.say("MAIL FROM:<a@example.org>", 450);
    client.quit();
}

#[test]
fn swaks_speaks_for_another() {
    let server = Server::start(settings());
    let mut command = Command::new(program("swaks", "swaks"));
    command.args(["--server", &server.smtp().ip().to_string(), "--port", &server.smtp().port().to_string()]);
    command.args(["--helo", "client.example.org", "--from", "a@example.org", "--to", "alice@example.com", "--tls"]);
    command.args(["--xclient", "ADDR=192.0.2.7 NAME=mail.example.net HELO=real.example.net PROTO=ESMTP"]);
    run(&mut command, "").ok();
    let accepted = server.wait_for_line("accepted", |_| true);
    assert_eq!(accepted["peer"], "192.0.2.7", "{accepted}");
    // The field is folded where it would be too long.
    let trace = server.maildir("example.com/alice").only().trace().replace("\r\n\t", "");
    assert!(trace.contains("(mail.example.net [192.0.2.7])"), "{trace}");
}

/// Postfix tells a content filter, or who it takes for one, where a message comes from.
#[test]
fn a_real_postfix_forwards_the_origin() {
    let server = Server::start(settings());
    let postfix = Postfix::start(server.smtp(), "smtp_send_xforward_command = yes\n");
    let mut client = Client::hello_from(client_address(3, 4), postfix.smtp);
    client.begin("a@example.org", &["alice@example.com"]);
    assert_eq!(client.content(&message("forwarded", "x\r\n")).code, 250);
    drop(client);
    server.maildir("example.com/alice").only();
    let accepted = server.wait_for_line("accepted", |_| true);
    assert_eq!((&accepted["peer"], &accepted["origin"]), (&"127.0.0.1".into(), &"127.1.3.4".into()), "{accepted}");
    server.wait_for_line("XFORWARD", |line| line["address"] == "127.1.3.4");
    server.wait_for_line("XFORWARD", |line| line["helo"] == "client.example.org");
}
