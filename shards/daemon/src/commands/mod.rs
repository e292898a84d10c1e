//! The commands that talk to the running server: each asks over the admin socket, and prints what it is told. And those that
//! work on its files alone: backup, restore, and the check of the spool.
//!
//! What is printed is made by functions of what was answered and of the time, so that it can be tested without a server.

mod backup;
mod ban;
mod explain;
mod queue;
mod reload;
mod restore;
mod spool;
mod status;
mod table;
mod words;

pub(crate) use backup::backup;
pub(crate) use ban::ban;
pub(crate) use explain::explain;
pub(crate) use queue::queue;
pub(crate) use reload::reload;
pub(crate) use restore::restore;
pub(crate) use spool::check_spool;
pub(crate) use status::status;

use crate::client::Client;
use anyhow::{Context, Result};
use ringpost_base::Timestamp;
use std::io::{self, Write};
use std::time::SystemTime;

/// Prints a command's answer. A reader that has seen enough, as `head` has, is no error.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        Ok(()) | Err(_) => Ok(()),
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
