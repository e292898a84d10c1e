//! The order of start and stop, as the log tells it: when all goes well, and when any one subsystem fails to start.

use crate::support::net::listening_sockets;
use crate::support::programs::{Finished, run};
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use serde_json::Value;
use std::process::Command;

/// Every subsystem in the order of its start, with its phase and whether it does something in the close phase.
const SUBSYSTEMS: [(&str, &str, bool); 20] = [
    ("config", "config", false),
    ("limits", "config", false),
    ("sockets", "config", false),
    ("privileges", "config", false),
    ("state", "config", false),
    ("signals", "config", false),
    ("log", "logging", false),
    ("crash reports", "logging", false),
    ("services thread", "logging", true),
    ("telemetry", "logging", true),
    ("rules", "tls", false),
    ("health", "storage", true),
    ("turn", "storage", false),
    ("bans", "storage", false),
    ("greylist", "storage", false),
    ("spools", "storage", true),
    ("keeper", "services", true),
    ("watchdog", "services", true),
    ("listeners", "servers", false),
    ("sessions", "servers", true),
];

/// The first subsystem of which the log can tell that it was started.
const LOG: usize = 6;

fn debugging() -> Settings {
    Settings::default().cores(2).set("log", "level = \"debug\"")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What a message says of which subsystem, in order.
fn told(log: &[Value], message: &str, key: &str) -> Vec<String> {
    let fits = |line: &&Value| line["message"] == message;
    log.iter().filter(fits).map(|line| line[key].as_str().expect("a text").to_owned()).collect()
}

fn closed(started: &[(&str, &str, bool)]) -> Vec<String> {
    let closed = started.iter().rev().filter(|(_, _, closes)| *closes);
    closed.map(|(name, _, _)| (*name).to_owned()).collect()
}

/// What a start that failed at the last of these has stopped: that one too, as it may have been half done.
fn undone(touched: &[(&str, &str, bool)]) -> Vec<String> {
    let sessions = touched.last().is_some_and(|(name, _, _)| *name == "sessions");
    let before = if sessions { vec!["sessions".to_owned(); 2] } else { Vec::new() };
    before.into_iter().chain(closed(touched)).collect()
}

/// A start that fails at one subsystem.
fn start_failing_at(name: &str) -> (Home, Finished) {
    let home = Home::new(1);
    let config = home.configure(&debugging());
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(config).current_dir(home.path());
    command.env("RINGPOST_FAULTS", format!("start={name}"));
    let finished = run(&mut command, "");
    (home, finished)
}

#[test]
fn a_failure_of_any_subsystem_stops_those_before_it_in_reverse() {
    for (at, (name, phase, _)) in SUBSYSTEMS.into_iter().enumerate() {
        let (home, finished) = start_failing_at(name);
        assert_eq!(finished.status.code(), Some(1), "{name}: {}", finished.all());
        assert!(finished.err.contains(name) && finished.err.lines().count() == 1, "{name}: {}", finished.err);
        assert_eq!(listening_sockets(home.smtp[0]), 0, "{name}: a listener is left");
        if at <= LOG {
            // There is no log yet, and nothing to be stopped.
            assert_eq!(finished.out, "", "{name}");
            continue;
        }
        let log = lines(&finished.out);
        let names: Vec<&str> = SUBSYSTEMS[LOG..at].iter().map(|(name, _, _)| *name).collect();
        assert_eq!(told(&log, "subsystem started", "subsystem"), names, "{name}");
        assert_eq!(told(&log, "start failed", "subsystem"), [name]);
        assert_eq!(told(&log, "start failed", "phase"), [phase]);
        assert_eq!(told(&log, "subsystem stopped", "subsystem"), undone(&SUBSYSTEMS[..=at]), "{name}");
        assert_eq!(told(&log, "stop phase complete", "phase"), ["accept", "drain", "close"], "{name}");
        let last = log.last().expect("lines");
        assert_eq!((&last["message"], &last["clean"]), (&"shutdown_complete".into(), &false.into()), "{name}");
        assert!(!log.iter().any(|line| line["message"] == "ready"), "{name}");
    }
}

#[test]
fn phases_are_told_in_the_log_and_as_metrics() {
    let mut server = Server::start(debugging());
    let phases = ["config", "logging", "tls", "storage", "services", "servers"];
    let text = server.get("/metrics").1;
    for phase in phases {
        let series = format!("ringpost_start_phase_seconds{{phase=\"{phase}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or_else(|| panic!("no {series}"));
        assert!(value.parse::<f64>().expect("a number") > 0.0, "{series}{value}");
    }
    server.stop();
    let log = server.log();
    assert_eq!(told(&log, "start phase complete", "phase"), phases);
    let names: Vec<&str> = SUBSYSTEMS[LOG..].iter().map(|(name, _, _)| *name).collect();
    assert_eq!(told(&log, "subsystem started", "subsystem"), names);
    let stopped: Vec<String> =
        ["sessions", "sessions"].map(str::to_owned).into_iter().chain(closed(&SUBSYSTEMS)).collect();
    assert_eq!(told(&log, "subsystem stopped", "subsystem"), stopped, "in accept, in drain, then all in close");
    assert_eq!(log.last().expect("lines")["clean"], true);
}

/// The page says what the program does.
#[test]
fn the_page_on_the_lifecycle_has_every_subsystem_in_order() {
    let page = include_str!("../../../../docs/lifecycle.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')).map(|row| row.split('|').map(str::trim));
    let mut phase = String::new();
    let mut listed = Vec::new();
    for mut cells in rows {
        let (of, name) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        if !of.is_empty() {
            of.clone_into(&mut phase);
        }
        listed.push((phase.clone(), name.to_owned()));
    }
    let known: Vec<_> = listed.into_iter().filter(|(_, name)| SUBSYSTEMS.iter().any(|row| row.0 == name)).collect();
    let expected: Vec<_> =
        SUBSYSTEMS.iter().map(|(name, phase, _)| ((*phase).to_owned(), (*name).to_owned())).collect();
    assert_eq!(known, expected);
}
