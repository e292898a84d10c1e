//! The board with real threads: every interleaving is loom's to try (`model.rs`); here it is the volume.

use crate::{Board, Phase, Seat, State};
use ringpost_base::ShardId;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// A shard that acknowledges whatever it sees until it has seen the end, and says how often it was told.
fn shard(mut seat: Seat) -> impl FnOnce() -> usize {
    move || {
        let mut told = 0;
        loop {
            let state = block_on(seat.changed());
            told += 1;
            seat.acknowledge(state);
            if state.phase == Phase::Stopping {
                return told;
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn every_shard_acknowledges_every_phase() {
    let board = Board::new(4);
    let shards: Vec<_> =
        board.shards().map(|id| thread::spawn(shard(board.seat(id).expect("not taken yet")))).collect();
    for phase in [Phase::Ready, Phase::Degraded, Phase::Ready, Phase::Draining] {
        let state = board.publish_phase(phase);
        assert_eq!(state.phase, phase);
        assert_eq!(board.wait_acknowledged(state, PATIENCE), [], "{state}");
        assert!(board.all_acknowledged(state));
    }
    let config = board.publish_epoch();
    assert_eq!(config, State { phase: Phase::Draining, epoch: 1 });
    assert_eq!(board.wait_acknowledged(config, PATIENCE), []);
    let stopping = board.publish_phase(Phase::Stopping);
    assert_eq!(board.wait_acknowledged(stopping, PATIENCE), []);
    for shard in shards {
        assert!(shard.join().expect("a shard") >= 6);
    }
}

#[test]
fn publishers_at_once_lose_nothing_and_no_shard_sleeps_through_the_last_word() {
    const EPOCHS: u64 = 20_000;
    let board = Board::new(2);
    let shards: Vec<_> =
        board.shards().map(|id| thread::spawn(shard(board.seat(id).expect("not taken yet")))).collect();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..EPOCHS).for_each(|_| _ = board.publish_epoch()));
        }
        scope.spawn(|| {
            for _ in 0..EPOCHS {
                board.publish_phase(Phase::Ready);
                board.publish_phase(Phase::Degraded);
            }
        });
    });
    assert_eq!(board.state(), State { phase: Phase::Degraded, epoch: 2 * EPOCHS });
    let last = board.publish_phase(Phase::Stopping);
    assert_eq!(board.wait_acknowledged(last, PATIENCE), []);
    for shard in shards {
        shard.join().expect("a shard");
    }
}

#[test]
fn a_seat_is_taken_once() {
    let board = Board::new(1);
    let seat = board.seat(ShardId(0));
    assert!(seat.is_some());
    assert!(board.seat(ShardId(0)).is_none());
    assert!(board.seat(ShardId(1)).is_none(), "no such shard");
    drop(seat);
    assert!(board.seat(ShardId(0)).is_none(), "also after it was given up");
}

#[test]
fn the_late_are_named_and_the_departed_are_not_waited_for() {
    let board = Board::new(3);
    let seats: Vec<_> = board.shards().map(|id| board.seat(id).expect("not taken yet")).collect();
    let ready = board.publish_phase(Phase::Ready);
    seats[1].acknowledge(ready);
    assert!(!board.all_acknowledged(ready));
    assert_eq!(board.wait_acknowledged(ready, Duration::from_millis(5)), [ShardId(0), ShardId(2)]);
    board.depart(ShardId(0));
    seats[2].acknowledge(ready);
    assert_eq!(board.wait_acknowledged(ready, Duration::ZERO), []);
    assert!(board.has_departed(ShardId(0)) && !board.has_departed(ShardId(1)));
    assert_eq!(board.acknowledged(ShardId(0)), State::FIRST, "its last word");
}

#[test]
fn a_shard_that_acknowledged_the_newest_state_is_not_late_for_an_older_one() {
    let board = Board::new(1);
    let seat = board.seat(ShardId(0)).expect("not taken yet");
    let ready = board.publish_phase(Phase::Ready);
    let degraded = board.publish_phase(Phase::Degraded);
    seat.acknowledge(degraded);
    assert!(board.all_acknowledged(ready));
    let ready_again = board.publish_phase(Phase::Ready);
    assert!(!board.all_acknowledged(ready_again), "degraded does not stand for a later ready");
}

#[test]
fn an_ended_server_does_not_come_back() {
    let board = Board::new(1);
    board.publish_phase(Phase::Draining);
    assert_eq!(board.publish_phase(Phase::Ready).phase, Phase::Draining);
    assert_eq!(board.publish_phase(Phase::Stopping).phase, Phase::Stopping);
    assert_eq!(board.publish_phase(Phase::Draining).phase, Phase::Stopping);
}

#[test]
fn the_first_look_is_ready_and_an_unchanged_state_is_not() {
    let board = Board::new(1);
    let mut seat = board.seat(ShardId(0)).expect("not taken yet");
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(seat.poll_changed(&mut cx), Poll::Ready(State::FIRST));
    assert_eq!(seat.poll_changed(&mut cx), Poll::Pending);
    let ready = board.publish_phase(Phase::Ready);
    assert_eq!(seat.state(), ready);
    assert_eq!(seat.poll_changed(&mut cx), Poll::Ready(ready));
    board.publish_phase(Phase::Ready);
    assert_eq!(seat.poll_changed(&mut cx), Poll::Pending);
}

#[test]
fn a_seat_given_up_leaves_no_waker_behind() {
    let board = Board::new(2);
    let counted = Arc::new(Unpark(thread::current()));
    let waker = Waker::from(Arc::clone(&counted));
    let mut seat = board.seat(ShardId(0)).expect("not taken yet");
    let mut cx = Context::from_waker(&waker);
    while seat.poll_changed(&mut cx).is_ready() {}
    assert_eq!(Arc::strong_count(&counted), 3, "one with the board");
    drop(seat);
    assert_eq!(Arc::strong_count(&counted), 2);
    let mut kept = board.seat(ShardId(1)).expect("not taken yet");
    while kept.poll_changed(&mut cx).is_ready() {}
    board.depart(ShardId(1));
    board.publish_phase(Phase::Ready);
    drop(kept);
    assert_eq!(Arc::strong_count(&counted), 3, "a departed shard's waker is neither woken nor dropped");
}
