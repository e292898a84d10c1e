//! `idle` and `slow`: sessions that stay, alone in a process or spread over several.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::run::Run;
use crate::sink::{Ending, Options, Sink, Tls};

#[test]
fn idle_sessions_stand_and_leave_in_order() {
    for (tls, option) in [(Tls::Off, "off"), (Tls::Starttls, "starttls")] {
        let sink = Sink::start(Options { tls, ..Options::default() });
        let pid = std::process::id().to_string();
        let options = ["--connections", "40", "--hold", "200ms", "--tls", option, "--server-pid", &pid];
        let run = Run::of(&sink, "idle", &options);
        run.exits(0);
        let record = run.record();
        assert_eq!((&record["result"]["standing"], &record["result"]["fallen"]), (&40.into(), &0.into()));
        assert!(record["result"]["server_rss_bytes_per_session"].is_number());
        assert_eq!(sink.connections(), 40);
    }
}

#[test]
fn processes_share_a_crowd_and_report_as_one() {
    let sink = Sink::start(Options { tls: Tls::Starttls, ..Options::default() });
    let options = ["--connections", "41", "--hold", "100ms", "--tls", "starttls", "--processes", "3"];
    let run = Run::of(&sink, "idle", &options);
    run.exits(0);
    check_crowd(&run, 41, 41, &[]);
    assert_eq!(sink.connections(), 41);
    assert!(run.stdout().contains("ehlo               82"), "{}", run.stdout());
    assert!(sink.endings(41).iter().all(|ending| *ending == Ending::InOrder));
    let refuse: fn(u64) -> bool = |number| number % 4 == 0;
    let sink = Sink::start(Options { refuse_connection: refuse, ..Options::default() });
    let run = Run::of(&sink, "idle", &["--connections", "40", "--hold", "100ms", "--processes", "2"]);
    run.exits(1);
    check_crowd(&run, 40, 30, &["421 banner 10"]);
}

/// The result of a crowd: how many were asked for and stood, and what the server said to the others.
#[track_caller]
fn check_crowd(run: &Run, asked: u64, standing: u64, refusals: &[&str]) {
    let record = run.record();
    let result = &record["result"];
    let said: Vec<_> = result["refusals"].as_array().expect("is a list").iter().map(refusal).collect();
    assert_eq!((result["asked"].as_u64(), result["standing"].as_u64()), (Some(asked), Some(standing)), "{result}");
    assert_eq!(said, refusals);
}

fn refusal(row: &Value) -> String {
    format!("{} {} {}", row["code"], row["command"].as_str().unwrap_or_default(), row["count"])
}

/// Five processes may hold together what no one of them may.
#[test]
fn a_limit_on_open_files_is_one_of_each_process() {
    let sink = Sink::start(Options::default());
    let idle = format!("{} idle --no-json --quiet --to {}", env!("CARGO_BIN_EXE_ringpost-load"), sink.address);
    let limited = |options: &str| {
        let script = format!("ulimit -Sn 260 && ulimit -Hn 260 && exec {idle} --connections 300 --hold 10ms {options}");
        let output = Command::new("sh").args(["-c", &script]).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(limited("--processes 5"), (Some(0), String::new()));
    let (code, said) = limited("--processes 4");
    // Who may raise the hard limit needs no further process.
    assert!(code == Some(0) || (code == Some(2) && said.contains("--processes 5")), "{code:?}: {said}");
}

#[test]
fn connections_come_from_the_network_asked_for_in_turn() {
    let sink = Sink::start(Options::default());
    let options = ["--connections", "12", "--hold", "10ms", "--from", "127.9.8.0/29", "--processes", "2"];
    Run::of(&sink, "idle", &options).exits(0);
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    sink.peers().iter().for_each(|peer| *times.entry(peer.to_string()).or_default() += 1);
    let expected = (1..=6).map(|host| (format!("127.9.8.{host}"), 2)).collect();
    assert_eq!(times, expected);
}

#[test]
fn slow_clients_stay_and_send_byte_by_byte() {
    for (tls, options) in [
        (Tls::Off, &["--style", "command"] as &[&str]),
        (Tls::Off, &["--style", "data"]),
        (Tls::Starttls, &["--style", "command", "--tls", "starttls"]),
        (Tls::Starttls, &["--style", "tls"]),
        (Tls::Implicit, &["--style", "tls", "--tls", "implicit"]),
        (Tls::Off, &["--processes", "2"]),
    ] {
        let sink = Sink::start(Options { tls, ..Options::default() });
        let common = ["--sessions", "20", "--interval", "5ms", "--duration", "300ms"];
        let run = Run::of(&sink, "slow", &[&common, options].concat());
        run.exits(0);
        check_crowd(&run, 20, 20, &[]);
        let bytes = run.record()["result"]["bytes_sent_singly"].as_u64().unwrap_or(0);
        assert!(bytes > 20, "{options:?}: {bytes}");
        sink.endings(20);
        assert!(sink.received().is_empty(), "no message comes to its end");
        let commands = options.contains(&"command") || options.contains(&"--processes");
        assert_eq!(sink.noops() > 0, commands, "{options:?}");
        assert!(sink.noops() <= bytes / 6, "a NOOP has six bytes");
    }
}

#[test]
fn slow_clients_that_the_server_ends_are_counted_by_its_reply() {
    for (style, row) in [("command", "421 slow commands 10"), ("data", "421 a slow message 10")] {
        let sink = Sink::start(Options { patience: Some(Duration::from_millis(50)), ..Options::default() });
        let run =
            Run::of(&sink, "slow", &["--sessions", "10", "--interval", "1h", "--seconds", "60", "--style", style]);
        run.exits(1);
        check_crowd(&run, 10, 0, &[row]);
    }
    let sink = Sink::start(Options { refuse_connection: |_| true, ..Options::default() });
    let run = Run::of(&sink, "slow", &["--sessions", "10", "--style", "tls"]);
    run.exits(1);
    check_crowd(&run, 10, 0, &["421 banner 10"]);
}
