//! Questions, their answers, and what is remembered of them.

use crate::support::{Script, Server, a, alias, hasty, later, mx, name, on_shard, patient, pointer, record, txt};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::AAAA;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use ringpost_base::Span;
use ringpost_dns::{Dns, Failure, Resolver, STRANGERS_IN_FLIGHT_MAX};
use ringpost_runtime::{Services, sleep, spawn, tick};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

/// Asks for the IPv4 addresses of a name.
async fn ipv4(resolver: &Resolver, name: &str) -> Result<Vec<[u8; 4]>, Failure> {
    let lookup = resolver.ipv4(name, later()).await?;
    Ok(lookup.records.iter().map(|address| address.octets()).collect())
}

/// Asks twice, and asserts what comes out and how many questions the server got for it.
fn check(script: Script, expected: Result<Vec<[u8; 4]>, Failure>, questions: usize) {
    let server = Server::start();
    server.script("www.example", RecordType::A, script);
    let asked = server.clone();
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        assert_eq!(ipv4(&resolver, "www.example").await, expected);
        assert_eq!(ipv4(&resolver, "WWW.example.").await, expected);
        assert_eq!(asked.asked(""), questions);
    });
}

#[test]
fn an_answer_is_remembered_for_its_time() {
    check(Script::Answer(vec![a("www.example", 300, [192, 0, 2, 1])]), Ok(vec![[192, 0, 2, 1]]), 1);
}

#[test]
fn an_answer_for_no_time_is_not_remembered() {
    check(Script::Answer(vec![a("www.example", 0, [192, 0, 2, 1])]), Ok(vec![[192, 0, 2, 1]]), 2);
}

#[test]
fn that_there_is_nothing_is_remembered_if_it_says_how_long() {
    for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
        check(Script::Nothing(code, Some(60)), Err(Failure::NoSuchName), 1);
        check(Script::Nothing(code, Some(0)), Err(Failure::NoSuchName), 2);
        check(Script::Nothing(code, None), Err(Failure::NoSuchName), 2);
    }
}

#[test]
fn errors_of_the_server_are_told_apart_and_remembered_for_a_moment() {
    check(Script::Error(ResponseCode::ServFail), Err(Failure::Server { code: 2 }), 1);
    check(Script::Error(ResponseCode::NotImp), Err(Failure::Server { code: 4 }), 1);
    check(Script::Error(ResponseCode::Refused), Err(Failure::Refused), 1);
}

#[test]
fn garbage_is_no_answer() {
    check(Script::Garbage, Err(Failure::Unreachable), 1);
}

#[test]
fn a_long_answer_comes_over_tcp() {
    let records: Vec<_> = (0..90).map(|host| a("www.example", 300, [192, 0, 2, host])).collect();
    let addresses = (0..90).map(|host| [192, 0, 2, host]).collect();
    check(Script::Long(records), Ok(addresses), 2);
}

#[test]
fn no_more_records_are_taken_than_are_of_use() {
    let records: Vec<_> = (0..250).map(|host| a("www.example", 300, [192, 0, 2, host])).collect();
    let addresses = (0..100).map(|host| [192, 0, 2, host]).collect();
    check(Script::Long(records), Ok(addresses), 2);
}

#[test]
fn records_of_other_names_are_not_taken() {
    let records = vec![a("other.example", 300, [192, 0, 2, 66]), a("www.example", 300, [192, 0, 2, 1])];
    check(Script::Answer(records), Ok(vec![[192, 0, 2, 1]]), 1);
}

#[test]
fn an_alias_is_followed_and_its_time_counts() {
    let server = Server::start();
    let whole = vec![alias("www.example", 20, "host.example"), a("host.example", 300, [192, 0, 2, 1])];
    server.script("www.example", RecordType::A, Script::Answer(whole));
    let half = vec![alias("half.example", 20, "far.example")];
    server.script("half.example", RecordType::A, Script::Answer(half));
    server.address_of("far.example", [192, 0, 2, 2]);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        for (name, last) in [("www.example", 1), ("half.example", 2)] {
            let lookup = resolver.ipv4(name, later()).await.expect("found");
            assert_eq!(lookup.records, [[192, 0, 2, last].into()] as [std::net::Ipv4Addr; 1], "{name}");
            assert!(lookup.ttl <= Duration::from_secs(20), "{name}: {:?}", lookup.ttl);
            assert!(!lookup.cached && resolver.ipv4(name, later()).await.expect("known").cached, "{name}");
        }
    });
}

#[test]
fn every_kind_of_record_is_read() {
    let server = Server::start();
    let v6 = record("www.example", 300, RData::AAAA(AAAA("2001:db8::1".parse().expect("an address"))));
    server.script("www.example", RecordType::AAAA, Script::Answer(vec![v6]));
    server.address_of("www.example", [192, 0, 2, 1]);
    server.address_of("old.example", [192, 0, 2, 2]);
    let texts = vec![txt("_x.example", &[b"v=spf1 ", b"-all"]), txt("_x.example", &[b"\xff\x00"])];
    server.script("_x.example", RecordType::TXT, Script::Answer(texts));
    let exchanges = vec![
        mx("www.example", 20, name("Second.example")),
        mx("www.example", 10, name("first.example")),
        mx("www.example", 5, Name::from_labels([&b"bad host"[..]]).expect("short enough")),
    ];
    server.script("www.example", RecordType::MX, Script::Answer(exchanges));
    server.script("none.example", RecordType::MX, Script::Answer(vec![mx("none.example", 0, Name::root())]));
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let ipv6: Vec<std::net::Ipv6Addr> = resolver.ipv6("www.example", later()).await.expect("found").records;
        assert_eq!(ipv6, ["2001:db8::1".parse::<std::net::Ipv6Addr>().expect("an address")]);
        let both = resolver.addresses("www.example", later()).await.expect("found");
        let expected: [IpAddr; 2] = [[192, 0, 2, 1].into(), ipv6[0].into()];
        assert_eq!(both.records, expected);
        let one = resolver.addresses("old.example", later()).await.expect("found");
        assert_eq!(one.records, [IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(resolver.addresses("neither.example", later()).await, Err(Failure::NoSuchName));
        let texts = resolver.txt("_x.example", later()).await.expect("found").records;
        assert_eq!(texts, [b"v=spf1 -all"[..].into(), b"\xff\x00"[..].into()] as [Box<[u8]>; 2]);
        let exchanges = resolver.mx("www.example", later()).await.expect("found").records;
        let exchanges: Vec<_> = exchanges.iter().map(|mx| (mx.preference, &*mx.exchange)).collect();
        assert_eq!(exchanges, [(10, "first.example"), (20, "second.example")]);
        let none = resolver.mx("none.example", later()).await.expect("found").records;
        assert_eq!(&*none[0].exchange, ".");
    });
}

#[test]
fn hostile_reverse_names_are_left_out() {
    let server = Server::start();
    let owner = "7.2.0.192.in-addr.arpa";
    let hostile = |label: &[u8]| pointer(owner, Name::from_labels([label, b"example"]).expect("short enough"));
    let records = vec![hostile(b"a\r\nX-Forged: y"), pointer(owner, name("Mail.example")), hostile(b"m.x")];
    server.script(owner, RecordType::PTR, Script::Answer(records));
    let owner = "8.2.0.192.in-addr.arpa";
    let record = pointer(owner, Name::from_labels([&b"\x1b[2J"[..]]).expect("short enough"));
    server.script(owner, RecordType::PTR, Script::Answer(vec![record]));
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let names = resolver.ptr([192, 0, 2, 7].into(), later()).await.expect("found").records;
        assert_eq!(names, [Box::from("mail.example")]);
        assert_eq!(resolver.ptr([192, 0, 2, 8].into(), later()).await, Err(Failure::NoSuchName));
    });
}

#[test]
fn what_is_no_name_is_not_asked() {
    let server = Server::start();
    let asked = server.clone();
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        for name in ["", "a b", "[192.0.2.1]", "a..b", &"x".repeat(300)] {
            assert_eq!(ipv4(&resolver, name).await, Err(Failure::NoSuchName), "{name}");
        }
        assert_eq!(asked.asked(""), 0);
    });
}

#[test]
fn silence_is_a_timeout_and_remembered_for_a_moment() {
    let server = Server::start();
    server.script_all("", Script::Silence);
    on_shard(hasty(&server), async move |dns: Dns| {
        let resolver = dns.resolver();
        assert_eq!(ipv4(&resolver, "www.example").await, Err(Failure::Timeout));
        assert_eq!(ipv4(&resolver, "www.example").await, Err(Failure::Timeout));
        let tally = resolver.tally();
        assert_eq!((tally.asked, tally.cached, tally.failed), (1, 1, 1));
    });
}

#[test]
fn nobody_waits_beyond_the_deadline_and_the_question_goes_on() {
    let server = Server::start();
    server.script("www.example", RecordType::A, Script::Silence);
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let soon = tick().deadline(Duration::from_millis(50));
        assert_eq!(resolver.ipv4("www.example", soon).await, Err(Failure::Timeout));
        assert_eq!(resolver.ipv4("www.example", soon).await, Err(Failure::Timeout), "too late to ask");
        assert_eq!((resolver.tally().asked, resolver.tally().joined), (1, 0));
        // hickory repeats the question within the same attempt, and what comes then is for those who ask next.
        server.address_of("www.example", [192, 0, 2, 1]);
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 1]]));
        assert_eq!(resolver.tally().asked, 1);
    });
}

#[test]
fn equal_questions_under_way_are_one() {
    let server = Server::start();
    server.address_of("www.example", [192, 0, 2, 1]);
    let asked = server.clone();
    on_shard(patient(&[&server]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let answers = Rc::new(Cell::new(0));
        for _ in 0..100 {
            let (resolver, answers) = (resolver.clone(), answers.clone());
            spawn("asker", async move {
                assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 1]]));
                answers.set(answers.get() + 1);
            });
        }
        let end = later();
        while answers.get() < 100 && !end.passed(tick()) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(answers.get(), 100);
        assert_eq!(asked.asked(""), 1);
        assert_eq!((resolver.tally().asked, resolver.tally().joined), (1, 99));
    });
}

/// Has as many questions of strangers under way as there may be, and asserts that no kind of question finds room then.
async fn fill(resolver: &Rc<Resolver>) {
    for number in 0..STRANGERS_IN_FLIGHT_MAX {
        let resolver = resolver.clone();
        spawn("asker", async move {
            let _ = ipv4(&resolver, &format!("n{number}.hole.example")).await;
        });
    }
    assert_eq!(resolver.tally().asked, STRANGERS_IN_FLIGHT_MAX as u64);
    let (name, address) = ("one-more.example", [192, 0, 2, 7].into());
    assert_eq!(ipv4(resolver, name).await, Err(Failure::Overload));
    assert_eq!(resolver.addresses(name, later()).await, Err(Failure::Overload));
    assert_eq!(resolver.txt(name, later()).await, Err(Failure::Overload));
    assert_eq!(resolver.mx(name, later()).await, Err(Failure::Overload));
    // Whoever holds an address chooses who answers for it.
    assert_eq!(resolver.ptr(address, later()).await, Err(Failure::Overload));
    assert_eq!(resolver.tally().refused, 6);
}

#[test]
fn a_flood_of_questions_is_bounded() {
    let server = Server::start();
    server.script_all("", Script::Silence);
    on_shard(patient(&[&server]), async move |dns: Dns| fill(&dns.resolver()).await);
}

#[test]
fn a_flood_that_is_over_leaves_its_room() {
    let server = Server::start();
    server.script_all("hole.example", Script::Silence);
    server.address_of("www.example", [192, 0, 2, 1]);
    on_shard(hasty(&server), async move |dns: Dns| {
        let resolver = dns.resolver();
        fill(&resolver).await;
        let end = later();
        while resolver.tally().failed < STRANGERS_IN_FLIGHT_MAX as u64 && !end.passed(tick()) {
            sleep(Duration::from_millis(1)).await;
        }
        let asked = resolver.tally().asked;
        let answers = Rc::new(Cell::new(0));
        for number in 0..STRANGERS_IN_FLIGHT_MAX {
            let (resolver, answers) = (resolver.clone(), answers.clone());
            spawn("asker", async move {
                let outcome = ipv4(&resolver, &format!("after{number}.example")).await;
                assert_ne!(outcome, Err(Failure::Overload));
                answers.set(answers.get() + 1);
            });
        }
        assert_eq!(resolver.tally().asked, asked + STRANGERS_IN_FLIGHT_MAX as u64);
        while answers.get() < STRANGERS_IN_FLIGHT_MAX && !end.passed(tick()) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(answers.get(), STRANGERS_IN_FLIGHT_MAX);
    });
}

#[test]
fn other_servers_are_taken_without_a_restart() {
    let (former, newer) = (Server::start(), Server::start());
    former.address_of("www.example", [192, 0, 2, 1]);
    newer.address_of("www.example", [192, 0, 2, 2]);
    let options = patient(&[&newer]);
    on_shard(patient(&[&former]), async move |dns: Dns| {
        let resolver = dns.resolver();
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 1]]));
        let services = Services::start().expect("starts");
        let replacement = Dns::start(services.handle(), &options).expect("has servers");
        assert_eq!(replacement.servers(), options.servers);
        resolver.replace(replacement);
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 2]]));
        services.stop();
    });
}

/// A reload that concerns something else hands the servers in force on.
#[test]
fn the_same_servers_again_change_nothing() {
    let (server, late) = (Server::start(), Server::start());
    server.address_of("www.example", [192, 0, 2, 1]);
    late.script("www.example", RecordType::A, Script::Silence);
    let (asked, options) = (server.clone(), patient(&[&server]));
    on_shard(options.clone(), async move |dns: Dns| {
        let resolver = dns.resolver();
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 1]]));
        assert!(dns.is_same(&dns.clone()));
        resolver.replace(dns.clone());
        assert!(resolver.ipv4("www.example", later()).await.expect("known").cached);
        assert_eq!(asked.asked(""), 1);
        // Equal options are no proof: what the system's file says may be other servers now.
        let services = Services::start().expect("starts");
        let equal = Dns::start(services.handle(), &options).expect("has servers");
        assert!(!dns.is_same(&equal));
        resolver.replace(equal);
        assert!(!resolver.ipv4("www.example", later()).await.expect("found").cached);
        services.stop();
    });
    // A question that is under way meanwhile is remembered.
    on_shard(patient(&[&late]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let soon = tick().deadline(Duration::from_millis(20));
        assert_eq!(resolver.ipv4("www.example", soon).await, Err(Failure::Timeout));
        resolver.replace(dns);
        late.address_of("www.example", [192, 0, 2, 1]);
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 1]]));
        assert!(resolver.ipv4("www.example", later()).await.expect("known").cached);
    });
}

#[test]
fn what_former_servers_answer_late_is_not_remembered() {
    let (former, newer) = (Server::start(), Server::start());
    former.script("www.example", RecordType::A, Script::Silence);
    newer.address_of("www.example", [192, 0, 2, 2]);
    let options = patient(&[&newer]);
    on_shard(patient(&[&former]), async move |dns: Dns| {
        let resolver = dns.resolver();
        let soon = tick().deadline(Duration::from_millis(20));
        assert_eq!(resolver.ipv4("www.example", soon).await, Err(Failure::Timeout));
        let services = Services::start().expect("starts");
        resolver.replace(Dns::start(services.handle(), &options).expect("has servers"));
        former.address_of("www.example", [192, 0, 2, 1]);
        // Joins the question that the former server was asked.
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 1]]));
        assert_eq!(ipv4(&resolver, "www.example").await, Ok(vec![[192, 0, 2, 2]]));
        services.stop();
    });
}

#[test]
fn questions_end_when_the_services_thread_does() {
    let server = Server::start();
    server.script_all("", Script::Silence);
    let options = patient(&[&server]);
    on_shard(options.clone(), async move |_| {
        let services = Services::start().expect("starts");
        let resolver = Dns::start(services.handle(), &options).expect("has servers").resolver();
        let asker = resolver.clone();
        let outcome = Rc::new(Cell::new(None));
        let told = outcome.clone();
        spawn("asker", async move { told.set(Some(ipv4(&asker, "first.example").await.is_err())) });
        while server.asked("first.example") == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        services.stop();
        assert_eq!(ipv4(&resolver, "second.example").await, Err(Failure::Unreachable));
        while outcome.get().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(resolver.ipv4("first.example", later()).await, Err(Failure::Unreachable), "remembered");
    });
}

#[test]
fn a_dead_server_beside_a_live_one_costs_nothing() {
    let server = Server::start();
    // Bound and never read: as silent as a server that is gone.
    let dead = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let dead_address: SocketAddr = dead.local_addr().expect("bound");
    let mut options = patient(&[&server]);
    options.servers.insert(0, dead_address);
    on_shard(options, async move |dns: Dns| {
        let resolver = dns.resolver();
        for number in 0..50 {
            let name = format!("n{number}.example");
            let soon = tick().deadline(Duration::from_secs(9));
            assert_eq!(resolver.ipv4(&name, soon).await, Err(Failure::NoSuchName), "the timeout is 10 s");
        }
        drop(dead);
    });
}

#[test]
fn two_dead_servers_of_three_delay_questions_and_fail_none() {
    let server = Server::start();
    let dead = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
    let mut options = patient(&[&server]);
    options.servers.extend(dead.iter().map(|socket| socket.local_addr().expect("bound")));
    (options.timeout, options.attempts) = (Span::millis(500), 2);
    on_shard(options, async move |dns: Dns| {
        let resolver = dns.resolver();
        for number in 0..8 {
            assert_eq!(ipv4(&resolver, &format!("n{number}.example")).await, Err(Failure::NoSuchName));
        }
        drop(dead);
    });
}
