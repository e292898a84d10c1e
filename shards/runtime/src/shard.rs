//! A shard's thread: its executor, its pinning and its heartbeat.

use crate::pulse::{Bearer, Pulse};
use crate::{contain, log, sleep, tick};
use crossbeam::channel::Sender;
use glommio::{LocalExecutorBuilder, Placement};
use ringpost_base::ShardId;
use ringpost_control::Seat;
use ringpost_metrics::{Block, Counter, Gauge, Timing};
use std::mem::ManuallyDrop;
use std::thread::{Builder, JoinHandle};
use std::{cell::RefCell, future::Future, sync::Arc, time::Duration};
use thiserror::Error;

/// Time between two beats of a shard. It bounds the stall when the executor parks although a task is ready.
pub const HEARTBEAT: Duration = Duration::from_millis(20);

/// The same while the shard has no connection and no mail: nobody is there to feel a stall, and an idle server should cost
/// nothing.
const HEARTBEAT_IDLE: Duration = Duration::from_millis(100);

/// How long a task may run before sockets and timers are looked at.
const PREEMPT: Duration = Duration::from_millis(5);

/// Submission entries of a shard's rings. The kernel finds the sockets that a ring waits for by a table whose size follows
/// from this: with 256 and 18,000 idle connections, three quarters of a core's work were spent searching it.
const RING_DEPTH: usize = 1024;

/// Registered memory of a shard for direct I/O, in bytes. What does not fit is allocated.
const IO_MEMORY: usize = 64 << 10;

/// How long an executor goes on after its body.
const LAST_TURNS: Duration = Duration::from_millis(2);

/// What a shard is started with.
pub struct Plan {
    /// Which shard.
    pub shard: ShardId,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Where it counts.
    pub block: Arc<Block>,
    /// Its seat at the control board.
    pub seat: Seat,
    /// Where it gives signs of life.
    pub pulse: Arc<Pulse>,
    /// Told once the shard's body has ended or a panic has killed it.
    pub ended: Sender<ShardId>,
}

/// A shard, as its body sees it.
pub struct Shard {
    /// Which shard.
    pub id: ShardId,
    /// Where it counts.
    pub block: Arc<Block>,
    /// Its seat at the control board.
    pub seat: Seat,
}

/// A shard that can't be started, or has died.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The thread could not be made.
    #[error("shard {shard} could not start on CPU {cpu}: {reason}")]
    Start {
        /// Which shard.
        shard: ShardId,
        /// On which CPU.
        cpu: usize,
        /// What the runtime said.
        reason: String,
    },
    /// The executor could not be made, or died of a panic.
    #[error("shard {shard} has died: {reason}")]
    Died {
        /// Which shard.
        shard: ShardId,
        /// What the runtime said.
        reason: String,
    },
}

/// A running shard.
pub struct ShardThread<T: Send + 'static> {
    shard: ShardId,
    handle: JoinHandle<Result<T, String>>,
}

impl<T: Send + 'static> ShardThread<T> {
    /// Waits for the shard's body to end.
    pub fn join(self) -> Result<T, ShardError> {
        let ended = self.handle.join().unwrap_or_else(|panic| Err(contain::message(panic)));
        ended.map_err(|reason| ShardError::Died { shard: self.shard, reason })
    }
}

/// The CPUs this process may run on, ascending.
pub fn cores() -> Vec<usize> {
    let mut ids: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    ids.sort_unstable();
    ids
}

/// Starts a shard and runs `body` on it. The shard ends when the body does.
pub fn start<T, F>(plan: Plan, body: impl FnOnce(Shard) -> F + Send + 'static) -> Result<ShardThread<T>, ShardError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let Plan { shard, cpu, block, seat, pulse, ended } = plan;
    // In the closure, so that word is sent also if the executor can't be made, and then in the thread itself, so that it is
    // sent also if a panic unwinds the executor, which drops no task.
    let farewell = Farewell { shard, ended };
    let main = move || async move {
        FAREWELL.set(Some((Bearer::new(pulse.clone()), farewell)));
        log::set_shard(shard);
        glommio::spawn_local(heartbeat(block.clone(), pulse.clone())).detach();
        let result = body(Shard { id: shard, block, seat }).await;
        pulse.rest();
        log::flush();
        result
    };
    let named = Builder::new().name(format!("shard-{shard}"));
    let thread = named.spawn(move || execute(Placement::Fixed(cpu), main));
    let handle = thread.map_err(|error| ShardError::Start { shard, cpu, reason: error.to_string() })?;
    Ok(ShardThread { shard, handle })
}

/// Runs `body` on an executor that is no shard, in a thread of its own: for what needs only files.
pub fn run_alone<T, F>(body: impl FnOnce() -> F + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let main = || async move {
        // As a shard's heartbeat does, it ends a wait that should not have begun.
        let beats = async {
            loop {
                sleep(HEARTBEAT).await;
            }
        };
        glommio::spawn_local(beats).detach();
        body().await
    };
    let thread = Builder::new().name("alone".to_owned()).spawn(move || execute(Placement::Unbound, main));
    thread.map_err(|error| error.to_string())?.join().unwrap_or_else(|panic| Err(contain::message(panic)))
}

/// Runs `main` on an executor in this thread.
fn execute<T, F: Future<Output = T> + 'static>(placement: Placement, main: impl FnOnce() -> F) -> Result<T, String>
where
    T: Send + 'static,
{
    let executor = LocalExecutorBuilder::new(placement)
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY)
        .preempt_timer(PREEMPT)
        .make()
        .map_err(|error| error.to_string())?;
    let run = async move {
        let result = main().await;
        // What the body has given up is cancelled, and its sockets are closed, by the next turns of the rings.
        sleep(LAST_TURNS).await;
        result
    };
    // It is never dropped, also when a panic unwinds this. The kernel goes on with what it has taken up: reads into
    // buffers, a word that wakes the ring. Closing the ring doesn't wait for that, so the memory must stay.
    Ok(ManuallyDrop::new(executor).run(run))
}

thread_local! {
    static FAREWELL: RefCell<Option<(Bearer, Farewell)>> = const { RefCell::new(None) };
}

/// Sends word when the shard's thread is gone, whichever way.
struct Farewell {
    shard: ShardId,
    ended: Sender<ShardId>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody listens any more where the process is on its way out.
        let _ = self.ended.send(self.shard);
    }
}

async fn heartbeat(block: Arc<Block>, pulse: Arc<Pulse>) {
    loop {
        let idle = block.gauge(Gauge::SessionsOpen) == 0 && block.gauge(Gauge::QueueMessages) == 0;
        let beat = if idle { HEARTBEAT_IDLE } else { HEARTBEAT };
        let asked = tick();
        pulse.beat(beat);
        sleep(beat).await;
        block.observe(Timing::Stall, tick().since(asked).saturating_sub(beat));
        block.add(Counter::LogDropped, log::take_dropped());
        block.add(Counter::LogSampled, log::take_sampled());
        log::flush();
    }
}
