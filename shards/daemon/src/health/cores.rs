//! What the shards' own numbers tell: room on the disk, mail that waits, and whether the shards are alive.

use super::memory::{Finding, Trouble};
use crate::plan::Core;
use ringpost_base::{ByteCount, ShardId};
use ringpost_metrics::{Block, Gauge};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// The share of a core's backlog from which it is told, in percent. Senders are put off only at the whole of it.
const BACKLOG_WARN_PERCENT: u64 = 80;

/// The share below which it is no longer told.
const BACKLOG_CALM_PERCENT: u64 = 70;

/// How long a shard may take to take up a state. It does so between two of its tasks; one that has stalled is told as such.
pub(super) const LATE: Duration = Duration::from_secs(5);

/// Shards as they are named in a reason.
pub(super) fn named(shards: &[ShardId]) -> String {
    let mut words = String::from(if shards.len() == 1 { "shard" } else { "shards" });
    for (at, shard) in shards.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(words, "{} {shard}", if at == 0 { "" } else { "," });
    }
    words
}

/// Bytes in a unit that leaves two digits or so, rounded down: a reason that changes with each byte would be told each time.
fn rough(bytes: u64) -> String {
    let unit = [1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= 10 * unit);
    unit.map_or(format!("{bytes} bytes"), |unit| ByteCount(bytes / unit * unit).to_string())
}

/// The shards at which something holds.
fn those<'a>(
    cores: impl Iterator<Item = (&'a Core, &'a Arc<Block>)>,
    holds: impl Fn(&Core, &Block) -> bool,
) -> Vec<(ShardId, &'a Arc<Block>)> {
    cores.filter(|(core, block)| holds(core, block)).map(|(core, block)| (core.shard, block)).collect()
}

/// Room for the spool, and whether it can be written.
pub(super) fn disk(cores: &[Core], blocks: &[Arc<Block>]) -> Finding {
    let all = || cores.iter().zip(blocks);
    let mut reasons = Vec::new();
    let ids = |found: &[(ShardId, &Arc<Block>)]| named(&found.iter().map(|(shard, _)| *shard).collect::<Vec<_>>());
    let failing = those(all(), |_, block| block.gauge(Gauge::SpoolFailing) > 0);
    if !failing.is_empty() {
        reasons.push(format!("{}: the spool can't be written, mail is refused with 451 or 452", ids(&failing)));
    }
    for (state, mark) in [(2, "spool.space_hard: mail is refused with 452"), (1, "spool.space_soft")] {
        let short = those(all(), |_, block| block.gauge(Gauge::SpaceState) == state);
        let free = short.iter().map(|(_, block)| block.gauge(Gauge::SpaceFree)).min();
        if let Some(free) = free {
            reasons.push(format!("{}: {} are free for the spool, less than {mark}", ids(&short), rough(free)));
        }
    }
    let stuck = those(all(), |_, block| block.gauge(Gauge::SpoolsStuck) > 0);
    if !stuck.is_empty() {
        reasons.push(format!(
            "{}: mail of the former process waits, since its spool can't be taken over; the log says why: make room, or \
             restart",
            ids(&stuck)
        ));
    }
    let hint = "docs/runbooks/disk-full.md";
    Finding::new("disk", (!reasons.is_empty()).then(|| Trouble::new(reasons.join("; "), hint)))
}

/// Mail that waits for delivery, held against what each core may have of it. `told`: it was too much at the last look.
pub(super) fn backlog(cores: &[Core], blocks: &[Arc<Block>], told: bool) -> Finding {
    let all = || cores.iter().zip(blocks);
    let percent = u128::from(if told { BACKLOG_CALM_PERCENT } else { BACKLOG_WARN_PERCENT });
    let share = |core: &Core, block: &Block| {
        let (waiting, limit) = (block.gauge(Gauge::SpoolBacklog), core.capacity.spool_backlog.0);
        (u128::from(waiting) * 100, u128::from(limit))
    };
    let above = those(all(), |core, block| {
        let (waiting, limit) = share(core, block);
        waiting >= limit * percent
    });
    let worst = all().max_by_key(|(core, block)| {
        let (waiting, limit) = share(core, block);
        waiting / limit.max(1)
    });
    let trouble = worst.filter(|_| !above.is_empty()).map(|(core, block)| {
        let (waiting, limit) = (block.gauge(Gauge::SpoolBacklog), core.capacity.spool_backlog);
        let shards = named(&above.iter().map(|(shard, _)| *shard).collect::<Vec<_>>());
        let refused =
            if waiting >= limit.0 { "mail is refused with 452" } else { "at the limit mail is refused with 452" };
        let waiting = rough(waiting);
        Trouble::new(
            format!("{shards}: {waiting} wait for delivery, cores.limits.spool_backlog is {limit}: {refused}"),
            "docs/runbooks/backlog.md",
        )
    });
    Finding::new("backlog", trouble)
}

/// Shards that give no sign of life.
pub(super) fn stall(stalled: &[(ShardId, Duration)]) -> Finding {
    let longest = stalled.iter().map(|(_, silent)| silent.as_secs()).max();
    let trouble = longest.map(|seconds| {
        let shards = named(&stalled.iter().map(|(shard, _)| *shard).collect::<Vec<_>>());
        let more = if stalled.len() == 1 { "it serves nobody" } else { "they serve nobody" };
        Trouble::new(
            format!("{shards}: stalled, no sign of life for {seconds} s; {more}, the log has the stack"),
            "docs/runbooks/crash.md",
        )
    });
    Finding::vital("stall", trouble)
}

/// Shards that have ended, and those that have not taken up for long what all are told.
pub(super) fn shards(ended: &[ShardId], late: &[ShardId]) -> Finding {
    let mut reasons = Vec::new();
    if !ended.is_empty() {
        reasons.push(format!("{}: ended", named(ended)));
    }
    if !late.is_empty() {
        reasons.push(format!(
            "{}: has not taken up the state or config of the server for {} s",
            named(late),
            LATE.as_secs()
        ));
    }
    let trouble = (!reasons.is_empty()).then(|| Trouble::new(reasons.join("; "), "docs/runbooks/crash.md"));
    Finding::new("shard", trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_policy::Capacity;

    const MIB: u64 = 1 << 20;

    fn cores(count: u16) -> (Vec<Core>, Vec<Arc<Block>>) {
        let capacity = Capacity {
            connections: 1,
            messages_in_flight: 1,
            message_memory: ByteCount(0),
            spool_backlog: ByteCount::mib(1_000),
        };
        let core = |shard| Core { shard: ShardId(shard), cpu: usize::from(shard), capacity };
        ((0..count).map(core).collect(), (0..count).map(|_| Arc::new(Block::new())).collect())
    }

    fn reason(finding: &Finding) -> &str {
        finding.trouble.as_ref().map_or("", |trouble| &trouble.reason)
    }

    #[test]
    fn a_disk_is_one_probe_however_many_shards_are_on_it() {
        let (cores, blocks) = cores(3);
        let set =
            |gauge, values: [u64; 3]| blocks.iter().zip(values).for_each(|(block, value)| block.set(gauge, value));
        set(Gauge::SpaceFree, [30 * MIB + 7, 31 * MIB, 32 * MIB]);
        for (states, failing, want) in [
            ([0, 0, 0], [0, 0, 0], ""),
            ([0, 1, 1], [0, 0, 0], "shards 1, 2: 31MiB are free for the spool, less than spool.space_soft"),
            (
                [2, 1, 2],
                [0, 0, 0],
                "shards 0, 2: 30MiB are free for the spool, less than spool.space_hard: mail is refused with 452; shard 1: \
                 31MiB are free for the spool, less than spool.space_soft",
            ),
            ([0, 0, 0], [0, 1, 0], "shard 1: the spool can't be written, mail is refused with 451 or 452"),
        ] {
            set(Gauge::SpaceState, states);
            set(Gauge::SpoolFailing, failing);
            let finding = disk(&cores, &blocks);
            assert_eq!(reason(&finding), want);
            assert!(finding.serves, "a full disk is no reason to send clients elsewhere");
        }
    }

    #[test]
    fn a_backlog_is_told_before_mail_is_refused_and_until_it_is_well_below() {
        let (cores, blocks) = cores(2);
        for (waiting, told, want) in [
            (799, false, ""),
            (800, false, "shard 1: 800MiB wait for delivery, cores.limits.spool_backlog is 1000MiB: at the limit"),
            (750, false, ""),
            (750, true, "shard 1: 750MiB wait for delivery"),
            (699, true, ""),
            (
                1_000,
                false,
                "shard 1: 1000MiB wait for delivery, cores.limits.spool_backlog is 1000MiB: mail is refused",
            ),
        ] {
            blocks[1].set(Gauge::SpoolBacklog, waiting * MIB);
            let finding = backlog(&cores, &blocks, told);
            assert!(
                reason(&finding).starts_with(want) && (want.is_empty() == finding.trouble.is_none()),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn only_a_stall_keeps_mail_out() {
        let finding = stall(&[(ShardId(1), Duration::from_millis(2_900))]);
        assert_eq!(
            reason(&finding),
            "shard 1: stalled, no sign of life for 2 s; it serves nobody, the log has the stack"
        );
        assert!(!finding.serves && stall(&[]).trouble.is_none());
        let finding = shards(&[ShardId(0)], &[ShardId(2), ShardId(3)]);
        let want = "shard 0: ended; shards 2, 3: has not taken up the state or config of the server for 5 s";
        assert_eq!((reason(&finding), finding.serves), (want, true));
    }
}
