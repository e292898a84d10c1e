//! The log over a disk that loses what was not synced: whatever the moment of the crash, every message with a receipt and
//! no settlement comes back whole, and a message settled durably does not.

use ringpost_base::{Accepted, ByteCount, Entropy, MessageIds, ShardId, SpoolId, Timestamp};
use ringpost_spool::*;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A generator good enough to choose test cases (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn options() -> Options {
    Options {
        segment_size: ByteCount::kib(64),
        inline_max: ByteCount::kib(8),
        batch_max: ByteCount::kib(16),
        ..Options::default()
    }
}

/// Segment files; what a write left unsynced may be there after a crash block by block, or not at all.
#[derive(Default)]
struct Disk(BTreeMap<Slot, Vec<u8>>);

impl Disk {
    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8], mut block_survives: impl FnMut() -> bool) {
        let file = self.0.get_mut(&slot).expect("segment exists");
        for (number, block) in bytes.chunks(BLOCK).enumerate() {
            let at = offset as usize + number * BLOCK;
            if block_survives() {
                file[at..at + block.len()].copy_from_slice(block);
            }
        }
    }
}

struct World {
    dice: Dice,
    disk: Disk,
    ids: MessageIds,
    bodies: HashMap<SpoolId, Vec<u8>>,
    /// Receipt given, no settlement asked for.
    owed: HashSet<SpoolId>,
    /// Settlement asked for and certainly on disk.
    dead: HashSet<SpoolId>,
    /// Settlement asked for, not certainly on disk.
    dying: HashSet<SpoolId>,
    tokens: HashMap<u64, SpoolId>,
    next_token: u64,
    faults: bool,
}

impl World {
    fn new(seed: u64, faults: bool) -> Self {
        let ids = MessageIds::new(ShardId(0), Entropy([seed as u8; 16]));
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            disk: Disk::default(),
            ids,
            bodies: HashMap::new(),
            owed: HashSet::new(),
            dead: HashSet::new(),
            dying: HashSet::new(),
            tokens: HashMap::new(),
            next_token: 0,
            faults,
        }
    }

    fn append(&mut self, spool: &mut Spool) {
        let id = self.ids.next(Timestamp::from_unix_micros(1_000_000));
        let len = self.dice.roll(6000) as usize;
        let body: Vec<u8> = (0..len).map(|_| self.dice.roll(256) as u8).collect();
        let parts = MessageParts { id, envelope: b"envelope", bytes: &body, body_file: None };
        self.next_token += 1;
        spool.append(Token(self.next_token), &parts);
        self.tokens.insert(self.next_token, id);
        self.bodies.insert(id, body);
    }

    fn settle_one(&mut self, spool: &mut Spool) {
        let mut owed: Vec<_> = self.owed.iter().copied().collect();
        owed.sort_unstable();
        if owed.len() > 3 {
            let id = owed[self.dice.roll(owed.len() as u64) as usize];
            spool.settle(id);
            self.owed.remove(&id);
            self.dying.insert(id);
        }
    }

    fn complete(&mut self, completions: Vec<Completion>) {
        for completion in completions {
            let id = self.tokens.remove(&completion.token.0).expect("each token completes once");
            if let Ok(receipt) = completion.result {
                assert_eq!(receipt.id(), id);
                self.owed.insert(id);
            }
        }
    }

    /// Does operations until there are none, or the crash comes: then the rest of the operation is lost in part.
    fn run(&mut self, spool: &mut Spool, crash: bool) -> bool {
        while let Some(op) = spool.poll_op() {
            let crash_now = crash && self.dice.roll(20) == 0;
            let fails = self.faults && self.dice.roll(25) == 0;
            match op {
                Op::Create(slot) if crash_now => {
                    self.disk.0.insert(slot, vec![0; self.dice.roll(65_536) as usize]);
                    return true;
                }
                Op::Create(slot) => {
                    if !fails {
                        self.disk.0.insert(slot, vec![0; options().segment_size.as_len()]);
                    }
                    let completions = spool.created(slot, !fails);
                    self.complete(completions);
                }
                Op::Write { slot, offset, bytes } => {
                    let whole = !crash_now && !fails;
                    let dice = &mut self.dice;
                    self.disk.write(slot, offset, &bytes, || whole || dice.roll(2) == 0);
                    if crash_now {
                        return true;
                    }
                    let completions = spool.written(!fails);
                    self.complete(completions);
                }
                Op::Copy { id, location } => {
                    let at = location.offset as usize;
                    let bytes = &self.disk.0[&location.slot][at..at + location.len as usize];
                    assert!(spool.copied(id, Some(bytes)), "a live record is whole");
                }
                Op::Remove(slot) => {
                    self.disk.0.remove(&slot);
                }
            }
        }
        if spool.is_idle() {
            self.dead.extend(self.dying.drain());
        }
        false
    }

    fn recover(&mut self) -> Spool {
        self.disk.0.retain(|_, file| file.len() >= BLOCK);
        let mut recovery = Recovery::new();
        for (slot, file) in &self.disk.0 {
            recovery.header(*slot, &file[..BLOCK]);
        }
        for (slot, header) in recovery.order() {
            recovery.segment(slot, &header, &self.disk.0[&slot]);
        }
        let (mut spool, live) = recovery.finish(options(), Entropy([self.dice.roll(256) as u8; 16]));
        let found: HashSet<_> = live.iter().map(|message| message.id).collect();
        for id in &self.owed {
            assert!(found.contains(id), "{id} was acknowledged and is lost");
            let location = spool.locate(*id).expect("located");
            let at = location.offset as usize;
            let bytes = &self.disk.0[&location.slot][at..at + location.len as usize];
            let record = parse_message(bytes, location.key).expect("whole");
            assert_eq!(record.content, Content::Inline(&self.bodies[id]), "{id} is changed");
        }
        for id in &self.dead {
            assert!(!found.contains(id), "{id} was settled and is back");
        }
        // Not acknowledged, or settled a moment before the crash: delivered again, or for the first time. Both are right.
        self.tokens.clear();
        self.dying.clear();
        for message in &live {
            if !self.owed.contains(&message.id) {
                spool.settle(message.id);
                self.dying.insert(message.id);
            }
        }
        self.files_below_size();
        spool
    }

    /// A segment whose making was cut short is unused; its file is made whole again by the store.
    fn files_below_size(&mut self) {
        self.disk.0.values_mut().for_each(|file| file.resize(options().segment_size.as_len(), 0));
    }
}

fn scenario(seed: u64, faults: bool) {
    let mut world = World::new(seed, faults);
    let mut spool = Spool::new(options(), Entropy([seed as u8; 16]));
    for _ in 0..12 {
        for _ in 0..40 {
            for _ in 0..=world.dice.roll(4) {
                world.append(&mut spool);
            }
            for _ in 0..=world.dice.roll(5) {
                world.settle_one(&mut spool);
            }
            if world.run(&mut spool, true) {
                break;
            }
        }
        spool = world.recover();
    }
    world.faults = false;
    world.run(&mut spool, false);
    let stats = spool.stats();
    assert!(stats.segments < 60, "segments are reused: {stats:?}");
}

#[test]
fn crashes_lose_nothing_that_was_acknowledged() {
    (1..=60).for_each(|seed| scenario(seed, false));
}

#[test]
fn crashes_and_failing_writes_lose_nothing_that_was_acknowledged() {
    (1..=60).for_each(|seed| scenario(seed, true));
}

#[test]
fn one_old_message_does_not_hold_the_log() {
    let mut world = World::new(7, false);
    let mut spool = Spool::new(options(), Entropy([7; 16]));
    world.append(&mut spool);
    world.run(&mut spool, false);
    let old = *world.owed.iter().next().expect("acknowledged");
    for _ in 0..2000 {
        world.append(&mut spool);
        world.run(&mut spool, false);
        for id in world.owed.iter().copied().filter(|id| *id != old).collect::<Vec<_>>() {
            spool.settle(id);
            world.owed.remove(&id);
        }
    }
    let stats = spool.stats();
    assert!(stats.compacted > 0 && stats.segments < 20, "{stats:?}");
    assert!(spool.locate(old).is_some());
}
