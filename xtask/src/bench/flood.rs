//! What plaintext clients notice of a flood of TLS handshakes on their core: all of them must be served.

use anyhow::Result;

use super::Context;
use super::crowd::SOURCES;
use super::pinning::Split;
use super::record::{Bar, Row};
use super::subject;
use crate::load::{self, Report, Running};
use crate::server::{Ringpost, Setting, Target};
use crate::throwaway::Folder;

/// Messages a second of the clients without TLS, each on a connection of its own.
const RATE: u32 = 200;

/// Handshakes at one time, each followed by the next: together they ask for more than a core has.
const CONCURRENCY: u32 = 200;

/// Measures without and with the flood, in rounds.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let split = Split::of_this_machine();
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let setting = Setting { cores: vec![split.server], ..Setting::usual(Target::Discard) };
    let server = Ringpost::start_as(&bench.binaries.ringpost, folder.path(), &setting)?;
    let scenario = format!("flood of TLS handshakes on a core, others at {RATE}/s without TLS");
    let row = |measure: &str, unit: &str| Row::new(&scenario, measure, unit);
    let mut unserved = row("messages not served", "");
    unserved.bar = Some(Bar::AtMost(0.0));
    unserved.note = Some(format!("{}; {CONCURRENCY} handshakes at one time", split.note()));
    let mut served = row("messages a second", "");
    let mut alone = row("99th percentile of a whole message, without it", "ms");
    let mut beside = row("99th percentile of a whole message, with it", "ms");
    let mut reply = row("99th percentile of the DATA reply, with it", "ms");
    let mut handshakes = row("handshakes a second", "");
    for round in 1..=bench.options.rounds {
        let before = split.as_client(|| measure(bench, &server))?;
        let text =
            format!("--kind handshake --concurrency {CONCURRENCY} --duration 24h --timeout 60s --from {SOURCES}");
        let arguments = load::arguments(&text);
        let mut flood = split.as_client(|| Running::start(&bench.binaries.load, "flood", server.smtp, &arguments))?;
        let with = split.as_client(|| measure(bench, &server));
        flood.check()?;
        let flood = flood.finish()?;
        let with = with?;
        let (before_ms, with_ms) = (message_p99_ms(&before)?, message_p99_ms(&with)?);
        let per_second = flood.number("/result/connections_per_second")?;
        println!(
            "{scenario}, round {round}: {} not served, a message {before_ms:.2} ms without, {with_ms:.2} ms with \
             {per_second:.0} handshakes a second",
            not_served(&with)?
        );
        for (report, who) in [(&with, "without TLS"), (&flood, "of the flood")] {
            let complaints = report.complaints();
            if !complaints.is_empty() {
                println!("  clients {who}: {complaints}");
            }
        }
        unserved.add("ringpost", not_served(&with)?);
        served.add("ringpost", with.rate()?);
        alone.add("ringpost", before_ms);
        beside.add("ringpost", with_ms);
        reply.add("ringpost", with.data_p99_ms()?);
        handshakes.add("ringpost", per_second);
    }
    server.stop()?;
    Ok(vec![unserved, served, alone, beside, reply, handshakes])
}

/// Runs the clients without TLS; that some aren't served is a result and no error.
fn measure(bench: &Context<'_>, server: &Ringpost) -> Result<Report> {
    let seconds = bench.options.seconds;
    let text = format!("--rate {RATE}/s --sessions 1000 --duration {seconds}s --tls off --source {SOURCES}");
    let to = ["--to".to_owned(), server.smtp.to_string()];
    let (report, _) = load::run_alone(&bench.binaries.load, "run", &[&to, load::arguments(&text).as_slice()].concat())?;
    subject::wait_until_drained(server)?;
    Ok(report)
}

fn not_served(report: &Report) -> Result<f64> {
    let counts = ["refused", "failed", "not_started"].map(|name| report.number(&format!("/result/counts/{name}")));
    counts.into_iter().sum()
}

fn message_p99_ms(report: &Report) -> Result<f64> {
    Ok(report.number("/result/stages/message/p99_us")? / 1000.0)
}
