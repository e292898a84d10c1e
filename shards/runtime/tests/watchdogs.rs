//! A shard that stalls is noticed, told with its stack, and noticed again when it goes on.

mod support;

use ringpost_base::ShardId;
use ringpost_runtime::sleep;
use ringpost_runtime::watchdog::Watchdog;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::{Running, shard};

/// As long as a loaded machine may need.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[inline(never)]
fn hold_the_thread(go_on: &AtomicBool) {
    while !go_on.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A shard that stalls at `stall` until `go_on`, and ends at `end`.
#[derive(Default)]
struct Switches {
    stall: AtomicBool,
    go_on: AtomicBool,
    end: AtomicBool,
}

fn switched(id: u16) -> (Running, Arc<Switches>) {
    let switches = Arc::new(Switches::default());
    let seen = switches.clone();
    let running = shard(id, move |_| async move {
        while !seen.end.load(Relaxed) {
            sleep(Duration::from_millis(5)).await;
            if seen.stall.swap(false, Relaxed) {
                hold_the_thread(&seen.go_on);
            }
        }
    });
    (running, switches)
}

#[test]
fn a_stall_is_told_with_its_stack_and_its_end() {
    let (one, two) = (switched(0), switched(1));
    let pulses = vec![one.0.pulse.clone(), two.0.pulse.clone()];
    let blocks = vec![one.0.block.clone(), two.0.block.clone()];
    let limit = Arc::new(AtomicU64::new(500));
    let asked = limit.clone();
    let watchdog =
        Watchdog::start(pulses, blocks, move || Duration::from_millis(asked.load(Relaxed))).expect("a thread");
    let view = watchdog.view();
    wait_for("both beat", || one.0.pulse.silent_for().is_some() && two.0.pulse.silent_for().is_some());
    two.1.stall.store(true, Relaxed);
    wait_for("the stall is noticed, with its stack", || view.details().iter().any(|stalled| stalled.stack.is_some()));
    let details = view.details();
    let [stalled] = &details[..] else { panic!("one stalls: {details:?}") };
    let stack = stalled.stack.as_deref().unwrap_or_default();
    assert_eq!(stalled.shard, ShardId(1));
    assert!(stack.contains("std::thread::") && stack.contains("watchdogs::hold_the_thread"), "{stack}");
    let (_, since) = watchdog.stalled()[0];
    wait_for("the stall grows", || watchdog.stalled().first().is_some_and(|(_, now)| *now > since));
    assert!(two.0.pulse.is_stalled() && two.0.pulse.stalls() == 1);
    two.1.go_on.store(true, Relaxed);
    wait_for("its end is noticed", || watchdog.stalled().is_empty() && !two.0.pulse.is_stalled());
    assert_eq!((one.0.pulse.stalls(), two.0.pulse.stalls()), (0, 1));

    // Switched off, it sees nothing; switched on again, it does.
    limit.store(0, Relaxed);
    std::thread::sleep(Duration::from_millis(600));
    one.1.stall.store(true, Relaxed);
    wait_for("the stall would be noticed", || one.0.pulse.silent_for() > Some(Duration::from_secs(1)));
    assert!(watchdog.stalled().is_empty());
    limit.store(500, Relaxed);
    wait_for("the stall is noticed now", || watchdog.stalled().iter().any(|(shard, _)| *shard == ShardId(0)));
    one.1.go_on.store(true, Relaxed);
    wait_for("its end is noticed", || watchdog.stalled().is_empty());

    // A shard that has ended is not one that has stalled.
    for (running, switches) in [one, two] {
        switches.end.store(true, Relaxed);
        running.thread.join().expect("ends well");
        assert!(running.pulse.silent_for().is_none());
    }
    std::thread::sleep(Duration::from_millis(800));
    assert!(watchdog.stalled().is_empty());
    watchdog.stop();
}
