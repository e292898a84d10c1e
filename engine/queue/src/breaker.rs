//! The circuit breaker of a destination: after failures in a row it is left alone, then one message tries it.

use crate::DestinationOptions;
use ringpost_base::{ShardId, Tick};
use std::time::Duration;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Mail goes through.
    #[default]
    Closed,
    /// The destination is left alone for a time.
    Open,
    /// That time is over, and one message tries it.
    HalfOpen,
}

impl BreakerState {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What the breaker says to a shard that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Go on.
    Pass,
    /// Try it, with one message.
    Probe,
    /// Another shard tries it.
    Probed,
    /// Not before this time.
    Shut(Duration),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    state: BreakerState,
    failures: u32,
    pause: Duration,
    until: Tick,
    /// Who tries it.
    probe: Option<ShardId>,
}

impl Breaker {
    /// What a shard may do. `held`: the slots that it says it has; a shard that tries the destination has one, or its
    /// permission was lost on the way.
    pub(crate) fn gate(&mut self, shard: ShardId, held: u32, now: Tick) -> Gate {
        if self.state == BreakerState::Open {
            if now < self.until {
                return Gate::Shut(self.until.since(now));
            }
            self.state = BreakerState::HalfOpen;
            self.probe = None;
        }
        match (self.state, self.probe) {
            (BreakerState::HalfOpen, Some(other)) if other != shard || held > 0 => Gate::Probed,
            (BreakerState::HalfOpen, _) => Gate::Probe,
            _ => Gate::Pass,
        }
    }

    /// The shard got the one slot with which the destination is tried.
    pub(crate) fn probing(&mut self, shard: ShardId) {
        self.probe = Some(shard);
    }

    /// Takes a shard's report; true if the breaker has just opened. While the destination is left alone or tried, only
    /// the shard that tries it has news: what others report had begun before.
    pub(crate) fn reported(
        &mut self,
        shard: ShardId,
        delivered: u32,
        failures: u32,
        options: &DestinationOptions,
        now: Tick,
    ) -> bool {
        match self.state {
            BreakerState::Open => false,
            BreakerState::HalfOpen if self.probe != Some(shard) => false,
            BreakerState::HalfOpen => {
                self.probe = None;
                if failures > 0 {
                    self.failures = self.failures.saturating_add(failures);
                    self.open(self.pause.saturating_mul(2), options, now);
                } else if delivered > 0 {
                    *self = Self::default();
                }
                failures > 0
            }
            BreakerState::Closed => {
                if delivered > 0 {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(failures);
                let opens = options.breaker_failures > 0 && failures > 0 && self.failures >= options.breaker_failures;
                if opens {
                    self.open(options.breaker_pause.0, options, now);
                }
                opens
            }
        }
    }

    fn open(&mut self, pause: Duration, options: &DestinationOptions, now: Tick) {
        self.state = BreakerState::Open;
        self.pause = pause.min(options.breaker_pause_max.0).max(options.breaker_pause.0);
        self.until = now.deadline(self.pause).0;
    }

    /// Lets everybody through again, if it may never open (any more).
    pub(crate) fn configured(&mut self, options: &DestinationOptions) {
        if options.breaker_failures == 0 {
            *self = Self::default();
        }
    }

    /// Where it stands. One whose pause is over is half open, asked or not.
    pub(crate) fn state(&self, now: Tick) -> BreakerState {
        if self.state == BreakerState::Open && now >= self.until { BreakerState::HalfOpen } else { self.state }
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// For how long the destination is left alone yet.
    pub(crate) fn opens_in(&self, now: Tick) -> Option<Duration> {
        (self.state(now) == BreakerState::Open).then(|| self.until.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::Span;

    const ONE: ShardId = ShardId(1);
    const TWO: ShardId = ShardId(2);

    fn options() -> DestinationOptions {
        DestinationOptions {
            breaker_failures: 3,
            breaker_pause: Span::seconds(10),
            breaker_pause_max: Span::seconds(35),
            ..DestinationOptions::default()
        }
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert!(!breaker.reported(ONE, 0, 2, &options(), at(0)));
        assert!(breaker.reported(TWO, 0, 1, &options(), at(0)));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            assert!(!breaker.reported(ONE, 1, 2, &options(), at(0)));
        }
        assert!(breaker.reported(ONE, 0, 1, &options(), at(0)));
        assert_eq!(breaker.gate(ONE, 0, at(4)), Gate::Shut(Duration::from_secs(6)));
    }

    #[test]
    fn one_shard_tries_it_and_its_success_closes_it() {
        let mut breaker = opened();
        assert_eq!(breaker.gate(ONE, 0, at(10)), Gate::Probe);
        breaker.probing(ONE);
        assert_eq!(breaker.gate(TWO, 0, at(10)), Gate::Probed);
        assert_eq!(breaker.gate(ONE, 1, at(10)), Gate::Probed);
        breaker.reported(TWO, 5, 0, &options(), at(10));
        assert_eq!(breaker.state(at(10)), BreakerState::HalfOpen, "what another reports is from before");
        breaker.reported(ONE, 1, 0, &options(), at(11));
        assert_eq!((breaker.gate(TWO, 0, at(11)), breaker.failures()), (Gate::Pass, 0));
    }

    #[test]
    fn each_failed_try_doubles_the_pause_up_to_the_longest() {
        let (mut breaker, mut now) = (opened(), 0);
        for pause in [10, 20, 35, 35] {
            assert_eq!(breaker.opens_in(at(now)), Some(Duration::from_secs(pause)));
            now += pause;
            assert_eq!(breaker.gate(ONE, 0, at(now)), Gate::Probe);
            breaker.probing(ONE);
            assert!(breaker.reported(ONE, 0, 1, &options(), at(now)));
        }
    }

    #[test]
    fn a_lost_permission_to_try_is_given_again() {
        let mut breaker = opened();
        assert_eq!(breaker.gate(ONE, 0, at(10)), Gate::Probe);
        breaker.probing(ONE);
        assert_eq!(breaker.gate(ONE, 0, at(12)), Gate::Probe, "it says it has none");
        breaker.probing(ONE);
        breaker.reported(ONE, 0, 0, &options(), at(12));
        assert_eq!(breaker.gate(TWO, 0, at(12)), Gate::Probe, "given back unused");
    }

    #[test]
    fn zero_never_opens() {
        let options = DestinationOptions { breaker_failures: 0, ..options() };
        let mut breaker = opened();
        breaker.configured(&options);
        assert!(!breaker.reported(ONE, 0, 1000, &options, at(0)));
        assert_eq!(breaker.gate(ONE, 0, at(0)), Gate::Pass);
    }
}
