//! The offline check, beside a server and of files that were damaged.

use super::reading::{filled, shard};
use super::*;
use crate::check;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_directory_that_is_no_spool_is_found_to_be_whole() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("spool")).expect("a directory");
    let error = check(root.path()).expect_err("it is refused").to_string();
    assert!(error.contains("no spool is here") && error.contains("shard-0000"), "{error}");
}

/// Segments are reused all the while.
#[test]
fn a_server_that_writes_looks_damaged() {
    let root = tempfile::tempdir().expect("a directory");
    let stop = Arc::new(AtomicBool::new(false));
    let (directory, stopped) = (shard(root.path(), 0), stop.clone());
    let writer = std::thread::spawn(move || {
        on_shard(async move || {
            let store = Opening::at(&directory).open().await.store;
            let mut ids = ids(1);
            filled(&store, &mut ids, 20).await;
            while !stopped.load(Ordering::Relaxed) {
                let id = ids.next(moment());
                submit(&store, id, [300, 3000, 7000][usize::from(id.to_bytes()[15]) % 3]).await.expect("accepted");
                store.settle(id);
            }
            store.close().await;
        });
    });
    let there = || check(root.path()).is_ok_and(|report| report.shards[0].segments > 3);
    while !there() {
        std::thread::yield_now();
    }
    for round in 0..400 {
        let report = check(root.path()).expect("checked");
        assert_eq!(report.damaged(), 0, "round {round}: {report:?}");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer ends");
    let report = check(root.path()).expect("checked");
    assert_eq!((report.damaged(), report.shards[0].changed), (0, 0));
}

/// The end of a segment that another one follows was synced: what is no record there is damage, and no torn write.
#[test]
fn a_damaged_end_of_a_sealed_segment_is_taken_for_torn() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let store = Opening::at(&shard(root.path(), 0)).open().await.store;
        let mut ids = ids(1);
        let mut last_of_first = None;
        for _ in 0..40 {
            let id = ids.next(moment());
            submit(&store, id, 3000).await.expect("accepted");
            let location = store.locate(id).expect("alive");
            if location.slot.0 == 0 {
                last_of_first = Some(location);
            }
        }
        let (location, path) = (last_of_first.expect("a message"), store.segments.path(ringpost_spool::Slot(0)));
        store.close().await;
        super::reading::damage(&path, location.offset + 500);
        let report = check(root.path()).expect("checked");
        assert_eq!((report.shards[0].damage.len(), report.shards[0].torn), (1, 0), "{report:?}");
        let damaged = &report.shards[0].damage[0];
        assert_eq!(damaged.path, path);
        assert!((damaged.offset..damaged.offset + damaged.len).contains(&location.offset), "{damaged:?}");
    });
}
