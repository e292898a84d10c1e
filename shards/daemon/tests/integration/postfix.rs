//! A real Debian Postfix that relays to the server, over STARTTLS and with pipelining.

use crate::support::postfix::Postfix;
use crate::support::programs::{program, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// By the subject, the body as it was sent.
fn expected() -> Vec<(String, String)> {
    let odd = ".\r\n..\r\n.leading\r\n\r\n.\r\n".to_owned();
    let mut all = vec![("dots".to_owned(), odd), ("empty".to_owned(), String::new())];
    all.extend((0..10).map(|n| (format!("lines-{n}"), lines(n, 500 << n))));
    all
}

#[test]
fn a_real_postfix_relays_byte_for_byte() {
    let server = Server::start(Settings::default().cores(2));
    let postfix = Postfix::start(server.smtp(), "");
    let sent = expected();
    let mut client = Client::hello(postfix.smtp);
    for (subject, body) in &sent {
        client.begin("a@example.org", &["alice@example.com"]);
        assert_eq!(client.content(&message(subject, body)).code, 250, "{subject}");
    }
    drop(client);
    let delivered = server.maildir("example.com/alice").wait_for(sent.len());
    for (subject, body) in &sent {
        let header = format!("\r\nSubject: {subject}\r\n");
        let fits = |bytes: &[u8]| bytes.windows(header.len()).any(|window| window == header.as_bytes());
        let found = delivered.iter().find(|message| fits(&message.bytes));
        let found = found.unwrap_or_else(|| panic!("{subject} did not arrive"));
        assert!(found.body() == body.as_bytes(), "{subject}: the body is another");
        let trace = found.trace();
        assert!(trace.contains("Received: from postfix.example.net ([127.0.0.1])"), "{trace}");
        assert!(trace.contains("with ESMTPS\r\n\t(version=TLSv1.3 "), "{trace}");
    }
}

#[test]
fn a_real_postfix_relays_a_stream_of_messages() {
    let server = Server::start(Settings::default().cores(2));
    let postfix = Postfix::start(server.smtp(), "");
    let mut command = Command::new(program("smtp-source", "postfix"));
    command.args(["-s", "10", "-m", "200", "-l", "3000", "-f", "a@example.org", "-t", "bob@example.com"]);
    run(command.arg(postfix.smtp.to_string()), "").ok();
    let delivered = server.maildir("example.com/bob").wait_for(200);
    let first = delivered[0].body();
    assert!(first.len() > 2000 && delivered.iter().all(|message| message.body() == first));
    let queued: [PathBuf; 3] = ["incoming", "active", "deferred"].map(|queue| postfix.home().join("queue").join(queue));
    let is_empty = |path: &PathBuf| fs::read_dir(path).is_ok_and(|entries| entries.count() == 0);
    wait_until("Postfix has nothing left", || queued.iter().all(is_empty));
    let log = postfix.log();
    assert_eq!(log.matches("status=sent (250 2.0.0 queued as ").count(), 200, "{log}");
    assert!(log.contains("TLS connection established to"), "{log}");
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), 200);
    let handshakes = metrics.total("ringpost_tls_handshakes_total");
    assert_eq!(handshakes, metrics.total("ringpost_sessions_opened_total"), "every session is encrypted");
}
