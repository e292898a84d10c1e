//! kill -9 under load: what was acknowledged is there, once.

use crate::support::load::{load, verify};
use crate::support::programs::{Finished, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::text::Random;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the plug is pulled.
const KILLS: usize = 20;

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

#[test]
fn kill_9_twenty_times_loses_and_doubles_nothing() {
    let settings = Settings::default().cores(2);
    // Small enough that most of what is sent goes into body files, and segments fill and are recycled.
    let settings = settings.set("spool", "inline_max = \"8KiB\"").set("spool", "batch_max = \"256KiB\"");
    let mut server = Server::start(settings.set("spool", "segment_size = \"1MiB\""));
    let seed = Random::seed();
    eprintln!("seed {seed}");
    let done = AtomicBool::new(false);
    let (smtp, folder) = (server.smtp(), server.home.path().to_owned());
    let runs = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let more = || !done.load(Ordering::Relaxed);
            keep_loading(smtp, &folder, more, seed)
        });
        let killing = scope.spawn(|| {
            let mut random = Random::new(seed);
            for _ in 0..KILLS {
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
    let acked: Vec<PathBuf> = runs.into_iter().map(|(acked, _)| acked).collect();
    verify(&acked, &server.mail());
}
