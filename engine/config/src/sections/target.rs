//! `[[target]]`: where mail goes.
//!
//! Every key is a row here, with the kinds of target that have it; the keys of a next hop are read in `hop`, those of a
//! webhook in `webhook`.

use crate::{
    check,
    keys::{Choice, Key, Kind, Section, name_of, names},
    reader::{Place, Reader, Setting, Table, Trouble},
    routing::DomainRoute,
    secrets::Secret,
    sections::{hop, listener::distinct_names, route, server::DAY, webhook},
    suggest,
    targets::{HopTls, MAILDIR_PATH, Target, TargetKind, WebhookFormat},
};
use ringpost_base::Span;
use ringpost_queue::DestinationOptions;
use std::ops::Range;

/// The kinds of target that have a key.
const WITH_PATH: &[&str] = &["maildir", "file"];
const HOPS: &[&str] = &["lmtp", "smtp"];
const WEBHOOK: &[&str] = &["webhook"];
const REMOTE: &[&str] = &["lmtp", "smtp", "webhook"];

const PEM: &str = "a PEM file, or \"\"";
const HOUR: Span = Span::seconds(3600);

pub(crate) static TARGET: Section = Section {
    path: "target",
    header: "[[target]]",
    intro: "Where mail goes. Targets of the kinds `maildir`, `file` and `discard` are on this machine, the others are \
            elsewhere: of these, what all cores do at a time is limited, and one that does not work is left alone for \
            a while.",
    stand_in: Some("[[target]]\nname = \"local\"\nkind = \"maildir\"\npath = \"mail/{domain}/{local}\"\n"),
    keys: &[
        Key::required(
            "name",
            Kind::Text("a name"),
            "The name that domains and routes call it by, different for every target: 1 to 64 letters, digits, `-`, \
             `_` or `.`.",
        ),
        Key::required(
            "kind",
            Kind::Choice(names::<KindName>),
            "`maildir` writes each message into a Maildir; `file` writes it into a directory, with a file for its \
             envelope; `discard` forgets it: for measurements only. `lmtp` (RFC 2033) hands it to a mail store such as \
             Dovecot, `smtp` to a next hop, `webhook` posts it by HTTP.",
        ),
        Key::new(
            "path",
            Kind::Text("a directory, with {domain}, {local} or {address} where these are to stand"),
            r#""mail/{domain}/{local}""#,
            "The Maildir, or the directory of a `file` target, for which it has to be given; relative to \
             `server.state_dir`. `{domain}` and `{local}` are the parts of the recipient's address, `{address}` is all \
             of it, for a Maildir only. Without `{local}` and `{address}` a domain has one Maildir for everybody.",
        )
        .of(WITH_PATH),
        Key::required(
            "hosts",
            Kind::Text(hop::HOSTS),
            "The servers, any of which will do: `HOST`, `HOST:PORT`, `[IPV6]:PORT`, and for `lmtp` also `unix:/PATH`. \
             Without a port it is 25, and 24 for `lmtp`. With ` weight=N` behind it a server gets its share of the \
             connections, 0 to 1000, 1 where none is given; one of weight 0 is used where all others fail.",
        )
        .of(HOPS),
        Key::new(
            "tls",
            Kind::Choice(names::<HopTls>),
            r#""opportunistic""#,
            "How TLS is used: `off`; `opportunistic`, where it is offered, and whoever answers is believed; \
             `required`, always, and whoever answers is believed; `verified`, always, and the certificate has to be \
             right.",
        )
        .of(HOPS),
        Key::new(
            "tls_ca",
            Kind::Text(PEM),
            r#""""#,
            "The PEM file of the authorities that vouch for the servers, with `tls = \"verified\"` only. Empty: those \
             that the system trusts.",
        )
        .of(HOPS),
        Key::new(
            "tls_name",
            Kind::Text("a host name, or \"\""),
            r#""""#,
            "The name that the servers' certificates must have, with `tls = \"verified\"` only. Empty: that of each \
             host.",
        )
        .of(HOPS),
        Key::new(
            "tls_cert",
            Kind::Text(PEM),
            r#""""#,
            "The PEM file of the certificate that is shown to servers that ask for one. Empty: none is.",
        )
        .of(HOPS),
        Key::new("tls_key", Kind::Text(PEM), r#""""#, "The PEM file of its private key.").of(HOPS),
        Key::new(
            "messages_per_connection",
            Kind::Count { min: 1, max: 1_000_000 },
            "100",
            "Messages on one connection, after which it is closed.",
        )
        .of(HOPS),
        Key::new(
            "idle_timeout",
            Kind::Time { min: Span::millis(0), max: HOUR },
            r#""10s""#,
            "How long a connection is kept for a further message. `0s`: it is closed at once.",
        )
        .of(HOPS),
        Key::new(
            "connect_timeout",
            Kind::Time { min: Span::millis(1), max: HOUR },
            r#""30s""#,
            "How long a connection, and its TLS, may take to come about.",
        )
        .of(HOPS),
        Key::new(
            "command_timeout",
            Kind::Time { min: Span::millis(1), max: HOUR },
            r#""5m""#,
            "How long the reply to a command is waited for. RFC 5321 section 4.5.3.2 asks for at least 5 minutes.",
        )
        .of(HOPS),
        Key::new(
            "data_timeout",
            Kind::Time { min: Span::millis(1), max: HOUR },
            r#""10m""#,
            "How long the reply to the end of a message is waited for. RFC 5321 section 4.5.3.2.6 asks for at least \
             10 minutes: less makes duplicates, where the server is slow.",
        )
        .of(HOPS),
        Key::required(
            "url",
            Kind::Text("a URL, such as \"https://example.com/mail\""),
            "Where messages are posted to.",
        )
        .secret(Secret::Url)
        .of(WEBHOOK),
        Key::new(
            "format",
            Kind::Choice(names::<WebhookFormat>),
            r#""json""#,
            "What is posted: `json`, an object with the envelope, and the message in base64; `multipart`, a form with \
             the envelope as JSON, and the message as it is.",
        )
        .of(WEBHOOK),
        Key::new(
            "secret_file",
            Kind::Text("a file, or \"\""),
            r#""""#,
            "The file of the secret that requests are signed with (HMAC-SHA256), readable by the server's user alone. \
             Empty: they are not signed.",
        )
        .of(WEBHOOK),
        Key::new(
            "ca",
            Kind::Text(PEM),
            r#""""#,
            "The PEM file of the authorities that vouch for the server, with `https` only. Empty: those that the \
             system trusts.",
        )
        .of(WEBHOOK),
        Key::new(
            "cert",
            Kind::Text(PEM),
            r#""""#,
            "The PEM file of the certificate that is shown to a server that asks for one, with `https` only. Empty: \
             none is.",
        )
        .of(WEBHOOK),
        Key::new("key", Kind::Text(PEM), r#""""#, "The PEM file of its private key.").of(WEBHOOK),
        Key::new(
            "timeout",
            Kind::Time { min: Span::millis(1), max: HOUR },
            r#""30s""#,
            "How long a request may take in all.",
        )
        .of(WEBHOOK),
        Key::new(
            "headers",
            Kind::Pairs("a table of texts, such as { X-Tenant = \"a\" }"),
            "{}",
            "Further header fields of the requests.",
        )
        .secret(Secret::Whole)
        .of(WEBHOOK),
        Key::new(
            "concurrency",
            Kind::Count { min: 1, max: 10_000 },
            "20",
            "Deliveries to it at the same time, of all cores together.",
        )
        .of(REMOTE),
        Key::new(
            "rate",
            Kind::Count { min: 0, max: 1_000_000_000 },
            "0",
            "Messages a minute that it gets, of all cores together. 0: as many as there are.",
        )
        .of(REMOTE),
        Key::new(
            "breaker_failures",
            Kind::Count { min: 0, max: 1000 },
            "5",
            "Failures in a row of the target itself, such as connections that don't come about, after which it is left \
             alone. 0: it never is.",
        )
        .of(REMOTE),
        Key::new(
            "breaker_pause",
            Kind::Time { min: Span::millis(1), max: DAY },
            r#""30s""#,
            "How long it is left alone; then one message tries it, and where that fails too, the next time is twice as \
             long.",
        )
        .of(REMOTE),
        Key::new(
            "breaker_pause_max",
            Kind::Time { min: Span::millis(1), max: DAY },
            r#""10m""#,
            "The longest time it is left alone; not less than `breaker_pause`.",
        )
        .of(REMOTE),
    ],
};

const PLACEHOLDERS: [&str; 3] = ["domain", "local", "address"];

/// The word of a target's kind, before the keys of the kind are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KindName {
    Maildir,
    File,
    Discard,
    Lmtp,
    Smtp,
    Webhook,
}

impl Choice for KindName {
    const ALL: &'static [(&'static str, Self)] = &[
        ("maildir", Self::Maildir),
        ("file", Self::File),
        ("discard", Self::Discard),
        ("lmtp", Self::Lmtp),
        ("smtp", Self::Smtp),
        ("webhook", Self::Webhook),
    ];
    const LATER: &'static [&'static str] = &["mx"];
}

impl KindName {
    /// That of a target.
    pub(crate) fn of(kind: &TargetKind) -> Self {
        match kind {
            TargetKind::Maildir { .. } => Self::Maildir,
            TargetKind::File { .. } => Self::File,
            TargetKind::Discard => Self::Discard,
            TargetKind::Lmtp(_) => Self::Lmtp,
            TargetKind::Smtp(_) => Self::Smtp,
            TargetKind::Webhook(_) => Self::Webhook,
        }
    }
}

/// The targets of a file, for what names them.
pub(crate) struct Targets {
    pub(crate) list: Vec<Target>,
    names: Vec<String>,
    /// Whether the names and kinds of all of them could be read: else nothing can be said of who names them.
    sound: bool,
    /// Where the first of them is written.
    first: Option<Range<usize>>,
}

impl Targets {
    /// Notes a fault at a name that none of them has.
    pub(crate) fn require(&self, reader: &Reader<'_>, name: &Setting<String>) {
        if self.sound && !self.names.contains(&name.value) {
            let nearest = suggest::nearest(&name.value, self.names.iter().map(String::as_str));
            let known = match &nearest {
                Some(_) => String::new(),
                None => format!("; the targets are {}", self.names.join(", ")),
            };
            let reason = format!("{:?} is not the name of a target{known}", name.value);
            if let Place::Written(place) = &name.place {
                reader.fault(&name.key, place.clone(), Trouble::from(reason).suggest(nearest));
            }
        }
    }

    /// Notes a fault where the file has no domain, and not the target that the default one goes to.
    pub(crate) fn require_for_default(&self, reader: &Reader<'_>, default: &DomainRoute) {
        let missing = default.targets.iter().find(|name| !self.names.contains(name));
        if let (true, Some(name), Some(first)) = (self.sound, missing, &self.first) {
            let reason =
                format!("there is no [[domain]], and the default one goes to the target {name:?}, which is not here");
            reader.fault("domain", first.clone(), reason);
        }
    }

    /// The kind of the target with this name, if it is on this machine.
    pub(crate) fn kind_if_local(&self, name: &str) -> Option<&'static str> {
        let target = self.list.iter().filter(|_| self.sound).find(|target| target.name == name)?;
        target.kind.is_local().then(|| name_of(KindName::of(&target.kind)))
    }
}

/// Reads every `[[target]]`.
pub(crate) fn targets(root: &Table<'_>) -> Targets {
    let tables = root.tables("target", &TARGET);
    route::require_some(root.reader, &tables, "target");
    let Some(list) = &tables.value else {
        let default = Target::default();
        let names = vec![default.name.clone()];
        return Targets { list: vec![default], names, sound: tables.place != Place::Faulty, first: None };
    };
    let mut targets =
        Targets { list: Vec::new(), names: Vec::new(), sound: tables.is_written() && !list.is_empty(), first: None };
    let mut names = Vec::new();
    for table in list {
        let (target, name, kind) = target(table);
        targets.sound &= name.is_written() && kind.is_written();
        targets.names.push(name.value.clone());
        targets.list.push(target);
        names.push(name);
    }
    targets.first = list.first().map(|first| first.place.clone());
    distinct_names(list, &names, "target");
    targets
}

fn target(table: &Table<'_>) -> (Target, Setting<String>, Setting<KindName>) {
    let name = table.text("name", "", check::name);
    let kind = table.choice("kind", KindName::Maildir);
    if kind.is_written() {
        table.forbid_other_kinds(name_of(kind.value));
    }
    let kind_of = match kind.value {
        KindName::Maildir => TargetKind::Maildir { path: maildir(table) },
        KindName::File => TargetKind::File { path: directory(table) },
        KindName::Discard => TargetKind::Discard,
        KindName::Lmtp => TargetKind::Lmtp(hop::hop(table, hop::Protocol::Lmtp)),
        KindName::Smtp => TargetKind::Smtp(hop::hop(table, hop::Protocol::Smtp)),
        KindName::Webhook => TargetKind::Webhook(webhook::webhook(table)),
    };
    let destination = if kind_of.is_local() { DestinationOptions::default() } else { destination(table) };
    (Target { name: name.value.clone(), kind: kind_of, destination }, name, kind)
}

fn destination(table: &Table<'_>) -> DestinationOptions {
    let default = DestinationOptions::default();
    let pause = table.time("breaker_pause", default.breaker_pause);
    let pause_max = table.time("breaker_pause_max", default.breaker_pause_max);
    let (first, max) = (pause.value, pause_max.value);
    table.reader.require(first <= max, &[pause.spot(), pause_max.spot()], || {
        format!("the first pause of {first} is longer than breaker_pause_max, {max}")
    });
    DestinationOptions {
        concurrency: table.count_u32("concurrency", default.concurrency).value,
        messages_per_minute: table.limit("rate", default.messages_per_minute).value,
        breaker_failures: table.count_u32("breaker_failures", default.breaker_failures).value,
        breaker_pause: first,
        breaker_pause_max: max,
        lease_messages: default.lease_messages,
    }
}

fn maildir(table: &Table<'_>) -> String {
    let path = table.setting("path", MAILDIR_PATH.to_owned(), |entry, row| {
        let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
        check::path(text)?;
        placeholders(text, entry.raw).map(|()| text.to_owned())
    });
    path.value
}

fn directory(table: &Table<'_>) -> String {
    let path = table.text("path", "", |text| {
        check::path(text)?;
        if text.contains(['{', '}']) {
            return Err("a directory for all messages has no placeholders; a Maildir does".into());
        }
        Ok(())
    });
    if path.place == Place::Default {
        table.reader.fault(&path.key, table.place.clone(), "missing, wants a directory");
    }
    path.value
}

/// Checks the placeholders of a path; `raw` is the path as written, to find the column of a wrong one in.
fn placeholders(path: &str, raw: &str) -> Result<(), Trouble> {
    let place = |part: &str| raw.find(part).map(|start| start..start + part.len());
    let mut rest = path;
    while let Some(start) = rest.find(['{', '}']) {
        let tail = &rest[start..];
        let Some(end) = tail.find('}').filter(|end| *end > 0 && !tail[1..*end].contains('{')) else {
            let brace = raw_brace(raw, path.len() - tail.len(), path);
            return Err(Trouble::from(format!("a {:?} without its other brace", &tail[..1])).at(brace));
        };
        let (whole, name) = (&tail[..=end], &tail[1..end]);
        if !PLACEHOLDERS.contains(&name) {
            let nearest = suggest::nearest(name, PLACEHOLDERS);
            let reason = format!("{whole:?} is not one of {{domain}}, {{local}}, {{address}}");
            return Err(Trouble::from(reason).suggest(nearest.map(|name| format!("{{{name}}}"))).at(place(whole)));
        }
        rest = &tail[end + 1..];
    }
    Ok(())
}

/// Where the brace at this byte of the path stands in the text as written: the same brace, counted.
fn raw_brace(raw: &str, at: usize, path: &str) -> Option<Range<usize>> {
    let is_brace = |(_, byte): &(usize, u8)| matches!(byte, b'{' | b'}');
    let nth = path.bytes().enumerate().filter(is_brace).position(|(n, _)| n == at)?;
    raw.bytes().enumerate().filter(is_brace).nth(nth).map(|(n, _)| n..n + 1)
}

#[cfg(test)]
mod tests {
    use crate::{Config, TargetKind, tests::check};
    use ringpost_base::Span;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "queue.default_target = 'd'\n[[domain]]\nname = 'a.org'\ntarget = 'a'\n\
             [[target]]\nname = 'a'\nkind = 'file'\npath = '/srv/mail'\n\
             [[target]]\nname = 'b'\nkind = 'discard'\n[[target]]\nname = 'c'\nkind = 'lmtp'\nhosts = ['c']\n\
             [[target]]\nname = 'd'\nkind = 'webhook'\nurl = 'http://d'\nconcurrency = 1\nrate = 60\n\
             breaker_failures = 0\nbreaker_pause = '1s'\nbreaker_pause_max = '1s'",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.targets[0].kind, TargetKind::File { path: "/srv/mail".into() });
        let local: Vec<_> = config.targets.iter().map(|target| target.kind.is_local()).collect();
        assert_eq!(local, [true, true, false, false]);
        assert_eq!(config.targets[2].destination, Default::default());
        let destination = &config.targets[3].destination;
        assert_eq!((destination.concurrency, destination.messages_per_minute), (1, Some(60)));
        assert_eq!(destination.breaker_failures, 0);
        assert_eq!((destination.breaker_pause, destination.breaker_pause_max), (Span::seconds(1), Span::seconds(1)));
    }

    #[test]
    fn faults_of_a_target() {
        check(
            "[[domain]]\nname = 'a.org'\ntarget = 'x'\n[[target]]\nkind = 'mx'\n\
             [[target]]\nname = 'a b'\n[[target]]\nname = 'x'\nkind = 'discard'\npath = 'mail'\n\
             [[target]]\nname = 'x'\nkind = 'maildir'\npath = ''",
            &[
                "f:4:1: target[0].name: missing, wants a name",
                "f:5:8: target[0].kind: \"mx\" is not available in this version, which has maildir, file, discard, \
                 lmtp, smtp, webhook",
                "f:6:1: target[1].kind: missing, wants one of maildir, file, discard, lmtp, smtp, webhook",
                "f:7:8: target[1].name: \"a b\" is not a name: 1 to 64 letters, digits, \"-\", \"_\" or \".\"",
                "f:11:8: target[2].path: only a target of kind \"maildir\" or \"file\" has it",
                "f:13:8: target[3].name: \"x\" is the name of a target already, target[2].name",
                "f:15:8: target[3].path: the path is empty",
            ],
        );
        check(
            "[[target]]\nname = 'x'\nkind = 'discard'",
            &["f:1:1: domain: there is no [[domain]], and the default one goes to the target \
             \"local\", which is not here"],
        );
    }

    #[test]
    fn keys_of_another_kind() {
        check(
            "[[target]]\nname = 'local'\nkind = 'maildir'\nconcurrency = 5\nheaders = 5\nhosts = []\n\
             [[target]]\nname = 'a'\nkind = 'file'\n[[target]]\nname = 'b'\nkind = 'file'\npath = '{local}'\n\
             [[target]]\nname = 'c'\nkind = 'smtp'\nhosts = ['c']\npath = 'x'\n[target.headers]\na = 'b'\n",
            &[
                "f:4:15: target[0].concurrency: only a target of kind \"lmtp\", \"smtp\" or \"webhook\" has it",
                "f:5:11: target[0].headers: only a target of kind \"webhook\" has it",
                "f:6:9: target[0].hosts: only a target of kind \"lmtp\" or \"smtp\" has it",
                "f:7:1: target[1].path: missing, wants a directory",
                "f:13:8: target[2].path: a directory for all messages has no placeholders; a Maildir does",
                "f:18:8: target[3].path: only a target of kind \"maildir\" or \"file\" has it",
                "f:19:1: target[3].headers: only a target of kind \"webhook\" has it",
            ],
        );
    }

    #[test]
    fn faults_of_a_destination() {
        let target = |keys: &str| format!("[[target]]\nname = 'local'\nkind = 'smtp'\nhosts = ['a']\n{keys}");
        check(
            &target("concurrency = 0\nrate = -1\nbreaker_failures = 1001\nbreaker_pause = '2d'"),
            &[
                "f:5:15: target[0].concurrency: 0 is out of range: 1 to 10000",
                "f:6:8: target[0].rate: -1 is out of range: 0 to 1000000000",
                "f:7:20: target[0].breaker_failures: 1001 is out of range: 0 to 1000",
                "f:8:17: target[0].breaker_pause: '2d' is out of range: 1ms to 1d",
            ],
        );
        check(
            &target("breaker_pause = '1h'"),
            &["f:5:17: target[0].breaker_pause: the first pause of 1h is longer than breaker_pause_max, 10m"],
        );
        check(
            &target("breaker_pause_max = '1s'"),
            &["f:5:21: target[0].breaker_pause_max: the first pause of 30s is longer than breaker_pause_max, 1s"],
        );
    }

    #[test]
    fn a_wrong_placeholder_is_pointed_at() {
        for (path, fault) in [
            ("'a/{local}/{user}'", "19: target[0].path: \"{user}\" is not one of {domain}, {local}, {address}"),
            (
                "\"é/{domian}\"",
                "11: target[0].path: \"{domian}\" is not one of {domain}, {local}, {address}; did you mean \
                 \"{domain}\"?",
            ),
            ("'a/{local'", "11: target[0].path: a \"{\" without its other brace"),
            ("'a/{local}}'", "18: target[0].path: a \"}\" without its other brace"),
            ("'{{local}}'", "9: target[0].path: a \"{\" without its other brace"),
            ("'{}'", "9: target[0].path: \"{}\" is not one of {domain}, {local}, {address}"),
        ] {
            let text = format!("[[target]]\nname = 'local'\nkind = 'maildir'\npath = {path}");
            check(&text, &[&format!("f:4:{fault}")]);
        }
    }
}
