//! What is shown of the server: state and probes, shards, sessions, limits, config, profiles; and the sockets that are
//! handed over.

use super::socket::{ask, folder, only};
use super::{Server, configured, failing_probe};
use crate::api::{
    CanaryView, ConfigView, LimitView, LogLevelsView, ProbeView, SESSIONS_MAX, SessionQuery, Sessions, ShardView,
    Status,
};
use crate::{Access, Identity, Options, Principal, Situation, Vital};
use ringpost_base::Timestamp;
use ringpost_control::Phase;
use ringpost_metrics::{Counter, Gauge, Timing};
use serde::de::DeserializeOwned;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> T {
    let reply = ask(socket, "GET", path, "");
    assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", reply.body))
}

fn probe(name: &str, ok: bool, serves: bool) -> ProbeView {
    ProbeView { name: name.to_owned(), ok, serves, ..ProbeView::default() }
}

fn ready(server: &Server) {
    let state = server.board.publish_phase(Phase::Ready);
    server.board.shards().filter_map(|shard| server.board.seat(shard)).for_each(|seat| seat.acknowledge(state));
}

#[test]
fn a_probe_that_keeps_mail_out_makes_readyz_refuse() {
    let stalled = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stalled);
    let options = Options { listen: Some(super::any_port()), ..Options::default() };
    let server = Server::start_with(options, 1, &[], |sources| {
        sources.probes = Arc::new(move || {
            let stall = probe("stall", !told.load(Relaxed), false);
            vec![probe("dns", true, true), failing_probe("the disk is nearly full"), stall]
        });
    });
    ready(&server);
    let (status, body) = server.readyz();
    assert_eq!(
        (status, &body["state"], &body["reasons"][0]),
        (200, &"ready".into(), &"the disk is nearly full".into())
    );
    assert_eq!((&body["probes"][0]["name"], &body["probes"][0]["ok"]), (&"disk".into(), &false.into()));
    stalled.store(true, Relaxed);
    let (status, body) = server.readyz();
    assert_eq!((status, &body["probes"][0]["name"]), (503, &"stall".into()));
    assert_eq!(body["reasons"][0], "stall is not well", "one without words");
    stalled.store(false, Relaxed);
    assert_eq!(server.readyz().0, 200);
    server.stop();
}

#[test]
fn the_status_says_who_the_server_is_and_what_is_under_way() {
    let (_folder, path) = folder();
    let canary = CanaryView { core: 5, shard: 1, state: "running".to_owned(), ..CanaryView::default() };
    let under_way = canary.clone();
    let server = Server::start_with(only(&path), 2, &["the disk is nearly full"], move |sources| {
        let identity = Identity { config_file: Some("/etc/ringpost.toml".to_owned()), ..sources.identity.clone() };
        sources.identity = identity;
        sources.situation = Arc::new(move || Situation {
            canary: Some(under_way.clone()),
            upgrade: Some("waits for the other process".to_owned()),
            certificate_expires: Some(Timestamp::from_unix_micros(1_000_000)),
        });
        sources.vitals =
            Arc::new(|| vec![Vital::default(), Vital { cpu: None, stalled: Some(Duration::from_millis(6_500)) }]);
    });
    ready(&server);
    let status: Status = get(&path, "/api/v1/status");
    assert_eq!(
        (status.hostname.as_str(), status.config_file.as_deref()),
        ("mx.example.org", Some("/etc/ringpost.toml"))
    );
    assert_eq!((status.canary.clone(), status.upgrade.as_deref()), (Some(canary), Some("waits for the other process")));
    assert_eq!(status.certificate_expires.map(|moment| moment.to_string()).as_deref(), Some("1970-01-01T00:00:01Z"));
    assert_eq!(status.probes[0].reason.as_deref(), Some("the disk is nearly full"));
    assert!(status.started <= status.state_since && status.state_since.is_some(), "{status:?}");
    let shards: Vec<ShardView> = get(&path, "/api/v1/shards");
    let seen: Vec<_> = shards.iter().map(|shard| (shard.cpu, shard.canary, shard.stalled_ms)).collect();
    assert_eq!(seen, [(Some(4), false, None), (Some(5), true, Some(6_500))]);
    server.stop();
}

#[test]
fn shards_tell_what_they_did_of_late() {
    let (_folder, path) = folder();
    let begun = Instant::now();
    let server = Server::start_with(only(&path), 1, &[], move |sources| {
        // A thread that is busy half of the time.
        sources.vitals = Arc::new(move || vec![Vital { cpu: Some(begun.elapsed() / 2), stalled: None }]);
    });
    let block = &server.blocks[0];
    let deadline = Instant::now() + Duration::from_secs(20);
    let shard = loop {
        block.add(Counter::MessagesAccepted, 10);
        block.set(Gauge::QueueInFlight, 3);
        block.observe(Timing::SpoolCommit, Duration::from_micros(900));
        let shard = get::<Vec<ShardView>>(&path, "/api/v1/shards").remove(0);
        if shard.recent.accepted > 0.0 && shard.busy.is_some() {
            break shard;
        }
        assert!(Instant::now() < deadline, "{shard:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((shard.deliveries, shard.spool_commit_p99_seconds, shard.lag_p99_seconds), (3, Some(0.001), None));
    assert!(shard.busy.is_some_and(|busy| (0.3..0.7).contains(&busy)), "{shard:?}");
    assert!(get::<Status>(&path, "/api/v1/status").recent.accepted > 0.0);
    server.stop();
}

#[test]
fn sessions_limits_config_and_levels_are_shown() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let sessions: Sessions = get(&path, "/api/v1/sessions?limit=5&client=192.0.2.0/24");
    assert_eq!((sessions.total, sessions.more), (7, true));
    get::<Sessions>(&path, "/api/v1/sessions");
    let client = Some("192.0.2.0/24".parse().expect("a network"));
    let wanted = [SessionQuery { limit: Some(5), client }, SessionQuery { limit: Some(100), client: None }];
    assert_eq!(*server.control.sessions.lock().expect("whole"), wanted);
    let limits: Vec<LimitView> = get(&path, "/api/v1/limits");
    assert_eq!((limits[0].key.as_str(), limits[0].met, limits[0].of), ("limits.connections", 3, Some(100)));
    let config: ConfigView = get(&path, "/api/v1/config");
    assert_eq!((config.epoch, config.toml.as_str()), (3, "[server]\n"));
    assert_eq!(get::<LogLevelsView>(&path, "/api/v1/log/levels"), configured());
    assert_eq!(get::<Option<CanaryView>>(&path, "/api/v1/canary"), None);
    for query in ["limit=0", &format!("limit={}", SESSIONS_MAX + 1), "client=x", "peer=192.0.2.1"] {
        assert_eq!(ask(&path, "GET", &format!("/api/v1/sessions?{query}"), "").status, 400, "{query}");
    }
    server.stop();
}

#[test]
fn session_queries_text_and_back() {
    for text in ["", "limit=7", "client=192.0.2.1", "limit=10000&client=2001%3Adb8%3A%3A%2F32"] {
        assert_eq!(SessionQuery::parse(text).map(|query| query.text()).as_deref(), Ok(text));
    }
}

#[test]
fn profiles_are_handed_out_as_what_they_are() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let graph = ask(&path, "GET", "/debug/profile", "");
    assert!(graph.status == 200 && graph.head.contains("content-type: image/svg+xml"), "{}", graph.head);
    let folded = ask(&path, "GET", "/debug/profile?shard=0&seconds=3&format=folded", "");
    assert_eq!((folded.status, folded.body.as_str()), (200, "a;b 3\n"));
    assert_eq!(ask(&path, "GET", "/debug/profile?shard=1", "").status, 404);
    assert_eq!(ask(&path, "GET", "/debug/profile?seconds=61", "").status, 400);
    server.stop();
}

#[test]
fn sockets_are_handed_over_and_taken_over() {
    let (_folder, path) = folder();
    let former = Server::start_at(Options { listen: Some(super::any_port()), ..only(&path) }, 1, &[]);
    let address = former.address();
    let (tcp, unix) = former.admin.share().expect("descriptors");
    let (tcp, unix) = (tcp.map(TcpListener::from), unix.map(UnixListener::from));
    former.admin.hand_over();
    former.services.stop();
    assert!(path.exists(), "the file is left to the other process");
    let options = Options { listen: Some(address), tcp, unix, ..only(&path) };
    let mut next = Server::start_at(options, 1, &[]);
    next.admin.own();
    assert_eq!(next.address(), address);
    assert_eq!(next.get("/livez").body, "ok\n");
    assert_eq!(ask(&path, "GET", "/livez", "").body, "ok\n");
    next.stop();
    assert!(!path.exists());
}

/// A process that takes over by another config than the former one's listens where its own config says.
#[test]
fn inherited_sockets_of_other_places_are_not_used() {
    let (folder, path) = folder();
    let elsewhere = folder.path().join("elsewhere.sock");
    let former = Server::start_at(Options { listen: Some(super::any_port()), ..only(&path) }, 1, &[]);
    let (tcp, unix) = former.admin.share().expect("descriptors");
    let (tcp, unix) = (tcp.map(TcpListener::from), unix.map(UnixListener::from));
    let address = TcpListener::bind(super::any_port()).and_then(|free| free.local_addr()).expect("a free port");
    let next = Server::start_at(Options { listen: Some(address), tcp, unix, ..only(&elsewhere) }, 1, &[]);
    assert_eq!(next.address(), address);
    assert_eq!(next.get("/livez").body, "ok\n");
    for socket in [&path, &elsewhere] {
        assert_eq!(ask(socket, "GET", "/livez", "").body, "ok\n", "{}", socket.display());
    }
    next.stop();
    former.admin.hand_over();
    former.services.stop();
    assert!(!path.exists(), "nobody answers there any more");
}

/// The new config opens the socket up. As long as the former process may go on, the file is as that one made it.
#[test]
fn a_successor_that_fails_leaves_the_socket_as_it_was() {
    let (_folder, path) = folder();
    let mode = || fs::symlink_metadata(&path).expect("is there").permissions().mode() & 0o777;
    let former = Server::start_at(only(&path), 1, &[]);
    let successor = || {
        let (_, unix) = former.admin.share().expect("descriptors");
        let access = Access { operators: Vec::new(), readers: vec![Principal::User(4711)] };
        Server::start_at(Options { access, unix: unix.map(UnixListener::from), ..only(&path) }, 1, &[])
    };
    let failed = successor();
    assert_eq!(mode(), 0o600);
    failed.stop();
    assert_eq!((ask(&path, "GET", "/livez", "").body.as_str(), mode()), ("ok\n", 0o600));
    let mut next = successor();
    next.admin.own();
    assert_eq!(mode(), 0o666);
    former.stop();
    next.stop();
}
