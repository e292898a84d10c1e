//! How long a start takes with many messages in the spool: writes them, and opens the spool again.
//!
//! ```text
//! cargo run --release --package ringpost-store --example recovery -- [MESSAGES [BYTES [DIRECTORY]]]
//! ```
//!
//! By default a million messages of 1 KiB, in a directory of its own below the one for temporary files.
#![allow(clippy::print_stdout, reason = "what it measures goes to standard output")]

use ringpost_base::{ByteCount, Entropy, MessageIds, ShardId, SpoolId, Timestamp};
use ringpost_metrics::Block;
use ringpost_runtime::local::promise;
use ringpost_runtime::run_alone;
use ringpost_spool::Options;
use ringpost_store::{Budget, Opened, Setup, SpaceLimits, Store, open};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Messages under way at once while the spool is filled.
const WRITERS: usize = 256;

fn setup(directory: &Path) -> Setup {
    Setup {
        directory: directory.to_owned(),
        orphans: Vec::new(),
        options: Options { commit_delay: ringpost_base::Span::millis(0), ..Options::default() },
        entropy: ringpost_runtime::entropy(),
        block: Arc::new(Block::new()),
        budget: Budget { message_bytes: ByteCount::gib(1).0, hot_bytes: 0 },
        space: SpaceLimits::default(),
    }
}

/// What a queue keeps of an envelope, in size.
fn digest(_: SpoolId, envelope: &[u8]) -> u64 {
    envelope.len() as u64
}

async fn fill(store: &Rc<Store>, count: usize, len: usize) {
    let ids = MessageIds::new(ShardId(0), Entropy([7; 16]));
    let shared = Rc::new(RefCell::new((ids, count)));
    let mut ends = Vec::new();
    for _ in 0..WRITERS {
        let (store, shared, (done, end)) = (store.clone(), shared.clone(), promise());
        ends.push(end);
        ringpost_runtime::spawn("write messages", async move {
            while let Some(id) = next_id(&shared) {
                let mut draft = store.draft(id);
                draft.buffer().resize(len, b'x');
                store.commit(draft, &[b'e'; 150]).await.expect("the message is durable");
            }
            let _ = done.keep(());
        });
    }
    for end in ends {
        end.wait().await;
    }
}

fn next_id(shared: &RefCell<(MessageIds, usize)>) -> Option<SpoolId> {
    let (ids, left) = &mut *shared.borrow_mut();
    *left = left.checked_sub(1)?;
    Some(ids.next(Timestamp::from_unix_micros(1_700_000_000_000_000 + *left as u64)))
}

/// The process's memory as the kernel counts it, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (count, len) = (number(1_000_000), number(1024));
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = arguments.next().map_or_else(|| temporary.path().to_owned(), Into::into);
    std::fs::create_dir_all(directory.join("body")).expect("a directory");
    let written = directory.clone();
    let filled = run_alone(move || async move {
        let since = Instant::now();
        let store = open(setup(&written), digest, |_| ()).await.expect("it opens").store;
        fill(&store, count, len).await;
        store.close().await;
        println!("{count} messages of {len} bytes written in {:.2} s", since.elapsed().as_secs_f64());
    });
    filled.expect("it ends");
    let read = run_alone(move || async move {
        let (since, before) = (Instant::now(), resident());
        let opened = open(setup(&directory), digest, |progress| {
            println!("{:5.2} s: {progress:?}", since.elapsed().as_secs_f64());
        });
        let Opened { store, recovered } = opened.await.expect("it opens");
        let took = since.elapsed().as_secs_f64();
        println!("{} messages found in {took:.2} s, {:.0} a second", recovered.len(), recovered.len() as f64 / took);
        drop(recovered);
        println!("{} bytes resident a message", resident().saturating_sub(before) / count.max(1) as u64);
        assert_eq!(store.entry(SpoolId::from_bytes([0; 16])), None);
        store.close().await;
    });
    read.expect("it ends");
}
