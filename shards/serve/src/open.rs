//! The sessions that are open, as an operator sees them.
//!
//! Each session has an [`Open`] for as long as its socket is, and writes what is to be seen of it there as it goes; who wants to
//! see reads it from a task of the same shard, while the session waits. Nothing here decides anything.

use crate::mx::Mx;
use ringpost_base::{Network, SessionId, Tick};
use ringpost_metrics::Gauge;
use ringpost_runtime::tick;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// What a session is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before its banner.
    Banner,
    /// Shaking hands for TLS.
    Handshake,
    /// It waits for a command.
    Command,
    /// A command is being decided about.
    Deciding,
    /// A body is coming.
    Body,
    /// A message has come, and is being made durable.
    Committing,
    /// It is told the last words, or they were told and its socket is still open.
    Closing,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Banner => "banner",
            Self::Handshake => "handshake",
            Self::Command => "command",
            Self::Deciding => "deciding",
            Self::Body => "body",
            Self::Committing => "committing",
            Self::Closing => "closing",
        }
    }
}

/// A session that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Its id.
    pub id: SessionId,
    /// The name of the listener that it came in at.
    pub listener: Rc<str>,
    /// The client's address: the presented one, if one was presented.
    pub client: IpAddr,
    /// The name that the client gave.
    pub helo: Option<String>,
    /// The version of TLS; nothing without.
    pub tls: Option<&'static str>,
    /// When the connection was taken.
    pub since: Tick,
    /// What it is at.
    pub state: &'static str,
    /// Messages accepted in it.
    pub messages: u64,
    /// How long the client has said nothing.
    pub idle: Duration,
}

/// What is to be seen of one session.
pub(crate) struct Seen {
    listener: Rc<str>,
    client: Cell<IpAddr>,
    helo: RefCell<Option<Box<str>>>,
    tls: Cell<Option<&'static str>>,
    since: Tick,
    stage: Cell<Stage>,
    messages: Cell<u32>,
    /// When the client last said something.
    heard: Cell<Tick>,
}

impl Seen {
    /// The name of its listener.
    pub(crate) fn listener(&self) -> &str {
        &self.listener
    }

    /// It is at this now.
    pub(crate) fn at(&self, stage: Stage) {
        self.stage.set(stage);
    }

    /// The client is of this address; it has just been found out.
    pub(crate) fn from(&self, client: IpAddr) {
        self.client.set(client);
    }

    /// The client calls itself so, or no longer calls itself anything.
    pub(crate) fn greeted(&self, name: Option<&str>) {
        self.helo.replace(name.map(Into::into));
    }

    /// TLS is on.
    pub(crate) fn secured(&self, version: &'static str) {
        self.tls.set(Some(version));
    }

    /// A message was accepted.
    pub(crate) fn accepted(&self) {
        self.messages.set(self.messages.get().saturating_add(1));
    }

    /// The client said something.
    pub(crate) fn heard(&self, at: Tick) {
        self.heard.set(at);
    }

    /// When the client last said something.
    pub(crate) fn last_heard(&self) -> Tick {
        self.heard.get()
    }

    fn show(&self, id: SessionId, now: Tick) -> OpenSession {
        OpenSession {
            id,
            listener: self.listener.clone(),
            client: self.client.get(),
            helo: self.helo.borrow().as_deref().map(str::to_owned),
            tls: self.tls.get(),
            since: self.since,
            state: self.stage.get().name(),
            messages: self.messages.get().into(),
            idle: now.since(self.heard.get()),
        }
    }
}

/// The open sessions of a shard. Ids grow with time, so the oldest come first.
#[derive(Default)]
pub(crate) struct OpenSessions(RefCell<BTreeMap<SessionId, Rc<Seen>>>);

/// A session's place among those that are open, and in their count; it leaves with this, also where it panics.
pub(crate) struct Open<'a> {
    mx: &'a Mx,
    id: SessionId,
    pub(crate) seen: Rc<Seen>,
}

impl<'a> Open<'a> {
    /// The MX that serves it.
    pub(crate) fn mx(&self) -> &'a Mx {
        self.mx
    }

    /// Its id.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn new(mx: &'a Mx, id: SessionId, listener: &Rc<str>, client: IpAddr) -> Self {
        mx.block().raise(Gauge::SessionsOpen, 1);
        let since = tick();
        let seen = Rc::new(Seen {
            listener: listener.clone(),
            client: Cell::new(client),
            helo: RefCell::default(),
            tls: Cell::default(),
            since,
            stage: Cell::new(Stage::Banner),
            messages: Cell::default(),
            heard: Cell::new(since),
        });
        mx.open.0.borrow_mut().insert(id, seen.clone());
        Self { mx, id, seen }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.mx.open.0.borrow_mut().remove(&self.id);
        self.mx.block().lower(Gauge::SessionsOpen, 1);
    }
}

impl Mx {
    /// The sessions that are open, the oldest first, at most `limit`, of clients in `network` if one is named; and how many
    /// such there are in all.
    pub fn sessions(&self, limit: usize, network: Option<Network>) -> (Vec<OpenSession>, usize) {
        let open = self.open.0.borrow();
        let now = tick();
        let fits = |seen: &Rc<Seen>| network.is_none_or(|network| network.contains(seen.client.get()));
        let fitting = || open.iter().filter(|(_, seen)| fits(seen));
        let total = if network.is_none() { open.len() } else { fitting().count() };
        (fitting().take(limit).map(|(id, seen)| seen.show(*id, now)).collect(), total)
    }
}
