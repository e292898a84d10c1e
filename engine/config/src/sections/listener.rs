//! `[[listener]]` and `[tls]`: where the server listens, and with which certificates.

use crate::{
    check,
    config::{Certificate, CoreUse, Listener, ListenerKind, Tls, TlsVersion},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Setting, Table},
};
use ringpost_smtp::TlsUse;
use std::net::SocketAddr;

pub(crate) static LISTENER: Section = Section {
    path: "listener",
    header: "[[listener]]",
    intro: "Where the server listens. Every core in use has a socket of its own on every address.",
    stand_in: Some("[[listener]]\nname = \"mx\"\nkind = \"mx\"\naddress = [\"127.0.0.1:2525\"]\ntls = \"starttls\"\n"),
    keys: &[
        Key::new(
            "name",
            Kind::Text("a name"),
            r#""mx""#,
            "The name in log lines, different for every listener: 1 to 64 letters, digits, `-`, `_` or \
             `.`.",
        ),
        Key::new(
            "kind",
            Kind::Choice(names::<ListenerKind>),
            r#""mx""#,
            "What is spoken there. `mx`: SMTP from other servers, for the domains of this file.",
        ),
        Key::required(
            "address",
            Kind::Text("a list of IP addresses with ports, such as [\"127.0.0.1:2525\"]"),
            "The addresses. `0.0.0.0:25` and `[::]:25` are all addresses of the machine. Port 0, any free port, can \
             only be used on one core.",
        ),
        Key::new(
            "tls",
            Kind::Choice(names::<TlsUse>),
            r#""starttls""#,
            "`starttls` offers STARTTLS (RFC 3207), `starttls-required` refuses MAIL before it, `implicit` starts TLS \
             with the first byte (RFC 8314). An MX that requires TLS loses mail from senders without it.",
        ),
    ],
};

pub(crate) static TLS: Section = Section {
    path: "tls",
    header: "[tls]",
    intro: "Certificates and versions, for all listeners.",
    stand_in: None,
    keys: &[
        Key::tables("certificates", "[[tls.certificates]]", ""),
        Key::new(
            "min_version",
            Kind::Choice(names::<TlsVersion>),
            r#""1.2""#,
            "The oldest version of TLS a client may speak. With `1.3`, senders that have only 1.2 fall back to plain \
             text, or give up.",
        ),
    ],
};

pub(crate) static CERTIFICATES: Section = Section {
    path: "tls.certificates",
    header: "[[tls.certificates]]",
    intro: "A certificate. A client is shown the one for the name it asks for, else the first. With none, a \
            self-signed one is made in `server.state_dir`, which opportunistic senders accept.",
    stand_in: Some("[tls]\ncertificates = []\n"),
    keys: &[
        Key::required(
            "cert",
            Kind::Text("a PEM file"),
            "The PEM file of the certificate, followed by its intermediates.",
        ),
        Key::required(
            "key",
            Kind::Text("a PEM file"),
            "The PEM file of its private key, readable by the server's user alone.",
        ),
    ],
};

impl Choice for ListenerKind {
    const ALL: &'static [(&'static str, Self)] = &[("mx", Self::Mx)];
    const LATER: &'static [&'static str] = &["submission", "lmtp", "imap"];
}

impl Choice for TlsUse {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("starttls", Self::Starttls),
        ("starttls-required", Self::StarttlsRequired),
        ("implicit", Self::Implicit),
    ];
}

impl Choice for TlsVersion {
    const ALL: &'static [(&'static str, Self)] = &[("1.2", Self::V12), ("1.3", Self::V13)];
}

/// Reads every `[[listener]]`. The address of `[admin]` and those of the listeners have to differ.
pub(crate) fn listeners(root: &Table<'_>, using: &CoreUse, admin: &Setting<Option<SocketAddr>>) -> Vec<Listener> {
    let tables = root.tables("listener", &LISTENER);
    let reader = root.reader;
    reader.require(tables.value.as_ref().is_none_or(|tables| !tables.is_empty()), &[tables.spot()], || {
        "the list is empty; leave it out for the default, or give one listener at least".to_owned()
    });
    let Some(tables) = tables.value else { return vec![Listener::default()] };
    let (mut listeners, mut listener_names, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for table in &tables {
        let (listener, name, mut own) = listener(table, using);
        listeners.push(listener);
        listener_names.push(name);
        addresses.append(&mut own);
    }
    distinct_names(&tables, &listener_names, "listener");
    // Port 0 is another port each time.
    addresses.retain(|address| address.value.port() != 0);
    reader.distinct(&addresses, |address, earlier| format!("{address} is an address already, {earlier}"));
    for address in &addresses {
        reader.require(admin.value != Some(address.value), &[address.spot(), admin.spot()], || {
            format!("{} is the address of admin.listen", address.value)
        });
    }
    listeners
}

type Address = Setting<SocketAddr>;

fn listener(table: &Table<'_>, using: &CoreUse) -> (Listener, Setting<String>, Vec<Address>) {
    let default = Listener::default();
    let name = table.text("name", &default.name, check::name);
    let address = table.list("address", check::address);
    table.reader.require(!address.value.is_empty(), &[address.spot()], || {
        "the list is empty, wants one address at least".to_owned()
    });
    let one_core = match using {
        CoreUse::All => false,
        CoreUse::Count(count) => *count == 1,
        CoreUse::Ids(ids) => ids.len() == 1,
    };
    for address in &address.value {
        table.reader.require(one_core || address.value.port() != 0, &[address.spot()], || {
            "port 0 would be another port on every core; give a port, or set cores.use to 1".to_owned()
        });
    }
    let listener = Listener {
        name: name.value.clone(),
        kind: table.choice("kind", default.kind).value,
        address: address.value.iter().map(|address| address.value).collect(),
        tls: table.choice("tls", default.tls).value,
    };
    (listener, name, address.value)
}

/// Notes each table whose name an earlier one has, given or by default.
pub(crate) fn distinct_names(tables: &[Table<'_>], names: &[Setting<String>], what: &str) {
    for (n, (table, name)) in tables.iter().zip(names).enumerate() {
        let Some(earlier) = names[..n].iter().find(|other| other.value == name.value && is_sound(other)) else {
            continue;
        };
        if name.is_written() {
            table.reader.require(false, &[name.spot()], || {
                format!("{:?} is the name of a {what} already, {}", name.value, earlier.key)
            });
        } else if is_sound(name) {
            let reason = format!("missing, and the default {:?} is the name of a {what} already", name.value);
            table.reader.fault(&name.key, table.place.clone(), reason);
        }
    }
}

fn is_sound<T>(setting: &Setting<T>) -> bool {
    setting.place != crate::reader::Place::Faulty
}

pub(crate) fn tls(root: &Table<'_>) -> Tls {
    let table = root.table("tls", &TLS);
    let certificates = table.tables("certificates", &CERTIFICATES).value.unwrap_or_default();
    let certificate = |table: Table<'_>| Certificate {
        cert: table.text("cert", "", check::path).value,
        key: table.text("key", "", check::path).value,
    };
    Tls {
        certificates: certificates.into_iter().map(certificate).collect(),
        min_version: table.choice("min_version", TlsVersion::default()).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, TlsVersion, tests::check};
    use ringpost_smtp::TlsUse;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[[listener]]\nname = 'a'\naddress = ['0.0.0.0:25', '[::]:25']\ntls = 'starttls-required'\n\
             [[listener]]\nname = 'b'\nkind = 'mx'\naddress = ['192.0.2.1:465']\ntls = 'implicit'\n\
             [tls]\nmin_version = '1.3'\ncertificates = [{ cert = 'c.pem', key = 'k.pem' }]",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.listeners[0].address.len(), 2);
        assert_eq!(config.listeners[1].tls, TlsUse::Implicit);
        assert_eq!(config.tls.min_version, TlsVersion::V13);
        assert_eq!(
            (config.tls.certificates[0].cert.as_str(), config.tls.certificates[0].key.as_str()),
            ("c.pem", "k.pem")
        );
        for one in ["1", "[7]"] {
            let text = format!("cores.use = {one}\nlistener = [{{ address = ['127.0.0.1:0', '127.0.0.1:0'] }}]");
            assert!(Config::parse("f", &text).is_ok(), "port 0 on one core");
        }
    }

    #[test]
    fn faults_of_a_listener() {
        check(
            "[[listener]]\nname = 'm x'\nkind = 'lmtp'\naddress = '127.0.0.1:25'\ntls = \"startls\"",
            &[
                "f:2:8: listener[0].name: \"m x\" is not a name: 1 to 64 letters, digits, \"-\", \"_\" or \".\"",
                "f:3:8: listener[0].kind: \"lmtp\" is not available in this version, which has mx",
                "f:4:11: listener[0].address: found a string, wants a list of IP addresses with ports, such as \
             [\"127.0.0.1:2525\"]",
                "f:5:7: listener[0].tls: \"startls\" is not one of off, starttls, starttls-required, implicit; did \
             you mean \"starttls\"?",
            ],
        );
        check(
            "[[listener]]\nname = 'a'\nkind = 'mz'\naddress = ['localhost:25', 25, '127.0.0.1:0']",
            &[
                "f:3:8: listener[0].kind: \"mz\" is not one of mx; did you mean \"mx\"?",
                "f:4:12: listener[0].address[0]: \"localhost:25\" is not an IP address and port, such as \
             \"127.0.0.1:2525\" or \"[::1]:2525\"",
                "f:4:28: listener[0].address[1]: found an integer, wants an IP address and port, such as \
             \"127.0.0.1:2525\" or \"[::1]:2525\"",
                "f:4:32: listener[0].address[2]: port 0 would be another port on every core; give a port, or set \
             cores.use to 1",
            ],
        );
        check(
            "listener = []",
            &["f:1:12: listener: the list is empty; leave it out for the default, or give one listener at least"],
        );
        check(
            "[[listener]]\naddress = []\nport = 25",
            &[
                "f:2:11: listener[0].address: the list is empty, wants one address at least",
                "f:3:1: listener[0].port: unknown key; [[listener]] takes name, kind, address, tls",
            ],
        );
        check(
            "[listener]\nname = 'a'",
            &["f:1:1: listener: found a table, wants an array of tables, written [[listener]]"],
        );
    }

    #[test]
    fn names_and_addresses_are_given_once() {
        check(
            "[[listener]]\nname = 'a'\naddress = ['127.0.0.1:25', '127.0.0.1:25']\n\
             [[listener]]\nname = 'a'\naddress = ['127.0.0.1:8025', '127.0.0.1:25']\n\
             [[listener]]\naddress = ['127.0.0.2:25']\n[[listener]]",
            &[
                "f:3:28: listener[0].address[1]: 127.0.0.1:25 is an address already, listener[0].address[0]",
                "f:5:8: listener[1].name: \"a\" is the name of a listener already, listener[0].name",
                "f:6:12: listener[1].address[0]: 127.0.0.1:8025 is the address of admin.listen",
                "f:6:30: listener[1].address[1]: 127.0.0.1:25 is an address already, listener[0].address[0]",
                "f:9:1: listener[3].address: missing, wants a list of IP addresses with ports, such as \
                 [\"127.0.0.1:2525\"]",
                "f:9:1: listener[3].name: missing, and the default \"mx\" is the name of a listener already",
            ],
        );
    }

    #[test]
    fn faults_of_tls() {
        check(
            "[tls]\ncertificates = [{ cert = 'a' }, { key = '' }, 'x']\nmin_version = 1.3",
            &[
                "f:2:17: tls.certificates[0].key: missing, wants a PEM file",
                "f:2:33: tls.certificates[1].cert: missing, wants a PEM file",
                "f:2:41: tls.certificates[1].key: the path is empty",
                "f:2:47: tls.certificates[2]: found a string, wants a table",
                "f:3:15: tls.min_version: found a float, wants one of 1.2, 1.3",
            ],
        );
        check(
            "[[tls.certificates]]\ncert = 'a'\nkye = 'b'\n[tls]\nmin_version = '1.1'",
            &[
                "f:1:1: tls.certificates[0].key: missing, wants a PEM file",
                "f:3:1: tls.certificates[0].kye: unknown key; did you mean \"key\"?",
                "f:5:15: tls.min_version: \"1.1\" is not one of 1.2, 1.3; did you mean \"1.2\"?",
            ],
        );
    }
}
