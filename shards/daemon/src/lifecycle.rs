//! Start and stop of the server.
//!
//! The phases of the start come in order: config, logging, TLS, services, storage, servers; health answers while the storage is
//! still being read back. Each can fail; no listener answers before the last has succeeded. The stop has three:
//! accept no more, drain, close.

use crate::cli::ConfigFile;
use crate::health::Health;
use crate::plan::{self, Core};
use crate::shard::{self, Equipment, Socket};
use crate::state::StateDir;
use crate::{check, signals};
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, bounded, select, tick, unbounded};
use ringpost_admin::{Options as AdminOptions, Services, Sources};
use ringpost_base::ShardId;
use ringpost_config::{Config, LogFormat, LogLevel, TlsVersion};
use ringpost_control::{Board, Phase};
use ringpost_metrics::Block;
use ringpost_net::{Acceptor, Ticketing, TlsOptions, bind, stored_or_made};
use ringpost_runtime::log::{self, Format, Level, LogGuard, LogOptions};
use ringpost_runtime::{Plan, ShardThread, inbox, preflight, start};
use ringpost_store::{FilesThread, shard_directories};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the start waits between two lines about reading the spool back, which may take long after a crash.
const STORAGE_NEWS: Duration = Duration::from_secs(10);

/// How often health is looked at.
const HEALTH: Duration = Duration::from_millis(200);

/// What the close phase may take after the drain's deadline before the process ends regardless.
const CLOSE: Duration = Duration::from_secs(10);

/// Runs the server.
pub(crate) fn serve(options: &ConfigFile) -> Result<()> {
    let since = Instant::now();
    small_pages();
    // Mail is nobody else's business, whatever the umask of who starts us.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let config = check::load(options)?;
    let mut cores = plan::cores(&config)?;
    let descriptors = preflight(cores.len())?;
    let guard = start_log(&config)?;
    let result = run(&config, &mut cores, descriptors, since);
    match &result {
        Ok(()) => tracing::info!("shutdown complete"),
        Err(error) => tracing::error!(error = format!("{error:#}"), "server failed"),
    }
    guard.finish();
    result
}

/// Huge pages make each thread's first touch of fresh memory cost two megabytes; what a session needs is a few kilobytes,
/// and an operator who counts on that should find it so.
fn small_pages() {
    // SAFETY: the call takes four integers and changes nothing but how later memory is mapped.
    let refused = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    // Where the kernel can't, memory use is higher and nothing else.
    debug_assert_eq!(refused, 0);
}

fn start_log(config: &Config) -> Result<LogGuard> {
    let terminal = std::io::stdout().is_terminal();
    let format = match config.log.format {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
        LogFormat::Auto if terminal => Format::Text,
        LogFormat::Auto => Format::Json,
    };
    let level = match config.log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    log::install(LogOptions { format, level, colour: terminal }).context("the log can't be started")
}

/// The running shards, and what watches them.
struct Shards {
    threads: Vec<ShardThread<()>>,
    board: Arc<Board>,
    blocks: Vec<Arc<Block>>,
    ended: Receiver<ShardId>,
    /// Whether each shard's spool is open; and later, why a shard could not go on.
    opened: Receiver<(ShardId, Result<(), String>)>,
}

fn run(config: &Config, cores: &mut [Core], descriptors: u64, since: Instant) -> Result<()> {
    let signals = signals::listen()?;
    if let Some(share) = plan::fit_descriptors(cores, descriptors)? {
        tracing::warn!(
            connections_per_core = share as u64,
            "the limit on open files (ulimit -n, LimitNOFILE=) allows fewer connections than configured"
        );
    }
    let state = StateDir::open(&config.server.state_dir)?;
    let sockets = bind_all(config, cores.len())?;
    let acceptors = acceptors(config, &state, cores.len())?;
    let (board, blocks) = (Board::new(cores.len()), blocks(cores.len()));
    let health = Health::new(cores, &blocks);
    let services = match config.admin.listen {
        None => None,
        Some(listen) => Some(start_services(listen, &board, &blocks, health.clone())?),
    };
    // Until the server is ready nothing has been accepted that would have to be waited for: a start that fails, or is
    // called off, ends the process.
    let shards = launch(config, cores, &state, board, blocks, sockets, acceptors)?;
    if !wait_opened(&shards, &signals)? {
        return Ok(());
    }
    let outcome = operate(config, cores, &shards, &health, services.as_ref(), &signals, since);
    shards.board.publish_phase(Phase::Draining);
    if let Some(services) = services {
        // Health and metrics answer until the sessions are done.
        wait_departed(&shards, config.server.drain_timeout.0);
        services.stop();
    }
    match (outcome, stop(config, shards)) {
        (Err(outcome), Err(closed)) => Err(outcome.context(closed.to_string())),
        (outcome, closed) => outcome.and(closed),
    }
}

fn blocks(count: usize) -> Vec<Arc<Block>> {
    (0..count).map(|_| Arc::new(Block::new())).collect()
}

/// Sockets for each shard, of every address of every listener.
fn bind_all(config: &Config, shards: usize) -> Result<Vec<Vec<Socket>>> {
    let mut by_shard: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        for address in &listener.address {
            let group = bind(*address, shards).with_context(|| format!("listener {:?}", listener.name))?;
            for (bound, sockets) in group.into_iter().zip(&mut by_shard) {
                sockets.push(Socket { bound, name: listener.name.clone(), tls: listener.tls });
            }
        }
    }
    Ok(by_shard)
}

fn acceptors(config: &Config, state: &StateDir, shards: usize) -> Result<Vec<Acceptor>> {
    let mut certificates: Vec<(PathBuf, PathBuf)> =
        config.tls.certificates.iter().map(|pair| (pair.cert.clone().into(), pair.key.clone().into())).collect();
    if certificates.is_empty() {
        let pair = stored_or_made(&state.tls(), &config.server.hostname)?;
        tracing::info!(certificate = %pair.0.display(), "no certificate configured, using a self-signed one");
        certificates.push(pair);
    }
    let options = TlsOptions { certificates, only_13: config.tls.min_version == TlsVersion::V13 };
    let ticketing = Ticketing::new()?;
    (0..shards).map(|_| Acceptor::new(&options, &ticketing).map_err(Into::into)).collect()
}

impl Shards {
    /// What a shard said of why it could not go on.
    fn told(&self) -> Option<String> {
        self.opened.try_iter().find_map(|(shard, result)| Some(format!("shard {shard}: {}", result.err()?)))
    }
}

/// Starts the shards; each begins by opening its spool.
fn launch(
    config: &Config,
    cores: &[Core],
    state: &StateDir,
    board: Arc<Board>,
    blocks: Vec<Arc<Block>>,
    sockets: Vec<Vec<Socket>>,
    acceptors: Vec<Acceptor>,
) -> Result<Shards> {
    let (ended_sender, ended) = unbounded();
    let (opened_sender, opened) = bounded(cores.len());
    let mut shards = Shards { threads: Vec::new(), board, blocks, ended, opened };
    let spool = state.spool();
    std::fs::create_dir_all(&spool).with_context(|| format!("{}: can't be made", spool.display()))?;
    let directories = shard_directories(&spool, cores.len())?;
    for (((core, sockets), acceptor), (directory, orphans)) in cores.iter().zip(sockets).zip(acceptors).zip(directories)
    {
        let (done, inbox) = inbox();
        let files = FilesThread::start(core.shard, done).context("no thread for writing Maildirs")?;
        let equipment = Equipment {
            core: core.clone(),
            config: config.clone(),
            state_dir: state.path().to_owned(),
            directory,
            orphans,
            acceptor,
            sockets,
            files,
            inbox,
            opened: opened_sender.clone(),
        };
        let seat = shards.board.seat(core.shard).ok_or_else(|| anyhow!("shard {} has no seat", core.shard))?;
        let block = shards.blocks[core.shard.index()].clone();
        let plan = Plan { shard: core.shard, cpu: core.cpu, block, seat, ended: ended_sender.clone() };
        shards.threads.push(start(plan, move |shard| shard::run(shard, equipment))?);
    }
    Ok(shards)
}

/// From ready to the signal that ends it.
fn operate(
    config: &Config,
    cores: &[Core],
    shards: &Shards,
    health: &Health,
    services: Option<&Services>,
    signals: &Receiver<&'static str>,
    since: Instant,
) -> Result<()> {
    let ready = shards.board.publish_phase(Phase::Ready);
    let late = shards.board.wait_acknowledged(ready, Duration::from_secs(2));
    match shards.told() {
        Some(reason) => bail!(reason),
        None if !late.is_empty() => tracing::warn!(shards = ?late, "shards are slow to start"),
        None => {}
    }
    announce(config, cores, services, since);
    watch(health, shards, signals)
}

fn start_services(listen: SocketAddr, board: &Arc<Board>, blocks: &[Arc<Block>], health: Health) -> Result<Services> {
    let sources = Sources {
        board: board.clone(),
        blocks: blocks.to_vec(),
        reasons: Arc::new(move || health.reasons()),
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(Services::start(AdminOptions { listen }, sources)?)
}

/// Waits until every shard has opened its spool; false if a signal came first.
fn wait_opened(shards: &Shards, signals: &Receiver<&'static str>) -> Result<bool> {
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
            recv(signals) -> signal => {
                tracing::info!(signal = signal.unwrap_or("none"), "stopping before the start was complete");
                return Ok(false);
            }
            recv(news) -> _ => tracing::info!(ready = ready as u64, of = count as u64, "still reading the spool back"),
        }
    }
    Ok(true)
}

fn announce(config: &Config, cores: &[Core], services: Option<&Services>, since: Instant) {
    for listener in &config.listeners {
        for address in &listener.address {
            tracing::info!(listener = &*listener.name, %address, tls = ?listener.tls, "listening");
        }
    }
    let cpus: Vec<usize> = cores.iter().map(|core| core.cpu).collect();
    let admin = services.map_or("off".to_owned(), |services| services.address().to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        hostname = &*config.server.hostname,
        cores = ?cpus,
        admin,
        start_ms = since.elapsed().as_millis() as u64,
        "ready"
    );
}

/// Watches until a signal comes or a shard dies.
fn watch(health: &Health, shards: &Shards, signals: &Receiver<&'static str>) -> Result<()> {
    let beat = tick(HEALTH);
    loop {
        select! {
            recv(signals) -> signal => {
                tracing::info!(signal = signal.unwrap_or("none"), "stopping");
                return Ok(());
            }
            recv(shards.ended) -> shard => {
                if let Some(reason) = shards.told() {
                    bail!(reason);
                }
                let shard = shard.map_or_else(|_| "?".to_owned(), |shard| shard.to_string());
                bail!("shard {shard} died; acknowledged mail is in the spool and is delivered after a restart");
            }
            recv(beat) -> _ => {
                let phase = if health.reasons().is_empty() { Phase::Ready } else { Phase::Degraded };
                if shards.board.state().phase != phase {
                    tracing::warn!(%phase, reasons = ?health.reasons(), "health changed");
                    shards.board.publish_phase(phase);
                }
            }
        }
    }
}

fn wait_departed(shards: &Shards, within: Duration) {
    let deadline = Instant::now() + within;
    let mut left = shards.threads.len();
    while left > 0 && shards.ended.recv_deadline(deadline).is_ok() {
        left -= 1;
    }
}

/// Stops the shards, whatever phase they are in, and waits for them.
fn stop(config: &Config, shards: Shards) -> Result<()> {
    let Shards { threads, board, .. } = shards;
    board.publish_phase(Phase::Draining);
    let within = config.server.drain_timeout.0 + CLOSE;
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
