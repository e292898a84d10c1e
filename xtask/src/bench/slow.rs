//! What others notice of slow clients: the answer to DATA under a modest open loop, alone and beside thousands of clients
//! that send a byte every few seconds, all on one core.

use anyhow::{Context as _, Result};

use super::Context;
use super::crowd::{self, Ground, SOURCES};
use super::pinning::Split;
use super::record::{Bar, Row};
use super::subject;
use crate::load::{self, Report, Running};
use crate::server::Ringpost;

/// Messages a second of the clients that are measured, far from what a core can do.
const RATE: u32 = 500;

/// Between two bytes of a slow client.
const INTERVAL: &str = "3s";

/// How many times slower the hundredth answer may be with the slow clients than without.
const RATIO_MAX: f64 = 2.0;

/// Styles of slow clients, and what they send.
const STYLES: [(&str, &str); 3] = [("command", "commands"), ("data", "messages"), ("tls", "TLS handshakes")];

/// Measures each style on a server of its own, in rounds without and with the crowd.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let split = Split::of_this_machine();
    let mut rows = Vec::new();
    for (style, what) in STYLES {
        let Ground { server, room, .. } = crowd::start(bench, &split, bench.options.slow_sessions)?;
        let scenario = format!("{} slow {what} on a core, others at {RATE}/s", room.sessions);
        let row = |measure: &str, unit: &str| Row::new(&scenario, measure, unit);
        let mut alone = row("99th percentile of the DATA reply, without them", "ms");
        let mut beside = row("99th percentile of the DATA reply, with them", "ms");
        let mut ratio = row("with them, as a multiple", "");
        ratio.bar = Some(Bar::AtMost(RATIO_MAX));
        ratio.note = Some(format!("{}; {}; a byte every {INTERVAL}", room.note(), split.note()));
        let mut standing = row("slow clients that stayed to the end", "");
        for round in 1..=bench.options.rounds {
            let before = split.as_client(|| measure(bench, &server))?.data_p99_ms()?;
            let text = format!(
                "--sessions {} --processes {} --style {style} --interval {INTERVAL} --duration 24h --from {SOURCES}",
                room.sessions, room.processes
            );
            let arguments = load::arguments(&text);
            let mut slow = split.as_client(|| Running::start(&bench.binaries.load, "slow", server.smtp, &arguments))?;
            crowd::wait_until_open(&server, room.sessions, &mut slow).context(what)?;
            let with = split.as_client(|| measure(bench, &server))?.data_p99_ms()?;
            let report = slow.finish()?;
            let left = report.number("/result/standing")?;
            println!("{scenario}, round {round}: {before:.2} ms without, {with:.2} ms with, {left} stayed");
            if left < room.sessions as f64 {
                println!("  the others: {}", report.complaints());
            }
            alone.add("ringpost", before);
            beside.add("ringpost", with);
            ratio.add("ringpost", with / before);
            standing.add("ringpost", left);
        }
        server.stop()?;
        rows.extend([alone, beside, ratio, standing]);
    }
    Ok(rows)
}

fn measure(bench: &Context<'_>, server: &Ringpost) -> Result<Report> {
    let seconds = bench.options.seconds;
    let text = format!("--rate {RATE}/s --duration {seconds}s --tls off --source {SOURCES}");
    let report = load::run(&bench.binaries.load, "run", server.smtp, &load::arguments(&text))?;
    subject::wait_until_drained(server)?;
    Ok(report)
}
