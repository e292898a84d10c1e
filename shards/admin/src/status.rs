//! The status and the shards, put together from the board, the shards' blocks and the readings of late.

use crate::api::{MeshStatus, Moment, ShardStatus, ShardView, Status};
use crate::clock::wall;
use crate::health::{Health, ShardHealth};
use crate::history::{self, Lately};
use crate::routes::Shared;
use crate::server::Vital;
use ringpost_base::Timestamp;
use ringpost_metrics::{Block, Counter, Gauge};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

/// The label of rows that count how often a limit was met; its value is the limit's key in the config file.
const LIMIT_LABEL: &str = "limit";

/// The status, all but what has to be asked for.
pub(crate) fn status(shared: &Shared) -> Status {
    let sources = &shared.sources;
    let health = Health::read(sources);
    let situation = (sources.situation)();
    let state = health.state_name();
    let uptime = sources.started.elapsed();
    let started = wall().unix_micros().saturating_sub(u64::try_from(uptime.as_micros()).unwrap_or(u64::MAX));
    Status {
        version: sources.version.to_owned(),
        state: state.to_owned(),
        state_since: Some(shared.since(state)),
        process: std::process::id(),
        hostname: sources.control.hostname(),
        config_file: sources.identity.config_file.clone(),
        started: Some(Moment(Timestamp::from_unix_micros(started))),
        uptime_seconds: uptime.as_secs(),
        epoch: health.epoch,
        canary: situation.canary,
        upgrade: situation.upgrade,
        recent: history::sum(&lately(shared, &(sources.vitals)())),
        queue_oldest_seconds: None,
        certificate_expires: situation.certificate_expires.map(Moment),
        shards: health.shards.iter().zip(&sources.blocks).map(|(shard, block)| of_shard(shard, block)).collect(),
        reasons: health.reasons,
        probes: health.probes,
    }
}

/// Each shard in more numbers.
pub(crate) fn shards(shared: &Shared) -> Vec<ShardView> {
    let sources = &shared.sources;
    let health = Health::read(sources);
    let vitals = (sources.vitals)();
    let lately = lately(shared, &vitals);
    let canary = (sources.situation)().canary.filter(|canary| canary.state == "running").map(|canary| canary.shard);
    let view = |(health, block): (&ShardHealth, &Arc<Block>)| {
        let index = health.shard.index();
        let cpu = sources.identity.cpus.get(index).and_then(|cpu| u32::try_from(*cpu).ok());
        let stalled = vitals.get(index).and_then(|vital| vital.stalled);
        ShardView {
            cpu,
            canary: canary == Some(health.shard.0),
            stalled_ms: stalled.map(|stalled| u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX)),
            ..counted(health, block, lately.get(index).copied().unwrap_or_default())
        }
    };
    health.shards.iter().zip(&sources.blocks).map(view).collect()
}

fn lately(shared: &Shared, vitals: &[Vital]) -> Vec<Lately> {
    shared.history.lock().unwrap_or_else(PoisonError::into_inner).lately(&shared.sources.blocks, vitals)
}

fn counted(health: &ShardHealth, block: &Block, lately: Lately) -> ShardView {
    ShardView {
        shard: health.shard.0,
        phase: health.phase.to_owned(),
        epoch: health.epoch,
        busy: lately.busy,
        recent: lately.rates,
        sessions_open: block.gauge(Gauge::SessionsOpen),
        tls_open: block.gauge(Gauge::TlsHandshakesOpen),
        messages_in_flight: block.gauge(Gauge::MessagesInFlight),
        message_memory_bytes: block.gauge(Gauge::MessageMemory),
        queue: block.gauge(Gauge::QueueMessages),
        queue_deferred: block.gauge(Gauge::QueueDeferred),
        deliveries: block.gauge(Gauge::QueueInFlight),
        accepted: block.counter(Counter::MessagesAccepted),
        rejected: block.counter(Counter::MessagesRejected),
        deferred: block.counter(Counter::MessagesDeferred),
        delivered: block.counter(Counter::DeliveriesDelivered),
        refused: block.counter(Counter::SessionsRefused),
        spool_commit_p50_seconds: lately.commit_p50,
        spool_commit_p99_seconds: lately.commit_p99,
        lag_p99_seconds: lately.lag_p99,
        ..ShardView::default()
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
