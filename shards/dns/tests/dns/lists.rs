//! DNS lists: what they say, and what becomes of them when they die.

use crate::support::{Script, Server, hasty, later, on_shard, patient};
use hickory_resolver::proto::op::ResponseCode;
use ringpost_base::Span;
use ringpost_dns::{
    Answers, BreakerOptions, Dns, DnsError, Doubt, Failure, Health, LISTS_IN_FLIGHT_MAX, List, Lists,
    STRANGERS_IN_FLIGHT_MAX, Verdict,
};
use ringpost_runtime::{sleep, spawn, tick};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

const NOT_LISTED: Verdict = Verdict::NotListed;
const SKIPPED: Verdict = Verdict::Unknown(Doubt::Skipped);
const SILENT: Verdict = Verdict::Unknown(Doubt::Failed(Failure::Timeout));

fn list(zone: &str, weight: i32) -> List {
    List { zone: zone.into(), shown: zone.into(), weight, answers: Vec::new() }
}

fn listed(answer: [u8; 4], weight: i32) -> Verdict {
    Verdict::Listed { answer: answer.into(), weight }
}

fn client(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

/// A zone that lists nobody.
fn lists_nobody() -> Script {
    Script::Nothing(ResponseCode::NXDomain, Some(60))
}

/// Skips for so long that no test sees the end of it.
fn for_ever() -> BreakerOptions {
    BreakerOptions { failures_max: 5, skip: Span::seconds(3_600) }
}

#[test]
fn all_lists_are_asked_and_each_has_its_verdict() {
    let server = Server::start();
    server.address_of("7.2.0.192.black.example", [127, 0, 0, 2]);
    server.address_of("7.2.0.192.white.example", [127, 0, 9, 3]);
    let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.black.example";
    server.address_of(nibbles, [127, 0, 0, 4]);
    let asked = server.clone();
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let strong = Answers { first: [127, 0, 9, 3].into(), last: [127, 0, 9, 3].into(), weight: Some(-9) };
        let white = List { answers: vec![strong], ..list("White.example.", -1) };
        let all = vec![list("black.example", 5), white, list("other.example", 3)];
        let lists = Lists::new(dns.resolver(), all, for_ever()).expect("good zones");
        let expected = [listed([127, 0, 0, 2], 5), listed([127, 0, 9, 3], -9), NOT_LISTED];
        assert_eq!(lists.look_up(client(7), later()).await, expected);
        let questions = asked.asked("");
        assert_eq!(lists.look_up(client(7), later()).await, expected);
        assert_eq!(asked.asked(""), questions, "all of it is remembered");
        assert_eq!(lists.look_up(client(8), later()).await, [NOT_LISTED; 3]);
        let v6 = "2001:db8::1".parse().expect("an address");
        assert_eq!(lists.look_up(v6, later()).await[0], listed([127, 0, 0, 4], 5));
        assert!(lists.states().iter().all(|state| state.health == Health::Working && state.failures == 0));
    });
}

#[test]
fn a_dead_list_is_skipped_and_the_others_go_on() {
    let server = Server::start();
    server.script_all("dead.example", Script::Silence);
    let asked = server.clone();
    on_shard(hasty(&server), async move |dns: Dns| {
        let all = vec![list("dead.example", 5), list("live.example", 3)];
        let lists = Lists::new(dns.resolver(), all, for_ever()).expect("good zones");
        for number in 1..=5 {
            assert_eq!(lists.states()[0].health, Health::Working, "before {number}");
            assert_eq!(lists.look_up(client(number), later()).await[0], SILENT);
        }
        let state = &lists.states()[0];
        assert!(matches!(state.health, Health::Skipped { .. }));
        assert_eq!((state.failures, state.last), (5, Some(Doubt::Failed(Failure::Timeout))));
        let questions = asked.asked("dead.example");
        for number in 6..=60 {
            assert_eq!(lists.look_up(client(number), later()).await[0], SKIPPED);
        }
        assert_eq!(asked.asked("dead.example"), questions);
        assert_eq!(lists.states()[1].health, Health::Working);
        assert!(asked.asked("live.example") >= 60);
    });
}

#[test]
fn a_list_that_recovers_is_tried_by_one_question_and_asked_again() {
    let server = Server::start();
    server.script_all("list.example", Script::Error(ResponseCode::ServFail));
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let options = BreakerOptions { failures_max: 2, skip: Span::millis(300) };
        let lists = Lists::new(dns.resolver(), vec![list("list.example", 5)], options).expect("good zones");
        let failed = Verdict::Unknown(Doubt::Failed(Failure::Server { code: 2 }));
        assert_eq!(lists.look_up(client(1), later()).await, [failed]);
        assert_eq!(lists.look_up(client(1), later()).await, [failed], "remembered");
        assert_eq!(lists.states()[0].failures, 1, "one answer is one failure");
        assert_eq!(lists.look_up(client(2), later()).await, [failed]);
        assert!(matches!(lists.states()[0].health, Health::Skipped { .. }));
        // Still broken at the first trial.
        sleep(Duration::from_millis(310)).await;
        assert_eq!(lists.look_up(client(3), later()).await, [failed]);
        assert!(matches!(lists.states()[0].health, Health::Skipped { .. }));
        server.script_all("list.example", lists_nobody());
        sleep(Duration::from_millis(310)).await;
        assert_eq!(lists.look_up(client(4), later()).await, [NOT_LISTED]);
        assert_eq!((lists.states()[0].health, lists.states()[0].last), (Health::Working, None));
    });
}

#[test]
fn only_one_client_waits_for_a_trial() {
    let server = Server::start();
    server.script_all("list.example", Script::Silence);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let options = BreakerOptions { failures_max: 1, skip: Span::millis(1) };
        let lists = Lists::new(dns.resolver(), vec![list("list.example", 5)], options).expect("good zones");
        let soon = || tick().deadline(Duration::from_millis(30));
        assert_eq!(lists.look_up(client(1), soon()).await, [SILENT]);
        sleep(Duration::from_millis(5)).await;
        let mut trial = Box::pin(lists.look_up(client(2), later()));
        assert!(futures_lite::future::poll_once(&mut trial).await.is_none());
        assert_eq!(lists.states()[0].health, Health::Trying);
        assert_eq!(lists.look_up(client(3), later()).await, [SKIPPED]);
        // The client that tries hangs up: the next one tries.
        drop(trial);
        assert_eq!(lists.look_up(client(4), soon()).await, [SILENT]);
        assert!(matches!(lists.states()[0].health, Health::Skipped { .. }));
    });
}

/// A handful of clients, each with a HELO name of its own in a zone whose servers keep silent, once kept all lists from
/// being asked.
#[test]
fn names_in_a_silent_zone_do_not_blind_the_lists() {
    let server = Server::start();
    server.script_all("hole.example", Script::Silence);
    server.address_of("7.2.0.192.list.example", [127, 0, 0, 2]);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let lists = Lists::new(resolver.clone(), vec![list("list.example", 5)], for_ever()).expect("good zones");
        for number in 0..4 * STRANGERS_IN_FLIGHT_MAX {
            let resolver = resolver.clone();
            spawn("stranger", async move {
                let _ = resolver.addresses(&format!("n{number}.hole.example"), later()).await;
            });
        }
        assert_eq!(resolver.tally().asked, STRANGERS_IN_FLIGHT_MAX as u64);
        assert_eq!(resolver.ipv4("www.example", later()).await, Err(Failure::Overload));
        assert_eq!(lists.look_up(client(7), later()).await, [listed([127, 0, 0, 2], 5)]);
        assert_eq!(lists.look_up(client(8), later()).await, [NOT_LISTED]);
    });
}

#[test]
fn lists_that_are_asked_too_much_leave_room_for_other_names() {
    let server = Server::start();
    server.script_all("list.example", Script::Silence);
    server.address_of("www.example", [192, 0, 2, 1]);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let lists = Lists::new(resolver.clone(), vec![list("list.example", 5)], for_ever()).expect("good zones");
        let lists = Rc::new(lists);
        for number in 0..LISTS_IN_FLIGHT_MAX {
            let lists = lists.clone();
            spawn("asker", async move {
                lists.look_up(client(number as u8), later()).await;
            });
        }
        assert_eq!(resolver.tally().asked, LISTS_IN_FLIGHT_MAX as u64);
        let overload = Verdict::Unknown(Doubt::Failed(Failure::Overload));
        assert_eq!(lists.look_up(client(250), later()).await, [overload]);
        assert_eq!(lists.states()[0].failures, 0, "that is no fault of the list's");
        assert!(resolver.ipv4("www.example", later()).await.is_ok());
    });
}

/// What a list says counts for a client also where another list keeps it waiting until the deadline, and is put to the same
/// test.
#[test]
fn a_silent_list_keeps_no_other_from_telling() {
    let server = Server::start();
    server.script_all("dead.example", Script::Silence);
    server.address_of("7.2.0.192.live.example", [127, 0, 0, 2]);
    server.address_of("7.2.0.192.ended.example", [127, 0, 0, 2]);
    server.address_of("1.0.0.127.ended.example", [127, 0, 0, 2]);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let all = vec![list("dead.example", 5), list("live.example", 3), list("ended.example", 2)];
        let lists = Lists::new(dns.resolver(), all, for_ever()).expect("good zones");
        let told = Rc::new(RefCell::new(Vec::new()));
        let hears = told.clone();
        spawn("asker", async move {
            lists.look_up_each(client(7), later(), |list, verdict| hears.borrow_mut().push((list, verdict))).await;
        });
        let soon = tick().deadline(Duration::from_secs(9));
        while told.borrow().len() < 2 && !soon.passed(tick()) {
            sleep(Duration::from_millis(1)).await;
        }
        let mut told = told.borrow().clone();
        told.sort_by_key(|(list, _)| *list);
        assert_eq!(told, [(1, listed([127, 0, 0, 2], 3)), (2, Verdict::Unknown(Doubt::ListsEverything))]);
    });
}

/// Asserts that a zone whose every name leads to `answer` lists nobody, and is found out.
fn check_lists_nobody(answer: [u8; 4], doubt: Doubt) {
    let server = Server::start();
    for number in 0..10 {
        server.address_of(&format!("{number}.2.0.192.list.example"), answer);
    }
    server.address_of("1.0.0.127.list.example", answer);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let lists = Lists::new(dns.resolver(), vec![list("list.example", 5)], for_ever()).expect("good zones");
        for number in 0..5 {
            assert_eq!(lists.look_up(client(number), later()).await, [Verdict::Unknown(doubt)]);
        }
        assert_eq!(lists.states()[0].last, Some(doubt));
        assert_eq!(lists.look_up(client(6), later()).await, [SKIPPED]);
        assert_eq!(lists.look_up(client(1), later()).await, [Verdict::Unknown(doubt)], "known, and still no listing");
    });
}

#[test]
fn a_list_that_lists_everything_lists_nobody() {
    check_lists_nobody([127, 0, 0, 2], Doubt::ListsEverything);
}

#[test]
fn a_zone_that_was_sold_lists_nobody() {
    check_lists_nobody([203, 0, 113, 5], Doubt::Foreign([203, 0, 113, 5].into()));
}

#[test]
fn a_list_that_wants_no_questions_lists_nobody() {
    check_lists_nobody([127, 255, 255, 254], Doubt::Code([127, 255, 255, 254].into()));
}

#[test]
fn zones_that_are_no_names_are_refused() {
    let server = Server::start();
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let long = ["a"; 100].join(".");
        for zone in ["", ".", "a b", "list..example", &long] {
            let result = Lists::new(resolver.clone(), vec![list(zone, 1)], for_ever());
            assert!(matches!(result, Err(DnsError::Zone(named)) if named == zone), "{zone}");
        }
        // A zone may hold a key, and errors go to the log.
        let keyed = List { shown: "***.a b".into(), ..list("abcdefghijklmnopqrstuvwxyz.a b", 1) };
        let result = Lists::new(resolver, vec![keyed], for_ever());
        assert!(matches!(result, Err(DnsError::Zone(named)) if named == "***.a b"));
    });
}
