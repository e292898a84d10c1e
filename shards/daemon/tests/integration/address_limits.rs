//! Limits by address and by network, counted over several cores: what clients are told of them is what the server counts.
//!
//! Clients come from addresses in 127.1.0.0/16. With steering each connection comes to the core that counts for its
//! network; without, cores must ask each other.

use crate::support::limits::Told;
use crate::support::net::{client_address, reset};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, Reply};
use crate::support::text::{lines, message};
use crate::support::{eventually, wait_until};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Networks besides the first: enough for some of them to be of each core.
const OTHERS: u8 = 20;

/// What is limited.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Connections,
    ConnectionRate,
    Messages,
    Recipients,
    Bytes,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Connections, Self::ConnectionRate, Self::Messages, Self::Recipients, Self::Bytes];

    /// The names of its two keys without their ends.
    fn key(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionRate => "connection_rate",
            Self::Messages => "messages",
            Self::Recipients => "recipients",
            Self::Bytes => "bytes",
        }
    }

    /// The limit of an address, that of a network, and how many units go through before either refuses. A message is so
    /// large that one is more than a minute's worth for its address, and two for their network. Rates are so low that nothing
    /// is given back while the test runs.
    fn limits(self) -> ([u64; 2], [u64; 2]) {
        match self {
            Self::Connections => ([3, 5], [3, 5]),
            Self::Bytes => ([1000, 40_000], [1, 2]),
            Self::ConnectionRate | Self::Messages | Self::Recipients => ([1, 2], [1, 2]),
        }
    }

    fn settings(self, steer: bool) -> Settings {
        let [per_ip, per_network] = self.limits().0;
        let key = self.key();
        let settings = Settings::default().cores(2).listener_line(&format!("steer = {steer}"));
        let settings = settings.set("limits", &format!("{key}_per_ip = {per_ip}"));
        settings.set("limits", &format!("{key}_per_network = {per_network}"))
    }
}

/// The clients of one address.
struct Source {
    address: IpAddr,
    to: SocketAddr,
    open: Vec<Client>,
}

impl Source {
    fn new(address: IpAddr, server: &Server) -> Self {
        Self { address, to: server.smtp(), open: Vec::new() }
    }

    /// Does once what is limited; gives the reply that says whether it may.
    fn spend(&mut self, kind: Kind) -> Reply {
        match kind {
            Kind::Connections | Kind::ConnectionRate => {
                let mut client = Client::connect_from(self.address, self.to);
                let reply = client.reply();
                match (reply.code, kind) {
                    (220, Kind::Connections) => self.open.push(client),
                    (220, _) => client.quit(),
                    _ => client.ended(),
                }
                reply
            }
            Kind::Messages | Kind::Bytes => {
                let client = self.client();
                client.send(b"MAIL FROM:<a@example.org>\r\n");
                let reply = client.reply();
                if reply.code == 250 {
                    client.say("RCPT TO:<alice@example.com>", 250);
                    client.say("DATA", 354);
                    assert_eq!(client.content(&message("spent", &lines(1, 30_000))).code, 250);
                }
                reply
            }
            Kind::Recipients => {
                if self.open.is_empty() {
                    self.client().say("MAIL FROM:<a@example.org>", 250);
                }
                self.client().send(b"RCPT TO:<alice@example.com>\r\n");
                self.client().reply()
            }
        }
    }

    fn client(&mut self) -> &mut Client {
        if self.open.is_empty() {
            self.open.push(Client::hello_from(self.address, self.to));
        }
        &mut self.open[0]
    }
}

/// Spends until the limit, and somewhat more, from three addresses of one network and one each of others.
fn check(kind: Kind, steer: bool) {
    let server = Server::start(kind.settings(steer));
    let (_, [per_ip, per_network]) = kind.limits();
    let [of_ip, of_network] = ["ip", "network"].map(|scope| format!("limits.{}_per_{scope}", kind.key()));
    let mut plan = vec![
        (client_address(0, 1), per_ip, &of_ip),
        (client_address(0, 2), per_network - per_ip, if per_network - per_ip == per_ip { &of_ip } else { &of_network }),
        (client_address(0, 3), 0, &of_network),
    ];
    plan.extend((1..=OTHERS).map(|network| (client_address(network, 1), per_ip, &of_ip)));
    let mut told = Told::default();
    let mut sources = Vec::new();
    for (address, allowed, limit) in plan {
        let mut source = Source::new(address, &server);
        for number in 0..allowed + 2 {
            let reply = source.spend(kind);
            let expected = (number >= allowed).then_some(limit);
            assert_eq!(told.hear(&reply).as_ref(), expected, "{kind:?} {number} of {address}: {}", reply.text());
        }
        sources.push(source);
    }
    told.check(&server);
    let metrics = server.metrics();
    assert!(metrics.by_shard("ringpost_sessions_opened_total").iter().all(|count| *count > 0), "one core did it all");
    let questions = metrics.total("ringpost_mesh_questions_total");
    assert_eq!(steer, questions == 0, "{questions} questions between cores");
    assert_eq!(metrics.total("ringpost_mesh_full_total"), 0);
    if matches!(kind, Kind::Connections) {
        let open = sources.iter().map(|source| source.open.len()).sum::<usize>();
        server.wait_for_metric("ringpost_address_connections", open as u64);
    }
}

#[test]
fn limits_by_address_and_network_hold_where_each_connection_comes_to_its_owner() {
    Kind::ALL.into_iter().for_each(|kind| check(kind, true));
}

#[test]
fn limits_by_address_and_network_hold_where_cores_must_ask_each_other() {
    Kind::ALL.into_iter().for_each(|kind| check(kind, false));
}

/// However many connect at once, and on whichever cores they land, no more than the limit are served.
#[test]
fn clients_that_connect_at_once_do_not_slip_through() {
    let settings = Settings::default().cores(2).listener_line("steer = false");
    let server = Server::start(settings.set("limits", "connections_per_ip = 10"));
    let to = server.smtp();
    let mut told = Told::default();
    let mut open = Vec::new();
    std::thread::scope(|scope| {
        let connect = || {
            let mut client = Client::connect_from(client_address(0, 1), to);
            let reply = client.reply();
            (client, reply)
        };
        let threads: Vec<_> = (0..40).map(|_| scope.spawn(connect)).collect();
        for thread in threads {
            let (client, reply) = thread.join().expect("connects");
            if told.hear(&reply).is_none() {
                assert_eq!(reply.code, 220);
                open.push(client);
            }
        }
    });
    assert_eq!(open.len(), 10);
    assert_eq!(told.count("limits.connections_per_ip"), 30);
    told.check(&server);
    server.wait_for_metric("ringpost_address_connections", 10);
}

/// A place is free again when its connection ends, however that happens, and nothing is counted for ever.
#[test]
fn connections_that_end_make_room() {
    for steer in [true, false] {
        let settings = Settings::default().cores(2).listener_line(&format!("steer = {steer}"));
        let settings = settings.set("limits", "connections_per_ip = 1").set("limits", "connections_per_network = 2");
        let server = Server::start(settings.set("limits", "command_timeout = \"2s\""));
        let from = client_address(0, 1);
        let ends: [fn(Client); 4] = [
            Client::quit,
            drop,
            |client| reset(client.into_stream()),
            // It is the server that ends this one.
            |mut client| drop(client.expect(421)),
        ];
        for (number, end) in ends.into_iter().enumerate() {
            let mut refused = 0;
            let client = eventually(|| {
                let mut client = Client::connect_from(from, server.smtp());
                match client.reply().code {
                    220 => Some(client),
                    code => {
                        assert_eq!(code, 421);
                        refused += 1;
                        None
                    }
                }
            });
            let client = client.unwrap_or_else(|| panic!("no place is free, {refused} times, before {number}"));
            let mut second = Client::connect_from(from, server.smtp());
            second.expect(421);
            end(client);
        }
        server.wait_for_metric("ringpost_address_connections", 0);
        server.wait_for_metric("ringpost_ledger_entries", 0);
        Client::hello_from(from, server.smtp()).quit();
    }
}

/// Who is on the allow list is not even counted.
#[test]
fn the_allow_list_is_not_limited() {
    for kind in Kind::ALL {
        let server = Server::start(kind.settings(false).set("bans", "allow = [\"127.1.1.0/24\", \"127.1.2.7\"]"));
        let mut told = Told::default();
        for address in [client_address(1, 1), client_address(1, 2), client_address(2, 7)] {
            let mut source = Source::new(address, &server);
            for _ in 0..8 {
                assert_eq!(told.hear(&source.spend(kind)), None, "{kind:?} of {address}");
            }
        }
        let (_, [per_ip, _]) = kind.limits();
        let mut beside = Source::new(client_address(2, 8), &server);
        let heard: Vec<_> = (0..per_ip + 1).map(|_| told.hear(&beside.spend(kind))).collect();
        assert_eq!(heard.iter().flatten().count(), 1, "{kind:?}: {heard:?}");
        told.check(&server);
        server.wait_for_metric("ringpost_ledger_entries", 2);
    }
}

/// SIZE= says before the message that it can't fit.
#[test]
fn a_declared_size_counts_before_the_message() {
    let server = Server::start(Settings::default().set("limits", "bytes_per_ip = \"100KiB\""));
    let mut client = Client::hello_from(client_address(0, 1), server.smtp());
    let mut told = Told::default();
    client.begin("a@example.org", &["alice@example.com"]);
    assert_eq!(client.content(&message("first", &"x\r\n".repeat(20_000))).code, 250);
    for (size, code) in [(90_000, 450), (1_000, 250), (90_000, 450)] {
        client.send(format!("RSET\r\nMAIL FROM:<a@example.org> SIZE={size}\r\n").as_bytes());
        client.expect(250);
        let reply = client.expect(code);
        assert_eq!(told.hear(&reply).is_some(), code == 450, "{}", reply.text());
    }
    told.check(&server);
}

#[test]
fn counts_add_up_over_the_cores() {
    let settings = Settings::default().cores(2).set("limits", "connections_per_ip = 100");
    let server = Server::start(settings);
    let mut open: BTreeMap<u8, Vec<Client>> = BTreeMap::new();
    for network in 0..10 {
        let connect = |host| Client::hello_from(client_address(network, host), server.smtp());
        open.insert(network, (1..=4).map(connect).collect());
    }
    server.wait_for_metric("ringpost_address_connections", 40);
    server.wait_for_metric("ringpost_ledger_entries", 40);
    let by_shard = server.metrics().by_shard("ringpost_address_connections");
    assert!(by_shard.iter().all(|count| *count > 0), "one core counts for all: {by_shard:?}");
    open.retain(|network, _| network % 2 == 0);
    server.wait_for_metric("ringpost_address_connections", 20);
    drop(open);
    server.wait_for_metric("ringpost_address_connections", 0);
    wait_until("nobody is remembered", || server.metrics().total("ringpost_ledger_entries") == 0);
}
