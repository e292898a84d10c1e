//! What runs on a shard: its spool, its queue, its listeners, from start to stop.

use crate::plan::{Core, hot_share};
use crossbeam::channel::Sender;
use ringpost_base::ShardId;
use ringpost_config::Config;
use ringpost_control::{Phase, Seat, State};
use ringpost_deliver::{Runner, RunnerSetup, Target};
use ringpost_message::Envelope;
use ringpost_metrics::Block;
use ringpost_net::{Acceptor, Bound, Table, serve};
use ringpost_policy::Policy;
use ringpost_queue::{Item, Queue, Routes};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{Inbox, Shard, entropy, sleep, spawn_vital, tick};
use ringpost_serve::{Mx, MxSetup};
use ringpost_smtp::TlsUse;
use ringpost_store::{Budget, FilesThread, JobDone, Opened, Orphans, Recovered, Store, open};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long attempts under way may take to end once the sessions have.
const ATTEMPTS_END: Duration = Duration::from_secs(5);

/// How often the stop looks whether something has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A listener's socket for one shard.
pub(crate) struct Socket {
    pub(crate) bound: Bound,
    pub(crate) name: String,
    pub(crate) tls: TlsUse,
}

/// What a shard gets from the main thread.
pub(crate) struct Equipment {
    pub(crate) core: Core,
    pub(crate) config: Config,
    pub(crate) state_dir: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) orphans: Orphans,
    pub(crate) acceptor: Acceptor,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) files: FilesThread,
    pub(crate) inbox: Inbox<JobDone>,
    /// Told whether the shard's storage is open, and later if it can't go on.
    pub(crate) opened: Sender<(ShardId, Result<(), String>)>,
}

/// Runs the shard until the server stops.
pub(crate) async fn run(shard: Shard, equipment: Equipment) {
    let Shard { id, block, mut seat } = shard;
    let Equipment { core, config, state_dir, directory, orphans, acceptor, sockets, files, inbox, opened } = equipment;
    let memory = core.capacity.message_memory;
    let budget = Budget { message_bytes: memory.0, hot_bytes: hot_share(memory) };
    let open = open(&directory, orphans, config.spool, entropy(), block.clone(), budget).await;
    let Opened { store, recovered } = match open {
        Ok(opened) => opened,
        Err(error) => {
            // The main thread gives up the start; there is nobody to tell if it is gone already.
            let _ = opened.send((id, Err(format!("can't open its spool: {error}"))));
            return;
        }
    };
    let _ = opened.send((id, Ok(())));
    let runner = Runner::new(RunnerSetup {
        queue: Queue::new(config.queue),
        store: store.clone(),
        files,
        routes: routes(&config),
        targets: Target::all(&config, &state_dir),
        block: block.clone(),
    });
    requeue(&runner, recovered);
    let accepted = runner.clone();
    let mx = Mx::new(MxSetup {
        shard: id,
        entropy: entropy(),
        options: Rc::new(config.smtp.clone()),
        policy: Policy::new(config.policy.clone()),
        capacity: core.capacity,
        command_timeout: config.limits.command_timeout.0,
        data_timeout: config.limits.data_timeout.0,
        acceptor,
        store: store.clone(),
        block: block.clone(),
        accepted: Box::new(move |item| accepted.push(item)),
    });
    let Some(ready) = wait_for(&mut seat, |phase| matches!(phase, Phase::Ready | Phase::Degraded)).await else {
        return close(&store, &seat).await;
    };
    spawn_vital(runner.clone().run());
    spawn_vital(runner.clone().collect(inbox));
    let table = Table::new();
    spawn_vital(table.clone().keep_swept());
    if let Err(error) = sockets.iter().try_for_each(|socket| socket.bound.listen()) {
        let _ = opened.send((id, Err(error.to_string())));
        return close(&store, &seat).await;
    }
    let listening = Rc::new(Cell::new(sockets.len()));
    let stops = listen(sockets, &mx, &table, &block, &listening);
    // Only now: who sees the acknowledgement may connect.
    seat.acknowledge(ready);
    wait_for(&mut seat, Phase::is_final).await;
    stops.iter().for_each(|stop| stop.ring());
    drain(&table, &listening, config.server.drain_timeout.0).await;
    end_attempts(&runner).await;
    close(&store, &seat).await;
}

/// The target of each domain, by its number.
fn routes(config: &Config) -> Routes {
    let number = |name: &str| config.targets.iter().position(|target| target.name == name);
    let domains = config.policy.domains.iter();
    Routes::new(domains.filter_map(|domain| Some((domain.name.as_str(), number(&domain.target)?))))
}

/// Puts what an earlier run left over into the queue.
fn requeue(runner: &Runner, recovered: Vec<Recovered>) {
    for message in recovered {
        // One that can't be read is kept, and tried, and reported at every try.
        let recipients = Envelope::decode(&message.envelope).map_or(1, |envelope| envelope.recipients.len());
        runner.push(Item::recovered(message.id, recipients as u32, &message.done));
    }
}

/// Starts the listeners; gives what stops each.
fn listen(
    sockets: Vec<Socket>,
    mx: &Rc<Mx>,
    table: &Rc<Table>,
    block: &Arc<Block>,
    listening: &Rc<Cell<usize>>,
) -> Vec<Rc<Bell>> {
    let mut stops = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let listener = mx.listener(&socket.name, socket.tls);
        let (table, block, listening) = (table.clone(), block.clone(), listening.clone());
        let stop = Rc::new(Bell::default());
        stops.push(stop.clone());
        spawn_vital(async move {
            let take = move |connection| listener.take(connection);
            let stopped = async move { stop.heard().await };
            serve(socket.bound, table, block, take, stopped).await;
            listening.set(listening.get() - 1);
        });
    }
    stops
}

/// Acknowledges what is published until a phase comes that fits, which is left to the caller; nothing if the server stops
/// before.
async fn wait_for(seat: &mut Seat, fits: impl Fn(Phase) -> bool) -> Option<State> {
    loop {
        let state = seat.changed().await;
        if fits(state.phase) {
            return Some(state);
        }
        seat.acknowledge(state);
        if state.phase.is_final() {
            return None;
        }
    }
}

/// Lets the listeners finish their last call and the sessions their messages; cuts off what is left at the deadline.
async fn drain(table: &Rc<Table>, listening: &Cell<usize>, within: Duration) {
    table.stop();
    let deadline = tick().deadline(within);
    let mut told = false;
    while listening.get() > 0 || !table.is_empty() {
        sleep(LOOK).await;
        if deadline.passed(tick()) {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(sessions = table.len() as u64, "drain deadline passed, sessions are cut off");
            }
            // Again and again: a session that was busy just now begins a new wait.
            table.cut_off();
        }
    }
}

async fn end_attempts(runner: &Runner) {
    let deadline = tick().deadline(ATTEMPTS_END);
    runner.stop();
    while runner.in_flight() > 0 && !deadline.passed(tick()) {
        sleep(LOOK).await;
    }
}

async fn close(store: &Store, seat: &Seat) {
    store.close().await;
    seat.acknowledge(seat.state());
}
