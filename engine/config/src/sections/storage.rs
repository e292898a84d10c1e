//! `[spool]` and `[queue]`: what is durable, and when deliveries are tried again.

use crate::{
    keys::{Key, Kind, Section},
    reader::{Setting, Table},
};
use ringpost_base::{ByteCount, Span};

pub(crate) static SPOOL: Section = Section {
    path: "spool",
    header: "[spool]",
    intro: "The log that makes a message durable before it is acknowledged; each core has one.",
    stand_in: None,
    keys: &[
        Key::new(
            "segment_size",
            Kind::Size { min: ByteCount::mib(1), max: ByteCount::gib(1) },
            r#""16MiB""#,
            "The size of a file of the log: a multiple of 4096, at least four times `inline_max` and twice \
             `batch_max`. Larger ones are recycled less often and hold on to space longer.",
        )
        .at_restart(),
        Key::new(
            "inline_max",
            Kind::Size { min: ByteCount::kib(4), max: ByteCount::mib(4) },
            r#""256KiB""#,
            "A message up to this size is written into the log; a larger one into a file of its own, which takes a \
             sync more.",
        )
        .at_restart(),
        Key::new(
            "batch_max",
            Kind::Size { min: ByteCount::kib(8), max: ByteCount::mib(512) },
            r#""2MiB""#,
            "The most bytes that are joined in one write and sync; at least twice `inline_max`. More helps a slow disk \
             under many sessions.",
        )
        .at_restart(),
        Key::new(
            "commit_delay",
            Kind::Time { min: Span::millis(0), max: Span::millis(100) },
            r#""2ms""#,
            "How long a commit waits for other messages that are under way on the same core, so that they share its \
             sync. A message that is alone does not wait. More spares a slow disk and delays the 250; `0s` never waits.",
        )
        .at_restart(),
    ],
};

pub(crate) static QUEUE: Section = Section {
    path: "queue",
    header: "[queue]",
    intro: "When a delivery that failed for now is tried again; each core has a queue of its own.",
    stand_in: None,
    keys: &[
        Key::new(
            "retry_first",
            Kind::Time { min: Span::millis(1), max: WEEK },
            r#""1m""#,
            "How long after the first failed attempt the second is made. Each further wait is twice as long.",
        ),
        Key::new(
            "retry_max",
            Kind::Time { min: Span::millis(1), max: WEEK },
            r#""1h""#,
            "The longest wait between two attempts; not less than `retry_first`.",
        ),
        Key::new(
            "attempts_max",
            Kind::Count { min: 1, max: 100_000 },
            "256",
            "Messages of one core under delivery at the same time. More helps slow targets, and costs memory and open \
             files.",
        ),
    ],
};

const WEEK: Span = Span::seconds(7 * 86_400);

/// Reads `[spool]`, and hands on the setting that the cores' memory has to hold.
pub(crate) fn spool(root: &Table<'_>) -> (ringpost_spool::Options, Setting<ByteCount>) {
    let table = root.table("spool", &SPOOL);
    let default = ringpost_spool::Options::default();
    let segment_size = table.size("segment_size", default.segment_size);
    let inline_max = table.size("inline_max", default.inline_max);
    let batch_max = table.size("batch_max", default.batch_max);
    let (segment, inline, batch) = (segment_size.value, inline_max.value, batch_max.value);
    let block = ringpost_spool::BLOCK as u64;
    table.reader.require(segment.0.is_multiple_of(block), &[segment_size.spot()], || {
        format!("a segment of {segment} is not a multiple of {block} bytes")
    });
    table.reader.require(segment.0 >= 4 * inline.0, &[segment_size.spot(), inline_max.spot()], || {
        format!("a segment of {segment} is less than four times spool.inline_max, {inline}")
    });
    table.reader.require(segment.0 >= 2 * batch.0, &[batch_max.spot(), segment_size.spot()], || {
        format!("a batch of {batch} is more than half of spool.segment_size, {segment}")
    });
    table.reader.require(batch.0 >= 2 * inline.0, &[batch_max.spot(), inline_max.spot()], || {
        format!("a batch of {batch} is less than twice spool.inline_max, {inline}")
    });
    let commit_delay = table.time("commit_delay", default.commit_delay).value;
    (ringpost_spool::Options { segment_size: segment, inline_max: inline, batch_max: batch, commit_delay }, inline_max)
}

pub(crate) fn queue(root: &Table<'_>) -> ringpost_queue::Options {
    let table = root.table("queue", &QUEUE);
    let default = ringpost_queue::Options::default();
    let retry_first = table.time("retry_first", default.retry_first);
    let retry_max = table.time("retry_max", default.retry_max);
    let (first, max) = (retry_first.value, retry_max.value);
    table.reader.require(first <= max, &[retry_first.spot(), retry_max.spot()], || {
        format!("the first wait of {first} is longer than queue.retry_max, {max}")
    });
    ringpost_queue::Options {
        retry_first: first,
        retry_max: max,
        attempts_max: table.count("attempts_max", default.attempts_max).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, tests::check};
    use ringpost_base::{ByteCount, Span};

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[spool]\nsegment_size = '1MiB'\ninline_max = '4KiB'\nbatch_max = '512KiB'\n\
             [queue]\nretry_first = '100ms'\nretry_max = '100ms'\nattempts_max = 1",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.spool.batch_max, ByteCount::kib(512));
        assert_eq!(config.queue.retry_max, Span::millis(100));
        assert_eq!(config.queue.attempts_max, 1);
    }

    #[test]
    fn faults_of_the_spool() {
        check(
            "[spool]\nsegment_size = '1KiB'\ninline_max = 5\nbatch_max = '1GiB'",
            &[
                "f:2:16: spool.segment_size: '1KiB' is out of range: 1MiB to 1GiB",
                "f:3:14: spool.inline_max: 5 is out of range: 4KiB to 4MiB",
                "f:4:13: spool.batch_max: '1GiB' is out of range: 8KiB to 512MiB",
            ],
        );
        check(
            "spool.segment_size = 5000001",
            &["f:1:22: spool.segment_size: a segment of 5000001 is not a multiple of 4096 bytes"],
        );
        check(
            "spool.inline_max = '4MiB'\nspool.segment_size = '8MiB'",
            &[
                "f:1:20: spool.inline_max: a batch of 2MiB is less than twice spool.inline_max, 4MiB",
                "f:2:22: spool.segment_size: a segment of 8MiB is less than four times spool.inline_max, 4MiB",
            ],
        );
        check(
            "[spool]\nbatch_max = '9MiB'",
            &["f:2:13: spool.batch_max: a batch of 9MiB is more than half of spool.segment_size, 16MiB"],
        );
        check(
            "[spool]\nsegment_size = '3MiB'",
            &["f:2:16: spool.segment_size: a batch of 2MiB is more than half of spool.segment_size, 3MiB"],
        );
    }

    #[test]
    fn faults_of_the_queue() {
        check(
            "[queue]\nretry_first = '2h'",
            &["f:2:15: queue.retry_first: the first wait of 2h is longer than queue.retry_max, 1h"],
        );
        check(
            "[queue]\nretry_max = '30s'",
            &["f:2:13: queue.retry_max: the first wait of 1m is longer than queue.retry_max, 30s"],
        );
        check(
            "[queue]\nretry_first = '0s'\nretry_max = '8d'\nattempts_max = 0",
            &[
                "f:2:15: queue.retry_first: '0s' is out of range: 1ms to 7d",
                "f:3:13: queue.retry_max: '8d' is out of range: 1ms to 7d",
                "f:4:16: queue.attempts_max: 0 is out of range: 1 to 100000",
            ],
        );
    }
}
