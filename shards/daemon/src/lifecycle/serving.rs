//! The phases services and servers: who works beside the shards, and the moment from which clients are answered.

use super::server::Server;
use super::{shards, storage};
use crate::keeper::{Keeper, Request, Standing};
use crate::notify;
use crate::shard::Ending;
use anyhow::{Context, Result, bail};
use crossbeam::channel::unbounded;
use ringpost_control::Phase;
use ringpost_metrics::Counter;
use ringpost_runtime::watchdog::Watchdog;
use std::time::Duration;

/// How long the shards may take to take up a phase.
const TAKE_UP: Duration = Duration::from_secs(2);

/// Who reads the config again, and writes down what shards decide together.
pub(crate) fn keeper(server: &mut Server) -> Result<()> {
    let handle = server.services()?.handle();
    let storage = server.storage();
    let (ban_file, book) = storage.bans.take().context("no bans")?;
    let greylist = storage.greylist.take().context("no greylist")?;
    let options = server.options.clone();
    let (voice, rules, ground) = (server.voice.as_ref(), server.rules.as_ref(), server.ground.as_ref());
    let (Some(voice), Some(rules), Some(ground)) = (voice, rules, ground) else { bail!("the keeper comes too early") };
    let log = voice.log.as_ref().context("no log")?.control();
    let keeper = Keeper {
        publisher: rules.publisher.clone(),
        options,
        state: ground.state()?,
        ticketing: rules.ticketing.clone(),
        log,
        telemetry: voice.telemetry.clone().context("no telemetry")?,
        descriptors: ground.descriptors,
        services: handle,
        blocks: voice.blocks.clone(),
        book,
        ban_file,
        greylist,
        requests: rules.requests.clone(),
        audit: ringpost_admin::Audit::off(),
        // Until the former process lets go of them, its files are left alone.
        paused: ground.predecessor.is_some().then(Vec::new),
        health: rules.health.clone(),
        standing: Standing::default(),
    };
    server.keeper = Some(keeper.start(rules.keeper.clone())?);
    Ok(())
}

pub(crate) fn stop_keeper(server: &mut Server, _: Duration) -> Result<()> {
    if let Some(keeper) = server.keeper.take() {
        keeper.stop();
    }
    Ok(())
}

/// Who notices a shard that does not come back from what it does.
pub(crate) fn watchdog(server: &mut Server) -> Result<()> {
    let publisher = server.rules()?.publisher.clone();
    let health = server.rules()?.health.clone();
    let voice = server.voice()?;
    let limit = move || publisher.current().source.config.server.stall_timeout.0;
    let watchdog = Watchdog::start(voice.pulses.clone(), voice.blocks.clone(), limit);
    let watchdog = watchdog.context("no thread for the watchdog")?;
    health.watch_stalls(watchdog.view());
    voice.watchdog = Some(watchdog);
    Ok(())
}

pub(crate) fn stop_watchdog(server: &mut Server, _: Duration) -> Result<()> {
    if let Some(watchdog) = server.voice()?.watchdog.take() {
        watchdog.stop();
    }
    Ok(())
}

/// Clients are answered from here on.
pub(crate) fn sessions(server: &mut Server) -> Result<()> {
    let (services, state) = (server.services()?.handle(), server.ground()?.state()?);
    server.rules()?.health.begin_survey(&services, state.path().to_owned());
    // Who hears that it serves is to find out how it is.
    let verdict = server.rules()?.health.look();
    if verdict.phase != Phase::Ready {
        tracing::warn!(phase = %verdict.phase, reasons = ?verdict.reasons, "health changed");
    }
    let predecessor = server.ground()?.predecessor.is_some();
    if predecessor {
        // All that can fail comes before: from then on there is no way back.
        storage::start_admin(server)?;
        if let Some(predecessor) = &server.ground()?.predecessor {
            predecessor.wait_for_go()?;
        }
    }
    let board = server.voice()?.board.clone();
    let ready = board.publish_phase(verdict.phase);
    if predecessor {
        succeed(server)?;
    }
    let late = board.wait_acknowledged(ready, TAKE_UP);
    match server.storage().shards.as_ref().and_then(shards::Shards::told) {
        Some(reason) => bail!(reason),
        None if !late.is_empty() => tracing::warn!(shards = ?late, "shards are slow to start"),
        None => {}
    }
    announce(server)?;
    notify::ready();
    Ok(())
}

/// Everything that was the former process's is this one's now, but for its sessions and its spools.
fn succeed(server: &mut Server) -> Result<()> {
    if let Some(shards) = server.storage().shards.as_ref() {
        shards.ending.owned();
    }
    server.ground()?.state()?.claim()?;
    if let Some(admin) = server.storage().admin.as_mut() {
        admin.own();
    }
    // It fails only when the keeper is gone, which its own log line tells.
    let _ = server.rules()?.keeper.send(Request::Pause(false, tokio::sync::oneshot::channel().0));
    let (sender, bequests) = unbounded();
    server.storage().bequests = Some(bequests);
    let predecessor = server.ground()?.predecessor.take();
    predecessor.map_or(Ok(()), |predecessor| predecessor.succeed(sender))
}

fn announce(server: &mut Server) -> Result<()> {
    let since = server.since;
    let source = server.rules()?.publisher.current().source;
    for listener in &source.config.listeners {
        for address in &listener.address {
            tracing::info!(listener = &*listener.name, %address, tls = listener.tls.name(), "listening");
        }
    }
    let cpus: Vec<usize> = source.cores.iter().map(|core| core.cpu).collect();
    let admin = server.storage().admin.as_ref();
    let socket = admin.and_then(|admin| admin.socket()).map_or("off".to_owned(), |path| path.display().to_string());
    let admin = admin.and_then(|admin| admin.address()).map_or("off".to_owned(), |address| address.to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        hostname = &*source.config.server.hostname,
        cores = ?cpus,
        admin,
        socket,
        start_ms = since.elapsed().as_millis() as u64,
        "ready"
    );
    Ok(())
}

/// No new connection is taken. Sockets that somebody keeps open go on collecting clients for whoever serves next.
pub(crate) fn stop_accepting(server: &mut Server, within: Duration) -> Result<()> {
    if server.successor.is_none() {
        notify::stopping();
        server.voice()?.signs.status(Phase::Stopping.name());
    }
    server.ground()?.heirlooms.clear();
    let hand_over = server.successor.is_some();
    if let Some(shards) = server.storage().shards.as_ref()
        && hand_over
    {
        shards.ending.hand_over();
    }
    let board = server.voice()?.board.clone();
    let draining = board.publish_phase(Phase::Draining);
    let late = board.wait_acknowledged(draining, within);
    if !late.is_empty() {
        tracing::warn!(shards = ?late, "shards are slow to close their listeners");
    }
    Ok(())
}

/// Sessions finish, and the queue, if that was asked for.
pub(crate) fn drain(server: &mut Server, within: Duration) -> Result<()> {
    shards::wait_departed(server, within)
}

/// The shards end. What came to this process and was not begun goes to the one that goes on.
pub(crate) fn close(server: &mut Server, within: Duration) -> Result<()> {
    shards::join(server, within)?;
    let source = server.rules()?.publisher.current().source;
    let Some(successor) = server.successor.as_ref() else { return Ok(()) };
    let addresses: Vec<_> = source.config.listeners.iter().flat_map(|listener| listener.address.clone()).collect();
    let strays = ringpost_net::strays(&addresses).context("connections that nobody began to serve")?;
    if !strays.is_empty() {
        tracing::info!(connections = strays.len() as u64, "connections handed over unserved");
    }
    strays.iter().try_for_each(|(address, stray)| successor.give_stray(*address, stray))?;
    Ok(())
}

/// How long the drain may take as the config is by now.
pub(crate) fn drain_timeout(server: &Server) -> Duration {
    let configured = server.rules.as_ref().map(|rules| rules.publisher.current().source.config.server.drain_timeout.0);
    let queue = server.storage.as_ref().and_then(|storage| storage.shards.as_ref());
    configured.unwrap_or_default() + queue.map_or(Duration::ZERO, |shards| shards.ending.queue_for())
}

/// What the server did in its life, for the last record.
pub(crate) struct Totals {
    pub(crate) sessions: u64,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) deferred: u64,
    pub(crate) delivered: u64,
}

impl Totals {
    pub(crate) fn of(server: &Server) -> Self {
        let blocks = server.voice.as_ref().map_or(&[][..], |voice| &voice.blocks);
        let sum = |row: Counter| blocks.iter().map(|block| block.counter(row)).sum();
        Self {
            sessions: sum(Counter::SessionsOpened),
            accepted: sum(Counter::MessagesAccepted),
            rejected: sum(Counter::MessagesRejected),
            deferred: sum(Counter::MessagesDeferred),
            delivered: sum(Counter::DeliveriesDelivered),
        }
    }
}

/// How a server that serves comes to its end.
pub(crate) fn end_by(server: &mut Server, queue: Duration) {
    if let Some(shards) = server.storage().shards.as_ref() {
        Ending::deliver_for(&shards.ending, queue);
    }
}
