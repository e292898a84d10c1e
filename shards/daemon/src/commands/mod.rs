//! The commands that talk to the running server: each asks over the admin socket, and prints what it is told. And those that
//! work on its files alone: backup, restore, and the check of the spool; and those that are made of the command line itself:
//! man pages and completions.
//!
//! What is printed is made by functions of what was answered and of the time, so that it can be tested without a server.

mod audit;
mod backup;
mod ban;
mod canary;
mod completions;
mod config;
mod crash_report;
mod drain;
mod explain;
mod limits;
mod log;
mod man;
mod new_file;
mod profile;
mod queue;
mod reload;
mod restore;
mod sessions;
mod shards;
mod spool;
mod status;
mod table;
mod top;
mod upgrade;
mod words;

pub(crate) use audit::audit;
pub(crate) use backup::backup;
pub(crate) use ban::ban;
pub(crate) use canary::canary;
pub(crate) use completions::completions;
pub(crate) use config::show_config;
pub(crate) use crash_report::crash_report;
pub(crate) use drain::drain;
pub(crate) use explain::explain;
pub(crate) use limits::limits;
pub(crate) use log::log;
pub(crate) use man::man;
pub(crate) use profile::profile;
pub(crate) use queue::queue;
pub(crate) use reload::reload;
pub(crate) use restore::restore;
pub(crate) use sessions::sessions;
pub(crate) use shards::shards;
pub(crate) use spool::check_spool;
pub(crate) use status::status;
pub(crate) use top::top;
pub(crate) use upgrade::upgrade;

use crate::client::Client;
use anyhow::{Context, Result};
use ringpost_base::Timestamp;
use std::io::{self, Write};
use std::time::SystemTime;

/// Prints a command's answer. A reader that has seen enough, as `head` has, is no error.
fn print(text: &str) -> Result<()> {
    print_to_reader(text).map(drop)
}

/// The same, of something that goes on: tells whether anybody still reads.
fn print_to_reader(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
    }
}

/// Prints what the server sends, as it sends it, for programs.
fn print_json(client: &Client, path: &str) -> Result<()> {
    let value: serde_json::Value = client.get(path)?;
    print(&json(&value)?)
}

/// A value as programs take it, and as a terminal that it is printed on by mistake can't be controlled by it.
fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(format!("{}\n", words::plain_json(&serde_json::to_string_pretty(value)?)))
}

/// The wall clock.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
