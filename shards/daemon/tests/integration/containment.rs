//! What panics ends alone: the session, the check, the delivery. The other sessions of its shard are served, the mail is not
//! lost, and each panic is counted.

use crate::support::presented::{XCLIENT, by_xclient, present};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::unbound::{Names, Unbound};
use crate::support::wait_until;

/// The name of a client that a fault is for.
const DOOMED: &str = "doomed.example.org";

/// The domain, and with it the target, whose deliveries panic.
const PANICKING: &str = "panicking.example";

/// How often each of these panics.
const TIMES: u64 = 3;

/// A client that has begun a message before anything panics, and must be able to end it after.
struct Bystander(Client);

impl Bystander {
    fn of(server: &Server) -> Self {
        let mut client = Client::hello(server.smtp());
        client.begin("bystander@example.org", &["bystander@example.com"]);
        client.send(b"Subject: begun before\r\n\r\n");
        Self(client)
    }

    #[track_caller]
    fn must_be_served(mut self, server: &Server) {
        let reply = self.0.content(b"and ended after\r\n");
        assert_eq!(reply.code, 250, "{}", reply.text());
        self.0.deliver("bystander@example.org", &["bystander@example.com"], &message("another", "x\r\n"));
        self.0.quit();
        server.maildir("example.com/bystander").wait_for(2);
    }
}

/// Panics are counted here and nowhere else.
#[track_caller]
fn check_counts(server: &Server, sessions: u64, filters: u64, deliveries: u64) {
    let metrics = server.metrics();
    for (name, count) in [
        ("ringpost_sessions_panicked_total", sessions),
        ("ringpost_filters_panicked_total", filters),
        ("ringpost_deliveries_panicked_total", deliveries),
    ] {
        assert_eq!(metrics.total(name), count, "{name}");
    }
}

/// Lines of the log about a panic, which must be errors.
#[track_caller]
fn check_log(server: &Server, text: &str, count: u64) {
    server.wait_for_line(text, |line| line["level"] == "error");
    wait_until(&format!("{count} lines {text:?}"), || {
        server.log().iter().filter(|line| line["message"] == text).count() as u64 == count
    });
}

/// Hosts are screened by their names, and none of those here comes near to being refused.
fn screened(unbound: &Unbound) -> Settings {
    let settings = Settings::default().listener_line(XCLIENT).set("dns", &unbound.servers());
    let settings = settings.set("screen", "deadline = \"20s\"").set("screen", "score_reject = 10");
    settings.set("screen", "weight_helo_unresolved = 1").set("screen", "weight_helo_malformed = 10")
}

#[test]
fn a_panic_in_a_session_ends_that_session() {
    let server = Server::start(Settings::default().fault("session.panic", DOOMED));
    let bystander = Bystander::of(&server);
    for _ in 0..TIMES {
        let mut client = Client::connect(server.smtp());
        client.expect(220);
        let reply = client.say(&format!("EHLO {DOOMED}"), 421);
        assert!(reply.text().starts_with("421 4.3.0 internal error"), "{}", reply.text());
        client.ended();
    }
    bystander.must_be_served(&server);
    server.wait_for_rest();
    check_counts(&server, TIMES, 0, 0);
    check_log(&server, "session panicked", TIMES);
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_sessions_closed_total", "how=\"server\""), TIMES);
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), 2);
}

/// The client of a check that panics is put off, can go on in its session, and has its mail taken once the check works.
#[track_caller]
fn check_filter(fault: &str) {
    let unbound = Unbound::start(&Names::default().record("sound.example.org A 192.0.2.7"));
    let mut server = Server::start(screened(&unbound).fault(fault, DOOMED));
    let bystander = Bystander::of(&server);
    let mut doomed = by_xclient(&server, "192.0.2.9", DOOMED).client;
    doomed.say("MAIL FROM:<a@example.org>", 250);
    doomed.refused("RCPT TO:<alice@example.com>", 451, "4.3.0 internal error in a check");
    // Nobody else is accepted, so there is nothing to send; the session is alive.
    doomed.say("DATA", 554);
    doomed.say("RSET", 250);
    doomed.say("NOOP", 250);
    bystander.must_be_served(&server);
    // Another client in the same session, whose check is sound.
    present(&mut doomed, "192.0.2.7", "sound.example.org");
    doomed.deliver("a@example.org", &["alice@example.com"], &message("sound", "x\r\n"));
    doomed.quit();
    server.wait_for_rest();
    check_counts(&server, 0, 1, 0);
    assert_eq!(server.metrics().total("ringpost_messages_accepted_total"), 3);
    server.stop();
    server.change(Settings::without_faults);
    server.start_again();
    let mut again = by_xclient(&server, "192.0.2.9", DOOMED).client;
    again.deliver("a@example.org", &["alice@example.com"], &message("put off before", "x\r\n"));
    server.maildir("example.com/alice").wait_for(2);
    check_counts(&server, 0, 0, 0);
}

#[test]
fn a_panic_in_a_check_puts_the_client_off() {
    check_filter("filter.panic");
}

#[test]
fn a_panic_in_a_lookup_puts_the_client_off() {
    check_filter("lookup.panic");
}

#[test]
fn a_panic_in_a_delivery_leaves_the_message_in_the_queue() {
    let settings = Settings::default().set("queue", "retry_first = \"1s\"").set("queue", "retry_max = \"1s\"");
    let settings = settings.domain("example.com", "\"any\"", "mail/{domain}/{local}");
    let settings = settings.domain(PANICKING, "\"any\"", "mail/{domain}/{local}");
    let mut server = Server::start(settings.fault("delivery.panic", PANICKING));
    let bystander = Bystander::of(&server);
    let mut client = Client::hello(server.smtp());
    let to = format!("alice@{PANICKING}");
    client.deliver("a@example.org", &[&to, "bob@example.com"], &message("twice", "x\r\n"));
    client.quit();
    // The other recipient has it, and the attempts that panic are repeated.
    server.maildir("example.com/bob").wait_for(1);
    wait_until("attempts that panic", || server.metrics().total("ringpost_deliveries_panicked_total") >= TIMES);
    bystander.must_be_served(&server);
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_queue_messages"), 1);
    assert_eq!(metrics.total("ringpost_sessions_panicked_total") + metrics.total("ringpost_filters_panicked_total"), 0);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"delivered\""), 3);
    server.wait_for_line("delivery panicked", |line| line["level"] == "error");
    assert_eq!(server.maildir(&format!("{PANICKING}/alice")).count(), 0);
    server.stop();
    server.change(Settings::without_faults);
    server.start_again();
    server.maildir(&format!("{PANICKING}/alice")).wait_for(1);
    server.wait_for_rest();
    assert_eq!(server.maildir("example.com/bob").count(), 1, "who has it does not get it again");
}

/// A session that holds up its shard is noticed by the others of that shard as a delay, and by none as a loss.
#[test]
fn a_shard_that_stalled_goes_on_where_it_was() {
    let server = Server::start(Settings::default().fault("shard.stall", DOOMED));
    let bystander = Bystander::of(&server);
    let mut stalling = Client::connect(server.smtp());
    stalling.expect(220);
    stalling.say(&format!("EHLO {DOOMED}"), 250);
    bystander.must_be_served(&server);
    stalling.deliver("a@example.org", &["alice@example.com"], &message("late", "x\r\n"));
    stalling.quit();
    server.wait_for_rest();
    check_counts(&server, 0, 0, 0);
    // Three seconds, less the time for which the heartbeat was not due anyway.
    let lag = server.metrics().total("ringpost_shard_lag_seconds_sum");
    assert!(lag >= 2, "the delay is measured: {lag} s");
}
