//! The tables at the end of a run, for a person to read.
//!
//! Everything here is also in the JSON record, and more exactly; scripts should read that.

use std::fmt::{self, Write};
use std::path::Path;

use crate::args::{RunArgs, TlsMode};
use crate::record::{Outcome, StageSummary, Used};
use crate::stats::{Stage, Stats};
use crate::verify::Verification;

/// Prints a report. The one place that writes to standard output.
#[expect(clippy::print_stdout, reason = "the report is what this tool is for")]
pub(crate) fn print(report: &str) {
    print!("{report}");
}

/// The stages that were timed, in order.
pub(crate) fn stage_summaries(stats: &Stats) -> Vec<(Stage, StageSummary)> {
    let timed = Stage::ALL.into_iter().filter(|&stage| !stats.stage(stage).is_empty());
    timed.map(|stage| (stage, StageSummary::of(stats.stage(stage)))).collect()
}

/// The whole report of a run.
pub(crate) fn run_report(
    args: &RunArgs,
    outcome: &Outcome,
    stages: &[(Stage, StageSummary)],
    record: Option<&Path>,
) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_run(&mut out, args, outcome, stages, record);
    out
}

fn write_run(
    out: &mut String,
    args: &RunArgs,
    outcome: &Outcome,
    stages: &[(Stage, StageSummary)],
    record: Option<&Path>,
) -> fmt::Result {
    let stats = &outcome.stats;
    writeln!(out, "run {:016x}: {}", outcome.run, parameters(args))?;
    writeln!(out)?;
    writeln!(out, "  acknowledged {:>12}   in {:.3} s", stats.acknowledged, outcome.active_seconds())?;
    writeln!(out, "  refused      {:>12}   by the server", stats.refused)?;
    writeln!(out, "  failed       {:>12}   for want of a connection", stats.failed)?;
    if args.load.rate.is_some() {
        writeln!(out, "  late starts  {:>12}   no session was free when they were due", stats.late_starts)?;
        writeln!(out, "  not started  {:>12}   due, but still waiting at the end", outcome.not_started)?;
    }
    writeln!(
        out,
        "  rate         {:>12.1}   msg/s, {:.2} MB/s",
        outcome.messages_per_second(),
        outcome.bytes_per_second() / 1e6
    )?;
    writeln!(out, "  connections  {:>12}", stats.connections)?;
    for (label, count) in &stats.tls {
        writeln!(out, "  handshakes   {count:>12}   {label}")?;
    }
    write_errors(out, stats)?;
    write_stages(out, stages)?;
    if let Some(verification) = &outcome.verification {
        write_verification(out, verification)?;
    }
    write_cpu(out, outcome)?;
    if let Some(error) = &outcome.acked_error {
        writeln!(out, "\n{error}")?;
    }
    if let Some(path) = record {
        writeln!(out, "\nrecord: {}", path.display())?;
    }
    Ok(())
}

fn parameters(args: &RunArgs) -> String {
    let mut text = args.dial.to.join(" ");
    let load = &args.load;
    let _ = match load.rate {
        None => write!(text, ", {} sessions", load.sessions),
        Some(rate) => write!(text, ", {rate} over up to {} sessions", load.sessions),
    };
    let mail = &args.mail;
    let _ = write!(text, ", {} a connection, size {}", load.messages_per_connection, mail.size);
    let _ = write!(text, ", {} rcpt", mail.recipients);
    match args.dial.tls {
        TlsMode::Off => {}
        TlsMode::Starttls => text.push_str(", starttls"),
        TlsMode::Implicit => text.push_str(", implicit tls"),
    }
    if mail.bdat {
        text.push_str(", bdat");
    }
    if mail.no_pipelining {
        text.push_str(", no pipelining");
    }
    if let Some(label) = &args.record.durability_label {
        let _ = write!(text, ", durability {label}");
    }
    text
}

/// The tables of refusals and of broken connections.
pub(crate) fn write_errors(out: &mut String, stats: &Stats) -> fmt::Result {
    if !stats.refusals.is_empty() {
        writeln!(out, "\n  refusals      count   first")?;
    }
    for ((code, command), incident) in &stats.refusals {
        let example: Vec<_> = incident.example.lines().map(str::trim_end).collect();
        writeln!(out, "  {code}      {:>10}   after {command}: {}", incident.count, example.join(" / "))?;
    }
    if !stats.breaks.is_empty() {
        writeln!(out, "\n  connections   count   first")?;
    }
    for (kind, incident) in &stats.breaks {
        writeln!(out, "  {:<8} {:>10}   {}", kind.name(), incident.count, incident.example)?;
    }
    Ok(())
}

/// The table of latencies.
pub(crate) fn write_stages(out: &mut String, stages: &[(Stage, StageSummary)]) -> fmt::Result {
    if stages.is_empty() {
        return Ok(());
    }
    let head = ["min", "p50", "p90", "p99", "p99.9", "max"];
    write!(out, "\n  {:<10} {:>10}", "stage, ms", "count")?;
    for name in head {
        write!(out, " {name:>10}")?;
    }
    writeln!(out)?;
    for (stage, summary) in stages {
        write!(out, "  {:<10} {:>10}", stage.name(), summary.count)?;
        let us = [summary.min_us, summary.p50_us, summary.p90_us, summary.p99_us, summary.p999_us, summary.max_us];
        for value in us {
            write!(out, " {:>10.3}", value as f64 / 1000.0)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_cpu(out: &mut String, outcome: &Outcome) -> fmt::Result {
    writeln!(out)?;
    write_used(out, "server", outcome.server, outcome.stats.acknowledged, "message")?;
    write_used(out, "generator", outcome.generator, outcome.stats.acknowledged, "message")
}

/// What a process used for so many messages or connections.
pub(crate) fn write_used(out: &mut String, name: &str, used: Option<Used>, count: u64, noun: &str) -> fmt::Result {
    let Some(used) = used else { return Ok(()) };
    write!(out, "  {name:<10} {:>8.2} s CPU", used.cpu.as_secs_f64())?;
    if let Some(each) = used.cpu_ms_per(count) {
        write!(out, ", {each:.4} ms a {noun}")?;
    }
    writeln!(out, ", RSS {:.1} -> {:.1} MiB", mib(used.rss_bytes_before), mib(used.rss_bytes_after))
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// The report of a verification on its own.
pub(crate) fn verification_report(verification: &Verification) -> String {
    let mut out = String::new();
    let _ = write_verification(&mut out, verification);
    out
}

fn write_verification(out: &mut String, found: &Verification) -> fmt::Result {
    let verdict = if found.holds() { "holds" } else { "FAILED" };
    writeln!(
        out,
        "\n  verification {verdict} ({} copies in {} maildirs, {:.1} s)",
        found.copies,
        found.maildirs,
        found.took.as_secs_f64()
    )?;
    let rows = [
        ("acknowledged", found.acknowledged, ""),
        ("exactly once", found.exactly_once, "and whole"),
        ("missing", found.missing, ""),
        ("duplicated", found.duplicated, "in one maildir"),
        ("damaged", found.damaged, "not byte for byte whole"),
        ("unacknowledged", found.unacknowledged, "but arrived, which is allowed"),
    ];
    for (name, count, note) in rows {
        writeln!(out, "  {}", format!("{name:<15} {count:>10}   {note}").trim_end())?;
    }
    if found.unacknowledged_damaged + found.unacknowledged_duplicated > 0 {
        writeln!(
            out,
            "  of these        {:>10}   damaged, which isn't, and {} in one maildir twice",
            found.unacknowledged_damaged, found.unacknowledged_duplicated
        )?;
    }
    if found.other_files > 0 {
        writeln!(out, "  other files     {:>10}   of no run in question", found.other_files)?;
    }
    for example in &found.examples {
        writeln!(out, "    {example}")?;
    }
    Ok(())
}
