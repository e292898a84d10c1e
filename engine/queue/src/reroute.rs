//! What becomes of a message whose routes have changed while it waits.

use crate::moment::Moment;
use crate::plan::Plan;
use crate::record::{Leg, Message, Place};
use crate::slab::NONE;
use crate::{Action, Forgotten, NewItem, Queue, Reason};
use ringpost_base::{Now, Priority, SpoolId};
use std::rc::Rc;

/// What a leg leaves to the one that takes its place.
struct Former {
    destination: Rc<str>,
    attempts: u16,
    last: Option<Rc<Reason>>,
    /// When it was to be tried again, if it waited for that.
    due: Option<Moment>,
    /// Recipients were moved away from it.
    left: bool,
}

impl Queue {
    /// Has a message go where it is routed now, instead of waiting for an attempt that would find that out: its legs and its
    /// priority are those of `item`, of which nothing else counts. What is done, who is dead, and whether it is held or its
    /// sender was told of a delay stay, as over a restart; and where a destination stays, its attempts and its time. What
    /// the spool keeps for it stays true. False: an attempt or a report of it is under way, or nothing is known of it.
    ///
    /// One of which nothing is left to do by these routes is answered by [`Action::Forget`].
    pub fn reroute(&mut self, id: SpoolId, item: NewItem, now: Now) -> bool {
        self.see(now);
        let Some(message) = self.find(id) else { return false };
        if item.unreadable || self.messages[message].has(Message::UNREADABLE) || self.is_under_way(message) {
            return false;
        }
        let remembered = self.remembered(message);
        let plan = Plan::new(item.legs, self.messages[message].recipients, &remembered);
        if plan.is_over() {
            self.remove(message);
            self.actions.push_back(Action::Forget { id, cause: Forgotten::NothingLeft });
            return true;
        }
        let buried_tick = self.extra(message).map_or(0, |extra| extra.buried_tick);
        let former = self.take_legs(message);
        self.set_priority(message, item.priority);
        if self.messages[message].has(Message::EXTRA) {
            self.extra_mut(message).done = remembered.done;
        }
        let stays = |former: &Former| plan.legs.iter().any(|leg| leg.destination == former.destination);
        if former.iter().any(|former| former.attempts > 0 && !stays(former)) {
            self.messages[message].set(Message::RECOVERED, true);
        }
        for leg in plan.legs {
            let before = former.iter().find(|former| former.destination == leg.destination);
            let attempts = before.map_or(0, |former| former.attempts);
            let added = self.add_leg(message, &leg.destination, leg.kind, Vec::new(), leg.domain, attempts);
            self.go_on(added, leg.pending, before);
        }
        if !plan.dead.is_empty() {
            self.bury_again(message, &plan.dead, remembered.buried_at, buried_tick);
        }
        self.recount(message);
        true
    }

    fn is_under_way(&self, message: u32) -> bool {
        let attempt = self.legs_of(message).any(|leg| self.legs[leg].place == Place::Active);
        attempt || self.extra(message).is_some_and(|extra| !extra.reporting.is_empty())
    }

    /// Takes a message's legs away, and its dead with them.
    fn take_legs(&mut self, message: u32) -> Vec<Former> {
        if let Some(extra) = self.extra(message) {
            self.dead.remove(&(extra.buried_tick, self.messages[message].id()));
        }
        self.unbury_all(message);
        let legs: Vec<_> = self.legs_of(message).collect();
        let mut former = Vec::with_capacity(legs.len());
        for leg in legs {
            let destination = self.destination(leg).clone();
            let record = &mut self.legs[leg];
            let due = (record.place == Place::Waiting).then_some(record.due);
            let (attempts, left) = (record.attempts, record.has(Leg::LEFT));
            former.push(Former { destination, attempts, last: record.last.take(), due, left });
            self.free_leg(leg);
        }
        self.messages[message].first_leg = NONE;
        if self.messages[message].has(Message::EXTRA) {
            self.extra_mut(message).lists.clear();
        }
        former
    }

    fn set_priority(&mut self, message: u32, priority: Priority) {
        let before = std::mem::replace(&mut self.messages[message].priority, priority);
        self.by_priority[before as usize] -= 1;
        self.by_priority[priority as usize] += 1;
    }

    /// Has a new leg go on where the former one to its destination was.
    fn go_on(&mut self, leg: u32, pending: Vec<u32>, before: Option<&Former>) {
        if let Some(before) = before {
            self.legs[leg].last = before.last.clone();
            self.legs[leg].set(Leg::LEFT, before.left);
        }
        if pending.is_empty() {
            return;
        }
        self.set_pending(leg, pending);
        match before.and_then(|before| before.due) {
            Some(due) => {
                self.legs[leg].due = due;
                self.put(leg, Place::Waiting);
            }
            None => self.make_ready(leg),
        }
    }
}
