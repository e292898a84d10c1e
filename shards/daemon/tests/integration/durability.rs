//! What has become of a message when it is answered 250: the classes memory, next-hop and fsync.

use crate::support::hop::{Answer, Hop, Manner, Manners, Moment};
use crate::support::net::{client_address, free_port, own_address};
use crate::support::presented::{Story, inputs};
use crate::support::queue::{SENDERS, hasty, in_state, queue, report, reports};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id, session_id, stuffed};
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

const ALICE: &str = "alice@example.com";

/// Mail for example.com is of the class memory and goes to this address.
fn memory(hop: SocketAddr) -> Settings {
    of_class("memory", hop, &["breaker_failures = 0"])
}

fn of_class(class: &str, hop: SocketAddr, lines: &[&str]) -> Settings {
    let (hosts, class) = (format!("hosts = [\"{hop}\"]"), format!("durability = \"{class}\""));
    hasty().target("hop", "smtp", &[&[hosts.as_str()], lines].concat()).domain_to("example.com", "\"hop\"", &[&class])
}

fn held() -> Hop {
    Manner::default().start(|moment| match moment {
        Moment::End => Answer::Hold,
        _ => Answer::Usual,
    })
}

/// The session, with its id.
fn session(server: &Server) -> (Client, String) {
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("EHLO client.example.org", 250);
    (client, id)
}

/// The class is told by the metric, the log and explain, and the message has been counted once.
#[track_caller]
fn check_class(server: &Server, session: &str, id: &str, class: &str, count: u64) {
    let by_class = server.metrics().by_label("ringpost_messages_durability_total", "durability");
    assert_eq!(by_class.get(class), Some(&count), "{by_class:?}");
    let line = server.wait_for_line("accepted", |line| line["id"] == id);
    assert_eq!(line["durability"], class, "{line}");
    let told = Story::of(server, session);
    let step = inputs(told.last("commit"));
    assert!(step.contains(&format!("id={id}")) && step.contains(&format!("durability={class}")), "{step}");
}

fn records(server: &Server) -> u64 {
    server.metrics().total("ringpost_spool_records_total")
}

#[test]
fn what_is_kept_in_memory_and_delivered_at_once_is_never_written() {
    let hop = Hop::obliging();
    let server = Server::start(memory(hop.address));
    let (mut client, session) = session(&server);
    let before = records(&server);
    let sent: Vec<Vec<u8>> = (0..20).map(|number| message(&format!("m{number}"), &lines(number, 2_000))).collect();
    for (number, sent) in (1..).zip(&sent) {
        let id = client.deliver("a@sender.example", &[ALICE], sent);
        check_class(&server, &session, &id, "memory", number);
    }
    let taken = hop.wait_for(20);
    for sent in &sent {
        assert!(taken.iter().any(|taken| taken.body.ends_with(sent)), "a message is another");
    }
    server.wait_until_delivered();
    assert_eq!(records(&server), before);
    let metrics = server.metrics();
    assert_eq!(
        (metrics.total("ringpost_kept_messages"), metrics.total("ringpost_kept_messages_persisted_total")),
        (0, 0)
    );
}

#[test]
fn what_is_kept_in_memory_is_written_down_when_its_first_attempt_fails() {
    let address = free_port(own_address());
    let mut server = Server::start(memory(address));
    let sent = message("kept", "x\r\n");
    let mut client = Client::hello(server.smtp());
    let ids: Vec<String> = (0..5).map(|_| client.deliver("a@sender.example", &[ALICE], &sent)).collect();
    // One that is too large to be kept so is on the disk at once.
    let large = message("large", &lines(1, 600_000));
    let id = client.deliver("a@sender.example", &[ALICE], &large);
    assert_eq!(server.wait_for_line("accepted", |line| line["id"] == id.as_str())["durability"], "fsync");
    server.wait_for_metric("ringpost_kept_messages_persisted_total", 5);
    server.wait_for_metric("ringpost_kept_messages", 0);
    assert_eq!(queue(&server, &["show", &ids[0]])["kept"], "log");
    server.kill();
    server.start_again();
    server.wait_for_metric("ringpost_queue_messages", 6);
    let hop = Manner::default().at(address).start(|_| Answer::Usual);
    let taken = hop.wait_for(6);
    assert_eq!(taken.iter().filter(|taken| taken.body.ends_with(&sent)).count(), 5);
    assert!(taken.iter().any(|taken| taken.body.ends_with(&large)));
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 0);
}

/// What is under way, and what has not had its turn yet.
#[test]
fn what_is_kept_in_memory_outlives_an_orderly_stop() {
    let hop = held();
    let settings = of_class("memory", hop.address, &["concurrency = 2"]).set("server", "drain_timeout = \"1s\"");
    let mut server = Server::start(settings.cores(2));
    let mut client = Client::hello(server.smtp());
    let sent: Vec<Vec<u8>> = (0..10).map(|number| message(&format!("m{number}"), "x\r\n")).collect();
    let ids: Vec<String> = sent.iter().map(|sent| client.deliver("a@sender.example", &[ALICE], sent)).collect();
    client.quit();
    wait_until("as many are under way as may be", || hop.held() == 2);
    assert_eq!(server.metrics().total("ringpost_kept_messages"), 10);
    assert_eq!(queue(&server, &["show", &ids[9]])["kept"], "memory");
    server.stop();
    let address = hop.address;
    drop(hop);
    // The next start finds all that nobody has answered for.
    let again = Manner::default().at(address).start(|_| Answer::Usual);
    server.start_again();
    let all = again.wait_for(10);
    for sent in &sent {
        assert!(all.iter().any(|taken| taken.body.ends_with(sent)), "a message is lost");
    }
    server.wait_until_delivered();
}

/// Some of its recipients are told of at once, and others have to wait: it is their first attempt all the same. And what
/// becomes a dead letter waits for an operator.
#[test]
fn what_is_kept_in_memory_is_written_down_whatever_becomes_of_others() {
    let hop = Manner::default().start(|moment| match moment {
        Moment::Rcpt(line) if line.contains("nobody") => Answer::Say("550 5.1.1 who?"),
        Moment::Rcpt(line) if line.contains("later") => Answer::Say("450 4.2.1 later"),
        _ => Answer::Usual,
    });
    let slow = |settings: Settings| settings.set("queue", "retry_first = \"1h\"").set("queue", "retry_max = \"1h\"");
    let mut server = Server::start(slow(memory(hop.address)));
    let mut client = Client::hello(server.smtp());
    let to = [ALICE, "nobody@example.com", "later@example.com"];
    let id = client.deliver("a@sender.example", &to, &message("some", "x\r\n"));
    report(&server, "a").says("nobody@example.com", "failed", "5.1.1", "smtp; 550 who?");
    let dead = client.deliver("", &["nobody@example.com"], &message("dead", "x\r\n"));
    wait_until("it is a dead letter", || in_state(&server, "dead") == 1);
    server.wait_for_metric("ringpost_kept_messages", 0);
    assert_eq!(queue(&server, &["show", &dead])["kept"], "log");
    server.kill();
    server.start_again();
    assert_eq!((in_state(&server, "dead"), in_state(&server, "deferred") + in_state(&server, "ready")), (1, 1));
    hop.change(|_| Answer::Usual);
    server.tell(&["queue", "retry", &id, &dead]).ok();
    let taken = hop.wait_for(3);
    let rcpt: Vec<&str> = taken.iter().flat_map(|taken| &taken.rcpt).map(String::as_str).collect();
    assert_eq!(rcpt.iter().filter(|line| line.contains(ALICE)).count(), 1, "{rcpt:?}");
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 1);
}

/// An operator may look at it and hold it before it is anywhere else.
#[test]
fn what_is_kept_in_memory_can_be_held_over_a_kill() {
    let hop = held();
    let mut server = Server::start(of_class("memory", hop.address, &["concurrency = 1"]));
    let mut client = Client::hello(server.smtp());
    client.deliver("a@sender.example", &[ALICE], &message("first", "x\r\n"));
    wait_until("the first is under way", || hop.held() == 1);
    let id = client.deliver("a@sender.example", &[ALICE], &message("second", "x\r\n"));
    server.tell(&["queue", "hold", &id]).ok();
    wait_until("what is held is written down", || queue(&server, &["show", &id])["kept"] == "log");
    server.kill();
    server.start_again();
    assert_eq!(in_state(&server, "held"), 1);
    hop.release(100);
    server.tell(&["queue", "release", &id]).ok();
    wait_until("it arrives", || hop.taken().iter().any(|taken| taken.body.ends_with(&message("second", "x\r\n"))));
    server.wait_until_delivered();
}

#[test]
fn a_client_hears_what_the_next_hop_says() {
    let hop = Hop::obliging();
    let server = Server::start(of_class("next-hop", hop.address, &[]));
    let (mut client, session) = session(&server);
    let before = records(&server);
    let sent = message("handed", &lines(3, 3_000));
    let id = client.deliver("a@sender.example", &[ALICE], &sent);
    // Not later: the 250 is the next hop's.
    assert!(hop.only().body.ends_with(&sent));
    check_class(&server, &session, &id, "next-hop", 1);
    let large = message("large", &lines(4, 600_000));
    client.deliver("a@sender.example", &[ALICE, "bob@example.com"], &large);
    assert!(hop.wait_for(2)[1].body.ends_with(&large));
    let refusals: [(Manners, u16); 4] = [
        (|moment| at_end(moment, "550 5.7.1 spam"), 554),
        (|moment| at_end(moment, "451 4.3.0 not now"), 451),
        (|moment| if matches!(moment, Moment::Rcpt(_)) { Answer::Say("550 5.1.1 who?") } else { Answer::Usual }, 554),
        (|moment| if matches!(moment, Moment::End) { Answer::Close } else { Answer::Usual }, 451),
    ];
    for (decide, code) in refusals {
        hop.change(decide);
        client.begin("a@sender.example", &[ALICE]);
        let reply = client.content(&sent);
        assert_eq!(reply.code, code, "{}", reply.text());
        assert!(!reply.text().contains("queued"), "{}", reply.text());
    }
    // The session goes on as if nothing had been.
    hop.change(|_| Answer::Usual);
    client.deliver("a@sender.example", &[ALICE], &sent);
    client.quit();
    server.wait_until_delivered();
    assert_eq!(records(&server), before);
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), 3);
    assert_eq!(metrics.total("ringpost_messages_rejected_total"), 2);
    assert_eq!(metrics.total("ringpost_messages_deferred_total"), 2);
    assert_eq!(metrics.total("ringpost_reports_total"), 0, "the client tells its user");
    let bodies = std::fs::read_dir(server.home.state_dir().join("spool")).expect("a folder");
    assert!(bodies.flatten().all(|entry| !entry.file_name().to_string_lossy().contains(&id)), "a body file is left");
}

fn at_end(moment: Moment<'_>, line: &'static str) -> Answer {
    if matches!(moment, Moment::End) { Answer::Say(line) } else { Answer::Usual }
}

#[test]
fn a_client_waits_as_long_as_the_next_hop_takes() {
    let hop = held();
    let server = Server::start(of_class("next-hop", hop.address, &[]));
    let mut client = Client::hello(server.smtp());
    client.begin("a@sender.example", &[ALICE]);
    client.send(&stuffed(&message("slow", "x\r\n")));
    wait_until("the next hop has it", || hop.held() == 1);
    client.stream().set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let early = client.try_reply();
    assert!(early.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{early:?}");
    client.stream().set_read_timeout(Some(crate::support::PATIENCE)).expect("a timeout");
    // Others are served meanwhile.
    Client::hello(server.smtp()).deliver("", &["a@sender.example"], &message("other", "x\r\n"));
    hop.release(1);
    queued_id(&client.expect(250));
    server.wait_until_delivered();
}

/// A client that waits counts like any delivery.
#[test]
fn clients_that_wait_keep_to_the_concurrency_of_the_target() {
    let hop = held();
    let server = Server::start(of_class("next-hop", hop.address, &["concurrency = 2"]).cores(2));
    let mut clients: Vec<Client> = (0..8)
        .map(|number| {
            let mut client = Client::hello_from(client_address(number, 1), server.smtp());
            client.begin("a@sender.example", &[ALICE]);
            client.send(&stuffed(&message(&format!("m{number}"), "x\r\n")));
            client
        })
        .collect();
    for _ in 0..6 {
        wait_until("as many are under way as may be", || hop.held() == 2);
        hop.release(1);
    }
    hop.release(2);
    clients.iter_mut().for_each(|client| drop(queued_id(&client.expect(250))));
    assert_eq!((hop.count(), hop.peak()), (8, 2));
    server.wait_until_delivered();
}

/// Nobody waits for a target that is left alone.
#[test]
fn a_client_hears_at_once_that_the_target_is_left_alone() {
    let address = free_port(own_address());
    let lines = ["breaker_failures = 2", "breaker_pause = \"1h\"", "breaker_pause_max = \"1h\""];
    let server = Server::start(of_class("next-hop", address, &lines));
    let mut client = Client::hello(server.smtp());
    let mut put_off = || {
        client.begin("a@sender.example", &[ALICE]);
        let reply = client.content(&message("away", "x\r\n"));
        assert!(reply.code == 451 && reply.lines[0].starts_with("451 4.4.1 "), "{}", reply.text());
    };
    (0..2).for_each(|_| put_off());
    server.wait_for_metric("ringpost_breakers_open", 1);
    let hop = Manner::default().at(address).start(|_| Answer::Usual);
    put_off();
    assert_eq!(hop.connections(), 0);
}

/// RFC 3461 section 5.2: what the sender asked to be told is told in this class, too.
#[test]
fn a_success_is_told_where_the_next_hop_does_not() {
    let (plain, reporting) = (Hop::obliging(), Manner::default().offers(&["DSN"]).start(|_| Answer::Usual));
    let hosts = format!("hosts = [\"{}\"]", reporting.address);
    let settings = of_class("next-hop", plain.address, &[]).target("reporting", "smtp", &[&hosts]).domain_to(
        "reporting.example",
        "\"reporting\"",
        &["durability = \"next-hop\""],
    );
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    for (sender, to) in [("a", ALICE), ("b", "x@reporting.example")] {
        for content in [message("told", "x\r\n"), message("told", &lines(1, 600_000))] {
            client.say(&format!("MAIL FROM:<{sender}@sender.example>"), 250);
            client.say(&format!("RCPT TO:<{to}> NOTIFY=SUCCESS"), 250);
            client.say("DATA", 354);
            assert_eq!(client.content(&content).code, 250);
        }
    }
    for told in reports(&server, "a", 2) {
        told.says(ALICE, "relayed", "2.0.0", "");
        assert!(told.contains(b"\r\nSubject: told\r\n"));
    }
    assert_eq!(reporting.wait_for(2)[0].rcpt, ["RCPT TO:<x@reporting.example> NOTIFY=SUCCESS"]);
    // Of a message that is taken in part, too.
    plain.change(|moment| match moment {
        Moment::Rcpt(line) if line.contains("nobody") => Answer::Say("550 5.1.1 who?"),
        _ => Answer::Usual,
    });
    client.say("MAIL FROM:<c@sender.example>", 250);
    client.say(&format!("RCPT TO:<{ALICE}> NOTIFY=SUCCESS,FAILURE"), 250);
    client.say("RCPT TO:<nobody@example.com> NOTIFY=SUCCESS,FAILURE", 250);
    client.say("DATA", 354);
    assert_eq!(client.content(&message("part", "x\r\n")).code, 250);
    let told = reports(&server, "c", 2);
    let about = |address: &str| {
        let wanted = format!("rfc822; {address}");
        told.iter().find(|told| told.recipients[0]["final-recipient"] == wanted).expect("a report")
    };
    about(ALICE).says(ALICE, "relayed", "2.0.0", "");
    about("nobody@example.com").says("nobody@example.com", "failed", "5.1.1", "who?");
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/b")).count(), 0);
}

#[test]
fn a_next_hop_that_is_away_or_silent_leaves_the_message_with_the_client() {
    let address = free_port(own_address());
    let settings = of_class("next-hop", address, &["breaker_failures = 0"]).set("queue", "next_hop_timeout = \"1s\"");
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    let try_it = |client: &mut Client| {
        client.begin("a@sender.example", &[ALICE]);
        let reply = client.content(&message("away", "x\r\n"));
        assert!(reply.code == 451 && reply.lines[0].starts_with("451 4.4.1 "), "{}", reply.text());
    };
    try_it(&mut client);
    let hop = Manner::default().at(address).start(|moment| match moment {
        Moment::End => Answer::Silence,
        _ => Answer::Usual,
    });
    try_it(&mut client);
    // The connection on which it may still be answered is closed.
    wait_until("no connection is left", || hop.open() == 0);
    server.wait_until_delivered();
    hop.change(|_| Answer::Usual);
    client.deliver("a@sender.example", &[ALICE], &message("back", "x\r\n"));
    assert_eq!(server.metrics().sum("ringpost_messages_durability_total", "durability=\"next-hop\""), 1);
}

/// There is one reply for all recipients: who is refused is reported, and who is put off is tried again.
#[test]
fn what_the_next_hop_takes_in_part_is_ours_from_then_on() {
    let hop = Manner::default().start(|moment| match moment {
        Moment::Rcpt(line) if line.contains("nobody") => Answer::Say("550 5.1.1 who?"),
        Moment::Rcpt(line) if line.contains("later") => Answer::Say("450 4.2.1 later"),
        _ => Answer::Usual,
    });
    let server = Server::start(of_class("next-hop", hop.address, &[]));
    let (mut client, session) = session(&server);
    let sent = message("part", "x\r\n");
    let id = client.deliver("a@sender.example", &[ALICE, "nobody@example.com", "later@example.com"], &sent);
    check_class(&server, &session, &id, "fsync", 1);
    report(&server, "a").says("nobody@example.com", "failed", "5.1.1", "smtp; 550 who?");
    server.wait_for_metric("ringpost_queue_deferred_messages", 1);
    hop.change(|_| Answer::Usual);
    let taken = hop.wait_for(2);
    assert_eq!(taken[0].rcpt, ["RCPT TO:<alice@example.com>"]);
    assert_eq!(taken[1].rcpt, ["RCPT TO:<later@example.com>"], "alice has it already");
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 1);
}

#[test]
fn a_message_for_recipients_of_several_classes_is_on_the_disk() {
    let hop = Hop::obliging();
    let settings = memory(hop.address)
        .target("mail", "maildir", &["path = \"mail/{domain}/{local}\""])
        .domain_to("hop.example", "\"hop\"", &["durability = \"next-hop\""])
        .domain_to("disk.example", "\"mail\"", &["durability = \"fsync\""])
        .domain_to("kept.example", "\"mail\"", &["durability = \"memory\""]);
    let settings = settings.entry("route", &["recipient = \"vip@*\"", "target = \"mail\""]);
    let server = Server::start(settings);
    let (mut client, session) = session(&server);
    let mut count = std::collections::BTreeMap::<&str, u64>::new();
    for (to, class) in [
        (&["a@kept.example"][..], "memory"),
        (&["a@kept.example", ALICE], "memory"),
        (&["a@hop.example"], "next-hop"),
        (&["a@disk.example"], "fsync"),
        (&["a@kept.example", "a@hop.example"], "fsync"),
        (&["a@kept.example", "a@disk.example"], "fsync"),
        (&["a@hop.example", "a@disk.example"], "fsync"),
        // By its route, whatever the domain says.
        (&["vip@kept.example"], "fsync"),
    ] {
        let before = records(&server);
        let id = client.deliver("a@sender.example", to, &message("mixed", "x\r\n"));
        let so_far = count.entry(class).or_default();
        *so_far += 1;
        check_class(&server, &session, &id, class, *so_far);
        server.wait_until_delivered();
        assert_eq!(records(&server) > before, class == "fsync", "{to:?}");
    }
}
