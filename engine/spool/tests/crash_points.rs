//! The log stopped at every operation of a scripted run, with every legal outcome of what was not synced then.
//!
//! A write reaches the disk block by block, in any order, and its header sector by sector, until its sync has succeeded;
//! one that failed may have done so as well, and stays uncertain until something is synced over it. A file that was
//! removed may be back, since nobody syncs that. From each outcome the log is read back and compared with what was
//! promised up to that point; from many of them it then goes on for a few operations and is stopped once more.

mod support;

use ringpost_base::{Accepted, Entropy};
use ringpost_spool::*;
use std::collections::{BTreeMap, BTreeSet};
use support::{Dice, Disk, id, number, options, read_back};

const KIB: u64 = 16;
const SECTOR: usize = 512;

/// Uncertain pieces of which every subset is tried; of more, those of [`choices`].
const SUBSETS_MAX: usize = 8;
const SAMPLES: usize = 64;

/// One in so many outcomes is gone on from.
const GOING_ON: u64 = 6;

/// Something that is on the disk after a crash, or not.
#[derive(Clone)]
enum Piece {
    Bytes { slot: Slot, offset: usize, bytes: Vec<u8> },
    Created { slot: Slot, len: usize },
    Removed { slot: Slot },
}

#[derive(Clone, Default)]
struct Facts {
    body: Vec<u8>,
    /// All that was noted, beginning with nothing, and the last that was synced.
    states: Vec<Vec<u8>>,
    certain: usize,
}

/// What was promised.
#[derive(Clone, Default)]
struct Promises {
    facts: BTreeMap<u64, Facts>,
    /// Receipt given, no settlement asked for.
    owed: BTreeSet<u64>,
    /// Their settlement is synced.
    dead: BTreeSet<u64>,
}

/// A log, its disk, and what was promised.
struct World {
    spool: Spool,
    /// What is certain.
    disk: Disk,
    uncertain: Vec<Piece>,
    promises: Promises,
    next: u64,
    operations: u64,
    counts: Counts,
}

/// What a run has come by, so that it can be seen that it did.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    outcomes: u64,
    reused: u64,
    removed: u64,
    failed: u64,
    unread: u64,
    pinned: u64,
}

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Fails(Failure),
    /// The crash comes while it is under way.
    Crash,
}

impl World {
    fn new(spool: Spool, disk: Disk, promises: Promises, next: u64) -> Self {
        Self { spool, disk, uncertain: Vec::new(), promises, next, operations: 0, counts: Counts::default() }
    }

    fn append(&mut self, len: usize) {
        let number = self.next;
        self.next += 1;
        let body: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + number * 7) as u8).collect();
        let parts = MessageParts { id: id(number), envelope: b"env", bytes: &body, body_file: None };
        assert!(self.spool.append(Token(number), &parts));
        self.promises.facts.insert(number, Facts { body, states: vec![Vec::new()], certain: 0 });
    }

    fn settle(&mut self, number: u64) {
        self.spool.settle(id(number));
        self.promises.owed.remove(&number);
    }

    fn note(&mut self, number: u64) {
        let facts = self.promises.facts.get_mut(&number).expect("appended");
        let state =
            format!("{number} for the {}th time", facts.states.len()).repeat(facts.states.len() % 4).into_bytes();
        assert!(self.spool.note(id(number), &state));
        facts.states.push(state);
    }

    fn any_owed(&self, dice: &mut Dice) -> Option<u64> {
        let roll = dice.roll(self.promises.owed.len().max(1) as u64) as usize;
        self.promises.owed.iter().nth(roll).copied()
    }

    /// Does operations until there are none, or the crash comes. `stop` is shown every point at which it could come.
    fn run(&mut self, fate: &mut dyn FnMut(u64, &Op) -> Fate, stop: &mut dyn FnMut(&mut Self)) -> bool {
        while let Some(op) = self.spool.poll_op() {
            self.operations += 1;
            let fate = fate(self.operations, &op);
            self.begin(&op);
            stop(self);
            if fate == Fate::Crash {
                return true;
            }
            self.end(op, if let Fate::Fails(failure) = fate { Err(failure) } else { Ok(()) });
            stop(self);
        }
        false
    }

    /// An operation is under way: what it writes is uncertain.
    fn begin(&mut self, op: &Op) {
        match op {
            Op::Create(slot) => {
                self.uncertain.push(Piece::Created { slot: *slot, len: options(KIB).segment_size.as_len() })
            }
            Op::Remove(slot) => self.uncertain.push(Piece::Removed { slot: *slot }),
            Op::Copy { .. } => {}
            Op::Write { slot, offset, bytes } => {
                let size = if *offset == 0 { SECTOR } else { BLOCK };
                for (place, bytes) in bytes.chunks(size).enumerate() {
                    let offset = *offset as usize + place * size;
                    if self.disk.0[slot][offset..offset + bytes.len()] != *bytes {
                        self.uncertain.push(Piece::Bytes { slot: *slot, offset, bytes: bytes.to_vec() });
                    }
                }
            }
        }
    }

    fn end(&mut self, op: Op, result: Result<(), Failure>) {
        self.counts.failed += u64::from(result.is_err());
        let completions = match op {
            Op::Create(slot) => {
                if result.is_ok() {
                    self.uncertain
                        .retain(|piece| !matches!(piece, Piece::Created { slot: other, .. } if *other == slot));
                    self.disk.create(slot, options(KIB).segment_size.0);
                }
                self.spool.created(slot, result)
            }
            Op::Write { slot, offset, bytes } => {
                if result.is_ok() {
                    self.synced(slot, offset as usize, &bytes);
                }
                self.spool.written(result)
            }
            Op::Copy { id, location } => {
                self.counts.unread += u64::from(result.is_err());
                let bytes = result.is_ok().then(|| self.disk.read(location).to_vec());
                assert_eq!(self.spool.copied(id, bytes.as_deref()), bytes.is_some());
                Vec::new()
            }
            Op::Remove(_) => {
                self.counts.removed += 1;
                Vec::new()
            }
        };
        self.counts.pinned = self.counts.pinned.max(self.spool.stats().pinned as u64);
        for completion in completions {
            if let Ok(receipt) = completion.result {
                self.promises.owed.insert(number(receipt.id()));
            }
        }
    }

    /// A write is synced: what it says is promised.
    fn synced(&mut self, slot: Slot, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.uncertain.retain(
            |piece| !matches!(piece, Piece::Bytes { slot: other, offset: at, .. } if *other == slot && (offset..end).contains(at)),
        );
        self.counts.reused += u64::from(offset == 0 && SegmentHeader::parse(&self.disk.0[&slot]).is_some());
        self.disk.write(slot, offset as u64, bytes);
        if offset == 0 {
            return;
        }
        let header = SegmentHeader::parse(&self.disk.0[&slot]).expect("a header comes first");
        let promises = &mut self.promises;
        inspect(&header, &[&[0; BLOCK], bytes].concat(), &mut |seen| match seen {
            Seen::Settled { id } => {
                promises.dead.insert(number(id));
            }
            Seen::State { id, state } => {
                if let Some(facts) = promises.facts.get_mut(&number(id)) {
                    facts.certain = facts.states.iter().rposition(|other| other == state).expect("was noted");
                }
            }
            Seen::Message { .. } | Seen::Elsewhere { .. } => {}
            other => panic!("the log wrote {other:?}"),
        });
    }

    /// The disk after a crash at this point, of the uncertain pieces only those chosen.
    fn outcome(&self, chosen: &[bool], torn: Option<&mut Dice>) -> Disk {
        let mut disk = self.disk.clone();
        let mut torn = torn;
        for (piece, chosen) in self.uncertain.iter().zip(chosen) {
            match piece {
                _ if !chosen => {}
                Piece::Created { slot, len } => disk.create(*slot, *len as u64),
                Piece::Removed { slot } => drop(disk.0.remove(slot)),
                Piece::Bytes { slot, offset, bytes } => {
                    for (place, sector) in bytes.chunks(SECTOR).enumerate() {
                        let lost = torn.as_deref_mut().is_some_and(|dice| dice.one_in(4));
                        if !lost && disk.0.contains_key(slot) {
                            disk.write(*slot, (offset + place * SECTOR) as u64, sector);
                        }
                    }
                }
            }
        }
        disk
    }

    /// Reads a disk back and compares it with what was promised; gives the log as it goes on from there.
    fn recovered(&self, mut disk: Disk) -> World {
        let back = read_back(&mut disk, options(KIB), 9).expect("known versions");
        assert_eq!((&back.damage[..], &back.missing[..], &back.lost[..]), (&[][..], &[][..], &[][..]));
        let found: BTreeMap<u64, _> = back.live.iter().map(|message| (number(message.id), message)).collect();
        for number in &self.promises.owed {
            assert!(found.contains_key(number), "{number} was acknowledged and is lost");
        }
        let mut promises = self.promises.clone();
        for (number, message) in found {
            assert!(!promises.dead.contains(&number), "{number} was settled and is back");
            let facts = promises.facts.get_mut(&number).expect("nothing is there that was never appended");
            let location = back.spool.locate(message.id).expect("alive");
            let record = parse_message(disk.read(location), location.key).expect("whole");
            assert_eq!(record.content, Content::Inline(&facts.body), "{number} is changed");
            assert_eq!((&message.digest[..], message.size), (record.envelope, facts.body.len() as u64));
            let state = facts.states.iter().rposition(|state| **state == *message.state).expect("was noted");
            assert!(state >= facts.certain, "{number} has state {state}, and {} was synced", facts.certain);
            facts.states.truncate(state + 1);
            facts.certain = state;
            // It was read back, so it is owed from now on, whether or not anybody was told.
            promises.owed.insert(number);
        }
        World::new(back.spool, disk, promises, self.next)
    }
}

/// Which of so many uncertain pieces reach the disk: every subset, or none, all, each alone, each missing, and a sample.
fn choices(pieces: usize, dice: &mut Dice) -> Vec<Vec<bool>> {
    if pieces <= SUBSETS_MAX {
        return (0..1u32 << pieces).map(|set| (0..pieces).map(|piece| set >> piece & 1 == 1).collect()).collect();
    }
    let mut choices = vec![vec![false; pieces], vec![true; pieces]];
    for piece in 0..pieces {
        for alone in [true, false] {
            let mut choice = vec![!alone; pieces];
            choice[piece] = alone;
            choices.push(choice);
        }
    }
    choices.extend((0..SAMPLES).map(|_| (0..pieces).map(|_| dice.one_in(2)).collect()));
    choices
}

/// From an outcome on: a few operations, another crash, and then to the end.
fn go_on(mut world: World, dice: &mut Dice) {
    for _ in 0..2 {
        world.append(dice.roll(5000) as usize);
    }
    if let Some(number) = world.any_owed(dice) {
        world.settle(number);
    }
    if let Some(number) = world.any_owed(dice) {
        world.note(number);
    }
    let crash = dice.roll(6);
    if world.run(&mut |operation, _| if operation == crash { Fate::Crash } else { Fate::Done }, &mut |_| {}) {
        let chosen: Vec<bool> = world.uncertain.iter().map(|_| dice.one_in(2)).collect();
        world = world.recovered(world.outcome(&chosen, None));
    }
    world.append(100);
    world.run(&mut |_, _| Fate::Done, &mut |_| {});
    assert!(world.spool.is_idle());
    world.recovered(world.disk.clone());
}

/// Every outcome of a crash at this point.
fn stop_here(world: &mut World, dice: &mut Dice) {
    let pieces = world.uncertain.len();
    for chosen in choices(pieces, dice) {
        world.counts.outcomes += 1;
        let after = world.recovered(world.outcome(&chosen, None));
        if dice.one_in(GOING_ON) {
            go_on(after, dice);
        }
    }
    // Of the blocks, only some sectors.
    for _ in 0..if pieces == 0 { 0 } else { 4 } {
        world.counts.outcomes += 1;
        world.recovered(world.outcome(&vec![true; pieces], Some(dice)));
    }
}

/// The faults of the scripted run, by the number of the operation.
fn scripted(operation: u64, op: &Op) -> Fate {
    match op {
        Op::Copy { id, .. } if number(*id) == 3 && operation < 150 => Fate::Fails(Failure::Io),
        Op::Write { offset: 0, .. } if matches!(operation, 20..=27) => Fate::Fails(Failure::Io),
        Op::Write { offset: 1.., .. } if operation.is_multiple_of(41) => Fate::Fails(Failure::Full),
        Op::Write { offset: 1.., .. } if operation.is_multiple_of(29) => Fate::Fails(Failure::Io),
        Op::Create(_) if operation.is_multiple_of(7) => Fate::Fails(Failure::Full),
        _ => Fate::Done,
    }
}

fn script(seed: u64, steps: u64) -> Counts {
    let mut dice = Dice::new(seed);
    let spool = Spool::new(options(KIB), Entropy([seed as u8; 16]));
    let mut world = World::new(spool, Disk::default(), Promises::default(), 1);
    for step in 0..steps {
        let large = step % 3 == 2;
        world.append(if large { 7000 } else { dice.roll(900) as usize });
        if step % 4 == 1 {
            world.append(dice.roll(300) as usize);
        }
        // The first few stay, so that they are copied; of what comes after, nearly all goes.
        let going: Vec<u64> = world.promises.owed.iter().copied().filter(|number| *number > 4).collect();
        if step < steps - 6 {
            going.iter().take(2).for_each(|number| world.settle(*number));
        }
        if step == steps - 6 {
            // What can't be copied goes too, and what was kept for it.
            world.settle(3);
        }
        for _ in 0..step % 3 {
            if let Some(number) = world.any_owed(&mut dice) {
                world.note(number);
            }
        }
        if step % 5 == 4 {
            world.note(2);
        }
        world.run(&mut scripted, &mut |world| stop_here(world, &mut dice));
    }
    world.counts
}

#[test]
fn nothing_is_lost_whatever_the_moment() {
    let mut total = Counts::default();
    for seed in 1..=2 {
        let counts = script(seed, 60);
        total = Counts {
            outcomes: total.outcomes + counts.outcomes,
            reused: total.reused + counts.reused,
            removed: total.removed + counts.removed,
            failed: total.failed + counts.failed,
            unread: total.unread + counts.unread,
            pinned: total.pinned + counts.pinned,
        };
    }
    // The script is of use only as long as it comes by all of this.
    let Counts { outcomes, reused, removed, failed, unread, pinned } = total;
    let all = outcomes > 5_000 && [reused, removed, failed, unread, pinned].iter().all(|count| *count > 1);
    assert!(all, "{total:?}");
}
