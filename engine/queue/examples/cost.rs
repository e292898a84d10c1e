//! Prints what a queued message costs: bytes, and nanoseconds to add, try and settle one, with ever more in the queue.
#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use ringpost_base::{Entropy, MessageIds, Now, Priority, ShardId, Tick, Timestamp};
use ringpost_queue::{
    Action, Asked, DomainHash, Filter, How, NewItem, NewLeg, Options, Outcome, Queue, Reason, State, Status,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Counts the bytes that are asked for.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps to what `alloc` asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps to what `dealloc` asks, and all memory comes from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A clock, which the queue itself has none of.
#[expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "measuring is what this program is for")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = std::time::Instant::now();
    let value = work();
    (value, start.elapsed())
}

/// Steps in a measurement.
const STEPS: u32 = 200_000;

/// Measurements, of which the fastest counts: the others were disturbed.
const ROUNDS: usize = 7;

struct Bench {
    queue: Queue,
    ids: MessageIds,
    now: Now,
    remote: Rc<str>,
    local: Rc<str>,
    reason: Reason,
}

impl Bench {
    fn new() -> Self {
        let options = Options { attempts_max: usize::MAX, ..Options::default() };
        let status = Status(4, 4, 1);
        Self {
            queue: Queue::new(options, Entropy([7; 16])),
            ids: MessageIds::new(ShardId(0), Entropy([9; 16])),
            now: Now { wall: Timestamp::from_unix_micros(1_800_000_000_000_000), tick: Tick::from_nanos(1 << 40) },
            remote: "next-hop".into(),
            local: "local".into(),
            reason: Reason { code: 0, status, text: "connection refused".into(), remote: Some("mx.example".into()) },
        }
    }

    fn pass(&mut self, nanos: u64) {
        let span = Duration::from_nanos(nanos);
        self.now = Now { wall: self.now.wall.after(span), tick: self.now.tick.deadline(span).0 };
    }

    fn push(&mut self, local: bool) {
        self.pass(1000);
        let destination = if local { self.local.clone() } else { self.remote.clone() };
        let domain = DomainHash::of("example.org");
        let item = NewItem {
            id: self.ids.next(self.now.wall),
            priority: Priority::Normal,
            size: 4096,
            null_sender: false,
            sender_domain: DomainHash::of("example.com"),
            legs: vec![NewLeg { destination, local, recipients: vec![0], domain }],
            recovered: false,
            state: Box::default(),
            legacy_done: Vec::new(),
            recipients: 1,
            unreadable: false,
        };
        self.queue.push(item, self.now);
    }

    /// Adds a message, tries the next one and settles it.
    fn step(&mut self) {
        self.push(true);
        let Some(Action::Attempt(attempt)) = self.queue.next(self.now) else { panic!("an attempt is due") };
        let delivered = [(attempt.recipients[0], Outcome::Delivered(How::Final))];
        assert!(self.queue.outcome(attempt.leg, &delivered, Asked::Worked, self.now).settled);
    }

    /// The fastest of several rounds, in nanoseconds a step.
    fn steps(&mut self) -> f64 {
        let round = |_| timed(|| (0..STEPS).for_each(|_| self.step())).1;
        let fastest = (0..ROUNDS).map(round).min().unwrap_or_default();
        fastest.as_nanos() as f64 / f64::from(STEPS)
    }
}

/// Makes a queue of so many messages, and says what each takes: bytes there, and nanoseconds for one more.
type Scene = fn(usize) -> (f64, f64);

/// So many messages are ready, and those that come go behind them.
fn backlog(messages: usize) -> (f64, f64) {
    let mut bench = Bench::new();
    let before = BYTES.load(Relaxed);
    (0..messages).for_each(|_| bench.push(true));
    let bytes = (BYTES.load(Relaxed) - before) as f64 / messages as f64;
    (bytes, bench.steps())
}

/// So many messages were tried and wait for a later attempt, and others go through.
fn deferred(messages: usize) -> (f64, f64) {
    let mut bench = Bench::new();
    let before = BYTES.load(Relaxed);
    for _ in 0..messages {
        bench.push(true);
        let Some(Action::Attempt(attempt)) = bench.queue.next(bench.now) else { panic!("an attempt is due") };
        let put_off = [(0, Outcome::Deferred(bench.reason.clone()))];
        assert!(bench.queue.outcome(attempt.leg, &put_off, Asked::Worked, bench.now).wait.is_some());
    }
    let bytes = (BYTES.load(Relaxed) - before) as f64 / messages as f64;
    (bytes, bench.steps())
}

/// So many messages wait for a destination that nobody may use, and others go through.
fn blocked(messages: usize) -> (f64, f64) {
    let mut bench = Bench::new();
    let before = BYTES.load(Relaxed);
    (0..messages).for_each(|_| bench.push(false));
    assert!(matches!(bench.queue.next(bench.now), Some(Action::Lease { .. })));
    let bytes = (BYTES.load(Relaxed) - before) as f64 / messages as f64;
    (bytes, bench.steps())
}

fn listing(messages: usize) {
    let mut bench = Bench::new();
    (0..messages).for_each(|_| bench.push(false));
    let all = Filter::default();
    let (page, span) = timed(|| bench.queue.page(&all, None, 50, 10_000, bench.now));
    println!("first page of {messages}: {} entries in {span:?}", page.entries.len());
    let none = Filter { states: vec![State::Dead], ..Filter::default() };
    let (page, span) = timed(|| bench.queue.page(&none, None, 50, 10_000, bench.now));
    println!("filtered page of {messages}: {} scanned in {span:?}", page.scanned);
    let (totals, span) = timed(|| bench.queue.totals());
    println!("totals of {}: {span:?}", totals.messages());
}

fn main() {
    println!("{:>10} {:>10} {:>12} {:>10}", "queued", "what", "bytes each", "ns a step");
    let scenes: [(&str, Scene); 3] = [("backlog", backlog), ("deferred", deferred), ("blocked", blocked)];
    for (name, scene) in scenes {
        for messages in [1_000, 10_000, 100_000, 1_000_000] {
            let (bytes, nanos) = scene(messages);
            println!("{messages:>10} {name:>10} {bytes:>12.1} {nanos:>10.1}");
        }
    }
    listing(1_000_000);
}
