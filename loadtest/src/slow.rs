//! The `slow` command: many clients that each send a byte now and then, to see how long a server bears them, how it ends
//! them, and, with another run beside it, what the others notice of them.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::args::{SlowArgs, SlowStyle};
use crate::crowd::{Conduct, Plan, Watched, serve_share, watch};
use crate::drip::Drip;
use crate::idle::write_crowd;

/// Opens, drips and closes; none if this process has only a share of the sessions, and another reports on them.
pub(crate) fn slow(args: &SlowArgs) -> Result<Option<Watched>> {
    args.check()?;
    let drip = Drip { style: args.style, interval: args.interval, rcpt: args.rcpt.clone() };
    let plan = Plan {
        command: "slow",
        dial: args.dial(),
        sessions: args.sessions,
        conduct: Conduct::Drip(drip),
        hold: args.duration,
        process: &args.process,
        record: &args.record,
    };
    match args.process.share {
        None => watch(plan).map(Some),
        Some(_) => serve_share(plan).map(|()| None),
    }
}

/// The report of the command.
pub(crate) fn report(args: &SlowArgs, watched: &Watched, record: Option<&Path>) -> String {
    let what = match args.style {
        SlowStyle::Command => "commands",
        SlowStyle::Data => "a message",
        SlowStyle::Tls => "a TLS handshake",
    };
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(out, "slow sessions with {}: {what}, a byte every {:?}", args.dial.to.join(" "), args.interval);
    let _ = write_crowd(&mut out, watched, record);
    out
}
