//! Greylisting: who is put off, who is known, for how long, and that all shards agree about it.

use crate::support::postfix::Postfix;
use crate::support::presented::{PROXY, Presented, Story, by_proxy, inputs};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::unbound::{Names, Unbound};
use crate::support::{eventually, wait_until};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// A HELO name that nothing is held against.
const HELO: &str = "mail.example.org";

/// A delay that no test waits for.
const LONG: &[&str] = &["mode = \"all\"", "delay = \"1h\"", "network_passes = 0"];

/// A delay that a test waits for.
const SHORT: &[&str] = &["mode = \"all\"", "delay = \"1s\"", "network_passes = 0"];

/// Networks that are strangers to each other.
const NETWORKS: u8 = 24;

/// Settings for hosts that a proxy presents; `greylist` has a key a line.
fn settings(greylist: &[&str]) -> Settings {
    let settings = Settings::default().listener_line(PROXY);
    greylist.iter().fold(settings, |settings, line| settings.set("greylist", line))
}

/// A host of one of the networks.
fn host(network: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, network, last).into()
}

/// A mail to come: where from, who from, who to.
#[derive(Clone, Copy, Debug)]
struct Mail<'a>(IpAddr, &'a str, &'a str);

impl Mail<'_> {
    /// Connects and goes as far as the recipient; gives the reply's code, and why as `explain` tells it.
    fn try_once(self, server: &Server) -> (u16, String) {
        self.try_as(server, HELO)
    }

    fn try_as(self, server: &Server, helo: &str) -> (u16, String) {
        let Self(address, from, to) = self;
        let Presented { mut client, id } = by_proxy(server.smtp(), address, helo);
        client.say(&format!("MAIL FROM:<{from}>"), 250);
        client.send(format!("RCPT TO:<{to}>\r\n").as_bytes());
        let reply = client.reply();
        if reply.code != 250 {
            assert_eq!(reply.text(), format!("450 4.7.1 greylisted, try again in a few minutes [{id}]"));
        }
        let told = Story::of(server, &id);
        let why = told.steps("greylist").pop().map(inputs).unwrap_or_default();
        let why = why.split_once("why=").map_or("", |(_, why)| why.split(" seconds_left").next().unwrap_or(""));
        (reply.code, why.to_owned())
    }

    /// One try must come out like this.
    #[track_caller]
    fn check(self, server: &Server, code: u16, why: &str) {
        assert_eq!(self.try_once(server), (code, why.to_owned()), "{self:?}");
    }

    /// Tries until the mail passes because it came again.
    #[track_caller]
    fn pass(self, server: &Server) {
        let passed = eventually(|| match self.try_once(server) {
            (250, why) => Some(why),
            (_, why) => {
                assert_eq!(why, "came too soon", "{self:?}");
                None
            }
        });
        assert_eq!(passed.as_deref(), Some("came again"), "{self:?}");
    }
}

fn file(server: &Server) -> PathBuf {
    server.home.state_dir().join("greylist")
}

/// Waits until so many changes are on disk: the file's beginning is 24 bytes, and records have one size.
fn wait_for_records(server: &Server, before: u64) {
    let size = || std::fs::metadata(file(server)).map_or(0, |meta| meta.len());
    wait_until("the greylist is written", || size() > before);
}

#[test]
fn a_stranger_is_put_off_until_it_comes_again() {
    let server = Server::start(settings(LONG));
    let mail = Mail(host(1, 1), "a@example.org", "alice@example.com");
    mail.check(&server, 450, "first seen");
    mail.check(&server, 450, "came too soon");
    // Another host of the network is the same stranger; ASCII case does not count.
    Mail(host(1, 200), "A@example.org", "Alice@EXAMPLE.com").check(&server, 450, "came too soon");
    for other in [
        Mail(host(2, 1), "a@example.org", "alice@example.com"),
        Mail(host(1, 1), "b@example.org", "alice@example.com"),
        Mail(host(1, 1), "a@example.org", "bob@example.com"),
        Mail(host(1, 1), "", "alice@example.com"),
        Mail("2001:db8:0:7::1".parse().expect("an address"), "a@example.org", "alice@example.com"),
    ] {
        other.check(&server, 450, "first seen");
    }
    let neighbour = "2001:db8:0:7:8::1".parse().expect("an address");
    Mail(neighbour, "a@example.org", "alice@example.com").check(&server, 450, "came too soon");
    // Who asks for help is not put off.
    Mail(host(9, 1), "a@example.org", "postmaster@example.com").check(&server, 250, "");
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_greylist_total", "outcome=\"waited\""), 9);
    server.wait_for_metric("ringpost_greylist_entries", 6);
}

#[test]
fn who_came_again_is_known() {
    let server = Server::start(settings(SHORT));
    let mail = Mail(host(1, 1), "a@example.org", "alice@example.com");
    mail.check(&server, 450, "first seen");
    mail.pass(&server);
    mail.check(&server, 250, "triplet is known");
    Mail(host(1, 1), "a@example.org", "bob@example.com").check(&server, 450, "first seen");
    let mut client = by_proxy(server.smtp(), host(1, 7), HELO).client;
    client.deliver("a@example.org", &["alice@example.com"], &message("known", "sender\r\n"));
    server.maildir("example.com/alice").only();
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_greylist_total", "outcome=\"retried\""), 1);
    assert_eq!(metrics.sum("ringpost_greylist_total", "outcome=\"known\""), 2);
}

#[test]
fn who_comes_too_late_is_a_stranger_again() {
    const WINDOW: Duration = Duration::from_secs(2);
    let server = Server::start(settings(SHORT).set("greylist", "window = \"2s\""));
    let mail = Mail(host(1, 1), "a@example.org", "alice@example.com");
    mail.check(&server, 450, "first seen");
    // Nothing tells that the window has passed but the time.
    std::thread::sleep(WINDOW + Duration::from_millis(100));
    mail.check(&server, 450, "first seen");
}

#[test]
fn what_is_known_outlasts_a_restart_and_a_crash() {
    let mut server = Server::start(settings(SHORT));
    let known = Mail(host(1, 1), "a@example.org", "alice@example.com");
    let waiting = Mail(host(2, 1), "a@example.org", "alice@example.com");
    known.check(&server, 450, "first seen");
    known.pass(&server);
    waiting.check(&server, 450, "first seen");
    // At the stop everything is written.
    server.stop();
    server.start_again();
    known.check(&server, 250, "triplet is known");
    waiting.pass(&server);
    // Without a stop, what is older than a moment.
    let crashed = Mail(host(3, 1), "a@example.org", "alice@example.com");
    let before = std::fs::metadata(file(&server)).expect("a greylist").len();
    crashed.check(&server, 450, "first seen");
    wait_for_records(&server, before);
    server.kill();
    server.start_again();
    known.check(&server, 250, "triplet is known");
    waiting.check(&server, 250, "triplet is known");
    crashed.pass(&server);
}

/// A half-written record at the end of the file, as a crash leaves it, costs nothing but itself.
#[test]
fn a_torn_greylist_is_read_as_far_as_it_goes() {
    let mut server = Server::start(settings(SHORT));
    let known = Mail(host(1, 1), "a@example.org", "alice@example.com");
    known.check(&server, 450, "first seen");
    known.pass(&server);
    server.stop();
    let mut bytes = std::fs::read(file(&server)).expect("a greylist");
    bytes.extend([7; 21]);
    std::fs::write(file(&server), bytes).expect("written");
    server.start_again();
    known.check(&server, 250, "triplet is known");
    let other = Mail(host(2, 1), "a@example.org", "alice@example.com");
    other.check(&server, 450, "first seen");
    server.stop();
    server.start_again();
    other.pass(&server);
    known.check(&server, 250, "triplet is known");
}

#[test]
fn a_network_becomes_known_by_its_mails() {
    let mut server = Server::start(settings(SHORT).set("greylist", "network_passes = 2"));
    for from in ["a@example.org", "b@example.org"] {
        let mail = Mail(host(1, 1), from, "alice@example.com");
        mail.check(&server, 450, "first seen");
        mail.pass(&server);
    }
    let another = Mail(host(1, 9), "c@example.org", "bob@example.com");
    another.check(&server, 250, "network is known");
    Mail(host(2, 9), "c@example.org", "bob@example.com").check(&server, 450, "first seen");
    server.stop();
    server.start_again();
    another.check(&server, 250, "network is known");
}

#[test]
fn only_suspicious_hosts_are_put_off_if_so_configured() {
    let settings = settings(&["mode = \"suspicious\"", "delay = \"1h\""]).set("screen", "score_greylist = 1");
    let server = Server::start(settings.set("screen", "weight_helo_malformed = 1"));
    let mail = Mail(host(1, 1), "a@example.org", "alice@example.com");
    assert_eq!(mail.try_as(&server, "localhost"), (450, "first seen".to_owned()));
    mail.check(&server, 250, "");
}

#[test]
fn who_is_vouched_for_is_not_put_off() {
    let unbound = Unbound::start(&Names::default().listed("good.example", host(1, 1), "127.0.0.2"));
    let settings = settings(LONG).set("dns", &unbound.servers()).set("dns", "timeout = \"10s\"");
    let settings = settings.set("screen", "deadline = \"20s\"").set("bans", "allow = [\"198.18.2.0/24\"]");
    let server = Server::start(settings.entry("screen.list", &["zone = \"good.example\"", "weight = -1"]));
    for (network, code, why) in [(1, 250, ""), (2, 250, ""), (3, 450, "first seen")] {
        Mail(host(network, 1), "a@example.org", "alice@example.com").check(&server, code, why);
    }
}

/// Connections come to any shard, and the network's owner is asked.
#[test]
fn two_cores_agree_about_strangers() {
    let mut server = Server::start(settings(SHORT).cores(2));
    let mails = || (0..NETWORKS).map(|network| Mail(host(network, 1), "a@example.org", "alice@example.com"));
    mails().for_each(|mail| mail.check(&server, 450, "first seen"));
    mails().for_each(|mail| mail.pass(&server));
    mails().for_each(|mail| mail.check(&server, 250, "triplet is known"));
    let metrics = server.metrics();
    assert!(metrics.by_shard("ringpost_sessions_opened_total").iter().all(|opened| *opened > 0));
    assert!(metrics.total("ringpost_mesh_questions_total") > 0, "no shard asked the other");
    assert_eq!(metrics.total("ringpost_mesh_full_total"), 0);
    assert_eq!(metrics.sum("ringpost_greylist_total", "outcome=\"retried\""), u64::from(NETWORKS));
    server.wait_for_metric("ringpost_greylist_entries", u64::from(NETWORKS));
    // Both shards' records are in one file, also for a start with another number of shards.
    server.stop();
    server.change(|settings| settings.cores(1));
    server.start_again();
    mails().for_each(|mail| mail.check(&server, 250, "triplet is known"));
}

/// What greylisting counts on: a mail server comes again by itself.
#[test]
fn a_real_postfix_comes_again() {
    let settings = SHORT.iter().fold(Settings::default(), |settings, line| settings.set("greylist", line));
    let server = Server::start(settings);
    // Not sooner: a message that Postfix's queue manager takes up again while its last delivery is still being
    // written down is left lying for minutes.
    let hasty = "queue_run_delay = 3s\nminimal_backoff_time = 3s\nmaximal_backoff_time = 6s\n";
    let postfix = Postfix::start(server.smtp(), hasty);
    let mut client = Client::hello(postfix.smtp);
    client.begin("a@example.org", &["alice@example.com"]);
    assert_eq!(client.content(&message("again", "and again\r\n")).code, 250);
    server.maildir("example.com/alice").only();
    wait_until("Postfix knows", || postfix.log().contains("status=sent (250 2.0.0 queued as "));
    let log = postfix.log();
    assert!(log.contains("status=deferred") && log.contains("450 4.7.1 greylisted"), "{log}");
    assert_eq!(server.metrics().sum("ringpost_greylist_total", "outcome=\"retried\""), 1);
}
