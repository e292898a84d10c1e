//! A disk that fills up: mail is put off with 452, nothing that was acknowledged is lost, and once there is room again, all
//! goes on by itself.

use crate::support::disk::SmallDisk;
use crate::support::load::{Running, Verified, refusals, verify};
use crate::support::maildir::{Maildir, delivered_below};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, Reply};
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::collections::BTreeMap;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// A size that goes into a body file with [`settings`].
const LARGE: usize = 300_000;

/// Everything is small, and what fails is tried again soon. `marks` are `space_soft` and `space_hard`.
fn settings(marks: [u64; 2]) -> Settings {
    Settings::default()
        .set("spool", "inline_max = \"16KiB\"")
        .set("spool", "batch_max = \"128KiB\"")
        .set("spool", "segment_size = \"1MiB\"")
        .set("spool", &format!("space_soft = {}", marks[0]))
        .set("spool", &format!("space_hard = {}", marks[1]))
        .set("queue", "retry_first = \"100ms\"")
        .set("queue", "retry_max = \"300ms\"")
}

/// Waits until the server says that it is degraded, and why.
#[track_caller]
fn wait_for_reason(server: &Server, words: &str) {
    wait_until(&format!("degraded because of {words:?}"), || {
        let (status, body) = server.get("/readyz");
        assert_eq!(status, 200, "a full disk is no reason to send clients elsewhere: {body}");
        body.contains("\"state\":\"degraded\"") && body.contains(words)
    });
}

#[track_caller]
fn wait_until_ready(server: &Server) {
    wait_until("it is ready again", || server.get("/readyz").1.contains("\"state\":\"ready\""));
}

fn accepted(server: &Server) -> u64 {
    server.metrics().total("ringpost_messages_accepted_total")
}

#[track_caller]
fn wait_for_more(server: &Server, count: u64) {
    let before = accepted(server);
    wait_until("more mail is accepted", || accepted(server) >= before + count);
}

/// Ends the load: whatever was refused was put off for want of room, and what was acknowledged is in the Maildirs.
#[track_caller]
fn check_load(server: &mut Server, load: Running, mail: &Path) -> Verified {
    let acked = load.acked.clone();
    let report = load.stop();
    let refused = refusals(&report);
    assert!(refused.iter().all(|(code, first)| *code == 452 && first.contains(": 452 4.3.1 ")), "{report}");
    assert!(!refused.is_empty(), "nothing was ever refused\n{report}");
    server.wait_for_rest();
    let verified = verify(&[acked], mail);
    assert!(server.ended().is_none() && !server.errors().contains("panicked"), "{}", server.errors());
    verified
}

#[test]
fn a_disk_filled_under_load_gives_452_and_is_ready_again_by_itself() {
    let disk = SmallDisk::new(80);
    let home = disk.home();
    let mail = home.path().join("mail");
    let path = format!("{}/{{domain}}/{{local}}", mail.display());
    let settings = settings([24 * MIB, 12 * MIB]).cores(2).domain("example.com", "\"any\"", &path);
    let mut server = Server::start_at(home, settings);
    let arguments = ["--rate", "150/s", "--sessions", "20", "--size", "mix", "--messages-per-connection", "10"];
    let load = Running::start(server.smtp(), server.home.path(), "load", &arguments);
    wait_for_more(&server, 100);

    disk.leave(18 * MIB);
    wait_for_reason(&server, "less than spool.space_soft");
    wait_for_more(&server, 20);

    let mut begun = Client::hello(server.smtp());
    begun.begin("a@example.org", &["begun@example.com"]);
    disk.leave(6 * MIB);
    wait_for_reason(&server, "less than spool.space_hard: mail is refused with 452");
    Client::hello(server.smtp()).refused("MAIL FROM:<a@example.org>", 452, "4.3.1");
    // What had begun still finds room.
    assert_eq!(begun.content(&message("begun", &lines(1, LARGE))).code, 250);
    begun.quit();
    let metrics = server.metrics();
    assert!(metrics.sum("ringpost_limits_hit_total", "limit=\"spool.space_hard\"") > 0);
    assert!(metrics.by_shard("ringpost_spool_space_state").contains(&2));
    assert!(metrics.by_shard("ringpost_spool_free_bytes").iter().all(|free| *free < 12 * MIB));

    disk.free();
    wait_until_ready(&server);
    Client::hello(server.smtp()).deliver("a@example.org", &["after@example.com"], &message("after", "x\r\n"));
    wait_for_more(&server, 50);
    let verified = check_load(&mut server, load, &mail);
    eprintln!("{} acknowledged", verified.acknowledged);
    assert_eq!(Maildir(mail.join("example.com/begun")).count(), 1);
    server.wait_for_line("the spool's disk is full: mail is refused with 452", |line| line["level"] == "error");
    server.wait_for_line("the spool's disk has room again", |line| line["level"] == "info");
}

/// The log, the body files, what is delivered and what a server writes otherwise: all of it fails.
#[test]
fn a_disk_that_is_full_to_the_last_block_under_load_loses_nothing() {
    let disk = SmallDisk::new(96);
    let mut server = Server::start_at(disk.home(), settings([0, 0]).cores(2));
    let arguments = ["--rate", "120/s", "--sessions", "20", "--size", "mix", "--messages-per-connection", "10"];
    let load = Running::start(server.smtp(), server.home.path(), "load", &arguments);
    wait_for_more(&server, 100);
    for _ in 0..3 {
        disk.fill();
        let deferred = || server.metrics().sum("ringpost_deliveries_total", "outcome=\"deferred\"");
        let before = (deferred(), server.metrics().total("ringpost_spool_errors_total"));
        wait_until("delivery fails", || deferred() > before.0);
        wait_until("the spool fails", || server.metrics().total("ringpost_spool_errors_total") > before.1);
        disk.free();
        wait_for_more(&server, 20);
        wait_until_ready(&server);
    }
    let mail = server.mail();
    let verified = check_load(&mut server, load, &mail);
    eprintln!("{} acknowledged", verified.acknowledged);
}

/// What a server without marks does on a full disk, message by message.
struct Scarce {
    server: Server,
    /// What was answered 250, by subject.
    taken: BTreeMap<String, Vec<u8>>,
    put_off: usize,
    number: u64,
}

impl Scarce {
    /// Sends a message; whether it was taken. Otherwise it must have been put off for want of room.
    #[track_caller]
    fn send(&mut self, size: usize) -> bool {
        self.number += 1;
        let subject = format!("message-{}", self.number);
        let content = message(&subject, &lines(self.number, size));
        let mut client = Client::hello(self.server.smtp());
        let reply = match client.ask("MAIL FROM:<a@example.org>") {
            refused @ Reply { code: 400.., .. } => refused,
            _ => {
                client.say("RCPT TO:<alice@example.com>", 250);
                client.say("DATA", 354);
                client.content(&content)
            }
        };
        if reply.code == 250 {
            self.taken.insert(subject, content);
            return true;
        }
        self.put_off += 1;
        assert!(reply.lines[0].starts_with("452 4.3.1 "), "{}", reply.text());
        false
    }

    /// Everything that was taken is there once and as it was sent, and nothing else.
    #[track_caller]
    fn check_arrived(&self) {
        let delivered = self.server.maildir("example.com/alice").wait_for(self.taken.len());
        let mut arrived: Vec<&[u8]> = delivered.iter().map(|message| message.sent()).collect();
        let mut wanted: Vec<&[u8]> = self.taken.values().map(Vec::as_slice).collect();
        arrived.sort_unstable();
        wanted.sort_unstable();
        assert!(arrived == wanted, "what arrived is not what was taken");
    }
}

/// Delivery is blocked, so that the log has to grow.
#[test]
fn without_marks_each_write_that_finds_no_room_puts_its_message_off() {
    let disk = SmallDisk::new(32);
    let server = Server::start_at(disk.home(), settings([0, 0]));
    server.block("example.com");
    let mut scarce = Scarce { server, taken: BTreeMap::new(), put_off: 0, number: 0 };
    assert!((0..3).all(|_| scarce.send(500)) && scarce.send(LARGE));

    disk.fill();
    assert!(!scarce.send(LARGE), "there is no room for a body file");
    assert!(scarce.send(500), "the log still has room");
    let mut sizes = [10_000, 500, 14_000].into_iter().cycle();
    while scarce.put_off < 6 {
        scarce.send(sizes.next().expect("without end"));
        assert!(scarce.number < 2_000, "the log grows on a full disk");
    }
    wait_for_reason(&scarce.server, "the spool can't be written, mail is refused with 451 or 452");
    assert!(delivered_below(&scarce.server.mail()).is_empty());

    // Nor does a start need room.
    scarce.server.kill();
    scarce.server.start_again();
    let recovered = scarce.server.metrics().total("ringpost_spool_recovered_total");
    assert_eq!(recovered, scarce.taken.len() as u64);
    assert!(!scarce.send(LARGE));

    disk.free();
    wait_until("the log can grow again", || scarce.send(14_000));
    assert!((0..100).all(|_| scarce.send(14_000)) && scarce.send(LARGE));
    wait_until_ready(&scarce.server);
    scarce.server.unblock("example.com");
    scarce.check_arrived();
    scarce.server.wait_for_rest();
    assert!(!scarce.server.errors().contains("panicked"), "{}", scarce.server.errors());
}
