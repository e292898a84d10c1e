//! What is in force: all that a shard serves by and that can be exchanged while the server runs.
//!
//! The keeper makes a new one and publishes it; the control board's epoch tells the shards that there is one, and each
//! takes it up by itself. The lock is taken by the keeper and by a shard that was told; never on the way of a message.

use crate::plan::Core;
use ringpost_base::ShardId;
use ringpost_config::Config;
use ringpost_control::Board;
use ringpost_dns::Dns;
use ringpost_net::Acceptor;
use ringpost_policy::{BanSet, Policy};
use std::sync::{Arc, Mutex, PoisonError};
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
    pub(crate) dns: Dns,
}

/// What is in force.
#[derive(Clone)]
pub(crate) struct InForce {
    pub(crate) source: Arc<Source>,
    pub(crate) bans: Arc<BanSet>,
}

/// Where what is in force is put, and read.
pub(crate) struct Publisher {
    slot: Mutex<InForce>,
    board: Arc<Board>,
}

impl Publisher {
    pub(crate) fn new(first: InForce, board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self { slot: Mutex::new(first), board })
    }

    /// Puts something in the place of what is there before any shard has begun.
    pub(crate) fn begin_with(&self, first: InForce) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = first;
    }

    /// What is in force now.
    pub(crate) fn current(&self) -> InForce {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts something else in force and waits until every shard serves by it; gives those that did not in time.
    pub(crate) fn publish(&self, next: InForce) -> Vec<ShardId> {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = next;
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
