//! Limits: what is over one is refused with the reply that says so, and what comes after is served.

use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, stuffed};
use crate::support::text::{lines, message};
use crate::support::wait_until;

#[test]
fn a_message_over_the_size_is_refused_by_what_it_says_and_by_what_it_is() {
    let server = Server::start(Settings::default().set("limits", "message_size = \"64KiB\""));
    let mut client = Client::hello(server.smtp());
    client.refused("MAIL FROM:<a@example.org> SIZE=65537", 552, "5.3.4");
    client.refused("MAIL FROM:<a@example.org> SIZE=99999999999999999999", 552, "5.3.4");
    let fits = |excess: usize| {
        let mut sent = message("size", "");
        sent.resize(64 * 1024 - 2 + excess, b'x');
        sent.extend_from_slice(b"\r\n");
        sent
    };
    // Dots that are stuffed do not count (RFC 1870 section 3).
    let dots = ".\r\n".repeat(20_000).into_bytes();
    for (content, code) in [(fits(0), 250), (fits(1), 552), (dots, 250), (fits(100_000), 552)] {
        client.say("MAIL FROM:<a@example.org> SIZE=65536", 250);
        client.say("RCPT TO:<alice@example.com>", 250);
        client.say("DATA", 354);
        assert_eq!(client.content(&content).code, code, "{} octets", content.len());
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say("RCPT TO:<bdat@example.com>", 250);
        client.send(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
        client.send(&content);
        client.expect(code);
    }
    client.quit();
    server.maildir("example.com/alice").wait_for(2);
    server.maildir("example.com/bdat").wait_for(2);
    server.wait_for_rest();
    let body = server.home.state_dir().join("spool/shard-0000/body");
    assert_eq!(std::fs::read_dir(body).expect("a folder").count(), 0);
}

#[test]
fn recipients_over_the_limit_wait_for_another_message() {
    let server = Server::start(Settings::default().set("limits", "recipients = 100"));
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@example.org>", 250);
    for number in 0..100 {
        client.say(&format!("RCPT TO:<user{number}@example.com>"), 250);
    }
    client.refused("RCPT TO:<user100@example.com>", 452, "4.5.3");
    client.say("DATA", 354);
    assert_eq!(client.content(&message("many", "x\r\n")).code, 250);
    client.quit();
    server.wait_for_rest();
    for number in 0..100 {
        assert_eq!(server.maildir(&format!("example.com/user{number}")).count(), 1, "user{number}");
    }
    assert_eq!(server.maildir("example.com/user100").count(), 0);
}

#[test]
fn too_many_errors_end_the_session() {
    let server = Server::start(Settings::default().set("limits", "errors_per_session = 5"));
    let mut client = Client::hello(server.smtp());
    for _ in 0..4 {
        client.say("WRONG", 500);
    }
    client.say("WRONG", 500);
    let last = client.expect(421);
    assert!(last.lines[0].starts_with("421 4.7.0 "), "{}", last.text());
    client.ended();
    server.wait_for_rest();
    assert_eq!(server.metrics().sum("ringpost_sessions_closed_total", "how=\"server\""), 1);
}

#[test]
fn a_message_that_loops_is_refused() {
    let server = Server::start(Settings::default().set("limits", "hops = 3"));
    let mut client = Client::hello(server.smtp());
    let hops = |count: usize| {
        let mut sent = "Received: from a by b; Fri, 20 Nov 2026 10:31:25 +0000\r\n".repeat(count).into_bytes();
        sent.extend_from_slice(&message("hops", "Received: x\r\nReceived: y\r\n"));
        sent
    };
    for (count, code) in [(3, 250), (4, 554), (0, 250)] {
        client.begin("a@example.org", &["alice@example.com"]);
        let reply = client.content(&hops(count));
        assert_eq!(reply.code, code, "{count}: {}", reply.text());
        assert!(code == 250 || reply.lines[0].starts_with("554 5.4.6 "), "{}", reply.text());
    }
    client.quit();
    server.maildir("example.com/alice").wait_for(2);
}

#[test]
fn silence_ends_the_session_with_421() {
    let limits = |settings: Settings| settings.set("limits", "command_timeout = \"1s\"");
    let server = Server::start(limits(Settings::default()).set("limits", "data_timeout = \"1s\""));
    let idle = Client::hello(server.smtp());
    let mut half = Client::hello(server.smtp());
    half.send(b"MAIL FR");
    let mut envelope = Client::hello(server.smtp());
    envelope.say("MAIL FROM:<a@example.org>", 250);
    let mut data = Client::hello(server.smtp());
    data.begin("a@example.org", &["alice@example.com"]);
    data.send(b"Subject: half");
    for mut client in [idle, half, envelope, data] {
        let last = client.expect(421);
        assert!(last.lines[0].starts_with("421 4.4.2 "), "{}", last.text());
        client.ended();
    }
    let mut handshake = Client::hello(server.smtp());
    handshake.say("STARTTLS", 220);
    // An alert may come before the end, and no word of SMTP.
    assert!(!matches!(handshake.try_reply(), Ok(Some(_))));
    server.wait_for_rest();
    assert_eq!(server.metrics().sum("ringpost_sessions_closed_total", "how=\"timeout\""), 5);
    assert_eq!(server.maildir("example.com/alice").count(), 0);
}

/// A command must be whole in time, however its bytes come: one byte a second is no progress.
#[test]
fn a_trickle_of_bytes_does_not_keep_a_command_alive() {
    let server = Server::start(Settings::default().set("limits", "command_timeout = \"1s\""));
    let client = Client::hello(server.smtp());
    let mut stream = client.into_stream();
    let closed = || server.metrics().sum("ringpost_sessions_closed_total", "how=\"timeout\"") == 1;
    wait_until("the session is closed", || {
        // Once it is closed there is nobody who takes it.
        let _ = std::io::Write::write_all(&mut stream, b"N");
        closed()
    });
}

#[test]
fn connections_over_the_limit_of_a_core_are_told_421() {
    let server = Server::start(Settings::default().set("cores.limits", "connections = 2"));
    let mut first = Client::hello(server.smtp());
    let second = Client::hello(server.smtp());
    for _ in 0..3 {
        let mut third = Client::connect(server.smtp());
        let reply = third.expect(421);
        assert!(reply.lines[0].starts_with("421 4.7.0 "), "{}", reply.text());
        third.ended();
    }
    assert_eq!(server.metrics().total("ringpost_sessions_refused_total"), 3);
    first.deliver("a@example.org", &["alice@example.com"], &message("served", "x\r\n"));
    second.quit();
    server.wait_for_metric("ringpost_sessions_open", 1);
    Client::hello(server.smtp()).quit();
}

#[test]
fn messages_in_flight_over_the_limit_wait() {
    let server = Server::start(Settings::default().set("cores.limits", "messages_in_flight = 2"));
    let mut busy: Vec<Client> = (0..2).map(|_| Client::hello(server.smtp())).collect();
    busy.iter_mut().for_each(|client| drop(client.say("MAIL FROM:<a@example.org>", 250)));
    let mut third = Client::hello(server.smtp());
    third.refused("MAIL FROM:<a@example.org>", 452, "4.3.2");
    busy[0].say("RSET", 250);
    third.deliver("a@example.org", &["alice@example.com"], &message("later", "x\r\n"));
    busy.pop();
    server.wait_for_metric("ringpost_messages_in_flight", 0);
}

#[test]
fn a_full_backlog_puts_mail_off_until_it_is_delivered() {
    let settings = Settings::default().set("queue", "retry_first = \"1s\"").set("queue", "retry_max = \"1s\"");
    let server = Server::start(settings.set("cores.limits", "spool_backlog = \"64KiB\""));
    server.block("example.com");
    let sent = message("backlog", &lines(1, 40_000));
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &sent);
    client.deliver("a@example.org", &["alice@example.com"], &sent);
    client.refused("MAIL FROM:<a@example.org>", 452, "4.3.1");
    wait_until("it is degraded", || server.get("/readyz").1.contains("degraded"));
    let (status, body) = server.get("/readyz");
    assert!(status == 200 && body.contains("wait for delivery"), "{body}");
    client.refused("MAIL FROM:<a@example.org>", 452, "4.3.1");
    server.unblock("example.com");
    server.maildir("example.com/alice").wait_for(2);
    server.wait_for_metric("ringpost_spool_backlog_bytes", 0);
    client.deliver("a@example.org", &["alice@example.com"], &sent);
    wait_until("it is ready again", || server.get("/readyz").1.contains("\"state\":\"ready\""));
    server.maildir("example.com/alice").wait_for(3);
    server.wait_for_line("health changed", |line| line["phase"] == "degraded");
}

/// What a client sends without waiting for replies that it never reads is no way to fill the server's memory.
#[test]
fn a_client_that_never_reads_is_closed() {
    let server = Server::start(Settings::default().set("limits", "command_timeout = \"1s\""));
    let stream = Client::hello(server.smtp()).into_stream();
    stream.set_nonblocking(true).expect("may be set");
    let commands = b"HELP\r\n".repeat(2_000);
    wait_until("the session is closed", || {
        // Full buffers stop it, and later the end of the connection.
        let _ = std::io::Write::write(&mut &stream, &commands);
        server.metrics().total("ringpost_sessions_open") == 0
    });
    server.wait_for_rest();
    let content = stuffed(&message("next", "x\r\n"));
    let mut client = Client::hello(server.smtp());
    client.begin("a@example.org", &["alice@example.com"]);
    client.send(&content);
    client.expect(250);
}
