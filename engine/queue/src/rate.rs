//! Messages a minute as one number: when the bucket will be full again (the generic cell rate algorithm).
//!
//! A bucket holds a minute's worth, since that is how people state rates, and it needs neither a count nor a refill. What
//! was taken out and not used goes back in.

use ringpost_base::Tick;
use std::time::Duration;

/// Nanoseconds of a minute: what an empty bucket is away from full.
const MINUTE: u64 = 60_000_000_000;

/// So many a minute, and how much of it is used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Tick,
}

impl Bucket {
    /// How many are left.
    pub(crate) fn left(self, per_minute: u32, now: Tick) -> u32 {
        let used = self.full_at.nanos().saturating_sub(now.nanos());
        let left = MINUTE.saturating_sub(used) / cost(per_minute);
        u32::try_from(left).unwrap_or(u32::MAX).min(per_minute)
    }

    /// Takes so many out.
    pub(crate) fn take(&mut self, messages: u32, per_minute: u32, now: Tick) {
        let full_at =
            self.full_at.max(now).nanos().saturating_add(u64::from(messages).saturating_mul(cost(per_minute)));
        self.full_at = Tick::from_nanos(full_at.min(now.nanos().saturating_add(MINUTE)));
    }

    /// Puts so many back that were taken this long ago and not used. What would have been refilled meanwhile is not put back:
    /// it may be others' by now.
    pub(crate) fn give_back(&mut self, messages: u32, per_minute: u32, ago: Duration) {
        let ago = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
        let credit = u64::from(messages).saturating_mul(cost(per_minute)).saturating_sub(ago);
        self.full_at = Tick::from_nanos(self.full_at.nanos().saturating_sub(credit));
    }

    /// How long until one is left.
    pub(crate) fn wait(self, per_minute: u32, now: Tick) -> Duration {
        let used = self.full_at.nanos().saturating_sub(now.nanos());
        Duration::from_nanos(used.saturating_add(cost(per_minute)).saturating_sub(MINUTE))
    }
}

/// What one takes of a minute. Rounded up, so that a minute never has one too many; of a rate of nothing, more than there is.
fn cost(per_minute: u32) -> u64 {
    if per_minute == 0 { 2 * MINUTE } else { MINUTE.div_ceil(u64::from(per_minute)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    #[test]
    fn a_minutes_worth_at_once_and_then_evenly() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.left(60, at(5 * SECOND)), 60);
        bucket.take(60, 60, at(5 * SECOND));
        assert_eq!((bucket.left(60, at(5 * SECOND)), bucket.wait(60, at(5 * SECOND))), (0, Duration::from_secs(1)));
        assert_eq!(bucket.left(60, at(8 * SECOND)), 3);
        bucket.give_back(13, 60, Duration::from_secs(3));
        assert_eq!(bucket.left(60, at(8 * SECOND)), 13);
        bucket.give_back(1000, 60, Duration::ZERO);
        assert_eq!(bucket.left(60, at(8 * SECOND)), 60, "a bucket never holds more than a minute's worth");
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_through() {
        let bucket = Bucket::default();
        assert_eq!((bucket.left(0, at(SECOND)), bucket.wait(0, at(SECOND))), (0, Duration::from_secs(60)));
    }

    #[test]
    fn fractions_of_a_nanosecond_give_no_extra_message() {
        for per_minute in [1, 7, 999, 60_000, 7_777_777] {
            let mut bucket = Bucket::default();
            let left = bucket.left(per_minute, at(SECOND));
            bucket.take(left, per_minute, at(SECOND));
            assert!(left <= per_minute && left + left / 1000 + 1 >= per_minute, "{left} of {per_minute}");
            let wait = bucket.wait(per_minute, at(SECOND));
            assert!(bucket.left(per_minute, at(SECOND + wait.as_nanos() as u64)) >= 1, "{per_minute}");
        }
    }

    proptest! {
        /// Whenever requests come, and whenever what they did not use comes back, no stretch of time sees more than a full
        /// bucket and what is refilled meanwhile.
        #[test]
        fn never_more_than_a_bucket_and_its_refill(
            per_minute in 1_u32..500,
            steps in prop::collection::vec((0_u64..3 * SECOND, 0_u32..20, 0_u32..20, any::<bool>()), 1..300),
        ) {
            let (mut now, mut bucket, mut used) = (SECOND, Bucket::default(), Vec::new());
            let mut owed: Vec<(u64, u32)> = Vec::new();
            for (step, wanted, unused, returns) in steps {
                now += step;
                if returns && let Some((since, unused)) = owed.pop() {
                    bucket.give_back(unused, per_minute, Duration::from_nanos(now - since));
                }
                let taken = bucket.left(per_minute, at(now)).min(wanted);
                let unused = unused.min(taken);
                bucket.take(taken, per_minute, at(now));
                owed.push((now, unused));
                used.push((now, u64::from(taken - unused)));
            }
            for (first, (from, _)) in used.iter().enumerate() {
                let mut sum = 0;
                for (until, count) in &used[first..] {
                    sum += count;
                    prop_assert!(sum <= u64::from(per_minute) + (until - from) * u64::from(per_minute) / MINUTE + 1);
                }
            }
        }
    }
}
