//! Tests of the ledger: tables of cases, and a model that counts by hand.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::Ipv4Addr;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn at(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

fn rule(offence: Offence, count: u32, window: u64, duration: u64) -> BanRule {
    BanRule { offence, count, window: Span::seconds(window), duration: Span::seconds(duration) }
}

fn options() -> LedgerOptions {
    LedgerOptions::default()
}

/// Opens one connection of each address, all at one moment; says what came of each.
fn check(options: LedgerOptions, wants: &[(&str, Result<(), Limit>)]) {
    let mut ledger = Ledger::new(options, Vec::new());
    let mut counted = Vec::new();
    for (number, (client, want)) in wants.iter().enumerate() {
        let got = ledger.open(address(client), at(SECOND));
        assert_eq!(got.as_ref().map(|_| ()).map_err(|limit| *limit), *want, "connection {number}, of {client}");
        counted.extend(got);
    }
    counted.into_iter().for_each(|counted| ledger.close(counted));
    assert_eq!(ledger.totals().connections, 0);
    while ledger.sweep(at(5 * MINUTE)) > 0 {}
    assert!(ledger.is_empty(), "nothing is left of anybody");
}

#[test]
fn connections_of_an_address_and_of_a_network() {
    let limited = LedgerOptions { connections_per_ip: Some(1), connections_per_network: Some(2), ..options() };
    check(
        limited,
        &[
            ("192.0.2.1", Ok(())),
            ("192.0.2.1", Err(Limit::ConnectionsPerIp)),
            ("::ffff:192.0.2.1", Err(Limit::ConnectionsPerIp)),
            ("192.0.2.2", Ok(())),
            ("192.0.2.3", Err(Limit::ConnectionsPerNetwork)),
            ("192.0.3.3", Ok(())),
        ],
    );
}

#[test]
fn a_host_of_ipv6_is_all_of_its_64_bits() {
    let one = LedgerOptions { connections_per_ip: Some(1), ..options() };
    check(
        one.clone(),
        &[("2001:db8::1", Ok(())), ("2001:db8::2", Err(Limit::ConnectionsPerIp)), ("2001:db8:0:1::1", Ok(()))],
    );
    let longer = LedgerOptions { networks: NetworkLengths { v4: 24, v6: 96 }, ..one };
    check(
        longer,
        &[("2001:db8::1", Ok(())), ("2001:db8::1:0:2", Ok(())), ("2001:db8::2", Err(Limit::ConnectionsPerIp))],
    );
}

#[test]
fn connections_a_minute() {
    let limited = LedgerOptions { connection_rate_per_ip: Some(2), connection_rate_per_network: Some(3), ..options() };
    check(
        limited,
        &[
            ("192.0.2.1", Ok(())),
            ("192.0.2.1", Ok(())),
            ("192.0.2.1", Err(Limit::ConnectionRatePerIp)),
            ("192.0.2.1", Err(Limit::ConnectionRatePerIp)),
            ("192.0.2.2", Ok(())),
            ("192.0.2.2", Err(Limit::ConnectionRatePerNetwork)),
        ],
    );
}

#[test]
fn an_unknown_address_and_no_limit_make_no_entry() {
    let limited = LedgerOptions { connections_per_ip: Some(1), messages_per_ip: Some(1), ..options() };
    let mut ledger = Ledger::new(limited, vec![rule(Offence::Error, 1, 60, 60)]);
    for _ in 0..3 {
        assert_eq!(ledger.open(UNKNOWN_ADDRESS, at(0)), Ok(Counted::NOTHING));
        assert_eq!(ledger.message(UNKNOWN_ADDRESS, 0, at(0)), Ok(()));
        assert_eq!(ledger.offence(UNKNOWN_ADDRESS, Offence::Error, 1, at(0)), None);
    }
    ledger.configure(options(), vec![rule(Offence::Error, 1, 60, 60)]);
    let client = address("192.0.2.1");
    let counted = ledger.open(client, at(0)).expect("no limit is on");
    assert!(counted.is_nothing());
    assert_eq!(ledger.message(client, 1 << 40, at(0)), Ok(()));
    assert_eq!(ledger.recipient(client, at(0)), Ok(()));
    ledger.bytes(client, 1 << 40, at(0));
    assert_eq!(ledger.offence(client, Offence::Pregreet, 1, at(0)), None, "no rule counts it");
    ledger.close(counted);
    assert!(ledger.is_empty());
}

#[test]
fn messages_recipients_and_bytes_a_minute() {
    let limited = LedgerOptions {
        messages_per_ip: Some(2),
        recipients_per_network: Some(3),
        bytes_per_ip: Some(ByteCount(1000)),
        ..options()
    };
    let mut ledger = Ledger::new(limited, Vec::new());
    let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
    let now = at(MINUTE);
    assert_eq!(ledger.message(one, 5000, now), Ok(()), "the first may be larger than all of a minute");
    ledger.bytes(one, 600, now);
    assert_eq!(ledger.message(one, 500, now), Err(Limit::BytesPerIp), "declared are more than are left");
    assert_eq!(ledger.message(one, 400, now), Ok(()));
    ledger.bytes(one, 900, now);
    assert_eq!(ledger.message(one, 0, now), Err(Limit::BytesPerIp), "overdrawn");
    assert_eq!(ledger.message(one, 0, at(2 * MINUTE)), Ok(()), "paid off");
    assert_eq!(ledger.message(other, 900, now), Ok(()));
    assert_eq!(ledger.message(other, 900, now), Ok(()));
    assert_eq!(ledger.message(other, 900, now), Err(Limit::MessagesPerIp));
    for client in [one, one, other] {
        assert_eq!(ledger.recipient(client, now), Ok(()));
    }
    assert_eq!(ledger.recipient(other, now), Err(Limit::RecipientsPerNetwork));
}

#[test]
fn too_many_offences_order_a_ban_and_begin_anew() {
    let rules = vec![
        rule(Offence::UnknownRecipient, 10, 600, 3600),
        rule(Offence::UnknownRecipient, 15, 86_400, 7200),
        rule(Offence::Pregreet, 1, 60, 60),
    ];
    let mut ledger = Ledger::new(options(), rules);
    let client = address("2001:db8::5");
    assert_eq!(ledger.offence(client, Offence::UnknownRecipient, 9, at(0)), None);
    assert_eq!(ledger.offence(client, Offence::Error, 100, at(0)), None, "no rule counts it");
    let order = ledger.offence(client, Offence::UnknownRecipient, 1, at(MINUTE)).expect("the tenth");
    assert_eq!(order.network.to_string(), "2001:db8::/64");
    assert_eq!((order.duration, order.by), (Span::seconds(3600), "unknown-recipient"));
    assert_eq!(order.reason, "unknown recipients: 10 within 10m");
    assert_eq!(ledger.offence(client, Offence::UnknownRecipient, 4, at(MINUTE)), None, "the count began anew");
    let order = ledger.offence(client, Offence::UnknownRecipient, 6, at(MINUTE)).expect("both rules");
    assert_eq!(order.duration, Span::seconds(7200), "the longest");
    assert!(ledger.offence(client, Offence::Pregreet, 1, at(MINUTE)).is_some());
    assert_eq!(ledger.offence(client, Offence::UnknownRecipient, 0, at(MINUTE)), None);
    assert_eq!(ledger.sweep(at(MINUTE)), 1, "after orders there is nothing to remember");
}

#[test]
fn offences_are_remembered_as_long_as_they_count() {
    let mut ledger = Ledger::new(options(), vec![rule(Offence::Error, 2, 600, 60)]);
    ledger.offence(address("192.0.2.1"), Offence::Error, 1, at(0));
    assert_eq!(ledger.sweep(at(10 * MINUTE)), 0);
    assert_eq!(ledger.sweep(at(12 * MINUTE)), 1);
}

#[test]
fn a_reload_keeps_what_is_counted() {
    let limited = LedgerOptions { connections_per_ip: Some(2), messages_per_ip: Some(10), ..options() };
    let rules = vec![rule(Offence::Error, 5, 60, 60), rule(Offence::Pregreet, 5, 60, 60)];
    let mut ledger = Ledger::new(limited.clone(), rules);
    let client = address("192.0.2.1");
    let counted = ledger.open(client, at(0)).expect("the first");
    for _ in 0..10 {
        ledger.message(client, 0, at(0)).expect("ten are allowed");
    }
    ledger.offence(client, Offence::Pregreet, 4, at(0));
    let limited = LedgerOptions { connections_per_ip: Some(1), messages_per_ip: Some(1000), ..limited };
    ledger.configure(limited, vec![rule(Offence::Pregreet, 5, 60, 90)]);
    assert_eq!(ledger.open(client, at(0)), Err(Limit::ConnectionsPerIp));
    assert_eq!(ledger.message(client, 0, at(0)), Err(Limit::MessagesPerIp), "all of the bucket is used");
    let order = ledger.offence(client, Offence::Pregreet, 1, at(0)).expect("the fifth");
    assert_eq!(order.duration, Span::seconds(90));
    ledger.close(counted);
    assert!(ledger.open(client, at(0)).is_ok());
}

#[test]
fn limits_switched_on_and_off_in_between_leave_no_count_behind() {
    let on = LedgerOptions { connections_per_ip: Some(2), connections_per_network: Some(9), ..options() };
    let mut ledger = Ledger::new(options(), Vec::new());
    let client = address("2001:db8::1");
    let before = ledger.open(client, at(0)).expect("no limit");
    ledger.configure(on.clone(), Vec::new());
    let (first, second) = (ledger.open(client, at(0)).expect("one"), ledger.open(client, at(0)).expect("two"));
    ledger.close(before);
    assert_eq!(ledger.open(client, at(0)), Err(Limit::ConnectionsPerIp), "the first did not count, nor does its end");
    ledger.configure(LedgerOptions { networks: NetworkLengths { v4: 16, v6: 96 }, ..on }, Vec::new());
    let third = ledger.open(client, at(0)).expect("under another length");
    ledger.configure(options(), Vec::new());
    [first, second, third].into_iter().for_each(|counted| ledger.close(counted));
    assert_eq!(ledger.totals().connections, 0);
    ledger.sweep(at(0));
    assert!(ledger.is_empty());
}

#[test]
fn a_full_table_locks_nobody_out() {
    let limited = LedgerOptions { connections_per_ip: Some(1), ..options() };
    let mut ledger = Ledger::bounded(limited, Vec::new(), 3);
    let client = |n: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
    let held: Vec<Counted> = (1..=3).map(|n| ledger.open(client(n), at(0)).expect("fits")).collect();
    let stranger = ledger.open(client(4), at(0)).expect("let through");
    assert!(stranger.is_nothing());
    assert_eq!(ledger.totals(), Totals { entries: 3, connections: 3, evicted: 0, overflowed: 1 });
    assert_eq!(ledger.open(client(1), at(0)), Err(Limit::ConnectionsPerIp), "who is in the table stays limited");
    held.into_iter().for_each(|counted| ledger.close(counted));
    let stranger = ledger.open(client(5), at(0)).expect("there is room now");
    assert_eq!(ledger.totals(), Totals { entries: 3, connections: 1, evicted: 1, overflowed: 1 });
    ledger.close(stranger);
}

#[test]
fn a_full_table_drops_the_longest_unused_first() {
    let limited = LedgerOptions { messages_per_ip: Some(1), ..options() };
    let mut ledger = Ledger::bounded(limited, Vec::new(), 3);
    let client = |n: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
    for n in 1..=3 {
        ledger.message(client(n), 0, at(0)).expect("the first");
    }
    // The bytes are not limited, so only a charge counts as a use: of 4, in place of 1.
    ledger.message(client(4), 0, at(0)).expect("the first");
    let refused: Vec<bool> = (2..=4).map(|n| ledger.message(client(n), 0, at(0)).is_err()).collect();
    assert_eq!(refused, [true; 3]);
    assert!(ledger.message(client(1), 0, at(0)).is_ok(), "forgotten, so it has a full bucket");
}

/// What a client may do in the model.
#[derive(Clone, Debug)]
enum Act {
    Open(u8),
    /// The connection opened so many ago.
    Close(usize),
    Message(u8),
    Wait(u64),
    Sweep,
    Configure(Option<u32>, Option<u32>, u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let limit = || prop::option::of(1_u32..4);
    let act = prop_oneof![
        6 => (0_u8..12).prop_map(Act::Open),
        5 => (0_usize..20).prop_map(Act::Close),
        2 => (0_u8..12).prop_map(Act::Message),
        1 => (0_u64..90).prop_map(Act::Wait),
        1 => Just(Act::Sweep),
        1 => (limit(), limit(), 30_u8..33).prop_map(|(ip, network, length)| Act::Configure(ip, network, length)),
    ];
    prop::collection::vec(act, 0..200)
}

/// Open connections by what they were counted under, counted naively.
#[derive(Default)]
struct Model {
    open: HashMap<(Scope, Network), u32>,
}

impl Model {
    fn of(&self, scope: Scope, network: Network) -> u32 {
        self.open.get(&(scope, network)).copied().unwrap_or_default()
    }
}

proptest! {
    #[test]
    fn open_connections_equal_a_naive_count(acts in acts()) {
        let limited = |ip, network, v4| LedgerOptions {
            connections_per_ip: ip,
            connections_per_network: network,
            messages_per_ip: Some(3),
            networks: NetworkLengths { v4, v6: 64 },
            ..options()
        };
        let mut current = limited(Some(2), Some(3), 30);
        let mut ledger = Ledger::new(current.clone(), Vec::new());
        let (mut model, mut held, mut now) = (Model::default(), Vec::new(), 0);
        for act in acts {
            match act {
                Act::Open(n) => {
                    let client = IpAddr::from([192, 0, 2, n]);
                    let keys = [(Scope::Address, Network::single(client)), (Scope::Network, current.networks.of(client))];
                    let most = [current.connections_per_ip, current.connections_per_network];
                    let has_room = |(scope, key): &(Scope, Network), most| model.of(*scope, *key) < most;
                    let fits = keys.iter().zip(most).all(|(key, most)| most.is_none_or(|most| has_room(key, most)));
                    let opened = ledger.open(client, at(now));
                    prop_assert_eq!(opened.is_ok(), fits);
                    if let Ok(counted) = opened {
                        let limited = keys.into_iter().zip(most).filter(|(_, most)| most.is_some());
                        let counts: Vec<_> = limited.map(|(key, _)| key).collect();
                        counts.iter().for_each(|key| *model.open.entry(*key).or_default() += 1);
                        held.push((counted, counts));
                    }
                }
                Act::Close(n) if n < held.len() => {
                    let (counted, counts) = held.swap_remove(n);
                    ledger.close(counted);
                    counts.iter().for_each(|key| *model.open.get_mut(key).expect("was opened") -= 1);
                }
                Act::Close(_) => {}
                Act::Message(n) => drop(ledger.message(IpAddr::from([192, 0, 2, n]), 0, at(now))),
                Act::Wait(seconds) => now += seconds * SECOND,
                Act::Sweep => drop(ledger.sweep(at(now))),
                Act::Configure(ip, network, length) => {
                    current = limited(ip, network, length);
                    ledger.configure(current.clone(), Vec::new());
                }
            }
            for ((scope, network), open) in &model.open {
                let found = ledger.table.find(&Key { network: *network, scope: *scope }).map_or(0, Slot::open);
                prop_assert_eq!(found, *open, "{:?} {}", scope, network);
            }
            let counting = held.iter().filter(|(counted, _)| !counted.is_nothing()).count();
            prop_assert_eq!(ledger.totals().connections, counting as u64);
        }
        held.into_iter().for_each(|(counted, _)| ledger.close(counted));
        now += 2 * MINUTE;
        while ledger.sweep(at(now)) > 0 {}
        prop_assert!(ledger.is_empty());
        prop_assert_eq!(ledger.totals().connections, 0);
    }

    #[test]
    fn a_table_keeps_its_bound_and_its_list(keys in prop::collection::vec((0_u8..40, 0_u8..3), 0..300)) {
        let mut table = Table::new(8);
        let mut open: HashMap<u8, u32> = HashMap::new();
        for (n, act) in keys {
            let key = Key { network: Network::single(IpAddr::from([192, 0, 2, n])), scope: Scope::Address };
            match act {
                0 => prop_assert!(table.enter(key).is_some() || open.len() == 8),
                1 => {
                    if table.raise(key) {
                        *open.entry(n).or_default() += 1;
                    } else {
                        prop_assert!(open.len() == 8 && !open.contains_key(&n));
                    }
                }
                _ => {
                    table.lower(&key);
                    if let Some(count) = open.get_mut(&n) {
                        *count -= 1;
                    }
                    open.retain(|_, count| *count > 0);
                }
            }
            prop_assert!(table.len() <= 8);
            for (n, count) in &open {
                let key = Key { network: Network::single(IpAddr::from([192, 0, 2, *n])), scope: Scope::Address };
                prop_assert_eq!(table.find(&key).map(Slot::open), Some(*count), "open ones are never dropped");
            }
        }
        while table.sweep(SWEEP_MAX, |_| true) > 0 {}
        prop_assert_eq!(table.len(), open.len());
    }
}
