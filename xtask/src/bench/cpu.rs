//! Server CPU time a message, flat out, beside another server's in the same run.

use anyhow::{Result, bail};

use super::Context;
use super::record::{Bar, Row};
use super::subject::{self, Subject};
use crate::server::Target;
use crate::throwaway::Folder;
use crate::{load, proc};

/// Sessions at one time.
const SESSIONS: u32 = 50;

/// Size of a message in bytes.
const SIZE: u32 = 4096;

/// Messages a connection: as from many strangers, and as from one busy peer.
const PER_CONNECTION: [u32; 2] = [1, 20];

/// Length of the run that wakes everything up before the first measurement, in seconds.
const WARM_UP_SECONDS: u64 = 2;

/// The share of Postfix's CPU time that ringpost may take to queue a message.
const SHARE_OF_POSTFIX: f64 = 1.0 / 8.0;

/// One measurement.
struct Sample {
    cpu_ms_a_message: f64,
    messages_a_second: f64,
}

/// Measures both targets and both kinds of client, in rounds that take turns between the servers.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for target in [Target::Discard, Target::Maildir] {
        let folder = Folder::new(bench.options.folder.as_deref())?;
        let subjects = subject::start_all(bench, folder.path(), target)?;
        for subject in &subjects {
            measure(bench, subject.as_ref(), target, 20, WARM_UP_SECONDS)?;
        }
        for per_connection in PER_CONNECTION {
            rows.extend(compare(bench, &subjects, target, per_connection)?);
        }
        for subject in subjects {
            subject.stop()?;
        }
    }
    Ok(rows)
}

fn compare(
    bench: &Context<'_>,
    subjects: &[Box<dyn Subject>],
    target: Target,
    per_connection: u32,
) -> Result<Vec<Row>> {
    let what = match target {
        Target::Discard => "accepted",
        Target::Maildir => "accepted and delivered",
        Target::Nobody => "accepted and kept waiting",
    };
    let scenario = format!("{what}, {per_connection} a connection");
    let mut cpu = Row::new(&scenario, "server CPU a message", "ms");
    let mut rate = Row::new(&scenario, "messages a second", "");
    if target == Target::Discard {
        cpu.bar = Some(Bar::ShareOf("postfix".to_owned(), SHARE_OF_POSTFIX));
    }
    for round in 1..=bench.options.rounds {
        for subject in subjects {
            let sample = measure(bench, subject.as_ref(), target, per_connection, bench.options.seconds)?;
            let name = subject.name();
            println!(
                "{scenario}, round {round}: {name:>8} {:.4} ms a message at {:.0}/s, durability fsync",
                sample.cpu_ms_a_message, sample.messages_a_second
            );
            cpu.add(name, sample.cpu_ms_a_message);
            rate.add(name, sample.messages_a_second);
        }
    }
    Ok(vec![cpu, rate])
}

/// One run against one server. With delivery, its CPU time counts until the queue is empty; without, until the last
/// reply. Either way nothing is left to do when the next run starts.
fn measure(
    bench: &Context<'_>,
    subject: &dyn Subject,
    target: Target,
    per_connection: u32,
    seconds: u64,
) -> Result<Sample> {
    let text = format!(
        "--sessions {SESSIONS} --size {SIZE} --messages-per-connection {per_connection} --duration {seconds}s --tls off {}",
        subject.sources()
    );
    let before = subject.cpu_ms()?;
    let report = load::run(&bench.binaries.load, "run", subject.smtp(), &load::arguments(&text))?;
    let mut after = subject.cpu_ms()?;
    subject::wait_until_drained(subject)?;
    if target == Target::Maildir {
        after = subject.cpu_ms()?;
    }
    proc::empty(subject.mail())?;
    let acknowledged = report.acknowledged()?;
    if acknowledged == 0.0 {
        bail!("{} acknowledged nothing", subject.name());
    }
    Ok(Sample { cpu_ms_a_message: (after - before) / acknowledged, messages_a_second: report.rate()? })
}
