//! Which message is next, and when it is due.
//!
//! Sessions of all threads take tickets from one counter. In a **closed loop** a ticket may be used at once. In an
//! **open loop** ticket `k` is due at `start + k / rate`; an idle session always holds the earliest ticket that nobody
//! else holds and sleeps until it is due, and when all sessions are busy the tickets wait in order. That is a queue with
//! `--sessions` servers whose arrivals don't depend on how fast they are served, without a dispatcher.
//!
//! Nothing is started after the end of the run: what was due but found no session is counted as not started.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::args::LoadArgs;
use crate::units::Rate;

/// The plan by which messages start.
pub(crate) struct Schedule {
    start: Instant,
    rate: Option<Rate>,
    messages: u64,
    duration: Duration,
    next: AtomicU64,
    stop: watch::Sender<bool>,
    stopped: AtomicBool,
}

/// The right to send one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) sequence: u64,
    /// When to start it; `None` is at once.
    pub(crate) due: Option<Instant>,
}

impl Schedule {
    pub(crate) fn new(load: &LoadArgs, start: Instant) -> Self {
        Self::of(load.rate, load.messages, load.duration(), start)
    }

    /// A plan with a rate or without, that ends after so many tickets or so much time, whichever is given and comes first.
    pub(crate) fn of(rate: Option<Rate>, count: Option<u64>, duration: Option<Duration>, start: Instant) -> Self {
        Self {
            start,
            rate,
            messages: count.unwrap_or(u64::MAX),
            duration: duration.unwrap_or(Duration::MAX),
            next: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// When the run started.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// The next message, unless the run is over.
    pub(crate) fn next(&self, now: Instant) -> Option<Ticket> {
        if self.is_over(now) {
            return None;
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        if sequence >= self.messages {
            return None;
        }
        match self.rate {
            None => Some(Ticket { sequence, due: None }),
            Some(rate) => {
                let after = rate.due(sequence);
                let due = self.start.checked_add(after).filter(|_| after < self.duration)?;
                Some(Ticket { sequence, due: Some(due) })
            }
        }
    }

    /// Whether no message is to start any more.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.stopped.load(Ordering::Relaxed) || now.saturating_duration_since(self.start) >= self.duration
    }

    /// Ends the run before its time: nothing starts any more, sleepers wake.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
    }

    /// A receiver that turns true when the run is stopped before its time.
    pub(crate) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Of the messages due within this much of the run, how many weren't started; 0 in a closed loop.
    pub(crate) fn not_started(&self, elapsed: Duration, started: u64) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        rate.due_within(elapsed.min(self.duration)).min(self.messages).saturating_sub(started)
    }
}

/// Sleeps until an instant to within tens of microseconds; tokio's own timer has a grain of a millisecond, which would
/// stand in every latency of an open loop.
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the `AsyncFd` owns the descriptor, an `OwnedFd` that names the same open file until it is dropped, and
        // it is never taken out again.
        let timer = unsafe { AsyncFd::register(timer) }?;
        Ok(Self { timer })
    }

    /// Returns at `due`, or at once if that is past.
    pub(crate) async fn sleep_until(&self, due: Instant) -> io::Result<()> {
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let spec = Itimerspec { it_interval: interval, it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
            // Setting the timer again forgets the expiry, so it needn't be read.
            self.timer.readable().await?.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn schedule(options: &[&str]) -> Schedule {
        let cli = Cli::try_parse_from([&["ringpost-load"], options].concat()).expect("parses");
        Schedule::new(&cli.run.load, Instant::now())
    }

    #[test]
    fn closed_loop_ends_with_its_messages() {
        let schedule = schedule(&["--messages", "2"]);
        let late = schedule.start() + Duration::from_secs(100_000);
        assert_eq!(schedule.next(late), Some(Ticket { sequence: 0, due: None }));
        assert_eq!(schedule.next(late).map(|ticket| ticket.sequence), Some(1));
        assert_eq!(schedule.next(late), None);
        assert_eq!(schedule.not_started(Duration::from_secs(1), 1), 0);
    }

    #[test]
    fn closed_loop_ends_with_its_duration() {
        let schedule = schedule(&["--duration", "2s"]);
        let start = schedule.start();
        assert!(schedule.next(start + Duration::from_millis(1999)).is_some());
        assert!(schedule.next(start + Duration::from_secs(2)).is_none());
    }

    #[test]
    fn open_loop_is_due_by_the_clock_and_not_by_the_sessions() {
        let schedule = schedule(&["--rate", "10/s", "--duration", "1s"]);
        let start = schedule.start();
        let dues: Vec<_> = std::iter::from_fn(|| schedule.next(start)).filter_map(|ticket| ticket.due).collect();
        assert_eq!(dues.len(), 10);
        for (number, due) in dues.iter().enumerate() {
            assert_eq!(*due - start, Duration::from_millis(100 * number as u64));
        }
        assert_eq!(schedule.not_started(Duration::from_secs(5), 7), 3);
        assert_eq!(schedule.not_started(Duration::from_millis(500), 5), 0);
    }

    #[test]
    fn stopping_ends_and_wakes() {
        let schedule = schedule(&["--messages", "9"]);
        let signal = schedule.stop_signal();
        schedule.stop();
        assert!(*signal.borrow());
        assert!(schedule.next(schedule.start()).is_none());
    }

    #[test]
    fn pacer_keeps_time_again_and_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let pacer = Pacer::new().expect("timerfd");
            for _ in 0..5 {
                let due = Instant::now() + Duration::from_millis(3);
                pacer.sleep_until(due).await.expect("sleeps");
                assert!(Instant::now() >= due);
            }
            pacer.sleep_until(Instant::now()).await.expect("doesn't sleep");
        });
    }
}
