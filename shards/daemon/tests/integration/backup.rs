//! Backup and restore through the binary, the offline check of a spool, and the disaster recovery drill.

use crate::support::maildir::Message;
use crate::support::net::{free_port, own_address};
use crate::support::programs::{Finished, program, run};
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sizes that go into the log and into body files with [`settings`].
const SIZES: [usize; 3] = [500, 6_000, 120_000];

fn settings() -> Settings {
    let settings = Settings::default().set("spool", "inline_max = \"8KiB\"").set("spool", "batch_max = \"64KiB\"");
    settings.set("spool", "segment_size = \"1MiB\"")
}

/// Runs a command of the binary with a config file.
fn command(config: &Path, arguments: &[&str]) -> Finished {
    run(Command::new(BINARY).args(arguments).arg("--config").arg(config), "")
}

/// Queues messages on a server whose mail can't be delivered; gives them by subject.
fn queue(server: &Server, rounds: usize, name: &str) -> BTreeMap<String, Vec<u8>> {
    let mut sent = BTreeMap::new();
    let mut client = Client::hello(server.smtp());
    for round in 0..rounds {
        for size in SIZES {
            let subject = format!("{name}-{round}-{size}");
            let content = message(&subject, &lines((round * size) as u64, size));
            client.deliver("a@example.org", &["alice@example.com"], &content);
            sent.insert(subject, content);
        }
    }
    client.quit();
    sent
}

/// A home whose state directory comes from a backup.
fn restored(from: &Path) -> Home {
    let home = Home::new(1);
    let config = home.configure(&settings());
    let told = command(&config, &["restore", "--from", &from.display().to_string()]).ok().out;
    assert!(told.contains("is delivered again"), "it says what a restore repeats: {told}");
    home
}

fn check_arrived(messages: &[Message], sent: &BTreeMap<String, Vec<u8>>) {
    let mut arrived: Vec<&[u8]> = messages.iter().map(Message::sent).collect();
    let mut wanted: Vec<&[u8]> = sent.values().map(Vec::as_slice).collect();
    arrived.sort_unstable();
    wanted.sort_unstable();
    assert!(arrived == wanted, "what arrived is not what was queued");
}

#[test]
fn what_is_queued_survives_its_host_in_a_backup_of_a_running_server() {
    let server = Server::start(settings());
    server.block("example.com");
    let mut sent = queue(&server, 20, "first");
    let to = server.home.path().join("backup").display().to_string();
    let first = server.tell(&["backup", "--to", &to]).ok().out;
    assert!(first.contains("20 body files") && first.contains("left out: mail"), "{first}");
    sent.extend(queue(&server, 5, "second"));
    let second = server.tell(&["backup", "--to", &to]).ok().out;
    assert!(second.contains("25 body files") && !second.contains(" 0 known"), "{second}");
    server.tell(&["queue", "list"]).ok();
    let config = server.home.path().join("ringpost.toml");
    let refused = command(&config, &["restore", "--from", &to]);
    assert!(!refused.status.success() && refused.err.contains("another ringpost uses"), "{}", refused.all());
    let other = Server::start_at(restored(Path::new(&to)), settings());
    check_arrived(&other.maildir("example.com/alice").wait_for(sent.len()), &sent);
    other.wait_for_rest();
}

#[test]
fn a_restore_does_not_touch_a_spool_that_holds_mail() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = queue(&server, 2, "kept");
    let to = server.home.path().join("backup").display().to_string();
    server.stop();
    server.tell(&["backup", "--to", &to]).ok();
    let refused = server.tell(&["restore", "--from", &to]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.err.contains("is in use, or was"), "{}", refused.all());
    server.unblock("example.com");
    server.start_again();
    check_arrived(&server.maildir("example.com/alice").wait_for(sent.len()), &sent);
}

/// Files of the first shard with a certain ending.
fn files(server: &Server, folder: &str, ending: &str) -> Vec<PathBuf> {
    let folder = server.home.state_dir().join("spool/shard-0000").join(folder);
    let all = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = all.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], offset).expect("written");
}

#[test]
fn a_spool_is_checked_without_a_server_and_damage_is_named() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let count = queue(&server, 10, "checked").len() as u64;
    let running: Value = serde_json::from_str(&server.tell(&["spool", "check", "--json"]).ok().out).expect("JSON");
    assert_eq!((&running["server_running"], &running["damaged"]), (&Value::Bool(true), &Value::from(0)));
    server.stop();
    let checked: Value = serde_json::from_str(&server.tell(&["spool", "check", "--json"]).ok().out).expect("JSON");
    let shard = &checked["shards"][0];
    assert_eq!((shard["live"].as_u64(), shard["bodies"].as_u64()), (Some(count), Some(10)), "{checked}");
    assert_eq!(checked["server_running"], Value::Bool(false));
    let (segment, body) = (files(&server, "", ".log").remove(0), files(&server, "body", ".body").remove(3));
    flip(&segment, 4096 + 300);
    flip(&body, 50_000);
    let before = fs::read(&segment).expect("a segment");
    // By the directory alone, without a config.
    let spool = server.home.state_dir().join("spool");
    let damaged = run(Command::new(BINARY).args(["spool", "check"]).arg(&spool), "");
    assert_eq!(damaged.status.code(), Some(1));
    for words in [
        format!("damaged: {} at 4096", segment.display()),
        format!("damaged: {} at 0", body.display()),
        "2 places of the spool are damaged".to_owned(),
    ] {
        assert!(damaged.all().contains(&words), "{words}: {}", damaged.all());
    }
    assert!(fs::read(&segment).expect("a segment") == before, "a check changes nothing");
}

#[test]
fn the_disaster_recovery_drill_passes() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/disaster-recovery-drill.sh");
    let (address, folder) = (own_address(), tempfile::tempdir().expect("a folder"));
    // Told to stop before the test gives up on it, so that it ends its servers.
    let mut drill = Command::new(program("timeout", "coreutils"));
    drill
        .args(["--kill-after=5s", "50s"])
        .arg(script)
        .arg(BINARY)
        .arg(Path::new(BINARY).with_file_name("ringpost-load"));
    drill.env("WORK", folder.path()).env("MESSAGES", "400").env("LISTEN", free_port(address).to_string());
    drill.env("ADMIN", free_port(address).to_string()).env("HOP", free_port(address).to_string());
    let told = run(&mut drill, "").ok().out;
    assert!(told.contains("of 400 acknowledged messages none is missing, doubled or changed"), "{told}");
    let steps = told.lines().filter(|line| line.ends_with(" s") && line.contains('.')).count();
    assert!(steps >= 9, "each step says how long it took: {told}");
}
