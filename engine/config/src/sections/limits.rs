//! `[limits]` and `[smtp]`: what a session allows.
//!
//! The keys of `[limits]` end in three places: timeouts and the process-wide maximum in [`Limits`], the maxima of a
//! session in the options of `ringpost-smtp`, and the hops in those of `ringpost-policy`.

use crate::{
    config::{CoreUse, Limits, Server},
    keys::{Choice, Key, Kind, Section, names},
    reader::Table,
    sections::server::DAY,
};
use ringpost_base::{ByteCount, Span};
use ringpost_smtp::BareNewline;

pub(crate) static LIMITS: Section = Section {
    path: "limits",
    header: "[limits]",
    intro: "What a session and the whole process allow. What one core may hold is in `[cores.limits]`.",
    stand_in: None,
    keys: &[
        Key::new(
            "command_timeout",
            Kind::Time { min: Span::millis(1), max: DAY },
            r#""5m""#,
            "How long a session waits for a command. RFC 5321 section 4.5.3.2.7 asks for at least 5 minutes; less \
             frees the connections of idle clients sooner.",
        ),
        Key::new(
            "data_timeout",
            Kind::Time { min: Span::millis(1), max: DAY },
            r#""5m""#,
            "How long a session waits for a further byte of a message.",
        ),
        Key::new(
            "connections",
            Kind::Count { min: 0, max: 100_000_000 },
            "0",
            "Connections of the whole process at the same time, split evenly among the cores. 0: only the cores' own \
             limits count.",
        ),
        Key::new(
            "message_size",
            Kind::Size { min: ByteCount::kib(64), max: ByteCount::gib(2) },
            r#""50MiB""#,
            "The largest message, announced with SIZE (RFC 1870). What is attached to it grows by a third on the way.",
        )
        .because("RFC 5321 section 4.5.3.1.7 asks for at least 64KiB"),
        Key::new(
            "recipients",
            Kind::Count { min: 100, max: 50_000 },
            "1000",
            "The most recipients of one message; further ones get 452, and the sender sends them another copy.",
        )
        .because("RFC 5321 section 4.5.3.1.8 asks for at least 100"),
        Key::new(
            "errors_per_session",
            Kind::Count { min: 1, max: 10_000 },
            "20",
            "Error replies after which a session is closed with 421. Lower it against clients that guess recipients.",
        ),
        Key::new(
            "hops",
            Kind::Count { min: 1, max: 1000 },
            "100",
            "Received header fields above which a message is refused as looping. RFC 5321 section 6.3 asks for a \
             threshold of at least 100 as a rule.",
        ),
    ],
};

pub(crate) static SMTP: Section = Section {
    path: "smtp",
    header: "[smtp]",
    intro: "How strictly the protocol is taken.",
    stand_in: None,
    keys: &[Key::new(
        "bare_newline",
        Kind::Choice(names::<BareNewline>),
        r#""reject""#,
        "What happens to a message with a CR or LF outside a CRLF pair, which RFC 5321 section 2.3.8 forbids. `reject` \
         refuses it, `repair` makes each a CRLF. Neither takes what follows for the end of the message. Repair breaks \
         signatures; choose it only for senders that can't be mended.",
    )],
};

impl Choice for BareNewline {
    const ALL: &'static [(&'static str, Self)] = &[("reject", Self::Reject), ("repair", Self::Repair)];
}

/// What `[limits]` and `[smtp]` say, by who takes it.
pub(crate) struct SessionSettings {
    pub(crate) limits: Limits,
    pub(crate) smtp: ringpost_smtp::Options,
    pub(crate) hops_max: usize,
}

/// Bytes that a recipient takes in the spool at most: a path of RFC 5321 section 4.5.3.1.3 and its length.
const RECIPIENT: u64 = 260;

/// Bytes of a message's record besides the message and the recipients, generously.
const RECORD_REST: u64 = 64 << 10;

pub(crate) fn session(
    root: &Table<'_>,
    server: &Server,
    using: &CoreUse,
    spool: &ringpost_spool::Options,
) -> SessionSettings {
    let table = root.table("limits", &LIMITS);
    let (limits, smtp) = (Limits::default(), ringpost_smtp::Options::default());
    let connections = table.count("connections", limits.connections.unwrap_or(0));
    let cores = match using {
        CoreUse::All => 1,
        CoreUse::Count(count) => *count,
        CoreUse::Ids(ids) => ids.len(),
    };
    table.reader.require(connections.value == 0 || connections.value >= cores, &[connections.spot()], || {
        format!("{} split among {cores} cores leaves some with none", connections.value)
    });
    let recipients = table.count("recipients", smtp.recipients_max);
    let record = spool.inline_max.0 + recipients.value as u64 * RECIPIENT + RECORD_REST;
    table.reader.require(record <= spool.segment_size.0, &[recipients.spot()], || {
        format!("a message to {} recipients may not fit spool.segment_size, {}", recipients.value, spool.segment_size)
    });
    let errors_max = table.count("errors_per_session", smtp.errors_max as usize).value;
    SessionSettings {
        limits: Limits {
            command_timeout: table.time("command_timeout", limits.command_timeout).value,
            data_timeout: table.time("data_timeout", limits.data_timeout).value,
            connections: if connections.value == 0 { None } else { Some(connections.value) },
        },
        smtp: ringpost_smtp::Options {
            hostname: if server.hostname.is_empty() { smtp.hostname } else { server.hostname.clone() },
            message_size_max: table.size("message_size", smtp.message_size_max).value,
            recipients_max: recipients.value,
            errors_max: u32::try_from(errors_max).unwrap_or(u32::MAX),
            bare_newline: root.table("smtp", &SMTP).choice("bare_newline", smtp.bare_newline).value,
        },
        hops_max: table.count("hops", ringpost_policy::Options::default().hops_max).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, tests::check};
    use ringpost_base::{ByteCount, Span};
    use ringpost_smtp::BareNewline;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[limits]\ncommand_timeout = '500ms'\ndata_timeout = '1h'\nconnections = 7\nmessage_size = 65536\n\
             recipients = 1_00\nerrors_per_session = 1\nhops = 30\n[smtp]\nbare_newline = 'repair'",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.limits.command_timeout, Span::millis(500));
        assert_eq!(config.limits.connections, Some(7));
        assert_eq!(config.smtp.message_size_max, ByteCount::kib(64));
        assert_eq!((config.smtp.recipients_max, config.smtp.errors_max), (100, 1));
        assert_eq!(config.smtp.bare_newline, BareNewline::Repair);
        assert_eq!(config.policy.hops_max, 30);
    }

    #[test]
    fn faults() {
        check(
            "[limits]\nmessage_size = '63KiB'\nrecipients = 99\nerrors_per_session = 0\nhops = '100'",
            &[
                "f:2:16: limits.message_size: '63KiB' is out of range: 64KiB to 2GiB; RFC 5321 section 4.5.3.1.7 asks \
             for at least 64KiB",
                "f:3:14: limits.recipients: 99 is out of range: 100 to 50000; RFC 5321 section 4.5.3.1.8 asks for at \
             least 100",
                "f:4:22: limits.errors_per_session: 0 is out of range: 1 to 10000",
                "f:5:8: limits.hops: found a string, wants a whole number",
            ],
        );
        check(
            "[limits]\nmessage_size = '50MB'\ncommand_timeout = '0s'\ndata_timeout = '2d'",
            &[
                "f:2:16: limits.message_size: \"50MB\" is not a size: write bytes as a number, or with KiB, MiB or \
             GiB, as in \"50MiB\"; did you mean \"50MiB\"?",
                "f:3:19: limits.command_timeout: '0s' is out of range: 1ms to 1d",
                "f:4:16: limits.data_timeout: '2d' is out of range: 1ms to 1d",
            ],
        );
        check(
            "[limits]\nmessage_size = -1\nconnections = 3\n[cores]\nuse = 4",
            &[
                "f:2:16: limits.message_size: -1 is not a number of bytes",
                "f:3:15: limits.connections: 3 split among 4 cores leaves some with none",
            ],
        );
        check(
            "[smtp]\nbare_newline = 'repare'\nmessage_size = 1\nbanner = 'x'",
            &[
                "f:2:16: smtp.bare_newline: \"repare\" is not one of reject, repair; did you mean \"repair\"?",
                "f:3:1: smtp.message_size: unknown key; did you mean \"limits.message_size\"?",
                "f:4:1: smtp.banner: unknown key; [smtp] takes bare_newline",
            ],
        );
    }

    #[test]
    fn a_record_fits_a_segment() {
        check(
            "[limits]\nrecipients = 50000\n[spool]\nsegment_size = '8MiB'",
            &["f:2:14: limits.recipients: a message to 50000 recipients may not fit spool.segment_size, 8MiB"],
        );
    }
}
