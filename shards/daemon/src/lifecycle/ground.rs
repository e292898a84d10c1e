//! The phase config: what the server is to be, whether the system lets it, and what it has to have of the system.
//!
//! Sockets are bound here, though no client is answered before the last phase: a port that is taken should be told before
//! a spool is read, and what binding needs may be given up before anything else begins.

use super::server::{Ground, Server};
use crate::plan;
use crate::state::StateDir;
use crate::upgrade::{Inheritance, refuse};
use crate::{check, privileges, signals};
use anyhow::{Context, Result, bail};
use crossbeam::channel::never;
use ringpost_config::{Config, Listener};
use ringpost_net::{Group, bind, inherit};
use ringpost_runtime::preflight;
use std::path::Path;
use std::sync::Arc;

/// The config, and what a process that was there before, or the service manager, has for this one.
pub(crate) fn config(server: &mut Server) -> Result<()> {
    let read = || {
        let config = check::load(&server.options)?;
        let cores = plan::cores(&config)?;
        Ok((config, cores))
    };
    let (config, cores) = read().inspect_err(|error: &anyhow::Error| refuse(&format!("{error:#}")))?;
    let (inheritance, predecessor) = Inheritance::receive(&config)?;
    server.ground = Some(Ground {
        config,
        cores,
        descriptors: 0,
        inheritance,
        predecessor,
        groups: Vec::new(),
        heirlooms: Vec::new(),
        settled: None,
        state: None,
        signals: never(),
    });
    Ok(())
}

/// What the kernel allows.
pub(crate) fn limits(server: &mut Server) -> Result<()> {
    // Mail is nobody else's business, whatever the umask of who starts us.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    small_pages();
    let ground = server.ground()?;
    ground.descriptors = preflight(ground.cores.len())?;
    Ok(())
}

/// Listening sockets.
pub(crate) fn sockets(server: &mut Server) -> Result<()> {
    let ground = server.ground()?;
    let state_dir = &ground.config.server.state_dir;
    if ground.predecessor.is_none() && StateDir::is_held(Path::new(state_dir)) {
        // Before the sockets, which the other server may have as well: this says more.
        StateDir::open(state_dir)?;
    }
    ground.groups = bind_all(&ground.config, ground.cores.len(), &mut ground.inheritance)?;
    for (_, group) in &ground.groups {
        ground.heirlooms.push((group.address(), group.descriptors().context("listening sockets")?));
    }
    // Those of addresses that the config no longer has are closed.
    ground.inheritance.listening.clear();
    Ok(())
}

/// What only binding needed is given up, before there is any other thread.
pub(crate) fn privileges(server: &mut Server) -> Result<()> {
    let config = &server.ground()?.config;
    let (user, group) = (config.server.user.as_deref(), config.server.group.as_deref());
    let settled = privileges::settle(user, group, config.policy.bans.nftables.is_some())?;
    settled.check_state_dir(Path::new(&config.server.state_dir))?;
    server.ground()?.settled = Some(settled);
    Ok(())
}

/// The state directory, with its lock.
pub(crate) fn state(server: &mut Server) -> Result<()> {
    let ground = server.ground()?;
    let state = match ground.inheritance.lock.take() {
        Some(lock) => StateDir::inherit(&ground.config.server.state_dir, lock)?,
        None => StateDir::open(&ground.config.server.state_dir)?,
    };
    ground.state = Some(Arc::new(state));
    Ok(())
}

/// The thread for signals.
pub(crate) fn signals(server: &mut Server) -> Result<()> {
    server.ground()?.signals = signals::listen()?;
    Ok(())
}

/// Huge pages make each thread's first touch of fresh memory cost two megabytes; what a session needs is a few kilobytes,
/// and an operator who counts on that should find it so.
fn small_pages() {
    // SAFETY: the call takes four integers and changes nothing but how later memory is mapped.
    let refused = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    // Where the kernel can't, memory use is higher and nothing else.
    debug_assert_eq!(refused, 0);
}

/// Sockets for the shards, of every address of every listener: those that were given, and our own where none were.
fn bind_all(config: &Config, shards: usize, inheritance: &mut Inheritance) -> Result<Vec<(Listener, Group)>> {
    let mut groups = Vec::new();
    for listener in &config.listeners {
        for address in &listener.address {
            let group = match inheritance.take(*address) {
                Some(sockets) => inherit(*address, sockets, shards),
                None => bind(*address, shards),
            };
            groups.push((listener.clone(), group.with_context(|| format!("listener {:?}", listener.name))?));
        }
    }
    Ok(groups)
}

/// Fewer connections than configured, where the limit on open files wants it so.
pub(crate) fn fit(server: &mut Server) -> Result<()> {
    let ground = server.ground()?;
    if let Some(share) = plan::fit_descriptors(&mut ground.cores, ground.descriptors)? {
        tracing::warn!(
            connections_per_core = share as u64,
            "the limit on open files (ulimit -n, LimitNOFILE=) allows fewer connections than configured"
        );
    }
    if ground.cores.is_empty() {
        bail!("no cores");
    }
    Ok(())
}
