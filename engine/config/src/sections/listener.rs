//! `[[listener]]`: where the server listens, what is spoken there, and whom it believes.

use crate::{
    check,
    config::{CoreUse, Listener, ListenerKind},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Setting, Table},
};
use ringpost_smtp::TlsUse;
use std::net::SocketAddr;

pub(crate) static LISTENER: Section = Section {
    path: "listener",
    header: "[[listener]]",
    intro: "Where the server listens. Every core in use has a socket of its own on every address.",
    stand_in: Some("[[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:2525\"]\n"),
    keys: &[
        Key::new(
            "name",
            Kind::Text("a name"),
            r#""mx""#,
            "The name in log lines, different for every listener: 1 to 64 letters, digits, `-`, `_` or \
             `.`.",
        )
        .at_restart(),
        Key::new(
            "kind",
            Kind::Choice(names::<ListenerKind>),
            r#""mx""#,
            "What is spoken there, for the domains of this file. `mx`: SMTP from other servers. `lmtp`: LMTP (RFC \
             2033) from a mail system of one's own, with a reply for each recipient; never on port 25.",
        )
        .at_restart(),
        Key::required(
            "address",
            Kind::Text("a list of IP addresses with ports, such as [\"127.0.0.1:2525\"]"),
            "The addresses. `0.0.0.0:25` and `[::]:25` are all addresses of the machine. Port 0, any free port, can \
             only be used on one core.",
        )
        .at_restart(),
        Key::new(
            "tls",
            Kind::Choice(names::<TlsUse>),
            r#""starttls""#,
            "`starttls` offers STARTTLS (RFC 3207), `starttls-required` refuses MAIL before it, `implicit` starts TLS \
             with the first byte (RFC 8314). An MX that requires TLS loses mail from senders without it.",
        ),
        Key::new(
            "proxy_from",
            Kind::Text(NETWORKS),
            "[]",
            "The load balancers in front. From these a PROXY header (version 1 or 2) is required, and the address it \
             gives is the client's in everything; from all others it is an error. What is here can't be banned.",
        ),
        Key::new(
            "xclient_from",
            Kind::Text(NETWORKS),
            "[]",
            "Who may use XCLIENT to speak for another client, whose address then counts: a filter in front, or a test. \
             Whoever is here may pose as anybody.",
        ),
        Key::new(
            "xforward_from",
            Kind::Text(NETWORKS),
            "[]",
            "Who may use XFORWARD to say whose mail it hands on. That is only logged.",
        ),
        Key::new(
            "steer",
            Kind::Flag,
            "true",
            "Whether the kernel gives each connection to the core that counts for its network, so that cores rarely \
             ask each other. With `proxy_from` it is off, whatever stands here: the kernel sees the proxy's address.",
        )
        .at_restart(),
    ],
};

const NETWORKS: &str = "a list of addresses and networks, such as [\"192.0.2.1\", \"2001:db8::/32\"]";

/// Most networks of one list of a listener: each connection is compared with all of them, one by one.
const NETWORKS_MAX: usize = 1000;

/// The port of SMTP.
const SMTP_PORT: u16 = 25;

impl Choice for ListenerKind {
    const ALL: &'static [(&'static str, Self)] = &[("mx", Self::Mx), ("lmtp", Self::Lmtp)];
    const LATER: &'static [&'static str] = &["submission", "imap"];
}

impl Choice for TlsUse {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("starttls", Self::Starttls),
        ("starttls-required", Self::StarttlsRequired),
        ("implicit", Self::Implicit),
    ];
}

/// What the listeners have to go together with.
pub(crate) struct Around<'a> {
    pub(crate) using: &'a CoreUse,
    /// `admin.listen`, which no listener may have too.
    pub(crate) admin: &'a Setting<Option<SocketAddr>>,
    /// `tls.required`, under which a listener without TLS takes no mail.
    pub(crate) tls_required: &'a Setting<bool>,
}

/// Reads every `[[listener]]`.
pub(crate) fn listeners(root: &Table<'_>, around: &Around<'_>) -> Vec<Listener> {
    let tables = root.tables("listener", &LISTENER);
    let reader = root.reader;
    reader.require(tables.value.as_ref().is_none_or(|tables| !tables.is_empty()), &[tables.spot()], || {
        "the list is empty; leave it out for the default, or give one listener at least".to_owned()
    });
    let Some(tables) = tables.value else { return vec![Listener::default()] };
    let (mut listeners, mut listener_names, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for table in &tables {
        let (listener, name, mut own) = listener(table, around);
        listeners.push(listener);
        listener_names.push(name);
        addresses.append(&mut own);
    }
    distinct_names(&tables, &listener_names, "listener");
    // Port 0 is another port each time.
    addresses.retain(|address| address.value.port() != 0);
    reader.distinct(&addresses, |address, earlier| format!("{address} is an address already, {earlier}"));
    for address in &addresses {
        reader.require(around.admin.value != Some(address.value), &[address.spot(), around.admin.spot()], || {
            format!("{} is the address of admin.listen", address.value)
        });
    }
    listeners
}

type Address = Setting<SocketAddr>;

fn listener(table: &Table<'_>, around: &Around<'_>) -> (Listener, Setting<String>, Vec<Address>) {
    let default = Listener::default();
    let name = table.text("name", &default.name, check::name);
    let address = table.list("address", check::address);
    table.reader.require(!address.value.is_empty(), &[address.spot()], || {
        "the list is empty, wants one address at least".to_owned()
    });
    let one_core = match around.using {
        CoreUse::All => false,
        CoreUse::Count(count) => *count == 1,
        CoreUse::Ids(ids) => ids.len() == 1,
    };
    for address in &address.value {
        table.reader.require(one_core || address.value.port() != 0, &[address.spot()], || {
            "port 0 would be another port on every core; give a port, or set cores.use to 1".to_owned()
        });
    }
    let kind = table.choice("kind", default.kind);
    for address in &address.value {
        // RFC 2033 section 5: a host that finds LMTP there would take it for SMTP.
        let holds = kind.value != ListenerKind::Lmtp || address.value.port() != SMTP_PORT;
        table.reader.require(holds, &[address.spot(), kind.spot()], || {
            format!("port 25 is for SMTP, and {} is \"lmtp\"; give it another, such as 24", kind.key)
        });
    }
    let (tls, required) = (table.choice("tls", default.tls), around.tls_required);
    table.reader.require(!required.value || tls.value != TlsUse::Off, &[tls.spot(), required.spot()], || {
        "it is \"off\" and tls.required is true, so that no mail could be taken there".to_owned()
    });
    let listener = Listener {
        name: name.value.clone(),
        kind: kind.value,
        address: address.value.iter().map(|address| address.value).collect(),
        tls: tls.value,
        proxy_from: check::networks(table, "proxy_from", NETWORKS_MAX),
        xclient_from: check::networks(table, "xclient_from", NETWORKS_MAX),
        xforward_from: check::networks(table, "xforward_from", NETWORKS_MAX),
        steer: table.flag("steer", default.steer).value,
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

#[cfg(test)]
mod tests {
    use crate::{Config, ListenerKind, tests::check};
    use ringpost_base::Network;
    use ringpost_smtp::TlsUse;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[[listener]]\nname = 'a'\naddress = ['0.0.0.0:25', '[::]:25']\ntls = 'starttls-required'\n\
             proxy_from = ['10.0.0.0/8', '::1']\n\
             [[listener]]\nname = 'b'\nkind = 'lmtp'\naddress = ['192.0.2.1:24']\ntls = 'implicit'\n\
             xclient_from = ['127.0.0.1']\nxforward_from = ['127.0.0.2']\nsteer = true\n\
             [[listener]]\nname = 'c'\nkind = 'mx'\naddress = ['192.0.2.1:26']\nsteer = false",
        );
        let listeners = config.expect("the text has no fault").listeners;
        assert_eq!(listeners[0].address.len(), 2);
        assert_eq!((listeners[0].kind, listeners[1].kind), (ListenerKind::Mx, ListenerKind::Lmtp));
        assert_eq!((listeners[0].tls, listeners[1].tls), (TlsUse::StarttlsRequired, TlsUse::Implicit));
        let texts = |networks: &[Network]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(texts(&listeners[0].proxy_from), "10.0.0.0/8 ::1");
        assert_eq!(texts(&listeners[1].xclient_from), "127.0.0.1");
        assert_eq!(texts(&listeners[1].xforward_from), "127.0.0.2");
        let steered: Vec<_> = listeners.iter().map(|listener| (listener.steer, listener.is_steered())).collect();
        assert_eq!(steered, [(true, false), (true, true), (false, false)]);
        for one in ["1", "[7]"] {
            let text = format!("cores.use = {one}\nlistener = [{{ address = ['127.0.0.1:0', '127.0.0.1:0'] }}]");
            assert!(Config::parse("f", &text).is_ok(), "port 0 on one core");
        }
    }

    #[test]
    fn faults_of_whom_a_listener_believes() {
        check(
            "[[listener]]\naddress = ['127.0.0.1:24']\nproxy_from = '10.0.0.1'\nxclient_from = ['10.0.0.300']\n\
             xforward_from = ['::1', '::1/128']\nsteer = 'no'",
            &[
                "f:3:14: listener[0].proxy_from: found a string, wants a list of addresses and networks, such as \
                 [\"192.0.2.1\", \"2001:db8::/32\"]",
                "f:4:17: listener[0].xclient_from[0]: \"10.0.0.300\" is not an address or network, such as \
                 \"192.0.2.1\" or \"192.0.2.0/24\"",
                "f:5:25: listener[0].xforward_from[1]: ::1 is in the list already, as listener[0].xforward_from[0]",
                "f:6:9: listener[0].steer: found a string, wants true or false without quotes",
            ],
        );
        let many: Vec<_> = (0..=1000).map(|n| format!("'10.0.{}.{}'", n / 256, n % 256)).collect();
        check(
            &format!("[[listener]]\naddress = ['127.0.0.1:24']\nproxy_from = [{}]", many.join(",")),
            &["f:3:14: listener[0].proxy_from: 1001 networks are more than 1000; join them to larger ones"],
        );
    }

    #[test]
    fn lmtp_on_the_port_of_smtp() {
        check(
            "[[listener]]\naddress = ['127.0.0.1:24', '127.0.0.1:25']\nkind = 'lmtp'",
            &["f:2:28: listener[0].address[1]: port 25 is for SMTP, and listener[0].kind is \"lmtp\"; give it \
             another, such as 24"],
        );
    }

    #[test]
    fn tls_that_is_required_and_off() {
        let off = "[[listener]]\nname = 'a'\naddress = ['127.0.0.1:24']\ntls = 'off'";
        check(
            &format!("tls.required = true\n{off}"),
            &["f:5:7: listener[0].tls: it is \"off\" and tls.required is true, so that no mail could be \
             taken there"],
        );
        check(off, &[]);
    }

    #[test]
    fn faults_of_a_listener() {
        check(
            "[[listener]]\nname = 'm x'\nkind = 'imap'\naddress = '127.0.0.1:25'\ntls = \"startls\"",
            &[
                "f:2:8: listener[0].name: \"m x\" is not a name: 1 to 64 letters, digits, \"-\", \"_\" or \".\"",
                "f:3:8: listener[0].kind: \"imap\" is not available in this version, which has mx, lmtp",
                "f:4:11: listener[0].address: found a string, wants a list of IP addresses with ports, such as \
             [\"127.0.0.1:2525\"]",
                "f:5:7: listener[0].tls: \"startls\" is not one of off, starttls, starttls-required, implicit; did \
             you mean \"starttls\"?",
            ],
        );
        check(
            "[[listener]]\nname = 'a'\nkind = 'mz'\naddress = ['localhost:25', 25, '127.0.0.1:0']",
            &[
                "f:3:8: listener[0].kind: \"mz\" is not one of mx, lmtp; did you mean \"mx\"?",
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
                "f:3:1: listener[0].port: unknown key; [[listener]] takes name, kind, address, tls, proxy_from, \
                 xclient_from, xforward_from, steer",
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
}
