//! Logs that are taken over while the store serves: with crashes between any two operations, with errors, with damage.

use super::damage::names;
use super::reading::{damage, filled, shard};
use super::*;
use crate::lost::LOST;
use crate::{Orphans, StoreError, TakeOver, fresh_directories, orphan_groups, shard_directories};
use ringpost_metrics::Gauge;
use ringpost_spool::Recovered;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const SMALL: usize = 2_000;
const LARGE: usize = 40_000;

/// More than are taken over side by side.
const SEVERAL: [usize; 24] = {
    let mut lens = [SMALL; 24];
    (lens[1], lens[13], lens[22]) = (LARGE, LARGE, LARGE);
    lens
};

/// Messages by their ids, with their length.
type Messages = BTreeMap<SpoolId, usize>;

/// What a process that has ended has left behind: some messages that are alive, each third with a state.
async fn former(spool: &Path, number: usize, lens: &[usize]) -> Messages {
    let store = Opening::at(&shard(spool, number)).open().await.store;
    let kept = some(&store, &mut ids(number as u8 + 1), lens).await;
    store.close().await;
    kept
}

/// An opened store, with the messages that it was opened with or has taken over.
type Found = (Rc<Store>, Vec<Recovered<Vec<u8>>>);

async fn some(store: &Rc<Store>, ids: &mut MessageIds, lens: &[usize]) -> Messages {
    let mut kept = Messages::new();
    for (number, len) in lens.iter().enumerate() {
        let (id, gone) = (ids.next(moment()), ids.next(moment()));
        submit(store, id, *len).await.expect("accepted");
        if number % 3 == 0 {
            store.note(id, &id.to_bytes());
        }
        kept.insert(id, *len);
        submit(store, gone, *len).await.expect("accepted");
        store.settle(gone);
    }
    // A settlement that is not on the disk yet could be lost.
    while !store.spool.borrow().is_idle() {
        ringpost_runtime::sleep(Duration::from_millis(1)).await;
    }
    kept
}

/// Whether each of the messages is found once, as it was.
async fn check_found(what: &str, found: &[Found], expected: &Messages) {
    let mut seen = Messages::new();
    for (store, messages) in found {
        for message in messages {
            assert_eq!(seen.insert(message.id, message.size as usize), None, "{what}: {} is there twice", message.id);
            assert_eq!(message.digest, envelope_of(message.id, message.size as usize), "{what}");
            assert!(message.state.is_empty() || *message.state == message.id.to_bytes(), "{what}");
            check_loads(store, message.id, message.size as usize).await;
        }
    }
    assert_eq!(seen, *expected, "{what}");
    let states = found.iter().flat_map(|(_, messages)| messages).filter(|message| !message.state.is_empty());
    assert_eq!(states.count(), expected.len().div_ceil(3), "{what}: states");
}

/// Settles everything, and looks whether anything comes back.
async fn check_nothing_comes_back(what: &str, spool: &Path, found: Vec<Found>) {
    for (store, messages) in found {
        messages.iter().for_each(|message| store.settle(message.id));
        store.close().await;
    }
    let again = start(spool, 1).await;
    check_found(what, &again, &Messages::new()).await;
    for (store, _) in again {
        assert_eq!(names(&store.bodies), [""; 0], "{what}");
        store.close().await;
    }
    assert_eq!(names(spool).len(), 1, "{what}: {:?}", names(spool));
}

/// Starts a process that has the spool to itself.
async fn start(spool: &Path, shards: usize) -> Vec<Found> {
    let mut found = Vec::new();
    for (directory, orphans) in shard_directories(spool, shards).expect("read") {
        let Opened { store, recovered } = Opening { orphans, ..Opening::at(&directory) }.open().await;
        found.push((store, recovered));
    }
    found
}

/// Starts one that takes over from a process that has ended.
async fn succeed(spool: &Path, shards: usize) -> Vec<Found> {
    let fresh = fresh_directories(spool, shards).expect("made");
    let mut found = Vec::new();
    for (directory, groups) in fresh.iter().zip(orphan_groups(spool, &fresh).expect("read")) {
        let Opened { store, mut recovered } = Opening::at(directory).open().await;
        for group in groups {
            let mut under_way = TakeOver::new(group);
            recovered.extend(take_over(&store, &mut under_way).await.expect("taken over"));
        }
        found.push((store, recovered));
    }
    found
}

async fn take_over(
    store: &Rc<Store>,
    under_way: &mut TakeOver<Vec<u8>>,
) -> Result<Vec<Recovered<Vec<u8>>>, StoreError> {
    store.take_over(under_way, |_, envelope| envelope.to_vec()).await
}

/// A process takes over from another one and dies before so many operations. Gives whether it died.
fn die(spool: &Path, steps: usize, expected: &mut Messages) -> bool {
    let root = spool.to_owned();
    let (died, more) = on_shard(async move || {
        let fresh = fresh_directories(&root, 1).expect("made");
        let opening = Opening::at(&fresh[0]);
        let store = opening.open().await.store;
        // It has served before.
        let own = some(&store, &mut ids(99), &[SMALL, LARGE, SMALL]).await;
        let [groups] = orphan_groups(&root, &fresh).expect("read").try_into().expect("for one shard");
        (dies(&opening, &store, groups, steps).await, own)
    });
    expected.extend(more);
    died
}

/// Takes groups over until all are, or the process dies before so many operations. Gives whether it died.
async fn dies(opening: &Opening, store: &Rc<Store>, groups: Vec<Orphans>, steps: usize) -> bool {
    opening.faults.death.set(Some(steps));
    let all = async {
        for group in groups {
            if take_over(store, &mut TakeOver::new(group)).await.is_err() {
                return;
            }
        }
    };
    // What would still go on in a dead process is not waited for.
    let death = async {
        while !opening.faults.struck.get() {
            ringpost_runtime::sleep(Duration::from_millis(1)).await;
        }
    };
    futures_lite::future::or(all, death).await;
    opening.faults.struck.get()
}

/// Who comes after the crash.
fn after_crash(what: &str, spool: &Path, turn: usize, expected: &Messages) {
    let (what, spool, expected) = (what.to_owned(), spool.to_owned(), expected.clone());
    on_shard(async move || {
        let found = match turn % 5 {
            0 => start(&spool, 1).await,
            1 => start(&spool, 2).await,
            2 => start(&spool, 3).await,
            3 => succeed(&spool, 1).await,
            _ => succeed(&spool, 2).await,
        };
        check_found(&what, &found, &expected).await;
        check_nothing_comes_back(&what, &spool, found).await;
    });
}

/// What a process has left behind, to be copied for each crash.
fn left_behind() -> (tempfile::TempDir, Messages) {
    let root = tempfile::tempdir().expect("a directory");
    let spool = root.path().to_owned();
    let messages = on_shard(async move || former(&spool, 0, &SEVERAL).await);
    (root, messages)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("copied");
        }
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing_and_doubles_nothing() {
    let (template, left) = left_behind();
    let mut steps = 0;
    loop {
        let root = tempfile::tempdir().expect("a directory");
        copy(template.path(), root.path());
        let mut expected = left.clone();
        let died = die(root.path(), steps, &mut expected);
        after_crash(&format!("died before step {steps}"), root.path(), steps, &expected);
        if !died {
            break;
        }
        steps += 1;
    }
    assert!(steps > 45, "only {steps} steps: the test has lost its point");
}

/// The one that takes over from a process that died while it took over dies too.
#[test]
fn a_second_crash_loses_nothing_and_doubles_nothing() {
    // From where on messages stand in two logs, in steps of the first.
    let (template, left) = left_behind();
    let mut rounds = 0;
    for first in [34, 48, 58] {
        for second in (0..).step_by(4) {
            let root = tempfile::tempdir().expect("a directory");
            copy(template.path(), root.path());
            let mut expected = left.clone();
            if !die(root.path(), first, &mut expected) {
                break;
            }
            let died = die_again(root.path(), second);
            after_crash(&format!("died before {first} and {second}"), root.path(), first + second, &expected);
            rounds += 1;
            if !died {
                break;
            }
        }
    }
    assert!(rounds > 20, "only {rounds} rounds: the test has lost its point");
}

/// As [`die`], with no mail of its own.
fn die_again(spool: &Path, steps: usize) -> bool {
    let root = spool.to_owned();
    on_shard(async move || {
        let fresh = fresh_directories(&root, 1).expect("made");
        let opening = Opening::at(&fresh[0]);
        let store = opening.open().await.store;
        let [groups] = orphan_groups(&root, &fresh).expect("read").try_into().expect("for one shard");
        dies(&opening, &store, groups, steps).await
    })
}

/// One operation fails, and a second try has all of it.
fn check_second_try(operation: Operation, errno: Errno, after: usize) {
    let what = format!("{operation:?} {errno} after {after}");
    on_shard(async move || {
        let root = tempfile::tempdir().expect("a directory");
        let mut expected = former(root.path(), 0, &[SMALL, LARGE, SMALL, LARGE, SMALL, SMALL]).await;
        let fresh = fresh_directories(root.path(), 1).expect("made");
        let opening = Opening::at(&fresh[0]);
        let store = opening.open().await.store;
        let own = some(&store, &mut ids(99), &[SMALL]).await;
        let group = orphan_groups(root.path(), &fresh).expect("read").remove(0).remove(0);
        let mut under_way = TakeOver::new(group);
        opening.faults.fail(operation, errno, after);
        let error = take_over(&store, &mut under_way).await.err().unwrap_or_else(|| panic!("{what}: it does not fail"));
        assert_eq!(error.is_full(), errno == Errno::NOSPC, "{what}: {error}");
        assert!(opening.faults.are_over(), "{what}");
        let mut recovered = take_over(&store, &mut under_way).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(recovered.len(), expected.len(), "{what}");
        assert_eq!(store.block.gauge(Gauge::QueueMessages), (expected.len() + own.len()) as u64, "{what}");
        for (id, len) in own {
            let (digest, state) = (envelope_of(id, len), id.to_bytes().into());
            let (size, has_body_file, legacy_done) = (len as u64, false, Vec::new());
            recovered.push(Recovered { id, digest, size, has_body_file, state, legacy_done });
            expected.insert(id, len);
        }
        let found = vec![(store, recovered)];
        check_found(&what, &found, &expected).await;
        check_nothing_comes_back(&what, root.path(), found).await;
    });
}

#[test]
fn what_failed_is_tried_again_and_goes_on_from_there() {
    for (operation, after) in [
        (Operation::SegmentOpen, 1),
        (Operation::SegmentWrite, 0),
        (Operation::SegmentSync, 1),
        (Operation::BodyLink, 0),
        (Operation::BodyLink, 1),
        (Operation::NoteWrite, 0),
        (Operation::Rename, 0),
        (Operation::Rename, 1),
        (Operation::DirectorySync, 0),
        (Operation::DirectorySync, 1),
        (Operation::DirectorySync, 2),
    ] {
        check_second_try(operation, Errno::NOSPC, after);
    }
    check_second_try(Operation::SegmentWrite, Errno::IO, 0);
    check_second_try(Operation::SegmentRead, Errno::NXIO, 5);
}

#[test]
fn a_former_log_that_cannot_be_removed_is_taken_over_all_the_same() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let expected = former(root.path(), 0, &[SMALL, LARGE]).await;
        let fresh = fresh_directories(root.path(), 1).expect("made");
        let opening = Opening::at(&fresh[0]);
        let store = opening.open().await.store;
        opening.faults.fail(Operation::RetiredRemove, Errno::ROFS, 0);
        let mut under_way = TakeOver::new(vec![shard(root.path(), 0)]);
        let recovered = take_over(&store, &mut under_way).await.expect("taken over");
        assert_eq!(names(root.path()), ["retired-shard-0000", "shard-0001"]);
        // Its number is not free yet.
        assert_eq!(fresh_directories(root.path(), 1).expect("made"), [shard(root.path(), 2)]);
        let found = vec![(store, recovered)];
        check_found("not removed", &found, &expected).await;
        check_nothing_comes_back("not removed", root.path(), found).await;
    });
}

#[test]
fn sessions_commit_while_a_log_is_taken_over() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let lens: Vec<usize> = (0..400).map(|number| if number % 10 == 1 { LARGE } else { SMALL }).collect();
        let mut expected = former(root.path(), 0, &lens).await;
        let fresh = fresh_directories(root.path(), 1).expect("made");
        let store = Opening::at(&fresh[0]).open().await.store;
        let (stop, accepted) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Messages::new())));
        let (busy, stopped, own) = (store.clone(), stop.clone(), accepted.clone());
        ringpost_runtime::spawn("traffic", async move {
            let mut ids = ids(99);
            while !stopped.get() {
                let (id, len) = (ids.next(moment()), if own.borrow().len() % 7 == 0 { LARGE } else { SMALL });
                submit(&busy, id, len).await.expect("accepted");
                own.borrow_mut().insert(id, len);
            }
            stopped.set(false);
        });
        let mut under_way = TakeOver::new(vec![shard(root.path(), 0)]);
        let recovered = take_over(&store, &mut under_way).await.expect("taken over");
        assert_eq!(recovered.len(), expected.len());
        let meanwhile = accepted.borrow().len();
        assert!(meanwhile > 20, "only {meanwhile} messages were accepted meanwhile");
        stop.set(true);
        while stop.get() {
            ringpost_runtime::sleep(Duration::from_millis(1)).await;
        }
        expected.extend(accepted.take());
        store.close().await;
        let again = start(root.path(), 1).await;
        let seen: Messages = again[0].1.iter().map(|message| (message.id, message.size as usize)).collect();
        assert_eq!((seen.len(), &seen), (again[0].1.len(), &expected));
        for (id, len) in seen {
            check_loads(&again[0].0, id, len).await;
        }
    });
}

#[test]
fn a_damaged_log_is_kept_aside_and_the_others_messages_come() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let store = Opening::at(&shard(root.path(), 0)).open().await.store;
        let kept = filled(&store, &mut ids(1), 60).await;
        let (hit, _) = kept[7];
        let place = store.locate(hit).expect("alive");
        damage(&store.segments.path(place.slot), place.offset + 100);
        store.close().await;
        let fresh = fresh_directories(root.path(), 1).expect("made");
        let opening = Opening::at(&fresh[0]);
        let store = opening.open().await.store;
        let mut under_way = TakeOver::new(vec![shard(root.path(), 0)]);
        let recovered = take_over(&store, &mut under_way).await.expect("taken over");
        assert_eq!(recovered.len(), kept.len() - 1);
        assert!(recovered.iter().all(|message| message.id != hit));
        assert_eq!(names(&fresh[0].join(LOST)), ["shard-0000"]);
        assert!(opening.block.counter(Counter::SpoolDamaged) > 0);
        // What is being received meanwhile has no record yet, and is nobody's to remove.
        let id = ids(98).next(moment());
        submit(&store, id, LARGE).await.expect("accepted");
        check_loads(&store, id, LARGE).await;
        store.close().await;
    });
}

#[test]
fn segments_were_larger_in_the_process_before() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let large = Options { segment_size: ByteCount::kib(256), inline_max: ByteCount::kib(64), ..OPTIONS };
        let former = Opening { options: large, ..Opening::at(&shard(root.path(), 0)) };
        let store = former.open().await.store;
        let expected = some(&store, &mut ids(1), &[SMALL, 60_000, SMALL, 62_000, 100_000]).await;
        store.close().await;
        let found = succeed(root.path(), 1).await;
        check_found("smaller segments", &found, &expected).await;
        assert_eq!(found[0].1.iter().filter(|message| message.has_body_file).count(), 3);
        check_nothing_comes_back("smaller segments", root.path(), found).await;
    });
}

/// Half a move would keep the next start from going on with the logs as they are.
#[test]
fn nothing_is_begun_without_room_for_all_of_it() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let expected = former(root.path(), 0, &[SMALL, LARGE, SMALL]).await;
        let fresh = fresh_directories(root.path(), 1).expect("made");
        let store = Opening::at(&fresh[0]).open().await.store;
        store.set_space_limits(SpaceLimits { soft: ByteCount(0), hard: ByteCount(u64::MAX / 2) });
        let mut under_way = TakeOver::new(vec![shard(root.path(), 0)]);
        let error = take_over(&store, &mut under_way).await.expect_err("it is refused");
        assert!(error.is_full() && error.to_string().contains("make room"), "{error}");
        assert!(!shard(root.path(), 0).join("heir").exists());
        assert_eq!(store.block.gauge(Gauge::QueueMessages), 0);
        store.set_space_limits(SpaceLimits::default());
        let recovered = take_over(&store, &mut under_way).await.expect("taken over");
        let found = vec![(store, recovered)];
        check_found("room again", &found, &expected).await;
        check_nothing_comes_back("room again", root.path(), found).await;
    });
}

#[test]
fn what_was_kept_aside_goes_along_from_process_to_process() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        former(root.path(), 0, &[SMALL]).await;
        let lost = shard(root.path(), 0).join(LOST);
        fs::create_dir(&lost).expect("made");
        fs::write(lost.join("segment-00000007.log"), "mail, perhaps").expect("written");
        for number in 1..4 {
            let found = succeed(root.path(), 1).await;
            let directory = found[0].0.directory().to_owned();
            assert_eq!(directory, shard(root.path(), number % 2));
            assert_eq!(names(&directory.join(LOST)), ["segment-00000007.log"]);
            assert_eq!((names(root.path()).len(), found[0].1.len()), (1, 1));
            found[0].0.close().await;
        }
    });
}
