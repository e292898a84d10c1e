//! The board under loom, which tries every interleaving of its few threads.
//!
//! Each model is kept to two or three threads and as few steps as show the point: the number of interleavings grows
//! with the factorial of both.

use crate::{Board, Phase, State};
use loom::future::block_on;
use loom::thread;
use ringpost_base::ShardId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};

const SHARD: ShardId = ShardId(0);

#[test]
fn no_wake_up_is_lost_between_publish_and_poll() {
    loom::model(|| {
        let board = Board::new(1);
        let mut seat = board.seat(SHARD).expect("not taken yet");
        let publisher = thread::spawn({
            let board = Arc::clone(&board);
            move || board.publish_phase(Phase::Ready)
        });
        // A lost wake-up is a deadlock here, which loom reports.
        let mut state = block_on(seat.changed());
        if state == State::FIRST {
            state = block_on(seat.changed());
        }
        assert_eq!(state, State { phase: Phase::Ready, epoch: 0 });
        publisher.join().expect("the publisher");
    });
}

#[test]
fn a_second_publication_wakes_again() {
    loom::model(|| {
        let board = Board::new(1);
        let mut seat = board.seat(SHARD).expect("not taken yet");
        let publisher = thread::spawn({
            let board = Arc::clone(&board);
            move || {
                board.publish_epoch();
                board.publish_phase(Phase::Stopping)
            }
        });
        let mut last = block_on(seat.changed());
        while last.phase != Phase::Stopping {
            let next = block_on(seat.changed());
            assert!(next.covers(last) && next != last);
            last = next;
        }
        assert_eq!(publisher.join().expect("the publisher"), last);
        assert_eq!(last.epoch, 1);
    });
}

#[test]
fn phase_and_epoch_published_at_once_lose_nothing() {
    loom::model(|| {
        // No shard: three publishers are enough steps, and waking is another model's point.
        let board = Board::new(0);
        let spawn = |publish: fn(&Board) -> State| {
            let board = Arc::clone(&board);
            thread::spawn(move || publish(&board))
        };
        let phase = spawn(|board| board.publish_phase(Phase::Draining));
        let epoch = spawn(Board::publish_epoch);
        board.publish_epoch();
        assert_eq!(phase.join().expect("a publisher").phase, Phase::Draining);
        assert!(epoch.join().expect("a publisher").epoch >= 1);
        assert_eq!(board.state(), State { phase: Phase::Draining, epoch: 2 });
    });
}

#[test]
fn an_early_phase_never_undoes_a_late_one() {
    loom::model(|| {
        let board = Board::new(1);
        let late = thread::spawn({
            let board = Arc::clone(&board);
            move || board.publish_phase(Phase::Draining)
        });
        board.publish_phase(Phase::Ready);
        late.join().expect("a publisher");
        assert_eq!(board.state().phase, Phase::Draining);
    });
}

#[test]
fn an_acknowledgement_seen_means_that_the_shard_has_seen_the_state() {
    use loom::sync::atomic::AtomicUsize as Work;
    loom::model(|| {
        let board = Board::new(1);
        let mut seat = board.seat(SHARD).expect("not taken yet");
        let work = Arc::new(Work::new(0));
        let shard = thread::spawn({
            let work = Arc::clone(&work);
            move || {
                let mut state = block_on(seat.changed());
                if state == State::FIRST {
                    state = block_on(seat.changed());
                }
                // Relaxed: it is the acknowledgement that makes it visible.
                work.store(1, Ordering::Relaxed);
                seat.acknowledge(state);
            }
        });
        let published = board.publish_phase(Phase::Ready);
        if board.all_acknowledged(published) {
            assert_eq!(work.load(Ordering::Relaxed), 1);
        }
        shard.join().expect("the shard");
        assert!(board.all_acknowledged(published));
    });
}

/// Notes whether a wake comes after its shard has left.
struct Task {
    gone: loom::sync::atomic::AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        assert!(!self.gone.load(Ordering::Relaxed), "woken after its shard had left");
    }
}

#[test]
fn a_shard_that_leaves_while_a_state_is_published_is_not_touched_afterwards() {
    loom::model(|| {
        let board = Board::new(1);
        let mut seat = board.seat(SHARD).expect("not taken yet");
        let publisher = thread::spawn({
            let board = Arc::clone(&board);
            move || board.publish_phase(Phase::Stopping)
        });
        let task = Arc::new(Task { gone: loom::sync::atomic::AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&task));
        while seat.poll_changed(&mut Context::from_waker(&waker)).is_ready() {}
        drop(seat);
        drop(waker);
        // No other thread has the waker now: not even one that is just about to wake it.
        assert_eq!(Arc::strong_count(&task), 1);
        task.gone.store(true, Ordering::Relaxed);
        board.depart(SHARD);
        let state = publisher.join().expect("the publisher");
        assert!(board.all_acknowledged(state));
    });
}

#[test]
fn departing_while_publishing_leaves_nobody_waiting() {
    loom::model(|| {
        let board = Board::new(1);
        let mut seat = board.seat(SHARD).expect("not taken yet");
        let shard = thread::spawn({
            let board = Arc::clone(&board);
            move || {
                let polled = seat.poll_changed(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(polled, Poll::Ready(_)), "the first look is always ready");
                drop(seat);
                board.depart(SHARD);
            }
        });
        let state = board.publish_phase(Phase::Draining);
        shard.join().expect("the shard");
        assert!(board.all_acknowledged(state) && board.has_departed(SHARD));
        assert_eq!(board.publish_epoch().epoch, 1);
    });
}
