//! The mesh between shards, in small: questions about leases to the owners of destinations, and their answers, which may be
//! late or lost. What a shard says to another arrives in the order in which it was said.

use crate::calendar::Task;
use crate::fault::Fault;
use crate::plan::SECOND;
use crate::world::World;
use ringpost_base::ShardId;
use ringpost_queue::{Lease, LeaseReport};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long an answer is waited for, and how long a shard then waits before it asks again.
const PATIENCE: u64 = SECOND;

/// What is added to a shard's number for its sessions, which hold slots of their own.
const OF_SESSIONS: u16 = 0x8000;

/// Who on a shard asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    Queue,
    Sessions,
}

impl Asker {
    fn number(self, shard: usize) -> ShardId {
        match self {
            Self::Queue => ShardId(shard as u16),
            Self::Sessions => ShardId(shard as u16 | OF_SESSIONS),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Ask { question: u64, asker: Asker, destination: usize, held: u32 },
    Give { asker: Asker, destination: usize, slots: u32, report: LeaseReport },
    Freed(usize),
    Answer { question: u64, asker: Asker, destination: usize, lease: Lease },
}

/// Words on their way.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    pipes: BTreeMap<(usize, usize), VecDeque<Word>>,
    /// When the last word of a pipe arrives.
    last: BTreeMap<(usize, usize), u64>,
    /// Questions that are waited for.
    open: BTreeMap<u64, (Asker, usize)>,
    /// The newest question of each asker about each destination.
    newest: BTreeMap<(usize, Asker, usize), u64>,
    questions: u64,
}

impl World {
    fn owner(&self, destination: usize) -> usize {
        destination % self.shards
    }

    pub(crate) fn destination(&self, name: &str) -> Option<usize> {
        self.plan.destinations.iter().position(|(known, _)| **known == *name)
    }

    /// Asks the owner for a slot; the answer comes later, as whatever it is.
    pub(crate) fn ask(&mut self, shard: usize, asker: Asker, destination: usize, held: u32) {
        let owner = self.owner(destination);
        let Some(host) = &mut self.host else { return };
        host.mesh.questions += 1;
        let question = host.mesh.questions;
        host.mesh.open.insert(question, (asker, destination));
        host.mesh.newest.insert((shard, asker, destination), question);
        if owner == shard {
            return self.answer(shard, shard, question, asker, destination, held);
        }
        self.task(PATIENCE, shard, Task::Unanswered(question));
        self.say(shard, owner, Word::Ask { question, asker, destination, held }, 0);
    }

    /// Gives slots back.
    pub(crate) fn give(&mut self, shard: usize, asker: Asker, destination: usize, slots: u32, report: LeaseReport) {
        let owner = self.owner(destination);
        if owner == shard {
            return self.take_back(shard, shard, asker, destination, slots, report);
        }
        self.say(shard, owner, Word::Give { asker, destination, slots, report }, 0);
    }

    fn say(&mut self, from: usize, to: usize, word: Word, late: u64) {
        let delay = self.delay(SECOND / 100) + late;
        let now = self.now;
        let Some(host) = &mut self.host else { return };
        let last = host.mesh.last.entry((from, to)).or_default();
        let at = (now + delay).max(*last);
        *last = at;
        host.mesh.pipes.entry((from, to)).or_default().push_back(word);
        self.task(at - now, to, Task::Mesh(from));
    }

    /// The next word of another shard has arrived.
    pub(crate) fn hear(&mut self, shard: usize, from: usize) {
        let pipe = self.host.as_mut().and_then(|host| host.mesh.pipes.get_mut(&(from, shard)));
        let Some(word) = pipe.and_then(VecDeque::pop_front) else { return };
        match word {
            Word::Ask { question, asker, destination, held } => {
                self.answer(shard, from, question, asker, destination, held);
            }
            Word::Give { asker, destination, slots, report } => {
                self.take_back(shard, from, asker, destination, slots, report);
            }
            Word::Freed(destination) => self.freed(shard, destination),
            Word::Answer { question, asker, destination, lease } => {
                self.answered(shard, question, asker, destination, lease);
            }
        }
    }

    fn answer(&mut self, owner: usize, from: usize, question: u64, asker: Asker, destination: usize, held: u32) {
        let (now, name) = (self.clocks().tick, self.plan.destinations[destination].0.clone());
        let Some(own) = self.shard(owner) else { return };
        let lease = own.owned.lease(asker.number(from), &name, held, now);
        self.note(format_args!("{owner} answers {asker:?} of {from}, which holds {held} of {name}: {lease:?}"));
        self.check_owner(owner, destination);
        if owner == from {
            return self.answered(from, question, asker, destination, lease);
        }
        // What sessions hold is corrected only when one asks again, so their answers may be late but are never lost.
        if asker == Asker::Queue && self.strikes(Fault::LeaseLost) {
            return;
        }
        let late = if self.strikes(Fault::LeaseLate) { 2 * PATIENCE } else { 0 };
        self.say(owner, from, Word::Answer { question, asker, destination, lease }, late);
    }

    fn check_owner(&mut self, owner: usize, destination: usize) {
        let (now, concurrency) = (self.clocks().tick, self.plan.destinations[destination].1.concurrency);
        let name = self.plan.destinations[destination].0.clone();
        let Some(own) = self.shard(owner) else { return };
        let in_use = own.owned.view(now).into_iter().find(|view| view.name == name).map_or(0, |view| view.in_use);
        if in_use > concurrency {
            self.book.violate(format!("{in_use} slots of {name} are given out, and there are {concurrency}"));
        }
    }

    fn answered(&mut self, shard: usize, question: u64, asker: Asker, destination: usize, lease: Lease) {
        let Some(host) = &mut self.host else { return };
        if host.mesh.open.remove(&question).is_none() {
            // Whoever asked went on without it. If it has asked again since, the owner knows by that question that this
            // lease was not taken; given back as well, it would be missing twice.
            let newest = host.mesh.newest.get(&(shard, asker, destination)) == Some(&question);
            if let Lease::Granted { messages } = lease
                && newest
            {
                let report = LeaseReport { unused: messages, ..LeaseReport::default() };
                self.give(shard, asker, destination, 1, report);
            }
            return;
        }
        self.hand_lease(shard, asker, destination, lease);
    }

    pub(crate) fn unanswered(&mut self, shard: usize, question: u64) {
        let Some((asker, destination)) = self.host.as_mut().and_then(|host| host.mesh.open.remove(&question)) else {
            return;
        };
        let lease = Lease::Wait { span: Duration::from_nanos(PATIENCE), open: false };
        self.hand_lease(shard, asker, destination, lease);
    }

    fn hand_lease(&mut self, shard: usize, asker: Asker, destination: usize, lease: Lease) {
        match asker {
            Asker::Sessions => self.sessions_leased(shard, destination, lease),
            Asker::Queue => {
                let (now, name) = (self.clocks(), self.plan.destinations[destination].0.clone());
                if let Some(own) = self.shard(shard) {
                    own.queue.leased(&name, lease, now);
                    self.look_at_queue(shard);
                }
            }
        }
    }

    fn take_back(
        &mut self,
        owner: usize,
        from: usize,
        asker: Asker,
        destination: usize,
        slots: u32,
        report: LeaseReport,
    ) {
        let (now, name) = (self.clocks().tick, self.plan.destinations[destination].0.clone());
        self.note(format_args!("{owner} takes back {slots} of {name} from {asker:?} of {from}"));
        let Some(own) = self.shard(owner) else { return };
        let told = own.owned.release(asker.number(from), &name, slots, report, now);
        for shard in told.into_iter().filter(|shard| shard.0 & OF_SESSIONS == 0) {
            match shard.index() == owner {
                true => self.freed(owner, destination),
                false => self.say(owner, shard.index(), Word::Freed(destination), 0),
            }
        }
    }

    fn freed(&mut self, shard: usize, destination: usize) {
        let name = self.plan.destinations[destination].0.clone();
        if let Some(own) = self.shard(shard) {
            own.queue.freed(&name);
            self.look_at_queue(shard);
        }
    }
}
