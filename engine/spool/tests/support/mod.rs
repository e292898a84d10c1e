//! A disk in memory for the tests of the log, and how a log is read back from one.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use ringpost_base::{ByteCount, Entropy, SpoolId};
use ringpost_spool::*;
use std::collections::BTreeMap;

/// A generator good enough to choose test cases (xorshift64, Marsaglia 2003).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    pub fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// Options of a log with segments of so many KiB.
pub fn options(segment_kib: u64) -> Options {
    Options {
        segment_size: ByteCount::kib(segment_kib),
        inline_max: ByteCount::kib(segment_kib / 8),
        batch_max: ByteCount::kib(segment_kib / 4),
        ..Options::default()
    }
}

pub fn id(number: u64) -> SpoolId {
    SpoolId::from_bytes(u128::from(number).to_be_bytes())
}

pub fn number(id: SpoolId) -> u64 {
    u128::from_be_bytes(id.to_bytes()) as u64
}

/// Segment files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk(pub BTreeMap<Slot, Vec<u8>>);

impl Disk {
    pub fn create(&mut self, slot: Slot, size: u64) {
        self.0.insert(slot, vec![0; size as usize]);
    }

    pub fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) {
        let file = self.0.get_mut(&slot).expect("segment exists");
        file[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub fn read(&self, location: Location) -> &[u8] {
        let at = location.offset as usize;
        &self.0[&location.slot][at..at + location.len as usize]
    }
}

/// What was read back: the digest of a message is its envelope.
pub struct ReadBack {
    pub spool: Spool,
    pub live: Vec<Recovered<Vec<u8>>>,
    pub damage: Vec<Damage>,
    pub missing: Vec<u64>,
    pub lost: Vec<Lost>,
}

/// Reads a log back as the store does: files cut short are removed, unused ones too.
pub fn read_back(disk: &mut Disk, options: Options, entropy: u8) -> Result<ReadBack, UnknownVersion> {
    disk.0.retain(|_, file| file.len() >= BLOCK);
    let mut recovery = Recovery::new();
    for (slot, file) in &disk.0 {
        recovery.header(*slot, &file[..BLOCK])?;
    }
    let order = recovery.order();
    let missing = recovery.missing();
    for slot in recovery.take_unused() {
        disk.0.remove(&slot);
    }
    for (slot, header) in order {
        recovery.segment(slot, &header, &disk.0[&slot], &mut |_, envelope| envelope.to_vec());
    }
    let damage = recovery.damage().to_vec();
    let lost = recovery.lost().collect();
    let found = recovery.found();
    let (spool, live) = recovery.finish(options, Entropy([entropy; 16]));
    assert_eq!((found, spool.stats().live), (live.len(), live.len()));
    assert!(live.is_sorted_by_key(|message| message.id));
    Ok(ReadBack { spool, live, damage, missing, lost })
}

/// What a fault does to an operation.
pub enum Fate {
    Done,
    Fails(Failure),
    /// Nothing more happens: the operation stays out.
    Stop,
}

/// Does operations until there are none.
pub fn run(spool: &mut Spool, disk: &mut Disk, options: Options, fate: &mut dyn FnMut(&Op) -> Fate) -> Vec<Completion> {
    let mut completions = Vec::new();
    while let Some(op) = spool.poll_op() {
        let result = match fate(&op) {
            Fate::Done => Ok(()),
            Fate::Fails(failure) => Err(failure),
            Fate::Stop => return completions,
        };
        match op {
            Op::Create(slot) => {
                if result.is_ok() {
                    disk.create(slot, options.segment_size.0);
                }
                completions.extend(spool.created(slot, result));
            }
            Op::Write { slot, offset, bytes } => {
                if result.is_ok() {
                    disk.write(slot, offset, &bytes);
                }
                completions.extend(spool.written(result));
            }
            Op::Copy { id, location } => {
                let bytes = result.is_ok().then(|| disk.read(location).to_vec());
                assert_eq!(spool.copied(id, bytes.as_deref()), bytes.is_some(), "copy of {id}");
            }
            Op::Remove(slot) => {
                disk.0.remove(&slot).expect("only what is there is removed");
            }
        }
    }
    completions
}

/// Does all operations that there are, and every one succeeds.
pub fn run_all(spool: &mut Spool, disk: &mut Disk, options: Options) -> Vec<Completion> {
    run(spool, disk, options, &mut |_| Fate::Done)
}
