//! Start and stop of the server.
//!
//! The phases of the start come in order: config, logging, TLS, services, storage, servers; health answers while the storage is
//! still being read back. Each can fail; no listener answers before the last has succeeded. The stop has three:
//! accept no more, drain, close.

use crate::bans::BanFile;
use crate::cli::ConfigFile;
use crate::control::Commands;
use crate::greylist::GreylistFile;
use crate::health::Health;
use crate::in_force::{InForce, Publisher, Source};
use crate::keeper::{Keeper, Request};
use crate::orders::{Order, Orders};
use crate::plan::{self, Core};
use crate::shard::{self, Equipment, Socket};
use crate::signals::Signal;
use crate::state::StateDir;
use crate::{check, reload, signals};
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, Sender, bounded, select, tick, unbounded};
use ringpost_admin::{Admin, Options as AdminOptions, Sources};
use ringpost_base::{NetworkLengths, ShardId, owner};
use ringpost_config::{Config, Listener, LogFormat, LogLevel};
use ringpost_control::{Board, Phase};
use ringpost_dns::Dns;
use ringpost_metrics::Block;
use ringpost_net::{Bound, Group, Ticketing, bind};
use ringpost_policy::{GreyRecord, GreySecret, GreySieve};
use ringpost_runtime::log::{self, Format, Level, LogControl, LogGuard, LogOptions};
use ringpost_runtime::{Inbox, Plan, Services, ShardThread, entropy, inbox, mesh, now, preflight, start};
use ringpost_store::{FilesThread, shard_directories};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the start waits between two lines about reading the spool back, which may take long after a crash.
const STORAGE_NEWS: Duration = Duration::from_secs(10);

/// Questions from one shard to another that may be under way: more clients than that ask at once only in a flood, and go
/// on without an answer then.
const MESH_CAPACITY: usize = 1024;

/// How often health is looked at.
const HEALTH: Duration = Duration::from_millis(200);

/// What the close phase may take after the drain's deadline before the process ends regardless.
const CLOSE: Duration = Duration::from_secs(20);

/// Runs the server.
pub(crate) fn serve(options: &ConfigFile) -> Result<()> {
    let since = Instant::now();
    small_pages();
    // Mail is nobody else's business, whatever the umask of who starts us.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let config = check::load(options)?;
    let descriptors = preflight(plan::cores(&config)?.len())?;
    let guard = start_log(&config)?;
    let result = run(&config, options, guard.control(), descriptors, since);
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
    log::install(log_options(config)).context("the log can't be started")
}

/// How a config has the server log.
pub(crate) fn log_options(config: &Config) -> LogOptions {
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
    LogOptions { format, level, colour: terminal }
}

/// The running shards, and what watches them.
struct Shards {
    threads: Vec<ShardThread<()>>,
    board: Arc<Board>,
    ended: Receiver<ShardId>,
    /// Whether each shard's spool is open; and later, why a shard could not go on.
    opened: Receiver<(ShardId, Result<(), String>)>,
}

/// What is made before the shards, and outlives them.
struct Foundation {
    state: Arc<StateDir>,
    publisher: Arc<Publisher>,
    board: Arc<Board>,
    blocks: Vec<Arc<Block>>,
    health: Health,
    secret: GreySecret,
    keeper: Sender<Request>,
}

fn run(config: &Config, options: &ConfigFile, log: LogControl, descriptors: u64, since: Instant) -> Result<()> {
    let signals = signals::listen()?;
    let mut cores = plan::cores(config)?;
    if let Some(share) = plan::fit_descriptors(&mut cores, descriptors)? {
        tracing::warn!(
            connections_per_core = share as u64,
            "the limit on open files (ulimit -n, LimitNOFILE=) allows fewer connections than configured"
        );
    }
    let state = Arc::new(StateDir::open(&config.server.state_dir)?);
    reload::check_targets(config)?;
    let groups = bind_all(config, cores.len())?;
    let services = Services::start().context("no thread for the services")?;
    let ticketing = Ticketing::new()?;
    let source = Source {
        epoch: 0,
        config: config.clone(),
        policy: reload::policy(config)?,
        acceptors: reload::acceptors(config, &state, &ticketing, cores.len())?,
        dns: Dns::start(services.handle(), &reload::dns_options(config)).context("dns.servers")?,
        cores,
    };
    let cores = source.cores.clone();
    let (ban_file, mut book) = BanFile::open(state.bans())?;
    reload::set_bans(&mut book, config);
    book.expire(now().wall);
    let (fresh, at) = (GreySecret(entropy().0), now().wall);
    let sieve = GreySieve::new(config.policy.greylist.clone(), cores.len(), at);
    let (greylist, stored) = GreylistFile::open(state.greylist(), fresh, sieve, at)?;
    let (board, blocks) = (Board::new(cores.len()), blocks(cores.len()));
    let first = InForce { source: Arc::new(source), bans: Arc::new(book.snapshot()) };
    let publisher = Publisher::new(first, board.clone());
    let (keeper, requests) = unbounded();
    let running = Keeper {
        publisher: publisher.clone(),
        options: options.clone(),
        state: state.clone(),
        ticketing,
        log,
        descriptors,
        services: services.handle(),
        book,
        ban_file,
        greylist,
        requests,
    }
    .start(keeper.clone())?;
    let health = Health::new(publisher.clone(), &blocks);
    let foundation = Foundation { state, publisher, board, blocks, health, secret: stored.secret, keeper };
    let outcome = serve_on(&foundation, groups, stored.records, &services, &signals, since);
    running.stop();
    services.stop();
    outcome
}

/// From the services to the end of the shards.
fn serve_on(
    foundation: &Foundation,
    groups: Vec<(Listener, Group)>,
    greylisted: Vec<GreyRecord>,
    services: &Services,
    signals: &Receiver<Signal>,
    since: Instant,
) -> Result<()> {
    let source = foundation.publisher.current().source;
    let (config, cores) = (&source.config, &source.cores);
    let (orders, inboxes): (Vec<_>, Vec<_>) = cores.iter().map(|_| inbox()).unzip();
    let admin = start_admin(config, foundation, orders, services, since)?;
    // Until the server is ready nothing has been accepted that would have to be waited for: a start that fails, or is
    // called off, ends the process.
    let shards = launch(foundation, &source, &groups, greylisted, inboxes, services)?;
    if !wait_opened(&shards, signals)? {
        return Ok(());
    }
    for (listener, group) in groups {
        let steering = listener.is_steered().then_some(config.policy.ledger.networks);
        group.listen_all(steering).with_context(|| format!("listener {:?}", listener.name))?;
    }
    let outcome = operate(foundation, &source, &shards, &admin, signals, since);
    shards.board.publish_phase(Phase::Draining);
    // As the config is that is in force by now.
    let drain_timeout = foundation.publisher.current().source.config.server.drain_timeout.0;
    // Health and metrics answer until the sessions are done.
    wait_departed(&shards, drain_timeout);
    admin.stop();
    match (outcome, stop(drain_timeout, shards)) {
        (Err(outcome), Err(closed)) => Err(outcome.context(closed.to_string())),
        (outcome, closed) => outcome.and(closed),
    }
}

fn blocks(count: usize) -> Vec<Arc<Block>> {
    (0..count).map(|_| Arc::new(Block::new())).collect()
}

/// Sockets for the shards, of every address of every listener.
fn bind_all(config: &Config, shards: usize) -> Result<Vec<(Listener, Group)>> {
    let addresses = config.listeners.iter().flat_map(|listener| listener.address.iter().map(move |at| (listener, *at)));
    addresses
        .map(|(listener, address)| {
            let group = bind(address, shards).with_context(|| format!("listener {:?}", listener.name))?;
            Ok((listener.clone(), group))
        })
        .collect()
}

impl Shards {
    /// What a shard said of why it could not go on.
    fn told(&self) -> Option<String> {
        self.opened.try_iter().find_map(|(shard, result)| Some(format!("shard {shard}: {}", result.err()?)))
    }
}

/// Starts the shards; each begins by opening its spool.
fn launch(
    foundation: &Foundation,
    source: &Source,
    groups: &[(Listener, Group)],
    greylisted: Vec<GreyRecord>,
    inboxes: Vec<Inbox<Order>>,
    services: &Services,
) -> Result<Shards> {
    let Foundation { state, publisher, board, blocks, secret, keeper, .. } = foundation;
    let cores = &source.cores;
    let (ended_sender, ended) = unbounded();
    let (opened_sender, opened) = bounded(cores.len());
    let mut shards = Shards { threads: Vec::new(), board: board.clone(), ended, opened };
    let spool = state.spool();
    std::fs::create_dir_all(&spool).with_context(|| format!("{}: can't be made", spool.display()))?;
    let directories = shard_directories(&spool, cores.len())?;
    let mut sockets = share(groups, cores.len())?;
    let mut rudders = rudders(groups)?;
    let mut greylisted = by_owner(greylisted, source.config.policy.ledger.networks, cores.len());
    let seats = mesh(cores.len(), MESH_CAPACITY).into_iter().zip(mesh(cores.len(), MESH_CAPACITY));
    for ((((core, (directory, orphans)), (mesh, lease_mesh)), orders), index) in
        cores.iter().zip(directories).zip(seats).zip(inboxes).zip(0..)
    {
        let (done, inbox) = inbox();
        let files = FilesThread::start(core.shard, done).context("no thread for writing Maildirs")?;
        let equipment = Equipment {
            core: core.clone(),
            shards: cores.len(),
            publisher: publisher.clone(),
            state_dir: state.path().to_owned(),
            directory,
            orphans,
            sockets: std::mem::take(&mut sockets[index]),
            // The first shard changes the steering where a reload asks for it.
            rudders: std::mem::take(&mut rudders),
            greylisted: std::mem::take(&mut greylisted[index]),
            secret: *secret,
            mesh,
            lease_mesh,
            services: services.handle(),
            orders,
            keeper: keeper.clone(),
            files,
            inbox,
            opened: opened_sender.clone(),
        };
        let seat = board.seat(core.shard).ok_or_else(|| anyhow!("shard {} has no seat", core.shard))?;
        let block = blocks[core.shard.index()].clone();
        let plan = Plan { shard: core.shard, cpu: core.cpu, block, seat, ended: ended_sender.clone() };
        shards.threads.push(start(plan, move |shard| shard::run(shard, equipment))?);
    }
    Ok(shards)
}

/// The sockets of each shard.
fn share(groups: &[(Listener, Group)], shards: usize) -> Result<Vec<Vec<Socket>>> {
    let mut by_shard: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for (listener, group) in groups {
        for (bound, sockets) in group.share()?.into_iter().zip(&mut by_shard) {
            sockets.push(Socket { bound, name: listener.name.clone() });
        }
    }
    Ok(by_shard)
}

/// A socket of each group, by which its steering is changed.
fn rudders(groups: &[(Listener, Group)]) -> Result<Vec<(String, Bound)>> {
    let first = |(listener, group): &(Listener, Group)| {
        Ok(group.share()?.into_iter().next().map(|bound| (listener.name.clone(), bound)))
    };
    groups.iter().filter_map(|group| first(group).transpose()).collect()
}

/// What each shard remembers of the greylist.
fn by_owner(records: Vec<GreyRecord>, networks: NetworkLengths, shards: usize) -> Vec<Vec<GreyRecord>> {
    let mut by_shard: Vec<Vec<GreyRecord>> = (0..shards).map(|_| Vec::new()).collect();
    for record in records {
        by_shard[owner(record.network.address(), networks, shards).index()].push(record);
    }
    by_shard
}

/// From ready to the signal that ends it.
fn operate(
    foundation: &Foundation,
    source: &Source,
    shards: &Shards,
    admin: &Admin,
    signals: &Receiver<Signal>,
    since: Instant,
) -> Result<()> {
    let ready = shards.board.publish_phase(Phase::Ready);
    let late = shards.board.wait_acknowledged(ready, Duration::from_secs(2));
    match shards.told() {
        Some(reason) => bail!(reason),
        None if !late.is_empty() => tracing::warn!(shards = ?late, "shards are slow to start"),
        None => {}
    }
    announce(&source.config, &source.cores, admin, since);
    watch(foundation, shards, signals)
}

fn start_admin(
    config: &Config,
    foundation: &Foundation,
    orders: Orders,
    services: &Services,
    since: Instant,
) -> Result<Admin> {
    let Foundation { state, publisher, board, blocks, health, keeper, .. } = foundation;
    let control = Commands { keeper: keeper.clone(), orders, publisher: publisher.clone() };
    let health = health.clone();
    let sources = Sources {
        board: board.clone(),
        blocks: blocks.clone(),
        reasons: Arc::new(move || health.reasons()),
        version: env!("CARGO_PKG_VERSION"),
        started: since,
        control: Arc::new(control),
    };
    let socket = config.admin.socket.as_ref().map(|socket| state.path().join(socket));
    Ok(Admin::start(&services.handle(), AdminOptions { listen: config.admin.listen, socket }, sources)?)
}

/// Waits until every shard has opened its spool; false if a signal came first.
fn wait_opened(shards: &Shards, signals: &Receiver<Signal>) -> Result<bool> {
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
                Ok(Signal::Stop(signal)) => {
                    tracing::info!(signal, "stopping before the start was complete");
                    return Ok(false);
                }
                Err(_) => bail!("the thread for signals has ended"),
            },
            recv(news) -> _ => tracing::info!(ready = ready as u64, of = count as u64, "still reading the spool back"),
        }
    }
    Ok(true)
}

fn announce(config: &Config, cores: &[Core], admin: &Admin, since: Instant) {
    for listener in &config.listeners {
        for address in &listener.address {
            tracing::info!(listener = &*listener.name, %address, tls = listener.tls.name(), "listening");
        }
    }
    let cpus: Vec<usize> = cores.iter().map(|core| core.cpu).collect();
    let socket = admin.socket().map_or("off".to_owned(), |path| path.display().to_string());
    let admin = admin.address().map_or("off".to_owned(), |address| address.to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        hostname = &*config.server.hostname,
        cores = ?cpus,
        admin,
        socket,
        start_ms = since.elapsed().as_millis() as u64,
        "ready"
    );
}

/// Watches until a signal comes or a shard dies.
fn watch(foundation: &Foundation, shards: &Shards, signals: &Receiver<Signal>) -> Result<()> {
    let health = &foundation.health;
    let beat = tick(HEALTH);
    loop {
        select! {
            recv(signals) -> signal => match signal {
                // It fails only when the keeper is gone, which its own log line tells.
                Ok(Signal::Reload) => drop(foundation.keeper.send(Request::Reload(None))),
                Ok(Signal::Stop(signal)) => {
                    tracing::info!(signal, "stopping");
                    return Ok(());
                }
                Err(_) => bail!("the thread for signals has ended"),
            },
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
fn stop(drain_timeout: Duration, shards: Shards) -> Result<()> {
    let Shards { threads, board, .. } = shards;
    board.publish_phase(Phase::Draining);
    let within = drain_timeout + CLOSE;
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
