//! The API on the admin socket as a script meets it: every route by curl, who may do what, and what the audit log says.

use crate::support::eventually;
use crate::support::net::client_address;
use crate::support::programs::{Finished, program, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use tempfile::TempDir;

/// A page whose commands have to work.
const PAGE: &str = include_str!("../../../../docs/api.md");

/// Users and groups that need not exist to have numbers.
const STRANGER: u32 = 47_110;
const READER: u32 = 47_111;
const OPERATORS_GROUP: u32 = 47_112;

/// Who asks: a user with one further group. None: whoever runs the tests.
type Who = Option<(u32, u32)>;

/// What curl says to a request; the last line is the status.
fn curl(socket: &Path, who: Who, method: &str, path: &str, body: &Value) -> Finished {
    let curl = program("curl", "curl");
    let mut command = match who {
        None => Command::new(curl),
        Some((user, group)) => {
            let mut command = Command::new(program("setpriv", "util-linux"));
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg(format!("--groups={group}"));
            command.arg(curl);
            command
        }
    };
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--request", method, "--unix-socket"]);
    command.arg(socket);
    if !body.is_null() {
        command.args(["--data-binary", &body.to_string()]);
    }
    run(command.arg(format!("http://ringpost{path}")), "")
}

/// The status of an answer, and its body.
#[track_caller]
fn answered(finished: Finished) -> (u16, String) {
    let finished = finished.ok();
    let (body, status) = finished.out.rsplit_once('\n').expect("a line with the status");
    (status.parse().expect("a status"), body.to_owned())
}

fn socket(server: &Server) -> PathBuf {
    server.home.state_dir().join("ringpost.sock")
}

/// What a route answers to the server's own user, which must be 200.
#[track_caller]
fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let (status, text) = answered(curl(&socket(server), None, method, path, body));
    assert_eq!(status, 200, "{method} {path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}"))
}

#[track_caller]
fn get(server: &Server, path: &str) -> Value {
    ask(server, "GET", path, &Value::Null)
}

/// The lines of the audit log.
fn audited(server: &Server) -> Vec<Value> {
    let text = fs::read_to_string(server.home.state_dir().join("audit.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits for a line of the audit log; it is written after the answer.
#[track_caller]
fn wait_for_entry(server: &Server, fits: impl Fn(&Value) -> bool) -> Value {
    eventually(|| audited(server).into_iter().find(|entry| fits(entry)))
        .unwrap_or_else(|| panic!("no such entry: {:#?}", audited(server)))
}

#[test]
fn every_route_that_looks_is_answered() {
    let webhook = ["url = \"http://127.0.0.1:9/?token=open-sesame\"", "headers = { X-Key = \"open-sesame\" }"];
    let settings = Settings::default().cores(2).target("hook", "webhook", &webhook);
    let settings = settings.target("box", "maildir", &[]).domain_to("example.com", "\"box\"", &[]);
    let server = Server::start(settings);
    let id = Client::hello(server.smtp()).deliver("a@example.org", &["b@example.com"], &message("x", "y\r\n"));
    server.wait_until_delivered();
    let mut open = Client::hello_from(client_address(7, 1), server.smtp());
    open.begin("a@example.org", &["b@example.com"]);

    let status = get(&server, "/api/v1/status");
    assert_eq!((&status["state"], &status["hostname"]), (&json!("ready"), &json!("mx.example.com")));
    let config = server.home.path().join("ringpost.toml").display().to_string();
    assert_eq!((&status["config_file"], &status["process"]), (&json!(config), &json!(server.id())));
    assert!(status["started"].is_string() && status["state_since"].is_string(), "{status}");
    let shards = get(&server, "/api/v1/shards");
    let count =
        |field: &str| shards.as_array().expect("a list").iter().filter_map(|shard| shard[field].as_u64()).sum::<u64>();
    assert_eq!((count("accepted"), count("delivered"), count("sessions_open")), (1, 1, 1), "{shards}");
    assert_eq!(
        (count("cpu"), &shards[1]["phase"], &shards[1]["canary"]),
        (1, &json!("ready"), &json!(false)),
        "{shards}"
    );

    let sessions = get(&server, "/api/v1/sessions?client=127.1.7.0/24");
    assert_eq!((&sessions["total"], &sessions["more"]), (&json!(1), &json!(false)), "{sessions}");
    let session = &sessions["sessions"][0];
    assert_eq!((&session["client"], &session["listener"]), (&json!("127.1.7.1"), &json!("mx")), "{session}");
    assert_eq!(get(&server, "/api/v1/sessions?client=127.1.8.0/24")["total"], 0);
    let limits = get(&server, "/api/v1/limits");
    let limit = |key: &str| {
        let found = limits.as_array().expect("a list").iter().find(|limit| limit["key"] == key);
        found.unwrap_or_else(|| panic!("no {key}: {limits}")).clone()
    };
    let connections = limit("cores.limits.connections");
    assert_eq!((&connections["scope"], &connections["used"]), (&json!("core"), &json!(1)), "{connections}");
    assert_eq!(limit("limits.connections_per_ip")["value"], "off");

    let config = get(&server, "/api/v1/config");
    let toml = config["toml"].as_str().expect("text");
    assert!(toml.contains("hostname = \"mx.example.com\"") && toml.contains("http://127.0.0.1:9/?***"), "{toml}");
    assert!(!toml.contains("open-sesame"), "{toml}");
    assert_eq!(get(&server, "/api/v1/canary"), Value::Null);
    assert_eq!(get(&server, "/api/v1/log/levels")["level"], "info");
    assert_eq!(get(&server, "/api/v1/bans"), json!([]));
    assert_eq!(get(&server, &format!("/api/v1/explain/{id}"))["message"], json!(id));
    assert_eq!(get(&server, "/api/v1/queue")["messages"], 0);
    assert_eq!(get(&server, "/api/v1/queue/messages")["messages"], json!([]));
    assert_eq!(get(&server, "/api/v1/queue/verification")["running"], false);
    assert_eq!(get(&server, "/api/v1/audit"), json!([]), "nothing was changed");
    assert_eq!(get(&server, "/readyz")["state"], "ready");
    let (code, text) = answered(curl(&socket(&server), None, "GET", "/api/v1/queue/messages/1", &Value::Null));
    assert!(code == 400 && text.contains("not an id"), "{text}");
}

/// The commands of the reference page, run where a server runs.
#[test]
fn the_commands_of_the_page_work() {
    let server = Server::start(Settings::default());
    symlink(server.home.state_dir(), server.home.path().join("ringpost-state")).expect("a link");
    let blocks: Vec<&str> = PAGE.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let mut command = Command::new("sh");
        let finished = run(command.args(["-ec", block]).current_dir(server.home.path()), "").ok();
        assert!(finished.out.contains("\"state\":\"ready\""), "{block}: {}", finished.out);
    }
}

#[test]
fn changes_leave_entries_with_what_was_before_and_after() {
    let server = Server::start(Settings::default().set("queue", "retry_first = \"1h\""));
    server.block("example.com/held");
    Client::hello(server.smtp()).deliver("a@example.org", &["held@example.com"], &message("x", "y\r\n"));
    server.wait_for_metric("ringpost_queue_deferred_messages", 1);
    let before_and_after = |what: &str| {
        let entry = wait_for_entry(&server, |entry| entry["what"] == what);
        assert_eq!((&entry["outcome"], &entry["who"]["via"]), (&json!("done"), &json!("socket")), "{entry}");
        assert_eq!(entry["who"]["user"], json!("root"), "{entry}");
        (entry["before"].clone(), entry["after"].clone())
    };
    let ban = json!({ "network": "192.0.2.0/24", "reason": "spam" });
    ask(&server, "POST", "/api/v1/bans", &ban);
    let (before, after) = before_and_after("ban");
    assert_eq!((before, &after["reason"]), (Value::Null, &json!("spam")));
    ask(&server, "DELETE", "/api/v1/bans/192.0.2.0%2F24", &Value::Null);
    let (before, after) = before_and_after("unban");
    assert_eq!((&before["reason"], after), (&json!("spam"), Value::Null));

    ask(&server, "PUT", "/api/v1/log/levels", &json!({ "level": "info", "modules": { "serve": "debug" } }));
    let (before, after) = before_and_after("set log levels");
    assert_eq!((&before["modules"], &after["modules"]), (&json!({}), &json!({ "serve": "debug" })));
    assert_eq!(get(&server, "/api/v1/log/levels")["config"], false);
    ask(&server, "DELETE", "/api/v1/log/levels", &Value::Null);
    assert_eq!(before_and_after("reset log levels").1["config"], true);

    let order = json!({ "order": "hold", "filter": { "to": "held@example.com" } });
    assert_eq!(ask(&server, "POST", "/api/v1/queue/orders", &order)["changed"], 1);
    let (_, after) = before_and_after("hold");
    assert_eq!((&after["order"]["filter"], &after["changed"]), (&order["filter"], &json!(1)));
    ask(&server, "POST", "/api/v1/queue/verification", &Value::Null);
    assert_eq!(before_and_after("verify").0, Value::Null);
    let rows = get(&server, "/api/v1/queue/messages?state=held");
    let id = rows["messages"][0]["id"].as_str().expect("an id");
    let bytes =
        answered(curl(&socket(&server), None, "GET", &format!("/api/v1/queue/messages/{id}/message"), &Value::Null));
    assert_eq!(bytes.0, 200);
    assert!(before_and_after("read message").1["bytes"].as_u64() > Some(0));
    let shown = get(&server, "/api/v1/audit?limit=2");
    let whats: Vec<_> = shown.as_array().expect("a list").iter().map(|entry| entry["what"].clone()).collect();
    assert_eq!(whats, ["read message", "verify"]);
}

#[test]
fn reloads_are_noted_whoever_asks_for_them() {
    let mut server = Server::start(Settings::default());
    server.reconfigure(|settings| settings.set("limits", "recipients = 150"));
    assert_eq!(ask(&server, "POST", "/api/v1/reload", &Value::Null)["epoch"], 1);
    let entry = wait_for_entry(&server, |entry| entry["what"] == "reload");
    assert_eq!((&entry["before"]["epoch"], &entry["after"]["epoch"]), (&json!(0), &json!(1)), "{entry}");
    assert_eq!(entry["after"]["changed"], json!(["limits.recipients"]), "{entry}");
    server.reconfigure(|settings| settings.set("limits", "recipients = 1"));
    let (status, text) = answered(curl(&socket(&server), None, "POST", "/api/v1/reload", &Value::Null));
    assert!(status == 400 && text.contains("limits.recipients"), "{text}");
    let refused = wait_for_entry(&server, |entry| entry["outcome"] != "done");
    assert!(refused["outcome"].as_str().is_some_and(|why| why.contains("limits.recipients")), "{refused}");
    server.reconfigure(|settings| settings.set("limits", "recipients = 160"));
    server.signal(Signal::HUP);
    let entry = wait_for_entry(&server, |entry| entry["who"]["via"] == "signal");
    assert_eq!((&entry["subject"], &entry["who"]["uid"]), (&json!("SIGHUP"), &Value::Null), "{entry}");
    assert_eq!((&entry["before"]["epoch"], &entry["after"]["epoch"]), (&json!(1), &json!(2)), "{entry}");
    server.stop();
    let entries = audited(&server);
    let last = entries.last().expect("entries");
    assert_eq!((&last["what"], &last["subject"]), (&json!("stop"), &json!("SIGTERM")), "{last}");
}

#[test]
fn a_drain_is_answered_noted_and_ends_the_server() {
    let mut server = Server::start(Settings::default());
    let draining = ask(&server, "POST", "/api/v1/drain", &Value::Null);
    assert_eq!((&draining["sessions"], draining["until"].is_string()), (&json!(0), true), "{draining}");
    let status = server.wait();
    assert!(status.success(), "{status}");
    let entry = wait_for_entry(&server, |entry| entry["what"] == "drain");
    assert_eq!((&entry["before"]["state"], &entry["after"]["sessions"]), (&json!("ready"), &json!(0)), "{entry}");
}

/// A socket that everybody gets to.
fn public_socket() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let socket = folder.path().join("ringpost.sock");
    (folder, socket)
}

fn at(socket: &Path, lines: &[&str]) -> Settings {
    let settings = Settings::default().set("admin", &format!("socket = \"{}\"", socket.display()));
    lines.iter().fold(settings, |settings, line| settings.set("admin", line))
}

/// What somebody is answered: the status, or nothing if the connection is closed without an answer.
fn status_for(socket: &Path, who: Who, method: &str, path: &str, body: &Value) -> Option<u16> {
    let finished = curl(socket, who, method, path, body);
    finished.status.success().then(|| answered(finished).0)
}

#[test]
fn strangers_are_turned_away_readers_look_and_operators_change() {
    let (_folder, socket) = public_socket();
    let server = Server::start(at(&socket, &["operators = [\"@47112\"]", "readers = [\"47111\"]"]));
    let (stranger, reader) = (Some((STRANGER, STRANGER)), Some((READER, READER)));
    let operator = Some((STRANGER, OPERATORS_GROUP));
    let ban = json!({ "network": "192.0.2.1" });
    let nothing = Value::Null;
    for (who, method, path, body, expected) in [
        (stranger, "GET", "/livez", &nothing, None),
        (stranger, "GET", "/api/v1/status", &nothing, None),
        (stranger, "POST", "/api/v1/bans", &ban, None),
        (reader, "GET", "/api/v1/status", &nothing, Some(200)),
        (reader, "GET", "/api/v1/config", &nothing, Some(200)),
        (reader, "GET", "/api/v1/queue/messages", &nothing, Some(200)),
        (reader, "GET", "/api/v1/queue/messages/01JD4VXK2Q000000020000000A/message", &nothing, Some(403)),
        (reader, "GET", "/api/v1/queue/messages/01JD4VXK2Q000000020000000A?headers=true", &nothing, Some(403)),
        (reader, "GET", "/debug/profile?seconds=1", &nothing, Some(403)),
        (reader, "POST", "/api/v1/bans", &ban, Some(403)),
        (reader, "DELETE", "/api/v1/bans/192.0.2.1", &nothing, Some(403)),
        (reader, "POST", "/api/v1/reload", &nothing, Some(403)),
        (reader, "POST", "/api/v1/drain", &nothing, Some(403)),
        (reader, "PUT", "/api/v1/log/levels", &json!({ "level": "trace" }), Some(403)),
        (operator, "POST", "/api/v1/upgrade", &json!({ "binary": "/bin/true" }), Some(403)),
        (operator, "GET", "/api/v1/bans", &nothing, Some(200)),
        (operator, "POST", "/api/v1/bans", &ban, Some(200)),
        (operator, "DELETE", "/api/v1/bans/192.0.2.1", &nothing, Some(200)),
        (None, "GET", "/api/v1/status", &nothing, Some(200)),
    ] {
        assert_eq!(status_for(&socket, who, method, path, body), expected, "{who:?}: {method} {path}");
    }
    let (_, text) = answered(curl(&socket, reader, "POST", "/api/v1/reload", &nothing));
    assert!(text.contains("a reader may not POST /api/v1/reload: it takes an operator"), "{text}");
    server.wait_for_line("a user that may not was turned away from the admin socket", |line| line["uid"] == STRANGER);
    // What was tried is in the audit log too, with who it was; of those in a second the first, and how many there were.
    let refused = wait_for_entry(&server, |entry| entry["what"] == "ban" && entry["outcome"] != "done");
    assert_eq!((&refused["who"]["uid"], &refused["who"]["user"]), (&json!(READER), &Value::Null), "{refused}");
    assert!(refused["outcome"].as_str().is_some_and(|why| why.starts_with("refused: a reader may not")), "{refused}");
    let done = wait_for_entry(&server, |entry| entry["what"] == "unban" && entry["outcome"] == "done");
    assert_eq!(done["who"]["uid"], json!(STRANGER), "{done}");
    assert!(audited(&server).iter().all(|entry| entry["what"] != "set log levels" || entry["outcome"] != "done"));
}

/// Where nobody is named the file itself keeps others out, wherever it is.
#[test]
fn without_operators_and_readers_the_socket_is_for_its_owner_alone() {
    let (_folder, socket) = public_socket();
    let _server = Server::start(at(&socket, &[]));
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let finished = curl(&socket, Some((STRANGER, STRANGER)), "GET", "/livez", &Value::Null);
    assert!(!finished.status.success() && finished.err.contains("7"), "{}", finished.all());
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("opened");
    assert_eq!(
        status_for(&socket, Some((STRANGER, STRANGER)), "GET", "/livez", &Value::Null),
        None,
        "credentials decide"
    );
    assert_eq!(status_for(&socket, None, "GET", "/livez", &Value::Null), Some(200));
}

#[test]
fn a_full_disk_under_the_audit_log_stops_nothing() {
    let (folder, _) = public_socket();
    let log = folder.path().join("audit.log");
    symlink("/dev/full", &log).expect("a link");
    let server = Server::start(Settings::default().set("admin", &format!("audit = \"{}\"", log.display())));
    for number in 1..4 {
        ask(&server, "POST", "/api/v1/bans", &json!({ "network": format!("192.0.2.{number}") }));
    }
    let line = server.wait_for_line("the audit log can't be written; entries are lost", |line| line["lost"] == 3);
    assert_eq!(line["level"], "error", "{line}");
    assert_eq!(get(&server, "/api/v1/bans").as_array().map(Vec::len), Some(3));
    assert_eq!(get(&server, "/api/v1/audit").as_array().map(Vec::len), Some(3), "what was noted is shown all the same");
    Client::hello(server.smtp()).deliver("a@example.org", &["b@example.com"], &message("x", "y\r\n"));
}

#[test]
fn an_audit_log_that_can_not_be_is_told_at_the_start() {
    for (line, words) in [
        ("audit = \"missing/audit.log\"", "admin.audit"),
        ("operators = [\"nobody-of-this-name\"]", "admin.operators: this machine has no user"),
    ] {
        let home = crate::support::server::Home::new(1);
        let config = home.configure(&Settings::default().set("admin", line));
        let mut command = Command::new(crate::support::server::BINARY);
        let finished = run(command.arg("serve").arg("--config").arg(config).current_dir(home.path()), "");
        assert!(!finished.status.success() && finished.all().contains(words), "{line}: {}", finished.all());
    }
}

#[test]
fn a_profile_is_taken_of_a_shard_one_at_a_time() {
    let server = Server::start(Settings::default());
    let socket = socket(&server);
    let take = || answered(curl(&socket, None, "GET", "/debug/profile?seconds=5&format=folded", &Value::Null));
    let mut both = thread::scope(|scope| {
        let both = [scope.spawn(take), scope.spawn(take)];
        both.map(|one| one.join().expect("answered"))
    });
    both.sort();
    assert_eq!([both[0].0, both[1].0], [200, 409], "{both:?}");
    assert!(both[1].1.contains("another profile"), "{}", both[1].1);
    let (status, graph) = answered(curl(&socket, None, "GET", "/debug/profile?seconds=1", &Value::Null));
    assert!(status == 200 && graph.contains("<svg"), "{graph}");
    assert_eq!(answered(curl(&socket, None, "GET", "/debug/profile?shard=9", &Value::Null)).0, 404);
}
