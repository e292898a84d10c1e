//! `cargo xtask bench`: what ringpost costs, alone or beside a Postfix in the same run on the same machine.
//!
//! Everything listens on loopback addresses and lives in throw-away folders. The results are printed, and kept as JSON
//! in `bench-results/`, from which the page there is drawn.

mod cpu;
mod crowd;
mod disk;
mod flood;
mod handshakes;
mod idle;
mod page;
mod pinning;
mod postfix;
mod queue;
mod record;
mod resets;
mod slow;
mod steady;
mod subject;
mod syncs;
mod tracing;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::server::{self, Binaries};
use crate::throwaway::Keep;
use crate::workspace::Workspace;
use crate::{machine, process};
use record::Row;

/// What can be asked of a run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A server to compare with, measured in turns with ringpost; it must run as root
    #[arg(long, value_enum)]
    against: Option<Against>,
    /// Length of a flat-out run in seconds; the steady load runs four times as long
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many times each server has its turn; medians are compared
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Run only this; repeatable
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Part>,
    /// Folder for the throw-away files, on the disk to be measured [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Idle sessions to hold, or as many as the limits of this machine permit
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    idle_sessions: u64,
    /// Slow clients to hold, or as many as the limits of this machine permit
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    slow_sessions: u64,
    /// Messages to have waiting, at most
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    queue_messages: u64,
    /// Connections to reset
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    resets: u64,
    /// Measure the programs ringpost and ringpost-load in this folder, and build none: for comparing versions
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Keep no record
    #[arg(long)]
    no_record: bool,
    /// Measure nothing, only draw the page from the records that are there
    #[arg(long)]
    page: bool,
}

/// What ringpost can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Against {
    /// Debian's Postfix, queueing with its defaults
    Postfix,
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// CPU time a message, flat out
    Cpu,
    /// Syncs a message
    Syncs,
    /// Memory of idle sessions
    Idle,
    /// Latency under a steady load
    Steady,
    /// Latency beside slow clients
    Slow,
    /// CPU time of a TLS handshake, beside that of rustls alone
    Handshakes,
    /// Plain clients under a flood of TLS handshakes
    Flood,
    /// What is left of connections that are reset
    Resets,
    /// Throughput of durable mail, beside the disk alone
    Disk,
    /// Cost of a message while many others wait
    Queue,
    /// Cost of traces
    Tracing,
}

impl Part {
    /// All, in the order they run.
    const ALL: [Part; 11] = [
        Part::Cpu,
        Part::Syncs,
        Part::Idle,
        Part::Steady,
        Part::Slow,
        Part::Handshakes,
        Part::Flood,
        Part::Resets,
        Part::Disk,
        Part::Queue,
        Part::Tracing,
    ];

    fn run(self, bench: &Context<'_>) -> Result<Vec<Row>> {
        match self {
            Part::Cpu => cpu::run(bench),
            Part::Syncs => syncs::run(bench),
            Part::Idle => idle::run(bench),
            Part::Steady => steady::run(bench),
            Part::Slow => slow::run(bench),
            Part::Handshakes => handshakes::run(bench),
            Part::Flood => flood::run(bench),
            Part::Resets => resets::run(bench),
            Part::Disk => disk::run(bench),
            Part::Queue => queue::run(bench),
            Part::Tracing => tracing::run(bench),
        }
    }
}

/// What every part needs.
pub(crate) struct Context<'a> {
    options: &'a Options,
    binaries: Binaries,
}

/// Measures, prints, keeps.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.page {
        return page::write(workspace);
    }
    process::raise_descriptor_limit();
    let _keep = Keep::folders();
    let machine = machine::describe(&options.folder.clone().unwrap_or_else(std::env::temp_dir));
    if machine["file_system"] == "tmpfs" {
        println!("warning: the throw-away folder is on tmpfs, where a sync costs nothing; --folder DIR names another");
    }
    let binaries = match &options.binaries {
        Some(folder) => Binaries::in_folder(&folder.canonicalize().with_context(|| format!("{}", folder.display()))?),
        None => server::build(workspace)?,
    };
    let bench = Context { options, binaries };
    let mut rows = Vec::new();
    for part in Part::ALL.into_iter().filter(|part| options.only.is_empty() || options.only.contains(part)) {
        rows.extend(part.run(&bench).with_context(|| format!("bench {part:?}"))?);
    }
    println!("\nMedians of {} rounds; every message synced to disk before its 250 (durability fsync).", options.rounds);
    print!("{}{}", record::table(&rows), record::notes(&rows));
    if options.no_record {
        return Ok(());
    }
    let (when, commit) = (machine::now(), machine::commit(workspace));
    let record = json!({
        "kind": page::KIND, "when": when, "commit": commit, "machine": machine,
        "parameters": { "seconds": options.seconds, "rounds": options.rounds, "durability": "fsync" },
        "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
    });
    page::keep(workspace, &record, &when, &commit)?;
    page::write(workspace)
}
