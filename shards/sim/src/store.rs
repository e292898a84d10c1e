//! The store of a shard, in small: what `shards/store` does around the log. It does the log's operations on the simulated
//! disk, one write at a time, hands the receipts to who waits for them, keeps messages in memory, and gives them back.

use crate::book::InLog;
use crate::calendar::{Event, Task};
use crate::disk::{Name, SECTOR};
use crate::fault::Fault;
use crate::host::{Host, Shard};
use crate::plan::SECOND;
use crate::world::World;
use ringpost_base::{Accepted, SpoolId};
use ringpost_message::Envelope;
use ringpost_spool::{
    Completion, Content as Stored, Failure, Location, MessageParts, Op, Receipt, Slot, Token, parse_message,
};
use std::rc::Rc;

/// How long the log is left alone after an operation failed.
const FAILURE_PAUSE: u64 = SECOND / 2;

const WRITING: usize = 0;
const CREATING: usize = 1;

/// Segments that a log may have whatever lives in it: those that compaction leaves alone, and spare ones of every kind.
const SEGMENTS_EXTRA: u64 = 40;

/// An operation of the log under way.
#[derive(Debug)]
pub(crate) enum Running {
    Write { slot: Slot, offset: u64, bytes: Vec<u8> },
    Copy { id: SpoolId, location: Location },
}

/// Who waits for a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    /// A session whose client waits.
    Session(u32, SpoolId),
    /// A report.
    Report(u32, SpoolId),
    /// A message of the class memory, which is written down.
    Persist(SpoolId),
}

impl Waiter {
    fn id(self) -> SpoolId {
        let (Self::Session(_, id) | Self::Report(_, id) | Self::Persist(id)) = self;
        id
    }
}

/// A message as it is given back.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) envelope: Rc<Envelope>,
    pub(crate) bytes: Rc<Vec<u8>>,
}

impl World {
    /// Has the log do what it wants to.
    pub(crate) fn pump(&mut self, shard: usize) {
        loop {
            let now = self.now;
            let Some(own) = self.shard(shard) else { return };
            if own.operation.is_some() || now < own.pause_until {
                return;
            }
            let Some(op) = own.spool.poll_op() else { return self.look_at_log(shard) };
            self.begin_operation(shard, op);
        }
    }

    fn begin_operation(&mut self, shard: usize, op: Op) {
        let latency = self.disk_latency();
        match op {
            Op::Create(slot) => self.task(latency, shard, Task::Created(slot.0)),
            Op::Remove(slot) => {
                if !self.strikes(Fault::RemoveError) {
                    self.note(format_args!("{shard} removed segment {}", slot.0));
                    self.disks[shard].remove(Name::Segment(slot.0));
                }
            }
            Op::Write { slot, offset, bytes } => {
                self.run_on_disk(shard, latency, Running::Write { slot, offset, bytes })
            }
            Op::Copy { id, location } => self.run_on_disk(shard, latency, Running::Copy { id, location }),
        }
    }

    fn run_on_disk(&mut self, shard: usize, latency: u64, running: Running) {
        if let Some(own) = self.shard(shard) {
            own.operation = Some(running);
        }
        self.task(latency, shard, Task::Operation);
    }

    pub(crate) fn disk_latency(&mut self) -> u64 {
        let slow = self.strikes(Fault::SlowOperation);
        self.delay(if slow { 10 * SECOND } else { self.plan.latency })
    }

    pub(crate) fn operation_done(&mut self, shard: usize) {
        let Some(running) = self.shard(shard).and_then(|own| own.operation.take()) else { return };
        match running {
            Running::Write { slot, offset, bytes } => self.write_done(shard, slot, offset, &bytes),
            Running::Copy { id, location } => {
                let bytes = self.read_record(shard, &location);
                let whole = bytes.is_some();
                let Some(own) = self.shard(shard) else { return };
                let copied = own.spool.copied(id, bytes.as_deref());
                if whole && !copied {
                    self.book.violate(format!("the record of {id} is not whole when it is to be copied"));
                }
            }
        }
        self.pump(shard);
    }

    fn write_done(&mut self, shard: usize, slot: Slot, offset: u64, bytes: &[u8]) {
        let name = Name::Segment(slot.0);
        let result = if self.strikes(Fault::WriteError) {
            self.disks[shard].write_in_part(name, offset as usize, bytes, &mut self.dice);
            Err(if self.dice.one_in(4) { Failure::Full } else { Failure::Io })
        } else {
            let written = self.disks[shard].write(name, offset as usize, bytes);
            self.disks[shard].sync(name);
            written
        };
        self.note(format_args!("{shard} wrote {} octets at {offset} of segment {}: {result:?}", bytes.len(), slot.0));
        let Some(own) = self.shard(shard) else { return };
        let completions = own.spool.written(result);
        self.finish_operation(shard, WRITING, result.is_err(), completions);
    }

    pub(crate) fn created(&mut self, shard: usize, slot: Slot) {
        let (name, size) = (Name::Segment(slot.0), self.plan.spool.segment_size.as_len());
        let result = if self.strikes(Fault::CreateError) {
            Err(if self.dice.one_in(2) { Failure::Full } else { Failure::Io })
        } else {
            self.disks[shard].create(name, size)
        };
        match result {
            Ok(()) => {
                self.disks[shard].sync(name);
                self.disks[shard].sync_directory();
            }
            Err(_) => self.disks[shard].remove(name),
        }
        self.note(format_args!("{shard} made segment {}: {result:?}", slot.0));
        let Some(own) = self.shard(shard) else { return };
        let completions = own.spool.created(slot, result);
        self.finish_operation(shard, CREATING, result.is_err(), completions);
        self.pump(shard);
    }

    fn finish_operation(&mut self, shard: usize, kind: usize, failed: bool, completions: Vec<Completion>) {
        let now = self.now;
        let Some(own) = self.shard(shard) else { return };
        own.failing[kind] = failed;
        if own.spool.has_spare() {
            own.failing[CREATING] = false;
        }
        own.refusing = failed && (own.refusing || !completions.is_empty());
        if failed {
            own.pause_until = now + FAILURE_PAUSE;
            self.task(FAILURE_PAUSE, shard, Task::Pump);
            self.fall_with(kind);
        }
        for Completion { token, result } in completions {
            self.complete(shard, token, result, kind == WRITING);
        }
    }

    /// A disk that fails often takes the machine with it: right after a failure much is in doubt.
    fn fall_with(&mut self, kind: usize) {
        if self.faulty && kind == WRITING && self.dice.one_in(6) {
            let after = self.delay(2 * SECOND);
            self.after(after, Event::Collapse);
        }
    }

    fn complete(&mut self, shard: usize, token: Token, result: Result<Receipt, Failure>, written: bool) {
        let Some(waiter) = self.shard(shard).and_then(|own| own.waiting.remove(&token.0)) else {
            return self.book.violate(format!("a completion nobody waits for: {token:?}"));
        };
        let id = waiter.id();
        match &result {
            Ok(receipt) if receipt.id() != id => {
                return self.book.violate(format!("{id} got the receipt of {}", receipt.id()));
            }
            Ok(_) => self.book.durable(id),
            // A message whose batch was never written is certain not to be there.
            Err(_) if written => self.book.write_failed(id),
            Err(_) => {}
        }
        self.note(format_args!("{shard} {id} durable: {}", result.is_ok()));
        match waiter {
            Waiter::Session(session, _) => self.committed(shard, session, result),
            Waiter::Report(number, _) => self.report_committed(shard, number, result.is_ok()),
            Waiter::Persist(id) => self.persisted(shard, id, result.is_ok()),
        }
    }

    /// What must hold of a log that has nothing to do at the moment.
    fn look_at_log(&mut self, shard: usize) {
        let size = self.plan.spool.segment_size.0;
        let Some(own) = self.shard(shard) else { return };
        let stats = own.spool.stats();
        let idle = own.spool.is_idle();
        let bound = SEGMENTS_EXTRA + 8 * stats.live_bytes.div_ceil(size);
        if stats.segments as u64 > bound {
            self.book.violate(format!("the log of {shard} has grown beyond all need: {stats:?}"));
        }
        if idle {
            self.book.all_certain(shard);
        }
    }

    /// Stages a message; false if the log can't take one of its size.
    pub(crate) fn stage(&mut self, shard: usize, waiter: Waiter, parts: &MessageParts<'_>) -> bool {
        let Some(own) = self.shard(shard) else { return false };
        own.next_token += 1;
        let token = Token(own.next_token);
        let staged = own.spool.append(token, parts);
        if staged {
            own.waiting.insert(token.0, waiter);
            self.task(1, shard, Task::Pump);
        }
        staged
    }

    /// The message is delivered, or reported, or dropped.
    pub(crate) fn settle(&mut self, shard: usize, id: SpoolId) {
        self.note(format_args!("{shard} {id} settled"));
        let Some(own) = self.shard(shard) else { return };
        own.hot.remove(&id);
        let leaving = own.kept.remove(&id).map(|(_, leaving)| leaving);
        let entry = own.spool.entry(id);
        if leaving != Some(false) {
            own.spool.settle(id);
        }
        if leaving.is_none() && entry.is_some_and(|entry| entry.has_body_file) {
            self.disks[shard].remove(Name::Body(id));
        }
        self.book.settled(id);
        self.task(1, shard, Task::Pump);
    }

    /// Notes what the queue wants to know of a message after a restart.
    pub(crate) fn note_state(&mut self, shard: usize, id: SpoolId) {
        let Some(own) = self.shard(shard) else { return };
        let state = own.queue.state(id);
        if let Some((noted, leaving)) = own.kept.get_mut(&id) {
            noted.clone_from(&state);
            if !*leaving {
                return;
            }
        }
        if !own.spool.note(id, &state) {
            return self.book.violate(format!("the state of {id} is not taken: {} octets", state.len()));
        }
        self.book.noted(id, &state);
        self.task(1, shard, Task::Pump);
    }

    /// Gives a message back: from memory, or from the disk; nothing if the disk can't be read at the moment.
    pub(crate) fn load(&mut self, shard: usize, id: SpoolId) -> Option<Content> {
        let own = self.shard(shard)?;
        if let Some(content) = own.hot.get(&id) {
            return Some(content.clone());
        }
        let Some(entry) = own.spool.entry(id) else {
            self.book.violate(format!("{id} is to be delivered and is not in the log"));
            return None;
        };
        let record = self.read_record(shard, &entry.location)?;
        let content = match parse_message(&record, entry.location.key) {
            Ok(record) if record.id == id => self.content_of(shard, id, record.envelope, record.content),
            _ => None,
        };
        if content.is_none() {
            self.book.violate(format!("{id} can't be read from where the log has it"));
        }
        content
    }

    fn content_of(&self, shard: usize, id: SpoolId, envelope: &[u8], stored: Stored<'_>) -> Option<Content> {
        let bytes = match stored {
            Stored::Inline(bytes) => bytes.to_vec(),
            Stored::File(file) => {
                let bytes = self.disks[shard].whole(Name::Body(id))?;
                let right = bytes.len() as u64 == file.len && ringpost_spool::checksum(0, bytes) == file.crc;
                right.then(|| bytes.to_vec())?
            }
        };
        Some(Content { envelope: Rc::new(Envelope::decode(envelope).ok()?), bytes: Rc::new(bytes) })
    }

    fn read_record(&mut self, shard: usize, location: &Location) -> Option<Vec<u8>> {
        if self.strikes(Fault::ReadError) {
            return None;
        }
        let name = Name::Segment(location.slot.0);
        self.disks[shard].read(name, location.offset as usize, location.len as usize).map(<[u8]>::to_vec)
    }

    /// Writes a message of the class memory into the log.
    pub(crate) fn persist(&mut self, shard: usize, id: SpoolId) {
        let Some(own) = self.shard(shard) else { return };
        let (Some(content), Some((state, false))) = (own.hot.get(&id).cloned(), own.kept.get(&id).cloned()) else {
            return;
        };
        let mut envelope = Vec::new();
        content.envelope.encode(&mut envelope);
        let parts = MessageParts { id, envelope: &envelope, bytes: &content.bytes, body_file: None };
        if !self.stage(shard, Waiter::Persist(id), &parts) {
            return self.book.violate(format!("{id} is kept in memory and too large for the log"));
        }
        let Some(own) = self.shard(shard) else { return };
        own.spool.note(id, &state);
        own.kept.insert(id, (state.clone(), true));
        self.book.noted(id, &state);
    }

    pub(crate) fn persist_all(&mut self, shard: usize) {
        let ids: Vec<SpoolId> = self.shard(shard).map(|own| own.kept.keys().copied().collect()).unwrap_or_default();
        ids.into_iter().for_each(|id| self.persist(shard, id));
    }

    fn persisted(&mut self, shard: usize, id: SpoolId, durable: bool) {
        let Some(own) = self.shard(shard) else { return };
        match (own.kept.remove(&id), durable) {
            (Some((state, _)), false) => {
                own.kept.insert(id, (state, false));
                if let Some(facts) = self.book.facts(id) {
                    facts.in_memory = true;
                }
            }
            // Settled while it was on its way: the log was told then.
            (None, true) => self.book.settled(id),
            _ => {}
        }
    }

    /// The process dies in the middle of operations: what they had done of their work is done.
    pub(crate) fn cut_operations(&mut self, host: &Host) {
        for (number, shard) in host.shards.iter().enumerate() {
            if let Some(Running::Write { slot, offset, bytes }) = &shard.operation {
                self.disks[number].write_in_part(Name::Segment(slot.0), *offset as usize, bytes, &mut self.dice);
            }
            if self.dice.one_in(4) {
                self.half_made(number, shard);
            }
        }
    }

    /// A segment file that was being made.
    fn half_made(&mut self, number: usize, shard: &Shard) {
        let slots = self.disks[number].names().into_iter().filter_map(|name| match name {
            Name::Segment(slot) => Some(slot),
            Name::Body(_) => None,
        });
        let slot = slots.max().map_or(0, |slot| slot + 1);
        let len = self.dice.roll(self.plan.spool.segment_size.0) as usize / SECTOR * SECTOR;
        if shard.spool.stats().segments > 0 {
            let _ = self.disks[number].create(Name::Segment(slot), len);
        }
    }

    /// A message in a log whose body file is not there: it counts as settled, so it must have been.
    pub(crate) fn body_is_gone(&mut self, shard: usize, id: SpoolId) {
        let log = self.book.facts(id).map_or(InLog::No, |facts| facts.log);
        let settled = self.book.facts(id).is_some_and(|facts| facts.was_settled);
        if log == InLog::Owed && !settled {
            self.book.violate(format!("{id} had a receipt and its body file is gone"));
        }
        if let Some(own) = self.shard(shard) {
            own.spool.settle(id);
        }
        self.book.settled(id);
    }
}
