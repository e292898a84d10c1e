//! `[server]`, `[explain]`, `[admin]` and `[log]`: the process as a whole.

use crate::{
    check,
    config::{Admin, Explain, Log, LogFormat, LogLevel, LogRedaction, Server},
    keys::{Choice, Key, Kind, Section, name_of, names},
    reader::{Setting, Table, Trouble},
    value,
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
        Key::new(
            "stall_timeout",
            Kind::Time { min: Span::millis(0), max: DAY },
            r#""5s""#,
            "How long a core's thread may give no sign of life before that is a fault: the log tells it with the thread's \
             stack, `/readyz` answers 503, and a metric counts it. 0: nobody looks.",
        ),
        Key::new(
            "user",
            Kind::Text("the name or number of a user, or \"\""),
            r#""""#,
            "Who a server that is started as root becomes as soon as its sockets are bound. The state directory has to \
             be that user's, and the files that this file names have to be readable for it. Empty: it stays who it is, \
             and gives up what it does not need of root's powers. Under systemd, `User=` of the unit does the same.",
        )
        .at_restart(),
        Key::new(
            "group",
            Kind::Text("the name or number of a group, or \"\""),
            r#""""#,
            "The group that goes with `user`. Empty: that of the user. Further groups that the user is in are had too.",
        )
        .at_restart(),
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
            "The unix socket of the API, which `ringpost ban`, `explain`, `reload`, `status` and other commands talk to; \
             relative to `server.state_dir`. Only the server's user and root may use it, and those that `operators` and \
             `readers` name. `\"off\"`: there is none, and these commands have nobody to ask.",
        )
        .at_restart(),
        Key::new(
            "operators",
            Kind::Text(ACCOUNTS),
            "[]",
            "Who else may do everything over the socket, but for naming the program of an upgrade: names of users, or \
             `\"@NAME\"` for everybody in a group. The kernel says \
             who is at the other end; every user can then connect to the socket's file, and others are turned away. The socket has to \
             be in a directory that they can get into, such as `/run/ringpost`.",
        )
        .at_restart(),
        Key::new(
            "readers",
            Kind::Text(ACCOUNTS),
            "[]",
            "Who else may look at everything over the socket but mail itself, and change nothing; written as `operators`.",
        )
        .at_restart(),
        Key::new(
            "audit",
            Kind::Text("a path, or \"\""),
            r#""audit.log""#,
            "The file that says who had the server changed, when, from what and to what, an object of JSON a line; relative to \
             `server.state_dir`. At 16 MiB it is put aside as `audit.log.1`. Empty: there is none.",
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
        Key::new(
            "modules",
            Kind::Pairs("a table of levels, such as { serve = \"debug\" }"),
            "{}",
            "The same for single modules, by name: `serve`, `net`, `deliver`, `store`, `dns`, `runtime`, `admin`, \
             `daemon`, or one inside of them as in `\"serve::lookups\"`. The longest name that applies counts. The library \
             that asks the DNS is `hickory_resolver`, `hickory_net` and `hickory_proto`: it logs nothing unless it is named, \
             as it writes down whole questions, the key of a list in them.",
        ),
        Key::new(
            "redact",
            Kind::Text("a list of \"mail\", \"client\""),
            "[]",
            "What lines do not show as it is. `mail`: addresses of mail, of which the domain stays, behind a hash that is \
             the same for one address until the server starts again. `client`: addresses of hosts, of which the network \
             stays (/24, /48), and of the names that clients have or give themselves the last two parts. Both are found \
             in texts too, such as the replies of other servers. Passwords, keys and tokens never show.",
        ),
        Key::new(
            "flood",
            Kind::Count { min: 0, max: 1_000_000 },
            "200",
            "Lines of one kind that each core writes in a second, so that a flood of clients does not become one of \
             lines. What is above is left out, and one line a second says how many. Never left out are errors and lines \
             about an accepted message. 0: no limit.",
        ),
    ],
};

const ADDRESS_OR_OFF: &str = "an IP address and port, such as \"127.0.0.1:8025\", or \"off\"";

const ACCOUNTS: &str = "a list of users, and of groups such as \"@adm\"";

const SOCKET_OR_OFF: &str = "a path, or \"off\"";

/// Longest path of a unix socket: the kernel has 108 bytes for it, the last of them zero.
const SOCKET_PATH_MAX: usize = 107;

/// Longest name of a module: several times that of any there is.
const MODULE_BYTES_MAX: usize = 128;

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

impl Choice for LogRedaction {
    const ALL: &'static [(&'static str, Self)] = &[("mail", Self::Mail), ("client", Self::Client)];
}

/// `[server]`, and the setting of its state directory, which the path of the socket begins with.
pub(crate) fn server(root: &Table<'_>) -> (Server, Setting<String>) {
    let table = root.table("server", &SERVER);
    let default = Server::default();
    let state_dir = table.text("state_dir", &default.state_dir, check::path);
    let (user, group) = (table.optional("user", check::account), table.optional("group", check::account));
    let holds = group.value.is_none() || user.value.is_some();
    table.reader.require(holds, &[group.spot(), user.spot()], || {
        "nobody becomes a member of it: server.user is not given".to_owned()
    });
    let server = Server {
        hostname: table.text("hostname", &default.hostname, check::hostname).value,
        state_dir: state_dir.value.clone(),
        drain_timeout: table.time("drain_timeout", default.drain_timeout).value,
        stall_timeout: table.time("stall_timeout", default.stall_timeout).value,
        user: user.value,
        group: group.value,
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
    let admin = Admin {
        listen: listen.value,
        socket: (socket.value != "off").then_some(socket.value),
        operators: accounts(&table, "operators"),
        readers: accounts(&table, "readers"),
        audit: audit(&table, &default.audit.unwrap_or_default()),
    };
    (admin, listen)
}

/// Users, and groups behind an at sign, each once.
fn accounts(table: &Table<'_>, name: &'static str) -> Vec<String> {
    let accounts = table.list(name, |entry| {
        let text = entry.text().ok_or_else(|| entry.wants("a text"))?;
        check::account(text.strip_prefix('@').unwrap_or(text)).map(|()| text.to_owned())
    });
    table.reader.distinct(&accounts.value, |account, earlier| format!("{account:?} is {earlier} already"));
    accounts.value.into_iter().map(|account| account.value).collect()
}

/// The path of the audit log, or none where it is empty.
fn audit(table: &Table<'_>, default: &str) -> Option<String> {
    let path = table.text("audit", default, |path| if path.is_empty() { Ok(()) } else { check::path(path) }).value;
    (!path.is_empty()).then_some(path)
}

pub(crate) fn log(root: &Table<'_>) -> Log {
    let table = root.table("log", &LOG);
    let default = Log::default();
    let modules = table.pairs("modules", module, |word| value::choice::<LogLevel>(word).map(|_| ()));
    // Words at fault are left out already.
    let modules = modules.into_iter().filter_map(|(name, word)| Some((name.value, value::choice(&word).ok()?)));
    let redact = table.list("redact", |entry| {
        let word = entry.text().ok_or_else(|| entry.wants("a text"))?;
        value::choice::<LogRedaction>(word)
    });
    table.reader.distinct(&redact.value, |kind, earlier| format!("{:?} is {earlier} already", name_of(*kind)));
    Log {
        format: table.choice("format", default.format).value,
        level: table.choice("level", default.level).value,
        modules: modules.collect(),
        redact: redact.value.into_iter().map(|kind| kind.value).collect(),
        flood: table.limit("flood", default.flood).value,
    }
}

/// A path of modules, as the target of a log line has it.
fn module(name: &str) -> Result<(), Trouble> {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.len() <= MODULE_BYTES_MAX && name.split("::").all(is_part) {
        return Ok(());
    }
    Err(format!("{name:?} is not the name of a module, such as serve or \"serve::lookups\"").into())
}

#[cfg(test)]
mod tests {
    use crate::{Config, LogFormat, LogLevel, LogRedaction, tests::check};
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
        check(
            "[server]\nuser = 'mail:x'\ngroup = ''",
            &[
                "f:2:8: server.user: \"mail:x\" is not the name of a user or group: it has a blank, a colon, a slash or a \
             control character",
            ],
        );
        check(
            "[server]\ngroup = 'mail'",
            &["f:2:9: server.group: nobody becomes a member of it: server.user is not given"],
        );
        check("admin = 'off'", &["f:1:9: admin: found a string, wants a table"]);
        check(
            "admin.listen = 'localhost:8025'",
            &["f:1:16: admin.listen: \"localhost:8025\" is not an IP address and port, such as \"127.0.0.1:8025\", \
             or \"off\""],
        );
        check(
            "[admin]\noperators = ['anna', '@', 'a b', '@adm', 'anna', 7]\nreaders = 'anna'\naudit = 5",
            &[
                "f:2:22: admin.operators[1]: \"\" is not the name of a user or group: it has a blank, a colon, a slash or a \
                 control character",
                "f:2:27: admin.operators[2]: \"a b\" is not the name of a user or group: it has a blank, a colon, a slash or a \
                 control character",
                "f:2:42: admin.operators[4]: \"anna\" is admin.operators[0] already",
                "f:2:50: admin.operators[5]: found an integer, wants a text",
                "f:3:11: admin.readers: found a string, wants a list of users, and of groups such as \"@adm\"",
                "f:4:9: admin.audit: found an integer, wants a path, or \"\"",
            ],
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
    fn faults_of_the_log() {
        check(
            "[log]\nredact = ['mail', 'clients', 'mail', 5]\nflood = -1\n[log.modules]\nserve = 'debugg'\n'a:b' = \
             'info'\nnet = 1",
            &[
                "f:2:19: log.redact[1]: \"clients\" is not one of mail, client; did you mean \"client\"?",
                "f:2:30: log.redact[2]: \"mail\" is log.redact[0] already",
                "f:2:38: log.redact[3]: found an integer, wants a text",
                "f:3:9: log.flood: -1 is out of range: 0 to 1000000",
                "f:5:9: log.modules.serve: \"debugg\" is not one of error, warn, info, debug, trace; did you mean \
                 \"debug\"?",
                "f:6:1: log.modules.\"a:b\": \"a:b\" is not the name of a module, such as serve or \"serve::lookups\"",
                "f:7:7: log.modules.net: found an integer, wants a text",
            ],
        );
        check(
            "log.modules = ['serve=debug']",
            &["f:1:15: log.modules: found an array, wants a table of levels, such as { serve = \"debug\" }"],
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
            "server = { hostname = 'mx.example.org', state_dir = '/var/lib/x', drain_timeout = '2m', stall_timeout = '0s' }\n\
             admin = { listen = 'off', socket = 'off' }\nexplain.memory = 0\n\
             [log]\nformat = 'json'\nlevel = 'trace'\nmodules = { serve = 'warn', 'serve::mx' = 'error' }\n\
             redact = ['client']\nflood = 0",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.server.hostname, "mx.example.org");
        assert_eq!(config.server.drain_timeout, Span::seconds(120));
        assert_eq!(config.server.stall_timeout, Span::millis(0));
        assert_eq!((config.admin.listen, config.admin.socket, config.explain.memory), (None, None, ByteCount(0)));
        assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Trace));
        assert_eq!((config.log.redact, config.log.flood), (vec![LogRedaction::Client], None));
        let modules = [("serve".to_owned(), LogLevel::Warn), ("serve::mx".to_owned(), LogLevel::Error)];
        assert_eq!(config.log.modules, modules);
    }
}
