//! The store on a real runtime and real files, with faults where a test asks for them.

mod backup;
mod check;
mod damage;
mod faults;
mod kept;
mod reading;
mod take_over;

use crate::disk::{Disk, Gate, Operation};
use crate::recover::open_on;
use crate::space::SpaceLimits;
use crate::{Budget, Loaded, LoadedContent, Opened, Setup, Store};
use ringpost_base::{Accepted, ByteCount, Entropy, MessageIds, ShardId, Span, SpoolId, Timestamp};
use ringpost_metrics::{Block, Counter};
use ringpost_runtime::{now, run_alone};
use ringpost_spool::{Failure, Options};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// A log small enough that a few messages fill a segment.
const OPTIONS: Options = Options {
    segment_size: ByteCount::kib(64),
    inline_max: ByteCount::kib(8),
    batch_max: ByteCount::kib(16),
    commit_delay: Span::millis(0),
};

/// Runs a body on an executor of its own, as a shard does.
fn on_shard<T: Send + 'static>(body: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    run_alone(|| async move { body().await }).expect("the body does not panic")
}

/// What a test opens a store with.
struct Opening {
    directory: PathBuf,
    orphans: Vec<PathBuf>,
    block: Arc<Block>,
    hot_bytes: u64,
    options: Options,
    faults: Rc<Faults>,
}

impl Opening {
    fn at(directory: &Path) -> Self {
        std::fs::create_dir_all(directory.join("body")).expect("a directory");
        let (block, faults) = (Arc::new(Block::new()), Rc::default());
        Self { directory: directory.to_owned(), orphans: Vec::new(), block, hot_bytes: 0, options: OPTIONS, faults }
    }

    /// Opens the store; the digest of each message is its envelope.
    async fn open(&self) -> Opened<Vec<u8>> {
        let setup = Setup {
            directory: self.directory.clone(),
            orphans: self.orphans.clone(),
            options: self.options,
            entropy: Entropy(now().wall.unix_micros().to_le_bytes().repeat(2).try_into().expect("sixteen bytes")),
            block: self.block.clone(),
            budget: Budget { message_bytes: 1 << 30, hot_bytes: self.hot_bytes },
            space: SpaceLimits::default(),
        };
        let mut digest = |_: SpoolId, envelope: &[u8]| envelope.to_vec();
        open_on(Disk::behind(self.faults.gate()), setup, &mut digest, &|_| {}).await.expect("the store opens")
    }
}

/// Errors to come.
#[derive(Default)]
struct Faults {
    /// The operation, what it is to fail with, and how many of its kind pass before.
    next: RefCell<Option<(Operation, Errno, usize)>>,
    /// After so many operations the process is as good as dead: nothing that it does reaches the disk any more.
    death: Cell<Option<usize>>,
    struck: Cell<bool>,
    /// Bytes of a file that can't be read.
    unreadable: RefCell<Vec<(PathBuf, Range<u64>)>>,
}

impl Faults {
    fn fail(&self, operation: Operation, errno: Errno, after: usize) {
        self.next.replace(Some((operation, errno, after)));
    }

    /// Whether the fault has happened.
    fn are_over(&self) -> bool {
        self.next.borrow().is_none()
    }

    /// Whether the process is dead before this operation.
    fn strike(&self) -> bool {
        let left = self.death.get();
        self.death.set(left.map(|left| left.saturating_sub(1)));
        self.struck.set(left == Some(0));
        left == Some(0)
    }

    fn gate(self: &Rc<Self>) -> Gate {
        let faults = self.clone();
        Rc::new(move |operation, path, bytes| {
            if faults.strike() {
                return Err(Errno::SHUTDOWN.into());
            }
            let hit =
                |(file, bad): &(PathBuf, Range<u64>)| file == path && bad.start < bytes.end && bytes.start < bad.end;
            if operation == Operation::SegmentRead && faults.unreadable.borrow().iter().any(hit) {
                return Err(Errno::IO.into());
            }
            let mut next = faults.next.borrow_mut();
            match &mut *next {
                Some((kind, errno, 0)) if *kind == operation => {
                    let error = std::io::Error::from(*errno);
                    *next = None;
                    Err(error)
                }
                Some((kind, _, after)) if *kind == operation => {
                    *after -= 1;
                    Ok(())
                }
                _ => Ok(()),
            }
        })
    }
}

/// Message ids of one run.
fn ids(run: u8) -> MessageIds {
    MessageIds::new(ShardId(0), Entropy([run; 16]))
}

/// The bytes of a message: of that length, and like no other's.
fn bytes_of(id: SpoolId, len: usize) -> Vec<u8> {
    id.to_bytes().into_iter().cycle().zip(0_usize..).map(|(byte, at)| byte ^ (at / 16) as u8).take(len).collect()
}

/// Hands a message in, as a session does: in pieces.
async fn submit(store: &Rc<Store>, id: SpoolId, len: usize) -> Result<(), Failure> {
    let mut draft = store.draft(id);
    for piece in bytes_of(id, len).chunks(3000) {
        draft.buffer().extend_from_slice(piece);
        draft.account();
        if draft.is_heavy() {
            draft.lighten().await.map_err(|error| {
                store.block.add(Counter::SpoolErrors, 1);
                error.failure()
            })?;
        }
    }
    let receipt = store.commit(draft, &envelope_of(id, len)).await?;
    assert_eq!(receipt.id(), id);
    Ok(())
}

fn envelope_of(id: SpoolId, len: usize) -> Vec<u8> {
    format!("envelope of {id}, {len} bytes").into_bytes()
}

/// Whether a message comes back as it was handed in.
async fn check_loads(store: &Store, id: SpoolId, len: usize) {
    let Loaded { envelope, content } = store.load(id).await.expect("it loads");
    assert_eq!(&*envelope, envelope_of(id, len));
    let bytes = match content {
        LoadedContent::Memory(bytes) => bytes.to_vec(),
        LoadedContent::File(path, stored) => {
            let bytes = std::fs::read(path).expect("the body file");
            assert_eq!((bytes.len() as u64, ringpost_spool::checksum(0, &bytes)), (stored.len, stored.crc));
            bytes
        }
    };
    assert!(bytes == bytes_of(id, len), "message {id} has changed");
}

/// A moment for making ids: any will do.
fn moment() -> Timestamp {
    now().wall
}
