//! A session of the host, in small: what `shards/serve` does around the session machine. Steps become an envelope and a
//! draft, the policy decides, the store or the next hop takes charge, and only their proof makes a 250.

use crate::calendar::Task;
use crate::disk::Name;
use crate::fault::Fault;
use crate::handover::HandOver;
use crate::link::{End, LinkId};
use crate::plan::{HOST, SECOND};
use crate::world::World;
use ringpost_base::{Accepted, ByteCount, NetworkLengths, SpoolId, Timestamp};
use ringpost_message::{Arrival, Envelope, Headers, Notify, Recipient, received};
use ringpost_policy::{Counted, Ledger, Limit, Load};
use ringpost_queue::HandedOver;
use ringpost_smtp::{Mail, Protocol, Rcpt, Reply, Session, Setup, Step, TlsUse, replies};
use ringpost_spool::{BodyFile, Receipt};
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
    pub(crate) link: LinkId,
    pub(crate) session: Session<Proof>,
    pub(crate) input: Vec<u8>,
    pub(crate) message: Option<Message>,
    /// The end of a message waits for the store or the next hop: no input is taken.
    pub(crate) waits: bool,
    pub(crate) handover: Option<HandOver>,
    pub(crate) heard: u64,
    pub(crate) gone: bool,
    /// Where it comes from, and its place in the ledger of the address's owner.
    pub(crate) address: IpAddr,
    pub(crate) counted: Counted,
}

/// A message between MAIL and its final reply.
pub(crate) struct Message {
    pub(crate) id: SpoolId,
    pub(crate) arrived: Timestamp,
    pub(crate) mail: Mail,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) draft: Vec<u8>,
    /// Octets of our own trace header at the front.
    pub(crate) trace: usize,
    /// The body file, once the message is large.
    pub(crate) file: Option<BodyFile>,
    pub(crate) headers: Option<Headers>,
    pub(crate) broken: bool,
    pub(crate) envelope: Option<Rc<Envelope>>,
    /// Recipients that the next hop has taken already.
    pub(crate) done: Vec<u32>,
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
    pub(crate) fn ledger(&mut self, address: IpAddr) -> Option<&mut Ledger> {
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

    pub(crate) fn drop_draft(&mut self, shard: usize, message: &Message) {
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
    pub(crate) fn go_on(
        &mut self,
        shard: usize,
        number: u32,
        first: impl FnOnce(&mut Inbound, &mut Vec<u8>) -> Option<Step>,
    ) {
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
    pub(crate) fn lighten(&mut self, shard: usize, message: &mut Message) {
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
