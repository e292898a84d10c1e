//! The config is read again while the server runs: what is new is in force for sessions under way too, what is wrong
//! changes nothing, and no mail is lost over it.

use crate::support::authority::{Authority, Issued};
use crate::support::limits::Told;
use crate::support::load::{load, verify};
use crate::support::net::{client_address, free_port, own_address};
use crate::support::programs::Guarded;
use crate::support::secure::Dialect;
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;
use rustix::process::Signal;
use std::fs;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

/// What the log says of a config that is not taken.
const REFUSED: &str = "reload refused; the former config stays in force";

/// Changes the config and has it read by `ringpost reload`; gives what that says.
#[track_caller]
fn reload(server: &mut Server, change: impl FnOnce(Settings) -> Settings) -> String {
    server.reconfigure(change);
    server.tell(&["reload"]).ok().out
}

/// Changes the config to one that must not be taken; all of `words` are said of it.
#[track_caller]
fn check_refused(server: &mut Server, change: impl FnOnce(Settings) -> Settings, words: &[&str]) {
    let before = server.metrics().by_shard("ringpost_config_epoch");
    server.reconfigure(change);
    let finished = server.tell(&["reload"]);
    assert_eq!((finished.status.code(), finished.out.as_str()), (Some(1), ""), "{}", finished.all());
    for word in words {
        assert!(finished.err.contains(word), "no {word:?} in {}", finished.err);
    }
    assert_eq!(server.metrics().by_shard("ringpost_config_epoch"), before, "the config was taken all the same");
    // The signal comes to the same, and has only the log to say so.
    let refusals = || {
        let log = server.log();
        let refused = log.into_iter().filter(|line| line["message"] == REFUSED);
        refused.filter(|line| line["error"].as_str().is_some_and(|error| error.contains(words[0]))).count()
    };
    let so_far = refusals();
    server.signal(Signal::HUP);
    wait_until("the signal is answered in the log", || refusals() > so_far);
    assert_eq!(server.metrics().by_shard("ringpost_config_epoch"), before);
}

#[test]
fn limits_change_for_sessions_under_way() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut open = Client::hello_from(client_address(0, 1), server.smtp());
    let told = reload(&mut server, |settings| {
        settings.set("limits", "messages_per_ip = 1").set("limits", "message_size = \"64KiB\"")
    });
    assert!(told.starts_with("config 1 is in force on every shard\nchanged: "), "{told}");
    assert!(told.contains("limits.message_size") && told.contains("limits.messages_per_ip"), "{told}");
    assert_eq!(server.metrics().by_shard("ringpost_config_epoch"), [1, 1]);
    // What it was told of sizes holds until it asks again.
    open.say("MAIL FROM:<a@example.org> SIZE=70000", 250);
    let offers = open.say("EHLO client.example.org", 250).text();
    assert!(offers.contains("SIZE 65536"), "{offers}");
    let mut heard = Told::default();
    heard.hear(&open.say("MAIL FROM:<a@example.org> SIZE=70000", 552));
    heard.hear(&open.say("MAIL FROM:<a@example.org>", 450));
    assert_eq!((heard.count("limits.message_size"), heard.count("limits.messages_per_ip")), (1, 1));
    heard.check(&server);
    reload(&mut server, |settings| settings.set("limits", "messages_per_ip = 0"));
    open.say("MAIL FROM:<a@example.org>", 250);
    open.quit();
}

/// Who is counted stays counted.
#[test]
fn counts_outlast_a_change_of_their_limit() {
    let mut server = Server::start(Settings::default().cores(2).set("limits", "connections_per_ip = 2"));
    let (from, to) = (client_address(0, 1), server.smtp());
    let mut open: Vec<Client> = (0..2).map(|_| Client::hello_from(from, to)).collect();
    Client::connect_from(from, to).expect(421);
    reload(&mut server, |settings| settings.set("limits", "connections_per_ip = 3"));
    open.push(Client::hello_from(from, to));
    Client::connect_from(from, to).expect(421);
    reload(&mut server, |settings| settings.set("limits", "connections_per_ip = 0"));
    open.push(Client::hello_from(from, to));
    reload(&mut server, |settings| settings.set("limits", "connections_per_ip = 3"));
    // The one that came in between is not counted, and the three are.
    Client::connect_from(from, to).expect(421);
    drop(open);
    server.wait_for_metric("ringpost_address_connections", 0);
    server.wait_for_metric("ringpost_ledger_entries", 0);
}

#[test]
fn domains_and_targets_change_for_sessions_under_way() {
    let settings = Settings::default().domain("one.example", "[\"ann\"]", "mail/one/{local}");
    let mut server = Server::start(settings.cores(2));
    let mut open = Client::hello(server.smtp());
    open.say("MAIL FROM:<a@example.org>", 250);
    open.say("RCPT TO:<ann@one.example>", 250);
    open.say("RCPT TO:<bob@two.example>", 550);
    let told = reload(&mut server, |_| {
        let settings = Settings::default().cores(2).domain("two.example", "[\"bob\"]", "mail/two/{local}");
        settings.domain("one.example", "[\"ann\", \"new\"]", "mail/moved/{local}")
    });
    assert!(told.contains("domain[two.example]"), "{told}");
    open.say("RCPT TO:<bob@two.example>", 250);
    open.say("RCPT TO:<new@one.example>", 250);
    open.say("RCPT TO:<bob@one.example>", 550);
    open.say("DATA", 354);
    assert_eq!(open.content(&message("moved", "x\r\n")).code, 250);
    for path in ["moved/ann", "two/bob", "moved/new"] {
        server.maildir(path).only();
    }
    reload(&mut server, |_| Settings::default().cores(2).domain("two.example", "\"any\"", "mail/two/{local}"));
    open.say("MAIL FROM:<a@example.org>", 250);
    open.say("RCPT TO:<ann@one.example>", 550);
    open.say("RCPT TO:<anybody@two.example>", 250);
    open.quit();
}

/// Mail that waits goes where the config sends it by then.
#[test]
fn mail_that_waits_goes_where_the_new_config_says() {
    let settings = Settings::default().set("queue", "retry_first = \"200ms\"").set("queue", "retry_max = \"400ms\"");
    let base = settings.domain("one.example", "\"any\"", "mail/blocked/{local}");
    let mut server = Server::start(base.clone());
    server.block("blocked");
    let sent = message("waits", "x\r\n");
    Client::hello(server.smtp()).deliver("a@example.org", &["ann@one.example"], &sent);
    server.wait_for_metric("ringpost_queue_deferred_messages", 1);
    let moved = settings_with_target(&base, "mail/free/{local}");
    reload(&mut server, |_| moved);
    assert_eq!(server.maildir("free/ann").only().sent(), sent);
    server.wait_for_rest();
}

/// The same settings with another path of their only target.
fn settings_with_target(settings: &Settings, path: &str) -> Settings {
    settings.clone().without_domains().domain("one.example", "\"any\"", path)
}

#[test]
fn certificates_change_and_sessions_stay() {
    let home = Home::new(1);
    // Two authorities, so that a client sees by whom it trusts which certificate it was shown.
    let [one, two] = ["one", "two"].map(|name| {
        let folder = home.path().join(name);
        fs::create_dir(&folder).expect("made");
        let authority = Authority::new(&folder);
        (authority.server(name, "ec", &["mx.example.com"]), Dialect::trusting(&authority.cert()))
    });
    let line = |issued: &Issued| format!("certificates = [{}]", issued.entry());
    let mut server = Server::start_at(home, Settings::default().cores(2).set("tls", &line(&one.0)));
    let (first, second) = (one.1, two.1);
    let mut open = first.starttls(server.smtp(), "mx.example.com");
    let mut half = Client::hello(server.smtp());
    reload(&mut server, |settings| settings.set("tls", &line(&two.0)));
    open.deliver("a@example.org", &["alice@example.com"], &message("stays", "x\r\n"));
    second.starttls(server.smtp(), "mx.example.com").say("QUIT", 221);
    half.say("NOOP", 250);
    second.upgrade(half, "mx.example.com").say("QUIT", 221);
    // A key that belongs to another certificate is not taken.
    let mixed = Issued { cert: one.0.cert.clone(), key: two.0.key.clone() };
    check_refused(&mut server, |settings| settings.set("tls", &line(&mixed)), &["one.pem"]);
    second.starttls(server.smtp(), "mx.example.com").say("QUIT", 221);
    open.say("QUIT", 221);
}

#[test]
fn timeouts_change_for_sessions_under_way() {
    let mut server = Server::start(Settings::default());
    let mut open = Client::hello(server.smtp());
    reload(&mut server, |settings| settings.set("limits", "command_timeout = \"1s\""));
    open.say("NOOP", 250);
    open.expect(421);
    open.ended();
}

#[test]
fn a_signal_reads_the_config_again() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut open = Client::hello(server.smtp());
    for (epoch, local) in [(1, "ann"), (2, "bob")] {
        let recipients = format!("[\"{local}\"]");
        server.reconfigure(|settings| settings.without_domains().domain("example.net", &recipients, "mail/{address}"));
        server.signal(Signal::HUP);
        wait_until("the config is in force", || server.metrics().by_shard("ringpost_config_epoch") == [epoch; 2]);
        open.say("MAIL FROM:<a@example.org>", 250);
        open.say(&format!("RCPT TO:<{local}@example.net>"), 250);
        open.say("RCPT TO:<carl@example.net>", 550);
        open.say("RSET", 250);
        server.wait_for_line("reloaded", |line| line["epoch"] == epoch);
    }
    open.quit();
}

#[test]
fn the_log_changes_while_it_is_written() {
    let mut server = Server::start(Settings::default().cores(2));
    Client::hello(server.smtp()).quit();
    reload(&mut server, |settings| settings.set("log", "level = \"debug\""));
    Client::hello_from(client_address(0, 1), server.smtp()).quit();
    server.wait_for_line("connected", |line| line["level"] == "debug");
    let connected = server.log().iter().filter(|line| line["message"] == "connected").count();
    assert_eq!(connected, 1, "the first came before");
    reload(&mut server, |settings| settings.set("log", "level = \"warn\""));
    let id = Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("quiet", "x\r\n"));
    server.maildir("example.com/alice").only();
    server.wait_for_rest();
    reload(&mut server, |settings| settings.set("log", "format = \"text\"").set("log", "level = \"info\""));
    let later = Client::hello(server.smtp()).deliver("a@example.org", &["bob@example.com"], &message("text", "x\r\n"));
    wait_until("a line for people", || {
        server
            .log_text()
            .lines()
            .any(|line| line.contains(&later) && line.contains("accepted") && !line.starts_with('{'))
    });
    assert!(!server.log_text().contains(&id), "a line that is not important enough was written");
}

#[test]
fn the_host_name_changes_for_new_sessions() {
    let mut server = Server::start(Settings::default());
    let told = reload(&mut server, |settings| settings.set("server", "hostname = \"mx2.example.com\""));
    assert!(told.contains("changed: server.hostname"), "{told}");
    let mut client = Client::connect(server.smtp());
    let banner = client.expect(220).text();
    assert!(banner.starts_with("220 mx2.example.com "), "{banner}");
    let greeting = client.say("EHLO client.example.org", 250).text();
    assert!(greeting.starts_with("250-mx2.example.com"), "{greeting}");
    client.deliver("a@example.org", &["alice@example.com"], &message("named", "x\r\n"));
    let trace = server.maildir("example.com/alice").only().trace().to_owned();
    assert!(trace.contains("by mx2.example.com with ESMTP"), "{trace}");
}

/// The time that sessions have to finish is that of the config in force.
#[test]
fn the_time_to_drain_is_the_one_in_force() {
    let mut server = Server::start(Settings::default().cores(2).set("server", "drain_timeout = \"10m\""));
    let mut stuck = Client::hello(server.smtp());
    stuck.begin("a@example.org", &["alice@example.com"]);
    reload(&mut server, |settings| settings.set("server", "drain_timeout = \"300ms\""));
    server.stop();
}

#[test]
fn listeners_change_whom_they_trust_and_what_they_require() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut open = Client::hello(server.smtp());
    reload(&mut server, |settings| settings.listener_line("xclient_from = [\"127.0.0.1\"]"));
    let offers = Client::hello(server.smtp()).say("EHLO client.example.org", 250).text();
    assert!(offers.contains("XCLIENT"), "{offers}");
    reload(&mut server, |settings| settings.listener_line("proxy_from = [\"127.0.0.1\"]"));
    let mut presented = Client::connect(server.smtp());
    presented.send(b"PROXY TCP4 192.0.2.1 198.51.100.25 1 25\r\n");
    presented.greeted().quit();
    open.say("NOOP", 250);
    reload(&mut server, |settings| settings.listener_line("proxy_from = []").set("tls", "required = true"));
    Client::hello(server.smtp()).refused("MAIL FROM:<a@example.org>", 530, "5.7.0");
    open.quit();
}

/// Everything that is wrong is told at once, and nothing of the file is taken.
#[test]
fn a_file_with_errors_changes_nothing() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut open = Client::hello(server.smtp());
    let wrong = |settings: Settings| {
        let settings = settings.set("limits", "message_size = \"1KiB\"").set("limits", "command_time = \"1s\"");
        settings.set("bans", "allow = [\"127.0.0.1/8\"]").set("limits", "messages_per_ip = 1")
    };
    let words = ["message_size", "command_time", "127.0.0.0/8", "ringpost.toml:"];
    check_refused(&mut server, wrong, &words);
    for _ in 0..3 {
        open.say("MAIL FROM:<a@example.org>", 250);
        open.say("RSET", 250);
    }
    let missing = |_: Settings| {
        let pair = "certificates = [{ cert = \"/nowhere/a.pem\", key = \"/nowhere/a.key\" }]";
        Settings::default().cores(2).set("tls", pair).set("limits", "messages_per_ip = 1")
    };
    check_refused(&mut server, missing, &["/nowhere/a.pem"]);
    let file = |_: Settings| {
        Settings::default().cores(2).domain("one.example", "{ file = \"/nowhere/recipients\" }", "mail/{local}")
    };
    check_refused(&mut server, file, &["/nowhere/recipients", "one.example"]);
    for _ in 0..2 {
        open.say("MAIL FROM:<a@example.org>", 250);
        open.say("RCPT TO:<alice@example.com>", 250);
        open.say("RSET", 250);
    }
    open.quit();
    // Not even TOML, and then no file at all.
    let config = server.home.path().join("ringpost.toml");
    let whole = fs::read_to_string(&config).expect("the config");
    for text in ["[limits\n", "\u{0}"] {
        fs::write(&config, text).expect("written");
        let socket = server.home.state_dir().join("ringpost.sock").display().to_string();
        let finished = server.tell(&["reload", "--socket", &socket]);
        assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
        assert!(finished.err.contains("ringpost.toml"), "{}", finished.err);
    }
    fs::write(&config, whole).expect("written");
    assert_eq!(server.metrics().by_shard("ringpost_config_epoch"), [0, 0]);
    let told = reload(&mut server, |_| Settings::default().cores(2));
    assert_eq!(told, "nothing that can be changed while the server runs has changed\n");
}

/// What needs a restart is named and waits; the rest of the file is taken.
#[test]
fn what_needs_a_restart_is_named_and_waits() {
    let mut server = Server::start(Settings::default().cores(2));
    let (smtp, admin) = (server.smtp(), server.home.admin);
    let elsewhere = free_port(own_address());
    server.home.smtp[0] = elsewhere;
    let told = reload(&mut server, |settings| {
        let settings = settings.cores(1).set("limits", "network_v4 = 16").set("limits", "messages_per_ip = 1");
        settings.set("spool", "segment_size = \"4MiB\"").listener_line("steer = false")
    });
    assert!(told.contains("\nchanged: limits.messages_per_ip\n"), "{told}");
    let waits = told.lines().find_map(|line| line.strip_prefix("wait for a restart: ")).expect("keys that wait");
    for key in ["cores.use", "limits.network_v4", "spool.segment_size", "listener[mx].address", "listener[mx].steer"] {
        assert!(waits.split(", ").any(|name| name == key), "no {key:?} in {waits}");
    }
    assert_eq!(waits.split(", ").count(), 5, "{waits}");
    assert!(TcpStream::connect(elsewhere).is_err(), "it listens on the new address already");
    let mut client = Client::hello(smtp);
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RSET", 250);
    client.say("MAIL FROM:<a@example.org>", 450);
    drop(client);
    assert_eq!(server.home.admin, admin);
    assert_eq!(server.metrics().by_shard("ringpost_config_epoch"), [1, 1], "both cores go on");
    // They are told again as long as they wait.
    let again = server.tell(&["reload"]).ok().out;
    assert!(again.contains("wait for a restart: ") && again.contains("nothing that can be changed"), "{again}");
    server.stop();
    server.start_again();
    Client::hello(elsewhere).quit();
    assert_eq!(server.metrics().by_shard("ringpost_config_epoch"), [0]);
}

/// Under load, one reload after the other, half of them with the signal: every message arrives, and nobody is turned away.
#[test]
fn fifty_reloads_under_load_lose_nothing() {
    let mut server = Server::start(Settings::default().cores(2));
    let acked = server.home.path().join("acked");
    let mut command = load(server.smtp(), &["--messages", "2000", "--rate", "200/s", "--sessions", "100"]);
    command
        .args(["--size", "2KiB", "--messages-per-connection", "3", "--source", "127.1.0.0/20", "--acked"])
        .arg(&acked);
    let output = fs::File::create(server.home.path().join("load")).expect("a file");
    command.stdin(Stdio::null()).stdout(output.try_clone().expect("a copy")).stderr(output);
    let mut load = Guarded::spawn(&mut command);
    let mut meanwhile = 0;
    for number in 1..=50 {
        let limit = if number % 2 == 0 { 0 } else { 100_000 };
        let change = |settings: Settings| {
            let settings = settings.set("limits", &format!("connections_per_ip = {limit}"));
            let settings = settings.set("limits", &format!("messages_per_network = {limit}"));
            settings.set("explain", &format!("memory = \"{}MiB\"", 1 + number % 3))
        };
        if number % 5 == 0 {
            server.reconfigure(change);
            server.signal(Signal::HUP);
            server.wait_for_metric("ringpost_config_epoch", 2 * number);
        } else {
            let told = reload(&mut server, change);
            assert!(told.starts_with(&format!("config {number} is in force on every shard\n")), "{told}");
        }
        meanwhile += u32::from(load.wait_for(Duration::ZERO).is_none());
    }
    let status = load.wait_for(Duration::from_secs(60)).expect("the load ends");
    let said = || fs::read_to_string(server.home.path().join("load")).unwrap_or_default();
    assert!(status.success(), "{}", said());
    assert!(meanwhile > 10, "the load was over after {meanwhile} reloads");
    let acknowledged = fs::read_to_string(&acked).expect("acknowledged").lines().count();
    assert_eq!(acknowledged, 2000, "{}", said());
    verify(&[acked], &server.mail());
    server.wait_for_rest();
    let metrics = server.metrics();
    for name in ["ringpost_sessions_refused_total", "ringpost_messages_deferred_total", "ringpost_address_connections"]
    {
        assert_eq!(metrics.total(name), 0, "{name}");
    }
    assert_eq!(metrics.by_shard("ringpost_config_epoch"), [50, 50]);
}
