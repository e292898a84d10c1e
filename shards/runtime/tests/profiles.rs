//! Profiles of a shard that works, of one that parks, and of one that does both and must not notice.

mod support;

use ringpost_runtime::{HERTZ_MAX, Profile, ProfileError, profile, sleep, spawn};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{Running, shard};

/// A process takes one profile at a time, and the tests are threads of one.
fn one_at_a_time() -> impl Drop {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline(never)]
fn compute(span: Duration) {
    let began = Instant::now();
    let mut sum = 0u64;
    while began.elapsed() < span {
        for _ in 0..1000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
    }
}

/// A shard that computes for `work` and waits for `rest` by turns.
fn busy(work: Duration, rest: Duration) -> (Running, Arc<AtomicBool>) {
    let done = Arc::new(AtomicBool::new(false));
    let until = done.clone();
    let running = shard(0, move |_| async move {
        while !until.load(Relaxed) {
            compute(work);
            sleep(rest).await;
        }
    });
    (running, done)
}

fn taken(running: &Running, duration: Duration) -> Profile {
    // The thread may need a moment to begin.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match profile(&running.pulse, duration, HERTZ_MAX) {
            Err(ProfileError::NotRunning) if Instant::now() < until => std::thread::yield_now(),
            taken => return taken.expect("nobody else takes one"),
        }
    }
}

#[test]
fn a_shard_that_works_is_found_at_its_work() {
    let _one = one_at_a_time();
    let (running, done) = busy(Duration::from_millis(4), Duration::from_millis(1));
    let profile = taken(&running, Duration::from_secs(2));
    done.store(true, Relaxed);
    running.thread.join().expect("ends well");
    let folded = profile.folded();
    let counts = |line: &str| line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok()).expect("a count");
    let all: u64 = folded.lines().map(counts).sum();
    let at_work: u64 = folded.lines().filter(|line| line.contains(";profiles::compute")).map(counts).sum();
    assert_eq!(all, profile.samples());
    assert!(all >= 20 && at_work * 2 > all, "{at_work} of {all}:\n{folded}");
    let svg = profile.flame_graph();
    assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n") && svg.contains("<title>profiles::compute"), "{svg}");
}

#[test]
fn a_shard_that_parks_is_left_alone() {
    let _one = one_at_a_time();
    let (running, done) = busy(Duration::ZERO, Duration::from_millis(200));
    let began = Instant::now();
    let profile = taken(&running, Duration::from_secs(1));
    assert!(began.elapsed() >= Duration::from_secs(1));
    done.store(true, Relaxed);
    running.thread.join().expect("ends well");
    assert!(profile.samples() + profile.lost() < 100, "{}", profile.folded());
    assert!(profile.flame_graph().ends_with("</svg>\n"));
}

#[test]
fn signals_disturb_neither_timers_nor_tasks_nor_sockets() {
    let _one = one_at_a_time();
    let running = shard(0, |shard| async move {
        assert_eq!(shard.id.0, 0);
        let served = Rc::new(Cell::new(0));
        let (server, address) = support::echo();
        spawn("echo", server);
        for _ in 0..4 {
            let served = served.clone();
            spawn("client", async move {
                loop {
                    support::call(address).await;
                    served.set(served.get() + 1);
                }
            });
        }
        let mut before = 0;
        for _ in 0..40 {
            compute(Duration::from_millis(10));
            sleep(Duration::from_millis(50)).await;
            assert!(served.get() > before, "clients are served all the time");
            before = served.get();
        }
    });
    let pulse = running.pulse.clone();
    let asker = std::thread::spawn(move || {
        let mut answers = 0;
        while pulse.silent_for().is_some() || answers == 0 {
            answers += u32::from(ringpost_runtime::stack_of(&pulse, Duration::from_secs(5)).is_some());
        }
        answers
    });
    let profile = taken(&running, Duration::from_secs(60));
    running.thread.join().expect("no task and no call failed");
    assert!(profile.samples() > 0);
    assert!(asker.join().expect("no panic") > 100);
}

#[test]
fn a_second_profile_is_refused_and_one_of_nobody_too() {
    let _one = one_at_a_time();
    let (running, done) = busy(Duration::ZERO, Duration::from_millis(10));
    taken(&running, Duration::ZERO);
    let pulse = running.pulse.clone();
    let first = std::thread::spawn(move || {
        // Those that try below may be quicker.
        while matches!(profile(&pulse, Duration::from_secs(2), 99), Err(ProfileError::Busy)) {}
    });
    while !matches!(profile(&running.pulse, Duration::ZERO, 99), Err(ProfileError::Busy)) {
        assert!(!first.is_finished(), "somebody else takes one for two seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
    first.join().expect("no panic");
    done.store(true, Relaxed);
    running.thread.join().expect("ends well");
    assert!(matches!(profile(&running.pulse, Duration::ZERO, 99), Err(ProfileError::NotRunning)));
}
