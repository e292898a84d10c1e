//! The class `memory`: what is kept, what is given back, and what becomes of it when it goes into the log after all.

use super::*;
use ringpost_base::Durability;
use ringpost_metrics::Gauge;

/// Hands a message in as the class `memory` does; false if it was given back.
fn keep(store: &Rc<Store>, id: SpoolId, len: usize) -> bool {
    let mut draft = store.draft(id);
    draft.buffer().extend_from_slice(&bytes_of(id, len));
    draft.account();
    match store.keep(draft, &envelope_of(id, len)) {
        Ok(receipt) => {
            assert_eq!((receipt.id(), receipt.durability()), (id, Durability::Memory));
            true
        }
        Err(draft) => {
            assert_eq!((draft.id(), draft.len()), (id, len as u64), "it comes back whole");
            false
        }
    }
}

/// Runs a body over a store with so much room for hot messages.
fn with_store(hot_bytes: u64, body: impl AsyncFnOnce(Opening, Rc<Store>, MessageIds) + Send + 'static) {
    on_shard(async move || {
        let root = tempfile::tempdir().expect("a directory");
        let opening = Opening { hot_bytes, ..Opening::at(root.path()) };
        let store = opening.open().await.store;
        body(opening, store, ids(7)).await;
    });
}

#[test]
fn a_kept_message_touches_no_disk() {
    with_store(1 << 20, async |opening, store, mut ids| {
        let id = ids.next(moment());
        assert!(keep(&store, id, 5000));
        check_loads(&store, id, 5000).await;
        store.note(id, b"noted");
        assert_eq!(store.state(id).as_deref(), Some(&b"noted"[..]));
        assert!(store.is_kept(id) && store.entry(id).is_none());
        let gauges = [Gauge::KeptMessages, Gauge::QueueMessages, Gauge::SpoolBacklog, Gauge::MessageMemory];
        assert_eq!(gauges.map(|gauge| store.block.gauge(gauge)), [1, 1, 5000, 5000]);
        store.settle(id);
        assert_eq!(gauges.map(|gauge| store.block.gauge(gauge)), [0; 4]);
        assert!(store.load_hot(id).is_none());
        store.close().await;
        let files = std::fs::read_dir(&opening.directory).expect("a directory").count();
        assert_eq!(files, 1, "nothing but the directory of body files");
    });
}

#[test]
fn beyond_the_budget_the_draft_comes_back() {
    with_store(10_000, async |_, store, mut ids| {
        let (first, second) = (ids.next(moment()), ids.next(moment()));
        assert!(keep(&store, first, 6000));
        assert!(!keep(&store, second, 6000), "over the budget of hot bytes");
        assert!(keep(&store, second, 4000));
        store.settle(first);
        assert!(!keep(&store, ids.next(moment()), 9000), "so large that it needs a body file");
        assert!(keep(&store, ids.next(moment()), 6000));
        assert_eq!(store.block.gauge(Gauge::MessageMemory), 10_000);
        store.set_budget(Budget { message_bytes: 1000, hot_bytes: 1 << 20 });
        assert!(!keep(&store, ids.next(moment()), 10), "over the budget of message memory");
    });
}

#[test]
fn what_is_persisted_is_there_after_a_restart_with_what_was_noted() {
    with_store(1 << 20, async |opening, store, mut ids| {
        let all: Vec<SpoolId> = (0..600).map(|_| ids.next(moment())).collect();
        all.iter().for_each(|id| assert!(keep(&store, *id, 1000)));
        store.note(all[3], b"three");
        store.persist(all[3]).await.expect("persisted");
        assert!(!store.is_kept(all[3]) && store.is_kept(all[4]));
        store.note(all[4], b"four");
        store.settle(all[5]);
        store.persist_all().await.expect("persisted");
        store.persist(all[5]).await.expect("nothing to do");
        assert_eq!(store.block.gauge(Gauge::KeptMessages), 0);
        assert_eq!(store.block.counter(Counter::KeptPersisted), 599);
        check_loads(&store, all[6], 1000).await;
        store.close().await;
        let Opened { store, recovered } = Opening::at(&opening.directory).open().await;
        assert_eq!(recovered.len(), 599);
        for message in &recovered {
            let noted: &[u8] = match all.iter().position(|id| *id == message.id) {
                Some(3) => b"three",
                Some(4) => b"four",
                _ => b"",
            };
            assert_eq!(&*message.state, noted);
            check_loads(&store, message.id, 1000).await;
        }
    });
}

#[test]
fn a_message_that_is_settled_on_its_way_into_the_log_does_not_come_back() {
    with_store(1 << 20, async |opening, store, mut ids| {
        let (first, second) = (ids.next(moment()), ids.next(moment()));
        for id in [first, second] {
            assert!(keep(&store, id, 1000));
            let leaving = store.clone();
            ringpost_runtime::spawn("persist", async move { leaving.persist(id).await.expect("persisted") });
        }
        // Staged by now: a task begins where it is spawned.
        store.settle(first);
        store.note(second, b"late");
        store.persist(second).await.expect("persisted");
        store.close().await;
        let recovered = Opening::at(&opening.directory).open().await.recovered;
        let found: Vec<(SpoolId, &[u8])> = recovered.iter().map(|message| (message.id, &*message.state)).collect();
        assert_eq!(found, [(second, &b"late"[..])]);
        assert_eq!(store.block.gauge(Gauge::QueueMessages), 1);
    });
}

#[test]
fn what_cannot_be_persisted_stays_kept() {
    with_store(1 << 20, async |opening, store, mut ids| {
        let (first, second) = (ids.next(moment()), ids.next(moment()));
        assert!(keep(&store, first, 1000) && keep(&store, second, 1000));
        opening.faults.fail(Operation::SegmentCreate, Errno::NOSPC, 0);
        assert_eq!(store.persist(first).await, Err(Failure::Full));
        assert!(store.is_kept(first));
        check_loads(&store, first, 1000).await;
        store.persist_all().await.expect("now there is room");
        store.close().await;
        assert_eq!(Opening::at(&opening.directory).open().await.recovered.len(), 2);
    });
}
