//! The audit log on disks that hang, are full, or are taken away.

use super::file::{AuditFile, older};
use super::*;
use crate::api::AUDIT_MAX;
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("audit.log");
    (folder, path)
}

fn note(subject: &str) -> Note {
    let who = AuditWho { via: "socket".to_owned(), uid: Some(0), ..AuditWho::default() };
    let (before, after) = (Value::Null, json!({ "x": 1 }));
    Note { who, what: "ban", subject: subject.to_owned(), before, after, refused: None }
}

fn subjects(path: &std::path::Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let entry = |line| serde_json::from_str::<AuditEntry>(line).ok();
    text.lines().filter_map(entry).map(|entry| entry.subject).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

fn recent(audit: &Audit) -> Vec<String> {
    let lines = block_on(audit.recent(AUDIT_MAX)).expect("it is on");
    lines.iter().map(|line| serde_json::from_str::<AuditEntry>(line).expect("an entry").subject).collect()
}

#[test]
fn entries_are_lines_with_the_name_of_the_user_and_outlive_the_server() {
    let (_folder, path) = folder();
    let audit = Audit::start(path.clone()).expect("a file");
    audit.note(note("one"));
    audit.note(Note { refused: Some("it is\nprotected".to_owned()), ..note("two") });
    audit.finish();
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).expect("text");
    let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&entries[0]["who"]["user"], &entries[0]["outcome"]), (&json!("root"), &json!("done")));
    assert_eq!(entries[1]["outcome"], json!("refused: it is\nprotected"));
    assert_eq!(audit.lost(), 0);
    let next = Audit::start(path.clone()).expect("a file");
    next.note(note("three"));
    next.finish();
    assert_eq!(recent(&next), ["three", "two", "one"]);
    assert_eq!(subjects(&path), ["one", "two", "three"]);
}

#[test]
fn a_full_disk_stops_nothing_and_what_is_lost_is_counted() {
    let (_folder, path) = folder();
    symlink("/dev/full", &path).expect("a link");
    let audit = Audit::start(path.clone()).expect("it can be opened");
    audit.note(note("lost"));
    audit.finish();
    assert_eq!(audit.lost(), 1);
    assert_eq!(recent(&audit), ["lost"], "it is shown all the same");
    // There is room again.
    fs::remove_file(&path).expect("removed");
    audit.note(note("kept"));
    audit.finish();
    assert_eq!((audit.lost(), subjects(&path)), (1, vec!["kept".to_owned()]));
}

#[test]
fn a_disk_that_hangs_keeps_nobody_waiting() {
    let (_folder, path) = folder();
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    // Somebody who has the pipe open and reads nothing: its 64 KiB are full soon.
    let reader = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
    let audit = Audit::start(path).expect("opened");
    let long = "x".repeat(4_096);
    let begun = Instant::now();
    let count = 3 * WAITING_MAX;
    (0..count).for_each(|_| audit.note(note(&long)));
    // Each of these would have been a write that does not end.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let lost = audit.lost();
    assert!(lost > 0 && lost < count as u64, "{lost}");
    // Who reads at last gets whole lines.
    let mut reader = std::io::BufReader::new(reader);
    let mut line = vec![0; 5_000];
    reader.read_exact(&mut line).expect("bytes");
    assert!(line.starts_with(b"{\"at\":"));
}

#[test]
fn half_a_line_of_a_crash_spoils_no_further_one() {
    let (_folder, path) = folder();
    fs::write(&path, "{\"at\":\"2026-11").expect("written");
    let audit = Audit::start(path.clone()).expect("a file");
    audit.note(note("whole"));
    audit.finish();
    assert_eq!(subjects(&path), ["whole"]);
    assert_eq!(fs::read_to_string(&path).expect("text").lines().count(), 2);
}

#[test]
fn a_full_file_is_put_aside_and_its_entries_are_still_shown() {
    let (_folder, path) = folder();
    let mut file = AuditFile::open_with(path.clone(), 100).expect("a file");
    let entry = |subject: &str| line(&note(subject).entry());
    for subject in ["one", "two", "three"] {
        file.append(entry(subject).as_bytes()).expect("written");
    }
    assert_eq!((subjects(&older(&path)), subjects(&path)), (vec!["two".to_owned()], vec!["three".to_owned()]));
    let shown = file.last_lines().expect("others have written").newest(AUDIT_MAX);
    let subject = |line: &Arc<str>| serde_json::from_str::<AuditEntry>(line).expect("an entry").subject;
    assert_eq!(shown.iter().map(subject).collect::<Vec<_>>(), ["three", "two"]);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let (folder, path) = folder();
    let audit = Audit::start(path.clone()).expect("a file");
    audit.note(note("one"));
    audit.finish();
    let moved = folder.path().join("elsewhere");
    fs::rename(&path, &moved).expect("moved");
    audit.note(note("two"));
    audit.finish();
    assert_eq!((subjects(&moved), subjects(&path)), (vec!["one".to_owned()], vec!["two".to_owned()]));
}

#[test]
fn places_where_no_file_can_be_are_told_at_the_start() {
    let (folder, path) = folder();
    assert!(Audit::start(folder.path().join("missing/audit.log")).is_err());
    fs::create_dir(&path).expect("a directory");
    assert!(Audit::start(path).is_err());
}

#[test]
fn entries_in_memory_are_bounded() {
    let (_folder, path) = folder();
    let audit = Audit::start(path).expect("a file");
    for number in 0..AUDIT_MAX + 10 {
        audit.note(note(&number.to_string()));
        if number % 500 == 0 {
            audit.finish();
        }
    }
    audit.finish();
    let recent = recent(&audit);
    assert_eq!((recent.len(), recent[0].as_str()), (AUDIT_MAX, "1009"));
    assert_eq!(block_on(audit.recent(3)).map(|entries| entries.len()), Some(3));
    assert_eq!(block_on(Audit::off().recent(3)), None);
}

#[test]
fn what_the_former_process_writes_at_its_end_is_shown_by_the_next() {
    let (_folder, path) = folder();
    let former = Audit::start(path.clone()).expect("a file");
    former.note(note("one"));
    former.finish();
    let next = Audit::start(path).expect("a file");
    former.note(note("upgrade"));
    former.finish();
    assert_eq!(recent(&next), ["upgrade", "one"]);
    next.note(note("two"));
    assert_eq!(recent(&next), ["two", "upgrade", "one"]);
    former.note(note("late"));
    former.finish();
    next.note(note("three"));
    assert_eq!(recent(&next), ["three", "late", "two", "upgrade", "one"]);
}

#[test]
fn refusals_leave_room_for_what_is_done() {
    let (_folder, path) = folder();
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    // Nobody reads, so that what fits into the pipe is taken from those that wait, and no more.
    let _reader = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
    let audit = Audit::start(path).expect("opened");
    let long = "x".repeat(4_096);
    let refused = || audit.note(Note { refused: Some("it is a reader".to_owned()), ..note(&long) });
    let (count, begun) = (3 * WAITING_MAX, Instant::now());
    (0..count).for_each(|_| refused());
    while audit.lost() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the pipe is not full");
        refused();
    }
    let lost = audit.lost();
    (0..WAITING_MAX / 2).for_each(|_| audit.note(note(&long)));
    assert_eq!(audit.lost(), lost, "there is room for those");
}
