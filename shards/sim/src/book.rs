//! Who owes what to whom: what was promised, what came of it, and what must never be.
//!
//! The book is written by the simulated world and not by the machines, and checked at every entry:
//!
//! - a message that the host has answered with 250 reaches every recipient at every one of its destinations, or a report
//!   of its failure is durable in its place, or it lies as a dead letter, or an operator holds or has dropped it. Only one
//!   that is in memory by its class may be gone, and only if the process died;
//! - what arrives is, octet for octet, the trace header of the host and what the client sent, and only who it is for gets
//!   it;
//! - the same message reaches a destination a second time only if a fault lay between: the process died, or the
//!   connection over which it went was lost, or the next hop was, after it might have taken it; and never once its
//!   delivery was noted in the log for certain;
//! - what was refused arrives nowhere, unless the refusal was not certain: a write had failed that had the message in it
//!   (then it may come back after the process has died), or the next hop had it already while the client waited;
//! - what has a receipt and is not settled comes back when the log is read, with a state at least as new as the last that was
//!   on the disk for certain; what was settled for certain doesn't.

use crate::letter::Letter;
use crate::trace::hash_of;
use ringpost_base::{Durability, SpoolId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where a message stands in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InLog {
    /// Not at all, or nobody was told that it is.
    No,
    /// Its record was written and nobody was told: it may be there or not.
    Perhaps,
    /// There is a receipt.
    Owed,
    /// It was settled, and the settlement may be lost.
    Settling,
    /// It is settled, and the settlement is on the disk.
    Gone,
}

/// What the host has told the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    None,
    Accepted,
    Refused,
}

/// What is owed to one recipient at one destination.
#[derive(Debug)]
pub(crate) struct Duty {
    pub(crate) recipient: u32,
    address: String,
    destination: Rc<str>,
    times: u32,
    /// Deaths of the process, and faults of this message, when it arrived last.
    at_death: u64,
    at_excuse: u64,
    /// A report of its failure is durable, or none was wanted.
    told: bool,
    buried: bool,
    /// The queue was told that it is delivered; and that is on the disk for certain.
    done: bool,
    done_for_certain: bool,
}

/// What is known of one message of the host.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) shard: usize,
    pub(crate) letter: Option<usize>,
    hash: u64,
    duties: Vec<Duty>,
    pub(crate) answer: Answer,
    pub(crate) log: InLog,
    /// The log was told at some time that it is settled.
    pub(crate) was_settled: bool,
    /// A fault has hit it on its way out: so many times.
    excuses: u64,
    /// It may be delivered although it was refused.
    pub(crate) uncertain: bool,
    /// Its only copy is in the process.
    pub(crate) in_memory: bool,
    /// It was, and the process has died.
    lost: bool,
    pub(crate) dropped: bool,
    /// The next hop is asked while the client waits.
    pub(crate) handing_over: bool,
    at_death: u64,
    states: Vec<Vec<u8>>,
    certain: usize,
}

/// A message as it is entered.
pub(crate) struct Entry<'a> {
    pub(crate) id: SpoolId,
    pub(crate) shard: usize,
    pub(crate) letter: Option<usize>,
    /// What stands in front of what the client sent.
    pub(crate) trace: &'a [u8],
    /// What the client sent.
    pub(crate) body: &'a [u8],
    /// Number, address and destination.
    pub(crate) duties: Vec<(u32, String, Rc<str>)>,
}

/// Numbers about a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages answered with 250.
    pub accepted: u64,
    /// Messages refused at their end.
    pub refused: u64,
    /// Arrivals of a message for a recipient.
    pub delivered: u64,
    /// Those of them that came again after a fault.
    pub repeated: u64,
    /// Recipients whose failure was reported.
    pub bounced: u64,
    /// Recipients of dead letters.
    pub buried: u64,
    /// Messages found when a log was read back.
    pub recovered: u64,
    /// Times that the host was started.
    pub starts: u64,
    /// Messages that their class allowed to lose.
    pub lost_in_memory: u64,
    /// Messages copied forward in a log.
    pub compacted: u64,
}

impl Totals {
    /// Each with its name.
    pub fn rows(&self) -> [(&'static str, u64); 10] {
        [
            ("messages accepted", self.accepted),
            ("messages refused at their end", self.refused),
            ("arrivals of a message for a recipient", self.delivered),
            ("of these again, after a fault", self.repeated),
            ("recipients whose failure was told", self.bounced),
            ("recipients of dead letters", self.buried),
            ("starts of the host", self.starts),
            ("messages found in a log", self.recovered),
            ("messages copied forward in a log", self.compacted),
            ("messages lost from memory, as their class allows", self.lost_in_memory),
        ]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.repeated += other.repeated;
        self.bounced += other.bounced;
        self.buried += other.buried;
        self.starts += other.starts;
        self.recovered += other.recovered;
        self.compacted += other.compacted;
        self.lost_in_memory += other.lost_in_memory;
    }
}

/// The book.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) letters: Vec<Letter>,
    facts: BTreeMap<SpoolId, Facts>,
    /// How often the process has died.
    deaths: u64,
    /// Messages with something that is not on the disk for certain, by shard.
    uncertain: BTreeMap<usize, BTreeSet<SpoolId>>,
    pub(crate) totals: Totals,
    violation: Option<String>,
}

impl Book {
    /// The first thing found that must never be.
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(crate) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A message is whole at the host, and its fate is open.
    pub(crate) fn enter(&mut self, entry: Entry<'_>) {
        let Entry { id, shard, letter, trace, body, duties } = entry;
        let duty = |(recipient, address, destination)| Duty {
            recipient,
            address,
            destination,
            times: 0,
            at_death: 0,
            at_excuse: 0,
            told: false,
            buried: false,
            done: false,
            done_for_certain: false,
        };
        let facts = Facts {
            shard,
            letter,
            hash: hash_of_both(trace, body),
            duties: duties.into_iter().map(duty).collect(),
            answer: Answer::None,
            log: InLog::No,
            was_settled: false,
            excuses: 0,
            uncertain: false,
            in_memory: false,
            lost: false,
            dropped: false,
            handing_over: false,
            at_death: self.deaths,
            states: vec![Vec::new()],
            certain: 0,
        };
        if self.facts.insert(id, facts).is_some() {
            self.violate(format!("two messages have the id {id}"));
        }
    }

    pub(crate) fn facts(&mut self, id: SpoolId) -> Option<&mut Facts> {
        self.facts.get_mut(&id)
    }

    /// The host has answered.
    pub(crate) fn answered(&mut self, id: SpoolId, answer: Answer, class: Durability) {
        let Some(facts) = self.facts.get_mut(&id) else { return };
        facts.answer = answer;
        facts.handing_over = false;
        match answer {
            Answer::Accepted => self.totals.accepted += 1,
            Answer::Refused => self.totals.refused += 1,
            Answer::None => {}
        }
        let (arrived, log) = (facts.duties.iter().all(|duty| duty.times > 0), facts.log);
        let kept = match class {
            Durability::Memory => facts.in_memory,
            Durability::NextHop => arrived,
            Durability::Fsync => matches!(log, InLog::Owed | InLog::Settling | InLog::Gone),
        };
        if answer == Answer::Accepted && !kept {
            self.violate(format!("{id} was accepted as of class {class} and is not where that class has it"));
        }
    }

    /// The log has given a receipt.
    pub(crate) fn durable(&mut self, id: SpoolId) {
        if let Some(facts) = self.facts.get_mut(&id) {
            (facts.log, facts.in_memory) = (InLog::Owed, false);
        }
    }

    /// A write of its record has failed: whether it is there nobody knows.
    pub(crate) fn write_failed(&mut self, id: SpoolId) {
        if let Some(facts) = self.facts.get_mut(&id) {
            (facts.log, facts.uncertain) = (InLog::Perhaps, true);
        }
    }

    /// It is settled in the log.
    pub(crate) fn settled(&mut self, id: SpoolId) {
        let Some(facts) = self.facts.get_mut(&id) else { return };
        (facts.in_memory, facts.was_settled) = (false, true);
        if matches!(facts.log, InLog::Owed | InLog::Perhaps) {
            facts.log = InLog::Settling;
            self.uncertain.entry(facts.shard).or_default().insert(id);
        }
    }

    /// A state is noted of it.
    pub(crate) fn noted(&mut self, id: SpoolId, state: &[u8]) {
        let Some(facts) = self.facts.get_mut(&id) else { return };
        if facts.states.last().is_none_or(|last| last != state) {
            facts.states.push(state.to_vec());
            self.uncertain.entry(facts.shard).or_default().insert(id);
        }
    }

    /// Everything that the shard's log was told is on the disk.
    pub(crate) fn all_certain(&mut self, shard: usize) {
        for id in self.uncertain.remove(&shard).unwrap_or_default() {
            let Some(facts) = self.facts.get_mut(&id) else { continue };
            match facts.log {
                InLog::Settling => facts.log = InLog::Gone,
                InLog::Owed => {
                    facts.certain = facts.states.len() - 1;
                    facts.duties.iter_mut().for_each(|duty| duty.done_for_certain |= duty.done);
                }
                _ => {}
            }
        }
    }

    /// The process has died, and memory with it.
    pub(crate) fn died(&mut self) {
        self.deaths += 1;
        self.uncertain.clear();
        for facts in self.facts.values_mut() {
            facts.duties.iter_mut().for_each(|duty| duty.done = duty.done_for_certain);
            if std::mem::take(&mut facts.in_memory) {
                facts.lost = true;
                self.totals.lost_in_memory += 1;
            }
        }
    }

    /// What was found when the shard's log was read back: ids and states.
    pub(crate) fn recovered(&mut self, shard: usize, found: &BTreeMap<SpoolId, Vec<u8>>) {
        self.totals.recovered += found.len() as u64;
        let mut wrong = None;
        for (id, facts) in self.facts.iter_mut().filter(|(_, facts)| facts.shard == shard) {
            let state = found.get(id);
            match (facts.log, state) {
                (InLog::Owed, None) => {
                    wrong = wrong.or(Some(format!("{id} had a receipt and is not in the log any more")))
                }
                (InLog::Gone, Some(_)) => wrong = wrong.or(Some(format!("{id} was settled for certain and is back"))),
                (InLog::Settling, None) => facts.log = InLog::Gone,
                (InLog::Settling, Some(_)) => facts.log = InLog::Owed,
                (InLog::No, Some(_)) => (facts.log, facts.uncertain) = (InLog::Perhaps, true),
                _ => {}
            }
            if let (InLog::Owed, Some(state)) = (facts.log, state) {
                match facts.states.iter().rposition(|noted| noted == state) {
                    Some(place) if place >= facts.certain => {
                        facts.states.truncate(place + 1);
                        facts.certain = place;
                    }
                    place => {
                        let certain = facts.certain;
                        wrong = wrong.or(Some(format!("{id} is back with state {place:?}, {certain} was on the disk")));
                    }
                }
            }
        }
        if let Some(stranger) = found.keys().find(|id| !self.facts.contains_key(id)) {
            wrong = wrong.or(Some(format!("{stranger} is in the log and was never sent")));
        }
        wrong.into_iter().for_each(|what| self.violate(what));
    }

    /// Another shard has taken a message over, for certain.
    pub(crate) fn adopted(&mut self, id: SpoolId, by: usize) {
        if let Some(facts) = self.facts.get_mut(&id) {
            facts.shard = by;
        }
    }

    /// A fault has hit a message on its way to a destination: it may have arrived.
    pub(crate) fn excuse(&mut self, id: SpoolId) {
        if let Some(facts) = self.facts.get_mut(&id) {
            facts.excuses += 1;
            facts.uncertain |= facts.handing_over;
        }
    }

    /// A message has arrived at a destination for a recipient.
    pub(crate) fn arrived(&mut self, destination: &str, id: SpoolId, address: &str, bytes: &[u8]) {
        let deaths = self.deaths;
        let Some(facts) = self.facts.get_mut(&id) else {
            return self.violate(format!("{id} arrived at {destination}, and nobody has sent it"));
        };
        let duty = facts.duties.iter_mut().find(|duty| duty.address == address && *duty.destination == *destination);
        let Some(duty) = duty else {
            return self.violate(format!("{id} arrived at {destination} for {address}, for whom it is not"));
        };
        let excused = deaths > duty.at_death || facts.excuses > duty.at_excuse;
        let (repeated, for_certain) = (duty.times > 0, duty.done_for_certain);
        (duty.times, duty.at_death, duty.at_excuse) = (duty.times + 1, deaths, facts.excuses);
        self.totals.delivered += 1;
        self.totals.repeated += u64::from(repeated);
        let refused = facts.answer == Answer::Refused && !facts.uncertain;
        let too_early = facts.answer == Answer::None && !facts.handing_over && deaths == facts.at_death;
        let changed = hash_of(0, bytes) != facts.hash;
        let wrong = match () {
            () if changed => "is not what was sent",
            () if repeated && !excused => "is there already, and no fault lay between",
            () if for_certain => "is there already, and that was noted for certain",
            () if refused => "was refused",
            () if too_early => "has not been answered yet",
            () if facts.dropped && deaths == facts.at_death => return,
            () => return,
        };
        self.violate(format!("what arrived of {id} at {destination} for {address} {wrong}"));
    }

    /// The queue was told that a recipient is served at a destination.
    pub(crate) fn done(&mut self, id: SpoolId, recipient: u32, destination: Option<&str>) {
        let Some(destination) = destination else { return };
        for duty in self.duties(id, recipient, Some(destination)) {
            duty.done = true;
        }
        if let Some(facts) = self.facts.get(&id).filter(|facts| !facts.in_memory) {
            self.uncertain.entry(facts.shard).or_default().insert(id);
        }
    }

    /// A report of a recipient's failure at a destination is durable, or nobody wants one. Without a destination: at
    /// whichever it has not arrived.
    pub(crate) fn told(&mut self, id: SpoolId, recipient: u32, destination: Option<&str>) {
        for duty in self.duties(id, recipient, destination) {
            duty.told = true;
        }
        self.totals.bounced += 1;
    }

    /// No report can be made of it.
    pub(crate) fn buried(&mut self, id: SpoolId, recipient: u32, destination: Option<&str>) {
        for duty in self.duties(id, recipient, destination) {
            duty.buried = true;
        }
        self.totals.buried += 1;
    }

    fn duties(&mut self, id: SpoolId, recipient: u32, destination: Option<&str>) -> impl Iterator<Item = &mut Duty> {
        let duties = self.facts.get_mut(&id).map(|facts| facts.duties.iter_mut()).into_iter().flatten();
        duties.filter(move |duty| {
            duty.recipient == recipient && destination.map_or(duty.times == 0, |name| *duty.destination == *name)
        })
    }

    /// Everything is at rest: who has not got what they were promised? `kept` says of a message whether it lies in a queue,
    /// as a dead letter.
    pub(crate) fn settle_accounts(&mut self, kept: &dyn Fn(SpoolId) -> bool) {
        let mut wrong = None;
        for (id, facts) in &self.facts {
            if facts.answer != Answer::Accepted || facts.lost || facts.dropped {
                continue;
            }
            let owed = |duty: &&Duty| duty.times == 0 && !duty.told && !(duty.buried && kept(*id));
            if let Some(duty) = facts.duties.iter().find(owed) {
                let Duty { address, destination, .. } = duty;
                wrong = wrong.or(Some(format!("{id} was accepted, and {address} has not got it at {destination}")));
            }
        }
        wrong.into_iter().for_each(|what| self.violate(what));
    }
}

fn hash_of_both(trace: &[u8], body: &[u8]) -> u64 {
    hash_of(0, &[trace, body].concat())
}
