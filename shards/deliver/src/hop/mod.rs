//! The targets `lmtp` and `smtp`: servers that take mail over a connection that we open.
//!
//! A [`Hop`] belongs to one shard. It keeps open connections for further messages (`pool.rs`), shares new ones out over its
//! servers (`hosts.rs`), brings a connection up to where it takes mail (`connect.rs`, `session.rs`), sends a message over it
//! (`exchange.rs`), makes an outcome of each reply (`reply.rs`), and does all that for one message until each recipient has its
//! outcome (`delivery.rs`).
//!
//! Invariants: nothing is waited for without a deadline; a recipient counts as delivered only by a positive reply to the
//! whole message, and as failed only by a reply that speaks of the message or of the recipient; a message that is damaged in
//! the spool is never sent to its end.
//!
//! What it refuses: to decide how much is sent at a time, or whether a server that fails is left alone; that is for the
//! owner of the destination.

mod connect;
mod delivery;
mod exchange;
mod hosts;
mod pool;
mod reply;
mod session;
#[cfg(test)]
mod tests;
mod trouble;

use crate::parcel::{Done, Parcel};
use delivery::Delivery;
use hosts::Hosts;
use pool::Pool;
use ringpost_config::{HopOptions, HopPlace, HopTls, TargetKind};
use ringpost_dns::Resolver;
use ringpost_metrics::Block;
use ringpost_net::{ClientIdentity, ClientTls, ClientTlsOptions, NetError};
use ringpost_runtime::{sleep, spawn, tick};
use ringpost_smtp::Protocol;
use session::Session;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How often at most the waiting connections are looked at.
const SWEEP_MIN: Duration = Duration::from_millis(20);

/// What a hop is made of.
pub(crate) struct HopSetup {
    /// The target's name.
    pub(crate) name: Rc<str>,
    /// What it is: `Lmtp` or `Smtp`.
    pub(crate) kind: TargetKind,
    /// What we call ourselves.
    pub(crate) helo: Rc<str>,
    /// Looks up the servers.
    pub(crate) resolver: Rc<Resolver>,
    /// Where is counted.
    pub(crate) block: Arc<Block>,
}

/// Why a hop can't be made.
#[derive(Debug, Error)]
pub(crate) enum HopError {
    /// It is neither kind.
    #[error("not a target that is reached by SMTP or LMTP")]
    Kind,
    /// A file can't be read.
    #[error("can't read {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        reason: std::io::Error,
    },
    /// TLS can't be set up from what the files hold.
    #[error(transparent)]
    Tls(#[from] NetError),
}

/// A next hop, as one shard sees it.
pub(crate) struct Hop {
    name: Rc<str>,
    protocol: Protocol,
    options: HopOptions,
    helo: Rc<str>,
    /// Nothing if TLS is off.
    tls: Option<ClientTls>,
    resolver: Rc<Resolver>,
    block: Arc<Block>,
    hosts: RefCell<Hosts>,
    pool: RefCell<Pool>,
    /// Whether a task looks after the waiting connections.
    swept: Cell<bool>,
    /// Whether connections are not kept any more.
    closed: Cell<bool>,
}

impl Hop {
    /// Sets a hop up; nothing is connected yet. Reads the files that its options name.
    ///
    /// # Errors
    /// If one of them can't be used.
    pub(crate) fn new(setup: HopSetup) -> Result<Rc<Self>, HopError> {
        let HopSetup { name, kind, helo, resolver, block } = setup;
        let (protocol, options) = match kind {
            TargetKind::Lmtp(options) => (Protocol::Lmtp, options),
            TargetKind::Smtp(options) => (Protocol::Smtp, options),
            _ => return Err(HopError::Kind),
        };
        let (tls, hosts) = (tls(&options)?, RefCell::new(Hosts::new(&options.hosts)));
        let (pool, swept, closed) = (RefCell::default(), Cell::new(false), Cell::new(false));
        Ok(Rc::new(Self { name, protocol, options, helo, tls, resolver, block, hosts, pool, swept, closed }))
    }

    /// Takes a message there. Dropped before it is done, it closes its connection; what has become of the message is
    /// then unknown.
    pub(crate) async fn deliver(self: &Rc<Self>, parcel: &Parcel) -> Done {
        // Boxed: it is large, and whoever waits for it should not be.
        Box::pin(Delivery::new(self, parcel).run()).await
    }

    /// Closes all waiting connections; those in use are closed when they come back.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let waiting = self.pool.borrow_mut().empty();
        waiting.into_iter().for_each(part);
    }

    /// A connection that was kept, to none of the servers that were tried.
    fn kept(&self, tried: &[usize]) -> Option<Session> {
        let (hosts, now) = (self.hosts.borrow(), tick());
        self.pool.borrow_mut().take(|host| !tried.contains(&host) && hosts.is_wanted(host, now))
    }

    /// Takes a connection back, for another message if there can be one.
    fn give(self: &Rc<Self>, session: Session) {
        let Some(mut session) = self.if_usable(session) else { return };
        session.lighten();
        if let Some(oldest) = self.pool.borrow_mut().give(session, tick()) {
            part(oldest);
        }
        if !self.swept.replace(true) {
            spawn("close waiting connections", sweep(Rc::downgrade(self)));
        }
    }

    /// The session, if another message can go over it. If not, farewell is said.
    fn if_usable(&self, session: Session) -> Option<Session> {
        let room = session.messages < self.options.messages_per_connection && session.sender.can_begin();
        if room && !self.closed.get() {
            return Some(session);
        }
        part(session);
        None
    }

    /// What the log calls a host.
    fn label(&self, host: usize) -> String {
        self.options.hosts.get(host).map(|host| label(&host.place)).unwrap_or_default()
    }
}

/// Closes connections that have waited for too long, until none is left or the hop is gone.
async fn sweep(hop: Weak<Hop>) {
    loop {
        let Some(this) = hop.upgrade() else { return };
        let span = this.options.idle_timeout.0;
        let expired = this.pool.borrow_mut().expired(span, tick());
        expired.into_iter().for_each(part);
        let Some(next) = this.pool.borrow().next_expiry(span, tick()) else {
            this.swept.set(false);
            return;
        };
        drop(this);
        sleep(next.max(SWEEP_MIN)).await;
    }
}

/// Says farewell to a server, and waits for nothing else.
fn part(session: Session) {
    spawn("farewell", session.quit());
}

/// Reads the files that options name, as making a hop does.
///
/// # Errors
/// If one of them can't be used.
pub(crate) fn check(options: &HopOptions) -> Result<(), HopError> {
    tls(options).map(drop)
}

fn tls(options: &HopOptions) -> Result<Option<ClientTls>, HopError> {
    if options.tls == HopTls::Off {
        return Ok(None);
    }
    let read =
        |path: &String| std::fs::read(path).map_err(|reason| HopError::File { path: PathBuf::from(path), reason });
    let ca = options.tls_ca.as_ref().map(read).transpose()?;
    let identity = match &options.tls_certificate {
        Some(files) => Some(ClientIdentity { chain: read(&files.cert)?, key: read(&files.key)? }),
        None => None,
    };
    let verify = options.tls == HopTls::Verified;
    Ok(Some(ClientTls::new(&ClientTlsOptions { verify, ca, identity })?))
}

/// What the log calls a place.
fn label(place: &HopPlace) -> String {
    match place {
        HopPlace::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        HopPlace::Tcp { host, port } => format!("{host}:{port}"),
        HopPlace::Unix(path) => format!("unix:{path}"),
    }
}
