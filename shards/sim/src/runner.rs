//! The runner of a shard, in small: what `shards/deliver` does around the queue. It does what the queue asks for, and carries
//! outcomes back to the queue and the store.

use crate::calendar::Task;
use crate::delivery::{Job, Owner};
use crate::fault::Fault;
use crate::leases::Asker;
use crate::plan::{BOXES, SECOND};
use crate::world::World;
use ringpost_base::SpoolId;
use ringpost_message::Envelope;
use ringpost_queue::{
    Action, Asked, Attempt, DomainHash, How, LegId, NewItem, NewLeg, Outcome, Reason, Status, Verdict,
};
use std::rc::Rc;

/// Actions that are done at one moment; the rest come right after.
const ACTIONS_AT_ONCE: usize = 64;

impl World {
    /// What the queue keeps of a message: its recipients by where they go.
    pub(crate) fn item(&self, envelope: &Envelope, size: u64) -> NewItem {
        let mut legs: Vec<NewLeg> = Vec::new();
        let mut priority = None;
        for (number, recipient) in (0..).zip(&envelope.recipients) {
            let domain = DomainHash::of_address(&recipient.address);
            let Some(route) = self.plan.routes.route(&recipient.address) else { continue };
            priority = priority.min(Some(route.priority)).or(Some(route.priority));
            for destination in route.destinations {
                match legs.iter_mut().find(|leg| leg.destination == destination.name) {
                    Some(leg) => {
                        leg.recipients.push(number);
                        leg.domain = leg.domain.joined(domain);
                    }
                    None => legs.push(NewLeg {
                        destination: destination.name.clone(),
                        local: destination.local,
                        recipients: vec![number],
                        domain,
                    }),
                }
            }
        }
        NewItem {
            id: envelope.id,
            priority: priority.unwrap_or_default(),
            size,
            null_sender: envelope.from.is_empty(),
            sender_domain: DomainHash::of_address(&envelope.from),
            legs,
            recovered: false,
            state: Box::default(),
            legacy_done: Vec::new(),
            recipients: envelope.recipients.len() as u32,
            unreadable: false,
        }
    }

    /// Who is to get a message, and where.
    pub(crate) fn duties(&self, envelope: &Envelope) -> Vec<(u32, String, Rc<str>)> {
        let mut duties = Vec::new();
        for (number, recipient) in (0..).zip(&envelope.recipients) {
            let route = self.plan.routes.route(&recipient.address);
            for destination in route.map_or(&[][..], |route| route.destinations) {
                duties.push((number, recipient.address.to_string(), destination.name.clone()));
            }
        }
        duties
    }

    pub(crate) fn push(&mut self, shard: usize, item: NewItem) {
        let (now, id) = (self.clocks(), item.id);
        let Some(own) = self.shard(shard) else { return };
        let pushed = own.queue.push(item, now);
        if !pushed.new || pushed.damaged {
            self.book.violate(format!("{id} comes into the queue as {pushed:?}"));
        }
        self.look_at_queue(shard);
    }

    /// Has the queue looked at, soon.
    pub(crate) fn look_at_queue(&mut self, shard: usize) {
        let now = self.now;
        self.look_at_queue_at(shard, now + 1);
    }

    fn look_at_queue_at(&mut self, shard: usize, at: u64) {
        let now = self.now;
        let Some(own) = self.shard(shard) else { return };
        if own.queue_at.is_none_or(|planned| at < planned || planned < now) {
            own.queue_at = Some(at);
            self.task(at.saturating_sub(now), shard, Task::Queue);
        }
    }

    pub(crate) fn serve_queue(&mut self, shard: usize) {
        if self.host.as_ref().is_none_or(|host| host.stopping.is_some()) {
            return;
        }
        let now = self.clocks();
        for _ in 0..ACTIONS_AT_ONCE {
            let Some(own) = self.shard(shard) else { return };
            own.queue_at = None;
            match own.queue.next(now) {
                Some(action) => self.act(shard, action),
                None => break,
            }
        }
        let tick_began = self.tick_began;
        let Some(own) = self.shard(shard) else { return };
        if let Some(due) = own.queue.next_due() {
            let at = (tick_began + due.nanos()).max(self.now + SECOND / 1000);
            self.look_at_queue_at(shard, at);
        }
    }

    fn act(&mut self, shard: usize, action: Action) {
        match action {
            Action::Attempt(attempt) => self.attempt(shard, attempt),
            Action::Lease { destination, held } => {
                if let Some(number) = self.destination(&destination) {
                    self.ask(shard, Asker::Queue, number, held);
                }
            }
            Action::Release { destination, slots, report } => {
                if let Some(number) = self.destination(&destination) {
                    self.give(shard, Asker::Queue, number, slots, report);
                }
            }
            Action::Expire { id, leg, recipients, reason } => {
                let outcomes = all(&recipients, &Outcome::Failed(reason));
                self.finish(shard, Attempted { id, leg, destination: None, known: None }, &outcomes, false);
            }
            Action::Delay { id, recipients } => {
                self.note_state(shard, id);
                self.report(shard, id, Verdict { delayed: recipients, ..Verdict::default() }, None);
            }
            Action::Forget { id, .. } => {
                // Dead letters are kept for longer than a run; so nothing was left to do of it.
                self.settle(shard, id);
            }
        }
    }

    fn attempt(&mut self, shard: usize, attempt: Attempt) {
        let Attempt { id, leg, destination, recipients, .. } = attempt;
        self.note(format_args!("{shard} {id} attempt at {destination} for {recipients:?}"));
        let latency = self.disk_latency();
        let Some(own) = self.shard(shard) else { return };
        let number = own.number();
        let hot = own.hot.contains_key(&id);
        let job = Job { id, owner: Owner::Queue(leg), destination, recipients, content: None };
        own.jobs.insert(number, job);
        self.task(if hot { 1 } else { latency }, shard, Task::Loaded(number));
    }

    /// The message of an attempt has been read, or could not be.
    pub(crate) fn loaded(&mut self, shard: usize, number: u32) {
        let Some(mut job) = self.shard(shard).and_then(|own| own.jobs.remove(&number)) else { return };
        let dropped = self.book.facts(job.id).is_some_and(|facts| facts.dropped);
        let content = if dropped { None } else { self.load(shard, job.id) };
        let Some(content) = content else {
            let outcomes = all(&job.recipients, &Outcome::Deferred(ours("the message can't be read")));
            return self.job_done(shard, &job, outcomes, false);
        };
        job.content = Some(content);
        if &*job.destination == BOXES {
            let latency = self.disk_latency();
            self.task(latency, shard, Task::Boxed(number));
            if let Some(own) = self.shard(shard) {
                own.jobs.insert(number, job);
            }
            return;
        }
        self.start_delivery(shard, job);
    }

    /// A mailbox is written, durably, or could not be. A repetition replaces its own file.
    pub(crate) fn boxed(&mut self, shard: usize, number: u32) {
        let Some(job) = self.shard(shard).and_then(|own| own.jobs.remove(&number)) else { return };
        if self.strikes(Fault::LocalFails) {
            let outcomes = all(&job.recipients, &Outcome::Deferred(ours("the mailbox can't be written")));
            return self.job_done(shard, &job, outcomes, false);
        }
        self.put_into_boxes(&job);
        let outcomes = all(&job.recipients, &Outcome::Delivered(How::Final));
        self.job_done(shard, &job, outcomes, false);
    }

    pub(crate) fn put_into_boxes(&mut self, job: &Job) {
        let Some(content) = &job.content else { return };
        for number in &job.recipients {
            let Some(recipient) = content.envelope.recipients.get(*number as usize) else { continue };
            if self.boxes.insert((job.id, recipient.address.to_string())) {
                self.book.arrived(BOXES, job.id, &recipient.address, &content.bytes);
            }
        }
    }

    pub(crate) fn job_done(&mut self, shard: usize, job: &Job, outcomes: Vec<(u32, Outcome)>, hop_failed: bool) {
        match job.owner {
            Owner::Queue(leg) => {
                let known = job.content.as_ref().map(|content| content.envelope.clone());
                let attempted = Attempted { id: job.id, leg, destination: Some(job.destination.clone()), known };
                self.finish(shard, attempted, &outcomes, hop_failed);
            }
            Owner::Session(session, messages) => self.slot_used(shard, session, job, messages, outcomes, hop_failed),
        }
    }

    /// Outcomes settle the message, put it off, or have its sender told.
    fn finish(&mut self, shard: usize, attempted: Attempted, outcomes: &[(u32, Outcome)], hop_failed: bool) {
        let (now, id) = (self.clocks(), attempted.id);
        let Some(own) = self.shard(shard) else { return };
        let verdict = own.queue.outcome(attempted.leg, outcomes, Asked::of(hop_failed), now);
        self.look_at_queue(shard);
        if verdict.unknown {
            let dropped = self.book.facts(id).is_some_and(|facts| facts.dropped);
            if !dropped {
                self.book.violate(format!("the queue does not know of the attempt of {id} that it has begun"));
            }
            return;
        }
        self.note(format_args!("{shard} {id} settled {}, failed {:?}", verdict.settled, verdict.failed));
        // Of one that is settled nothing is noted: its settlement says it all, and comes once its reports are durable.
        for (number, _) in verdict.delivered.iter().filter(|_| !verdict.settled) {
            self.book.done(id, *number, attempted.destination.as_deref());
        }
        if verdict.state_changed && !verdict.settled {
            self.note_state(shard, id);
        }
        let notify_of =
            |number: &u32| attempted.known.as_ref().and_then(|envelope| envelope.recipients.get(*number as usize));
        let success =
            verdict.delivered.iter().any(|(number, _)| notify_of(number).is_some_and(|to| to.notify.success()));
        if success || !verdict.failed.is_empty() || !verdict.delayed.is_empty() {
            self.report(shard, id, verdict, attempted.destination);
        } else if verdict.settled {
            self.settle(shard, id);
        } else if verdict.wait.is_some() && self.shard(shard).is_some_and(|own| own.kept.contains_key(&id)) {
            self.persist(shard, id);
        }
    }
}

/// An attempt that is over.
struct Attempted {
    id: SpoolId,
    leg: LegId,
    /// Where it was made; nothing if none was.
    destination: Option<Rc<str>>,
    /// The envelope, where it was read for it.
    known: Option<Rc<Envelope>>,
}

/// The same for all of them.
pub(crate) fn all(recipients: &[u32], outcome: &Outcome) -> Vec<(u32, Outcome)> {
    recipients.iter().map(|number| (*number, outcome.clone())).collect()
}

/// A reason of the host's own, for waiting.
pub(crate) fn ours(text: &str) -> Reason {
    Reason::ours(Status(4, 3, 0), text)
}
