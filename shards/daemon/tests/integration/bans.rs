//! Bans: by the operator and by rules, on every core at once, and over every kind of restart.

use crate::support::net::{client_address, free_port};
use crate::support::programs::Finished;
use crate::support::secure::Dialect;
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};

/// A command that must be refused with status 1 and these words.
#[track_caller]
fn check_refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    assert!(finished.err.starts_with("ringpost: ") && finished.err.lines().count() == 1, "{}", finished.err);
    words.iter().for_each(|word| assert!(finished.err.contains(word), "no {word:?} in {}", finished.err));
}

/// What `ban list --json` says.
fn listed(server: &Server) -> Vec<Value> {
    let out = server.tell(&["ban", "list", "--json"]).ok().out;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// The networks of these bans.
fn networks(bans: &[Value]) -> Vec<&str> {
    bans.iter().map(|ban| ban["network"].as_str().expect("a network")).collect()
}

/// Whether a client of this address is told that it is banned, or else is served.
fn is_banned(server: &Server, address: IpAddr) -> bool {
    let mut client = Client::connect_from(address, server.smtp());
    let reply = client.reply();
    if reply.code == 554 {
        assert!(reply.lines[0].starts_with("554 5.7.1 this address is banned here ["), "{}", reply.text());
        client.ended();
        return true;
    }
    assert_eq!(reply.code, 220, "{}", reply.text());
    false
}

#[test]
fn bans_are_added_listed_and_lifted() {
    let server = Server::start(Settings::default().cores(2));
    assert_eq!(server.tell(&["ban", "list"]).ok().out, "nobody is banned\n");
    let added = server.tell(&["ban", "add", "127.1.0.1", "--ttl", "2h", "--reason", "spam run"]).ok().out;
    assert!(added.starts_with("127.1.0.1 is banned on every shard until 2") && added.contains(" hour"), "{added}");
    let added = server.tell(&["ban", "add", "2001:db8::/32"]).ok().out;
    assert_eq!(added, "2001:db8::/32 is banned on every shard for good\n");
    let table = server.tell(&["ban", "list"]).ok().out;
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows.len() == 3 && rows[0].starts_with("NETWORK "), "{table}");
    assert!(rows[1].starts_with("127.1.0.1 ") && rows[1].contains("operator") && rows[1].ends_with("spam run"));
    assert!(rows[2].starts_with("2001:db8::/32  for good "), "{table}");
    let bans = listed(&server);
    assert_eq!(networks(&bans), ["127.1.0.1", "2001:db8::/32"]);
    assert_eq!((&bans[0]["reason"], &bans[0]["by"]), (&"spam run".into(), &"operator".into()));
    assert!(bans[0]["since"].is_string() && bans[0]["until"].is_string() && bans[1]["until"].is_null(), "{bans:?}");
    // Another ban of the same network takes its place.
    server.tell(&["ban", "add", "127.1.0.1", "--reason", "for good"]).ok();
    let bans = listed(&server);
    assert_eq!((bans.len(), &bans[0]["reason"], &bans[0]["until"]), (2, &"for good".into(), &Value::Null));
    assert!(is_banned(&server, client_address(0, 1)));
    let lifted = server.tell(&["ban", "rm", "127.1.0.1"]).ok().out;
    assert!(lifted.starts_with("127.1.0.1 is no longer banned; it was since "), "{lifted}");
    assert!(!is_banned(&server, client_address(0, 1)));
    check_refused(&server.tell(&["ban", "rm", "127.1.0.1"]), &["127.1.0.1 is not banned", "ban list"]);
    check_refused(&server.tell(&["ban", "rm", "2001:db8::/33"]), &["not banned"]);
    server.tell(&["ban", "rm", "2001:db8::/32"]).ok();
    assert_eq!(server.tell(&["ban", "list", "--json"]).ok().out.trim(), "[]");
}

#[test]
fn what_can_not_be_banned_is_told() {
    let server = Server::start(Settings::default().set("bans", "allow = [\"127.1.1.0/24\"]"));
    check_refused(&server.tell(&["ban", "add", "127.1.1.7"]), &["127.1.1.7 is covered by 127.1.1.0/24 of bans.allow"]);
    check_refused(&server.tell(&["ban", "add", "126.0.0.0/7"]), &["126.0.0.0/7 is too wide", "/8"]);
    check_refused(&server.tell(&["ban", "add", "::/8"]), &["::/8 is too wide", "/16"]);
    check_refused(&server.tell(&["ban", "add", "0.0.0.0"]), &["not known"]);
    for arguments in [["ban", "add", "127.1.1.7/24"], ["ban", "add", "example.org"], ["ban", "rm", "1.2.3"]] {
        let finished = server.tell(&arguments);
        assert_eq!(finished.status.code(), Some(2), "{}", finished.all());
    }
    assert!(listed(&server).is_empty());
}

/// A ban holds on every core as soon as the command is done, whichever core a client comes to.
#[test]
fn a_ban_is_in_force_on_every_core_at_once() {
    let server = Server::start(Settings::default().cores(2).listener_line("steer = false"));
    for round in 0..5_u8 {
        server.tell(&["ban", "add", &format!("127.1.{round}.0/24")]).ok();
        assert_eq!(server.metrics().by_shard("ringpost_bans"), [u64::from(round) + 1; 2]);
        assert!((1..=20).all(|host| is_banned(&server, client_address(round, host))), "{round}");
        assert!(!is_banned(&server, client_address(round + 1, 1)));
    }
    let metrics = server.metrics();
    let refused = metrics.by_shard("ringpost_bans_refused_total");
    assert!(refused.iter().sum::<u64>() == 100 && refused.iter().all(|count| *count > 20), "{refused:?}");
    assert_eq!(metrics.total("ringpost_sessions_refused_total"), 100);
    for round in 0..5 {
        server.tell(&["ban", "rm", &format!("127.1.{round}.0/24")]).ok();
        assert!((1..=20).all(|host| !is_banned(&server, client_address(round, host))), "{round}");
    }
    assert_eq!(server.metrics().by_shard("ringpost_bans"), [0; 2]);
}

/// Whoever is banned in the middle of a session is told so, whatever it is at; nobody else notices.
#[test]
fn sessions_of_who_is_banned_end() {
    let server = Server::start(Settings::default().cores(2).listener_line("steer = false"));
    let connect = |number: u8| Client::hello_from(client_address(0, number), server.smtp());
    let mut banned: Vec<Client> = (1..=8).map(connect).collect();
    let dialect = Dialect::trusting(&server.home.state_dir().join("tls/self-signed.crt"));
    let mut secure = dialect.upgrade(connect(9), "mx.example.com");
    let mut beside = Client::hello_from(client_address(1, 1), server.smtp());
    beside.begin("a@example.org", &["beside@example.com"]);
    banned[1].say("MAIL FROM:<a@example.org>", 250);
    banned[2].begin("a@example.org", &["banned@example.com"]);
    banned[2].send(b"Subject: half\r\n");
    banned[3].send(b"NOO");
    banned[4].say("MAIL FROM:<a@example.org>", 250);
    banned[4].say("RCPT TO:<banned@example.com>", 250);
    banned[4].send(b"BDAT 100 LAST\r\nSubject: h");
    server.tell(&["ban", "add", "127.1.0.0/24"]).ok();
    for client in &mut banned {
        let last = client.expect(421);
        assert!(last.lines[0].starts_with("421 4.7.1 this address is banned here ["), "{}", last.text());
        client.ended();
    }
    secure.expect(421);
    assert_eq!(beside.content(&message("beside", "x\r\n")).code, 250);
    beside.quit();
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_bans_evicted_total"), 9);
    assert_eq!(
        (metrics.total("ringpost_messages_accepted_total"), server.maildir("example.com/banned").count()),
        (1, 0)
    );
}

#[test]
fn bans_end_with_their_time() {
    let server = Server::start(Settings::default().cores(2));
    server.tell(&["ban", "add", "127.1.0.0/24", "--ttl", "2s"]).ok();
    server.tell(&["ban", "add", "127.1.1.0/24", "--ttl", "1h"]).ok();
    assert!(is_banned(&server, client_address(0, 1)));
    wait_until("the ban is over", || !is_banned(&server, client_address(0, 1)));
    wait_until("it is no longer counted", || server.metrics().by_shard("ringpost_bans") == [1, 1]);
    assert_eq!(networks(&listed(&server)), ["127.1.1.0/24"]);
    assert!(is_banned(&server, client_address(1, 1)));
}

/// Of bans that overlap the one that lasts longest counts.
#[test]
fn bans_that_overlap_are_each_of_their_own() {
    let server = Server::start(Settings::default());
    for network in ["127.1.0.0/24", "127.1.0.1", "127.1.0.0/16"] {
        server.tell(&["ban", "add", network]).ok();
    }
    for network in ["127.1.0.0/24", "127.1.0.0/16"] {
        assert!(is_banned(&server, client_address(0, 1)));
        server.tell(&["ban", "rm", network]).ok();
    }
    assert!(is_banned(&server, client_address(0, 1)) && !is_banned(&server, client_address(0, 2)));
}

#[test]
fn bans_outlast_every_kind_of_restart() {
    let mut server = Server::start(Settings::default().cores(2));
    server.tell(&["ban", "add", "127.1.0.0/24", "--ttl", "1h", "--reason", "back\\slash, \\t and \u{fc}mlaut"]).ok();
    server.tell(&["ban", "add", "127.1.1.0/24"]).ok();
    server.tell(&["ban", "add", "127.1.2.0/24", "--ttl", "1s"]).ok();
    wait_until("one is over", || listed(&server).len() == 2);
    let bans = listed(&server);
    server.stop();
    server.start_again();
    assert_eq!(listed(&server), bans, "after a stop");
    server.tell(&["ban", "add", "127.1.3.0/24", "--ttl", "1h", "--reason", "just before the end"]).ok();
    let bans = listed(&server);
    assert_eq!(bans.len(), 3);
    server.kill();
    server.start_again();
    assert_eq!(listed(&server), bans, "after kill -9");
    for network in [0, 1, 3] {
        assert!(is_banned(&server, client_address(network, 1)));
    }
    assert!(!is_banned(&server, client_address(2, 1)));
    server.tell(&["ban", "rm", "127.1.1.0/24"]).ok();
    server.kill();
    server.start_again();
    assert_eq!(networks(&listed(&server)), ["127.1.0.0/24", "127.1.3.0/24"], "what was lifted stays so");
}

/// A ban whose time is over while the server is down does not come back.
#[test]
fn bans_end_while_the_server_is_down() {
    let mut server = Server::start(Settings::default());
    server.tell(&["ban", "add", "127.1.0.1", "--ttl", "1s"]).ok();
    server.kill();
    std::thread::sleep(std::time::Duration::from_secs(1));
    server.start_again();
    assert!(listed(&server).is_empty() && !is_banned(&server, client_address(0, 1)));
}

/// A line that was damaged costs its own ban, and is told.
#[test]
fn a_damaged_line_costs_one_ban() {
    let mut server = Server::start(Settings::default());
    for network in 0..3 {
        server.tell(&["ban", "add", &format!("127.1.{network}.0/24")]).ok();
    }
    server.stop();
    let path = server.home.state_dir().join("bans");
    let mut bytes = fs::read(&path).expect("the file of bans");
    let second = bytes.windows(8).position(|window| window == b"127.1.1.").expect("the second ban");
    bytes[second + 1] = 0xff;
    bytes.extend_from_slice(b"127.1.7.0/33\t1\t-\toperator\t\n");
    fs::write(&path, bytes).expect("written");
    server.start_again();
    assert_eq!(networks(&listed(&server)), ["127.1.0.0/24", "127.1.2.0/24"]);
    for line in [3, 5] {
        let told = server.wait_for_line("a ban can't be read, and is not in force", |told| told["line"] == line);
        assert_eq!(told["level"], "error", "{told}");
    }
    server.tell(&["ban", "add", "127.1.9.0/24"]).ok();
    server.kill();
    server.start_again();
    assert_eq!(networks(&listed(&server)), ["127.1.0.0/24", "127.1.2.0/24", "127.1.9.0/24"]);
}

/// Who is allowed is served, also where a wider ban would cover it, and also when it is allowed later.
#[test]
fn the_allow_list_goes_before_bans() {
    let mut server = Server::start(Settings::default().cores(2).set("bans", "allow = [\"127.1.0.7\"]"));
    server.tell(&["ban", "add", "127.1.0.0/24"]).ok();
    server.tell(&["ban", "add", "127.1.1.7"]).ok();
    assert!(!is_banned(&server, client_address(0, 7)) && is_banned(&server, client_address(0, 8)));
    server.reconfigure(|settings| settings.set("bans", "allow = [\"127.1.1.0/24\"]"));
    server.tell(&["reload"]).ok();
    assert_eq!(networks(&listed(&server)), ["127.1.0.0/24"], "a ban that is allowed as a whole is lifted");
    assert!(is_banned(&server, client_address(0, 7)) && !is_banned(&server, client_address(1, 7)));
    server.wait_for_line("ban lifted: the config protects or allows it now", |line| line["network"] == "127.1.1.7");
}

#[test]
fn addresses_of_ipv6_are_banned_too() {
    let mut home = Home::new(1);
    home.smtp[0] = free_port(Ipv6Addr::LOCALHOST);
    let server = Server::start_at(home, Settings::default().cores(2));
    let localhost = IpAddr::from(Ipv6Addr::LOCALHOST);
    assert!(!is_banned(&server, localhost));
    let mut open = Client::hello_from(localhost, server.smtp());
    server.tell(&["ban", "add", "::1"]).ok();
    assert!(is_banned(&server, localhost));
    open.expect(421);
    server.tell(&["ban", "rm", "::1"]).ok();
    server.tell(&["ban", "add", "::/64"]).ok();
    assert!(is_banned(&server, localhost));
}

/// What a rule counts, and a client that does it once.
struct Deed {
    offence: &'static str,
    settings: fn(Settings) -> Settings,
    /// Done with a server and from an address; a session that it is given ends with it.
    commit: fn(&Server, IpAddr),
}

const DEEDS: [Deed; 5] = [
    Deed {
        offence: "error",
        settings: |settings| settings,
        commit: |server, from| drop(Client::hello_from(from, server.smtp()).say("WRONG", 500)),
    },
    Deed {
        offence: "unknown-recipient",
        settings: |settings| settings.domain("example.net", "[\"bob\"]", "mail/{address}"),
        commit: |server, from| {
            let mut client = Client::hello_from(from, server.smtp());
            client.say("MAIL FROM:<a@example.org>", 250);
            client.say("RCPT TO:<guess@example.net>", 550);
        },
    },
    Deed {
        offence: "pregreet",
        settings: |settings| settings.set("screen", "pregreet_wait = \"1s\""),
        commit: |server, from| {
            let mut client = Client::connect_from(from, server.smtp());
            client.send(b"EHLO client.example.org\r\n");
            client.expect(220);
        },
    },
    Deed {
        offence: "handshake-failure",
        settings: |settings| settings,
        commit: |server, from| {
            let mut client = Client::hello_from(from, server.smtp());
            client.say("STARTTLS", 220);
            client.send(b"this is no handshake\r\n");
            // An alert, or nothing.
            let _ = client.try_reply();
        },
    },
    Deed {
        offence: "limit",
        settings: |settings| settings.set("limits", "connection_rate_per_ip = 1"),
        commit: |server, from| drop(Client::connect_from(from, server.smtp()).expect(421)),
    },
];

/// Each rule bans who did it often enough, on every core, and nobody else.
#[test]
fn rules_ban_who_offends_too_often() {
    for Deed { offence, settings, commit } in DEEDS {
        let rule = [&format!("offence = \"{offence}\""), "count = 4", "window = \"5m\"", "duration = \"1h\""];
        let base = Settings::default().cores(2).listener_line("steer = false").entry("bans.rule", &rule);
        let server = Server::start(settings(base).set("bans", "allow = [\"127.1.9.0/24\"]"));
        let (offender, beside) = (client_address(0, 1), client_address(0, 2));
        if offence == "limit" {
            // Their first connections use their share up.
            [offender, beside].iter().for_each(|address| drop(Client::hello_from(*address, server.smtp())));
        }
        (0..3).for_each(|_| commit(&server, beside));
        (0..3).for_each(|_| commit(&server, offender));
        assert_eq!(server.metrics().total("ringpost_bans_ordered_total"), 0, "{offence}");
        assert!(listed(&server).is_empty(), "{offence}");
        commit(&server, offender);
        wait_until(&format!("the ban for {offence}"), || server.metrics().by_shard("ringpost_bans") == [1, 1]);
        let bans = listed(&server);
        assert_eq!((networks(&bans), &bans[0]["by"]), (vec!["127.1.0.1"], &offence.into()), "{bans:?}");
        let reason = bans[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains(": 4 within 5m"), "{reason}");
        assert!(bans[0]["until"].is_string(), "{bans:?}");
        server.wait_for_line("banned by a rule", |line| line["network"] == "127.1.0.1" && line["by"] == offence);
        let mut refused = Client::connect_from(offender, server.smtp());
        refused.expect(554);
        if offence == "limit" {
            continue;
        }
        (0..6).for_each(|_| commit(&server, client_address(9, 1)));
        assert_eq!(listed(&server).len(), 1, "{offence}: who is allowed is not banned");
        let ordered = server.metrics().total("ringpost_bans_ordered_total");
        assert_eq!(ordered, 1, "{offence}: orders");
    }
}

/// The session in which it was too much ends as well.
#[test]
fn a_rule_ends_the_session_that_broke_it() {
    let rule = ["offence = \"error\"", "count = 5", "window = \"1m\"", "duration = \"1h\""];
    let server = Server::start(Settings::default().cores(2).entry("bans.rule", &rule));
    let mut client = Client::hello_from(client_address(0, 1), server.smtp());
    (0..5).for_each(|_| drop(client.say("WRONG", 500)));
    let last = client.expect(421);
    assert!(last.lines[0].starts_with("421 4.7.1 "), "{}", last.text());
    client.ended();
    assert!(is_banned(&server, client_address(0, 1)));
}

/// A burst is banned for a moment, and what goes on for long; the longer ban counts.
#[test]
fn rules_of_one_offence_stand_side_by_side() {
    let short = ["offence = \"error\"", "count = 2", "window = \"10s\"", "duration = \"1s\""];
    let long = ["offence = \"error\"", "count = 5", "window = \"1h\"", "duration = \"1d\""];
    let server = Server::start(Settings::default().entry("bans.rule", &short).entry("bans.rule", &long));
    let from = client_address(0, 1);
    for errors in [2, 2, 1] {
        wait_until("the ban before is over", || !is_banned(&server, from));
        let mut client = Client::hello_from(from, server.smtp());
        (0..errors).for_each(|_| drop(client.say("WRONG", 500)));
        client.expect(421);
        client.ended();
    }
    let left = server.tell(&["ban", "list"]).ok().out;
    assert!(left.contains("127.1.0.1") && left.contains(" 23 hours "), "{left}");
    assert_eq!(server.metrics().total("ringpost_bans_ordered_total"), 3);
}

/// A stop must not be lost among the bans of a flood of offenders.
#[test]
fn a_stop_comes_through_a_flood_of_bans() {
    let rule = ["offence = \"error\"", "count = 1", "window = \"1m\"", "duration = \"1h\""];
    let mut server = Server::start(Settings::default().cores(2).entry("bans.rule", &rule));
    let to = server.smtp();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for network in 0..4 {
            let stop = &stop;
            scope.spawn(move || {
                for host in 1..=250 {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let Ok(stream) = crate::support::net::connect_from(client_address(network, host), to) else {
                        return;
                    };
                    let mut client = Client::from_stream(stream);
                    // The server may be gone meanwhile.
                    let _ = client.try_send(b"WRONG\r\n").and_then(|()| client.try_reply());
                }
            });
        }
        wait_until("bans are coming", || server.metrics().total("ringpost_bans") > 40);
        server.signal(Signal::TERM);
        let status = server.wait();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(status.success(), "{status}");
    });
    server.start_again();
    assert!(listed(&server).len() > 40);
}
