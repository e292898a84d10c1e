//! The walk over a log that changes between any two of its reads, from numbered seeds.

use super::*;
use ringpost_base::{ByteCount, Entropy, MessageIds, ShardId, Span, SpoolId, Timestamp};
use ringpost_spool::{Completion, Content, MessageParts, Op, Options, Spool, Token, parse_message};
use std::collections::BTreeSet;

/// Segments of a few messages each, so that one is filled or let go at almost every step.
const OPTIONS: Options = Options {
    segment_size: ByteCount::kib(32),
    inline_max: ByteCount::kib(8),
    batch_max: ByteCount::kib(8),
    commit_delay: Span::millis(0),
};

/// Every length around the sizes of blocks and pieces, with zeros behind.
#[test]
fn a_segment_is_read_up_to_its_last_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("segment");
    for used in [1, BLOCK - 1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 77] {
        let mut bytes: Vec<u8> = (0..used).map(|at| at as u8 | 1).collect();
        bytes.resize(3 * PIECE, 0);
        fs::write(&path, &bytes).expect("written");
        let mut file = SegmentFile::open(&path).expect("opened");
        assert_eq!(file.block().expect("a block"), bytes[..BLOCK]);
        file.end = file.used(bytes.len() as u64).expect("read");
        assert_eq!(file.end, used.next_multiple_of(BLOCK) as u64);
        let mut read = Vec::new();
        file.read_to_end(&mut read).expect("read");
        assert!(read == bytes[..used.next_multiple_of(BLOCK)], "{used}");
    }
}

/// A log that is written step by step, its operations done on files at once.
struct Log {
    directory: std::path::PathBuf,
    spool: Spool,
    ids: MessageIds,
    random: u64,
    /// Acknowledged and not settled.
    live: BTreeSet<SpoolId>,
    /// Settled; and whether that is on the disk.
    settled: BTreeMap<SpoolId, bool>,
    waiting: BTreeMap<u64, SpoolId>,
    tokens: u64,
    /// Of these, messages that are in no hurry to be settled: segments with little else are compacted.
    slow: BTreeSet<SpoolId>,
    /// How many messages in a thousand are slow.
    slow_share: u64,
}

impl Log {
    fn new(directory: &Path, seed: u64) -> Self {
        let entropy = Entropy(seed.to_le_bytes().repeat(2).try_into().expect("sixteen bytes"));
        Self {
            directory: directory.to_owned(),
            spool: Spool::new(OPTIONS, entropy),
            ids: MessageIds::new(ShardId(0), entropy),
            random: seed,
            live: BTreeSet::new(),
            settled: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tokens: 0,
            slow: BTreeSet::new(),
            slow_share: [0, 10, 30, 100][seed as usize % 4],
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// Does one operation of the log, or hands it something to do.
    fn step(&mut self) {
        match self.spool.poll_op() {
            Some(op) => self.perform(op),
            None => self.change(),
        }
    }

    fn perform(&mut self, op: Op) {
        let path = |slot: Slot| self.directory.join(crate::segments::segment_name(slot));
        let completions = match op {
            Op::Create(slot) => {
                fs::write(path(slot), vec![0; OPTIONS.segment_size.as_len()]).expect("made");
                self.spool.created(slot, Ok(()))
            }
            Op::Write { slot, offset, bytes } => {
                let file = OpenOptions::new().write(true).open(path(slot)).expect("opened");
                file.write_all_at(&bytes, offset).expect("written");
                self.spool.written(Ok(()))
            }
            Op::Copy { id, location } => {
                let mut record = vec![0; location.len as usize];
                let file = File::open(path(location.slot)).expect("opened");
                file.read_exact_at(&mut record, location.offset).expect("read");
                self.spool.copied(id, Some(&record));
                Vec::new()
            }
            Op::Remove(slot) => {
                fs::remove_file(path(slot)).expect("removed");
                Vec::new()
            }
        };
        for Completion { token, result } in completions {
            let id = self.waiting.remove(&token.0).expect("somebody waits");
            result.expect("durable");
            self.live.insert(id);
        }
        if self.spool.is_idle() {
            self.settled.values_mut().for_each(|durable| *durable = true);
        }
    }

    fn change(&mut self) {
        let age = 3 + self.random(12) as usize;
        let old: Vec<SpoolId> = self.live.iter().rev().skip(age).copied().collect();
        for id in old {
            if !self.slow.contains(&id) || self.random(300) == 0 {
                self.live.remove(&id);
                self.settled.insert(id, false);
                self.spool.settle(id);
            }
        }
        let id = self.ids.next(Timestamp::from_unix_micros(1_000_000));
        if self.random(1000) < self.slow_share {
            self.slow.insert(id);
        }
        let len = [50, 900, 5000][self.random(3) as usize];
        self.tokens += 1;
        let bytes = bytes_of(id, len);
        let parts = MessageParts { id, envelope: b"envelope", bytes: &bytes, body_file: None };
        assert!(self.spool.append(Token(self.tokens), &parts));
        self.waiting.insert(self.tokens, id);
    }
}

fn bytes_of(id: SpoolId, len: usize) -> Vec<u8> {
    id.to_bytes().into_iter().cycle().take(len).collect()
}

/// What recovery makes of copied segments; they must be whole and complete.
fn recovered(objects: &Objects, segments: &[Saved], seed: u64) -> BTreeSet<SpoolId> {
    let mut bytes_of_slot = BTreeMap::new();
    let mut recovery: Recovery<()> = Recovery::new();
    for saved in segments {
        let slot = Slot(saved.segment.expect("a segment").slot);
        let mut bytes = fs::read(objects.path(&saved.sha256)).expect("an object");
        bytes.resize(saved.len as usize, 0);
        recovery.header(slot, &bytes[..BLOCK]).expect("a known format");
        assert!(bytes_of_slot.insert(slot, bytes).is_none(), "seed {seed}: two segments in one file");
    }
    for (slot, header) in recovery.order() {
        recovery.segment(slot, &header, &bytes_of_slot[&slot], &mut |_, _| ());
    }
    assert_eq!((recovery.damage(), recovery.missing()), (&[][..], Vec::new()), "seed {seed}: the copy is damaged");
    let (spool, live) = recovery.finish(OPTIONS, Entropy([0; 16]));
    for message in &live {
        let location = spool.locate(message.id).expect("it is there");
        let record = &bytes_of_slot[&location.slot][location.offset as usize..][..location.len as usize];
        let content = parse_message(record, location.key).expect("whole").content;
        assert_eq!(content, Content::Inline(&bytes_of(message.id, message.size as usize)));
    }
    live.into_iter().map(|message| message.id).collect()
}

/// Two backups, the second from the first on; between any two of their reads the log takes some steps.
fn check(seed: u64) -> u64 {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("shard-0000");
    fs::create_dir(&directory).expect("a directory");
    let mut objects = Objects::open(root.path()).expect("objects");
    let mut log = Log::new(&directory, seed);
    let mut known: Vec<Saved> = Vec::new();
    for _ in 0..2 {
        for _ in 0..log.random(600) {
            log.step();
        }
        let before = log.live.clone();
        let gone: Vec<SpoolId> = log.settled.iter().filter(|(_, durable)| **durable).map(|(id, _)| *id).collect();
        // Without an end to it, the log could be ahead of the walk for good.
        let (most, mut left) = ([2, 12, 60, 250][(seed / 4) as usize % 4], log.random(3000));
        let mut between = || {
            let steps = log.random(most).min(left);
            left -= steps;
            (0..steps).for_each(|_| log.step());
        };
        let former = known.iter().filter_map(|saved| Known::of(saved, "shard-0000")).collect();
        let Ok(Copied { segments, wrong }) = Walk::new(&directory, &mut objects, former, &mut between).run() else {
            panic!("seed {seed}: the walk has not come to an end");
        };
        assert_eq!(wrong, [], "seed {seed}");
        let found = recovered(&objects, &segments, seed);
        let missed: Vec<_> = before.intersection(&log.live).filter(|id| !found.contains(id)).collect();
        assert!(missed.is_empty(), "seed {seed}: live all the while, and not in the copy: {missed:?}");
        let back: Vec<_> = gone.iter().filter(|id| found.contains(id)).collect();
        assert!(back.is_empty(), "seed {seed}: settled before it began, and in the copy: {back:?}");
        let path = |saved: &Saved| format!("spool/shard-0000/{}", saved.segment_name());
        known = segments.into_iter().map(|saved| Saved { path: path(&saved), ..saved }).collect();
    }
    log.spool.stats().compacted
}

#[test]
fn a_walk_over_a_log_that_changes_misses_nothing_and_brings_nothing_back() {
    let compacted: u64 = (0..64).map(check).sum();
    assert!(compacted > 300, "only {compacted} messages were copied forward: the test has lost its point");
}

/// Its header is read, and then the rest of it can't be: the others are copied.
#[test]
fn a_segment_that_goes_bad_stops_the_walk() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("shard-0000");
    fs::create_dir(&directory).expect("a directory");
    let mut objects = Objects::open(root.path()).expect("objects");
    let mut log = Log::new(&directory, 4);
    (0..400).for_each(|_| log.step());
    let Ok(whole) = Walk::new(&directory, &mut objects, Vec::new(), &mut || ()).run() else { panic!("no end") };
    assert!(whole.segments.len() > 2 && whole.wrong.is_empty());
    let bad = directory.join(whole.segments[1].segment_name());
    let headers = 2 * fs::read_dir(&directory).expect("a directory").count();
    let mut reads = 0;
    let mut between = || {
        reads += 1;
        // The first segment is copied in three steps; then comes this one.
        if reads == headers + 4 {
            fs::rename(&bad, root.path().join("aside")).expect("moved");
            std::os::unix::fs::symlink("/proc/self/mem", &bad).expect("linked");
        } else if reads == headers + 5 {
            fs::rename(root.path().join("aside"), &bad).expect("moved");
        }
    };
    let Ok(copied) = Walk::new(&directory, &mut objects, Vec::new(), &mut between).run() else { panic!("no end") };
    assert_eq!(copied.segments.len(), whole.segments.len() - 1);
    let [(file, what)] = copied.wrong.as_slice() else { panic!("{:?}", copied.wrong) };
    assert!(*file == whole.segments[1].segment_name() && what.contains("can't be read"), "{file}: {what}");
}
