//! The end of a message, in small: the store or the next hop takes charge of it, and only their proof makes a 250.

use crate::book::{Answer, Entry};
use crate::calendar::Task;
use crate::disk::Name;
use crate::fault::Fault;
use crate::letter;
use crate::session::{Inbound, Message, Proof};
use crate::store::{Content, Waiter};
use crate::world::World;
use ringpost_base::{Accepted, Durability, SpoolId};
use ringpost_message::{Envelope, Headers, Ret};
use ringpost_queue::{HandedOver, NewItem};
use ringpost_smtp::{BodyKind, Reply, Step, replies};
use ringpost_spool::{Failure, MessageParts, Receipt};
use std::rc::Rc;

/// How handing over came out.
pub(crate) enum Handed {
    /// The next hops have it all.
    Whole(HandedOver),
    /// They have it for these; the others are ours.
    Part(Vec<u32>),
    /// This is said to the client.
    Refused(Reply),
}

impl World {
    /// The message is whole: who takes charge of it?
    pub(crate) fn take_end(
        &mut self,
        shard: usize,
        number: u32,
        inbound: &mut Inbound,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let Some(message) = &mut inbound.message else { return inbound.session.refuse(replies::BAD_SEQUENCE, out) };
        if message.file.is_some() {
            self.lighten(shard, message);
        }
        let size = message.file.map_or(message.draft.len() as u64, |file| file.len);
        let (now, address) = (self.clocks().tick, inbound.address);
        if let Some(ledger) = self.ledger(address) {
            ledger.bytes(address, size, now);
        }
        let Some(message) = &mut inbound.message else { return None };
        let headers = message.headers.take().unwrap_or_else(|| Headers::walk(&message.draft[message.trace..]));
        let refusal = self.plan.policy.message(&headers).refusal();
        let refusal = if message.broken { Some(replies::STORAGE_FULL) } else { refusal };
        if let Some(reply) = refusal {
            return self.refuse(shard, inbound, reply, out);
        }
        let helo = inbound.session.helo().map_or("", |(name, _)| name);
        let envelope = Rc::new(envelope_of(message, helo));
        message.envelope = Some(envelope.clone());
        self.enter_message(shard, message.id, &envelope, message.file.is_none().then_some(&message.draft[..]));
        let class = self.plan.routes.durability(envelope.recipients.iter().map(|recipient| &*recipient.address));
        inbound.waits = true;
        match class {
            Durability::Memory if message.file.is_none() && self.may_keep(shard, message) => {
                return self.keep(shard, inbound, out);
            }
            Durability::NextHop => {
                let bytes = match message.file {
                    None => Some(message.draft.clone()),
                    Some(_) => self.disks[shard].whole(Name::Body(message.id)).map(<[u8]>::to_vec),
                };
                let content = Content { envelope, bytes: Rc::new(bytes.unwrap_or_default()) };
                inbound.handover = Some(self.hand_over(shard, number, content));
            }
            _ => self.commit(shard, number, message),
        }
        None
    }

    /// Enters a message into the book: what is to arrive is the trace header and what the client has in its hands.
    fn enter_message(&mut self, shard: usize, id: SpoolId, envelope: &Envelope, draft: Option<&[u8]>) {
        let whole = draft.or_else(|| self.disks[shard].whole(Name::Body(id))).unwrap_or_default().to_vec();
        let Some(number) = letter::number_of(&whole).filter(|number| *number < self.book.letters.len()) else {
            return self.book.violate(format!("{id} is no letter that anybody sent"));
        };
        let body = self.book.letters[number].body.clone();
        let trace = &whole[..whole.len().saturating_sub(body.len())];
        let duties = self.duties(envelope);
        self.note(format_args!("{shard} {id} is letter {number}"));
        self.book.enter(Entry { id, shard, letter: Some(number), trace, body: &body, duties });
    }

    fn may_keep(&mut self, shard: usize, message: &Message) -> bool {
        let room = self.plan.capacity.message_memory.as_len() / 2;
        let Some(own) = self.shard(shard) else { return false };
        own.hot.values().map(|content| content.bytes.len()).sum::<usize>() + message.draft.len() < room
    }

    /// The class memory: 250 at once.
    fn keep(&mut self, shard: usize, inbound: &mut Inbound, out: &mut Vec<u8>) -> Option<Step> {
        inbound.waits = false;
        let message = inbound.message.take()?;
        let envelope = message.envelope.clone()?;
        let size = message.draft.len() as u64;
        let own = self.shard(shard)?;
        own.hot.insert(message.id, Content { envelope: envelope.clone(), bytes: Rc::new(message.draft) });
        own.kept.insert(message.id, (Vec::new(), false));
        let receipt = own.spool.kept_in_memory(message.id);
        if let Some(facts) = self.book.facts(message.id) {
            facts.in_memory = true;
        }
        let item = self.item(&envelope, size);
        self.push(shard, item);
        self.accept(inbound, Proof::Kept(receipt), Durability::Memory, out);
        None
    }

    fn accept(&mut self, inbound: &mut Inbound, proof: Proof, class: Durability, out: &mut Vec<u8>) {
        self.note(format_args!("{} accepted as {class}", proof.id()));
        self.book.answered(proof.id(), Answer::Accepted, class);
        inbound.session.accept(&proof, out);
    }

    fn refuse(&mut self, shard: usize, inbound: &mut Inbound, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        inbound.waits = false;
        if let Some(message) = inbound.message.take() {
            self.drop_draft(shard, &message);
            self.note(format_args!("{} refused with {}", message.id, reply.code()));
            self.book.answered(message.id, Answer::Refused, Durability::Fsync);
        }
        inbound.session.refuse(reply, out)
    }

    /// Makes a message durable: its body file first, then its record.
    fn commit(&mut self, shard: usize, number: u32, message: &Message) {
        if message.file.is_some() {
            let latency = self.disk_latency();
            return self.task(latency, shard, Task::Sealed(number));
        }
        self.append(shard, number, message);
    }

    pub(crate) fn sealed(&mut self, shard: usize, number: u32) {
        let failed = self.strikes(Fault::BodyError);
        let Some(mut inbound) = self.shard(shard).and_then(|own| own.sessions.remove(&number)) else { return };
        if let Some(message) = inbound.message.take() {
            if !failed {
                self.disks[shard].sync(Name::Body(message.id));
                self.disks[shard].sync_directory();
                self.append(shard, number, &message);
            }
            inbound.message = Some(message);
        }
        if let Some(own) = self.shard(shard) {
            own.sessions.insert(number, inbound);
        }
        if failed {
            self.committed(shard, number, Err(Failure::Io));
        }
    }

    fn append(&mut self, shard: usize, number: u32, message: &Message) {
        let Some(envelope) = &message.envelope else { return };
        let mut stored = Vec::new();
        envelope.encode(&mut stored);
        let parts = MessageParts { id: message.id, envelope: &stored, bytes: &message.draft, body_file: message.file };
        if !self.stage(shard, Waiter::Session(number, message.id), &parts) {
            self.book.violate(format!("{} is too large for the log", message.id));
        }
    }

    /// The record of a session's message is durable, or could not be made so.
    pub(crate) fn committed(&mut self, shard: usize, number: u32, result: Result<Receipt, Failure>) {
        let warm = self.dice.one_in(2);
        let Some(mut inbound) = self.shard(shard).and_then(|own| own.sessions.remove(&number)) else { return };
        inbound.waits = false;
        let mut out = Vec::new();
        let mut step = None;
        match result {
            Ok(receipt) => {
                if let Some(message) = inbound.message.take()
                    && let Some(envelope) = message.envelope.clone()
                {
                    let size = message.file.map_or(message.draft.len() as u64, |file| file.len);
                    let item = NewItem { legacy_done: message.done.clone(), ..self.item(&envelope, size) };
                    if let Some(own) = self.shard(shard).filter(|_| warm && message.file.is_none()) {
                        own.hot.insert(message.id, Content { envelope, bytes: Rc::new(message.draft) });
                    }
                    self.push(shard, item);
                    if !message.done.is_empty() {
                        self.note_state(shard, message.id);
                    }
                }
                self.accept(&mut inbound, Proof::Kept(receipt), Durability::Fsync, &mut out);
            }
            Err(failure) => {
                let full = failure == Failure::Full;
                let reply = if full { replies::STORAGE_FULL } else { replies::STORAGE_FAILED };
                step = self.refuse(shard, &mut inbound, reply, &mut out);
            }
        }
        self.put_back(shard, number, inbound, &out, step);
    }

    fn put_back(&mut self, shard: usize, number: u32, inbound: Inbound, out: &[u8], step: Option<Step>) {
        self.send(inbound.link, 1, out);
        if let Some(own) = self.shard(shard) {
            own.sessions.insert(number, inbound);
        }
        self.go_on(shard, number, |_, _| step);
    }

    /// The next hops have answered for a session's message, or not.
    pub(crate) fn handed_over(&mut self, shard: usize, number: u32, over: Handed) {
        let Some(mut inbound) = self.shard(shard).and_then(|own| own.sessions.remove(&number)) else { return };
        inbound.handover = None;
        let mut out = Vec::new();
        let mut step = None;
        match over {
            Handed::Whole(proof) => {
                inbound.waits = false;
                if let Some(message) = inbound.message.take() {
                    self.drop_draft(shard, &message);
                }
                self.accept(&mut inbound, Proof::HandedOver(proof), Durability::NextHop, &mut out);
            }
            Handed::Refused(reply) => step = self.refuse(shard, &mut inbound, reply, &mut out),
            Handed::Part(done) => {
                let Some(mut message) = inbound.message.take() else { return };
                message.done = done;
                // It is with the next hops in part. Which recipients they have is remembered, and not at which of several
                // destinations: one that has it may get it again. If it can't be kept here, it is refused although
                // some have it.
                self.book.excuse(message.id);
                if let Some(facts) = self.book.facts(message.id) {
                    (facts.handing_over, facts.uncertain) = (true, true);
                }
                self.commit(shard, number, &message);
                inbound.message = Some(message);
            }
        }
        self.put_back(shard, number, inbound, &out, step);
    }
}

fn envelope_of(message: &mut Message, helo: &str) -> Envelope {
    let mail = &message.mail;
    Envelope {
        id: message.id,
        arrived: message.arrived,
        session: "sim".into(),
        client: "192.0.2.7".into(),
        helo: helo.into(),
        from: mail.from.as_str().into(),
        recipients: std::mem::take(&mut message.recipients),
        utf8: mail.utf8,
        eight_bit: mail.body == BodyKind::EightBitMime,
        binary: mail.body == BodyKind::Binary,
        require_tls: mail.require_tls,
        ret: mail.dsn.ret.map(|ret| match ret {
            ringpost_smtp::Ret::Full => Ret::Full,
            ringpost_smtp::Ret::Headers => Ret::Headers,
        }),
        envid: mail.dsn.envid.clone(),
    }
}
