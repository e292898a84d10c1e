//! The greylist against tables, and against a list that remembers everything.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const SECRET: GreySecret = GreySecret([7; 16]);

fn options() -> GreylistOptions {
    GreylistOptions {
        mode: GreylistMode::All,
        delay: Span::seconds(10),
        window: Span::seconds(100),
        lifetime: Span::seconds(10_000),
        network_passes: 3,
        entries_max: 4,
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_micros((1_000_000 + seconds) * 1_000_000)
}

fn network(last: u8) -> Network {
    Network::around(IpAddr::from([192, 0, last, 1]), 24)
}

fn key(of: u8, sender: &str) -> GreyKey {
    GreyKey::new(&SECRET, network(of), sender, "you@example.com")
}

const fn wait(left: u64, first: bool) -> Grey {
    Grey::Wait { left: Duration::from_secs(left), first }
}

const RETRIED: Grey = Grey::Pass(GreyPass::Retried);
const KNOWN: Grey = Grey::Pass(GreyPass::KnownTriplet);
const KNOWN_NETWORK: Grey = Grey::Pass(GreyPass::KnownNetwork);

impl Greylist {
    /// A mail at a time, by a sender of a network.
    fn mail(&mut self, seconds: u64, of: u8, sender: &str) -> Grey {
        self.check(key(of, sender), network(of), at(seconds))
    }

    fn pass(&mut self, seconds: u64, of: u8, sender: &str) {
        self.mail(seconds, of, sender);
        assert_eq!(self.mail(seconds + 15, of, sender), RETRIED, "{seconds} {of} {sender}");
    }
}

/// Mails in their order: when, from which network and sender, and what becomes of it.
#[track_caller]
fn check(list: &mut Greylist, mails: &[(u64, u8, &str, Grey)]) {
    for (seconds, of, sender, want) in mails {
        assert_eq!(list.mail(*seconds, *of, sender), *want, "{seconds} {of} {sender}");
    }
}

/// As a start would find it, by what was written down.
fn after_restart(written: &[GreyRecord], options: &GreylistOptions, now: u64) -> Greylist {
    let mut sieve = GreySieve::new(options.clone(), 1, at(now));
    let mut kept: Vec<GreyRecord> = written.iter().rev().filter(|record| sieve.keeps(record)).copied().collect();
    kept.reverse();
    let mut list = Greylist::new(options.clone());
    list.load(kept);
    list
}

#[test]
fn a_stranger_comes_again() {
    check(
        &mut Greylist::new(options()),
        &[
            (0, 1, "a", wait(10, true)),
            (4, 1, "a", wait(6, false)),
            (200, 1, "a", wait(10, true)), // too late: it begins anew
            (210, 1, "a", RETRIED),
            (211, 1, "a", KNOWN),
            (10_000, 1, "a", KNOWN),
            (30_000, 1, "a", wait(10, true)), // not used for longer than its lifetime
        ],
    );
}

#[test]
fn case_and_cut_of_a_triplet() {
    let of = |sender, recipient| GreyKey::new(&SECRET, network(1), sender, recipient);
    assert_eq!(of("A@B", "c@D"), of("a@b", "C@d"));
    assert_ne!(of("ab", "c"), of("a", "bc"));
    assert_ne!(of("", "c"), of("c", ""));
    assert_ne!(of("a", "b"), GreyKey::new(&SECRET, network(2), "a", "b"));
    assert_ne!(of("a", "b"), GreyKey::new(&GreySecret([8; 16]), network(1), "a", "b"));
}

#[test]
fn a_network_that_passed_often_is_known() {
    let mut list = Greylist::new(options());
    for sender in ["a", "b", "c"] {
        list.pass(0, 1, sender);
    }
    check(&mut list, &[(30, 1, "d", KNOWN_NETWORK), (30, 1, "a", KNOWN_NETWORK), (30, 2, "d", wait(10, true))]);
}

/// Its mails come from ever new senders, as those of mailing lists do: no triplet of it is ever used again.
#[test]
fn a_network_in_daily_use_was_forgotten_with_its_triplets() {
    let options = GreylistOptions { entries_max: 100, ..options() };
    let mut list = Greylist::new(options.clone());
    let mut written = Vec::new();
    ["a", "b", "c"].iter().for_each(|sender| list.pass(0, 1, sender));
    for time in (5000..200_000).step_by(5000) {
        list.expire(at(time));
        check(&mut list, &[(time, 1, &time.to_string(), KNOWN_NETWORK)]);
        written.extend(list.take_changes());
        if time % 20_000 == 0 {
            list = after_restart(&written, &options, time);
        }
    }
    assert!(list.is_empty() && list.passes.is_empty(), "only the network itself is left");
    list.expire(at(210_000));
    check(&mut list, &[(210_000, 1, "a", wait(10, true))]);
}

/// The same senders over and over: the mails pass by their network, and their triplets are used all the same.
#[test]
fn triplets_of_a_known_network_are_used_with_it() {
    let options = GreylistOptions { entries_max: 100, ..options() };
    let mut list = Greylist::new(options.clone());
    ["a", "b", "c"].iter().for_each(|sender| list.pass(0, 1, sender));
    for time in (5000..100_000).step_by(5000) {
        list.expire(at(time));
        check(&mut list, &["a", "b", "c"].map(|sender| (time, 1, sender, KNOWN_NETWORK)));
    }
    list.configure(GreylistOptions { network_passes: 0, ..options });
    check(&mut list, &[(100_000, 1, "a", KNOWN), (100_000, 1, "d", wait(10, true))]);
}

#[test]
fn fewer_passes_are_wanted_after_a_reload() {
    let mut list = Greylist::new(options());
    list.pass(0, 1, "a");
    list.configure(GreylistOptions { network_passes: 1, ..options() });
    check(&mut list, &[(20, 1, "b", wait(10, true)), (21, 1, "a", KNOWN), (22, 1, "b", KNOWN_NETWORK)]);
}

#[test]
fn a_flood_of_strangers_pushes_out_strangers_only() {
    let mut list = Greylist::new(options());
    list.pass(0, 1, "known");
    for sender in 0..100 {
        list.mail(30, 2, &sender.to_string());
    }
    assert_eq!(list.len(), 5);
    check(&mut list, &[(40, 1, "known", KNOWN), (41, 2, "99", RETRIED), (41, 2, "0", wait(10, true))]);
}

/// Whoever passes with ever new triplets, from ever new networks, takes no more memory than there is for them, and what
/// is in use stays.
#[test]
fn a_flood_of_passes_pushes_out_what_is_unused() {
    let options = GreylistOptions { network_passes: 1, entries_max: 8, ..options() };
    let mut list = Greylist::new(options);
    list.pass(0, 1, "used");
    for round in 1..200 {
        let time = round * 5000;
        check(&mut list, &[(time, 1, "used", KNOWN_NETWORK)]);
        (0..5).for_each(|number| list.pass(time, 2 + ((round * 5 + number) % 250) as u8, &time.to_string()));
        assert!(list.known.all().len() <= 8 && list.waiting.all().len() <= 8 && list.networks.all().len() <= 8);
        assert_eq!(list.passes.values().sum::<u32>() as usize, list.known.len());
    }
}

/// What a flood writes between two writes is bounded, and what is known is written all the same.
#[test]
fn a_flood_of_strangers_filled_the_disk() {
    let mut list = Greylist::new(GreylistOptions { entries_max: 100_000, network_passes: 0, ..options() });
    list.pass(0, 1, "known");
    list.take_changes();
    for round in 0..2 {
        for sender in 0..10_000 {
            list.mail(20 + round * 200, 2, &sender.to_string());
        }
        list.pass(50 + round * 200, 1, &round.to_string());
        let changes = list.take_changes();
        let of = |kind| changes.iter().filter(|change| change.kind == kind).count();
        assert_eq!((of(RecordKind::Waiting), of(RecordKind::Known)), (WAITING_CHANGES_MAX, 1), "round {round}");
    }
    for sender in 0..50_000 {
        list.mail(1000, 3, &sender.to_string());
    }
    for sender in 0..50_000 {
        list.mail(1020, 3, &sender.to_string());
    }
    assert_eq!(list.take_changes().len(), CHANGES_MAX);
}

#[test]
fn what_has_ended_goes() {
    let mut list = Greylist::new(options());
    list.pass(0, 1, "a");
    list.mail(20, 1, "b");
    list.expire(at(100));
    assert_eq!(list.len(), 2);
    list.expire(at(200));
    assert_eq!(list.len(), 1, "what waited is gone");
    list.mail(9_000, 1, "a");
    list.expire(at(11_000));
    assert_eq!(list.len(), 1, "what is used stays");
    list.expire(at(30_000));
    assert!(list.is_empty() && list.passes.is_empty());
}

#[test]
fn what_was_known_and_waits_again_waits_after_a_restart_too() {
    let mut list = Greylist::new(options());
    list.pass(0, 1, "a");
    list.mail(30_000, 1, "a");
    let mut again = after_restart(&list.take_changes(), &options(), 30_000);
    check(&mut again, &[(30_005, 1, "a", wait(5, false)), (30_010, 1, "a", RETRIED)]);
}

/// A short lifetime is not outrun by the time that records lag behind.
#[test]
fn what_is_used_often_outlasts_a_restart() {
    for lifetime in [40, 1000, 10_000, 1_000_000] {
        let options = GreylistOptions { lifetime: Span::seconds(lifetime), ..options() };
        let mut list = Greylist::new(options.clone());
        list.pass(0, 1, "a");
        let used = 15 + lifetime * 2;
        for tenth in 0..=20 {
            list.mail(15 + lifetime * tenth / 10, 1, "a");
        }
        let mut again = after_restart(&list.take_changes(), &options, used);
        check(&mut again, &[(used + lifetime / 2, 1, "a", KNOWN)]);
    }
}

#[test]
fn damaged_records_are_told() {
    let record = GreyRecord { kind: RecordKind::Known, key: key(1, "a"), network: network(1), at: at(5) };
    let bytes = record.encode();
    assert_eq!(GreyRecord::decode(&bytes), Some(record));
    for place in 0..bytes.len() {
        let mut damaged = bytes;
        damaged[place] ^= 1;
        assert_eq!(GreyRecord::decode(&damaged), None, "{place}");
    }
    let v6 = GreyRecord { network: Network::around(IpAddr::from([1, 2, 3, 4, 5, 6, 7, 8]), 64), ..record };
    let whole = GreyRecord { kind: RecordKind::Network, key: GreyKey::NONE, ..v6 };
    for record in [v6, whole, GreyRecord { kind: RecordKind::Waiting, ..record }] {
        assert_eq!(GreyRecord::decode(&record.encode()), Some(record));
    }
}

/// Of records in their order, with the time as of now, which are kept.
#[test]
fn what_the_sieve_keeps() {
    use RecordKind::{Known, Network, Waiting};
    let check = |cores, records: &[(RecordKind, u8, u64, bool)]| {
        let mut sieve = GreySieve::new(GreylistOptions { entries_max: 2, ..options() }, cores, at(20_000));
        for (kind, of, seconds, keeps) in records.iter().rev() {
            let key = if *kind == Network { GreyKey::NONE } else { key(*of, "a") };
            let record = GreyRecord { kind: *kind, key, network: network(*of), at: at(*seconds) };
            assert_eq!(sieve.keeps(&record), *keeps, "{kind:?} {of} {seconds}");
        }
    };
    // Of a triplet the last, whatever it says.
    check(1, &[(Waiting, 1, 19_950, false), (Known, 1, 19_990, true)]);
    check(1, &[(Known, 1, 11_000, false), (Waiting, 1, 19_990, true)]);
    check(1, &[(Network, 1, 11_000, false), (Known, 1, 12_000, true), (Network, 1, 19_990, true)]);
    // Nothing that has ended.
    check(
        1,
        &[(Known, 1, 9000, false), (Waiting, 2, 19_800, false), (Network, 3, 9000, false), (Known, 4, 10_000, true)],
    );
    // Of each kind as many as there are entries, the newest.
    let kinds = |kind| [(kind, 1, 19_990, false), (kind, 2, 19_991, true), (kind, 3, 19_992, true)];
    check(1, &[kinds(Network), kinds(Waiting)].concat());
    check(1, &kinds(Known));
    check(2, &[(Known, 1, 19_990, true), (Known, 2, 19_990, true), (Known, 3, 19_990, true), (Known, 4, 19_990, true)]);
}

/// A greylist that keeps everything and looks through all of it.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<(u8, u8), u64>,
    known: BTreeMap<(u8, u8), u64>,
    networks: BTreeMap<u8, u64>,
}

impl Model {
    fn check(&mut self, net: u8, sender: u8, now: u64, options: &GreylistOptions) -> Grey {
        let within = |since: u64, span: Span| now - since <= span.0.as_secs();
        let passes = options.network_passes as usize;
        self.known.retain(|_, last| within(*last, options.lifetime));
        self.networks.retain(|_, last| within(*last, options.lifetime));
        self.waiting.retain(|_, first| within(*first, options.window));
        let triplet = (net, sender);
        let network = self.networks.get_mut(&net).map(|last| *last = now).is_some();
        let known = self.known.get_mut(&triplet).map(|last| *last = now).is_some();
        if network || known {
            return if network { KNOWN_NETWORK } else { KNOWN };
        }
        let delay = options.delay.0.as_secs();
        let waited = now - *self.waiting.entry(triplet).or_insert(now);
        if waited < delay {
            return wait(delay - waited, waited == 0);
        }
        self.waiting.remove(&triplet);
        self.known.insert(triplet, now);
        if self.known.keys().filter(|(of, _)| *of == net).count() >= passes {
            self.networks.insert(net, now);
        }
        RETRIED
    }
}

/// A mail of a network and sender, so many seconds after the one before.
type Mail = (u8, u8, u64);

fn mails() -> impl Strategy<Value = Vec<Mail>> {
    proptest::collection::vec((0_u8..3, 0_u8..6, prop_oneof![8 => 1_u64..40, 1 => 100_u64..9000]), 1..150)
}

proptest! {
    #[test]
    fn it_judges_like_one_that_looks_through_everything(mails in mails()) {
        let options = GreylistOptions { entries_max: 1000, ..options() };
        let (mut list, mut model) = (Greylist::new(options.clone()), Model::default());
        let mut now = 0;
        for (net, sender, wait) in mails {
            now += wait;
            list.expire(at(now));
            let want = model.check(net, sender, now, &options);
            prop_assert_eq!(list.mail(now, net, &sender.to_string()), want);
            let known: BTreeSet<_> = list.known.all().into_iter().collect();
            let want = model.known.iter().map(|((net, sender), last)| (key(*net, &sender.to_string()), at(*last)));
            prop_assert_eq!(known, want.collect::<BTreeSet<_>>());
            let want: Vec<_> = model.networks.iter().map(|(net, last)| (network(*net), at(*last))).collect();
            prop_assert_eq!(list.networks.all(), want);
        }
    }

    #[test]
    fn bounds_hold_whatever_comes(mails in mails(), passes in 0_u32..3) {
        let mut list = Greylist::new(GreylistOptions { network_passes: passes, ..options() });
        let mut now = 0;
        for (net, sender, wait) in mails {
            now += wait;
            list.mail(now, net, &sender.to_string());
            for len in [list.waiting.all().len(), list.known.all().len(), list.networks.all().len()] {
                prop_assert!(len <= 4);
            }
            prop_assert_eq!(list.passes.values().sum::<u32>() as usize, list.known.len());
            prop_assert!(list.passes.values().all(|passes| *passes > 0));
        }
    }

    #[test]
    fn what_was_written_down_is_remembered(mails in mails()) {
        let options = GreylistOptions { entries_max: 1000, ..options() };
        let mut list = Greylist::new(options.clone());
        let mut now = 0;
        let mut written = Vec::new();
        for (net, sender, wait) in mails {
            now += wait;
            list.mail(now, net, &sender.to_string());
            written.extend(list.take_changes().iter().map(|record| GreyRecord::decode(&record.encode()).expect("whole")));
        }
        let mut again = after_restart(&written, &options, now);
        for list in [&mut list, &mut again] {
            list.expire(at(now));
        }
        prop_assert_eq!(again.waiting.all(), list.waiting.all());
        // Records lag behind the last use by a quarter of the lifetime at most.
        let late = |(_, last): &(GreyKey, Timestamp)| at(now).since(*last) <= options.lifetime.0 * 3 / 4;
        let known: BTreeSet<GreyKey> = again.known.all().iter().map(|(key, _)| *key).collect();
        prop_assert!(list.known.all().iter().filter(|known| late(known)).all(|(key, _)| known.contains(key)));
        let before: BTreeSet<GreyKey> = list.known.all().iter().map(|(key, _)| *key).collect();
        prop_assert!(known.is_subset(&before));
    }
}
