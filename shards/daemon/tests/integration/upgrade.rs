//! Another process takes over: clients notice nothing, mail is there once, and an attempt that fails changes nothing.

use crate::support::load::{Running, load, look};
use crate::support::programs::{Finished, run};
use crate::support::queue::{hasty, queue};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id};
use crate::support::text::message;
use crate::support::{eventually, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How often a server is upgraded under load, and how long it is loaded each time, unless the variables say otherwise.
const UPGRADES: u64 = 4;
const SECONDS: u64 = 3;

/// `cargo xtask upgrades` has it done more often, and longer.
const COUNT_VARIABLE: &str = "RINGPOST_TEST_UPGRADES";
const SECONDS_VARIABLE: &str = "RINGPOST_TEST_UPGRADE_SECONDS";

/// The process that serves now, killed when the test ends.
struct Successor(u32);

impl Successor {
    fn pid(&self) -> Pid {
        i32::try_from(self.0).ok().and_then(Pid::from_raw).expect("a process id")
    }

    /// Whether it is there, and not only its remains.
    fn lives(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        let dead = state.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
        test_kill_process(self.pid()).is_ok() && !dead
    }

    fn stop(&self) {
        kill_process(self.pid(), Signal::TERM).expect("a signal can be sent");
        wait_until("the new process has ended", || !self.lives());
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(self.pid(), Signal::KILL);
    }
}

/// The process that holds the state directory.
fn holder(server: &Server) -> u32 {
    let text = fs::read_to_string(server.home.state_dir().join("lock")).expect("a lock");
    text.trim().parse().expect("a process id")
}

#[track_caller]
fn upgrade(server: &Server) -> Successor {
    let before = holder(server);
    server.tell(&["upgrade"]).ok();
    let process = holder(server);
    assert_ne!(process, before, "the same process holds the state directory");
    Successor(process)
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

fn fails(server: &Server, arguments: &[&str], words: &[&str]) -> Finished {
    let finished = server.tell(arguments);
    assert!(!finished.status.success(), "{}", finished.all());
    words.iter().for_each(|word| assert!(finished.err.contains(word), "{word:?} is not in {}", finished.err));
    finished
}

/// Messages that stay where they are: their next hop is not there.
fn to_nobody() -> Settings {
    let lines = ["hosts = [\"127.0.0.1:1\"]", "tls = \"off\""];
    let settings = hasty().cores(2).target("away", "smtp", &lines).domain_to("away.example", "\"away\"", &[]);
    settings.domain("example.com", "\"any\"", "mail/{domain}/{local}")
}

/// How many spools there are.
fn spools(server: &Server) -> usize {
    fs::read_dir(server.home.state_dir().join("spool")).expect("a spool").count()
}

/// How many messages the queue has for the next hop that is not there.
fn waiting(server: &Server) -> usize {
    queue(server, &["list", "--to", "@away.example"])["messages"].as_array().expect("messages").len()
}

/// Waits for the end of the process that was started by the test itself.
fn wait_for_first(server: &mut Server) {
    let status = server.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn upgrades_under_load_refuse_nobody_and_lose_nothing() {
    let (count, seconds) = (number(COUNT_VARIABLE, UPGRADES), number(SECONDS_VARIABLE, SECONDS));
    let mut server = Server::start(Settings::default().cores(2));
    let (smtp, folder) = (server.smtp(), server.home.path().to_owned());
    let (mut current, mut acked): (Option<Successor>, Vec<PathBuf>) = (None, Vec::new());
    for round in 0..count {
        let file = folder.join(format!("acked.{round}"));
        // One message a connection, and several.
        let each = if round % 2 == 0 { "1" } else { "5" };
        let mut command = load(smtp, &["--rate", "200/s", "--sessions", "200", "--size", "4KiB", "--timeout", "30s"]);
        command.args(["--source", "127.0.0.2-127.0.0.200", "--messages-per-connection", each]);
        command.args(["--duration", &format!("{seconds}s"), "--acked"]).arg(&file);
        acked.push(file);
        let (finished, next) = std::thread::scope(|scope| {
            let loading = scope.spawn(|| command.output().expect("the load tester"));
            std::thread::sleep(Duration::from_secs(seconds) / 3);
            // A reload before it, which must lose nothing either.
            server.tell(&["reload"]).ok();
            std::thread::sleep(Duration::from_secs(seconds) / 6);
            let next = upgrade(&server);
            (loading.join().expect("the load ran"), next)
        });
        let said = || String::from_utf8_lossy(&[finished.stdout.as_slice(), &finished.stderr].concat()).into_owned();
        assert!(finished.status.success(), "round {round}: {}", said());
        match current.replace(next) {
            None => wait_for_first(&mut server),
            Some(former) => wait_until("the former process has ended", || !former.lives()),
        }
        eprintln!("upgrade {} of {count}: nobody was refused", round + 1);
    }
    server.wait_until_delivered();
    let found = look(&acked, &server.mail());
    eprintln!(
        "{count} upgrades and reloads in {seconds} s of load each: {} acknowledged, {} lost, {} altered, {} duplicated",
        found.acknowledged, found.lost, found.altered, found.duplicated
    );
    assert!(found.holds, "{}", found.report);
    // All former spools were taken over: those of the last process are left.
    wait_until("former spools are taken over", || spools(&server) == 2);
    current.expect("one").stop();
}

#[test]
fn sessions_of_the_former_process_finish_there() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut under_way = Client::hello(server.smtp());
    under_way.begin("a@example.org", &["alice@example.com"]);
    under_way.send(b"Subject: former\r\n\r\nhalf a li");
    let next = upgrade(&server);
    Client::hello(server.smtp()).deliver("a@example.org", &["bob@example.com"], &message("new", "x\r\n"));
    assert!(server.ended().is_none(), "the former process does not wait for its session");
    under_way.send(b"ne\r\n.\r\n");
    queued_id(&under_way.expect(250));
    under_way.expect(421);
    wait_for_first(&mut server);
    assert!(server.maildir("example.com/alice").only().sent().ends_with(b"half a line\r\n"));
    server.maildir("example.com/bob").only();
    next.stop();
}

#[test]
fn mail_that_waits_and_bans_go_along() {
    let mut server = Server::start(to_nobody());
    let mut client = Client::hello(server.smtp());
    for number in 0..5 {
        client.deliver("a@example.org", &["b@away.example"], &message(&format!("waits {number}"), "x\r\n"));
    }
    client.quit();
    wait_until("all wait", || waiting(&server) == 5);
    server.tell(&["ban", "add", "198.51.100.7", "--reason", "before"]).ok();
    let next = upgrade(&server);
    wait_for_first(&mut server);
    wait_until("all wait in the new process", || waiting(&server) == 5);
    assert!(server.tell(&["ban", "list"]).ok().out.contains("198.51.100.7"));
    server.tell(&["ban", "add", "198.51.100.8", "--reason", "after"]).ok();
    next.stop();
    server.start_again();
    wait_until("all wait after a restart", || waiting(&server) == 5);
    let bans = server.tell(&["ban", "list"]).ok().out;
    assert!(bans.contains("198.51.100.7") && bans.contains("198.51.100.8"), "{bans}");
}

#[test]
fn a_new_process_that_fails_changes_nothing() {
    let mut server = Server::start(Settings::default().cores(2));
    let config = server.home.path().join("ringpost.toml");
    let good = fs::read_to_string(&config).expect("a config");
    let process = holder(&server);
    // A config with a fault, one that needs a restart, a program that is none, one that knows nothing of this, no program.
    fs::write(&config, good.replace("[server]", "[server]\nhostnaem = \"x\"")).expect("written");
    let socket = server.home.state_dir().join("ringpost.sock");
    let at = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::support::server::BINARY);
        run(command.args(arguments).arg("--socket").arg(&socket), "")
    };
    let refused = at(&["upgrade"]);
    assert!(!refused.status.success() && refused.err.contains("hostnaem"), "{}", refused.all());
    assert!(server.errors().contains("hostnaem"), "what the new process said is not there: {}", server.errors());
    fs::write(&config, &good).expect("written");
    let elsewhere = server.home.path().join("elsewhere");
    let moved = good.replace(&server.home.state_dir().display().to_string(), &elsewhere.display().to_string());
    fs::write(&config, moved).expect("written");
    let refused = at(&["upgrade"]);
    assert!(!refused.status.success() && refused.err.contains("server.state_dir"), "{}", refused.all());
    fs::write(&config, &good).expect("written");
    for (binary, words) in
        [("/bin/false", "ended"), ("/nonexistent", "can't be started"), ("/etc/passwd", "can't be started")]
    {
        fails(&server, &["upgrade", "--binary", binary], &[words]);
    }
    // One that finds out only when it is about to serve.
    fs::write(&config, good.replace("[admin]", "[admin]\noperators = [\"no-such-user\"]")).expect("written");
    let refused = at(&["upgrade"]);
    assert!(!refused.status.success() && refused.err.contains("no-such-user"), "{}", refused.all());
    fs::write(&config, &good).expect("written");
    assert_eq!(holder(&server), process);
    assert!(server.ended().is_none());
    wait_until("nothing of the attempts is left", || spools(&server) == 2);
    for _ in 0..20 {
        Client::hello(server.smtp()).quit();
    }
    // It serves on, with all it had.
    server.tell(&["ban", "add", "198.51.100.9"]).ok();
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("on", "x\r\n"));
    server.maildir("example.com/alice").only();
    server.stop();
    server.start_again();
    assert!(server.tell(&["ban", "list"]).ok().out.contains("198.51.100.9"), "the ban was not written down");
    let next = upgrade(&server);
    wait_for_first(&mut server);
    next.stop();
}

/// What the former process has not settled is found by the new one as after any crash.
#[test]
fn a_former_process_that_is_killed_while_it_finishes_loses_nothing() {
    let mut server = Server::start(to_nobody());
    let running = Running::start(server.smtp(), server.home.path(), "load", &["--rate", "100/s", "--reconnect"]);
    wait_until("mail comes", || server.metrics().total("ringpost_messages_accepted_total") > 50);
    let mut held = Client::hello(server.smtp());
    held.begin("a@example.org", &["alice@example.com"]);
    held.send(b"Subject: never ends\r\n");
    let mut waits = Client::hello(server.smtp());
    waits.deliver("a@example.org", &["b@away.example"], &message("waits", "x\r\n"));
    waits.quit();
    let next = upgrade(&server);
    server.kill();
    wait_until("it waits in the new process", || waiting(&server) == 1);
    let acked = running.acked.clone();
    running.stop();
    let found = eventually(|| Some(look(std::slice::from_ref(&acked), &server.mail())).filter(|found| found.holds));
    assert!(found.is_some(), "{}", look(&[acked], &server.mail()).report);
    next.stop();
}

/// One after the other, each started by the one before; and a listener that comes and one that goes.
#[test]
fn listeners_may_come_and_go_with_an_upgrade() {
    let mut server = Server::start(Settings::default().cores(2).listener("mx", "off").listener("second", "off"));
    let config = server.home.path().join("ringpost.toml");
    let (first, second) = (server.home.smtp[0], server.home.smtp[1]);
    Client::hello(second).quit();
    let good = fs::read_to_string(&config).expect("a config");
    let third = crate::support::net::free_port(second.ip());
    fs::write(&config, good.replace(&second.to_string(), &third.to_string())).expect("written");
    let one = upgrade(&server);
    wait_for_first(&mut server);
    Client::hello(first).quit();
    Client::hello(third).quit();
    assert!(std::net::TcpStream::connect_timeout(&second, Duration::from_millis(500)).is_err(), "a listener is left");
    let two = upgrade(&server);
    wait_until("the second process has ended", || !one.lives());
    Client::hello(third).deliver("a@example.org", &["alice@example.com"], &message("third", "x\r\n"));
    server.maildir("example.com/alice").only();
    two.stop();
}

/// A third process would take over the spools that the first still writes to.
#[test]
fn the_next_upgrade_waits_for_the_former_process() {
    let mut server = Server::start(Settings::default().cores(2));
    let mut held = Client::hello(server.smtp());
    held.begin("a@example.org", &["alice@example.com"]);
    held.send(b"Subject: held\r\n");
    let second = upgrade(&server);
    fails(&server, &["upgrade"], &["still finishing"]);
    held.send(b"\r\nheld\r\n.\r\n");
    queued_id(&held.expect(250));
    wait_for_first(&mut server);
    let third = eventually(|| server.tell(&["upgrade"]).status.success().then(|| Successor(holder(&server))));
    let third = third.expect("an upgrade");
    wait_until("the second process has ended", || !second.lives());
    server.maildir("example.com/alice").only();
    third.stop();
}

/// What was to take over must not go on when the end of the server is wanted.
#[test]
fn a_server_that_is_stopped_meanwhile_ends_the_new_process() {
    let mut server = Server::start(Settings::default());
    let program = server.home.path().join("hangs");
    fs::write(&program, "#!/bin/sh\nexec sleep 600\n").expect("written");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let started = std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| server.tell(&["upgrade", "--binary", &program.display().to_string()]));
        let line = server.wait_for_line("a new process is started to take over", |_| true);
        server.signal(Signal::TERM);
        assert!(!upgrading.join().expect("it ended").status.success());
        Successor(line["process"].as_u64().and_then(|number| u32::try_from(number).ok()).expect("a number"))
    });
    assert!(server.wait().success());
    wait_until("the new process has ended", || !started.lives());
}
