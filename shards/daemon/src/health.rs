//! Whether the server is well, and why not: read from the shards' numbers.

use crate::in_force::Publisher;
use ringpost_metrics::{Block, Gauge};
use std::sync::Arc;

/// What is watched.
#[derive(Clone)]
pub(crate) struct Health {
    publisher: Arc<Publisher>,
    blocks: Vec<Arc<Block>>,
}

impl Health {
    pub(crate) fn new(publisher: Arc<Publisher>, blocks: &[Arc<Block>]) -> Self {
        Self { publisher, blocks: blocks.to_vec() }
    }

    /// Why the server is degraded; nothing if it is well.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let source = self.publisher.current().source;
        for (core, block) in source.cores.iter().zip(&self.blocks) {
            let shard = core.shard;
            if block.gauge(Gauge::SpoolFailing) > 0 {
                reasons.push(format!("shard {shard}: the spool can't be written, mail is refused with 451 or 452"));
            }
            match block.gauge(Gauge::SpaceState) {
                0 => {}
                1 => reasons.push(format!(
                    "shard {shard}: {} bytes are free for the spool, less than spool.space_soft",
                    block.gauge(Gauge::SpaceFree)
                )),
                _ => reasons.push(format!(
                    "shard {shard}: {} bytes are free for the spool, less than spool.space_hard: mail is refused with 452",
                    block.gauge(Gauge::SpaceFree)
                )),
            }
            let (backlog, limit) = (block.gauge(Gauge::SpoolBacklog), core.capacity.spool_backlog.0);
            if backlog >= limit {
                reasons.push(format!(
                    "shard {shard}: {backlog} bytes wait for delivery, the limit is {limit}: mail is refused with 452"
                ));
            }
        }
        reasons
    }
}
