//! `[limits]` and `[smtp]`: what a session, an address and the whole process may do.
//!
//! The keys of `[limits]` end in four places: timeouts and the process-wide maximum in [`Limits`], the maxima of a
//! session in the options of `ringpost-smtp`, what counts by address or network in the ledger of `ringpost-policy`, and
//! the hops and the soft limit in that crate's own options.

use crate::{
    config::{CoreUse, Limits, Server},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Setting, Table},
    sections::server::DAY,
};
use ringpost_base::{ByteCount, NetworkLengths, Span};
use ringpost_policy::LedgerOptions;
use ringpost_smtp::BareNewline;

/// Highest limit that counts by address or network: above it none would be as good.
const COUNT_MAX: u64 = 1_000_000_000;

/// A limit that counts by address or network; 0 is none.
const fn limit(name: &'static str, doc: &'static str) -> Key {
    Key::new(name, Kind::Count { min: 0, max: COUNT_MAX }, "0", doc)
}

/// A limit on bytes that counts by address or network; 0 is none.
const fn limit_bytes(name: &'static str, doc: &'static str) -> Key {
    Key::new(name, Kind::Size { min: ByteCount(0), max: ByteCount::gib(1 << 20) }, "0", doc)
}

pub(crate) static LIMITS: Section = Section {
    path: "limits",
    header: "[limits]",
    intro: "What a session, an address and the whole process may do. What one core may hold is in `[cores.limits]`. \
            Limits by address and network count over all cores, and 0 is no limit: a load test comes from one \
            address, mail comes from many. Rates are a minute, and a minute's worth may come at once. Of an IPv6 \
            address the first 64 bits are the address. A reply that refuses names the limit. Networks of `bans.allow` are not limited.",
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
            "session_timeout",
            Kind::Time { min: Span::millis(0), max: DAY },
            r#""1h""#,
            "How long a session may last in all, however busy it is; then it gets 421. `0s`: as long as it likes.",
        ),
        Key::new(
            "connections",
            Kind::Count { min: 0, max: 100_000_000 },
            "0",
            "Connections of the whole process at the same time, split evenly among the cores. 0: only the cores' own \
             limits count.",
        ),
        Key::new(
            "connections_soft",
            Kind::Count { min: 1, max: 100 },
            "80",
            "The share of a core's connections, in percent, from which banners are delayed by `banner_delay`, so that \
             clients slow down before the limit refuses them. 100: they are not.",
        ),
        Key::new(
            "banner_delay",
            Kind::Time { min: Span::millis(0), max: Span::seconds(10) },
            r#""100ms""#,
            "How long a banner is delayed from `connections_soft` on.",
        ),
        limit("connections_per_ip", "Connections of one address at the same time; further ones get 421."),
        limit("connections_per_network", "The same of one network. Not less than that of an address."),
        limit(
            "connection_rate_per_ip",
            "New connections of one address a minute; further ones get 421. Refused ones connect again: a ban, see \
             `[[bans.rule]]`, is what sends them away.",
        ),
        limit("connection_rate_per_network", "The same of one network. Not less than that of an address."),
        limit("messages_per_ip", "Messages of one address a minute; MAIL beyond gets 450."),
        limit("messages_per_network", "The same of one network. Not less than that of an address."),
        limit("recipients_per_ip", "Recipients of one address's messages a minute; RCPT beyond gets 450."),
        limit("recipients_per_network", "The same of one network. Not less than that of an address."),
        limit_bytes("bytes_per_ip", "Bytes of one address's messages a minute; MAIL beyond gets 450."),
        limit_bytes("bytes_per_network", "The same of one network. Not less than that of an address."),
        Key::new(
            "network_v4",
            Kind::Count { min: 8, max: 32 },
            "24",
            "How many leading bits of an IPv4 address make its network. The network decides which core counts for an \
             address.",
        )
        .at_restart(),
        Key::new(
            "network_v6",
            Kind::Count { min: 16, max: 128 },
            "64",
            "The same for IPv6. One customer of a provider often has all of a /64 or /56.",
        )
        .at_restart(),
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
            "messages_per_session",
            Kind::Count { min: 0, max: 1_000_000 },
            "0",
            "Messages of a session after which MAIL gets 421, announced with LIMITS (RFC 9422). 0: no limit.",
        ),
        Key::new(
            "errors_per_session",
            Kind::Count { min: 1, max: 10_000 },
            "20",
            "Error replies since a session's last message after which it is closed with 421.",
        ),
        Key::new(
            "unknown_recipients_per_session",
            Kind::Count { min: 0, max: 10_000 },
            "10",
            "Recipients of a session that don't exist, after which it is closed with 421: who guesses names gets no \
             further. 0: no limit.",
        ),
        Key::new(
            "commands_without_progress",
            Kind::Count { min: 0, max: 1_000_000 },
            "50",
            "Commands since a session's last message that led to none, such as NOOP, RSET and all that is refused, \
             after which it is closed with 421. 0: no limit.",
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
    pub(crate) connections_soft_percent: u8,
    pub(crate) banner_delay: Span,
    pub(crate) ledger: LedgerOptions,
}

/// Bytes that a recipient takes in the spool at most: its path (RFC 5321 section 4.5.3.1.3), that of its mailbox, what the
/// sender calls it (RFC 3461 section 5.4), and their lengths.
const RECIPIENT: u64 = 1300;

/// Bytes of a message's record besides the message and the recipients, generously.
const RECORD_REST: u64 = 64 << 10;

pub(crate) fn session(
    root: &Table<'_>,
    server: &Server,
    using: &CoreUse,
    spool: &ringpost_spool::Options,
) -> SessionSettings {
    let table = root.table("limits", &LIMITS);
    let policy = ringpost_policy::Options::default();
    let soft = table.count("connections_soft", usize::from(policy.connections_soft_percent)).value;
    SessionSettings {
        limits: limits(&table, using),
        smtp: smtp(root, &table, server, spool),
        hops_max: table.count("hops", policy.hops_max).value,
        connections_soft_percent: u8::try_from(soft).unwrap_or(100),
        banner_delay: table.time("banner_delay", policy.banner_delay).value,
        ledger: ledger(&table),
    }
}

fn limits(table: &Table<'_>, using: &CoreUse) -> Limits {
    let default = Limits::default();
    let connections = table.count("connections", default.connections.unwrap_or(0));
    let cores = match using {
        CoreUse::All => 1,
        CoreUse::Count(count) => *count,
        CoreUse::Ids(ids) => ids.len(),
    };
    table.reader.require(connections.value == 0 || connections.value >= cores, &[connections.spot()], || {
        format!("{} split among {cores} cores leaves some with none", connections.value)
    });
    let session_timeout = table.time("session_timeout", default.session_timeout.unwrap_or_default()).value;
    Limits {
        command_timeout: table.time("command_timeout", default.command_timeout).value,
        data_timeout: table.time("data_timeout", default.data_timeout).value,
        session_timeout: (session_timeout > Span::default()).then_some(session_timeout),
        connections: (connections.value > 0).then_some(connections.value),
    }
}

fn smtp(
    root: &Table<'_>,
    table: &Table<'_>,
    server: &Server,
    spool: &ringpost_spool::Options,
) -> ringpost_smtp::Options {
    let default = ringpost_smtp::Options::default();
    let recipients = table.count("recipients", default.recipients_max);
    let addresses = recipients.value.max(ringpost_policy::ALIAS_ADDRESSES_MAX) as u64;
    let record = spool.inline_max.0 + addresses * RECIPIENT + RECORD_REST;
    table.reader.require(record <= spool.segment_size.0, &[recipients.spot()], || {
        format!("a message to {} recipients may not fit spool.segment_size, {}", recipients.value, spool.segment_size)
    });
    let unknown_recipients = table.count_u32("unknown_recipients_per_session", default.unknown_recipients_max);
    ringpost_smtp::Options {
        hostname: if server.hostname.is_empty() { default.hostname } else { server.hostname.clone() },
        message_size_max: table.size("message_size", default.message_size_max).value,
        recipients_max: recipients.value,
        errors_max: table.count_u32("errors_per_session", default.errors_max).value,
        commands_max: table.count_u32("commands_without_progress", default.commands_max).value,
        unknown_recipients_max: unknown_recipients.value,
        messages_per_session: table.count_u32("messages_per_session", default.messages_per_session).value,
        bare_newline: root.table("smtp", &SMTP).choice("bare_newline", default.bare_newline).value,
    }
}

fn ledger(table: &Table<'_>) -> LedgerOptions {
    let default = LedgerOptions::default();
    let length = |name, default: u8| {
        let bits = table.count(name, usize::from(default)).value;
        u8::try_from(bits).unwrap_or(default)
    };
    let pair = |per_ip, per_network| {
        let (address, network) = (table.limit(per_ip, None), table.limit(per_network, None));
        holds(table, &address, &network);
        (address.value, network.value)
    };
    let bytes = |name| table.size(name, ByteCount(0)).map(|size| (size.0 > 0).then_some(size));
    let (bytes_per_ip, bytes_per_network) = (bytes("bytes_per_ip"), bytes("bytes_per_network"));
    holds(table, &bytes_per_ip, &bytes_per_network);
    let connections = pair("connections_per_ip", "connections_per_network");
    let connection_rate = pair("connection_rate_per_ip", "connection_rate_per_network");
    let messages = pair("messages_per_ip", "messages_per_network");
    let recipients = pair("recipients_per_ip", "recipients_per_network");
    LedgerOptions {
        networks: NetworkLengths {
            v4: length("network_v4", default.networks.v4),
            v6: length("network_v6", default.networks.v6),
        },
        connections_per_ip: connections.0,
        connections_per_network: connections.1,
        connection_rate_per_ip: connection_rate.0,
        connection_rate_per_network: connection_rate.1,
        messages_per_ip: messages.0,
        messages_per_network: messages.1,
        recipients_per_ip: recipients.0,
        recipients_per_network: recipients.1,
        bytes_per_ip: bytes_per_ip.value,
        bytes_per_network: bytes_per_network.value,
    }
}

/// An address is in its network: a limit of the network below that of the address leaves the latter without effect.
fn holds<T: Copy + PartialOrd + std::fmt::Display>(
    table: &Table<'_>,
    address: &Setting<Option<T>>,
    network: &Setting<Option<T>>,
) {
    if let (Some(one), Some(all)) = (address.value, network.value) {
        table.reader.require(one <= all, &[network.spot(), address.spot()], || {
            format!("a network's {all} is less than {}, {one}, which no address would reach", address.key)
        });
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
    fn limits_of_a_session() {
        let text = "[limits]\nsession_timeout = '0s'\nmessages_per_session = 7\nunknown_recipients_per_session = 0\n\
                    commands_without_progress = 9\nconnections_soft = 100\nbanner_delay = '0s'";
        let config = Config::parse("f", text).expect("the text has no fault");
        assert_eq!(config.limits.session_timeout, None);
        let smtp = &config.smtp;
        assert_eq!((smtp.messages_per_session, smtp.unknown_recipients_max, smtp.commands_max), (7, 0, 9));
        assert_eq!((config.policy.connections_soft_percent, config.policy.banner_delay), (100, Span::default()));
        assert_eq!(Config::default().limits.session_timeout, Some(Span::seconds(3600)));
    }

    #[test]
    fn limits_by_address_and_network() {
        let text = "[limits]\nconnections_per_ip = 1\nconnections_per_network = 2\nconnection_rate_per_ip = 3\n\
                    connection_rate_per_network = 4\nmessages_per_ip = 5\nmessages_per_network = 6\n\
                    recipients_per_ip = 7\nrecipients_per_network = 8\nbytes_per_ip = 9\nbytes_per_network = '1KiB'\n\
                    network_v4 = 8\nnetwork_v6 = 128";
        let ledger = Config::parse("f", text).expect("the text has no fault").policy.ledger;
        assert_eq!((ledger.connections_per_ip, ledger.connections_per_network), (Some(1), Some(2)));
        assert_eq!((ledger.connection_rate_per_ip, ledger.connection_rate_per_network), (Some(3), Some(4)));
        assert_eq!((ledger.messages_per_ip, ledger.messages_per_network), (Some(5), Some(6)));
        assert_eq!((ledger.recipients_per_ip, ledger.recipients_per_network), (Some(7), Some(8)));
        assert_eq!((ledger.bytes_per_ip, ledger.bytes_per_network), (Some(ByteCount(9)), Some(ByteCount(1024))));
        assert_eq!((ledger.networks.v4, ledger.networks.v6), (8, 128));
    }

    #[test]
    fn faults_of_limits_by_address_and_network() {
        check(
            "[limits]\nconnections_per_ip = 20\nconnections_per_network = 10\nmessages_per_network = 5\n\
             bytes_per_ip = '2MiB'\nbytes_per_network = '1MiB'\nrecipients_per_ip = 5\nrecipients_per_network = 5",
            &[
                "f:3:27: limits.connections_per_network: a network's 10 is less than limits.connections_per_ip, 20, \
                 which no address would reach",
                "f:6:21: limits.bytes_per_network: a network's 1MiB is less than limits.bytes_per_ip, 2MiB, which no \
                 address would reach",
            ],
        );
        check(
            "[limits]\nmessages_per_ip = -1\nnetwork_v4 = 7\nnetwork_v6 = 129\nconnections_soft = 0\n\
             banner_delay = '11s'\nbytes_per_ip = 1.5\nsession_timeout = '2d'",
            &[
                "f:2:19: limits.messages_per_ip: -1 is out of range: 0 to 1000000000",
                "f:3:14: limits.network_v4: 7 is out of range: 8 to 32",
                "f:4:14: limits.network_v6: 129 is out of range: 16 to 128",
                "f:5:20: limits.connections_soft: 0 is out of range: 1 to 100",
                "f:6:16: limits.banner_delay: '11s' is out of range: 0s to 10s",
                "f:7:16: limits.bytes_per_ip: found a float, wants a size, such as \"50MiB\"",
                "f:8:19: limits.session_timeout: '2d' is out of range: 0s to 1d",
            ],
        );
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
