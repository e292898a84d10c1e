//! Ready, draining, stopped: what clients see of it.

use crate::support::hop::{Answer, Hop, Moment};
use crate::support::load::{Running, verify};
use crate::support::net::{listening_sockets, reset};
use crate::support::queue::hasty;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id};
use crate::support::text::message;
use crate::support::{eventually, wait_until};
use rustix::process::Signal;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long one attempt to connect may take. While the server drains, attempts go unanswered or are refused.
const CONNECT: Duration = Duration::from_millis(500);

/// The first byte of an alert (RFC 8446 section 5.1).
const TLS_ALERT: u8 = 21;

/// Tries to connect until it is refused. Whoever is let in must be told something before it is over.
fn wait_until_refused(address: SocketAddr) {
    let refused = eventually(|| match TcpStream::connect_timeout(&address, CONNECT) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(()),
        Err(_) => None,
        Ok(stream) => {
            let first = Client::from_stream(stream).try_reply().expect("not reset before the first reply");
            let code = first.expect("not closed before the first reply").code;
            assert!(code == 220 || code == 421, "{code}");
            None
        }
    });
    assert!(refused.is_some(), "connections are still taken");
}

#[test]
fn sigterm_in_the_middle_of_data_cuts_nothing() {
    let mut server = Server::start(Settings::default().cores(2));
    let smtp = server.smtp();
    // With DATA, with BDAT between two chunks, and between RCPT and DATA.
    let mut data = Client::hello(smtp);
    data.begin("a@example.org", &["data@example.com"]);
    data.send(b"Subject: cut\r\n\r\nhalf a li");
    let mut chunks = Client::hello(smtp);
    chunks.say("MAIL FROM:<a@example.org>", 250);
    chunks.say("RCPT TO:<bdat@example.com>", 250);
    chunks.send(b"BDAT 9\r\nSubject: ");
    chunks.expect(250);
    let mut envelope = Client::hello(smtp);
    envelope.say("MAIL FROM:<a@example.org>", 250);
    envelope.say("RCPT TO:<later@example.com>", 250);
    server.signal(Signal::TERM);
    wait_until_refused(smtp);
    assert_eq!(listening_sockets(smtp), 0);
    assert!(server.ended().is_none(), "the server does not wait for its sessions");
    assert_eq!(server.get("/readyz").0, 503);
    data.send(b"ne\r\n.\r\n");
    queued_id(&data.expect(250));
    chunks.send(b"BDAT 10 LAST\r\ncut\r\n\r\n.\r\n");
    chunks.expect(250);
    envelope.say("DATA", 354);
    let reply = envelope.content(b"\r\nlate\r\n");
    assert_eq!(reply.code, 250, "{}", reply.text());
    for mut client in [data, chunks, envelope] {
        let last = client.expect(421);
        assert!(last.lines[0].starts_with("421 4.3.2 "), "{}", last.text());
        client.ended();
    }
    assert!(server.wait().success());
    assert_eq!(server.maildir("example.com/data").only().sent(), b"Subject: cut\r\n\r\nhalf a line\r\n");
    assert_eq!(server.maildir("example.com/bdat").only().sent(), b"Subject: cut\r\n\r\n.\r\n");
    assert_eq!(server.maildir("example.com/later").only().sent(), b"\r\nlate\r\n");
    assert_eq!(server.errors(), "");
    assert!(server.log().last().is_some_and(|line| line["message"] == "shutdown_complete"));
}

/// What clients were promised, what the metrics say while the server drains, and what the last record says is one number.
#[test]
fn sigterm_under_load_keeps_every_promise_and_counts_it() {
    let mut server = Server::start(Settings::default().cores(2));
    let smtp = server.smtp();
    let mut held = Client::hello(smtp);
    held.begin("a@example.org", &["held@example.com"]);
    held.send(b"Subject: held\r\n");
    let load = ["--sessions", "16", "--size", "4KiB", "--reconnect", "--messages-per-connection", "3"];
    let running = Running::start(smtp, server.home.path(), "load", &load);
    wait_until("mail comes", || server.metrics().total("ringpost_messages_accepted_total") > 200);
    server.signal(Signal::TERM);
    wait_until_refused(smtp);
    let acked = running.acked.clone();
    running.stop();
    let promised = std::fs::read_to_string(&acked).expect("a list").lines().count() as u64;
    // Only the session that is held is left.
    wait_until("the others are gone", || server.metrics().total("ringpost_sessions_open") == 1);
    assert_eq!(server.metrics().total("ringpost_messages_accepted_total"), promised);
    held.send(b"\r\nheld\r\n.\r\n");
    queued_id(&held.expect(250));
    held.expect(421);
    assert!(server.wait().success());
    let log = server.log();
    let last = log.last().expect("lines");
    assert_eq!((&last["message"], &last["clean"]), (&"shutdown_complete".into(), &true.into()));
    assert_eq!(last["accepted"], promised + 1);
    server.start_again();
    server.wait_until_delivered();
    verify(&[acked], &server.mail());
    server.maildir("example.com/held").only();
}

/// A host that is taken out of service goes on until its mail is elsewhere.
#[test]
fn a_drain_delivers_what_waits_before_the_end() {
    let hop = Hop::obliging();
    hop.change(|moment| if matches!(moment, Moment::Mail) { Answer::Say("451 4.3.0 not now") } else { Answer::Usual });
    let hosts = format!("hosts = [\"{}\"]", hop.address);
    let settings = hasty().target("hop", "smtp", &[&hosts, "breaker_failures = 0"]);
    let mut server = Server::start(settings.domain_to("example.com", "\"hop\"", &[]));
    let mut client = Client::hello(server.smtp());
    for _ in 0..3 {
        client.deliver("a@example.org", &["b@example.com"], &message("waits", "x\r\n"));
    }
    client.quit();
    server.tell(&["drain", "--queue", "60s"]).ok();
    wait_until_refused(server.smtp());
    assert!(server.ended().is_none(), "it does not wait for its queue");
    hop.change(|_| Answer::Usual);
    hop.wait_for(3);
    assert!(server.wait().success());
    assert_eq!(server.log().last().expect("lines")["delivered"], 3);
}

/// An operator who loses patience with it stops it as any other.
#[test]
fn a_drain_that_waits_for_its_queue_is_ended_by_a_signal() {
    let hop = Hop::obliging();
    hop.change(|moment| if matches!(moment, Moment::Mail) { Answer::Say("451 4.3.0 not now") } else { Answer::Usual });
    let hosts = format!("hosts = [\"{}\"]", hop.address);
    let settings = hasty().target("hop", "smtp", &[&hosts, "breaker_failures = 0"]);
    let mut server = Server::start(settings.domain_to("example.com", "\"hop\"", &[]));
    Client::hello(server.smtp()).deliver("a@example.org", &["b@example.com"], &message("waits", "x\r\n"));
    server.tell(&["drain", "--queue", "1h"]).ok();
    wait_until_refused(server.smtp());
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert_eq!(server.log().last().expect("lines")["delivered"], 0);
}

#[test]
fn sigterm_tells_idle_sessions_and_ends() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(Settings::default().cores(2));
        let mut clients: Vec<Client> = (0..6).map(|_| Client::hello(server.smtp())).collect();
        let mut fresh = Client::connect(server.smtp());
        fresh.expect(220);
        clients.push(fresh);
        server.signal(signal);
        for mut client in clients {
            let last = client.expect(421);
            assert!(last.lines[0].starts_with("421 4.3.2 "), "{}", last.text());
            client.ended();
        }
        assert!(server.wait().success(), "{signal:?}");
    }
}

#[test]
fn a_session_that_does_not_finish_is_cut_off_at_the_drain_deadline() {
    let mut server = Server::start(Settings::default().set("server", "drain_timeout = \"300ms\""));
    let mut client = Client::hello(server.smtp());
    client.begin("a@example.org", &["alice@example.com"]);
    client.send(b"Subject: never ends\r\n");
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    let last = client.try_reply().expect("an orderly end");
    assert!(last.is_none_or(|reply| reply.code == 421));
    assert_eq!(server.maildir("example.com/alice").count(), 0);
}

/// Whoever sends it does not want to wait for the drain.
#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.begin("a@example.org", &["alice@example.com"]);
    server.signal(Signal::TERM);
    server.wait_for_line("stopping", |_| true);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(1), "a stop that was cut short is no success");
    assert!(server.errors().contains("second signal"), "{}", server.errors());
}

/// What a supervisor does after a crash. The kernel takes a moment to close the sockets of a killed io_uring.
#[test]
fn a_restart_right_after_kill_9_gets_its_port() {
    let mut server = Server::start(Settings::default().cores(2));
    for _ in 0..10 {
        server.kill();
        server.start_again_at_once();
    }
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("after", "x\r\n"));
    server.maildir("example.com/alice").only();
}

#[test]
fn ready_means_that_mail_is_taken() {
    let mut server = Server::start(Settings::default());
    assert_eq!(server.get("/livez"), (200, "ok\n".to_owned()));
    let (status, body) = server.get("/readyz");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["state"]), (200, &"ready".into()), "{body}");
    assert_eq!(server.get("/nothing").0, 404);
    for _ in 0..10 {
        server.stop();
        server.start_unchecked();
        wait_until("ready", || server.answers_ready());
        let mut client = Client::connect(server.smtp());
        client.expect(220);
        client.quit();
    }
}

/// A client that says nothing, one that went away, one in the middle of a TLS handshake: none holds up the stop.
#[test]
fn odd_connections_do_not_hold_up_the_stop() {
    let settings = Settings::default().listener("mx", "starttls").listener("mxs", "implicit");
    let mut server = Server::start(settings.set("server", "drain_timeout = \"500ms\""));
    let mut silent = TcpStream::connect(server.home.smtp[1]).expect("connects");
    let mut handshake = Client::hello(server.smtp());
    handshake.say("STARTTLS", 220);
    let mut gone = Client::hello(server.smtp());
    gone.begin("a@example.org", &["alice@example.com"]);
    reset(gone.into_stream());
    server.wait_for_metric("ringpost_messages_in_flight", 0);
    server.stop();
    let mut rest = Vec::new();
    // Whether it ends in order or not: nobody is left to keep it. An alert of TLS may come first, and nothing else.
    let _ = silent.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest[0] == TLS_ALERT, "{rest:?}");
}

#[test]
fn mail_accepted_before_the_stop_is_delivered_by_the_next_start() {
    let mut server = Server::start(Settings::default());
    server.block("example.com");
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("kept", "x\r\n"));
    server.stop();
    assert_eq!(server.maildir("example.com/alice").count(), 0);
    server.unblock("example.com");
    server.start_again();
    assert_eq!(server.maildir("example.com/alice").only().sent(), message("kept", "x\r\n"));
}
