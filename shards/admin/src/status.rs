//! The status, put together from the board and the shards' blocks.

use crate::api::{MeshStatus, ShardStatus, Status};
use crate::health::{Health, ShardHealth};
use crate::server::Sources;
use ringpost_metrics::{Block, Counter, Gauge};
use std::collections::BTreeMap;

/// The label of rows that count how often a limit was met; its value is the limit's key in the config file.
const LIMIT_LABEL: &str = "limit";

pub(crate) fn status(sources: &Sources) -> Status {
    let health = Health::read(sources);
    Status {
        version: sources.version.to_owned(),
        state: health.state_name().to_owned(),
        process: std::process::id(),
        uptime_seconds: sources.started.elapsed().as_secs(),
        epoch: health.epoch,
        shards: health.shards.iter().zip(&sources.blocks).map(|(shard, block)| of_shard(shard, block)).collect(),
        reasons: health.reasons,
    }
}

fn of_shard(health: &ShardHealth, block: &Block) -> ShardStatus {
    ShardStatus {
        shard: health.shard.0,
        phase: health.phase.to_owned(),
        epoch: health.epoch,
        sessions_open: block.gauge(Gauge::SessionsOpen),
        messages_in_flight: block.gauge(Gauge::MessagesInFlight),
        message_memory_bytes: block.gauge(Gauge::MessageMemory),
        queue: block.gauge(Gauge::QueueMessages),
        queue_deferred: block.gauge(Gauge::QueueDeferred),
        queue_held: block.gauge(Gauge::QueueHeld),
        queue_dead: block.gauge(Gauge::QueueDead),
        breakers_open: block.gauge(Gauge::BreakersOpen),
        backlog_bytes: block.gauge(Gauge::SpoolBacklog),
        accepted: block.counter(Counter::MessagesAccepted),
        rejected: block.counter(Counter::MessagesRejected),
        deferred: block.counter(Counter::MessagesDeferred),
        limits_hit: limits_hit(block),
        bans: block.gauge(Gauge::Bans),
        mesh: MeshStatus { asked: block.counter(Counter::MeshQuestions), full: block.counter(Counter::MeshFull) },
    }
}

fn limits_hit(block: &Block) -> BTreeMap<String, u64> {
    let mut hit = BTreeMap::new();
    for row in Counter::ALL {
        if let (Some((LIMIT_LABEL, key)), count @ 1..) = (row.family().label, block.counter(*row)) {
            *hit.entry(key.to_owned()).or_default() += count;
        }
    }
    hit
}
