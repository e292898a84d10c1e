//! What lines look like, and what becomes of them on the way out.

use super::writer::{Output, Sink, start};
use super::*;
use ringpost_base::ShardId;
use serde_json::Value;
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

const JSON: LogOptions = plain(Format::Json);
const TEXT: LogOptions = plain(Format::Text);

const fn plain(format: Format) -> LogOptions {
    let redact = Redaction { mail: false, client: false };
    LogOptions { format, level: Level::INFO, colour: false, modules: Vec::new(), redact, flood: None }
}

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
    let start = if options.colour { "\x1b[2m10:31:25.123\x1b[0m" } else { "10:31:25.123" };
    let lines = lines(options, Some(3), f);
    assert_eq!(lines.len(), 1, "{lines:?}");
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

/// What `f` logs on a thread of its own, with the control of that log in its hands.
fn controlled(options: LogOptions, f: impl FnOnce(&LogControl) + Send) -> Vec<Value> {
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, options, 64);
    let control = guard.control();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_shard(ShardId(0));
            tracing::dispatcher::with_default(&dispatch, || f(&control));
        });
        thread.join().expect("no panic");
    });
    guard.finish();
    page.read().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["message"].as_str().expect("a message")).collect()
}

/// A line of a module whose level changes.
fn from_serve(message: &'static str) {
    tracing::debug!(target: "ringpost_serve::mx", "{message}");
    tracing::debug!(target: "ringpost_net::tls", "not {message}");
}

#[test]
fn the_level_of_one_module_changes_while_it_logs() {
    let lines = controlled(JSON, |control| {
        from_serve("before");
        control.change(LogOptions { modules: vec![("serve".into(), Level::DEBUG)], ..JSON });
        from_serve("from the config");
        control.set_levels(LogLevels { level: Level::INFO, modules: vec![("serve::mx".into(), Level::TRACE)] });
        from_serve("live");
        assert!(tracing::enabled!(target: "ringpost_serve::mx", Level::TRACE));
        assert!(!tracing::enabled!(target: "ringpost_serve", Level::DEBUG));
        control.set_levels(LogLevels { level: Level::DEBUG, modules: vec![("net".into(), Level::ERROR)] });
        from_serve("all but one");
        control.change(JSON);
        from_serve("after");
    });
    assert_eq!(messages(&lines), ["from the config", "live", "all but one"]);
}

#[test]
fn the_form_changes_with_the_next_line() {
    let text = lines(JSON, Some(0), || tracing::info!("first"));
    assert!(text[0].starts_with('{'));
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, JSON, 64);
    let control = guard.control();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info!("as JSON");
        control.change(TEXT);
        tracing::info!("as text");
    });
    guard.finish();
    let page = page.read();
    let lines: Vec<_> = page.lines().map(|line| line.starts_with('{')).collect();
    assert_eq!(lines, [true, false]);
}

#[test]
fn secrets_do_not_show_and_addresses_as_the_rules_let_them() {
    let log = || {
        tracing::info!(
            peer = %"192.0.2.77:50123",
            from = "alice@example.org",
            helo = "dyn-77.pool.example.net",
            password = "hunter2",
            api_token = 12345_u64,
            message_id = "<1@192.0.2.77>",
            reason = "550 <alice@example.org> via 192.0.2.77",
            error = &io::Error::other("alice@example.org: refused") as &dyn std::error::Error,
            shown = ?Some("192.0.2.78"),
            "said {}", "alice@example.org"
        );
    };
    let open = controlled(JSON, |_| log()).remove(0);
    assert_eq!((&open["password"], &open["api_token"]), (&"***".into(), &"***".into()));
    assert_eq!((&open["peer"], &open["from"]), (&"192.0.2.77:50123".into(), &"alice@example.org".into()));

    let rules = LogOptions { redact: Redaction { mail: true, client: true }, ..JSON };
    let line = controlled(rules.clone(), |_| log()).remove(0);
    let from = line["from"].as_str().expect("text").to_owned();
    assert!(
        from.starts_with('~') && from.ends_with("@example.org") && from.len() == "~1f3a9c@example.org".len(),
        "{from}"
    );
    for (key, expected) in [
        ("peer", "192.0.2.0/24"),
        ("password", "***"),
        ("api_token", "***"),
        ("message_id", "<1@192.0.2.77>"),
        ("reason", &format!("550 <{from}> via 192.0.2.0/24")),
        ("error", &format!("{from}: refused")),
        ("shown", "Some(\"192.0.2.0/24\")"),
        ("message", &format!("said {from}")),
    ] {
        assert_eq!(line[key], expected, "{key}");
    }
    assert!(line["helo"].as_str().is_some_and(|helo| helo.starts_with('~') && helo.ends_with(".example.net")));

    let text = text(LogOptions { format: Format::Text, ..rules }, log);
    for hidden in ["alice", "0.2.77:", "0.2.78", "hunter2", "12345", "dyn-77"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
    assert!(text.contains(&format!("said {from}  peer=192.0.2.0/24 from={from}")), "{text}");
}

/// No part of an address stays where a long value is cut off.
#[test]
fn a_cut_through_an_address_leaves_nothing_of_it() {
    let rules = LogOptions { redact: Redaction { mail: true, client: true }, ..JSON };
    let reason = format!("{} alice@example.org", "x".repeat(VALUE_MAX - 4));
    let line = controlled(rules, |_| tracing::info!(reason, "m")).remove(0);
    assert_eq!(line["reason"], format!("{}…", "x".repeat(VALUE_MAX - 4)));
}

/// Logs lines of the same kind. The second may turn in between, once.
fn flood(count: usize) {
    for number in 0..count {
        tracing::info!(number, "refused");
        tracing::error!(number, "broken");
        tracing::info!(id = number, "accepted");
    }
    tracing::info!("another kind");
}

#[test]
fn a_flood_is_cut_off_and_told_and_what_matters_is_all_there() {
    const LIMIT: usize = 3;
    for format in [Format::Json, Format::Text] {
        let options = LogOptions { flood: Some(LIMIT as u32), format, ..JSON };
        let all = lines(options, Some(2), || flood(50));
        let of = |word: &str| all.iter().filter(|line| line.contains(word)).count();
        let notices: Vec<&String> = all.iter().filter(|line| line.contains("lines left out")).collect();
        assert_eq!((of("broken"), of("accepted"), of("another kind")), (50, 50, 1), "{format:?}");
        assert_eq!(notices.len(), 1, "{notices:?}");
        let written = of("refused") - notices.len();
        assert!([LIMIT, 2 * LIMIT].contains(&written), "{written} lines");
        let count = |line: &&String| {
            let digits = line.split("count").nth(1).map(|rest| rest.matches(char::is_numeric).collect::<String>());
            digits.and_then(|digits| digits.parse::<usize>().ok()).expect("a count")
        };
        assert_eq!(written + notices.iter().map(count).sum::<usize>(), 50);
        let first = notices[0];
        match format {
            Format::Json => {
                let line: Value = serde_json::from_str(first).expect("JSON");
                assert_eq!((&line["level"], &line["shard"]), (&"warn".into(), &2.into()), "{line}");
                assert_eq!((&line["kind"], &line["module"]), (&"refused".into(), &module_path!().into()), "{line}");
                assert_eq!(line["target"], "ringpost_runtime::log::flood");
            }
            Format::Text => assert!(first.contains("WARN   shard 2   lines left out  kind=refused module="), "{first}"),
        }
    }
}

#[test]
fn without_a_limit_and_on_threads_that_are_no_shards_nothing_is_left_out() {
    for (limit, shard) in [(None, Some(2)), (Some(1), None)] {
        let all = lines(LogOptions { flood: limit, ..JSON }, shard, || flood(20));
        assert_eq!(all.len(), 61, "{limit:?}");
    }
}

/// However fast they come: what one second left out is told in a later one, and not at the end alone.
#[test]
fn a_flood_that_goes_on_is_told_of_while_it_does() {
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, LogOptions { flood: Some(1), ..JSON }, 64);
    let told = || page.read().matches("lines left out").count();
    std::thread::scope(|scope| {
        let shard = scope.spawn(|| {
            set_shard(ShardId(0));
            let start = Instant::now();
            tracing::dispatcher::with_default(&dispatch, || {
                while told() < 2 && start.elapsed() < Duration::from_secs(60) {
                    (0..10).for_each(|_| tracing::info!("refused"));
                    flush();
                }
            });
            told()
        });
        assert!(shard.join().expect("no panic") >= 2, "nothing is told while it goes on");
    });
    guard.finish();
}

#[test]
fn what_was_left_out_is_handed_to_the_metric_once() {
    let _turn = COUNTS.lock();
    let options = LogOptions { flood: Some(1), ..JSON };
    let taken = Mutex::new((0, 0));
    lines(options.clone(), Some(2), || {
        take_sampled();
        flood(10);
        *taken.lock().expect("not poisoned") = (take_sampled(), take_sampled());
    });
    // Nine, or eight if the second turned in between.
    let (first, second) = *taken.lock().expect("not poisoned");
    assert!((8..=9).contains(&first), "{first}");
    assert_eq!(second, 0);
    lines(options, Some(2), || flood(10));
    assert!((8..=9).contains(&take_sampled()), "a thread that ended leaves its count");
}

/// A thread that ends late must not have the last word.
#[test]
fn nothing_comes_after_the_last_line() {
    let page = Page::default();
    let (dispatch, guard) = log_to(&page, JSON, 1 << 16);
    let go_on = std::sync::atomic::AtomicBool::new(true);
    let last = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                tracing::dispatcher::with_default(&dispatch, || {
                    while go_on.load(std::sync::atomic::Ordering::Relaxed) {
                        tracing::info!("from a thread that goes on");
                    }
                });
            });
        }
        while page.read().is_empty() {
            std::thread::yield_now();
        }
        tracing::dispatcher::with_default(&dispatch, || {
            guard.finish_with(|| tracing::info!("shutdown_complete"));
        });
        go_on.store(false, std::sync::atomic::Ordering::Relaxed);
        page.read().lines().last().map(str::to_owned)
    });
    assert!(last.is_some_and(|line| line.contains("shutdown_complete")), "another line is the last");
    assert_eq!(page.read().matches("shutdown_complete").count(), 1);
}
