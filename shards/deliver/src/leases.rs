//! Leases: whether a shard may send to a destination now, asked of the shard that owns the destination.
//!
//! A destination's concurrency, its rate and whether it is left alone are one number for the whole process, so one shard
//! keeps them: its owner, by a hash of its name. A lease is one slot for some messages, so that a question is asked for
//! a run of messages and not for each. What is given back is never lost: it is sent again until there is room in the mesh.

use ringpost_base::ShardId;
use ringpost_metrics::{Block, Counter, Gauge};
use ringpost_queue::{BreakerState, DestinationOptions, DestinationView, Destinations, Lease, LeaseReport};
use ringpost_runtime::{MeshEnd, sleep, tick};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often what found no room in the mesh is sent again, and the counts are published.
const SWEEP: Duration = Duration::from_millis(100);

/// What a shard without an answer from an owner goes by: it waits, and asks again.
const UNANSWERED: Lease = Lease::Wait { span: Duration::from_secs(1), open: false };

/// Who on a shard asks: each has its own slots, so that neither's count can be mistaken for the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// The queue.
    Queue,
    /// Sessions whose clients wait for the next hop.
    Sessions,
}

/// What is added to the number of a shard for its sessions: there are fewer shards than that.
const OF_SESSIONS: u16 = 0x8000;

impl Asker {
    /// The number that the owner keeps the slots under.
    fn number(self, shard: ShardId) -> ShardId {
        match self {
            Self::Queue => shard,
            Self::Sessions => ShardId(shard.0 | OF_SESSIONS),
        }
    }
}

/// What goes to the owner of a destination, or comes from it.
#[derive(Debug)]
pub enum LeaseQuestion {
    /// May I send there? Lost: asked again after a second.
    Ask {
        /// Who asks.
        asker: Asker,
        /// The destination.
        destination: Arc<str>,
        /// Slots that the asker holds already.
        held: u32,
        /// The question's number, which comes back with the answer.
        number: u64,
    },
    /// I have done with some slots. Never lost: sent again until there is room.
    Give {
        /// Whose they were.
        asker: Asker,
        /// The destination.
        destination: Arc<str>,
        /// Slots that are free again.
        slots: u32,
        /// How it went.
        report: LeaseReport,
    },
    /// From the owner: there is room again, ask. Never lost either.
    Freed(Arc<str>),
}

/// What an owner answers.
#[derive(Debug)]
pub enum LeaseAnswer {
    /// To the question of this number.
    Lease {
        /// Who asked.
        asker: Asker,
        /// About what.
        destination: Arc<str>,
        /// The question's number.
        number: u64,
        /// The answer.
        lease: Lease,
    },
    /// To what needs no answer.
    Noted,
}

/// This shard's end of the mesh of leases.
pub type LeaseMesh = MeshEnd<LeaseQuestion, LeaseAnswer>;

/// Told the name of a destination that has room again.
type Freed = Box<dyn Fn(&str)>;

/// The destinations that a shard owns, and its way to the other owners.
pub struct Leases {
    shard: ShardId,
    shards: usize,
    mesh: Rc<LeaseMesh>,
    owned: RefCell<Destinations>,
    unsent: RefCell<VecDeque<(ShardId, LeaseQuestion)>>,
    /// The number of the last question that went to another shard, for each asker and destination.
    asked: RefCell<HashMap<(Asker, Arc<str>), u64>>,
    freed: RefCell<Freed>,
    block: Arc<Block>,
}

impl Leases {
    /// The leases as seen from a shard.
    pub fn new(shard: ShardId, shards: usize, mesh: Rc<LeaseMesh>, block: Arc<Block>) -> Rc<Self> {
        let freed: RefCell<Freed> = RefCell::new(Box::new(|_| {}));
        let (owned, unsent, asked) = (RefCell::new(Destinations::new()), RefCell::default(), RefCell::default());
        Rc::new(Self { shard, shards, mesh, owned, unsent, asked, freed, block })
    }

    /// Who is told that a destination has room again.
    pub fn when_freed(&self, tell: Box<dyn Fn(&str) + 'static>) {
        *self.freed.borrow_mut() = tell;
    }

    /// The destinations there are, and how they may be used. Those of other owners are theirs.
    pub fn configure<'a>(&self, all: impl Iterator<Item = (&'a str, &'a DestinationOptions)>) {
        let own = all.filter(|(name, _)| self.owner(name) == self.shard);
        let changed = self.owned.borrow_mut().configure(own.map(|(name, options)| (Rc::from(name), options.clone())));
        changed.iter().for_each(|name| self.have_all_ask(name));
        self.publish();
    }

    /// A destination has been set up anew: nobody is to wait for what its former self did not do.
    pub fn renew(&self, destination: &str) {
        if self.owner(destination) == self.shard {
            self.owned.borrow_mut().renew(destination);
            self.have_all_ask(destination);
            self.publish();
        } else {
            self.freed.borrow()(destination);
        }
    }

    /// As the owner: has every shard that waits for a destination ask again. Shards take up a config one after the other,
    /// so the others are told at the next sweep, when they will have.
    fn have_all_ask(&self, destination: &str) {
        self.freed.borrow()(destination);
        let others = (0..self.shards as u16).map(ShardId).filter(|shard| *shard != self.shard);
        let news = others.map(|shard| (shard, LeaseQuestion::Freed(destination.into())));
        self.unsent.borrow_mut().extend(news);
    }

    /// The owner of a destination.
    pub fn owner(&self, destination: &str) -> ShardId {
        ShardId((hash(destination) as usize % self.shards.max(1)) as u16)
    }

    /// The destinations that this shard owns.
    pub fn view(&self) -> Vec<DestinationView> {
        self.owned.borrow().view(tick())
    }

    /// Asks the owner for a slot, for one who has so many already. An asker has one question about a destination under way
    /// at a time. The question is on its way when this returns, so that what is given back later comes later.
    pub fn ask(self: &Rc<Self>, asker: Asker, destination: &str, held: u32) -> impl Future<Output = Lease> + use<> {
        let owner = self.owner(destination);
        let (mut lease, mut answer) = (None, None);
        if owner == self.shard {
            lease = Some(self.owned.borrow_mut().lease(asker.number(self.shard), destination, held, tick()));
        } else if self.unsent.borrow().iter().any(|(to, _)| *to == owner) {
            // What was given back has to be there before the question.
            lease = Some(Lease::Wait { span: SWEEP, open: false });
        } else {
            let destination: Arc<str> = destination.into();
            let mut asked = self.asked.borrow_mut();
            let number = asked.entry((asker, destination.clone())).or_default();
            *number += 1;
            let question = LeaseQuestion::Ask { asker, destination, held, number: *number };
            answer = self.mesh.ask(owner, question);
        }
        let block = self.block.clone();
        async move {
            let lease = match (lease, answer) {
                (Some(lease), _) => lease,
                (None, Some(answer)) => match answer.await {
                    Some(LeaseAnswer::Lease { lease, .. }) => lease,
                    Some(LeaseAnswer::Noted) | None => UNANSWERED,
                },
                (None, None) => UNANSWERED,
            };
            let row = match lease {
                Lease::Granted { .. } => Counter::LeasesGranted,
                Lease::Busy => Counter::LeasesBusy,
                Lease::Wait { .. } | Lease::Unknown => Counter::LeasesWait,
            };
            block.add(row, 1);
            lease
        }
    }

    /// Gives slots back to the owner.
    pub fn give(&self, asker: Asker, destination: &str, slots: u32, report: LeaseReport) {
        let owner = self.owner(destination);
        if owner == self.shard {
            return self.take_back(asker.number(self.shard), destination, slots, report);
        }
        self.tell(owner, LeaseQuestion::Give { asker, destination: destination.into(), slots, report });
    }

    fn tell(&self, to: ShardId, question: LeaseQuestion) {
        // In their order: what is sent again goes before what is new.
        if self.unsent.borrow().is_empty() {
            let Err(question) = self.mesh.tell(to, question) else { return };
            self.unsent.borrow_mut().push_back((to, question));
        } else {
            self.unsent.borrow_mut().push_back((to, question));
        }
    }

    /// As the owner: a shard has done with some slots.
    fn take_back(&self, shard: ShardId, destination: &str, slots: u32, report: LeaseReport) {
        let open_before = if report.hop_failures > 0 { self.open() } else { usize::MAX };
        let waiting = self.owned.borrow_mut().release(shard, destination, slots, report, tick());
        if open_before != usize::MAX && self.open() > open_before {
            self.block.add(Counter::BreakersOpened, 1);
            tracing::warn!(destination, "target left alone for a while because it failed");
        }
        // Sessions ask again by themselves.
        for shard in waiting.into_iter().filter(|shard| shard.0 & OF_SESSIONS == 0) {
            if shard == self.shard {
                self.freed.borrow()(destination);
            } else {
                self.tell(shard, LeaseQuestion::Freed(destination.into()));
            }
        }
    }

    fn answer(&self, from: ShardId, question: LeaseQuestion) -> LeaseAnswer {
        match question {
            LeaseQuestion::Ask { asker, destination, held, number } => {
                let lease = self.owned.borrow_mut().lease(asker.number(from), &destination, held, tick());
                LeaseAnswer::Lease { asker, destination, number, lease }
            }
            LeaseQuestion::Give { asker, destination, slots, report } => {
                self.take_back(asker.number(from), &destination, slots, report);
                LeaseAnswer::Noted
            }
            LeaseQuestion::Freed(destination) => {
                self.freed.borrow()(&destination);
                LeaseAnswer::Noted
            }
        }
    }

    /// Answers the other shards, for as long as the shard lives.
    pub async fn serve(self: Rc<Self>) {
        let (mesh, leases) = (self.mesh.clone(), self.clone());
        let unclaimed = move |owner, answer| {
            // Whoever asked went on without it. If it has asked again since, the owner has corrected its count by that.
            if let LeaseAnswer::Lease { asker, destination, number, lease: Lease::Granted { messages } } = answer
                && leases.asked.borrow().get(&(asker, destination.clone())) == Some(&number)
            {
                let report = LeaseReport { unused: messages, ..LeaseReport::default() };
                leases.tell(owner, LeaseQuestion::Give { asker, destination, slots: 1, report });
            }
        };
        mesh.serve(move |from, question| self.answer(from, question), unclaimed).await;
    }

    /// Sends again what found no room, and publishes the counts, for as long as the shard lives.
    pub async fn keep_swept(self: Rc<Self>) {
        loop {
            sleep(SWEEP).await;
            let waiting = std::mem::take(&mut *self.unsent.borrow_mut());
            for (to, question) in waiting {
                self.tell(to, question);
            }
            self.publish();
        }
    }

    /// Destinations that are left alone.
    fn open(&self) -> usize {
        self.view().iter().filter(|view| view.breaker == BreakerState::Open).count()
    }

    fn publish(&self) {
        self.block.set(Gauge::BreakersOpen, self.open() as u64);
    }
}

/// FNV-1a, 32 bits (Fowler, Noll, Vo): the same on every shard and in every run.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
