//! The mirror of the bans in sets of nftables: who is banned here is dropped by the kernel, before it costs a handshake.
//!
//! A thread of its own runs `nft`, so that nothing waits for it. It is told all bans each time and finds out itself what
//! has changed, so it may miss what lies between: however fast bans come, one set of them waits at most. Elements carry
//! the time that is left of their ban, so that they go by themselves also where this server is gone. The table and the
//! sets are the operator's, with the flags `interval` and `timeout`; a set that is not there is said in the log, tried again
//! and again, and mail is not concerned.

mod elements;
mod kernel;
mod process;

use elements::wanted;
use kernel::Kernel;
use ringpost_policy::{BanSet, NftablesSet};
use ringpost_runtime::now;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after a failure the sets are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often the sets are emptied and filled without a need that is known: who starts the packet filter anew empties them.
/// Where to fill them takes so long that it would be more than a fiftieth of a core, less often, but well before elements
/// of bans without an end would end.
const REFILL: Duration = Duration::from_secs(600);
const REFILL_SHARE: u32 = 50;
const REFILL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Longest rest after `nft` has run. It rests for as long as it took, since nft reads the whole of a set for each change: in
/// a storm of bans it takes half a core at most.
const REST_MAX: Duration = Duration::from_secs(10);

/// What the mirror ought to show.
#[derive(Default)]
struct Order {
    sets: Option<NftablesSet>,
    bans: Arc<BanSet>,
    /// The bans are others than before.
    is_changed: bool,
    /// What the sets have is not what was put there, or not known.
    is_anew: bool,
    is_over: bool,
}

#[derive(Default)]
struct Desk {
    order: Mutex<Order>,
    bell: Condvar,
}

/// The running mirror.
pub(crate) struct Mirror(Arc<Desk>);

impl Mirror {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let of_thread = desk.clone();
        std::thread::Builder::new().name("nftables".into()).spawn(move || run(&of_thread))?;
        Ok(Self(desk))
    }

    /// The bans are these now.
    pub(crate) fn show(&self, bans: Arc<BanSet>) {
        self.0.change(|order| (order.bans, order.is_changed) = (bans, true));
    }

    /// These sets become these bans and nothing else, whatever is in them.
    pub(crate) fn anew(&self, sets: Option<NftablesSet>, bans: Arc<BanSet>) {
        self.0.change(|order| (order.sets, order.bans, order.is_anew) = (sets, bans, true));
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.0.change(|order| order.is_over = true);
    }
}

impl Desk {
    fn change(&self, change: impl FnOnce(&mut Order)) {
        // Nothing panics with the lock held, and an order is whole at any time.
        change(&mut self.order.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_one();
    }

    /// Waits for the next order, or for so long; where the last one failed, only for one to begin anew. Nothing if there will
    /// be no more.
    fn next(&self, within: Duration, has_failed: bool) -> Option<Order> {
        let waits = |order: &mut Order| !order.is_over && !order.is_anew && (has_failed || !order.is_changed);
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(order, within, waits);
        let mut order = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (is_changed, is_anew) = (std::mem::take(&mut order.is_changed), std::mem::take(&mut order.is_anew));
        let (sets, bans) = (order.sets.clone(), order.bans.clone());
        (!order.is_over).then_some(Order { sets, bans, is_changed, is_anew, is_over: false })
    }
}

fn run(desk: &Desk) {
    let mut kernel = Kernel::new(process::nft);
    let mut refill_at = Instant::now() + REFILL;
    let mut has_failed = false;
    loop {
        let within = if has_failed { RETRY } else { refill_at.saturating_duration_since(Instant::now()) };
        let Some(order) = desk.next(within, has_failed) else { return };
        let began = Instant::now();
        let fills = order.is_anew || began >= refill_at;
        if fills {
            kernel.forget();
        }
        let result = order.sets.as_ref().map_or(Ok(()), |sets| {
            let now = now().wall;
            kernel.bring(sets, wanted(&order.bans, now), now)
        });
        let took = began.elapsed();
        if fills {
            refill_at = Instant::now() + (took * REFILL_SHARE).clamp(REFILL, REFILL_MAX);
        }
        let failed_before = std::mem::replace(&mut has_failed, result.is_err());
        tell(result, failed_before);
        std::thread::sleep(took.min(REST_MAX));
    }
}

/// Says a failure once, and when it is over.
fn tell(result: Result<(), String>, failed_before: bool) {
    match result {
        Ok(()) if failed_before => tracing::info!("bans are mirrored into nftables again"),
        Err(reason) if !failed_before => {
            tracing::error!(reason, "bans can't be mirrored into nftables; they are in force here all the same");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
