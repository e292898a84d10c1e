//! `ringpost-load`: loads an SMTP server, measures every stage of the dialogue, and proves what arrived.
//!
//! A client like any other: it shares nothing with the server it measures, not even a grammar, so that one mistake
//! can't hide in both. It is built to be cheap, since it often runs on the cores it measures: bodies are made before the
//! run, a message is copied into one buffer and written at once, and nothing is locked that another thread wants.
//!
//! What it refuses to do: it sends no message twice, follows no MX records, signs nothing, and judges no server's
//! conformance. Where it measures and where it doesn't stands in `stats`; what is proved, in `verify`.

mod acked;
mod args;
mod bare;
mod client;
mod crowd;
mod drip;
mod flood;
mod hardware;
mod idle;
mod limits;
mod maildir;
mod message;
mod process;
mod progress;
mod recipients;
mod record;
mod reply;
mod report;
mod reset;
mod run;
mod schedule;
mod session;
mod shares;
mod slow;
mod stats;
mod stream;
mod tls;
mod transaction;
mod units;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Cli, Command, FloodArgs, HandshakesArgs, IdleArgs, RunArgs, SlowArgs, VerifyArgs};
use crate::crowd::Watched;
use crate::idle::CrowdResult;
use crate::record::{Outcome, Record};
use crate::stats::BreakKind;

/// What the process answers; `--help` says the same in more words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Errors,
    CouldNotStart,
    Unproved,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Good => 0,
            Verdict::Errors => 1,
            Verdict::CouldNotStart => 2,
            Verdict::Unproved => 3,
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let verdict = match &cli.command {
        None => run(&cli.run),
        Some(Command::Run(args)) => run(args),
        Some(Command::Idle(args)) => idle(args),
        Some(Command::Slow(args)) => slow(args),
        Some(Command::Flood(args)) => flood(args),
        Some(Command::Handshakes(args)) => handshakes(args),
        Some(Command::Verify(args)) => verify(args),
    };
    let verdict = verdict.unwrap_or_else(|error| {
        eprintln!("ringpost-load: {error:#}");
        Verdict::CouldNotStart
    });
    verdict.into()
}

fn run(args: &RunArgs) -> Result<Verdict> {
    let outcome = run::run(args)?;
    let stages = report::stage_summaries(&outcome.stats);
    let record = Record::new("run", &args.record, args, outcome.result(&stages)).write(&args.record);
    report::print(&report::run_report(args, &outcome, &stages, path_of(&record)));
    Ok(if is_written(record) { judge(&outcome, args.load.reconnect) } else { Verdict::Errors })
}

/// A record that can't be written doesn't take the report with it.
fn is_written(record: Result<Option<PathBuf>>) -> bool {
    if let Err(error) = &record {
        eprintln!("ringpost-load: {error:#}");
    }
    record.is_ok()
}

/// What a run is worth as a whole.
fn judge(outcome: &Outcome, reconnect: bool) -> Verdict {
    if outcome.verification.as_ref().is_some_and(|verification| !verification.holds()) {
        return Verdict::Unproved;
    }
    let stats = &outcome.stats;
    let forgiven = |code: u16| reconnect && code == 421;
    let refused = stats.refusals.keys().any(|(code, _)| !forgiven(*code));
    let broken = stats.breaks.keys().any(|&kind| !reconnect || kind == BreakKind::Protocol);
    let nothing = stats.acknowledged == 0 && stats.started > 0;
    if refused || broken || nothing || outcome.acked_error.is_some() { Verdict::Errors } else { Verdict::Good }
}

fn idle(args: &IdleArgs) -> Result<Verdict> {
    let Some(watched) = idle::idle(args)? else { return Ok(Verdict::Good) };
    let record = Record::new("idle", &args.record, args, CrowdResult::of(&watched)).write(&args.record);
    report::print(&idle::report(args, &watched, path_of(&record)));
    Ok(judge_crowd(&watched, record))
}

fn slow(args: &SlowArgs) -> Result<Verdict> {
    let Some(watched) = slow::slow(args)? else { return Ok(Verdict::Good) };
    let record = Record::new("slow", &args.record, args, CrowdResult::of(&watched)).write(&args.record);
    report::print(&slow::report(args, &watched, path_of(&record)));
    Ok(judge_crowd(&watched, record))
}

fn judge_crowd(watched: &Watched, record: Result<Option<PathBuf>>) -> Verdict {
    let good = is_written(record) && watched.counts.standing() == watched.asked;
    if good { Verdict::Good } else { Verdict::Errors }
}

fn flood(args: &FloodArgs) -> Result<Verdict> {
    let flooded = flood::flood(args)?;
    let stages = flooded.stages();
    let record = Record::new("flood", &args.record, args, flooded.result(&stages)).write(&args.record);
    report::print(&flood::report(args, &flooded, &stages, path_of(&record)));
    let good = is_written(record) && flooded.refused == 0 && flooded.failed == 0;
    Ok(if good { Verdict::Good } else { Verdict::Errors })
}

fn handshakes(args: &HandshakesArgs) -> Result<Verdict> {
    let result = bare::handshakes(args)?;
    let record = Record::new("handshakes", &args.record, args, &result).write(&args.record);
    report::print(&bare::report(&result, path_of(&record)));
    Ok(if is_written(record) { Verdict::Good } else { Verdict::Errors })
}

fn path_of(record: &Result<Option<PathBuf>>) -> Option<&Path> {
    record.as_ref().ok().and_then(Option::as_deref)
}

fn verify(args: &VerifyArgs) -> Result<Verdict> {
    let verification = verify::verify_files(args)?;
    report::print(&report::verification_report(&verification));
    Ok(if verification.holds() { Verdict::Good } else { Verdict::Unproved })
}
