//! How the server is, and why: each trouble is made and mended, and all who tell of it tell the same: `/readyz`, `ringpost status`,
//! the service manager, the metrics, and the log.

use crate::support::authority::{Authority, Issued};
use crate::support::hop::{Answer, Manner};
use crate::support::net::{free_port, own_address};
use crate::support::server::{Home, Server};
use crate::support::service::Manager;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::unbound::{Names, Unbound};
use crate::support::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// A server with somebody who hears what it says to its service manager.
struct Watched {
    server: Server,
    manager: Manager,
}

impl Watched {
    fn start(settings: Settings) -> Self {
        Self::start_at(Home::new(1), settings)
    }

    fn start_at(home: Home, settings: Settings) -> Self {
        let manager = Manager::listen(home.path());
        let settings = settings.variable("NOTIFY_SOCKET", &manager.address());
        Self { server: Server::start_at(home, settings), manager }
    }

    fn probe(&self, name: &str) -> Option<Value> {
        let (_, body) = self.server.get("/readyz");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        body["probes"].as_array().expect("a list").iter().find(|probe| probe["name"] == name).cloned()
    }

    /// Waits until a probe fails for a reason with these words, and checks that all who tell of the server tell it.
    #[track_caller]
    fn check_failing(&self, name: &str, words: &str, hint: &str) {
        let fails =
            |probe: &Value| probe["ok"] == false && probe["reason"].as_str().is_some_and(|why| why.contains(words));
        wait_until(&format!("{name} fails with {words:?}"), || self.probe(name).as_ref().is_some_and(fails));
        let probe = self.probe(name).expect("it is there");
        assert_eq!((&probe["serves"], &probe["since"].is_string()), (&json!(true), &true), "{probe}");
        assert!(probe["hint"].as_str().is_some_and(|found| found.starts_with(hint)), "{probe}");
        wait_until("it is degraded", || self.server.get("/readyz").1.contains("\"state\":\"degraded\""));
        assert_eq!(self.server.get("/readyz").0, 200);
        let metrics = self.server.metrics();
        assert_eq!(metrics.sum("ringpost_probe_failing", &format!("probe=\"{name}\"")), 1);
        for (state, value) in [("starting", 0), ("ready", 0), ("degraded", 1), ("stopping", 0)] {
            assert_eq!(metrics.sum("ringpost_state", &format!("state=\"{state}\"")), value, "{state}");
        }
        let told = self.server.tell(&["status"]);
        assert_eq!(told.status.code(), Some(3), "{}", told.all());
        // The lines are broken between words.
        let flat = told.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("DEGRADED") && flat.contains(name) && flat.contains(words), "{}", told.out);
        let line = self.server.wait_for_line("probe fails", |line| line["probe"] == name);
        assert_eq!(line["level"], "warn");
        self.server.wait_for_line("health changed", |line| line["phase"] == "degraded");
        let is_told = |line: &String| line.starts_with("STATUS=degraded: ") && line.contains(name);
        wait_until("the service manager is told", || self.manager.heard().iter().any(is_told));
        self.manager.forget();
    }

    /// Waits until a probe is well again, and with it the server.
    #[track_caller]
    fn check_well(&self, name: &str) {
        wait_until(&format!("{name} is well"), || self.probe(name).is_some_and(|probe| probe["ok"] == true));
        wait_until("it is ready", || self.server.get("/readyz").1.contains("\"state\":\"ready\""));
        assert_eq!(self.server.metrics().sum("ringpost_probe_failing", &format!("probe=\"{name}\"")), 0);
        assert_eq!(self.server.metrics().sum("ringpost_state", "state=\"ready\""), 1);
        self.server.wait_for_line("probe is well again", |line| line["probe"] == name);
        wait_until("the service manager is told", || self.manager.count("STATUS=ready") > 0);
        self.manager.forget();
    }
}

/// How often the log tells of this probe.
fn changes(server: &Server, name: &str) -> usize {
    let told = |line: &Value| {
        (line["message"] == "probe fails" || line["message"] == "probe is well again") && line["probe"] == name
    };
    server.log().iter().filter(|line| told(line)).count()
}

#[test]
fn a_certificate_that_is_about_to_end_is_told_until_it_is_renewed() {
    let home = Home::new(1);
    let authority = Authority::new(home.path());
    let soon = authority.lasting(3).server("soon", "ec", &["mx.example.com"]);
    let client = authority.lasting(5).client("client");
    let Issued { cert, key } = &client;
    let lines = [
        format!("hosts = [\"{}\"]", free_port(own_address())),
        format!("tls_cert = \"{}\"\ntls_key = \"{}\"", cert.display(), key.display()),
    ];
    let settings = Settings::default().set("tls", &format!("certificates = [{}]", soon.entry()));
    let settings = settings.target("hop", "smtp", &lines.each_ref().map(String::as_str));
    let watched = Watched::start_at(home, settings.domain_to("hop.example", "\"hop\"", &[]));
    let words = format!("{} expires in ", soon.cert.display());
    watched.check_failing("certificate", &words, "docs/runbooks/certificate-expiry.md");
    let both = watched.probe("certificate").expect("it is there")["reason"].to_string();
    assert!(both.contains(&format!("; {} expires in ", cert.display())), "that of the target too: {both}");
    let ends = watched.server.metrics().by_label("ringpost_certificate_expiry_timestamp_seconds", "certificate");
    assert_eq!(ends.len(), 2, "{ends:?}");
    let status: Value = serde_json::from_str(&watched.server.tell(&["status", "--json"]).out).expect("JSON");
    assert!(status["certificate_expires"].is_string(), "{status}");

    // Each is renewed by replacing its files; nobody has to tell the server.
    for (issued, fresh) in
        [(&soon, authority.server("fresh", "ec", &["mx.example.com"])), (&client, authority.client("new"))]
    {
        fs::copy(&fresh.key, &issued.key).expect("copied");
        fs::copy(&fresh.cert, &issued.cert).expect("copied");
    }
    watched.check_well("certificate");
}

#[test]
fn the_dns_is_watched_where_it_is_needed() {
    let unbound = Unbound::start(&Names::default());
    let address = unbound.address;
    let settings = Settings::default().set("dns", &unbound.servers()).set("dns", "timeout = \"200ms\"");
    let mut watched = Watched::start(settings);
    assert_eq!(watched.probe("dns"), None, "nothing needs it");
    watched.server.reconfigure(|settings| {
        settings.set("screen", "weight_rdns_missing = 100").set("screen", "score_reject = 100")
    });
    watched.server.tell(&["reload"]).ok();
    wait_until("it is watched", || watched.probe("dns").is_some_and(|probe| probe["ok"] == true));
    drop(unbound);
    watched.check_failing("dns", &format!("no server of the DNS answers, of {address}"), "dig @127.");
    let _unbound = Unbound::start_at(address, &Names::default());
    watched.check_well("dns");
    assert_eq!(changes(&watched.server, "dns"), 2, "it did not go to and fro");
}

#[test]
fn a_next_hop_that_does_not_work_is_told_by_its_name() {
    let address = free_port(own_address());
    let settings = Settings::default().cores(2).set("queue", "retry_first = \"1s\"").set("queue", "retry_max = \"1s\"");
    let lines = [
        format!("hosts = [\"{address}\"]"),
        "breaker_failures = 2\nbreaker_pause = \"500ms\"\nbreaker_pause_max = \"1s\"".to_owned(),
    ];
    let settings = settings.target("hop", "smtp", &lines.each_ref().map(String::as_str));
    let watched = Watched::start(settings.domain_to("example.com", "\"hop\"", &[]));
    let mut client = Client::hello(watched.server.smtp());
    for number in 0..3 {
        client.deliver("a@example.org", &["alice@example.com"], &message(&number.to_string(), "x\r\n"));
    }
    watched.check_failing("target:hop", "left alone for a while after", "docs/runbooks/hung-next-hop.md");
    let hop = Manner::default().at(address).start(|_| Answer::Usual);
    hop.wait_for(3);
    watched.check_well("target:hop");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_told_before_mail_comes_to_it() {
    let home = Home::new(1);
    let folder = home.path().join("archive");
    fs::write(&folder, "in the way").expect("written");
    let line = format!("path = \"{}\"", folder.join("files").display());
    let settings = Settings::default().target("archive", "file", &[&line]);
    let watched = Watched::start_at(home, settings.domain_to("archive.example", "\"archive\"", &[]));
    watched.check_failing("target:archive", "can't be written to", "ringpost queue list --target archive");
    fs::remove_file(&folder).expect("removed");
    watched.check_well("target:archive");
}

/// What a look at the directory can't tell, deliveries do.
#[test]
fn a_local_target_that_takes_nothing_is_told() {
    let settings = Settings::default().set("queue", "retry_first = \"300ms\"").set("queue", "retry_max = \"300ms\"");
    let settings = settings.domain("one.example", "\"any\"", "mail/{domain}/{local}");
    let watched = Watched::start(settings);
    watched.server.block("one.example");
    let mut client = Client::hello(watched.server.smtp());
    client.deliver("a@example.org", &["alice@one.example"], &message("one", "x\r\n"));
    let words = "messages in a row could not be delivered";
    watched.check_failing("target:one.example", words, "ringpost queue list --target one.example");
    watched.server.unblock("one.example");
    watched.server.maildir("one.example/alice").wait_for(1);
    watched.check_well("target:one.example");
}

#[test]
fn a_list_that_is_skipped_is_told() {
    let unbound = Unbound::start(&Names::default());
    let settings = Settings::default().set("dns", &unbound.servers()).set("dns", "timeout = \"100ms\"");
    let settings = settings.set("dns", "attempts = 1").set("screen", "score_reject = 10");
    let settings = settings.entry("screen.list", &["zone = \"block.example\"", "weight = 10"]);
    let watched = Watched::start(settings.listener_line("xclient_from = [\"127.0.0.0/8\"]"));
    assert!(watched.probe("list:block.example").is_some_and(|probe| probe["ok"] == true));
    drop(unbound);
    // Each of another address: what failed for one is remembered for a while.
    for host in 1..=8 {
        let mut client = Client::hello(watched.server.smtp());
        client.say(&format!("XCLIENT ADDR=192.0.2.{host} NAME=[UNAVAILABLE]"), 220);
        client.say("EHLO client.example.org", 250);
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say("RCPT TO:<alice@example.com>", 250);
    }
    watched.check_failing("list:block.example", "skipped, and tried now and then", "dig 2.0.0.127.block.example");
}

/// A backlog is told while there is still room.
#[test]
fn a_backlog_is_told_before_mail_is_refused() {
    let settings = Settings::default().set("cores.limits", "spool_backlog = \"100KiB\"");
    let watched = Watched::start(settings.set("queue", "retry_first = \"1s\"").set("queue", "retry_max = \"1s\""));
    watched.server.block("example.com");
    let sent = message("backlog", &lines(1, 85_000));
    let mut client = Client::hello(watched.server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &sent);
    watched.check_failing(
        "backlog",
        "wait for delivery, cores.limits.spool_backlog is 100KiB",
        "docs/runbooks/backlog.md",
    );
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RSET", 250);
    watched.server.unblock("example.com");
    watched.server.maildir("example.com/alice").wait_for(1);
    watched.check_well("backlog");
}

/// The whole way: a server that is well says so in each state that it goes through, and all probes are named.
#[test]
fn a_server_that_is_well_says_what_it_watches_and_when_it_stops() {
    let mut watched = Watched::start(Settings::default().cores(2));
    watched.manager.wait_for("READY");
    wait_until("the service manager is told", || watched.manager.count("STATUS=ready") > 0);
    let names = ["stall", "shard", "disk", "backlog", "certificate", "target:local"];
    for name in names {
        let probe = watched.probe(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((&probe["ok"], &probe["serves"]), (&json!(true), &json!(name != "stall")), "{probe}");
    }
    let failing = watched.server.metrics();
    assert_eq!(failing.total("ringpost_probe_failing"), 0);
    assert_eq!(failing.sum("ringpost_build_info", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), 1);
    // Publishing something is nothing that shows, though a shard may take a moment to take it up.
    for number in 0..20 {
        watched.server.tell(&["ban", "add", &format!("192.0.2.{number}"), "--ttl", "1h"]).ok();
        assert_eq!(watched.server.get("/readyz").0, 200);
    }
    assert_eq!(watched.server.log().iter().filter(|line| line["message"] == "health changed").count(), 0);

    let mut open = Client::hello(watched.server.smtp());
    open.begin("a@example.org", &["alice@example.com"]);
    watched.server.signal(Signal::TERM);
    wait_until("it stops", || watched.server.get("/readyz").1.contains("\"state\":\"stopping\""));
    assert_eq!(watched.server.get("/readyz").0, 503);
    assert_eq!(watched.server.metrics().sum("ringpost_state", "state=\"stopping\""), 1);
    wait_until("the service manager is told", || watched.manager.count("STATUS=stopping") > 0);
    assert_eq!(open.content(&message("last", "x\r\n")).code, 250);
    assert!(watched.server.wait().success());
}
