//! What is left of clients that vanish: after a flood of resets in every place of a session, each gauge must be back at 0,
//! and memory where it was.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Context;
use super::crowd::SOURCES;
use super::record::{Bar, Row};
use crate::server::{Ringpost, Target};
use crate::throwaway::Folder;
use crate::{http, load, proc, process};

/// Connections at one time.
const CONCURRENCY: u32 = 100;

/// How long the server may take to notice the last of them and to deliver the messages that did arrive.
const SETTLE_PATIENCE: Duration = Duration::from_secs(90);

/// How long to wait between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// What every gauge of the server starts with.
const PREFIX: &str = "ringpost_";

/// Gauges that are never 0 while a server runs.
const NEVER_ZERO: [&str; 2] = ["ringpost_spool_segments", "ringpost_spool_free_bytes"];

/// A tenth of the resets comes first, so that what the server takes once and keeps isn't taken for a leak.
const FIRST_SHARE: u64 = 10;

/// Resets, waits, and looks.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let resets = bench.options.resets;
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let server = Ringpost::start(&bench.binaries.ringpost, folder.path(), Target::Discard)?;
    let scenario = format!("{resets} abrupt resets");
    let row = |measure: &str, unit: &str| Row::new(&scenario, measure, unit);
    let before = (http::gauges(server.admin, PREFIX)?, rss_mib(&server)?);
    let first = (resets / FIRST_SHARE).max(1);
    let mut rate = row("resets a second", "");
    flood(bench, &server, first)?;
    settle(&server, &before.0)?;
    let early = rss_mib(&server)?;
    rate.add("ringpost", flood(bench, &server, resets.saturating_sub(first).max(1))?);
    let left = settle(&server, &before.0)?;
    let late = rss_mib(&server)?;
    println!("{scenario}: RSS {:.1} MiB before, {early:.1} after {first}, {late:.1} at the end", before.1);
    for (series, value) in &left {
        println!("{scenario}: {series} is {value}");
    }
    let mut gauges = row("gauges that are not 0", "");
    gauges.bar = Some(Bar::AtMost(0.0));
    gauges.note = Some(match left.as_slice() {
        [] => format!("all are, but for {}", NEVER_ZERO.join(", ")),
        left => left.iter().map(|(series, value)| format!("{series} is {value}")).collect::<Vec<_>>().join(", "),
    });
    gauges.add("ringpost", left.len() as f64);
    let panics = http::metric(server.admin, "ringpost_sessions_panicked_total")?.context("no metric of panics")?;
    let mut panicked = row("sessions that panicked", "");
    panicked.bar = Some(Bar::AtMost(0.0));
    panicked.add("ringpost", panics);
    let mut growth = row("memory after the last tenths, beyond that after the first", "MiB");
    growth.add("ringpost", late - early);
    server.stop()?;
    Ok(vec![gauges, panicked, growth, rate])
}

/// Opens and resets so many connections; how many a second.
fn flood(bench: &Context<'_>, server: &Ringpost, count: u64) -> Result<f64> {
    let text = format!("--kind reset --concurrency {CONCURRENCY} --count {count} --from {SOURCES}");
    let report = load::run(&bench.binaries.load, "flood", server.smtp, &load::arguments(&text))?;
    report.number("/result/connections_per_second")
}

/// Waits until every gauge is 0, or as it was, or patience is over; those that are neither.
fn settle(server: &Ringpost, before: &[(String, f64)]) -> Result<Vec<(String, f64)>> {
    let mut last = Vec::new();
    process::wait_until(SETTLE_PATIENCE, || {
        std::thread::sleep(LOOK);
        match http::gauges(server.admin, PREFIX) {
            Ok(now) => {
                last = leftovers(&now, before);
                last.is_empty().then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    })
    .transpose()?;
    Ok(last)
}

/// Of these gauges, those that are not 0 and were not so before, and don't need to be 0.
fn leftovers(now: &[(String, f64)], before: &[(String, f64)]) -> Vec<(String, f64)> {
    let excused = |series: &str| NEVER_ZERO.iter().any(|name| series.split('{').next() == Some(name));
    let left = now.iter().filter(|sample| sample.1 != 0.0 && !excused(&sample.0) && !before.contains(sample));
    left.cloned().collect()
}

fn rss_mib(server: &Ringpost) -> Result<f64> {
    Ok(proc::rss_kib(server.id()).context("ringpost is gone")? as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaks_is_told_from_what_was_there_before() {
        let gauge = |name: &str, value| (format!("{name}{{shard=\"0\"}}"), value);
        let before = [gauge("ringpost_sessions_open", 0.0), gauge("ringpost_queue_messages", 3.0)];
        let now = [
            gauge("ringpost_sessions_open", 2.0),
            gauge("ringpost_queue_messages", 3.0),
            gauge("ringpost_spool_segments", 5.0),
            gauge("ringpost_messages_in_flight", 0.0),
        ];
        assert_eq!(leftovers(&now, &before), [gauge("ringpost_sessions_open", 2.0)]);
    }
}
