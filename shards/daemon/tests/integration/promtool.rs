//! What `/metrics` says is what the real promtool calls right: on a server that has just started, and on one that has seen
//! mail, deliveries and errors of many kinds.

use crate::support::load::load;
use crate::support::programs::{program, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use std::process::Command;

/// promtool must have nothing to say.
#[track_caller]
fn check(metrics: &str) {
    let mut command = Command::new(program("promtool", "prometheus"));
    let finished = run(command.args(["check", "metrics"]), metrics);
    assert!(finished.status.success(), "{}", finished.all());
    assert_eq!(finished.err, "", "promtool complains");
}

/// The count of a stage over all shards.
fn stage(server: &Server, stage: &str) -> u64 {
    server.metrics().sum("ringpost_stage_seconds_count", &format!("stage=\"{stage}\""))
}

#[test]
fn promtool_has_nothing_to_say() {
    let settings = Settings::default().cores(2).set("queue", "retry_first = \"1s\"");
    let settings = settings.set("limits", "errors_per_session = 4");
    let server = Server::start(settings.domain("example.com", "\"any\"", "mail/{domain}/{local}").domain(
        "blocked.example",
        "\"any\"",
        "mail/{domain}/{local}",
    ));
    check(&server.get("/metrics").1);
    server.block("blocked.example");
    let mut mail = load(server.smtp(), &["--messages", "200", "--sessions", "10", "--messages-per-connection", "3"]);
    run(mail.args(["--size", "mix", "--recipients", "2", "--tls", "starttls"]), "").ok();
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@blocked.example", "bob@example.com"], &message("stuck", "x\r\n"));
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<a@elsewhere.example>", 550);
    for _ in 0..3 {
        client.say("WRONG", 500);
    }
    client.expect(421);
    server.wait_for_metric("ringpost_queue_messages", 1);
    check(&server.get("/metrics").1);
    let handshakes = server.metrics().total("ringpost_tls_handshakes_total");
    assert!(handshakes > 0 && stage(&server, "starttls") == handshakes && stage(&server, "tls") == handshakes);
}

/// Every stage of a session and of a message is measured once for each time that it was gone through.
#[test]
fn each_stage_is_counted_as_often_as_it_happened() {
    let limits = Settings::default().set("limits", "messages_per_ip = 1000");
    let server = Server::start(limits.set("greylist", "mode = \"off\""));
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    client.say("HELO client.example.org", 250);
    client.say("EHLO client.example.org", 250);
    for _ in 0..2 {
        client.deliver("a@example.org", &["alice@example.com", "bob@example.com"], &message("stages", "x\r\n"));
    }
    client.say("NOOP", 250);
    client.say("RCPT TO:<a@example.com>", 503);
    // Two messages in three writes, replies joined.
    client.send(b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n");
    for code in [250, 250, 250, 354] {
        client.expect(code);
    }
    client.send(b"x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n");
    for code in [250, 250, 250, 250, 221] {
        client.expect(code);
    }
    client.ended();
    server.wait_for_rest();
    for (name, count) in [
        ("accept", 1),
        ("tls", 0),
        ("helo", 2),
        ("mail", 4),
        ("rcpt", 6),
        ("data", 4),
        ("starttls", 0),
        // NOOP, the RCPT that came too early, RSET, QUIT.
        ("other", 4),
        ("check_limits", 4),
        ("check_screen", 0),
        ("check_greylist", 0),
        ("check_recipient", 6),
        ("body", 4),
        ("spool_wait", 4),
        ("delivery", 4),
    ] {
        assert_eq!(stage(&server, name), count, "{name}");
    }
}

/// What is asked about hosts and triplets is a stage where it is asked.
#[test]
fn checks_that_are_on_are_stages() {
    let settings = Settings::default().set("greylist", "mode = \"all\"");
    let settings = settings.set("screen", "score_reject = 10").set("screen", "weight_helo_malformed = 10");
    let server = Server::start(settings.set("screen", "weight_rdns_missing = 0"));
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@example.org>", 250);
    for recipient in ["alice", "bob"] {
        client.say(&format!("RCPT TO:<{recipient}@example.com>"), 450);
    }
    client.quit();
    for (name, count) in [("check_screen", 1), ("check_greylist", 2), ("check_recipient", 2), ("rcpt", 2)] {
        assert_eq!(stage(&server, name), count, "{name}");
    }
}
