//! What a shard asks of the owners of destinations, and what it gives back.
//!
//! A lane asks for one slot at a time: when it has none, and for another while there is far more work than slots. It gives
//! a slot back when there is no work for it, when the messages of its leases are used up, and at once when an attempt showed
//! that the destination doesn't work.

use crate::lane::{Blocked, Kind};
use crate::{Lease, Queue};
use ringpost_base::Now;
use std::time::Duration;

/// A lane asks for another slot when so many messages are ready for each one that it has.
const WORK_FOR_A_SLOT: u32 = 2;

/// With less work, when a message has been ready for this long: the attempts under way may hang.
const NUDGE: Duration = Duration::from_secs(1);

/// A lane that was told to wait for news asks again after this time, as the news may have been lost.
const NEWS_PATIENCE: Duration = Duration::from_secs(10);

/// How long a lane waits whose owner has not heard of its destination yet: configurations are taken up one after another.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// The shortest and the longest time that a lane waits when it is told to.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// After this time what is left of a lease's messages is void: the rate that they were given by has been used by others.
const LEASE_AGE_MAX: Duration = Duration::from_secs(60);

impl Queue {
    /// Takes the answer to [`Action::Lease`](crate::Action::Lease). One to no question counts for nothing.
    pub fn leased(&mut self, destination: &str, lease: Lease, now: Now) {
        self.see(now);
        let Some(at) = self.lanes.find(destination) else { return };
        let holding = &mut self.lanes[at].holding;
        if !std::mem::take(&mut holding.asked) {
            return;
        }
        let freed = std::mem::take(&mut holding.freed);
        match lease {
            Lease::Granted { messages } => {
                holding.slots += 1;
                holding.messages = holding.messages.saturating_add(messages);
                holding.granted = self.now.tick;
            }
            // The news overtook the answer.
            Lease::Busy | Lease::Wait { .. } if freed => self.ask(at),
            Lease::Busy => self.block(at, Blocked::Busy, NEWS_PATIENCE),
            Lease::Wait { span, .. } => self.block(at, Blocked::Wait, span.clamp(WAIT_MIN, WAIT_MAX)),
            Lease::Unknown => self.block(at, Blocked::Wait, UNKNOWN_WAIT),
        }
        self.arrange(at);
    }

    /// The owner says that there is a slot now for a shard that was told [`Lease::Busy`], or that one that was told
    /// [`Lease::Wait`] need not wait any longer.
    pub fn freed(&mut self, destination: &str) {
        let Some(at) = self.lanes.find(destination) else { return };
        if self.lanes[at].holding.asked {
            self.lanes[at].holding.freed = true;
        } else {
            self.unblocked(at);
        }
    }

    fn unblocked(&mut self, at: u16) {
        self.lanes[at].holding.blocked = None;
        self.lanes.set_timer(at, None);
        if self.lanes[at].kind == Kind::Remote && self.lanes[at].ready() > 0 {
            return self.ask(at);
        }
        // Others may want what is offered.
        let name = self.lanes[at].name.clone();
        let release = self.lanes[at].holding.release(&name);
        self.actions.push_back(release);
    }

    pub(crate) fn lane_timed_out(&mut self, at: u16) {
        match self.lanes[at].holding.blocked.take() {
            Some(Blocked::Busy) => self.unblocked(at),
            // Also without work: a lease may have been given whose answer was lost, and the owner finds out by the question.
            Some(Blocked::Wait) => self.ask(at),
            None if self.lanes[at].ready() > 0 && !self.lanes[at].has_room() => self.ask(at),
            None => {}
        }
    }

    fn ask(&mut self, at: u16) {
        self.lanes.set_timer(at, None);
        let lane = &mut self.lanes[at];
        if lane.kind != Kind::Remote || std::mem::replace(&mut lane.holding.asked, true) {
            return;
        }
        lane.holding.blocked = None;
        let lease = crate::Action::Lease { destination: lane.name.clone(), held: lane.holding.slots };
        self.actions.push_back(lease);
    }

    fn block(&mut self, at: u16, why: Blocked, span: Duration) {
        if self.lanes[at].kind == Kind::Remote {
            self.lanes[at].holding.blocked = Some(why);
            self.lanes.set_timer(at, Some(self.now.tick.deadline(span).0));
        }
    }

    /// Sees to what follows for a lane from a change in its work or its room.
    pub(crate) fn arrange(&mut self, at: u16) {
        let (now, lane) = (self.now.tick, &mut self.lanes[at]);
        let ready = if lane.kind == Kind::Remote { lane.ready() } else { 0 };
        let holding = &mut lane.holding;
        if holding.messages > 0 && now.since(holding.granted) > LEASE_AGE_MAX {
            holding.messages = 0;
        }
        if holding.slots > 0 || holding.returned > 0 {
            self.actions.extend(holding.give_back(ready, &lane.name));
        }
        self.lanes.enter_ring(at);
        let lane = &self.lanes[at];
        if ready > 0 && !lane.has_room() {
            self.want(at);
        } else if lane.kind == Kind::Gone {
            self.lanes.forget(at, &mut self.legs);
        }
    }

    /// Asks for a slot, unless it is too early for that.
    fn want(&mut self, at: u16) {
        let lane = &self.lanes[at];
        let holding = &lane.holding;
        if holding.asked || holding.blocked.is_some() {
            return;
        }
        let enough = holding.slots > 0 && holding.messages > 0;
        if !enough || lane.ready() > holding.slots.saturating_mul(WORK_FOR_A_SLOT) {
            self.ask(at);
        } else if self.lanes.timer(at).is_none() {
            self.lanes.set_timer(at, Some(self.now.tick.deadline(NUDGE).0));
        }
    }
}
