//! Wall-clock and monotonic time as plain values, and how people write durations.

use std::{fmt, str::FromStr, time::Duration};

/// A moment of the wall clock, in microseconds since 1970-01-01T00:00:00Z. For people and for what is kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_unix_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This moment moved later by `span`.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if the clock was set back in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A moment of the monotonic clock, in nanoseconds since an arbitrary start. For deadlines and measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// From nanoseconds since the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The time between `earlier` and this tick; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The deadline `span` from now.
    pub fn deadline(self, span: Duration) -> Deadline {
        Deadline(Tick(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))))
    }
}

/// The last tick at which something may still be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Tick);

impl Deadline {
    /// A deadline that never comes.
    pub const NEVER: Self = Self(Tick(u64::MAX));

    /// Whether the deadline has passed at `now`.
    pub fn passed(self, now: Tick) -> bool {
        now > self.0
    }
}

/// Both clocks, read at one moment and handed to every machine that needs one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock.
    pub tick: Tick,
}

/// A duration as people write it in the config file: `500ms`, `30s`, `5m`, `4h`, `5d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// `n` milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// `n` seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis() as u64;
        let (unit, factor) =
            SPAN_UNITS.iter().rev().find(|(_, factor)| millis.is_multiple_of(*factor)).unwrap_or(&SPAN_UNITS[0]);
        if millis == 0 { f.write_str("0s") } else { write!(f, "{}{unit}", millis / factor) }
    }
}

/// Text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSpanError;

impl fmt::Display for ParseSpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a duration: write a number with ms, s, m, h or d, as in \"5m\"")
    }
}

impl std::error::Error for ParseSpanError {}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(ParseSpanError)?;
        let (digits, unit) = text.split_at(split);
        let factor = SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or(ParseSpanError)?.1;
        let number: u64 = digits.parse().map_err(|_| ParseSpanError)?;
        number.checked_mul(factor).map(Self::millis).ok_or(ParseSpanError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_text_and_back() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("4h", 14_400_000), ("5d", 432_000_000)]
        {
            assert_eq!(text.parse(), Ok(Span::millis(millis)), "{text}");
            assert_eq!(Span::millis(millis).to_string(), text);
        }
        for bad in ["", "5", "m", "-5m", "5 m", "5min", "1.5h", "99999999999999999999d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_clock_set_back_gives_no_negative_time() {
        let later = Timestamp::from_unix_micros(5);
        assert_eq!(Timestamp::from_unix_micros(3).since(later), Duration::ZERO);
        assert!(!Deadline::NEVER.passed(Tick::from_nanos(u64::MAX)));
    }
}
