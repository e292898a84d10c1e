//! Time stamps: RFC 3339 in UTC with microseconds, without an allocation.
//!
//! Invariant: the text is that of the moment asked for, in the proleptic Gregorian calendar, for years 1970 to 9999;
//! earlier moments read as 1970, later ones as the end of 9999. The date is computed once a second and thread, only the
//! microseconds each time. Time zones are refused: logs of several machines are read side by side.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_OF_DAY: u64 = 86_400;
/// 9999-12-31T23:59:59Z, the last second with a four-digit year.
const SECOND_MAX: u64 = 253_402_300_799;
/// Where the microseconds stand in [`Clock::text`].
const MICROS_AT: usize = 20;

/// Renders moments, and keeps the last one's text.
pub(crate) struct Clock {
    second: u64,
    text: [u8; 27],
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000000Z" }
    }

    /// The time now, as in `2026-11-20T10:31:25.123456Z`.
    pub(super) fn now(&mut self) -> &[u8; 27] {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.render(since.as_secs(), since.subsec_micros())
    }

    /// The second that was rendered last, since the Unix epoch.
    pub(super) fn second(&self) -> u64 {
        self.second
    }

    /// The text of the moment that was rendered last.
    pub(super) fn last(&self) -> &[u8; 27] {
        &self.text
    }

    /// The text of a moment: seconds since the Unix epoch, and microseconds below a million.
    pub(crate) fn render(&mut self, seconds: u64, micros: u32) -> &[u8; 27] {
        let seconds = seconds.min(SECOND_MAX);
        if seconds != self.second {
            self.second = seconds;
            self.render_second(seconds);
        }
        digits(&mut self.text[MICROS_AT..MICROS_AT + 6], micros);
        &self.text
    }

    fn render_second(&mut self, seconds: u64) {
        let (year, month, day) = civil((seconds / SECONDS_OF_DAY) as u32);
        let of_day = (seconds % SECONDS_OF_DAY) as u32;
        digits(&mut self.text[0..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], of_day / 3600);
        digits(&mut self.text[14..16], of_day / 60 % 60);
        digits(&mut self.text[17..19], of_day % 60);
    }
}

fn digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a number of days since 1970-01-01. Counted in eras of 400 years that begin on 1 March, so
/// that the leap day is the last of its year: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: u32) -> (u32, u32, u32) {
    const DAYS_OF_ERA: u32 = 146_097;
    let from_march = days + 719_468;
    let era = from_march / DAYS_OF_ERA;
    let day_of_era = from_march % DAYS_OF_ERA;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, micros: u32) {
        let expected = jiff::Timestamp::new(seconds as i64, (micros * 1000) as i32).expect("in jiff's range");
        let mut clock = Clock::new();
        let text = String::from_utf8(clock.render(seconds, micros).to_vec()).expect("digits");
        assert_eq!(text, format!("{expected:.6}"));
    }

    #[test]
    fn days_around_leap_years_read_as_jiff_reads_them() {
        for year in [1970, 1972, 1999, 2000, 2023, 2024, 2026, 2100, 2400, 9998] {
            for (month, day) in [(1, 1), (2, 28), (3, 1), (12, 31)] {
                let start = jiff::civil::date(year, month, day).to_zoned(jiff::tz::TimeZone::UTC);
                let start = start.expect("a date").timestamp().as_second() as u64;
                for seconds in [start.saturating_sub(1), start, start + 86_399, start + 86_400] {
                    check(seconds, 999_999);
                }
            }
        }
    }

    #[test]
    fn every_day_of_four_centuries_reads_as_jiff_reads_it() {
        (0..150_000).for_each(|day| check(day * SECONDS_OF_DAY + day % SECONDS_OF_DAY, day as u32));
    }

    #[test]
    fn the_second_is_kept_and_the_end_of_time_is_not_passed() {
        let mut clock = Clock::new();
        assert_eq!(clock.render(1, 7), b"1970-01-01T00:00:01.000007Z");
        assert_eq!(clock.render(1, 999_999), b"1970-01-01T00:00:01.999999Z");
        assert_eq!(clock.render(0, 0), b"1970-01-01T00:00:00.000000Z");
        assert_eq!(clock.render(u64::MAX, 1), b"9999-12-31T23:59:59.000001Z");
    }
}
