//! The runner of one shard: does what the queue asks for, and carries the outcomes back to the queue and the spool.

use crate::handover::Sessions;
use crate::leases::{Asker, Leases};
use crate::parcel::{Done, Parcel};
use crate::spans::Traced;
use crate::target::{Target, Targets};
use crate::troubles::{TargetState, Troubles};
use ringpost_base::{MessageIds, SpoolId};
use ringpost_message::{Envelope, Recipient};
use ringpost_metrics::{Block, Counter, Gauge, Timing};
use ringpost_queue::{
    Action, Asked, Attempt, DomainHash, Forgotten, How, LegId, NewItem, NewLeg, Options as QueueOptions, Outcome,
    Pushed, Queue, Reason, Routes, Status, Verdict,
};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{Inbox, Pace, after, contain, contain_now, faults, now, spawn, tick};
use ringpost_store::{FilesThread, JobDone, Loaded, Store};
use ringpost_telemetry::Tracer;
use ringpost_trace::{SpanKind, trace_id};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Reports that one shard makes at a time. Each holds the start of a message, and waits where the spool can't take it; while
/// there are so many, no attempt is begun that might lead to another.
const REPORTS_MAX: usize = 256;

/// The fault of a delivery that panics; its argument is the name of a target.
const DELIVERY_PANIC: &str = "delivery.panic";

/// What a runner is made of.
pub struct RunnerSetup {
    /// The shard's queue.
    pub queue: Queue,
    /// The shard's spool.
    pub store: Rc<Store>,
    /// The thread that writes Maildirs and files.
    pub files: FilesThread,
    /// The way to the owners of destinations.
    pub leases: Rc<Leases>,
    /// Makes the ids of reports; the same maker as that of other messages.
    pub ids: Rc<RefCell<MessageIds>>,
    /// Which targets an address has.
    pub routes: Rc<Routes>,
    /// The targets.
    pub targets: Targets,
    /// Who gets what is sent to an address by this server itself.
    pub reach: Rc<Reach>,
    /// Where it counts.
    pub block: Arc<Block>,
    /// What its spans are made with.
    pub tracer: Rc<Tracer>,
}

/// Says whose mailboxes an address leads to: by its aliases and without the detail of a subaddress, where it is one of this
/// server's domains. Nobody: there is no such user.
pub type Reach = dyn Fn(&str) -> Vec<Recipient>;

/// Where mail goes, as the config in force has it.
pub struct Directions {
    /// Which targets an address has.
    pub routes: Rc<Routes>,
    /// The targets.
    pub targets: Targets,
    /// Who gets what is sent to an address by this server itself.
    pub reach: Rc<Reach>,
}

/// Delivers the messages of one shard.
pub struct Runner {
    pub(crate) queue: RefCell<Queue>,
    pub(crate) store: Rc<Store>,
    pub(crate) files: FilesThread,
    pub(crate) leases: Rc<Leases>,
    pub(crate) ids: Rc<RefCell<MessageIds>>,
    pub(crate) directions: RefCell<Directions>,
    pub(crate) block: Arc<Block>,
    pub(crate) tracer: Rc<Tracer>,
    /// Attempts that wait for the files thread, by the number of their job.
    pub(crate) in_files: RefCell<HashMap<u64, crate::local::InFiles>>,
    pub(crate) next_job: Cell<u64>,
    /// Local targets that fail.
    pub(crate) troubles: Troubles,
    /// Sessions that wait for a next hop, by destination.
    pub(crate) sessions: RefCell<HashMap<Rc<str>, Sessions>>,
    work: Bell,
    stopped: Cell<bool>,
    /// Reports being made, and messages being read for them.
    pub(crate) reporting: Cell<usize>,
    /// How often what waits was routed again.
    pub(crate) round: Cell<u64>,
}

/// An attempt with what it is made of.
pub(crate) struct Underway {
    pub(crate) leg: LegId,
    pub(crate) destination: Rc<str>,
    pub(crate) parcel: Parcel,
    pub(crate) traced: Option<Traced>,
}

impl Runner {
    /// A runner that has not begun.
    pub fn new(setup: RunnerSetup) -> Rc<Self> {
        let RunnerSetup { queue, store, files, leases, ids, routes, targets, reach, block, tracer } = setup;
        let runner = Rc::new(Self {
            queue: RefCell::new(queue),
            store,
            files,
            leases,
            ids,
            directions: RefCell::new(Directions { routes, targets, reach }),
            block,
            tracer,
            in_files: RefCell::default(),
            next_job: Cell::new(0),
            troubles: Troubles::default(),
            sessions: RefCell::default(),
            work: Bell::default(),
            stopped: Cell::new(false),
            reporting: Cell::new(0),
            round: Cell::new(0),
        });
        let told = Rc::downgrade(&runner);
        runner.leases.when_freed(Box::new(move |destination| {
            if let Some(runner) = told.upgrade() {
                runner.queue.borrow_mut().freed(destination);
                runner.ring();
            }
        }));
        runner
    }

    /// What the queue keeps of a message: its recipients by where they go.
    pub fn item(&self, envelope: &Envelope, size: u64) -> NewItem {
        item(&self.directions.borrow().routes, envelope, size)
    }

    /// Takes a message that was accepted, some of whose recipients, by number, may be done already.
    pub fn accepted(&self, envelope: &Envelope, size: u64, done: &[u32]) {
        self.push(NewItem { legacy_done: done.to_vec(), ..self.item(envelope, size) });
        if !done.is_empty() {
            self.store.note(envelope.id, &self.queue.borrow().state(envelope.id));
        }
    }

    /// Takes a message of an earlier run.
    pub fn recovered(&self, item: NewItem) {
        let (id, old_form) = (item.id, !item.legacy_done.is_empty());
        let pushed = self.push(item);
        if pushed.damaged {
            tracing::error!(id = %id, "what was noted of a message can't be read; all its recipients are tried again");
        }
        if old_form {
            self.store.note(id, &self.queue.borrow().state(id));
        }
    }

    /// Adds a message to the queue.
    pub fn push(&self, item: NewItem) -> Pushed {
        let pushed = self.queue.borrow_mut().push(item, now());
        self.ring();
        pushed
    }

    /// Delivers by other routes and to other targets, from the next attempt on.
    pub fn redirect(self: &Rc<Self>, options: QueueOptions, directions: Directions) {
        self.queue.borrow_mut().configure(options, &|name| directions.targets.is_local(name));
        let former = self.directions.replace(directions);
        self.troubles.retain(|name| self.directions.borrow().targets.find(name).is_some());
        former.targets.retire(&self.directions.borrow().targets);
        let renewed = self.directions.borrow().targets.renewed_since(&former.targets);
        renewed.iter().for_each(|name| self.leases.renew(name));
        if former.routes != self.directions.borrow().routes {
            self.route_again();
        }
        self.ring();
    }

    /// The targets as they are now, to make the next ones from.
    pub fn targets(&self) -> Targets {
        self.directions.borrow().targets.clone()
    }

    /// The queue, for those who look into it. Ring after a change.
    pub fn queue(&self) -> &RefCell<Queue> {
        &self.queue
    }

    /// The spool that it delivers from.
    pub fn store(&self) -> &Rc<Store> {
        &self.store
    }

    /// How the targets do that this shard knows about: those elsewhere that it owns, and those here by what it tried itself.
    pub fn target_states(&self) -> Vec<TargetState> {
        let elsewhere = self.leases.view().into_iter().map(TargetState::of);
        elsewhere.chain(self.troubles.states()).collect()
    }

    /// The leases.
    pub fn leases(&self) -> &Rc<Leases> {
        &self.leases
    }

    /// There may be something to do.
    pub fn ring(&self) {
        self.work.ring();
    }

    /// Begins no further attempt: what is not delivered yet is left to the next start.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Attempts under way, and reports being made.
    pub fn in_flight(&self) -> usize {
        self.queue.borrow().in_flight() + self.reporting.get()
    }

    /// Does what the queue asks for, for as long as the shard lives.
    pub async fn run(self: Rc<Self>) {
        let mut pace = Pace::default();
        loop {
            let full = self.stopped.get() || self.reporting.get() >= REPORTS_MAX;
            let action = if full { None } else { self.queue.borrow_mut().next(now()) };
            match action {
                Some(action) => self.act(action),
                None => self.rest().await,
            }
            pace.breathe().await;
        }
    }

    /// Waits for a new message, an outcome, or the next message's time.
    async fn rest(&self) {
        let due = {
            let queue = self.queue.borrow();
            self.block.set(Gauge::QueueDeferred, queue.deferred() as u64);
            self.block.set(Gauge::QueueHeld, queue.held() as u64);
            self.block.set(Gauge::QueueDead, queue.dead() as u64);
            self.block.set(Gauge::QueueInFlight, queue.in_flight() as u64);
            queue.next_due()
        };
        // A report that is made rings.
        let full = self.stopped.get() || self.reporting.get() >= REPORTS_MAX;
        match due.filter(|_| !full) {
            None => self.work.heard().await,
            Some(due) => {
                let wait = due.since(tick()).max(Duration::from_millis(1));
                after(wait, self.work.heard()).await;
            }
        }
    }

    fn act(self: &Rc<Self>, action: Action) {
        match action {
            Action::Attempt(attempt) => self.attempt(attempt),
            Action::Lease { destination, held } => {
                let runner = self.clone();
                let asked = self.leases.ask(Asker::Queue, &destination, held);
                spawn("ask for a lease", async move {
                    let lease = asked.await;
                    runner.queue.borrow_mut().leased(&destination, lease, now());
                    runner.ring();
                });
            }
            Action::Release { destination, slots, report } => {
                self.leases.give(Asker::Queue, &destination, slots, report)
            }
            Action::Expire { id, leg, recipients, reason } => {
                let outcomes: Vec<_> =
                    recipients.iter().map(|number| (*number, Outcome::Failed(reason.clone()))).collect();
                self.finish(id, leg, None, Done::of(outcomes, false), Asked::Not);
            }
            Action::Delay { id, recipients } => {
                self.store.note(id, &self.queue.borrow().state(id));
                self.report(id, None, Verdict { delayed: recipients, ..Verdict::default() });
            }
            Action::Forget { id, cause } => {
                if cause == Forgotten::DeadLetter {
                    tracing::info!(id = %id, "message forgotten: its time as a dead letter is over");
                    self.block.add(Counter::DeadLettersForgotten, 1);
                } else {
                    tracing::info!(id = %id, "message forgotten: nothing is left to do");
                }
                self.store.settle(id);
            }
        }
    }

    fn attempt(self: &Rc<Self>, attempt: Attempt) {
        let traced = self.trace(attempt.id, &attempt.destination, attempt.number);
        if let Some(loaded) = self.store.load_hot(attempt.id) {
            return self.begin(attempt, loaded, traced);
        }
        let runner = self.clone();
        spawn("load a message", async move {
            match runner.store.load(attempt.id).await {
                Ok(loaded) => runner.begin(attempt, loaded, traced),
                Err(error) => {
                    tracing::error!(%error, id = %attempt.id, "message can't be read from the spool; kept there");
                    runner.put_off(&attempt, "the message can't be read from the spool", traced);
                }
            }
        });
    }

    fn put_off(self: &Rc<Self>, attempt: &Attempt, why: &str, traced: Option<Traced>) {
        let outcome = Outcome::Deferred(ours(why));
        let done = Done::all(&attempt.recipients, &outcome, false);
        self.traced(traced, SpanKind::Internal, &done);
        self.finish(attempt.id, attempt.leg, None, done, Asked::Not);
    }

    /// Hands a message to its target. A panic there ends the attempt and nothing else.
    fn begin(self: &Rc<Self>, attempt: Attempt, loaded: Loaded, traced: Option<Traced>) {
        let (id, leg, recipients) = (attempt.id, attempt.leg, attempt.recipients.clone());
        let destination = attempt.destination.clone();
        if let Err(panic) = contain_now(|| self.hand_to_target(attempt, loaded, traced)) {
            self.panicked(id, &destination, panic);
            let outcome = Outcome::Deferred(ours("a fault of this server"));
            self.finish(id, leg, None, Done::all(&recipients, &outcome, false), Asked::Not);
        }
    }

    /// Looks at every recipient's route again, since the config may have changed, and hands the rest to the target.
    fn hand_to_target(self: &Rc<Self>, attempt: Attempt, loaded: Loaded, traced: Option<Traced>) {
        let envelope = match Envelope::decode(&loaded.envelope) {
            Ok(envelope) => Rc::new(envelope),
            Err(error) => {
                tracing::error!(%error, id = %attempt.id, "message can't be delivered; kept in the spool");
                return self.put_off(&attempt, "the message's envelope is damaged", traced);
            }
        };
        let (here, elsewhere) = self.sort(&attempt, &envelope);
        let target = self.directions.borrow().targets.find(&attempt.destination).cloned();
        let Some(target) = target.filter(|_| !here.is_empty()) else {
            let done = Done::of(elsewhere, false);
            self.traced(traced, SpanKind::Internal, &done);
            return self.finish(attempt.id, attempt.leg, Some(&envelope), done, Asked::Not);
        };
        let Attempt { id, leg, destination, number, again, .. } = attempt;
        let context = if target.is_told_context() { self.context(id, traced.as_ref()) } else { None };
        let parcel = Parcel { id, envelope, content: loaded.content, recipients: here, number, again, context };
        let underway = Underway { leg, destination, parcel, traced };
        match &target {
            Target::Discard => {
                let mut done = Done::all(&underway.parcel.recipients, &Outcome::Delivered(How::Final), false);
                done.outcomes.extend(elsewhere);
                self.traced(underway.traced, SpanKind::Internal, &done);
                self.finish(id, leg, Some(&underway.parcel.envelope), done, Asked::Worked);
            }
            Target::Maildir(_) | Target::File(_) if faults::is_injected(DELIVERY_PANIC, &underway.destination) => {
                panic!("a fault on purpose")
            }
            Target::Maildir(template) => self.to_maildirs(template, underway, elsewhere),
            Target::File(directory) => self.to_file(directory, underway, elsewhere),
            Target::Hop(_) | Target::Webhook(_) => self.to_elsewhere(target.clone(), underway, elsewhere),
        }
    }

    /// The recipients that this destination still is for, and what becomes of the others.
    fn sort(&self, attempt: &Attempt, envelope: &Envelope) -> (Vec<u32>, Vec<(u32, Outcome)>) {
        let (mut here, mut elsewhere) = (Vec::with_capacity(attempt.recipients.len()), Vec::new());
        let directions = self.directions.borrow();
        for number in &attempt.recipients {
            let address = envelope.recipients.get(*number as usize).map_or("", |recipient| &*recipient.address);
            let route = directions.routes.route(address);
            let destinations = route.as_ref().map_or(&[][..], |route| route.destinations);
            if destinations.iter().any(|destination| destination.name == attempt.destination) {
                here.push(*number);
            } else if !destinations.is_empty() {
                // All of them, as for a message that comes now.
                elsewhere.extend(destinations.iter().map(|destination| {
                    (*number, Outcome::Moved { destination: destination.name.clone(), local: destination.local })
                }));
            } else {
                tracing::warn!(id = %attempt.id, recipient = address, "no domain or route takes this recipient any more");
                elsewhere.push((*number, Outcome::Deferred(ours("no domain or route takes this recipient any more"))));
            }
        }
        (here, elsewhere)
    }

    /// To a target that is elsewhere, in a task of its own.
    fn to_elsewhere(self: &Rc<Self>, target: Target, underway: Underway, elsewhere: Vec<(u32, Outcome)>) {
        let runner = self.clone();
        spawn("deliver", async move {
            let Underway { leg, destination, parcel, traced } = underway;
            let since = tick();
            let done = contain(deliver(&target, &parcel, &destination)).await;
            runner.block.observe(Timing::Attempt, tick().since(since));
            let (mut done, asked) = match done {
                Ok(Some(done)) => {
                    let asked = Asked::of(done.hop_failed);
                    (done, asked)
                }
                Ok(None) => (Done::of(Vec::new(), false), Asked::Not),
                Err(panic) => {
                    runner.panicked(parcel.id, &destination, panic);
                    let outcome = Outcome::Deferred(ours("a fault of this server"));
                    (Done::all(&parcel.recipients, &outcome, false), Asked::Not)
                }
            };
            done.outcomes.extend(elsewhere);
            runner.traced(traced, SpanKind::Client, &done);
            runner.finish(parcel.id, leg, Some(&parcel.envelope), done, asked);
        });
    }

    pub(crate) fn panicked(&self, id: SpoolId, destination: &str, panic: String) {
        self.block.add(Counter::DeliveriesPanicked, 1);
        tracing::error!(id = %id, destination, panic, "delivery panicked");
    }

    /// Takes what the files thread has done, for as long as the shard lives.
    pub async fn collect(self: Rc<Self>, mut inbox: Inbox<JobDone>) {
        loop {
            let done = inbox.receive().await;
            self.block.add(Counter::FilesSynced, done.syncs);
            self.collected(done);
        }
    }

    /// The one arrow back: outcomes settle the message, put it off, or have its sender told.
    pub(crate) fn finish(
        self: &Rc<Self>,
        id: SpoolId,
        leg: LegId,
        envelope: Option<&Rc<Envelope>>,
        done: Done,
        asked: Asked,
    ) {
        self.count(&done.outcomes);
        let verdict = self.queue.borrow_mut().outcome(leg, &done.outcomes, asked, now());
        if verdict.unknown {
            // An operator has dropped it while it was under way.
            tracing::info!(id = %id, "outcome of an attempt that the queue no longer knows");
            return self.ring();
        }
        let reports = self.reports_for(envelope, &verdict);
        if verdict.state_changed && !verdict.settled {
            self.store.note(id, &self.queue.borrow().state(id));
        }
        self.tell_log(id, envelope, &done.outcomes, &verdict);
        if verdict.wait.is_some() {
            self.persist(id);
        }
        if reports {
            self.report(id, envelope.cloned(), verdict);
        } else if verdict.settled {
            self.settle(id, envelope);
        }
        self.ring();
    }

    /// Whether somebody may have to be told before the message goes on.
    fn reports_for(&self, envelope: Option<&Rc<Envelope>>, verdict: &Verdict) -> bool {
        let success = || {
            let asked = |number: &u32| {
                let recipient = envelope.and_then(|envelope| envelope.recipients.get(*number as usize));
                recipient.is_some_and(|recipient| recipient.notify.success())
            };
            verdict.delivered.iter().any(|(number, _)| asked(number))
        };
        !verdict.failed.is_empty() || !verdict.delayed.is_empty() || success()
    }

    /// The spool may forget the message.
    pub(crate) fn settle(&self, id: SpoolId, envelope: Option<&Rc<Envelope>>) {
        self.store.settle(id);
        if let Some(envelope) = envelope {
            let took = now().wall.since(envelope.arrived);
            self.block.observe(Timing::Delivery, took);
            self.block.observe(Timing::StageDelivery, took);
        }
    }

    /// Writes a message down that has to wait and is in memory only.
    pub fn persist(self: &Rc<Self>, id: SpoolId) {
        if !self.store.is_kept(id) {
            return;
        }
        let runner = self.clone();
        spawn("write a kept message down", async move {
            if let Err(failure) = runner.store.persist(id).await {
                tracing::error!(%failure, id = %id, "message is in memory only and can't be written down");
            }
        });
    }

    pub(crate) fn count(&self, outcomes: &[(u32, Outcome)]) {
        for (_, outcome) in outcomes {
            let row = match outcome {
                Outcome::Delivered(_) => Counter::DeliveriesDelivered,
                Outcome::Deferred(_) => Counter::DeliveriesDeferred,
                Outcome::Failed(_) => Counter::DeliveriesFailed,
                Outcome::Moved { .. } => continue,
            };
            self.block.add(row, 1);
        }
    }

    fn tell_log(&self, id: SpoolId, envelope: Option<&Rc<Envelope>>, outcomes: &[(u32, Outcome)], verdict: &Verdict) {
        let address = |number: u32| {
            let recipient = envelope.and_then(|envelope| envelope.recipients.get(number as usize));
            recipient.map_or("", |recipient| &*recipient.address)
        };
        let (mut deferred, mut first) = (0_u64, None);
        for (number, outcome) in outcomes {
            match outcome {
                Outcome::Deferred(reason) => {
                    deferred += 1;
                    first.get_or_insert((*number, reason));
                }
                Outcome::Failed(reason) => tracing::warn!(id = %id, recipient = address(*number),
                    remote = reason.remote.as_deref().unwrap_or(""), code = u64::from(reason.code),
                    status = %reason.status, reason = &*reason.text, "delivery failed for good"),
                Outcome::Delivered(_) | Outcome::Moved { .. } => {}
            }
        }
        if let (Some(envelope), count @ 1..) = (envelope, verdict.delivered.len()) {
            tracing::info!(
                id = %id,
                session = &*envelope.session,
                from = &*envelope.from,
                recipients = count as u64,
                delay_ms = now().wall.since(envelope.arrived).as_millis() as u64,
                trace_id = self.tracer.samples(id).then(|| tracing::field::display(trace_id(id))),
                "delivered"
            );
        }
        if let Some((number, reason)) = first {
            tracing::warn!(id = %id, recipient = address(number), recipients = deferred,
                remote = reason.remote.as_deref().unwrap_or(""), code = u64::from(reason.code),
                status = %reason.status, reason = &*reason.text,
                retry_seconds = verdict.wait.unwrap_or_default().as_secs(), "delivery deferred");
        }
    }
}

/// Takes a message to a target that is elsewhere.
pub(crate) async fn deliver(target: &Target, parcel: &Parcel, destination: &str) -> Option<Done> {
    if faults::is_injected(DELIVERY_PANIC, destination) {
        panic!("a fault on purpose");
    }
    target.deliver(parcel).await
}

/// A reason of our own, for waiting.
pub(crate) fn ours(text: &str) -> Reason {
    // RFC 3463 section 3.4: other or undefined mail system status.
    Reason::ours(Status(4, 3, 0), text)
}

/// What the queue keeps of a message.
pub fn item(routes: &Routes, envelope: &Envelope, size: u64) -> NewItem {
    let mut legs: Vec<NewLeg> = Vec::with_capacity(1);
    let mut priority = None;
    for (number, recipient) in (0..).zip(&envelope.recipients) {
        let route = routes.route(&recipient.address);
        let domain = DomainHash::of_address(&recipient.address);
        let mut add = |name: &Rc<str>, local| match legs.iter_mut().find(|leg| leg.destination == *name) {
            Some(leg) => {
                leg.recipients.push(number);
                leg.domain = leg.domain.joined(domain);
            }
            None => legs.push(NewLeg { destination: name.clone(), local, recipients: vec![number], domain }),
        };
        match route {
            Some(route) => {
                route.destinations.iter().for_each(|destination| add(&destination.name, destination.local));
                priority =
                    Some(priority.map_or(route.priority, |so_far: ringpost_base::Priority| so_far.min(route.priority)));
            }
            // It waits where it can be seen, until a reload gives it a route or its time is over.
            None => add(&"".into(), true),
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
