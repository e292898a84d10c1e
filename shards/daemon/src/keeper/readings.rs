//! What shards did, from their blocks: as it is judged, and as it is shown.

use ringpost_admin::api::CanaryNumbers;
use ringpost_metrics::{BUCKETS, Block, Counter, Timing};
use ringpost_policy::Conduct;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often what all did is noted, for the case that there is nobody else to compare with.
const NOTE: Duration = Duration::from_secs(10);

/// Notes that are kept: ten minutes.
const NOTES_MAX: usize = 61;

const COUNTERS: [Counter; 15] = [
    Counter::SessionsOpened,
    Counter::MessagesAccepted,
    Counter::MessagesRejected,
    Counter::MessagesDeferred,
    Counter::RepliesPositive,
    Counter::RepliesTransient,
    Counter::RepliesPermanent,
    Counter::TlsFailed,
    Counter::SpoolErrors,
    Counter::DeliveriesDelivered,
    Counter::DeliveriesDeferred,
    Counter::DeliveriesFailed,
    Counter::SessionsPanicked,
    Counter::FiltersPanicked,
    Counter::DeliveriesPanicked,
];

/// What a client waits for on its way to having sent a message. Not for the message itself, which is the client's to send.
const WAITS: [Timing; 5] =
    [Timing::StageAccept, Timing::StageMail, Timing::StageRcpt, Timing::StageData, Timing::StageSpoolWait];

/// Values of a histogram, by bucket.
type Buckets = [u64; BUCKETS.len() + 1];

/// Counts of some shards at a moment, or of a time as the difference of two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    counts: [u64; COUNTERS.len()],
    waits: [Buckets; WAITS.len()],
}

impl Reading {
    /// Of all these shards together.
    pub(super) fn of<'a>(blocks: impl IntoIterator<Item = &'a Arc<Block>>) -> Self {
        let mut reading = Self::default();
        for block in blocks {
            for (count, row) in reading.counts.iter_mut().zip(COUNTERS) {
                *count += block.counter(row);
            }
            for (buckets, row) in reading.waits.iter_mut().zip(WAITS) {
                buckets.iter_mut().zip(block.timing(row)).for_each(|(bucket, read)| *bucket += read.count);
            }
        }
        reading
    }

    /// What came after an earlier reading of the same shards.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut between = self.clone();
        let counts = between.counts.iter_mut().zip(&earlier.counts);
        let waits = between.waits.iter_mut().flatten().zip(earlier.waits.iter().flatten());
        counts.chain(waits).for_each(|(now, then)| *now = now.saturating_sub(*then));
        between
    }

    fn count(&self, row: Counter) -> u64 {
        COUNTERS.iter().position(|counter| *counter == row).map_or(0, |at| self.counts[at])
    }

    fn sum(&self, rows: &[Counter]) -> u64 {
        rows.iter().map(|row| self.count(*row)).sum()
    }

    fn replies(&self) -> u64 {
        self.sum(&[Counter::RepliesPositive, Counter::RepliesTransient, Counter::RepliesPermanent])
    }

    fn panics(&self) -> u64 {
        self.sum(&[Counter::SessionsPanicked, Counter::FiltersPanicked, Counter::DeliveriesPanicked])
    }

    /// What failed or was put off besides what is replied.
    fn failures(&self) -> u64 {
        let failed = [Counter::TlsFailed, Counter::SpoolErrors, Counter::DeliveriesDeferred, Counter::DeliveriesFailed];
        self.sum(&failed) + self.panics()
    }

    /// What 95 of 100 waited at most, at each step; added up.
    fn latency(&self) -> Option<Duration> {
        let waits: Vec<f64> = self.waits.iter().filter_map(|buckets| quantile(buckets, 0.95)).collect();
        (!waits.is_empty()).then(|| Duration::from_secs_f64(waits.iter().sum()))
    }

    /// As it is judged.
    pub(super) fn conduct(&self) -> Conduct {
        let begun: u64 =
            WAITS.iter().position(|row| *row == Timing::StageMail).map_or(0, |at| self.waits[at].iter().sum());
        let replies = self.replies();
        let deliveries = [Counter::DeliveriesDelivered, Counter::DeliveriesDeferred, Counter::DeliveriesFailed];
        Conduct {
            tries: self.count(Counter::SessionsOpened).max(begun),
            replies,
            rejected: self.count(Counter::RepliesPermanent),
            done: replies + self.sum(&deliveries) + self.sum(&[Counter::TlsFailed, Counter::SpoolErrors]),
            failed: self.count(Counter::RepliesTransient) + self.failures(),
            panics: self.panics(),
            latency: self.latency(),
        }
    }

    /// As it is shown.
    pub(super) fn numbers(&self) -> CanaryNumbers {
        let answered = [Counter::MessagesAccepted, Counter::MessagesRejected, Counter::MessagesDeferred];
        CanaryNumbers {
            messages: self.sum(&answered),
            replies: self.replies(),
            rejected: self.count(Counter::RepliesPermanent),
            deferred: self.count(Counter::RepliesTransient),
            errors: self.failures(),
            latency_p95_ms: self.latency().map(|latency| latency.as_secs_f64() * 1e3),
        }
    }
}

/// The value in seconds that this share of all does not exceed, taken to be spread evenly within its bucket; nothing if there
/// are none.
fn quantile(buckets: &Buckets, share: f64) -> Option<f64> {
    let wanted = buckets.iter().sum::<u64>() as f64 * share;
    let (mut counted, mut from) = (0.0, 0.0);
    for (count, bound) in buckets.iter().zip(BUCKETS.iter().chain(BUCKETS.last())) {
        let inside = *count as f64;
        if inside > 0.0 && counted + inside >= wanted {
            return Some(from + (bound - from) * (wanted - counted) / inside);
        }
        counted += inside;
        from = *bound;
    }
    None
}

/// What all shards did in the last ten minutes.
#[derive(Default)]
pub(super) struct Before {
    notes: VecDeque<Reading>,
    noted: Option<Instant>,
}

impl Before {
    /// Takes a note if it is time.
    pub(super) fn note(&mut self, blocks: &[Arc<Block>]) {
        if self.noted.is_some_and(|noted| noted.elapsed() < NOTE) {
            return;
        }
        self.noted = Some(Instant::now());
        if self.notes.len() >= NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(Reading::of(blocks));
    }

    /// What they did since the oldest note.
    pub(super) fn conduct(&self, blocks: &[Arc<Block>]) -> Conduct {
        self.notes.front().map_or_else(Conduct::default, |oldest| Reading::of(blocks).since(oldest).conduct())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_came_after_a_reading_is_judged() {
        let blocks = [Arc::new(Block::new()), Arc::new(Block::new())];
        blocks.iter().for_each(|block| {
            block.add(Counter::RepliesPermanent, 1_000);
            block.add(Counter::SessionsPanicked, 5);
            block.observe(Timing::StageRcpt, Duration::from_secs(200));
        });
        let before = Reading::of(&blocks);
        assert_eq!(Reading::of(&blocks).since(&before), Reading::default());
        for block in &blocks {
            block.add(Counter::SessionsOpened, 10);
            block.observe_many(Timing::StageMail, millis(1), 30);
            block.add(Counter::RepliesPositive, 100);
            block.add(Counter::RepliesTransient, 7);
            block.add(Counter::RepliesPermanent, 3);
            block.add(Counter::DeliveriesDelivered, 20);
            block.add(Counter::DeliveriesDeferred, 2);
            block.add(Counter::MessagesAccepted, 4);
        }
        let between = Reading::of(&blocks).since(&before);
        let conduct = between.conduct();
        assert_eq!((conduct.tries, conduct.replies, conduct.rejected), (60, 220, 6));
        assert_eq!((conduct.done, conduct.failed, conduct.panics), (264, 18, 0));
        let numbers = between.numbers();
        assert_eq!(
            (numbers.messages, numbers.replies, numbers.rejected, numbers.deferred, numbers.errors),
            (8, 220, 6, 14, 4)
        );
    }

    #[test]
    fn waits_of_a_client_are_added_up() {
        let blocks = [Arc::new(Block::new())];
        assert_eq!(Reading::of(&blocks).conduct().latency, None);
        blocks[0].observe_many(Timing::StageRcpt, millis(80), 100);
        blocks[0].observe_many(Timing::StageSpoolWait, millis(400), 100);
        // 95 hundredths of the way from 50 to 100 ms, and from 250 to 500 ms.
        let latency = Reading::of(&blocks).conduct().latency.expect("some waited");
        assert_eq!(latency.as_micros(), 97_500 + 487_500);
        blocks[0].observe_many(Timing::StageRcpt, millis(900_000), 100);
        let latency = Reading::of(&blocks).conduct().latency.expect("some waited");
        assert_eq!(latency.as_secs(), 300, "what is above all bounds counts as the last of them");
    }

    #[test]
    fn notes_are_bounded() {
        let blocks = [Arc::new(Block::new())];
        let mut before = Before::default();
        assert_eq!(before.conduct(&blocks), Conduct::default());
        before.note(&blocks);
        blocks[0].add(Counter::SessionsOpened, 3);
        before.note(&blocks);
        assert_eq!((before.notes.len(), before.conduct(&blocks).tries), (1, 3));
        for _ in 0..100 {
            before.noted = None;
            before.note(&blocks);
        }
        assert_eq!((before.notes.len(), before.conduct(&blocks).tries), (NOTES_MAX, 0));
    }
}
