//! How an operator sees the queue: pages of messages, single ones, and numbers.

use crate::hash::EVERYWHERE;
use crate::lane::Kind;
use crate::moment::{tick_of, unit_of};
use crate::record::{Extra, Message, Place};
use crate::{
    DeadRecipient, DestinationTotals, Filter, LegView, Page, Queue, Reason, RecipientState, RecipientView, Remembered,
    State, Status, Totals, View,
};
use ringpost_base::{Now, SpoolId};
use std::collections::BTreeSet;
use std::rc::Rc;

impl Queue {
    /// The messages behind an id that a filter finds, in order of their ids: so many at most, and having looked at so many
    /// at most. Its cost is that of what it looks at, however many there are.
    pub fn page(&self, filter: &Filter, after: Option<SpoolId>, limit: usize, scan_max: usize, now: Now) -> Page {
        let mut page = Page::default();
        let mut places = self.order.after(after, |place| self.messages[place].id()).peekable();
        let mut last = after;
        while page.entries.len() < limit && page.scanned < scan_max {
            let Some(message) = places.next() else { return page };
            page.scanned += 1;
            last = Some(self.messages[message].id());
            if self.finds(filter, message, now) {
                page.entries.push(self.view(message, now));
            }
        }
        page.next = places.peek().and(last);
        page
    }

    /// Whether a message is there and is one that a filter finds.
    pub fn fits(&self, filter: &Filter, id: SpoolId, now: Now) -> bool {
        self.find(id).is_some_and(|message| self.finds(filter, message, now))
    }

    fn finds(&self, filter: &Filter, message: u32, now: Now) -> bool {
        let Message { priority, sender, counted, .. } = self.messages[message];
        let age = self.age(message, now.tick);
        let any_leg = |fits: &dyn Fn(u32) -> bool| self.legs_of(message).any(fits);
        let is_left = |leg: u32, name: &str| **self.destination(leg) == *name && self.stands(leg).is_some();
        (filter.states.is_empty() || filter.states.contains(&counted))
            && filter.priority.is_none_or(|wanted| wanted == priority)
            && filter.sender_domain.is_none_or(|wanted| sender.may_be(wanted))
            && filter.older_than.is_none_or(|least| age >= least)
            && filter.newer_than.is_none_or(|most| age < most)
            && filter.destination.as_ref().is_none_or(|name| any_leg(&|leg| is_left(leg, name)))
            && filter.recipient_domain.is_none_or(|wanted| any_leg(&|leg| self.legs[leg].domain.may_be(wanted)))
    }

    /// One message.
    pub fn show(&self, id: SpoolId, now: Now) -> Option<View> {
        self.find(id).map(|message| self.view(message, now))
    }

    fn view(&self, message: u32, now: Now) -> View {
        let record = &self.messages[message];
        let mut legs: Vec<_> = self.legs_of(message).filter_map(|leg| self.leg_view(leg, now)).collect();
        if record.has(Message::UNREADABLE) {
            legs.push(unreadable());
        }
        View {
            id: record.id(),
            made: record.id().made(),
            age: self.age(message, now.tick),
            size: u64::from(record.size),
            state: record.counted,
            priority: record.priority,
            recipients: record.recipients,
            delay_told: record.has(Message::DELAY_TOLD),
            legs,
        }
    }

    /// Where a leg stands, and how many recipients are left of it; nothing if none are.
    fn stands(&self, leg: u32) -> Option<(State, usize)> {
        let record = &self.legs[leg];
        let hash = self.lanes[record.lane].hash;
        let extra = self.extra(record.message);
        let reporting = || extra.map_or(0, |extra| extra.reporting.iter().filter(|(_, at)| *at == hash).count());
        let dead = || extra.map_or(0, |extra| extra.dead.iter().filter(|dead| dead.destination == hash).count());
        let pending = self.pending_len(leg);
        match record.place {
            Place::Ready => Some((State::Ready, pending)),
            Place::Waiting => Some((State::Deferred, pending)),
            Place::Active => Some((State::Active, pending)),
            Place::Parked => Some((State::Held, pending)),
            Place::Over if reporting() > 0 => Some((State::Active, reporting())),
            Place::Over if dead() > 0 => Some((State::Dead, dead())),
            Place::Over | Place::Nowhere => None,
        }
    }

    /// A leg, unless nothing of it is left.
    fn leg_view(&self, leg: u32, now: Now) -> Option<LegView> {
        let (state, recipients) = self.stands(leg)?;
        let record = &self.legs[leg];
        let due = tick_of(record.due.near(unit_of(self.now.tick)));
        Some(LegView {
            destination: self.destination(leg).clone(),
            state,
            attempts: u32::from(record.attempts),
            due_in: (record.place == Place::Waiting).then(|| due.since(now.tick)),
            recipients,
            last: record.last.as_ref().map(|last| (**last).clone()),
        })
    }

    /// Where each recipient of a message stands at each of its destinations. Empty: there is no such message, or nobody knows.
    pub fn recipients(&self, id: SpoolId) -> Vec<RecipientView> {
        let Some(message) = self.find(id) else { return Vec::new() };
        let mut views = Vec::new();
        for leg in self.legs_of(message) {
            let destination = Some(self.destination(leg).clone());
            let reason = self.legs[leg].last.as_ref().map(|last| (**last).clone());
            views.extend(self.pending(leg).into_iter().map(|number| RecipientView {
                number,
                destination: destination.clone(),
                state: RecipientState::Pending,
                reason: reason.clone(),
            }));
        }
        if let Some(extra) = self.extra(message) {
            let view = |number: u32, hash: u32, state| {
                let destination = self.name_of(message, hash);
                RecipientView { number, destination, state, reason: None }
            };
            views.extend(extra.joining.iter().map(|(leg, number)| RecipientView {
                number: *number,
                destination: Some(self.destination(*leg).clone()),
                state: RecipientState::Pending,
                reason: None,
            }));
            views.extend(extra.done.iter().map(|(number, hash)| view(*number, *hash, RecipientState::Done)));
            views.extend(extra.reporting.iter().map(|(number, hash)| view(*number, *hash, RecipientState::Reporting)));
            views.extend(extra.dead.iter().map(|dead| RecipientView {
                reason: Some((*dead.reason).clone()),
                ..view(dead.recipient, dead.destination, RecipientState::Dead)
            }));
        }
        views.sort_by(|a, b| (a.number, &a.destination).cmp(&(b.number, &b.destination)));
        views
    }

    /// The destination of a hash: one of the message's own, or another that is known.
    fn name_of(&self, message: u32, hash: u32) -> Option<Rc<str>> {
        let own = self.legs_of(message).map(|leg| &self.lanes[self.legs[leg].lane]).find(|lane| lane.hash == hash);
        own.or_else(|| self.lanes.all().find(|lane| lane.hash == hash)).map(|lane| lane.name.clone())
    }

    /// The queue in numbers. Its cost is that of the destinations, however many messages there are.
    pub fn totals(&self) -> Totals {
        let destinations = self.lanes.all().map(|lane| DestinationTotals {
            destination: lane.name.clone(),
            local: lane.kind == Kind::Local,
            gone: lane.kind == Kind::Gone,
            ready: lane.ready(),
            deferred: lane.deferred,
            active: lane.active,
            held: lane.held,
            dead_recipients: lane.dead,
            slots: lane.holding.slots,
            last: lane.last.as_ref().map(|last| (**last).clone()),
        });
        Totals {
            by_state: self.by_state,
            by_priority: self.by_priority,
            oldest: self.order.first().map(|message| self.messages[message].id()),
            destinations: destinations.collect(),
        }
    }

    /// What the spool is to keep of a message, to be handed back with it after a restart. Empty: nothing, or there is no
    /// such message. Whoever is still to be reported is not in it: after a restart that recipient is tried again. Nothing is
    /// to be noted for one whose envelope can't be read.
    pub fn state(&self, id: SpoolId) -> Vec<u8> {
        self.find(id).map(|message| self.remembered(message).encode()).unwrap_or_default()
    }

    /// What a restart would have to know of a message.
    pub(crate) fn remembered(&self, message: u32) -> Remembered {
        let record = &self.messages[message];
        let (held, delay_told) = (record.has(Message::HELD), record.has(Message::DELAY_TOLD));
        let Some(extra) = self.extra(message) else {
            return Remembered { held, delay_told, ..Remembered::default() };
        };
        // A recipient of whom nothing is left to do is done everywhere, whatever its routes will be.
        let open: BTreeSet<u32> = open_of(extra).collect();
        let is_open =
            |number: u32| open.contains(&number) || self.legs_of(message).any(|leg| self.is_pending(leg, number));
        let at = |(number, hash): &(u32, u32)| (*number, if is_open(*number) { *hash } else { EVERYWHERE });
        let mut done: Vec<_> = extra.done.iter().map(at).collect();
        done.sort_unstable_by_key(|(number, hash)| (*hash, *number));
        done.dedup();
        let dead = extra.dead.iter().map(|dead| DeadRecipient {
            recipient: dead.recipient,
            destination: dead.destination,
            reason: (*dead.reason).clone(),
        });
        Remembered { held, delay_told, done, dead: dead.collect(), buried_at: extra.buried_at }
    }
}

/// Recipients with whom it is not over, apart from those still to be served.
fn open_of(extra: &Extra) -> impl Iterator<Item = u32> {
    let reporting = extra.reporting.iter().map(|(number, _)| *number);
    let dead = extra.dead.iter().map(|dead| dead.recipient);
    reporting.chain(dead).chain(extra.joining.iter().map(|(_, number)| *number))
}

/// The leg that stands for all that is known of a message whose envelope can't be read.
fn unreadable() -> LegView {
    // RFC 3463 section 3.4: other or undefined mail system status.
    let reason = Reason::ours(Status(5, 3, 0), "the envelope can't be read; kept as it is until it is dropped");
    LegView { destination: "".into(), state: State::Dead, attempts: 0, due_in: None, recipients: 0, last: Some(reason) }
}
