//! How many messages are arriving right now: those whose bytes came within the last [`SPAN`].
//!
//! A commit waits for messages that are about to end, so that they share its sync. That a message has begun says little:
//! ten thousand slow clients may each be in the middle of one, and none of them ends within any time worth waiting for. What
//! says something is that bytes have just come. So a message is counted in a bucket of the moment it last grew, and
//! the buckets of moments long past are emptied: a few additions for each piece that arrives, and no list of messages.

use ringpost_base::Tick;
use std::cell::Cell;
use std::time::Duration;

/// Width of a bucket.
const WIDTH: Duration = Duration::from_millis(2);

/// Buckets. The oldest is partly over, so what is counted has moved within the last 8 to 10 ms.
const BUCKETS: usize = 5;

/// For how long, at most, a message counts as arriving after it has grown.
#[cfg(test)]
const SPAN: Duration = Duration::from_millis(WIDTH.as_millis() as u64 * BUCKETS as u64);

/// The messages of a shard that have moved lately.
#[derive(Default)]
pub(crate) struct Recent {
    /// Messages by when they moved last: the period's number, modulo the number of buckets, is the bucket's.
    buckets: [Cell<u32>; BUCKETS],
    /// The number of the last period that was looked at; later buckets are not yet in use.
    newest: Cell<u64>,
}

/// When a message moved last, and so in which bucket it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp(Option<u64>);

impl Recent {
    /// The message has grown, or begun.
    pub(crate) fn moved(&self, stamp: &mut Stamp, now: Tick) {
        let period = self.advance(now);
        if stamp.0 != Some(period) {
            self.leave(stamp);
            let bucket = self.bucket(period);
            bucket.set(bucket.get() + 1);
            stamp.0 = Some(period);
        }
    }

    /// The message is whole, or gone.
    pub(crate) fn ended(&self, stamp: &mut Stamp, now: Tick) {
        self.advance(now);
        self.leave(stamp);
    }

    /// Messages that have moved lately.
    pub(crate) fn count(&self, now: Tick) -> usize {
        self.advance(now);
        self.buckets.iter().map(|bucket| bucket.get() as usize).sum()
    }

    fn bucket(&self, period: u64) -> &Cell<u32> {
        &self.buckets[(period % BUCKETS as u64) as usize]
    }

    /// Takes a message out of its bucket, unless that has been emptied.
    fn leave(&self, stamp: &mut Stamp) {
        if let Some(period) = stamp.0.take()
            && period + (BUCKETS as u64) > self.newest.get()
        {
            let bucket = self.bucket(period);
            bucket.set(bucket.get() - 1);
        }
    }

    /// Empties what is over; gives the number of the present period. A clock that stands still or behind is no harm.
    fn advance(&self, now: Tick) -> u64 {
        let before = self.newest.get();
        let period = (now.nanos() / WIDTH.as_nanos() as u64).max(before);
        for passed in (before + 1..=period).take(BUCKETS) {
            self.bucket(passed).set(0);
        }
        self.newest.set(period);
        period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn only_what_has_moved_lately_counts() {
        let recent = Recent::default();
        let (mut stalled, mut moving, mut over) = (Stamp::default(), Stamp::default(), Stamp::default());
        for stamp in [&mut stalled, &mut moving, &mut over] {
            recent.moved(stamp, at(0));
        }
        assert_eq!(recent.count(at(1)), 3);
        recent.ended(&mut over, at(2));
        recent.moved(&mut moving, at(7));
        assert_eq!(recent.count(at(7)), 2);
        assert_eq!(recent.count(at(SPAN.as_millis() as u64)), 1, "the stalled one has dropped out");
        recent.moved(&mut stalled, at(11));
        assert_eq!(recent.count(at(11)), 2, "and is in again once it moves");
        assert_eq!(recent.count(at(10_000)), 0);
        recent.ended(&mut stalled, at(10_000));
        recent.ended(&mut moving, at(10_000));
        assert_eq!(recent.count(at(10_000)), 0);
    }

    /// Against a list of the moments, over many moves at odd times.
    #[test]
    fn the_count_is_never_off_by_more_than_a_bucket() {
        let recent = Recent::default();
        let mut stamps = [Stamp::default(); 40];
        let mut moved: [Option<u64>; 40] = [None; 40];
        let (mut random, mut now) = (12_345_u64, 0);
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (which, step) = ((random >> 33) as usize % 40, (random >> 50) % 4);
            now += step * step * step / 3;
            if random >> 62 == 0 {
                recent.ended(&mut stamps[which], at(now));
                moved[which] = None;
            } else {
                recent.moved(&mut stamps[which], at(now));
                moved[which] = Some(now);
            }
            let within = |span: u64| moved.iter().flatten().filter(|then| **then + span > now).count();
            let count = recent.count(at(now));
            assert!(within(8) <= count && count <= within(10), "{count} at {now}");
        }
    }
}
