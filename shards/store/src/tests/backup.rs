//! Backups of a log that is being written: each is restored elsewhere and held against what was live all the while.

use super::*;
use crate::{
    BackedUp, BackupError, BackupPlan, TakeOver, back_up, fresh_directories, orphan_groups, restore, shard_directories,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What has become of the messages so far, as the writer of the log knows it.
#[derive(Default)]
struct Ledger {
    /// Acknowledged, and not settled.
    live: BTreeMap<SpoolId, usize>,
    settled: BTreeSet<SpoolId>,
    /// Settled, and the settlement is on the disk.
    settled_for_good: BTreeSet<SpoolId>,
}

/// A generator of numbers that look random: the constants are Knuth's.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Appends and settles until it is told to stop. A few messages live long, so that the log is compacted; segments are
/// small, so that they are reused all the time.
fn write_log(directory: PathBuf, seed: u64, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    on_shard(async move || {
        let store = Opening::at(&directory).open().await.store;
        let (mut ids, mut numbers) = (ids(seed as u8), Numbers(seed));
        let mut young: Vec<SpoolId> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let (id, len) = (ids.next(moment()), [200, 1500, 6000, 20_000][numbers.next(4) as usize]);
            let settled_before = ledger.lock().expect("a ledger").settled.clone();
            submit(&store, id, len).await.expect("accepted");
            let mut ledger = ledger.lock().expect("a ledger");
            // Its record was staged behind their settlements.
            ledger.settled_for_good.extend(settled_before);
            ledger.settled.clear();
            ledger.live.insert(id, len);
            if numbers.next(100) > 2 {
                young.push(id);
            }
            // Now and then the old ones go too.
            let old: Vec<SpoolId> = match numbers.next(200) {
                0 => ledger.live.keys().take(10).copied().collect(),
                _ => Vec::new(),
            };
            let count = if young.len() > 12 { 1 + numbers.next(12) as usize } else { 0 };
            let leaving = young.drain(..count.min(young.len())).collect::<Vec<_>>();
            for id in leaving.into_iter().chain(old) {
                if ledger.live.remove(&id).is_some() {
                    ledger.settled.insert(id);
                    store.settle(id);
                }
            }
        }
        store.close().await;
    });
}

/// The same, and again and again another log takes the messages over.
fn move_logs(directory: PathBuf, seed: u64, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    on_shard(async move || {
        let spool = directory.parent().expect("a spool");
        let mut store = Opening::at(&directory).open().await.store;
        let (mut ids, mut numbers) = (ids(seed as u8), Numbers(seed));
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let (id, len) = (ids.next(moment()), [200, 1500, 6000, 20_000][numbers.next(4) as usize]);
            submit(&store, id, len).await.expect("accepted");
            let old: Vec<SpoolId> = {
                let mut ledger = ledger.lock().expect("a ledger");
                ledger.live.insert(id, len);
                let many = ledger.live.len().saturating_sub(60);
                ledger.live.keys().take(many).copied().collect()
            };
            for id in old {
                let mut ledger = ledger.lock().expect("a ledger");
                ledger.live.remove(&id);
                ledger.settled.insert(id);
                store.settle(id);
            }
            if round % 200 == 0 {
                store.close().await;
                let fresh = fresh_directories(spool, 1).expect("made");
                store = Opening::at(&fresh[0]).open().await.store;
                for group in orphan_groups(spool, &fresh).expect("read").remove(0) {
                    let mut under_way = TakeOver::new(group);
                    store.take_over(&mut under_way, |_, _| ()).await.expect("taken over");
                }
            }
        }
        store.close().await;
    });
}

/// Every message that a spool holds, with its bytes checked.
fn messages_in(spool: PathBuf) -> BTreeMap<SpoolId, usize> {
    on_shard(async move || {
        let (directory, orphans) = shard_directories(&spool, 1).expect("read").remove(0);
        let Opened { store, recovered } = Opening { orphans, ..Opening::at(&directory) }.open().await;
        assert_eq!(store.block.counter(ringpost_metrics::Counter::SpoolDamaged), 0, "a restored log is damaged");
        let mut found = BTreeMap::new();
        for message in recovered {
            check_loads(&store, message.id, message.size as usize).await;
            let former = found.insert(message.id, message.size as usize);
            assert_eq!(former, None, "message {} is there twice", message.id);
        }
        store.close().await;
        found
    })
}

fn plan<'a>(state_dir: &'a Path, to: &'a Path) -> BackupPlan<'a> {
    BackupPlan { state_dir, to, config: None, hostname: "mx.example", at: moment(), leave_out: &[] }
}

/// What changes a spool until it is told to stop.
type Writer = fn(PathBuf, u64, Arc<Mutex<Ledger>>, Arc<AtomicBool>);

/// Makes backups one after another while the log is written, and restores each.
fn check_rounds(seed: u64, rounds: usize, write: Writer) {
    let root = tempfile::tempdir().expect("a directory");
    let (state_dir, to) = (root.path().join("state"), root.path().join("backup"));
    let directory = state_dir.join("spool/shard-0000");
    fs::create_dir_all(&directory).expect("a directory");
    let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (ledger, stop) = (ledger.clone(), stop.clone());
        std::thread::spawn(move || write(directory, seed, ledger, stop))
    };
    while ledger.lock().expect("a ledger").live.len() < 30 {
        std::thread::yield_now();
    }
    for round in 0..rounds {
        let (live, dead) = {
            let ledger = ledger.lock().expect("a ledger");
            (ledger.live.clone(), ledger.settled_for_good.clone())
        };
        // On a busy machine logs are taken over so often that it gives up, and says so.
        while let Err(error) = back_up(&plan(&state_dir, &to)) {
            assert!(matches!(error, BackupError::Refused(_)), "{error}");
        }
        let settled: BTreeSet<SpoolId> = {
            let ledger = ledger.lock().expect("a ledger");
            live.keys().filter(|id| !ledger.live.contains_key(id)).copied().collect()
        };
        let restored = root.path().join(format!("restored-{round}"));
        fs::create_dir(&restored).expect("a directory");
        restore(&to, &restored).expect("restored");
        let found = messages_in(restored.join("spool"));
        for (id, len) in live.iter().filter(|(id, _)| !settled.contains(id)) {
            assert_eq!(found.get(id), Some(len), "seed {seed}, round {round}: message {id} is not in the backup");
        }
        let back: Vec<_> = found.keys().filter(|id| dead.contains(id)).collect();
        assert!(back.is_empty(), "seed {seed}, round {round}: settled before the backup began, and in it: {back:?}");
        fs::remove_dir_all(&restored).expect("removed");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer ends");
    // With nobody writing, the backup is what is live.
    back_up(&plan(&state_dir, &to)).expect("backed up");
    let restored = root.path().join("restored");
    fs::create_dir(&restored).expect("a directory");
    restore(&to, &restored).expect("restored");
    assert_eq!(messages_in(restored.join("spool")), ledger.lock().expect("a ledger").live);
}

#[test]
fn every_message_that_is_live_all_the_while_is_in_the_backup() {
    for seed in 1..=2 {
        check_rounds(seed, 12, write_log);
    }
}

#[test]
fn every_message_is_in_a_backup_that_is_made_while_logs_are_taken_over() {
    for seed in 1..=2 {
        check_rounds(seed, 12, move_logs);
    }
}

/// A state directory with a log, and what else a server keeps there.
fn state_dir(root: &Path) -> PathBuf {
    let state_dir = root.join("state");
    let shard = state_dir.join("spool/shard-0000");
    on_shard(async move || {
        let store = Opening::at(&shard).open().await.store;
        let mut ids = ids(9);
        for len in [100, 3000, 30_000, 7000].repeat(10) {
            submit(&store, ids.next(moment()), len).await.expect("accepted");
        }
        store.close().await;
    });
    for (path, text) in
        [("bans", "192.0.2.1"), ("tls/key.pem", "key"), ("lock", "1"), ("mail/a/b/new/1", "x"), ("box/new/1", "x")]
    {
        let path = state_dir.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("written");
    }
    for part in ["tmp", "cur"] {
        fs::create_dir_all(state_dir.join("box").join(part)).expect("a directory");
    }
    state_dir
}

#[test]
fn a_backup_holds_what_is_state_and_says_what_it_leaves_out() {
    let root = tempfile::tempdir().expect("a directory");
    let state_dir = state_dir(root.path());
    let _socket = UnixListener::bind(state_dir.join("ringpost.sock")).expect("a socket");
    let config = root.path().join("ringpost.toml");
    fs::write(&config, "[server]").expect("written");
    let to = root.path().join("backup");
    let leave_out = [PathBuf::from("mail")];
    let plan = BackupPlan { config: Some(&config), leave_out: &leave_out, ..plan(&state_dir, &to) };
    let BackedUp { others, left_out, bodies, .. } = back_up(&plan).expect("backed up");
    assert_eq!(others, ["bans", "tls/key.pem", &config.display().to_string()]);
    let left_out: Vec<&str> = left_out.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!((left_out, bodies), (vec!["box", "lock", "mail", "ringpost.sock"], 10));
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&to), mode(&to.join("manifest.json"))), (0o700, 0o600));
    assert!(
        fs::read_dir(to.join("objects")).expect("objects").all(|object| mode(&object.expect("one").path()) == 0o600)
    );
    // What is there and in the way is replaced, and said to be.
    let restored = root.path().join("restored");
    fs::create_dir_all(restored.join("spool/shard-0000/body")).expect("a directory");
    fs::write(restored.join("bans"), "old").expect("written");
    let told = restore(&to, &restored).expect("restored");
    assert_eq!((told.others.len(), told.replaced.as_slice()), (3, &["bans".to_owned()][..]));
    for (path, text) in [("bans", "192.0.2.1"), ("tls/key.pem", "key"), ("restored-config.toml", "[server]")] {
        assert_eq!(fs::read_to_string(restored.join(path)).expect("a file"), text);
        assert_eq!(mode(&restored.join(path)), 0o600);
    }
    assert_eq!(messages_in(restored.join("spool")).len(), 40);
}

#[test]
fn a_second_backup_copies_only_what_has_changed() {
    let root = tempfile::tempdir().expect("a directory");
    let (state_dir, to) = (state_dir(root.path()), root.path().join("backup"));
    let first = back_up(&plan(&state_dir, &to)).expect("backed up");
    let second = back_up(&plan(&state_dir, &to)).expect("backed up");
    // The youngest segment might have grown, so it is read again.
    assert!(second.copied <= OPTIONS.segment_size.0 && second.known > first.copied / 2, "{second:?}");
    assert_eq!((second.segments, second.bodies, second.removed), (first.segments, first.bodies, 0));
    fs::remove_dir_all(state_dir.join("spool")).expect("removed");
    let third = back_up(&plan(&state_dir, &to)).expect("backed up");
    assert_eq!((third.segments, third.bodies), (0, 0));
    assert_eq!(third.removed, first.segments + first.bodies, "what is no longer needed goes");
}

/// What goes wrong when it is tried, and what must be left as it was.
#[test]
fn a_restore_refuses_what_it_cannot_vouch_for() {
    let root = tempfile::tempdir().expect("a directory");
    let (state_dir, to) = (state_dir(root.path()), root.path().join("backup"));
    let fresh = root.path().join("fresh");
    fs::create_dir(&fresh).expect("a directory");
    let check = |from: &Path, into: &Path, words: &str| {
        let error = restore(from, into).expect_err("it is refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(&to, &fresh, "no backup here");
    back_up(&plan(&state_dir, &to)).expect("backed up");
    check(&to, &state_dir, "restore into another state directory");
    let manifest = to.join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, text.replace("\"bans\"", "\"../bans\"")).expect("written");
    check(&to, &fresh, "not a path below a state directory");
    fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 2")).expect("written");
    check(&to, &fresh, "is of form 2");
    fs::write(&manifest, &text).expect("written");
    let object = fs::read_dir(to.join("objects")).expect("objects").next().expect("one").expect("one").path();
    let mut bytes = fs::read(&object).expect("an object");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&object, &bytes).expect("written");
    check(&to, &fresh, "not those that were backed up");
    assert_eq!(fs::read_dir(&fresh).expect("a directory").count(), 0, "nothing is written before all is checked");
}

#[test]
fn a_backup_goes_into_a_directory_of_its_own() {
    let root = tempfile::tempdir().expect("a directory");
    let state_dir = state_dir(root.path());
    let occupied = root.path().join("occupied");
    fs::create_dir(&occupied).expect("a directory");
    fs::write(occupied.join("thesis.tex"), "").expect("written");
    for (to, words) in [(&occupied, "neither empty nor a backup"), (&state_dir.join("inside"), "inside of what")] {
        let error = back_up(&plan(&state_dir, to)).expect_err("it is refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// What a restore that was cut off had left went into the backup, which no restore took then.
#[test]
fn a_failed_restore_spoils_the_next_backup() {
    let root = tempfile::tempdir().expect("a directory");
    let (state_dir, to) = (state_dir(root.path()), root.path().join("backup"));
    for name in ["restoring/bans", "restoring-notes"] {
        fs::create_dir_all(state_dir.join(name).parent().expect("a parent")).expect("a directory");
        fs::write(state_dir.join(name), "x").expect("written");
    }
    let told = back_up(&plan(&state_dir, &to)).expect("backed up");
    assert!(told.left_out.iter().any(|(path, _)| path == "restoring"), "{told:?}");
    assert!(told.others.contains(&"restoring-notes".to_owned()) && !told.others.contains(&"restoring/bans".to_owned()));
    let restored = root.path().join("restored");
    fs::create_dir(&restored).expect("a directory");
    restore(&to, &restored).expect("restored");
    assert!(restored.join("restoring-notes").exists());
    // A backup that was made before restores cleared up after themselves.
    let manifest = to.join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, text.replace("restoring-notes", "restoring/notes")).expect("written");
    let again = root.path().join("again");
    fs::create_dir(&again).expect("a directory");
    let told = restore(&to, &again).expect("restored");
    assert!(!again.join("restoring").exists() && !told.others.contains(&"restoring/notes".to_owned()));
    // One that fails in the middle leaves nothing: here a directory is in the way of a file.
    let failing = root.path().join("failing");
    fs::create_dir_all(failing.join("bans/in-the-way")).expect("a directory");
    restore(&to, &failing).expect_err("it fails");
    assert!(!failing.join("restoring").exists());
}

/// Restored by root for a server that runs as somebody else.
#[test]
fn a_restored_spool_belongs_to_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let (state_dir, to) = (state_dir(root.path()), root.path().join("backup"));
    back_up(&plan(&state_dir, &to)).expect("backed up");
    let restored = root.path().join("restored");
    fs::create_dir(&restored).expect("a directory");
    chown(&restored, Some(4321), Some(1234)).expect("given away");
    fs::write(restored.join("lock"), "1").expect("written");
    restore(&to, &restored).expect("restored");
    let mut below = vec![restored.clone()];
    let mut seen = 0;
    while let Some(path) = below.pop() {
        let metadata = fs::symlink_metadata(&path).expect("there");
        assert_eq!((metadata.uid(), metadata.gid()), (4321, 1234), "{}", path.display());
        seen += 1;
        if metadata.is_dir() {
            below.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        }
    }
    assert!(seen > 15, "only {seen} files");
}

/// Reading the memory of the process at its beginning is an input/output error, as a bad sector is.
const UNREADABLE: &str = "/proc/self/mem";

#[test]
fn one_unreadable_file_stops_the_backup() {
    let root = tempfile::tempdir().expect("a directory");
    let (state_dir, to) = (state_dir(root.path()), root.path().join("backup"));
    let shard = state_dir.join("spool/shard-0000");
    let body = fs::read_dir(shard.join("body")).expect("bodies").next().expect("one").expect("one").path();
    let first = back_up(&plan(&state_dir, &to)).expect("backed up");
    assert_eq!(first.wrong, []);
    // A body file that the backup has already, one that it does not have, and a segment.
    fs::remove_file(&body).expect("removed");
    let new = shard.join("body").join(ids(8).next(moment()).to_string() + ".body");
    for path in [&body, &new, &shard.join("segment-00000099.log")] {
        symlink(UNREADABLE, path).expect("linked");
    }
    fs::write(shard.join("segment-00000098.log"), vec![7; 8192]).expect("written");
    let second = back_up(&plan(&state_dir, &to)).expect("backed up");
    let wrong: BTreeSet<&str> = second.wrong.iter().map(|(path, _)| path.rsplit('/').next().expect("a name")).collect();
    let name = |path: &Path| path.file_name().expect("a name").to_str().expect("text").to_owned();
    let expected = [name(&body), name(&new), "segment-00000098.log".into(), "segment-00000099.log".into()];
    assert_eq!(wrong, expected.iter().map(String::as_str).collect());
    assert_eq!((second.segments, second.bodies), (first.segments, first.bodies - 1));
    let restored = root.path().join("restored");
    fs::create_dir(&restored).expect("a directory");
    restore(&to, &restored).expect("restored");
    assert_eq!(messages_in(restored.join("spool")).len(), 40);
}
