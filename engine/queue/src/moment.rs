//! Time in four bytes.
//!
//! A record of the queue keeps two times. In nanoseconds they would be a sixth of it, so they are kept in units of 16.8 ms, by
//! their lower 32 bits, which come round in 2.3 years. That is far beyond what lies between two times of a message: waits
//! are bounded to a year, and an age that comes round makes a message younger, which costs it attempts and nothing else.

use ringpost_base::Tick;
use std::time::Duration;

/// A unit is 2 to this power nanoseconds.
const UNIT_BITS: u32 = 24;

/// The longest wait, and the greatest age a message can come with: a year.
const SPAN_MAX: Duration = Duration::from_secs(365 * 86_400);

/// The unit that is under way at a tick.
pub(crate) fn unit_of(tick: Tick) -> u64 {
    tick.nanos() >> UNIT_BITS
}

/// The first tick of a unit.
pub(crate) fn tick_of(unit: u64) -> Tick {
    Tick::from_nanos(unit << UNIT_BITS)
}

/// Units of a span, at least as long as it.
pub(crate) fn units_in(span: Duration) -> u32 {
    let nanos = span.min(SPAN_MAX).as_nanos() as u64;
    nanos.div_ceil(1 << UNIT_BITS) as u32
}

/// The time of so many units.
pub(crate) fn span_of(units: u32) -> Duration {
    Duration::from_nanos(u64::from(units) << UNIT_BITS)
}

/// A unit by its lower bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) fn at(unit: u64) -> Self {
        Self(unit as u32)
    }

    /// So long before this tick.
    pub(crate) fn before(now: Tick, span: Duration) -> Self {
        Self((unit_of(now) as u32).wrapping_sub(units_in(span)))
    }

    /// Units from this moment, which is in the past, to a tick.
    pub(crate) fn units_until(self, now: Tick) -> u32 {
        (unit_of(now) as u32).wrapping_sub(self.0)
    }

    /// The whole number of a unit that is within a year of `near`.
    pub(crate) fn near(self, near: u64) -> u64 {
        near.wrapping_add_signed(i64::from(self.0.wrapping_sub(near as u32) as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_again_near_by() {
        for near in [0_u64, 5, u64::from(u32::MAX) - 3, 1 << 33, (1 << 40) - 1] {
            for unit in [near, near + 1, near + 1000, near + (1 << 30), near.saturating_sub(1000)] {
                assert_eq!(Moment::at(unit).near(near), unit);
            }
        }
    }

    #[test]
    fn ages_are_counted_across_the_start_of_the_clock() {
        let now = tick_of(100);
        let made = Moment::before(now, Duration::from_secs(86_400));
        assert_eq!(made.units_until(now), units_in(Duration::from_secs(86_400)));
        assert!(span_of(made.units_until(tick_of(1 << 20))) > Duration::from_secs(86_400 + 17_000));
    }

    #[test]
    fn a_span_is_never_cut_short() {
        for nanos in [0, 1, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, 86_400_000_000_000] {
            let span = Duration::from_nanos(nanos);
            assert!(span_of(units_in(span)) >= span && span_of(units_in(span)) < span + Duration::from_millis(17));
        }
        assert_eq!(units_in(Duration::MAX), units_in(SPAN_MAX));
    }
}
