//! What runs on a shard: its spool, its queue, its listeners, from start to stop.

mod ending;
mod moving;

pub(crate) use ending::Ending;
pub(crate) use moving::Moving;

use crate::in_force::{InForce, Publisher, Source};
use crate::keeper::Request;
use crate::orders::{self, Order};
use crate::plan::{Core, hot_share};
use crate::recovered::{digest, requeued};
use crossbeam::channel::Sender;
use ending::{close_listeners, deliver_rest, drain, end_attempts, finish_by_themselves, persist_all};
use ringpost_base::{Durability, MessageIds, Priority, ShardId};
use ringpost_config::{Config, Listener, ListenerKind};
use ringpost_control::{Phase, Seat, State};
use ringpost_deliver::{
    Directions, LeaseAnswer, LeaseQuestion, Leases, Reach, Runner, RunnerSetup, TargetParts, Targets,
};
use ringpost_dns::Resolver;
use ringpost_message::Recipient;
use ringpost_metrics::Block;
use ringpost_net::{Bound, Table, serve};
use ringpost_policy::{GreyRecord, GreySecret, Greylist, Ledger};
use ringpost_queue::{
    DefaultRoute, Destination, DestinationOptions, DomainRoute, PatternRoute, Queue, Routes, RoutesSetup,
};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{Inbox, MeshSeat, Shard, entropy, sleep, spawn_vital, tick};
use ringpost_serve::{ListenerRules, Mx, MxSetup, Owners, OwnersSetup, Question, Rules, Timeouts, Verdict};
use ringpost_smtp::Protocol;
use ringpost_store::{Budget, FilesThread, JobDone, Opened, Orphans, Setup as StoreSetup, SpaceLimits, Store, open};
use ringpost_telemetry::{Telemetry, Tracer};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How often what has changed in the greylist is handed over to be written.
const GREYLIST_WRITE: Duration = Duration::from_secs(5);

/// How long a message of the class `memory` waits for its first attempt before it is written into the spool.
const KEPT_MAX: Duration = Duration::from_secs(10);

/// A listener's socket for one shard.
pub(crate) struct Socket {
    pub(crate) bound: Bound,
    pub(crate) name: String,
}

/// What a shard gets from the main thread.
pub(crate) struct Equipment {
    pub(crate) core: Core,
    /// How many shards there are.
    pub(crate) shards: usize,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) state_dir: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) orphans: Orphans,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) ending: Arc<Ending>,
    /// By which the steering of each listener is changed, on one of the shards.
    pub(crate) rudders: Vec<(String, Bound)>,
    /// What the greylist of this shard remembers from before.
    pub(crate) greylisted: Vec<GreyRecord>,
    pub(crate) secret: GreySecret,
    pub(crate) mesh: MeshSeat<Question, Verdict>,
    pub(crate) lease_mesh: MeshSeat<LeaseQuestion, LeaseAnswer>,
    /// The thread for what only exists on tokio.
    pub(crate) services: Handle,
    pub(crate) telemetry: Telemetry,
    pub(crate) orders: Inbox<Order>,
    pub(crate) keeper: Sender<Request>,
    pub(crate) files: FilesThread,
    pub(crate) inbox: Inbox<JobDone>,
    /// Told whether the shard's storage is open, and later if it can't go on.
    pub(crate) opened: Sender<(ShardId, Result<(), String>)>,
}

/// Runs the shard until the server stops.
pub(crate) async fn run(shard: Shard, equipment: Equipment) {
    let opened = equipment.opened.clone();
    let id = shard.id;
    let (mut taking, mut seat, rest) = match make(shard, equipment).await {
        Ok(made) => made,
        Err(reason) => {
            // The main thread gives up the start; there is nobody to tell if it is gone already.
            let _ = opened.send((id, Err(reason)));
            return;
        }
    };
    let _ = opened.send((id, Ok(())));
    let fits = |phase| matches!(phase, Phase::Ready | Phase::Degraded);
    let Some(ready) = taking.wait_for(&mut seat, fits).await else {
        return close(&taking.store, &seat).await;
    };
    let Rest { sockets, inbox, orders, keeper, block, ending } = rest;
    let moving = Moving::new(block.clone());
    taking.begin(inbox, orders, keeper.clone(), (&moving, &ending));
    let listening = Rc::new(Cell::new(sockets.len()));
    let stops = listen(sockets, &taking, &block, &listening, &ending);
    // Only now: who sees the acknowledgement may connect.
    seat.acknowledge(ready);
    let ended = taking.wait_for(&mut seat, Phase::is_final).await;
    // A socket that is still held here would go on taking connections that nobody serves.
    taking.rudders.clear();
    stops.iter().for_each(|stop| stop.ring());
    moving.end();
    let drain_timeout = taking.in_force.source.config.server.drain_timeout.0;
    let deadline = tick().deadline(drain_timeout);
    // What is in memory only would be lost with the process: first of all, since nobody knows how long it has.
    persist_all(&taking.store).await;
    close_listeners(&listening).await;
    if let Some(state) = ended {
        seat.acknowledge(state);
    }
    if ending.is_succeeded() {
        finish_by_themselves(&taking.table, deadline).await;
    }
    drain(&taking.table, deadline).await;
    deliver_rest(&block, &ending).await;
    end_attempts(&taking.runner, deadline).await;
    persist_all(&taking.store).await;
    send_greylist(&taking.owners, &keeper);
    close(&taking.store, &seat).await;
}

/// What a shard needs once everything is made.
struct Rest {
    sockets: Vec<Socket>,
    inbox: Inbox<JobDone>,
    orders: Inbox<Order>,
    keeper: Sender<Request>,
    block: Arc<Block>,
    ending: Arc<Ending>,
}

/// Opens the spool and makes everything that serves and delivers.
async fn make(shard: Shard, equipment: Equipment) -> Result<(Taking, Seat, Rest), String> {
    let Shard { id, block, seat } = shard;
    let Equipment { core, shards, publisher, state_dir, directory, orphans, sockets, rudders, keeper, ending, .. } =
        equipment;
    let in_force = publisher.current();
    let config = &in_force.source.config;
    let routes = Rc::new(routes(config));
    let looked_at = routes.clone();
    let look = move |id, stored: &[u8]| digest(&looked_at, id, stored);
    let setup = StoreSetup {
        directory,
        orphans,
        options: config.spool,
        entropy: entropy(),
        block: block.clone(),
        budget: budget(&core),
        space: space(config),
    };
    let opened = open(setup, look, |_| {}).await;
    let Opened { store, recovered } = opened.map_err(|error| format!("can't open its spool: {error}"))?;
    let resolver = in_force.source.dns.resolver();
    let target_parts =
        TargetParts { state_dir, resolver: resolver.clone(), services: equipment.services, block: block.clone() };
    let leases = Leases::new(id, shards, equipment.lease_mesh.open(), block.clone());
    leases.configure(destinations(config));
    let ids = Rc::new(RefCell::new(MessageIds::new(id, entropy())));
    let tracer = Rc::new(equipment.telemetry.tracer(entropy()));
    let runner = Runner::new(RunnerSetup {
        tracer: tracer.clone(),
        queue: Queue::new(config.queue.clone(), entropy()),
        store: store.clone(),
        files: equipment.files,
        leases,
        ids: ids.clone(),
        routes: routes.clone(),
        targets: Targets::new(config, &target_parts, &Targets::default())?,
        reach: reach(&in_force.source),
        block: block.clone(),
    });
    recovered.into_iter().for_each(|message| runner.recovered(requeued(message)));
    let parts = Parts { id, shards, secret: equipment.secret, keeper: keeper.clone(), block: block.clone(), tracer };
    let owners = parts.owners(config, equipment.mesh, equipment.greylisted);
    let mx = parts.mx(&in_force, Delivery { routes, runner: &runner, resolver, ids }, &owners);
    let mx = mx.map_err(|error| format!("{error:#}"))?;
    let table = Table::new();
    let taking = Taking { id, target_parts, rudders, mx, owners, runner, store, table, publisher, in_force };
    let rest = Rest { sockets, inbox: equipment.inbox, orders: equipment.orders, keeper, block, ending };
    Ok((taking, seat, rest))
}

fn budget(core: &Core) -> Budget {
    let memory = core.capacity.message_memory;
    Budget { message_bytes: memory.0, hot_bytes: hot_share(memory) }
}

/// What several parts of a shard are made with.
struct Parts {
    id: ShardId,
    shards: usize,
    secret: GreySecret,
    keeper: Sender<Request>,
    block: Arc<Block>,
    tracer: Rc<Tracer>,
}

/// What an MX needs of delivery.
struct Delivery<'a> {
    routes: Rc<Routes>,
    runner: &'a Rc<Runner>,
    resolver: Rc<Resolver>,
    ids: Rc<RefCell<MessageIds>>,
}

impl Parts {
    fn owners(&self, config: &Config, mesh: MeshSeat<Question, Verdict>, greylisted: Vec<GreyRecord>) -> Rc<Owners> {
        let policy = &config.policy;
        let mut greylist = Greylist::new(policy.greylist.clone());
        greylist.load(greylisted);
        let keeper = self.keeper.clone();
        Owners::new(OwnersSetup {
            shard: self.id,
            shards: self.shards,
            networks: policy.ledger.networks,
            limits: policy.ledger.clone(),
            ledger: Ledger::new(policy.ledger.clone(), policy.bans.rules.clone()),
            greylist,
            mesh: mesh.open(),
            // It fails only when the keeper is gone, which its own log line tells.
            order: Box::new(move |order| drop(keeper.send(Request::Ordered(order)))),
            block: self.block.clone(),
        })
    }

    fn mx(&self, in_force: &InForce, delivery: Delivery<'_>, owners: &Rc<Owners>) -> anyhow::Result<Rc<Mx>> {
        let source = &in_force.source;
        let Delivery { routes, runner, resolver, ids } = delivery;
        let (accepting, asking) = (runner.clone(), runner.clone());
        Ok(Mx::new(MxSetup {
            shard: self.id,
            entropy: entropy(),
            ids,
            rules: rules(source, self.id, routes)?,
            bans: in_force.bans.clone(),
            owners: owners.clone(),
            secret: self.secret,
            tracer: self.tracer.clone(),
            resolver,
            trail_bytes: source.config.explain.memory.0 as usize,
            store: runner.store().clone(),
            block: self.block.clone(),
            accepted: Box::new(move |envelope, size, done| accepting.accepted(envelope, size, done)),
            hand_over: Box::new(move |envelope, content| Box::pin(asking.clone().hand_over(envelope, content))),
        }))
    }
}

/// The rules of a shard.
fn rules(source: &Source, shard: ShardId, routes: Rc<Routes>) -> anyhow::Result<Rules> {
    let config = &source.config;
    let missing = || anyhow::anyhow!("shard {shard} is not among the cores of the config");
    let core = source.cores.get(shard.index()).ok_or_else(missing)?;
    let acceptor = source.acceptors.get(shard.index()).ok_or_else(missing)?;
    Ok(Rules {
        epoch: source.epoch,
        options: Rc::new(config.smtp.clone()),
        policy: source.policy.clone(),
        screen: config.policy.screen.clone(),
        greylist: config.policy.greylist.mode,
        counts_offences: !config.policy.bans.rules.is_empty(),
        capacity: core.capacity,
        timeouts: Timeouts {
            command: config.limits.command_timeout.0,
            data: config.limits.data_timeout.0,
            session: config.limits.session_timeout.map(|span| span.0),
        },
        routes,
        next_hop_timeout: config.routing.next_hop_timeout.0,
        acceptor: acceptor.clone(),
        tls_required: config.tls.required,
        listeners: config.listeners.iter().map(listener_rules).collect(),
    })
}

fn listener_rules(listener: &Listener) -> ListenerRules {
    ListenerRules {
        name: listener.name.as_str().into(),
        protocol: match listener.kind {
            ListenerKind::Lmtp => Protocol::Lmtp,
            _ => Protocol::Smtp,
        },
        tls: listener.tls,
        proxy_from: listener.proxy_from.clone(),
        xclient_from: listener.xclient_from.clone(),
        xforward_from: listener.xforward_from.clone(),
    }
}

/// A shard that takes up what is put in force.
struct Taking {
    id: ShardId,
    target_parts: TargetParts,
    rudders: Vec<(String, Bound)>,
    mx: Rc<Mx>,
    owners: Rc<Owners>,
    runner: Rc<Runner>,
    store: Rc<Store>,
    table: Rc<Table>,
    publisher: Arc<Publisher>,
    in_force: InForce,
}

impl Taking {
    /// Starts the tasks that live as long as the shard.
    fn begin(
        &self,
        inbox: Inbox<JobDone>,
        orders: Inbox<Order>,
        keeper: Sender<Request>,
        (moving, ending): (&Moving, &Arc<Ending>),
    ) {
        spawn_vital(self.runner.clone().run());
        spawn_vital(self.runner.clone().collect(inbox));
        spawn_vital(self.store.clone().persist_old(KEPT_MAX));
        spawn_vital(self.runner.leases().clone().serve());
        spawn_vital(self.runner.leases().clone().keep_swept());
        spawn_vital(self.table.clone().keep_swept());
        spawn_vital(self.owners.clone().serve());
        spawn_vital(self.owners.clone().keep_swept());
        let desk = orders::Desks {
            mx: self.mx.clone(),
            runner: self.runner.clone(),
            table: self.table.clone(),
            moving: moving.clone(),
            ending: ending.clone(),
            publisher: self.publisher.clone(),
        };
        spawn_vital(orders::serve(orders, desk, self.id));
        let owners = self.owners.clone();
        spawn_vital(async move {
            loop {
                sleep(GREYLIST_WRITE).await;
                send_greylist(&owners, &keeper);
            }
        });
    }

    /// Takes up and acknowledges what is published until a phase comes that fits, which is left to the caller; nothing if
    /// the server stops before.
    async fn wait_for(&mut self, seat: &mut Seat, fits: impl Fn(Phase) -> bool) -> Option<State> {
        loop {
            let state = seat.changed().await;
            self.take_up();
            if fits(state.phase) {
                return Some(state);
            }
            seat.acknowledge(state);
            if state.phase.is_final() {
                return None;
            }
        }
    }

    /// Serves by what is in force now.
    fn take_up(&mut self) {
        let next = self.publisher.current_for(self.id);
        if !Arc::ptr_eq(&next.source, &self.in_force.source) {
            // The keeper has made the same from the same config, so what fails here is a fault of ours, or of a file that
            // has changed in this moment. Nothing of such a config is taken up.
            if let Err(error) = self.make_next(&next.source).map(|made| self.serve_by(&next.source, made)) {
                tracing::error!(error = format!("{error:#}"), "a config can't be taken up");
                self.publisher.cannot_take_up(self.id, next.source.epoch, format!("{error:#}"));
            }
        }
        if !Arc::ptr_eq(&next.bans, &self.in_force.bans) {
            self.mx.replace_bans(next.bans.clone(), &self.table);
        }
        self.in_force = next;
    }

    /// Makes all of a config that can fail.
    fn make_next(&self, source: &Source) -> anyhow::Result<(Rules, Directions)> {
        let config = &source.config;
        let routes = Rc::new(routes(config));
        let targets = Targets::new(config, &self.target_parts, &self.runner.targets());
        let targets = targets.map_err(|error| anyhow::anyhow!(error))?;
        let rules = rules(source, self.id, routes.clone())?;
        Ok((rules, Directions { routes, targets, reach: reach(source) }))
    }

    fn serve_by(&self, source: &Source, (rules, directions): (Rules, Directions)) {
        let config = &source.config;
        let policy = &config.policy;
        self.mx.replace_rules(rules, config.explain.memory.0 as usize);
        self.owners.configure(&policy.ledger, |ledger, greylist| {
            ledger.configure(policy.ledger.clone(), policy.bans.rules.clone());
            greylist.configure(policy.greylist.clone());
        });
        self.mx.replace_dns(&source.dns);
        self.steer(config);
        self.runner.leases().configure(destinations(config));
        self.runner.redirect(config.queue.clone(), directions);
        self.store.set_space_limits(space(config));
        if let Some(core) = source.cores.get(self.id.index()) {
            self.store.set_budget(budget(core));
        }
    }
}

impl Taking {
    /// Where a listener has come to stand behind proxies, or no longer does, the kernel steers otherwise.
    fn steer(&self, config: &Config) {
        let former = &self.in_force.source.config;
        for (name, bound) in &self.rudders {
            let steered = |config: &Config| {
                config.listeners.iter().any(|listener| listener.name == *name && listener.is_steered())
            };
            if steered(config) != steered(former) {
                bound.steer(steered(config).then_some(config.policy.ledger.networks));
            }
        }
    }
}

fn send_greylist(owners: &Owners, keeper: &Sender<Request>) {
    let changes = owners.take_greylist_changes();
    if !changes.is_empty() {
        // It fails only when the keeper is gone, which its own log line tells.
        let _ = keeper.send(Request::Greylisted(changes));
    }
}

/// Where mail goes.
pub(crate) fn routes(config: &Config) -> Routes {
    let routing = &config.routing;
    let destination = |name: &String| {
        let local = config.targets.iter().any(|target| target.name == *name && target.kind.is_local());
        Destination { name: name.as_str().into(), local }
    };
    let destinations = |names: &[String]| names.iter().map(destination).collect::<Vec<_>>();
    Routes::new(RoutesSetup {
        domains: routing
            .domains
            .iter()
            .map(|route| DomainRoute {
                domain: route.domain.clone(),
                destinations: destinations(&route.targets),
                durability: route.durability,
                priority: route.priority,
            })
            .collect(),
        patterns: routing
            .patterns
            .iter()
            .map(|route| PatternRoute {
                patterns: route.recipients.clone(),
                destinations: destinations(&route.targets),
                durability: route.durability,
                priority: route.priority,
            })
            .collect(),
        default: routing.default_target.as_ref().map(|name| DefaultRoute {
            destinations: vec![destination(name)],
            durability: Durability::Fsync,
            priority: Priority::Normal,
        }),
    })
}

/// Who gets what is sent to an address by this server itself.
fn reach(source: &Source) -> Rc<Reach> {
    let policy = source.policy.clone();
    let recipient = move |address: Box<str>| Recipient { mailbox: policy.mailbox(&address), ..Recipient::new(address) };
    let policy = source.policy.clone();
    Rc::new(move |address| policy.reach(address).into_iter().map(&recipient).collect())
}

/// What may be sent at a time to each target that is elsewhere.
fn destinations(config: &Config) -> impl Iterator<Item = (&str, &DestinationOptions)> {
    let elsewhere = config.targets.iter().filter(|target| !target.kind.is_local());
    elsewhere.map(|target| (target.name.as_str(), &target.destination))
}

fn space(config: &Config) -> SpaceLimits {
    SpaceLimits { soft: config.space.soft, hard: config.space.hard }
}

/// Starts the listeners; gives what stops each.
fn listen(
    sockets: Vec<Socket>,
    taking: &Taking,
    block: &Arc<Block>,
    listening: &Rc<Cell<usize>>,
    ending: &Arc<Ending>,
) -> Vec<Rc<Bell>> {
    let mut stops = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let listener = taking.mx.listener(&socket.name);
        let (table, block, listening) = (taking.table.clone(), block.clone(), listening.clone());
        let (stop, ending, address) = (Rc::new(Bell::default()), ending.clone(), socket.bound.address());
        stops.push(stop.clone());
        spawn_vital(async move {
            let take = move |connection| listener.take(connection);
            let stopped = async move {
                stop.heard().await;
                ending.stop(address)
            };
            serve(socket.bound, table, block, take, stopped).await;
            listening.set(listening.get() - 1);
        });
    }
    stops
}

async fn close(store: &Store, seat: &Seat) {
    store.close().await;
    seat.acknowledge(seat.state());
}
