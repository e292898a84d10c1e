//! The state of the shards as the crash handler tells it: plain loads of what they have counted.

use crate::pulse::Pulse;
use ringpost_metrics::{Block, Counter, Gauge};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// One row a shard. `?` is what can't be known of a shard that has not begun or has ended.
pub(super) fn write(to: &mut impl Write, pulses: &[Arc<Pulse>], blocks: &[Arc<Block>]) {
    // Writing to the handler's text doesn't fail, here and below.
    let _ = writeln!(
        to,
        "{:>5} {:>9} {:>11} {:>8} {:>9} {:>9} {:>9} {:>13} {:>12}",
        "shard", "silent_ms", "cpu_ms", "sessions", "in_flight", "queue", "deferred", "backlog_bytes", "accepted"
    );
    for (pulse, block) in pulses.iter().zip(blocks) {
        let _ = write!(to, "{:>5}", pulse.shard().0);
        milliseconds(to, 9, pulse.silent_for());
        milliseconds(to, 11, pulse.cpu_time());
        let _ = writeln!(
            to,
            " {:>8} {:>9} {:>9} {:>9} {:>13} {:>12}",
            block.gauge(Gauge::SessionsOpen),
            block.gauge(Gauge::MessagesInFlight),
            block.gauge(Gauge::QueueMessages),
            block.gauge(Gauge::QueueDeferred),
            block.gauge(Gauge::SpoolBacklog),
            block.counter(Counter::MessagesAccepted)
        );
    }
}

fn milliseconds(to: &mut impl Write, width: usize, span: Option<Duration>) {
    let _ = match span {
        Some(span) => write!(to, " {:>width$}", span.as_millis()),
        None => write!(to, " {:>width$}", "?"),
    };
}
