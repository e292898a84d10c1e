//! Whether a core that tries another config does worse than the others.
//!
//! What is compared is what came since the core began, as shares, so that it does not matter how much each had to do. A
//! difference counts only if it is larger than the band that is allowed, and than what chance would make of so few: a core
//! is not judged by one client. It does not count that a core does better.
//!
//! It keeps nothing: all of it is an argument.

use std::fmt;
use std::time::Duration;

/// How many standard deviations a difference of two shares has to be apart not to be chance: with three, one of some 700
/// comparisons of cores that do the same would be, if clients came independently of each other.
const DEVIATIONS: f64 = 3.0;

/// How much worse a core may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CanaryBands {
    /// By how much its share of rejections may be higher.
    pub rejects: f64,
    /// The same for failures.
    pub errors: f64,
    /// How many times as long its replies may take.
    pub latency_factor: u32,
    /// Replies that take less are never too slow.
    pub latency_min: Duration,
    /// Connections or messages from which on somebody is judged, or compared with.
    pub tries_min: u64,
}

/// What one core, or several, did in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conduct {
    /// Connections, or messages begun, whichever are more.
    pub tries: u64,
    /// Replies to what clients asked for.
    pub replies: u64,
    /// Of these, those that are 5xx.
    pub rejected: u64,
    /// What could have failed: replies, and whatever else is done for a message.
    pub done: u64,
    /// Of that, what failed or was put off.
    pub failed: u64,
    /// Panics.
    pub panics: u64,
    /// Within what time 95 of 100 clients had their replies; nothing if that is not known.
    pub latency: Option<Duration>,
}

/// In what a core does worse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Complaint {
    /// It has panicked, so many times.
    Panicked(u64),
    /// It rejects more.
    Rejects(Shares),
    /// More fails on it.
    Errors(Shares),
    /// It is slower.
    Slow {
        /// What it takes.
        canary: Duration,
        /// What the others take.
        others: Duration,
    },
}

/// Two shares that are too far apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// That of the core.
    pub canary: f64,
    /// That of the others; nothing if there was nobody to compare with.
    pub others: Option<f64>,
}

/// Judges a core.
#[derive(Clone, Copy, Debug)]
pub struct CanaryJudge {
    bands: CanaryBands,
}

impl CanaryJudge {
    /// One that allows so much.
    pub fn new(bands: CanaryBands) -> Self {
        Self { bands }
    }

    /// What there is to say against a core, by what it did and what the others did meanwhile. If they had too little to do, or
    /// there are none, it is compared with what all did `before`; and if that was too little as well, with a server that
    /// rejects nothing and fails at nothing.
    pub fn judge(&self, canary: &Conduct, others: &Conduct, before: &Conduct) -> Option<Complaint> {
        if canary.panics > 0 {
            return Some(Complaint::Panicked(canary.panics));
        }
        if canary.tries < self.bands.tries_min {
            return None;
        }
        let compared = self.compared(others, before);
        let CanaryBands { rejects, errors, .. } = self.bands;
        let rejected = |conduct: &Conduct| (conduct.rejected, conduct.replies);
        let failed = |conduct: &Conduct| (conduct.failed, conduct.done);
        let complaint = apart(rejected(canary), rejected(&compared), rejects).map(Complaint::Rejects);
        complaint
            .or_else(|| apart(failed(canary), failed(&compared), errors).map(Complaint::Errors))
            .or_else(|| self.slow(canary.latency?, compared.latency?))
    }

    /// Whom a core is compared with.
    fn compared(&self, others: &Conduct, before: &Conduct) -> Conduct {
        let enough = |conduct: &&Conduct| conduct.tries >= self.bands.tries_min;
        [others, before].into_iter().find(enough).copied().unwrap_or_default()
    }

    fn slow(&self, canary: Duration, others: Duration) -> Option<Complaint> {
        let allowed = others.saturating_mul(self.bands.latency_factor).max(self.bands.latency_min);
        (canary > allowed).then_some(Complaint::Slow { canary, others })
    }
}

/// Two shares, each as a count and what it is of, if the first is higher by more than the band and not by chance.
fn apart((count, of): (u64, u64), (other_count, other_of): (u64, u64), band: f64) -> Option<Shares> {
    let (one, other) = (share(count, of), share(other_count, other_of));
    let common = share(count + other_count, of + other_of);
    let part = |of: u64| if of == 0 { 0.0 } else { 1.0 / of as f64 };
    let deviation = (common * (1.0 - common) * (part(of) + part(other_of))).sqrt();
    let difference = one - other;
    let others = (other_of > 0).then_some(other);
    (difference > band && difference > DEVIATIONS * deviation).then_some(Shares { canary: one, others })
}

/// A count as a part of a whole. More of them than the whole, as several replies to one line, are all of it.
fn share(count: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { count.min(of) as f64 / of as f64 }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(1) => f.write_str("it panicked"),
            Self::Panicked(times) => write!(f, "it panicked {times} times"),
            Self::Rejects(shares) => write!(f, "replies 5xx: {shares}"),
            Self::Errors(shares) => write!(f, "failures and replies 4xx: {shares}"),
            Self::Slow { canary, others } => {
                let millis = |time: &Duration| time.as_secs_f64() * 1e3;
                write!(f, "95 of 100 replies within {:.0} ms, of the others {:.0} ms", millis(canary), millis(others))
            }
        }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}%, ", self.canary * 100.0)?;
        match self.others {
            Some(others) => write!(f, "of the others {:.1}%", others * 100.0),
            None => f.write_str("and nobody to compare with"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge() -> CanaryJudge {
        CanaryJudge::new(CanaryBands {
            rejects: 0.05,
            errors: 0.05,
            latency_factor: 3,
            latency_min: Duration::from_millis(100),
            tries_min: 20,
        })
    }

    /// So many clients that each get five replies.
    fn clients(tries: u64) -> Conduct {
        Conduct { tries, replies: tries * 5, done: tries * 6, ..Conduct::default() }
    }

    fn rejecting(tries: u64, rejected: u64) -> Conduct {
        Conduct { rejected, ..clients(tries) }
    }

    fn failing(tries: u64, failed: u64) -> Conduct {
        Conduct { failed, ..clients(tries) }
    }

    fn taking(tries: u64, millis: u64) -> Conduct {
        Conduct { latency: Some(Duration::from_millis(millis)), ..clients(tries) }
    }

    /// What is said against a core.
    #[track_caller]
    fn check(canary: Conduct, others: Conduct, before: Conduct, want: &str) {
        let said = judge().judge(&canary, &others, &before).map_or(String::new(), |complaint| complaint.to_string());
        assert_eq!(said, want);
    }

    const NONE: Conduct = Conduct { tries: 0, replies: 0, rejected: 0, done: 0, failed: 0, panics: 0, latency: None };

    #[test]
    fn a_core_that_does_as_the_others_is_left_alone() {
        check(clients(1_000), clients(3_000), NONE, "");
        check(rejecting(1_000, 900), rejecting(3_000, 2_700), NONE, "");
        check(failing(1_000, 900), failing(3_000, 2_700), NONE, "");
        check(taking(1_000, 20), taking(3_000, 20), NONE, "");
        check(rejecting(1_000, 0), rejecting(3_000, 3_000), NONE, "");
    }

    #[test]
    fn a_core_that_rejects_more_is_told() {
        check(rejecting(1_000, 1_000), rejecting(3_000, 300), NONE, "replies 5xx: 20.0%, of the others 2.0%");
        check(rejecting(1_000, 300), rejecting(3_000, 300), NONE, "");
        check(rejecting(20, 20), clients(20), NONE, "replies 5xx: 20.0%, of the others 0.0%");
    }

    #[test]
    fn a_core_where_more_fails_is_told() {
        check(failing(1_000, 3_000), clients(1_000), NONE, "failures and replies 4xx: 50.0%, of the others 0.0%");
        check(failing(1_000, 9_000), clients(1_000), NONE, "failures and replies 4xx: 100.0%, of the others 0.0%");
    }

    #[test]
    fn a_core_that_is_slower_is_told() {
        check(taking(100, 301), taking(100, 100), NONE, "95 of 100 replies within 301 ms, of the others 100 ms");
        check(taking(100, 300), taking(100, 100), NONE, "");
        check(taking(100, 100), taking(100, 1), NONE, "");
        check(taking(100, 101), taking(100, 1), NONE, "95 of 100 replies within 101 ms, of the others 1 ms");
        check(taking(100, 10_000), clients(100), NONE, "");
    }

    #[test]
    fn few_clients_prove_nothing() {
        check(rejecting(19, 19 * 5), clients(1_000), NONE, "");
        // Above the band, and no more than chance makes of so few.
        check(rejecting(20, 8), rejecting(20, 2), NONE, "");
        check(rejecting(2_000, 800), rejecting(2_000, 200), NONE, "replies 5xx: 8.0%, of the others 2.0%");
    }

    #[test]
    fn a_panic_is_enough() {
        check(Conduct { panics: 1, ..NONE }, NONE, NONE, "it panicked");
        check(
            Conduct { panics: 2, ..clients(9_000) },
            Conduct { panics: 5, ..clients(9_000) },
            NONE,
            "it panicked 2 times",
        );
    }

    #[test]
    fn where_the_others_are_idle_it_is_the_time_before_that_counts() {
        for others in [NONE, clients(19)] {
            check(rejecting(100, 90), others, rejecting(1_000, 900), "");
            check(rejecting(100, 90), others, clients(1_000), "replies 5xx: 18.0%, of the others 0.0%");
            check(
                taking(100, 900),
                others,
                taking(1_000, 100),
                "95 of 100 replies within 900 ms, of the others 100 ms",
            );
            check(rejecting(100, 90), others, clients(19), "replies 5xx: 18.0%, and nobody to compare with");
            check(taking(100, 90_000), others, NONE, "");
        }
        check(rejecting(100, 90), clients(1_000), rejecting(1_000, 900), "replies 5xx: 18.0%, of the others 0.0%");
    }

    #[test]
    fn nobody_who_is_idle_is_judged() {
        check(NONE, NONE, NONE, "");
        check(NONE, rejecting(100, 100), rejecting(100, 100), "");
    }
}
