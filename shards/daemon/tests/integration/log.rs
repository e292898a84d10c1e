//! Standard output: one JSON object a line, whatever clients say.

use crate::support::net::reset;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use serde_json::Value;

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}"))
}

#[test]
fn accepted_and_delivered_lines_tell_session_and_message() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut client = Client::hello(server.smtp());
    let sent = message("logged", "x\r\n");
    let ids: Vec<String> =
        (0..3).map(|_| client.deliver("a@example.org", &["alice@example.com", "bob@example.com"], &sent)).collect();
    let refusal = client.say("WRONG", 500);
    let session = refusal.lines[0].rsplit_once('[').and_then(|(_, id)| id.strip_suffix(']')).expect("a session id");
    client.say("QUIT", 221);
    for id in &ids {
        let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
        for (key, value) in [
            ("session", session),
            ("level", "info"),
            ("peer", "127.0.0.1"),
            ("helo", "client.example.org"),
            ("from", "a@example.org"),
            ("to", "alice@example.com"),
            ("message_id", "logged@example.org"),
            ("durability", "fsync"),
        ] {
            assert_eq!(text(&accepted, key), value, "{accepted}");
        }
        assert_eq!((&accepted["recipients"], &accepted["bytes"]), (&2.into(), &sent.len().into()), "{accepted}");
        let delivered = server.wait_for_line("delivered", |line| line["id"] == id.as_str());
        assert_eq!(text(&delivered, "session"), session);
        assert!(delivered["delay_ms"].is_u64() && delivered["shard"].is_u64(), "{delivered}");
    }
    server.stop();
    let lines = server.log();
    assert!(server.log_text().ends_with('\n'));
    for line in &lines {
        for key in ["time", "level", "target", "message"] {
            assert!(!text(line, key).is_empty(), "{line}");
        }
    }
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
    assert_eq!((of("accepted"), of("delivered"), of("ready"), of("shutdown_complete")), (3, 3, 1, 1));
    assert_eq!(server.errors(), "");
}

/// What a client would like to have in the log.
const FORGED: [&str; 6] = [
    r#"a","level":"error","message":"forged"#,
    r#"a"}{"message":"forged"}"#,
    r"a\u000a{\u0022message\u0022:\u0022forged\u0022}",
    r#"\"},{\"message\":\"forged\"}\"#,
    "\u{2028}{\"message\":\"forged\"}\u{85}x",
    "\u{202e}forged\u{feff}",
];

#[test]
fn hostile_names_and_addresses_forge_no_line() {
    let mut server = Server::start(Settings::default().set("log", "level = \"debug\""));
    for forged in FORGED {
        let mut client = Client::connect(server.smtp());
        client.expect(220);
        let helo = forged.replace(' ', "");
        client.send(format!("EHLO {helo}\r\n").as_bytes());
        // A control character of Unicode (U+0085) is one all the same.
        let said = if client.reply().code == 250 { helo.clone() } else { "plain.example".to_owned() };
        client.say(&format!("EHLO {said}"), 250);
        let local = forged.replace('\\', "\\\\").replace('"', "\\\"").replace('\u{85}', "");
        client.say(&format!("MAIL FROM:<\"{local}\"@example.org> SMTPUTF8"), 250);
        client.say(&format!("RCPT TO:<\"{local}\"@example.org>"), 550);
        client.say(&format!("RCPT TO:<\"{local}\"@example.com>"), 250);
        client.say("DATA", 354);
        let content = format!("Message-ID: <{forged}@example.org>\r\n\r\nx\r\n").replace('\u{85}', "");
        assert_eq!(client.content(content.as_bytes()).code, 250);
        client.quit();
        let line = server.wait_for_line("accepted", |line| line["helo"] == said.as_str());
        assert_eq!(text(&line, "from"), format!("\"{local}\"@example.org"));
        server.wait_for_line("recipient refused", |line| line["recipient"] == format!("\"{local}\"@example.org"));
    }
    for line in ["EHLO a\u{7}b", "EHLO a\u{1b}[31mb", "EHLO a\0b", "EHLO a\rb", "MAIL FROM:<\"a\u{b}\"@example.org>"] {
        Client::hello(server.smtp()).say(line, 500);
    }
    server.stop();
    let lines = server.log();
    assert!(lines.len() > 4 * FORGED.len());
    assert!(lines.iter().all(|line| line["message"] != "forged" && line.get("level") != Some(&"error".into())));
    // Nothing that a terminal would act on, and no line end but ours.
    let raw = server.log_text();
    assert!(!raw.chars().any(|c| c.is_control() && c != '\n'), "a control character is in the log");
}

#[test]
fn sessions_that_fail_are_told_in_the_log() {
    let mut server = Server::start(Settings::default().set("log", "level = \"debug\""));
    let mut client = Client::hello(server.smtp());
    client.begin("a@example.org", &["alice@example.com"]);
    reset(client.into_stream());
    server.wait_for_line("disconnected", |line| line["how"] == "peer");
    let mut client = Client::hello(server.smtp());
    client.say("STARTTLS", 220);
    client.send(b"this is no handshake\r\n");
    server.wait_for_line("TLS handshake failed", |line| line["session"].is_string());
    let mut client = Client::hello(server.smtp());
    client.begin("a@example.org", &["alice@example.com"]);
    client.send(b"a\nb\r\n.\r\n");
    client.expect(550);
    server.wait_for_line("message refused", |line| line["peer"] == "127.0.0.1");
    drop(client);
    server.stop();
}

#[test]
fn text_is_for_people() {
    let mut server = Server::start(Settings::default().set("log", "format = \"text\""));
    let id = Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("text", "x\r\n"));
    server.maildir("example.com/alice").only();
    server.stop();
    let text = server.log_text();
    let line = text.lines().find(|line| line.contains("accepted") && line.contains(&id));
    assert!(line.is_some_and(|line| line.contains("a@example.org")), "{text}");
    assert!(!text.contains('\u{1b}'), "colours in a file: {text}");
}
