//! Whether a list that fails is asked any more.
//!
//! A list works until so many answers in a row are failures. Then it is skipped for a while, and after that a single
//! question tries it: if that succeeds the list works again, otherwise it is skipped once more. It reads no clock: time is
//! an argument.

use ringpost_base::{Span, Tick};

/// When a list is given up, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Failures in a row after which a list is skipped; 0 counts as 1.
    pub failures_max: u32,
    /// How long it is skipped before it is tried again.
    pub skip: Span,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self { failures_max: 5, skip: Span::seconds(30) }
    }
}

/// What a breaker lets happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Asked for every client.
    Working,
    /// Not asked before that moment.
    Skipped {
        /// Then one question tries it.
        until: Tick,
    },
    /// Asked one question, and nothing else until that has come out.
    Trying,
}

/// Whether to ask now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Ask,
    /// Ask, and say in any case how it came out: [`Breaker::succeed`], [`Breaker::fail`] or [`Breaker::abandon`].
    Try,
    Skip,
}

/// The breaker of one list.
#[derive(Debug)]
pub(crate) struct Breaker {
    options: BreakerOptions,
    health: Health,
    failures: u32,
}

impl Breaker {
    pub(crate) fn new(options: BreakerOptions) -> Self {
        Self { options, health: Health::Working, failures: 0 }
    }

    pub(crate) fn health(&self) -> Health {
        self.health
    }

    /// Failures since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn admit(&mut self, now: Tick) -> Admission {
        match self.health {
            Health::Working => Admission::Ask,
            Health::Skipped { until } if until <= now => {
                self.health = Health::Trying;
                Admission::Try
            }
            Health::Skipped { .. } | Health::Trying => Admission::Skip,
        }
    }

    /// An answer came. True if the list is asked again from now on.
    pub(crate) fn succeed(&mut self) -> bool {
        self.failures = 0;
        std::mem::replace(&mut self.health, Health::Working) != Health::Working
    }

    /// A question failed; `trial` says whether it was the one that tries. True if the list is skipped from now on and was
    /// not before.
    pub(crate) fn fail(&mut self, trial: bool, now: Tick) -> bool {
        self.failures = self.failures.saturating_add(1);
        let until = now.deadline(self.options.skip.0).0;
        match self.health {
            Health::Working if self.failures >= self.options.failures_max => {
                self.health = Health::Skipped { until };
                true
            }
            Health::Trying if trial => {
                self.health = Health::Skipped { until };
                false
            }
            // What fails late, asked before the list was given up, says nothing new.
            _ => false,
        }
    }

    /// The question that tries was given up before it came out: the next one may try.
    pub(crate) fn abandon(&mut self, now: Tick) {
        if self.health == Health::Trying {
            self.health = Health::Skipped { until: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    /// A breaker whose list has just been given up, at second 0.
    fn broken() -> Breaker {
        let mut breaker = Breaker::new(BreakerOptions::default());
        for number in 1..=5 {
            assert_eq!(breaker.admit(at(0)), Admission::Ask);
            assert_eq!(breaker.fail(false, at(0)), number == 5);
        }
        breaker
    }

    fn check(breaker: &mut Breaker, second: u64, admission: Admission, health: Health) {
        assert_eq!(breaker.admit(at(second)), admission, "at {second} s");
        assert_eq!(breaker.health(), health, "at {second} s");
    }

    #[test]
    fn failures_in_a_row_are_skipped_and_then_tried_by_one() {
        let mut breaker = broken();
        check(&mut breaker, 0, Admission::Skip, Health::Skipped { until: at(30) });
        check(&mut breaker, 29, Admission::Skip, Health::Skipped { until: at(30) });
        check(&mut breaker, 30, Admission::Try, Health::Trying);
        check(&mut breaker, 30, Admission::Skip, Health::Trying);
        assert!(breaker.succeed());
        check(&mut breaker, 31, Admission::Ask, Health::Working);
        assert_eq!(breaker.failures(), 0);
    }

    #[test]
    fn a_success_between_failures_begins_the_count_anew() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        for _ in 0..20 {
            assert!((0..4).all(|_| !breaker.fail(false, at(0))));
            assert!(!breaker.succeed());
        }
        check(&mut breaker, 0, Admission::Ask, Health::Working);
    }

    #[test]
    fn a_failed_trial_skips_again() {
        let mut breaker = broken();
        check(&mut breaker, 40, Admission::Try, Health::Trying);
        assert!(!breaker.fail(true, at(41)), "it was skipped before");
        check(&mut breaker, 70, Admission::Skip, Health::Skipped { until: at(71) });
        check(&mut breaker, 71, Admission::Try, Health::Trying);
    }

    #[test]
    fn late_failures_of_earlier_questions_change_nothing() {
        let mut breaker = broken();
        assert!(!breaker.fail(false, at(20)));
        check(&mut breaker, 20, Admission::Skip, Health::Skipped { until: at(30) });
        check(&mut breaker, 30, Admission::Try, Health::Trying);
        assert!(!breaker.fail(false, at(30)));
        check(&mut breaker, 30, Admission::Skip, Health::Trying);
    }

    #[test]
    fn an_abandoned_trial_leaves_the_next_to_try() {
        let mut breaker = broken();
        check(&mut breaker, 35, Admission::Try, Health::Trying);
        breaker.abandon(at(36));
        check(&mut breaker, 36, Admission::Try, Health::Trying);
        breaker.succeed();
        breaker.abandon(at(37));
        check(&mut breaker, 37, Admission::Ask, Health::Working);
    }
}
