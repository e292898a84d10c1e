//! How targets do, for those who ask whether the server is well.
//!
//! What is elsewhere has a breaker, which its owner keeps. What is here has none, as a disk that is full or a directory that may
//! not be written to costs nothing to try again; each shard counts here what it failed at.

use ringpost_queue::{BreakerState, DestinationView};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How a target does, as one shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetState {
    /// Its name.
    pub name: String,
    /// Failures in a row of the target itself.
    pub failures: u32,
    /// Whether it is left alone, or being tried after that.
    pub is_left_alone: bool,
    /// For how long it is left alone yet.
    pub open_for: Option<Duration>,
    /// What the last failure was, where that is known.
    pub reason: Option<String>,
}

impl TargetState {
    pub(crate) fn of(view: DestinationView) -> Self {
        Self {
            name: view.name.to_string(),
            failures: view.failures,
            is_left_alone: view.breaker != BreakerState::Closed,
            open_for: view.open_for,
            reason: None,
        }
    }
}

/// The local targets at which every message has failed of late, by name. There are no more than are configured.
#[derive(Debug, Default)]
pub(crate) struct Troubles(RefCell<BTreeMap<Rc<str>, Trouble>>);

#[derive(Debug)]
struct Trouble {
    failures: u32,
    reason: String,
}

impl Troubles {
    /// Notes what came of a message for each place of a target. One that took it is enough: then it is the places' own fault.
    pub(crate) fn note(&self, target: &Rc<str>, places: &[(usize, Result<(), String>)]) {
        let mut troubles = self.0.borrow_mut();
        let reason = places.iter().find_map(|(_, result)| result.as_ref().err());
        match reason.filter(|_| places.iter().all(|(_, result)| result.is_err())) {
            None => drop(troubles.remove(target)),
            Some(reason) => {
                let trouble = troubles.entry(target.clone()).or_insert(Trouble { failures: 0, reason: String::new() });
                trouble.failures = trouble.failures.saturating_add(1);
                trouble.reason.clone_from(reason);
            }
        }
    }

    /// Forgets those that are no longer.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.borrow_mut().retain(|name, _| is_there(name));
    }

    pub(crate) fn states(&self) -> Vec<TargetState> {
        let state = |(name, trouble): (&Rc<str>, &Trouble)| TargetState {
            name: name.to_string(),
            failures: trouble.failures,
            is_left_alone: false,
            open_for: None,
            reason: Some(trouble.reason.clone()),
        };
        self.0.borrow().iter().map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_in_trouble_while_nothing_gets_through() {
        let (troubles, local, other) = (Troubles::default(), Rc::from("local"), Rc::from("other"));
        let full = || Err("no space left".to_owned());
        let seen = || troubles.states().into_iter().map(|state| (state.name, state.failures)).collect::<Vec<_>>();
        troubles.note(&local, &[(0, full()), (1, full())]);
        troubles.note(&local, &[(0, full())]);
        troubles.note(&other, &[(0, Ok(()))]);
        assert_eq!(seen(), [("local".to_owned(), 2)]);
        assert_eq!(troubles.states()[0].reason.as_deref(), Some("no space left"));
        troubles.note(&local, &[(0, full()), (1, Ok(()))]);
        assert_eq!(seen(), []);
        troubles.note(&other, &[(0, full())]);
        troubles.retain(|name| name == "local");
        assert_eq!(seen(), []);
    }
}
