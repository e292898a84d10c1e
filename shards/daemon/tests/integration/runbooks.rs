//! The runbooks, tried: every command of a page is run, in order, on a machine that has the incident which the page is for.
//! Afterwards the incident must be over, and no mail lost.
//!
//! The server is where the pages say it is, in namespaces of the test's own. For `systemctl`, `journalctl` and `sudo` there
//! are small programs that do the same to it; everything else is the real one.

mod page;
mod play;
mod shell;
mod stage;

use crate::support::authority::{Authority, Issued};
use crate::support::disk::SmallDisk;
use crate::support::hop::{Answer, Hop, Manner, Moment};
use crate::support::load::{Running, binary, refusals};
use crate::support::programs::Guarded;
use crate::support::server::BINARY;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::unbound::{Names, Unbound};
use crate::support::wait_until;
use play::Play;
use stage::{CONFIG, SMTP, Stage, on_stage};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

/// The next hop of the pages, and another one.
const HOP: &str = "192.0.2.33:25";
const OTHER_HOP: &str = "192.0.2.34:25";

/// Each page, with how it is tried.
const PLAYS: [(&str, fn()); 9] = [
    ("README.md", no_mail_and_no_dns),
    ("backlog.md", backlog),
    ("certificate-expiry.md", certificate_expiry),
    ("crash.md", crash),
    ("disk-full.md", disk_full),
    ("flood.md", flood),
    ("hung-next-hop.md", hung_next_hop),
    ("restore.md", restore),
    ("upgrade.md", upgrade),
];

/// Small and hasty, with a Maildir for everybody of example.com.
fn settings() -> Settings {
    Settings::default().set("queue", "retry_first = \"200ms\"").set("queue", "retry_max = \"500ms\"").domain(
        "example.com",
        "\"any\"",
        "mail/{domain}/{local}",
    )
}

/// The same with a next hop for relayed.example, which is given up quickly.
fn relaying() -> Settings {
    let hosts = format!("hosts = [\"{HOP}\"]");
    let lines = [
        &hosts,
        "command_timeout = \"1s\"",
        "breaker_failures = 2",
        "breaker_pause = \"1s\"",
        "breaker_pause_max = \"2s\"",
    ];
    settings().target("relay", "smtp", &lines).domain_to("relayed.example", "\"relay\"", &[])
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Sends a message that must be taken; gives its id.
#[track_caller]
fn deliver(from: &str, to: &str, subject: &str) -> String {
    let mut client = Client::hello_from("192.0.2.9".parse().expect("an address"), SMTP);
    let id = client.deliver(from, &[to], &message(subject, "body\r\n"));
    client.quit();
    id
}

/// The subjects of what a hop has.
fn subjects(hop: &Hop) -> BTreeSet<String> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    let subject = |body: String| body.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned));
    hop.taken().iter().filter_map(|taken| subject(text(&taken.body))).collect()
}

#[test]
fn every_page_is_tried() {
    let played: Vec<&str> = PLAYS.iter().map(|(page, _)| *page).collect();
    assert_eq!(page::names(), played, "a page without a test, or a test without a page");
    for page in played {
        let text = page::text(page);
        assert!(text.contains(page::MARKER), "{page} does not say by what it is run");
        for section in [
            "## What you see",
            "## First minute",
            "## How to see that it is over",
            "## What never to do",
            "## What to keep",
        ] {
            assert!(text.contains(&format!("\n{section}\n")), "{page} has no section {section:?}");
        }
        assert!(page::blocks(page).iter().any(page::Block::is_to_do), "{page} has nothing to do");
        if page != "README.md" {
            assert!(page::text("README.md").contains(&format!("({page})")), "the index does not know {page}");
        }
    }
}

/// Tries a page, in a network of its own.
fn try_page(name: &str) {
    let (_, play) = PLAYS.iter().find(|(page, _)| *page == name).expect("a page");
    on_stage(play);
}

#[test]
fn the_index_in_its_incident() {
    try_page("README.md");
}

#[test]
fn a_backlog_by_its_page() {
    try_page("backlog.md");
}

#[test]
fn a_certificate_that_ends_by_its_page() {
    try_page("certificate-expiry.md");
}

#[test]
fn a_crash_by_its_page() {
    try_page("crash.md");
}

#[test]
fn a_full_disk_by_its_page() {
    try_page("disk-full.md");
}

#[test]
fn a_flood_by_its_page() {
    try_page("flood.md");
}

#[test]
fn a_hung_next_hop_by_its_page() {
    try_page("hung-next-hop.md");
}

#[test]
fn a_restore_by_its_page() {
    try_page("restore.md");
}

#[test]
fn an_upgrade_by_its_page() {
    try_page("upgrade.md");
}

/// The name servers are gone, and mail is taken all the same.
fn no_mail_and_no_dns() {
    let list = ["zone = \"bl.example.net\"", "weight = 10"];
    let settings = settings().set("dns", "servers = [\"192.0.2.53\"]").set("dns", "timeout = \"200ms\"");
    let settings = settings.set("screen", "score_reject = 10").entry("screen.list", &list);
    let stage = Stage::start(settings, None);
    fs::write(stage.path("/etc/resolv.conf"), "nameserver 192.0.2.53\n").expect("written");
    deliver("a@example.org", "first@example.com", "first");
    wait_until("the DNS is told to fail", || {
        stage.metrics().sum("ringpost_dns_lookups_total", "outcome=\"failed\"") > 0
    });
    stage.wait_until_degraded("DNS");
    let mut play = Play::open("README.md", stage);
    play.run_failing(&[3], &["DEGRADED", "dns"]);
    play.run(&["Active: active (running)"]);
    play.run(&[]);
    play.run(&["\"state\":\"degraded\""]);
    play.run(&[]);
    play.run(&["192.0.2.53", "nameserver"]);
    let names = Names::default().record("mail.example.org A 192.0.2.9");
    let _unbound = Unbound::start_at(address("192.0.2.54:53"), &names);
    play.edit();
    play.run(&["changed: dns.servers"]);
    deliver("a@example.org", "second@example.com", "second");
    play.run(&[":25"]);
    play.run(&["220 mx.example.com"]);
    play.run(&["limits.connections"]);
    play.stage.wait_until_ready();
    play.run(&["READY"]);
    play.stage.maildir("example.com/first").only();
    play.stage.maildir("example.com/second").only();
}

/// A next hop that puts everything off fills the queue to its limit.
fn backlog() {
    let settings = relaying().set("cores.limits", "spool_backlog = \"256KiB\"");
    let hop = Manner::default().at(address(HOP)).start(|moment| match moment {
        Moment::Rcpt(line) if line.contains("gone@") => Answer::Say("550 5.1.1 no such user"),
        Moment::Rcpt(_) => Answer::Say("450 4.2.1 try again later"),
        _ => Answer::Usual,
    });
    let stage = Stage::start(settings, None);
    let mut sent = BTreeSet::new();
    let mut send = |from: &str, to: &str| {
        let subject = format!("message-{}", sent.len());
        deliver(from, to, &subject);
        sent.insert(subject);
    };
    send("", "gone@relayed.example");
    (0..5).for_each(|number| send("news@shop.example", &format!("u{number}@relayed.example")));
    (0..3).for_each(|number| send("a@example.org", &format!("v{number}@relayed.example")));
    let mut client = Client::hello(SMTP);
    let large = message("large", &lines(7, 300_000));
    client.deliver("a@example.org", &["large@relayed.example"], &large);
    client.refused("MAIL FROM:<a@example.org>", 452, "4.3.1");
    client.quit();
    sent.insert("large".to_owned());
    wait_until("a dead letter", || stage.metrics().total("ringpost_queue_dead_messages") == 1);
    stage.wait_until_degraded("wait for delivery");

    let mut play = Play::open("backlog.md", stage);
    play.run_failing(&[3], &["DEGRADED", "wait for delivery", "dead letters: 1"]);
    play.run(&["relay", "try again later"]);
    play.run(&["news@shop.example"]);
    play.run(&["message", "relayed.example", "Subject: message-"]);
    play.run(&["5 \"from\": \"news@shop.example\""]);
    play.run(&["5 messages", ".eml", ".json"]);
    play.run(&["5 messages"]);
    play.run(&["Filesystem"]);
    play.edit();
    play.run(&["changed: cores.limits.spool_backlog"]);
    Client::hello(SMTP).say("MAIL FROM:<a@example.org>", 250);
    play.run(&["gone@relayed.example", "1 message"]);
    hop.change(|_| Answer::Usual);
    play.run(&["1 message"]);
    play.run(&["message"]);
    play.stage.wait_until_settled();
    play.run(&["0 messages"]);
    play.stage.wait_until_ready();
    play.run(&["READY"]);
    assert_eq!(subjects(&hop), sent);
    assert_eq!(hop.count(), sent.len(), "something arrived twice");
}

/// A certificate that ends tomorrow.
fn certificate_expiry() {
    let settings =
        settings().set("tls", "certificates = [{ cert = \"/etc/ringpost/mx.pem\", key = \"/etc/ringpost/mx.key\" }]");
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path());
    let ending = authority.lasting(1).server("ending", "ec", &["mx.example.com"]);
    let install = |issued: &Issued, folder: &Path| {
        fs::copy(&issued.key, folder.join("mx.key")).expect("copied");
        fs::copy(&issued.cert, folder.join("mx.pem")).expect("copied");
    };
    let stage = Stage::start_with(settings, None, |folder| install(&ending, folder));
    stage.wait_until_degraded("certificate");
    let mut play = Play::open("certificate-expiry.md", stage);
    play.run_failing(&[3], &["DEGRADED", "certificate"]);
    let before = play.run(&["CN = ending", "notAfter="]);
    play.run(&["/etc/ringpost/mx.pem", "CN = ending"]);
    play.run(&[]);
    let pair = play.run(&["stdin"]);
    assert_eq!(pair.lines().filter(|line| !line.is_empty()).collect::<BTreeSet<_>>().len(), 1, "{pair}");
    install(&authority.lasting(90).server("renewed", "ec", &["mx.example.com"]), &play.stage.path("/etc/ringpost"));
    play.run(&[]);
    play.stage.wait_until_ready();
    let after = play.run(&["CN = renewed", "notAfter=", "READY"]);
    assert_ne!(before, after);
    deliver("a@example.org", "alice@example.com", "after");
    play.stage.maildir("example.com/alice").only();
}

/// A process that dies of a signal under load.
fn crash() {
    let settings = settings().cores(2).set("server", "stall_timeout = \"500ms\"");
    let settings = settings.fault("shard.stall", "stall.example").fault("session.panic", "panic.example");
    let stage = Stage::start(settings, None);
    let load = Running::start(SMTP, &stage.path("/var/tmp"), "load", &["--rate", "100/s", "--reconnect"]);
    wait_until("mail comes", || stage.metrics().total("ringpost_messages_accepted_total") > 50);
    let crashed = stage.main_process();
    stage.inside(&["kill", "-SEGV", &crashed]).ok();
    wait_until("it runs again", || {
        let holder = stage.main_process();
        holder != crashed && stage.inside(&["ringpost", "status", "--config", CONFIG]).status.success()
    });
    let mut play = Play::open("crash.md", stage);
    play.run(&["Active: active (running)", "NRestarts=1"]);
    play.run(&["READY"]);
    play.run(&[]);
    play.run(&[]);
    play.run(&["crash-", "SIGSEGV"]);
    play.run(&[]);
    let mut stalling = Client::connect(SMTP);
    stalling.expect(220);
    stalling.send(b"EHLO stall.example\r\n");
    wait_until("the stall is noticed", || play.stage.log().contains("shard stalled"));
    play.run(&["shard stalled", "SHARD"]);
    stalling.expect(250);
    play.run(&["/var/tmp/shard.svg"]);
    assert!(fs::read_to_string(play.stage.path("/var/tmp/shard.svg")).expect("a flame graph").contains("<svg"));
    let before = play.stage.main_process();
    play.run(&[]);
    assert_ne!(play.stage.main_process(), before);
    let mut panicking = Client::connect(SMTP);
    panicking.expect(220);
    panicking.say("EHLO panic.example", 421);
    wait_until("the panic is told", || play.stage.log().contains("session panicked"));
    play.run(&["session panicked"]);
    let acked = load.acked.clone();
    load.stop();
    play.run(&["READY", "none damaged"]);
    play.run(&[]);
    let kept = Command::new("tar").arg("-tzf").arg(play.stage.path("/var/tmp/ringpost-crash.tar.gz")).output();
    assert!(
        String::from_utf8_lossy(&kept.expect("tar runs").stdout).contains("crash/crash-"),
        "the crash file is kept"
    );
    play.stage.wait_until_settled();
    play.stage.verify(&[acked]);
}

/// A disk that something else has filled, while mail waits.
fn disk_full() {
    let disk = SmallDisk::new(96);
    let settings = settings()
        .set("spool", "segment_size = \"1MiB\"")
        .set("spool", "batch_max = \"128KiB\"")
        .set("spool", "inline_max = \"16KiB\"")
        .set("spool", &format!("space_soft = {}", 24 * MIB))
        .set("spool", &format!("space_hard = {}", 12 * MIB));
    let stage = Stage::start(settings, Some(&disk.root()));
    let mail = stage.mail().join("example.com");
    fs::create_dir_all(&mail).expect("made");
    fs::write(mail.join("alice"), "in the way").expect("written");
    (0..5).for_each(|number| drop(deliver("a@example.org", "alice@example.com", &format!("waits-{number}"))));
    disk.leave(6 * MIB);
    stage.wait_until_degraded("less than spool.space_hard");
    Client::hello(SMTP).refused("MAIL FROM:<a@example.org>", 452, "4.3.1");
    let mut play = Play::open("disk-full.md", stage);
    play.run_failing(&[3], &["DEGRADED", "spool.space_hard"]);
    play.run(&["/var/lib", "IUse%"]);
    play.run(&["/var/lib/ringpost/spool"]);
    play.run(&[]);
    play.run(&["/var/lib/ballast"]);
    disk.free();
    fs::remove_file(mail.join("alice")).expect("removed");
    play.run(&["message"]);
    play.stage.wait_until_ready();
    play.run(&["READY"]);
    play.run(&["none damaged"]);
    deliver("a@example.org", "alice@example.com", "after");
    play.stage.maildir("example.com/alice").wait_for(6);
}

/// Many sessions of a network that say nothing, and one address that comes again and again.
fn flood() {
    let stage = Stage::start(settings().set("limits", "connections_per_ip = 3"), None);
    let attack = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--no-json", "--quiet", "--to", &SMTP.to_string()]);
        Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let _silent = attack(&["idle", "--connections", "60", "--hold", "5min", "--source", "198.51.100.0/24"]);
    let open = |stage: &Stage| stage.metrics().total("ringpost_sessions_open");
    wait_until("they are connected", || open(&stage) >= 60);
    let _again = attack(&["flood", "--duration", "5min", "--concurrency", "20", "--source", "198.51.100.7"]);
    let met = |stage: &Stage| stage.metrics().sum("ringpost_limits_hit_total", "limit=\"limits.connections_per_ip\"");
    wait_until("a limit is met", || met(&stage) > 100);
    // Mail of others goes on.
    deliver("a@example.org", "during@example.com", "during");

    let mut play = Play::open("flood.md", stage);
    play.run(&["limits.connections_per_ip"]);
    play.run(&["limits.connections_per_ip"]);
    play.run(&["SHARD"]);
    play.run(&["198.51.100."]);
    play.run(&["198.51.100.0"]);
    play.run(&["198.51.100.7"]);
    play.run(&["198.51.100.0/24", "flood"]);
    wait_until("their sessions end", || open(&play.stage) < 30);
    play.edit();
    play.run(&["changed: limits.connection_rate_per_ip"]);
    play.run(&["limits.connections_per_ip"]);
    play.run(&[]);
    play.run(&[]);
    play.run(&["READY"]);
    play.run(&["is no longer banned"]);
    deliver("a@example.org", "after@example.com", "after");
    play.stage.maildir("example.com/during").only();
    play.stage.maildir("example.com/after").only();
}

/// A next hop that takes connections and says nothing.
fn hung_next_hop() {
    let _hung = Manner::default().at(address(HOP)).start(|moment| match moment {
        Moment::Banner => Answer::Silence,
        _ => Answer::Usual,
    });
    let stage = Stage::start(relaying(), None);
    let sent: BTreeSet<String> = (0..5).map(|number| format!("waits-{number}")).collect();
    sent.iter().for_each(|subject| drop(deliver("a@example.org", "b@relayed.example", subject)));
    // Mail for others is not delayed.
    deliver("a@example.org", "alice@example.com", "beside");
    stage.maildir("example.com/alice").only();
    wait_until("it is left alone", || stage.metrics().total("ringpost_breakers_open") > 0);
    stage.wait_until_degraded("relay");
    let mut play = Play::open("hung-next-hop.md", stage);
    play.run_failing(&[3], &["DEGRADED", "target:relay"]);
    play.run(&["relay", "192.0.2.33"]);
    play.run_failing(&[124], &[]);
    play.run(&["192.0.2.33"]);
    let other = Manner::default().at(address(OTHER_HOP)).start(|_| Answer::Usual);
    play.edit();
    play.run(&["target"]);
    play.run(&[]);
    other.wait_for(sent.len());
    assert_eq!(subjects(&other), sent);
    play.stage.wait_until_settled();
    play.run_until("closed");
    play.stage.wait_until_ready();
    play.run(&["READY"]);
}

/// A spool that is damaged beyond use, and a backup of what was in it.
fn restore() {
    let stage = Stage::start(relaying(), None);
    let sent: BTreeSet<String> = (0..20).map(|number| format!("kept-{number}")).collect();
    sent.iter().for_each(|subject| drop(deliver("a@example.org", "b@relayed.example", subject)));
    deliver("a@example.org", "alice@example.com", "delivered");
    stage.maildir("example.com/alice").only();
    stage.inside(&["ringpost", "backup", "--to", "/var/backups/ringpost", "--config", CONFIG]).ok();
    stage.inside(&["kill", "-KILL", &stage.main_process()]).ok();
    wait_until("it has come back", || {
        stage.inside(&["ringpost", "status", "--config", CONFIG]).status.code() != Some(1)
    });
    damage(&stage.path("/var/lib/ringpost/spool/shard-0000"));
    let mut play = Play::open("restore.md", stage);
    play.run(&["Active: active (running)"]);
    play.run(&[]);
    play.run_failing(&[1], &["damaged: "]);
    play.run(&["total"]);
    play.run(&[]);
    play.run(&["is delivered again", "MESSAGES"]);
    play.run(&[]);
    let hop = Manner::default().at(address(HOP)).start(|_| Answer::Usual);
    play.run(&[]);
    play.run_failing(&[1], &["damaged: "]);
    hop.wait_for(sent.len());
    assert_eq!(subjects(&hop), sent);
    play.stage.wait_until_settled();
    play.stage.wait_until_ready();
    play.run(&["READY", "none damaged"]);
    play.run(&["/var/backups/ringpost"]);
    play.stage.maildir("example.com/alice").only();
}

/// Bytes of every record are changed.
fn damage(shard: &Path) {
    let all = fs::read_dir(shard).expect("a spool").map(|entry| entry.expect("an entry").path());
    let segments: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    assert!(!segments.is_empty(), "{} has no segment", shard.display());
    for segment in segments {
        let file = fs::OpenOptions::new().read(true).write(true).open(&segment).expect("a segment");
        for page in 1..256 {
            let at = page * 4096 + 200;
            let mut bytes = [0; 8];
            if file.read_exact_at(&mut bytes, at).is_ok() && bytes != [0; 8] {
                file.write_all_at(&bytes.map(|byte| byte ^ 0x55), at).expect("written");
            }
        }
    }
}

/// An upgrade that failed for a fault in the config, then one that does not, and the way back, under load.
fn upgrade() {
    let mut stage = Stage::start(settings().cores(2), None);
    // A file of its own, which can be replaced.
    let binary = stage.path("/usr/local/bin/ringpost");
    fs::remove_file(&binary).expect("removed");
    fs::copy(BINARY, &binary).expect("copied");
    fs::copy(BINARY, stage.path("/var/tmp/ringpost")).expect("copied");
    stage.inside(&["systemctl", "restart", "ringpost"]).ok();
    let load = Running::start(SMTP, &stage.path("/var/tmp"), "load", &["--rate", "50/s", "--sessions", "50"]);
    wait_until("mail comes", || stage.metrics().total("ringpost_messages_accepted_total") > 20);
    stage.edit(|settings| settings.set("server", "hostnam = \"x\""));
    let socket = "/var/lib/ringpost/ringpost.sock";
    let failed = stage.inside(&["ringpost", "upgrade", "--socket", socket]);
    assert!(!failed.status.success(), "{}", failed.all());

    let mut play = Play::open("upgrade.md", stage);
    play.run(&["READY", "ringpost 0."]);
    play.run(&["upgrade", "refused"]);
    play.run(&["hostnam"]);
    play.run_failing(&[1], &["hostnam"]);
    play.stage.edit(|_| settings().cores(2));
    play.run(&["/var/backups/ringpost", "ringpost 0."]);
    play.run(&[]);
    let alone = |stage: &Stage| stage.inside(&["pgrep", "-cx", "ringpost"]).out.trim() == "1";
    let first = play.stage.main_process();
    play.run(&[]);
    let second = play.stage.main_process();
    assert_ne!(first, second);
    wait_until("the former process has ended", || alone(&play.stage));
    play.run(&[&second]);
    play.run(&[]);
    let third = play.stage.main_process();
    assert_ne!(second, third);
    wait_until("the former process has ended", || alone(&play.stage));
    let acked = load.acked.clone();
    let report = load.stop();
    assert!(refusals(&report).is_empty(), "{report}");
    play.run(&[]);
    assert_ne!(play.stage.main_process(), third);
    play.edit();
    play.run(&["runs on core 0 alone"]);
    play.run(&["stopped"]);
    play.run(&["READY", "Active: active (running)"]);
    play.stage.wait_until_settled();
    play.stage.verify(&[acked]);
}
