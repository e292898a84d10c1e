//! A session of the host, in small: what `shards/serve` does around the session machine. Steps become an envelope and a
//! draft, the policy decides, the store or the next hop takes charge, and only their proof makes a 250.

use crate::book::{Answer, Entry};
use crate::calendar::Task;
use crate::disk::Name;
use crate::fault::Fault;
use crate::handover::HandOver;
use crate::letter;
use crate::link::{End, LinkId};
use crate::plan::{HOST, SECOND};
use crate::store::{Content, Waiter};
use crate::world::World;
use ringpost_base::{Accepted, ByteCount, Durability, NetworkLengths, SpoolId, Timestamp};
use ringpost_message::{Arrival, Envelope, Headers, Notify, Recipient, Ret, received};
use ringpost_policy::{Counted, Ledger, Limit, Load};
use ringpost_queue::HandedOver;
use ringpost_smtp::{BodyKind, Mail, Protocol, Rcpt, Reply, Session, Setup, Step, TlsUse, replies};
use ringpost_spool::{BodyFile, Failure, MessageParts, Receipt};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

/// A client that says nothing for so long is let go.
const PATIENCE: u64 = 60 * SECOND;

/// Octets of replies that a session ever holds: what it gathers before it sends, and the longest single answer.
const REPLIES_BOUND: usize = 20 << 10;

/// What a 250 is made from.
pub(crate) enum Proof {
    /// It is kept here.
    Kept(Receipt),
    /// The next hop has it.
    HandedOver(HandedOver),
}

impl Accepted for Proof {
    fn id(&self) -> SpoolId {
        match self {
            Self::Kept(receipt) => receipt.id(),
            Self::HandedOver(handed_over) => handed_over.id(),
        }
    }
}

/// A connection of a client, as the host has it.
pub(crate) struct Inbound {
    link: LinkId,
    session: Session<Proof>,
    input: Vec<u8>,
    message: Option<Message>,
    /// The end of a message waits for the store or the next hop: no input is taken.
    pub(crate) waits: bool,
    pub(crate) handover: Option<HandOver>,
    heard: u64,
    gone: bool,
    /// Where it comes from, and its place in the ledger of the address's owner.
    address: IpAddr,
    counted: Counted,
}

/// A message between MAIL and its final reply.
pub(crate) struct Message {
    id: SpoolId,
    arrived: Timestamp,
    mail: Mail,
    recipients: Vec<Recipient>,
    draft: Vec<u8>,
    /// Octets of our own trace header at the front.
    trace: usize,
    /// The body file, once the message is large.
    file: Option<BodyFile>,
    headers: Option<Headers>,
    broken: bool,
    envelope: Option<Rc<Envelope>>,
    /// Recipients that the next hop has taken already.
    done: Vec<u32>,
}

impl World {
    /// A client has connected; nothing if nobody listens.
    pub(crate) fn accept_client(&mut self, client: usize) -> Option<LinkId> {
        self.host.as_ref().filter(|host| host.stopping.is_none())?;
        let shard = self.dice.place(self.shards);
        let (wall, options, now) = (self.clocks().wall, self.plan.session.clone(), self.now);
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, client as u8));
        let lmtp = self.clients[client].lmtp;
        let counted = self.count_in(address);
        let own = self.shard(shard)?;
        let number = own.number();
        let protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        let setup = Setup { protocol, tls: TlsUse::Off, ..Setup::new(options, own.session_ids.next(wall)) };
        let link = self.connect([End::Client(client), End::Inbound(shard, number)], Fault::ClientCut);
        let mut session = Session::new(setup);
        let mut out = Vec::new();
        let (counted, refused) = match counted {
            Ok(counted) => (counted, None),
            Err(limit) => (Counted::NOTHING, Some(limit.reply())),
        };
        match &refused {
            None => session.greet(&mut out),
            Some(reply) => session.end(reply, &mut out),
        }
        let inbound = Inbound {
            link,
            session,
            input: Vec::new(),
            message: None,
            waits: false,
            handover: None,
            heard: now,
            gone: false,
            address,
            counted,
        };
        self.shard(shard)?.sessions.insert(number, inbound);
        self.send(link, 1, &out);
        self.task(PATIENCE, shard, Task::Session(number));
        if refused.is_some() {
            self.end_session(shard, number);
        }
        Some(link)
    }

    /// The ledger of the shard that owns an address. The real question goes over a mesh; here it is answered at once.
    fn ledger(&mut self, address: IpAddr) -> Option<&mut Ledger> {
        let owner = ringpost_base::owner(address, NetworkLengths::default(), self.shards);
        self.shard(owner.index()).map(|own| &mut own.ledger)
    }

    fn count_in(&mut self, address: IpAddr) -> Result<Counted, Limit> {
        let now = self.clocks().tick;
        self.ledger(address).map_or(Ok(Counted::NOTHING), |ledger| ledger.open(address, now))
    }

    pub(crate) fn session_reads(&mut self, shard: usize, number: u32, bytes: &[u8]) {
        let now = self.now;
        let Some(inbound) = self.shard(shard).and_then(|own| own.sessions.get_mut(&number)) else { return };
        inbound.input.extend_from_slice(bytes);
        inbound.heard = now;
        self.go_on(shard, number, |_, _| None);
    }

    /// The client is gone. A message whose end waits for the store goes on without it.
    pub(crate) fn session_cut_off(&mut self, shard: usize, number: u32) {
        let Some(own) = self.shard(shard) else { return };
        let Some(inbound) = own.sessions.get_mut(&number) else { return };
        inbound.gone = true;
        if !inbound.waits {
            self.end_session(shard, number);
        }
    }

    fn end_session(&mut self, shard: usize, number: u32) {
        let Some(inbound) = self.shard(shard).and_then(|own| own.sessions.remove(&number)) else { return };
        if let Some(message) = inbound.message {
            self.drop_draft(shard, &message);
        }
        let counted = inbound.counted;
        if let Some(ledger) = self.ledger(inbound.address) {
            ledger.close(counted);
        }
        self.hang_up(inbound.link, 1);
    }

    fn drop_draft(&mut self, shard: usize, message: &Message) {
        if message.file.is_some() {
            self.disks[shard].remove(Name::Body(message.id));
        }
    }

    pub(crate) fn session_timer(&mut self, shard: usize, number: u32) {
        let now = self.now;
        let Some(inbound) = self.shard(shard).and_then(|own| own.sessions.get_mut(&number)) else { return };
        let due = inbound.heard + PATIENCE;
        if now < due || inbound.waits {
            let after = due.saturating_sub(now).max(SECOND);
            return self.task(after, shard, Task::Session(number));
        }
        let (link, mut out) = (inbound.link, Vec::new());
        inbound.session.end(&replies::TIMEOUT, &mut out);
        self.send(link, 1, &out);
        self.end_session(shard, number);
    }

    /// The server stops: sessions end once they are between two messages.
    pub(crate) fn end_sessions(&mut self, shard: usize) {
        let Some(own) = self.shard(shard) else { return };
        let idle: Vec<u32> =
            own.sessions.iter().filter(|(_, inbound)| inbound.message.is_none()).map(|(number, _)| *number).collect();
        for number in idle {
            let Some(inbound) = self.shard(shard).and_then(|own| own.sessions.get_mut(&number)) else { continue };
            let (link, mut out) = (inbound.link, Vec::new());
            inbound.session.end(&replies::SHUTDOWN, &mut out);
            self.send(link, 1, &out);
            self.end_session(shard, number);
        }
    }

    /// Answers what waits with `first`, then feeds the machine until it wants more.
    fn go_on(&mut self, shard: usize, number: u32, first: impl FnOnce(&mut Inbound, &mut Vec<u8>) -> Option<Step>) {
        let Some(mut inbound) = self.shard(shard).and_then(|own| own.sessions.remove(&number)) else { return };
        let mut out = Vec::new();
        let mut owed = first(&mut inbound, &mut out);
        let mut over = false;
        while !inbound.waits {
            let step = match owed.take() {
                Some(step) => step,
                None => self.feed(shard, &mut inbound, &mut out),
            };
            if out.len() > REPLIES_BOUND {
                self.book.violate(format!("a session holds {} octets of replies", out.len()));
            }
            match step {
                Step::Need if out.is_empty() || inbound.input.is_empty() => break,
                Step::Need => self.send(inbound.link, 1, &std::mem::take(&mut out)),
                Step::Close => {
                    over = true;
                    break;
                }
                step => owed = self.take_step(shard, number, &mut inbound, step, &mut out),
            }
        }
        let stopping = self.host.as_ref().is_some_and(|host| host.stopping.is_some());
        if stopping && inbound.message.is_none() && !over {
            inbound.session.end(&replies::SHUTDOWN, &mut out);
            over = true;
        }
        self.send(inbound.link, 1, &out);
        over |= inbound.gone && !inbound.waits;
        if let Some(own) = self.shard(shard) {
            own.sessions.insert(number, inbound);
        }
        if over {
            self.end_session(shard, number);
        }
    }

    fn feed(&mut self, shard: usize, inbound: &mut Inbound, out: &mut Vec<u8>) -> Step {
        let mut none = Vec::new();
        let body = inbound.message.as_mut().map_or(&mut none, |message| &mut message.draft);
        let (used, step) = inbound.session.advance(&inbound.input, body, out);
        inbound.input.drain(..used);
        if used == 0 && step == Step::Need && out.is_empty() && !inbound.input.is_empty() {
            // A line that is not whole yet: the machine keeps nothing, and its bound is that of a line.
            if inbound.input.len() > ringpost_smtp::LINE_MAX {
                self.book.violate(format!("a session leaves {} octets unread", inbound.input.len()));
            }
        }
        if let Some(message) = &mut inbound.message
            && message.draft.len() > self.plan.spool.inline_max.as_len().max(message.trace)
        {
            self.lighten(shard, message);
        }
        step
    }

    /// Puts what has come of a large message into its body file.
    fn lighten(&mut self, shard: usize, message: &mut Message) {
        if message.headers.is_none() {
            message.headers = Some(Headers::walk(&message.draft[message.trace..]));
        }
        let name = Name::Body(message.id);
        let failed = self.strikes(Fault::BodyError);
        let disk = &mut self.disks[shard];
        if message.file.is_none() && !message.broken {
            message.broken = disk.create(name, 0).is_err();
        }
        let mut file = message.file.unwrap_or(BodyFile { len: 0, crc: 0 });
        let piece = std::mem::take(&mut message.draft);
        message.trace = 0;
        file.crc = ringpost_spool::checksum(file.crc, &piece);
        message.broken |= failed || disk.write(name, file.len as usize, &piece).is_err();
        file.len += piece.len() as u64;
        message.file = Some(file);
    }

    fn take_step(
        &mut self,
        shard: usize,
        number: u32,
        inbound: &mut Inbound,
        step: Step,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        match step {
            Step::Mail(mail) => self.take_mail(shard, inbound, mail, out),
            Step::Rcpt(rcpt) => self.take_rcpt(inbound, &rcpt, out),
            Step::Begin => {
                let helo = inbound.session.helo().map(|(name, _)| name.to_owned()).unwrap_or_default();
                let refusal = inbound.message.as_mut().and_then(|message| begin_draft(message, &helo));
                inbound.session.answer_begin(refusal, out)
            }
            Step::End => self.take_end(shard, number, inbound, out),
            Step::Abandoned(_) | Step::Reset => {
                if let Some(message) = inbound.message.take() {
                    self.drop_draft(shard, &message);
                }
                None
            }
            other => {
                self.book.violate(format!("a step that nothing has led to: {other:?}"));
                Some(Step::Close)
            }
        }
    }

    fn load_of(&mut self, shard: usize) -> Option<Load> {
        let own = self.shard(shard)?;
        let drafts = own.sessions.values().filter_map(|inbound| inbound.message.as_ref());
        let memory: usize = drafts.clone().map(|message| message.draft.len()).sum();
        let hot: usize = own.hot.values().map(|content| content.bytes.len()).sum();
        Some(Load {
            connections: own.sessions.len(),
            messages_in_flight: drafts.count(),
            message_memory: ByteCount((memory + hot) as u64),
            spool_backlog: ByteCount(own.spool.stats().live_bytes),
            spool_failing: own.refusing || own.failing.contains(&true),
        })
    }

    fn take_mail(&mut self, shard: usize, inbound: &mut Inbound, mail: Mail, out: &mut Vec<u8>) -> Option<Step> {
        let load = self.load_of(shard)?;
        let (now, declared) = (self.clocks().tick, mail.size.unwrap_or(0));
        let refusal = match self.plan.policy.sender(&load, &self.plan.capacity) {
            Err(busy) => Some(busy.reply()),
            Ok(()) => {
                let asked = self.ledger(inbound.address).map(|ledger| ledger.message(inbound.address, declared, now));
                asked.and_then(Result::err).map(Limit::reply)
            }
        };
        if refusal.is_none() {
            let arrived = self.clocks().wall;
            let id = self.shard(shard)?.ids.next(arrived);
            inbound.message = Some(Message {
                id,
                arrived,
                mail,
                recipients: Vec::new(),
                draft: Vec::new(),
                trace: 0,
                file: None,
                headers: None,
                broken: false,
                envelope: None,
                done: Vec::new(),
            });
        }
        inbound.session.answer_mail(refusal, out)
    }

    fn take_rcpt(&mut self, inbound: &mut Inbound, rcpt: &Rcpt, out: &mut Vec<u8>) -> Option<Step> {
        let (now, address) = (self.clocks().tick, inbound.address);
        let limit = self.ledger(address).and_then(|ledger| ledger.recipient(address, now).err());
        let refusal = match (limit, self.plan.policy.recipient(rcpt, false)) {
            (Some(limit), _) => Some(limit.reply()),
            (None, Err(reply)) => Some(reply),
            (None, Ok(served)) => {
                let notify = rcpt.notify.and_then(|notify| Notify::from_bits(notify.bits())).unwrap_or_default();
                let message = inbound.message.as_mut()?;
                for address in served.addresses {
                    if !message.recipients.iter().any(|known| known.address == address) {
                        message.recipients.push(Recipient { notify, ..Recipient::new(address) });
                    }
                }
                None
            }
        };
        inbound.session.answer_rcpt(refusal, out)
    }

    /// The message is whole: who takes charge of it?
    fn take_end(&mut self, shard: usize, number: u32, inbound: &mut Inbound, out: &mut Vec<u8>) -> Option<Step> {
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
                    let item =
                        ringpost_queue::NewItem { legacy_done: message.done.clone(), ..self.item(&envelope, size) };
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

/// How handing over came out.
pub(crate) enum Handed {
    /// The next hops have it all.
    Whole(HandedOver),
    /// They have it for these; the others are ours.
    Part(Vec<u32>),
    /// This is said to the client.
    Refused(Reply),
}

fn begin_draft(message: &mut Message, helo: &str) -> Option<Reply> {
    let recipient = match &message.recipients[..] {
        [one] => Some(&*one.address),
        _ => None,
    };
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let arrival = Arrival {
        host: HOST,
        helo,
        extended: true,
        lmtp: false,
        utf8: message.mail.utf8,
        client,
        client_name: None,
        security: None,
        id: message.id,
        recipient,
        at: message.arrived,
    };
    received(&arrival, &mut message.draft);
    message.trace = message.draft.len();
    None
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
