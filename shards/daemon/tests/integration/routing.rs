//! Which targets a recipient has: by domain, by pattern, by default; and what a reload does to what waits.

use crate::support::hop::{Answer, Hop, Manner, Moment};
use crate::support::net::{client_address, free_port, own_address};
use crate::support::queue::{SENDERS, hasty, in_state, queue, report};
use crate::support::report::Report;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

fn hop_at(settings: Settings, name: &str, hop: &Hop) -> Settings {
    settings.target(name, "smtp", &[&format!("hosts = [\"{}\"]", hop.address)])
}

/// The ids of the messages in the directory of a target of kind `file`.
fn filed(server: &Server, directory: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(server.home.state_dir().join(directory)) else { return BTreeSet::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".eml").map(str::to_owned)).collect()
}

fn file_of(server: &Server, directory: &str, name: &str) -> PathBuf {
    server.home.state_dir().join(directory).join(name)
}

#[test]
fn the_first_route_that_fits_counts_and_domains_come_last() {
    let (lists, first) = (Hop::obliging(), Hop::obliging());
    let mut settings = hop_at(hop_at(hasty(), "lists", &lists), "first", &first);
    settings = settings
        .target("mail", "maildir", &["path = \"mail/{domain}/{local}\""])
        .target("all", "file", &["path = \"archive\""])
        .domain_to("example.com", "\"mail\"", &[])
        .domain_to("example.net", "[\"mail\", \"all\"]", &[])
        .entry("route", &["recipient = \"list-*@example.com\"", "target = \"lists\""])
        .entry("route", &["recipient = [\"boss@*\", \"b?b@example.com\"]", "target = [\"first\", \"all\"]"])
        .entry("route", &["recipient = \"*@example.com\"", "target = [\"mail\"]"]);
    let server = Server::start(settings);
    let to = [
        "alice@example.com",
        "LIST-dev@Example.com",
        "list-dev+x@example.com",
        "boss@example.com",
        "Boss@example.net",
        "bob@example.com",
        "boob@example.com",
        "carol@example.net",
    ];
    let sent = message("routes", "x\r\n");
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &to, &sent);
    server.wait_until_delivered();
    let rcpt = |hop: &Hop| -> Vec<String> {
        let taken = hop.only();
        assert!(taken.body.ends_with(&sent));
        taken.rcpt.iter().map(|line| line.trim_start_matches("RCPT TO:").trim_matches(['<', '>']).to_owned()).collect()
    };
    assert_eq!(rcpt(&lists), ["LIST-dev@Example.com", "list-dev+x@example.com"]);
    assert_eq!(rcpt(&first), ["boss@example.com", "Boss@example.net", "bob@example.com"]);
    for path in ["example.com/alice", "example.com/boob", "example.net/carol"] {
        assert_eq!(server.maildir(path).only().sent(), sent, "{path}");
    }
    for path in ["example.com/boss", "example.com/bob", "example.net/boss", "example.com/list-dev"] {
        assert_eq!(server.maildir(path).count(), 0, "{path}");
    }
    // One file for all recipients of the target, and beside it who they are.
    assert_eq!(filed(&server, "archive"), BTreeSet::from([id.clone()]));
    assert!(fs::read(file_of(&server, "archive", &format!("{id}.eml"))).expect("a message").ends_with(&sent));
    let envelope = fs::read(file_of(&server, "archive", &format!("{id}.json"))).expect("an envelope");
    let envelope: Value = serde_json::from_slice(&envelope).expect("JSON");
    let addresses = envelope["recipients"].as_array().expect("recipients").iter().map(|to| to["address"].clone());
    assert_eq!(addresses.collect::<Vec<_>>(), [to[3], to[4], to[5], to[7]].map(Value::from));
    assert_eq!(envelope["from"], "a@sender.example");
}

/// A target that does not work keeps no other waiting, and what another has taken it does not get again.
#[test]
fn each_of_several_targets_has_its_own_fate() {
    let settings = hasty()
        .target("mail", "maildir", &["path = \"mail/{domain}/{local}\""])
        .target("all", "file", &["path = \"archive\""])
        .domain_to("example.com", "[\"mail\", \"all\"]", &[]);
    let mut server = Server::start(settings);
    server.block("example.com/alice");
    let sent = message("several", "x\r\n");
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &["alice@example.com"], &sent);
    wait_until("the other target has it", || filed(&server, "archive").contains(&id));
    server.wait_for_line("delivery deferred", |line| line["id"] == id.as_str());
    server.wait_for_metric("ringpost_queue_deferred_messages", 1);
    // Whoever reads the archive takes the message out; it does not come back, over a crash either.
    fs::remove_file(file_of(&server, "archive", &format!("{id}.eml"))).expect("taken out");
    let view = queue(&server, &["show", &id]);
    let targets = view["envelope"]["recipients"][0]["targets"].as_array().expect("targets");
    assert!(targets.iter().any(|target| target["target"] == "mail" && target["state"] == "pending"), "{view:#}");
    server.wait_for_metric("ringpost_spool_records_total", 2);
    server.kill();
    server.start_again();
    server.wait_for_line("delivery deferred", |line| line["id"] == id.as_str());
    server.unblock("example.com/alice");
    assert_eq!(server.maildir("example.com/alice").only().sent(), sent);
    server.wait_until_delivered();
    assert_eq!(filed(&server, "archive"), BTreeSet::new());
}

/// Who is not of our domains gets nothing but reports, by the target that is there for them.
#[test]
fn reports_to_senders_elsewhere_go_by_the_default_target() {
    let (out, refusing) = (Hop::obliging(), Manner::default().start(refuse));
    let settings = hop_at(hop_at(hasty(), "out", &out), "refusing", &refusing);
    let settings = settings.domain_to("example.com", "\"refusing\"", &[]).set("queue", "default_target = \"out\"");
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    client.deliver("Somebody+x@elsewhere.example", &["alice@example.com"], &message("elsewhere", "x\r\n"));
    let taken = out.only();
    assert_eq!(taken.mail.split(' ').take(2).collect::<Vec<_>>(), ["MAIL", "FROM:<>"]);
    assert_eq!(taken.rcpt, ["RCPT TO:<Somebody+x@elsewhere.example>"]);
    assert!(String::from_utf8_lossy(&taken.body).contains("\r\nFinal-Recipient: rfc822; alice@example.com\r\n"));
    // Those of ours get theirs here.
    client.deliver("a@sender.example", &["alice@example.com"], &message("here", "x\r\n"));
    report(&server, "a").says("alice@example.com", "failed", "5.1.1", "nobody here");
    server.wait_until_delivered();
    // That it has a way takes no mail for them from anybody.
    client.say("MAIL FROM:<a@sender.example>", 250);
    client.refused("RCPT TO:<somebody@elsewhere.example>", 550, "5.7.1");
    assert_eq!((out.count(), in_state(&server, "dead")), (1, 0));
}

fn refuse(moment: Moment<'_>) -> Answer {
    match moment {
        Moment::Rcpt(_) => Answer::Say("550 5.1.1 nobody here"),
        _ => Answer::Usual,
    }
}

#[test]
fn what_waits_goes_where_a_reload_says() {
    let closed = free_port(own_address());
    let next = Hop::obliging();
    let settings = hasty().target("old", "smtp", &[&format!("hosts = [\"{closed}\"]")]);
    let settings = hop_at(settings, "next", &next)
        .target("mail", "maildir", &["path = \"mail/{domain}/{local}\""])
        .domain_to("example.com", "\"old\"", &[])
        .domain_to("example.net", "\"old\"", &[]);
    let mut server = Server::start(settings);
    let sent = message("moved", "x\r\n");
    let to = ["alice@example.com", "bob@example.com", "carol@example.net"];
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &to, &sent);
    server.wait_for_line("delivery deferred", |line| line["id"] == id.as_str());
    // One domain to a Maildir and into files, one to another hop, and one of its recipients by a pattern to other files.
    server.reconfigure(|settings| {
        settings
            .domain_to("example.com", "[\"mail\", \"some\"]", &[])
            .domain_to("example.net", "\"next\"", &[])
            .target("some", "file", &["path = \"some\""])
            .target("other", "file", &["path = \"other\""])
            .entry("route", &["recipient = \"bob@*\"", "target = \"other\""])
    });
    server.tell(&["reload"]).ok();
    assert_eq!(server.maildir("example.com/alice").only().sent(), sent);
    assert_eq!(next.only().rcpt, ["RCPT TO:<carol@example.net>"]);
    wait_until("the pattern's target has it", || filed(&server, "other").contains(&id));
    server.wait_until_delivered();
    assert!(filed(&server, "some").contains(&id), "not all targets of the new route have it");
    assert_eq!(server.maildir("example.com/bob").count(), 0);
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 0, "nobody is told");
}

/// Operators send mail elsewhere because its target is away: they do not wait for it to be tried.
#[test]
fn what_waits_for_a_target_that_is_left_alone_goes_elsewhere_at_once() {
    let closed = free_port(own_address());
    let lines = ["breaker_failures = 1", "breaker_pause = \"1h\"", "breaker_pause_max = \"1h\""];
    let hosts = format!("hosts = [\"{closed}\"]");
    let settings = hasty().target("old", "smtp", &[&[hosts.as_str()], &lines[..]].concat());
    let mut server = Server::start(settings.domain_to("example.com", "\"old\"", &[]).cores(2));
    let ids: BTreeSet<String> = (0..20)
        .map(|number| {
            let mut client = Client::hello_from(client_address(number, 1), server.smtp());
            client.deliver("a@sender.example", &["alice@example.com"], &message("waits", "x\r\n"))
        })
        .collect();
    server.wait_for_metric("ringpost_breakers_open", 1);
    server.wait_for_metric("ringpost_queue_attempts", 0);
    server.reconfigure(|settings| {
        let settings = settings.target("new", "file", &["path = \"new\""]);
        settings.domain_to("example.com", "\"new\"", &[])
    });
    server.tell(&["reload"]).ok();
    wait_until("all have gone there", || filed(&server, "new") == ids);
    server.wait_until_delivered();
}

/// What the breaker knows is of the target as it was.
#[test]
fn a_target_that_a_reload_mends_is_tried_at_once() {
    let (closed, hop) = (free_port(own_address()), Hop::obliging());
    let target = |settings: Settings, host: SocketAddr| {
        let lines = ["breaker_failures = 2", "breaker_pause = \"1h\"", "breaker_pause_max = \"1h\""];
        let hosts = format!("hosts = [\"{host}\"]");
        settings.target("hop", "smtp", &[&[hosts.as_str()], &lines[..]].concat())
    };
    let mut server = Server::start(target(hasty(), closed).domain_to("example.com", "\"hop\"", &[]).cores(2));
    for number in 0..20 {
        let mut client = Client::hello_from(client_address(number, 1), server.smtp());
        client.deliver("a@sender.example", &["alice@example.com"], &message("waits", "x\r\n"));
    }
    server.wait_for_metric("ringpost_breakers_open", 1);
    server.reconfigure(|settings| target(settings, hop.address));
    server.tell(&["reload"]).ok();
    hop.wait_for(20);
    server.wait_until_delivered();
}

/// The domain goes, and with it the target: what waits for it stays visible, and goes when there is a way again.
#[test]
fn what_waits_for_a_target_that_is_gone_is_kept() {
    let closed = free_port(own_address());
    let settings =
        hasty().target("old", "smtp", &[&format!("hosts = [\"{closed}\"]")]).domain_to("example.com", "\"old\"", &[]);
    let mut server = Server::start(settings.clone());
    let sent = message("kept", "x\r\n");
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &["alice@example.com"], &sent);
    server.wait_for_line("delivery deferred", |line| line["id"] == id.as_str());
    server.reconfigure(|settings| settings.without("domain").without("target"));
    server.tell(&["reload"]).ok();
    let line = server.wait_for_line("no domain or route takes this recipient any more", |_| true);
    assert_eq!((&line["id"], &line["recipient"]), (&json!(id), &json!("alice@example.com")));
    server.stop();
    server.start_again();
    server.wait_for_metric("ringpost_queue_messages", 1);
    let ids = queue(&server, &["list"]);
    assert_eq!(ids["messages"][0]["id"], id.as_str(), "{ids:#}");
    server.reconfigure(|settings| {
        let settings = settings.target("mail", "maildir", &["path = \"mail/{domain}/{local}\""]);
        settings.domain_to("example.com", "\"mail\"", &[])
    });
    server.tell(&["reload"]).ok();
    assert_eq!(server.maildir("example.com/alice").only().sent(), sent);
    server.wait_until_delivered();
}

/// An alias is followed before the routes are asked, and a report to it too.
#[test]
fn reports_reach_senders_by_their_aliases() {
    let refusing = Manner::default().start(refuse);
    let home = crate::support::server::Home::new(1);
    let file = home.path().join("recipients");
    fs::write(&file, "erna\nfritz\nteam: erna, fritz\n").expect("written");
    let recipients = format!("{{ file = \"{}\" }}", file.display());
    let settings = hop_at(hasty().domain("team.example", &recipients, "mail/{domain}/{local}"), "refusing", &refusing);
    let server = Server::start_at(home, settings.domain_to("example.com", "\"refusing\"", &[]));
    let mut client = Client::hello(server.smtp());
    client.deliver("team@team.example", &["alice@example.com"], &message("alias", "x\r\n"));
    for name in ["erna", "fritz"] {
        let report = Report::read(server.maildir(&format!("team.example/{name}")).only());
        report.says("alice@example.com", "failed", "5.1.1", "nobody here");
        assert_eq!(report.field("To"), "team@team.example");
    }
    // There is nobody of this name, so nobody can be told.
    client.deliver("nobody@team.example", &["alice@example.com"], &message("nobody", "x\r\n"));
    wait_until("it is a dead letter", || in_state(&server, "dead") == 1);
}
