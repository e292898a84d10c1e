//! The board as one shard sees it.
//!
//! Invariants: a shard has one seat; [`Seat::poll_changed`] never returns `Pending` after a publication that it has not
//! returned, without the waker being in place for the next one; dropping the seat takes the waker off the board before
//! the drop returns. The seat refuses to decide what a state means: acting on it is the shard's.

use crate::board::Board;
use crate::state::State;
use ringpost_base::ShardId;
use std::future::poll_fn;
use std::sync::{Arc, atomic::Ordering::Release};
use std::task::{Context, Poll};

/// A shard's place at the board, used by one task that lives as long as the shard's executor, and dropped on its thread.
///
/// ```no_run
/// # async fn run(mut seat: ringpost_control::Seat) {
/// use ringpost_control::Phase;
/// loop {
///     let state = seat.changed().await;
///     // ... act on it ...
///     seat.acknowledge(state);
///     if state.phase == Phase::Stopping {
///         break;
///     }
/// }
/// # }
/// ```
pub struct Seat {
    board: Arc<Board>,
    shard: ShardId,
    /// The last state that `poll_changed` returned.
    seen: Option<State>,
}

impl Seat {
    pub(crate) fn new(board: Arc<Board>, shard: ShardId) -> Self {
        Self { board, shard, seen: None }
    }

    /// Whose seat this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The state now. Reading it does not count as having seen it.
    pub fn state(&self) -> State {
        self.board.state()
    }

    /// Ready with the state when it differs from the one returned last; the first time at once. Otherwise the waker of
    /// `cx` is left with the board: this is the one waker that may cross threads.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<State> {
        if let Poll::Ready(state) = self.poll_state() {
            return Poll::Ready(state);
        }
        self.board.desk(self.shard).waker.register(cx.waker());
        // A publication between the first look and the registration found no waker; it is found by this second look.
        self.poll_state()
    }

    /// The next state that differs from the one returned last. Cancelling it loses nothing.
    pub async fn changed(&mut self) -> State {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    /// Says that the shard has acted on `state`. What the shard did before is visible to who sees the acknowledgement.
    pub fn acknowledge(&self, state: State) {
        self.board.desk(self.shard).acknowledged.store(state.pack(), Release);
    }

    fn poll_state(&mut self) -> Poll<State> {
        let state = self.board.state();
        if self.seen == Some(state) {
            return Poll::Pending;
        }
        self.seen = Some(state);
        Poll::Ready(state)
    }
}

impl Drop for Seat {
    /// Takes the waker back, so that it is dropped here, on the shard's thread. That the shard has *departed* is for
    /// [`Board::depart`] to say: a shard without its seat that goes on working must not count as acknowledging.
    fn drop(&mut self) {
        let desk = self.board.desk(self.shard);
        desk.close();
        drop(desk.waker.take());
    }
}
