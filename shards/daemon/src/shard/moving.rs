//! Taking over the spools of a former process while this one serves.

use super::ending::Ending;
use crate::recovered::{digest, requeued};
use ringpost_deliver::Runner;
use ringpost_metrics::{Block, Gauge};
use ringpost_queue::Routes;
use ringpost_runtime::local::Bell;
use ringpost_runtime::{Pace, sleep};
use ringpost_store::{Orphans, TakeOver};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a spool is left alone that can't be taken over, as for a disk that is full.
const TAKE_OVER_AGAIN: Duration = Duration::from_secs(30);

/// Spools of a former process that are being taken over, which a stop gives up: what is not here yet stays where it is, for the
/// next start.
#[derive(Clone)]
pub(crate) struct Moving {
    block: Arc<Block>,
    ended: Rc<Cell<bool>>,
    under_way: Rc<RefCell<Vec<Rc<Bell>>>>,
}

impl Moving {
    pub(super) fn new(block: Arc<Block>) -> Self {
        Self { block, ended: Rc::default(), under_way: Rc::default() }
    }

    pub(super) fn end(&self) {
        self.ended.set(true);
        self.under_way.borrow().iter().for_each(|bell| bell.ring());
    }

    /// Takes spools over, one group after the other; their messages are in the queue as soon as they are durable here.
    pub(crate) async fn take_over(
        &self,
        runner: Rc<Runner>,
        routes: Rc<Routes>,
        groups: Vec<Orphans>,
        ending: Arc<Ending>,
    ) {
        let _counted = Counted { ending, block: self.block.clone() };
        let ended = Rc::new(Bell::default());
        self.under_way.borrow_mut().push(ended.clone());
        if self.ended.get() {
            return;
        }
        let taken = async {
            take_over_all(&runner, &routes, groups, &self.block).await;
            true
        };
        let given_up = async {
            ended.heard().await;
            false
        };
        if !futures_lite::future::or(Box::pin(taken), given_up).await {
            tracing::info!("taking spools over is left to the next start");
        }
    }
}

/// Counts one that is under way out again, also where it panics.
struct Counted {
    ending: Arc<Ending>,
    block: Arc<Block>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ending.count_moving(false);
        if std::thread::panicking() {
            // What is not here yet waits for the next start, and somebody has to hear of it.
            self.block.set(Gauge::SpoolsStuck, 1);
        }
    }
}

async fn take_over_all(runner: &Rc<Runner>, routes: &Rc<Routes>, groups: Vec<Orphans>, block: &Block) {
    let mut left: Vec<TakeOver<_>> = groups.into_iter().map(TakeOver::new).collect();
    let mut pace = Pace::default();
    loop {
        // One that can't be taken over holds up no other.
        let mut failed = Vec::new();
        for mut under_way in left {
            let look = |id, stored: &[u8]| digest(routes, id, stored);
            match runner.store().take_over(&mut under_way, look).await {
                Ok(recovered) => {
                    for message in recovered {
                        runner.recovered(requeued(message));
                        pace.breathe().await;
                    }
                }
                Err(error) => {
                    let again = TAKE_OVER_AGAIN.as_secs();
                    tracing::error!(%error, again_in_seconds = again, "a spool can't be taken over");
                    failed.push(under_way);
                }
            }
        }
        block.set(Gauge::SpoolsStuck, failed.len() as u64);
        if failed.is_empty() {
            return;
        }
        left = failed;
        sleep(TAKE_OVER_AGAIN).await;
    }
}
