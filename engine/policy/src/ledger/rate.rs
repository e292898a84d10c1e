//! A rate per minute as one number: when the bucket will be full again (the generic cell rate algorithm).
//!
//! Each unit moves that moment by a minute divided by the rate. A unit fits while the moment is at most a minute away. So
//! a bucket needs neither a count nor a refill, and a change of the rate keeps the share of it that is used.

use ringpost_base::Tick;

/// Nanoseconds of a minute: what an empty bucket is away from full.
const MINUTE: u64 = 60_000_000_000;

/// How far a bucket can be overdrawn. A message of many minutes' worth of bytes has its sender wait no longer than that;
/// to shut somebody out is what bans are for.
const OVERDRAFT_MAX: u64 = 60 * MINUTE;

/// A bucket that nothing was taken from.
pub(super) const FULL: Tick = Tick::from_nanos(0);

/// So many a minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate(u64);

impl Rate {
    pub(super) fn per_minute(units: impl Into<u64>) -> Self {
        Self(units.into())
    }

    /// Whether so many units are left in a bucket; or all of a full one, if that is less.
    pub(super) fn fits(self, bucket: Tick, units: u64, now: Tick) -> bool {
        let used = bucket.nanos().saturating_sub(now.nanos());
        self.0 > 0 && used.saturating_add(self.cost(units.min(self.0))) <= MINUTE
    }

    /// The bucket after taking so many units out.
    pub(super) fn charged(self, bucket: Tick, units: u64, now: Tick) -> Tick {
        let full = bucket.max(now).nanos().saturating_add(self.cost(units));
        Tick::from_nanos(full.min(now.nanos().saturating_add(OVERDRAFT_MAX)))
    }

    /// Rounded down, so that a full bucket holds all of its units. The error is below one in a million up to 60,000 a minute
    /// and for bytes, which are charged by the message.
    fn cost(self, units: u64) -> u64 {
        let cost = u128::from(units) * u128::from(MINUTE) / u128::from(self.0.max(1));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
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
        for per_minute in [1, 2, 7, 60, 1000, 65_537] {
            let rate = Rate::per_minute(per_minute as u32);
            let (mut bucket, start) = (FULL, at(5 * SECOND));
            for _ in 0..per_minute {
                assert!(rate.fits(bucket, 1, start), "{per_minute}");
                bucket = rate.charged(bucket, 1, start);
            }
            assert!(!rate.fits(bucket, 1, start), "{per_minute}");
            let later = at(start.nanos() + MINUTE / per_minute);
            assert!(rate.fits(bucket, 1, later), "{per_minute}: one is refilled");
            assert!(!rate.fits(rate.charged(bucket, 1, later), 1, later), "{per_minute}: and no more");
        }
    }

    #[test]
    fn an_overdraft_is_paid_off_and_bounded() {
        let rate = Rate::per_minute(1000_u32);
        let bucket = rate.charged(FULL, 3000, at(0));
        assert!(!rate.fits(bucket, 1, at(2 * MINUTE)));
        assert!(rate.fits(bucket, 1, at(2 * MINUTE + SECOND)));
        let bucket = rate.charged(FULL, u64::MAX, at(0));
        assert!(rate.fits(bucket, 1000, at(OVERDRAFT_MAX)), "for an hour at most");
    }

    #[test]
    fn more_than_a_minutes_worth_fits_into_a_full_bucket_only() {
        let rate = Rate::per_minute(1000_u32);
        assert!(rate.fits(FULL, 5000, at(SECOND)));
        let bucket = rate.charged(FULL, 1, at(SECOND));
        assert!(!rate.fits(bucket, 5000, at(SECOND)));
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_through() {
        assert!(!Rate::per_minute(0_u32).fits(FULL, 1, at(SECOND)));
        assert!(!Rate::per_minute(0_u32).fits(FULL, 0, at(SECOND)));
    }

    proptest! {
        /// Whenever requests come, no stretch of time sees more than a full bucket and what is refilled meanwhile.
        #[test]
        fn never_more_than_a_bucket_and_its_refill(
            per_minute in 1_u64..500,
            steps in prop::collection::vec(0_u64..3 * SECOND, 1..400),
        ) {
            let rate = Rate::per_minute(per_minute);
            let (mut now, mut bucket, mut taken) = (SECOND, FULL, Vec::new());
            for step in steps {
                now += step;
                if rate.fits(bucket, 1, at(now)) {
                    bucket = rate.charged(bucket, 1, at(now));
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, until) in taken.iter().enumerate().skip(first) {
                    let allowed = per_minute + (until - from) * per_minute / MINUTE + 1;
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }

        /// A client that keeps to the rate is never refused.
        #[test]
        fn who_keeps_to_the_rate_is_never_refused(
            per_minute in 1_u64..5000,
            jitter in prop::collection::vec(0_u64..SECOND, 1..200),
        ) {
            let rate = Rate::per_minute(per_minute);
            let (mut now, mut bucket) = (SECOND, FULL);
            for late in jitter {
                now += MINUTE / per_minute + late;
                prop_assert!(rate.fits(bucket, 1, at(now)));
                bucket = rate.charged(bucket, 1, at(now));
            }
        }
    }
}
