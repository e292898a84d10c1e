//! What is in force: all that a shard serves by and that can be exchanged while the server runs.
//!
//! The keeper makes a new one and publishes it; the control board's epoch tells the shards that there is one, and each
//! takes it up by itself. One shard may try another config than the others, a canary. The lock is taken by the keeper and by a
//! shard that was told; never on the way of a message.

use crate::plan::Core;
use ringpost_base::{ShardId, Timestamp};
use ringpost_config::Config;
use ringpost_control::Board;
use ringpost_dns::Dns;
use ringpost_net::Acceptor;
use ringpost_policy::{BanSet, Policy};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a publication waits for the shards: they take up what is new between two tasks.
const TAKE_UP: Duration = Duration::from_secs(5);

/// One configuration, with everything that is read from other files.
pub(crate) struct Source {
    /// How many came before it.
    pub(crate) epoch: u64,
    pub(crate) config: Config,
    /// The cores with what each may carry.
    pub(crate) cores: Vec<Core>,
    /// Who may send what to whom, the recipients' files read.
    pub(crate) policy: Arc<Policy>,
    /// What makes TLS sessions, for each shard.
    pub(crate) acceptors: Vec<Acceptor>,
    /// The certificates that are shown, here or at targets.
    pub(crate) certificates: Vec<CertificateEnd>,
    pub(crate) dns: Dns,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateEnd {
    /// Its file.
    pub(crate) file: String,
    pub(crate) expires: Timestamp,
}

/// What is in force.
#[derive(Clone)]
pub(crate) struct InForce {
    pub(crate) source: Arc<Source>,
    pub(crate) bans: Arc<BanSet>,
}

/// Where what is in force is put, and read.
pub(crate) struct Publisher {
    slots: Mutex<Slots>,
    board: Arc<Board>,
}

struct Slots {
    common: InForce,
    /// What one shard serves by in place of the common source.
    trial: Option<(ShardId, Arc<Source>)>,
    /// The shards that could not take a source up, by its epoch, with the reason.
    failed: Vec<(u64, ShardId, String)>,
}

impl Publisher {
    pub(crate) fn new(first: InForce, board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self { slots: Mutex::new(Slots { common: first, trial: None, failed: Vec::new() }), board })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in the place of what is there before any shard has begun.
    pub(crate) fn begin_with(&self, first: InForce) {
        self.slots().common = first;
    }

    /// What is in force now, but for a shard that tries another config.
    pub(crate) fn current(&self) -> InForce {
        self.slots().common.clone()
    }

    /// What is in force now on a shard.
    pub(crate) fn current_for(&self, shard: ShardId) -> InForce {
        let slots = self.slots();
        let trial = slots.trial.as_ref().filter(|(canary, _)| *canary == shard);
        let source = trial.map_or(&slots.common.source, |(_, source)| source).clone();
        InForce { source, bans: slots.common.bans.clone() }
    }

    /// The board by which the shards are told.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Puts something else in force and waits until every shard serves by it, but for one that tries another config; gives
    /// those that did not in time.
    pub(crate) fn publish(&self, next: InForce) -> Vec<ShardId> {
        self.slots().common = next;
        self.tell()
    }

    /// Has one shard serve by another config than the others, until [`end_trial`](Self::end_trial).
    pub(crate) fn try_on(&self, shard: ShardId, source: Arc<Source>) -> Vec<ShardId> {
        self.slots().trial = Some((shard, source));
        self.tell()
    }

    /// Has that shard serve as the others again: by what is given, which all do from now on, or else by what they do already.
    pub(crate) fn end_trial(&self, kept: Option<InForce>) -> Vec<ShardId> {
        let mut slots = self.slots();
        slots.trial = None;
        if let Some(kept) = kept {
            slots.common = kept;
        }
        drop(slots);
        self.tell()
    }

    /// A shard goes on by what it had, since it can't take this up.
    pub(crate) fn cannot_take_up(&self, shard: ShardId, epoch: u64, reason: String) {
        let mut slots = self.slots();
        // Each shard may fail once at each source, and only the last one is asked about.
        slots.failed.retain(|(of, _, _)| *of == epoch);
        slots.failed.push((epoch, shard, reason));
    }

    /// Why shards could not take this source up.
    pub(crate) fn failures_of(&self, epoch: u64) -> Vec<(ShardId, String)> {
        let slots = self.slots();
        let of_it = slots.failed.iter().filter(|(of, _, _)| *of == epoch);
        of_it.map(|(_, shard, reason)| (*shard, reason.clone())).collect()
    }

    fn tell(&self) -> Vec<ShardId> {
        let state = self.board.publish_epoch();
        if state.phase.is_final() {
            // Shards that drain take up nothing more.
            return Vec::new();
        }
        let late = self.board.wait_acknowledged(state, TAKE_UP);
        if !late.is_empty() {
            tracing::warn!(shards = ?late, "shards are slow to take up what is new");
        }
        late
    }
}
