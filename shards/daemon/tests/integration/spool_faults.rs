//! A spool that a disk, or another version, has made into something else: what is damaged is said and left, and everything
//! else goes its way.

use crate::support::hop::{Answer, Manner};
use crate::support::maildir::delivered_below;
use crate::support::net::{client_address, free_port, own_address};
use crate::support::programs::{Finished, run};
use crate::support::queue::{hasty, in_state, last_reason, queue};
use crate::support::server::{BINARY, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const ALICE: &str = "alice@example.com";

/// A size that goes into a body file with [`settings`].
const LARGE: usize = 150_000;

/// What a record of the log begins with.
const RECORD: &[u8] = b"RPr1";

fn settings() -> Settings {
    hasty().set("spool", "inline_max = \"8KiB\"").domain("example.com", "\"any\"", "mail/{domain}/{local}")
}

/// Sends messages of these sizes; gives them by id, each with its subject in it.
fn send(server: &Server, sizes: &[usize]) -> Vec<(String, Vec<u8>)> {
    let mut client = Client::hello(server.smtp());
    let sent = (0..).zip(sizes).map(|(number, size)| {
        let content = message(&format!("needle-{number:02}"), &lines(number, *size));
        (client.deliver("a@sender.example", &[ALICE], &content), content)
    });
    let sent = sent.collect();
    client.quit();
    sent
}

/// The files of the spool whose names end so.
fn files(server: &Server, ending: &str) -> Vec<PathBuf> {
    let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards: Vec<PathBuf> = below(server.home.state_dir().join("spool")).collect();
    let all = shards.iter().flat_map(|shard| below(shard.clone()).chain(below(shard.join("body"))));
    all.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

/// The segment, and the place in it, where some bytes stand that stand nowhere else.
fn find(server: &Server, needle: &[u8]) -> (PathBuf, u64) {
    let place = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a segment");
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((path, at as u64))
    };
    files(server, ".log").into_iter().find_map(place).expect("it stands in a segment")
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
    file.sync_all().expect("synced");
}

/// What arrived is what was sent, but for these.
#[track_caller]
fn check_arrived(server: &Server, sent: &[(String, Vec<u8>)], but: &[usize]) {
    let intact = sent.iter().enumerate().filter(|(number, _)| !but.contains(number)).map(|(_, (_, content))| content);
    let mut wanted: Vec<&[u8]> = intact.map(Vec::as_slice).collect();
    let delivered = server.maildir("example.com/alice").wait_for(wanted.len());
    let mut arrived: Vec<&[u8]> = delivered.iter().map(|message| message.sent()).collect();
    arrived.sort_unstable();
    wanted.sort_unstable();
    assert!(arrived == wanted, "what arrived is not what was sent");
}

/// `ringpost spool check`, which must fail and say this.
#[track_caller]
fn check_finds(server: &Server, words: &[&str]) {
    let checked = server.tell(&["spool", "check"]);
    assert_eq!(checked.status.code(), Some(1), "{}", checked.all());
    for word in words {
        assert!(checked.all().contains(word), "no {word:?} in {}", checked.all());
    }
}

/// In the text of a message, in the envelope of one, and in what tells that a record begins.
#[test]
fn flipped_bytes_in_the_log_cost_the_messages_that_they_are_in() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send(&server, &[700; 24]);
    server.wait_for_metric("ringpost_queue_deferred_messages", sent.len() as u64);
    server.kill();
    assert!(server.tell(&["spool", "check"]).ok().out.contains("shard-0000"));
    let mut places = Vec::new();
    for (number, place) in [(11, None), (17, Some(70)), (2, Some(0))] {
        let (path, at) = find(&server, format!("Subject: needle-{number:02}").as_bytes());
        let bytes = fs::read(&path).expect("a segment");
        let begin = bytes[..at as usize].windows(RECORD.len()).rposition(|window| window == RECORD).expect("a record");
        flip(&path, place.map_or(at, |place| begin as u64 + place));
        places.push(path);
    }
    check_finds(&server, &["3 places of the spool are damaged", &format!("damaged: {} at ", places[0].display())]);
    server.start_again();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_spool_damaged_total"), 3);
    assert_eq!(metrics.total("ringpost_spool_recovered_total"), 21);
    let line = server.wait_for_line("the spool is damaged here; reading went on behind it", |_| true);
    assert_eq!((line["level"].as_str(), line["path"].as_str()), (Some("error"), places[0].to_str()), "{line}");
    assert!(line["offset"].is_u64() && line["bytes"].as_u64().is_some_and(|bytes| bytes > 700), "{line}");
    server.unblock("example.com");
    check_arrived(&server, &sent, &[11, 17, 2]);
    server.wait_for_rest();
    // What is damaged doesn't come back to life, and is gone with its segment.
    server.stop();
    server.start_again();
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), 0);
    assert_eq!(server.maildir("example.com/alice").count(), 21);
}

#[test]
fn a_damaged_body_file_is_found_and_never_delivered() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send(&server, &[LARGE; 6]);
    server.wait_for_metric("ringpost_queue_deferred_messages", sent.len() as u64);
    let body = |number: usize| {
        let name = format!("{}.body", sent[number].0);
        files(&server, &name).pop().expect("a body file")
    };
    let (flipped, cut) = (body(3), body(4));
    flip(&flipped, 70_000);
    OpenOptions::new().write(true).open(&cut).and_then(|file| file.set_len(100_000)).expect("cut");
    let finished = server.tell(&["queue", "verify"]);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    assert!(finished.out.starts_with("6 messages read back, 2 damaged\n"), "{}", finished.out);
    for (number, path) in [(3, &flipped), (4, &cut)] {
        let named = |line: &str| line.starts_with(&sent[number].0) && line.contains(&path.display().to_string());
        assert!(finished.out.lines().any(named), "{}", finished.out);
    }
    let damaged = ["2 places of the spool are damaged".to_owned(), format!("damaged: {} at 0", flipped.display())];
    server.kill();
    check_finds(&server, &damaged.each_ref().map(String::as_str));
    server.start_again();
    server.unblock("example.com");
    check_arrived(&server, &sent, &[3, 4]);
    for number in [3, 4] {
        wait_until("it is put off again and again", || {
            let view = queue(&server, &["show", &sent[number].0]);
            view["targets"][0]["attempts"].as_u64().is_some_and(|attempts| attempts > 2)
        });
        let reason = last_reason(&server, &sent[number].0);
        assert!(reason.contains("checksum"), "{reason}");
    }
    assert_eq!(server.maildir("example.com/alice").count(), 4);
    // That it can't be delivered is the operator's affair from here on.
    server.tell(&["queue", "drop", &sent[3].0]).ok();
    server.tell(&["queue", "drop", &sent[4].0]).ok();
    server.wait_for_rest();
    assert!(files(&server, ".body").is_empty());
}

/// The damage is found when most of the message has been sent: then it must not be ended.
#[test]
fn a_damaged_body_file_is_never_completed_at_a_next_hop() {
    for extensions in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"]] {
        let address = free_port(own_address());
        let hosts = format!("hosts = [\"{address}\"]");
        let settings =
            hasty().set("spool", "inline_max = \"8KiB\"").target("hop", "smtp", &[&hosts, "breaker_failures = 0"]);
        let server = Server::start(settings.domain_to("example.com", "\"hop\"", &[]));
        let sent = send(&server, &[LARGE; 3]);
        server.wait_for_metric("ringpost_queue_deferred_messages", 3);
        for (number, from_end) in [(0, 70_000), (1, 1)] {
            let body = files(&server, &format!("{}.body", sent[number].0)).pop().expect("a body file");
            let len = fs::metadata(&body).expect("a body file").len();
            flip(&body, len - from_end);
        }
        let hop = Manner::default().at(address).offers(extensions).start(|_| Answer::Usual);
        let taken = hop.wait_for(1);
        assert!(taken[0].body.ends_with(&sent[2].1), "the whole one");
        for (id, _) in &sent[..2] {
            wait_until("its damage is found", || last_reason(&server, id).contains("can't be read from the spool"));
            server.wait_for_line("a message can't be read; kept in the spool", |line| {
                line["id"] == id.as_str() && line["reason"].as_str().is_some_and(|reason| reason.contains("checksum"))
            });
        }
        assert_eq!(queue(&server, &["status"])["messages"], 2);
        assert_eq!(hop.count(), 1);
    }
}

/// Runs a start that must fail; gives what it says.
#[track_caller]
fn fails_to_start(server: &Server) -> Finished {
    let config = server.home.path().join("ringpost.toml");
    let mut command = Command::new(BINARY);
    let finished = run(command.arg("serve").arg("--config").arg(config).current_dir(server.home.path()), "");
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    finished
}

/// Who goes back to an older version must not lose what the newer one has queued.
#[test]
fn a_segment_of_a_newer_format_is_not_overwritten() {
    /// Where the number of the format stands in a segment, in both copies of its header.
    const VERSION_AT: [u64; 2] = [7, 2048 + 7];
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send(&server, &[700; 3]);
    server.kill();
    let (segment, _) = find(&server, b"Subject: needle-00");
    let intact = fs::read(&segment).expect("a segment");
    for places in [&VERSION_AT[..], &VERSION_AT[..1]] {
        let file = OpenOptions::new().write(true).open(&segment).expect("a segment");
        places.iter().for_each(|at| file.write_all_at(&[3], *at).expect("written"));
        let before = fs::read(&segment).expect("a segment");
        let error = fails_to_start(&server).err;
        for word in ["format", "3", &segment.display().to_string(), "newer"] {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
        let checked = server.tell(&["spool", "check"]);
        assert!(checked.status.code() == Some(1) && checked.err.contains("newer"), "{}", checked.all());
        assert!(fs::read(&segment).expect("a segment") == before, "the segment is touched");
        fs::write(&segment, &intact).expect("written");
    }
    server.start_again();
    server.unblock("example.com");
    check_arrived(&server, &sent, &[]);
}

/// A core fewer: its mail is taken over with all that is known of it. Held stays held, dead stays dead, and who has got a message
/// gets it no second time.
#[test]
fn messages_are_taken_over_with_their_states() {
    let two = "[\"archive\", \"mail\"]";
    let mut server = Server::start(
        hasty()
            .cores(2)
            .set("spool", "inline_max = \"8KiB\"")
            .target("mail", "maildir", &["path = \"mail/{domain}/{local}\""])
            .target("archive", "maildir", &["path = \"archive/{domain}/{local}\""])
            .domain_to("example.com", two, &[])
            .set("queue", "retry_max = \"1s\""),
    );
    server.block("example.com");
    let mut sent: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
    for network in 0..20 {
        let mut client = Client::hello_from(client_address(network, 1), server.smtp());
        for (from, size) in [("keep@sender.example", 500), ("keep@sender.example", LARGE), ("go@sender.example", LARGE)]
        {
            let subject = format!("m-{network}-{size}-{from}");
            let content = message(&subject, &lines(network.into(), size));
            let id = client.deliver(from, &[ALICE], &content);
            sent.insert(id, (from.to_owned(), content));
        }
        client.quit();
    }
    let archive = || delivered_below(&server.home.state_dir().join("archive")).len();
    wait_until("all are in the archive", || archive() == sent.len());
    server.wait_for_metric("ringpost_queue_deferred_messages", sent.len() as u64);
    let by_core = server.metrics().by_shard("ringpost_queue_messages");
    assert!(by_core.iter().all(|count| *count > 0), "not all cores have got mail: {by_core:?}");
    server.tell(&["queue", "hold", "--from", "keep@sender.example"]).ok();
    assert_eq!(in_state(&server, "held"), 40);
    // What an archive has must not come there again: whoever reads it has taken it away.
    fs::remove_dir_all(server.home.state_dir().join("archive")).expect("removed");
    server.unblock("example.com");
    server.kill();
    server.change(|settings| settings.cores(1));
    server.start_again();
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), 60);
    assert!(files(&server, "").iter().all(|path| !path.to_string_lossy().contains("shard-0001")));
    server.maildir("example.com/alice").wait_for(20);
    assert_eq!(in_state(&server, "held"), 40);
    server.tell(&["queue", "release", "--all"]).ok();
    let delivered = server.maildir("example.com/alice").wait_for(60);
    server.wait_for_rest();
    let arrived: BTreeSet<&[u8]> = delivered.iter().map(|message| message.sent()).collect();
    let wanted: BTreeSet<&[u8]> = sent.values().map(|(_, content)| content.as_slice()).collect();
    assert!(arrived == wanted, "what arrived is not what was sent");
    assert!(delivered_below(&server.home.state_dir().join("archive")).is_empty(), "it came there twice");
}
