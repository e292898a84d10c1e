//! The runner of one shard: takes what is due from the queue, hands it to its target, and carries the outcome back to the
//! queue and the spool.

use crate::maildir::file_name;
use crate::target::Target;
use ringpost_base::SpoolId;
use ringpost_message::{Envelope, delivery_header};
use ringpost_metrics::{Block, Counter, Gauge, Timing};
use ringpost_queue::{Attempt, Item, Options as QueueOptions, Outcome, Queue, Routes, Verdict};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{Inbox, Pace, after, now, spawn, tick};
use ringpost_store::{FilesThread, Job, JobContent, JobDone, Loaded, LoadedContent, Store};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a runner is made of.
pub struct RunnerSetup {
    /// The shard's queue.
    pub queue: Queue,
    /// The shard's spool.
    pub store: Rc<Store>,
    /// The thread that writes Maildirs.
    pub files: FilesThread,
    /// Which target a domain has.
    pub routes: Routes,
    /// The targets.
    pub targets: Vec<Target>,
    /// Where it counts.
    pub block: Arc<Block>,
}

/// An attempt that waits for the files thread.
struct UnderWay {
    envelope: Envelope,
    /// Recipient numbers of each place, by the place's number.
    places: Vec<Vec<u32>>,
    /// Outcomes known already.
    outcomes: Vec<(u32, Outcome)>,
}

/// Delivers the messages of one shard.
pub struct Runner {
    queue: RefCell<Queue>,
    store: Rc<Store>,
    files: FilesThread,
    directions: RefCell<(Routes, Vec<Target>)>,
    block: Arc<Block>,
    work: Bell,
    under_way: RefCell<HashMap<SpoolId, UnderWay>>,
    stopped: Cell<bool>,
}

impl Runner {
    /// A runner that has not begun.
    pub fn new(setup: RunnerSetup) -> Rc<Self> {
        let RunnerSetup { queue, store, files, routes, targets, block } = setup;
        let (queue, under_way) = (RefCell::new(queue), RefCell::default());
        Rc::new(Self {
            queue,
            store,
            files,
            directions: RefCell::new((routes, targets)),
            block,
            work: Bell::default(),
            under_way,
            stopped: Cell::new(false),
        })
    }

    /// Adds an accepted message.
    pub fn push(&self, item: Item) {
        self.queue.borrow_mut().push(item);
        self.work.ring();
    }

    /// Delivers by other routes and to other targets, from the next attempt on.
    pub fn redirect(&self, options: QueueOptions, routes: Routes, targets: Vec<Target>) {
        self.queue.borrow_mut().configure(options);
        self.directions.replace((routes, targets));
        self.work.ring();
    }

    /// Begins no further attempt: what is not delivered yet is left to the next start.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> usize {
        self.queue.borrow().in_flight()
    }

    /// Makes attempts for as long as the shard lives.
    pub async fn run(self: Rc<Self>) {
        let mut pace = Pace::default();
        loop {
            let attempt = if self.stopped.get() { None } else { self.queue.borrow_mut().next(tick()) };
            match attempt {
                Some(attempt) => self.attempt(attempt),
                None => self.rest().await,
            }
            pace.breathe().await;
        }
    }

    /// Waits for a new message, an outcome, or the next message's time.
    async fn rest(&self) {
        self.block.set(Gauge::QueueDeferred, self.queue.borrow().deferred() as u64);
        let due = self.queue.borrow().next_due();
        match due {
            None => self.work.heard().await,
            Some(due) => {
                let wait = due.since(tick()).max(Duration::from_millis(1));
                after(wait, self.work.heard()).await;
            }
        }
    }

    fn attempt(self: &Rc<Self>, attempt: Attempt) {
        if let Some(loaded) = self.store.load_hot(attempt.id) {
            return self.begin(attempt, loaded);
        }
        let runner = self.clone();
        spawn("load a message", async move {
            match runner.store.load(attempt.id).await {
                Ok(loaded) => runner.begin(attempt, loaded),
                Err(error) => {
                    tracing::error!(%error, id = %attempt.id, "message can't be read from the spool; kept there");
                    runner.finish(attempt.id, None, &all(&attempt, Outcome::Deferred));
                }
            }
        });
    }

    /// Splits the recipients by where they go.
    fn begin(&self, attempt: Attempt, loaded: Loaded) {
        let envelope = match Envelope::decode(&loaded.envelope) {
            Ok(envelope) => envelope,
            Err(error) => {
                tracing::error!(%error, id = %attempt.id, "message can't be delivered; kept in the spool");
                return self.finish(attempt.id, None, &all(&attempt, Outcome::Deferred));
            }
        };
        let mut outcomes = Vec::new();
        let mut maildirs: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
        let directions = self.directions.borrow();
        let (routes, targets) = &*directions;
        for number in &attempt.recipients {
            let recipient = envelope.recipients.get(*number as usize);
            let address = recipient.map_or("", |recipient| &*recipient.address);
            let kept_in = recipient.map_or("", |recipient| recipient.kept_in());
            match routes.target(address).and_then(|target| targets.get(target)) {
                Some(Target::Maildir(template)) => maildirs.entry(template.path(kept_in)).or_default().push(*number),
                Some(Target::Discard) => outcomes.push((*number, Outcome::Delivered)),
                None => {
                    tracing::warn!(id = %attempt.id, recipient = address, "no domain takes this recipient any more");
                    outcomes.push((*number, Outcome::Deferred));
                }
            }
        }
        drop(directions);
        if maildirs.is_empty() {
            return self.finish(attempt.id, Some(&envelope), &outcomes);
        }
        let (mut places, mut numbers) = (Vec::with_capacity(maildirs.len()), Vec::with_capacity(maildirs.len()));
        for (path, recipients) in maildirs {
            let mut header = Vec::with_capacity(128);
            let addresses = recipients.iter().filter_map(|number| envelope.recipients.get(*number as usize));
            delivery_header(&envelope.from, addresses.map(|recipient| &*recipient.address), &mut header);
            places.push((path, header, numbers.len()));
            numbers.push(recipients);
        }
        let content = match loaded.content {
            LoadedContent::Memory(bytes) => JobContent::Memory(bytes),
            LoadedContent::File(path, file) => JobContent::File(path, file),
        };
        let name = file_name(envelope.id, envelope.arrived);
        self.under_way.borrow_mut().insert(attempt.id, UnderWay { envelope, places: numbers, outcomes });
        self.files.submit(Job { id: attempt.id, name, places, content, again: attempt.again });
    }

    /// Takes what the files thread has done, for as long as the shard lives.
    pub async fn collect(self: Rc<Self>, mut inbox: Inbox<JobDone>) {
        loop {
            let done = inbox.receive().await;
            self.block.add(Counter::FilesSynced, done.syncs);
            let Some(UnderWay { envelope, places, mut outcomes }) = self.under_way.borrow_mut().remove(&done.id) else {
                continue;
            };
            for (place, result) in done.places {
                let outcome = match result {
                    Ok(()) => Outcome::Delivered,
                    Err(reason) => {
                        tracing::warn!(id = %done.id, reason, "delivery deferred");
                        Outcome::Deferred
                    }
                };
                outcomes.extend(places.get(place).into_iter().flatten().map(|number| (*number, outcome)));
            }
            self.finish(done.id, Some(&envelope), &outcomes);
        }
    }

    /// The one arrow back: an outcome settles the message, or puts it off.
    fn finish(&self, id: SpoolId, envelope: Option<&Envelope>, outcomes: &[(u32, Outcome)]) {
        let delivered = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Delivered).count();
        self.block.add(Counter::DeliveriesDelivered, delivered as u64);
        self.block.add(Counter::DeliveriesDeferred, (outcomes.len() - delivered) as u64);
        let verdict = self.queue.borrow_mut().outcome(id, outcomes, tick());
        match verdict {
            Verdict::Settled => {
                self.store.settle(id);
                if let Some(envelope) = envelope {
                    let delay = now().wall.since(envelope.arrived);
                    self.block.observe(Timing::Delivery, delay);
                    tracing::info!(
                        id = %id,
                        session = &*envelope.session,
                        from = &*envelope.from,
                        recipients = envelope.recipients.len() as u64,
                        delay_ms = delay.as_millis() as u64,
                        "delivered"
                    );
                }
            }
            Verdict::Unknown => tracing::error!(id = %id, "outcome of an attempt that nobody made"),
            Verdict::Retry { done, progressed, wait } => {
                if progressed {
                    self.store.progress(id, &done);
                }
                tracing::warn!(id = %id, retry_seconds = wait.as_secs(), "message waits for another attempt");
            }
        }
        self.work.ring();
    }
}

fn all(attempt: &Attempt, outcome: Outcome) -> Vec<(u32, Outcome)> {
    attempt.recipients.iter().map(|number| (*number, outcome)).collect()
}
