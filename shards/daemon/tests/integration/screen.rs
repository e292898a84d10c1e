//! What is found out about a sending host, and what follows from it: DNS lists, reverse names, HELO, speaking too early. A real
//! unbound has the names, and XCLIENT presents the hosts.

use crate::support::presented::{PROXY, Presented, Story, XCLIENT, by_proxy, by_xclient, inputs, present};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::unbound::{Names, Silent, Unbound};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// A HELO name that nothing is held against.
const HELO: &str = "mail.example.org";

/// How long lookups may take on a busy machine that are to be answered.
const PATIENT: &str = "deadline = \"20s\"";

fn host(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// Settings for hosts that XCLIENT presents; `screen` has a key a line.
fn settings(servers: &str, screen: &[&str]) -> Settings {
    let settings = Settings::default().listener_line(XCLIENT).set("screen", PATIENT);
    let settings = settings.set("dns", servers).set("dns", "timeout = \"10s\"");
    screen.iter().fold(settings, |settings, line| settings.set("screen", line))
}

fn list(settings: Settings, zone: &str, weight: i32, answers: &str) -> Settings {
    let lines = [format!("zone = \"{zone}\""), format!("weight = {weight}"), format!("answers = [{answers}]")];
    settings.entry("screen.list", &lines.each_ref().map(String::as_str))
}

/// The first recipient of a host must get this reply: its code, and what it names. Gives what is told of the session.
#[track_caller]
fn check(server: &Server, address: IpAddr, helo: &str, code: u16, named: &str) -> Story {
    check_presented(server, by_xclient(server, &address.to_string(), helo), code, named)
}

/// The same for a client that was presented in some way.
#[track_caller]
fn check_presented(server: &Server, presented: Presented, code: u16, named: &str) -> Story {
    let Presented { mut client, id } = presented;
    client.say("MAIL FROM:<a@example.org>", 250);
    client.send(b"RCPT TO:<alice@example.com>\r\n");
    let reply = client.reply();
    let told = Story::of(server, &id);
    assert_eq!(reply.code, code, "{}, {told:#?}", reply.text());
    if code == 550 {
        let words = format!("550 5.7.1 rejected: the sending host has a bad reputation: {named} [{id}]");
        assert_eq!(reply.text(), words);
        let step = told.last("screen");
        assert_eq!((&step["outcome"], &step["rule"]), (&550.into(), &"screen.score_reject".into()), "{step}");
    }
    told
}

/// The score of a host and what it is made of, as `score=3 list.example=3`; nothing may follow from it.
#[track_caller]
fn check_score(server: &Server, address: IpAddr, helo: &str, score: &str) {
    let told = check(server, address, helo, 250, "");
    assert_eq!(inputs(told.last("screen")), score, "{address} {helo}");
}

#[test]
fn a_listed_host_is_refused_and_told_the_list() {
    let distant = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, 1));
    let names = Names::default().listed("block.example", host(10), "127.0.0.2");
    let unbound = Unbound::start(&names.listed("block.example", distant, "127.0.0.2"));
    let server = Server::start(list(settings(&unbound.servers(), &["score_reject = 10"]), "block.example", 10, ""));
    for address in [host(10), distant] {
        check(&server, address, HELO, 550, "block.example");
    }
    check(&server, host(11), HELO, 250, "");
    check(&server, "2001:db8:0:7::2".parse().expect("an address"), HELO, 250, "");
    // The same connection, speaking for one host and then for another.
    let mut client = by_xclient(&server, &host(10).to_string(), HELO).client;
    for (address, code) in [(host(12), 250), (host(10), 550), (host(11), 250)] {
        present(&mut client, &address.to_string(), HELO);
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say("RCPT TO:<alice@example.com>", code);
        client.say("RSET", 250);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_screened_total", "outcome=\"rejected\""), 3);
    assert_eq!(metrics.sum("ringpost_screened_total", "outcome=\"passed\""), 4);
    assert_eq!(metrics.total("ringpost_recipients_refused_total"), 3);
    assert_eq!(metrics.sum("ringpost_dns_lookups_total", "outcome=\"failed\""), 0);
}

#[test]
fn weights_add_up_and_the_heaviest_is_named() {
    let names = Names::default()
        .listed("first.example", host(1), "127.0.0.2")
        .listed("second.example", host(2), "127.0.0.2")
        .listed("first.example", host(3), "127.0.0.2")
        .listed("second.example", host(3), "127.0.0.2");
    let names = ["first.example", "second.example", "good.example"]
        .iter()
        .fold(names, |names, zone| names.listed(zone, host(4), "127.0.0.2"));
    let unbound = Unbound::start(&names.listed("good.example", host(5), "127.0.0.2"));
    let settings = list(settings(&unbound.servers(), &["score_reject = 10"]), "first.example", 4, "");
    let settings = list(list(settings, "second.example", 6, ""), "good.example", -1, "");
    let server = Server::start(settings);
    check_score(&server, host(1), HELO, "score=4 first.example=4");
    check_score(&server, host(2), HELO, "score=6 second.example=6");
    let told = check(&server, host(3), HELO, 550, "second.example");
    assert_eq!(inputs(told.last("screen")), "score=10 first.example=4 second.example=6");
    // Somebody vouches for it.
    check_score(&server, host(4), HELO, "score=9 first.example=4 second.example=6 good.example=-1");
    check_score(&server, host(5), HELO, "score=-1 good.example=-1");
    check_score(&server, host(6), HELO, "score=0");
}

/// Who is refused was told the key once that the list's provider knows us by, and so was everybody who reads the log.
#[test]
fn the_key_in_the_zone_of_a_list_is_told_to_nobody() {
    let [key, next] = ["abcdefghijklmnopqrstuvwxyz", "zyxwvutsrqponmlkjihgfedcba"];
    let [zone, next_zone] = [key, next].map(|key| format!("{key}.zen.dq.example"));
    let names = Names::default().listed(&zone, host(1), "127.0.0.2").listed(&zone, host(2), "198.51.100.1");
    let unbound = Unbound::start(&names.listed(&next_zone, host(1), "127.0.0.2"));
    let settings = settings(&unbound.servers(), &["score_reject = 10"]);
    let mut server = Server::start(list(settings.clone(), &zone, 10, ""));
    let shown = "***.zen.dq.example";
    let told = check(&server, host(1), HELO, 550, shown);
    assert_eq!(inputs(told.last("screen")), format!("score=10 {shown}=10"));
    check_score(&server, host(2), HELO, "score=0");
    server.wait_for_line("a DNS list gives no usable answer", |line| line["list"] == shown);
    server.reconfigure(|_| list(settings.clone(), &next_zone, 10, ""));
    let reloaded = server.tell(&["reload"]).ok().out;
    assert!(reloaded.contains(&format!("screen.list[{shown}].zone")), "{reloaded}");
    let told_later = check(&server, host(1), HELO, 550, shown);
    server.reconfigure(|_| list(settings, &format!("{key}.zen.dq.example."), 10, ""));
    let refused = server.tell(&["reload"]);
    assert!(refused.err.contains(&format!("\"{shown}.\" is not a zone")), "{}", refused.err);
    server.stop();
    let audit = std::fs::read_to_string(server.home.state_dir().join("audit.log")).expect("is there");
    assert!(audit.contains(shown), "{audit}");
    let told = format!("{told:#?}{told_later:#?}");
    for text in [&told, &reloaded, &refused.err, &audit, &server.log_text()] {
        assert!(!text.contains(key) && !text.contains(next), "{text}");
    }
}

#[test]
fn answers_count_where_they_are_asked_for() {
    let zone = "block.example";
    let answers = ["127.0.0.3", "127.0.0.9", "127.0.0.5", "127.0.1.3", "127.255.255.254", "198.51.100.1"];
    let name = |names: Names, (last, answer): (usize, &&str)| names.listed(zone, host(last as u8), answer);
    let unbound = Unbound::start(&answers.iter().enumerate().fold(Names::default(), name));
    let settings = settings(&unbound.servers(), &["score_reject = 100"]);
    let settings = list(settings, zone, 1, "\"127.0.0.2-127.0.0.4\", \"127.0.0.9\"");
    let server = Server::start(list(settings, zone, 100, "\"127.0.1.3\""));
    for (last, score) in [(0, "score=1 block.example=1"), (1, "score=1 block.example=1"), (2, "score=0")] {
        check_score(&server, host(last), HELO, score);
    }
    check(&server, host(3), HELO, 550, zone);
    // What no list may answer is no listing, and is told to the operator.
    for (last, answer) in [(4, "127.255.255.254"), (5, "198.51.100.1")] {
        check_score(&server, host(last), HELO, "score=0");
        let tells = |line: &serde_json::Value| line["reason"].as_str().is_some_and(|reason| reason.contains(answer));
        server.wait_for_line("a DNS list gives no usable answer", tells);
    }
}

/// Lists have ended by listing everything, so that their last users go away.
#[test]
fn a_list_that_lists_everything_refuses_nobody() {
    let names = Names::default().listed("ended.example", host(1), "127.0.0.2");
    let unbound = Unbound::start(&names.listed("ended.example", Ipv4Addr::LOCALHOST, "127.0.0.2"));
    let server = Server::start(list(settings(&unbound.servers(), &["score_reject = 10"]), "ended.example", 10, ""));
    check_score(&server, host(1), HELO, "score=0");
    server.wait_for_line("a DNS list gives no usable answer", |line| line["list"] == "ended.example");
}

/// A list that keeps silent costs a client the deadline, and after five of them nobody anything.
#[test]
fn a_dead_list_never_blocks_mail() {
    let silent = Silent::start();
    let names = Names::default().dead("dead.example", &silent).listed("block.example", host(9), "127.0.0.2");
    let unbound = Unbound::start(&names);
    let settings = settings(&unbound.servers(), &["score_reject = 10", "deadline = \"2s\""]);
    let settings = list(list(settings, "dead.example", 10, ""), "block.example", 10, "").listener_line(PROXY);
    let server = Server::start(settings);
    let arrive = |address| by_proxy(server.smtp(), address, HELO);
    let check = |presented, code, named: &str| {
        let told = check_presented(&server, presented, code, named);
        assert!(inputs(told.last("lookup")).contains("unanswered=1"), "{told:#?}");
    };
    let skipped = |line: &serde_json::Value| line["list"] == "dead.example" && line["level"] == "warn";
    // All at once, so that they wait together.
    let early: Vec<Presented> = (1..=5).map(|last| arrive(host(last))).collect();
    early.into_iter().for_each(|presented| check(presented, 250, ""));
    server.wait_for_line("a DNS list doesn't work; it is skipped and tried now and then", skipped);
    assert!(silent.heard() > 0, "nobody was asked");
    let late = server.metrics().total("ringpost_dns_late_total");
    // It is not asked any more, and nobody waits for it; the list that works still counts.
    (11..=15).for_each(|last| check(arrive(host(last)), 250, ""));
    check(arrive(host(9)), 550, "block.example");
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_dns_late_total"), late, "somebody waited");
    assert_eq!(metrics.sum("ringpost_dns_lookups_total", "outcome=\"failed\""), 11, "one for each host");
    let mut client = arrive(host(20)).client;
    client.deliver("a@example.org", &["alice@example.com"], &message("dead", "list\r\n"));
    server.maildir("example.com/alice").only();
}

/// No DNS at all: every lookup there is, and nobody answers.
#[test]
fn a_dead_dns_never_blocks_mail() {
    let silent = Silent::start();
    let screen = [
        "score_reject = 10",
        "deadline = \"500ms\"",
        "weight_helo_unresolved = 10",
        "weight_rdns_missing = 10",
        "weight_rdns_unconfirmed = 10",
    ];
    let servers = format!("servers = [\"{}\"]", silent.address);
    let server = Server::start(list(settings(&servers, &screen), "block.example", 10, ""));
    let mut presented = by_xclient(&server, &host(1).to_string(), HELO);
    presented.client.deliver("a@example.org", &["alice@example.com"], &message("no", "DNS\r\n"));
    server.maildir("example.com/alice").only();
    let told = Story::of(&server, &presented.id);
    assert_eq!(inputs(told.last("screen")), "score=0");
    silent.wait_until_asked();
}

#[test]
fn helo_names_and_reverse_names_are_evidence() {
    let names = Names::default()
        .record("mail.example.org A 192.0.2.1")
        .record("other.example.org A 198.51.100.1")
        .record("six.example.org AAAA 2001:db8::1")
        .pointer(Ipv4Addr::new(192, 0, 2, 1), "mail.example.org")
        .pointer(Ipv4Addr::new(192, 0, 2, 2), "other.example.org")
        .pointer(Ipv4Addr::new(192, 0, 2, 3), "gone.example.org")
        // The second of its names leads back.
        .pointer(Ipv4Addr::new(192, 0, 2, 4), "other.example.org")
        .pointer(Ipv4Addr::new(192, 0, 2, 4), "four.example.org")
        .record("four.example.org A 192.0.2.4");
    let unbound = Unbound::start(&names);
    let screen = [
        "score_reject = 63",
        "weight_helo_malformed = 1",
        "weight_helo_own_name = 2",
        "weight_helo_literal = 4",
        "weight_helo_unresolved = 8",
        "weight_rdns_missing = 16",
        "weight_rdns_unconfirmed = 32",
    ];
    let server = Server::start(settings(&unbound.servers(), &screen));
    for (last, helo, score) in [
        (1, "mail.example.org", "score=0"),
        (1, "six.example.org", "score=0"),
        (1, "[192.0.2.1]", "score=0"),
        (4, "mail.example.org", "score=0"),
        (1, "localhost", "score=1 weight_helo_malformed=1"),
        (1, "192.0.2.1", "score=9 weight_helo_malformed=1 weight_helo_unresolved=8"),
        (1, "MX.example.com", "score=10 weight_helo_own_name=2 weight_helo_unresolved=8"),
        (1, "example.com", "score=10 weight_helo_own_name=2 weight_helo_unresolved=8"),
        (1, "[192.0.2.9]", "score=4 weight_helo_literal=4"),
        (1, "[IPv6:2001:db8::1]", "score=4 weight_helo_literal=4"),
        (1, "nowhere.example", "score=8 weight_helo_unresolved=8"),
        (9, "mail.example.org", "score=16 weight_rdns_missing=16"),
        (2, "mail.example.org", "score=32 weight_rdns_unconfirmed=32"),
        (3, "mail.example.org", "score=32 weight_rdns_unconfirmed=32"),
        (2, "localhost", "score=33 weight_helo_malformed=1 weight_rdns_unconfirmed=32"),
    ] {
        check_score(&server, host(last), helo, score);
    }
}

/// What is asked about a name has its own time, from the greeting on. A client once had only to wait until the time since
/// it had connected was over.
#[test]
fn helo_evidence_is_not_avoided_by_waiting() {
    let unbound = Unbound::start(&Names::default().record("mail.example.org A 192.0.2.1"));
    let screen = [
        "deadline = \"3s\"",
        "pregreet_wait = \"3500ms\"",
        "score_reject = 10",
        "weight_pregreet = 1",
        "weight_helo_unresolved = 10",
    ];
    let server = Server::start(settings(&unbound.servers(), &screen));
    let mut clients = [(); 4].map(|()| Client::connect(server.smtp()));
    // The time since the connection is over before anybody can speak.
    clients.iter_mut().for_each(|client| drop(client.expect(220)));
    let [at_once, late, renamed, honest] = &mut clients;
    let judged = |client: &mut Client, code: u16| {
        client.say("MAIL FROM:<a@example.org>", 250);
        client.send(b"RCPT TO:<alice@example.com>\r\n");
        let reply = client.reply();
        assert_eq!(reply.code, code, "{}", reply.text());
        assert_eq!(code == 550, reply.text().contains("weight_helo_unresolved"), "{}", reply.text());
    };
    late.say("EHLO late.nowhere.example", 250);
    renamed.say("EHLO mail.example.org", 250);
    honest.say("EHLO mail.example.org", 250);
    at_once.say("EHLO nowhere.example", 250);
    judged(at_once, 550);
    // So is the time since they greeted.
    std::thread::sleep(Duration::from_millis(3_200));
    judged(late, 550);
    renamed.say("EHLO renamed.nowhere.example", 250);
    judged(renamed, 550);
    judged(honest, 250);
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_dns_late_total"), 0);
    assert_eq!(metrics.sum("ringpost_dns_lookups_total", "outcome=\"missing\""), 3);
    assert_eq!(metrics.sum("ringpost_dns_lookups_total", "outcome=\"found\""), 2);
}

/// RFC 5321 section 4.5.1: who is turned away must still reach somebody who can help.
#[test]
fn a_refused_host_reaches_the_postmaster() {
    let settings = settings("servers = []", &["score_reject = 5", "weight_helo_malformed = 5"]);
    let server = Server::start(settings);
    let mut client = by_xclient(&server, &host(1).to_string(), "localhost").client;
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("RCPT TO:<alice@example.com>", 550, "5.7.1");
    for postmaster in ["postmaster", "PostMaster@example.com"] {
        client.say(&format!("RCPT TO:<{postmaster}>"), 250);
    }
    client.refused("RCPT TO:<postmaster@elsewhere.example>", 550, "5.7.1");
    client.say("DATA", 354);
    assert_eq!(client.content(&message("help", "me\r\n")).code, 250);
    server.maildir("example.com/postmaster").only();
    assert_eq!(server.maildir("example.com/alice").count(), 0);
    check(&server, host(1), "localhost", 550, "weight_helo_malformed");
}

#[test]
fn the_allow_list_is_not_looked_at() {
    let settings = settings("servers = []", &["score_reject = 5", "weight_helo_malformed = 5"]);
    let server = Server::start(settings.set("bans", "allow = [\"192.0.2.0/24\"]"));
    assert!(check(&server, host(1), "localhost", 250, "").steps("screen").is_empty());
    let stranger = "198.51.100.1".parse().expect("an address");
    check(&server, stranger, "localhost", 550, "weight_helo_malformed");
}

#[test]
fn clients_that_speak_first_are_noticed() {
    let screen = ["pregreet_wait = \"2s\"", "weight_pregreet = 10", "score_reject = 10"];
    let server = Server::start(settings("servers = []", &screen));
    let mut early = Client::connect(server.smtp());
    early.send(b"EHLO early.example.org\r\nMAIL FROM:<a@example.org>\r\n");
    early.expect(220);
    early.expect(250);
    early.expect(250);
    early.refused("RCPT TO:<alice@example.com>", 554, "5.5.1 client spoke before the greeting");
    early.quit();
    let mut patient = Client::hello(server.smtp());
    patient.deliver("a@example.org", &["alice@example.com"], &message("patient", "client\r\n"));
    patient.quit();
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_pregreets_total"), 1);
    assert_eq!(metrics.sum("ringpost_screened_total", "outcome=\"rejected\""), 1);
    server.wait_for_line("client spoke before the banner", |line| line["peer"] == "127.0.0.1");
}

/// Whoever is allowed may speak first, and has its banner at once.
#[test]
fn the_allow_list_is_not_tested_for_silence() {
    let screen = ["pregreet_wait = \"1m\"", "weight_pregreet = 10", "score_reject = 10"];
    let server = Server::start(settings("servers = []", &screen).set("bans", "allow = [\"127.0.0.1\"]"));
    let mut client = Client::connect(server.smtp());
    client.send(b"EHLO early.example.org\r\n");
    client.expect(220);
    client.expect(250);
    client.deliver("a@example.org", &["alice@example.com"], &message("early", "client\r\n"));
    assert_eq!(server.metrics().total("ringpost_pregreets_total"), 0);
}

#[test]
fn suspicious_hosts_wait_for_their_replies() {
    const DELAY: Duration = Duration::from_millis(300);
    let screen = ["score_tarpit = 1", "tarpit_delay = \"300ms\"", "weight_helo_malformed = 1"];
    let server = Server::start(settings("servers = []", &screen));
    let mut slow = by_xclient(&server, &host(1).to_string(), "localhost");
    slow.client.say("MAIL FROM:<a@example.org>", 250);
    // Replies are held back from the one on that it is found out with.
    for command in ["RCPT TO:<alice@example.com>", "RCPT TO:<bob@example.com>", "NOOP", "RSET"] {
        let since = Instant::now();
        slow.client.say(command, 250);
        assert!(since.elapsed() >= DELAY, "{command}: {:?}", since.elapsed());
    }
    let told = Story::of(&server, &slow.id);
    assert_eq!(told.steps("tarpit").len(), 4, "{told:#?}");
    assert_eq!(told.last("tarpit")["rule"], "screen.score_tarpit");
    // Who comes over the same connection is not held back for what another did.
    present(&mut slow.client, &host(2).to_string(), HELO);
    let known = Story::of(&server, &slow.id).steps("tarpit").len();
    slow.client.deliver("a@example.org", &["alice@example.com"], &message("other", "host\r\n"));
    assert_eq!(Story::of(&server, &slow.id).steps("tarpit").len(), known);
    assert_eq!(server.metrics().sum("ringpost_screened_total", "outcome=\"tarpitted\""), 1);
    assert_eq!(server.metrics().sum("ringpost_screened_total", "outcome=\"passed\""), 1);
}
