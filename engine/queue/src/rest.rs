//! What time does to messages: those that wait where nobody serves them are given up, and dead letters are forgotten.

use crate::lane::Kind;
use crate::record::{Buried, Message, Place};
use crate::{Action, Forgotten, Queue, Reason, State};
use ringpost_base::Tick;
use std::collections::HashMap;
use std::time::Duration;

/// Legs looked at in one step of the search for those that have waited for too long.
const SWEEP_LEGS_MAX: u32 = 512;

/// The time in which the search comes round: a part of the shortest time that it looks for, within bounds.
const SWEEP_PART: u32 = 64;
const SWEEP_MIN: Duration = Duration::from_millis(100);
const SWEEP_MAX: Duration = Duration::from_secs(60);

/// The shortest time between two steps.
const STEP_MIN: Duration = Duration::from_millis(1);

/// Dead letters forgotten in one call.
const FORGET_MAX: usize = 64;

impl Queue {
    /// Looks for messages that wait for their turn in a lane that doesn't move, and are too old for that, or late. There may
    /// be a million of them, so it goes round in steps; and it rests while nothing waits.
    pub(crate) fn sweep(&mut self) {
        if self.ready == 0 {
            self.sweep_at = None;
            return;
        }
        let now = self.now.tick;
        let at = *self.sweep_at.get_or_insert_with(|| now.deadline(SWEEP_MIN).0);
        if now < at {
            return;
        }
        let places = self.legs.places();
        let round = self.sweep_round();
        let steps = places.div_ceil(SWEEP_LEGS_MAX).max(1);
        self.sweep_at = Some(now.deadline((round / steps).max(STEP_MIN)).0);
        if self.sweep_from >= places {
            self.sweep_from = 0;
        }
        let until = self.sweep_from.saturating_add(SWEEP_LEGS_MAX).min(places);
        for leg in self.sweep_from..until {
            if self.legs[leg].place == Place::Ready {
                self.look_at(leg, round);
            }
        }
        self.sweep_from = until;
    }

    fn sweep_round(&self) -> Duration {
        let expire = self.options.expire_after.0;
        let shortest = self.options.delay_notice.map_or(expire, |notice| notice.0.min(expire));
        (shortest / SWEEP_PART).clamp(SWEEP_MIN, SWEEP_MAX)
    }

    fn look_at(&mut self, leg: u32, round: Duration) {
        let (lane, message) = (&self.lanes[self.legs[leg].lane], self.legs[leg].message);
        // A lane that moves comes to it: also what is old when the server starts has its attempt.
        if lane.kind == Kind::Gone || self.now.tick.since(lane.moved) < round {
            return;
        }
        let id = self.messages[message].id();
        if !self.is_expired(message) {
            let recipients = self.notice_of_delay(message, &[]);
            if !recipients.is_empty() {
                self.actions.push_back(Action::Delay { id, recipients });
            }
            return;
        }
        let reason = Reason::expired(self.last_reason(leg).map(|last| &**last));
        let lane = self.legs[leg].lane;
        self.put(leg, Place::Active);
        let (recipients, turn) = (self.pending(leg), self.next_turn(leg));
        self.actions.push_back(Action::Expire { id, leg: turn, recipients, reason });
        self.recount(message);
        self.arrange(lane);
    }

    pub(crate) fn tick_nanos(&self) -> i64 {
        i64::try_from(self.now.tick.nanos()).unwrap_or(i64::MAX)
    }

    /// Has a message whose recipients are all done or dead lie among the dead letters, and no other.
    pub(crate) fn lay_to_rest(&mut self, message: u32) {
        let Some(extra) = self.extra(message).filter(|extra| !extra.dead.is_empty()) else { return };
        let entry = (extra.buried_tick, self.messages[message].id());
        if self.state_of(message) == State::Dead {
            self.dead.insert(entry);
        } else {
            self.dead.remove(&entry);
        }
    }

    /// Counts the dead recipients of a message at their destinations (1), or no longer (-1).
    pub(crate) fn count_buried(&mut self, message: u32, sign: i32) {
        let Some(extra) = self.extra(message) else { return };
        let mut by_hash: HashMap<u32, i32> = HashMap::new();
        for dead in &extra.dead {
            *by_hash.entry(dead.destination).or_default() += sign;
        }
        let lanes: Vec<_> = self.legs_of(message).map(|leg| self.legs[leg].lane).collect();
        for lane in lanes {
            if let Some(count) = by_hash.remove(&self.lanes[lane].hash) {
                self.lanes[lane].dead = self.lanes[lane].dead.saturating_add_signed(count);
            }
        }
    }

    /// Before a message goes, its dead recipients are counted no longer.
    pub(crate) fn unbury_all(&mut self, message: u32) -> Vec<Buried> {
        if !self.messages[message].has(Message::EXTRA) {
            return Vec::new();
        }
        self.count_buried(message, -1);
        std::mem::take(&mut self.extra_mut(message).dead)
    }

    /// Forgets dead letters that have been kept for long enough, and the oldest of too many.
    pub(crate) fn forget_the_oldest(&mut self) {
        for _ in 0..FORGET_MAX {
            let Some((_, id)) = self.dead.first().copied().filter(|(buried, _)| self.is_forgettable(*buried)) else {
                return;
            };
            match self.find(id) {
                Some(message) => self.remove(message),
                None => {
                    self.dead.pop_first();
                }
            }
            self.actions.push_back(Action::Forget { id, cause: Forgotten::DeadLetter });
        }
    }

    fn is_forgettable(&self, buried: i64) -> bool {
        let keep = i64::try_from(self.options.dead_letters_keep.0.as_nanos()).unwrap_or(i64::MAX);
        self.dead.len() > self.options.dead_letters_max || self.tick_nanos() >= buried.saturating_add(keep)
    }

    pub(crate) fn next_forgotten(&self) -> Option<Tick> {
        let (buried, _) = self.dead.first()?;
        if self.is_forgettable(*buried) {
            return Some(self.now.tick);
        }
        let keep = i64::try_from(self.options.dead_letters_keep.0.as_nanos()).unwrap_or(i64::MAX);
        u64::try_from(buried.saturating_add(keep)).ok().map(Tick::from_nanos)
    }
}
