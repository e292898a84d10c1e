//! What all tracers and the exporter share, and who starts, changes and ends it.

use crate::exporter;
use crate::lane::Lane;
use crate::options::{Error, Options};
use crate::request::Collector;
use crate::tracer::Tracer;
use ringpost_base::Entropy;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How long the stop waits for the last spans to be sent.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What tracers and the exporter share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Whether there is a collector. Shards only read it, and the share.
    pub(crate) is_on: AtomicBool,
    /// The share of messages that are sampled, as the bits of a float; 0 while there is no collector.
    pub(crate) share: AtomicU64,
    pub(crate) lanes: Mutex<Vec<Arc<Lane>>>,
    /// Where spans go. Replaced as a whole.
    pub(crate) collector: Mutex<Option<Arc<Collector>>>,
    /// A batch waits.
    pub(crate) full: Notify,
    /// The collector was replaced, or the end has come.
    pub(crate) control: Notify,
    pub(crate) stopping: AtomicBool,
    pub(crate) exported: AtomicU64,
    /// Spans that were taken out of a lane and not exported.
    pub(crate) lost: AtomicU64,
}

/// A lock that nobody panics under; if it came to that, what it guards is still whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The telemetry of the process.
#[derive(Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
    /// Disconnected once the exporter is done.
    done: Arc<Mutex<Receiver<()>>>,
}

impl Telemetry {
    /// Starts the exporter on the services thread. Nothing is connected before there is something to send.
    ///
    /// # Errors
    /// If the endpoint can't be used.
    pub fn start(handle: &Handle, options: Options) -> Result<Self, Error> {
        let (ended, done) = channel();
        let telemetry = Self { shared: Arc::default(), done: Arc::new(Mutex::new(done)) };
        telemetry.change(options)?;
        handle.spawn(exporter::run(telemetry.shared.clone(), ended));
        Ok(telemetry)
    }

    /// Goes on by other options, from the next batch on.
    ///
    /// # Errors
    /// If the endpoint can't be used. Then nothing has changed.
    pub fn change(&self, options: Options) -> Result<(), Error> {
        let share = options.sample;
        let collector = Collector::new(options)?.map(Arc::new);
        let is_on = collector.is_some();
        *locked(&self.shared.collector) = collector;
        self.shared.share.store(if is_on { share.to_bits() } else { 0.0_f64.to_bits() }, Ordering::Relaxed);
        self.shared.is_on.store(is_on, Ordering::Relaxed);
        self.shared.control.notify_one();
        Ok(())
    }

    /// A tracer for one shard, to be made on it.
    pub fn tracer(&self, entropy: Entropy) -> Tracer {
        let lane = Arc::new(Lane::default());
        locked(&self.shared.lanes).push(lane.clone());
        Tracer::new(entropy, self.shared.clone(), lane)
    }

    /// Spans that a collector has taken, and spans that were dropped.
    pub fn readings(&self) -> (u64, u64) {
        let unsent: u64 = locked(&self.shared.lanes).iter().map(|lane| lane.dropped()).sum();
        (self.shared.exported.load(Ordering::Relaxed), unsent + self.shared.lost.load(Ordering::Relaxed))
    }

    /// Sends what is left, for two seconds at most. To be called once the shards have ended and while the services thread
    /// has not.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.control.notify_one();
        if let Err(RecvTimeoutError::Timeout) = locked(&self.done).recv_timeout(STOP_PATIENCE) {
            tracing::warn!(spans = exporter::waiting(&self.shared) as u64, "spans are left unsent");
        }
    }
}
