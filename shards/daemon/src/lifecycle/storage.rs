//! The phase storage: bans, greylist and spools are read back. Health answers meanwhile, as it may take long after a crash.

use super::server::Server;
use super::shards;
use crate::bans::BanFile;
use crate::control::Commands;
use crate::greylist::GreylistFile;
use crate::in_force::InForce;
use crate::keeper::Request;
use crate::reload;
use anyhow::{Context, Result};
use ringpost_admin::{Admin, Options, Sources};
use ringpost_policy::{GreySecret, GreySieve};
use ringpost_runtime::{entropy, now};
use std::sync::Arc;
use std::time::Duration;

/// Health, metrics and the API. A process that takes over leaves them to the former one until it serves.
pub(crate) fn admin(server: &mut Server) -> Result<()> {
    if server.ground()?.predecessor.is_none() { start_admin(server) } else { Ok(()) }
}

pub(crate) fn start_admin(server: &mut Server) -> Result<()> {
    let handle = server.services()?.handle();
    let (since, phases) = (server.since, server.phases.clone());
    let options_file = server.options.config.as_ref().map(|path| path.display().to_string());
    let (voice, rules) = (server.voice.as_ref(), server.rules.as_ref());
    let (Some(voice), Some(rules)) = (voice, rules) else { anyhow::bail!("health has nothing to tell yet") };
    let log = voice.log.as_ref().map(ringpost_runtime::log::LogGuard::control).context("no log")?;
    let source = rules.publisher.current().source;
    let control = Commands {
        keeper: rules.keeper.clone(),
        orders: rules.orders.clone(),
        publisher: rules.publisher.clone(),
        main: rules.main.clone(),
        log,
        pulses: voice.pulses.clone(),
        blocks: voice.blocks.clone(),
        board: voice.board.clone(),
    };
    let observed = rules.health.clone().observed(voice, since, phases);
    let sources = Sources {
        board: voice.board.clone(),
        blocks: voice.blocks.clone(),
        probes: observed.probes,
        process: observed.process,
        vitals: observed.vitals,
        situation: observed.situation,
        identity: ringpost_admin::Identity {
            config_file: options_file,
            cpus: source.cores.iter().map(|core| core.cpu).collect(),
        },
        version: env!("CARGO_PKG_VERSION"),
        started: since,
        control: Arc::new(control),
    };
    let ground = server.ground()?;
    let state = ground.state()?;
    let sockets = std::mem::take(&mut ground.inheritance.admin);
    let admin = &ground.config.admin;
    let options = Options {
        listen: admin.listen,
        socket: admin.socket.as_ref().map(|name| state.path().join(name)),
        access: crate::control::access(admin)?,
        audit: crate::control::audit(admin, &state)?,
        tcp: sockets.tcp,
        unix: sockets.unix,
    };
    let admin = Admin::start(&handle, options, sources)?;
    // It fails only when the keeper is gone, which its own log line tells.
    let _ = server.rules()?.keeper.send(Request::Audit(admin.audit().clone()));
    server.storage().admin = Some(admin);
    Ok(())
}

pub(crate) fn stop_admin(server: &mut Server, _: Duration) -> Result<()> {
    if let Some(admin) = server.storage().admin.take() {
        admin.stop();
    }
    Ok(())
}

/// A process that takes over waits until the former one touches bans and greylist no more.
pub(crate) fn turn(server: &mut Server) -> Result<()> {
    match &server.ground()?.predecessor {
        Some(predecessor) => predecessor.wait_for_turn(),
        None => Ok(()),
    }
}

pub(crate) fn bans(server: &mut Server) -> Result<()> {
    let ground = server.ground()?;
    let (file, mut book) = BanFile::open(ground.state()?.bans())?;
    reload::set_bans(&mut book, &ground.config);
    book.expire(now().wall);
    let publisher = &server.rules()?.publisher;
    publisher.begin_with(InForce { bans: Arc::new(book.snapshot()), ..publisher.current() });
    server.storage().bans = Some((file, book));
    Ok(())
}

pub(crate) fn greylist(server: &mut Server) -> Result<()> {
    let ground = server.ground()?;
    let (fresh, at) = (GreySecret(entropy().0), now().wall);
    let sieve = GreySieve::new(ground.config.policy.greylist.clone(), ground.cores.len(), at);
    let (file, stored) = GreylistFile::open(ground.state()?.greylist(), fresh, sieve, at)?;
    let storage = server.storage();
    storage.greylist = Some(file);
    storage.greylisted = stored.records;
    storage.secret = Some(stored.secret);
    Ok(())
}

/// The shards begin, each by reading its spool.
pub(crate) fn spools(server: &mut Server) -> Result<()> {
    shards::launch(server)?;
    shards::wait_opened(server)
}

/// Where a start fails, or is called off, the shards end before anything that they work with.
pub(crate) fn stop_spools(server: &mut Server, within: Duration) -> Result<()> {
    shards::join(server, within)
}
