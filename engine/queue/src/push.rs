//! How a message gets into the queue: new, or found in the spool with what was remembered of it.

use crate::hash::EVERYWHERE;
use crate::lane::Kind;
use crate::moment::Moment;
use crate::plan::Plan;
use crate::record::{Buried, Leg, Message, Place};
use crate::slab::NONE;
use crate::{Action, DeadRecipient, DomainHash, Forgotten, NewItem, NewLeg, Pushed, Queue, Remembered, State};
use ringpost_base::{Now, Timestamp};
use std::rc::Rc;

impl Queue {
    /// Adds a message, due at once. Its age is that of its id, and counts by the monotonic clock from here on, so that no
    /// step of the wall clock gives mail up. One found in the spool of which nothing is left to do is answered by
    /// [`Action::Forget`].
    pub fn push(&mut self, mut item: NewItem, now: Now) -> Pushed {
        self.see(now);
        if self.find(item.id).is_some() {
            return Pushed { new: false, damaged: false };
        }
        if item.unreadable {
            self.push_unreadable(&item);
            return Pushed { new: true, damaged: false };
        }
        if is_plain(&item) {
            self.push_plain(item);
            return Pushed { new: true, damaged: false };
        }
        let (mut remembered, damaged) = match Remembered::decode(&item.state) {
            Ok(remembered) => (remembered, false),
            Err(_) => (Remembered::default(), true),
        };
        remembered.done.extend(item.legacy_done.iter().map(|recipient| (*recipient, EVERYWHERE)));
        remembered.done.retain(|(recipient, _)| *recipient < item.recipients);
        remembered.dead.retain(|dead| dead.recipient < item.recipients);
        let plan = Plan::new(std::mem::take(&mut item.legs), item.recipients, &remembered);
        if plan.is_over() {
            self.actions.push_back(Action::Forget { id: item.id, cause: Forgotten::NothingLeft });
            return Pushed { new: true, damaged };
        }
        let message = self.add_message(&item, &remembered);
        if !remembered.done.is_empty() {
            self.extra_mut(message).done = remembered.done;
        }
        for leg in plan.legs {
            self.add_leg(message, &leg.destination, leg.kind, leg.pending, leg.domain, 0);
        }
        if !plan.dead.is_empty() {
            let ago = i64::try_from(self.now.wall.since(remembered.buried_at).as_nanos()).unwrap_or(i64::MAX);
            let buried_tick = self.tick_nanos().saturating_sub(ago);
            self.bury_again(message, &plan.dead, remembered.buried_at, buried_tick);
        }
        self.recount(message);
        Pushed { new: true, damaged }
    }

    /// One of which nobody knows who is to have it.
    fn push_unreadable(&mut self, item: &NewItem) {
        let message = self.add_message(item, &Remembered::default());
        self.messages[message].set(Message::UNREADABLE, true);
        self.messages[message].recipients = 0;
        self.recount(message);
    }

    /// As nearly every message comes: new, with one leg that leads to all its recipients.
    fn push_plain(&mut self, mut item: NewItem) {
        let message = self.add_message(&item, &Remembered::default());
        if let Some(NewLeg { destination, local, recipients, domain }) = item.legs.pop() {
            self.add_leg(message, &destination, Kind::of(local), recipients, domain, 0);
        }
        self.recount(message);
    }

    fn add_message(&mut self, item: &NewItem, remembered: &Remembered) -> u32 {
        let mut record = Message::new(item.id);
        record.size = u32::try_from(item.size).unwrap_or(u32::MAX);
        record.sender = item.sender_domain;
        record.made = Moment::before(self.now.tick, self.now.wall.since(item.id.made()));
        record.recipients = item.recipients;
        record.priority = item.priority;
        record.set(Message::RECOVERED, item.recovered);
        record.set(Message::NULL_SENDER, item.null_sender);
        record.set(Message::HELD, remembered.held);
        record.set(Message::DELAY_TOLD, remembered.delay_told);
        let message = self.messages.take();
        self.messages[message] = record;
        self.order.insert(item.id, message, |place| self.messages[place].id());
        self.by_state[State::Ready as usize] += 1;
        self.by_priority[item.priority as usize] += 1;
        message
    }

    /// Adds a leg to a message, ready if it has recipients.
    pub(crate) fn add_leg(
        &mut self,
        message: u32,
        destination: &Rc<str>,
        kind: Kind,
        pending: Vec<u32>,
        domain: DomainHash,
        attempts: u16,
    ) -> u32 {
        let lane = self.lanes.of(destination, kind, &mut self.legs);
        self.lanes[lane].legs += 1;
        let leg = self.legs.add(Leg { message, lane, domain, attempts, place: Place::Over, ..Leg::default() });
        match self.legs_of(message).last() {
            None => self.messages[message].first_leg = leg,
            Some(last) => self.legs[last].sibling = leg,
        }
        debug_assert_eq!(self.legs[leg].sibling, NONE, "the last of them");
        if !pending.is_empty() {
            self.set_pending(leg, pending);
            self.make_ready(leg);
        }
        leg
    }

    /// Has recipients be dead who were so before, since these times: of the spool's clock, and of this run's.
    pub(crate) fn bury_again(&mut self, message: u32, dead: &[DeadRecipient], buried_at: Timestamp, buried_tick: i64) {
        let buried = dead.iter().map(|dead| Buried {
            recipient: dead.recipient,
            destination: dead.destination,
            reason: self.reasons.intern(&dead.reason),
        });
        let buried = buried.collect();
        let extra = self.extra_mut(message);
        (extra.dead, extra.buried_at, extra.buried_tick) = (buried, buried_at, buried_tick);
        self.count_buried(message, 1);
        self.lay_to_rest(message);
    }
}

fn is_plain(item: &NewItem) -> bool {
    let [leg] = item.legs.as_slice() else { return false };
    let whole = leg.recipients.iter().copied().eq(0..item.recipients) && item.recipients > 0;
    whole && item.state.is_empty() && item.legacy_done.is_empty()
}
