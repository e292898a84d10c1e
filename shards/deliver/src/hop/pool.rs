//! The connections of a hop that wait for another message.
//!
//! The last one used is the first to be used again, so that in a lull the others grow old and go. What is in the pool
//! costs the server at the other end something too; so it is bounded in number and in time.

use super::session::Session;
use ringpost_base::Tick;
use std::time::Duration;

/// Connections of one shard to one hop that wait. Between two messages of a busy hop each waits for a moment only, so this is
/// above what any sensible concurrency leaves here; more would be descriptors that nobody uses.
const IDLE_MAX: usize = 64;

struct Idle {
    session: Session,
    since: Tick,
}

/// Waiting connections, the last used at the end.
#[derive(Default)]
pub(super) struct Pool(Vec<Idle>);

impl Pool {
    /// A connection that still lives, to a server that is wanted now. Those to others stay until their time is over.
    pub(super) fn take(&mut self, wanted: impl Fn(usize) -> bool) -> Option<Session> {
        for at in (0..self.0.len()).rev() {
            let session = &self.0[at].session;
            if !session.is_alive() {
                // It has ended, or said something unasked, which is mostly that it ends.
                self.0.remove(at);
            } else if wanted(session.peer.host) {
                return Some(self.0.remove(at).session);
            }
        }
        None
    }

    /// Takes a connection back. Gives the oldest one where there is no room.
    pub(super) fn give(&mut self, session: Session, now: Tick) -> Option<Session> {
        self.0.push(Idle { session, since: now });
        (self.0.len() > IDLE_MAX).then(|| self.0.remove(0).session)
    }

    /// Takes out what has waited for `span`.
    pub(super) fn expired(&mut self, span: Duration, now: Tick) -> Vec<Session> {
        // Given back in the order of time, so the old ones are in front.
        let count = self.0.iter().take_while(|idle| now.since(idle.since) >= span).count();
        self.0.drain(..count).map(|idle| idle.session).collect()
    }

    /// How long until the first has waited for `span`.
    pub(super) fn next_expiry(&self, span: Duration, now: Tick) -> Option<Duration> {
        self.0.first().map(|idle| span.saturating_sub(now.since(idle.since)))
    }

    /// Takes all out.
    pub(super) fn empty(&mut self) -> Vec<Session> {
        self.0.drain(..).map(|idle| idle.session).collect()
    }
}
