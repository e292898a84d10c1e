//! The block of numbers that one shard writes and a scrape reads.

use crate::catalogue::{BUCKETS, Counter, Gauge, Timing};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of one histogram, the one above the last bound included.
const CELLS: usize = BUCKETS.len() + 1;

const BOUNDS_NANOS: [u64; BUCKETS.len()] = {
    let mut nanos = [0; BUCKETS.len()];
    let mut at = 0;
    while at < BUCKETS.len() {
        // Rounded: the product of some bounds is a hair below the whole number.
        nanos[at] = (BUCKETS[at] * 1e9 + 0.5) as u64;
        at += 1;
    }
    nanos
};

/// One bucket of a histogram as read: how many values fell into it, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BucketReading {
    /// Values in the bucket.
    pub count: u64,
    /// Their sum in nanoseconds, so that a publisher can keep sums exact.
    pub sum_nanos: u64,
}

#[derive(Default)]
struct Cell {
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

/// All metrics of one shard. One thread writes; any thread reads.
#[repr(align(128))]
pub struct Block {
    counters: [AtomicU64; Counter::ALL.len()],
    gauges: [AtomicU64; Gauge::ALL.len()],
    timings: [[Cell; CELLS]; Timing::ALL.len()],
}

impl Default for Block {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicU64::new(0)),
            timings: std::array::from_fn(|_| std::array::from_fn(|_| Cell::default())),
        }
    }
}

/// Adds without a locked instruction: right because a block has a single writer.
fn bump(slot: &AtomicU64, n: u64) {
    slot.store(slot.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Block {
    /// A block of zeros.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `n` more.
    pub fn add(&self, row: Counter, n: u64) {
        bump(&self.counters[row as usize], n);
    }

    /// The counter's value.
    pub fn counter(&self, row: Counter) -> u64 {
        self.counters[row as usize].load(Relaxed)
    }

    /// Raises a gauge.
    pub fn raise(&self, row: Gauge, n: u64) {
        bump(&self.gauges[row as usize], n);
    }

    /// Lowers a gauge.
    pub fn lower(&self, row: Gauge, n: u64) {
        bump(&self.gauges[row as usize], n.wrapping_neg());
    }

    /// Sets a gauge.
    pub fn set(&self, row: Gauge, n: u64) {
        self.gauges[row as usize].store(n, Relaxed);
    }

    /// The gauge's value.
    pub fn gauge(&self, row: Gauge) -> u64 {
        self.gauges[row as usize].load(Relaxed)
    }

    /// Counts a duration into its bucket. A value equal to a bound belongs to that bound's bucket, as in Prometheus.
    pub fn observe(&self, row: Timing, value: Duration) {
        self.observe_many(row, value, 1);
    }

    /// Counts the same duration `count` times.
    pub fn observe_many(&self, row: Timing, value: Duration, count: u64) {
        if count == 0 {
            return;
        }
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        let cell = &self.timings[row as usize][bucket];
        bump(&cell.count, count);
        bump(&cell.sum_nanos, nanos.wrapping_mul(count));
    }

    /// The buckets of a histogram, lowest first, not cumulated.
    pub fn timing(&self, row: Timing) -> [BucketReading; CELLS] {
        let cells = &self.timings[row as usize];
        std::array::from_fn(|at| BucketReading {
            count: cells[at].count.load(Relaxed),
            sum_nanos: cells[at].sum_nanos.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let block = Block::new();
        for micros in [1, 10, 11, 400_000_000] {
            block.observe(Timing::Delivery, Duration::from_micros(micros));
        }
        let read = block.timing(Timing::Delivery);
        assert_eq!((read[0].count, read[1].count, read[CELLS - 1].count), (2, 1, 1));
        assert_eq!(read[0].sum_nanos, 11_000);
    }

    #[test]
    fn a_value_equal_to_any_bound_belongs_to_its_bucket() {
        for (at, bound) in BUCKETS.iter().enumerate() {
            let block = Block::new();
            block.observe(Timing::Delivery, Duration::from_secs_f64(*bound));
            assert_eq!(block.timing(Timing::Delivery)[at].count, 1, "{bound}");
        }
    }

    #[test]
    fn a_gauge_comes_back_to_zero() {
        let block = Block::new();
        block.raise(Gauge::SessionsOpen, 3);
        block.lower(Gauge::SessionsOpen, 3);
        assert_eq!(block.gauge(Gauge::SessionsOpen), 0);
    }
}
