//! What the log leaves out by rule: addresses, lines of modules that nobody wants to hear of, and most of a flood. And what it
//! never leaves out.

use crate::support::presented::XCLIENT;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;
use serde_json::Value;
use std::collections::BTreeMap;

/// What must not show of the session that [`hidden_session`] makes.
const HIDDEN: [&str; 6] = ["alice", "nobody", "192.0.2.77", "2.77", "dyn-77", "o'brien"];

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// A session of a client elsewhere with a message taken, a recipient refused, and one whose mail waits, since its next hop says
/// who it is for as it refuses; gives the id of the message.
fn hidden_session(server: &Server) -> String {
    let mut client = Client::hello(server.smtp());
    client.say("XCLIENT ADDR=192.0.2.77 NAME=dyn-77.pool.example.net", 220);
    client.say("EHLO dyn-77.pool.example.net", 250);
    client.say("MAIL FROM:<Alice@example.org>", 250);
    client.say("RCPT TO:<nobody@elsewhere.example>", 550);
    client.say("RCPT TO:<o'brien@example.com>", 250);
    client.say("DATA", 354);
    let id = crate::support::smtp::queued_id(&client.content(&message("hidden", "x\r\n")));
    client.quit();
    id
}

/// The lines that tell of a session, once it has been delivered for.
fn lines_of(server: &Server, id: &str) -> Vec<Value> {
    let delivered = server.wait_for_line("delivered", |line| line["id"] == id);
    let session = text(&delivered, "session").to_owned();
    server.log().into_iter().filter(|line| line["session"] == session.as_str()).collect()
}

fn named<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("no {message:?} in {lines:#?}"))
}

#[test]
fn addresses_show_as_the_rules_let_them() {
    let settings = Settings::default().listener_line(XCLIENT).set("log", "level = \"debug\"");
    let mut server = Server::start(settings.set("log", "redact = [\"mail\", \"client\"]"));
    let (first, second) = (hidden_session(&server), hidden_session(&server));
    let (first, second) = (lines_of(&server, &first), lines_of(&server, &second));
    let so_far = server.log_text();
    for hidden in HIDDEN {
        assert!(!so_far.to_lowercase().contains(hidden), "{hidden} is in the log");
    }
    let accepted = named(&first, "accepted");
    assert_eq!(text(accepted, "peer"), "192.0.2.0/24");
    assert_eq!(text(accepted, "message_id"), "hidden@example.org");
    for (key, domain) in [("from", "@example.org"), ("to", "@example.com"), ("helo", ".example.net")] {
        let value = text(accepted, key);
        assert!(value.starts_with('~') && value.ends_with(domain), "{key}: {value}");
        assert_eq!(value, text(named(&second, "accepted"), key), "the same address looks the same");
    }
    let refused = named(&first, "recipient refused");
    assert!(text(refused, "recipient").ends_with("@elsewhere.example"), "{refused}");
    assert_eq!(text(refused, "peer"), "192.0.2.0/24");

    server.reconfigure(|settings| settings.set("log", "redact = [\"client\"]"));
    assert!(server.tell(&["reload"]).ok().out.contains("changed: log.redact"));
    let id = hidden_session(&server);
    let lines = lines_of(&server, &id);
    let accepted = named(&lines, "accepted");
    assert_eq!((text(accepted, "from"), text(accepted, "peer")), ("Alice@example.org", "192.0.2.0/24"));
    server.stop();
    assert!(!server.log_text().contains("192.0.2.77"));
}

/// A message taken in a session of its own; gives the lines of that session up to there.
fn session_lines(server: &Server) -> Vec<Value> {
    let mut client = Client::hello(server.smtp());
    let id = client.deliver("a@example.org", &["alice@example.com"], &message("level", "x\r\n"));
    client.quit();
    lines_of(server, &id)
}

fn levels(lines: &[Value]) -> Vec<(&str, &str)> {
    let mut levels: Vec<_> = lines.iter().map(|line| (text(line, "target"), text(line, "level"))).collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

#[test]
fn the_level_of_one_module_changes_with_a_reload() {
    let mut server = Server::start(Settings::default());
    let connected = |lines: &[Value]| lines.iter().any(|line| line["message"] == "connected");
    let before = session_lines(&server);
    assert!(!connected(&before) && levels(&before).iter().all(|(_, level)| *level == "info"), "{before:#?}");

    server.reconfigure(|settings| settings.set("log", "modules = { serve = \"debug\", deliver = \"error\" }"));
    assert!(server.tell(&["reload"]).ok().out.contains("changed: log.modules"));
    let mut client = Client::hello(server.smtp());
    let id = client.deliver("a@example.org", &["alice@example.com"], &message("level", "x\r\n"));
    client.quit();
    let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
    let session = text(&accepted, "session").to_owned();
    server.wait_for_line("connected", |line| line["session"] == session.as_str() && line["level"] == "debug");
    server.wait_for_line("disconnected", |line| line["session"] == session.as_str());
    server.maildir("example.com/alice").wait_for(2);
    server.wait_until_delivered();
    let log = server.log();
    let others: Vec<_> =
        log.iter().filter(|line| line["level"] == "debug" && text(line, "target") != "ringpost_serve::mx").collect();
    assert!(others.iter().all(|line| text(line, "target").starts_with("ringpost_serve")), "{others:#?}");

    server.reconfigure(|settings| settings.set("log", "modules = {}"));
    server.tell(&["reload"]).ok();
    let after = session_lines(&server);
    assert!(!connected(&after), "{after:#?}");
    server.stop();
    let delivered = server.log().into_iter().filter(|line| line["message"] == "delivered").count();
    assert_eq!(delivered, 2, "the second was not to be told of");
}

/// Lines of one kind that a core may write in a second, in this test.
const LIMIT: u64 = 5;

#[test]
fn a_flood_leaves_out_lines_and_says_so_and_those_of_messages_are_all_there() {
    const CONNECTIONS: usize = 120;
    const MESSAGES: usize = 30;
    let settings = Settings::default().set("limits", "connections_per_ip = 1");
    let mut server = Server::start(settings.set("log", &format!("flood = {LIMIT}")));
    let mut client = Client::hello(server.smtp());
    let mut ids = Vec::new();
    for number in 0..CONNECTIONS {
        let mut refused = Client::connect(server.smtp());
        refused.expect(421);
        if number % (CONNECTIONS / MESSAGES) == 0 {
            ids.push(client.deliver("a@example.org", &["alice@example.com"], &message("flood", "x\r\n")));
        }
    }
    client.quit();
    assert_eq!(server.metrics().total("ringpost_sessions_refused_total"), CONNECTIONS as u64);
    server.wait_until_delivered();
    let told = |lines: &[Value]| -> u64 {
        let notices = lines.iter().filter(|line| line["message"] == "lines left out");
        notices.map(|line| line["count"].as_u64().expect("a count")).sum()
    };
    // The last of it is told when its second is over.
    wait_until("all is told", || told(&server.log()) == server.metrics().total("ringpost_log_sampled_total"));
    server.stop();

    let log = server.log();
    let mut by_second: BTreeMap<&str, u64> = BTreeMap::new();
    let refused: Vec<_> = log.iter().filter(|line| line["message"] == "connection refused").collect();
    refused
        .iter()
        .for_each(|line| *by_second.entry(&text(line, "time")[.."2026-11-20T10:31:25".len()]).or_default() += 1);
    assert!(by_second.values().all(|count| *count <= LIMIT), "{by_second:?}");
    let notices = || log.iter().filter(|line| line["message"] == "lines left out");
    assert!(notices().count() > 0, "nothing was left out of {CONNECTIONS} lines");
    let left_out = notices().filter(|line| line["kind"] == "connection refused").map(|line| line["count"].as_u64());
    let left_out: u64 = left_out.map(|count| count.expect("a count")).sum();
    assert_eq!(refused.len() as u64 + left_out, CONNECTIONS as u64);
    for line in notices() {
        assert_eq!(text(line, "level"), "warn", "{line}");
        assert!(line["shard"].is_u64() && text(line, "module").starts_with("ringpost_"), "{line}");
    }
    for message in ["accepted", "delivered"] {
        let told: Vec<&str> =
            log.iter().filter(|line| line["message"] == message).map(|line| text(line, "id")).collect();
        assert!(ids.iter().all(|id| told.contains(&id.as_str())), "{message}: {} of {}", told.len(), ids.len());
    }
    assert_eq!(ids.len(), MESSAGES);
}
