//! kill -9 under load: what was acknowledged is there, once.

use crate::support::load::{load, look};
use crate::support::programs::{Finished, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::text::Random;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the plug is pulled, unless [`KILLS_VARIABLE`] says otherwise.
const KILLS: usize = 20;

/// `cargo xtask kills` has it done more often.
const KILLS_VARIABLE: &str = "RINGPOST_TEST_KILLS";

/// Kills after which all that was acknowledged is looked for and the Maildirs are emptied, so that many kills need no more room
/// than few.
const ROUND: usize = 50;

/// Longest time between two kills.
const UP_MS_MAX: u64 = 500;

/// What each run of the load tester sends, in turn: within the log, in body files, both.
const LOADS: [&[&str]; 5] = [
    &["--size", "2KiB", "--messages-per-connection", "5"],
    &["--size", "150KiB", "--bdat", "--recipients", "2"],
    &["--size", "mix", "--tls", "starttls", "--messages-per-connection", "20"],
    &["--size", "300KiB", "--bdat", "--chunk-size", "64KiB"],
    &["--size", "4KiB", "--no-pipelining"],
];

/// Keeps the server under load until all kills are done; gives the files with what was acknowledged.
fn keep_loading(to: SocketAddr, folder: &Path, more: impl Fn() -> bool, seed: u64) -> Vec<(PathBuf, Finished)> {
    let mut runs = Vec::new();
    while more() {
        let number = runs.len();
        let acked = folder.join(format!("acked.{number}"));
        let seed = (seed ^ number as u64).to_string();
        let mut command = load(to, &["--reconnect", "--sessions", "12", "--duration", "4s"]);
        command.args(["--timeout", "20s", "--seed", &seed, "--acked"]).arg(&acked).args(LOADS[number % LOADS.len()]);
        runs.push((acked, run(&mut command, "")));
    }
    runs
}

/// Pulls the plug so often under load; gives the files with what was acknowledged.
fn round(server: &mut Server, kills: usize, random: &mut Random) -> Vec<PathBuf> {
    let done = AtomicBool::new(false);
    let (smtp, folder) = (server.smtp(), server.home.path().to_owned());
    // One that goes through numbers and through JSON as it is.
    let seed = random.below(1 << 50);
    let runs = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let more = || !done.load(Ordering::Relaxed);
            keep_loading(smtp, &folder, more, seed)
        });
        let killing = scope.spawn(|| {
            for _ in 0..kills {
                std::thread::sleep(Duration::from_millis(random.below(UP_MS_MAX)));
                server.kill();
                server.start_again();
            }
        });
        let killed = killing.join();
        // Even where a start failed: the load must end.
        done.store(true, Ordering::Relaxed);
        let runs = loading.join().expect("the load ran");
        killed.expect("every start succeeded");
        runs
    });
    for (_, finished) in &runs {
        assert!(finished.status.success(), "{}", finished.all());
    }
    server.wait_for_rest();
    runs.into_iter().map(|(acked, _)| acked).collect()
}

/// Takes away what was delivered, and the lists of what was acknowledged. The stop makes all settlements durable before: what
/// is killed next must not deliver anew what nobody looks for any more.
fn clear(server: &mut Server, acked: &[PathBuf]) {
    server.stop();
    fs::remove_dir_all(server.mail()).expect("removed");
    acked.iter().for_each(|file| fs::remove_file(file).expect("removed"));
    server.start_again();
}

#[test]
fn kill_9_under_load_loses_and_doubles_nothing() {
    let kills = std::env::var(KILLS_VARIABLE).map_or(KILLS, |text| text.parse().expect("a number of kills"));
    let settings = Settings::default().cores(2);
    // Small enough that most of what is sent goes into body files, and segments fill and are recycled.
    let settings = settings.set("spool", "inline_max = \"8KiB\"").set("spool", "batch_max = \"256KiB\"");
    let mut server = Server::start(settings.set("spool", "segment_size = \"1MiB\""));
    let seed = Random::seed();
    eprintln!("seed {seed}");
    let (mut random, since, mut done) = (Random::new(seed), Instant::now(), 0);
    let mut sums = [0; 4];
    while done < kills {
        let count = ROUND.min(kills - done);
        let acked = round(&mut server, count, &mut random);
        let found = look(&acked, &server.mail());
        done += count;
        let counts = [found.acknowledged, found.lost, found.altered, found.duplicated];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        let [acknowledged, lost, altered, duplicated] = sums;
        let seconds = since.elapsed().as_secs();
        eprintln!(
            "{done} kills, {acknowledged} acknowledged, {lost} lost, {altered} altered, {duplicated} duplicated, {seconds} s"
        );
        assert!(found.holds, "{}", found.report);
        assert_eq!(found.strangers, 0, "mail of an earlier round came again: {}", found.report);
        if done < kills {
            clear(&mut server, &acked);
        }
    }
}
