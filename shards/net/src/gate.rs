//! Taking turns at the costly part of TLS handshakes, so that a flood of them leaves plaintext clients served.
//!
//! The server's part of a handshake is some 100 µs of one core with an ECDSA key, 300 µs with RSA, and can't be
//! interrupted. The executor runs tasks that are ready in the order in which they became so. Without a gate, a thousand
//! clients that have sent their hello stand before a plaintext client's command, at every one of its round trips: 100 ms
//! each. The preempt timer of 5 ms does not help: it looks at sockets, it does not reorder tasks.
//!
//! So a handshake that has input to work on queues here, first come first served, and at most [`GRANTS_MAX`] at a time are in
//! the executor's queue. A grant always goes by a wake, to the end of that queue: between one batch of handshakes and the
//! next, whatever else is ready has had its turn. The gate is held for the computing alone, never while a peer is
//! waited for, so a client that sends its hello byte by byte holds up nobody; and it never leaves the core idle, so
//! without other work handshakes run as fast as without it.
//!
//! Measured on a busy machine of two cores: beside a flood that kept 4,000 hellos waiting, the median round trip of a
//! plaintext client was 13 ms, and 326 ms without the gate; beside 50 it was 11 and 19.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Handshakes that may be ready to compute at one time. It bounds what they add to a round of the executor: under a
/// millisecond with ECDSA, under 3 ms with RSA. With one alone, handshakes would starve on a shard with many busy
/// sessions.
pub(crate) const GRANTS_MAX: usize = 8;

#[derive(Default)]
struct State {
    granted: usize,
    /// The ticket of the first in the queue; all before it are granted or gone.
    first: u64,
    /// Who waits; nothing where one has given up.
    queue: VecDeque<Option<Waker>>,
}

/// Where the handshakes of one shard wait for their turn.
#[derive(Default)]
pub(crate) struct Gate(RefCell<State>);

impl Gate {
    pub(crate) fn waiting(&self) -> usize {
        self.0.borrow().queue.len()
    }

    fn queue(&self, waker: &Waker) -> u64 {
        let mut state = self.0.borrow_mut();
        state.queue.push_back(Some(waker.clone()));
        state.first + state.queue.len() as u64 - 1
    }

    /// Whether the ticket is granted; keeps the waker if not.
    fn is_granted(&self, ticket: u64, waker: &Waker) -> bool {
        let mut state = self.0.borrow_mut();
        let Some(place) = ticket.checked_sub(state.first) else { return true };
        if let Some(Some(old)) = state.queue.get_mut(place as usize) {
            old.clone_from(waker);
        }
        false
    }

    fn give_up(&self, ticket: u64) {
        let mut state = self.0.borrow_mut();
        let Some(place) = ticket.checked_sub(state.first) else {
            state.granted -= 1;
            drop(state);
            return self.admit();
        };
        if let Some(waiting) = state.queue.get_mut(place as usize) {
            *waiting = None;
        }
    }

    fn release(&self) {
        self.0.borrow_mut().granted -= 1;
        self.admit();
    }

    /// Grants to those who have waited longest.
    fn admit(&self) {
        loop {
            let waker = {
                let mut state = self.0.borrow_mut();
                if state.granted >= GRANTS_MAX {
                    return;
                }
                let Some(next) = state.queue.pop_front() else { return };
                state.first += 1;
                let Some(waker) = next else { continue };
                state.granted += 1;
                waker
            };
            waker.wake();
        }
    }
}

enum Place {
    Outside,
    Waiting(u64),
    Inside,
}

/// One handshake's place at the gate.
pub(crate) struct Turn {
    gate: Rc<Gate>,
    place: Place,
}

impl Turn {
    pub(crate) fn new(gate: Rc<Gate>) -> Self {
        Self { gate, place: Place::Outside }
    }

    /// Ready once it is this handshake's turn, and until [`leave`](Self::leave). Never at the first call: the turn is in
    /// a poll of its own.
    pub(crate) fn poll_enter(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.place {
            Place::Inside => return Poll::Ready(()),
            Place::Outside => {
                self.place = Place::Waiting(self.gate.queue(cx.waker()));
                self.gate.admit();
            }
            Place::Waiting(ticket) => {
                if self.gate.is_granted(ticket, cx.waker()) {
                    self.place = Place::Inside;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Leaves the turn to the next.
    pub(crate) fn leave(&mut self) {
        match std::mem::replace(&mut self.place, Place::Outside) {
            Place::Outside => {}
            Place::Waiting(ticket) => self.gate.give_up(ticket),
            Place::Inside => self.gate.release(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(turn: &mut Turn) -> bool {
        turn.poll_enter(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn turns(gate: &Rc<Gate>, count: usize) -> Vec<Turn> {
        let mut turns: Vec<Turn> = (0..count).map(|_| Turn::new(gate.clone())).collect();
        assert!(!turns.iter_mut().any(poll), "nobody computes in the poll in which it comes");
        turns
    }

    fn inside(turns: &mut [Turn]) -> Vec<usize> {
        (0..turns.len()).filter(|at| poll(&mut turns[*at])).collect()
    }

    #[test]
    fn turns_come_in_order_and_few_at_a_time() {
        let gate = Rc::<Gate>::default();
        let mut turns = turns(&gate, 3 * GRANTS_MAX);
        for batch in 0..3 {
            let expected: Vec<usize> = (batch * GRANTS_MAX..(batch + 1) * GRANTS_MAX).collect();
            // Those before have left, and would come anew if asked.
            let now: Vec<usize> = (batch * GRANTS_MAX..turns.len()).filter(|at| poll(&mut turns[*at])).collect();
            assert_eq!(now, expected);
            expected.iter().for_each(|at| turns[*at].leave());
        }
        assert_eq!((gate.waiting(), gate.0.borrow().granted), (0, 0));
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let gate = Rc::<Gate>::default();
        let mut turns = turns(&gate, GRANTS_MAX + 4);
        // One that waits, and one that was woken and never looked.
        drop(turns.remove(GRANTS_MAX + 1));
        drop(turns.remove(0));
        assert_eq!(inside(&mut turns), (0..GRANTS_MAX).collect::<Vec<_>>());
        turns.iter_mut().take(GRANTS_MAX).for_each(Turn::leave);
        assert!(turns.iter_mut().skip(GRANTS_MAX).all(poll));
        drop(turns);
        assert_eq!((gate.waiting(), gate.0.borrow().granted), (0, 0));
    }

    #[test]
    fn who_comes_again_stands_at_the_end() {
        let gate = Rc::<Gate>::default();
        let mut turns = turns(&gate, GRANTS_MAX + 1);
        assert!(poll(&mut turns[0]));
        turns[0].leave();
        assert!(!poll(&mut turns[0]));
        assert!(poll(&mut turns[GRANTS_MAX]), "the one that waited is first");
        assert!(!poll(&mut turns[0]));
    }
}
