//! The store of one shard.

use crate::draft::Draft;
use crate::error::StoreError;
use crate::segments::Segments;
use ringpost_base::{SpoolId, Tick};
use ringpost_metrics::{Block, Counter, Gauge, Timing};
use ringpost_runtime::BufferPool;
use ringpost_runtime::local::{Bell, Promise, promise};
use ringpost_runtime::tick;
use ringpost_spool::{BodyFile, Content, Failure, MessageParts, Options, Receipt, Spool, Token, parse_message};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What the store may hold in memory.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of messages of any kind, above which arriving ones go to the disk early.
    pub message_bytes: u64,
    /// Bytes of accepted messages kept in memory for delivery.
    pub hot_bytes: u64,
}

/// A message that is accepted and not settled.
struct Held {
    size: u64,
    body_file: Option<BodyFile>,
    hot: Option<Hot>,
}

#[derive(Clone)]
struct Hot {
    envelope: Rc<[u8]>,
    bytes: Arc<Vec<u8>>,
}

/// A message given back for delivery.
pub struct Loaded {
    /// The stored envelope.
    pub envelope: Rc<[u8]>,
    /// Its bytes.
    pub content: LoadedContent,
}

/// Where a message's bytes are.
#[derive(Clone)]
pub enum LoadedContent {
    /// Here.
    Memory(Arc<Vec<u8>>),
    /// In this file, of this length and checksum.
    File(PathBuf, BodyFile),
}

/// A message somebody waits for, while its record is on its way.
pub(crate) struct Waiting {
    pub(crate) promise: Promise<Result<Receipt, Failure>>,
    pub(crate) since: Tick,
}

/// The spool of one shard, with its files.
pub struct Store {
    pub(crate) options: Options,
    pub(crate) block: Arc<Block>,
    pub(crate) buffers: BufferPool,
    pub(crate) bodies: PathBuf,
    pub(crate) segments: Segments,
    pub(crate) spool: RefCell<Spool>,
    pub(crate) waiting: RefCell<HashMap<u64, Waiting>>,
    pub(crate) work: Bell,
    /// Kinds of operations on the log whose last one failed.
    pub(crate) failing: Cell<u8>,
    /// It failed a moment ago, and messages with it.
    pub(crate) refusing: Cell<bool>,
    /// Commits to come that don't wait for others, because waiting was in vain.
    pub(crate) impatient: Cell<u32>,
    /// How many that were the last time.
    pub(crate) in_vain: Cell<u32>,
    budget: Cell<Budget>,
    held: RefCell<HashMap<SpoolId, Held>>,
    hot_bytes: Cell<u64>,
    next_token: Cell<u64>,
}

impl Store {
    pub(crate) fn new(directory: &Path, options: Options, spool: Spool, block: Arc<Block>, budget: Budget) -> Rc<Self> {
        Rc::new(Self {
            options,
            block,
            buffers: BufferPool::default(),
            bodies: directory.join("body"),
            segments: Segments::new(directory, options.segment_size.0),
            spool: RefCell::new(spool),
            waiting: RefCell::default(),
            work: Bell::default(),
            failing: Cell::new(0),
            refusing: Cell::new(false),
            impatient: Cell::new(0),
            in_vain: Cell::new(0),
            budget: Cell::new(budget),
            held: RefCell::default(),
            hot_bytes: Cell::new(0),
            next_token: Cell::new(0),
        })
    }

    /// A place for a message that begins to arrive.
    pub fn draft(self: &Rc<Self>, id: SpoolId) -> Draft {
        Draft::new(self.clone(), id)
    }

    /// Makes a message durable (RFC 5321 section 6.1). Dropped while it waits, it may leave the message in the log although nobody was told;
    /// the next start delivers it, or, where it had a body file, forgets it.
    pub async fn commit(self: &Rc<Self>, mut draft: Draft, envelope: &[u8]) -> Result<Receipt, Failure> {
        let since = tick();
        let id = draft.id();
        let body_file = draft.seal().await.map_err(|error| {
            tracing::error!(%error, id = %id, "body file could not be made durable");
            self.block.add(Counter::SpoolErrors, 1);
            Failure::Io
        })?;
        let (promise, answer) = promise();
        let parts = MessageParts { id, envelope, bytes: draft.in_memory(), body_file };
        let token = self.await_token(Waiting { promise, since });
        if !self.spool.borrow_mut().append(token, &parts) {
            tracing::error!(id = %id, "a message's record is larger than spool.segment_size; refused");
            self.waiting.borrow_mut().remove(&token.0);
            return Err(Failure::Full);
        }
        self.work.ring();
        let receipt = answer.wait().await.unwrap_or(Err(Failure::Io))?;
        let size = draft.len();
        self.hold(id, size, body_file, Some((envelope, draft.into_bytes())));
        Ok(receipt)
    }

    pub(crate) fn is_tight(&self) -> bool {
        self.block.gauge(Gauge::MessageMemory) > self.budget.get().message_bytes
    }

    pub(crate) fn await_token(&self, waiting: Waiting) -> Token {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        self.waiting.borrow_mut().insert(token, waiting);
        Token(token)
    }

    /// Changes how much memory messages may take; what is held stays.
    pub fn set_budget(&self, budget: Budget) {
        self.budget.set(budget);
    }

    /// Enters an accepted message, its bytes kept in memory if the budget allows.
    pub(crate) fn hold(&self, id: SpoolId, size: u64, body_file: Option<BodyFile>, hot: Option<(&[u8], Vec<u8>)>) {
        let mut kept = None;
        if let Some((envelope, bytes)) = hot {
            let fits = body_file.is_none() && self.hot_bytes.get() + bytes.len() as u64 <= self.budget.get().hot_bytes;
            if fits {
                self.hot_bytes.set(self.hot_bytes.get() + bytes.len() as u64);
                self.block.raise(Gauge::MessageMemory, bytes.len() as u64);
                kept = Some(Hot { envelope: envelope.into(), bytes: Arc::new(bytes) });
            } else {
                self.buffers.give(bytes);
            }
        }
        self.block.raise(Gauge::SpoolBacklog, size);
        self.block.raise(Gauge::QueueMessages, 1);
        self.held.borrow_mut().insert(id, Held { size, body_file, hot: kept });
    }

    /// Gives an accepted message back.
    pub async fn load(&self, id: SpoolId) -> Result<Loaded, StoreError> {
        if let Some(loaded) = self.load_hot(id) {
            return Ok(loaded);
        }
        let location = self.spool.borrow().locate(id).ok_or(StoreError::Unknown(id))?;
        let bytes = self.segments.read(location.slot, location.offset, location.len as usize).await?;
        let record = parse_message(&bytes, location.key).map_err(|_| StoreError::Damaged(id))?;
        let content = match record.content {
            Content::Inline(bytes) => LoadedContent::Memory(Arc::new(bytes.to_vec())),
            Content::File(file) => LoadedContent::File(self.body_path(id), file),
        };
        Ok(Loaded { envelope: record.envelope.into(), content })
    }

    /// Gives an accepted message back if it is in memory.
    pub fn load_hot(&self, id: SpoolId) -> Option<Loaded> {
        let held = self.held.borrow();
        let hot = held.get(&id)?.hot.as_ref()?;
        Some(Loaded { envelope: hot.envelope.clone(), content: LoadedContent::Memory(hot.bytes.clone()) })
    }

    /// The message is delivered: forget it.
    pub fn settle(&self, id: SpoolId) {
        let Some(held) = self.held.borrow_mut().remove(&id) else { return };
        self.block.lower(Gauge::SpoolBacklog, held.size);
        self.block.lower(Gauge::QueueMessages, 1);
        if let Some(hot) = held.hot {
            self.hot_bytes.set(self.hot_bytes.get() - hot.bytes.len() as u64);
            self.block.lower(Gauge::MessageMemory, hot.bytes.len() as u64);
            if let Ok(bytes) = Arc::try_unwrap(hot.bytes) {
                self.buffers.give(bytes);
            }
        }
        if held.body_file.is_some() {
            // A record whose body file is gone counts as settled at the next start.
            let path = self.body_path(id);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "body file of a delivered message can't be removed");
            }
        }
        self.spool.borrow_mut().settle(id);
        self.work.ring();
    }

    /// These recipients, by number, are done; the others are not.
    pub fn progress(&self, id: SpoolId, done: &[u32]) {
        self.spool.borrow_mut().progress(id, done);
        self.work.ring();
    }

    /// Whether the spool could not write, the last time it tried.
    pub fn is_failing(&self) -> bool {
        self.failing.get() != 0
    }

    /// Whether messages should not even begin: the spool failed a moment ago.
    pub fn is_refusing(&self) -> bool {
        self.refusing.get()
    }

    pub(crate) fn body_path(&self, id: SpoolId) -> PathBuf {
        self.bodies.join(format!("{id}.body"))
    }

    /// Counts how long a commit took.
    pub(crate) fn observe_commit(&self, since: Tick) {
        self.block.observe(Timing::SpoolCommit, tick().since(since));
    }

    /// Waits until everything staged is written, then closes the files. Nothing may be committed any more.
    pub async fn close(&self) {
        while !self.spool.borrow().is_idle() && self.failing.get() == 0 {
            ringpost_runtime::sleep(std::time::Duration::from_millis(1)).await;
        }
        self.segments.close().await;
    }
}
