//! A shard that dies, or can't begin, says so.

use crossbeam::channel::{Receiver, unbounded};
use ringpost_base::ShardId;
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_runtime::{Plan, Shard, ShardThread, cores, sleep, spawn, spawn_vital, start};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn run<F: Future<Output = ()> + 'static>(
    cpu: usize,
    body: impl FnOnce(Shard) -> F + Send + 'static,
) -> (ShardThread<()>, Receiver<ShardId>) {
    let board = Board::new(1);
    let seat = board.seat(ShardId(0)).expect("the first");
    let (sender, ended) = unbounded();
    let plan = Plan {
        shard: ShardId(0),
        cpu,
        block: Arc::new(Block::new()),
        seat,
        pulse: ringpost_runtime::Pulse::new(ShardId(0)),
        ended: sender,
    };
    (start(plan, body).expect("starts"), ended)
}

#[test]
fn a_panic_in_a_vital_task_ends_the_shard() {
    let (thread, ended) = run(cores()[0], |_shard| async {
        spawn_vital(async {
            sleep(Duration::from_millis(1)).await;
            panic!("on purpose");
        });
        sleep(Duration::from_secs(3600)).await;
    });
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(ShardId(0)));
    assert!(thread.join().is_err());
}

#[test]
fn a_panic_in_another_task_ends_that_task() {
    let (thread, ended) = run(cores()[0], |_shard| async {
        spawn("test", async { panic!("on purpose") });
        sleep(Duration::from_millis(50)).await;
    });
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(ShardId(0)));
    assert!(thread.join().is_ok());
}
