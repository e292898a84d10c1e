//! The file, whatever is appended to it and whatever fails.

use super::*;
use records::HEADER_LEN;
use ringpost_base::Network;
use ringpost_policy::{GreyKey, GreylistOptions, RecordKind};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::collections::HashSet;
use std::os::unix::fs::FileExt;

const SECRET: GreySecret = GreySecret([1; 16]);

/// The time of the tests, in seconds.
const NOW: u64 = 1_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_micros(seconds * 1_000_000)
}

/// For two cores of so many entries.
fn sieve(entries_max: usize) -> GreySieve {
    GreySieve::new(GreylistOptions { entries_max, ..GreylistOptions::default() }, 2, at(NOW))
}

fn open(path: &Path, entries_max: usize) -> (GreylistFile, Stored) {
    GreylistFile::open(path.to_owned(), SECRET, sieve(entries_max), at(NOW)).expect("opens")
}

fn record(kind: RecordKind, sender: &str, seconds: u64) -> GreyRecord {
    let network: Network = "192.0.2.0/24".parse().expect("network");
    let key = GreyKey::new(&SECRET, network, sender, "you@example.com");
    let key = if kind == RecordKind::Network { GreyKey::NONE } else { key };
    GreyRecord { kind, key, network, at: at(seconds) }
}

fn waiting(sender: &str, seconds: u64) -> GreyRecord {
    record(RecordKind::Waiting, sender, seconds)
}

fn known(sender: &str) -> GreyRecord {
    record(RecordKind::Known, sender, NOW - 100)
}

fn strangers(numbers: std::ops::Range<u64>) -> Vec<GreyRecord> {
    numbers.map(|number| waiting(&number.to_string(), NOW - 50)).collect()
}

/// Lets a compaction under way end.
fn settle(file: &mut GreylistFile) {
    while file.running.is_some() {
        std::thread::sleep(Duration::from_millis(1));
        file.finish();
    }
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").len()
}

/// Bytes of a file of so many records.
fn bytes_of(records: u64) -> u64 {
    HEADER_LEN as u64 + records * GreyRecord::LEN as u64
}

#[test]
fn what_was_appended_is_read_again_without_what_was_overtaken() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, stored) = open(&path, 100);
    assert!(stored.records.is_empty() && stored.secret == SECRET);
    file.append(&[waiting("a", NOW - 9), waiting("b", NOW - 8)], sieve(100));
    file.append(&[waiting("a", NOW - 7)], sieve(100));
    // A torn record at the end.
    file.records.file.write_all_at(&[7; 20], len(&path)).expect("written");
    let again = GreylistFile::open(path.clone(), GreySecret([2; 16]), sieve(100), at(NOW));
    let (mut file, stored) = again.expect("opens");
    assert!(stored.secret == SECRET, "the secret is that of the file");
    assert_eq!(stored.records, [waiting("b", NOW - 8), waiting("a", NOW - 7)]);
    file.append(&[waiting("c", NOW - 6), waiting("d", NOW + 6)], sieve(100));
    let (_, stored) = open(&path, 100);
    assert_eq!(stored.records.len(), 4, "the torn record is gone, and nothing behind it is out of step");
    assert_eq!(stored.records[3].at, at(NOW), "nothing is from the future");
}

#[test]
fn what_is_no_greylist_begins_anew() {
    for bytes in [&b""[..], b"short", b"something else that is longer", &[0; 1000]] {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("greylist");
        fs::write(&path, bytes).expect("written");
        let (mut file, stored) = open(&path, 100);
        assert!(stored.records.is_empty() && stored.secret == SECRET, "{bytes:?}");
        file.append(&[known("a")], sieve(100));
        assert_eq!(open(&path, 100).1.records, [known("a")], "{bytes:?}");
    }
}

#[test]
fn a_damaged_record_costs_nothing_but_itself() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, _) = open(&path, 100);
    file.append(&["a", "b", "c"].map(known), sieve(100));
    file.records.file.write_all_at(b"damage", bytes_of(1)).expect("written");
    assert_eq!(open(&path, 100).1.records, ["a", "c"].map(known));
}

/// Strangers come and come. The file stays small, what is known outlasts them, and of them the last are remembered.
#[test]
fn a_flood_of_strangers_filled_the_disk() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, _) = open(&path, 100);
    let lasting: Vec<GreyRecord> = (0..150).map(|number| known(&format!("known-{number}"))).collect();
    file.append(&lasting, sieve(100));
    file.append(&[record(RecordKind::Network, "", NOW - 60)], sieve(100));
    let bound = bytes_of(600 + 2 * GROWTH_MIN);
    for first in (0..144_000).step_by(1000) {
        file.append(&strangers(first..first + 1000), sieve(100));
        assert!(len(&path) <= bound, "{} bytes after {first} strangers", len(&path));
    }
    settle(&mut file);
    file.append(&strangers(200_000..200_150), sieve(100));
    settle(&mut file);
    let (_, stored) = open(&path, 100);
    assert!(len(&path) <= bytes_of(600));
    let kept: HashSet<[u8; GreyRecord::LEN]> = stored.records.iter().map(GreyRecord::encode).collect();
    assert!(lasting.iter().all(|record| kept.contains(&record.encode())));
    assert!(strangers(200_000..200_150).iter().all(|record| kept.contains(&record.encode())));
    let of = |kind| stored.records.iter().filter(|record| record.kind == kind).count();
    assert_eq!([RecordKind::Waiting, RecordKind::Known, RecordKind::Network].map(of), [200, 150, 1]);
}

/// A file from before there was a bound, or from a time with more entries: only its end is looked at.
#[test]
fn of_a_file_that_is_too_large_the_end_is_read() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, _) = open(&path, 1_000_000);
    file.append(&[known("old")], sieve(1_000_000));
    file.append(&strangers(0..19_999), sieve(1_000_000));
    settle(&mut file);
    file.append(&strangers(20_000..40_000), sieve(1_000_000));
    settle(&mut file);
    let (_, stored) = open(&path, 100);
    assert_eq!(stored.records, strangers(39_800..40_000));
}

#[test]
fn what_comes_during_a_compaction_is_kept() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, _) = open(&path, 100);
    file.append(&[known("before")], sieve(100));
    file.running = Some(file.begin_compaction(sieve(100)).expect("begins"));
    file.write(&[known("meanwhile"), waiting("stranger", NOW - 5)]).expect("written");
    settle(&mut file);
    assert_eq!((file.kept, file.records.count), (1, 3));
    file.append(&[known("after")], sieve(100));
    let stored = open(&path, 100).1.records;
    assert_eq!(stored, [known("before"), known("meanwhile"), waiting("stranger", NOW - 5), known("after")]);
}

#[test]
fn a_file_that_cannot_be_compacted_stays_bounded() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, _) = open(&path, 100);
    file.append(&[known("a")], sieve(100));
    let in_the_way = directory.path().join("greylist.new");
    fs::create_dir(&in_the_way).expect("a directory");
    for first in (0..30_000).step_by(1000) {
        file.append(&strangers(first..first + 1000), sieve(100));
        settle(&mut file);
    }
    assert_eq!(len(&path), bytes_of(2 * GROWTH_MIN));
    assert!(file.writing.0 && file.compacting.0 && file.not_before.is_some());
    // Once it works again, so does everything.
    fs::remove_dir(&in_the_way).expect("removed");
    file.not_before = None;
    file.append(&[], sieve(100));
    settle(&mut file);
    file.append(&[known("b")], sieve(100));
    assert!(!file.writing.0 && !file.compacting.0);
    let stored = open(&path, 100).1.records;
    assert!(stored.contains(&known("a")) && stored.contains(&known("b")) && stored.len() == 202);
}

/// As on a full disk, where the new file finds no room.
#[test]
fn a_file_that_cannot_be_compacted_at_the_start_is_used_as_it_is() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let in_the_way = directory.path().join("greylist.new");
    fs::create_dir(&in_the_way).expect("a directory");
    let none = GreylistFile::open(path.clone(), SECRET, sieve(100), at(NOW));
    assert!(none.is_err(), "there is nothing to go on with");
    fs::remove_dir(&in_the_way).expect("removed");
    let (mut file, _) = open(&path, 100);
    file.append(&[waiting("a", NOW - 9), known("b"), waiting("a", NOW - 7)], sieve(100));
    fs::create_dir(&in_the_way).expect("a directory");
    let (mut file, stored) = open(&path, 100);
    assert_eq!(stored.records, [waiting("a", NOW - 9), known("b"), waiting("a", NOW - 7)]);
    file.append(&[known("c")], sieve(100));
    let (mut file, stored) = open(&path, 100);
    assert_eq!(stored.records.len(), 4);
    // Of one that has come to have more than it may, the end is read: here, of nothing but damage.
    let most = 2 * (sieve(100).records_max() as u64 + GROWTH_MIN);
    file.records.append(&vec![0; most as usize * GreyRecord::LEN]).expect("appended");
    assert!(open(&path, 100).1.records.is_empty());
    fs::remove_dir(&in_the_way).expect("removed");
    file.records.file.set_len(bytes_of(4)).expect("cut");
    assert_eq!(open(&path, 100).1.records, [known("b"), waiting("a", NOW - 7), known("c")]);
}

/// A disk that is full in the middle of a record: of a file in memory that can't grow, the pages that are there are written.
#[test]
fn a_torn_write_put_the_rest_out_of_step() {
    const PAGES: u64 = 3;
    let full = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).expect("a file in memory"));
    full.set_len(PAGES * 4096).expect("grows");
    fcntl_add_seals(&full, SealFlags::GROW).expect("sealed");
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("greylist");
    let (mut file, _) = open(&path, 100);
    file.append(&strangers(0..100), sieve(100));
    let mut header = [0; HEADER_LEN];
    let disk = std::mem::replace(&mut file.records.file, full);
    disk.read_exact_at(&mut header, 0).expect("read");
    file.records.file.write_all_at(&header, 0).expect("written");
    file.records.count = 0;
    file.write(&strangers(0..100)).expect("there is room");
    assert_ne!((PAGES * 4096 - HEADER_LEN as u64) % GreyRecord::LEN as u64, 0, "the room ends within a record");
    file.append(&strangers(100..300), sieve(1000));
    assert!(file.writing.0);
    assert_eq!(file.records.file.metadata().expect("a file").len(), bytes_of(100), "what was torn is taken back");
    // There is room again.
    let mut bytes = vec![0; bytes_of(100) as usize];
    file.records.file.read_exact_at(&mut bytes, 0).expect("read");
    disk.write_all_at(&bytes, 0).expect("written");
    file.records.file = disk;
    file.append(&[known("after")], sieve(1000));
    assert!(!file.writing.0);
    assert_eq!(open(&path, 1000).1.records, [strangers(0..100), vec![known("after")]].concat());
}
