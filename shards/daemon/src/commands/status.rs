//! `ringpost status`: what an operator reads first when something is wrong.
//!
//! A verdict in a line; then each probe that is not well, with what to do about it; then numbers, what is under way, and the
//! shards. It fits on 80 columns but for what has no spaces to break at, and comes of one question to the server, since one
//! in trouble may not answer a second.

mod shards;

use super::words::{bytes, in_words, messages, plain, short_rate, wrapped};
use super::{canary, json, now, print};
use crate::cli::ViewOptions;
use crate::client::Client;
use anyhow::{Context, Result};
use ringpost_admin::api::{Moment, ProbeView, ShardStatus, Status};
use ringpost_base::Timestamp;
use std::process::ExitCode;
use std::time::Duration;

/// Where the status is.
pub(super) const STATUS: &str = "/api/v1/status";

/// Columns of a terminal that was not made wider.
const WIDTH: usize = 80;

/// Probes named in the verdict; the others are below it.
const NAMED_MAX: usize = 4;

/// Columns of the names of numbers.
const LABEL: usize = 13;

pub(crate) fn status(options: &ViewOptions) -> Result<ExitCode> {
    let answer: serde_json::Value = Client::find(&options.server)?.get(STATUS)?;
    let text = if options.json { Some(json(&answer)?) } else { None };
    let status: Status = serde_json::from_value(answer).context("the answer is not understood")?;
    print(&text.unwrap_or_else(|| report(&status, now())))?;
    Ok(exit_code(&status.state))
}

/// As the command's help has it.
fn exit_code(state: &str) -> ExitCode {
    match state {
        "ready" => ExitCode::SUCCESS,
        "degraded" => ExitCode::from(3),
        "starting" | "draining" | "stopping" => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}

fn report(status: &Status, now: Timestamp) -> String {
    let mut told = paragraph(&verdict(status, now), "", "  ");
    told.push_str(&paragraph(&identity(status), "", "  "));
    told.push_str(&troubles(status, now));
    told.push('\n');
    told.push_str(&numbers(status, now));
    told.push('\n');
    told.push_str(&shards::table(&status.shards));
    told.push_str(&shards::limits_met(&status.shards));
    told
}

/// Text as lines within the width; the first begins with `first`, the others with `others`.
fn paragraph(text: &str, first: &str, others: &str) -> String {
    let lines = wrapped(text, WIDTH - first.len().max(others.len()));
    let starts = std::iter::once(first).chain(std::iter::repeat(others));
    starts.zip(lines).map(|(start, line)| format!("{start}{line}\n")).collect()
}

/// The state in a sentence, for how long it has been so, and what is to blame.
fn verdict(status: &Status, now: Timestamp) -> String {
    let state = plain(&status.state);
    let lasting = lasting(status.state_since, now);
    let host = if status.hostname.is_empty() { "it".to_owned() } else { plain(&status.hostname) };
    let failing: Vec<&ProbeView> = failing(status).collect();
    let serves = match status.state.as_str() {
        "ready" => "takes mail",
        "degraded" if failing.iter().all(|probe| probe.serves) => "takes mail",
        "starting" => "takes no mail yet",
        _ => "takes no mail",
    };
    let blamed = match (failing.len(), status.probes.len()) {
        (0, 0) => String::new(),
        (0, 1) => "; the one thing that is watched is well".to_owned(),
        (0, all) => format!("; all {all} things that are watched are well"),
        (count, all) => format!("; not well, {count} of {all} things watched: {}", names(&failing)),
    };
    format!("{}{lasting}: {host} {serves}{blamed}", state.to_uppercase())
}

/// ` for 5 minutes`; nothing if it is not known since when.
fn lasting(since: Option<Moment>, now: Timestamp) -> String {
    since.map_or(String::new(), |since| format!(" for {}", in_words(now.since(since.0))))
}

/// The probes that are not well, those first that keep mail from being taken.
fn failing(status: &Status) -> impl Iterator<Item = &ProbeView> {
    let of = |serves: bool| status.probes.iter().filter(move |probe| !probe.ok && probe.serves == serves);
    of(false).chain(of(true))
}

fn names(failing: &[&ProbeView]) -> String {
    let named: Vec<String> = failing.iter().take(NAMED_MAX).map(|probe| plain(&probe.name)).collect();
    let more = failing.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

fn identity(status: &Status) -> String {
    let up = in_words(Duration::from_secs(status.uptime_seconds));
    format!("ringpost {}, process {}, up {up}", plain(&status.version), status.process)
}

/// What is not well, one by one: for how long, why, and what to do.
fn troubles(status: &Status, now: Timestamp) -> String {
    let mut told = String::new();
    for probe in failing(status) {
        let reason = probe.reason.as_deref().map_or(String::new(), |reason| format!(": {}", plain(reason)));
        let shut = if probe.serves { "" } else { " (no mail is taken)" };
        let text = format!("{}{}{shut}{reason}", plain(&probe.name), lasting(probe.since, now));
        told.push_str(&paragraph(&text, "- ", "  "));
        if let Some(hint) = &probe.hint {
            told.push_str(&paragraph(&plain(hint), "  see ", "      "));
        }
    }
    let by_probe = |reason: &String| status.probes.iter().any(|probe| probe.reason.as_ref() == Some(reason));
    for reason in status.reasons.iter().filter(|reason| !by_probe(reason)) {
        told.push_str(&paragraph(&plain(reason), "- ", "  "));
    }
    if told.is_empty() { told } else { format!("\n{told}") }
}

/// What is going on now: a name and its number a line.
fn numbers(status: &Status, now: Timestamp) -> String {
    let mut told = labelled("rates", &rates(status));
    told.push_str(&labelled("queue", &queue(status)));
    set_aside(&status.shards).iter().for_each(|line| told.push_str(&labelled("", line)));
    let number = status.epoch;
    let config = status.config_file.as_deref().map_or("the embedded defaults".to_owned(), plain);
    told.push_str(&labelled("config", &format!("{number}, from {config}")));
    if let Some(expires) = status.certificate_expires {
        told.push_str(&labelled("certificate", &certificate(expires, now)));
    }
    if let Some(canary) = &status.canary {
        let verdict = canary::verdict(canary, now);
        told.push_str(&labelled("canary", &format!("{verdict}; see `ringpost canary show`")));
    }
    if let Some(upgrade) = &status.upgrade {
        told.push_str(&labelled("upgrade", &plain(upgrade)));
    }
    told
}

fn labelled(label: &str, text: &str) -> String {
    paragraph(text, &format!("{label:<LABEL$}"), &" ".repeat(LABEL))
}

fn rates(status: &Status) -> String {
    let recent = &status.recent;
    let [accepted, rejected, deferred, delivered] =
        [recent.accepted, recent.rejected, recent.deferred, recent.delivered].map(short_rate);
    format!("{accepted} accepted, {rejected} rejected, {deferred} deferred, {delivered} delivered a second")
}

fn queue(status: &Status) -> String {
    let sum = |count: fn(&ShardStatus) -> u64| status.shards.iter().map(count).sum::<u64>();
    let count = sum(|shard| shard.queue);
    if count == 0 {
        return "empty".to_owned();
    }
    let (retrying, backlog) = (sum(|shard| shard.queue_deferred), bytes(sum(|shard| shard.backlog_bytes)));
    let oldest = status
        .queue_oldest_seconds
        .map_or(String::new(), |seconds| format!("; the oldest came {} ago", in_words(Duration::from_secs(seconds))));
    format!("{}, {backlog}, {retrying} waiting for another attempt{oldest}", messages(count))
}

/// What an operator may have to see to in the queue, a line each.
fn set_aside(shards: &[ShardStatus]) -> Vec<String> {
    let sum = |count: fn(&ShardStatus) -> u64| shards.iter().map(count).sum::<u64>();
    let counts = [
        ("held messages", sum(|shard| shard.queue_held), "ringpost queue list --state held"),
        ("dead letters", sum(|shard| shard.queue_dead), "ringpost queue list --state dead"),
        ("targets that are left alone", sum(|shard| shard.breakers_open), "ringpost queue status"),
    ];
    let line = |(name, count, command): &(&str, u64, &str)| format!("{name}: {count}, see `{command}`");
    counts.iter().filter(|(_, count, _)| *count > 0).map(line).collect()
}

fn certificate(expires: Moment, now: Timestamp) -> String {
    if expires.0 <= now {
        return format!("ended {} ago, at {expires:.0}", in_words(now.since(expires.0)));
    }
    format!("ends in {}, at {expires:.0}", in_words(expires.0.since(now)))
}

#[cfg(test)]
mod tests;
