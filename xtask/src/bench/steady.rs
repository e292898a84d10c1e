//! The answer to DATA under a steady load: open loop, so that a slow answer doesn't slow the questions down.

use anyhow::Result;

use super::Context;
use super::record::{Bar, Row};
use super::subject;
use crate::server::Target;
use crate::throwaway::Folder;
use crate::{load, proc};

/// Messages a minute.
const RATE: u32 = 1_000;

/// The slowest that the hundredth answer may be, in milliseconds.
const P99_MS_MAX: f64 = 100.0;

/// A steady load shows its tail later than a flood its rate.
const SECONDS_FACTOR: u64 = 4;

/// Measures with STARTTLS and Maildir delivery.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let mut row = Row::new(&format!("{RATE} messages a minute, STARTTLS"), "99th percentile of the DATA reply", "ms");
    row.bar = Some(Bar::AtMost(P99_MS_MAX));
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let subjects = subject::start_all(bench, folder.path(), Target::Maildir)?;
    let seconds = bench.options.seconds * SECONDS_FACTOR;
    for subject in subjects {
        let text = format!("--rate {RATE}/min --duration {seconds}s --tls starttls {}", subject.sources());
        let report = load::run(&bench.binaries.load, "run", subject.smtp(), &load::arguments(&text))?;
        row.add(subject.name(), report.data_p99_ms()?);
        println!("{}, {}: {:.2} ms, durability fsync", row.scenario, subject.name(), report.data_p99_ms()?);
        subject::wait_until_drained(subject.as_ref())?;
        proc::empty(subject.mail())?;
        subject.stop()?;
    }
    Ok(vec![row])
}
