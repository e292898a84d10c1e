//! The store of one shard.

use crate::disk::Disk;
use crate::draft::Draft;
use crate::error::StoreError;
use crate::hot::HotMessages;
use crate::kept::Kept;
use crate::recent::Recent;
use crate::segments::Segments;
use crate::space::{Space, SpaceLimits};
use ringpost_base::{SpoolId, Tick};
use ringpost_metrics::{Block, Counter, Gauge, Timing};
use ringpost_runtime::BufferPool;
use ringpost_runtime::local::{Answer, Bell, Promise, promise};
use ringpost_runtime::tick;
use ringpost_spool::{
    BodyFile, Content, Entry, Failure, Location, MessageParts, Options, Receipt, STATE_MAX, Spool, Token, parse_message,
};
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
    pub(crate) disk: Disk,
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
    /// Messages whose bytes have just come.
    pub(crate) recent: Recent,
    pub(crate) space: Cell<Space>,
    pub(crate) space_limits: Cell<SpaceLimits>,
    pub(crate) budget: Cell<Budget>,
    pub(crate) hot: HotMessages,
    /// Messages of the class memory. They are hot, and not in the log.
    pub(crate) kept: RefCell<HashMap<SpoolId, Kept>>,
    next_token: Cell<u64>,
}

/// What a store is made of, beside its log.
pub(crate) struct Parts {
    pub(crate) disk: Disk,
    pub(crate) options: Options,
    pub(crate) block: Arc<Block>,
    pub(crate) budget: Budget,
    pub(crate) space: SpaceLimits,
}

impl Store {
    pub(crate) fn new(directory: &Path, parts: Parts, spool: Spool) -> Rc<Self> {
        let Parts { disk, options, block, budget, space } = parts;
        Rc::new(Self {
            options,
            block,
            buffers: BufferPool::default(),
            bodies: directory.join("body"),
            segments: Segments::new(&disk, directory, options.segment_size.0),
            disk,
            spool: RefCell::new(spool),
            waiting: RefCell::default(),
            work: Bell::default(),
            failing: Cell::new(0),
            refusing: Cell::new(false),
            impatient: Cell::new(0),
            in_vain: Cell::new(0),
            recent: Recent::default(),
            space: Cell::default(),
            space_limits: Cell::new(space),
            budget: Cell::new(budget),
            hot: HotMessages::default(),
            kept: RefCell::default(),
            next_token: Cell::new(0),
        })
    }

    /// The directory of its log.
    pub fn directory(&self) -> &Path {
        self.bodies.parent().unwrap_or(&self.bodies)
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
            error.failure()
        })?;
        let parts = MessageParts { id, envelope, bytes: draft.in_memory(), body_file };
        let receipt = self.stage(&parts, since)?.wait().await.unwrap_or(Err(Failure::Io))?;
        let size = draft.len();
        let bytes = draft.into_bytes();
        if body_file.is_none() && self.hot.fits(bytes.len(), self.budget.get().hot_bytes) {
            self.warm(id, envelope, bytes);
        } else {
            self.buffers.give(bytes);
        }
        self.count_in(size);
        Ok(receipt)
    }

    /// Stages a message; the answer comes once its record is durable, or has failed.
    pub(crate) fn stage(
        &self,
        parts: &MessageParts<'_>,
        since: Tick,
    ) -> Result<Answer<Result<Receipt, Failure>>, Failure> {
        let (promise, answer) = promise();
        let token = self.await_token(Waiting { promise, since });
        if !self.spool.borrow_mut().append(token, parts) {
            tracing::error!(id = %parts.id, "a message's record is larger than spool.segment_size; refused");
            self.waiting.borrow_mut().remove(&token.0);
            return Err(Failure::Full);
        }
        self.work.ring();
        Ok(answer)
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

    /// Holds the bytes of an accepted message in memory.
    pub(crate) fn warm(&self, id: SpoolId, envelope: &[u8], bytes: Vec<u8>) {
        self.block.raise(Gauge::MessageMemory, bytes.len() as u64);
        self.hot.insert(id, envelope, bytes);
    }

    /// Lets go of the bytes of a message, if they are in memory.
    fn cool(&self, id: SpoolId) {
        let Some(hot) = self.hot.remove(id) else { return };
        self.block.lower(Gauge::MessageMemory, hot.bytes.len() as u64);
        if let Ok(bytes) = Arc::try_unwrap(hot.bytes) {
            self.buffers.give(bytes);
        }
    }

    /// Counts an accepted message of so many bytes.
    pub(crate) fn count_in(&self, size: u64) {
        self.block.raise(Gauge::SpoolBacklog, size);
        self.block.raise(Gauge::QueueMessages, 1);
    }

    fn count_out(&self, size: u64) {
        self.block.lower(Gauge::SpoolBacklog, size);
        self.block.lower(Gauge::QueueMessages, 1);
    }

    /// Gives an accepted message back.
    pub async fn load(&self, id: SpoolId) -> Result<Loaded, StoreError> {
        if let Some(loaded) = self.load_hot(id) {
            return Ok(loaded);
        }
        let mut location = self.locate(id).ok_or(StoreError::Unknown(id))?;
        loop {
            let bytes = self.segments.read(location.slot, location.offset, location.len as usize).await;
            let found = bytes.and_then(|bytes| self.loaded(id, &bytes, location.key));
            // The message may have been copied forward while it was read, and its place overwritten.
            match (found, self.locate(id)) {
                (Ok(loaded), _) => return Ok(loaded),
                (Err(_), Some(now)) if now != location => location = now,
                (Err(error), _) => return Err(error),
            }
        }
    }

    pub(crate) fn locate(&self, id: SpoolId) -> Option<Location> {
        self.spool.borrow().locate(id)
    }

    fn loaded(&self, id: SpoolId, record: &[u8], key: u64) -> Result<Loaded, StoreError> {
        let record = parse_message(record, key).ok().filter(|record| record.id == id);
        let record = record.ok_or(StoreError::Damaged(id))?;
        let content = match record.content {
            Content::Inline(bytes) => LoadedContent::Memory(Arc::new(bytes.to_vec())),
            Content::File(file) => LoadedContent::File(self.body_path(id), file),
        };
        Ok(Loaded { envelope: record.envelope.into(), content })
    }

    /// Gives an accepted message back if it is in memory.
    pub fn load_hot(&self, id: SpoolId) -> Option<Loaded> {
        let hot = self.hot.get(id)?;
        Some(Loaded { envelope: hot.envelope, content: LoadedContent::Memory(hot.bytes) })
    }

    /// What the log knows of a message without reading it; nothing if it is settled, or in memory only.
    pub fn entry(&self, id: SpoolId) -> Option<Entry> {
        self.spool.borrow().entry(id)
    }

    /// The message is delivered, or reported, or nobody wants it any more: forget it. One that is in memory only touches no disk.
    pub fn settle(&self, id: SpoolId) {
        let kept = self.kept.borrow_mut().remove(&id);
        if let Some(kept) = kept {
            if kept.leaving {
                self.spool.borrow_mut().settle(id);
                self.work.ring();
            }
            let size = self.hot.get(id).map_or(0, |hot| hot.bytes.len() as u64);
            self.cool(id);
            self.block.lower(Gauge::KeptMessages, 1);
            return self.count_out(size);
        }
        let Some(entry) = self.entry(id) else { return };
        self.count_out(entry.size);
        self.cool(id);
        if entry.has_body_file {
            // A record whose body file is gone counts as settled at the next start.
            if let Err(error) = self.disk.remove_body(&self.body_path(id)) {
                tracing::warn!(%error, "body file of a delivered message can't be removed");
            }
        }
        self.spool.borrow_mut().settle(id);
        self.work.ring();
    }

    /// What is to be remembered of the message over a restart; it replaces what was noted before. Durable with the next
    /// batch, and with the message if that is in memory only. More than [`ringpost_spool::STATE_MAX`] is not taken, and an error in the
    /// log: what was noted before stands.
    pub fn note(&self, id: SpoolId, state: &[u8]) {
        let in_memory_only = match self.kept.borrow_mut().get_mut(&id) {
            Some(kept) if state.len() <= STATE_MAX => {
                kept.state = state.into();
                !kept.leaving
            }
            _ => false,
        };
        if in_memory_only {
            return;
        }
        if !self.spool.borrow_mut().note(id, state) && state.len() > STATE_MAX {
            tracing::error!(id = %id, bytes = state.len() as u64, "the state of a message is too large to be noted");
        }
        self.work.ring();
    }

    /// What was noted of a message last.
    pub fn state(&self, id: SpoolId) -> Option<Box<[u8]>> {
        if let Some(kept) = self.kept.borrow().get(&id) {
            return (!kept.state.is_empty()).then(|| kept.state.clone());
        }
        self.spool.borrow().state(id).map(Into::into)
    }

    /// Whether the spool could not write, the last time it tried.
    pub fn is_failing(&self) -> bool {
        self.failing.get() != 0
    }

    /// Whether messages should not even begin: the spool failed a moment ago, or its disk is as good as full.
    pub fn is_refusing(&self) -> bool {
        self.refusing.get() || self.space.get() == Space::Full
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
