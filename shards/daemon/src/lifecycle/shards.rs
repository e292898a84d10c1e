//! The shards: launched, waited for, let go.

use super::server::Server;
use crate::in_force::Source;
use crate::notify;
use crate::shard::{self, Ending, Equipment, Socket};
use crate::signals::Signal;
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, bounded, select, tick, unbounded};
use ringpost_base::{NetworkLengths, ShardId, owner};
use ringpost_config::Listener;
use ringpost_control::Phase;
use ringpost_net::{Bound, Group};
use ringpost_policy::GreyRecord;
use ringpost_runtime::{Plan, ShardThread, inbox, mesh, start};
use ringpost_store::{FilesThread, fresh_directories, shard_directories};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the start waits between two lines about reading the spool back, which may take long after a crash.
const STORAGE_NEWS: Duration = Duration::from_secs(10);

/// Questions from one shard to another that may be under way: more clients than that ask at once only in a flood, and go
/// on without an answer then.
const MESH_CAPACITY: usize = 1024;

/// How often the wait for the shards looks about.
const LOOK: Duration = Duration::from_millis(200);

/// What the service manager is asked to wait for, again and again, while the server drains.
const PATIENCE_ASKED: Duration = Duration::from_secs(20);

/// The start was called off by a signal.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {0} before the start was complete")]
pub(crate) struct CalledOff(pub(crate) &'static str);

/// The running shards, and what watches them.
pub(crate) struct Shards {
    threads: Vec<ShardThread<()>>,
    pub(crate) ended: Receiver<ShardId>,
    /// Whether each shard's spool is open; and later, why a shard could not go on.
    opened: Receiver<(ShardId, Result<(), String>)>,
    /// How they are to end.
    pub(crate) ending: Arc<Ending>,
}

impl Shards {
    /// What a shard said of why it could not go on.
    pub(crate) fn told(&self) -> Option<String> {
        self.opened.try_iter().find_map(|(shard, result)| Some(format!("shard {shard}: {}", result.err()?)))
    }
}

/// Starts the shards; each begins by opening its spool.
pub(crate) fn launch(server: &mut Server) -> Result<()> {
    let services = server.services()?.handle();
    let storage = server.storage();
    let (greylisted, secret) = (std::mem::take(&mut storage.greylisted), storage.secret.context("no greylist")?);
    let inboxes = std::mem::take(&mut server.rules()?.inboxes);
    let source = server.rules()?.publisher.current().source;
    let (cores, ground) = (&source.cores, server.ground()?);
    let plan = directories(&ground.state()?.spool(), cores.len(), ground.predecessor.is_some())?;
    let (state_dir, mut sockets) = (ground.state()?.path().to_owned(), share(&ground.groups, cores.len())?);
    let mut rudders = rudders(&ground.groups)?;
    let mut greylisted = by_owner(greylisted, source.config.policy.ledger.networks, cores.len());
    let ending = Ending::new(ground.inheritance.kept_open.clone(), ground.predecessor.is_some());
    let (ended_sender, ended) = unbounded();
    let (opened_sender, opened) = unbounded();
    let spools = plan.iter().map(|(directory, _)| directory.clone()).collect();
    let mut shards = Shards { threads: Vec::new(), ended, opened, ending: ending.clone() };
    let seats = mesh(cores.len(), MESH_CAPACITY).into_iter().zip(mesh(cores.len(), MESH_CAPACITY));
    for ((((core, (directory, orphans)), (mesh, lease_mesh)), orders), index) in
        cores.iter().zip(plan).zip(seats).zip(inboxes).zip(0..)
    {
        let (done, inbox) = inbox();
        let files = FilesThread::start(core.shard, done).context("no thread for writing Maildirs")?;
        let (voice, rules) = (server.voice.as_ref(), server.rules.as_ref());
        let (Some(voice), Some(rules)) = (voice, rules) else { bail!("shards need the phases before storage") };
        let telemetry = voice.telemetry.as_ref().context("no telemetry")?;
        let equipment = Equipment {
            core: core.clone(),
            shards: cores.len(),
            publisher: rules.publisher.clone(),
            state_dir: state_dir.clone(),
            directory,
            orphans,
            sockets: std::mem::take(&mut sockets[index]),
            ending: ending.clone(),
            // The first shard changes the steering where a reload asks for it.
            rudders: std::mem::take(&mut rudders),
            greylisted: std::mem::take(&mut greylisted[index]),
            secret,
            mesh,
            lease_mesh,
            services: services.clone(),
            telemetry: telemetry.clone(),
            orders,
            keeper: rules.keeper.clone(),
            files,
            inbox,
            opened: opened_sender.clone(),
        };
        let seat = voice.board.seat(core.shard).ok_or_else(|| anyhow!("shard {} has no seat", core.shard))?;
        let (block, pulse) = (voice.blocks[core.shard.index()].clone(), voice.pulses[core.shard.index()].clone());
        let plan = Plan { shard: core.shard, cpu: core.cpu, block, seat, pulse, ended: ended_sender.clone() };
        shards.threads.push(start(plan, move |shard| shard::run(shard, equipment))?);
    }
    let storage = server.storage();
    storage.shards = Some(shards);
    storage.spools = spools;
    Ok(())
}

/// The spool of each shard, and those it takes over. While a former process still has its own, all are new.
fn directories(spool: &Path, shards: usize, takes_over: bool) -> Result<Vec<(PathBuf, Vec<PathBuf>)>> {
    std::fs::create_dir_all(spool).with_context(|| format!("{}: can't be made", spool.display()))?;
    if takes_over {
        let fresh = fresh_directories(spool, shards)?;
        return Ok(fresh.into_iter().map(|directory| (directory, Vec::new())).collect());
    }
    Ok(shard_directories(spool, shards)?)
}

/// The sockets of each shard.
fn share(groups: &[(Listener, Group)], shards: usize) -> Result<Vec<Vec<Socket>>> {
    let mut by_shard: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for (listener, group) in groups {
        for (bounds, sockets) in group.share()?.into_iter().zip(&mut by_shard) {
            sockets.extend(bounds.into_iter().map(|bound| Socket { bound, name: listener.name.clone() }));
        }
    }
    Ok(by_shard)
}

/// A socket of each group, by which its steering is changed.
fn rudders(groups: &[(Listener, Group)]) -> Result<Vec<(String, Bound)>> {
    groups.iter().map(|(listener, group)| Ok((listener.name.clone(), group.rudder()?))).collect()
}

/// What each shard remembers of the greylist.
fn by_owner(records: Vec<GreyRecord>, networks: NetworkLengths, shards: usize) -> Vec<Vec<GreyRecord>> {
    let mut by_shard: Vec<Vec<GreyRecord>> = (0..shards).map(|_| Vec::new()).collect();
    for record in records {
        by_shard[owner(record.network.address(), networks, shards).index()].push(record);
    }
    by_shard
}

/// Waits until every shard has opened its spool.
pub(crate) fn wait_opened(server: &mut Server) -> Result<()> {
    let signals = server.ground()?.signals.clone();
    let shards = server.storage().shards.as_ref().context("no shards")?;
    let news = tick(STORAGE_NEWS);
    let (mut ready, count) = (0, shards.threads.len());
    while ready < count {
        select! {
            recv(shards.opened) -> opened => match opened {
                Ok((_, Ok(()))) => ready += 1,
                Ok((shard, Err(reason))) => bail!("shard {shard}: {reason}"),
                Err(_) => bail!("a shard died while it opened its spool"),
            },
            recv(shards.ended) -> _ => {
                let reason = shards.told();
                bail!(reason.unwrap_or_else(|| "a shard died while it opened its spool".to_owned()));
            }
            recv(signals) -> signal => match signal {
                Ok(Signal::Reload) => tracing::info!("SIGHUP before the start was complete changes nothing"),
                Ok(Signal::Stop(signal)) => return Err(CalledOff(signal).into()),
                Err(_) => bail!("the thread for signals has ended"),
            },
            recv(news) -> _ => tracing::info!(ready = ready as u64, of = count as u64, "still reading the spool back"),
        }
    }
    Ok(())
}

/// Lets clients in.
pub(crate) fn listen(server: &mut Server) -> Result<()> {
    let source: Arc<Source> = server.rules()?.publisher.current().source;
    for (listener, group) in std::mem::take(&mut server.ground()?.groups) {
        let steering = listener.is_steered().then_some(source.config.policy.ledger.networks);
        group.listen_all(steering).with_context(|| format!("listener {:?}", listener.name))?;
    }
    Ok(())
}

/// Waits for the shards to end by themselves.
pub(crate) fn wait_departed(server: &mut Server, within: Duration) -> Result<()> {
    let signals = server.ground()?.signals.clone();
    let Some(shards) = server.storage().shards.as_ref() else { return Ok(()) };
    let deadline = Instant::now() + within;
    let (mut left, mut told) = (shards.threads.len(), None::<Instant>);
    while left > 0 && Instant::now() < deadline {
        if signals.try_iter().any(|signal| matches!(signal, Signal::Stop(_))) && !shards.ending.queue_for().is_zero() {
            tracing::info!("told to stop: what is queued is left to the next start");
            shards.ending.deliver_for(Duration::ZERO);
        }
        // A service manager that has told the server to stop waits no longer than it hears of it.
        if told.is_none_or(|told| told.elapsed() >= PATIENCE_ASKED / 4) {
            notify::still_stopping(PATIENCE_ASKED);
            told = Some(Instant::now());
        }
        let next = deadline.min(Instant::now() + LOOK);
        match shards.ended.recv_deadline(next) {
            Ok(_) => left -= 1,
            Err(error) if error.is_timeout() => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Ends the shards, whatever phase they are in, and waits for them.
pub(crate) fn join(server: &mut Server, within: Duration) -> Result<()> {
    let board = server.voice()?.board.clone();
    let Some(shards) = server.storage().shards.take() else { return Ok(()) };
    board.publish_phase(Phase::Draining);
    let threads = shards.threads;
    let (done, joined) = bounded(1);
    let join = move || {
        let results: Vec<_> = threads.into_iter().map(ShardThread::join).collect();
        // Nobody listens after the deadline.
        let _ = done.send(results);
    };
    std::thread::Builder::new().name("join".into()).spawn(join).context("no thread to wait for the shards")?;
    let results = joined.recv_timeout(within).map_err(|_| anyhow!("shards did not end within {within:?}"))?;
    board.shards().for_each(|shard| board.depart(shard));
    board.publish_phase(Phase::Stopping);
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(())
}
