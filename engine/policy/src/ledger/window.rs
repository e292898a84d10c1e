//! Counts of one rule's offences in a window that slides by eighths.

use ringpost_base::{Span, Tick};

/// Steps of a window.
const STEPS: u64 = 8;

/// The most that is counted in a step, and so the most that a rule can wait for.
pub(super) const COUNT_MAX: u32 = u16::MAX as u32;

/// What was counted for one rule: in the step under way, and in the eight before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The number of the rule.
    pub(super) rule: u16,
    /// The latest first.
    counts: [u16; STEPS as usize + 1],
    /// The number of the latest step, since the clock's start.
    step: u32,
}

const _: () = assert!(size_of::<Window>() == 24);

impl Window {
    pub(super) fn new(rule: u16) -> Self {
        Self { rule, counts: Default::default(), step: 0 }
    }

    /// Counts, and returns how many there are in the window.
    pub(super) fn add(&mut self, n: u32, length: Span, now: Tick) -> u32 {
        if self.counts.iter().all(|count| *count == 0) {
            self.step = step(length, now);
        }
        let passed = self.passed(length, now);
        let new = passed.min(self.counts.len());
        self.counts.rotate_right(new);
        self.counts[..new].fill(0);
        self.step = self.step.wrapping_add(passed as u32);
        self.counts[0] = self.counts[0].saturating_add(u16::try_from(n).unwrap_or(u16::MAX));
        self.counts.iter().map(|count| u32::from(*count)).sum()
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        self.counts.fill(0);
    }

    /// Whether nothing that was counted is in the window any more.
    pub(super) fn is_over(&self, length: Span, now: Tick) -> bool {
        self.passed(length, now) >= self.counts.len() || self.counts.iter().all(|count| *count == 0)
    }

    /// Steps since the latest one; none if the clock seems to go backwards.
    fn passed(&self, length: Span, now: Tick) -> usize {
        let passed = step(length, now).wrapping_sub(self.step);
        if passed > u32::MAX / 2 { 0 } else { passed as usize }
    }
}

/// The number of the step that is under way. It may wrap: only differences count.
fn step(length: Span, now: Tick) -> u32 {
    let nanos = u64::try_from(length.0.as_nanos()).unwrap_or(u64::MAX) / STEPS;
    (now.nanos() / nanos.max(1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        /// All offences of the last window count, and none older than nine eighths of it.
        #[test]
        fn a_window_counts_what_it_says(
            steps in prop::collection::vec((0_u64..20 * SECOND, 0_u32..5), 1..60),
            length in 1_u64..120,
        ) {
            let (span, length) = (Span::seconds(length), length * SECOND);
            let (mut window, mut now, mut all) = (Window::new(1), 77 * SECOND, Vec::new());
            for (step, n) in steps {
                now += step;
                all.push((now, n));
                let count = window.add(n, span, Tick::from_nanos(now));
                let since = |age: u64| all.iter().filter(|(at, _)| now - at <= age).map(|(_, n)| n).sum::<u32>();
                prop_assert!(count >= since(length), "the whole window counts");
                prop_assert!(count <= since(length + length / 8), "nothing older counts");
                prop_assert!(window.is_over(span, Tick::from_nanos(now + length + length / 4)));
            }
        }
    }

    #[test]
    fn counts_do_not_run_over() {
        let mut window = Window::new(1);
        let now = Tick::from_nanos(SECOND);
        window.add(u32::MAX, Span::seconds(60), now);
        assert_eq!(window.add(u32::MAX, Span::seconds(60), now), COUNT_MAX);
        window.restart();
        assert_eq!(window.add(1, Span::seconds(60), now), 1);
        assert!(!window.is_over(Span::seconds(60), now));
    }
}
