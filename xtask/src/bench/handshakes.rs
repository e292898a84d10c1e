//! What a full TLS handshake costs the server's processor, beside what it costs rustls alone with the same provider and
//! certificate, in turns in one run.
//!
//! The server's part is the CPU time of sessions that shake hands (connect, EHLO, STARTTLS, handshake, close), less
//! that of sessions that don't (connect, EHLO, QUIT), both as fast as they come. What is left is the handshake with its
//! two more round trips through the kernel; rustls alone has no kernel between the two sides, so the bar leaves room for
//! these. On few cores it is a strict measure: a handshake is more work for its client than for the server, so the server
//! waits more often than between plain sessions, and each wait has its price.

use anyhow::Result;

use super::Context;
use super::crowd::SOURCES;
use super::pinning::Split;
use super::record::{Bar, Row};
use crate::load::{self, Report};
use crate::server::{Ringpost, Setting, Target};
use crate::throwaway::Folder;

/// Connections at one time.
const CONCURRENCY: u32 = 50;

/// More threads of clients than this can't be needed to keep one core busy.
const CLIENT_THREADS_MAX: usize = 4;

/// How many times what it costs rustls a handshake may cost.
const RATIO_MAX: f64 = 1.3;

/// Measures rustls, plain sessions and sessions with a handshake in turns.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let split = Split::of_this_machine();
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let setting = Setting { cores: vec![split.server], ..Setting::usual(Target::Discard) };
    let server = Ringpost::start_as(&bench.binaries.ringpost, folder.path(), &setting)?;
    let scenario = "full TLS 1.3 handshake";
    let row = |measure: &str, unit: &str| Row::new(scenario, measure, unit);
    let mut bare = row("CPU of rustls alone, server's side", "µs");
    let mut raw = row("server CPU a session with a handshake", "µs");
    let mut plain = row("server CPU a session without", "µs");
    let mut net = row("the handshake: the difference", "µs");
    let mut ratio = row("the handshake, as a multiple of rustls alone", "");
    ratio.bar = Some(Bar::AtMost(RATIO_MAX));
    let mut rate = row("sessions with a handshake a second, one core", "");
    for round in 1..=bench.options.rounds {
        let alone = bare_rustls(bench, &server)?;
        let with = flood(bench, &split, &server, "handshake")?;
        let without = flood(bench, &split, &server, "connect")?;
        let us = |report: &Report| report.number("/result/server_cpu_us_per_connection");
        let alone_us = alone.number("/result/server_cpu_us_per_handshake")?;
        let (with_us, without_us) = (us(&with)?, us(&without)?);
        let net_us = with_us - without_us;
        ratio.note = Some(format!("{}; {}", split.note(), alone.text("/result/tls")?));
        println!(
            "{scenario}, round {round}: rustls alone {alone_us:.1} µs; a session {with_us:.1} µs with it, {without_us:.1} µs \
             without; {:.2} times rustls alone",
            net_us / alone_us
        );
        bare.add("ringpost", alone_us);
        raw.add("ringpost", with_us);
        plain.add("ringpost", without_us);
        net.add("ringpost", net_us);
        ratio.add("ringpost", net_us / alone_us);
        rate.add("ringpost", with.number("/result/connections_per_second")?);
    }
    server.stop()?;
    Ok(vec![bare, raw, plain, net, ratio, rate])
}

/// As many threads as there are cores do it at once, since server and clients keep them all busy too.
fn bare_rustls(bench: &Context<'_>, server: &Ringpost) -> Result<Report> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let (cert, key) = &server.certificate;
    let mut arguments = load::arguments(&format!("--duration {}s --threads {threads}", bench.options.seconds));
    for (name, file) in [("--cert", cert), ("--key", key)] {
        arguments.extend([name.to_owned(), file.to_string_lossy().into_owned()]);
    }
    let (report, good) = load::run_alone(&bench.binaries.load, "handshakes", &arguments)?;
    good.map(|()| report)
}

fn flood(bench: &Context<'_>, split: &Split, server: &Ringpost, kind: &str) -> Result<Report> {
    let text = format!(
        "--kind {kind} --concurrency {CONCURRENCY} --threads {} --duration {}s --from {SOURCES} --server-pid {}",
        split.clients.len().min(CLIENT_THREADS_MAX),
        bench.options.seconds,
        server.id()
    );
    split.as_client(|| load::run(&bench.binaries.load, "flood", server.smtp, &load::arguments(&text)))
}
