//! Each operation on the disk fails by itself, for want of room and for a broken disk: what was not acknowledged is told so
//! with the right reason, and what was is there after a restart.

use super::*;
use crate::StoreError;
use ringpost_metrics::Gauge;

/// A message that stays in the log, and one that has a body file.
const SMALL: usize = 3_000;
const LARGE: usize = 40_000;

/// Accepts some, lets one fail, accepts more, and looks at what a restart finds.
fn check(operation: Operation, errno: Errno, after: usize, len: usize, expected: Failure) {
    on_shard(async move || {
        let root = tempfile::tempdir().expect("a directory");
        let (opening, mut ids) = (Opening::at(root.path()), ids(1));
        let store = opening.open().await.store;
        let mut kept = Vec::new();
        for round in 0..3 {
            for len in [SMALL, LARGE] {
                let id = ids.next(moment());
                submit(&store, id, len).await.expect("accepted");
                kept.push((id, len));
            }
            if round != 1 {
                continue;
            }
            let failed = fill_until(&store, &opening, &mut ids, &mut kept, (operation, errno, after, len)).await;
            assert_eq!(failed, Some(expected), "{operation:?} with {errno}");
        }
        assert!(store.block.counter(Counter::SpoolErrors) > 0, "{operation:?}: the error was not counted");
        assert!(!store.is_failing(), "{operation:?}: it works again, and the store says otherwise");
        check_restart(store, &opening, &kept).await;
    });
}

/// Submits messages until the fault has hit one; gives how it failed.
async fn fill_until(
    store: &Rc<Store>,
    opening: &Opening,
    ids: &mut MessageIds,
    kept: &mut Vec<(SpoolId, usize)>,
    (operation, errno, after, len): (Operation, Errno, usize, usize),
) -> Option<Failure> {
    opening.faults.fail(operation, errno, after);
    for _ in 0..100 {
        let id = ids.next(moment());
        match submit(store, id, len).await {
            Ok(()) => kept.push((id, len)),
            Err(failure) => return Some(failure),
        }
    }
    None
}

/// Closes the store, opens it again, and looks for exactly these messages.
async fn check_restart(store: Rc<Store>, opening: &Opening, kept: &[(SpoolId, usize)]) {
    store.close().await;
    let Opened { store, recovered } = Opening::at(&opening.directory).open().await;
    let found: Vec<SpoolId> = recovered.iter().map(|message| message.id).collect();
    assert_eq!(found, kept.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for ((id, len), message) in kept.iter().zip(&recovered) {
        assert_eq!((message.digest.as_slice(), message.size), (envelope_of(*id, *len).as_slice(), *len as u64));
        check_loads(&store, *id, *len).await;
    }
    assert_eq!(store.block.gauge(Gauge::QueueMessages), kept.len() as u64);
    assert_eq!(store.block.gauge(Gauge::SpoolBacklog), kept.iter().map(|(_, len)| *len as u64).sum::<u64>());
    assert_eq!(store.block.counter(Counter::SpoolDamaged), 0);
    let bodies = std::fs::read_dir(&store.bodies).expect("a directory").count();
    assert_eq!(bodies, kept.iter().filter(|(_, len)| *len == LARGE).count(), "body files");
    store.close().await;
}

#[test]
fn a_segment_that_cannot_be_written_is_told_as_the_disk_says() {
    for operation in [Operation::SegmentWrite, Operation::SegmentSync] {
        check(operation, Errno::IO, 0, SMALL, Failure::Io);
        check(operation, Errno::NOSPC, 0, SMALL, Failure::Full);
        check(operation, Errno::DQUOT, 7, SMALL, Failure::Full);
    }
}

#[test]
fn a_body_file_that_cannot_be_written_is_told_as_the_disk_says() {
    for operation in [Operation::BodyCreate, Operation::BodyWrite, Operation::BodySync, Operation::DirectorySync] {
        check(operation, Errno::IO, 0, LARGE, Failure::Io);
        check(operation, Errno::NOSPC, 0, LARGE, Failure::Full);
    }
    check(Operation::BodyWrite, Errno::NOSPC, 1, LARGE, Failure::Full);
}

/// The first segment of all: everything waits for it.
#[test]
fn a_first_segment_that_cannot_be_made_is_told_as_the_disk_says() {
    for (operation, after) in [
        (Operation::SegmentCreate, 0),
        (Operation::SegmentWrite, 0),
        (Operation::SegmentSync, 0),
        (Operation::DirectorySync, 0),
    ] {
        for (errno, expected) in [(Errno::NOSPC, Failure::Full), (Errno::IO, Failure::Io)] {
            on_shard(async move || {
                let root = tempfile::tempdir().expect("a directory");
                let (opening, mut ids) = (Opening::at(root.path()), ids(2));
                let store = opening.open().await.store;
                opening.faults.fail(operation, errno, after);
                let (lost, kept) = (ids.next(moment()), ids.next(moment()));
                assert_eq!(submit(&store, lost, SMALL).await, Err(expected), "{operation:?} {errno}");
                submit(&store, kept, SMALL).await.expect("accepted");
                check_restart(store, &opening, &[(kept, SMALL)]).await;
            });
        }
    }
}

/// A segment made ahead is not waited for: nobody notices.
#[test]
fn a_segment_that_cannot_be_made_ahead_of_time_fails_nobody() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let (opening, mut ids) = (Opening::at(root.path()), ids(3));
        let store = opening.open().await.store;
        let mut kept = Vec::new();
        let mut accept = async |count: usize| {
            for _ in 0..count {
                let id = ids.next(moment());
                submit(&store, id, SMALL).await.expect("accepted");
                kept.push((id, SMALL));
            }
        };
        accept(1).await;
        opening.faults.fail(Operation::SegmentCreate, Errno::NOSPC, 0);
        accept(9).await;
        // It fails, which is told after a pause, and is tried again.
        for failing in [true, false] {
            while store.is_failing() != failing {
                ringpost_runtime::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        assert!(opening.faults.are_over());
        accept(20).await;
        check_restart(store, &opening, &kept).await;
    });
}

#[test]
fn a_record_that_cannot_be_read_now_is_no_damage() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let (opening, id) = (Opening::at(root.path()), ids(4).next(moment()));
        let store = opening.open().await.store;
        submit(&store, id, SMALL).await.expect("accepted");
        opening.faults.fail(Operation::SegmentRead, Errno::IO, 0);
        assert!(matches!(store.load(id).await, Err(StoreError::File { full: false, .. })));
        check_loads(&store, id, SMALL).await;
        check_restart(store, &opening, &[(id, SMALL)]).await;
    });
}

/// Long-lived messages among many that go: the log is compacted again and again, and now and then a read fails.
#[test]
fn compaction_goes_on_where_a_record_cannot_be_read() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let (opening, mut ids) = (Opening::at(root.path()), ids(5));
        let store = opening.open().await.store;
        let mut kept = Vec::new();
        for round in 0..600 {
            let id = ids.next(moment());
            submit(&store, id, SMALL).await.expect("accepted");
            if round % 50 == 7 {
                kept.push((id, SMALL));
                opening.faults.fail(Operation::SegmentRead, Errno::IO, 1);
            } else {
                store.settle(id);
            }
        }
        assert!(opening.faults.are_over(), "nothing was read for compaction");
        let stats = store.spool.borrow().stats();
        assert!(stats.compacted > 0 && stats.segments < 24, "{stats:?}");
        check_restart(store, &opening, &kept).await;
    });
}

#[test]
fn what_cannot_be_removed_is_settled_all_the_same() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let (opening, mut ids) = (Opening::at(root.path()), ids(6));
        let store = opening.open().await.store;
        let (gone, kept) = (ids.next(moment()), ids.next(moment()));
        submit(&store, gone, LARGE).await.expect("accepted");
        opening.faults.fail(Operation::BodyRemove, Errno::IO, 0);
        store.settle(gone);
        assert!(opening.faults.are_over());
        submit(&store, kept, LARGE).await.expect("accepted");
        check_restart(store, &opening, &[(kept, LARGE)]).await;
    });
}
