//! Servers for crowds: how many sessions the limits of this machine permit, and why not more.

use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Resource, getrlimit};

use super::Context;
use super::pinning::Split;
use crate::load::Running;
use crate::server::{Ringpost, Setting, Target};
use crate::throwaway::Folder;
use crate::{http, process};

/// Where the clients come from: from so many networks that whatever the server divides by address, it divides evenly.
pub(crate) const SOURCES: &str = "127.1.0.0/16";

/// Connections that the server has room for beyond a crowd, for the clients that are measured beside it.
pub(crate) const OTHERS: u64 = 500;

/// How long a crowd may take to be there.
const PATIENCE: Duration = Duration::from_secs(300);

/// Open files that a process of the load tester needs beside its connections, on the safe side.
const LOAD_SPARE: u64 = 300;

/// What a crowd may be on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// What was asked for.
    wanted: u64,
    /// As many of them as there is room for.
    pub(crate) sessions: u64,
    /// Processes that the load tester needs to hold them.
    pub(crate) processes: u64,
    /// The most open files of a process.
    files: u64,
}

impl Room {
    fn new(wanted: u64, server: Option<u64>, files: u64) -> Self {
        let sessions = wanted.min(server.map_or(u64::MAX, |room| room.saturating_sub(OTHERS)));
        let processes = sessions.div_ceil(files.saturating_sub(LOAD_SPARE).max(1));
        Room { wanted, sessions, processes, files }
    }

    /// With how many sessions it ran, and why.
    pub(crate) fn note(&self) -> String {
        let Room { wanted, sessions, processes, files } = self;
        let spread = if *processes > 1 { format!(", held by {processes} processes") } else { String::new() };
        if sessions == wanted {
            return format!("{sessions} sessions, as asked for{spread}");
        }
        format!(
            "{sessions} of {wanted} sessions{spread}: a process may have no more than {files} open files here, which leaves \
             the server on one core room for so many"
        )
    }
}

/// A server for a crowd.
pub(crate) struct Ground {
    pub(crate) server: Ringpost,
    pub(crate) room: Room,
    /// Its files; they stay while it runs.
    _folder: Folder,
}

/// Starts a server on its core of the split, with room for `wanted` sessions or as many as the limits permit.
pub(crate) fn start(bench: &Context<'_>, split: &Split, wanted: u64) -> Result<Ground> {
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let setting = Setting { target: Target::Discard, cores: vec![split.server], connections: Some(wanted + OTHERS) };
    let server = Ringpost::start_as(&bench.binaries.ringpost, folder.path(), &setting)?;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let room = Room::new(wanted, server.connections_per_core(), files);
    if room.sessions == 0 {
        bail!("a process may have only {files} open files here: not enough for any session");
    }
    Ok(Ground { server, room, _folder: folder })
}

/// Waits until so many sessions are open.
pub(crate) fn wait_until_open(server: &Ringpost, sessions: u64, crowd: &mut Running) -> Result<()> {
    let arrived = process::wait_until(PATIENCE, || {
        if let Err(error) = crowd.check() {
            return Some(Err(error));
        }
        match http::metric(server.admin, "ringpost_sessions_open") {
            Ok(open) if open.unwrap_or(0.0) >= sessions as f64 => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    });
    arrived.unwrap_or_else(|| bail!("{sessions} sessions aren't open after {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_decide_how_many_and_the_note_says_so() {
        let room = Room::new(50_000, Some(18_976), 20_000);
        assert_eq!((room.sessions, room.processes), (18_476, 1));
        assert!(room.note().starts_with("18476 of 50000 sessions: a process may have no more than 20000 open files"));
        let room = Room::new(50_000, None, 60_000);
        assert_eq!((room.sessions, room.processes), (50_000, 1));
        assert_eq!(room.note(), "50000 sessions, as asked for");
        assert_eq!(Room::new(50_000, None, 20_000).note(), "50000 sessions, as asked for, held by 3 processes");
        assert_eq!(Room::new(10, Some(100), 200).sessions, 0);
    }
}
