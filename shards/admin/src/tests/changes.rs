//! What changes the server: what is answered, and what the audit log says of it.

use super::socket::{ask, folder, only};
use super::{PANICKING, PROTECTED, Server};
use crate::api::AuditEntry;
use crate::audit::{Audit, Note};
use crate::routes::acting;
use crate::{Admin, Options};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A server that keeps an audit log.
struct Audited {
    server: Server,
    folder: TempDir,
    socket: PathBuf,
}

impl Audited {
    fn start() -> Self {
        let (folder, socket) = folder();
        let audit = Audit::start(folder.path().join("audit.log")).expect("a file");
        let server = Server::start_at(Options { audit, ..only(&socket) }, 1, &[]);
        Self { server, folder, socket }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> u16 {
        ask(&self.socket, method, path, body).status
    }

    /// Stops it; what its audit log says.
    fn stop(self) -> Vec<AuditEntry> {
        self.server.stop();
        entries(&self.folder.path().join("audit.log"))
    }
}

fn entries(path: &Path) -> Vec<AuditEntry> {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// Checks what an order leaves in the audit log: what, subject, before and after. Both are compared as far as given.
fn check(method: &str, path: &str, body: &Value, status: u16, expected: (&str, &str, Value, Value)) {
    let audited = Audited::start();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    assert_eq!(audited.ask(method, path, &body), status, "{method} {path} {body}");
    let (what, subject, before, after) = expected;
    let entries = audited.stop();
    let [entry] = &entries[..] else { panic!("{method} {path}: one entry: {entries:?}") };
    assert_eq!((entry.what.as_str(), entry.subject.as_str()), (what, subject));
    assert!(is_within(&before, &entry.before), "{before} in {}", entry.before);
    assert!(is_within(&after, &entry.after), "{after} in {}", entry.after);
    let own = (Some(rustix::process::getuid().as_raw()), Some(std::process::id() as i32));
    assert_eq!((entry.who.uid, entry.who.pid, entry.who.via.as_str()), (own.0, own.1, "socket"));
    assert_eq!(entry.outcome == "done", status == 200, "{}", entry.outcome);
}

/// Whether a value has all of what another one has.
fn is_within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|other| is_within(value, other)))
        }
        _ => part == whole,
    }
}

#[test]
fn orders_are_noted_with_what_was_before_and_after() {
    let nothing = Value::Null;
    let ban = json!({ "network": "192.0.2.0/24", "reason": "spam" });
    check("POST", "/api/v1/bans", &ban, 200, ("ban", "192.0.2.0/24", nothing.clone(), ban.clone()));
    let canary = json!({ "canary": { "core": 3, "for": "5m" } });
    let subject = r#"canary {"core":3,"for":"5m"}"#;
    check("POST", "/api/v1/reload", &canary, 200, ("reload", subject, json!({ "epoch": 0 }), json!({ "epoch": 1 })));
    let before = json!({ "state": "starting" });
    check("POST", "/api/v1/drain", &nothing, 200, ("drain", "", before.clone(), json!({ "sessions": 2, "queue": 5 })));
    let subject = "with the queue, for 2m at most";
    let after = json!({ "until": "2026-11-20T13:02:00Z" });
    check("POST", "/api/v1/drain", &json!({ "queue": "2m" }), 200, ("drain", subject, before, after));
    let before = json!({ "process": std::process::id(), "version": "0.1.0" });
    let after = json!({ "process": 42, "took_ms": 7 });
    check("POST", "/api/v1/upgrade", &json!({ "binary": "/a" }), 200, ("upgrade", "/a", before, after));
    let levels = json!({ "level": "warn", "modules": { "serve": "debug" } });
    let before = json!({ "level": "info", "config": true });
    check("PUT", "/api/v1/log/levels", &levels, 200, ("set log levels", "", before.clone(), levels.clone()));
    check("DELETE", "/api/v1/log/levels", &nothing, 200, ("reset log levels", "", before.clone(), before));
    let order = json!({ "order": "drop", "filter": { "from": "<>" } });
    let after = json!({ "changed": 2, "unchanged": 0, "order": order });
    check("POST", "/api/v1/queue/orders", &order, 200, ("drop", "messages with from=%3C%3E", nothing.clone(), after));
    let after = json!({ "running": true });
    check("POST", "/api/v1/queue/verification", &nothing, 200, ("verify", "", nothing.clone(), after));
    let path = "/api/v1/queue/messages/01JD4VXK2Q000000020000000A/message";
    let subject = "01JD4VXK2Q000000020000000A";
    check("GET", path, &nothing, 200, ("read message", subject, Value::Null, json!({ "bytes": 13, "of": "message" })));
}

#[test]
fn a_ban_in_the_place_of_another_and_its_end_tell_what_was() {
    let audited = Audited::start();
    for reason in ["one", "two"] {
        let ban = json!({ "network": "192.0.2.1", "reason": reason }).to_string();
        assert_eq!(audited.ask("POST", "/api/v1/bans", &ban), 200);
    }
    assert_eq!(audited.ask("DELETE", "/api/v1/bans/192.0.2.1", ""), 200);
    let reasons: Vec<_> = audited
        .stop()
        .iter()
        .map(|entry| [&entry.before, &entry.after].map(|ban| ban["reason"].as_str().map(str::to_owned)))
        .collect();
    let words = |before: Option<&str>, after: Option<&str>| [before.map(str::to_owned), after.map(str::to_owned)];
    assert_eq!(reasons, [words(None, Some("one")), words(Some("one"), Some("two")), words(Some("two"), None)]);
}

#[test]
fn refused_orders_are_noted_with_the_reason() {
    let panicking = json!({ "network": PANICKING }).to_string();
    for (method, path, body, status, what, words) in [
        ("POST", "/api/v1/bans", r#"{"network":"10.0.0.0/24"}"#, 409, "ban", "refused: the proxy is in it"),
        ("POST", "/api/v1/bans", "{", 400, "ban", "refused: the body: EOF"),
        ("POST", "/api/v1/bans", &panicking, 503, "ban", "refused: it was not carried through"),
        ("DELETE", "/api/v1/bans/x", "", 400, "unban", "not an address"),
        ("DELETE", "/api/v1/bans/192.0.2.9", "", 404, "unban", "192.0.2.9 is not banned"),
        ("POST", "/api/v1/reload", "", 400, "reload", "f:1:1: one fault\nf:2:1: another"),
        ("POST", "/api/v1/reload", r#"{"canary":{"core":1,"for":"0s"}}"#, 400, "reload", "no duration"),
        ("DELETE", "/api/v1/canary", "", 409, "stop canary", "no canary is running"),
        ("POST", "/api/v1/upgrade", r#"{"binary":"a"}"#, 400, "upgrade", "not an absolute path"),
        ("PUT", "/api/v1/log/levels", r#"{"level":"loud"}"#, 400, "set log levels", "\"loud\" is not one of error"),
        ("PUT", "/api/v1/log/levels", "", 400, "set log levels", "the body"),
        ("POST", "/api/v1/drain", r#"{"que":"1m"}"#, 400, "drain", "unknown field"),
    ] {
        let audited = Audited::start();
        assert_eq!(audited.ask(method, path, body), status, "{method} {path} {body}");
        let entries = audited.stop();
        let [entry] = &entries[..] else { panic!("{method} {path} {body}: one entry: {entries:?}") };
        assert_eq!(entry.what, what);
        assert!(entry.outcome.starts_with("refused: ") && entry.outcome.contains(words), "{}", entry.outcome);
        assert_eq!(entry.after, Value::Null);
    }
    assert_eq!(PROTECTED, "10.0.0.0/24");
}

#[test]
fn no_route_that_changes_something_is_answered_without_an_entry() {
    let changing: Vec<_> = acting().into_iter().filter(|route| route.method != "GET").collect();
    assert!(changing.len() >= 10);
    let audited = Audited::start();
    for route in &changing {
        audited.ask(route.method, route.path, "{ this is not JSON");
    }
    let mut noted: Vec<String> = audited.stop().into_iter().map(|entry| entry.what).collect();
    let mut expected: Vec<&str> = changing.iter().filter_map(|route| route.changes).collect();
    noted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(noted, expected);
}

#[test]
fn what_only_counts_is_not_noted() {
    let audited = Audited::start();
    let dry = json!({ "order": "drop", "filter": {}, "dry": true }).to_string();
    assert_eq!(audited.ask("POST", "/api/v1/queue/orders", &dry), 200);
    assert_eq!(audited.ask("GET", "/api/v1/bans", ""), 200);
    assert_eq!(audited.stop(), []);
}

#[test]
fn the_audit_log_is_shown_the_newest_first() {
    let audited = Audited::start();
    for network in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(audited.ask("POST", "/api/v1/bans", &json!({ "network": network }).to_string()), 200);
    }
    audited.server.admin.audit().finish();
    let shown = |query: &str| {
        let reply = ask(&audited.socket, "GET", &format!("/api/v1/audit{query}"), "");
        assert_eq!(reply.status, 200, "{}", reply.body);
        let entries: Vec<AuditEntry> = serde_json::from_str(&reply.body).expect("entries");
        entries.into_iter().map(|entry| entry.subject).collect::<Vec<_>>()
    };
    assert_eq!(shown(""), ["192.0.2.3", "192.0.2.2", "192.0.2.1"]);
    assert_eq!(shown("?limit=2"), ["192.0.2.3", "192.0.2.2"]);
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?last=3"] {
        assert_eq!(audited.ask("GET", &format!("/api/v1/audit{query}"), ""), 400, "{query}");
    }
    audited.stop();
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let reply = ask(&path, "GET", "/api/v1/audit", "");
    assert!(reply.status == 404 && reply.error().contains("admin.audit"), "{}", reply.body);
    server.stop();
}

#[test]
fn signals_are_noted_without_a_user() {
    let audited = Audited::start();
    let note = |admin: &Admin| {
        admin.audit().note(Note::of_signal("reload", "SIGHUP", json!({ "epoch": 0 }), json!({ "epoch": 1 })));
    };
    note(&audited.server.admin);
    let entries = audited.stop();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.who.via.as_str(), entry.who.uid, &entry.who.user), ("signal", None, &None));
    assert_eq!((entry.what.as_str(), entry.subject.as_str(), entry.outcome.as_str()), ("reload", "SIGHUP", "done"));
}
