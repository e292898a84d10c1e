//! Questions from shard to shard, and their answers.
//!
//! What one shard alone may decide (a limit on an address, say) is asked of the shard that owns it. For each ordered pair
//! of shards there are two bounded rings, one for questions and one for answers; each has one thread that pushes and one
//! that pops. One vital task a shard, [`MeshEnd::serve`], answers what comes and hands answers to those that wait for them.
//!
//! Invariants:
//! - Questions of a pair are answered in their order, so the oldest that waits is the one that an answer belongs to.
//! - No more questions to one shard are under way than its ring of answers has room for, so an answer always fits, and
//!   nothing here grows.
//! - The only waker that crosses threads is that of the task in `serve`, which lives as long as its executor.
//! - Nobody waits for ever: an answer that hasn't come within [`ANSWER_PATIENCE`] is given up, and when a shard's thread
//!   ends, also by a panic, the questions to it end without an answer.
//!
//! What it refuses: to carry a question to the shard that asks (that one calls its own state, which is free), to keep a
//! question for later when there is no room, and to run anything that waits on behalf of another shard.
//!
//! **The fallback is the caller's**: without an answer it goes on as if the shard asked had nothing against it. A limit
//! that can't be asked for lets the client pass, and is counted; no client waits for a shard that is busy or dead.
//!
//! **What it costs.** The rings are crossbeam's `ArrayQueue`, which could serve many threads on both sides: a push and a
//! pop are a compare-and-swap each, where a ring of our own for one producer would make do with a store. That is a few
//! nanoseconds beside the wake-up of a parked executor, tens of microseconds. Memory is taken at the start: two rings of
//! `capacity` places for each of `shards * (shards - 1)` pairs, a place as large as the question or answer and two words.
//! With 16 shards, a capacity of 256 and questions of 48 bytes that is 7 MiB.

use crate::local::{Promise, promise};
use crate::{Pace, after};
use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use ringpost_base::ShardId;
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long an answer is waited for. Shards answer within their lag, which is milliseconds; one that takes longer than
/// this is in trouble, and a client has better things to wait for.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Questions of one shard that are answered before those of the next have their turn.
const TURN_MAX: usize = 64;

/// What travels from shard to shard.
enum Note<Q> {
    /// Wants an answer. Dropped unanswered when its receiver ends: the asker sees that.
    Question(Q),
    /// Wants none. Lost when its receiver ends.
    Tidings(Q),
}

/// What is kept for one shard, on cache lines of its own.
#[derive(Default)]
struct Desk {
    /// The waker of the shard's task in `serve`.
    waker: AtomicWaker,
    /// The shard's thread has ended, or will never begin.
    gone: AtomicBool,
}

impl Desk {
    fn wake(&self) {
        if !self.gone.load(Acquire) {
            self.waker.wake();
        }
    }
}

struct Fabric<Q, A> {
    desks: Box<[CachePadded<Desk>]>,
    questions: Box<[ArrayQueue<Note<Q>>]>,
    answers: Box<[ArrayQueue<A>]>,
    capacity: usize,
}

impl<Q, A> Fabric<Q, A> {
    fn desk(&self, shard: ShardId) -> &Desk {
        &self.desks[shard.index()]
    }

    fn questions(&self, from: ShardId, to: ShardId) -> &ArrayQueue<Note<Q>> {
        &self.questions[self.pair(from, to)]
    }

    fn answers(&self, from: ShardId, to: ShardId) -> &ArrayQueue<A> {
        &self.answers[self.pair(from, to)]
    }

    /// The number of an ordered pair; no shard is paired with itself.
    fn pair(&self, from: ShardId, to: ShardId) -> usize {
        let place = to.index() - usize::from(to > from);
        from.index() * (self.desks.len() - 1) + place
    }
}

/// Makes a mesh for shards 0 to `shards` - 1, and gives each its seat, in their order. `capacity` bounds the questions under
/// way from one shard to another; 0 counts as 1.
pub fn mesh<Q, A>(shards: usize, capacity: usize) -> Vec<MeshSeat<Q, A>>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    let capacity = capacity.max(1);
    let pairs = shards * shards.saturating_sub(1);
    let fabric = Arc::new(Fabric {
        desks: (0..shards).map(|_| CachePadded::default()).collect(),
        questions: (0..pairs).map(|_| ArrayQueue::new(capacity)).collect(),
        answers: (0..pairs).map(|_| ArrayQueue::new(capacity)).collect(),
        capacity,
    });
    let seat = |index| MeshSeat(Departure { fabric: fabric.clone(), shard: ShardId(index as u16) });
    (0..shards).map(seat).collect()
}

/// A shard's place in the mesh, to be carried to the shard's thread. Dropped on the way, it leaves a shard that nobody can
/// ask anything.
pub struct MeshSeat<Q: Send + 'static, A: Send + 'static>(Departure<Q, A>);

impl<Q: Send + 'static, A: Send + 'static> MeshSeat<Q, A> {
    /// Takes the seat, on the shard's thread. From then on the end of the thread is the end of the seat.
    pub fn open(self) -> Rc<MeshEnd<Q, A>> {
        let Self(departure) = self;
        let (fabric, shard) = (departure.fabric.clone(), departure.shard);
        DEPARTURES.with_borrow_mut(|departures| departures.push(Box::new(departure)));
        let waiting = fabric.desks.iter().map(|_| RefCell::default()).collect();
        Rc::new(MeshEnd { fabric, shard, waiting })
    }
}

thread_local! {
    /// Said when the thread ends. An executor drops no task that is left over, so the ends themselves can't say it.
    static DEPARTURES: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Tells the other shards, when dropped, that this one answers nothing any more.
struct Departure<Q, A> {
    fabric: Arc<Fabric<Q, A>>,
    shard: ShardId,
}

impl<Q, A> Drop for Departure<Q, A> {
    fn drop(&mut self) {
        let own = self.fabric.desk(self.shard);
        own.gone.store(true, Release);
        // The executor is gone: dropping a waker of it elsewhere is not safe with every executor.
        std::mem::forget(own.waker.take());
        self.fabric.desks.iter().for_each(|desk| desk.wake());
    }
}

/// The mesh as one shard sees it.
pub struct MeshEnd<Q, A> {
    fabric: Arc<Fabric<Q, A>>,
    shard: ShardId,
    /// For each shard the questions to it that have no answer yet, the oldest first, given up or not.
    waiting: Box<[RefCell<VecDeque<Promise<A>>>]>,
}

impl<Q: Send + 'static, A: Send + 'static> MeshEnd<Q, A> {
    /// Whose end this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Asks another shard. The question is on its way when this returns; the future gives the answer, or nothing if none
    /// came within [`ANSWER_PATIENCE`] or the shard has ended. Dropping the future is fine.
    ///
    /// None when as many questions to that shard are under way as the mesh was made for, or when it has ended; the caller
    /// counts it, and goes on without an answer. None also for the shard itself, which must be asked directly.
    pub fn ask(&self, to: ShardId, question: Q) -> Option<impl Future<Output = Option<A>> + use<Q, A>> {
        let mut waiting = self.waiting_for(to)?.borrow_mut();
        if waiting.len() >= self.fabric.capacity || self.send(to, Note::Question(question)).is_err() {
            return None;
        }
        let (promise, answer) = promise();
        waiting.push_back(promise);
        Some(async move { after(ANSWER_PATIENCE, answer.wait()).await.flatten() })
    }

    /// Tells another shard something that needs no answer. When there is no room for it, when that shard has ended, and for
    /// the shard itself, it is given back.
    pub fn tell(&self, to: ShardId, tidings: Q) -> Result<(), Q> {
        if self.waiting_for(to).is_none() {
            return Err(tidings);
        }
        self.send(to, Note::Tidings(tidings)).map_err(|(Note::Question(tidings) | Note::Tidings(tidings))| tidings)
    }

    /// Answers the questions of the other shards and collects their answers, for as long as the executor lives: to be
    /// spawned once on each shard, as a vital task. `answer` is called with who asks; what it gives for tidings is dropped.
    /// `unclaimed` is called with who answered and an answer that nobody waits for any more.
    pub async fn serve(self: Rc<Self>, mut answer: impl FnMut(ShardId, Q) -> A, mut unclaimed: impl FnMut(ShardId, A)) {
        let mut pace = Pace::default();
        loop {
            poll_fn(|cx| self.poll_work(cx)).await;
            for peer in self.peers() {
                self.collect_from(peer, &mut unclaimed);
                self.answer_to(peer, &mut answer);
                pace.breathe().await;
            }
        }
    }

    /// The queue of those who wait for `to`, if that is another shard of this mesh.
    fn waiting_for(&self, to: ShardId) -> Option<&RefCell<VecDeque<Promise<A>>>> {
        debug_assert_ne!(to, self.shard, "a shard asks itself directly");
        if to == self.shard { None } else { self.waiting.get(to.index()) }
    }

    fn send(&self, to: ShardId, note: Note<Q>) -> Result<(), Note<Q>> {
        let desk = self.fabric.desk(to);
        if desk.gone.load(Acquire) {
            return Err(note);
        }
        self.fabric.questions(self.shard, to).push(note)?;
        desk.wake();
        Ok(())
    }

    fn peers(&self) -> impl Iterator<Item = ShardId> + use<Q, A> {
        let own = self.shard;
        (0..self.waiting.len()).map(|index| ShardId(index as u16)).filter(move |peer| *peer != own)
    }

    fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_work() {
            return Poll::Ready(());
        }
        self.fabric.desk(self.shard).waker.register(cx.waker());
        // What came between the look and the registration would otherwise wait for the next wake.
        if self.has_work() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_work(&self) -> bool {
        self.peers().any(|peer| {
            !self.fabric.questions(peer, self.shard).is_empty()
                || !self.fabric.answers(peer, self.shard).is_empty()
                || self.fabric.desk(peer).gone.load(Acquire) && !self.waiting[peer.index()].borrow().is_empty()
        })
    }

    /// Hands out the answers of a shard; and if it has ended, lets go of those whose answer will never come.
    fn collect_from(&self, peer: ShardId, unclaimed: &mut impl FnMut(ShardId, A)) {
        // Looked at first: what the shard answered before it ended is then in the ring.
        let gone = self.fabric.desk(peer).gone.load(Acquire);
        let waiting = &self.waiting[peer.index()];
        while let Some(answer) = self.fabric.answers(peer, self.shard).pop() {
            let promise = waiting.borrow_mut().pop_front();
            if let Some(promise) = promise
                && let Err(answer) = promise.keep(answer)
            {
                unclaimed(peer, answer);
            }
        }
        if gone {
            drop(waiting.take());
        }
    }

    /// Answers what a shard has asked, up to [`TURN_MAX`] questions, and wakes it once for all of them.
    fn answer_to(&self, peer: ShardId, answer: &mut impl FnMut(ShardId, Q) -> A) {
        let questions = self.fabric.questions(peer, self.shard);
        let answers = self.fabric.answers(self.shard, peer);
        let mut answered = false;
        for note in std::iter::from_fn(|| questions.pop()).take(TURN_MAX) {
            match note {
                Note::Tidings(tidings) => drop(answer(peer, tidings)),
                Note::Question(question) => {
                    let fits = answers.push(answer(peer, question)).is_ok();
                    assert!(fits, "the ring of answers has room for every question under way");
                    answered = true;
                }
            }
        }
        if answered {
            self.fabric.desk(peer).wake();
        }
    }
}
