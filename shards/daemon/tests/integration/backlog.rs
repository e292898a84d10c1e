//! Many messages for a next hop that is away: what they cost, what a restart makes of them, and that all of them go once it is
//! back.

use crate::support::disk::SmallDisk;
use crate::support::load::{load, verify};
use crate::support::programs::run;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::wait_until;
use std::time::Instant;

/// How many wait.
const MESSAGES: u64 = 20_000;

/// Resident memory of a server, in bytes.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it is running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[test]
fn twenty_thousand_messages_wait_survive_a_kill_and_are_delivered_once() {
    // Its address is known before anybody listens there. Its files go with a disk of their own: to remove so many takes long.
    let disk = SmallDisk::new(256);
    let away = disk.home();
    let last = Settings::default().domain("example.com", "\"any\"", "mail/{domain}");
    let hosts = format!("hosts = [\"{}\"]", away.smtp[0]);
    let lines = [hosts.as_str(), "concurrency = 40", "messages_per_connection = 1000", "breaker_pause_max = \"1s\""];
    let mut server = Server::start(
        Settings::default()
            .cores(2)
            .set("queue", "retry_first = \"500ms\"")
            .set("queue", "retry_max = \"1s\"")
            .target("hop", "smtp", &[&lines[..], &["breaker_pause = \"500ms\"", "idle_timeout = \"200ms\""]].concat())
            .domain_to("example.com", "\"hop\"", &[]),
    );
    let begin = resident(&server);
    let acked = server.home.path().join("acked");
    let count = MESSAGES.to_string();
    let arguments = ["--messages", &count, "--sessions", "64", "--size", "600", "--messages-per-connection", "500"];
    let mut command = load(server.smtp(), &[&arguments[..], &["--source", "127.1.0.0/16"]].concat());
    run(command.arg("--acked").arg(&acked), "").ok();
    let by_core = server.metrics().by_shard("ringpost_queue_messages");
    assert!(by_core.iter().sum::<u64>() == MESSAGES && by_core.iter().all(|count| *count > 0), "{by_core:?}");
    let full = resident(&server);
    eprintln!("{} bytes a message, of them those of messages kept for delivery", (full - begin) / MESSAGES);

    server.kill();
    let since = Instant::now();
    server.start_again();
    let (took, grown) = (since.elapsed(), resident(&server).saturating_sub(begin));
    eprintln!("ready again after {took:?}, {} bytes a message", grown / MESSAGES);
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), MESSAGES);

    let since = Instant::now();
    let last = Server::start_at(away, last);
    let arrived = || last.metrics().sum("ringpost_deliveries_total", "outcome=\"delivered\"") == MESSAGES;
    wait_until("all have been delivered", arrived);
    eprintln!("delivered after {:?}", since.elapsed());
    server.wait_for_rest();
    last.wait_for_rest();
    let verified = verify(&[acked], &last.mail());
    assert_eq!((verified.acknowledged, verified.strangers), (MESSAGES, 0));
    assert_eq!(last.maildir("example.com").count() as u64, MESSAGES);
}
