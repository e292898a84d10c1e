//! Recovery, adoption, verification and the offline check.

use super::*;
use crate::{BodyTrouble, CheckReport, Progress, Verified, check};
use ringpost_metrics::Gauge;
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt;

const SMALL: usize = 2_000;
const LARGE: usize = 40_000;

/// Fills a store with small and large messages, every third of them settled; gives those that are not.
pub(super) async fn filled(store: &Rc<Store>, ids: &mut MessageIds, count: usize) -> Vec<(SpoolId, usize)> {
    let mut kept = Vec::new();
    for number in 0..count {
        let (id, len) = (ids.next(moment()), if number % 10 == 1 { LARGE } else { SMALL });
        submit(store, id, len).await.expect("accepted");
        match number % 3 {
            0 => store.settle(id),
            1 => {
                store.note(id, &id.to_bytes());
                kept.push((id, len));
            }
            _ => kept.push((id, len)),
        }
    }
    kept
}

/// Flips a bit of a file.
pub(super) fn damage(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
}

/// A spool's directory with one shard's in it.
pub(super) fn shard(root: &Path, number: usize) -> PathBuf {
    root.join(format!("shard-{number:04}"))
}

#[test]
fn former_shards_are_taken_over_with_what_was_noted() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let mut expected = Vec::new();
        for (number, count) in [(0, 20), (1, 400), (2, 0)] {
            let opening = Opening::at(&shard(root.path(), number));
            let store = opening.open().await.store;
            expected.extend(filled(&store, &mut ids(number as u8), count).await);
            store.close().await;
        }
        expected.sort_unstable();
        let orphans = vec![shard(root.path(), 1), shard(root.path(), 2)];
        let opening = Opening { orphans, ..Opening::at(&shard(root.path(), 0)) };
        let Opened { store, recovered } = opening.open().await;
        assert!(!shard(root.path(), 1).exists() && !shard(root.path(), 2).exists());
        assert_eq!(store.block.gauge(Gauge::QueueMessages), expected.len() as u64);
        let syncs = store.block.counter(Counter::SpoolSyncs);
        assert!(syncs * 3 < expected.len() as u64 * 2, "{syncs} syncs: messages are taken over together");
        store.close().await;
        let Opened { store, recovered: again } = Opening::at(&shard(root.path(), 0)).open().await;
        for mut recovered in [recovered, again] {
            recovered.sort_unstable_by_key(|message| message.id);
            assert_eq!(recovered.iter().map(|message| message.id).collect::<Vec<_>>(), ids_of(&expected));
            assert!(
                recovered.iter().all(|message| message.state.is_empty() || *message.state == message.id.to_bytes())
            );
            assert!(recovered.iter().filter(|message| !message.state.is_empty()).count() > 100);
        }
        for (id, len) in expected {
            check_loads(&store, id, len).await;
        }
    });
}

fn ids_of(messages: &[(SpoolId, usize)]) -> Vec<SpoolId> {
    messages.iter().map(|(id, _)| *id).collect()
}

#[test]
fn a_log_of_a_newer_format_is_not_opened_and_not_touched() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let opening = Opening::at(&shard(root.path(), 0));
        let store = opening.open().await.store;
        filled(&store, &mut ids(1), 10).await;
        store.close().await;
        let segment = opening.directory.join("segment-00000000.log");
        let mut bytes = fs::read(&segment).expect("a segment");
        (bytes[7], bytes[2048 + 7]) = (9, 9);
        fs::write(&segment, &bytes).expect("written");
        let names = || {
            let entries = fs::read_dir(&opening.directory).expect("a directory");
            entries.map(|entry| entry.expect("an entry").file_name()).collect::<std::collections::BTreeSet<_>>()
        };
        // One whose making was interrupted, read before the one that is not understood.
        fs::write(opening.directory.join("segment-00000077.log"), b"").expect("written");
        let before = names();
        let setup = Setup {
            directory: opening.directory.clone(),
            orphans: Vec::new(),
            options: OPTIONS,
            entropy: Entropy([0; 16]),
            block: Arc::new(Block::new()),
            budget: Budget { message_bytes: 0, hot_bytes: 0 },
            space: SpaceLimits::default(),
        };
        let error = crate::open(setup, |_, _| (), |_| ()).await.err().expect("it is refused").to_string();
        assert!(error.contains("version 9") && error.contains("segment-00000000.log"), "{error}");
        assert!(fs::read(&segment).expect("a segment") == bytes, "it was changed");
        assert_eq!(names(), before, "something was removed");
        assert!(check(root.path()).expect_err("refused").to_string().contains("version 9"));
    });
}

#[test]
fn the_reading_tells_how_far_it_is() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let opening = Opening::at(root.path());
        let store = opening.open().await.store;
        let kept = filled(&store, &mut ids(1), 60).await;
        store.close().await;
        let last = Rc::new(Cell::new(Progress::default()));
        let setup = Setup {
            directory: opening.directory.clone(),
            orphans: Vec::new(),
            options: OPTIONS,
            entropy: Entropy([3; 16]),
            block: Arc::new(Block::new()),
            budget: Budget { message_bytes: 0, hot_bytes: 0 },
            space: SpaceLimits::default(),
        };
        let seen = last.clone();
        crate::open(setup, |_, _| (), move |progress| seen.set(progress)).await.expect("opened");
        let Progress { read, total, found } = last.get();
        assert!(read == total && total >= 2 * OPTIONS.segment_size.0, "{read} of {total}");
        assert_eq!(found, kept.len());
    });
}

#[test]
fn verification_finds_what_is_damaged_and_nothing_else() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let opening = Opening::at(&shard(root.path(), 0));
        let store = opening.open().await.store;
        let kept = filled(&store, &mut ids(1), 90).await;
        assert_eq!(store.verify(|_| ()).await, Verified::default());
        assert_eq!(check(root.path()).expect("checked").damaged(), 0);
        let small: Vec<SpoolId> = kept.iter().filter(|(_, len)| *len == SMALL).map(|(id, _)| *id).collect();
        let large: Vec<SpoolId> = kept.iter().filter(|(_, len)| *len == LARGE).map(|(id, _)| *id).collect();
        let (flipped, body, gone) = (small[7], large[1], large[2]);
        let location = store.locate(flipped).expect("it is there");
        damage(&store.segments.path(location.slot), location.offset + 200);
        damage(&store.body_path(body), 30_000);
        fs::remove_file(store.body_path(gone)).expect("removed");
        let last = Cell::new(Progress::default());
        let mut damaged = store.verify(|progress| last.set(progress)).await.damaged;
        assert_eq!((last.get().read, last.get().found), (last.get().total, kept.len()));
        damaged.sort_unstable_by_key(|damaged| damaged.id);
        let mut expected = [
            (flipped, store.segments.path(location.slot), location.offset),
            (body, store.body_path(body), 0),
            (gone, store.body_path(gone), 0),
        ];
        expected.sort();
        let found: Vec<_> = damaged.into_iter().map(|damaged| (damaged.id, damaged.path, damaged.offset)).collect();
        assert_eq!(found, expected);
        // All of them stay.
        assert_eq!(store.block.gauge(Gauge::QueueMessages), kept.len() as u64);
        store.close().await;
        let report = check(root.path()).expect("checked");
        check_damage(&report, kept.len(), &store.segments.path(location.slot), &store.body_path(body));
        assert_eq!(report.shards[0].body_troubles, [BodyTrouble::Missing(store.body_path(gone))]);
    });
}

/// One record and one body file are damaged, the record's message is not found.
fn check_damage(report: &CheckReport, messages: usize, segment: &Path, body: &Path) {
    let shard = &report.shards[0];
    let paths: Vec<&Path> = shard.damage.iter().map(|damage| &*damage.path).collect();
    assert_eq!(paths, [segment, body], "{report:?}");
    assert_eq!((shard.live, shard.versions.as_slice()), (messages - 1, &[ringpost_spool::FORMAT_VERSION][..]));
    assert!(shard.segments > 0 && shard.settled > 0 && shard.records > shard.live && shard.torn == 0, "{shard:?}");
    assert!(shard.bodies > 2, "{shard:?}");
}

/// Settlements and compaction go on while everything is read.
#[test]
fn verification_beside_a_busy_log_finds_no_damage() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let opening = Opening::at(root.path());
        let store = opening.open().await.store;
        let mut ids = ids(1);
        filled(&store, &mut ids, 100).await;
        let (busy, stop) = (store.clone(), Rc::new(Cell::new(false)));
        let stopped = stop.clone();
        ringpost_runtime::spawn("traffic", async move {
            while !stopped.get() {
                let id = ids.next(moment());
                submit(&busy, id, SMALL).await.expect("accepted");
                busy.settle(id);
            }
        });
        let before = store.spool.borrow().stats().compacted;
        let mut rounds = 0;
        while store.spool.borrow().stats().compacted < before + 200 {
            assert_eq!(store.verify(|_| ()).await, Verified::default());
            rounds += 1;
            assert!(rounds < 10_000, "nothing is compacted");
        }
        stop.set(true);
    });
}
