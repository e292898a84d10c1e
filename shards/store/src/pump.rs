//! The task that does the log's operations, one write and sync at a time, so that what comes meanwhile is joined.

use crate::error::StoreError;
use crate::store::Store;
use ringpost_metrics::{Counter, Gauge, Timing};
use ringpost_runtime::{after, sleep, tick};
use ringpost_spool::{Completion, Failure, Op, Slot};
use std::{rc::Rc, time::Duration};

/// Messages in a batch from which waiting for more is not worth it.
const BATCH_ENOUGH: usize = 16;

/// Commits that don't wait after some have waited in vain, at most: a client that sits in the middle of a message must not
/// slow down the others. The first time it is one commit, then two, and so on.
const IMPATIENCE_MAX: u32 = 16;

/// Kinds of operations, as bits.
const CREATING: u8 = 1;
const WRITING: u8 = 2;

/// How long the log is left alone after an operation failed. What arrives meanwhile is refused.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

impl Store {
    /// Does the log's operations for as long as the shard lives.
    pub async fn pump(self: Rc<Self>) {
        loop {
            self.gather().await;
            let op = self.spool.borrow_mut().poll_op();
            match op {
                Some(op) => self.perform(op).await,
                None => self.work.heard().await,
            }
            self.publish();
        }
    }

    /// Waits a little for messages that are arriving, so that one sync serves more of them: only while there are some, and
    /// not once enough have come. Messages whose clients have stopped in the middle are not waited for, however many.
    async fn gather(&self) {
        let at_first = self.waiting.borrow().len();
        if let Some(left) = self.impatient.get().checked_sub(1).filter(|_| at_first > 0) {
            return self.impatient.set(left);
        }
        let deadline = tick().deadline(self.options.commit_delay.0);
        loop {
            let staged = self.waiting.borrow().len();
            let now = tick();
            if staged > at_first {
                self.in_vain.set(0);
            }
            let enough = staged == 0 || staged >= BATCH_ENOUGH;
            if enough || deadline.passed(now) || self.recent.count(now) == 0 {
                return;
            }
            if after(deadline.0.since(now), self.work.heard()).await.is_none() {
                let in_vain = staged == at_first;
                let patience = if in_vain { (self.in_vain.get() * 2).clamp(1, IMPATIENCE_MAX) } else { 0 };
                self.in_vain.set(patience);
                self.impatient.set(patience);
                return;
            }
        }
    }

    async fn perform(self: &Rc<Self>, op: Op) {
        match op {
            Op::Create(slot) => self.create(slot).await,
            Op::Write { slot, offset, bytes } => self.write(slot, offset, &bytes).await,
            Op::Copy { id, location } => {
                let read = self.segments.read(location.slot, location.offset, location.len as usize).await;
                if let Err(error) = &read {
                    self.block.add(Counter::SpoolErrors, 1);
                    tracing::error!(%error, id = %id, "message can't be read for compaction");
                }
                if !self.spool.borrow_mut().copied(id, read.ok().as_deref()) {
                    tracing::error!(id = %id, slot = location.slot.0, offset = location.offset, "record is damaged");
                }
            }
            Op::Remove(slot) => self.segments.remove(slot),
        }
    }

    /// A segment is made beside the writing: messages wait for it only if there is no other.
    async fn create(self: &Rc<Self>, slot: Slot) {
        let must_wait = self.spool.borrow().stats().segments == 0;
        let store = self.clone();
        let work = async move {
            let made = store.segments.create(slot).await.map_err(|error| {
                store.complain(&error, CREATING);
                error.failure()
            });
            let failed = made.is_err();
            if failed && !must_wait {
                // As long as there is a segment to write to, nobody waits for this one.
                sleep(FAILURE_PAUSE).await;
            }
            let completions = store.spool.borrow_mut().created(slot, made);
            store.finish(CREATING, failed, completions).await;
            store.work.ring();
        };
        if must_wait {
            work.await;
        } else {
            ringpost_runtime::spawn("make a spool segment", work);
        }
    }

    async fn write(&self, slot: Slot, offset: u64, bytes: &[u8]) {
        let since = tick();
        let wrote = self.segments.write(slot, offset, bytes).await;
        self.block.add(Counter::SpoolSyncs, 1);
        self.block.observe(Timing::SpoolSync, tick().since(since));
        let failed = wrote.is_err();
        if !failed {
            self.block.add(Counter::SpoolBytes, bytes.len() as u64);
        }
        let wrote = wrote.map_err(|error| {
            self.complain(&error, WRITING);
            error.failure()
        });
        let completions = self.spool.borrow_mut().written(wrote);
        self.finish(WRITING, failed, completions).await;
    }

    /// Says that the disk fails: once, not at each of the attempts that follow.
    fn complain(&self, error: &StoreError, kind: u8) {
        self.block.add(Counter::SpoolErrors, 1);
        if self.failing.get() & kind == 0 {
            tracing::error!(%error, "spool can't be written; trying again until it can");
        }
    }

    /// Answers those who wait; after a failure, gives the disk a pause in which no new message begins.
    async fn finish(&self, kind: u8, failed: bool, completions: Vec<Completion>) {
        let before = self.failing.get();
        // With a segment to spare, it no longer matters that another could not be made.
        let over = if self.spool.borrow().has_spare() { kind | CREATING } else { kind };
        self.failing.set(if failed { before | kind } else { before & !over });
        if before != 0 && self.failing.get() == 0 {
            tracing::info!("spool can be written again");
        }
        self.block.set(Gauge::SpoolFailing, u64::from(self.is_failing()));
        let hit = failed && !completions.is_empty();
        self.complete(completions);
        if failed {
            self.refusing.set(self.refusing.get() || hit);
            sleep(FAILURE_PAUSE).await;
            self.refusing.set(false);
        }
    }

    fn complete(&self, completions: Vec<Completion>) {
        for Completion { token, result } in completions {
            let waiting = self.waiting.borrow_mut().remove(&token.0);
            let Some(waiting) = waiting else { continue };
            self.observe_commit(waiting.since);
            // A session that panicked waits no more; its message is durable, and delivered after the next start.
            let _ = waiting.promise.keep(result.inspect_err(|failure: &Failure| {
                tracing::warn!(%failure, "message could not be stored");
            }));
        }
    }

    fn publish(&self) {
        let stats = self.spool.borrow().stats();
        self.block.set(Gauge::SpoolSegments, stats.segments as u64);
        self.block.set(Gauge::SpoolLiveBytes, stats.live_bytes);
        let counted = self.block.counter(Counter::SpoolRecords);
        self.block.add(Counter::SpoolRecords, stats.records.saturating_sub(counted));
        let compacted = self.block.counter(Counter::SpoolCompacted);
        self.block.add(Counter::SpoolCompacted, stats.compacted.saturating_sub(compacted));
    }
}
