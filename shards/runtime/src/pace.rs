//! Time on a shard: sleeping, waiting with an end, giving way.

use futures_lite::FutureExt;
use ringpost_base::Tick;
use std::{future::Future, time::Duration};

/// Waits.
pub async fn sleep(span: Duration) {
    glommio::timer::sleep(span).await;
}

/// Lets the shard's other tasks and its sockets have their turn.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Waits for `future`, at most `span`; nothing if that has passed. The future is dropped then.
pub async fn after<T>(span: Duration, future: impl Future<Output = T>) -> Option<T> {
    let value = async { Some(future.await) };
    value
        .or(async {
            glommio::timer::sleep(span).await;
            None
        })
        .await
}

/// Gives way once a piece of work has held the core for long enough to be felt by others.
pub struct Pace {
    since: Tick,
}

/// How long a task may compute before it gives way.
const TURN_MAX: Duration = Duration::from_millis(2);

impl Default for Pace {
    fn default() -> Self {
        Self { since: crate::tick() }
    }
}

impl Pace {
    /// Gives way if it is time to. Gives the moment before, for who measures what was done until then.
    pub async fn breathe(&mut self) -> Tick {
        let done = crate::tick();
        if done.since(self.since) > TURN_MAX {
            yield_now().await;
            self.since = crate::tick();
        }
        done
    }
}
