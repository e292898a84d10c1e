//! kill -9 of a relay, and of the next hop behind it, under load: what was acknowledged arrives. What was under way when one of
//! them was killed may arrive twice, since nobody can know whether it had arrived; nothing else may.

use crate::support::load::{Running, Verified, look, verify};
use crate::support::maildir::delivered_below;
use crate::support::queue::{hasty, target};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::text::Random;
use crate::support::wait_until;
use ringpost_base::SpoolId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the relay's plug is pulled, and with every fourth the next hop's.
const KILLS: usize = 12;

/// Longest time between two kills.
const UP_MS_MAX: u64 = 500;

/// The field in which the load tester's messages say which they are.
const ID_FIELD: &[u8] = b"X-Ringpost-Load-Id: ";

/// Two servers of ours: the first relays all mail to the second, which keeps it.
fn servers() -> (Server, Server) {
    let small = |settings: Settings| {
        let settings = settings.set("spool", "inline_max = \"8KiB\"").set("spool", "batch_max = \"256KiB\"");
        settings.set("spool", "segment_size = \"1MiB\"")
    };
    let last = Server::start(small(Settings::default()));
    let hosts = format!("hosts = [\"{}\"]", last.smtp());
    let pauses = ["breaker_pause = \"50ms\"", "breaker_pause_max = \"200ms\"", "idle_timeout = \"200ms\""];
    let lines = [&[hosts.as_str(), "concurrency = 10"], &pauses[..]].concat();
    let relay = small(hasty()).cores(2).target("hop", "smtp", &lines);
    (Server::start(relay.domain_to("example.com", "\"hop\"", &[])), last)
}

/// Arguments of the load; half of the messages go into body files.
const LOAD: [&str; 8] =
    ["--sessions", "12", "--size", "8KiB", "--messages-per-connection", "7", "--reconnect", "--timeout"];

fn start_load(relay: &Server, name: &str, seed: u64) -> Running {
    let seed = seed.to_string();
    let more = ["20s", "--rate", "300/s", "--seed", &seed];
    Running::start(relay.smtp(), relay.home.path(), name, &[&LOAD[..], &more[..]].concat())
}

/// Milliseconds since 1970, as ids of messages have them.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Waits until all has gone through both.
fn wait_for_rest(relay: &Server, last: &Server) {
    relay.wait_for_rest();
    last.wait_for_rest();
    assert_eq!(relay.metrics().total("ringpost_reports_total"), 0, "nothing was given up");
}

/// The messages that lie in a Maildir more than once, each with the ids that the last server gave its copies, in order.
fn doubled(mail: &Path) -> BTreeMap<Vec<u8>, Vec<SpoolId>> {
    let mut copies: BTreeMap<Vec<u8>, Vec<SpoolId>> = BTreeMap::new();
    for path in delivered_below(mail) {
        let bytes = std::fs::read(&path).expect("a message");
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let message = lines.find_map(|line| line.strip_prefix(ID_FIELD)).expect("a message of the load tester");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let id = name.split('.').nth(1).and_then(|part| part.strip_prefix('R')).expect("an id in the name");
        copies.entry(message.to_vec()).or_default().push(id.parse().expect("an id"));
    }
    copies.retain(|_, ids| ids.len() > 1);
    copies.values_mut().for_each(|ids| ids.sort_unstable());
    copies
}

/// Between two copies of a message lies a kill: the first one was on its way when it came.
fn check_doubled(doubled: &BTreeMap<Vec<u8>, Vec<SpoolId>>, kills: &[Range<u64>]) {
    for (message, ids) in doubled {
        let message = String::from_utf8_lossy(message);
        for pair in ids.windows(2) {
            let [first, second] = [pair[0], pair[1]].map(|id| id.made().unix_micros() / 1000);
            let cause = kills.iter().any(|kill| first <= kill.end && kill.start <= second);
            assert!(cause && pair[0] != pair[1], "{message} came twice without a kill: {ids:?}, kills {kills:?}");
        }
    }
}

#[test]
fn kill_9_of_a_relay_and_its_next_hop_loses_nothing_and_doubles_what_was_under_way() {
    let (mut relay, mut last) = servers();
    let seed = Random::seed();
    eprintln!("seed {seed}");
    let mut acked: Vec<PathBuf> = Vec::new();

    // As long as nothing breaks, nothing comes twice.
    let calm = start_load(&relay, "calm", seed);
    wait_until("mail comes", || relay.metrics().total("ringpost_messages_accepted_total") > 300);
    acked.push(calm.acked.clone());
    calm.stop();
    wait_for_rest(&relay, &last);
    verify(&acked, &last.mail());

    let load = start_load(&relay, "load", seed ^ 1);
    acked.push(load.acked.clone());
    let mut random = Random::new(seed);
    let mut kills = Vec::new();
    for number in 0..KILLS {
        std::thread::sleep(Duration::from_millis(random.below(UP_MS_MAX)));
        for server in if number % 4 == 3 { vec![&mut last, &mut relay] } else { vec![&mut relay] } {
            let before = now();
            server.kill();
            kills.push(before..now());
            server.start_again();
        }
    }
    load.stop();
    wait_for_rest(&relay, &last);
    assert_eq!(target(&relay, "hop")["breaker"], "closed");
    let Verified { acknowledged, lost, altered, duplicated, report, .. } = look(&acked, &last.mail());
    let doubled = doubled(&last.mail());
    eprintln!(
        "{} kills, {acknowledged} acknowledged, {lost} lost, {altered} altered, {} came twice, {duplicated} of them acknowledged",
        kills.len(),
        doubled.len()
    );
    assert_eq!((lost, altered), (0, 0), "{report}");
    check_doubled(&doubled, &kills);
    assert!(duplicated as usize <= doubled.len());
}
