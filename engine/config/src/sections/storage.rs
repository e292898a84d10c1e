//! `[spool]` and `[queue]`: what is durable, and when deliveries are tried again.

use crate::{
    config::Space,
    keys::{Key, Kind, Section},
    reader::{Setting, Table},
    routing::Routing,
    sections::target::Targets,
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
        Key::new(
            "space_soft",
            Kind::Size { min: ByteCount(0), max: ByteCount::gib(1 << 20) },
            r#""512MiB""#,
            "Free space on the disk of `server.state_dir` below which the server is degraded, as its health says. 0: it \
             never is.",
        ),
        Key::new(
            "space_hard",
            Kind::Size { min: ByteCount(0), max: ByteCount::gib(1 << 20) },
            r#""128MiB""#,
            "Free space below which MAIL gets 452 4.3.1, until there is more again; not more than `space_soft`. 0: mail \
             is taken until the disk is full.",
        ),
    ],
};

pub(crate) static QUEUE: Section = Section {
    path: "queue",
    header: "[queue]",
    intro: "When a delivery that failed for now is tried again, and when it is given up; each core has a queue of its \
            own.",
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
            "retry_jitter",
            Kind::Count { min: 0, max: 50 },
            "10",
            "How far a wait may be off, in percent of it, so that messages that failed together don't come again \
             together.",
        ),
        Key::new(
            "attempts_max",
            Kind::Count { min: 1, max: 100_000 },
            "256",
            "Deliveries of one core to targets on this machine, at the same time. More helps a slow disk, and costs \
             memory and open files. What goes elsewhere is limited by `concurrency` of the `[[target]]`.",
        ),
        Key::new(
            "expire_after",
            Kind::Time { min: Span::seconds(1), max: YEAR },
            r#""5d""#,
            "The age at which a message that could not be delivered is given up, and its sender gets a report. \
             RFC 5321 section 4.5.4.1 asks for at least 4 to 5 days.",
        ),
        Key::new(
            "delay_notice",
            Kind::Time { min: Span::millis(0), max: YEAR },
            r#""4h""#,
            "The age at which the sender is told that a message is late; shorter than `expire_after`. `0s`: never.",
        ),
        Key::new(
            "dead_letters_keep",
            Kind::Time { min: Span::seconds(1), max: YEAR },
            r#""30d""#,
            "How long a message is kept that could neither be delivered nor reported: a dead letter.",
        ),
        Key::new(
            "dead_letters_max",
            Kind::Count { min: 1, max: 10_000_000 },
            "10000",
            "Dead letters of one core, at most; beyond, the oldest go.",
        ),
        Key::new(
            "default_target",
            Kind::Text("the name of a target, or \"\""),
            r#""""#,
            "The `[[target]]` for recipients that no `[[route]]` and no `[[domain]]` is for: senders elsewhere, who are \
             to get a report. Empty: there is none, and what such a report is about becomes a dead letter.",
        ),
        Key::new(
            "next_hop_timeout",
            Kind::Time { min: Span::seconds(1), max: Span::seconds(600) },
            r#""1m""#,
            "How long a client waits for the answer of a target whose route has `durability = \"next-hop\"`; then it \
             gets 451.",
        ),
    ],
};

const WEEK: Span = Span::seconds(7 * 86_400);
const YEAR: Span = Span::seconds(366 * 86_400);

/// What `[spool]` says.
pub(crate) struct Spool {
    pub(crate) options: ringpost_spool::Options,
    pub(crate) space: Space,
    /// For the cores' memory, which has to hold such a message.
    pub(crate) inline_max: Setting<ByteCount>,
}

pub(crate) fn spool(root: &Table<'_>) -> Spool {
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
    let options = ringpost_spool::Options { segment_size: segment, inline_max: inline, batch_max: batch, commit_delay };
    Spool { options, space: space(&table), inline_max }
}

fn space(table: &Table<'_>) -> Space {
    let default = Space::default();
    let (soft, hard) = (table.size("space_soft", default.soft), table.size("space_hard", default.hard));
    let space = Space { soft: soft.value, hard: hard.value };
    table.reader.require(space.soft == ByteCount(0) || space.hard <= space.soft, &[hard.spot(), soft.spot()], || {
        format!("the hard mark of {} is above spool.space_soft, {}", space.hard, space.soft)
    });
    space
}

/// What `[queue]` says.
pub(crate) struct Queue {
    pub(crate) options: ringpost_queue::Options,
    pub(crate) default_target: Option<String>,
    pub(crate) next_hop_timeout: Span,
}

pub(crate) fn queue(root: &Table<'_>, targets: &Targets) -> Queue {
    let table = root.table("queue", &QUEUE);
    let default_target = table.text("default_target", "", |_| Ok(()));
    if !default_target.value.is_empty() {
        targets.require(table.reader, &default_target);
    }
    Queue {
        options: schedule(&table),
        default_target: Some(default_target.value).filter(|name| !name.is_empty()),
        next_hop_timeout: table.time("next_hop_timeout", Routing::default().next_hop_timeout).value,
    }
}

fn schedule(table: &Table<'_>) -> ringpost_queue::Options {
    let default = ringpost_queue::Options::default();
    let retry_first = table.time("retry_first", default.retry_first);
    let retry_max = table.time("retry_max", default.retry_max);
    let (first, max) = (retry_first.value, retry_max.value);
    table.reader.require(first <= max, &[retry_first.spot(), retry_max.spot()], || {
        format!("the first wait of {first} is longer than queue.retry_max, {max}")
    });
    let expire_after = table.time("expire_after", default.expire_after);
    let delay_notice = table.time("delay_notice", default.delay_notice.unwrap_or_default());
    let (notice, age) = (delay_notice.value, expire_after.value);
    table.reader.require(notice < age, &[delay_notice.spot(), expire_after.spot()], || {
        format!("a notice at the age of {notice} comes too late: by queue.expire_after, {age}, the message is given up")
    });
    let jitter = table.count("retry_jitter", usize::from(default.retry_jitter_percent)).value;
    ringpost_queue::Options {
        retry_first: first,
        retry_max: max,
        retry_jitter_percent: u8::try_from(jitter).unwrap_or(default.retry_jitter_percent),
        attempts_max: table.count("attempts_max", default.attempts_max).value,
        expire_after: age,
        delay_notice: (notice > Span::default()).then_some(notice),
        dead_letters_keep: table.time("dead_letters_keep", default.dead_letters_keep).value,
        dead_letters_max: table.count("dead_letters_max", default.dead_letters_max).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Space, tests::check};
    use ringpost_base::{ByteCount, Span};

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[spool]\nsegment_size = '1MiB'\ninline_max = '4KiB'\nbatch_max = '512KiB'\n\
             space_soft = '1GiB'\nspace_hard = 0\n\
             [queue]\nretry_first = '100ms'\nretry_max = '100ms'\nretry_jitter = 50\nattempts_max = 1\n\
             expire_after = '1s'\ndelay_notice = '0s'\ndead_letters_keep = '1s'\ndead_letters_max = 1\n\
             default_target = 'local'\nnext_hop_timeout = '10m'",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.spool.batch_max, ByteCount::kib(512));
        assert_eq!(config.space, Space { soft: ByteCount::gib(1), hard: ByteCount(0) });
        let queue = &config.queue;
        assert_eq!((queue.retry_max, queue.retry_jitter_percent, queue.attempts_max), (Span::millis(100), 50, 1));
        assert_eq!((queue.expire_after, queue.delay_notice), (Span::seconds(1), None));
        assert_eq!((queue.dead_letters_keep, queue.dead_letters_max), (Span::seconds(1), 1));
        assert_eq!(config.routing.default_target.as_deref(), Some("local"));
        assert_eq!(config.routing.next_hop_timeout, Span::seconds(600));
        let config = Config::parse("f", "queue.delay_notice = '1h'").expect("the text has no fault");
        assert_eq!((config.queue.delay_notice, config.routing.default_target), (Some(Span::seconds(3600)), None));
    }

    #[test]
    fn faults_of_free_space() {
        check(
            "spool.space_hard = '1GiB'",
            &["f:1:20: spool.space_hard: the hard mark of 1GiB is above spool.space_soft, 512MiB"],
        );
        check(
            "spool.space_soft = '64MiB'",
            &["f:1:20: spool.space_soft: the hard mark of 128MiB is above spool.space_soft, 64MiB"],
        );
        check("spool.space_soft = 0", &[]);
    }

    #[test]
    fn faults_of_giving_up() {
        check(
            "queue.delay_notice = '5d'",
            &["f:1:22: queue.delay_notice: a notice at the age of 5d comes too late: by queue.expire_after, 5d, the \
             message is given up"],
        );
        check(
            "queue.expire_after = '4h'",
            &["f:1:22: queue.expire_after: a notice at the age of 4h comes too late: by queue.expire_after, 4h, the \
             message is given up"],
        );
        check(
            "[queue]\nexpire_after = '0s'\nretry_jitter = 51\ndead_letters_max = 0\ndefault_target = 'locla'\n\
             next_hop_timeout = '11m'",
            &[
                "f:2:16: queue.expire_after: '0s' is out of range: 1s to 366d",
                "f:3:16: queue.retry_jitter: 51 is out of range: 0 to 50",
                "f:4:20: queue.dead_letters_max: 0 is out of range: 1 to 10000000",
                "f:5:18: queue.default_target: \"locla\" is not the name of a target; did you mean \"local\"?",
                "f:6:20: queue.next_hop_timeout: '11m' is out of range: 1s to 10m",
            ],
        );
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
