//! The mirror against tables, and against sets that refuse what the kernel's and nft refuse.

use super::elements::{Difference, ELEMENTS_MAX, Elements, TIMEOUT_SECONDS_MAX, putting_in, taking_out, widest};
use super::process::run as run_command;
use super::*;
use proptest::prelude::*;
use ringpost_base::{Network, Timestamp};
use ringpost_policy::{BanBook, OPERATOR};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);

/// The time when the tests begin, in seconds; they go on by seconds and a half.
const BEGIN: u64 = 1_000_000;

fn network(text: &str) -> Network {
    text.parse().expect("a network")
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_micros((BEGIN + seconds) * 1_000_000 + 500_000)
}

/// Networks, each with the seconds it has from the beginning on, or 0 for good.
fn elements(all: &[(&str, u64)]) -> Elements {
    let end = |seconds: u64| (seconds > 0).then(|| at(seconds));
    all.iter().map(|(text, seconds)| (network(text), end(*seconds))).collect()
}

/// So many addresses that don't touch.
fn addresses(count: u32) -> Elements {
    (0..count).map(|number| (Network::single(IpAddr::from((0x0a00_0000 + 2 * number).to_be_bytes())), None)).collect()
}

fn sets() -> NftablesSet {
    let [family, table, set_v4, set_v6] = ["inet", "filter", "four", "six"].map(str::to_owned);
    NftablesSet { family, table, set_v4, set_v6 }
}

#[test]
fn of_bans_within_each_other_the_widest_is_mirrored() {
    for (banned, wanted) in [
        (&["192.0.2.7", "192.0.2.0/24", "192.0.2.128/25", "192.0.3.0/24"][..], &["192.0.2.0/24", "192.0.3.0/24"][..]),
        (&["192.0.2.7", "192.0.2.8"], &["192.0.2.7", "192.0.2.8"]),
        (&["192.0.2.0/25", "192.0.2.0/24", "192.0.2.0", "192.0.2.255"], &["192.0.2.0/24"]),
        (&["0.0.0.0/0", "192.0.2.7", "::/0", "2001:db8::/32"], &["0.0.0.0/0", "::/0"]),
        (&["2001:db8::/32", "2001:db8::1", "2001:db9::1"], &["2001:db8::/32", "2001:db9::1"]),
        (&[], &[]),
    ] {
        let all = |texts: &[&str]| elements(&texts.iter().map(|text| (*text, 0)).collect::<Vec<_>>());
        assert_eq!(widest(all(banned).into_iter().rev()), all(wanted), "{banned:?}");
    }
}

/// At 10 seconds: from what is there to what is wanted, what is taken out, what is put in.
#[test]
fn differences() {
    let check = |there: &[(&str, u64)], wanted: &[(&str, u64)], gone: &[&str], new: &[(&str, u64)]| {
        let found = Difference::between(&elements(there), &elements(wanted), at(10));
        let gone: BTreeSet<Network> = gone.iter().map(|text| network(text)).collect();
        assert_eq!(found, Difference { gone, new: elements(new) }, "{there:?} {wanted:?}");
    };
    check(&[], &[("192.0.2.7", 0)], &[], &[("192.0.2.7", 0)]);
    check(&[("192.0.2.7", 0)], &[], &["192.0.2.7"], &[]);
    check(&[("192.0.2.7", 20)], &[("192.0.2.7", 20)], &[], &[]);
    // A new end is a new element.
    check(&[("192.0.2.7", 20)], &[("192.0.2.7", 30)], &["192.0.2.7"], &[("192.0.2.7", 30)]);
    // What has ended goes by itself, unless it is in the way.
    check(&[("192.0.2.7", 10)], &[("192.0.2.8", 0)], &[], &[("192.0.2.8", 0)]);
    check(&[("192.0.2.7", 10)], &[("192.0.2.7", 30)], &["192.0.2.7"], &[("192.0.2.7", 30)]);
    check(&[("192.0.2.0/24", 10)], &[("192.0.2.7", 30)], &["192.0.2.0/24"], &[("192.0.2.7", 30)]);
    check(
        &[("192.0.1.255", 9), ("192.0.2.0", 9), ("192.0.2.255", 9), ("192.0.3.0", 9)],
        &[("192.0.2.0/24", 30)],
        &["192.0.2.0", "192.0.2.255"],
        &[("192.0.2.0/24", 30)],
    );
}

#[test]
fn scripts() {
    let gone = ["192.0.2.7", "198.51.100.0/24", "2001:db8::/32"].iter().map(|text| network(text)).collect();
    assert_eq!(
        taking_out(&sets(), &gone),
        "add element inet filter four { 192.0.2.7 timeout 3600s, 198.51.100.0/24 timeout 3600s }\n\
         add element inet filter six { 2001:db8::/32 timeout 3600s }\n\
         delete element inet filter four { 192.0.2.7, 198.51.100.0/24 }\n\
         delete element inet filter six { 2001:db8::/32 }\n"
    );
    let new = elements(&[("192.0.2.7", 0), ("192.0.2.8", 61), ("2001:db8::1", 10), ("2001:db8::2", 2_000_000_000)]);
    let now = Timestamp::from_unix_micros(at(10).unix_micros() + 1);
    assert_eq!(
        putting_in(&sets(), new.iter(), now),
        "add element inet filter four { 192.0.2.7 timeout 2592000s, 192.0.2.8 timeout 51s }\n\
         add element inet filter six { 2001:db8::1 timeout 1s, 2001:db8::2 timeout 2592000s }\n",
        "a second begun counts"
    );
    assert_eq!(putting_in(&sets(), [].into_iter(), now), "");
    let script = putting_in(&sets(), addresses(2500).iter(), now);
    assert_eq!(script.lines().map(|line| line.matches("timeout").count()).collect::<Vec<_>>(), [1000, 1000, 500]);
}

/// The kernel's two sets and nft before them, as strict as any version of them.
#[derive(Default)]
struct Model {
    elements: BTreeMap<Network, Timestamp>,
    now: Timestamp,
    /// Whether to add an element that is there changes its end, as newer kernels do.
    renews: bool,
    /// Largest script that is taken, in elements.
    room: Option<usize>,
    /// Scripts with this are refused.
    refused: Option<Network>,
    scripts: Vec<String>,
}

impl Model {
    fn nft(&mut self, script: &str) -> Result<(), String> {
        self.scripts.push(script.to_owned());
        let now = self.now;
        self.elements.retain(|_, end| *end > now);
        if self.room.is_some_and(|room| script.matches("timeout").count() > room) {
            return Err("Message too long".into());
        }
        let (mut after, mut before) = (self.elements.clone(), self.elements.clone());
        for line in script.lines() {
            self.command(line, &mut before, &mut after)?;
        }
        self.elements = after;
        Ok(())
    }

    fn command(
        &self,
        line: &str,
        before: &mut BTreeMap<Network, Timestamp>,
        after: &mut BTreeMap<Network, Timestamp>,
    ) -> Result<(), String> {
        let (command, list) = line.split_once(" { ").unwrap_or((line, " }"));
        let words: Vec<&str> = command.split(' ').collect();
        let ["add" | "delete" | "flush", "element" | "set", "inet", "filter", set] = words[..] else {
            panic!("{line}");
        };
        let of_set = |network: &Network| network.address().is_ipv4() == (set == "four");
        if words[0] == "flush" {
            before.retain(|network, _| !of_set(network));
            after.retain(|network, _| !of_set(network));
            return Ok(());
        }
        let listed: Vec<&str> = list.strip_suffix(" }").expect("an end").split(", ").collect();
        assert!(listed.len() <= ELEMENTS_MAX);
        for element in listed {
            let (net, seconds) = element.split_once(" timeout ").unwrap_or((element, "0s"));
            let (net, seconds) = (network(net), seconds.strip_suffix('s').expect("seconds").parse().expect("seconds"));
            assert!(of_set(&net), "{line}");
            if self.refused == Some(net) {
                return Err("refused".into());
            }
            let end = self.now.after(Duration::from_secs(seconds));
            match words[0] {
                "delete" => after.remove(&net).map(drop).ok_or("element does not exist")?,
                _ if after.contains_key(&net) => {
                    if self.renews {
                        after.insert(net, end);
                    }
                }
                // nft looks at what was there before the script, too.
                _ if before.keys().chain(after.keys()).any(|other| *other != net && other.overlaps(&net)) => {
                    return Err("interval overlaps with an existing one".into());
                }
                _ => drop(after.insert(net, end)),
            }
        }
        Ok(())
    }

    /// Whether the sets have what is wanted for as long as it is wanted, rounded up; and nothing else but what is about to
    /// end.
    fn check(&self, wanted: &Elements) {
        let second = Duration::from_secs(1);
        for (network, until) in wanted {
            let end = self.elements.get(network).unwrap_or_else(|| panic!("{network} is missing"));
            assert!(until.is_none_or(|until| *end >= until && *end <= until.after(second)), "{network}");
        }
        for (network, end) in &self.elements {
            assert!(wanted.contains_key(network) || *end <= self.now.after(second), "{network} is left over");
        }
    }
}

/// Brings the model to have these elements.
fn bring(kernel: &mut Kernel<impl FnMut(&str) -> Result<(), String>>, wanted: &Elements) -> Result<(), String> {
    kernel.bring(&sets(), wanted.clone(), at(0))
}

/// What was joined into one script failed as a whole where nft could send it at once only in part.
#[test]
fn thousands_of_bans_were_too_long_a_message() {
    for room in [usize::MAX, 1000] {
        let mut model = Model { room: Some(room), now: at(0), ..Model::default() };
        let wanted = addresses(5500);
        let mut kernel = Kernel::new(|script: &str| model.nft(script));
        bring(&mut kernel, &wanted).expect("mirrored");
        bring(&mut kernel, &wanted).expect("mirrored");
        drop(kernel);
        model.check(&wanted);
        assert_eq!(model.scripts.len(), if room == 1000 { 8 } else { 1 });
    }
}

#[test]
fn one_element_that_is_refused_does_not_take_all_others_along() {
    let wanted = addresses(5500);
    let refused = wanted.keys().nth(2500).copied();
    let mut model = Model { refused, now: at(0), ..Model::default() };
    assert_eq!(bring(&mut Kernel::new(|script: &str| model.nft(script)), &wanted), Err("refused".into()));
    assert_eq!(model.elements.len(), 4500);
}

#[test]
fn a_change_that_fails_is_mended_by_filling_the_sets_anew() {
    let model = RefCell::new(Model { now: at(0), ..Model::default() });
    let mut kernel = Kernel::new(|script: &str| model.borrow_mut().nft(script));
    bring(&mut kernel, &elements(&[("192.0.2.7", 0)])).expect("put in");
    let foreign = "add element inet filter four { 198.51.100.0/24 timeout 3600s }";
    model.borrow_mut().nft(foreign).expect("there is room for it");
    let wanted = elements(&[("192.0.2.7", 0), ("198.51.100.1", 0)]);
    bring(&mut kernel, &wanted).expect("mended");
    model.borrow().check(&wanted);
}

/// When, what is wanted, and how many scripts were needed by then.
#[test]
fn what_ends_by_itself_costs_nothing() {
    let model = RefCell::new(Model::default());
    let mut kernel = Kernel::new(|script: &str| model.borrow_mut().nft(script));
    let (first, second) = (("192.0.2.7", 10), ("192.0.2.8", 20));
    for (seconds, wanted, scripts) in [
        (0, &[first, second][..], 1),
        (5, &[first, second], 1),
        (10, &[second], 1),
        (20, &[], 1),
        (100, &[], 1),
        (101, &[("192.0.2.0/24", 0)], 2),
    ] {
        let wanted = elements(wanted);
        model.borrow_mut().now = at(seconds);
        kernel.bring(&sets(), wanted.clone(), at(seconds)).expect("mirrored");
        model.borrow().check(&wanted);
        assert_eq!(model.borrow().scripts.len(), scripts, "at {seconds}");
    }
}

/// What happens to bans and sets.
#[derive(Clone, Debug)]
enum Event {
    Ban(Network, Option<u64>),
    Unban(Network),
    Allow(Vec<Network>),
    /// Time passes; in tenths of a second.
    Pass(u64),
    /// nft fails once, after so many scripts.
    Fail(usize),
    /// Somebody flushes the sets, or puts something in.
    Flush,
    Foreign(Network),
}

/// Networks of a small part of the address space, so that they meet.
fn networks() -> impl Strategy<Value = Network> {
    prop_oneof![
        (0_u8..4, 0_u8..8, 22_u8..=32).prop_map(|(c, d, prefix)| Network::around([192, 0, c, d].into(), prefix)),
        (0_u16..4, 110_u8..=128)
            .prop_map(|(low, prefix)| Network::around([0x2001, 0xdb8, 0, 0, 0, 0, 0, low].into(), prefix)),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (networks(), proptest::option::of(1_u64..30)).prop_map(|(network, ttl)| Event::Ban(network, ttl)),
        3 => networks().prop_map(Event::Unban),
        1 => proptest::collection::vec(networks(), 0..2).prop_map(Event::Allow),
        4 => (1_u64..100).prop_map(Event::Pass),
        1 => (0_usize..3).prop_map(Event::Fail),
        1 => Just(Event::Flush),
        1 => networks().prop_map(Event::Foreign),
    ];
    proptest::collection::vec(event, 1..60)
}

proptest! {
    #[test]
    fn whatever_happens_the_sets_are_what_they_should_be(events in events(), renews in any::<bool>()) {
        let model = RefCell::new(Model { renews, ..Model::default() });
        let fails = Cell::new(None);
        let mut kernel = Kernel::new(|script: &str| {
            let left: Option<usize> = fails.take();
            fails.set(left.and_then(|left| left.checked_sub(1)));
            if left == Some(0) { Err("failed".into()) } else { model.borrow_mut().nft(script) }
        });
        let (mut book, mut now) = (BanBook::default(), at(0));
        kernel.bring(&sets(), Elements::new(), now).expect("emptied");
        for event in events {
            let is_ours = !matches!(event, Event::Flush | Event::Foreign(_) | Event::Fail(_)) && fails.get().is_none();
            match event {
                Event::Ban(network, ttl) => drop(book.add(network, "", OPERATOR, ttl.map(Duration::from_secs), now)),
                Event::Unban(network) => drop(book.remove(network)),
                Event::Allow(networks) => drop(book.allow(networks)),
                Event::Pass(tenths) => now = now.after(Duration::from_millis(100 * tenths)),
                Event::Fail(after) => fails.set(Some(after)),
                Event::Flush => {
                    model.borrow_mut().elements.clear();
                    kernel.forget();
                }
                Event::Foreign(network) => {
                    // What overlaps is refused, to others too.
                    let _ = model.borrow_mut().nft(&putting_in(&sets(), [(&network, &None)].into_iter(), now));
                    kernel.forget();
                }
            }
            book.expire(now);
            model.borrow_mut().now = now;
            model.borrow_mut().scripts.clear();
            let wanted = wanted(&book.snapshot(), now);
            if kernel.bring(&sets(), wanted.clone(), now).is_err() {
                prop_assert!(!is_ours);
                kernel.bring(&sets(), wanted.clone(), now).expect("it fails once");
            }
            model.borrow_mut().elements.retain(|_, end| *end > now);
            model.borrow().check(&wanted);
            let fills = model.borrow().scripts.iter().any(|script| script.starts_with("flush"));
            prop_assert!(!(is_ours && fills), "a change of ours was refused: {:?}", model.borrow().scripts);
        }
    }
}

/// A command, its input, and the beginning of what is said of it.
#[test]
fn commands_end() {
    let check = |command: &str, input: &str, time_max: Duration, want: Result<(), &str>| {
        let mut shell = Command::new("sh");
        match (run_command(shell.args(["-c", command]), input, time_max), want) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(want)) => assert!(found.starts_with(want) && found.len() <= 300, "{command}: {found}"),
            (found, _) => panic!("{command}: {found:?}"),
        }
    };
    let long = "a script that is too long for a pipe\n".repeat(100_000);
    check("true", &long, LONG, Ok(()));
    check("cat >/dev/null", &long, LONG, Ok(()));
    check("test \"$(wc -c </dev/stdin)\" = 6", "script", LONG, Ok(()));
    check("cat >&2; exit 1", &long, LONG, Err("a script that is too long"));
    check("cat >&2; exit 1", &"x".repeat(1000), LONG, Err("xxx"));
    check("exit 3", "", LONG, Err("exit status: 3"));
    check("sleep 600", "", Duration::from_millis(50), Err("nft did not end within 50ms"));
    let missing = run_command(&mut Command::new("/no/such/program"), "", LONG);
    assert!(missing.is_err_and(|error| error.starts_with("nft can't be run: No such file")));
}

#[test]
fn an_order_that_waits_is_overtaken_by_the_next() {
    let desk = Desk::default();
    let bans = |texts: &[&str]| {
        let mut book = BanBook::default();
        for text in texts {
            book.add(network(text), "", OPERATOR, None, at(0)).expect("can be banned");
        }
        Arc::new(book.snapshot())
    };
    let [first, second] = [&["192.0.2.7"][..], &["192.0.2.7", "192.0.2.8"]].map(bans);
    desk.change(|order| (order.sets, order.bans, order.is_anew) = (Some(sets()), first, true));
    desk.change(|order| (order.bans, order.is_changed) = (second.clone(), true));
    let order = desk.next(LONG, false).expect("an order");
    assert!(order.is_anew && order.sets == Some(sets()) && Arc::ptr_eq(&order.bans, &second));
    // After a failure only one to begin anew is heard; the others are taken up with the next try.
    desk.change(|order| order.is_changed = true);
    let order = desk.next(Duration::ZERO, true).expect("a try");
    assert!(order.is_changed && !order.is_anew && Arc::ptr_eq(&order.bans, &second));
    desk.change(|order| order.is_over = true);
    assert!(desk.next(LONG, false).is_none() && desk.next(LONG, true).is_none());
}

#[test]
fn elements_end_before_the_sets_are_filled_again() {
    assert!(REFILL_MAX.as_secs() * 2 < TIMEOUT_SECONDS_MAX && REFILL < REFILL_MAX);
}
