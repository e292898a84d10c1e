//! What a process used, read from /proc: CPU time of all its threads, and resident memory.

use std::time::Duration;

use serde::Serialize;

use crate::units::serialize_span;

/// A reading of one process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    /// User and system time of all threads since the process started; its grain is the kernel's tick, 10 ms as a rule.
    #[serde(rename = "cpu_seconds", serialize_with = "serialize_span")]
    pub(crate) cpu: Duration,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

/// Reads a process; `None` if there is none, if it has ended, or without /proc.
pub(crate) fn usage_of(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat, rustix::param::clock_ticks_per_second(), rustix::param::page_size() as u64)
}

/// Reads this process.
pub(crate) fn usage_of_self() -> Option<Usage> {
    usage_of(std::process::id())
}

/// The fields of proc_pid_stat(5), of which the second, the name in parentheses, may contain anything.
fn parse_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Option<Usage> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    // `fields` begins with field 3, the state; utime is field 14, stime 15, rss 24.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let rss_pages: u64 = fields.nth(8)?.parse().ok()?;
    let ticks = user + system;
    let seconds = ticks as f64 / ticks_per_second.max(1) as f64;
    Some(Usage { cpu: Duration::from_secs_f64(seconds), rss_bytes: rss_pages * page_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_process_with_an_odd_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 100 0 0 0 250 50 9 9 20 0 3 0 100 1000000 42 18446744073709551615";
        let usage = parse_stat(stat, 100, 4096).expect("parses");
        assert_eq!(usage.cpu, Duration::from_secs(3));
        assert_eq!(usage.rss_bytes, 42 * 4096);
        assert!(parse_stat("7 (x) S 1", 100, 4096).is_none());
        assert!(parse_stat(&stat.replace(") S", ") Z"), 100, 4096).is_none());
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(usage_of_self().is_some_and(|usage| usage.rss_bytes > 100_000));
    }
}
