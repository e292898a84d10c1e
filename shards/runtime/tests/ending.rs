//! A shard that ends while the kernel still works for it: nobody writes into memory that was given back.
//!
//! The allocator of this program gives nothing back. What is freed is filled with a pattern and looked at in the end.

mod support;

use glommio::io::DmaFile;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::mem::forget;
use std::path::{Path, PathBuf};
use std::ptr::{null_mut, slice_from_raw_parts};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;
use support::shard;

const PATTERN: u8 = 0xDB;
const ROUNDS: u64 = 200;

/// More than is freed by this program.
const GRAVES: usize = 1 << 19;

static SIZES: [AtomicUsize; GRAVES] = [const { AtomicUsize::new(0) }; GRAVES];
static PLACES: [AtomicPtr<u8>; GRAVES] = [const { AtomicPtr::new(null_mut()) }; GRAVES];
static FREED: AtomicUsize = AtomicUsize::new(0);

struct Graveyard;

// SAFETY: memory comes from the system's allocator as it was asked for, and none is handed out twice.
unsafe impl GlobalAlloc for Graveyard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the memory is the caller's until here, and nobody's afterwards.
        unsafe { place.write_bytes(PATTERN, layout.size()) };
        let grave = FREED.fetch_add(1, Ordering::Relaxed);
        if let (Some(kept), Some(size)) = (PLACES.get(grave), SIZES.get(grave)) {
            size.store(layout.size(), Ordering::Relaxed);
            kept.store(place, Ordering::Release);
        }
    }
}

#[global_allocator]
static ALLOCATOR: Graveyard = Graveyard;

/// Sizes of what was written to after it had been freed.
fn disturbed() -> Vec<usize> {
    let dug = PLACES.iter().zip(&SIZES).filter_map(|(place, size)| {
        let (place, size) = (place.load(Ordering::Acquire), size.load(Ordering::Relaxed));
        // SAFETY: what is freed is never given back, and is as large as it was.
        let bytes = (!place.is_null()).then(|| unsafe { &*slice_from_raw_parts(place.cast_const(), size) })?;
        bytes.iter().any(|byte| *byte != PATTERN).then_some(size)
    });
    dug.collect()
}

/// A file that is larger than all buffers.
fn file(directory: &Path) -> PathBuf {
    let path = directory.join("file");
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(&vec![7; 1 << 20]).expect("there is room");
    file.sync_all().expect("synced");
    path
}

#[test]
fn what_the_kernel_still_does_for_a_shard_that_ends_harms_nobody() {
    let directory = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = file(directory.path());
    for round in 0..ROUNDS {
        let path = path.clone();
        let running = shard(0, move |_shard| async move {
            let late = Duration::from_micros(round * 5);
            // Comes back to a shard that is on its way out, or has left.
            glommio::spawn_local(glommio::executor().spawn_blocking(move || std::thread::sleep(late))).detach();
            let file = DmaFile::open(&path).await.expect("the file");
            let reads = (0..8).map(|part| file.read_at_aligned(part << 17, 1 << 17));
            let mut reads: Vec<_> = reads.map(Box::pin).collect();
            for read in &mut reads {
                assert!(futures_lite::future::poll_once(read).await.is_none(), "it takes the disk a while");
            }
            // The kernel takes the reads up.
            glommio::executor().yield_task_queue_now().await;
            glommio::timer::sleep(Duration::from_micros(1)).await;
            drop(reads);
            forget(file);
        });
        running.thread.join().expect("ends");
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(disturbed(), [0_usize; 0], "sizes of what was freed and then written to");
    assert!(FREED.load(Ordering::Relaxed) < GRAVES, "the rest was not looked at");
}
