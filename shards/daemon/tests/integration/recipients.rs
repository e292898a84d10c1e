//! Recipients from a file: who exists, where aliases lead, and that the file can be changed while the server runs.

use crate::support::presented::Story;
use crate::support::programs::run;
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::{Client, session_id};
use crate::support::text::message;
use crate::support::wait_until;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The recipients of example.com.
const COM: &str = "\
# people
alice
bob            # and comments
\"john doe\"
użytkownik
sales-*
info: alice, bob
Crew: info, carol@example.net, alice
deep: crew
";

/// The recipients of example.net, where everybody exists, and some elsewhere.
const NET: &str = "\
carol
*
all: carol, alice@example.com
";

/// Two domains with a file each, in a home.
fn two_domains(home: &Home, com: &str, net: &str) -> Settings {
    let mut settings = Settings::default();
    for (name, text) in [("example.com", com), ("example.net", net)] {
        let path = path(home, name);
        fs::write(&path, text).expect("written");
        let recipients = format!("{{ file = \"{}\" }}", path.display());
        settings = settings.domain(name, &recipients, "mail/{domain}/{local}");
    }
    settings
}

fn path(home: &Home, domain: &str) -> PathBuf {
    home.path().join(format!("{domain}.recipients"))
}

fn start() -> Server {
    let home = Home::new(1);
    let settings = two_domains(&home, COM, NET);
    Server::start_at(home, settings)
}

/// A session that has said who it is from; with the session's id.
fn begun(server: &Server) -> (Client, String) {
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("EHLO client.example.org", 250);
    client.say("MAIL FROM:<a@example.org> SMTPUTF8", 250);
    (client, id)
}

/// The code of a recipient's reply.
fn code_of(client: &mut Client, to: &str) -> u16 {
    client.send(format!("RCPT TO:<{to}>\r\n").as_bytes());
    client.reply().code
}

/// Whether somebody exists, in a session of its own.
fn exists(server: &Server, to: &str) -> bool {
    match code_of(&mut begun(server).0, to) {
        250 => true,
        550 => false,
        other => panic!("{other} for {to}"),
    }
}

#[test]
fn who_exists_and_how_it_is_found() {
    let server = start();
    let (mut client, id) = begun(&server);
    let found = [
        ("alice@example.com", "exact"),
        ("ALICE@Example.COM", "exact"),
        ("\"alice\"@example.com", "exact"),
        ("\"john doe\"@example.com", "exact"),
        ("użytkownik@example.com", "exact"),
        ("alice+lists@example.com", "subaddress"),
        ("alice+a+b@example.com", "subaddress"),
        ("sales-east@example.com", "pattern"),
        ("sales-@example.com", "pattern"),
        ("info@example.com", "alias"),
        ("info+detail@example.com", "alias"),
        ("crew@example.com", "alias"),
        ("deep@example.com", "alias"),
        ("carol@example.net", "exact"),
        ("anybody.at.all@example.net", "everybody"),
        ("postmaster@example.com", "postmaster"),
    ];
    for (to, _) in found {
        assert_eq!(code_of(&mut client, to), 250, "{to}");
    }
    let told = Story::of(&server, &id);
    let how = told.steps("rcpt").iter().map(|step| step["inputs"][1][1].as_str().unwrap_or("")).collect::<Vec<_>>();
    assert_eq!(how, found.map(|(_, how)| how));
    for nobody in ["alic@example.com", "alice2@example.com", "+lists@example.com", "sales@example.com"] {
        client.refused(&format!("RCPT TO:<{nobody}>"), 550, "5.1.1 no such recipient here");
    }
    client.refused("RCPT TO:<alice@elsewhere.example>", 550, "5.7.1");
    client.refused("RCPT TO:<alice@sub.example.com>", 550, "5.7.1");
    let told = Story::of(&server, &id);
    assert_eq!(told.steps("rcpt")[found.len()]["rule"], "domain[example.com].recipients");
    assert_eq!(server.metrics().total("ringpost_recipients_unknown_total"), 4);
}

/// Everybody that an alias leads to gets one copy, however often it is led to.
#[test]
fn aliases_deliver_once_to_each_mailbox() {
    let server = start();
    let sent = message("alias", "to all\r\n");
    let mut client = Client::hello(server.smtp());
    let to = ["info@example.com", "deep@example.com", "alice@example.com", "all@example.net", "info+x@example.com"];
    client.deliver("a@example.org", &to, &sent);
    let delivered = ["example.com/alice", "example.com/bob", "example.net/carol"].map(|path| {
        let message = server.maildir(path).only();
        assert_eq!(message.sent(), sent, "{path}");
        message.trace().to_owned()
    });
    for (trace, address) in delivered.iter().zip(["alice@example.com", "bob@example.com", "carol@example.net"]) {
        let start = format!("Return-Path: <a@example.org>\r\nDelivered-To: {address}\r\nReceived: ");
        assert!(trace.starts_with(&start) && !trace.contains("\tfor <"), "{trace}");
    }
    client.quit();
    server.wait_for_rest();
    assert_eq!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"delivered\""), 3);
}

/// Mail with a detail is kept with the mailbox's other mail, and says which address it came to.
#[test]
fn a_detail_is_told_and_does_not_make_a_mailbox() {
    let server = start();
    let mut client = Client::hello(server.smtp());
    let to = ["alice+lists@example.com", "alice@example.com", "sales-x+y@example.com"];
    client.deliver("a@example.org", &to, &message("detail", "kept\r\n"));
    let trace = server.maildir("example.com/alice").only().trace().to_owned();
    assert!(trace.contains("Delivered-To: alice+lists@example.com\r\nDelivered-To: alice@example.com\r\n"), "{trace}");
    // What fits a pattern is a mailbox as a whole.
    server.maildir("example.com/sales-x+y").only();
}

/// One file for two domains: a name without a domain is of the one that is asked about.
#[test]
fn a_file_serves_several_domains() {
    let home = Home::new(1);
    let file = home.path().join("shared");
    fs::write(&file, "alice\nteam: alice, alice@example.net\n").expect("written");
    let recipients = format!("{{ file = \"{}\" }}", file.display());
    let domain = |settings: Settings, name| settings.domain(name, &recipients, "mail/{domain}/{local}");
    let settings = domain(domain(Settings::default(), "example.com"), "example.net");
    let server = Server::start_at(home, settings);
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["team@example.com"], &message("com", "team\r\n"));
    server.maildir("example.com/alice").only();
    server.maildir("example.net/alice").only();
    client.deliver("a@example.org", &["team@example.net"], &message("net", "team\r\n"));
    server.maildir("example.net/alice").wait_for(2);
    client.quit();
    server.wait_for_rest();
    assert_eq!(server.maildir("example.com/alice").count(), 1);
}

/// Who guesses names gets no further, and the counts are of the whole session.
#[test]
fn who_harvests_addresses_is_sent_away() {
    let home = Home::new(1);
    let settings = two_domains(&home, COM, NET).set("limits", "unknown_recipients_per_session = 2");
    let server = Server::start_at(home, settings);
    let (mut client, _) = begun(&server);
    client.refused("RCPT TO:<adam@example.com>", 550, "5.1.1");
    client.refused("RCPT TO:<adele@example.com>", 550, "5.1.1");
    client.say("RCPT TO:<alice@example.com>", 250);
    // Neither a new transaction nor a new greeting makes them forgotten.
    client.say("EHLO client.example.org", 250);
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("RCPT TO:<agnes@example.com>", 550, "5.1.1");
    let reply = client.say("RCPT TO:<alice@example.com>", 421);
    assert!(reply.text().contains("limits.unknown_recipients_per_session"), "{}", reply.text());
    client.ended();
    server.wait_for_rest();
    let metrics = server.metrics();
    let label = "limit=\"limits.unknown_recipients_per_session\"";
    assert_eq!(metrics.sum("ringpost_limits_hit_total", label), 1);
    assert_eq!(metrics.total("ringpost_recipients_unknown_total"), 3);
}

#[test]
fn a_changed_file_is_taken_up_by_itself() {
    let server = start();
    let (mut open, _) = begun(&server);
    assert_eq!(code_of(&mut open, "dora@example.com"), 550);
    fs::write(path(&server.home, "example.com"), COM.replace("bob ", "dora ").replace(", bob", "")).expect("written");
    wait_until("dora exists", || exists(&server, "dora@example.com"));
    // Sessions under way go by it too.
    assert_eq!(code_of(&mut open, "dora@example.com"), 250);
    assert_eq!(code_of(&mut open, "bob@example.com"), 550);
    server.wait_for_line("changed files taken up", |line| line["files"].as_str().is_some_and(|it| it.contains(".com")));
    // As editors do it: another file in the place of the first.
    let beside = server.home.path().join("beside");
    fs::write(&beside, format!("{COM}erna\n")).expect("written");
    fs::rename(&beside, path(&server.home, "example.com")).expect("renamed");
    wait_until("erna exists", || exists(&server, "erna@example.com"));
    assert_eq!(code_of(&mut open, "dora@example.com"), 550);
    // A file that is gone is no empty file.
    fs::remove_file(path(&server.home, "example.com")).expect("removed");
    fs::write(path(&server.home, "example.net"), "fritz\n").expect("written");
    let files = |line: &serde_json::Value| line["files"].as_str().is_some_and(|files| files.contains(".net"));
    server.wait_for_line("changed files can't be taken up; the former ones stay in force", files);
    assert!(exists(&server, "erna@example.com") && exists(&server, "carol@example.net"));
    fs::write(path(&server.home, "example.com"), "gerda\n").expect("written");
    wait_until("gerda exists", || exists(&server, "gerda@example.com"));
    assert!(exists(&server, "fritz@example.net") && !exists(&server, "carol@example.net"));
}

#[test]
fn a_broken_file_is_told_and_the_former_one_stays() {
    let server = start();
    let file = path(&server.home, "example.com");
    fs::write(&file, "alice\nbob\n@oops\n").expect("written");
    let line = server.wait_for_line("changed files can't be taken up; the former ones stay in force", |_| true);
    let place = format!("{}:3:1: ", file.display());
    assert!(line["error"].as_str().is_some_and(|error| error.contains(&place)), "{line}");
    assert_eq!(line["level"], "error");
    let told = server.tell(&["reload"]);
    assert!(told.status.code() == Some(1) && told.err.contains(&place), "{}", told.all());
    assert!(exists(&server, "info@example.com") && !exists(&server, "dora@example.com"));
    fs::write(&file, "alice\ndora\n").expect("written");
    server.tell(&["reload"]).ok();
    assert!(exists(&server, "dora@example.com") && !exists(&server, "info@example.com"));
}

/// What `check` and a start say of these files: neither succeeds, and both say every fault, with its place.
#[track_caller]
fn check_faults(com: &str, net: &str, faults: &[(&str, &str)]) {
    let home = Home::new(1);
    let config = home.configure(&two_domains(&home, com, net));
    for what in ["check", "serve"] {
        let mut command = Command::new(BINARY);
        command.arg(what).arg("--config").arg(&config).current_dir(home.path());
        let finished = run(&mut command, "");
        assert_eq!(finished.status.code(), Some(1), "{what}: {}", finished.all());
        for (place, words) in faults {
            let (domain, place) = place.split_once(':').expect("a place");
            let place = format!("{}:{place}: ", path(&home, domain).display());
            let line = finished.err.lines().find(|line| line.contains(&place));
            let line = line.unwrap_or_else(|| panic!("{what}: nothing at {place} in {}", finished.err));
            assert!(line.contains(words), "{what}: no {words:?} in {line}");
        }
    }
}

#[test]
fn every_fault_of_a_file_is_told_by_check_and_by_a_start() {
    let faults = [
        ("example.com:1:1", "\"@\""),
        ("example.com:3:7", "more than one name"),
        ("example.com:4:1", "there already, in line 2"),
        ("example.com:5:1", "leads to itself: loop -> loop"),
    ];
    check_faults("alice@example.com\nbob\nanna  =  bob\nbob\nloop: loop\n", "alice\n", &faults);
}

#[test]
fn aliases_that_lead_nowhere_are_told_by_check_and_by_a_start() {
    let faults = [
        ("example.com:2:7", "\"bbo\" is nobody in example.com; did you mean \"bob\"?"),
        ("example.com:2:12", "mail is not taken for the domain \"elsewhere.example\""),
        ("example.net:1:7", "\"carl\" is nobody in example.com"),
    ];
    check_faults("bob\ninfo: bbo, x@elsewhere.example\n", "info: carl@example.com\n", &faults);
}
