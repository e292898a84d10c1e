//! What `ringpost status` says of servers in trouble and out of it.

use super::*;
use ringpost_admin::api::{CanaryView, MeshStatus, Rates};

const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

fn ago(seconds: u64) -> Option<Moment> {
    Some(Timestamp::from_unix_micros(NOW.unix_micros() - seconds * 1_000_000).into())
}

fn shard(number: u16, scale: u64, limits: &[(&str, u64)]) -> ShardStatus {
    ShardStatus {
        shard: number,
        phase: "degraded".to_owned(),
        sessions_open: 3 * scale,
        message_memory_bytes: 20_000 * scale,
        queue: 2 * scale,
        queue_deferred: scale / 3,
        queue_held: scale / 10,
        backlog_bytes: 30_000_000 * scale,
        accepted: 1_000 * scale * scale * scale,
        rejected: 4,
        deferred: 5,
        limits_hit: limits.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect(),
        bans: 7,
        mesh: MeshStatus { asked: 8, full: 0 },
        ..ShardStatus::default()
    }
}

fn probe(name: &str, serves: bool, trouble: Option<(&str, &str)>) -> ProbeView {
    ProbeView {
        name: name.to_owned(),
        ok: trouble.is_none(),
        reason: trouble.map(|(reason, _)| reason.to_owned()),
        serves,
        since: ago(300),
        hint: trouble.and_then(|(_, hint)| (!hint.is_empty()).then(|| hint.to_owned())),
    }
}

fn server(state: &str, probes: Vec<ProbeView>, shards: Vec<ShardStatus>) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        state: state.to_owned(),
        state_since: ago(300),
        reasons: probes.iter().filter_map(|probe| probe.reason.clone()).collect(),
        probes,
        process: 42,
        hostname: "mx1.example.org".to_owned(),
        config_file: Some("/etc/ringpost/ringpost.toml".to_owned()),
        uptime_seconds: 3_700,
        epoch: 1,
        recent: Rates { sessions: 9.0, accepted: 12.34, rejected: 0.4, deferred: 0.0, delivered: 120.0 },
        shards,
        ..Status::default()
    }
}

/// Checks the whole report, and that a terminal of 80 columns has room for it.
#[track_caller]
fn check(status: &Status, expected: &str) {
    let told = report(status, NOW);
    assert_eq!(told, expected);
    assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "wider than {WIDTH} columns:\n{told}");
}

/// Checks the verdict alone.
#[track_caller]
fn check_verdict(state: &str, probes: Vec<ProbeView>, expected: &str) {
    assert_eq!(verdict(&server(state, probes, Vec::new()), NOW), expected);
}

#[test]
fn a_server_in_trouble() {
    let limits = [("limits.connections_per_ip", 2), ("limits.recipients", 1)];
    let shards = vec![shard(0, 1, &limits), shard(1, 100, &limits[..1])];
    let target = "connection refused by 192.0.2.1:25, which is the last of its servers; it is left alone until 13:04";
    let probes = vec![
        probe("dns", true, None),
        probe("target:hop", true, Some((target, "`ringpost queue status`, docs/runbooks/hung-next-hop.md"))),
        probe("disk", false, Some(("3GiB are free, fewer than spool.space_hard", "docs/runbooks/disk-full.md"))),
    ];
    let mut status = server("degraded", probes, shards);
    status.queue_oldest_seconds = Some(3_720);
    status.certificate_expires = Some(NOW.after(Duration::from_secs(29 * 86_400)).into());
    status.upgrade = Some("process 43 makes itself ready".to_owned());
    status.reasons.push("shard 1: the spool can't be written".to_owned());
    status.canary = Some(CanaryView {
        core: 4,
        epoch: 2,
        since: ago(60).expect("a moment"),
        until: NOW.after(Duration::from_secs(240)).into(),
        state: "running".to_owned(),
        ..CanaryView::default()
    });
    check(
        &status,
        "\
DEGRADED for 5 minutes: mx1.example.org takes no mail; not well, 2 of 3 things
  watched: disk, target:hop
ringpost 0.1.0, process 42, up 1 hour 1 minute

- disk for 5 minutes (no mail is taken): 3GiB are free, fewer than
  spool.space_hard
  see docs/runbooks/disk-full.md
- target:hop for 5 minutes: connection refused by 192.0.2.1:25, which is the
  last of its servers; it is left alone until 13:04
  see `ringpost queue status`, docs/runbooks/hung-next-hop.md
- shard 1: the spool can't be written

rates        12 accepted, 0.4 rejected, 0.0 deferred, 120 delivered a second
queue        202 messages, 2889MiB, 33 waiting for another attempt; the oldest
             came 1 hour 2 minutes ago
             held messages: 10, see `ringpost queue list --state held`
config       1, from /etc/ringpost/ringpost.toml
certificate  ends in 29 days, at 2026-12-19T13:00:00Z
canary       config 2 runs on core 4 alone, for 1 minute so far; 4 minutes to
             go; see `ringpost canary show`
upgrade      process 43 makes itself ready

SHARD  PHASE     SESSIONS  QUEUE  ACCEPTED  REJECTED  DEFERRED  BACKLOG  MEMORY
0      degraded         3      2      1000         4         5      28M     19K
1      degraded       300    200     1000M         4         5    2861M   1953K
all                   303    202     1000M         8        10    2889M   1972K

limits met since the start, see `ringpost limits`:
  limits.connections_per_ip  4
  limits.recipients          1
",
    );
}

#[test]
fn a_server_out_of_trouble() {
    let mut calm = shard(0, 0, &[]);
    calm.phase = "ready".to_owned();
    let mut status = server("ready", vec![probe("disk", false, None), probe("dns", true, None)], vec![calm]);
    status.config_file = None;
    status.recent = Rates::default();
    check(
        &status,
        "\
READY for 5 minutes: mx1.example.org takes mail; all 2 things that are watched
  are well
ringpost 0.1.0, process 42, up 1 hour 1 minute

rates        0.0 accepted, 0.0 rejected, 0.0 deferred, 0.0 delivered a second
queue        empty
config       1, from the embedded defaults

SHARD  PHASE  SESSIONS  QUEUE  ACCEPTED  REJECTED  DEFERRED  BACKLOG  MEMORY
0      ready         0      0         0         4         5        0       0
",
    );
}

#[test]
fn the_verdict_says_whether_mail_is_taken() {
    let failing = |name: &str, serves| probe(name, serves, Some(("why", "")));
    check_verdict(
        "degraded",
        vec![failing("target:a", true)],
        "DEGRADED for 5 minutes: mx1.example.org takes mail; not well, 1 of 1 things watched: target:a",
    );
    check_verdict(
        "degraded",
        (0..9).map(|number| failing(&format!("t{number}"), number != 8)).collect(),
        "DEGRADED for 5 minutes: mx1.example.org takes no mail; not well, 9 of 9 things watched: t8, t0, t1, t2 and 5 more",
    );
    check_verdict("starting", Vec::new(), "STARTING for 5 minutes: mx1.example.org takes no mail yet");
    check_verdict("stopping", Vec::new(), "STOPPING for 5 minutes: mx1.example.org takes no mail");
    let one = vec![probe("dns\u{1b}[2J", true, None)];
    check_verdict(
        "ready",
        one,
        "READY for 5 minutes: mx1.example.org takes mail; the one thing that is watched is well",
    );
}

#[test]
fn a_certificate_that_has_ended_is_told() {
    assert_eq!(certificate(ago(90).expect("a moment"), NOW), "ended 1 minute 30 seconds ago, at 2026-11-20T12:58:30Z");
}

#[test]
fn questions_that_were_not_answered_are_told() {
    let mut full = shard(0, 1, &[]);
    full.mesh.full = 3;
    assert!(shards::table(&[full]).ends_with("questions between shards without an answer in time: 3\n"));
}

#[test]
fn the_status_of_the_command_tells_the_state() {
    for (state, code) in [("ready", 0), ("degraded", 3), ("starting", 4), ("stopping", 4), ("lost", 1)] {
        assert_eq!(exit_code(state), ExitCode::from(code), "{state}");
    }
}
