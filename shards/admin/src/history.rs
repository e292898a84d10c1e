//! What the shards did of late: readings of their blocks, taken every now and then, and compared with the present.
//!
//! Invariants: at most [`READINGS_MAX`] readings are kept; a block is read and never written.

use crate::api::Rates;
use crate::server::Vital;
use ringpost_metrics::{BUCKETS, Block, BucketReading, Counter, Timing};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two readings.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Readings that are kept: ten seconds, and the one that they began with.
const READINGS_MAX: usize = 11;

/// What a rate needs at least to be one.
const SPAN_MIN: Duration = Duration::from_millis(100);

/// The counters that rates are made of, in the order of [`Rates`].
const RATED: [Counter; 5] = [
    Counter::SessionsOpened,
    Counter::MessagesAccepted,
    Counter::MessagesRejected,
    Counter::MessagesDeferred,
    Counter::DeliveriesDelivered,
];

type Buckets = [BucketReading; BUCKETS.len() + 1];

/// A shard at a moment.
#[derive(Clone)]
struct Reading {
    counts: [u64; RATED.len()],
    commit: Buckets,
    lag: Buckets,
    cpu: Option<Duration>,
}

/// All shards at a moment.
struct Moment {
    at: Instant,
    shards: Vec<Reading>,
}

/// The readings, the oldest first.
#[derive(Default)]
pub(crate) struct History {
    moments: VecDeque<Moment>,
}

/// What a shard did of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lately {
    pub(crate) rates: Rates,
    pub(crate) busy: Option<f64>,
    pub(crate) commit_p50: Option<f64>,
    pub(crate) commit_p99: Option<f64>,
    pub(crate) lag_p99: Option<f64>,
}

impl Moment {
    fn read(blocks: &[Arc<Block>], vitals: &[Vital]) -> Self {
        let read =
            |(shard, block): (usize, &Arc<Block>)| Reading::of(block, vitals.get(shard).and_then(|vital| vital.cpu));
        Self { at: Instant::now(), shards: blocks.iter().enumerate().map(read).collect() }
    }
}

impl Reading {
    fn of(block: &Block, cpu: Option<Duration>) -> Self {
        Self {
            counts: RATED.map(|row| block.counter(row)),
            commit: block.timing(Timing::SpoolCommit),
            lag: block.timing(Timing::Stall),
            cpu,
        }
    }
}

impl History {
    /// Takes a reading.
    pub(crate) fn take(&mut self, blocks: &[Arc<Block>], vitals: &[Vital]) {
        if self.moments.len() >= READINGS_MAX {
            self.moments.pop_front();
        }
        self.moments.push_back(Moment::read(blocks, vitals));
    }

    /// What each shard did since the oldest reading.
    pub(crate) fn lately(&self, blocks: &[Arc<Block>], vitals: &[Vital]) -> Vec<Lately> {
        let now = Moment::read(blocks, vitals);
        let Some(then) = self.moments.front().filter(|then| now.at - then.at >= SPAN_MIN) else {
            return vec![Lately::default(); blocks.len()];
        };
        let span = (now.at - then.at).as_secs_f64();
        now.shards.iter().zip(&then.shards).map(|(now, then)| between(then, now, span)).collect()
    }
}

/// The rates of all shards together.
pub(crate) fn sum(shards: &[Lately]) -> Rates {
    shards.iter().fold(Rates::default(), |sum, shard| Rates {
        sessions: sum.sessions + shard.rates.sessions,
        accepted: sum.accepted + shard.rates.accepted,
        rejected: sum.rejected + shard.rates.rejected,
        deferred: sum.deferred + shard.rates.deferred,
        delivered: sum.delivered + shard.rates.delivered,
    })
}

fn between(then: &Reading, now: &Reading, span: f64) -> Lately {
    let mut rates = [0.0; RATED.len()];
    for ((rate, now), then) in rates.iter_mut().zip(now.counts).zip(then.counts) {
        *rate = now.saturating_sub(then) as f64 / span;
    }
    let [sessions, accepted, rejected, deferred, delivered] = rates;
    let cpu = now.cpu.zip(then.cpu).map(|(now, then)| now.saturating_sub(then).as_secs_f64());
    Lately {
        rates: Rates { sessions, accepted, rejected, deferred, delivered },
        busy: cpu.map(|cpu| (cpu / span).clamp(0.0, 1.0)),
        commit_p50: quantile(&then.commit, &now.commit, 0.5),
        commit_p99: quantile(&then.commit, &now.commit, 0.99),
        lag_p99: quantile(&then.lag, &now.lag, 0.99),
    }
}

/// What this share of the values does not exceed: the bound of a bucket; where the last bucket has no bound, the mean of
/// what is in it. Nothing if there are no values.
fn quantile(then: &Buckets, now: &Buckets, share: f64) -> Option<f64> {
    let new = |at: usize| now[at].count.saturating_sub(then[at].count);
    let all: u64 = (0..now.len()).map(new).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut counted = 0;
    for at in 0..now.len() {
        counted += new(at);
        if counted >= wanted && wanted > 0 {
            let nanos = now[at].sum_nanos.saturating_sub(then[at].sum_nanos);
            let mean = nanos as f64 / new(at).max(1) as f64 / 1e9;
            return Some(BUCKETS.get(at).copied().unwrap_or(mean));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(block: &Block, cpu_ms: u64) -> Reading {
        Reading::of(block, Some(Duration::from_millis(cpu_ms)))
    }

    #[test]
    fn rates_and_quantiles_are_of_what_came_between_two_readings() {
        let block = Block::new();
        block.add(Counter::MessagesAccepted, 1_000);
        block.observe(Timing::SpoolCommit, Duration::from_secs(20));
        let then = reading(&block, 500);
        block.add(Counter::MessagesAccepted, 50);
        block.add(Counter::MessagesDeferred, 5);
        (0..98).for_each(|_| block.observe(Timing::SpoolCommit, Duration::from_micros(900)));
        (0..2).for_each(|_| block.observe(Timing::SpoolCommit, Duration::from_millis(40)));
        let lately = between(&then, &reading(&block, 3_000), 10.0);
        assert_eq!((lately.rates.accepted, lately.rates.deferred, lately.rates.rejected), (5.0, 0.5, 0.0));
        assert_eq!(lately.busy, Some(0.25));
        assert_eq!((lately.commit_p50, lately.commit_p99, lately.lag_p99), (Some(0.001), Some(0.05), None));
    }

    #[test]
    fn what_is_above_all_bounds_is_told_by_its_mean() {
        let block = Block::new();
        let then = reading(&block, 0);
        block.observe(Timing::Stall, Duration::from_secs(400));
        block.observe(Timing::Stall, Duration::from_secs(600));
        let lately = between(&then, &reading(&block, 0), 10.0);
        assert_eq!(lately.lag_p99, Some(500.0));
    }

    #[test]
    fn readings_are_bounded_and_begin_with_none() {
        let blocks = [Arc::new(Block::new())];
        let mut history = History::default();
        assert_eq!(history.lately(&blocks, &[]), [Lately::default()]);
        (0..100).for_each(|_| history.take(&blocks, &[]));
        assert_eq!(history.moments.len(), READINGS_MAX);
    }
}
