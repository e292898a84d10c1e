//! How a message gets into the queue: new, or found in the spool with what was remembered of it.

use crate::hash::{EVERYWHERE, of_name};
use crate::lane::{Kind, NOWHERE};
use crate::moment::Moment;
use crate::record::{Buried, Leg, Message, Place};
use crate::slab::NONE;
use crate::{Action, DeadRecipient, DomainHash, NewItem, NewLeg, Pushed, Queue, Remembered, State};
use ringpost_base::Now;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A leg as it will be.
struct Planned {
    destination: Rc<str>,
    hash: u32,
    kind: Kind,
    /// Recipients still to serve.
    pending: Vec<u32>,
    /// Those to whom the leg leads, served or not.
    all: Vec<u32>,
    domain: DomainHash,
}

impl Queue {
    /// Adds a message, due at once. Its age is that of its id, and counts by the monotonic clock from here on, so that no
    /// step of the wall clock gives mail up. One found in the spool of which nothing is left to do is answered by
    /// [`Action::Forget`].
    pub fn push(&mut self, mut item: NewItem, now: Now) -> Pushed {
        self.see(now);
        if self.find(item.id).is_some() {
            return Pushed { new: false, damaged: false };
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
        let mut planned = plan(std::mem::take(&mut item.legs), item.recipients);
        leave_out_done(&mut planned, &remembered.done);
        let dead = leave_out_dead(&mut planned, &remembered.dead);
        if dead.is_empty() && planned.iter().all(|leg| leg.pending.is_empty()) {
            self.actions.push_back(Action::Forget { id: item.id });
            return Pushed { new: true, damaged };
        }
        let message = self.add_message(&item, &remembered);
        if !remembered.done.is_empty() {
            self.extra_mut(message).done = remembered.done;
        }
        for leg in planned {
            let is_dead = dead.iter().any(|dead| dead.destination == leg.hash);
            if !leg.pending.is_empty() || is_dead {
                self.add_leg(message, &leg.destination, leg.kind, leg.pending, leg.domain, 0);
            }
        }
        if !dead.is_empty() {
            self.bury_again(message, &dead, remembered.buried_at);
        }
        self.recount(message);
        Pushed { new: true, damaged }
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

    fn bury_again(&mut self, message: u32, dead: &[DeadRecipient], buried_at: ringpost_base::Timestamp) {
        let ago = i64::try_from(self.now.wall.since(buried_at).as_nanos()).unwrap_or(i64::MAX);
        let buried_tick = self.tick_nanos().saturating_sub(ago);
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

/// One leg for each destination, and one to nowhere for recipients that none leads to: nobody is left out.
fn plan(legs: Vec<NewLeg>, recipients: u32) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::with_capacity(legs.len());
    for NewLeg { destination, local, recipients: mut all, domain } in legs {
        all.retain(|recipient| *recipient < recipients);
        match planned.iter_mut().find(|leg| leg.destination == destination) {
            Some(leg) => {
                leg.all.extend(all);
                leg.domain = leg.domain.joined(domain);
            }
            None => planned.push(new_planned(destination, Kind::of(local), all, domain)),
        }
    }
    for leg in &mut planned {
        leg.all.sort_unstable();
        leg.all.dedup();
    }
    if !planned.iter().any(|leg| leg.all.len() == recipients as usize) {
        let led: BTreeSet<u32> = planned.iter().flat_map(|leg| &leg.all).copied().collect();
        let others: Vec<u32> = (0..recipients).filter(|recipient| !led.contains(recipient)).collect();
        if !others.is_empty() {
            planned.push(new_planned(NOWHERE.into(), Kind::Gone, others, DomainHash::SEVERAL));
        }
    }
    for leg in &mut planned {
        leg.pending = leg.all.clone();
    }
    planned
}

fn new_planned(destination: Rc<str>, kind: Kind, all: Vec<u32>, domain: DomainHash) -> Planned {
    Planned { hash: of_name(&destination), destination, kind, pending: Vec::new(), all, domain }
}

fn leave_out_done(planned: &mut [Planned], done: &[(u32, u32)]) {
    if done.is_empty() {
        return;
    }
    let done: BTreeSet<(u32, u32)> = done.iter().copied().collect();
    for leg in planned {
        let is_done = |recipient: u32| done.contains(&(recipient, leg.hash)) || done.contains(&(recipient, EVERYWHERE));
        leg.pending.retain(|recipient| !is_done(*recipient));
    }
}

/// Takes out whom an earlier run has buried. One that was going to a destination that its route doesn't have any more is
/// buried at those that it has now.
fn leave_out_dead(planned: &mut [Planned], dead: &[DeadRecipient]) -> Vec<DeadRecipient> {
    let mut buried = Vec::new();
    for dead in dead {
        let leads = |leg: &&mut Planned| leg.all.binary_search(&dead.recipient).is_ok();
        let own = planned.iter().any(|leg| leg.hash == dead.destination && leg.all.contains(&dead.recipient));
        for leg in planned.iter_mut().filter(leads).filter(|leg| !own || leg.hash == dead.destination) {
            let pending = leg.pending.len();
            leg.pending.retain(|recipient| *recipient != dead.recipient);
            if leg.pending.len() < pending {
                buried.push(DeadRecipient { destination: leg.hash, ..dead.clone() });
            }
        }
    }
    buried
}
