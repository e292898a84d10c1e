//! The MX listener of one shard: takes connections, says which are served, and contains their panics.

use crate::dialogue::Dialogue;
use ringpost_base::{ByteCount, Entropy, MessageIds, SessionId, SessionIds, ShardId, SpoolId, Timestamp};
use ringpost_metrics::{Block, Counter, Gauge};
use ringpost_net::{Acceptor, Closed, Connection};
use ringpost_policy::{Capacity, Load, Policy};
use ringpost_queue::Item;
use ringpost_runtime::{contain, now, spawn};
use ringpost_smtp::{Options, Reply, Session, Setup, TlsUse, replies};
use ringpost_store::{Receipt, Store};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a client has to take the last words it is told.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Connections told at one time why they are not served; further ones are closed without a word.
const TURNING_AWAY_MAX: usize = 256;

/// What an MX is made of.
pub struct MxSetup {
    /// Which shard.
    pub shard: ShardId,
    /// Randomness for ids.
    pub entropy: Entropy,
    /// Options of the protocol.
    pub options: Rc<Options>,
    /// The rules.
    pub policy: Policy,
    /// What this core may carry.
    pub capacity: Capacity,
    /// Time for a command.
    pub command_timeout: Duration,
    /// Time between two pieces of a message.
    pub data_timeout: Duration,
    /// Makes TLS sessions.
    pub acceptor: Acceptor,
    /// The spool.
    pub store: Rc<Store>,
    /// Where it counts.
    pub block: Arc<Block>,
    /// Where accepted messages go.
    pub accepted: Box<dyn Fn(Item)>,
}

/// The MX of one shard, shared by its listeners.
pub struct Mx {
    pub(crate) setup: MxSetup,
    message_ids: RefCell<MessageIds>,
    session_ids: RefCell<SessionIds>,
    /// Connections being told that they are not served.
    turning_away: Cell<usize>,
}

/// One listener of an MX.
#[derive(Clone)]
pub struct MxListener {
    mx: Rc<Mx>,
    name: Rc<str>,
    tls: TlsUse,
}

impl Mx {
    /// An MX with nothing connected.
    pub fn new(setup: MxSetup) -> Rc<Self> {
        let message_ids = RefCell::new(MessageIds::new(setup.shard, setup.entropy));
        let session_ids = RefCell::new(SessionIds::new(setup.shard, setup.entropy));
        Rc::new(Self { setup, message_ids, session_ids, turning_away: Cell::new(0) })
    }

    /// A listener of it.
    pub fn listener(self: &Rc<Self>, name: &str, tls: TlsUse) -> MxListener {
        MxListener { mx: self.clone(), name: name.into(), tls }
    }

    pub(crate) fn next_message_id(&self, at: Timestamp) -> SpoolId {
        self.message_ids.borrow_mut().next(at)
    }

    /// What the core carries now, as evidence for policy.
    pub(crate) fn load(&self) -> Load {
        let block = &self.setup.block;
        Load {
            connections: block.gauge(Gauge::SessionsOpen) as usize,
            messages_in_flight: block.gauge(Gauge::MessagesInFlight) as usize,
            message_memory: ByteCount(block.gauge(Gauge::MessageMemory)),
            spool_backlog: ByteCount(block.gauge(Gauge::SpoolBacklog)),
            spool_failing: self.setup.store.is_refusing(),
        }
    }

    pub(crate) fn block(&self) -> &Block {
        &self.setup.block
    }
}

/// Keeps the count of open sessions, also where one panics.
struct Open<'a>(&'a Mx);

impl<'a> Open<'a> {
    fn new(mx: &'a Mx) -> Self {
        mx.block().raise(Gauge::SessionsOpen, 1);
        Self(mx)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.block().lower(Gauge::SessionsOpen, 1);
    }
}

impl MxListener {
    /// Serves a connection, in a task of its own.
    pub fn take(&self, connection: Connection) {
        let connection = Box::new(connection);
        let mx = &self.mx;
        mx.block().add(Counter::SessionsOpened, 1);
        let id = mx.session_ids.borrow_mut().next(now().wall);
        match mx.setup.policy.connection(&mx.load(), &mx.setup.capacity).refusal() {
            None => spawn("session", self.clone().serve(connection, id)),
            Some(reply) => {
                mx.block().add(Counter::SessionsRefused, 1);
                if mx.turning_away.get() >= TURNING_AWAY_MAX {
                    return;
                }
                mx.turning_away.set(mx.turning_away.get() + 1);
                // Where TLS comes first there is no way to say why.
                let words = (self.tls != TlsUse::Implicit).then_some(reply);
                spawn("refusal", self.clone().turn_away(connection, id, words));
            }
        }
    }

    async fn serve(self, mut connection: Box<Connection>, id: SessionId) {
        let mx = self.mx.clone();
        let open = Open::new(&mx);
        tracing::debug!(session = %id, peer = %connection.peer(), listener = &*self.name, "connected");
        let outcome = contain(Box::pin(self.converse(&mut connection, id))).await;
        let how = match outcome {
            Ok(how) => how,
            Err(panic) => {
                mx.block().add(Counter::SessionsPanicked, 1);
                tracing::error!(session = %id, peer = %connection.peer(), panic, "session panicked");
                Box::pin(self.last_words(&mut connection, id, &replies::INTERNAL)).await;
                Counter::SessionsClosedServer
            }
        };
        drop(open);
        mx.block().add(how, 1);
        tracing::debug!(session = %id, how = how.family().label.map_or("", |(_, how)| how), "disconnected");
        connection.allow(LAST_WORDS, false);
        let linger = how == Counter::SessionsClosedServer || how == Counter::SessionsClosedTimeout;
        Box::pin(connection.close(linger)).await;
    }

    /// The whole of a session; says how it ended.
    async fn converse(&self, connection: &mut Connection, id: SessionId) -> Counter {
        let mut dialogue = Dialogue::new(&self.mx, self.session(id), id, connection.peer());
        let closed = match self.open(connection, &mut dialogue).await {
            Ok(()) => dialogue.run(connection).await,
            Err(closed) => Some(closed),
        };
        let how = match closed {
            None if dialogue.has_quit() => Counter::SessionsClosedQuit,
            None | Some(Closed::Stopping) => Counter::SessionsClosedServer,
            Some(Closed::Peer) => Counter::SessionsClosedPeer,
            Some(Closed::Timeout) => Counter::SessionsClosedTimeout,
            Some(Closed::Tls) => Counter::SessionsClosedTls,
        };
        let words = match closed {
            Some(Closed::Stopping) => Some(replies::SHUTDOWN),
            Some(Closed::Timeout) => Some(replies::TIMEOUT),
            _ => None,
        };
        if let Some(reply) = words {
            connection.allow(LAST_WORDS, false);
            dialogue.end(connection, &reply).await;
        }
        how
    }

    async fn open(&self, connection: &mut Connection, dialogue: &mut Dialogue<'_>) -> Result<(), Closed> {
        if self.tls == TlsUse::Implicit {
            Box::pin(dialogue.secure(connection)).await?;
        }
        dialogue.greet(connection).await
    }

    fn session(&self, id: SessionId) -> Session<Receipt> {
        let secure = self.tls == TlsUse::Implicit;
        Session::new(Setup { options: self.mx.setup.options.clone(), tls: self.tls, secure, id })
    }

    async fn turn_away(self, mut connection: Box<Connection>, id: SessionId, words: Option<Reply>) {
        connection.allow(LAST_WORDS, false);
        if let Some(reply) = words {
            self.last_words(&mut connection, id, &reply).await;
        }
        connection.close(true).await;
        self.mx.turning_away.set(self.mx.turning_away.get() - 1);
    }

    /// Says one thing to a client whose session is over or never was.
    async fn last_words(&self, connection: &mut Connection, id: SessionId, reply: &Reply) {
        let mut session = self.session(id);
        let mut out = Vec::new();
        session.end(reply, &mut out);
        self.mx.block().add(Counter::RepliesTransient, u64::from(session.take_tally().transient));
        connection.allow(LAST_WORDS, false);
        // The client may be gone; then nobody is left to be told.
        let _ = connection.send(&mut out).await;
    }
}
