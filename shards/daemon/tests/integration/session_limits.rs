//! Limits of a session and of a core: each with a reply that names it, and counted as often as it was told.

use crate::support::limits::Told;
use crate::support::net::client_address;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;

/// Settings, by section.
type Lines<'a> = &'a [(&'a str, &'a str)];

/// Under these settings clients meet these limits so many times, and no others.
#[track_caller]
fn check(settings: Lines<'_>, meet: impl Fn(&Server, &mut Told), expected: &[(&str, u64)]) {
    let settings = settings.iter().fold(Settings::default(), |all, (section, line)| all.set(section, line));
    let settings = settings.domain("example.com", "\"any\"", "mail/{address}");
    let server = Server::start(settings.domain("example.net", "[\"bob\"]", "mail/{address}"));
    let mut told = Told::default();
    meet(&server, &mut told);
    for (limit, count) in expected {
        assert_eq!(told.count(limit), *count, "{limit}: {told:?}");
    }
    told.check(&server);
    server.wait_for_rest();
}

/// Says a line over and over; the session must end after so many replies and a 421 that names a limit.
#[track_caller]
fn say_until_closed(server: &Server, told: &mut Told, opening: &[&str], line: &str, replies: usize) {
    let mut client = Client::hello(server.smtp());
    opening.iter().for_each(|line| drop(client.say(line, 250)));
    for number in 0..replies {
        client.send(format!("{line}\r\n").as_bytes());
        let reply = client.reply();
        assert_eq!(told.hear(&reply), None, "{number}: {}", reply.text());
    }
    let last = client.expect(421);
    assert!(told.hear(&last).is_some(), "no limit is named: {}", last.text());
    client.ended();
}

#[test]
fn errors_end_a_session() {
    let meet = |server: &Server, told: &mut Told| {
        say_until_closed(server, told, &[], "WRONG", 3);
        say_until_closed(server, told, &["MAIL FROM:<a@example.org>"], "RCPT TO:<a@elsewhere.example>", 3);
    };
    check(&[("limits", "errors_per_session = 3")], meet, &[("limits.errors_per_session", 2)]);
}

#[test]
fn a_message_forgives_errors() {
    let meet = |server: &Server, told: &mut Told| {
        let mut client = Client::hello(server.smtp());
        for _ in 0..3 {
            client.say("WRONG", 500);
            client.say("WRONG", 500);
            client.deliver("a@example.org", &["bob@example.net"], &message("between", "x\r\n"));
        }
        client.say("WRONG", 500);
        client.say("WRONG", 500);
        client.say("WRONG", 500);
        told.hear(&client.expect(421));
    };
    check(&[("limits", "errors_per_session = 3")], meet, &[("limits.errors_per_session", 1)]);
}

#[test]
fn guesses_of_recipients_end_a_session() {
    let meet = |server: &Server, told: &mut Told| {
        say_until_closed(server, told, &["MAIL FROM:<a@example.org>"], "RCPT TO:<nobody@example.net>", 4);
        assert_eq!(server.metrics().total("ringpost_recipients_unknown_total"), 4);
    };
    let settings = [("limits", "unknown_recipients_per_session = 3")];
    check(&settings, meet, &[("limits.unknown_recipients_per_session", 1)]);
}

#[test]
fn commands_that_lead_to_nothing_end_a_session() {
    let meet = |server: &Server, told: &mut Told| {
        for line in ["NOOP", "RSET", "VRFY bob", "HELP"] {
            say_until_closed(server, told, &[], line, 6);
        }
    };
    let settings = [("limits", "commands_without_progress = 5")];
    check(&settings, meet, &[("limits.commands_without_progress", 4)]);
}

#[test]
fn a_session_has_so_many_messages() {
    let meet = |server: &Server, told: &mut Told| {
        let mut client = Client::hello(server.smtp());
        let offers = client.say("EHLO client.example.org", 250).text();
        assert!(offers.contains("LIMITS RCPTMAX=1000 MAILMAX=2"), "{offers}");
        for _ in 0..2 {
            client.deliver("a@example.org", &["bob@example.net"], &message("one of two", "x\r\n"));
        }
        told.hear(&client.say("MAIL FROM:<a@example.org>", 421));
        client.ended();
    };
    check(&[("limits", "messages_per_session = 2")], meet, &[("limits.messages_per_session", 1)]);
}

#[test]
fn sizes_and_recipients_have_limits() {
    let meet = |server: &Server, told: &mut Told| {
        let mut client = Client::hello(server.smtp());
        told.hear(&client.say("MAIL FROM:<a@example.org> SIZE=70000", 552));
        client.begin("a@example.org", &["bob@example.net"]);
        let reply = client.content(&message("large", &lines(1, 70_000)));
        assert_eq!((reply.code, told.hear(&reply).is_some()), (552, true), "{}", reply.text());
        client.say("MAIL FROM:<a@example.org>", 250);
        (0..100).for_each(|number| drop(client.say(&format!("RCPT TO:<user{number}@example.com>"), 250)));
        (0..3).for_each(|number| drop(told.hear(&client.say(&format!("RCPT TO:<more{number}@example.com>"), 452))));
        client.say("RSET", 250);
        client.quit();
    };
    let settings = [("limits", "message_size = \"64KiB\""), ("limits", "recipients = 100")];
    check(&settings, meet, &[("limits.message_size", 2), ("limits.recipients", 3)]);
}

/// Waits for the 421 of a client that is out of time.
#[track_caller]
fn out_of_time(told: &mut Told, mut client: Client) {
    told.hear(&client.expect(421));
    client.ended();
}

#[test]
fn a_command_has_its_time() {
    let meet = |server: &Server, told: &mut Told| {
        let mut half = Client::hello(server.smtp());
        half.send(b"NOO");
        let mut banner = Client::connect(server.smtp());
        banner.expect(220);
        for client in [Client::hello(server.smtp()), half, banner] {
            out_of_time(told, client);
        }
    };
    check(&[("limits", "command_timeout = \"1s\"")], meet, &[("limits.command_timeout", 3)]);
}

#[test]
fn the_bytes_of_a_message_have_their_time() {
    let meet = |server: &Server, told: &mut Told| {
        let mut data = Client::hello(server.smtp());
        data.begin("a@example.org", &["bob@example.net"]);
        data.send(b"Subject: h");
        let mut chunk = Client::hello(server.smtp());
        chunk.say("MAIL FROM:<a@example.org>", 250);
        chunk.say("RCPT TO:<bob@example.net>", 250);
        chunk.send(b"BDAT 100 LAST\r\nSubject: h");
        for client in [data, chunk] {
            out_of_time(told, client);
        }
    };
    check(&[("limits", "data_timeout = \"1s\"")], meet, &[("limits.data_timeout", 2)]);
}

/// However busy it is.
#[test]
fn a_session_has_its_time() {
    let meet = |server: &Server, told: &mut Told| {
        let mut busy = Client::hello(server.smtp());
        let mut last = busy.say("NOOP", 250);
        wait_until("the session is over", || {
            busy.send(b"NOOP\r\n");
            last = busy.reply();
            last.code != 250
        });
        assert_eq!(last.code, 421, "{}", last.text());
        told.hear(&last);
        let mut data = Client::hello(server.smtp());
        data.begin("a@example.org", &["bob@example.net"]);
        data.send(b"Subject: h");
        out_of_time(told, data);
    };
    let settings = [("limits", "session_timeout = \"2s\""), ("limits", "commands_without_progress = 0")];
    check(&settings, meet, &[("limits.session_timeout", 2)]);
}

#[test]
fn a_core_has_so_many_messages_in_flight() {
    let meet = |server: &Server, told: &mut Told| {
        let mut busy: Vec<Client> = (0..2).map(|_| Client::hello(server.smtp())).collect();
        busy.iter_mut().for_each(|client| drop(client.say("MAIL FROM:<a@example.org>", 250)));
        let mut third = Client::hello(server.smtp());
        (0..3).for_each(|_| drop(told.hear(&third.say("MAIL FROM:<a@example.org>", 452))));
        busy[0].say("RSET", 250);
        third.deliver("a@example.org", &["bob@example.net"], &message("later", "x\r\n"));
    };
    let settings = [("cores.limits", "messages_in_flight = 2")];
    check(&settings, meet, &[("cores.limits.messages_in_flight", 3)]);
}

/// Messages that come, each too small to be moved to a file, keep others out; none of them is refused itself.
#[test]
fn a_core_has_so_much_memory_for_messages() {
    let meet = |server: &Server, told: &mut Told| {
        let sent = message("held", &lines(7, 14_000));
        let (most, end) = sent.split_at(sent.len() - 100);
        let mut busy: Vec<Client> = (0..6).map(|_| Client::hello(server.smtp())).collect();
        busy.iter_mut().for_each(|client| client.begin("a@example.org", &["bob@example.net"]));
        busy.iter_mut().for_each(|client| client.send(most));
        wait_until("the messages are in memory", || {
            server.metrics().total("ringpost_message_memory_bytes") > 6 * most.len() as u64
        });
        let mut fourth = Client::hello(server.smtp());
        (0..2).for_each(|_| drop(told.hear(&fourth.say("MAIL FROM:<a@example.org>", 452))));
        for client in &mut busy {
            client.send(end);
            client.send(b".\r\n");
            client.expect(250);
        }
        server.wait_for_metric("ringpost_message_memory_bytes", 0);
        fourth.deliver("a@example.org", &["bob@example.net"], &message("later", "x\r\n"));
    };
    let settings = [("cores.limits", "message_memory = \"64KiB\""), ("spool", "inline_max = \"60KiB\"")];
    check(&settings, meet, &[("cores.limits.message_memory", 2)]);
}

#[test]
fn a_core_has_so_large_a_backlog() {
    let meet = |server: &Server, told: &mut Told| {
        server.block("bob@example.net");
        let mut client = Client::hello(server.smtp());
        client.deliver("a@example.org", &["bob@example.net"], &message("backlog", &lines(1, 70_000)));
        (0..2).for_each(|_| drop(told.hear(&client.say("MAIL FROM:<a@example.org>", 452))));
        server.unblock("bob@example.net");
        server.wait_for_metric("ringpost_spool_backlog_bytes", 0);
        client.deliver("a@example.org", &["bob@example.net"], &message("later", "x\r\n"));
    };
    let settings = [
        ("cores.limits", "spool_backlog = \"64KiB\""),
        ("queue", "retry_first = \"200ms\""),
        ("queue", "retry_max = \"400ms\""),
    ];
    check(&settings, meet, &[("cores.limits.spool_backlog", 2)]);
}

/// From the soft limit on the banner comes later; from the hard one on there is a 421 in its place, and at once.
#[test]
fn a_core_near_its_limit_delays_banners_and_at_it_refuses() {
    let settings = Settings::default().set("cores.limits", "connections = 10");
    let settings = settings.set("limits", "connections_soft = 60").set("limits", "banner_delay = \"20ms\"");
    let server = Server::start(settings);
    let mut told = Told::default();
    let mut open: Vec<Client> = Vec::new();
    for number in 0..10 {
        open.push(Client::hello(server.smtp()));
        let delayed = server.metrics().total("ringpost_banners_delayed_total");
        assert_eq!(delayed, (number + 1_u64).saturating_sub(6), "after connection {number}");
    }
    for _ in 0..5 {
        let mut refused = Client::connect(server.smtp());
        told.hear(&refused.expect(421));
        refused.ended();
    }
    assert_eq!(told.count("limits.connections"), 5);
    told.check(&server);
    assert_eq!(server.metrics().total("ringpost_sessions_refused_total"), 5);
    open.drain(..).for_each(Client::quit);
    server.wait_for_rest();
    Client::hello(server.smtp()).quit();
    assert_eq!(server.metrics().total("ringpost_banners_delayed_total"), 4);
}

/// The maximum of the process is split evenly among its cores.
#[test]
fn the_process_has_so_many_connections() {
    let settings = Settings::default().cores(2).set("limits", "connections = 6");
    let server = Server::start(settings.set("limits", "connections_soft = 100"));
    let (mut told, mut open) = (Told::default(), Vec::new());
    for number in 0..40 {
        let mut client = Client::connect_from(client_address(number, 1), server.smtp());
        let reply = client.reply();
        if told.hear(&reply).is_none() {
            open.push(client);
        }
    }
    assert_eq!((open.len(), told.count("limits.connections")), (6, 34));
    told.check(&server);
    assert_eq!(server.metrics().by_shard("ringpost_sessions_open"), [3, 3]);
}

/// A timeout of TLS handshakes can't be told in words, and is counted all the same.
#[test]
fn a_handshake_has_its_time() {
    let settings = Settings::default().listener("mx", "starttls").listener("mxs", "implicit");
    let server = Server::start(settings.set("limits", "command_timeout = \"1s\""));
    let mut upgrade = Client::hello(server.smtp());
    upgrade.say("STARTTLS", 220);
    let mut implicit = Client::connect(server.home.smtp[1]);
    for client in [&mut upgrade, &mut implicit] {
        // An alert of TLS may come, and no word of SMTP.
        let said = client.try_reply();
        assert!(!matches!(said, Ok(Some(_))), "{said:?}");
    }
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_limits_hit_total", "limit=\"limits.command_timeout\""), 2);
    assert_eq!(metrics.total("ringpost_tls_handshakes_failed_total"), 2);
    assert_eq!(metrics.total("ringpost_tls_handshakes_open"), 0);
}
