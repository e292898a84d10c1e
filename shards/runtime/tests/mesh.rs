//! The mesh on real executors: every question gets its answer, bounds hold, and the dead keep nobody waiting.

use crossbeam::channel::{Sender, unbounded};
use ringpost_base::ShardId;
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_runtime::{
    MeshEnd, MeshSeat, Plan, ShardThread, cores, mesh, sleep, spawn, spawn_vital, start, yield_now,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const FIRST: ShardId = ShardId(0);
const SECOND: ShardId = ShardId(1);

type Seat = MeshSeat<u64, u64>;
type End = Rc<MeshEnd<u64, u64>>;

/// Starts one shard for each seat, on the cores of the machine in turn, with `body`, and waits for all of them.
fn run<F>(seats: Vec<Seat>, body: impl FnOnce(End) -> F + Clone + Send + 'static) -> Vec<bool>
where
    F: Future<Output = ()> + 'static,
{
    let board = Board::new(seats.len());
    let (ended, _departures) = unbounded();
    let threads: Vec<_> = seats
        .into_iter()
        .zip(board.shards().zip(cores().into_iter().cycle()))
        .map(|(seat, (shard, cpu))| begin(&board, &ended, (shard, cpu), seat, body.clone()))
        .collect();
    threads.into_iter().map(|thread| thread.join().is_ok()).collect()
}

fn begin<F: Future<Output = ()> + 'static>(
    board: &Arc<Board>,
    ended: &Sender<ShardId>,
    (shard, cpu): (ShardId, usize),
    seat: Seat,
    body: impl FnOnce(End) -> F + Send + 'static,
) -> ShardThread<()> {
    let place = board.seat(shard).expect("taken once");
    let plan = Plan {
        shard,
        cpu,
        block: Arc::new(Block::new()),
        seat: place,
        pulse: ringpost_runtime::Pulse::new(shard),
        ended: ended.clone(),
    };
    start(plan, move |_| body(seat.open())).expect("starts")
}

/// An answer that tells who was asked what by whom.
fn reply(owner: ShardId, asker: ShardId, question: u64) -> u64 {
    question * 100 + u64::from(owner.0) * 10 + u64::from(asker.0)
}

/// Tries of one question before it counts as lost. A machine that is busy elsewhere may let an answer come too late; a
/// mesh that loses answers would lose all of these.
const TRIES_MAX: usize = 50;

/// Asks until there is an answer; nothing if there is none to be had.
async fn ask_until_answered(end: &End, to: ShardId, question: u64) -> Option<u64> {
    let mut given_up = 0;
    while given_up < TRIES_MAX {
        match end.ask(to, question) {
            Some(answer) => match answer.await {
                Some(answer) => return Some(answer),
                None => given_up += 1,
            },
            None => sleep(Duration::from_micros(50)).await,
        }
    }
    None
}

/// Asks the other shards in turn, `questions` questions from each of `tasks` tasks; gives the number of wrong answers.
async fn ask_all(end: &End, shards: u16, tasks: u64, questions: u64) -> u64 {
    let (left, wrong) = (Rc::new(Cell::new(tasks)), Rc::new(Cell::new(0)));
    for task in 0..tasks {
        let (end, left, wrong) = (end.clone(), left.clone(), wrong.clone());
        spawn("asker", async move {
            for number in 0..questions {
                let distance = 1 + number as u16 % (shards - 1);
                let to = ShardId((end.shard().0 + distance) % shards);
                let question = task * questions + number;
                let answer = ask_until_answered(&end, to, question).await;
                wrong.set(wrong.get() + u64::from(answer != Some(reply(to, end.shard(), question))));
            }
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    wrong.get()
}

/// Runs `shards` shards that ask each other, with rings of `capacity`, and checks that all of them come to an end.
fn check_all_answered(shards: u16, capacity: usize, tasks: u64, questions: u64) {
    let finished = Arc::new(AtomicU64::new(0));
    let seen = finished.clone();
    let ends = run(mesh(usize::from(shards), capacity), async move |end: End| {
        let own = end.shard();
        spawn_vital(end.clone().serve(move |asker, question| reply(own, asker, question), |_, _| {}));
        let wrong = ask_all(&end, shards, tasks, questions).await;
        seen.fetch_add(1, Relaxed);
        // The others may still want answers.
        while seen.load(Relaxed) < u64::from(shards) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(wrong, 0, "wrong answers at shard {own}");
    });
    assert!(ends.iter().all(|ended| *ended));
    assert_eq!(finished.load(Relaxed), u64::from(shards));
}

#[test]
fn every_question_gets_its_own_answer() {
    check_all_answered(2, 256, 100, 1_000);
}

#[test]
fn more_shards_than_cores_and_hardly_any_room() {
    check_all_answered(5, 2, 20, 200);
}

#[test]
fn a_full_ring_refuses_and_works_again_once_it_is_served() {
    let phase = Arc::new(AtomicU64::new(0));
    let reached = async |phase: &AtomicU64, wanted: u64| {
        while phase.load(Relaxed) < wanted {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let ends = run(mesh(2, 4), async move |end: End| {
        if end.shard() == SECOND {
            // Deaf at first.
            reached(&phase, 1).await;
            let told = phase.clone();
            let own = end.shard();
            spawn_vital(end.clone().serve(
                move |asker, question| {
                    told.fetch_max(if question == 77 { 2 } else { 1 }, Relaxed);
                    reply(own, asker, question)
                },
                |_, _| {},
            ));
            return reached(&phase, 3).await;
        }
        spawn_vital(end.clone().serve(|_, _| 0, |_, _| {}));
        let answers: Vec<_> = (0..4).map(|question| end.ask(SECOND, question).expect("room for four")).collect();
        assert!(end.ask(SECOND, 5).is_none(), "four are under way");
        assert_eq!(end.tell(SECOND, 5), Err(5), "the ring is full");
        for answer in answers {
            assert_eq!(answer.await, None, "given up");
        }
        assert!(end.ask(SECOND, 5).is_none(), "given up, but still under way");
        phase.store(1, Relaxed);
        let answer = loop {
            match end.ask(SECOND, 9) {
                Some(answer) => break answer.await,
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(answer, Some(reply(SECOND, FIRST, 9)), "answers that come late are not taken for this one");
        while end.tell(SECOND, 77).is_err() {
            yield_now().await;
        }
        reached(&phase, 2).await;
        phase.store(3, Relaxed);
    });
    assert_eq!(ends, [true, true]);
}

/// Lets the second shard end in its way, after the first has asked it, and checks that the first doesn't wait.
fn check_ended(end_second: impl AsyncFnOnce() + Clone + Send + 'static, clean: bool) {
    let asked = Arc::new(AtomicU64::new(0));
    let ends = run(mesh(2, 16), async move |end: End| {
        if end.shard() == SECOND {
            while asked.load(Relaxed) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            return end_second().await;
        }
        spawn_vital(end.clone().serve(|_, _| 0, |_, _| {}));
        let answer = end.ask(SECOND, 1).expect("there is room");
        asked.store(1, Relaxed);
        assert_eq!(answer.await, None);
        while end.ask(SECOND, 2).is_some() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(end.tell(SECOND, 3), Err(3));
    });
    assert_eq!(ends, [true, clean]);
}

#[test]
fn a_shard_that_has_ended_is_not_waited_for() {
    check_ended(async || {}, true);
}

#[test]
fn a_shard_that_died_of_a_panic_is_not_waited_for() {
    check_ended(
        async || {
            spawn_vital(async {
                sleep(Duration::from_millis(1)).await;
                panic!("on purpose");
            });
            sleep(Duration::from_secs(3600)).await;
        },
        false,
    );
}

#[test]
fn a_shard_that_never_came_is_not_waited_for() {
    let mut seats: Vec<Seat> = mesh(2, 16);
    seats.truncate(1);
    let ends = run(seats, async |end: End| {
        assert!(end.ask(SECOND, 1).is_none());
        assert_eq!(end.tell(SECOND, 1), Err(1));
        assert!(end.ask(ShardId(7), 1).is_none(), "no such shard");
    });
    assert_eq!(ends, [true]);
}

#[test]
fn a_mesh_of_one_has_nobody_to_ask() {
    let ends = run(mesh(1, 16), async |end: End| {
        spawn_vital(end.clone().serve(|_, _| 0, |_, _| {}));
        assert!(end.ask(SECOND, 1).is_none());
    });
    assert_eq!(ends, [true]);
}
