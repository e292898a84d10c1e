//! Things that anybody can make happen as often as they like, and that are told of seldom, with a count of the rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Users that are known apart at a time: those that the config names, and members of the groups in it.
const USERS_MAX: usize = 256;

/// Says when it is time to tell of something again.
#[derive(Debug)]
pub(crate) struct Seldom {
    every: Duration,
    /// When it was told of last.
    last: Option<Instant>,
    /// How often it happened since.
    unsaid: u64,
}

impl Seldom {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, last: None, unsaid: 0 }
    }

    /// It has happened: whether to tell of it, and then how often it happened before without being told of.
    pub(crate) fn turn(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due(now) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// How often it happened without being told of, once it is time to tell.
    fn overdue(&mut self, now: Instant) -> Option<u64> {
        let is_told = self.unsaid > 0 && self.is_due(now);
        is_told.then(|| self.turn(now)).flatten()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.every)
    }
}

/// The same by user.
#[derive(Debug)]
pub(crate) struct SeldomByUser {
    every: Duration,
    users: BTreeMap<u32, Seldom>,
}

impl SeldomByUser {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, users: BTreeMap::new() }
    }

    /// A user did it: whether to tell of it, and then how often it was done before without being told of.
    pub(crate) fn turn(&mut self, uid: u32, now: Instant) -> Option<u64> {
        if self.users.len() >= USERS_MAX && !self.users.contains_key(&uid) {
            // Whoever is quiet needs no place. If nobody is, all share one.
            self.users.retain(|_, seldom| seldom.unsaid > 0 || !seldom.is_due(now));
        }
        let every = self.every;
        let place = if self.users.len() < USERS_MAX || self.users.contains_key(&uid) { uid } else { u32::MAX };
        self.users.entry(place).or_insert_with(|| Seldom::new(every)).turn(now)
    }

    /// The users who did it without being told of, where it is time to tell, and how often.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(u32, u64)> {
        self.users.iter_mut().filter_map(|(uid, seldom)| Some((*uid, seldom.overdue(now)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    #[test]
    fn what_happens_often_is_told_of_once_a_second_with_a_count() {
        let begun = Instant::now();
        let mut seldom = SeldomByUser::new(EVERY);
        for (uid, after_ms, expected) in [
            (1, 0, Some(0)),
            (1, 10, None),
            (1, 20, None),
            (2, 20, Some(0)),
            (1, 999, None),
            (1, 1_000, Some(3)),
            (1, 1_001, None),
        ] {
            assert_eq!(seldom.turn(uid, begun + Duration::from_millis(after_ms)), expected, "{uid} {after_ms}");
        }
        assert_eq!(seldom.overdue(begun + Duration::from_millis(1_500)), []);
        assert_eq!(seldom.overdue(begun + Duration::from_millis(2_000)), [(1, 1)]);
        assert_eq!(seldom.overdue(begun + Duration::from_millis(9_000)), []);
    }

    #[test]
    fn users_beyond_the_bound_share_one_place() {
        let now = Instant::now();
        let mut seldom = SeldomByUser::new(EVERY);
        let told = (0..10_000).filter(|uid| seldom.turn(*uid, now).is_some()).count();
        assert_eq!((told, seldom.users.len()), (USERS_MAX + 1, USERS_MAX + 1));
        // After a second of silence their places are free, but for the one with something to tell.
        assert_eq!(seldom.turn(20_000, now + EVERY), Some(0));
        assert_eq!(seldom.users.len(), 2);
    }
}
