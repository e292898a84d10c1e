//! Tests of the bans: tables of cases, and a model that looks at every ban.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

fn network(text: &str) -> Network {
    text.parse().expect("network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn seconds(n: u64) -> Timestamp {
    Timestamp::from_unix_micros(n * 1_000_000)
}

/// A book of bans by an operator, each for so many seconds from 0 on.
fn book(bans: &[(&str, Option<u64>)]) -> BanBook {
    let mut book = BanBook::default();
    for (net, ttl) in bans {
        book.add(network(net), net, OPERATOR, ttl.map(Duration::from_secs), seconds(0)).expect("can be banned");
    }
    book
}

/// The reason, which is its network, of the ban that is found.
fn check(set: &BanSet, client: &str, at: u64, want: Option<&str>) {
    let found = set.find(address(client), seconds(at)).map(|ban| ban.reason.as_str());
    assert_eq!(found, want, "{client} at {at}");
}

#[test]
fn the_ban_that_lasts_longest_counts_and_of_those_the_narrowest() {
    let bans = [
        ("192.0.2.0/24", Some(100)),
        ("192.0.2.7", Some(50)),
        ("192.0.0.0/16", None),
        ("192.0.3.0/24", None),
        ("2001:db8::/32", Some(10)),
    ];
    let set = book(&bans).snapshot();
    check(&set, "192.0.2.7", 0, Some("192.0.0.0/16"));
    check(&set, "192.0.3.1", 0, Some("192.0.3.0/24"));
    check(&set, "192.1.0.1", 0, None);
    check(&set, "::ffff:192.0.3.1", 0, Some("192.0.3.0/24"));
    check(&set, "2001:db8:1::1", 9, Some("2001:db8::/32"));
    check(&set, "2001:db8:1::1", 10, None);
    check(&set, "2001:db9::1", 0, None);
    let set = book(&bans[..2]).snapshot();
    check(&set, "192.0.2.7", 0, Some("192.0.2.0/24"));
    check(&set, "192.0.2.7", 99, Some("192.0.2.0/24"));
    check(&set, "192.0.2.7", 100, None);
}

#[test]
fn an_empty_set_finds_nobody() {
    let set = BanSet::default();
    assert!(set.is_empty());
    check(&set, "192.0.2.1", 0, None);
    assert!(!set.allows(address("192.0.2.1")));
}

#[test]
fn the_proxy_is_never_banned() {
    let mut book = book(&[("192.0.2.0/24", None), ("198.51.100.1", None)]);
    let proxies = Protected { network: network("192.0.2.8/29"), setting: "listener[0].proxy_from".into() };
    let gone = book.protect(vec![proxies.clone()]);
    assert_eq!(gone.iter().map(|ban| ban.network).collect::<Vec<_>>(), [network("192.0.2.0/24")]);
    for inside in ["192.0.2.9", "192.0.0.0/16", "192.0.2.8/29", "::ffff:192.0.2.9", "::ffff:192.0.0.0/112"] {
        let refused = book.add(network(inside), "", OPERATOR, None, seconds(0));
        assert_eq!(refused, Err(BanError::Protected(proxies.clone())), "{inside}");
    }
    let words = BanError::Protected(proxies).to_string();
    assert!(words.contains("192.0.2.8/29") && words.contains("listener[0].proxy_from"), "{words}");
    assert!(book.add(network("192.0.2.16"), "", OPERATOR, None, seconds(0)).is_ok());
}

#[test]
fn the_allow_list_is_never_found_banned() {
    let mut book = book(&[("192.0.2.0/24", None), ("192.0.2.5", None)]);
    let gone = book.allow(vec![network("192.0.2.4/31"), network("2001:db8::/32")]);
    assert_eq!(gone.iter().map(|ban| ban.network).collect::<Vec<_>>(), [network("192.0.2.5")]);
    let set = book.snapshot();
    check(&set, "192.0.2.5", 0, None);
    check(&set, "192.0.2.6", 0, Some("192.0.2.0/24"));
    assert!(set.allows(address("2001:db8::1")) && set.allows(address("::ffff:192.0.2.4")));
    let refused = book.add(network("192.0.2.4"), "", "error", HOUR, seconds(0));
    assert_eq!(refused, Err(BanError::Allowed(network("192.0.2.4/31"))));
}

#[test]
fn a_packet_filter_knows_no_exceptions() {
    let bans = [("192.0.2.0/24", None), ("192.0.3.0/24", None), ("192.0.4.0/24", Some(10)), ("2001:db8::/32", None)];
    let mut book = book(&bans);
    book.allow(vec![network("192.0.2.4/31"), network("2001:db8::1")]);
    for (at, want) in [(9, &["192.0.3.0/24", "192.0.4.0/24"][..]), (10, &["192.0.3.0/24"])] {
        let set = book.snapshot();
        let mut found: Vec<Network> = set.without_exceptions(seconds(at)).map(|ban| ban.network).collect();
        found.sort_unstable();
        assert_eq!(found, want.iter().map(|text| network(text)).collect::<Vec<_>>(), "at {at}");
    }
}

#[test]
fn nobody_bans_half_of_the_world() {
    let mut book = BanBook::default();
    for (net, want) in [
        ("0.0.0.0/0", BanError::TooWide(8)),
        ("128.0.0.0/7", BanError::TooWide(8)),
        ("::/0", BanError::TooWide(16)),
        ("2000::/15", BanError::TooWide(16)),
        ("::ffff:0.0.0.0/96", BanError::TooWide(8)),
        ("0.0.0.0", BanError::Unknown),
        ("0.0.0.0/8", BanError::Unknown),
    ] {
        assert_eq!(book.add(network(net), "", OPERATOR, None, seconds(0)), Err(want), "{net}");
    }
    for net in ["10.0.0.0/8", "2001::/16"] {
        assert!(book.add(network(net), "", OPERATOR, None, seconds(0)).is_ok(), "{net}");
    }
}

#[test]
fn an_operator_replaces_and_a_rule_only_prolongs() {
    let mut book = book(&[("192.0.2.1", Some(100))]);
    let net = network("192.0.2.1");
    let shorter = book.add(net, "short", "error", Some(Duration::from_secs(50)), seconds(0)).expect("can be banned");
    assert_eq!((shorter.ban.by.as_str(), shorter.replaced), (OPERATOR, None));
    let longer = book.add(net, "long", "error", Some(Duration::from_secs(200)), seconds(0)).expect("can be banned");
    assert_eq!(longer.replaced.map(|ban| ban.by.clone()).as_deref(), Some(OPERATOR));
    assert_eq!(longer.ban.until, Some(seconds(200)));
    let by_hand = book.add(net, "hand", OPERATOR, Some(Duration::from_secs(10)), seconds(0)).expect("can be banned");
    assert_eq!(by_hand.ban.until, Some(seconds(10)));
    assert_eq!(book.len(), 1);
    assert_eq!(book.expire(seconds(9)), []);
    assert_eq!(book.next_end(), Some(seconds(10)));
    assert_eq!(book.expire(seconds(10)), [net]);
    assert_eq!((book.len(), book.expire(seconds(10_000)), book.next_end()), (0, vec![], None));
    let anew = book.add(net, "", "error", HOUR, seconds(10)).expect("can be banned");
    assert_eq!(anew.replaced, None);
}

#[test]
fn a_ban_that_is_over_stands_in_nobodys_way() {
    let mut book = book(&[("192.0.2.1", Some(100))]);
    let added = book.add(network("192.0.2.1"), "", "error", Some(Duration::from_secs(1)), seconds(100)).expect("anew");
    assert_eq!((added.ban.by.as_str(), added.replaced), ("error", None));
    assert_eq!(book.list(seconds(100)).len(), 1);
    assert_eq!(book.list(seconds(101)).len(), 0);
}

#[test]
fn taking_back_and_listing() {
    let mut book = book(&[("198.51.100.0/24", None), ("192.0.2.1", None), ("2001:db8::/64", Some(5))]);
    let listed =
        |book: &BanBook, at| book.list(seconds(at)).iter().map(|ban| ban.network.to_string()).collect::<Vec<_>>();
    assert_eq!(listed(&book, 0), ["192.0.2.1", "198.51.100.0/24", "2001:db8::/64"]);
    assert_eq!(book.remove(network("198.51.100.1")), None, "only exactly this network");
    assert!(book.remove(network("::ffff:192.0.2.1")).is_some());
    assert_eq!(listed(&book, 5), ["198.51.100.0/24"]);
}

#[test]
fn a_set_does_not_change_with_the_book() {
    let mut book = book(&[("192.0.2.1", None)]);
    let before = book.snapshot();
    book.remove(network("192.0.2.1"));
    book.add(network("192.0.2.2"), "later", OPERATOR, None, seconds(0)).expect("can be banned");
    check(&before, "192.0.2.1", 0, Some("192.0.2.1"));
    check(&before, "192.0.2.2", 0, None);
    check(&book.snapshot(), "192.0.2.2", 0, Some("later"));
}

#[test]
fn a_full_book_drops_the_oldest_automatic_ban() {
    let mut book = BanBook::default();
    let nth = |n: usize| IpAddr::from(u32::to_be_bytes((10 << 24) + n as u32)).into();
    book.add(nth(0), "", OPERATOR, None, seconds(0)).expect("by hand");
    for n in 1..BANS_MAX {
        let added = book.add(nth(n), "", "error", HOUR, seconds(n as u64)).expect("fits");
        assert_eq!(added.evicted, None);
    }
    let added = book.add(nth(BANS_MAX), "", "error", HOUR, seconds(0)).expect("one goes");
    assert_eq!(added.evicted.map(|ban| ban.network), Some(nth(1)));
    assert_eq!(book.len(), BANS_MAX);
    let set = book.snapshot();
    check(&set, "10.0.0.0", 0, Some(""));
    check(&set, "10.0.0.1", 0, None);
    let again = book.add(nth(2), "", "error", Some(Duration::from_secs(1 << 20)), seconds(5)).expect("replaces");
    assert_eq!(again.evicted, None, "a replaced ban needs no room");
}

#[test]
fn a_long_reason_is_cut() {
    let mut book = BanBook::default();
    let added = book.add(network("192.0.2.1"), &"é".repeat(500), OPERATOR, None, seconds(0)).expect("can be banned");
    assert_eq!(added.ban.reason, "é".repeat(100));
}

/// Decodes a text; gives the networks that are left, and the numbers of the bad lines.
fn decoded(text: &str) -> (Vec<String>, Vec<usize>) {
    let (book, bad) = BanBook::decode(text);
    let networks = book.list(seconds(0)).iter().map(|ban| ban.network.to_string()).collect();
    (networks, bad.iter().map(|bad| bad.line).collect())
}

#[test]
fn a_damaged_line_costs_only_itself() {
    let good =
        "ringpost bans 1\n192.0.2.1\t5\t-\toperator\tspam\\tand\\\\more\n# comment\n\n10.0.0.0/8\t5\t6\terror\t\n";
    let (book, bad) = BanBook::decode(good);
    assert_eq!(bad, []);
    assert_eq!(
        book.list(seconds(0)).iter().map(|ban| ban.reason.as_str()).collect::<Vec<_>>(),
        ["", "spam\tand\\more"][..]
    );
    for (line, at) in [
        ("192.0.2.2", "no beginning"),
        ("192.0.2.2\tx\t-\toperator\t", "a time that is none"),
        ("192.0.2.2\t5\t-\toperator", "cut before the reason"),
        ("192.0.2.2\t5\t-\t\treason", "no author"),
        ("192.0.2.2/24\t5\t-\toperator\t", "bits behind the prefix"),
        ("0.0.0.0/0\t5\t-\toperator\t", "half of the world"),
        ("192.0.2.2\t5\t-\toperator\tx\\y", "an escape that is none"),
        ("192.0.2.2\t5\t-\toperator\tx\\", "a lone backslash"),
        ("\u{0}\u{1}garbage", "garbage"),
    ] {
        let (networks, bad) = decoded(&format!("ringpost bans 1\n{line}\n192.0.2.3\t5\t-\toperator\t\n"));
        assert_eq!((networks, bad), (vec!["192.0.2.3".to_owned()], vec![2]), "{at}");
    }
    assert_eq!(decoded("ringpost bans 2\r\n192.0.2.3\t5\t-\toperator\t\r\n"), (vec!["192.0.2.3".to_owned()], vec![1]));
    assert_eq!(decoded(""), (vec![], vec![]));
}

#[test]
fn every_cut_of_the_file_keeps_what_is_before_it() {
    let text = book(&[("192.0.2.1", None), ("192.0.2.2", Some(7)), ("2001:db8::/32", None)]).encode();
    for end in 0..text.len() {
        let whole = text[..end].matches('\n').count().saturating_sub(1);
        let (networks, bad) = decoded(&text[..end]);
        assert!(networks.len() >= whole && networks.len() + bad.len() <= whole + 1, "cut at {end}");
    }
}

fn bans() -> impl Strategy<Value = Vec<(Network, String, bool, Option<u64>, u64)>> {
    let v4 = (0_u8..4, 0_u8..4, 8_u8..33)
        .prop_map(|(a, b, prefix)| Network::around(IpAddr::from([10, a, b, a ^ b]), prefix));
    let v6 = (0_u16..4, 16_u8..129)
        .prop_map(|(a, prefix)| Network::around(IpAddr::from([0x2001, a, 0, 0, a, 0, 0, a]), prefix));
    let ban = (prop_oneof![v4, v6], any::<String>(), any::<bool>(), prop::option::of(1_u64..100), 0_u64..100);
    prop::collection::vec(ban, 0..60)
}

fn book_of(bans: Vec<(Network, String, bool, Option<u64>, u64)>) -> BanBook {
    let mut book = BanBook::default();
    for (net, reason, by_rule, ttl, since) in bans {
        let by = if by_rule { "error" } else { OPERATOR };
        drop(book.add(net, &reason, by, ttl.map(Duration::from_secs), seconds(since)));
    }
    book
}

proptest! {
    #[test]
    fn a_book_is_the_same_after_its_text(bans in bans()) {
        let book = book_of(bans);
        let (again, bad) = BanBook::decode(&book.encode());
        prop_assert_eq!(bad, []);
        prop_assert_eq!(again.list(seconds(0)), book.list(seconds(0)));
        prop_assert_eq!(again.next_end(), book.next_end());
        prop_assert_eq!(again.encode(), book.encode());
    }

    #[test]
    fn any_text_is_read_without_harm(text in "[0-9./:\\\\\\t\\n-]{0,80}") {
        let (book, bad) = BanBook::decode(&text);
        prop_assert!(book.len() + bad.len() <= text.split('\n').count());
    }

    #[test]
    fn found_is_what_looking_at_every_ban_finds(bans in bans(), a in 0_u8..4, b in 0_u8..4, now in 0_u64..200) {
        let mut book = book_of(bans);
        let v6 = IpAddr::from([0x2001, u16::from(a), 0, 0, u16::from(b), 0, 0, 0]);
        for client in [IpAddr::from([10, a, b, a ^ b]), v6] {
            let all = book.list(seconds(now));
            let covering = all.iter().filter(|ban| ban.network.contains(client));
            let want = covering.max_by_key(|ban| (ban.end(), ban.network.prefix()));
            let set = book.snapshot();
            prop_assert_eq!(set.find(client, seconds(now)), want.map(Arc::as_ref));
        }
        let before = book.len();
        let over = book.expire(seconds(now));
        prop_assert_eq!(book.len() + over.len(), before);
        prop_assert_eq!(book.list(seconds(now)).len(), book.len());
    }
}
