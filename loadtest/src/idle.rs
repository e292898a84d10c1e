//! The `idle` command: many sessions that say EHLO and then nothing, to see how many a server holds and at what price.
//!
//! While they rest, each costs this process a socket and a few hundred bytes (some ten KiB with TLS). A session falls when
//! the server closes it or says anything unasked; those that still stand at the end are closed with QUIT.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::args::IdleArgs;
use crate::crowd::{Conduct, Plan, Watched, serve_share, watch};
use crate::record::Refusal;
use crate::report::{mib, stage_summaries, write_errors, write_stages};
use crate::stats::{BreakKind, Incident};

/// What became of the sessions, for the record.
#[derive(Serialize)]
pub(crate) struct CrowdResult<'a> {
    asked: u64,
    opened: u64,
    failed: u64,
    /// Opened, but ended by the server before they were to leave.
    fallen: u64,
    /// Still there at the end.
    standing: u64,
    opening_seconds: f64,
    held_seconds: f64,
    bytes_sent_singly: u64,
    server_rss_bytes_before: Option<u64>,
    /// With all sessions open.
    server_rss_bytes_open: Option<u64>,
    /// After they were held.
    server_rss_bytes_held: Option<u64>,
    server_rss_bytes_per_session: Option<f64>,
    /// What the server said when it ended sessions, or turned them away.
    refusals: Vec<Refusal<'a>>,
    /// How connections ended without a word of the server.
    breaks: &'a BTreeMap<BreakKind, Incident>,
}

impl<'a> CrowdResult<'a> {
    pub(crate) fn of(watched: &'a Watched) -> Self {
        let counts = &watched.counts;
        let [before, open, held] = watched.server_rss;
        Self {
            asked: watched.asked,
            opened: counts.opened,
            failed: counts.failed,
            fallen: counts.fallen,
            standing: counts.standing(),
            opening_seconds: watched.opening.as_secs_f64(),
            held_seconds: watched.held.as_secs_f64(),
            bytes_sent_singly: counts.bytes,
            server_rss_bytes_before: before,
            server_rss_bytes_open: open,
            server_rss_bytes_held: held,
            server_rss_bytes_per_session: watched.server_rss_per_session(),
            refusals: Refusal::all(&watched.stats),
            breaks: &watched.stats.breaks,
        }
    }
}

/// Opens, holds and closes; none if this process has only a share of the sessions, and another reports on them.
pub(crate) fn idle(args: &IdleArgs) -> Result<Option<Watched>> {
    let plan = Plan {
        command: "idle",
        dial: args.dial.clone(),
        sessions: args.connections,
        conduct: Conduct::Rest,
        hold: args.hold,
        process: &args.process,
        record: &args.record,
    };
    match args.process.share {
        None => watch(plan).map(Some),
        Some(_) => serve_share(plan).map(|()| None),
    }
}

/// The report of the command.
pub(crate) fn report(args: &IdleArgs, watched: &Watched, record: Option<&Path>) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(out, "idle sessions with {}", args.dial.to.join(" "));
    let _ = write_crowd(&mut out, watched, record);
    out
}

/// The part of the report that every crowd has.
pub(crate) fn write_crowd(out: &mut String, watched: &Watched, record: Option<&Path>) -> std::fmt::Result {
    let counts = &watched.counts;
    writeln!(out, "\n  asked for  {:>10}", watched.asked)?;
    writeln!(out, "  opened     {:>10}   in {:.2} s", counts.opened, watched.opening.as_secs_f64())?;
    writeln!(out, "  failed     {:>10}", counts.failed)?;
    writeln!(out, "  fallen     {:>10}   ended by the server", counts.fallen)?;
    writeln!(out, "  standing   {:>10}   after {:.1} s", counts.standing(), watched.held.as_secs_f64())?;
    if counts.bytes > 0 {
        writeln!(out, "  bytes      {:>10}   sent one by one", counts.bytes)?;
    }
    write_errors(out, &watched.stats)?;
    write_stages(out, &stage_summaries(&watched.stats))?;
    if let [Some(before), Some(open), Some(held)] = watched.server_rss {
        writeln!(
            out,
            "\n  server RSS {:.1} MiB before, {:.1} MiB with all open, {:.1} MiB at the end",
            mib(before),
            mib(open),
            mib(held)
        )?;
    }
    if let Some(each) = watched.server_rss_per_session() {
        writeln!(out, "  {:.2} KiB a session", each / 1024.0)?;
    }
    if let Some(path) = record {
        writeln!(out, "\nrecord: {}", path.display())?;
    }
    Ok(())
}
