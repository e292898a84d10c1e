//! A disk that does not give back what it was given, and what a start makes of that: each test has the name of the fault.

use super::reading::{damage, filled, shard};
use super::*;
use crate::lost::LOST;
use crate::segments::Segments;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const SMALL: usize = 2_000;
const LARGE: usize = 40_000;
const BLOCK: u64 = ringpost_spool::BLOCK as u64;

/// A spool with messages in it, closed; gives those that are alive and where the log of each is.
async fn spool(root: &Path, run: u8) -> Vec<(SpoolId, ringpost_spool::Location)> {
    let store = Opening::at(root).open().await.store;
    let kept = filled(&store, &mut ids(run), 60).await;
    let places = kept.iter().map(|(id, _)| (*id, store.locate(*id).expect("alive"))).collect();
    store.close().await;
    places
}

fn segment(root: &Path, slot: ringpost_spool::Slot) -> PathBuf {
    root.join(crate::segments::segment_name(slot))
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Opens a spool of which some bytes can't be read; gives what is found, and what was counted as damaged.
async fn open_with(root: &Path, bad: Vec<(PathBuf, Range<u64>)>) -> (Opened<Vec<u8>>, u64) {
    let opening = Opening::at(root);
    opening.faults.unreadable.replace(bad);
    let opened = opening.open().await;
    opening.faults.unreadable.take();
    (opened, opening.block.counter(Counter::SpoolDamaged))
}

#[test]
fn one_unreadable_sector_stops_the_start() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let places = spool(root.path(), 1).await;
        let (_, hit) = places[places.len() / 2];
        let sector = hit.offset / 512 * 512;
        let block = sector / BLOCK * BLOCK;
        let path = segment(root.path(), hit.slot);
        let (opened, damaged) = open_with(root.path(), vec![(path, sector..sector + 512)]).await;
        assert!(damaged > 0);
        let found: Vec<SpoolId> = opened.recovered.iter().map(|message| message.id).collect();
        for (id, place) in places {
            let touched =
                place.slot == hit.slot && place.offset < block + BLOCK && block < place.offset + u64::from(place.len);
            assert_eq!(found.contains(&id), !touched, "{place:?}");
            if !touched {
                opened.store.load(id).await.expect("it loads");
            }
        }
        opened.store.close().await;
    });
}

#[test]
fn a_header_that_can_not_be_read() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let places = spool(root.path(), 1).await;
        let slot = places[places.len() / 2].1.slot;
        let path = segment(root.path(), slot);
        // In one sector: the copy tells. In both: the file is left alone, and the others are read.
        for (bad, lost) in [(0..512, false), (0..BLOCK, true)] {
            let intact = fs::read(&path).expect("a segment");
            let (opened, damaged) = open_with(root.path(), vec![(path.clone(), bad)]).await;
            assert!(damaged > 0);
            // Settlements may have been in it too, so that some are back.
            let found: Vec<SpoolId> = opened.recovered.iter().map(|message| message.id).collect();
            for (id, place) in &places {
                assert_eq!(found.contains(id), place.slot != slot || !lost, "{place:?}");
            }
            opened.store.close().await;
            assert!(fs::read(&path).expect("a segment") == intact, "it was changed");
        }
    });
}

#[test]
fn mail_of_unknown_records_is_deleted_while_the_log_is_damaged() {
    on_shard(async || {
        for damaged in [true, false] {
            let root = tempfile::tempdir().expect("a directory");
            let places = spool(root.path(), 1).await;
            let live = names(&root.path().join("body"));
            let stray = ids(9).next(moment()).to_string() + ".body";
            fs::write(root.path().join("body").join(&stray), "mail").expect("written");
            let blank = root.path().join("segment-00000091.log");
            fs::write(&blank, [vec![0; 8192], vec![7; 8192]].concat()).expect("written");
            fs::write(root.path().join("segment-00000092.log"), vec![0; 65_536]).expect("written");
            fs::write(root.path().join("segment-00000093.log"), vec![7; 100]).expect("written");
            fs::create_dir_all(root.path().join(LOST)).expect("a directory");
            fs::write(root.path().join(LOST).join(&stray), "kept before").expect("written");
            if damaged {
                let (_, place) = places[3];
                damage(&segment(root.path(), place.slot), place.offset + 100);
            }
            Opening::at(root.path()).open().await.store.close().await;
            let kept = names(&root.path().join(LOST));
            let strays = [stray.clone(), format!("{stray}.1")];
            if damaged {
                let segments = ["segment-00000091.log", "segment-00000093.log"].map(str::to_owned);
                assert_eq!(kept, [strays, segments].concat());
                assert_eq!(fs::read(root.path().join(LOST).join(&kept[1])).expect("a file"), b"mail");
            } else {
                assert_eq!(kept, strays[..1]);
            }
            assert_eq!(names(&root.path().join("body")), live);
            assert!(!blank.exists() && !root.path().join("segment-00000092.log").exists());
        }
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("x"), "").expect("written");
        crate::lost::LostFiles::new(&Disk::new(), root.path()).keep(&root.path().join("x")).expect("kept");
        let mode = fs::metadata(root.path().join(LOST)).expect("a directory").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    });
}

#[test]
fn a_message_whose_body_file_is_gone_is_settled_in_silence() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let (opening, mut ids) = (Opening::at(root.path()), ids(1));
        let store = opening.open().await.store;
        let (gone, kept) = (ids.next(moment()), ids.next(moment()));
        submit(&store, gone, LARGE).await.expect("accepted");
        submit(&store, kept, LARGE).await.expect("accepted");
        fs::remove_file(store.body_path(gone)).expect("removed");
        store.close().await;
        for expected in [1, 0] {
            let opening = Opening::at(root.path());
            let opened = opening.open().await;
            assert_eq!(opened.recovered.iter().map(|message| message.id).collect::<Vec<_>>(), [kept]);
            assert_eq!(opening.block.counter(Counter::SpoolLost), expected);
            // The settlement goes into the log with it.
            let other = ids.next(moment());
            submit(&opened.store, other, SMALL).await.expect("accepted");
            opened.store.settle(other);
            opened.store.close().await;
        }
    });
}

/// Segments were larger once, and so were messages in them.
#[test]
fn a_start_with_fewer_cores_and_smaller_segments_fails() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let large = Options { segment_size: ByteCount::kib(256), inline_max: ByteCount::kib(64), ..OPTIONS };
        let former = Opening { options: large, ..Opening::at(&shard(root.path(), 1)) };
        let (store, mut ids) = (former.open().await.store, ids(1));
        let mut kept = Vec::new();
        for len in [SMALL, 60_000, SMALL, 62_000, 100_000] {
            let id = ids.next(moment());
            submit(&store, id, len).await.expect("accepted");
            store.note(id, &id.to_bytes());
            kept.push((id, len));
        }
        store.close().await;
        let orphans = vec![shard(root.path(), 1)];
        let opening = Opening { orphans, ..Opening::at(&shard(root.path(), 0)) };
        for opening in [opening, Opening::at(&shard(root.path(), 0))] {
            let Opened { store, recovered } = opening.open().await;
            assert!(!shard(root.path(), 1).exists() && !store.bodies.with_file_name(LOST).exists());
            let found: Vec<_> = recovered.iter().map(|message| (message.id, message.has_body_file)).collect();
            let expected: Vec<_> = kept.iter().map(|(id, len)| (*id, *len > SMALL)).collect();
            assert_eq!(found, expected);
            assert!(recovered.iter().all(|message| *message.state == message.id.to_bytes()));
            for (id, len) in &kept {
                check_loads(&store, *id, *len).await;
            }
            assert_eq!(opening.block.counter(Counter::SpoolDamaged), 0);
            store.close().await;
        }
    });
}

#[test]
fn what_is_left_of_a_damaged_log_goes_with_its_directory() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let former = shard(root.path(), 1);
        let places = spool(&former, 1).await;
        let (_, place) = places[5];
        damage(&segment(&former, place.slot), place.offset + 100);
        let before = names(&former).into_iter().filter(|name| name != "body").collect::<Vec<_>>();
        let opening = Opening { orphans: vec![former.clone()], ..Opening::at(&shard(root.path(), 0)) };
        let Opened { store, recovered } = opening.open().await;
        assert_eq!((recovered.len(), former.exists()), (places.len() - 1, false));
        let kept = shard(root.path(), 0).join(LOST);
        assert_eq!(names(&kept), ["shard-0001"]);
        assert_eq!(names(&kept.join("shard-0001")), [&["body", "heir"].map(str::to_owned)[..], &before].concat());
        store.close().await;
        // It is not taken over again, and goes along when this one is, which nothing else is kept of.
        let opening = Opening { orphans: vec![shard(root.path(), 0)], ..Opening::at(&shard(root.path(), 2)) };
        let Opened { store, recovered } = opening.open().await;
        assert_eq!(recovered.len(), places.len() - 1);
        assert_eq!(names(&shard(root.path(), 2).join(LOST)), ["shard-0001"]);
        assert!(!shard(root.path(), 0).exists());
        store.close().await;
    });
}

/// A record that was whole when the log was read, and can't be read when it is taken over.
#[test]
fn a_record_that_goes_bad_while_it_is_taken_over_stops_the_start() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let former = shard(root.path(), 1);
        let places = spool(&former, 1).await;
        let opening = Opening { orphans: vec![former.clone()], ..Opening::at(&shard(root.path(), 0)) };
        // Headers, twice as they are looked at, and segments come first.
        let reads = names(&former).len() * 2;
        opening.faults.fail(Operation::SegmentRead, Errno::IO, reads);
        let Opened { store, recovered } = opening.open().await;
        assert!(opening.faults.are_over());
        assert_eq!(recovered.len(), places.len() - 1);
        assert_eq!(names(&shard(root.path(), 0).join(LOST)), ["shard-0001"]);
        store.close().await;
    });
}

#[test]
fn every_segment_ever_used_is_held_open() {
    on_shard(async || {
        let root = tempfile::tempdir().expect("a directory");
        let segments = Segments::new(&Disk::new(), root.path(), 8192);
        for slot in 0..150 {
            segments.create(ringpost_spool::Slot(slot)).await.expect("made");
        }
        let open = || {
            let links = fs::read_dir("/proc/self/fd").expect("a directory");
            links
                .filter_map(|link| fs::read_link(link.ok()?.path()).ok())
                .filter(|to| to.starts_with(root.path()))
                .count()
        };
        assert!(open() <= 64, "{}", open());
        for slot in (0..150).chain(0..150) {
            assert_eq!(segments.read(ringpost_spool::Slot(slot), 4096, 100).await.expect("read").len(), 100);
        }
        assert!(open() <= 64, "{}", open());
        segments.close().await;
        assert_eq!(open(), 0);
    });
}
