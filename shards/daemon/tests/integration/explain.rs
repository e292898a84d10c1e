//! `ringpost explain`: what was decided in a session, by which rule, and from what.

use crate::support::net::client_address;
use crate::support::programs::Finished;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, Reply, session_id};
use crate::support::text::{lines, message};
use serde_json::Value;

/// The story of a session as JSON.
fn story(server: &Server, id: &str) -> Value {
    let out = server.tell(&["explain", id, "--json"]).ok().out;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// An input of a step, as text.
fn input(step: &Value, name: &str) -> Option<String> {
    let inputs = step["inputs"].as_array().expect("inputs");
    let found = inputs.iter().find(|input| input[0] == name)?;
    Some(found[1].as_str().map_or_else(|| found[1].to_string(), str::to_owned))
}

/// A refusal, and what explains it.
struct Refusal {
    /// What it is, for who reads a failure.
    name: &'static str,
    settings: fn(Settings) -> Settings,
    /// Gets itself refused; gives the reply.
    provoke: fn(&Server) -> Reply,
    stage: &'static str,
    rule: &'static str,
    /// An input, and what it is.
    input: (&'static str, &'static str),
}

fn client(server: &Server) -> Client {
    Client::hello_from(client_address(0, 1), server.smtp())
}

/// Says a line whose reply must refuse.
fn refused(client: &mut Client, line: &str) -> Reply {
    client.send(format!("{line}\r\n").as_bytes());
    let reply = client.reply();
    assert!(reply.code >= 400, "{}", reply.text());
    reply
}

fn with_mail(server: &Server) -> Client {
    let mut client = client(server);
    client.say("MAIL FROM:<a@example.org>", 250);
    client
}

/// What a body that is refused gets.
fn refused_body(server: &Server, content: &[u8]) -> Reply {
    let mut client = client(server);
    client.begin("a@example.org", &["alice@example.com"]);
    client.send(content);
    client.reply()
}

const REFUSALS: [Refusal; 15] = [
    Refusal {
        name: "unknown recipient",
        settings: |settings| settings,
        provoke: |server| refused(&mut with_mail(server), "RCPT TO:<nobody@example.net>"),
        stage: "rcpt",
        rule: "domain[example.net].recipients",
        input: ("to", "nobody@example.net"),
    },
    Refusal {
        name: "relaying",
        settings: |settings| settings,
        provoke: |server| refused(&mut with_mail(server), "RCPT TO:<a@elsewhere.example>"),
        stage: "rcpt",
        rule: "domain",
        input: ("to", "a@elsewhere.example"),
    },
    Refusal {
        name: "TLS of a domain",
        settings: |settings| settings.domain_line("tls_required = true"),
        provoke: |server| refused(&mut with_mail(server), "RCPT TO:<bob@example.net>"),
        stage: "rcpt",
        rule: "domain[example.net].tls_required",
        input: ("to", "bob@example.net"),
    },
    Refusal {
        name: "connections",
        settings: |settings| settings.set("limits", "connections_per_network = 1"),
        provoke: |server| {
            let _holds = client(server);
            Client::connect_from(client_address(0, 2), server.smtp()).reply()
        },
        stage: "connect",
        rule: "limits.connections_per_network",
        input: ("address", "127.1.0.2"),
    },
    Refusal {
        name: "connections of a core",
        settings: |settings| settings.set("cores.limits", "connections = 1"),
        provoke: |server| {
            let _holds = client(server);
            // Of two cores the one that has a connection already refuses.
            Client::connect_from(client_address(0, 2), server.smtp()).reply()
        },
        stage: "connect",
        rule: "limits.connections",
        input: ("address", "127.1.0.2"),
    },
    Refusal {
        name: "messages",
        settings: |settings| settings.set("limits", "messages_per_ip = 1"),
        provoke: |server| {
            let mut client = with_mail(server);
            client.say("RSET", 250);
            refused(&mut client, "MAIL FROM:<second@example.org>")
        },
        stage: "mail",
        rule: "limits.messages_per_ip",
        input: ("from", "second@example.org"),
    },
    Refusal {
        name: "recipients",
        settings: |settings| settings.set("limits", "recipients_per_network = 1"),
        provoke: |server| {
            let mut client = with_mail(server);
            client.say("RCPT TO:<alice@example.com>", 250);
            refused(&mut client, "RCPT TO:<carol@example.com>")
        },
        stage: "rcpt",
        rule: "limits.recipients_per_network",
        input: ("to", "carol@example.com"),
    },
    Refusal {
        name: "bytes",
        settings: |settings| settings.set("limits", "bytes_per_ip = 100"),
        provoke: |server| {
            let mut client = client(server);
            client.deliver("a@example.org", &["alice@example.com"], &message("over", &lines(1, 2000)));
            refused(&mut client, "MAIL FROM:<a@example.org> SIZE=77")
        },
        stage: "mail",
        rule: "limits.bytes_per_ip",
        input: ("declared_bytes", "77"),
    },
    Refusal {
        name: "messages in flight",
        settings: |settings| settings.set("cores.limits", "messages_in_flight = 1"),
        provoke: |server| {
            let _holds = with_mail(server);
            refused(&mut client(server), "MAIL FROM:<a@example.org>")
        },
        stage: "mail",
        rule: "cores.limits.messages_in_flight",
        input: ("from", "a@example.org"),
    },
    Refusal {
        name: "a ban by the operator",
        settings: |settings| settings,
        provoke: |server| {
            server.tell(&["ban", "add", "127.1.0.0/24", "--reason", "spam run"]).ok();
            Client::connect_from(client_address(0, 1), server.smtp()).reply()
        },
        stage: "ban",
        rule: "operator",
        input: ("reason", "spam run"),
    },
    Refusal {
        name: "a message too large",
        settings: |settings| settings.set("limits", "message_size = \"64KiB\""),
        provoke: |server| refused_body(server, format!("{}.\r\n", "x\r\n".repeat(30_000)).as_bytes()),
        stage: "message",
        rule: "limits.message_size",
        input: ("id", ""),
    },
    Refusal {
        name: "a bare newline",
        settings: |settings| settings,
        provoke: |server| refused_body(server, b"bare\nnewline\r\n.\r\n"),
        stage: "message",
        rule: "smtp.bare_newline",
        input: ("id", ""),
    },
    Refusal {
        name: "a loop",
        settings: |settings| settings.set("limits", "hops = 2"),
        provoke: |server| refused_body(server, format!("{}\r\nx\r\n.\r\n", "Received: x\r\n".repeat(3)).as_bytes()),
        stage: "message",
        rule: "limits.hops",
        input: ("id", ""),
    },
    Refusal {
        name: "errors",
        settings: |settings| settings.set("limits", "errors_per_session = 2"),
        provoke: |server| {
            let mut client = client(server);
            client.say("WRONG", 500);
            client.say("WRONG", 500);
            client.expect(421)
        },
        stage: "limit",
        rule: "limits.errors_per_session",
        input: ("", ""),
    },
    Refusal {
        name: "a silent client",
        settings: |settings| settings.set("limits", "command_timeout = \"1s\""),
        provoke: |server| client(server).expect(421),
        stage: "close",
        rule: "limits.command_timeout",
        input: ("how", "timeout"),
    },
];

/// The id of the reply leads to the step that refused, with its rule and what it was judged by.
#[test]
fn a_refusal_is_explained_by_its_id() {
    for Refusal { name, settings, provoke, stage, rule, input: (wanted, value) } in REFUSALS {
        let base = Settings::default().cores(2).domain("example.com", "\"any\"", "mail/{address}");
        let server = Server::start(settings(base.domain("example.net", "[\"bob\"]", "mail/{address}")));
        let reply = provoke(&server);
        let id = session_id(&reply);
        let told = story(&server, &id);
        assert_eq!((&told["session"], &told["complete"]), (&id.as_str().into(), &true.into()), "{name}: {told}");
        let steps = told["steps"].as_array().expect("steps");
        let step = steps.iter().find(|step| step["rule"] == rule && step["stage"] == stage);
        let step = step.unwrap_or_else(|| panic!("{name}: no {stage} by {rule} in {told:#}"));
        assert_eq!(step["outcome"], reply.code, "{name}: {step}");
        assert!(step["took_us"].is_u64() && step["at"].is_string(), "{name}: {step}");
        if !wanted.is_empty() {
            let known = input(step, wanted).unwrap_or_else(|| panic!("{name}: no {wanted} in {step}"));
            assert!(known == value || value.is_empty(), "{name}: {wanted} is {known}");
        }
        // For people the same in a table.
        let text = server.tell(&["explain", &format!("[{id}]")]).ok().out;
        assert!(text.starts_with(&format!("session {id} on shard {}", told["shard"])), "{name}: {text}");
        let row = text.lines().find(|line| line.contains(&format!(" {stage} ")) && line.contains(rule));
        assert!(row.is_some_and(|row| row.contains(&reply.code.to_string())), "{name}: {text}");
    }
}

/// From connecting to the end, in order, each with its time.
#[test]
fn a_session_is_told_from_its_beginning_to_its_end() {
    let server = Server::start(Settings::default().cores(2));
    let mut client = client(&server);
    client.say("WRONG", 500);
    let id = client.deliver("a@example.org", &["alice@example.com"], &message("told", "x\r\n"));
    client.say("MAIL FROM:<b@example.org>", 250);
    let session = session_id(&client.say("QUIT", 221));
    client.ended();
    server.wait_for_rest();
    let told = story(&server, &session);
    let steps = told["steps"].as_array().expect("steps");
    let stages: Vec<&str> = steps.iter().filter_map(|step| step["stage"].as_str()).collect();
    let wanted = ["connect", "banner", "helo", "command", "mail", "rcpt", "message", "commit", "mail", "close"];
    assert_eq!(stages, wanted, "{told:#}");
    // Times have no zeros at their end, so that without the Z the text sorts as the moment does.
    let times: Vec<&str> = steps.iter().filter_map(|step| step["at"].as_str()?.strip_suffix('Z')).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(input(&steps[0], "address").as_deref(), Some("127.1.0.1"));
    assert_eq!(input(&steps[0], "peer").as_deref(), Some("127.1.0.1"));
    assert_eq!(input(&steps[2], "name").as_deref(), Some("client.example.org"));
    assert_eq!(input(&steps[7], "id").as_deref(), Some(id.as_str()));
    // The message leads to the same.
    let by_message = story(&server, &id);
    assert_eq!((&by_message["session"], &by_message["message"]), (&session.as_str().into(), &id.as_str().into()));
    assert_eq!(by_message["steps"], told["steps"]);
    let text = server.tell(&["explain", &id.to_lowercase()]).ok().out;
    assert!(text.starts_with(&format!("session {session} on shard ")) && text.contains(&id), "{text}");
}

/// Sessions of every core are found, without naming the core.
#[test]
fn sessions_of_all_cores_are_found() {
    let server = Server::start(Settings::default().cores(2).listener_line("steer = false"));
    let mut shards = Vec::new();
    for _ in 0..20 {
        let reply = Client::hello(server.smtp()).say("WRONG", 500);
        let told = story(&server, &session_id(&reply));
        shards.push(told["shard"].as_u64().expect("a number"));
    }
    assert!(shards.contains(&0) && shards.contains(&1), "{shards:?}");
}

/// An id that must not be known, with these words of why.
#[track_caller]
fn check_unknown(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    assert!(finished.out.is_empty() && finished.err.starts_with("ringpost: "), "{}", finished.all());
    words.iter().for_each(|word| assert!(finished.err.contains(word), "no {word:?} in {}", finished.err));
}

#[test]
fn ids_that_nothing_is_known_of_are_told() {
    let server = Server::start(Settings::default().cores(2));
    Client::hello(server.smtp()).quit();
    for id in ["6P01GGM06A0FQ", "01JD4VXK2Q000000020000000A"] {
        check_unknown(&server.tell(&["explain", id]), &["nothing is known of", id, "explain.memory"]);
    }
    for id in ["6P01GGM06A0F", "alice@example.com", ""] {
        let finished = server.tell(&["explain", id]);
        assert_eq!(finished.status.code(), Some(2), "{}", finished.all());
    }
}

/// What is kept is bounded: the oldest is forgotten, and how far back it reaches is told.
#[test]
fn old_sessions_are_forgotten() {
    let server = Server::start(Settings::default().set("explain", "memory = \"64KiB\""));
    let first = session_id(&Client::hello(server.smtp()).say("WRONG", 500));
    assert_eq!(story(&server, &first)["complete"], true);
    let mut long = Client::hello(server.smtp());
    let spanning = session_id(&long.say("WRONG", 500));
    for _ in 0..400 {
        let mut client = Client::hello(server.smtp());
        client.deliver("a@example.org", &["alice@example.com"], &message("fills", "x\r\n"));
        client.quit();
    }
    check_unknown(&server.tell(&["explain", &first]), &["nothing is known of", "The trail reaches back to 2"]);
    long.deliver("a@example.org", &["alice@example.com"], &message("last", "x\r\n"));
    let told = story(&server, &spanning);
    assert_eq!(told["complete"], false, "{told:#}");
    let text = server.tell(&["explain", &spanning]).ok().out;
    assert!(text.contains("known from 2") && text.contains("what came before is no longer remembered"), "{text}");
    let last = session_id(&Client::hello(server.smtp()).say("WRONG", 500));
    assert_eq!(story(&server, &last)["complete"], true);
}

#[test]
fn nothing_is_kept_where_there_is_no_memory_for_it() {
    let mut server = Server::start(Settings::default().cores(2).set("explain", "memory = 0"));
    let before = session_id(&Client::hello(server.smtp()).say("WRONG", 500));
    check_unknown(&server.tell(&["explain", &before]), &["explain.memory is 0"]);
    server.reconfigure(|settings| settings.set("explain", "memory = \"1MiB\""));
    server.tell(&["reload"]).ok();
    check_unknown(&server.tell(&["explain", &before]), &["nothing is known of"]);
    let after = session_id(&Client::hello(server.smtp()).say("WRONG", 500));
    assert_eq!(story(&server, &after)["complete"], true);
}

/// What strangers say is shown so that it can't play with the terminal.
#[test]
fn what_strangers_say_is_shown_as_text() {
    let server = Server::start(Settings::default());
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    client.say("EHLO \u{202e}gpj.exe", 250);
    client.say("MAIL FROM:<\"\u{200b} = \u{feff}\"@example.org> SMTPUTF8", 250);
    let id = session_id(&client.say("RCPT TO:<\"RULE 250\"@example.org>", 550));
    let text = server.tell(&["explain", &id]).ok().out;
    assert!(text.contains("\\u{202e}gpj.exe") && text.contains("RULE 250"), "{text}");
    assert!(!text.contains(['\u{202e}', '\u{200b}', '\u{feff}', '\u{1b}']), "{text}");
}
