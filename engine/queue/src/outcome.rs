//! What follows from how an attempt came out, for each of its recipients.

use crate::lane::Kind;
use crate::record::{Leg, Message, Place};
use crate::slab::NONE;
use crate::{Asked, DestinationHash, LegId, Outcome, Queue, Reason, Status, Verdict};
use ringpost_base::Now;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Recipients that an attempt has not finished with.
#[derive(Default)]
struct Left {
    /// Put off, and why, if that was said.
    deferred: Vec<(u32, Option<Reason>)>,
    /// To go elsewhere.
    moved: BTreeMap<Rc<str>, (bool, Vec<u32>)>,
    /// Served here.
    done: bool,
}

impl Queue {
    /// How an attempt came out, by recipient number. Whoever is not named is put off. `asked` says what became known of the
    /// destination itself by it.
    pub fn outcome(&mut self, leg: LegId, outcomes: &[(u32, Outcome)], asked: Asked, now: Now) -> Verdict {
        self.see(now);
        let unknown = Verdict { unknown: true, ..Verdict::default() };
        let LegId { slot, turn } = leg;
        let is_this = slot < self.legs.places() && self.legs[slot].turn == turn;
        if !is_this || self.legs[slot].place != Place::Active {
            return unknown;
        }
        let (leg, lane) = (slot, self.legs[slot].lane);
        self.end_attempt(leg, asked);
        if self.legs[leg].message == NONE {
            self.free_leg(leg);
            return unknown;
        }
        let message = self.legs[leg].message;
        let destination = DestinationHash(self.lanes[lane].hash);
        let mut verdict = Verdict { destination, ..Verdict::default() };
        let mut left = self.sort_out(leg, outcomes, &mut verdict);
        self.give_up_the_expired(message, &mut left, &mut verdict);
        self.keep_reason(leg, &left, &verdict);
        self.put(leg, Place::Over);
        let mut pending: Vec<u32> = left.deferred.iter().map(|(recipient, _)| *recipient).collect();
        self.join(leg, &mut pending);
        self.set_pending(leg, pending);
        for (destination, (local, recipients)) in std::mem::take(&mut left.moved) {
            self.move_to(leg, &destination, local, recipients);
        }
        if !left.deferred.is_empty() {
            self.legs[leg].attempts = self.legs[leg].attempts.saturating_add(1);
            let wait = self.backoff(u32::from(self.legs[leg].attempts));
            verdict.wait = Some(self.put_off(leg, wait));
            verdict.delayed = self.notice_of_delay(message, &left.deferred);
        } else if self.pending_len(leg) > 0 {
            self.make_ready(leg);
        }
        self.arrange(lane);
        verdict.settled = self.settle_if_over(message);
        verdict.state_changed = !verdict.settled && (left.done || !verdict.delayed.is_empty());
        verdict
    }

    /// What was used by an attempt is free again, or its owner's.
    fn end_attempt(&mut self, leg: u32, asked: Asked) {
        let Leg { lane, flags, .. } = self.legs[leg];
        self.legs[leg].flags = flags & !(Leg::LEASED | Leg::LOCAL);
        if flags & Leg::LOCAL != 0 {
            self.local_active -= 1;
        }
        if flags & Leg::LEASED != 0 {
            let holding = &mut self.lanes[lane].holding;
            holding.busy -= 1;
            match asked {
                Asked::Worked => holding.report.delivered += 1,
                Asked::Failed => {
                    holding.slots -= 1;
                    holding.returned += 1;
                    holding.report.hop_failures += 1;
                }
                // Another may be sent instead; if there is none, it goes back unused with the slot.
                Asked::Not => holding.messages = holding.messages.saturating_add(1),
            }
        }
    }

    /// Goes through the recipients of an attempt.
    fn sort_out(&mut self, leg: u32, outcomes: &[(u32, Outcome)], verdict: &mut Verdict) -> Left {
        let mut left = Left::default();
        let outcomes = in_order(outcomes);
        let mut rest = &*outcomes;
        for recipient in self.pending(leg) {
            rest = &rest[rest.partition_point(|(number, _)| *number < recipient)..];
            let own = &rest[..rest.partition_point(|(number, _)| *number == recipient)];
            match own.first().map(|(_, outcome)| outcome) {
                Some(Outcome::Delivered(how)) => verdict.delivered.push((recipient, *how)),
                Some(Outcome::Failed(reason)) => verdict.failed.push((recipient, reason.clone())),
                Some(Outcome::Deferred(reason)) => left.deferred.push((recipient, Some(reason.clone()))),
                Some(Outcome::Moved { .. }) if self.moves(leg, recipient, own, &mut left) => {}
                Some(Outcome::Moved { .. }) | None => left.deferred.push((recipient, None)),
            }
        }
        left.done = !verdict.delivered.is_empty();
        left
    }

    /// Has a recipient go wherever its outcomes say; false if that is nowhere else.
    fn moves(&self, leg: u32, recipient: u32, own: &[(u32, Outcome)], left: &mut Left) -> bool {
        let mut moves = false;
        for (_, outcome) in own {
            if let Outcome::Moved { destination, local } = outcome
                && destination != self.destination(leg)
            {
                left.moved.entry(destination.clone()).or_insert((*local, Vec::new())).1.push(recipient);
                moves = true;
            }
        }
        moves
    }

    /// Those that are put off and whose message is too old are given up.
    fn give_up_the_expired(&mut self, message: u32, left: &mut Left, verdict: &mut Verdict) {
        if !left.deferred.is_empty() && self.is_expired(message) {
            let expired = left.deferred.drain(..).map(|(recipient, last)| (recipient, Reason::expired(last.as_ref())));
            verdict.failed.extend(expired);
        }
    }

    /// Remembers what the outcomes say of a leg and its destination.
    fn keep_reason(&mut self, leg: u32, left: &Left, verdict: &Verdict) {
        let Leg { message, lane, .. } = self.legs[leg];
        let hash = self.lanes[lane].hash;
        let deferred = left.deferred.iter().find_map(|(_, reason)| reason.as_ref());
        if let Some(reason) = deferred.or(verdict.failed.first().map(|(_, reason)| reason)) {
            let reason = self.reasons.intern(reason);
            self.legs[leg].last = Some(reason.clone());
            self.lanes[lane].last = Some(reason);
        }
        // A message that is over with this is forgotten at once, and needs no notes.
        let over = left.deferred.is_empty() && left.moved.is_empty() && verdict.failed.is_empty();
        if over && !self.messages[message].has(Message::EXTRA) && self.legs_of(message).nth(1).is_none() {
            return;
        }
        if !verdict.delivered.is_empty() {
            self.extra_mut(message).done.extend(verdict.delivered.iter().map(|(recipient, _)| (*recipient, hash)));
        }
        if !verdict.failed.is_empty() {
            self.extra_mut(message).reporting.extend(verdict.failed.iter().map(|(recipient, _)| (*recipient, hash)));
        }
    }

    /// Has recipients of a leg go elsewhere, but for those with whom it is over there.
    fn move_to(&mut self, from: u32, destination: &Rc<str>, local: bool, mut recipients: Vec<u32>) {
        let Leg { message, domain, attempts, .. } = self.legs[from];
        self.legs[from].set(Leg::LEFT, true);
        let hash = crate::hash::of_name(destination);
        let over = self.over_at(message, hash);
        recipients.retain(|recipient| !over.contains(recipient));
        if recipients.is_empty() {
            return;
        }
        let there = self.legs_of(message).find(|leg| self.destination(*leg) == destination);
        let Some(leg) = there else {
            self.add_leg(message, destination, Kind::of(local), recipients, domain, attempts);
            return;
        };
        self.add_recipients(leg, recipients);
        self.legs[leg].domain = self.legs[leg].domain.joined(domain);
        if self.legs[leg].place == Place::Over && self.legs[leg].has(Leg::LEFT) {
            // Routes that lead back and forth must not become a loop without rest.
            let wait = self.backoff(u32::from(self.legs[leg].attempts.max(1)));
            self.put_off(leg, wait);
        } else if self.legs[leg].place == Place::Over {
            self.make_ready(leg);
        }
    }

    /// Recipients of a message with whom it is over at a destination.
    fn over_at(&self, message: u32, hash: u32) -> BTreeSet<u32> {
        let Some(extra) = self.extra(message) else { return BTreeSet::new() };
        let dead = extra.dead.iter().map(|dead| (dead.recipient, dead.destination));
        let all = extra.done.iter().chain(&extra.reporting).copied().chain(dead);
        all.filter(|(_, at)| *at == hash).map(|(recipient, _)| recipient).collect()
    }

    /// Adds recipients to a leg: to those that are left, or, while an attempt is under way without them, to those that join.
    pub(crate) fn add_recipients(&mut self, leg: u32, mut recipients: Vec<u32>) {
        let message = self.legs[leg].message;
        if self.legs[leg].place == Place::Active {
            recipients.retain(|recipient| !self.is_pending(leg, *recipient));
            return self.extra_mut(message).joining.extend(recipients.into_iter().map(|recipient| (leg, recipient)));
        }
        recipients.extend(self.pending(leg));
        recipients.sort_unstable();
        recipients.dedup();
        self.set_pending(leg, recipients);
    }

    /// Adds to those that are left of a leg who was to join it while its attempt was under way.
    fn join(&mut self, leg: u32, pending: &mut Vec<u32>) {
        let message = self.legs[leg].message;
        if self.extra(message).is_none_or(|extra| extra.joining.is_empty()) {
            return;
        }
        let joining = &mut self.extra_mut(message).joining;
        pending.extend(joining.iter().filter(|(of, _)| *of == leg).map(|(_, recipient)| *recipient));
        joining.retain(|(of, _)| *of != leg);
        pending.sort_unstable();
        pending.dedup();
    }

    /// Everybody of a message who is to be told of as late, if it is time for that. `known`: what has just been said of
    /// some of them.
    pub(crate) fn notice_of_delay(&mut self, message: u32, known: &[(u32, Option<Reason>)]) -> Vec<(u32, Reason)> {
        let record = &self.messages[message];
        let is_due = self.options.delay_notice.is_some_and(|after| self.age(message, self.now.tick) >= after.0);
        if !is_due || record.has(Message::DELAY_TOLD) || record.has(Message::NULL_SENDER) || record.has(Message::HELD) {
            return Vec::new();
        }
        self.messages[message].set(Message::DELAY_TOLD, true);
        let mut delayed: BTreeMap<u32, Reason> = BTreeMap::new();
        delayed.extend(known.iter().filter_map(|(recipient, reason)| Some((*recipient, reason.clone()?))));
        let legs: Vec<_> = self.legs_of(message).collect();
        for leg in legs {
            let reason = self.last_reason(leg).map_or_else(not_tried, |last| (**last).clone());
            for recipient in self.pending(leg) {
                delayed.entry(recipient).or_insert_with(|| reason.clone());
            }
        }
        delayed.into_iter().collect()
    }

    /// Why a leg waits: what was said of it, or of its destination.
    pub(crate) fn last_reason(&self, leg: u32) -> Option<&Rc<Reason>> {
        self.legs[leg].last.as_ref().or(self.lanes[self.legs[leg].lane].last.as_ref())
    }

    /// Takes a message out of which nothing is left to do; true if it was that. One with dead recipients stays, and so does
    /// one of which nobody knows who is to have it.
    pub(crate) fn settle_if_over(&mut self, message: u32) -> bool {
        if self.messages[message].has(Message::UNREADABLE) {
            return false;
        }
        let over = self.legs_of(message).all(|leg| self.legs[leg].place == Place::Over);
        let kept = self.extra(message).is_some_and(|extra| !extra.reporting.is_empty() || !extra.dead.is_empty());
        if over && !kept {
            self.remove(message);
            return true;
        }
        self.recount(message);
        self.lay_to_rest(message);
        false
    }
}

/// Outcomes by recipient, ascending; those of one recipient as they came.
fn in_order(outcomes: &[(u32, Outcome)]) -> Cow<'_, [(u32, Outcome)]> {
    if outcomes.is_sorted_by_key(|(number, _)| *number) {
        return Cow::Borrowed(outcomes);
    }
    let mut sorted = outcomes.to_vec();
    sorted.sort_by_key(|(number, _)| *number);
    Cow::Owned(sorted)
}

fn not_tried() -> Reason {
    Reason::ours(Status(4, 4, 1), "the destination does not answer; the message has not been tried yet")
}
