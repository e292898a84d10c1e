//! What lines look like, and what becomes of them on the way out.

use super::writer::{Output, Sink, start};
use super::*;
use ringpost_base::ShardId;
use std::io::Write;
use std::sync::Mutex;

/// An output that can be read back, and held up.
#[derive(Clone, Default)]
struct Page {
    text: Arc<Mutex<Vec<u8>>>,
    held: Arc<Mutex<()>>,
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _held = self.held.lock().expect("not poisoned");
        // Short writes, as a pipe may make them.
        let taken = bytes.len().min(1000);
        self.text.lock().expect("not poisoned").extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn read(&self) -> String {
        String::from_utf8(self.text.lock().expect("not poisoned").clone()).expect("UTF-8")
    }
}

/// The counts of dropped lines are the process's: the tests that cause some take turns.
static COUNTS: Mutex<()> = Mutex::new(());

const JSON: LogOptions = LogOptions { format: Format::Json, level: Level::INFO, colour: false };
const TEXT: LogOptions = LogOptions { format: Format::Text, level: Level::INFO, colour: false };

fn log_to(page: &Page, options: LogOptions, chunks_max: usize) -> (tracing::Dispatch, LogGuard) {
    let sink = Arc::new(Sink::new(chunks_max));
    let thread = start(&sink, Output::Test(Box::new(page.clone()))).expect("a thread");
    let control = LogControl::new(options);
    let guard = LogGuard { sink: Arc::clone(&sink), thread: Some(thread), control: control.clone() };
    (tracing::Dispatch::new(Log { control, sink }), guard)
}

/// The lines that `f` logs, on a thread of its own named "main" and perhaps of a shard.
fn lines(options: LogOptions, shard: Option<u16>, f: impl FnOnce() + Send) -> Vec<String> {
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, options, 64);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("main".into()).spawn_scoped(scope, || {
            if let Some(shard) = shard {
                set_shard(ShardId(shard));
            }
            tracing::dispatcher::with_default(&dispatch, f);
        });
        // A thread's last lines leave with its storage, which `join` waits for and the scope alone does not.
        thread.expect("a thread").join().expect("no panic");
    });
    guard.finish();
    page.read().lines().map(str::to_owned).collect()
}

fn json(shard: Option<u16>, f: impl FnOnce() + Send) -> String {
    let lines = lines(JSON, shard, f);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (time, rest) = lines[0].split_at(r#"{"time":"2026-11-20T10:31:25.123456Z""#.len());
    let time = time.strip_prefix("{\"time\":\"").and_then(|time| time.strip_suffix('"')).expect("a time first");
    time.parse::<jiff::Timestamp>().expect("RFC 3339");
    rest.to_owned()
}

fn text(options: LogOptions, f: impl FnOnce() + Send) -> String {
    let lines = lines(options, Some(3), f);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = if options.colour { "\x1b[2m10:31:25.123\x1b[0m" } else { "10:31:25.123" };
    lines[0][start.len()..].to_owned()
}

#[test]
fn a_json_line_is_exact() {
    let line = json(Some(0), || {
        let error = io::Error::from(io::ErrorKind::NotFound);
        tracing::info!(
            target: "ringpost_serve::mx",
            session = "01J", bytes = 4096_u64, delta = -3_i64, wide = u128::MAX, share = 0.5, large = 1e300, none = f64::NAN,
            tls = true, peer = %"192.0.2.1", kind = ?Some(1), error = &error as &dyn std::error::Error,
            "message {}", "accepted"
        );
    });
    assert_eq!(
        line,
        r#","level":"info","target":"ringpost_serve::mx","shard":0,"message":"message accepted","session":"01J","bytes":4096,"delta":-3,"wide":340282366920938463463374607431768211455,"share":0.5,"large":1e300,"none":"NaN","tls":true,"peer":"192.0.2.1","kind":"Some(1)","error":"entity not found"}"#
    );
    let line = json(None, || tracing::error!(target: "t", shard = 7, target = "maildir", "x"));
    assert_eq!(line, r#","level":"error","target":"t","message":"x","shard_":7,"target_":"maildir"}"#);
}

#[test]
fn a_hostile_json_value_stays_a_value() {
    let hostile = "a\"b\\c\r\nd\t\u{1b}[31m\0\u{7f}\u{9b}31m é 漢 \u{2028}";
    let expected = r#"a\"b\\c\r\nd\t\u001b[31m\u0000\u007f\u009b31m é 漢 "#.to_owned() + "\u{2028}";
    let line = json(None, || tracing::warn!(target: "t", value = hostile, display = %hostile, "m: {hostile}"));
    assert_eq!(
        line,
        format!(
            r#","level":"warn","target":"t","message":"m: {expected}","value":"{expected}","display":"{expected}"}}"#
        )
    );
}

#[test]
fn every_byte_at_every_place_is_escaped_or_kept() {
    for special in (0..=0x9f).filter_map(char::from_u32) {
        for place in 0..20 {
            let value: String = (0..20).map(|at| if at == place { special } else { 'x' }).collect();
            let mut out = Vec::new();
            escape::json(&mut out, &value);
            let out = String::from_utf8(out).expect("UTF-8");
            assert_eq!(out == value, matches!(special, ' '..='~') && !matches!(special, '"' | '\\'), "{special:?}");
            assert!(!out.chars().any(char::is_control));
        }
    }
}

#[test]
fn a_text_line_is_exact() {
    let line = text(TEXT, || tracing::info!(bytes = 7, from = "a@b.example", why = "two words", none = "", "accepted"));
    assert_eq!(line, r#"  INFO   shard 3   accepted  bytes=7 from=a@b.example why="two words" none="""#);
    let line = text(LogOptions { colour: true, ..TEXT }, || tracing::error!(bytes = 7, "no"));
    assert_eq!(line, "  \x1b[1;31mERROR\x1b[0m  shard 3   no  \x1b[2mbytes=\x1b[0m7");
    assert!(lines(TEXT, None, || tracing::warn!("no shard"))[0].ends_with("  WARN   main      no shard"));
}

#[test]
fn a_hostile_text_value_forges_nothing() {
    let hostile = "x\n10:31:25.123  INFO  shard 0  forged\u{1b}]0;t\u{7}\u{9b}2J\0\"\\\u{202e}é";
    let line = text(TEXT, || tracing::info!(value = hostile, "m {hostile}"));
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert!(line.contains("m x\\n10:31:25.123  INFO"), "{line}");
    assert!(
        line.ends_with(r#"  value="x\n10:31:25.123  INFO  shard 0  forged\u{1b}]0;t\u{7}\u{9b}2J\u{0}\"\\\u{202e}é""#)
    );
    let line = text(TEXT, || tracing::info!(value = "a=b", other = ?"q", "m"));
    assert!(line.ends_with(r#"  value="a=b" other="\"q\"""#), "{line}");
}

#[test]
fn a_long_value_is_cut_off() {
    let long = "é".repeat(VALUE_MAX);
    let shown = "é".repeat(VALUE_MAX / 2) + "…";
    let line = json(None, || tracing::info!(target: "t", a = long, b = %long, "m"));
    assert_eq!(line, format!(r#","level":"info","target":"t","message":"m","a":"{shown}","b":"{shown}"}}"#));
}

#[test]
fn levels_below_the_limit_and_spans_cost_and_write_nothing() {
    let lines = lines(JSON, None, || {
        let _entered = tracing::error_span!("span", key = 1).entered();
        tracing::debug!("not this");
        tracing::info!("this");
        assert!(!tracing::enabled!(Level::DEBUG));
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn each_threads_lines_come_out_in_order_and_whole() {
    const LINES: u64 = 5_000;
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, JSON, 4096);
    let threads: Vec<_> = (0..3)
        .map(|shard| {
            let dispatch = dispatch.clone();
            std::thread::spawn(move || {
                set_shard(ShardId(shard));
                tracing::dispatcher::with_default(&dispatch, || {
                    (0..LINES).for_each(|number| tracing::info!(target: "t", number, "m"));
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    guard.finish();
    let mut next = [0; 3];
    for line in page.read().lines() {
        let (_, rest) = line.split_once(r#","shard":"#).expect("a whole line");
        let shard: usize = rest[..1].parse().expect("a shard");
        assert_eq!(rest[1..], format!(r#","message":"m","number":{}}}"#, next[shard]));
        next[shard] += 1;
    }
    assert_eq!(next, [LINES; 3]);
}

#[test]
fn what_a_full_queue_cannot_take_is_dropped_and_counted() {
    let _turn = COUNTS.lock();
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, JSON, 2);
    let before = (dropped_lines(), take_dropped()).0;
    let held = page.held.lock().expect("not poisoned");
    let taken = std::thread::scope(|scope| {
        let shard = scope.spawn(|| {
            set_shard(ShardId(1));
            tracing::dispatcher::with_default(&dispatch, || {
                for number in 0..10 {
                    tracing::info!(number, "first");
                    tracing::info!(number, "second");
                    flush();
                }
            });
            (take_dropped(), take_dropped())
        });
        shard.join().expect("no panic")
    });
    drop(held);
    guard.finish();
    let written = page.read().lines().count() as u64;
    // Two buffers wait, a third may be with the writer.
    assert!((4..=6).contains(&written), "{written}");
    assert_eq!(taken.0, 20 - written);
    assert_eq!(taken.1, 0, "taken once");
    assert_eq!(dropped_lines() - before, taken.0);
}

#[test]
fn a_panicking_debug_leaves_no_half_line_and_a_panicked_thread_its_lines() {
    struct Bomb;
    impl std::fmt::Debug for Bomb {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("half")?;
            panic!("in a Debug, as this test wants")
        }
    }
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, TEXT, 8);
    let thread = std::thread::spawn(move || {
        set_shard(ShardId(0));
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!("before");
            let caught = std::panic::catch_unwind(|| tracing::info!(bomb = ?Bomb, "never"));
            assert!(caught.is_err());
            tracing::info!("after");
            panic!("and now the thread, as this test wants");
        });
    });
    assert!(thread.join().is_err());
    guard.finish();
    let text = page.read();
    let messages: Vec<_> = text.lines().map(|line| line.rsplit("  ").next().unwrap_or_default().trim()).collect();
    assert_eq!(messages, ["before", "after"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_writing_and_nothing_else() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let _turn = COUNTS.lock();
    let sink = Arc::new(Sink::new(8));
    let thread = start(&sink, Output::Test(Box::new(Gone))).expect("a thread");
    let before = dropped_lines();
    let log = Log { control: LogControl::new(JSON), sink: Arc::clone(&sink) };
    tracing::subscriber::with_default(log, || tracing::info!("to nobody"));
    drop(LogGuard { sink, thread: Some(thread), control: LogControl::new(JSON) });
    assert_eq!(dropped_lines() - before, 1);
    assert!(take_dropped() >= 1, "left to whoever asks");
}

#[test]
fn options_survive_their_packing() {
    for level in LEVELS {
        for (format, colour) in [(Format::Json, false), (Format::Text, false), (Format::Text, true)] {
            let back = unpack(pack(LogOptions { format, level, colour }));
            assert_eq!((back.level, back.format, back.colour), (level, format, colour));
        }
    }
}
