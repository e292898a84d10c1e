//! The log over a disk that loses what was not synced, and fails: whatever the moment of the crash, every message with a
//! receipt and no settlement comes back whole, with what was noted of it, and a message settled durably does not.

mod support;

use ringpost_base::{Accepted, Entropy, MessageIds, ShardId, SpoolId, Timestamp};
use ringpost_spool::*;
use std::collections::{BTreeMap, BTreeSet};
use support::{Dice, Disk, options, read_back};

const SEGMENT_KIB: u64 = 64;

/// What one message is to look like.
#[derive(Default)]
struct Facts {
    body: Vec<u8>,
    /// Every state that was noted, beginning with none, and the last that is certainly on the disk.
    states: Vec<Vec<u8>>,
    certain: usize,
}

struct World {
    dice: Dice,
    disk: Disk,
    ids: MessageIds,
    facts: BTreeMap<SpoolId, Facts>,
    /// Receipt given, no settlement asked for.
    owed: BTreeSet<SpoolId>,
    /// Settlement asked for and certainly on disk.
    dead: BTreeSet<SpoolId>,
    /// Settlement asked for, not certainly on disk.
    dying: BTreeSet<SpoolId>,
    tokens: BTreeMap<u64, SpoolId>,
    next_token: u64,
    faults: bool,
}

impl World {
    fn new(seed: u64, faults: bool) -> Self {
        Self {
            dice: Dice::new(seed),
            disk: Disk::default(),
            ids: MessageIds::new(ShardId(0), Entropy([seed as u8; 16])),
            facts: BTreeMap::new(),
            owed: BTreeSet::new(),
            dead: BTreeSet::new(),
            dying: BTreeSet::new(),
            tokens: BTreeMap::new(),
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
        assert!(spool.append(Token(self.next_token), &parts));
        self.tokens.insert(self.next_token, id);
        self.facts.insert(id, Facts { body, states: vec![Vec::new()], certain: 0 });
    }

    fn any_owed(&mut self) -> Option<SpoolId> {
        let roll = self.dice.roll(self.owed.len().max(1) as u64) as usize;
        self.owed.iter().nth(roll).copied()
    }

    fn settle_one(&mut self, spool: &mut Spool) {
        if self.owed.len() > 3
            && let Some(id) = self.any_owed()
        {
            spool.settle(id);
            self.owed.remove(&id);
            self.dying.insert(id);
        }
    }

    fn note_one(&mut self, spool: &mut Spool) {
        let Some(id) = self.any_owed() else { return };
        let number = self.facts[&id].states.len() as u8;
        let state = vec![number; self.dice.roll(200) as usize];
        assert!(spool.note(id, &state));
        assert_eq!(spool.state(id).unwrap_or_default(), state);
        self.facts.get_mut(&id).expect("known").states.push(state);
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
            if crash && self.dice.one_in(20) {
                self.cut_off(op);
                return true;
            }
            let failure = if self.dice.one_in(2) { Failure::Io } else { Failure::Full };
            let fails = self.faults && self.dice.one_in(25);
            self.perform(spool, op, if fails { Err(failure) } else { Ok(()) });
        }
        if spool.is_idle() {
            self.dead.append(&mut self.dying);
            self.facts.values_mut().for_each(|facts| facts.certain = facts.states.len() - 1);
        }
        false
    }

    fn perform(&mut self, spool: &mut Spool, op: Op, result: Result<(), Failure>) {
        match op {
            Op::Create(slot) => {
                if result.is_ok() {
                    self.disk.create(slot, options(SEGMENT_KIB).segment_size.0);
                }
                let completions = spool.created(slot, result);
                self.complete(completions);
            }
            Op::Write { slot, offset, bytes } => {
                let all = result.is_ok();
                self.write_in_part(slot, offset, &bytes, all);
                let completions = spool.written(result);
                self.complete(completions);
            }
            Op::Copy { id, location } => {
                let bytes = result.is_ok().then(|| self.disk.read(location).to_vec());
                assert_eq!(spool.copied(id, bytes.as_deref()), bytes.is_some(), "a live record is whole");
            }
            Op::Remove(slot) => {
                self.disk.0.remove(&slot);
            }
        }
    }

    fn cut_off(&mut self, op: Op) {
        match op {
            Op::Create(slot) => self.disk.create(slot, self.dice.roll(65_536)),
            Op::Write { slot, offset, bytes } => self.write_in_part(slot, offset, &bytes, false),
            Op::Copy { .. } | Op::Remove(_) => {}
        }
    }

    fn write_in_part(&mut self, slot: Slot, offset: u64, bytes: &[u8], all: bool) {
        for (number, block) in bytes.chunks(BLOCK).enumerate() {
            if all || self.dice.one_in(2) {
                self.disk.write(slot, offset + (number * BLOCK) as u64, block);
            }
        }
    }

    fn recover(&mut self) -> Spool {
        let entropy = self.dice.roll(256) as u8;
        let mut back = read_back(&mut self.disk, options(SEGMENT_KIB), entropy).expect("known versions");
        assert_eq!((&back.damage[..], &back.missing[..], &back.lost[..]), (&[][..], &[][..], &[][..]));
        let found: BTreeMap<_, _> = back.live.iter().map(|message| (message.id, message)).collect();
        for id in &self.owed.clone() {
            let message = found.get(id).unwrap_or_else(|| panic!("{id} was acknowledged and is lost"));
            self.compare(&back.spool, message);
        }
        for id in &self.dead {
            assert!(!found.contains_key(id), "{id} was settled and is back");
        }
        // Not acknowledged, or settled a moment before the crash: delivered again, or for the first time. Both are right.
        self.tokens.clear();
        self.dying.clear();
        for message in &back.live {
            if !self.owed.contains(&message.id) {
                back.spool.settle(message.id);
                self.dying.insert(message.id);
            }
        }
        self.disk.0.values_mut().for_each(|file| file.resize(options(SEGMENT_KIB).segment_size.as_len(), 0));
        back.spool
    }

    fn compare(&mut self, spool: &Spool, message: &Recovered<Vec<u8>>) {
        let id = message.id;
        let facts = self.facts.get_mut(&id).expect("was appended");
        let entry = spool.entry(id).expect("alive");
        let record = parse_message(self.disk.read(entry.location), entry.location.key).expect("whole");
        assert_eq!(record.content, Content::Inline(&facts.body), "{id} is changed");
        assert_eq!((message.size, &message.digest[..]), (facts.body.len() as u64, record.envelope));
        let state = facts.states.iter().rposition(|state| **state == *message.state).expect("a state that was noted");
        assert!(state >= facts.certain, "{id} has state {state}, and {} was durable", facts.certain);
        // It is this one that counts now: what was noted later and did not reach the disk is gone.
        facts.states.truncate(state + 1);
        facts.certain = state;
    }

    /// Another shard takes everything over.
    fn adopted(&mut self, foreign: &Spool, seed: u8) -> Spool {
        let mut spool = Spool::new(options(SEGMENT_KIB), Entropy([seed; 16]));
        for id in foreign.ids() {
            let location = foreign.locate(id).expect("alive");
            self.next_token += 1;
            let state = foreign.state(id).unwrap_or_default();
            let bytes = self.disk.read(location).to_vec();
            assert!(spool.adopt(Token(self.next_token), &bytes, location.key, state));
            assert!(!spool.adopt(Token(0), &bytes, location.key, state), "it is here already");
            self.tokens.insert(self.next_token, id);
        }
        let former = std::mem::take(&mut self.disk);
        let faults = std::mem::replace(&mut self.faults, false);
        self.run(&mut spool, false);
        self.faults = faults;
        drop(former);
        spool
    }
}

fn scenario(seed: u64, faults: bool) {
    let mut world = World::new(seed, faults);
    let mut spool = Spool::new(options(SEGMENT_KIB), Entropy([seed as u8; 16]));
    for round in 0..12 {
        for _ in 0..40 {
            for _ in 0..=world.dice.roll(4) {
                world.append(&mut spool);
            }
            for _ in 0..=world.dice.roll(5) {
                world.settle_one(&mut spool);
            }
            for _ in 0..world.dice.roll(3) {
                world.note_one(&mut spool);
            }
            if world.run(&mut spool, true) {
                break;
            }
        }
        spool = world.recover();
        if round == 6 && seed.is_multiple_of(3) {
            spool = world.adopted(&spool, seed as u8);
        }
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
fn crashes_and_failing_operations_lose_nothing_that_was_acknowledged() {
    (1..=120).for_each(|seed| scenario(seed, true));
}

#[test]
fn one_old_message_does_not_hold_the_log() {
    let mut world = World::new(7, false);
    let mut spool = Spool::new(options(SEGMENT_KIB), Entropy([7; 16]));
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
