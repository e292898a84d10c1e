//! The keys of a `[[target]]` that is a server of SMTP or LMTP.

use crate::{
    check,
    config::Certificate,
    keys::Choice,
    reader::{Entry, Setting, Table, Trouble},
    targets::{HopHost, HopOptions, HopPlace, HopTls},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

/// What `hosts` takes.
pub(crate) const HOSTS: &str = "a list of servers, such as [\"mx1.example.com:25\", \"[2001:db8::1]:25 weight=2\"]";

/// Most servers of a target: all of them may be tried before an attempt has failed.
const HOSTS_MAX: usize = 64;

/// Greatest weight of a server.
const WEIGHT_MAX: u32 = 1000;

/// Longest path of a unix socket, in octets: what the kernel's address holds, without its closing zero.
const SOCKET_PATH_MAX: usize = 107;

impl Choice for HopTls {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("opportunistic", Self::Opportunistic),
        ("required", Self::Required),
        ("verified", Self::Verified),
    ];
}

/// What is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Lmtp,
    Smtp,
}

impl Protocol {
    /// The port where the file gives none. LMTP has none of its own, and never 25 (RFC 2033 section 5).
    fn port(self) -> u16 {
        match self {
            Self::Lmtp => 24,
            Self::Smtp => 25,
        }
    }
}

pub(crate) fn hop(table: &Table<'_>, protocol: Protocol) -> HopOptions {
    let default = HopOptions::default();
    let hosts = hosts(table, protocol);
    let tls = table.choice("tls", default.tls);
    let (tls_ca, tls_name) = verification(table, &tls, &hosts);
    let messages = table.count_u32("messages_per_connection", default.messages_per_connection);
    HopOptions {
        hosts: hosts.value.into_iter().map(|host| host.value).collect(),
        tls: tls.value,
        tls_ca,
        tls_name,
        tls_certificate: tls_certificate(table, &tls),
        messages_per_connection: messages.value,
        idle_timeout: table.time("idle_timeout", default.idle_timeout).value,
        connect_timeout: table.time("connect_timeout", default.connect_timeout).value,
        command_timeout: table.time("command_timeout", default.command_timeout).value,
        data_timeout: table.time("data_timeout", default.data_timeout).value,
    }
}

fn hosts(table: &Table<'_>, protocol: Protocol) -> Setting<Vec<Setting<HopHost>>> {
    let (hosts, reader) = (table.list("hosts", |entry| host(entry, protocol)), table.reader);
    let count = hosts.value.len();
    reader.require((1..=HOSTS_MAX).contains(&count), &[hosts.spot()], || match count {
        0 => "the list is empty".to_owned(),
        _ => format!("{count} servers are more than {HOSTS_MAX}"),
    });
    let last = count == 0 || hosts.value.iter().any(|host| host.value.weight > 0);
    reader.require(last, &[hosts.spot()], || {
        "every server has the weight 0, which is for those that are used where all others fail".to_owned()
    });
    let places: Vec<_> = hosts.value.iter().cloned().map(|host| host.map(|host| host.place)).collect();
    reader.distinct(&places, |place, earlier| format!("{place} is in the list already, as {earlier}"));
    hosts
}

/// What certificates are held to, where they are.
fn verification(
    table: &Table<'_>,
    tls: &Setting<HopTls>,
    hosts: &Setting<Vec<Setting<HopHost>>>,
) -> (Option<String>, Option<String>) {
    let ca = table.optional_file("tls_ca");
    let name = table.optional("tls_name", |text| match text.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => check::hostname(text),
    });
    for setting in [&ca, &name] {
        let holds = setting.value.is_none() || tls.value == HopTls::Verified;
        table.reader.require(holds, &[setting.spot(), tls.spot()], || {
            "no certificate is held to it, which takes tls = \"verified\"".to_owned()
        });
    }
    let nameless = hosts.value.iter().find(|host| matches!(host.value.place, HopPlace::Unix(_)));
    if let (HopTls::Verified, Some(socket)) = (tls.value, nameless) {
        table.reader.require(name.value.is_some(), &[socket.spot(), name.spot()], || {
            "a unix socket has no name that a certificate could have; give tls_name".to_owned()
        });
    }
    (ca.value, name.value)
}

fn tls_certificate(table: &Table<'_>, tls: &Setting<HopTls>) -> Option<Certificate> {
    let (certificate, spot) = certificate(table, "tls_cert", "tls_key");
    let holds = certificate.is_none() || tls.value != HopTls::Off;
    table.reader.require(holds, &[spot.spot(), tls.spot()], || {
        "no certificate is shown without TLS, and tls is \"off\"".to_owned()
    });
    certificate
}

/// A certificate to show, and the setting of its file; both of the keys, or none.
pub(crate) fn certificate(
    table: &Table<'_>,
    cert: &'static str,
    key: &'static str,
) -> (Option<Certificate>, Setting<Option<String>>) {
    let (certificate, private) = (table.optional_file(cert), table.optional_file(key));
    let whole = certificate.value.is_some() == private.value.is_some();
    table.reader.require(whole, &[certificate.spot(), private.spot()], || {
        format!("{cert} and {key} belong together, and only one of them is here")
    });
    let files = certificate.value.clone().zip(private.value);
    (files.map(|(cert, key)| Certificate { cert, key, ocsp: None }), certificate)
}

/// A server, and its weight behind it.
fn host(entry: &Entry<'_>, protocol: Protocol) -> Result<HopHost, Trouble> {
    let text = entry.text().ok_or_else(|| entry.wants("a server, such as \"mx1.example.com:25\""))?;
    let mut words = text.split_whitespace();
    let word = words.next().ok_or("the server is empty")?;
    let place = place(word, protocol).map_err(|trouble| trouble.at(part(entry.raw, word)))?;
    let weight = match words.next() {
        None => 1,
        Some(word) => weight(word).map_err(|trouble| trouble.at(part(entry.raw, word)))?,
    };
    match words.next() {
        None => Ok(HopHost { place, weight }),
        Some(word) => Err(Trouble::from(format!("{word:?} is too much: a server has a weight, and no more"))
            .at(part(entry.raw, word))),
    }
}

/// Where a word stands in the text as written.
fn part(raw: &str, word: &str) -> Option<Range<usize>> {
    raw.find(word).map(|start| start..start + word.len())
}

fn weight(word: &str) -> Result<u32, Trouble> {
    let weight = word.strip_prefix("weight=").and_then(|number| number.parse().ok());
    weight
        .filter(|weight| *weight <= WEIGHT_MAX)
        .ok_or_else(|| format!("{word:?} is not a weight, such as \"weight=2\", 0 to {WEIGHT_MAX}").into())
}

fn place(word: &str, protocol: Protocol) -> Result<HopPlace, Trouble> {
    if let Some(path) = word.strip_prefix("unix:") {
        return socket(path, protocol).map(HopPlace::Unix);
    }
    let malformed = || format!("{word:?} is not a server: write HOST, HOST:PORT or [IPV6]:PORT");
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(HopPlace::Tcp { host: address.to_string(), port: protocol.port() });
    }
    if let Some(rest) = word.strip_prefix('[') {
        let (address, behind) = rest.split_once(']').ok_or_else(malformed)?;
        let host = address.parse::<Ipv6Addr>().map_err(|_| malformed())?.to_string();
        let port = match behind.strip_prefix(':') {
            Some(port) => self::port(port, word)?,
            None if behind.is_empty() => protocol.port(),
            None => return Err(malformed().into()),
        };
        return Ok(HopPlace::Tcp { host, port });
    }
    let (host, port) = match word.split_once(':') {
        Some((_, port)) if port.contains(':') => return Err(malformed().into()),
        Some((host, port)) => (host, self::port(port, word)?),
        None => (word, protocol.port()),
    };
    if host.is_empty() {
        return Err(malformed().into());
    }
    if host.parse::<Ipv4Addr>().is_err() {
        check::hostname(host)?;
    }
    Ok(HopPlace::Tcp { host: host.to_ascii_lowercase(), port })
}

fn port(text: &str, word: &str) -> Result<u16, Trouble> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{word:?} has no port from 1 to 65535 behind its colon").into()),
        Ok(port) => Ok(port),
    }
}

fn socket(path: &str, protocol: Protocol) -> Result<String, Trouble> {
    if protocol == Protocol::Smtp {
        return Err("only a target of kind \"lmtp\" is reached over a unix socket".into());
    }
    check::path(path)?;
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not the path of a socket from the root on, such as \"unix:/run/lmtp\"").into());
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err(format!("the path of a socket has at most {SOCKET_PATH_MAX} octets").into());
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, TargetKind, tests::check};
    use ringpost_base::Span;

    fn target(kind: &str, keys: &str) -> String {
        format!("[[target]]\nname = 'local'\nkind = '{kind}'\n{keys}")
    }

    #[track_caller]
    fn options(kind: &str, keys: &str) -> HopOptions {
        let config = Config::parse("f", &target(kind, keys)).unwrap_or_else(|errors| panic!("{errors}\n{keys}"));
        match &config.targets[0].kind {
            TargetKind::Lmtp(hop) | TargetKind::Smtp(hop) => hop.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values() {
        let hop = options(
            "smtp",
            "hosts = ['a.example']\ntls = 'verified'\ntls_ca = 'ca.pem'\ntls_name = '192.0.2.1'\ntls_cert = 'c'\n\
             tls_key = 'k'\nmessages_per_connection = 1\nidle_timeout = '0s'\nconnect_timeout = '1s'\n\
             command_timeout = '2s'\ndata_timeout = '3s'",
        );
        assert_eq!((hop.tls, hop.tls_ca.as_deref()), (HopTls::Verified, Some("ca.pem")));
        assert_eq!(hop.tls_name.as_deref(), Some("192.0.2.1"));
        assert_eq!(hop.tls_certificate, Some(Certificate { cert: "c".into(), key: "k".into(), ocsp: None }));
        assert_eq!((hop.messages_per_connection, hop.idle_timeout), (1, Span::seconds(0)));
        assert_eq!(
            (hop.connect_timeout, hop.command_timeout, hop.data_timeout),
            (Span::seconds(1), Span::seconds(2), Span::seconds(3))
        );
        assert_eq!(options("lmtp", "hosts = ['a']\ntls = 'off'").tls, HopTls::Off);
    }

    #[test]
    fn servers() {
        for (kind, text, shown) in [
            ("smtp", "MX.Example", "mx.example:25"),
            ("lmtp", "mx.example", "mx.example:24"),
            ("smtp", "mx.example:2525", "mx.example:2525"),
            ("smtp", "192.0.2.1", "192.0.2.1:25"),
            ("smtp", "192.0.2.1:26 weight=0", "192.0.2.1:26 weight=0"),
            ("smtp", "[2001:DB8::1]:26", "[2001:db8::1]:26"),
            ("lmtp", "[::1]", "[::1]:24"),
            ("smtp", "::1  weight=1", "[::1]:25"),
            ("lmtp", " unix:/run/dovecot/lmtp weight=1000 ", "unix:/run/dovecot/lmtp weight=1000"),
        ] {
            // A second one, since all can't be of weight 0.
            let hop = options(kind, &format!("hosts = ['{text}', 'other']"));
            assert_eq!(hop.hosts[0].to_string(), shown);
            assert_eq!(options(kind, &format!("hosts = ['{shown}', 'other']")), hop, "what is shown reads back");
        }
    }

    #[test]
    fn a_wrong_server_is_pointed_at() {
        for (kind, host, fault) in [
            (
                "smtp",
                "'a_b:25'",
                "11: \"a_b\" is not a host name: it has a character that is not a letter, a digit, \
                                  \"-\" or \".\"",
            ),
            ("smtp", "'a:0'", "11: \"a:0\" has no port from 1 to 65535 behind its colon"),
            ("smtp", "'a:65536'", "11: \"a:65536\" has no port from 1 to 65535 behind its colon"),
            ("smtp", "'a:b:c'", "11: \"a:b:c\" is not a server: write HOST, HOST:PORT or [IPV6]:PORT"),
            ("smtp", "':25'", "11: \":25\" is not a server: write HOST, HOST:PORT or [IPV6]:PORT"),
            ("smtp", "'[::1'", "11: \"[::1\" is not a server: write HOST, HOST:PORT or [IPV6]:PORT"),
            ("smtp", "'[a]'", "11: \"[a]\" is not a server: write HOST, HOST:PORT or [IPV6]:PORT"),
            ("smtp", "'[::1]25'", "11: \"[::1]25\" is not a server: write HOST, HOST:PORT or [IPV6]:PORT"),
            (
                "smtp",
                "'1.2.3'",
                "11: \"1.2.3\" is not a host name: it has a last label of digits only, as an IP address \
                                 has",
            ),
            ("smtp", "'a weight=1001'", "13: \"weight=1001\" is not a weight, such as \"weight=2\", 0 to 1000"),
            ("smtp", "'a wieght=1'", "13: \"wieght=1\" is not a weight, such as \"weight=2\", 0 to 1000"),
            ("smtp", "'a weight=1 b'", "22: \"b\" is too much: a server has a weight, and no more"),
            ("smtp", "' '", "10: the server is empty"),
            ("smtp", "5", "10: found an integer, wants a server, such as \"mx1.example.com:25\""),
            ("smtp", "'unix:/run/lmtp'", "11: only a target of kind \"lmtp\" is reached over a unix socket"),
            (
                "lmtp",
                "'unix:run/lmtp'",
                "11: \"run/lmtp\" is not the path of a socket from the root on, such as \
                                         \"unix:/run/lmtp\"",
            ),
            ("lmtp", "'unix:'", "11: the path is empty"),
        ] {
            let (column, reason) = fault.split_once(": ").expect(fault);
            check(
                &target(kind, &format!("hosts = [{host}]")),
                &[&format!("f:4:{column}: target[0].hosts[0]: {reason}")],
            );
        }
        let long = "a".repeat(SOCKET_PATH_MAX);
        check(
            &target("lmtp", &format!("hosts = ['unix:/{long}']")),
            &["f:4:11: target[0].hosts[0]: the path of a socket has at most 107 octets"],
        );
    }

    #[test]
    fn lists_of_servers() {
        let list = |hosts: &str| target("smtp", &format!("hosts = {hosts}"));
        check(&list("[]"), &["f:4:9: target[0].hosts: the list is empty"]);
        check(
            &list("'a'"),
            &["f:4:9: target[0].hosts: found a string, wants a list of servers, such as [\"mx1.example.com:25\", \
             \"[2001:db8::1]:25 weight=2\"]"],
        );
        check(
            &list("['a:25', 'A weight=3']"),
            &["f:4:18: target[0].hosts[1]: a:25 is in the list already, as target[0].hosts[0]"],
        );
        check(
            &list("['a weight=0', 'b weight=0']"),
            &["f:4:9: target[0].hosts: every server has the weight 0, which is for those that are used where all \
             others fail"],
        );
        let many: Vec<_> = (0..=HOSTS_MAX).map(|n| format!("'h{n}'")).collect();
        check(&list(&format!("[{}]", many.join(", "))), &["f:4:9: target[0].hosts: 65 servers are more than 64"]);
        check(
            &target("lmtp", ""),
            &["f:1:1: target[0].hosts: missing, wants a list of servers, such as [\"mx1.example.com:25\", \
             \"[2001:db8::1]:25 weight=2\"]"],
        );
    }

    #[test]
    fn what_tls_needs() {
        let with = |keys: &str| target("lmtp", &format!("hosts = ['unix:/l']\n{keys}"));
        check(
            &with("tls = 'required'\ntls_ca = 'a'\ntls_name = 'b'"),
            &[
                "f:6:10: target[0].tls_ca: no certificate is held to it, which takes tls = \"verified\"",
                "f:7:12: target[0].tls_name: no certificate is held to it, which takes tls = \"verified\"",
            ],
        );
        check(
            &with("tls = 'verified'"),
            &["f:4:10: target[0].hosts[0]: a unix socket has no name that a certificate could have; give tls_name"],
        );
        check(
            &with("tls = 'off'\ntls_cert = 'a'"),
            &["f:6:12: target[0].tls_cert: tls_cert and tls_key belong together, and only one of them is here"],
        );
        check(
            &with("tls_key = 'a'"),
            &["f:5:11: target[0].tls_key: tls_cert and tls_key belong together, and only one of them is here"],
        );
        check(
            &with("tls = 'off'\ntls_cert = 'a'\ntls_key = 'b'"),
            &["f:6:12: target[0].tls_cert: no certificate is shown without TLS, and tls is \"off\""],
        );
        check(
            &with("tls = 'verifed'\ntls_ca = 'a'"),
            &["f:5:7: target[0].tls: \"verifed\" is not one of off, opportunistic, required, verified; did you mean \
             \"verified\"?"],
        );
        check(
            &with("tls = 'verified'\ntls_name = 'a b'"),
            &["f:6:12: target[0].tls_name: \"a b\" is not a host name: it has a character that is not a letter, a \
             digit, \"-\" or \".\""],
        );
    }
}
