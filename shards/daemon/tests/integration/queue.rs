//! The mail that waits, looked at and acted upon from the command line: pages, filters, orders, export, verification.

use crate::support::net::client_address;
use crate::support::programs::{Finished, run};
use crate::support::server::{BINARY, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A size that goes into a body file with [`settings`].
const LARGE: usize = 100_000;

/// Sessions, each from a network of its own, so that steering spreads them over the cores.
const SESSIONS: u8 = 20;

/// Nothing is tried again by itself.
fn settings() -> Settings {
    let settings = Settings::default().set("spool", "inline_max = \"8KiB\"");
    settings.set("queue", "retry_first = \"1h\"").set("queue", "retry_max = \"1h\"")
}

/// What a command of the queue says as JSON.
#[track_caller]
fn asked(server: &Server, arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["queue"].into_iter().chain(arguments.iter().copied()).chain(["--json"]).collect();
    let out = server.tell(&all).ok().out;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// What a command of the queue says.
#[track_caller]
fn told(server: &Server, arguments: &[&str]) -> String {
    let all: Vec<&str> = ["queue"].into_iter().chain(arguments.iter().copied()).collect();
    server.tell(&all).ok().out
}

/// A command of the queue that must be refused with this status and these words.
#[track_caller]
fn check_refused(server: &Server, arguments: &[&str], status: i32, words: &[&str]) {
    let all: Vec<&str> = ["queue"].into_iter().chain(arguments.iter().copied()).collect();
    let finished: Finished = server.tell(&all);
    assert_eq!(finished.status.code(), Some(status), "{arguments:?}: {}", finished.all());
    words.iter().for_each(|word| assert!(finished.err.contains(word), "no {word:?} in {}", finished.err));
}

/// The ids on a page.
fn ids(page: &Value) -> Vec<String> {
    let messages = page["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["id"].as_str().expect("an id").to_owned()).collect()
}

/// The ids that a filter finds.
#[track_caller]
fn found(server: &Server, filter: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["list", "--limit", "1000"];
    arguments.extend(filter);
    let page = asked(server, &arguments);
    assert_eq!(page["next"], Value::Null, "one page has them all");
    ids(&page).into_iter().collect()
}

/// Sends messages over several sessions: `send` is called with the session's number and its client, which has said EHLO.
fn in_sessions<T>(server: &Server, mut send: impl FnMut(u8, &mut Client) -> Vec<T>) -> Vec<T> {
    let mut all = Vec::new();
    for number in 0..SESSIONS {
        let mut client = Client::hello_from(client_address(number, 1), server.smtp());
        all.extend(send(number, &mut client));
        client.quit();
    }
    all
}

/// Where messages that can't be delivered have come to wait.
#[track_caller]
fn wait_for_deferred(server: &Server, count: usize) {
    server.wait_for_metric("ringpost_queue_deferred_messages", count as u64);
}

#[test]
fn pages_over_two_cores_have_every_message_once_in_order() {
    let server = Server::start(settings().cores(2));
    assert_eq!(told(&server, &["status"]), "0 messages\n");
    assert_eq!(told(&server, &["list"]), "no messages\n");
    server.block("example.com");
    let sent = in_sessions(&server, |session, client| {
        let content = |number: usize| message(&format!("m{session}-{number}"), "x\r\n");
        (0..15).map(|number| client.deliver("a@example.org", &["alice@example.com"], &content(number))).collect()
    });
    wait_for_deferred(&server, sent.len());
    let by_core = server.metrics().by_shard("ringpost_queue_messages");
    assert!(by_core.iter().all(|count| *count > 0), "not all cores have got mail: {by_core:?}");
    let sent: BTreeSet<String> = sent.into_iter().collect();
    let (mut listed, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut arguments = vec!["list", "--limit", "70"];
        arguments.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
        let page = asked(&server, &arguments);
        let on_page = ids(&page);
        assert!(on_page.len() <= 70, "{}", on_page.len());
        listed.extend(on_page);
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert!(listed.is_sorted(), "{listed:?}");
    assert_eq!((listed.len(), listed.into_iter().collect::<BTreeSet<_>>()), (sent.len(), sent.clone()));
    check_pages_typed(&server, &sent);
    let status = asked(&server, &["status"]);
    assert_eq!((&status["messages"], &status["states"]["deferred"]), (&json!(300), &json!(300)), "{status:#}");
    assert_eq!(status["silent"], json!([]));
    let total: u64 = status["targets"].as_array().expect("targets").iter().filter_map(|t| t["deferred"].as_u64()).sum();
    assert_eq!(total, 300, "{status:#}");
    let status = told(&server, &["status"]);
    assert!(status.starts_with("300 messages, the oldest for ") && status.contains("300 deferred"), "{status}");
}

/// Types what each page says is to be typed for the next.
fn check_pages_typed(server: &Server, sent: &BTreeSet<String>) {
    let mut typed = format!(
        "ringpost queue list --limit 130 --state deferred --config {}/ringpost.toml",
        server.home.path().display()
    );
    let mut seen = BTreeSet::new();
    for page in 0.. {
        assert!(page < 4, "three pages have 300 messages");
        let mut command = Command::new("sh");
        command.arg("-c").arg(typed.replacen("ringpost", BINARY, 1)).current_dir(server.home.path());
        let table = run(&mut command, "").ok().out;
        let rows = table.lines().skip(1).take_while(|line| !line.is_empty());
        seen.extend(rows.map(|row| row.split(' ').next().expect("an id").to_owned()));
        match table.lines().last().and_then(|line| line.strip_prefix("more: ")) {
            Some(next) => typed = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(&seen, sent);
}

#[test]
fn filters_find_what_they_say() {
    let settings =
        settings().cores(2).domain("example.com", "\"any\"", "mail/com").domain("example.net", "\"any\"", "mail/net");
    let server = Server::start(settings);
    server.block("com");
    server.block("net");
    let mut groups: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut client = Client::hello(server.smtp());
    for (name, from, to) in [
        ("one", "a@example.org", &["alice@example.com"][..]),
        ("two", "b@Example.ORG", &["bob@example.com"]),
        ("three", "", &["alice@example.net"]),
        ("four", "a@sub.example.org", &["alice@example.com", "bob@example.net"]),
    ] {
        for number in 0..3 {
            let id = client.deliver(from, to, &message(&format!("{name}{number}"), "x\r\n"));
            groups.entry(name).or_default().insert(id);
        }
    }
    client.quit();
    wait_for_deferred(&server, 12);
    let of = |names: &[&str]| -> BTreeSet<String> { names.iter().flat_map(|name| groups[name].clone()).collect() };
    for (filter, names) in [
        (&["--from", "a@example.org"][..], &["one"][..]),
        (&["--from", "@example.org"], &["one", "two"]),
        (&["--from", "<>"], &["three"]),
        (&["--from", "nobody@example.org"], &[]),
        (&["--to", "ALICE@example.com"], &["one", "four"]),
        (&["--to", "@example.net"], &["three", "four"]),
        (&["--to", "bob@example.net", "--from", "@sub.example.org"], &["four"]),
        (&["--target", "example.com"], &["one", "two", "four"]),
        (&["--target", "elsewhere"], &[]),
        (&["--state", "deferred"], &["one", "two", "three", "four"]),
        (&["--state", "held,dead"], &[]),
        (&["--priority", "normal"], &["one", "two", "three", "four"]),
        (&["--priority", "high"], &[]),
        (&["--older", "1h"], &[]),
        (&["--newer", "1h"], &["one", "two", "three", "four"]),
    ] {
        assert_eq!(found(&server, filter), of(names), "{filter:?}");
    }
    let table = told(&server, &["list", "--to", "bob@example.net", "--limit", "1"]);
    let row = table.lines().nth(1).expect("a row");
    for word in ["deferred", "normal", "a@sub.example.org", "alice@example.com +1", "example.com,example.net"] {
        assert!(row.contains(word), "no {word:?} in {table}");
    }
    assert!(table.lines().last().is_some_and(|line| line.contains("--to bob@example.net --config ")), "{table}");
    check_refused(&server, &["list", "--state", "lost"], 2, &["not a state"]);
    check_refused(&server, &["list", "--from", "example.org"], 2, &["not an address"]);
}

#[test]
fn a_message_is_told_whole() {
    let server = Server::start(settings());
    server.block("example.com");
    let mut client = Client::hello(server.smtp());
    let small = client.deliver("a@example.org", &["alice@example.com", "bob@example.com"], &message("small", "x\r\n"));
    let large = client.deliver("", &["alice@example.com"], &message("large", &lines(1, LARGE)));
    wait_for_deferred(&server, 2);
    let view = asked(&server, &["show", &small]);
    assert_eq!(
        (&view["id"], &view["state"], &view["from"]),
        (&json!(small), &json!("deferred"), &json!("a@example.org"))
    );
    assert_eq!((&view["kept"], &view["body_file"], &view["fault"]), (&json!("log"), &Value::Null, &Value::Null));
    assert_eq!(view["envelope"]["helo"], "client.example.org");
    let recipients = view["envelope"]["recipients"].as_array().expect("recipients");
    let addresses: Vec<&Value> = recipients.iter().map(|recipient| &recipient["address"]).collect();
    assert_eq!(addresses, [&json!("alice@example.com"), &json!("bob@example.com")]);
    let [leg] = &view["targets"].as_array().expect("targets")[..] else { panic!("{view:#}") };
    assert_eq!((&leg["attempts"], &leg["recipients"]), (&json!(1), &json!(2)), "{view:#}");
    // The longest wait, less a fifth of it at most, and what has passed.
    assert!(leg["next_seconds"].as_u64().is_some_and(|seconds| (2_800..=3_600).contains(&seconds)), "{view:#}");
    assert!(leg["last"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{view:#}");
    let text = told(&server, &["show", &small.to_lowercase(), "--headers"]);
    for words in ["to alice@example.com\n", "to bob@example.com\n", "\nSubject: small\n", "client.example.org"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(!text.contains("\nx\n"), "the body is no part of the header section: {text}");
    let view = asked(&server, &["show", &large, "--headers"]);
    assert_eq!((&view["kept"], &view["from"]), (&json!("file"), &json!("")));
    let file = view["body_file"].as_str().expect("a file");
    assert!(file.ends_with(&format!("{large}.body")) && Path::new(file).is_file(), "{file}");
    assert!(view["headers"].as_str().is_some_and(|headers| headers.contains("Subject: large\r\n")), "{view:#}");
    check_refused(&server, &["show", "01JD4VXK2Q000000020000000A"], 1, &["there is no message 01JD4VXK2Q0000000200"]);
    check_refused(&server, &["show", "6P01GGM06A0FQ"], 2, &["26 letters and digits"]);
}

/// What strangers write into an address reaches no terminal as anything but text.
#[test]
fn an_address_that_turns_the_line_around() {
    let server = Server::start(settings());
    server.block("example.com");
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<\"\u{202e}gpj\"@example.org> SMTPUTF8", 250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.say("DATA", 354);
    assert_eq!(client.content(b"Subject: \x1b]0;owned\x07\r\n\r\nx\r\n").code, 250);
    wait_for_deferred(&server, 1);
    let [id] = &found(&server, &[]).into_iter().collect::<Vec<_>>()[..] else { panic!("one message") };
    for text in [told(&server, &["list"]), told(&server, &["show", id, "--headers"])] {
        assert!(text.contains("\\u{202e}gpj"), "{text}");
        assert!(!text.contains(['\u{202e}', '\u{1b}', '\u{7}']), "{text:?}");
    }
}

#[test]
fn messages_are_held_and_released_over_restarts() {
    let mut server = Server::start(settings().cores(2));
    server.block("example.com");
    let sent = in_sessions(&server, |_, client| {
        let keep = client.deliver("keep@example.org", &["alice@example.com"], &message("keep", "x\r\n"));
        let go = client.deliver("go@example.org", &["alice@example.com"], &message("go", "x\r\n"));
        vec![(keep, go)]
    });
    let (keep, go): (BTreeSet<String>, BTreeSet<String>) = sent.into_iter().unzip();
    wait_for_deferred(&server, 40);
    assert_eq!(told(&server, &["hold", "--from", "keep@example.org"]), "20 messages held\n");
    assert_eq!(asked(&server, &["hold", "--all"])["changed"], 20, "the others");
    assert_eq!(found(&server, &["--state", "held"]), keep.union(&go).cloned().collect());
    assert_eq!(told(&server, &["release", "--from", "go@example.org"]), "20 messages released\n");
    assert_eq!(found(&server, &["--state", "held"]), keep);
    let status = server.tell(&["status"]).ok().out;
    assert!(status.contains("held messages: 20, see `ringpost queue list --state held`"), "{status}");
    server.unblock("example.com");
    server.stop();
    server.change(|settings| settings.cores(1));
    server.start_again();
    let arrived = || server.maildir("example.com/alice").count();
    wait_until("those that are not held have been delivered", || arrived() == 20);
    assert_eq!(found(&server, &[]), keep);
    let some: Vec<&str> = keep.iter().take(3).map(String::as_str).collect();
    assert_eq!(told(&server, &["release", some[0], some[1], some[2]]), "3 messages released\n");
    wait_until("what was released has been delivered", || arrived() == 23);
    server.kill();
    server.start_again();
    assert_eq!(found(&server, &["--state", "held"]).len(), 17, "a kill forgets no hold");
    assert_eq!(told(&server, &["release", "--all"]), "17 messages released\n");
    wait_until("everything has been delivered", || server.maildir("example.com/alice").count() == 40);
    server.wait_for_rest();
    check_refused(&server, &["release", some[0]], 1, &["there is no message"]);
}

#[test]
fn messages_are_tried_again_when_told_to() {
    let server = Server::start(settings());
    server.block("example.com");
    let mut client = Client::hello(server.smtp());
    let mut send =
        |number: u8| client.deliver("a@example.org", &["alice@example.com"], &message(&number.to_string(), "x\r\n"));
    let sent: Vec<String> = (0..4).map(&mut send).collect();
    client.quit();
    wait_for_deferred(&server, 4);
    assert_eq!(told(&server, &["retry", &sent[0]]), "1 message to be tried at once\n");
    let tries = || asked(&server, &["show", &sent[0]])["targets"][0]["attempts"].clone();
    wait_until("a second attempt", || tries() == 2);
    wait_for_deferred(&server, 4);
    server.unblock("example.com");
    told(&server, &["retry", &sent[0], &sent[1]]);
    server.maildir("example.com/alice").wait_for(2);
    check_refused(&server, &["retry"], 1, &["which messages?"]);
    check_refused(&server, &["retry", &sent[0], "--all"], 1, &["not several"]);
    check_refused(&server, &["retry", &sent[0], &sent[2]], 1, &["there is no message", &sent[0]]);
    told(&server, &["retry", "--all"]);
    server.maildir("example.com/alice").wait_for(4);
    server.wait_for_rest();
}

#[test]
fn mail_is_destroyed_only_when_that_is_said() {
    let mut server = Server::start(settings().cores(2));
    server.block("example.com");
    let sent = in_sessions(&server, |session, client| {
        let spam = |number: usize| message(&format!("spam{session}-{number}"), &lines(7, [100, LARGE][number % 2]));
        let mut all = vec![client.deliver("good@example.org", &["alice@example.com"], &message("good", "x\r\n"))];
        all.extend((0..4).map(|number| client.deliver("spam@example.org", &["alice@example.com"], &spam(number))));
        all
    });
    wait_for_deferred(&server, sent.len());
    let filter = ["drop", "--from", "spam@example.org"];
    check_refused(
        &server,
        &filter,
        1,
        &["80 messages would be dropped", "queue drop --from spam@example.org", "--yes"],
    );
    check_refused(&server, &["drop", "--all"], 1, &["100 messages would be dropped", "--all --yes"]);
    assert_eq!(found(&server, &[]).len(), 100);
    assert_eq!(told(&server, &["drop", "--from", "spam@example.org", "--yes"]), "80 messages dropped\n");
    let line = server.wait_for_line("order carried out", |line| line["order"] == "drop");
    assert!(
        line["subject"].as_str().is_some_and(|text| text.contains("from=spam") && text.contains("80 changed")),
        "{line}"
    );
    assert!(line["uid"].is_u64(), "{line}");
    let left = found(&server, &[]);
    assert_eq!(left.len(), 20);
    let one = left.first().expect("one");
    assert_eq!(told(&server, &["drop", one]), "1 message dropped\n");
    check_refused(&server, &["drop", one], 1, &["there is no message"]);
    assert!(body_files(&server).is_empty(), "body files go with their messages");
    server.stop();
    server.unblock("example.com");
    server.start_again();
    let arrived = server.maildir("example.com/alice").wait_for(19);
    assert!(arrived.iter().all(|message| message.bytes.windows(13).any(|part| part == b"Subject: good")));
    server.wait_for_rest();
}

/// The body files in the spool.
fn body_files(server: &Server) -> Vec<PathBuf> {
    let shards = fs::read_dir(server.home.state_dir().join("spool")).expect("a spool").flatten();
    let bodies = shards.filter_map(|shard| fs::read_dir(shard.path().join("body")).ok());
    bodies.flat_map(|entries| entries.flatten().map(|entry| entry.path())).collect()
}

#[test]
fn dead_letters_are_kept_and_come_to_life_again() {
    let quick = settings()
        .set("queue", "retry_first = \"100ms\"")
        .set("queue", "retry_max = \"100ms\"")
        .set("queue", "expire_after = \"1s\"");
    let mut server = Server::start(quick.set("queue", "delay_notice = \"0s\""));
    server.block("example.com");
    let mut client = Client::hello(server.smtp());
    // A report about a report goes to nobody.
    let dead = client.deliver("", &["alice@example.com"], &message("dead", "x\r\n"));
    client.quit();
    server.wait_for_metric("ringpost_queue_dead_messages", 1);
    assert_eq!(found(&server, &["--state", "dead"]), BTreeSet::from([dead.clone()]));
    let view = asked(&server, &["show", &dead]);
    assert_eq!((&view["state"], &view["targets"][0]["last"]["status"]), (&json!("dead"), &json!("5.4.7")), "{view:#}");
    let status = server.tell(&["status"]).ok().out;
    assert!(status.contains("dead letters: 1, see `ringpost queue list --state dead`"), "{status}");
    server.stop();
    server.change(|settings| settings.set("queue", "expire_after = \"1h\""));
    server.unblock("example.com");
    server.start_again();
    assert_eq!(found(&server, &["--state", "dead"]), BTreeSet::from([dead.clone()]), "a restart revives nobody");
    assert_eq!(told(&server, &["retry", &dead]), "1 message to be tried at once\n");
    server.maildir("example.com/alice").only();
    server.wait_for_rest();
    server.wait_for_metric("ringpost_queue_dead_messages", 0);
}

#[test]
fn messages_are_exported_as_they_were_accepted() {
    let server = Server::start(settings());
    server.block("example.com");
    let mut client = Client::hello(server.smtp());
    let mut sent = BTreeMap::new();
    for (number, size) in (0..).zip([10, 3_000, LARGE, 3_000_000]) {
        let content = message(&format!("m{number}"), &lines(number, size));
        let id = client.deliver("a@example.org", &["alice@example.com"], &content);
        sent.insert(id, content);
    }
    wait_for_deferred(&server, sent.len());
    let folder = server.home.path().join("out/of/here");
    let to = folder.display().to_string();
    let mut arguments = vec!["export"];
    arguments.extend(sent.keys().map(String::as_str));
    arguments.extend(["--to", &to]);
    assert_eq!(told(&server, &arguments), format!("4 messages written to {to}\n"));
    for (id, content) in &sent {
        let file = folder.join(format!("{id}.eml"));
        let bytes = fs::read(&file).expect("a file");
        let at = bytes.windows(5).position(|part| part == b"From:").expect("the sender's header");
        assert!(bytes[at..] == content[..], "{id} is not what was sent");
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        let about: Value =
            serde_json::from_slice(&fs::read(folder.join(format!("{id}.json"))).expect("a file")).expect("JSON");
        assert_eq!((&about["id"], &about["envelope"]["from"]), (&json!(id), &json!("a@example.org")));
    }
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 8, "nothing else is left there");
    let first = sent.keys().next().expect("one");
    fs::write(folder.join(format!("{first}.eml")), "mine").expect("written");
    check_refused(&server, &["export", first, "--to", &to], 1, &["is there already", "could not be exported"]);
    assert_eq!(fs::read(folder.join(format!("{first}.eml"))).expect("a file"), b"mine");
    check_refused(&server, &["export", "--to", &to], 1, &["which messages?"]);
    check_refused(&server, &["export", "01JD4VXK2Q000000020000000A", "--to", &to], 1, &["there is no message"]);
    let all = server.home.path().join("all").display().to_string();
    assert!(told(&server, &["export", "--from", "@example.org", "--to", &all]).starts_with("4 messages written"));
    assert_eq!(found(&server, &[]).len(), 4, "they stay in the queue");
}

#[test]
fn damage_is_found_and_named() {
    let server = Server::start(settings().cores(2));
    server.block("example.com");
    let sent = in_sessions(&server, |session, client| {
        let body = format!("needle-{session:02}\r\n");
        vec![client.deliver("a@example.org", &["alice@example.com"], &message(&format!("m{session}"), &body))]
    });
    wait_for_deferred(&server, sent.len());
    assert_eq!(told(&server, &["verify"]), "20 messages read back, none damaged\n");
    damage(&server, "needle-07", &sent[7]);
    let finished = server.tell(&["queue", "verify"]);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    assert!(finished.out.starts_with("20 messages read back, 1 damaged\n"), "{}", finished.out);
    let row = finished.out.lines().last().expect("a row");
    assert!(row.starts_with(&sent[7]) && row.contains("spool/shard-"), "{}", finished.out);
    assert_eq!(found(&server, &[]).len(), 20, "a damaged message stays");
    let finished = server.tell(&["queue", "verify", "--json"]);
    let reached: Value = serde_json::from_str(&finished.out).expect("JSON");
    assert_eq!((&reached["damaged"][0]["id"], &reached["running"]), (&json!(sent[7]), &json!(false)));
}

/// Changes a byte of a message's record in the log.
fn damage(server: &Server, needle: &str, id: &str) {
    let shards = fs::read_dir(server.home.state_dir().join("spool")).expect("a spool").flatten();
    let files = shards.filter(|shard| shard.path().is_dir()).flat_map(|shard| files_below(&shard.path()));
    for path in files {
        let bytes = fs::read(&path).unwrap_or_default();
        if let Some(at) = bytes.windows(needle.len()).position(|part| part == needle.as_bytes()) {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
            file.write_all_at(b"N", at as u64).expect("written");
            return file.sync_all().expect("synced");
        }
    }
    panic!("no file of the spool has {needle:?}, of message {id}");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// So many messages are more than a shard does for one request.
#[test]
fn an_order_on_many_messages_is_carried_out_piece_by_piece() {
    let server = Server::start(settings());
    server.block("example.com");
    let accepted = in_sessions(&server, |session, client| {
        client.send(&pipelined(usize::from(session), 220));
        (0..880).map(|_| client.reply()).filter(|reply| reply.lines[0].contains("queued as")).collect()
    });
    assert_eq!(accepted.len(), 4_400);
    wait_for_deferred(&server, 4_400);
    let pieces = |order: &str| {
        let carried_out = |line: &Value| line["message"] == "order carried out" && line["order"] == order;
        server.log().into_iter().filter(carried_out).count()
    };
    assert_eq!(asked(&server, &["hold", "--all"])["changed"], 4_400);
    assert_eq!(asked(&server, &["status"])["states"]["held"], 4_400);
    assert_eq!(told(&server, &["hold", "--all"]), "0 messages held; 4400 messages held already, or dead\n");
    wait_until("the log has the orders", || pieces("hold") >= 4);
    assert_eq!(asked(&server, &["release", "--to", "alice@example.com"])["changed"], 4_400, "as many by address");
    check_refused(&server, &["drop", "--all"], 1, &["4400 messages would be dropped"]);
    assert_eq!(told(&server, &["drop", "--all", "--yes"]), "4400 messages dropped\n");
    server.wait_for_rest();
}

/// So many messages in one write, four replies each.
fn pipelined(session: usize, count: usize) -> Vec<u8> {
    let one = |number| {
        let content = String::from_utf8(message(&format!("m{session}-{number}"), "x\r\n")).expect("text");
        format!(
            "MAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nBDAT {} LAST\r\n{content}NOOP\r\n",
            content.len()
        )
    };
    (0..count).map(one).collect::<String>().into_bytes()
}
