//! A shard in more numbers than the status has: what it did of late, and how quickly.

use super::Rates;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A row of `GET /api/v1/shards`. What is of late is of the last ten seconds, or of the time since the start if that is less.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardView {
    /// The shard's number.
    pub shard: u16,
    /// The number of the CPU that it is pinned to, as in `cores.use`.
    pub cpu: Option<u32>,
    /// The phase that it has acknowledged; `ended` if its thread has.
    pub phase: String,
    /// The config that it has acknowledged.
    pub epoch: u64,
    /// Whether it runs a config that the others do not run yet.
    pub canary: bool,
    /// How long its thread has given no sign of life, in milliseconds, if that is too long.
    pub stalled_ms: Option<u64>,
    /// The share of the CPU that its thread used of late, 0 to 1.
    pub busy: Option<f64>,
    /// What it did of late, a second.
    pub recent: Rates,
    /// Connections now open.
    pub sessions_open: u64,
    /// Of these, TLS handshakes under way.
    pub tls_open: u64,
    /// Messages between MAIL and their final reply.
    pub messages_in_flight: u64,
    /// Bytes of messages in memory.
    pub message_memory_bytes: u64,
    /// Messages accepted and not yet settled.
    pub queue: u64,
    /// Of these, messages that wait for a later attempt.
    pub queue_deferred: u64,
    /// Deliveries under way.
    pub deliveries: u64,
    /// Messages answered 250 since the start.
    pub accepted: u64,
    /// Messages answered 5xx after their last byte since the start.
    pub rejected: u64,
    /// Messages answered 4xx after their last byte since the start.
    pub deferred: u64,
    /// Recipients delivered since the start.
    pub delivered: u64,
    /// Connections turned away before their banner since the start.
    pub refused: u64,
    /// Within how many seconds half of the messages were durable after their last byte, of late; an upper bound, as all
    /// quantiles here: that of a bucket of the histogram. Nothing if there were none.
    pub spool_commit_p50_seconds: Option<f64>,
    /// The same for 99 of 100 messages.
    pub spool_commit_p99_seconds: Option<f64>,
    /// How much later than asked the heartbeat ran, at most, in 99 of 100 beats of late: the delay that any session sees.
    pub lag_p99_seconds: Option<f64>,
}
