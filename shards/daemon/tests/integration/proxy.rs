//! The PROXY protocol: whom a proxy presents is the client in everything, and the proxy is nobody's client.

use crate::support::haproxy::Haproxy;
use crate::support::limits::Told;
use crate::support::net::client_address;
use crate::support::secure::Dialect;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, session_id};
use crate::support::text::message;
use crate::support::wait_until;
use rustls::StreamOwned;
use std::net::{IpAddr, SocketAddr};

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of command and family of version 2.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Takes connections from 127.0.0.1 as from a proxy.
fn settings() -> Settings {
    Settings::default().cores(2).listener_line("proxy_from = [\"127.0.0.1\"]")
}

/// A line of version 1 that presents an address.
fn line(source: &str) -> Vec<u8> {
    let family = if source.contains(':') { 6 } else { 4 };
    let destination = if family == 6 { "2001:db8::25" } else { "198.51.100.25" };
    format!("PROXY TCP{family} {source} {destination} 40000 25\r\n").into_bytes()
}

/// A header of version 2 with these fields behind the addresses.
fn header(command: u8, family: u8, addresses: &[u8], fields: &[u8]) -> Vec<u8> {
    let length = (addresses.len() + fields.len()) as u16;
    [SIGNATURE.as_slice(), &[command, family], &length.to_be_bytes(), addresses, fields].concat()
}

/// A header of version 2 that presents an address.
fn binary(source: &str) -> Vec<u8> {
    let ports = [40000_u16.to_be_bytes(), 25_u16.to_be_bytes()].concat();
    match source.parse().expect("an address") {
        IpAddr::V4(v4) => header(PROXY, TCP4, &[v4.octets().as_slice(), &[198, 51, 100, 25], &ports].concat(), b""),
        IpAddr::V6(v6) => {
            header(PROXY, TCP6, &[v6.octets(), [0x20; 16]].concat().into_iter().chain(ports).collect::<Vec<_>>(), b"")
        }
    }
}

/// Connects through "the proxy" with a header, and reads nothing.
fn present(server: &Server, header: &[u8]) -> Client {
    let mut client = Client::connect(server.smtp());
    client.send(header);
    client
}

/// Whom log, trace field and trail take the client for.
#[track_caller]
fn check_client(server: &Server, mut client: Client, number: usize, expected: &str) {
    let session = session_id(&client.expect(220));
    client.say("EHLO client.example.org", 250);
    let to = format!("user{number}");
    let id = client.deliver("a@example.org", &[&format!("{to}@example.com")], &message("proxied", "x\r\n"));
    client.quit();
    let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
    assert_eq!(accepted["peer"], expected, "{accepted}");
    let literal = if expected.contains(':') { format!("IPv6:{expected}") } else { expected.to_owned() };
    let trace = server.maildir(&format!("example.com/{to}")).only().trace().to_owned();
    assert!(trace.contains(&format!("Received: from client.example.org ([{literal}])\r\n")), "{trace}");
    let told = server.tell(&["explain", &session]).ok().out;
    assert!(told.contains(&format!("address={expected}")) && told.contains("peer=127.0.0.1 "), "{told}");
}

#[test]
fn a_header_of_either_version_says_who_the_client_is() {
    let server = Server::start(settings());
    let fields = [&[4_u8, 0, 3][..], b"abc", &[0xee, 0, 0]].concat();
    let v4 = [192, 0, 2, 9, 198, 51, 100, 25, 1, 2, 0, 25];
    let mapped = "PROXY TCP6 ::ffff:192.0.2.77 2001:db8::25 1 25\r\n";
    for (number, (header, expected)) in [
        (line("192.0.2.1"), "192.0.2.1"),
        (line("2001:db8::1"), "2001:db8::1"),
        (mapped.into(), "192.0.2.77"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "127.0.0.1"),
        (binary("192.0.2.2"), "192.0.2.2"),
        (binary("2001:db8::2"), "2001:db8::2"),
        (header(PROXY, TCP4, &v4, &fields), "192.0.2.9"),
        (header(LOCAL, 0, b"", b""), "127.0.0.1"),
        (header(LOCAL, TCP4, &v4, b""), "127.0.0.1"),
        (header(PROXY, 0, b"", b""), "127.0.0.1"),
        // A client by a UNIX socket of the proxy.
        (header(PROXY, 0x31, &[0; 216], b""), "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        check_client(&server, present(&server, &header), number, expected);
    }
    assert_eq!(server.metrics().sum("ringpost_proxy_headers_total", "outcome=\"accepted\""), 12);
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let server = Server::start(settings());
    for (number, (header, expected)) in
        [(line("192.0.2.1"), "192.0.2.1"), (binary("2001:db8::2"), "2001:db8::2")].into_iter().enumerate()
    {
        let mut client = Client::connect(server.smtp());
        for byte in header {
            client.send(&[byte]);
            // So that each is a packet of its own, and mostly a read of its own.
            std::thread::yield_now();
        }
        check_client(&server, client, number, expected);
    }
}

/// Clients in a hurry are pipelined into the packet of the header.
#[test]
fn commands_may_follow_in_the_packet_of_the_header() {
    let server = Server::start(settings());
    let mut client = present(&server, &[line("192.0.2.1"), b"EHLO client.example.org\r\nNOOP\r\n".to_vec()].concat());
    for code in [220, 250, 250] {
        client.expect(code);
    }
    client.quit();
}

#[test]
fn what_does_not_begin_with_a_header_is_refused() {
    let server = Server::start(settings());
    let attempts: [&[u8]; 9] = [
        b"EHLO client.example.org\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.25 1\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.25 1 25\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.25 1 25\r\n",
        b"PROXY UNKNOWN\n",
        b"proxy TCP4 192.0.2.1 198.51.100.25 1 25\r\n",
        &[SIGNATURE.as_slice(), &[0x11, TCP4, 0, 12], &[0; 12]].concat(),
        &[SIGNATURE.as_slice(), &[PROXY, TCP4, 0, 4], &[0; 4]].concat(),
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    ];
    for attempt in attempts {
        let mut client = present(&server, attempt);
        let reply = client.expect(421);
        assert!(reply.lines[0].starts_with("421 4.7.0 the connection does not begin with a PROXY header"));
        client.ended();
        let told = server.tell(&["explain", &session_id(&reply)]).ok().out;
        assert!(told.contains("listener.proxy_from") && told.contains("reason="), "{told}");
    }
    // Whoever says nothing at all is waited for only so long.
    let mut silent = Client::connect(server.smtp());
    let mut half = present(&server, b"PROXY TCP4 192.0.2.1 ");
    for client in [&mut silent, &mut half] {
        client.expect(421);
        client.ended();
    }
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_proxy_headers_total", "outcome=\"malformed\""), attempts.len() as u64 + 2);
    assert_eq!(metrics.sum("ringpost_proxy_headers_total", "outcome=\"accepted\""), 0);
}

#[test]
fn a_header_from_anybody_else_is_an_error() {
    let server = Server::start(settings());
    for header in [line("192.0.2.1"), binary("192.0.2.1"), binary("2001:db8::1"), header(LOCAL, 0, b"", b"")] {
        let mut client = Client::connect_from(client_address(0, 1), server.smtp());
        client.expect(220);
        client.send(&[header, b"EHLO client.example.org\r\nMAIL FROM:<a@example.org>\r\n".to_vec()].concat());
        // Version 2 begins with two empty lines, which are errors by themselves.
        let mut reply = client.reply();
        while reply.code == 500 {
            reply = client.reply();
        }
        assert_eq!(reply.code, 554, "{}", reply.text());
        client.ended();
    }
    server.wait_for_rest();
    assert_eq!(server.metrics().sum("ringpost_proxy_headers_total", "outcome=\"accepted\""), 0);
    // Without a header they are served.
    Client::hello_from(client_address(0, 1), server.smtp()).quit();
}

/// Where TLS comes first, the client's hello may come in one packet with the header.
#[test]
fn the_hello_of_tls_may_follow_in_the_packet_of_the_header() {
    let settings = Settings::default().listener("mxs", "implicit").listener_line("proxy_from = [\"127.0.0.1\"]");
    let server = Server::start(settings);
    let dialect = Dialect::trusting(&server.home.state_dir().join("tls/self-signed.crt"));
    for (number, (mut first, split)) in
        [(line("192.0.2.1"), 0), (binary("192.0.2.1"), 0), (line("192.0.2.1"), 60), (binary("192.0.2.1"), 20)]
            .into_iter()
            .enumerate()
    {
        let mut connection = dialect.connection("mx.example.com");
        connection.write_tls(&mut first).expect("a hello");
        let mut client = Client::connect(server.smtp());
        // All in one packet, or with a seam within the header or within the hello.
        let (one, other) = first.split_at(split);
        client.send(one);
        client.send(other);
        let mut client = Client::over(StreamOwned::new(connection, client.into_stream()));
        client.expect(220);
        client.say("EHLO client.example.org", 250);
        let to = format!("user{number}@example.com");
        let id = client.deliver("a@example.org", &[&to], &message("secure", "x\r\n"));
        client.say("QUIT", 221);
        let accepted = server.wait_for_line("accepted", |line| line["id"] == id.as_str());
        assert_eq!((&accepted["peer"], &accepted["tls"]), (&"192.0.2.1".into(), &"TLSv1.3".into()), "{accepted}");
    }
}

/// Where TLS comes first nothing can be said in words before it, neither to who sends no header nor to who is banned.
#[test]
fn no_word_in_the_clear_is_said_where_tls_comes_first() {
    let settings = Settings::default().listener("mxs", "implicit").listener_line("proxy_from = [\"127.0.0.1\"]");
    let server = Server::start(settings.set("limits", "connections_per_ip = 1"));
    server.tell(&["ban", "add", "192.0.2.66"]).ok();
    let _holds = present(&server, &line("192.0.2.77"));
    server.wait_for_metric("ringpost_address_connections", 1);
    for first in [b"EHLO a\r\n".to_vec(), line("192.0.2.66"), line("192.0.2.77")] {
        let mut client = present(&server, &first);
        let said = client.try_reply();
        assert!(!matches!(said, Ok(Some(_))), "{said:?}");
    }
    server.wait_for_metric("ringpost_sessions_refused_total", 3);
}

/// What counts by address counts the presented one, and of IPv6 the network.
#[test]
fn limits_count_who_is_presented() {
    let settings = settings().set("limits", "connections_per_ip = 2").set("limits", "messages_per_ip = 1");
    let server = Server::start(settings);
    let mut told = Told::default();
    let mut open = Vec::new();
    for (sources, limited) in [
        (["192.0.2.1", "192.0.2.1", "192.0.2.1"], true),
        (["192.0.2.2", "192.0.2.3", "192.0.2.4"], false),
        (["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3"], true),
        (["2001:db8:0:2::1", "2001:db8:0:3::1", "2001:db8:0:4::1"], false),
    ] {
        for (number, source) in sources.into_iter().enumerate() {
            let mut client = present(&server, &if number % 2 == 0 { line(source) } else { binary(source) });
            let reply = client.reply();
            let refused = told.hear(&reply).is_some();
            assert_eq!(refused, limited && number == 2, "{source}: {}", reply.text());
            if !refused {
                client.say("EHLO client.example.org", 250);
                open.push((source, client));
            }
        }
    }
    for (source, client) in &mut open {
        client.send(b"MAIL FROM:<a@example.org>\r\n");
        let reply = client.reply();
        let second = ["192.0.2.1", "2001:db8:0:1::2"].contains(source);
        let refused = told.hear(&reply).is_some();
        assert!(!refused || second, "{source}: {}", reply.text());
    }
    assert_eq!((told.count("limits.connections_per_ip"), told.count("limits.messages_per_ip")), (2, 2));
    told.check(&server);
}

/// A ban is of the client that is presented; the proxy can't be banned, by nobody.
#[test]
fn bans_hit_the_client_and_never_the_proxy() {
    let server = Server::start(settings());
    let mut evicted = present(&server, &line("192.0.2.1")).greeted();
    let mut beside = present(&server, &binary("192.0.2.2")).greeted();
    server.tell(&["ban", "add", "192.0.2.1", "--reason", "spam"]).ok();
    let last = evicted.expect(421);
    assert!(last.lines[0].starts_with("421 4.7.1 this address is banned here"), "{}", last.text());
    evicted.ended();
    beside.say("NOOP", 250);
    for header in [line("192.0.2.1"), binary("192.0.2.1")] {
        let mut client = present(&server, &header);
        client.expect(554);
        client.ended();
    }
    for network in ["127.0.0.1", "127.0.0.0/8", "127.0.0.0/31"] {
        let finished = server.tell(&["ban", "add", network]);
        assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
        let words = format!("ringpost: {network} overlaps 127.0.0.1 of listener[mx].proxy_from");
        assert!(finished.err.starts_with(&words), "{}", finished.err);
    }
    beside.deliver("a@example.org", &["alice@example.com"], &message("served", "x\r\n"));
    // The proxy speaks for itself, too.
    present(&server, &header(LOCAL, 0, b"", b"")).greeted().quit();
    let metrics = server.metrics();
    assert_eq!((metrics.total("ringpost_bans_refused_total"), metrics.total("ringpost_bans_evicted_total")), (2, 1));
}

#[test]
fn rules_ban_who_is_presented() {
    let rule = ["offence = \"error\"", "count = 3", "window = \"1m\"", "duration = \"1h\""];
    let server = Server::start(settings().entry("bans.rule", &rule));
    // The proxy itself, as in a health check that fails, offends more than anybody.
    let mut proxy = present(&server, &header(LOCAL, 0, b"", b"")).greeted();
    (0..6).for_each(|_| drop(proxy.say("WRONG", 500)));
    let mut offender = present(&server, &line("192.0.2.1")).greeted();
    (0..3).for_each(|_| drop(offender.say("WRONG", 500)));
    offender.expect(421);
    offender.ended();
    // Each shard hears of the ban by itself.
    wait_until("every shard bans", || present(&server, &line("192.0.2.1")).reply().code == 554);
    proxy.say("NOOP", 250);
    present(&server, &line("192.0.2.2")).greeted().quit();
    let list = server.tell(&["ban", "list"]).ok().out;
    assert!(list.contains("192.0.2.1") && !list.contains("127.0.0.1"), "{list}");
}

/// A client behind the proxy has no more rights than the proxy would give it: rights go by the presented address.
#[test]
fn rights_of_the_proxys_address_are_not_its_clients() {
    let settings = settings().listener_line("xclient_from = [\"127.0.0.1\"]");
    let server = Server::start(settings.listener_line("xforward_from = [\"127.0.0.1\"]"));
    let mut client = present(&server, &line("192.0.2.1"));
    client.expect(220);
    let offers = client.say("EHLO client.example.org", 250).text();
    assert!(!offers.contains("XCLIENT") && !offers.contains("XFORWARD"), "{offers}");
    client.say("XCLIENT ADDR=192.0.2.2", 550);
    client.say("XFORWARD ADDR=192.0.2.2", 550);
}

/// HAProxy in front, as an operator would set it up.
#[test]
fn mail_comes_through_a_real_haproxy() {
    for options in ["send-proxy", "send-proxy-v2"] {
        let server = Server::start(settings().set("limits", "connections_per_ip = 3"));
        let haproxy = Haproxy::start(server.smtp(), options, "");
        let (one, other) = (client_address(0, 1), client_address(1, 1));
        for (number, address) in [one, other].into_iter().enumerate() {
            let client = Client::connect_from(address, haproxy.address);
            check_client(&server, client, number, &address.to_string());
        }
        server.wait_for_metric("ringpost_address_connections", 0);
        let mut told = Told::default();
        let open: Vec<Client> = (0..5).map(|_| Client::connect_from(one, haproxy.address)).collect();
        let replies: Vec<_> = open.into_iter().map(|mut client| (client.reply(), client)).collect();
        replies.iter().for_each(|(reply, _)| drop(told.hear(reply)));
        assert_eq!(told.count("limits.connections_per_ip"), 2, "{options}");
        told.check(&server);
        drop(replies);
        server.tell(&["ban", "add", &one.to_string()]).ok();
        Client::connect_from(one, haproxy.address).expect(554);
        Client::connect_from(other, haproxy.address).greeted().quit();
    }
}

/// HAProxy's health checks speak for nobody but HAProxy.
#[test]
fn health_checks_of_a_real_haproxy_succeed() {
    for (options, outcome) in [("send-proxy", "accepted"), ("send-proxy-v2", "accepted")] {
        let server = Server::start(settings());
        let options = format!("{options} check check-send-proxy inter 200ms");
        let haproxy = Haproxy::start(server.smtp(), &options, "  option smtpchk EHLO check.example.org");
        haproxy.wait_for_check("L7OK");
        let headers = server.metrics().sum("ringpost_proxy_headers_total", &format!("outcome=\"{outcome}\""));
        assert!(headers > 0, "{options}");
        check_client(&server, Client::connect_from(client_address(0, 1), haproxy.address), 0, "127.1.0.1");
    }
}

/// A header is needed on each of several listeners only where it says so.
#[test]
fn each_listener_has_proxies_of_its_own() {
    let settings = Settings::default().listener("proxied", "starttls");
    let settings = settings.listener_line("proxy_from = [\"127.0.0.1\", \"127.9.0.0/16\"]");
    let server = Server::start(settings.listener("direct", "starttls"));
    let [proxied, direct] = server.home.smtp[..] else { panic!("two listeners") };
    let through = |to: SocketAddr, from: [u8; 4]| {
        let mut client = Client::connect_from(from.into(), to);
        client.send(&line("192.0.2.1"));
        client.reply().code
    };
    assert_eq!(through(proxied, [127, 0, 0, 1]), 220);
    assert_eq!(through(proxied, [127, 9, 3, 4]), 220);
    for (to, from) in [(direct, [127, 0, 0, 1]), (proxied, [127, 8, 0, 1])] {
        let mut client = Client::connect_from(from.into(), to);
        client.expect(220);
        client.send(&line("192.0.2.1"));
        client.expect(554);
        client.ended();
    }
}
