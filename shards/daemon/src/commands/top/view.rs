//! What is being looked at, and how: changed by keys.

use std::time::Duration;

/// The intervals that keys choose from.
const INTERVALS: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// What the shards are sorted by: their number upwards, all else downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Shard,
    Busy,
    Sessions,
    Accepted,
    Commit,
    Lag,
    Queue,
    Memory,
}

impl Sort {
    const ALL: [Self; 8] =
        [Self::Shard, Self::Busy, Self::Sessions, Self::Accepted, Self::Commit, Self::Lag, Self::Queue, Self::Memory];

    /// The name of its column.
    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::Shard => "SHARD",
            Self::Busy => "BUSY",
            Self::Sessions => "SESS",
            Self::Accepted => "IN/s",
            Self::Commit => "P99",
            Self::Lag => "LAG",
            Self::Queue => "QUEUE",
            Self::Memory => "MEM",
        }
    }
}

/// What a key has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressed {
    Quit,
    Suspend,
    /// The interval or the pause is another.
    Changed,
    /// Nothing beyond another picture.
    Nothing,
}

/// How the shards are looked at.
#[derive(Clone, Debug)]
pub(super) struct View {
    interval: Duration,
    paused: bool,
    sort: usize,
}

impl View {
    pub(super) const fn new(interval: Duration) -> Self {
        Self { interval, paused: false, sort: 0 }
    }

    pub(super) const fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) const fn paused(&self) -> bool {
        self.paused
    }

    pub(super) const fn sort(&self) -> Sort {
        Sort::ALL[self.sort]
    }

    /// Takes what a key sends: a byte, or a sequence of them that begins with Escape, which is of no use here.
    pub(super) fn press(&mut self, key: &[u8]) -> Pressed {
        match key {
            // Ctrl-C, Ctrl-D, Escape.
            b"q" | b"Q" | [3] | [4] | [27] => Pressed::Quit,
            // Ctrl-Z.
            [26] => Pressed::Suspend,
            b"p" | b" " => {
                self.paused = !self.paused;
                Pressed::Changed
            }
            b"s" => {
                self.sort = (self.sort + 1) % Sort::ALL.len();
                Pressed::Nothing
            }
            b"+" | b"=" => self.take(INTERVALS.iter().copied().find(|interval| *interval > self.interval)),
            b"-" => self.take(INTERVALS.iter().copied().rev().find(|interval| *interval < self.interval)),
            _ => Pressed::Nothing,
        }
    }

    fn take(&mut self, interval: Option<Duration>) -> Pressed {
        let Some(interval) = interval else { return Pressed::Nothing };
        self.interval = interval;
        Pressed::Changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[&[u8]], pressed: Pressed, millis: u64, paused: bool, sort: Sort) {
        let mut view = View::new(Duration::from_secs(1));
        let last = keys.iter().map(|key| view.press(key)).last();
        assert_eq!(last, Some(pressed), "{keys:?}");
        assert_eq!((view.interval(), view.paused(), view.sort()), (Duration::from_millis(millis), paused, sort));
    }

    #[test]
    fn keys_do_what_the_last_line_says() {
        for key in [&b"q"[..], b"Q", b"\x03", b"\x04", b"\x1b"] {
            check(&[key], Pressed::Quit, 1_000, false, Sort::Shard);
        }
        check(&[b"\x1a"], Pressed::Suspend, 1_000, false, Sort::Shard);
        check(&[b"p"], Pressed::Changed, 1_000, true, Sort::Shard);
        check(&[b"p", b"p"], Pressed::Changed, 1_000, false, Sort::Shard);
        check(&[b"s"], Pressed::Nothing, 1_000, false, Sort::Busy);
        check(&[&b"s"[..]; 8], Pressed::Nothing, 1_000, false, Sort::Shard);
        check(&[b"+"], Pressed::Changed, 2_000, false, Sort::Shard);
        check(&[b"-", b"-"], Pressed::Changed, 200, false, Sort::Shard);
        check(&[&b"+"[..]; 20], Pressed::Nothing, 60_000, false, Sort::Shard);
        check(&[&b"-"[..]; 20], Pressed::Nothing, 100, false, Sort::Shard);
        for key in [&b"\x1b[A"[..], b"x", b"", b"qq"] {
            check(&[key], Pressed::Nothing, 1_000, false, Sort::Shard);
        }
    }
}
