//! One delivery: a message to all its recipients at this hop, over as many sessions and servers as it takes.
//!
//! A server that does not work is left for the next one, as long as nothing was handed over; what a server says of the
//! message or of a recipient is the answer. Every turn of the loop answers a recipient, or uses up a server, or the one free
//! repetition that a connection is good for which was kept for too long; so it ends.

use super::exchange::Exchanged;
use super::reply::{Judgement, is_of_the_session, judge};
use super::session::Session;
use super::trouble::{OUR_SYSTEM, Trouble};
use super::{Hop, Protocol, part};
use crate::parcel::{Done, Parcel};
use ringpost_base::SpoolId;
use ringpost_metrics::Counter;
use ringpost_queue::{How, Outcome, Reason, Status};
use ringpost_runtime::tick;
use ringpost_smtp::sender::{RecipientReply, Stage, Unsendable};
use std::rc::Rc;

/// Servers that don't work of one attempt. Each may take all of its timeouts, and the attempt holds a slot of the destination
/// for all that time; the others have their turn at the next attempt. Those that work and have not what the message needs have
/// said so at once and don't count: the message goes back only if none has it.
const HOSTS_MAX: usize = 4;

/// A delivery under way.
pub(super) struct Delivery<'a> {
    hop: &'a Rc<Hop>,
    parcel: &'a Parcel,
    /// Recipients without an outcome.
    left: Vec<u32>,
    outcomes: Vec<(u32, Outcome)>,
    /// Servers that did not work, or have not what the message needs.
    tried: Vec<usize>,
    /// Those of them that have not what the message needs.
    lacking: usize,
    /// A connection that was kept turned out to be over; the others may be too.
    fresh: bool,
    /// Why the last server that did not work did not.
    trouble: Option<Trouble>,
    /// What the last server that has not what the message needs has not.
    unsendable: Option<Unsendable>,
    /// The server that answered blames the session, or has ended it.
    hop_failed: bool,
    /// The last server that had to do with it.
    remote: Option<Rc<str>>,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(hop: &'a Rc<Hop>, parcel: &'a Parcel) -> Self {
        Self {
            hop,
            parcel,
            left: parcel.recipients.clone(),
            outcomes: Vec::with_capacity(parcel.recipients.len()),
            tried: Vec::new(),
            lacking: 0,
            fresh: false,
            trouble: None,
            unsendable: None,
            hop_failed: false,
            remote: None,
        }
    }

    pub(super) async fn run(mut self) -> Done {
        let mut session = None;
        while !self.left.is_empty() {
            let next = match session.take() {
                Some(session) => Some(session),
                None => self.session().await,
            };
            let Some(next) = next else { break };
            session = self.exchange(next).await;
        }
        if let Some(session) = session {
            self.hop.give(session);
        }
        self.finish()
    }

    /// A session that can take a message: one that was kept, or a new one.
    async fn session(&mut self) -> Option<Session> {
        if !self.fresh
            && let Some(mut session) = self.hop.kept(&self.tried)
        {
            session.kept = true;
            self.hop.block.add(Counter::HopConnectionsReused, 1);
            return Some(session);
        }
        while self.tried.len() - self.lacking < HOSTS_MAX {
            let (host, place) = self.hop.hosts.borrow_mut().choose(&self.tried, tick())?;
            let awaited = Awaited::new(self.hop, host, self.parcel.id);
            let opened = self.hop.open(host, &place, !self.parcel.envelope.require_tls).await;
            awaited.over();
            match opened {
                Ok(session) => return Some(session),
                Err(trouble) => self.host_failed(host, trouble),
            }
        }
        None
    }

    fn host_failed(&mut self, host: usize, trouble: Trouble) {
        let (id, target, reason) = (self.parcel.id, &*self.hop.name, &trouble.reason);
        tracing::warn!(id = %id, destination = target, host = self.hop.label(host), reason = %reason, "a next hop does not work");
        self.hop.hosts.borrow_mut().failed(host, tick());
        self.tried.push(host);
        self.trouble = Some(trouble);
        self.remote = Some(self.hop.label(host).into());
    }

    /// Gives the session back if it can be used further.
    async fn exchange(&mut self, mut session: Session) -> Option<Session> {
        let mut recipients = std::mem::take(&mut self.left);
        self.left = recipients.split_off(recipients.len().min(session.recipients_max));
        let host = session.peer.host;
        self.remote = Some(session.peer.label.clone());
        let awaited = Awaited::new(self.hop, host, self.parcel.id);
        let exchanged = self.hop.exchange(&mut session, self.parcel, &recipients).await;
        awaited.over();
        match exchanged {
            Exchanged::Answered(replies, over) => {
                self.take(&mut session, &recipients, &replies, over.as_ref());
                session.kept = false;
                if over.is_some() {
                    return None;
                }
                self.hop.hosts.borrow_mut().worked(host);
                if replies.iter().any(is_of_the_session) {
                    part(session);
                    return None;
                }
                self.hop.if_usable(session)
            }
            Exchanged::Unsendable(unsendable) => {
                self.left.splice(..0, recipients);
                self.tried.push(host);
                self.lacking += 1;
                self.unsendable = Some(unsendable);
                self.hop.give(session);
                None
            }
            Exchanged::Lost { trouble, unheard } => {
                self.left.splice(..0, recipients);
                if session.kept && unheard && trouble.closed {
                    self.fresh = true;
                } else {
                    self.host_failed(host, trouble);
                }
                None
            }
            Exchanged::Unreadable(reason) => {
                tracing::error!(id = %self.parcel.id, destination = &*self.hop.name, reason, "a message can't be read; kept in the spool");
                recipients.append(&mut self.left);
                let outcome = Outcome::Deferred(Reason::ours(OUR_SYSTEM, "the message can't be read from the spool"));
                self.outcomes.extend(recipients.into_iter().map(|number| (number, outcome.clone())));
                None
            }
        }
    }

    /// Takes the replies to a message. `over` is why the session ended with it, if it did.
    fn take(&mut self, session: &mut Session, recipients: &[u32], replies: &[RecipientReply], over: Option<&Trouble>) {
        let how = match self.hop.protocol {
            // Whoever has the extension and was asked for reports makes them (RFC 3461 section 5.2.1).
            _ if session.sender.reports() => How::Passed,
            Protocol::Lmtp => How::Final,
            Protocol::Smtp => How::Relayed,
        };
        let (name, label) = (session.peer.name.as_ref(), &*session.peer.label);
        let taken = replies.iter().filter(|reply| matches!(reply.stage, Stage::Data | Stage::End)).count();
        let delivered = replies.iter().filter(|reply| reply.is_positive()).count();
        let count = recipients.len();
        tracing::debug!(id = %self.parcel.id, destination = &*self.hop.name, host = label, recipients = count, delivered, "exchange");
        for (number, reply) in recipients.iter().zip(replies) {
            let judgement = match over {
                // RFC 5321 section 6.1: the message may have been taken and may not; a second one is the lesser evil.
                Some(trouble) if reply.code == 0 => Judgement::Blamed(trouble.reason.clone()),
                _ => judge(reply, how, name),
            };
            let outcome = match judgement {
                Judgement::Outcome(outcome) => outcome,
                Judgement::Later(_) if reply.stage == Stage::Unsent || taken > 0 => {
                    self.left.push(*number);
                    continue;
                }
                Judgement::Later(reason) => Outcome::Deferred(reason),
                Judgement::Blamed(reason) => {
                    self.hop_failed = true;
                    Outcome::Deferred(reason)
                }
            };
            self.outcomes.push((*number, outcome));
        }
        if taken > 0 && !self.left.is_empty() {
            session.recipients_max = session.recipients_max.min(taken);
        }
    }

    fn finish(mut self) -> Done {
        let trouble = self.trouble.filter(|_| !self.left.is_empty());
        let outcome = match (trouble, self.unsendable) {
            (Some(trouble), unsendable) => {
                // One that works, but not for this message, is a hop that works.
                self.hop_failed |= unsendable.is_none();
                Outcome::Deferred(trouble.reason)
            }
            (None, Some(unsendable)) => {
                let (class, subject, detail) = unsendable.status;
                let reason = Reason::ours(Status(class, subject, detail), &unsendable.text);
                if unsendable.is_permanent() { Outcome::Failed(reason) } else { Outcome::Deferred(reason) }
            }
            (None, None) => Outcome::Deferred(Reason::ours(OUR_SYSTEM, "the target has no host to be tried")),
        };
        self.outcomes.extend(self.left.iter().map(|number| (*number, outcome.clone())));
        Done { outcomes: self.outcomes, hop_failed: self.hop_failed, remote: self.remote }
    }
}

/// A server that is waited for. If this ends before the wait does, whoever wanted the message delivered has given up, as a client
/// that is promised its delivery does before our own timeouts are over. Then it is a server that does not work, and messages that
/// come now are not to wait for it too.
struct Awaited<'a> {
    hop: &'a Hop,
    host: usize,
    id: SpoolId,
    over: bool,
}

impl<'a> Awaited<'a> {
    fn new(hop: &'a Hop, host: usize, id: SpoolId) -> Self {
        Self { hop, host, id, over: false }
    }

    /// The wait is over, however it ended.
    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        // A fault of ours is none of the server's.
        if self.over || std::thread::panicking() {
            return;
        }
        let (id, target) = (self.id, &*self.hop.name);
        tracing::warn!(id = %id, destination = target, host = self.hop.label(self.host), "a next hop was given up before it answered");
        self.hop.hosts.borrow_mut().failed(self.host, tick());
    }
}
