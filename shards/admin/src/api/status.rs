//! How the server is, as a whole and shard by shard.

use super::{CanaryView, Moment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /api/v1/status`: the server as a whole, and each shard. Meant to be read first when something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The server's version.
    pub version: String,
    /// The state as `/readyz` tells it: `starting`, `ready`, `degraded` or `stopping`.
    pub state: String,
    /// Since when it is in that state.
    #[serde(default)]
    pub state_since: Option<Moment>,
    /// Why it is not ready, in words for an operator; may be empty.
    pub reasons: Vec<String>,
    /// What is watched, and how it is: those that are not well first.
    #[serde(default)]
    pub probes: Vec<ProbeView>,
    /// The process id.
    pub process: u32,
    /// The name by which the server greets.
    #[serde(default)]
    pub hostname: String,
    /// The config file; nothing if the server runs by the defaults.
    #[serde(default)]
    pub config_file: Option<String>,
    /// When the server was started.
    #[serde(default)]
    pub started: Option<Moment>,
    /// Seconds since the server was started.
    pub uptime_seconds: u64,
    /// Number of the config in force: 0 from the start, one more for each reload.
    pub epoch: u64,
    /// The config that runs on one core only, as long as it does.
    #[serde(default)]
    pub canary: Option<CanaryView>,
    /// How far an upgrade is that is under way, in words.
    #[serde(default)]
    pub upgrade: Option<String>,
    /// What all shards together did over the last ten seconds.
    #[serde(default)]
    pub recent: Rates,
    /// Seconds since the oldest message of the queue was accepted; nothing if the queue is empty, or if the shards were too
    /// slow to tell.
    #[serde(default)]
    pub queue_oldest_seconds: Option<u64>,
    /// When the first of the certificates in use ends.
    #[serde(default)]
    pub certificate_expires: Option<Moment>,
    /// The shards, by their number.
    pub shards: Vec<ShardStatus>,
}

/// Something that is watched, and whether it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeView {
    /// What it is: `disk`, `certificate`, `dns`, `target:NAME`, `list:ZONE`, `stall`, `backlog`, `shard`.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// Why not, in words for an operator.
    pub reason: Option<String>,
    /// Whether the server takes mail all the same; if not, `/readyz` answers 503 because of it.
    pub serves: bool,
    /// Since when it is as it is.
    pub since: Option<Moment>,
    /// The command or the runbook to look at.
    pub hint: Option<String>,
}

/// What was done a second, over the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Connections accepted.
    #[serde(default)]
    pub sessions: f64,
    /// Messages answered 250.
    pub accepted: f64,
    /// Messages answered 5xx after their last byte.
    pub rejected: f64,
    /// Messages answered 4xx after their last byte.
    pub deferred: f64,
    /// Recipients delivered.
    pub delivered: f64,
}

/// One shard, by its own counts. Counts begin at 0 with the server's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStatus {
    /// The shard's number.
    pub shard: u16,
    /// The phase that it has acknowledged; `ended` if its thread has.
    pub phase: String,
    /// The config that it has acknowledged.
    pub epoch: u64,
    /// Connections now open.
    pub sessions_open: u64,
    /// Messages between MAIL and their final reply.
    pub messages_in_flight: u64,
    /// Bytes of messages in memory.
    pub message_memory_bytes: u64,
    /// Messages accepted and not yet settled.
    pub queue: u64,
    /// Of these, messages that wait for a later attempt.
    pub queue_deferred: u64,
    /// Of these, messages that an operator holds.
    #[serde(default)]
    pub queue_held: u64,
    /// Of these, messages that could neither be delivered nor reported.
    #[serde(default)]
    pub queue_dead: u64,
    /// Targets that are left alone for a while, of those that this shard keeps count of.
    #[serde(default)]
    pub breakers_open: u64,
    /// Bytes of accepted messages not yet settled.
    pub backlog_bytes: u64,
    /// Messages answered 250.
    pub accepted: u64,
    /// Messages answered 5xx after their last byte.
    pub rejected: u64,
    /// Messages answered 4xx after their last byte.
    pub deferred: u64,
    /// How often each limit was met, by its key in the config file; those never met are left out.
    pub limits_hit: BTreeMap<String, u64>,
    /// Bans in force, as this shard sees them.
    pub bans: u64,
    /// Questions to other shards.
    pub mesh: MeshStatus,
}

/// What a shard asked of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeshStatus {
    /// Questions asked of other shards.
    pub asked: u64,
    /// Questions that found no room or no answer in time; the client was served as if no limit were met.
    pub full: u64,
}

/// `GET /readyz`: whether the server takes mail, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// The state: `starting`, `ready`, `degraded` or `stopping`. Only the second and, as a rule, the third take mail.
    pub state: String,
    /// Why it is not ready, in words for an operator; may be empty.
    pub reasons: Vec<String>,
    /// What is watched, and how it is: those that are not well first.
    #[serde(default)]
    pub probes: Vec<ProbeView>,
    /// The phase of each shard.
    pub shards: Vec<ShardPhase>,
    /// The server's version.
    pub version: String,
}

/// Which phase a shard has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardPhase {
    /// The shard's number.
    pub shard: u16,
    /// The phase; `ended` if its thread has.
    pub phase: String,
}
