//! The class next-hop, in small: a message is taken to its next hops while its client waits, in slots that sessions have of
//! their own.

use crate::calendar::Task;
use crate::charge::Handed;
use crate::delivery::{Job, Owner};
use crate::leases::Asker;
use crate::plan::SECOND;
use crate::runner::{all, ours};
use crate::store::Content;
use crate::world::World;
use ringpost_queue::{HandedOver, Lease, LeaseReport, Outcome};
use ringpost_smtp::replies;
use std::collections::VecDeque;
use std::rc::Rc;

/// How long it takes before it is asked again whether a destination that is busy has room.
const BUSY_PAUSE: u64 = SECOND / 50;

/// The longest wait for a rate before it is asked again.
const RATE_PAUSE_MAX: u64 = SECOND;

/// Sessions that wait for one destination.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    sessions: VecDeque<u32>,
    /// Slots that sessions hold.
    held: u32,
    /// A question is under way, or will be.
    ushered: bool,
}

/// A message that is being handed over.
#[derive(Debug)]
pub(crate) struct HandOver {
    content: Content,
    /// Destinations that were not asked yet, and the recipients for each.
    left: VecDeque<(Rc<str>, Vec<u32>)>,
    outcomes: Vec<(u32, Outcome)>,
}

impl World {
    /// Begins to hand a message over.
    pub(crate) fn hand_over(&mut self, shard: usize, session: u32, content: Content) -> HandOver {
        if let Some(facts) = self.book.facts(content.envelope.id) {
            facts.handing_over = true;
        }
        let mut left: VecDeque<(Rc<str>, Vec<u32>)> = VecDeque::new();
        for (number, _, destination) in self.duties(&content.envelope) {
            match left.iter_mut().find(|(name, _)| *name == destination) {
                Some((_, numbers)) => numbers.push(number),
                None => left.push_back((destination, vec![number])),
            }
        }
        let first = left.front().and_then(|(name, _)| self.destination(name));
        first.into_iter().for_each(|destination| self.wait_for_slot(shard, session, destination));
        self.task(self.plan.next_hop_timeout, shard, Task::HandOver(session));
        HandOver { content, left, outcomes: Vec::new() }
    }

    fn wait_for_slot(&mut self, shard: usize, session: u32, destination: usize) {
        let Some(own) = self.shard(shard) else { return };
        let turn = &mut own.turns[destination];
        turn.sessions.push_back(session);
        if !std::mem::replace(&mut turn.ushered, true) {
            self.task(1, shard, Task::Usher(destination));
        }
    }

    /// Asks for slots as long as sessions wait for them.
    pub(crate) fn usher(&mut self, shard: usize, destination: usize) {
        let Some(own) = self.shard(shard) else { return };
        let turn = &mut own.turns[destination];
        let waiting: VecDeque<u32> =
            turn.sessions.iter().copied().filter(|session| own.sessions.contains_key(session)).collect();
        turn.sessions = waiting;
        if turn.sessions.is_empty() {
            turn.ushered = false;
            // Who has waited and wants no more says so: the owner would keep its place, and others behind it, for ever.
            return self.give(shard, Asker::Sessions, destination, 0, LeaseReport::default());
        }
        let held = turn.held;
        self.ask(shard, Asker::Sessions, destination, held);
    }

    pub(crate) fn sessions_leased(&mut self, shard: usize, destination: usize, lease: Lease) {
        let pause = match lease {
            Lease::Granted { messages } => {
                self.seat(shard, destination, messages);
                1
            }
            Lease::Busy => BUSY_PAUSE,
            Lease::Wait { open: true, .. } | Lease::Unknown => {
                self.turn_away(shard, destination);
                1
            }
            Lease::Wait { span, .. } => (span.as_nanos() as u64).clamp(BUSY_PAUSE, RATE_PAUSE_MAX),
        };
        self.task(pause, shard, Task::Usher(destination));
    }

    /// Gives a slot to the session that has waited the longest; one that waits no more lets it go.
    fn seat(&mut self, shard: usize, destination: usize, messages: u32) {
        let Some(own) = self.shard(shard) else { return };
        let turn = &mut own.turns[destination];
        turn.held += 1;
        let session = turn.sessions.pop_front();
        let handover = session.and_then(|session| own.sessions.get_mut(&session)?.handover.as_mut());
        let next = handover.and_then(|handover| Some((handover.left.pop_front()?, handover.content.clone())));
        let (Some(session), Some(((name, recipients), content))) = (session, next) else {
            return self.give_slot(shard, destination, LeaseReport { unused: messages, ..LeaseReport::default() });
        };
        let id = content.envelope.id;
        self.note(format_args!("{shard} {id} is handed over to {name}"));
        let owner = Owner::Session(session, messages);
        self.start_delivery(shard, Job { id, owner, destination: name, recipients, content: Some(content) });
    }

    fn give_slot(&mut self, shard: usize, destination: usize, report: LeaseReport) {
        if let Some(own) = self.shard(shard) {
            own.turns[destination].held -= 1;
        }
        self.give(shard, Asker::Sessions, destination, 1, report);
    }

    fn turn_away(&mut self, shard: usize, destination: usize) {
        let Some(own) = self.shard(shard) else { return };
        for session in std::mem::take(&mut own.turns[destination].sessions) {
            let handover = self.shard(shard).and_then(|own| own.sessions.get_mut(&session)?.handover.as_mut());
            if let Some(handover) = handover
                && let Some((_, recipients)) = handover.left.pop_front()
            {
                handover.outcomes.extend(all(&recipients, &Outcome::Deferred(ours("the target is left alone"))));
                self.next_of_handover(shard, session);
            }
        }
    }

    /// A slot has been used for a session's message.
    pub(crate) fn slot_used(
        &mut self,
        shard: usize,
        session: u32,
        job: &Job,
        messages: u32,
        outcomes: Vec<(u32, Outcome)>,
        hop_failed: bool,
    ) {
        let Some(destination) = self.destination(&job.destination) else { return };
        let delivered = outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Delivered(_)));
        let report = LeaseReport {
            delivered: u32::from(delivered),
            hop_failures: u32::from(hop_failed),
            unused: messages.saturating_sub(1),
        };
        self.give_slot(shard, destination, report);
        if let Some(inbound) = self.shard(shard).and_then(|own| own.sessions.get_mut(&session))
            && let Some(handover) = &mut inbound.handover
        {
            handover.outcomes.extend(outcomes);
            self.next_of_handover(shard, session);
        }
    }

    /// On to the next destination, or to the end.
    fn next_of_handover(&mut self, shard: usize, session: u32) {
        let Some(inbound) = self.shard(shard).and_then(|own| own.sessions.get_mut(&session)) else { return };
        let Some(handover) = &mut inbound.handover else { return };
        if let Some((name, _)) = handover.left.front() {
            let name = name.clone();
            let destination = self.destination(&name);
            return destination.into_iter().for_each(|destination| self.wait_for_slot(shard, session, destination));
        }
        let envelope = &handover.content.envelope;
        let recipients: Vec<u32> = (0..envelope.recipients.len() as u32).collect();
        let over = match HandedOver::proof(envelope.id, &handover.outcomes, &recipients) {
            Ok(proof) => Handed::Whole(proof),
            Err(not) if not.is_refused() => Handed::Refused(replies::NEXT_HOP_REFUSED),
            Err(not) if not.delivered.is_empty() && not.failed.is_empty() => {
                Handed::Refused(replies::NEXT_HOP_UNAVAILABLE)
            }
            Err(not) => Handed::Part(not.delivered.into_iter().map(|(number, _)| number).collect()),
        };
        self.handed_over(shard, session, over);
    }

    /// The client has waited for as long as it may.
    pub(crate) fn hand_over_in_vain(&mut self, shard: usize, session: u32) {
        let handover = self.shard(shard).and_then(|own| own.sessions.get_mut(&session)?.handover.take());
        let Some(handover) = handover else { return };
        let id = handover.content.envelope.id;
        self.note(format_args!("{shard} {id} was not handed over in time"));
        self.book.excuse(id);
        if let Some(own) = self.shard(shard) {
            own.turns.iter_mut().for_each(|turn| turn.sessions.retain(|waiting| *waiting != session));
        }
        if let Some(job) = self.call_off(shard, session)
            && let (Some(destination), Owner::Session(_, messages)) = (self.destination(&job.destination), job.owner)
        {
            let unused = messages.saturating_sub(1);
            self.give_slot(shard, destination, LeaseReport { unused, ..LeaseReport::default() });
        }
        self.handed_over(shard, session, Handed::Refused(replies::NEXT_HOP_UNAVAILABLE));
    }
}
