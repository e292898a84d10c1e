//! What a message costs in the log, in time and memory, with a thousand to a million of them alive: the machine alone, its
//! disk a few buffers in memory that forget. Run by hand: `cargo run --release --example cost -p ringpost-spool`.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it measures time")]

use ringpost_base::{Entropy, MessageIds, ShardId, SpoolId, Timestamp};
use ringpost_spool::{MessageParts, Op, Options, Recovery, Slot, Spool, Token};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Messages in one write.
const BATCH: usize = 32;
/// Messages that are appended and settled in a round, and rounds, of which the fastest counts: others use the machine too.
const MEASURED: usize = 32_000;
const ROUNDS: usize = 12;
/// Microseconds between two messages: 10,000 a second.
const MICROS: u64 = 100;
const ENVELOPE: [u8; 200] = [b'e'; 200];

struct Bench {
    spool: Spool,
    ids: MessageIds,
    clock: u64,
    /// Between two messages.
    micros: u64,
    body: Vec<u8>,
}

impl Bench {
    fn new(size: usize, micros: u64) -> Self {
        let spool = Spool::new(Options::default(), Entropy([3; 16]));
        let ids = MessageIds::new(ShardId(0), Entropy([7; 16]));
        Self { spool, ids, clock: 1_700_000_000_000_000, micros, body: vec![b'x'; size] }
    }

    fn append(&mut self) -> SpoolId {
        self.clock += self.micros;
        let id = self.ids.next(Timestamp::from_unix_micros(self.clock));
        let parts = MessageParts { id, envelope: &ENVELOPE, bytes: &self.body, body_file: None };
        assert!(self.spool.append(Token(0), &parts));
        id
    }

    /// Does what the log asks for, and gives what it wrote.
    fn run(&mut self, mut wrote: impl FnMut(Slot, u64, Vec<u8>)) {
        while let Some(op) = self.spool.poll_op() {
            match op {
                Op::Create(slot) => drop(self.spool.created(slot, Ok(()))),
                Op::Write { slot, offset, bytes } => {
                    wrote(slot, offset, bytes);
                    self.spool.written(Ok(()));
                }
                Op::Copy { .. } => unreachable!("what is alive here is alive in full segments"),
                Op::Remove(_) => {}
            }
        }
    }
}

/// So many alive, then as many come as go, oldest first, batch by batch.
fn steady(live: usize, size: usize, micros: u64) -> (Duration, usize) {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut bench = Bench::new(size, micros);
    let mut queue = VecDeque::with_capacity(live + BATCH);
    let queue_bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    while queue.len() < live {
        (0..BATCH.min(live - queue.len())).for_each(|_| queue.push_back(bench.append()));
        bench.run(|_, _, _| {});
    }
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before - queue_bytes;
    let rounds = (0..ROUNDS).map(|_| round(&mut bench, &mut queue));
    (rounds.min().unwrap_or_default(), bytes / live)
}

fn round(bench: &mut Bench, queue: &mut VecDeque<SpoolId>) -> Duration {
    let since = Instant::now();
    for _ in 0..MEASURED / BATCH {
        for _ in 0..BATCH {
            queue.push_back(bench.append());
            if let Some(id) = queue.pop_front() {
                bench.spool.settle(id);
            }
        }
        bench.run(|_, _, _| {});
    }
    since.elapsed()
}

/// Reading a log back, its segments made again from what was written, one at a time.
fn recovery(live: usize, size: usize) -> (Duration, usize) {
    let mut bench = Bench::new(size, MICROS);
    let mut files: BTreeMap<Slot, Vec<u8>> = BTreeMap::new();
    for _ in 0..live / BATCH {
        for _ in 0..BATCH {
            bench.append();
        }
        bench.run(|slot, offset, bytes| {
            let file = files.entry(slot).or_default();
            file.resize(offset as usize, 0);
            file.extend_from_slice(&bytes);
        });
    }
    drop(bench);
    let since = Instant::now();
    let mut recovery = Recovery::new();
    for (slot, file) in &files {
        recovery.header(*slot, file).unwrap_or_else(|error| panic!("{error}"));
    }
    for (slot, header) in recovery.order() {
        recovery.segment(slot, &header, &files[&slot], &mut |_, envelope| envelope.len() as u32);
    }
    let (spool, recovered) = recovery.finish(Options::default(), Entropy([9; 16]));
    let elapsed = since.elapsed();
    assert_eq!(spool.stats().live, recovered.len());
    (elapsed, recovered.len())
}

fn main() {
    println!("append and settle, {BATCH} messages in a write, the fastest of {ROUNDS} rounds of {MEASURED}");
    println!("{:>10} {:>8} {:>12} {:>16}", "live", "bytes", "ns/message", "heap/message");
    for size in [1024, 4096, 27 * 1024] {
        for live in [1_000, 10_000, 100_000, 1_000_000] {
            let (elapsed, bytes) = steady(live, size, MICROS);
            println!("{live:>10} {size:>8} {:>12} {bytes:>16}", elapsed.as_nanos() / MEASURED as u128);
        }
    }
    let (elapsed, bytes) = steady(1_000_000, 1024, 432_000);
    println!("a million, come in over five days: {} ns, {bytes} bytes", elapsed.as_nanos() / MEASURED as u128);
    let (elapsed, found) = recovery(1_000_000, 1024);
    println!("recovery of {found} messages of 1 KiB, without reading: {} ms", elapsed.as_millis());
}
