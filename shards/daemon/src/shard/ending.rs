//! The end of a shard: how it is to be, and its steps up to the spool's.

use ringpost_base::Deadline;
use ringpost_deliver::Runner;
use ringpost_metrics::{Block, Gauge};
use ringpost_net::{Stop, Table};
use ringpost_runtime::{sleep, tick};
use ringpost_store::Store;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How long attempts under way may take to end once the sessions have, at least.
const ATTEMPTS_END: Duration = Duration::from_secs(5);

/// How long sessions that are cut off may take to end.
const CUT_OFF: Duration = Duration::from_secs(2);

/// How long clients may go on by themselves while another process takes new connections.
const BY_THEMSELVES: Duration = Duration::from_secs(5);

/// How often the stop looks whether something has ended.
const LOOK: Duration = Duration::from_millis(5);

/// How a server is to end, told to the shards before they are told to.
#[derive(Default)]
pub(crate) struct Ending {
    /// The addresses whose listening sockets somebody else has too: the service manager, for the next start.
    kept_open: Vec<SocketAddr>,
    /// A former process still serves on them.
    borrowed: AtomicBool,
    /// Spools that are being taken over.
    moving: AtomicUsize,
    /// Another process takes connections from them already.
    succeeded: AtomicBool,
    /// For how long the queue is still delivered once the sessions have ended, in milliseconds.
    queue_for: AtomicU64,
}

impl Ending {
    pub(crate) fn new(kept_open: Vec<SocketAddr>, borrowed: bool) -> Arc<Self> {
        Arc::new(Self { kept_open, borrowed: AtomicBool::new(borrowed), ..Self::default() })
    }

    /// The former process does not serve on the sockets any more.
    pub(crate) fn owned(&self) {
        self.borrowed.store(false, Ordering::Release);
    }

    /// A shard begins to take spools over, or is done with it.
    pub(crate) fn count_moving(&self, begins: bool) {
        if begins {
            self.moving.fetch_add(1, Ordering::AcqRel)
        } else {
            self.moving.fetch_sub(1, Ordering::AcqRel)
        };
    }

    /// Whether spools are being taken over.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Acquire) > 0
    }

    /// Another process takes the connections from now on.
    pub(crate) fn hand_over(&self) {
        self.succeeded.store(true, Ordering::Release);
    }

    pub(super) fn is_succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }

    /// The queue is still delivered.
    pub(crate) fn deliver_for(&self, span: Duration) {
        self.queue_for.store(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// For how long.
    pub(crate) fn queue_for(&self) -> Duration {
        Duration::from_millis(self.queue_for.load(Ordering::Acquire))
    }

    /// How the listener of an address is to end.
    pub(super) fn stop(&self, address: SocketAddr) -> Stop {
        let others = self.borrowed.load(Ordering::Acquire) || self.is_succeeded();
        let shared = others || self.kept_open.contains(&address);
        if shared { Stop::HandOver } else { Stop::Close }
    }
}

/// Lets the listeners finish their last call.
pub(super) async fn close_listeners(listening: &Cell<usize>) {
    while listening.get() > 0 {
        sleep(LOOK).await;
    }
}

/// While another process takes the connections, clients may finish what they came for: for a while, nobody is told to leave.
pub(super) async fn finish_by_themselves(table: &Table, deadline: Deadline) {
    let end = tick().deadline(BY_THEMSELVES);
    while !table.is_empty() && !end.passed(tick()) && !deadline.passed(tick()) {
        sleep(LOOK).await;
    }
}

/// Lets the sessions finish their messages; cuts off what is left at the deadline. A session that waits for a next hop then is
/// left behind: its client was promised nothing.
pub(super) async fn drain(table: &Rc<Table>, deadline: Deadline) {
    table.stop();
    let end = deadline.0.deadline(CUT_OFF);
    let mut told = false;
    while !table.is_empty() {
        sleep(LOOK).await;
        if deadline.passed(tick()) {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(sessions = table.len() as u64, "drain deadline passed, sessions are cut off");
            }
            // Again and again: a session that was busy just now begins a new wait.
            table.cut_off();
        }
        if end.passed(tick()) {
            tracing::warn!(
                sessions = table.len() as u64,
                "sessions that wait for something else than their client are left"
            );
            return;
        }
    }
}

/// Goes on delivering until nothing is left that would be tried, or the time is over.
pub(super) async fn deliver_rest(block: &Block, ending: &Ending) {
    let since = tick();
    loop {
        let waiting = block.gauge(Gauge::QueueMessages);
        let kept = block.gauge(Gauge::QueueHeld) + block.gauge(Gauge::QueueDead);
        // An operator may lose patience.
        if waiting <= kept || tick().since(since) >= ending.queue_for() {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Waits for attempts under way, as long as the drain may take: what a next hop has taken and not yet answered for is
/// otherwise delivered again.
pub(super) async fn end_attempts(runner: &Runner, deadline: Deadline) {
    let least = tick().deadline(ATTEMPTS_END);
    runner.stop();
    while runner.in_flight() > 0 && !(least.passed(tick()) && deadline.passed(tick())) {
        sleep(LOOK).await;
    }
}

pub(super) async fn persist_all(store: &Rc<Store>) {
    if let Err(failure) = store.persist_all().await {
        tracing::error!(%failure, "messages of the class memory could not be written down, and are lost");
    }
}
