//! The admin socket: who may, what it answers, what it leaves behind.

use super::{Fake, NOW, PANICKING, PROTECTED, Reply, SLOW, Server, exchange, failing, sources};
use crate::api::{self, BanAdd, BanView, Explanation, Moment, Status};
use crate::socket::PATH_BYTES_MAX;
use crate::{Admin, Error, Options};
use ringpost_base::{Span, Timestamp};
use ringpost_control::Phase;
use ringpost_metrics::{Counter, Gauge};
use ringpost_runtime::Services;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(super) fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("ringpost.sock");
    (folder, path)
}

pub(super) fn only(socket: &Path) -> Options {
    Options { socket: Some(socket.to_owned()), ..Options::default() }
}

pub(super) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("listening");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

pub(super) fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Reply {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: ringpost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(connect(socket), request.as_bytes())
}

#[test]
fn the_socket_is_for_its_owner_alone_and_goes_with_the_server() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    assert_eq!(server.admin.socket(), Some(&*path));
    assert_eq!(server.admin.address(), None);
    let made = fs::symlink_metadata(&path).expect("is there");
    assert!(made.file_type().is_socket());
    assert_eq!(made.permissions().mode() & 0o7777, 0o600);
    server.stop();
    assert!(!path.exists(), "nothing is left behind");
}

#[test]
fn the_socket_of_a_dead_server_is_replaced() {
    let (_folder, path) = folder();
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists(), "a server that was killed leaves its socket");
    let server = Server::start_at(only(&path), 1, &[]);
    assert_eq!(ask(&path, "GET", "/livez", "").body, "ok\n");
    server.stop();
}

#[test]
fn the_socket_of_another_server_and_files_are_left_alone() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let error = failing(only(&path));
    assert!(matches!(error, Error::SocketInUse(_)), "{error}");
    assert_eq!(ask(&path, "GET", "/livez", "").status, 200, "the first goes on");
    server.stop();
    fs::write(&path, "somebody's").expect("written");
    let error = failing(only(&path));
    assert!(matches!(error, Error::SocketPlace(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "somebody's");
}

#[test]
fn what_was_put_in_the_sockets_place_is_not_removed_at_the_stop() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    fs::remove_file(&path).expect("removed by somebody");
    let other = UnixListener::bind(&path).expect("bound");
    server.stop();
    assert!(path.exists());
    drop(other);
}

#[test]
fn a_socket_that_cannot_be_made_says_what_to_do() {
    let (folder, path) = folder();
    let long = folder.path().join("x".repeat(PATH_BYTES_MAX));
    for (socket, words) in [
        (long, ["107", "[admin] socket"]),
        (folder.path().join("missing/ringpost.sock"), ["No such file or directory", "make its directory"]),
    ] {
        let error = failing(only(&socket)).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.contains(&socket.display().to_string()), "{error}");
    }
    let most = PATH_BYTES_MAX - folder.path().as_os_str().len() - 1;
    let longest = folder.path().join("x".repeat(most));
    let server = Server::start_at(only(&longest), 1, &[]);
    assert_eq!(ask(&longest, "GET", "/livez", "").status, 200);
    server.stop();
    assert!(!path.exists());
}

#[test]
fn a_start_that_fails_leaves_no_socket() {
    let (_folder, path) = folder();
    let taken = std::net::TcpListener::bind(super::any_port()).expect("a free port");
    let listen = taken.local_addr().ok();
    assert!(matches!(failing(Options { listen, ..only(&path) }), Error::Listen { .. }));
    assert!(!path.exists());
}

#[test]
fn status_in_numbers() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 2, &["the spool's disk is full"]);
    let (one, two) = (&server.blocks[0], &server.blocks[1]);
    one.set(Gauge::SessionsOpen, 3);
    one.set(Gauge::Bans, 2);
    one.set(Gauge::QueueHeld, 4);
    two.set(Gauge::QueueDead, 6);
    two.set(Gauge::BreakersOpen, 1);
    one.add(Counter::MessagesAccepted, 5);
    two.add(Counter::LimitConnectionsPerIp, 7);
    two.add(Counter::MeshQuestions, 9);
    two.add(Counter::MeshFull, 1);
    let state = server.board.publish_phase(Phase::Ready);
    server.board.shards().filter_map(|shard| server.board.seat(shard)).for_each(|seat| seat.acknowledge(state));
    let reply = ask(&path, "GET", "/api/v1/status", "");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("ringpost-api: 1"), "{}", reply.head);
    let status: Status = serde_json::from_str(&reply.body).expect("a status");
    assert_eq!((status.version.as_str(), status.state.as_str(), status.epoch), ("0.1.0", "ready", 0));
    assert_eq!((status.reasons, status.process), (vec!["the spool's disk is full".to_owned()], std::process::id()));
    let [first, second] = &status.shards[..] else { panic!("two shards: {:?}", status.shards) };
    assert_eq!((first.sessions_open, first.bans, first.accepted, first.shard), (3, 2, 5, 0));
    assert_eq!((first.queue_held, second.queue_dead, second.breakers_open), (4, 6, 1));
    assert!(first.limits_hit.is_empty(), "{:?}", first.limits_hit);
    assert_eq!(second.limits_hit.get("limits.connections_per_ip"), Some(&7));
    assert_eq!((second.mesh.asked, second.mesh.full, second.phase.as_str()), (9, 1, "ready"));
    server.stop();
}

#[test]
fn bans_are_added_listed_and_lifted() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let body = json!({ "network": "192.0.2.0/24", "ttl": "1h", "reason": "spam", "of_a_later_version": 1 });
    let reply = ask(&path, "POST", "/api/v1/bans", &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let since = Moment(NOW).to_string();
    let ban = json!({
        "network": "192.0.2.0/24", "reason": "spam", "by": "operator",
        "since": since, "until": "2026-11-20T14:00:00Z",
    });
    assert_eq!(since, "2026-11-20T13:00:00Z");
    assert_eq!(reply.json(), ban);
    let forever = ask(&path, "POST", "/api/v1/bans", r#"{ "network": "2001:db8::/32", "ttl": null }"#);
    assert_eq!(forever.json()["until"], json!(null));
    let listed: Vec<BanView> = serde_json::from_str(&ask(&path, "GET", "/api/v1/bans", "").body).expect("a list");
    let networks: Vec<String> = listed.iter().map(|ban| ban.network.to_string()).collect();
    assert_eq!(networks, ["192.0.2.0/24", "2001:db8::/32"]);
    for (network, status) in [("192.0.2.0%2F24", 200), ("192.0.2.0%2F24", 404), ("2001:db8::%2F32", 200)] {
        assert_eq!(ask(&path, "DELETE", &format!("/api/v1/bans/{network}"), "").status, status, "{network}");
    }
    assert_eq!(ask(&path, "GET", "/api/v1/bans", "").json(), json!([]));
    server.stop();
}

#[test]
fn orders_that_cannot_be_meant_are_refused_in_words() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let long = json!({ "network": "192.0.2.1", "reason": "x".repeat(api::REASON_BYTES_MAX + 1) }).to_string();
    for (method, target, body, status, words) in [
        ("POST", "/api/v1/bans", r#"{"network":"192.0.2.1/24"}"#, 400, "the network is 192.0.2.0/24"),
        ("POST", "/api/v1/bans", r#"{"network":"example.org"}"#, 400, "not an address or network"),
        ("POST", "/api/v1/bans", r#"{"network":"192.0.2.1","ttl":"soon"}"#, 400, "not a duration"),
        ("POST", "/api/v1/bans", r#"{"network":"192.0.2.1","ttl":"0s"}"#, 400, "no duration"),
        ("POST", "/api/v1/bans", r#"{"network":"192.0.2.1","reason":"a\u001b[1m"}"#, 400, "control character"),
        ("POST", "/api/v1/bans", &long, 400, "200 are the most"),
        ("POST", "/api/v1/bans", "", 400, "the body"),
        ("POST", "/api/v1/bans", r#"{"network":"10.0.0.0/24"}"#, 409, "the proxy is in it"),
        ("DELETE", "/api/v1/bans/192.0.2.1%2F24", "", 400, "the network is 192.0.2.0/24"),
        ("DELETE", "/api/v1/bans/192.0.2.9", "", 404, "192.0.2.9 is not banned"),
        ("GET", "/api/v1/explain/%1B%5B1m", "", 400, "not an id"),
        ("POST", "/api/v1/reload", "", 400, "f:1:1: one fault\nf:2:1: another"),
    ] {
        let reply = ask(&path, method, target, body);
        assert_eq!(reply.status, status, "{method} {target} {body}: {}", reply.body);
        assert!(reply.error().contains(words), "{}", reply.error());
    }
    assert_eq!(PROTECTED, "10.0.0.0/24");
    assert!(server.control.bans.lock().expect("whole").is_empty(), "nothing of it was done");
    assert_eq!(ask(&path, "PUT", "/api/v1/bans", "").status, 405);
    let unknown = ask(&path, "GET", "/api/v2/bans", "");
    assert!(unknown.status == 404 && unknown.body.contains("DELETE /api/v1/bans/{network}"), "{}", unknown.body);
    assert!(unknown.head.contains("ringpost-api: 1"), "{}", unknown.head);
    server.stop();
}

#[test]
fn explanations_are_found_by_ids_in_any_case() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    for id in ["6P01GGM06A0FQ", "6p01ggm06a0fq", "01JD4VXK2Q000000020000000A"] {
        let reply = ask(&path, "GET", &format!("/api/v1/explain/{id}"), "");
        assert_eq!(reply.status, 200, "{}", reply.body);
        let explanation: Explanation = serde_json::from_str(&reply.body).expect("an explanation");
        assert_eq!(explanation.session, id.to_uppercase());
        assert_eq!(explanation.steps[0].inputs[0], ("open".to_owned(), json!(10)));
    }
    server.stop();
}

#[test]
fn a_body_beyond_its_bound_is_not_read() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let declared = "POST /api/v1/bans HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: 1000000000\r\n\r\n{";
    let chunk = format!("{:x}\r\n{}\r\n", 70_000, " ".repeat(70_000));
    let chunked = format!(
        "POST /api/v1/bans HTTP/1.1\r\nHost: r\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
    );
    for request in [declared, &chunked] {
        let reply = exchange(connect(&path), request.as_bytes());
        assert_eq!(reply.status, 413);
        assert!(reply.error().contains("65536"), "{}", reply.error());
    }
    let header = format!("GET /livez HTTP/1.1\r\nHost: r\r\nX: {}", "x".repeat(17 * 1024));
    assert_eq!(exchange(connect(&path), header.as_bytes()).status, 431);
    server.stop();
}

#[test]
fn an_order_whose_giver_hangs_up_is_carried_through() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let body = json!({ "network": SLOW }).to_string();
    let request = format!("POST /api/v1/bans HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut client = connect(&path);
    client.write_all(request.as_bytes()).expect("sent");
    // Once a later request is answered the order has been begun.
    let under_way = || ask(&path, "GET", "/api/v1/bans", "").json().as_array().map(Vec::len);
    assert_eq!(under_way(), Some(0));
    drop(client);
    assert_eq!(under_way(), Some(0));
    server.control.gate.notify_one();
    let deadline = Instant::now() + Duration::from_secs(20);
    while under_way() != Some(1) {
        assert!(Instant::now() < deadline, "the order was given up with its client");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.stop();
}

#[test]
fn orders_under_way_are_bounded() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let body = json!({ "network": SLOW }).to_string();
    let request = format!("POST /api/v1/bans HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let begin = |_| {
        let mut client = connect(&path);
        client.write_all(request.as_bytes()).expect("sent");
        client
    };
    let waiting: Vec<UnixStream> = (0..crate::orders::UNDER_WAY_MAX).map(begin).collect();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let reply = ask(&path, "DELETE", "/api/v1/bans/192.0.2.9", "");
        if reply.status == 503 {
            assert!(reply.error().contains("under way"), "{}", reply.error());
            break;
        }
        assert!(Instant::now() < deadline, "one more than there may be");
    }
    assert_eq!(ask(&path, "GET", "/api/v1/status", "").status, 200, "the status needs none of them");
    assert_eq!(ask(&path, "GET", "/api/v1/bans", "").status, 200, "what looks has its own");
    server.control.gate.notify_waiters();
    for mut client in waiting {
        assert!(client.read(&mut [0; 1024]).expect("an answer") > 0);
    }
    assert_eq!(ask(&path, "GET", "/api/v1/bans", "").status, 200);
    server.stop();
}

#[test]
fn a_panicking_order_is_answered_and_the_next_one_done() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    for _ in 0..=crate::orders::UNDER_WAY_MAX {
        let reply = ask(&path, "POST", "/api/v1/bans", &json!({ "network": PANICKING }).to_string());
        assert_eq!(reply.status, 503);
        assert!(reply.error().contains("bug"), "{}", reply.error());
    }
    assert_eq!(ask(&path, "GET", "/api/v1/bans", "").status, 200, "no permit was lost");
    server.stop();
}

#[test]
fn both_places_are_answered_and_end_together() {
    let (_folder, path) = folder();
    let options = Options { listen: Some(super::any_port()), ..only(&path) };
    let server = Server::start_at(options, 1, &[]);
    assert_eq!(server.get("/livez").body, "ok\n");
    assert!(ask(&path, "GET", "/metrics", "").body.contains("# TYPE "));
    let mut kept = connect(&path);
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: r\r\n\r\n").expect("sent");
    assert!(kept.read(&mut [0; 1024]).expect("an answer") > 0);
    server.stop();
    assert_eq!(kept.read(&mut [0; 1024]).unwrap_or(0), 0, "connections are closed");
}

#[test]
fn a_server_that_is_dropped_removes_its_socket() {
    let (_folder, path) = folder();
    let services = Services::start().expect("a thread");
    let admin = Admin::start(&services.handle(), only(&path), sources(1, &[], Arc::<Fake>::default()));
    assert!(path.exists());
    drop(admin);
    assert!(!path.exists());
    services.stop();
}

#[test]
fn moments_text_and_back() {
    for (micros, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_179_600_000_000, "2026-11-20T13:00:00Z"),
        (1_795_179_600_123_456, "2026-11-20T13:00:00.123456Z"),
    ] {
        let moment = Moment(Timestamp::from_unix_micros(micros));
        assert_eq!(moment.to_string(), text);
        assert_eq!(text.parse(), Ok(moment));
    }
    assert_eq!("2026-11-20T14:00:00+01:00".parse(), Ok(Moment(NOW)), "any offset");
    assert_eq!(format!("{:.0}", Moment(Timestamp::from_unix_micros(1_795_179_600_999_999))), "2026-11-20T13:00:00Z");
    for text in ["", "2026-11-20", "1969-12-31T23:59:59Z", "yesterday"] {
        assert!(text.parse::<Moment>().is_err(), "{text}");
    }
    let last = Moment(Timestamp::from_unix_micros(u64::MAX)).to_string();
    assert!(last.starts_with("9999-12-30T22:00:00"), "{last}");
}

#[test]
fn orders_text_and_back() {
    let order = BanAdd {
        network: "2001:db8::/32".parse().expect("a network"),
        ttl: Some(Span::seconds(90)),
        reason: "harvest".to_owned(),
    };
    let text = serde_json::to_string(&order).expect("JSON");
    assert_eq!(text, r#"{"network":"2001:db8::/32","ttl":"90s","reason":"harvest"}"#);
    assert_eq!(serde_json::from_str::<BanAdd>(&text).expect("an order"), order);
    assert_eq!(order.check(), Ok(()));
    let bare: BanAdd = serde_json::from_str(r#"{"network":"::1"}"#).expect("an order");
    assert_eq!((bare.ttl, bare.reason.as_str()), (None, ""));
}
