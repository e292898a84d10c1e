//! `cargo xtask demo`: a minute of 1000 messages a minute over STARTTLS and then flat out, against a throw-away
//! server, with the proof that all of it arrived.

use anyhow::Result;

use crate::server::{self, Ringpost, Target};
use crate::throwaway::Folder;
use crate::workspace::Workspace;
use crate::{load, process};

/// What can be asked of the demonstration.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Length of the first part in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
}

/// Builds, starts, loads, proves, stops.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    process::raise_descriptor_limit();
    let binaries = server::build(workspace)?;
    let folder = Folder::new(None)?;
    let server = Ringpost::start(&binaries.ringpost, folder.path(), Target::Maildir)?;
    println!("ringpost listens on {}; its health and metrics are on http://{}", server.smtp, server.admin);

    // The server's default route syncs every message to disk before its 250: each table says so beside its rates.
    let mut proof = load::arguments("--durability-label fsync --verify-maildir");
    proof.push(server.mail.to_string_lossy().into_owned());
    let id = server.id();
    println!("\n1000 messages a minute for {} s, STARTTLS", options.seconds);
    let steady = format!("--rate 1000/min --duration {}s --tls starttls --server-pid {id}", options.seconds);
    load::show(&binaries.load, server.smtp, &[load::arguments(&steady), proof.clone()].concat())?;

    println!("\nflat out for 15 s, 50 sessions, 4 KiB, 20 messages a connection");
    let flat_out = format!("--sessions 50 --duration 15s --size 4096 --messages-per-connection 20 --server-pid {id}");
    load::show(&binaries.load, server.smtp, &[load::arguments(&flat_out), proof.clone()].concat())?;

    server.stop()?;
    println!("\nthe server drained and ended with status 0");
    Ok(())
}
