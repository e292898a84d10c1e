//! `[server]`, `[explain]`, `[admin]` and `[log]`: the process as a whole.

use crate::{
    check,
    config::{Admin, Explain, Log, LogFormat, LogLevel, Server},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Setting, Table, Trouble},
};
use ringpost_base::{ByteCount, Span};
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
        )
        .at_restart(),
        Key::new(
            "drain_timeout",
            Kind::Time { min: Span::millis(1), max: DAY },
            r#""30s""#,
            "How long sessions may finish what they are at when the server stops. Keep it below the time that the \
             service manager waits before it kills.",
        ),
    ],
};

pub(crate) static EXPLAIN: Section = Section {
    path: "explain",
    header: "[explain]",
    intro: "What is kept of recent sessions, so that `ringpost explain ID` can say what was decided, and why.",
    stand_in: None,
    keys: &[Key::new(
        "memory",
        Kind::Size { min: ByteCount(0), max: ByteCount::mib(64) },
        r#""4MiB""#,
        "The memory of each core for it: 4 MiB hold some thousands of sessions, and the oldest go first. 0: nothing \
         is kept.",
    )],
};

pub(crate) static ADMIN: Section = Section {
    path: "admin",
    header: "[admin]",
    intro: "Health and metrics over HTTP, and the socket that the commands talk to.",
    stand_in: None,
    keys: &[
        Key::new(
            "listen",
            Kind::Text(ADDRESS_OR_OFF),
            r#""127.0.0.1:8025""#,
            "The address that health and metrics are served at. There is no authentication: open it to the network of \
             the monitoring at most.",
        )
        .at_restart(),
        Key::new(
            "socket",
            Kind::Text(SOCKET_OR_OFF),
            r#""ringpost.sock""#,
            "The unix socket of the API, which `ringpost ban`, `explain`, `reload` and `status` talk to; relative to \
             `server.state_dir`. Only the server's user and root may use it. `\"off\"`: there is none, and these \
             commands have nobody to ask.",
        )
        .at_restart(),
    ],
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

const SOCKET_OR_OFF: &str = "a path, or \"off\"";

/// Longest path of a unix socket: the kernel has 108 bytes for it, the last of them zero.
const SOCKET_PATH_MAX: usize = 107;

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

/// `[server]`, and the setting of its state directory, which the path of the socket begins with.
pub(crate) fn server(root: &Table<'_>) -> (Server, Setting<String>) {
    let table = root.table("server", &SERVER);
    let default = Server::default();
    let state_dir = table.text("state_dir", &default.state_dir, check::path);
    let server = Server {
        hostname: table.text("hostname", &default.hostname, check::hostname).value,
        state_dir: state_dir.value.clone(),
        drain_timeout: table.time("drain_timeout", default.drain_timeout).value,
    };
    (server, state_dir)
}

pub(crate) fn explain(root: &Table<'_>) -> Explain {
    Explain { memory: root.table("explain", &EXPLAIN).size("memory", Explain::default().memory).value }
}

/// `[admin]`, and the setting of its address, for the listeners to be compared with.
pub(crate) fn admin(root: &Table<'_>, state_dir: &Setting<String>) -> (Admin, Setting<Option<SocketAddr>>) {
    let (table, default) = (root.table("admin", &ADMIN), Admin::default());
    let listen = table.setting("listen", default.listen, |entry, row| {
        let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| Trouble::from(format!("{text:?} is not {ADDRESS_OR_OFF}")))
    });
    let socket = table.text("socket", &default.socket.unwrap_or_default(), check::path);
    let length = match socket.value.as_str() {
        path if path.starts_with('/') => path.len(),
        path => state_dir.value.len() + 1 + path.len(),
    };
    table.reader.require(
        socket.value == "off" || length <= SOCKET_PATH_MAX,
        &[socket.spot(), state_dir.spot()],
        || {
            format!(
                "the path of admin.socket has {length} bytes, with server.state_dir where it begins with that; the \
                 kernel takes {SOCKET_PATH_MAX}"
            )
        },
    );
    let admin = Admin { listen: listen.value, socket: (socket.value != "off").then_some(socket.value) };
    (admin, listen)
}

pub(crate) fn log(root: &Table<'_>) -> Log {
    let table = root.table("log", &LOG);
    let default = Log::default();
    Log { format: table.choice("format", default.format).value, level: table.choice("level", default.level).value }
}

#[cfg(test)]
mod tests {
    use crate::{Config, LogFormat, LogLevel, tests::check};
    use ringpost_base::{ByteCount, Span};

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
            "explain.memory = '2GiB'\nadmin.socket = ''",
            &["f:1:18: explain.memory: '2GiB' is out of range: 0 to 64MiB", "f:2:16: admin.socket: the path is empty"],
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
    fn the_path_of_a_socket_fits_the_kernel() {
        let path = format!("/{}", "a".repeat(106));
        check(&format!("admin.socket = '{path}'"), &[]);
        check(
            &format!("admin.socket = '{path}a'"),
            &["f:1:16: admin.socket: the path of admin.socket has 108 bytes, with server.state_dir where it begins \
             with that; the kernel takes 107"],
        );
        check(&format!("server.state_dir = '{}'", &path[..93]), &[]);
        check(
            &format!("server.state_dir = '{}'", &path[..94]),
            &["f:1:20: server.state_dir: the path of admin.socket has 108 bytes, with server.state_dir where it \
             begins with that; the kernel takes 107"],
        );
        check(&format!("server.state_dir = '{path}'\nadmin.socket = 'off'"), &[]);
    }

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "server = { hostname = 'mx.example.org', state_dir = '/var/lib/x', drain_timeout = '2m' }\n\
             admin = { listen = 'off', socket = 'off' }\nexplain.memory = 0\nlog = { format = 'json', level = 'trace' }",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.server.hostname, "mx.example.org");
        assert_eq!(config.server.drain_timeout, Span::seconds(120));
        assert_eq!((config.admin.listen, config.admin.socket, config.explain.memory), (None, None, ByteCount(0)));
        assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Trace));
    }
}
