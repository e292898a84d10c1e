//! The stack of a shard that works, that sleeps, that waits and that is gone.

mod support;

use ringpost_runtime::{Pulse, sleep, spawn, stack_of};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::shard;

/// As long as a shard on a loaded machine may need.
const PATIENCE: Duration = Duration::from_secs(20);

/// The names are on the stack in this order, the innermost first.
#[track_caller]
fn check(stack: &str, expected: &[&str]) {
    let mut lines = stack.lines();
    for name in expected {
        assert!(lines.any(|line| line.contains(name)), "no {name} where it should be in:\n{stack}");
    }
}

/// The stack of a shard once it is at what has `inside` on its stack.
fn stack_with(pulse: &Pulse, inside: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let stack = stack_of(pulse, PATIENCE).map(|stack| stack.to_string()).unwrap_or_default();
        if stack.contains(inside) || Instant::now() > until {
            return stack;
        }
    }
}

#[inline(never)]
fn work_until(done: &AtomicBool) -> u64 {
    let mut sum = 0u64;
    while !done.load(Relaxed) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
    sum
}

#[inline(never)]
fn stall(span: Duration) {
    std::thread::sleep(span);
    black_box(());
}

async fn session(done: Arc<AtomicBool>) {
    sleep(Duration::from_millis(1)).await;
    black_box(work_until(&done));
}

async fn stalled_session() {
    sleep(Duration::from_millis(1)).await;
    stall(Duration::from_secs(2));
}

#[test]
fn work_is_seen_with_its_future_and_down_to_the_thread() {
    let done = Arc::new(AtomicBool::new(false));
    let at_work = done.clone();
    let running = shard(0, |_| async move {
        spawn("session", session(at_work.clone()));
        while !at_work.load(Relaxed) {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let stack = stack_with(&running.pulse, "work_until");
    done.store(true, Relaxed);
    check(&stack, &["stacks::work_until", "tests/stacks.rs:", "contain", "glommio", "run", "std::"]);
    running.thread.join().expect("ends well");
}

#[test]
fn a_sleep_in_a_session_is_seen_and_lasts_its_time() {
    let running = shard(0, |_| async {
        let began = Instant::now();
        stalled_session().await;
        assert!(began.elapsed() >= Duration::from_secs(2), "signals don't shorten it");
    });
    let stack = stack_with(&running.pulse, "stacks::stall");
    check(&stack, &["sleep", "stacks::stall", "tests/stacks.rs:", "glommio", "std::"]);
    running.thread.join().expect("ends well");
}

#[test]
fn a_parked_shard_is_seen_in_its_ring() {
    let running = shard(0, |_| sleep(Duration::from_secs(1)));
    let stack = stack_with(&running.pulse, "submit_and_wait");
    check(&stack, &["syscall", "submit_and_wait", "glommio", "std::"]);
    running.thread.join().expect("ends well");
}

#[test]
fn a_shard_that_is_gone_has_no_stack() {
    let pulse = Pulse::new(ringpost_base::ShardId(0));
    assert!(stack_of(&pulse, PATIENCE).is_none() && pulse.silent_for().is_none() && pulse.cpu_time().is_none());
    let running = shard(0, |_| sleep(Duration::from_millis(50)));
    let stack = stack_with(&running.pulse, "glommio");
    assert!(!stack.is_empty() && running.pulse.cpu_time().is_some());
    running.thread.join().expect("ends well");
    assert!(stack_of(&running.pulse, PATIENCE).is_none() && running.pulse.silent_for().is_none());
}
