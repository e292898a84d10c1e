//! A real Debian Dovecot as the target of kind `lmtp`.

use crate::support::dovecot::Dovecot;
use crate::support::queue::{SENDERS, hasty, in_state, queue, reports, target};
use crate::support::report::Report;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;

const USERS: [&str; 3] = ["alice@example.com", "bob@example.com", "carol@example.net"];

/// A size that goes into a body file.
const LARGE: usize = 600_000;

/// Mail for example.com goes to the Dovecot over its unix socket, mail for example.net over TCP.
fn to(dovecot: &Dovecot, lines: &[&str]) -> Settings {
    let hosts = [("unix", format!("unix:{}", dovecot.socket().display())), ("tcp", dovecot.address.to_string())];
    let settings = hosts.into_iter().fold(hasty(), |settings, (name, host)| {
        let hosts = format!("hosts = [\"{host}\"]");
        settings.target(name, "lmtp", &[&[hosts.as_str()], lines].concat())
    });
    settings.domain_to("example.com", "\"unix\"", &[]).domain_to("example.net", "\"tcp\"", &[])
}

#[test]
fn a_real_dovecot_stores_byte_for_byte() {
    let dovecot = Dovecot::start(&USERS);
    let server = Server::start(to(&dovecot, &[]));
    let odd = ".\r\n..\r\n.leading\r\n\r\n.\r\n".to_owned();
    let wide = format!("{}\r\ngrün und blau\r\n", "x".repeat(998));
    let bodies = [odd, String::new(), wide, lines(1, 3_000), lines(2, LARGE)];
    let sent: Vec<Vec<u8>> = (0..).zip(bodies).map(|(number, body)| message(&format!("m{number}"), &body)).collect();
    let mut client = Client::hello(server.smtp());
    for message in &sent {
        client.say("MAIL FROM:<a@sender.example> BODY=8BITMIME", 250);
        client.say("RCPT TO:<alice@example.com>", 250);
        client.say("RCPT TO:<carol+lists@example.net>", 250);
        client.say("DATA", 354);
        assert_eq!(client.content(message).code, 250);
    }
    for (user, to) in [("alice@example.com", "alice@example.com"), ("carol@example.net", "carol+lists@example.net")] {
        let stored = dovecot.maildir(user).wait_for(sent.len());
        for sent in &sent {
            let found = stored.iter().filter(|stored| stored.sent().ends_with(sent));
            let [stored] = &found.collect::<Vec<_>>()[..] else {
                panic!("{user}: {} bytes not there once", sent.len())
            };
            // Dovecot's own fields, then our trace, then what was sent, and not a byte between.
            let own = stored.trace();
            assert!(own.contains("Return-Path: <a@sender.example>\r\n"), "{own}");
            assert!(own.contains(&format!("Delivered-To: {to}\r\n")), "{own}");
            assert!(
                own.contains("Received: from mx.example.com") && own.contains("\tby store.example.com with LMTP"),
                "{own}"
            );
            let ours = String::from_utf8_lossy(&stored.sent()[..stored.sent().len() - sent.len()]).into_owned();
            assert!(ours.starts_with("Received: from client.example.org ") && ours.ends_with("\r\n"), "{ours}");
            assert!(
                ours.contains("\tby mx.example.com with ESMTP")
                    && ours.matches("\r\n").count() == ours.matches("\r\n\t").count() + 1,
                "{ours}"
            );
        }
    }
    server.wait_until_delivered();
    assert_eq!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"delivered\""), 2 * sent.len() as u64);
}

/// Dovecot answers for each recipient by itself, and so does the report.
#[test]
fn dovecot_refuses_one_recipient_and_its_sender_is_told() {
    let dovecot = Dovecot::start(&USERS);
    let server = Server::start(to(&dovecot, &[]));
    let sent = message("each", "x\r\n");
    let to = ["alice@example.com", "nobody@example.com", "bob@example.com", "nobody@example.net"];
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &to, &sent);
    for user in ["alice@example.com", "bob@example.com"] {
        assert!(dovecot.maildir(user).only().bytes.ends_with(&sent), "{user}");
    }
    // The two targets answer at their own times, so each has a report of its own.
    let reports = reports(&server, "a", 2);
    for address in ["nobody@example.com", "nobody@example.net"] {
        let about = |report: &&Report| report.recipients[0]["final-recipient"].ends_with(address);
        let report = reports.iter().find(about).unwrap_or_else(|| panic!("no report about {address}"));
        report.says(address, "failed", "5.1.1", "smtp; 550 ");
        assert_eq!((report.recipients.len(), report.about["reporting-mta"].as_str()), (1, "dns; mx.example.com"));
        assert!(report.contains(b"Subject: each\r\n") && !report.contains(b"\r\nx\r\n"));
    }
    assert_eq!(reports[0].field("To"), "a@sender.example");
    server.wait_for_line("delivered", |line| line["id"] == id.as_str());
    server.wait_until_delivered();
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"failed\""), 2);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"deferred\""), 0);
    assert_eq!(metrics.sum("ringpost_reports_total", "kind=\"failure\""), 2);
}

#[test]
fn dovecot_stops_and_is_left_alone_and_gets_all_when_it_is_back() {
    let mut dovecot = Dovecot::start(&USERS);
    let lines = ["breaker_failures = 2", "breaker_pause = \"300ms\"", "breaker_pause_max = \"600ms\""];
    let server = Server::start(to(&dovecot, &lines).cores(2));
    let mut client = Client::hello(server.smtp());
    client.deliver("a@sender.example", &["alice@example.com"], &message("before", "x\r\n"));
    dovecot.maildir("alice@example.com").only();
    dovecot.stop();
    let ids: Vec<String> = (0..20)
        .map(|number| {
            client.deliver("a@sender.example", &["alice@example.com"], &message(&format!("during{number}"), "x\r\n"))
        })
        .collect();
    wait_until("the breaker is open", || target(&server, "unix")["breaker"] == "open");
    let metrics = server.metrics();
    assert!(metrics.total("ringpost_breakers_opened_total") >= 1);
    assert!(metrics.sum("ringpost_hop_connections_total", "outcome=\"failed\"") >= 2);
    server.wait_for_line("target left alone for a while because it failed", |line| line["destination"] == "unix");
    let status = target(&server, "unix");
    assert_eq!((&status["in_use"], &status["concurrency"]), (&0.into(), &20.into()), "{status:#}");
    let error = status["last_error"]["text"].as_str().unwrap_or_default();
    assert!(error.contains("lmtp"), "the socket is named: {status:#}");
    assert_eq!(queue(&server, &["status"])["messages"], 20);
    // Others are not held up.
    client.deliver("", &[&format!("a@{SENDERS}")], &message("meanwhile", "x\r\n"));
    server.maildir(&format!("{SENDERS}/a")).only();
    assert_eq!(in_state(&server, "dead"), 0);
    dovecot.start_again();
    dovecot.maildir("alice@example.com").wait_for(1 + ids.len());
    server.wait_until_delivered();
    server.wait_for_metric("ringpost_breakers_open", 0);
    assert_eq!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"failed\""), 0);
}

/// The mailbox is over its quota, or the like: what Dovecot says for now is no failure of the target.
#[test]
fn what_dovecot_puts_off_comes_again() {
    let dovecot = Dovecot::start(&USERS);
    let server = Server::start(to(&dovecot, &["breaker_failures = 1"]));
    let home = dovecot.maildir("bob@example.com").0;
    let parent = home.parent().expect("a parent");
    // A file stands where the user's home is to be.
    std::fs::write(parent, "in the way").expect("written");
    let sent = message("later", "x\r\n");
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &["alice@example.com", "bob@example.com"], &sent);
    dovecot.maildir("alice@example.com").only();
    let line = server.wait_for_line("delivery deferred", |line| line["id"] == id.as_str());
    assert_eq!((&line["recipient"], &line["code"]), (&"bob@example.com".into(), &451.into()), "{line}");
    wait_until("the target works all the same", || target(&server, "unix")["breaker"] == "closed");
    std::fs::remove_file(parent).expect("removed");
    assert!(dovecot.maildir("bob@example.com").only().bytes.ends_with(&sent));
    server.wait_until_delivered();
    assert_eq!(dovecot.maildir("alice@example.com").count(), 1);
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 0, "nobody is told");
}
