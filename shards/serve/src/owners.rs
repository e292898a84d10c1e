//! Who counts what an address does: the shard that owns it, here or over the mesh.
//!
//! Each shard keeps the ledger and the greylist of the addresses that it owns. A question about an address goes to its
//! owner; when that is this shard, which steering makes the common case, it is answered on the spot. No question is a
//! condition of service: where the owner has no room for it or does not answer in time, the client is served as
//! if no limit were met, and that is counted.

use ringpost_base::{NetworkLengths, ShardId, Tick, UNKNOWN_ADDRESS, owner};
use ringpost_metrics::{Block, Counter, Gauge, Timing};
use ringpost_policy::{
    BanOrder, Counted as Place, Grey, GreyKey, GreyRecord, Greylist, Ledger, LedgerOptions, Limit, Offence,
};
use ringpost_runtime::{MeshEnd, now, sleep, tick};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often ended entries are dropped, and questions sent again that found no room.
const SWEEP: Duration = Duration::from_millis(250);

/// Closings that wait for room in the mesh. With this many lost, counts of addresses stay too high until they are idle.
const UNSENT_MAX: usize = 100_000;

/// A question to the owner of an address, and what becomes of the client when it is lost.
#[derive(Debug)]
pub enum Question {
    /// A connection begins. Lost: it is served and not counted.
    Open(IpAddr),
    /// A counted connection ends. It is never lost: it is sent again until there is room.
    Close(Place),
    /// A message begins, with the size that its client declares. Lost: the message is taken.
    Message {
        /// Whose.
        address: IpAddr,
        /// Declared bytes; 0: nothing was declared.
        declared: u64,
    },
    /// A recipient is named. Lost: it is judged without this limit.
    Recipient(IpAddr),
    /// A message of so many bytes came. Lost: they are not counted.
    Bytes {
        /// From where.
        address: IpAddr,
        /// How many.
        count: u64,
    },
    /// A client offended. Lost: it does not count towards a ban.
    Offence {
        /// Which client.
        address: IpAddr,
        /// How.
        offence: Offence,
        /// How often.
        count: u32,
    },
    /// A triplet is judged by greylisting. Lost: the mail is taken.
    Grey {
        /// The client's address.
        address: IpAddr,
        /// The triplet.
        key: GreyKey,
    },
}

impl Question {
    /// The address that it is about; a closing goes to the owner that has counted.
    fn address(&self) -> IpAddr {
        match self {
            Self::Close(_) => UNKNOWN_ADDRESS,
            Self::Open(address) | Self::Recipient(address) => *address,
            Self::Message { address, .. }
            | Self::Bytes { address, .. }
            | Self::Offence { address, .. }
            | Self::Grey { address, .. } => *address,
        }
    }
}

/// Which questions need an answer: what no limit is set for is not worth the way to another shard.
#[derive(Clone, Copy)]
struct Limited {
    connections: bool,
    messages: bool,
    recipients: bool,
    bytes: bool,
}

impl Limited {
    fn by(limits: &LedgerOptions) -> Self {
        let any = |limits: &[Option<u32>]| limits.iter().any(Option::is_some);
        let bytes = limits.bytes_per_ip.is_some() || limits.bytes_per_network.is_some();
        Self {
            connections: any(&[
                limits.connections_per_ip,
                limits.connections_per_network,
                limits.connection_rate_per_ip,
                limits.connection_rate_per_network,
            ]),
            messages: bytes || any(&[limits.messages_per_ip, limits.messages_per_network]),
            recipients: any(&[limits.recipients_per_ip, limits.recipients_per_network]),
            bytes,
        }
    }

    fn concerns(self, question: &Question) -> bool {
        match question {
            Question::Open(_) => self.connections,
            Question::Message { .. } => self.messages,
            Question::Recipient(_) => self.recipients,
            Question::Bytes { .. } => self.bytes,
            Question::Close(_) | Question::Offence { .. } | Question::Grey { .. } => true,
        }
    }
}

/// What an owner answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing stands against it.
    Free,
    /// The connection is served; this is to be given back when it ends.
    Counted(Place),
    /// A limit is met.
    Limited(Limit),
    /// What greylisting says.
    Grey(Grey),
}

/// This shard's end of the mesh.
pub type Mesh = MeshEnd<Question, Verdict>;

/// What [`Owners`] are made of.
pub struct OwnersSetup {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: usize,
    /// How networks are cut. Fixed while the server runs: owners depend on it.
    pub networks: NetworkLengths,
    /// What is limited.
    pub limits: LedgerOptions,
    /// What addresses of this shard do.
    pub ledger: Ledger,
    /// What is known of triplets of its networks.
    pub greylist: Greylist,
    /// The way to the other shards.
    pub mesh: Rc<Mesh>,
    /// Takes the bans that rules ask for.
    pub order: Box<dyn Fn(BanOrder)>,
    /// Where it counts.
    pub block: Arc<Block>,
}

/// What a shard owns, and its way to the other owners.
pub struct Owners {
    shard: ShardId,
    shards: usize,
    networks: NetworkLengths,
    /// The kinds of questions that a limit of the configuration asks for; the same on all shards.
    limited: Cell<Limited>,
    ledger: RefCell<Ledger>,
    greylist: RefCell<Greylist>,
    mesh: Rc<Mesh>,
    unsent: RefCell<VecDeque<(ShardId, Question)>>,
    order: Box<dyn Fn(BanOrder)>,
    block: Arc<Block>,
}

impl Owners {
    /// The owners as seen from a shard.
    pub fn new(setup: OwnersSetup) -> Rc<Self> {
        let OwnersSetup { shard, shards, networks, limits, ledger, greylist, mesh, order, block } = setup;
        let limited = Cell::new(Limited::by(&limits));
        let (ledger, greylist) = (RefCell::new(ledger), RefCell::new(greylist));
        let unsent = RefCell::default();
        Rc::new(Self { shard, shards, networks, limited, ledger, greylist, mesh, unsent, order, block })
    }

    /// Changes the options of ledger and greylist; what is counted stays.
    pub fn configure(&self, limits: &LedgerOptions, change: impl FnOnce(&mut Ledger, &mut Greylist)) {
        self.limited.set(Limited::by(limits));
        change(&mut self.ledger.borrow_mut(), &mut self.greylist.borrow_mut());
    }

    /// The network that limits count an address with.
    pub fn networks(&self) -> NetworkLengths {
        self.networks
    }

    /// What has changed in the greylist since last asked.
    pub fn take_greylist_changes(&self) -> Vec<GreyRecord> {
        self.greylist.borrow_mut().take_changes()
    }

    /// The owner of an address.
    pub fn owner(&self, address: IpAddr) -> ShardId {
        owner(address, self.networks, self.shards)
    }

    /// Asks the owner; [`Verdict::Free`] if it can't be asked, or nothing is limited that the question is about.
    pub async fn ask(&self, question: Question) -> Verdict {
        if !self.limited.get().concerns(&question) {
            return Verdict::Free;
        }
        let since = tick();
        let is_grey = matches!(question, Question::Grey { .. });
        let verdict = self.ask_owner(question, since).await;
        let stage = if is_grey { Timing::StageCheckGreylist } else { Timing::StageCheckLimits };
        self.block.observe(stage, tick().since(since));
        verdict
    }

    async fn ask_owner(&self, question: Question, now: Tick) -> Verdict {
        let owner = self.owner(question.address());
        if owner == self.shard {
            return self.decide_at(question, now);
        }
        self.block.add(Counter::MeshQuestions, 1);
        let answer = match self.mesh.ask(owner, question) {
            Some(answer) => answer.await,
            None => None,
        };
        answer.unwrap_or_else(|| {
            self.block.add(Counter::MeshFull, 1);
            Verdict::Free
        })
    }

    /// Tells the owner, and waits for nothing.
    pub fn tell(&self, question: Question) {
        if !self.limited.get().concerns(&question) {
            return;
        }
        self.tell_to(self.owner(question.address()), question);
    }

    /// Tells the shard that was the owner when a connection was counted: a change of the configuration may have made
    /// another one the owner since.
    pub fn tell_to(&self, owner: ShardId, question: Question) {
        if owner == self.shard {
            self.decide(question);
            return;
        }
        self.block.add(Counter::MeshQuestions, 1);
        let Err(question) = self.mesh.tell(owner, question) else { return };
        self.block.add(Counter::MeshFull, 1);
        let mut unsent = self.unsent.borrow_mut();
        if matches!(question, Question::Close(_)) && unsent.len() < UNSENT_MAX {
            unsent.push_back((owner, question));
        }
    }

    /// Answers as the owner.
    pub fn decide(&self, question: Question) -> Verdict {
        self.decide_at(question, tick())
    }

    fn decide_at(&self, question: Question, at: Tick) -> Verdict {
        let verdict = |result: Result<(), Limit>| result.map_or_else(Verdict::Limited, |()| Verdict::Free);
        let mut ledger = self.ledger.borrow_mut();
        match question {
            Question::Open(address) => ledger.open(address, at).map_or_else(Verdict::Limited, Verdict::Counted),
            Question::Close(place) => {
                ledger.close(place);
                Verdict::Free
            }
            Question::Message { address, declared } => verdict(ledger.message(address, declared, at)),
            Question::Recipient(address) => verdict(ledger.recipient(address, at)),
            Question::Bytes { address, count } => {
                ledger.bytes(address, count, at);
                Verdict::Free
            }
            Question::Offence { address, offence, count } => {
                if let Some(order) = ledger.offence(address, offence, count, at) {
                    self.block.add(Counter::BansOrdered, 1);
                    (self.order)(order);
                }
                Verdict::Free
            }
            Question::Grey { address, key } => {
                let network = self.networks.of(address);
                Verdict::Grey(self.greylist.borrow_mut().check(key, network, now().wall))
            }
        }
    }

    /// Answers the other shards, for as long as the shard lives.
    pub async fn serve(self: Rc<Self>) {
        let (mesh, owners) = (self.mesh.clone(), self.clone());
        let unclaimed = move |owner, verdict| {
            // Its connection was served without being counted, as the answer took too long.
            if let Verdict::Counted(place) = verdict {
                owners.tell_to(owner, Question::Close(place));
            }
        };
        mesh.serve(move |_, question| self.decide(question), unclaimed).await;
    }

    /// Drops what has ended and publishes the counts, for as long as the shard lives.
    pub async fn keep_swept(self: Rc<Self>) {
        loop {
            sleep(SWEEP).await;
            self.sweep();
        }
    }

    fn sweep(&self) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.sweep(tick());
        let totals = ledger.totals();
        self.block.set(Gauge::LedgerEntries, totals.entries as u64);
        self.block.set(Gauge::AddressConnections, totals.connections);
        self.block.add(Counter::LedgerOverflow, totals.overflowed - self.block.counter(Counter::LedgerOverflow));
        drop(ledger);
        let mut greylist = self.greylist.borrow_mut();
        greylist.expire(now().wall);
        self.block.set(Gauge::GreylistEntries, greylist.len() as u64);
        drop(greylist);
        let waiting = std::mem::take(&mut *self.unsent.borrow_mut());
        for (owner, question) in waiting {
            self.tell_to(owner, question);
        }
    }
}

/// A connection that its address's owner counts; it ends with this.
pub(crate) struct Counted {
    owners: Rc<Owners>,
    owner: ShardId,
    place: Place,
}

impl Counted {
    /// Has a connection counted, or says which limit forbids it. Nothing if no limit counts it, or its owner can't be
    /// asked; a count that is answered too late is given back.
    pub(crate) async fn begin(owners: &Rc<Owners>, address: IpAddr) -> Result<Option<Self>, Limit> {
        let owner = owners.owner(address);
        match owners.ask(Question::Open(address)).await {
            Verdict::Limited(limit) => Err(limit),
            Verdict::Counted(place) if !place.is_nothing() => Ok(Some(Self { owners: owners.clone(), owner, place })),
            Verdict::Counted(_) | Verdict::Free | Verdict::Grey(_) => Ok(None),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let place = std::mem::replace(&mut self.place, Place::NOTHING);
        self.owners.tell_to(self.owner, Question::Close(place));
    }
}
