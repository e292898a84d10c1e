//! A new config on one of two cores: one that does no harm is kept, one that does is taken back by itself, and the clients of the
//! other core never meet it.
//!
//! Connections are steered by the client's address, so each core has clients of its own here.

use crate::support::hop::{Answer, Manner, Moment};
use crate::support::net::client_address;
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Scope, sleep};
use std::time::Duration;

/// The shard that tries.
const CANARY: usize = 0;

/// The other one.
const OTHER: usize = 1;

/// Networks that clients are looked for in: with so many, none is of each core once in a billion times.
const NETWORKS: u8 = 60;

/// Two cores, judged early.
fn settings() -> Settings {
    let settings = Settings::default().cores(2).domain("example.com", "\"any\"", "mail/{domain}/{local}");
    settings.set("canary", "messages_min = 10")
}

/// The same with a config that knows no recipient any more.
fn rejecting(settings: Settings) -> Settings {
    settings.without_domains().domain("example.com", "[\"nobody\"]", "mail/{domain}/{local}")
}

/// What clients of a core were answered.
#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// A refusal, if there was one.
    text: Mutex<String>,
}

/// A server of two cores, with addresses of clients of each.
struct Pair {
    server: Server,
    sources: [IpAddr; 2],
    tallies: [Tally; 2],
    size: usize,
}

impl Pair {
    fn start(settings: Settings) -> Self {
        Self::start_at(Home::new(1), settings)
    }

    fn start_at(home: Home, settings: Settings) -> Self {
        let server = Server::start_at(home, settings);
        let mut sources = [None, None];
        let opened = || server.metrics().by_shard("ringpost_sessions_opened_total");
        for network in 0..NETWORKS {
            let (source, before) = (client_address(network, 1), opened());
            Client::hello_from(source, server.smtp()).quit();
            let after = opened();
            let shard = (0..2).find(|shard| after[*shard] > before[*shard]).expect("some core has served it");
            sources[shard].get_or_insert(source);
        }
        let sources = sources.map(|source| source.expect("an address of each core"));
        Self { server, sources, tallies: Default::default(), size: 10 }
    }

    fn client(&self, shard: usize) -> Client {
        Client::hello_from(self.sources[shard], self.server.smtp())
    }

    /// The number of the CPU of the shard that tries.
    fn core(&self) -> String {
        let shards = self.asked(&["shards"]);
        shards[CANARY]["cpu"].to_string()
    }

    fn asked(&self, arguments: &[&str]) -> Value {
        let out = self.server.tell(&[arguments, &["--json"]].concat()).ok().out;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    fn canary(&self) -> Value {
        self.asked(&["canary", "show"])
    }

    /// Begins a canary; gives what is said of it.
    #[track_caller]
    fn begin(&mut self, span: &str, change: impl FnOnce(Settings) -> Settings) -> String {
        let core = self.core();
        self.server.reconfigure(change);
        self.server.tell(&["reload", "--canary", &core, "--for", span]).ok().out
    }

    /// A canary that must be refused with these words.
    #[track_caller]
    fn check_refused(&mut self, core: &str, change: impl FnOnce(Settings) -> Settings, words: &[&str]) {
        let epochs = self.epochs();
        self.server.reconfigure(change);
        let finished = self.server.tell(&["reload", "--canary", core, "--for", "1m"]);
        assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
        for word in words {
            assert!(finished.err.contains(word), "no {word:?} in {}", finished.err);
        }
        assert_eq!(self.epochs(), epochs, "it was taken all the same");
    }

    fn epochs(&self) -> Vec<u64> {
        self.server.metrics().by_shard("ringpost_config_epoch")
    }

    #[track_caller]
    fn wait_for_state(&self, state: &str) -> Value {
        wait_until(&format!("the canary is {state}"), || self.canary()["state"] == state);
        let label = format!("state=\"{}\"", state.replace(' ', "_"));
        assert_eq!(self.server.metrics().sum("ringpost_canary_state", &label), 1);
        self.canary()
    }

    /// Clients of both cores, one after the other, for as long as the work takes.
    fn with_traffic<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let (smtp, sources) = (self.server.smtp(), self.sources);
        let (tallies, done) = (std::mem::take(&mut self.tallies), AtomicBool::new(false));
        let size = self.size;
        let outcome = std::thread::scope(|scope| {
            for (source, tally) in sources.iter().zip(&tallies) {
                spawn_clients(scope, Visit { source: *source, smtp, size }, tally, &done);
            }
            let _end = End(&done);
            wait_until("both cores have clients", || tallies.iter().all(|tally| tally.accepted.load(Relaxed) > 0));
            work(self)
        });
        self.tallies = tallies;
        outcome
    }

    fn count(&self, shard: usize) -> (u64, u64) {
        let tally = &self.tallies[shard];
        (tally.accepted.load(Relaxed), tally.refused.load(Relaxed))
    }

    /// What its core does no longer, clients of it see no longer.
    #[track_caller]
    fn check_serves_again(&self) {
        let mut client = self.client(CANARY);
        client.deliver("a@example.org", &["alice@example.com"], &message("after", &lines(1, self.size)));
        client.quit();
    }
}

/// Ends the traffic, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A client with a message.
#[derive(Clone, Copy)]
struct Visit {
    source: IpAddr,
    smtp: SocketAddr,
    size: usize,
}

fn spawn_clients<'scope>(
    scope: &'scope Scope<'scope, '_>,
    visit: Visit,
    tally: &'scope Tally,
    done: &'scope AtomicBool,
) {
    scope.spawn(move || {
        while !done.load(Relaxed) {
            match visit.come() {
                Ok(()) => drop(tally.accepted.fetch_add(1, Relaxed)),
                Err(text) => {
                    tally.refused.fetch_add(1, Relaxed);
                    *tally.text.lock().expect("no client panics with it") = text;
                }
            }
            sleep(Duration::from_millis(5));
        }
    });
}

impl Visit {
    /// Sends a message; a refusal as its text. The connection must end in order whatever is said.
    fn come(self) -> Result<(), String> {
        let mut client = Client::hello_from(self.source, self.smtp);
        let content = message("visit", &lines(1, self.size));
        let mut outcome = Ok(());
        for line in ["MAIL FROM:<a@example.org>", "RCPT TO:<alice@example.com>", "DATA"] {
            let reply = client.ask(line);
            if reply.code >= 400 {
                outcome = Err(reply.text());
                break;
            }
        }
        if outcome.is_ok() {
            let reply = client.content(&content);
            if reply.code != 250 {
                outcome = Err(reply.text());
            }
        }
        client.quit();
        outcome
    }
}

/// A config that does harm: it is taken back by itself for this reason, the other core's clients never meet it, and a session on
/// its core goes on.
#[track_caller]
fn check_taken_back(mut pair: Pair, change: impl FnOnce(Settings) -> Settings, reason: &str) -> Pair {
    let (mut open, mut beside) = (pair.client(CANARY), pair.client(OTHER));
    let view = pair.with_traffic(|pair| {
        let told = pair.begin("10m", change);
        assert!(told.starts_with("config 1 is in force on core "), "{told}");
        open.say("NOOP", 250);
        pair.wait_for_state("taken back")
    });
    assert!(view["why"].as_str().is_some_and(|why| why.contains(reason)), "{view:#}");
    assert_eq!((&view["shard"], &view["epoch"]), (&json!(CANARY), &json!(1)), "{view:#}");
    let (_, refused) = pair.count(OTHER);
    assert_eq!(refused, 0, "{}", pair.tallies[OTHER].text.lock().expect("whole"));
    open.say("NOOP", 250);
    open.deliver("a@example.org", &["alice@example.com"], &message("open", "x\r\n"));
    open.quit();
    beside.say("NOOP", 250);
    beside.quit();
    pair.check_serves_again();
    assert_eq!(pair.epochs(), [0, 0]);
    let line = pair.server.wait_for_line("canary taken back", |_| true);
    assert!(line["reason"].as_str().is_some_and(|why| why.contains(reason)), "{line}");
    let audit = pair.asked(&["audit"]);
    let noted = audit.as_array().expect("a list").iter().find(|entry| entry["what"] == "canary");
    assert!(noted.is_some_and(|entry| entry["after"]["state"] == "taken back"), "{audit:#}");
    pair
}

#[test]
fn a_config_that_does_no_harm_is_kept() {
    let mut pair = Pair::start(settings());
    let size = |pair: &Pair, shard: usize| {
        let mut client = Client::connect_from(pair.sources[shard], pair.server.smtp());
        client.expect(220);
        client
            .say("EHLO client.example.org", 250)
            .lines
            .into_iter()
            .find(|line| line.contains("SIZE "))
            .expect("announced")
    };
    let before = size(&pair, OTHER);
    let mut open = pair.client(CANARY);
    open.begin("a@example.org", &["alice@example.com"]);
    pair.with_traffic(|pair| {
        pair.begin("4s", |settings| settings.set("limits", "message_size = \"1MiB\"").set("log", "level = \"debug\""));
        let view = pair.canary();
        assert_eq!((&view["state"], &view["why"]), (&json!("running"), &Value::Null), "{view:#}");
        assert_eq!(pair.epochs(), [1, 0]);
        assert_eq!(size(pair, CANARY), "250-SIZE 1048576");
        assert_eq!(size(pair, OTHER), before);
        assert_eq!(pair.asked(&["log", "show"])["level"], "info", "what is the process's waits");
        let status = pair.server.tell(&["status"]).ok().out;
        assert!(status.contains("config 1 runs on core "), "{status}");
        let shards = pair.asked(&["shards"]);
        assert_eq!((&shards[CANARY]["canary"], &shards[OTHER]["canary"]), (&json!(true), &json!(false)));
        let view = pair.wait_for_state("kept");
        assert!(
            view["canary"]["messages"].as_u64() > Some(10) && view["others"]["messages"].as_u64() > Some(10),
            "{view:#}"
        );
    });
    assert_eq!(pair.epochs(), [1, 1]);
    assert_eq!([size(&pair, CANARY), size(&pair, OTHER)], ["250-SIZE 1048576", "250-SIZE 1048576"]);
    assert_eq!(pair.asked(&["log", "show"])["level"], "debug");
    assert_eq!(open.content(&message("open", "x\r\n")).code, 250);
    open.quit();
    assert_eq!([pair.count(CANARY).1, pair.count(OTHER).1], [0, 0]);
    assert_eq!(pair.asked(&["status"])["canary"], Value::Null, "none is running");
    let again = pair.server.tell(&["reload"]).ok().out;
    assert_eq!(again, "nothing that can be changed while the server runs has changed\n");
}

#[test]
fn a_config_that_rejects_everybody_is_taken_back() {
    let pair = check_taken_back(Pair::start(settings()), rejecting, "replies 5xx: ");
    assert!(pair.count(CANARY).1 > 0);
    let text = pair.server.tell(&["canary", "show"]).ok().out;
    assert!(text.contains("and taken back at ") && text.contains("replies 5xx"), "{text}");
}

#[test]
fn a_config_that_takes_no_large_messages_is_taken_back() {
    let mut pair = Pair::start(settings());
    pair.size = 100_000;
    let change = |settings: Settings| settings.set("limits", "message_size = \"64KiB\"");
    let pair = check_taken_back(pair, change, "replies 5xx: ");
    assert!(pair.tallies[CANARY].text.lock().expect("whole").starts_with("552 "));
}

#[test]
fn a_config_that_puts_everybody_off_is_taken_back() {
    // Every message is more than the core may hold.
    let change = |settings: Settings| settings.set("cores.limits", "spool_backlog = \"64KiB\"");
    let mut pair = Pair::start(settings().set("queue", "retry_first = \"1h\""));
    pair.size = 90_000;
    pair.server.block("example.com");
    let pair = check_put_off(pair, change);
    assert!(pair.tallies[CANARY].text.lock().expect("whole").starts_with("452 "));
}

/// As [`check_taken_back`], where mail on its core is full of what waits.
#[track_caller]
fn check_put_off(mut pair: Pair, change: impl FnOnce(Settings) -> Settings) -> Pair {
    let view = pair.with_traffic(|pair| {
        pair.begin("10m", change);
        pair.wait_for_state("taken back")
    });
    assert!(view["why"].as_str().is_some_and(|why| why.contains("failures and replies 4xx: ")), "{view:#}");
    assert_eq!(pair.count(OTHER).1, 0, "{}", pair.tallies[OTHER].text.lock().expect("whole"));
    pair.check_serves_again();
    pair
}

#[test]
fn a_config_that_makes_replies_slow_is_taken_back() {
    let slow = Manner::default().start(|moment| {
        if matches!(moment, Moment::End) {
            sleep(Duration::from_millis(400));
        }
        Answer::Usual
    });
    let hosts = format!("hosts = [\"{}\"]", slow.address);
    let pair = Pair::start(settings().target("slow", "smtp", &[&hosts]));
    // The client waits for the next hop with the new config alone.
    let change = |settings: Settings| {
        settings.without_domains().domain_to("example.com", "\"slow\"", &["durability = \"next-hop\""])
    };
    check_taken_back(pair, change, "95 of 100 replies within ");
    assert!(slow.count() > 0);
}

#[test]
fn a_panic_takes_a_config_back_at_once() {
    let mut pair =
        Pair::start(settings().fault("session.panic", "panic.example").set("canary", "messages_min = 100000"));
    pair.begin("10m", |settings| settings.set("limits", "message_size = \"1MiB\""));
    // On the other core it says nothing about the config.
    let mut other = Client::connect_from(pair.sources[OTHER], pair.server.smtp());
    other.expect(220);
    other.send(b"EHLO panic.example\r\n");
    pair.server.wait_for_metric("ringpost_sessions_panicked_total", 1);
    pair.server.wait_for_metric("ringpost_config_epoch", 1);
    let mut guilty = Client::connect_from(pair.sources[CANARY], pair.server.smtp());
    guilty.expect(220);
    guilty.send(b"EHLO panic.example\r\n");
    let view = pair.wait_for_state("taken back");
    assert_eq!(view["why"], "it panicked", "{view:#}");
    pair.check_serves_again();
}

#[test]
fn a_canary_ends_when_it_is_told_to_and_when_something_else_comes() {
    let mut pair = Pair::start(settings());
    let finished = pair.server.tell(&["canary", "stop"]);
    assert!(finished.status.code() == Some(1) && finished.err.contains("no canary is running"), "{}", finished.all());
    let change =
        |size: &'static str| move |settings: Settings| settings.set("limits", &format!("message_size = \"{size}\""));
    pair.begin("10m", change("1MiB"));
    let core = pair.core();
    let words = ["is tried on core", "ringpost canary stop"];
    let running = pair.server.tell(&["reload", "--canary", &core, "--for", "1m"]);
    assert!(words.iter().all(|word| running.err.contains(word)), "{}", running.all());
    let told = pair.server.tell(&["canary", "stop"]).ok().out;
    assert!(told.contains(" and stopped"), "{told}");
    assert_eq!((pair.epochs(), &pair.wait_for_state("stopped")["why"]), (vec![0, 0], &Value::Null));

    pair.begin("10m", change("2MiB"));
    assert_eq!(pair.epochs(), [2, 0]);
    // A signal reads the whole of it, for all.
    pair.server.signal(Signal::HUP);
    wait_until("all have it", || pair.epochs() == [3, 3]);
    assert_eq!(pair.wait_for_state("stopped")["why"], "the config was read again");

    pair.begin("10m", change("3MiB"));
    pair.server.reconfigure(change("4MiB"));
    let told = pair.server.tell(&["reload"]).ok().out;
    assert!(told.starts_with("config 5 is in force on every shard\nchanged: limits.message_size\n"), "{told}");
    assert_eq!(pair.epochs(), [5, 5]);
    // Not even a faulty file leaves a core by itself.
    pair.begin("10m", change("5MiB"));
    pair.server.reconfigure(change("no size"));
    let socket = pair.server.home.state_dir().join("ringpost.sock").display().to_string();
    assert_eq!(pair.server.tell(&["reload", "--socket", &socket]).status.code(), Some(1));
    wait_until("the former one is in force", || pair.epochs() == [5, 5]);
}

#[test]
fn what_can_not_be_tried_on_one_core_is_named() {
    let mut pair = Pair::start(settings());
    let core = pair.core();
    pair.check_refused(
        "999",
        |settings| settings.set("limits", "message_size = \"1MiB\""),
        &["core 999 is not in use"],
    );
    let plain = |_: Settings| settings();
    pair.check_refused(
        &core,
        |settings| plain(settings).set("limits", "messages_per_ip = 3").set("log", "level = \"debug\""),
        &["nothing that has changed can be tried on one core alone", "limits.messages_per_ip", "log.level"],
    );
    pair.check_refused(
        &core,
        |settings| plain(settings).listener_line("proxy_from = [\"10.0.0.1\"]"),
        &["can't be tried on one core alone", "listener[mx].proxy_from"],
    );
    pair.check_refused(
        &core,
        |settings| plain(settings).domain("new.example", "\"any\"", "mail/new"),
        &["domain[new.example] leads to the target \"new.example\", which is new"],
    );
    let missing = |settings| {
        plain(settings).set("tls", "certificates = [{ cert = \"/nowhere/a.pem\", key = \"/nowhere/a.key\" }]")
    };
    pair.check_refused(&core, missing, &["/nowhere/a.pem"]);
    assert_eq!(pair.canary(), Value::Null, "none of them began");
    let told = pair.begin("1m", |settings| {
        plain(settings).set("limits", "message_size = \"1MiB\"").set("limits", "messages_per_ip = 1")
    });
    assert!(
        told.contains("warning: not tried, as all cores decide it together") && told.contains("limits.messages_per_ip"),
        "{told}"
    );
    for _ in 0..3 {
        pair.check_serves_again();
    }
}

/// By which config they would be, is not known before it has ended; then they are, also those of before.
#[test]
fn files_that_change_meanwhile_are_taken_up_when_it_has_ended() {
    let home = Home::new(1);
    let file = home.path().join("recipients");
    fs::write(&file, "alice\n").expect("written");
    let recipients = format!("{{ file = \"{}\" }}", file.display());
    let settings = Settings::default().cores(2).domain("example.com", &recipients, "mail/{domain}/{local}");
    let mut pair = Pair::start_at(home, settings);
    let knows_bob = |pair: &Pair, shard: usize| {
        let mut client = pair.client(shard);
        client.say("MAIL FROM:<a@example.org>", 250);
        client.ask("RCPT TO:<bob@example.com>").code == 250
    };
    for (span, ends) in [("4s", "kept"), ("10m", "stopped")] {
        fs::write(&file, "alice\n").expect("written");
        wait_until("bob is unknown", || (0..2).all(|shard| !knows_bob(&pair, shard)));
        let size = if ends == "kept" { "1MiB" } else { "2MiB" };
        pair.begin(span, |settings| settings.set("limits", &format!("message_size = \"{size}\"")));
        fs::write(&file, "alice\nbob\n").expect("written");
        if ends == "stopped" {
            // More than it takes to notice a file.
            sleep(Duration::from_secs(3));
        }
        while pair.canary()["state"] == "running" {
            assert!(!knows_bob(&pair, CANARY) && !knows_bob(&pair, OTHER) || pair.canary()["state"] != "running");
            if ends == "stopped" {
                pair.server.tell(&["canary", "stop"]).ok();
            }
        }
        pair.wait_for_state(ends);
        wait_until("bob is known", || (0..2).all(|shard| knows_bob(&pair, shard)));
    }
}

/// Where there is one core, it is compared with what it did before.
#[test]
fn a_lone_core_is_compared_with_the_time_before() {
    let settings = Settings::default().domain("example.com", "\"any\"", "mail/{domain}/{local}");
    let mut server = Server::start(settings.set("canary", "messages_min = 10"));
    let visit = Visit { source: client_address(0, 1), smtp: server.smtp(), size: 10 };
    let json = |server: &Server, arguments: &[&str]| -> Value {
        serde_json::from_str(&server.tell(arguments).ok().out).expect("JSON")
    };
    let cpu = json(&server, &["shards", "--json"])[0]["cpu"].to_string();
    let state = |server: &Server| json(server, &["canary", "show", "--json"])["state"].clone();
    (0..30).for_each(|_| visit.come().expect("accepted"));
    server.reconfigure(|settings| settings.set("limits", "message_size = \"1MiB\""));
    server.tell(&["reload", "--canary", &cpu, "--for", "2s"]).ok();
    (0..30).for_each(|_| visit.come().expect("accepted"));
    wait_until("it is kept", || state(&server) == "kept");
    server.reconfigure(rejecting);
    server.tell(&["reload", "--canary", &cpu, "--for", "10m"]).ok();
    wait_until("it is taken back", || {
        let _ = visit.come();
        state(&server) == "taken back"
    });
    let why = json(&server, &["canary", "show", "--json"])["why"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains(", of the others 0.0%")), "{why}");
    visit.come().expect("accepted again");
}
