//! Whether the server is well, and why not: read from the shards' numbers.

use crate::plan::Core;
use ringpost_metrics::{Block, Gauge};
use std::sync::Arc;

/// What is watched.
#[derive(Clone)]
pub(crate) struct Health {
    watched: Vec<(Core, Arc<Block>)>,
}

impl Health {
    pub(crate) fn new(cores: &[Core], blocks: &[Arc<Block>]) -> Self {
        Self { watched: cores.iter().cloned().zip(blocks.iter().cloned()).collect() }
    }

    /// Why the server is degraded; nothing if it is well.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for (core, block) in &self.watched {
            let shard = core.shard;
            if block.gauge(Gauge::SpoolFailing) > 0 {
                reasons.push(format!("shard {shard}: the spool can't be written, mail is refused with 451 or 452"));
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
