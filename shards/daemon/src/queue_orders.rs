//! What a shard does when it is asked about the mail that waits in it.
//!
//! Invariants: every question is answered by a task of its own, which gives way to the shard's other work, and does a
//! bounded amount of it: entries looked at, envelopes read, messages changed, and time. What is left is told, so that
//! whoever asked can go on. Nothing is done for those who no longer wait for it.

mod search;
mod views;

use ringpost_admin::api::{
    DAMAGED_MAX, DamagedView, MessageRow, MessageView, Moment, QueueFilter, QueueVerb, QueueVerification, TargetStatus,
};
use ringpost_base::{Now, ShardId, SpoolId};
use ringpost_deliver::Runner;
use ringpost_message::Envelope;
use ringpost_queue::{Changed, Queue};
use ringpost_runtime::{Pace, now, spawn, yield_now};
use ringpost_store::{LoadedContent, Store, Verified};
use search::{SLICE_ENTRIES_MAX, Search};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Messages that one order changes: a million of them take some hundred requests, and none of them long.
const CHANGES_MAX: u64 = 2_000;

/// Messages that an order changes without giving way.
const SLICE_CHANGES_MAX: u64 = 500;

/// A question about the queue. Where the answer is no longer wanted it goes nowhere.
pub(crate) enum QueueQuestion {
    /// How much there is.
    Status(oneshot::Sender<ShardQueue>),
    /// Messages that fit.
    Page(PageWanted, oneshot::Sender<ShardPage>),
    /// All about a message.
    Show(SpoolId, oneshot::Sender<Option<MessageParts>>),
    /// Its bytes, or why they can't be had.
    Content(SpoolId, oneshot::Sender<Option<Result<Content, String>>>),
    /// Something to be done to messages.
    Order(OrderPart, oneshot::Sender<OrderDone>),
    /// How far reading everything back has come; begun first if that is asked for and it is not under way.
    Verify { begin: bool, answer: oneshot::Sender<QueueVerification> },
}

/// What a shard has.
#[derive(Debug, Default)]
pub(crate) struct ShardQueue {
    pub(crate) messages: u64,
    pub(crate) states: Vec<(String, u64)>,
    pub(crate) priorities: Vec<(String, u64)>,
    pub(crate) oldest_seconds: Option<u64>,
    /// What waits for each target here.
    pub(crate) targets: Vec<TargetStatus>,
    /// The targets that this shard owns.
    pub(crate) owned: Vec<OwnedTarget>,
}

/// A target as its owner sees it.
#[derive(Debug)]
pub(crate) struct OwnedTarget {
    pub(crate) target: String,
    pub(crate) in_use: u64,
    pub(crate) concurrency: u64,
    pub(crate) breaker: String,
    pub(crate) breaker_until: Option<Moment>,
}

/// Which messages a page is to have.
#[derive(Clone, Debug)]
pub(crate) struct PageWanted {
    pub(crate) filter: QueueFilter,
    pub(crate) limit: usize,
    pub(crate) after: Option<SpoolId>,
}

/// A shard's part of a page: all that fit up to `next`, or up to the end.
#[derive(Debug, Default)]
pub(crate) struct ShardPage {
    pub(crate) messages: Vec<MessageRow>,
    pub(crate) next: Option<SpoolId>,
    pub(crate) scanned: u64,
}

/// All about a message, and its bytes if they can be had.
#[derive(Debug)]
pub(crate) struct MessageParts {
    pub(crate) view: MessageView,
    pub(crate) content: Option<Content>,
}

/// Where the bytes of a message are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Here.
    Memory(Arc<Vec<u8>>),
    /// In this file.
    File(PathBuf),
}

/// A shard's part of an order.
#[derive(Clone, Debug)]
pub(crate) struct OrderPart {
    pub(crate) verb: QueueVerb,
    pub(crate) ids: Vec<SpoolId>,
    pub(crate) filter: Option<QueueFilter>,
    pub(crate) after: Option<SpoolId>,
    pub(crate) dry: bool,
}

/// What a shard did.
#[derive(Debug, Default)]
pub(crate) struct OrderDone {
    pub(crate) changed: u64,
    pub(crate) unchanged: u64,
    /// Of the ids in the order, those that are here.
    pub(crate) known: Vec<SpoolId>,
    /// Where to go on; nothing: it is done.
    pub(crate) next: Option<SpoolId>,
}

/// Who answers on a shard.
pub(crate) struct Desk {
    shard: u16,
    runner: Rc<Runner>,
    verification: RefCell<QueueVerification>,
}

impl Desk {
    pub(crate) fn new(shard: ShardId, runner: Rc<Runner>) -> Rc<Self> {
        Rc::new(Self { shard: shard.0, runner, verification: RefCell::default() })
    }

    /// Takes a question, and answers it as soon as it can.
    pub(crate) fn take(self: &Rc<Self>, question: QueueQuestion) {
        let desk = self.clone();
        match question {
            QueueQuestion::Status(answer) => reply(answer, async move { desk.status() }),
            QueueQuestion::Page(wanted, answer) => reply(answer, async move { desk.page(&wanted).await }),
            QueueQuestion::Show(id, answer) => reply(answer, async move { desk.show(id).await }),
            QueueQuestion::Content(id, answer) => reply(answer, async move { desk.content(id).await }),
            QueueQuestion::Order(part, answer) => reply(answer, async move { desk.order(&part).await }),
            QueueQuestion::Verify { begin, answer } => {
                if begin {
                    desk.verify();
                }
                reply(answer, async move { desk.verification.borrow().clone() });
            }
        }
    }

    fn store(&self) -> &Rc<Store> {
        self.runner.store()
    }

    fn status(&self) -> ShardQueue {
        let owned = self.runner.leases().view();
        views::status(&self.runner.queue().borrow().totals(), &owned, now().wall)
    }

    async fn page(&self, wanted: &PageWanted) -> ShardPage {
        let PageWanted { filter, limit, after } = wanted;
        let mut search = Search::new(self, filter, *after, *limit);
        let mut messages = Vec::new();
        while messages.len() < *limit {
            let Some((view, envelope)) = search.next(true).await else { break };
            messages.push(views::row(self.shard, &view, envelope.as_ref()));
        }
        ShardPage { next: search.stopped_at(), messages, scanned: search.scanned() }
    }

    async fn show(&self, id: SpoolId) -> Option<MessageParts> {
        let (view, standing) = {
            let queue = self.runner.queue().borrow();
            (queue.show(id, now())?, queue.recipients(id))
        };
        let (envelope, content, fault) = match self.store().load(id).await {
            Ok(loaded) => match Envelope::decode(&loaded.envelope) {
                Ok(envelope) => (Some(envelope), Some(of_loaded(loaded.content)), None),
                Err(error) => (None, Some(of_loaded(loaded.content)), Some(error.to_string())),
            },
            Err(error) => (None, None, Some(error.to_string())),
        };
        let file = content.as_ref().and_then(|content| match content {
            Content::Memory(_) => None,
            Content::File(path) => Some(path.display().to_string()),
        });
        let kept = match (self.store().entry(id), &file) {
            (_, Some(_)) => "file",
            (Some(_), None) => "log",
            (None, None) => "memory",
        };
        let mut view = views::message(self.shard, &view, &standing, envelope.as_ref());
        (view.fault, view.kept, view.body_file) = (fault, kept.to_owned(), file);
        Some(MessageParts { view, content })
    }

    async fn content(&self, id: SpoolId) -> Option<Result<Content, String>> {
        self.runner.queue().borrow().show(id, now())?;
        let loaded = self.store().load(id).await;
        Some(loaded.map(|loaded| of_loaded(loaded.content)).map_err(|error| error.to_string()))
    }

    async fn order(&self, part: &OrderPart) -> OrderDone {
        match &part.filter {
            Some(filter) => self.order_those_that_fit(part, filter).await,
            None => self.order_those_named(part).await,
        }
    }

    async fn order_those_named(&self, part: &OrderPart) -> OrderDone {
        let mut done = OrderDone::default();
        let mut pace = Pace::default();
        for id in &part.ids {
            if self.runner.queue().borrow().show(*id, now()).is_some() {
                done.known.push(*id);
                self.apply(part, *id, &mut done);
                pace.breathe().await;
            }
        }
        self.runner.ring();
        done
    }

    async fn order_those_that_fit(&self, part: &OrderPart, filter: &QueueFilter) -> OrderDone {
        let mut done = OrderDone::default();
        let mut search = Search::new(self, filter, part.after, SLICE_ENTRIES_MAX);
        let mut seen = 0;
        while seen < CHANGES_MAX {
            let Some((view, _)) = search.next(false).await else { break };
            // It was found a while ago, and what is done to it can't be undone.
            if search.still_finds(view.id) {
                self.apply(part, view.id, &mut done);
            } else {
                done.unchanged += 1;
            }
            seen += 1;
            if seen % SLICE_CHANGES_MAX == 0 {
                self.runner.ring();
                yield_now().await;
            }
        }
        self.runner.ring();
        done.next = search.stopped_at();
        done
    }

    /// Does to a message what is ordered, and counts it.
    fn apply(&self, part: &OrderPart, id: SpoolId, done: &mut OrderDone) {
        let changed = match part.verb {
            _ if part.dry => true,
            QueueVerb::Drop => self.drop_message(id),
            QueueVerb::Retry => self.change(id, Queue::retry),
            QueueVerb::Hold => self.hold(id),
            QueueVerb::Release => self.change(id, Queue::release),
        };
        if changed { done.changed += 1 } else { done.unchanged += 1 }
    }

    /// Takes a message out of the queue and the spool; false if it has gone meanwhile.
    fn drop_message(&self, id: SpoolId) -> bool {
        let there = self.runner.queue().borrow_mut().drop_message(id);
        if there {
            self.store().settle(id);
            tracing::warn!(id = %id, "message dropped: an operator ordered it");
        }
        there
    }

    /// Whether a message was held. The hold outlives a crash, and so does the message, whatever its class.
    fn hold(&self, id: SpoolId) -> bool {
        let held = self.change(id, Queue::hold);
        if held {
            self.runner.persist(id);
        }
        held
    }

    /// Whether a message was changed; if so, what is to be remembered of it over a restart goes into the spool.
    fn change(&self, id: SpoolId, order: fn(&mut Queue, SpoolId, Now) -> Changed) -> bool {
        let mut queue = self.runner.queue().borrow_mut();
        let changed = order(&mut queue, id, now());
        if changed == Changed::Yes {
            self.store().note(id, &queue.state(id));
        }
        changed == Changed::Yes
    }

    fn verify(self: &Rc<Self>) {
        if self.verification.borrow().running {
            return;
        }
        self.verification.replace(QueueVerification { running: true, ..QueueVerification::default() });
        let desk = self.clone();
        spawn("verification", async move {
            // However it ends, also by a panic, it runs no longer.
            let _ended = Ended(&desk.verification);
            let progress = |progress: ringpost_store::Progress| {
                let mut reached = desk.verification.borrow_mut();
                reached.checked = progress.found as u64;
                (reached.read_bytes, reached.bytes) = (progress.read, progress.total);
            };
            let Verified { damaged, more } = desk.store().verify(progress).await;
            let mut reached = desk.verification.borrow_mut();
            reached.damaged_more = more + damaged.len().saturating_sub(DAMAGED_MAX) as u64;
            let view = |message: ringpost_store::Damaged| DamagedView {
                id: message.id.into(),
                shard: desk.shard,
                fault: format!("{} at {}: {}", message.path.display(), message.offset, message.reason),
            };
            reached.damaged = damaged.into_iter().take(DAMAGED_MAX).map(view).collect();
        });
    }
}

/// Says that a verification runs no longer when it goes.
struct Ended<'a>(&'a RefCell<QueueVerification>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Ok(mut reached) = self.0.try_borrow_mut() {
            reached.running = false;
        }
    }
}

/// Answers from a task of its own, unless nobody waits for the answer any more.
fn reply<T: 'static>(answer: oneshot::Sender<T>, work: impl Future<Output = T> + 'static) {
    if !answer.is_closed() {
        // Whoever asked may have given up meanwhile.
        spawn("queue question", async move { drop(answer.send(work.await)) });
    }
}

fn of_loaded(content: LoadedContent) -> Content {
    match content {
        LoadedContent::Memory(bytes) => Content::Memory(bytes),
        LoadedContent::File(path, _) => Content::File(path),
    }
}
