//! `[dns]`: where names are looked up.

use crate::{
    check,
    config::Dns,
    keys::{Key, Kind, Section},
    reader::Table,
};
use ringpost_base::Span;

/// Most servers: a lookup asks one after the other, and what waits for it does not wait for so many.
const SERVERS_MAX: usize = 16;

pub(crate) static DNS: Section = Section {
    path: "dns",
    header: "[dns]",
    intro: "Where names are looked up: for DNS lists, reverse names and HELO. Nothing is asked that no key of \
            `[screen]` needs.",
    stand_in: None,
    keys: &[
        Key::new(
            "servers",
            Kind::Text("a list of IP addresses, with ports where these are not 53, such as [\"127.0.0.1:5353\"]"),
            "[]",
            "The servers, two asked at a time, in turn. Empty: those of `/etc/resolv.conf`. Operators of DNS lists refuse public \
             resolvers: run one of your own.",
        ),
        Key::new(
            "timeout",
            Kind::Time { min: Span::millis(10), max: Span::seconds(60) },
            r#""1s""#,
            "How long an answer is waited for, each time a server is asked.",
        ),
        Key::new(
            "attempts",
            Kind::Count { min: 1, max: 10 },
            "2",
            "How often a question is asked before it is given up.",
        ),
        Key::new(
            "cache",
            Kind::Count { min: 0, max: 10_000_000 },
            "10000",
            "Answers that each core keeps, for as long as they say they hold. 0: none.",
        ),
    ],
};

pub(crate) fn dns(root: &Table<'_>) -> Dns {
    let (table, default) = (root.table("dns", &DNS), Dns::default());
    let servers = table.list("servers", check::dns_server);
    table.reader.distinct(&servers.value, |server, earlier| format!("{server} is in the list already, as {earlier}"));
    let count = servers.value.len();
    table
        .reader
        .require(count <= SERVERS_MAX, &[servers.spot()], || format!("{count} servers are more than {SERVERS_MAX}"));
    let attempts = table.count("attempts", usize::from(default.attempts)).value;
    Dns {
        servers: servers.value.into_iter().map(|server| server.value).collect(),
        timeout: table.time("timeout", default.timeout).value,
        attempts: u8::try_from(attempts).unwrap_or(default.attempts),
        cache: table.count("cache", default.cache).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, tests::check};
    use ringpost_base::Span;

    #[test]
    fn values() {
        let text = "[dns]\nservers = ['127.0.0.1:5353', '192.0.2.53', '::1', '[2001:db8::1]:54']\ntimeout = '500ms'\n\
                    attempts = 1\ncache = 0";
        let dns = Config::parse("f", text).expect("the text has no fault").dns;
        let servers: Vec<_> = dns.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.1:5353", "192.0.2.53:53", "[::1]:53", "[2001:db8::1]:54"]);
        assert_eq!((dns.timeout, dns.attempts, dns.cache), (Span::millis(500), 1, 0));
    }

    #[test]
    fn faults() {
        check(
            "[dns]\nservers = ['localhost', 53, '[::1]', '127.0.0.1:0', '::1', '[::1]:53']\nattempts = 0\ntimeout = '5'",
            &[
                "f:2:12: dns.servers[0]: \"localhost\" is not an IP address, with a port or without, such as \
                 \"127.0.0.1:5353\" or \"::1\"",
                "f:2:25: dns.servers[1]: found an integer, wants an IP address, with a port or without, such as \
                 \"127.0.0.1:5353\" or \"::1\"",
                "f:2:29: dns.servers[2]: \"[::1]\" is not an IP address, with a port or without, such as \
                 \"127.0.0.1:5353\" or \"::1\"; did you mean \"::1\"?",
                "f:2:38: dns.servers[3]: \"127.0.0.1:0\" has the port 0, at which nothing answers",
                "f:2:60: dns.servers[5]: [::1]:53 is in the list already, as dns.servers[4]",
                "f:3:12: dns.attempts: 0 is out of range: 1 to 10",
                "f:4:11: dns.timeout: \"5\" is not a duration: write a number with ms, s, m, h or d, as in \"5m\"",
            ],
        );
        let many: Vec<_> = (0..=16).map(|n| format!("'127.0.0.{n}'")).collect();
        check(&format!("dns.servers = [{}]", many.join(", ")), &["f:1:15: dns.servers: 17 servers are more than 16"]);
    }
}
