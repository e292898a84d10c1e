//! What is remembered of each probe: since when it is as it is.
//!
//! Something that fails does so from the first look that finds it so. It is well again only when it has been so for a moment,
//! so that what goes to and fro does not take the state of the server with it. Time is an argument.

use ringpost_admin::api::{Moment, ProbeView};
use ringpost_base::{Now, Tick, Timestamp};
use std::time::Duration;

/// How long something that failed has to be well before it counts as well.
pub(super) const REST: Duration = Duration::from_secs(1);

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) name: String,
    /// Whether mail is taken even if it fails.
    pub(super) serves: bool,
    /// Nothing if it is well.
    pub(super) trouble: Option<Trouble>,
}

/// Why something is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: String,
    /// The command or the runbook to look at.
    pub(super) hint: String,
}

impl Trouble {
    pub(super) fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}

impl Finding {
    /// Of something without which mail is taken all the same.
    pub(super) fn new(name: impl Into<String>, trouble: Option<Trouble>) -> Self {
        Self { name: name.into(), serves: true, trouble }
    }

    /// Of something without which no mail is taken.
    pub(super) fn vital(name: impl Into<String>, trouble: Option<Trouble>) -> Self {
        Self { serves: false, ..Self::new(name, trouble) }
    }
}

/// A probe that has become another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: String,
    /// Nothing if it is well again.
    pub(super) trouble: Option<Trouble>,
}

struct Remembered {
    /// As it counts, not as it was last found.
    finding: Finding,
    since: Timestamp,
    /// Since when it has been found well, of one that counts as failing.
    well_since: Option<Tick>,
}

/// All probes, in the order in which they are looked at.
#[derive(Default)]
pub(super) struct Memory {
    probes: Vec<Remembered>,
}

impl Memory {
    /// Takes what a look has found of all there is to look at; gives what has changed by it.
    pub(super) fn take(&mut self, findings: Vec<Finding>, now: Now) -> Vec<Change> {
        let mut former = std::mem::take(&mut self.probes);
        let mut changes = Vec::new();
        for finding in findings {
            let known = former.iter().position(|probe| probe.finding.name == finding.name).map(|at| former.remove(at));
            let was_failing = known.as_ref().is_some_and(|known| known.finding.trouble.is_some());
            let next = Remembered::next(known, finding, now);
            if next.finding.trouble.is_some() != was_failing {
                let Finding { name, trouble, .. } = next.finding.clone();
                changes.push(Change { name, trouble });
            }
            self.probes.push(next);
        }
        changes
    }

    /// Whether a probe counts as failing.
    pub(super) fn is_failing(&self, name: &str) -> bool {
        self.failing().any(|finding| finding.name == name)
    }

    /// Those that count as failing.
    pub(super) fn failing(&self) -> impl Iterator<Item = &Finding> {
        self.probes.iter().map(|probe| &probe.finding).filter(|finding| finding.trouble.is_some())
    }

    /// All of them as they are told.
    pub(super) fn views(&self) -> Vec<ProbeView> {
        let view = |Remembered { finding, since, .. }: &Remembered| ProbeView {
            name: finding.name.clone(),
            ok: finding.trouble.is_none(),
            reason: finding.trouble.as_ref().map(|trouble| trouble.reason.clone()),
            serves: finding.serves,
            since: Some(Moment(*since)),
            hint: finding.trouble.as_ref().map(|trouble| trouble.hint.clone()),
        };
        self.probes.iter().map(view).collect()
    }
}

impl Remembered {
    fn next(known: Option<Self>, finding: Finding, now: Now) -> Self {
        let Some(known) = known else { return Self { finding, since: now.wall, well_since: None } };
        match (&known.finding.trouble, &finding.trouble) {
            (Some(_), None) => {
                let well_since = known.well_since.unwrap_or(now.tick);
                if now.tick.since(well_since) >= REST {
                    Self { finding, since: now.wall, well_since: None }
                } else {
                    Self { well_since: Some(well_since), ..known }
                }
            }
            (None, Some(_)) => Self { finding, since: now.wall, well_since: None },
            (None, None) | (Some(_), Some(_)) => Self { finding, well_since: None, ..known },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Now {
        Now { wall: Timestamp::from_unix_micros(millis * 1_000), tick: Tick::from_nanos(millis * 1_000_000) }
    }

    fn disk(reason: Option<&str>) -> Vec<Finding> {
        vec![Finding::new("disk", reason.map(|reason| Trouble::new(reason, "hint")))]
    }

    /// A moment, what is found then, and what counts: whether it fails, since when, and whether that is news.
    type Look<'a> = (u64, Option<&'a str>, (bool, u64, bool));

    #[track_caller]
    fn check(looks: &[Look<'_>]) {
        let mut memory = Memory::default();
        for (millis, found, (failing, since, news)) in looks {
            let changes = memory.take(disk(*found), at(*millis));
            let view = memory.views().remove(0);
            let seen = (memory.is_failing("disk"), view.since, !changes.is_empty());
            assert_eq!(seen, (*failing, Some(Moment(at(*since).wall)), *news), "at {millis}");
            assert_eq!(view.ok, !failing);
        }
    }

    #[test]
    fn what_fails_does_so_at_once_and_is_well_after_a_rest() {
        check(&[
            (0, None, (false, 0, false)),
            (200, Some("full"), (true, 200, true)),
            (400, Some("fuller"), (true, 200, false)),
            (600, None, (true, 200, false)),
            (1_400, None, (true, 200, false)),
            (1_600, None, (false, 1_600, true)),
            (1_800, None, (false, 1_600, false)),
        ]);
    }

    #[test]
    fn what_goes_to_and_fro_fails() {
        let mut looks = vec![(0, Some("full"), (true, 0, true))];
        looks.extend((1..40).map(|n| (n * 200, (n % 4 == 0).then_some("full"), (true, 0, false))));
        check(&looks);
    }

    #[test]
    fn the_reason_is_that_of_the_last_failure() {
        let mut memory = Memory::default();
        memory.take(disk(Some("full")), at(0));
        memory.take(disk(Some("fuller")), at(200));
        memory.take(disk(None), at(400));
        assert_eq!(memory.views()[0].reason.as_deref(), Some("fuller"));
    }

    #[test]
    fn a_probe_that_is_gone_is_forgotten() {
        let mut memory = Memory::default();
        memory.take(vec![Finding::vital("stall", Some(Trouble::new("a", "b"))), Finding::new("dns", None)], at(0));
        assert!(memory.failing().all(|finding| !finding.serves));
        assert_eq!(memory.take(vec![Finding::new("dns", None)], at(200)), []);
        assert_eq!((memory.failing().count(), memory.views().len()), (0, 1));
    }
}
