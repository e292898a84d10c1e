//! `[server]`, `[admin]` and `[log]`: the process as a whole.

use crate::{
    check,
    config::{Admin, Log, LogFormat, LogLevel, Server},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Setting, Table, Trouble},
};
use ringpost_base::Span;
use std::net::SocketAddr;

pub(crate) static SERVER: Section = Section {
    path: "server",
    header: "[server]",
    intro: "Who the server is, and where its state lives.",
    stand_in: None,
    keys: &[
        Key::new(
            "hostname",
            Kind::Text("a domain name, or \"\""),
            r#""""#,
            "The name the server goes by in its banner, in EHLO and in Received. Empty: the host name of the system. \
             Give it where that is not the name that DNS has for the server's address.",
        ),
        Key::new(
            "state_dir",
            Kind::Text("a directory"),
            r#""ringpost-state""#,
            "Where the spool, a self-signed certificate and relative mail paths live. Relative to the working \
             directory; give an absolute path in a deployment, on a disk with power-loss protection.",
        ),
        Key::new(
            "drain_timeout",
            Kind::Time { min: Span::millis(1), max: DAY },
            r#""30s""#,
            "How long sessions may finish what they are at when the server stops. Keep it below the time that the \
             service manager waits before it kills.",
        ),
    ],
};

pub(crate) static ADMIN: Section = Section {
    path: "admin",
    header: "[admin]",
    intro: "Health and metrics, over HTTP.",
    stand_in: None,
    keys: &[Key::new(
        "listen",
        Kind::Text(ADDRESS_OR_OFF),
        r#""127.0.0.1:8025""#,
        "The address they are served at. There is no authentication: open it to the network of the monitoring at most.",
    )],
};

pub(crate) static LOG: Section = Section {
    path: "log",
    header: "[log]",
    intro: "The log, which goes to standard output.",
    stand_in: None,
    keys: &[
        Key::new(
            "format",
            Kind::Choice(names::<LogFormat>),
            r#""auto""#,
            "`auto` is `text` on a terminal and `json`, one object a line, everywhere else.",
        ),
        Key::new(
            "level",
            Kind::Choice(names::<LogLevel>),
            r#""info""#,
            "The least important lines that are written. `debug` and `trace` are for looking into a fault: they cost \
             throughput.",
        ),
    ],
};

const ADDRESS_OR_OFF: &str = "an IP address and port, such as \"127.0.0.1:8025\", or \"off\"";

/// Longest duration of anything that a session or a stop waits for.
pub(crate) const DAY: Span = Span::seconds(86_400);

impl Choice for LogFormat {
    const ALL: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("json", Self::Json), ("text", Self::Text)];
}

impl Choice for LogLevel {
    const ALL: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

pub(crate) fn server(root: &Table<'_>) -> Server {
    let table = root.table("server", &SERVER);
    let default = Server::default();
    Server {
        hostname: table.text("hostname", &default.hostname, check::hostname).value,
        state_dir: table.text("state_dir", &default.state_dir, check::path).value,
        drain_timeout: table.time("drain_timeout", default.drain_timeout).value,
    }
}

/// `[admin]`, and the setting of its address, for the listeners to be compared with.
pub(crate) fn admin(root: &Table<'_>) -> (Admin, Setting<Option<SocketAddr>>) {
    let listen = root.table("admin", &ADMIN).setting("listen", Admin::default().listen, |entry, row| {
        let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| Trouble::from(format!("{text:?} is not {ADDRESS_OR_OFF}")))
    });
    (Admin { listen: listen.value }, listen)
}

pub(crate) fn log(root: &Table<'_>) -> Log {
    let table = root.table("log", &LOG);
    let default = Log::default();
    Log { format: table.choice("format", default.format).value, level: table.choice("level", default.level).value }
}

#[cfg(test)]
mod tests {
    use crate::{Config, LogFormat, LogLevel, tests::check};
    use ringpost_base::Span;

    #[test]
    fn faults() {
        check(
            "server.hostname = 'mx_1.example.org'",
            &["f:1:19: server.hostname: \"mx_1.example.org\" is not a host name: it has a character that is not a \
             letter, a digit, \"-\" or \".\""],
        );
        check(
            "server.hostname = 'mx.example.org.'",
            &["f:1:19: server.hostname: \"mx.example.org.\" is not a host name: it ends with a dot; did you mean \
             \"mx.example.org\"?"],
        );
        check(
            "[server]\nhostname = 5\nstate_dir = ''\ndrain_timeout = '0s'",
            &[
                "f:2:12: server.hostname: found an integer, wants a domain name, or \"\"",
                "f:3:13: server.state_dir: the path is empty",
                "f:4:17: server.drain_timeout: '0s' is out of range: 1ms to 1d",
            ],
        );
        check(
            "[server]\ndrain_timeout = 30",
            &["f:2:17: server.drain_timeout: found an integer, wants a duration, such as \"5m\""],
        );
        check(
            "[server]\ndrain_timeout = '30 sec'",
            &["f:2:17: server.drain_timeout: \"30 sec\" is not a duration: write a number with ms, s, m, h or d, as \
             in \"5m\"; did you mean \"30s\"?"],
        );
        check("admin = 'off'", &["f:1:9: admin: found a string, wants a table"]);
        check(
            "admin.listen = 'localhost:8025'",
            &["f:1:16: admin.listen: \"localhost:8025\" is not an IP address and port, such as \"127.0.0.1:8025\", \
             or \"off\""],
        );
        check(
            "[log]\nformat = 'jsonl'\nlevel = 3",
            &[
                "f:2:10: log.format: \"jsonl\" is not one of auto, json, text; did you mean \"json\"?",
                "f:3:9: log.level: found an integer, wants one of error, warn, info, debug, trace",
            ],
        );
    }

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "server = { hostname = 'mx.example.org', state_dir = '/var/lib/x', drain_timeout = '2m' }\n\
             admin.listen = 'off'\nlog = { format = 'json', level = 'trace' }",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.server.hostname, "mx.example.org");
        assert_eq!(config.server.drain_timeout, Span::seconds(120));
        assert_eq!(config.admin.listen, None);
        assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Trace));
    }
}
