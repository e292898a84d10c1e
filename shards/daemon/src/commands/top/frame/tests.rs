//! Frames of made-up servers.

use super::*;
use ringpost_admin::api::ProbeView;
use ringpost_base::Timestamp;

fn shard(number: u16, scale: u64) -> ShardView {
    ShardView {
        shard: number,
        cpu: Some(u32::from(number) + 4),
        phase: "ready".to_owned(),
        busy: Some(0.05 * scale as f64),
        recent: Rates { accepted: 7.0, ..Rates::default() },
        sessions_open: 3 * scale,
        message_memory_bytes: 20_000 * scale,
        queue: 12_345 * scale,
        accepted: 1_000 * scale,
        rejected: 10 * scale,
        deferred: scale,
        delivered: 900 * scale,
        spool_commit_p50_seconds: Some(0.000_5),
        spool_commit_p99_seconds: Some(0.012),
        lag_p99_seconds: None,
        ..ShardView::default()
    }
}

fn reading(process: u32, read: Instant, shards: Vec<ShardView>) -> Reading {
    let status = Status {
        version: "0.1.0".to_owned(),
        state: "ready".to_owned(),
        hostname: "mx1.example.org".to_owned(),
        process,
        uptime_seconds: 3_700,
        ..Status::default()
    };
    Reading { status, shards, read, at: Timestamp::from_unix_micros(1_795_179_600_000_000).into() }
}

/// The frame of two readings, two seconds apart.
fn frame(view: &View, before: Option<(u32, Vec<ShardView>)>, after: (u32, Vec<ShardView>)) -> String {
    let start = Instant::now();
    let before = before.map(|(process, shards)| reading(process, start, shards));
    let after = reading(after.0, start + Duration::from_secs(2), after.1);
    Frame { before: before.as_ref(), reading: &after, view, trouble: None }.plain()
}

fn view(keys: &str) -> View {
    let mut view = View::new(Duration::from_secs(1));
    keys.bytes().for_each(|key| {
        view.press(&[key]);
    });
    view
}

/// The numbers of the shards in the order in which they are shown.
fn order(keys: &str, shards: Vec<ShardView>) -> Vec<String> {
    let told = frame(&view(keys), None, (1, shards));
    let rows = told.lines().skip_while(|line| !line.contains("SHARD")).skip(1);
    rows.map(|row| row.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn rates_are_the_difference_of_two_readings() {
    let told = frame(&view(""), Some((1, vec![shard(0, 1), shard(1, 1)])), (1, vec![shard(0, 2), shard(1, 20)]));
    let expected = "\
mx1.example.org: ready, up 1 hour 1 minute, ringpost 0.1.0
2026-11-20T13:00:00Z, every 1s

SHARD CPU BUSY  SESS  IN/s REJ/s DEF/s OUT/s   P50   P99   LAG QUEUE   MEM
    0   4  10%     6   500   5.0   0.5   450 500µs  12ms     - 24690   39K
    1   5 100%    60  9500    95   9.5  8550 500µs  12ms     -  246k  390K
  all      55%    66 10000   100    10  9000                    271k  429K
";
    assert_eq!(told, expected);
    assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "{told}");
}

#[test]
fn without_an_earlier_reading_of_the_same_process_rates_are_the_servers() {
    for before in [None, Some((1, vec![shard(0, 1)])), Some((2, vec![shard(9, 1)]))] {
        let told = frame(&view(""), before, (2, vec![shard(0, 2)]));
        assert!(told.contains("    0   4  10%     6   7.0   0.0"), "{told}");
    }
}

#[test]
fn counts_that_went_back_are_no_rate() {
    let told = frame(&view(""), Some((1, vec![shard(0, 9)])), (1, vec![shard(0, 2)]));
    assert!(told.contains("    0   4  10%     6   0.0   0.0"), "{told}");
}

#[test]
fn shards_are_sorted_as_told() {
    let shards = || vec![shard(0, 2), shard(1, 7), shard(2, 5)];
    assert_eq!(order("", shards()), ["0", "1", "2", "all"]);
    for keys in ["s", "ss", "ssssss", "sssssss"] {
        assert_eq!(order(keys, shards()), ["1", "2", "0", "all"], "{keys}");
    }
    // All alike, so their numbers decide.
    for keys in ["sss", "ssss", "sssss"] {
        assert_eq!(order(keys, shards()), ["0", "1", "2", "all"], "{keys}");
    }
    assert!(frame(&view("ps"), None, (1, shards())).contains("paused, sorted by BUSY"));
}

#[test]
fn what_is_not_as_usual_is_above_the_table() {
    let odd = ShardView { stalled_ms: Some(6_000), ..shard(0, 1) };
    let mut reading = reading(1, Instant::now(), vec![odd]);
    let probe = |name: &str, ok| ProbeView { name: name.to_owned(), ok, ..ProbeView::default() };
    reading.status.probes = vec![probe("stall", false), probe("dns", true), probe("target:\u{1b}[2J", false)];
    let view = view("");
    let told = Frame { before: None, reading: &reading, view: &view, trouble: Some("it is gone") }.plain();
    let expected = "\
no answer: it is gone
not well, see `ringpost status`: stall, target:\\u{1b}[2J
shard 0 is stalled: no sign of life for 6 seconds
";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_frame_is_cut_to_the_screen() {
    let reading = reading(1, Instant::now(), (0..64).map(|number| shard(number, 1)).collect());
    let view = view("");
    let frame = Frame { before: None, reading: &reading, view: &view, trouble: None };
    for (rows, columns) in [(24, 80), (5, 20), (2, 3), (1, 1), (200, 300)] {
        let lines = frame.live(Size { rows, columns });
        assert_eq!(lines.len(), rows.max(1), "{rows} rows");
        assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns} columns: {lines:?}");
        assert!(KEYS.starts_with(lines.last().expect("a line").as_str()));
    }
    assert_eq!(frame.live(Size { rows: 24, columns: 80 })[22], "... more than the screen has room for");
}
