//! One session: steps of the machine in, answers of policy and spool out.
//!
//! The way of a message, in the order of this file: a step becomes an envelope and a body, the body's headers become
//! evidence, evidence a decision, a commit a receipt, a receipt the 250, and last an item of the queue.

use crate::mx::Mx;
use ringpost_base::{Accepted, SessionId, SpoolId, Tick, Timestamp};
use ringpost_message::{Arrival, Envelope, Headers, Security, received};
use ringpost_metrics::{Counter, Gauge, Timing};
use ringpost_net::{Closed, Connection};
use ringpost_queue::Item;
use ringpost_runtime::{Pace, now, tick};
use ringpost_smtp::{BodyKind, Mail, Rcpt, Reply, Session, Step, replies};
use ringpost_store::{Draft, Failure, Receipt};
use std::net::SocketAddr;

/// A message between MAIL and its final reply.
struct Message<'a> {
    mx: &'a Mx,
    id: SpoolId,
    arrived: Timestamp,
    mail: Mail,
    recipients: Vec<Box<str>>,
    /// From the go-ahead on.
    body: Option<Body>,
}

/// What has come of a body.
struct Body {
    draft: Draft,
    /// Bytes of our own trace header at the front.
    trace: usize,
    /// What the headers say, once they are no longer all in memory.
    headers: Option<Headers>,
    /// The spool could not take a part: what still comes is thrown away, and the message refused at its end.
    broken: bool,
    since: Tick,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.mx.block().lower(Gauge::MessagesInFlight, 1);
    }
}

pub(crate) struct Dialogue<'a> {
    mx: &'a Mx,
    session: Session<Receipt>,
    id: SessionId,
    peer: SocketAddr,
    out: Vec<u8>,
    security: Option<Box<Security>>,
    message: Option<Box<Message<'a>>>,
}

impl<'a> Dialogue<'a> {
    pub(crate) fn new(mx: &'a Mx, session: Session<Receipt>, id: SessionId, peer: SocketAddr) -> Self {
        Self { mx, session, id, peer, out: Vec::new(), security: None, message: None }
    }

    pub(crate) fn has_quit(&self) -> bool {
        self.session.has_quit()
    }

    pub(crate) async fn greet(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        connection.allow(self.mx.setup.command_timeout, false);
        self.session.greet(&mut self.out);
        self.flush(connection).await
    }

    /// Runs until the session is over; gives what closed it, if it was not the dialogue itself.
    pub(crate) async fn run(&mut self, connection: &mut Connection) -> Option<Closed> {
        let mut pace = Pace::default();
        loop {
            // A client whose commands never run out must not hold the core.
            pace.breathe().await;
            let step = match self.next(connection).await {
                Ok(step) => step,
                Err(closed) => return Some(closed),
            };
            match self.take(step, connection).await {
                Ok(None) => {}
                Ok(Some(Step::Close)) => return self.flush(connection).await.err(),
                Ok(Some(_)) => self.message = None,
                Err(closed) => return Some(closed),
            }
        }
    }

    /// Tells the client one last thing.
    pub(crate) async fn end(&mut self, connection: &mut Connection, reply: &Reply) {
        self.message = None;
        self.session.end(reply, &mut self.out);
        self.count_replies();
        // The client may be gone; then nobody is left to be told. The time it has was set by who ends the session.
        let _ = connection.send(&mut self.out).await;
    }

    async fn next(&mut self, connection: &mut Connection) -> Result<Step, Closed> {
        let setup = &self.mx.setup;
        let in_body = self.session.in_body();
        connection.allow(if in_body { setup.data_timeout } else { setup.command_timeout }, in_body);
        let may_stop = !self.session.in_transaction();
        let Self { session, out, message, .. } = self;
        let mut nowhere = Vec::new();
        connection
            .feed(may_stop, |input| {
                let body = message.as_mut().and_then(|message| message.body.as_mut());
                let (used, step, heavy) = match body {
                    Some(body) if !body.broken => {
                        let (used, step) = session.advance(input, body.draft.buffer(), out);
                        body.draft.account();
                        (used, step, body.draft.is_heavy())
                    }
                    _ => {
                        let (used, step) = session.advance(input, &mut nowhere, out);
                        nowhere.clear();
                        (used, step, false)
                    }
                };
                // RFC 2920 section 3.2: replies are gathered for as long as there is input.
                let wait = step == Step::Need && out.is_empty() && !heavy;
                (used, (!wait).then_some(step))
            })
            .await
    }

    /// Does what a step asks for. What is long and rare is boxed: an idle session pays for its future's size.
    /// A step that comes back ends the message, or, if it is `Close`, the session.
    async fn take(&mut self, step: Step, connection: &mut Connection) -> Result<Option<Step>, Closed> {
        Ok(match step {
            Step::Need => {
                self.flush(connection).await?;
                if self.is_heavy() {
                    Box::pin(self.lighten()).await;
                }
                None
            }
            Step::Mail(mail) => self.mail(mail),
            Step::Rcpt(rcpt) => self.rcpt(&rcpt),
            Step::Begin => self.begin(),
            Step::End => Box::pin(self.finish()).await,
            Step::Abandoned(why) => {
                self.mx.block().add(Counter::MessagesRejected, 1);
                if let Some(message) = &self.message {
                    let reply = why.reply();
                    tracing::info!(session = %self.id, id = %message.id, peer = %self.peer.ip(),
                        code = u64::from(reply.code()), reason = reply.text(), "message refused");
                }
                Some(Step::Reset)
            }
            Step::StartTls => {
                self.flush(connection).await?;
                Box::pin(self.secure(connection)).await?;
                None
            }
            Step::Reset | Step::Close => Some(step),
        })
    }

    fn count_replies(&mut self) {
        let tally = self.session.take_tally();
        let block = self.mx.block();
        for (row, count) in [
            (Counter::RepliesPositive, tally.positive),
            (Counter::RepliesIntermediate, tally.intermediate),
            (Counter::RepliesTransient, tally.transient),
            (Counter::RepliesPermanent, tally.permanent),
        ] {
            if count > 0 {
                block.add(row, u64::from(count));
            }
        }
    }

    async fn flush(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        self.count_replies();
        // The time before may have gone to us, to a slow disk for one: the client gets its own.
        connection.allow(self.mx.setup.command_timeout, true);
        let sent = connection.send(&mut self.out).await;
        // An idle session holds no memory for output either.
        self.out = Vec::new();
        sent
    }

    /// Shakes hands, and forgets what was said before.
    pub(crate) async fn secure(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        let block = self.mx.block();
        connection.allow(self.mx.setup.command_timeout, false);
        let since = tick();
        let (handshake, injected) = connection.secure(&self.mx.setup.acceptor).await.inspect_err(|closed| {
            tracing::info!(session = %self.id, peer = %self.peer.ip(), why = ?closed, "TLS handshake failed");
        })?;
        block.observe(Timing::TlsHandshake, tick().since(since));
        let of_version = handshake.version == "TLSv1.2";
        block.add(if of_version { Counter::TlsHandshakes12 } else { Counter::TlsHandshakes13 }, 1);
        block.add(Counter::TlsResumed, u64::from(handshake.resumed));
        if injected > 0 {
            block.add(Counter::StarttlsInjections, 1);
            tracing::warn!(session = %self.id, peer = %self.peer.ip(), bytes = injected as u64,
                "client sent commands behind STARTTLS; thrown away");
        }
        self.security = Some(Box::new(Security { version: handshake.version, cipher: handshake.cipher }));
        self.message = None;
        self.session.secured();
        Ok(())
    }

    fn mail(&mut self, mail: Mail) -> Option<Step> {
        let setup = &self.mx.setup;
        let refusal = setup.policy.sender(&self.mx.load(), &setup.capacity).refusal();
        if refusal.is_none() {
            let arrived = now().wall;
            let id = self.mx.next_message_id(arrived);
            self.mx.block().raise(Gauge::MessagesInFlight, 1);
            let message = Message { mx: self.mx, id, arrived, mail, recipients: Vec::new(), body: None };
            self.message = Some(Box::new(message));
        }
        self.session.answer_mail(refusal, &mut self.out)
    }

    fn rcpt(&mut self, rcpt: &Rcpt) -> Option<Step> {
        let block = self.mx.block();
        let refusal = match self.mx.setup.policy.recipient(rcpt) {
            Ok(address) => {
                block.add(Counter::RecipientsAccepted, 1);
                if let Some(message) = &mut self.message {
                    // A recipient named twice is served once.
                    if !message.recipients.contains(&address) {
                        message.recipients.push(address);
                    }
                }
                None
            }
            Err(reply) => {
                block.add(Counter::RecipientsRefused, 1);
                tracing::info!(session = %self.id, peer = %self.peer.ip(), recipient = rcpt.to.as_str(),
                    code = u64::from(reply.code()), reason = reply.text(), "recipient refused");
                Some(reply)
            }
        };
        self.session.answer_rcpt(refusal, &mut self.out)
    }

    fn begin(&mut self) -> Option<Step> {
        let Some(message) = &mut self.message else {
            return self.session.answer_begin(Some(replies::BAD_SEQUENCE), &mut self.out);
        };
        let mut draft = self.mx.setup.store.draft(message.id);
        let (helo, extended) = self.session.helo().unwrap_or_default();
        let arrival = Arrival {
            host: &self.mx.setup.options.hostname,
            helo,
            extended,
            utf8: message.mail.utf8,
            client: self.peer.ip(),
            security: self.security.as_deref(),
            id: message.id,
            recipient: match message.recipients.as_slice() {
                [only] => Some(only),
                _ => None,
            },
            at: message.arrived,
        };
        received(&arrival, draft.buffer());
        let trace = draft.in_memory().len();
        message.body = Some(Body { draft, trace, headers: None, broken: false, since: tick() });
        self.session.answer_begin(None, &mut self.out)
    }

    fn is_heavy(&self) -> bool {
        let body = self.message.as_ref().and_then(|message| message.body.as_ref());
        body.is_some_and(|body| !body.broken && body.draft.is_heavy())
    }

    /// Moves a large body out of memory as it comes.
    async fn lighten(&mut self) {
        let Some(body) = self.message.as_mut().and_then(|message| message.body.as_mut()) else { return };
        if body.headers.is_none() {
            body.headers = Some(Headers::walk(&body.draft.in_memory()[body.trace..]));
        }
        if let Err(error) = body.draft.lighten().await {
            tracing::error!(%error, session = %self.id, "message could not be stored as it came");
            self.mx.block().add(Counter::SpoolErrors, 1);
            body.broken = true;
        }
    }

    /// The message is whole: evidence, decision, receipt, 250, item.
    async fn finish(&mut self) -> Option<Step> {
        let (Some(mut message), block) = (self.message.take(), self.mx.block()) else {
            return self.session.refuse(replies::BAD_SEQUENCE, &mut self.out);
        };
        let Some(body) = message.body.take() else {
            return self.session.refuse(replies::BAD_SEQUENCE, &mut self.out);
        };
        block.observe(Timing::Body, tick().since(body.since));
        if body.broken {
            return self.refuse(&message, replies::STORAGE_FULL);
        }
        let size = body.draft.len() - body.trace as u64;
        let headers = body.headers.unwrap_or_else(|| Headers::walk(&body.draft.in_memory()[body.trace..]));
        if let Some(reply) = self.mx.setup.policy.message(&headers).refusal() {
            return self.refuse(&message, reply);
        }
        let envelope = self.envelope(&mut message);
        let mut stored = Vec::with_capacity(256);
        envelope.encode(&mut stored);
        match self.mx.setup.store.commit(body.draft, &stored).await {
            Ok(receipt) => {
                self.session.accept(&receipt, &mut self.out);
                block.add(Counter::MessagesAccepted, 1);
                block.add(Counter::BytesAccepted, size);
                self.log_accepted(&envelope, &headers, size);
                (self.mx.setup.accepted)(Item::new(receipt.id(), envelope.recipients.len() as u32));
                None
            }
            Err(Failure::Full) => self.refuse(&message, replies::STORAGE_FULL),
            Err(Failure::Io) => self.refuse(&message, replies::STORAGE_FAILED),
        }
    }

    fn envelope(&self, message: &mut Message<'_>) -> Envelope {
        Envelope {
            id: message.id,
            arrived: message.arrived,
            session: self.id.to_string().into(),
            client: self.peer.ip().to_string().into(),
            helo: self.session.helo().map_or("", |(name, _)| name).into(),
            from: message.mail.from.as_str().into(),
            recipients: std::mem::take(&mut message.recipients),
            utf8: message.mail.utf8,
            // RFC 6152 section 3.
            eight_bit: message.mail.body == BodyKind::EightBitMime,
        }
    }

    fn refuse(&mut self, message: &Message<'_>, reply: Reply) -> Option<Step> {
        let permanent = reply.code() >= 500;
        self.mx.block().add(if permanent { Counter::MessagesRejected } else { Counter::MessagesDeferred }, 1);
        tracing::info!(session = %self.id, id = %message.id, peer = %self.peer.ip(), code = u64::from(reply.code()),
            reason = reply.text(), "message refused");
        self.session.refuse(reply, &mut self.out)
    }

    fn log_accepted(&self, envelope: &Envelope, headers: &Headers, size: u64) {
        tracing::info!(
            session = &*envelope.session,
            id = %envelope.id,
            peer = &*envelope.client,
            helo = &*envelope.helo,
            tls = self.security.as_ref().map_or("", |security| security.version),
            from = &*envelope.from,
            to = envelope.recipients.first().map_or("", |first| &**first),
            recipients = envelope.recipients.len() as u64,
            bytes = size,
            message_id = headers.message_id.as_deref().unwrap_or(""),
            durability = "fsync",
            "accepted"
        );
    }
}
