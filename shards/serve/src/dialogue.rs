//! One session: steps of the machine in, answers of policy and spool out.
//!
//! Here is the loop and what concerns the session as a whole; `admission.rs` has what comes before the banner, and
//! `transaction.rs` the way of a message.

use crate::admission::Client;
use crate::mx::Mx;
use crate::open::{self, Open, Seen};
use crate::owners::Question;
use crate::proof::Proof;
use crate::transaction::Message;
use ringpost_base::{SessionId, Tick};
use ringpost_message::Security;
use ringpost_metrics::{Counter, Gauge, Timing};
use ringpost_net::{ClientCertificate, Closed, Connection, Handshake};
use ringpost_policy::{Offence, Stage, Value};
use ringpost_runtime::{Pace, faults, tick};
use ringpost_smtp::{ForwardInfo, Reply, Session, SessionLimit, Step};
use std::net::IpAddr;
use std::time::Duration;

/// The longest that replies of one flush are held back altogether.
const TARPIT_MAX: Duration = Duration::from_secs(60);

/// While a core is at half of its messages in flight or more, how soon after MAIL a body must begin: a place is not to be had
/// for waiting.
const BODY_BEGINS: Duration = Duration::from_secs(30);

/// How long the fault `shard.stall` holds up a shard.
const STALL: Duration = Duration::from_secs(3);

pub(crate) struct Dialogue<'a> {
    pub(crate) mx: &'a Mx,
    pub(crate) session: Session<Proof>,
    pub(crate) id: SessionId,
    pub(crate) client: Box<Client>,
    pub(crate) out: Vec<u8>,
    pub(crate) security: Option<Box<Security>>,
    pub(crate) message: Option<Box<Message<'a>>>,
    /// What XFORWARD said of the message to come; for the log.
    pub(crate) forwarded: Option<Box<ForwardInfo>>,
    /// Replies are held back.
    pub(crate) tarpit: bool,
    /// The greeting was noted.
    pub(crate) greeted: bool,
    /// What is to be seen of the session.
    pub(crate) seen: &'a Seen,
    /// The configuration that the session goes by.
    epoch: u64,
    /// Octets of bodies that came and are not charged yet.
    octets: u64,
}

impl<'a> Dialogue<'a> {
    pub(crate) fn new(open: &'a Open<'a>, session: Session<Proof>, address: IpAddr) -> Self {
        let mx = open.mx();
        Self {
            mx,
            session,
            id: open.id(),
            client: Box::new(Client::new(address)),
            out: Vec::new(),
            security: None,
            message: None,
            forwarded: None,
            tarpit: false,
            greeted: false,
            seen: &open.seen,
            epoch: mx.rules().epoch,
            octets: 0,
        }
    }

    pub(crate) fn has_quit(&self) -> bool {
        self.session.has_quit()
    }

    pub(crate) fn in_body(&self) -> bool {
        self.session.in_body()
    }

    /// When the connection was taken.
    pub(crate) fn since(&self) -> Tick {
        self.client.since
    }

    /// Leaves a note on the trail.
    pub(crate) fn note(&self, stage: Stage, outcome: u16, rule: &str, since: Tick, inputs: &[(&str, Value<'_>)]) {
        self.mx.note(self.id, stage, outcome, rule, since, inputs);
    }

    /// A stage that began at `since` is over.
    pub(crate) fn observe(&self, stage: Timing, since: Tick) {
        self.mx.block().observe(stage, tick().since(since));
    }

    pub(crate) async fn greet(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        connection.allow(self.mx.rules().timeouts.command, false);
        self.session.greet(&mut self.out);
        self.flush(connection).await
    }

    /// Runs until the session is over; gives what closed it, if it was not the dialogue itself.
    pub(crate) async fn run(&mut self, connection: &mut Connection) -> Option<Closed> {
        let mut pace = Pace::default();
        // Of the command that was decided about last. One reading of the clock ends it and begins the next turn.
        let mut stage: Option<Timing> = None;
        loop {
            // A client whose commands never run out must not hold the core.
            let done = pace.breathe().await;
            if let Some(stage) = stage.take() {
                self.mx.block().observe(stage, done.since(self.seen.last_heard()));
            }
            let step = match self.next(connection).await {
                Ok(step) => step,
                Err(closed) => return Some(closed),
            };
            stage = stage_of(&step);
            match self.take(step, connection).await {
                Ok(None) => {}
                Ok(Some(Step::Close)) => {
                    if let Some(stage) = stage {
                        self.observe(stage, self.seen.last_heard());
                    }
                    return self.flush(connection).await.err();
                }
                Ok(Some(_)) => {
                    self.message = None;
                    self.forwarded = None;
                }
                Err(closed) => return Some(closed),
            }
        }
    }

    /// Tells the client one last thing.
    pub(crate) async fn end(&mut self, connection: &mut Connection, reply: &Reply) {
        self.message = None;
        self.session.end(reply, &mut self.out);
        // Noted by who ends the session.
        self.session.take_refusal();
        self.count_replies();
        // The client may be gone; then nobody is left to be told. The time it has was set by who ends the session.
        let _ = connection.send(&mut self.out).await;
    }

    async fn next(&mut self, connection: &mut Connection) -> Result<Step, Closed> {
        let in_body = self.session.in_body();
        let rules = self.mx.rules();
        if rules.epoch != self.epoch {
            self.epoch = rules.epoch;
            self.session.set_options(rules.options.clone());
        }
        let timeouts = rules.timeouts;
        let hurried = self.message.as_ref().filter(|_| !in_body && self.mx.is_crowded(&rules));
        match hurried.map(|message| BODY_BEGINS.saturating_sub(tick().since(message.since))) {
            Some(left) => connection.allow(left.min(timeouts.command), false),
            None => connection.allow(if in_body { timeouts.data } else { timeouts.command }, in_body),
        }
        drop(rules);
        let may_stop = !self.session.in_transaction();
        let Self { session, out, message, octets, seen, .. } = self;
        seen.at(if in_body { open::Stage::Body } else { open::Stage::Command });
        let mut nowhere = Vec::new();
        connection
            .feed(may_stop, |input| {
                if !input.is_empty() {
                    seen.heard(tick());
                }
                let is_body = session.in_body();
                let body = message.as_mut().and_then(|message| message.body.as_mut());
                let (used, step, heavy) = match body {
                    Some(body) if body.broken.is_none() => {
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
                *octets += if is_body { used as u64 } else { 0 };
                // RFC 2920 section 3.2: replies are gathered for as long as there is input.
                let wait = step == Step::Need && out.is_empty() && !heavy;
                (used, (!wait).then_some(step))
            })
            .await
    }

    /// Measures the commands that the machine answered by itself.
    fn observe_answered(&mut self) {
        let answered = self.session.take_answered();
        let count = u32::from(answered.greetings) + u32::from(answered.others);
        if count > 0 {
            let each = tick().since(self.seen.last_heard()) / count;
            let block = self.mx.block();
            block.observe_many(Timing::StageHelo, each, answered.greetings.into());
            block.observe_many(Timing::StageOther, each, answered.others.into());
        }
    }

    /// Does what a step asks for. What is long and rare is boxed: an idle session pays for its future's size.
    /// A step that comes back ends the message, or, if it is `Close`, the session.
    async fn take(&mut self, step: Step, connection: &mut Connection) -> Result<Option<Step>, Closed> {
        self.note_greeting();
        self.observe_answered();
        if !self.session.in_body() || step == Step::End {
            self.charge();
        }
        Ok(match step {
            Step::Need => {
                self.flush(connection).await?;
                if self.is_heavy() {
                    Box::pin(self.lighten()).await;
                }
                None
            }
            Step::Mail(mail) => Box::pin(self.mail(mail)).await,
            Step::Rcpt(rcpt) => Box::pin(self.rcpt(rcpt)).await,
            Step::Begin => self.begin(),
            Step::End => Box::pin(self.finish()).await,
            Step::Abandoned(why) => {
                self.abandon(why);
                Some(Step::Reset)
            }
            Step::Client(info) => Box::pin(self.present(*info, connection)).await,
            Step::Forward(info) => self.forward(info),
            Step::StartTls => {
                self.observe(Timing::StageStarttls, self.seen.last_heard());
                self.flush(connection).await?;
                Box::pin(self.secure(connection, false)).await?;
                None
            }
            Step::Reset | Step::Close => Some(step),
        })
    }

    /// Charges the client's address for what came of bodies, whatever becomes of them.
    fn charge(&mut self) {
        let count = std::mem::take(&mut self.octets);
        if count > 0 && !self.client.exempt {
            self.mx.owners.tell(Question::Bytes { address: self.client.address, count });
        }
    }

    /// The name of the client, once it is known.
    fn note_greeting(&mut self) {
        let Some((name, extended)) = self.session.helo().filter(|_| !self.greeted) else { return };
        let verb = if extended { "EHLO" } else { "HELO" };
        let inputs = [("name", Value::Text(name)), ("verb", Value::Text(verb))];
        self.note(Stage::Helo, 250, "", self.seen.last_heard(), &inputs);
        self.seen.greeted(Some(name));
        inject(name);
        if let Some(lookups) = &self.client.lookups {
            lookups.greet(self.mx, &self.mx.rules().screen, name);
        }
        self.greeted = true;
    }

    /// A trusted peer says where the message really comes from; for the log only.
    fn forward(&mut self, info: Box<ForwardInfo>) -> Option<Step> {
        let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
        let (name, address, helo) = (text(&info.name), text(&info.addr), text(&info.helo));
        tracing::info!(session = %self.id, peer = %self.client.address, name, address, helo, "XFORWARD");
        let inputs = [("name", Value::Text(&name)), ("address", Value::Text(&address)), ("helo", Value::Text(&helo))];
        self.note(Stage::Forward, 250, "", tick(), &inputs);
        match &mut self.forwarded {
            Some(earlier) => earlier.update(*info),
            None => self.forwarded = Some(info),
        }
        self.session.answer_forward(None, &mut self.out)
    }

    fn count_replies(&mut self) {
        let tally = self.session.take_tally();
        let block = self.mx.block();
        for (row, count) in [
            (Counter::RepliesPositive, tally.positive),
            (Counter::RepliesIntermediate, tally.intermediate),
            (Counter::RepliesTransient, tally.transient),
            (Counter::RepliesPermanent, tally.permanent),
            (Counter::RecipientsUnknown, tally.unknown),
        ] {
            if count > 0 {
                block.add(row, u64::from(count));
            }
        }
        if tally.errors > 0 {
            self.offend(Offence::Error, tally.errors);
        }
        if tally.unknown > 0 {
            self.offend(Offence::UnknownRecipient, tally.unknown);
        }
        for limit in SessionLimit::ALL.into_iter().filter(|limit| tally.met(*limit) > 0) {
            block.add(counter_of(limit), u64::from(tally.met(limit)));
            self.note(Stage::Limit, limit.reply().code(), limit.key(), tick(), &[]);
        }
        // What the machine refused by itself; what was decided here is noted where it was.
        if let Some((code, words)) = self.session.take_refusal() {
            let inputs = [("reply", Value::Text(words)), ("refusals", Value::Number(tally.errors.max(1).into()))];
            self.note(Stage::Command, code, "", tick(), &inputs);
        }
    }

    pub(crate) async fn flush(&mut self, connection: &mut Connection) -> Result<(), Closed> {
        self.count_replies();
        if self.tarpit && !self.out.is_empty() {
            let rules = self.mx.rules();
            // Each reply is held back; who pipelines must not have them all for the price of one.
            let replies = self.out.split(|byte| *byte == b'\n').filter(|line| line.get(3) == Some(&b' ')).count();
            let span = rules.screen.tarpit_delay.0.saturating_mul(replies as u32).min(TARPIT_MAX);
            let since = tick();
            connection.allow(span + rules.timeouts.command, false);
            drop(rules);
            connection.pause(span).await?;
            let waited = [("waited_ms", Value::Number(tick().since(since).as_millis() as u64))];
            self.note(Stage::Tarpit, 0, "screen.score_tarpit", since, &waited);
        }
        // The time before may have gone to us, to a slow disk for one: the client gets its own.
        connection.allow(self.mx.rules().timeouts.command, true);
        let sent = connection.send(&mut self.out).await;
        // An idle session holds no memory for output either.
        self.out = Vec::new();
        sent
    }

    /// Shakes hands, and forgets what was said before. `first`: TLS is what the connection begins with.
    pub(crate) async fn secure(&mut self, connection: &mut Connection, first: bool) -> Result<(), Closed> {
        let rules = self.mx.rules();
        let block = self.mx.block();
        connection.allow(rules.timeouts.command, false);
        let since = tick();
        block.raise(Gauge::TlsHandshakesOpen, 1);
        self.seen.at(open::Stage::Handshake);
        let open = Shaking(self.mx);
        let shaken = if first {
            connection.open_secure(&rules.acceptor).await.map(|handshake| (handshake, 0))
        } else {
            connection.secure(&rules.acceptor).await
        };
        drop(open);
        let (handshake, injected) = match shaken {
            Ok(shaken) => shaken,
            Err(closed) => {
                self.handshake_failed(closed, connection.tls_failure(), since);
                return Err(closed);
            }
        };
        let took = tick().since(since);
        block.observe(Timing::TlsHandshake, took);
        block.observe(Timing::StageTls, took);
        let of_version = handshake.version == "TLSv1.2";
        block.add(if of_version { Counter::TlsHandshakes12 } else { Counter::TlsHandshakes13 }, 1);
        block.add(Counter::TlsResumed, u64::from(handshake.resumed));
        if injected > 0 {
            block.add(Counter::StarttlsInjections, 1);
            tracing::warn!(session = %self.id, peer = %self.client.address, bytes = injected as u64,
                "client sent commands behind STARTTLS; thrown away");
        }
        self.note_handshake(&handshake, since, injected);
        self.seen.secured(handshake.version);
        self.seen.greeted(None);
        self.security = Some(Box::new(Security { version: handshake.version, cipher: handshake.cipher }));
        self.message = None;
        self.greeted = false;
        // The HELO name is forgotten, and with it what was made of it.
        self.client.screening = None;
        self.session.secured();
        Ok(())
    }

    fn handshake_failed(&self, closed: Closed, reason: Option<String>, since: Tick) {
        self.mx.block().add(Counter::TlsFailed, 1);
        let why = reason.unwrap_or_else(|| format!("{closed:?}"));
        tracing::info!(session = %self.id, peer = %self.client.address, why, "TLS handshake failed");
        self.note(Stage::Tls, 0, "tls", since, &[("failed", Value::Text(&why))]);
        if closed == Closed::Tls {
            self.offend(Offence::HandshakeFailure, 1);
        }
    }

    fn note_handshake(&self, handshake: &Handshake, since: Tick, injected: usize) {
        let inputs = [
            ("version", Value::Text(handshake.version)),
            ("cipher", Value::Text(handshake.cipher)),
            ("group", Value::Text(handshake.group)),
            ("server_name", Value::Text(handshake.server_name.as_deref().unwrap_or(""))),
            ("resumed", Value::Number(u64::from(handshake.resumed))),
            ("injected_bytes", Value::Number(injected as u64)),
        ];
        self.note(Stage::Tls, 0, "", since, &inputs);
        let Some(ClientCertificate { subject, fingerprint, verified }) = handshake.client.as_deref() else { return };
        let fingerprint = fingerprint.to_string();
        let row = if *verified { Counter::TlsClientVerified } else { Counter::TlsClientUnverified };
        self.mx.block().add(row, 1);
        tracing::info!(session = %self.id, peer = %self.client.address, subject = &**subject,
            fingerprint, verified = *verified, "client certificate");
        let inputs = [
            ("client_certificate", Value::Text(subject)),
            ("sha256", Value::Text(&fingerprint)),
            ("verified", Value::Number(u64::from(*verified))),
        ];
        self.note(Stage::Tls, 0, "", since, &inputs);
    }
}

impl Drop for Dialogue<'_> {
    fn drop(&mut self) {
        self.charge();
    }
}

/// The stage of a command that is decided about here.
fn stage_of(step: &Step) -> Option<Timing> {
    Some(match step {
        Step::Mail(_) => Timing::StageMail,
        Step::Rcpt(_) => Timing::StageRcpt,
        Step::Begin => Timing::StageData,
        Step::Client(_) | Step::Forward(_) => Timing::StageOther,
        _ => return None,
    })
}

/// What a client of some names is made to be for tests: one whose session panics, or holds up the shard.
fn inject(name: &str) {
    assert!(!faults::is_injected("session.panic", name), "session.panic={name}");
    if faults::is_injected("shard.stall", name) {
        std::thread::sleep(STALL);
    }
}

/// The metric of a limit that sessions meet by themselves.
fn counter_of(limit: SessionLimit) -> Counter {
    match limit {
        SessionLimit::MessageSize => Counter::LimitMessageSize,
        SessionLimit::Recipients => Counter::LimitRecipients,
        SessionLimit::Errors => Counter::LimitErrorsPerSession,
        SessionLimit::UnknownRecipients => Counter::LimitUnknownRecipients,
        SessionLimit::Commands => Counter::LimitCommandsWithoutProgress,
        SessionLimit::Messages => Counter::LimitMessagesPerSession,
    }
}

/// A handshake under way, also where its session panics.
struct Shaking<'a>(&'a Mx);

impl Drop for Shaking<'_> {
    fn drop(&mut self) {
        self.0.block().lower(Gauge::TlsHandshakesOpen, 1);
    }
}
