//! Health and metrics as a client meets them, over a plain socket.

use super::{Server, any_port, failing};
use crate::{Error, Options};
use ringpost_base::ShardId;
use ringpost_control::Phase;
use ringpost_metrics::{BUCKETS, Counter, Gauge, ProcessGauge, Timing};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The value of a series written out as the exposition has it.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
}

#[test]
fn readyz_tells_each_phase_and_why() {
    let server = Server::start(2, &["the spool's disk is full"]);
    let seats: Vec<_> = server.board.shards().filter_map(|shard| server.board.seat(shard)).collect();
    for (phase, status) in [
        (Phase::Starting, 503),
        (Phase::Ready, 200),
        (Phase::Degraded, 200),
        (Phase::Draining, 503),
        (Phase::Stopping, 503),
    ] {
        let state = server.board.publish_phase(phase);
        seats[0].acknowledge(state);
        if phase == Phase::Ready {
            assert_eq!(server.readyz().0, 503, "a shard that does not listen yet");
            seats[1].acknowledge(state);
        }
        let (answered, body) = server.readyz();
        assert_eq!(answered, status, "{phase}");
        let state = if phase == Phase::Draining { "stopping" } else { phase.name() };
        assert_eq!(body["state"], state);
        assert_eq!(body["reasons"][0], "the spool's disk is full");
        assert_eq!(body["shards"][0], serde_json::json!({ "shard": 0, "phase": phase.name() }));
        if !matches!(phase, Phase::Starting | Phase::Ready) {
            assert_eq!(body["shards"][1]["phase"], "ready");
            let late = body["reasons"][1].as_str().expect("text");
            let wanted = format!("shard 1 has not acknowledged {phase}, config epoch 0 yet");
            assert!(late.starts_with(&wanted), "{late}");
        }
    }
    server.board.depart(ShardId(1));
    let (_, body) = server.readyz();
    assert_eq!(body["shards"][1]["phase"], "ended");
    assert_eq!(body["reasons"][1], "shard 1 has ended");
    server.stop();
}

#[test]
fn metrics_of_two_shards_over_two_scrapes() {
    let server = Server::start(2, &[]);
    let (one, two) = (&server.blocks[0], &server.blocks[1]);
    one.add(Counter::SessionsOpened, 5);
    two.add(Counter::SessionsOpened, 7);
    two.add(Counter::SessionsClosedTls, 1);
    one.raise(Gauge::SessionsOpen, 3);
    for micros in [50, 100, 101, 400, 20_000, 400_000_000] {
        one.observe(Timing::SpoolCommit, Duration::from_micros(micros));
    }
    let commit = |shard, le: &str| format!(r#"ringpost_spool_commit_seconds_bucket{{shard="{shard}",le="{le}"}}"#);
    let sum = r#"ringpost_spool_commit_seconds_sum{shard="0"}"#;
    let count = r#"ringpost_spool_commit_seconds_count{shard="0"}"#;

    let reply = server.get("/metrics");
    let text = reply.body;
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{}", reply.head);
    assert_eq!(value(&text, r#"ringpost_sessions_opened_total{shard="0"}"#), 5.0);
    assert_eq!(value(&text, r#"ringpost_sessions_opened_total{shard="1"}"#), 7.0);
    assert_eq!(value(&text, r#"ringpost_sessions_closed_total{shard="1",how="tls"}"#), 1.0);
    assert_eq!(value(&text, r#"ringpost_sessions_open{shard="0"}"#), 3.0);
    for (le, expected) in
        [("0.0001", 2.0), ("0.00025", 3.0), ("0.0005", 4.0), ("0.025", 5.0), ("300", 5.0), ("+Inf", 6.0)]
    {
        assert_eq!(value(&text, &commit(0, le)), expected, "{le}");
    }
    assert_eq!(value(&text, &commit(1, "+Inf")), 0.0);
    assert_eq!(value(&text, count), 6.0);
    assert!((value(&text, sum) - 400.020651).abs() < 1e-9);

    // More values than wait for the exporter at a time, at a bound and just above one, and a gauge that falls.
    for _ in 0..20_000 {
        one.observe(Timing::SpoolCommit, Duration::from_millis(1));
        one.observe(Timing::SpoolCommit, Duration::from_nanos(1_000_001));
    }
    one.add(Counter::SessionsOpened, 1);
    one.lower(Gauge::SessionsOpen, 3);
    let text = server.get("/metrics").body;
    assert_eq!(value(&text, r#"ringpost_sessions_opened_total{shard="0"}"#), 6.0);
    assert_eq!(value(&text, r#"ringpost_sessions_open{shard="0"}"#), 0.0);
    assert_eq!(value(&text, &commit(0, "0.0005")), 4.0);
    assert_eq!(value(&text, &commit(0, "0.001")), 20_004.0);
    assert_eq!(value(&text, &commit(0, "0.0025")), 40_004.0);
    assert_eq!(value(&text, count), 40_006.0);
    assert!((value(&text, sum) - (400.020651 + 40.00002)).abs() < 1e-6, "{}", value(&text, sum));
    server.stop();
}

#[test]
fn every_family_of_the_catalogue_is_there_from_the_start() {
    let server = Server::start(1, &[]);
    let text = server.get("/metrics").body;
    let check = |name: &str, kind: &str| {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.ends_with('.')), "{name}: {help:?}");
    };
    Counter::ALL.iter().for_each(|row| check(row.family().name, "counter"));
    Gauge::ALL.iter().for_each(|row| check(row.family().name, "gauge"));
    Timing::ALL.iter().for_each(|row| check(row.family().name, "histogram"));
    ProcessGauge::ALL.iter().for_each(|row| check(row.family().name, row.family().kind()));
    assert!(!text.contains("_total_total") && !text.contains("_seconds_seconds"));
    assert!(text.contains("# HELP ringpost_sessions_closed_total Sessions that ended, by how.\n"), "{text}");
    let buckets = text.lines().filter(|line| line.starts_with("ringpost_delivery_seconds_bucket")).count();
    assert_eq!(buckets, BUCKETS.len() + 1);
    // The one series of the process that needs nobody to tell of it.
    assert!(text.contains("\nringpost_audit_entries_lost_total 0\n"), "{text}");
    let of_shards = |line: &&str| !line.starts_with('#') && !line.is_empty() && line.contains("shard=");
    let series = text.lines().filter(of_shards).count();
    assert_eq!(series, Counter::ALL.len() + Gauge::ALL.len() + Timing::ALL.len() * (buckets + 2));
    server.stop();
}

#[test]
fn other_paths_methods_and_oversized_headers_are_answered() {
    let server = Server::start(1, &[]);
    let live = server.get("/livez");
    assert_eq!((live.status, live.body.as_str()), (200, "ok\n"));
    let unknown = server.get("/nothing");
    assert_eq!(unknown.status, 404);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert!(unknown.body.contains(path), "{}", unknown.body);
    }
    let post = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(server.ask(post).status, 405);
    let filler = "x".repeat(17 * 1024);
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {filler}");
    assert_eq!(server.ask(&request).status, 431);
    server.stop();
}

#[test]
fn a_taken_port_is_an_error_that_says_what_to_do() {
    let taken = TcpListener::bind(any_port()).expect("a free port");
    let listen = taken.local_addr().expect("bound");
    let error = failing(Options { listen: Some(listen), ..Options::default() });
    assert!(matches!(error, Error::Listen { .. }));
    let text = error.to_string();
    assert!(text.contains(&listen.to_string()) && text.contains("[admin] listen"), "{text}");
}

#[test]
fn the_api_is_not_answered_over_tcp() {
    let server = Server::start(1, &[]);
    for line in ["GET /api/v1/status", "GET /api/v1/bans", "POST /api/v1/reload", "DELETE /api/v1/bans/192.0.2.1"] {
        let reply = server.ask(&format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        assert_eq!(reply.status, 404, "{line}");
        assert!(!reply.body.contains("/api/"), "{}", reply.body);
    }
    server.stop();
}

#[test]
fn stopping_takes_less_than_a_second_also_with_idle_clients() {
    let server = Server::start(1, &[]);
    let address = server.address();
    let mut kept = TcpStream::connect(address).expect("listening");
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    assert!(kept.read(&mut [0; 1024]).expect("an answer") > 0);
    let _halfway = TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"GET /li").map(|()| stream));
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}
