//! The whole tool against a sink in this process: what it counts, notes and proves must be what the sink saw.

mod crowds;
mod floods;
mod run;
mod sink;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use run::Run;
use sink::{Fate, Options, Sink, Tls};

#[track_caller]
fn check_acked_is_received(run: &Run, sink: &Sink) {
    let acked = run.acked();
    let received: Vec<_> = sink.received().into_iter().map(|message| message.id).collect();
    let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&acked), set(&received));
    assert_eq!((acked.len(), received.len()), (set(&acked).len(), set(&received).len()));
}

#[test]
fn every_way_to_send_arrives_whole() {
    let ways: [&[&str]; 8] = [
        &[],
        &["--no-pipelining"],
        &["--bdat"],
        &["--bdat", "--no-pipelining", "--chunk-size", "1KiB"],
        &["--bdat", "--chunk-size", "1KiB", "--size", "300KiB"],
        &["--messages-per-connection", "7", "--size", "1"],
        &["--size", "mix", "--messages-per-connection", "5"],
        &["--recipients", "3", "--rcpt-spread", "4", "--from", ""],
    ];
    for way in ways {
        let maildir = tempfile::tempdir().expect("temporary directory");
        let sink = Sink::start(Options { maildir: Some(maildir.path().to_owned()), ..Options::default() });
        let root = maildir.path().to_string_lossy().into_owned();
        let options = [&["--messages", "60", "--sessions", "4", "--verify-maildir", &root], way].concat();
        let run = Run::new(&sink, &options);
        run.exits(0);
        check_acked_is_received(&run, &sink);
        let result = &run.record()["result"];
        assert_eq!(run.count("acknowledged"), 60, "{way:?}");
        assert_eq!(result["verification"]["exactly_once"], 60, "{way:?}");
        assert_eq!(result["stages"]["data"]["count"], 60, "{way:?}");
        assert_eq!(result["acknowledged_per_second"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn recipients_and_connections_are_as_asked() {
    let sink = Sink::start(Options::default());
    let options = ["--messages", "10", "--sessions", "1", "--recipients", "2", "--messages-per-connection", "5"];
    Run::new(&sink, &options).exits(0);
    assert_eq!(sink.connections(), 2);
    let first = &sink.received()[0].recipients;
    assert_eq!(first, &["user0@example.com", "user1@example.com"]);
    for message in sink.received() {
        assert!(message.text.len().abs_diff(4096) < 40, "{}", message.text.len());
    }
}

#[test]
fn refusals_are_counted_and_not_noted() {
    let fate = |number| match number % 6 {
        1 => Fate::RefuseMail,
        2 => Fate::RefuseRcpt,
        3 => Fate::RefuseData,
        4 => Fate::RefuseEnd,
        5 => Fate::Close,
        _ => Fate::Take,
    };
    for way in
        [&["--messages-per-connection", "3"] as &[&str], &["--no-pipelining", "--messages-per-connection", "100"]]
    {
        let sink = Sink::start(Options { fate, ..Options::default() });
        let run = Run::new(&sink, &[&["--messages", "60", "--sessions", "3"], way].concat());
        run.exits(1);
        check_acked_is_received(&run, &sink);
        assert_eq!((run.count("acknowledged"), run.count("refused"), run.count("failed")), (10, 50, 0), "{way:?}");
        let record = run.record();
        let refusals = record["result"]["refusals"].as_array().expect("is a list");
        let all: Vec<_> = refusals
            .iter()
            .map(|refusal| format!("{} {} {}", refusal["code"], refusal["command"], refusal["count"]))
            .collect();
        let expected =
            ["421 \"MAIL\" 10", "451 \"MAIL\" 10", "452 \"DATA\" 10", "550 \"RCPT\" 10", "554 \"end of DATA\" 10"];
        assert_eq!(all, expected, "{way:?}");
        assert!(run.stdout().contains("after RCPT: 550 5.1.1 nobody here"), "{}", run.stdout());
    }
}

#[test]
fn refusals_of_bdat_leave_the_session_in_step() {
    let fate = |number| match number % 4 {
        1 => Fate::RefuseMail,
        2 => Fate::RefuseRcpt,
        3 => Fate::RefuseEnd,
        _ => Fate::Take,
    };
    for way in [&[] as &[&str], &["--no-pipelining"], &["--chunk-size", "1KiB", "--size", "200KiB"]] {
        let sink = Sink::start(Options { fate, ..Options::default() });
        let common = ["--bdat", "--messages", "40", "--sessions", "2", "--messages-per-connection", "20"];
        let run = Run::new(&sink, &[&common, way].concat());
        run.exits(1);
        check_acked_is_received(&run, &sink);
        assert_eq!((run.count("acknowledged"), run.count("refused"), run.count("failed")), (10, 30, 0), "{way:?}");
    }
}

#[test]
fn hung_up_messages_fail_and_may_have_arrived() {
    let fate = |number| match number % 5 {
        1 => Fate::HangUp,
        2 => Fate::TakeAndHangUp,
        _ => Fate::Take,
    };
    let maildir = tempfile::tempdir().expect("temporary directory");
    let sink = Sink::start(Options { fate, maildir: Some(maildir.path().to_owned()), ..Options::default() });
    let root = maildir.path().to_string_lossy().into_owned();
    let run = Run::new(&sink, &["--messages", "50", "--sessions", "2", "--verify-maildir", &root]);
    run.exits(1);
    assert_eq!((run.count("acknowledged"), run.count("failed"), run.acked().len()), (30, 20, 30));
    let record = run.record();
    assert_eq!(record["result"]["breaks"]["eof"]["count"], 20);
    assert_eq!(record["result"]["verification"]["exactly_once"], 30);
    assert_eq!(record["result"]["verification"]["unacknowledged"], 10);
    // The same, for a run whose end was to be expected.
    let run = Run::new(&sink, &["--messages", "50", "--sessions", "2", "--reconnect"]);
    run.exits(0);
}

#[test]
fn refused_banners_are_tried_again_until_they_are_taken() {
    let sink = Sink::start(Options { refuse_connection: |number| number < 3, ..Options::default() });
    let run = Run::new(&sink, &["--messages", "5", "--sessions", "1", "--reconnect"]);
    run.exits(0);
    assert_eq!(run.count("acknowledged"), 5);
    let sink = Sink::start(Options { refuse_connection: |number| number < 3, ..Options::default() });
    let run = Run::new(&sink, &["--messages", "5", "--sessions", "1"]);
    run.exits(1);
    assert_eq!((run.count("acknowledged"), run.count("refused")), (2, 3));
}

#[test]
fn tls_of_both_kinds_and_versions() {
    for (mode, option) in [(Tls::Starttls, "starttls"), (Tls::Implicit, "implicit")] {
        for version in ["1.2", "1.3"] {
            let sink = Sink::start(Options { tls: mode, ..Options::default() });
            let options = ["--tls", option, "--tls-version", version, "--messages", "6", "--sessions", "2"];
            let run = Run::new(&sink, &options);
            run.exits(0);
            check_acked_is_received(&run, &sink);
            let record = run.record();
            assert_eq!(record["result"]["stages"]["tls"]["count"], 6);
            let labels = record["result"]["tls"].as_object().expect("is a table");
            let mark = format!("TLSv{}", version.replace('.', "_"));
            assert!(labels.keys().all(|label| label.starts_with(&mark)), "{labels:?}");
        }
    }
}

#[test]
fn an_unknown_certificate_is_refused_where_one_is_asked_for() {
    let sink = Sink::start(Options { tls: Tls::Implicit, ..Options::default() });
    let other = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).expect("makes a certificate");
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("ca.pem");
    fs::write(&path, other.cert.pem()).expect("writes");
    let ca = path.to_string_lossy().into_owned();
    let options = ["--tls", "implicit", "--ca", &ca, "--server-name", "mx.example", "--messages", "2"];
    let run = Run::new(&sink, &options);
    run.exits(1);
    assert_eq!(run.record()["result"]["breaks"]["tls"]["count"], 2);
    let options = ["--tls", "starttls", "--messages", "2", "--sessions", "1"];
    let run = Run::new(&Sink::start(Options::default()), &options);
    run.exits(1);
    assert_eq!(run.record()["result"]["breaks"]["protocol"]["count"], 2);
}

#[test]
fn open_loop_keeps_its_rate() {
    let sink = Sink::start(Options::default());
    let run = Run::new(&sink, &["--rate", "100/s", "--duration", "500ms", "--sessions", "20"]);
    run.exits(0);
    assert_eq!((run.count("started"), run.count("not_started")), (50, 0));
    let record = run.record();
    assert_eq!(record["result"]["stages"]["wait"]["count"], 50);
    assert!(record["result"]["elapsed_seconds"].as_f64().is_some_and(|seconds| seconds > 0.48));
}

#[test]
fn nobody_there_is_an_error_and_comes_to_an_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("is bound").to_string();
    drop(listener);
    let mut run = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    run.args(["run", "--to", &address, "--quiet", "--no-json", "--sessions", "2", "--messages", "1000000"]);
    assert_eq!(run.output().expect("runs").status.code(), Some(1));
}

#[test]
fn wrong_options_are_refused_before_anything_is_sent() {
    for options in [
        &["--rate", "5/day"] as &[&str],
        &["--from", "a b"],
        &["--source", "::1"],
        &["--rcpt", "x@y", "--recipients", "2"],
        &["--verify-maildir", "nothing-here"],
        &["--server-pid", "4294967294"],
        &["--chunk-size", "4KiB"],
    ] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
        let output = run.args(["run", "--no-json", "--quiet"]).args(options).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{options:?}");
    }
    for line in [
        "idle --processes 65",
        "idle --from 127.0.0.1/8",
        "idle --ehlo a>b",
        "slow --interval 0s",
        "slow --rcpt a>b",
        "slow --server-pid 4294967294",
        "flood --rcpt a>b",
        "flood --kind nothing",
        "flood --kind reset --noops 1",
        "handshakes --cert nothing-here --key nothing-here",
    ] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
        let output = run.args(line.split(' ')).args(["--no-json", "--quiet"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{line}");
    }
}

#[test]
fn verify_finds_what_is_missing_doubled_and_damaged() {
    let maildir = tempfile::tempdir().expect("temporary directory");
    let sink = Sink::start(Options { maildir: Some(maildir.path().to_owned()), ..Options::default() });
    let run = Run::new(&sink, &["--messages", "20", "--sessions", "2", "--seed", "5"]);
    run.exits(0);
    let acked = run.dir.path().join("acked");
    check_verify(&acked, maildir.path(), 0, "");
    let ids = run.acked();
    let file = |id: &str| -> PathBuf {
        let mut dirs = fs::read_dir(maildir.path()).expect("lists").flatten();
        dirs.find_map(|dir| Some(dir.path().join("new").join(id)).filter(|path| path.exists())).expect("is there")
    };
    let mut text = fs::read(file(&ids[0])).expect("reads");
    let damaged = text.len() - 10;
    text[damaged] ^= 1;
    fs::write(file(&ids[0]), text).expect("writes");
    check_verify(&acked, maildir.path(), 3, &format!("{} is damaged", ids[0]));
    let double = file(&ids[1]);
    fs::copy(&double, double.with_extension("again")).expect("copies");
    check_verify(&acked, maildir.path(), 3, &format!("{} is doubled", ids[1]));
    fs::remove_file(file(&ids[2])).expect("removes");
    check_verify(&acked, maildir.path(), 3, &format!("{} is missing", ids[2]));
}

#[track_caller]
fn check_verify(acked: &Path, maildir: &Path, code: i32, says: &str) {
    let mut verify = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    let output = verify.arg("verify").arg("--acked").arg(acked).arg("--maildir").arg(maildir).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "{text}");
}
