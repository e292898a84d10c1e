//! The durability class `memory`: messages whose only copy is in memory, until they go into the log after all.
//!
//! A kept message counts against the budget of hot bytes like any other in memory, but can't be thrown out of it: once
//! the budget is used up, [`Store::keep`] gives the draft back, to be committed. What is noted of it is remembered and goes
//! with it into the log.

use crate::draft::Draft;
use crate::hot::Hot;
use crate::store::Store;
use ringpost_base::SpoolId;
use ringpost_metrics::{Counter, Gauge};
use ringpost_runtime::local::Answer;
use ringpost_runtime::{now, sleep, tick};
use ringpost_spool::{Failure, MessageParts, Receipt};
use std::rc::Rc;
use std::time::Duration;

/// Messages written into the log side by side when all are, at the stop: as many as make full batches, and few enough
/// that what is staged is bounded.
const SIDE_BY_SIDE_MAX: usize = 256;

/// How often somebody who wants a message in the log looks whether it is, while somebody else is putting it there.
const LOOK: Duration = Duration::from_millis(1);

/// A message that is in memory only.
#[derive(Default)]
pub(crate) struct Kept {
    /// What was noted of it.
    pub(crate) state: Box<[u8]>,
    /// Whether it is on its way into the log.
    pub(crate) leaving: bool,
}

impl Store {
    /// Takes a message as the class `memory` does: its bytes stay in memory and nowhere else, and are gone if the process
    /// dies. Gives the draft back where that is not to be had: the budget of hot bytes or of message memory is used
    /// up, or the message is so large that it has a body file. It is to be committed then.
    pub fn keep(self: &Rc<Self>, draft: Draft, envelope: &[u8]) -> Result<Receipt, Draft> {
        let (id, size) = (draft.id(), draft.len());
        let fits = self.hot.fits(draft.in_memory().len(), self.budget.get().hot_bytes);
        if draft.is_large() || !fits || self.is_tight() {
            return Err(draft);
        }
        self.warm(id, envelope, draft.into_bytes());
        self.kept.borrow_mut().insert(id, Kept::default());
        self.block.raise(Gauge::KeptMessages, 1);
        self.count_in(size);
        Ok(self.spool.borrow().kept_in_memory(id))
    }

    /// Whether the message is in memory only.
    pub fn is_kept(&self, id: SpoolId) -> bool {
        self.kept.borrow().contains_key(&id)
    }

    /// Writes a kept message into the log, with what was noted of it; from then on it is like any other. Nothing to do if it is
    /// there already, or settled. After a failure it is kept as before.
    pub async fn persist(self: &Rc<Self>, id: SpoolId) -> Result<(), Failure> {
        while self.kept.borrow().get(&id).is_some_and(|kept| kept.leaving) {
            sleep(LOOK).await;
        }
        match self.begin_leaving(id) {
            Some(answer) => self.end_leaving(id, answer?).await,
            None => Ok(()),
        }
    }

    /// Writes all kept messages into the log, at the stop. The first failure is told, after all have been tried.
    pub async fn persist_all(self: &Rc<Self>) -> Result<(), Failure> {
        let ids: Vec<SpoolId> = self.kept.borrow().keys().copied().collect();
        let mut outcome = Ok(());
        for some in ids.chunks(SIDE_BY_SIDE_MAX) {
            let begun: Vec<_> = some.iter().map(|id| (*id, self.begin_leaving(*id))).collect();
            for (id, answer) in begun {
                let persisted = match answer {
                    Some(Ok(answer)) => self.end_leaving(id, answer).await,
                    Some(Err(failure)) => Err(failure),
                    // On its way by somebody else's wish.
                    None => self.persist(id).await,
                };
                outcome = outcome.and(persisted);
            }
        }
        outcome
    }

    /// Writes kept messages into the log that are older than this, for as long as the shard lives: what waits for a target that
    /// is busy or left alone was never tried, and would stay in memory for as long.
    pub async fn persist_old(self: Rc<Self>, age: Duration) {
        loop {
            sleep(age / 2).await;
            let now = now().wall;
            let old = |id: &&SpoolId| now.since(id.made()) > age;
            let ids: Vec<SpoolId> = self.kept.borrow().keys().filter(old).copied().collect();
            for id in ids {
                if let Err(failure) = self.persist(id).await {
                    tracing::error!(%failure, id = %id, "message is in memory only and can't be written down");
                    break;
                }
            }
        }
    }

    /// Stages a kept message for the log; nothing if it is not kept, or on its way already.
    fn begin_leaving(&self, id: SpoolId) -> Option<Result<Answer<Result<Receipt, Failure>>, Failure>> {
        // Every kept message is hot.
        let Hot { envelope, bytes } = self.hot.get(id)?;
        let mut kept = self.kept.borrow_mut();
        let entry = kept.get_mut(&id).filter(|kept| !kept.leaving)?;
        let parts = MessageParts { id, envelope: &envelope, bytes: &bytes, body_file: None };
        let staged = self.stage(&parts, tick());
        if staged.is_ok() {
            entry.leaving = true;
            self.spool.borrow_mut().note(id, &entry.state);
        }
        Some(staged)
    }

    async fn end_leaving(&self, id: SpoolId, answer: Answer<Result<Receipt, Failure>>) -> Result<(), Failure> {
        if let Err(failure) = answer.wait().await.unwrap_or(Err(Failure::Io)) {
            if let Some(kept) = self.kept.borrow_mut().get_mut(&id) {
                kept.leaving = false;
            }
            return Err(failure);
        }
        let kept = self.kept.borrow_mut().remove(&id);
        match kept {
            Some(_) => {
                self.block.lower(Gauge::KeptMessages, 1);
                self.block.add(Counter::KeptPersisted, 1);
            }
            // Settled while it was on its way.
            None => self.spool.borrow_mut().settle(id),
        }
        self.work.ring();
        Ok(())
    }
}
