//! Notices a shard that has stalled: a thread of its own, `watchdog`, that looks at the heartbeats.
//!
//! A stall is told once, with the stack that the shard has then, and its end once. A shard in an endless loop, in a system
//! call that doesn't come back or at a lock is found in the same way, since the question is a signal.
//!
//! Invariants: the watchdog waits for no shard longer than half a second. A look that comes late itself judges nobody, since
//! what held it up, a process that was stopped or a machine that was paused, held up the shards as well.

use crate::log;
use crate::pulse::Pulse;
use crate::stack::stack_of;
use ringpost_base::ShardId;
use ringpost_metrics::{Block, Gauge};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a stalled shard has for its answer. One that can't run code at all, in a system call that can't be interrupted,
/// gives none.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time between two looks, at most: the limit may be changed meanwhile, and holds from the next.
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Time between two looks, at least.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// How much later than asked a look may come for the shards still to be judged by it: as a part of the limit.
const LATE: u32 = 2;

/// A shard that has stalled.
#[derive(Clone, Debug)]
pub struct Stalled {
    /// Which shard.
    pub shard: ShardId,
    /// For how long its heartbeat is overdue.
    pub since: Duration,
    /// What it is at, if it could be found out.
    pub stack: Option<String>,
}

/// The running watchdog. Dropped without [`stop`](Self::stop), it ends and is not waited for.
pub struct Watchdog {
    view: StalledView,
    /// Dropped, it ends the thread.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Which shards are stalled, for who wants to know again and again.
#[derive(Clone)]
pub struct StalledView(Arc<Mutex<Vec<Stalled>>>);

impl StalledView {
    /// The shards that are stalled now, with how long.
    pub fn stalled(&self) -> Vec<(ShardId, Duration)> {
        self.lock().iter().map(|stalled| (stalled.shard, stalled.since)).collect()
    }

    /// The same with the stacks that they had when they were found.
    pub fn details(&self) -> Vec<Stalled> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stalled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Starts the thread. `limit` is asked at each look: how long a heartbeat may be overdue; zero: the watchdog looks away.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(
        pulses: Vec<Arc<Pulse>>,
        blocks: Vec<Arc<Block>>,
        limit: impl Fn() -> Duration + Send + 'static,
    ) -> io::Result<Self> {
        crate::stack::install();
        let view = StalledView(Arc::default());
        let (stop, stopped) = channel();
        let mut watch = Watch { pulses, blocks, view: view.clone() };
        let run = move || {
            let mut looked = Instant::now();
            loop {
                let limit = limit();
                let pause = if limit.is_zero() { LOOK_MAX } else { (limit / 4).clamp(LOOK_MIN, LOOK_MAX) };
                if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
                let late = looked.elapsed().saturating_sub(pause);
                if limit.is_zero() {
                    watch.look_away();
                } else if late <= limit / LATE {
                    watch.look(limit);
                }
                looked = Instant::now();
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(run)?;
        Ok(Self { view, stop, thread })
    }

    /// The shards that are stalled now, with how long.
    pub fn stalled(&self) -> Vec<(ShardId, Duration)> {
        self.view.stalled()
    }

    /// A handle that tells the same, also after the watchdog has ended: then as it was last.
    pub fn view(&self) -> StalledView {
        self.view.clone()
    }

    /// Ends the thread.
    pub fn stop(self) {
        drop(self.stop);
        // It doesn't panic; if it did, the panic told so itself.
        let _ = self.thread.join();
    }
}

struct Watch {
    pulses: Vec<Arc<Pulse>>,
    blocks: Vec<Arc<Block>>,
    view: StalledView,
}

impl Watch {
    fn look(&mut self, limit: Duration) {
        for (at, pulse) in self.pulses.iter().enumerate() {
            match pulse.silent_for().filter(|silent| *silent > limit) {
                Some(silent) if pulse.is_stalled() => self.goes_on(pulse, silent),
                Some(silent) => self.begins(pulse, self.blocks.get(at), silent),
                None if pulse.is_stalled() => self.ends(pulse),
                None => {}
            }
        }
    }

    fn look_away(&mut self) {
        let stalled = self.pulses.iter().filter(|pulse| pulse.is_stalled());
        stalled.for_each(|pulse| self.ends(pulse));
    }

    fn begins(&self, pulse: &Pulse, block: Option<&Arc<Block>>, silent: Duration) {
        let shard = pulse.shard();
        pulse.set_stalled(true);
        // Told before the stack is looked for, which takes a while.
        self.view.lock().push(Stalled { shard, since: silent, stack: None });
        let stack = stack_of(pulse, PATIENCE).map(|stack| stack.to_string());
        if let Some(stalled) = self.view.lock().iter_mut().find(|stalled| stalled.shard == shard) {
            stalled.stack.clone_from(&stack);
        }
        let gauge = |row| block.map_or(0, |block| block.gauge(row));
        tracing::error!(
            stalled = u64::from(shard.0),
            silent_ms = silent.as_millis() as u64,
            sessions = gauge(Gauge::SessionsOpen),
            queue = gauge(Gauge::QueueMessages),
            stack = stack.as_deref().unwrap_or("the thread gives no answer"),
            "shard stalled"
        );
        log::flush();
    }

    fn goes_on(&self, pulse: &Pulse, silent: Duration) {
        if let Some(stalled) = self.view.lock().iter_mut().find(|stalled| stalled.shard == pulse.shard()) {
            stalled.since = silent;
        }
    }

    fn ends(&self, pulse: &Pulse) {
        pulse.set_stalled(false);
        let mut stalled = self.view.lock();
        let since = stalled.iter().find(|stalled| stalled.shard == pulse.shard()).map(|stalled| stalled.since);
        stalled.retain(|stalled| stalled.shard != pulse.shard());
        drop(stalled);
        let silent_ms = since.unwrap_or_default().as_millis() as u64;
        tracing::warn!(stalled = u64::from(pulse.shard().0), silent_ms, "shard no longer stalled");
        log::flush();
    }
}
