//! The way of a message, in the order of this file: a step becomes an envelope and a body, the body's headers become
//! evidence, evidence a decision, the decision a proof that the message is in good hands, and the proof the 250.

use crate::checks::Refusal;
use crate::dialogue::Dialogue;
use crate::mx::Mx;
use crate::open;
use crate::owners::{Question, Verdict};
use crate::proof::Proof;
use crate::rules::Rules;
use crate::trace::{Attributes, MessageTrace};
use ringpost_base::{Durability, Now, SpoolId, Tick, Timestamp};
use ringpost_message::{Arrival, Envelope, Headers, Notify, Recipient, Ret, received};
use ringpost_metrics::{Counter, Gauge, Timing};
use ringpost_policy::{
    Evidence, Grey, GreyKey, GreyPass, GreylistMode, HeloKind, Limit, Offence, Screening, Served, Stage, Value,
};
use ringpost_queue::HandedOver;
use ringpost_runtime::{after, contain, faults, now, tick};
use ringpost_smtp::{Abandoned, BodyKind, Mail, Path, Rcpt, Reply, Step, replies};
use ringpost_store::{Draft, Failure, Space};
use ringpost_trace::{key, name, trace_id};
use std::rc::Rc;

/// A message between MAIL and its final reply.
pub(crate) struct Message<'a> {
    mx: &'a Mx,
    id: SpoolId,
    arrived: Timestamp,
    /// The same by the clock that intervals are measured with.
    pub(crate) since: Tick,
    mail: Mail,
    recipients: Vec<Recipient>,
    /// Bytes that the envelope takes in memory.
    held: u64,
    /// From the go-ahead on.
    pub(crate) body: Option<Body>,
    /// If it is sampled.
    pub(crate) trace: Option<Box<MessageTrace>>,
}

/// What has come of a body.
pub(crate) struct Body {
    pub(crate) draft: Draft,
    /// Bytes of our own trace header at the front.
    trace: usize,
    /// What the headers say, once they are no longer all in memory.
    headers: Option<Headers>,
    /// The spool could not take a part: what still comes is thrown away, and the message refused at its end with this.
    pub(crate) broken: Option<Reply>,
    since: Tick,
}

impl Body {
    /// Bytes of the message, without what we put in front.
    fn size(&self) -> u64 {
        self.draft.len() - self.trace as u64
    }
}

/// Bytes that a message takes besides its texts, and a recipient besides its own.
const MESSAGE_BYTES: u64 = 512;
const RECIPIENT_BYTES: u64 = 96;

impl<'a> Message<'a> {
    /// A message whose MAIL came at `since`.
    fn new(mx: &'a Mx, id: SpoolId, arrived: Now, since: Tick, mail: Mail) -> Self {
        mx.block().raise(Gauge::MessagesInFlight, 1);
        let trace = MessageTrace::begin(mx, id, arrived, since);
        let arrived = arrived.wall;
        let mut message = Self { mx, id, arrived, since, mail, recipients: Vec::new(), held: 0, body: None, trace };
        message.hold(MESSAGE_BYTES);
        message
    }

    fn hold(&mut self, bytes: u64) {
        self.held += bytes;
        self.mx.block().raise(Gauge::MessageMemory, bytes);
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.mx.block().lower(Gauge::MessageMemory, self.held);
        self.mx.block().lower(Gauge::MessagesInFlight, 1);
    }
}

impl<'a> Dialogue<'a> {
    pub(crate) async fn mail(&mut self, mail: Mail) -> Option<Step> {
        let since = self.seen.last_heard();
        let rules = self.mx.rules();
        self.seen.at(open::Stage::Deciding);
        let judged = self.found(contain(self.judge_sender(&rules, &mail)).await);
        let (outcome, rule) = judged.as_ref().map_or_else(|no| (no.reply.code(), &*no.rule), |()| (250, ""));
        let inputs = [
            ("from", Value::Text(mail.from.as_str())),
            ("declared_bytes", Value::Number(mail.size.unwrap_or(0))),
            ("tls", Value::Number(u64::from(self.session.is_secure()))),
        ];
        self.note(Stage::Mail, outcome, rule, since, &inputs);
        let refusal = judged.err().map(|refusal| refusal.reply);
        if refusal.is_none() {
            let arrived = now();
            let id = self.mx.next_message_id(arrived.wall);
            let mut message = Box::new(Message::new(self.mx, id, arrived, since, mail));
            if let Some(trace) = &mut message.trace {
                self.describe(trace, &message.mail);
            }
            self.message = Some(message);
        }
        let step = self.session.answer_mail(refusal, &mut self.out);
        self.session.take_refusal();
        step
    }

    /// What is known of a message from the beginning.
    fn describe(&self, trace: &mut MessageTrace, mail: &Mail) {
        trace.tell(key::MESSAGE_ID, trace.message().to_string());
        trace.tell(key::SESSION_ID, self.id.to_string());
        trace.tell(key::CLIENT, self.client.address.to_string());
        trace.tell(key::HELO, self.session.helo().map_or("", |(name, _)| name));
        trace.tell(key::FROM, mail.from.as_str());
    }

    async fn judge_sender(&self, rules: &Rules, mail: &Mail) -> Result<(), Refusal> {
        if self.mx.store.space() == Space::Full {
            self.mx.block().add(Counter::SpaceRefused, 1);
            return Err(Refusal::by("spool.space_hard", replies::STORAGE_FULL));
        }
        if let Err(busy) = rules.policy.sender(&self.mx.load(), &rules.capacity) {
            return Err(match busy.limit() {
                Some(limit) => self.limited(limit),
                None => Refusal::by("spool", busy.reply()),
            });
        }
        if self.client.exempt {
            return Ok(());
        }
        let question = Question::Message { address: self.client.address, declared: mail.size.unwrap_or(0) };
        match self.mx.owners.ask(question).await {
            Verdict::Limited(limit) => Err(self.limited(limit)),
            Verdict::Free | Verdict::Counted(_) | Verdict::Grey(_) => Ok(()),
        }
    }

    /// A limit is met: counted here, noted where the decision is.
    fn limited(&self, limit: Limit) -> Refusal {
        self.mx.count_limit(limit);
        if limit.is_of_client() {
            self.offend(Offence::LimitHit, 1);
        }
        tracing::info!(session = %self.id, peer = %self.client.address, limit = limit.key(), "limit met");
        Refusal::by(limit.key(), limit.reply())
    }

    pub(crate) async fn rcpt(&mut self, rcpt: Rcpt) -> Option<Step> {
        let since = self.seen.last_heard();
        let rules = self.mx.rules();
        self.seen.at(open::Stage::Deciding);
        let judged = contain(self.judge_recipient(&rules, &rcpt)).await;
        let judged = self.found(judged);
        let block = self.mx.block();
        let refusal = match judged {
            Ok(served) => {
                block.add(Counter::RecipientsAccepted, 1);
                let rule = served.how.name();
                let inputs = [("to", Value::Text(rcpt.to.as_str())), ("found_as", Value::Text(rule))];
                self.note(Stage::Rcpt, 250, "", since, &inputs);
                self.add_recipients(&rcpt, served);
                None
            }
            Err(Refusal { reply, rule }) => {
                block.add(Counter::RecipientsRefused, 1);
                self.note(Stage::Rcpt, reply.code(), &rule, since, &[("to", Value::Text(rcpt.to.as_str()))]);
                tracing::info!(session = %self.id, peer = %self.client.address, recipient = rcpt.to.as_str(),
                    code = u64::from(reply.code()), reason = reply.text(), rule = &*rule, "recipient refused");
                Some(reply)
            }
        };
        let step = self.session.answer_rcpt(refusal, &mut self.out);
        self.session.take_refusal();
        step
    }

    async fn judge_recipient(&mut self, rules: &Rules, rcpt: &Rcpt) -> Result<Served, Refusal> {
        // Who is turned away by what it is must still reach somebody who can help (RFC 5321 section 4.5.1).
        let helper = is_postmaster(&rcpt.to);
        let screening = self.screening(rules).await?;
        if let Some(reply) = screening.refusal.clone().filter(|_| !helper) {
            return Err(Refusal::by("screen.score_reject", reply));
        }
        // What a sender names is kept in memory until the message has come.
        if self.mx.load().message_memory >= rules.capacity.message_memory {
            return Err(self.limited(Limit::MessageMemory));
        }
        // Counted before it is known whether the recipient exists: guesses are what the limit is for.
        if !self.client.exempt
            && let Verdict::Limited(limit) = self.mx.owners.ask(Question::Recipient(self.client.address)).await
        {
            return Err(self.limited(limit));
        }
        let since = tick();
        let served = rules.policy.recipient(rcpt, self.session.is_secure());
        self.observe(Timing::StageCheckRecipient, since);
        if let Some(trace) = self.trace() {
            let found = served.as_ref().map_or_else(|reply| reply.text(), |served| served.how.name());
            trace.step(name::RECIPIENT, since, served.is_err(), vec![(key::OUTCOME, found.into())]);
        }
        let served = served.map_err(|reply| Refusal { rule: rule_of(&reply, rcpt), reply })?;
        // An alias counts with all its addresses: they share the record of the message.
        let named = self.message.as_ref().map_or(0, |message| message.recipients.len());
        if named > 0 && named + served.addresses.len() > rules.options.recipients_max {
            return Err(Refusal::by("limits.recipients", replies::TOO_MANY_RECIPIENTS));
        }
        if !helper {
            self.greylist(rules, rcpt, &screening).await?;
        }
        Ok(served)
    }

    fn add_recipients(&mut self, rcpt: &Rcpt, served: Served) {
        let rules = self.mx.rules();
        let Some(message) = &mut self.message else { return };
        let named = rcpt.to.as_str();
        for address in served.addresses {
            // A recipient named twice is served once.
            if message.recipients.iter().any(|known| known.address == address) {
                continue;
            }
            let original = rcpt.orcpt.clone().or_else(|| (*address != *named).then(|| original_of(named)));
            let mailbox = rules.policy.mailbox(&address);
            let texts = [Some(&address), original.as_ref(), mailbox.as_ref()];
            let bytes: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
            message.hold(RECIPIENT_BYTES + bytes as u64);
            message.recipients.push(Recipient { address, original, notify: notify_of(rcpt), mailbox });
        }
    }

    /// What the evidence about the host comes to. Found out at the first recipient: by then the DNS has mostly answered.
    async fn screening(&mut self, rules: &Rules) -> Result<Screening, Refusal> {
        if self.client.exempt || rules.screen.is_idle() {
            return Ok(Screening::default());
        }
        if let Some(known) = &self.client.screening {
            return Ok(known.clone());
        }
        let since = tick();
        let name: Box<str> = self.session.helo().map_or("", |(name, _)| name).into();
        assert!(!faults::is_injected("filter.panic", &name), "filter.panic={name}");
        let own = |name: &str| rules.policy.is_own_name(name, &rules.options.hostname);
        let mut evidence = Evidence {
            pregreet: self.client.pregreet,
            helo: HeloKind::of(&name, self.client.address, own),
            ..Evidence::default()
        };
        if let Some(lookups) = self.client.lookups.clone() {
            lookups.collect(self.mx, &rules.screen, &name, &mut evidence).await;
            if lookups.has_panicked() {
                return Err(Refusal::of_panic());
            }
            self.note_lookups(&lookups, &evidence, since);
        }
        let score = rules.screen.score(&evidence);
        let screening = rules.screen.judge(&score);
        let mut inputs = vec![("score", Value::Score(score.total.into()))];
        inputs.extend(score.parts.iter().map(|part| (&*part.name, Value::Score(part.weight.into()))));
        let (row, rule) = match &screening {
            Screening { refusal: Some(_), .. } => (Counter::ScreenRejected, "screen.score_reject"),
            Screening { tarpit: true, .. } => (Counter::ScreenTarpitted, "screen.score_tarpit"),
            _ => (Counter::ScreenPassed, ""),
        };
        self.mx.block().add(row, 1);
        self.observe(Timing::StageCheckScreen, since);
        if let Some(trace) = self.trace() {
            trace.step(name::SCREEN, since, screening.refusal.is_some(), vec![(key::REASON, score.to_string().into())]);
        }
        self.note(Stage::Screen, screening.refusal.as_ref().map_or(0, Reply::code), rule, since, &inputs);
        tracing::info!(session = %self.id, peer = %self.client.address, score = i64::from(score.total),
            parts = score.to_string(), "screened");
        self.tarpit = screening.tarpit;
        self.client.screening = Some(screening.clone());
        Ok(screening)
    }

    fn note_lookups(&self, lookups: &crate::lookups::Lookups, evidence: &Evidence, since: Tick) {
        let reverse = evidence.reverse.to_string();
        let mut inputs = vec![("reverse", Value::Text(&reverse)), ("unanswered", Value::Number(lookups.unanswered()))];
        inputs.extend(evidence.lists.iter().map(|listing| (&*listing.shown, Value::Address(listing.answer.into()))));
        self.note(Stage::Lookup, 0, "", since, &inputs);
    }

    async fn greylist(&self, rules: &Rules, rcpt: &Rcpt, screening: &Screening) -> Result<(), Refusal> {
        let wanted = match rules.greylist {
            GreylistMode::Off => false,
            GreylistMode::Suspicious => screening.suspicious,
            GreylistMode::All => !screening.known_good,
        };
        if !wanted || self.client.exempt {
            return Ok(());
        }
        let since = tick();
        let address = self.client.address;
        let sender = self.message.as_ref().map_or("", |message| message.mail.from.as_str());
        let network = self.mx.owners.networks().of(address);
        let key = GreyKey::new(&self.mx.secret, network, sender, rcpt.to.as_str());
        let Verdict::Grey(grey) = self.mx.owners.ask(Question::Grey { address, key }).await else { return Ok(()) };
        let (row, outcome, why, left) = match grey {
            Grey::Wait { left, first } => {
                (Counter::GreylistWaited, 450, if first { "first seen" } else { "came too soon" }, left.as_secs())
            }
            Grey::Pass(GreyPass::Retried) => (Counter::GreylistRetried, 0, "came again", 0),
            Grey::Pass(GreyPass::KnownTriplet) => (Counter::GreylistKnown, 0, "triplet is known", 0),
            Grey::Pass(GreyPass::KnownNetwork) => (Counter::GreylistKnown, 0, "network is known", 0),
        };
        self.mx.block().add(row, 1);
        if let Some(trace) = self.trace() {
            trace.step(name::GREYLIST, since, outcome != 0, vec![(key::OUTCOME, why.into())]);
        }
        let network = network.to_string();
        let inputs = [
            ("network", Value::Text(&network)),
            ("sender", Value::Text(sender)),
            ("why", Value::Text(why)),
            ("seconds_left", Value::Number(left)),
        ];
        self.note(Stage::Greylist, outcome, if outcome == 0 { "" } else { "greylist.mode" }, since, &inputs);
        if outcome == 0 { Ok(()) } else { Err(Refusal::by("greylist.mode", replies::GREYLISTED)) }
    }

    pub(crate) fn begin(&mut self) -> Option<Step> {
        let rules = self.mx.rules();
        let Some(message) = &mut self.message else {
            return self.session.answer_begin(Some(replies::BAD_SEQUENCE), &mut self.out);
        };
        let mut draft = self.mx.store.draft(message.id);
        let (helo, extended) = self.session.helo().unwrap_or_default();
        let arrival = Arrival {
            host: &rules.options.hostname,
            helo,
            extended,
            lmtp: self.client.lmtp,
            client_name: self.client.name.as_deref(),
            utf8: message.mail.utf8,
            client: self.client.address,
            security: self.security.as_deref(),
            id: message.id,
            recipient: match message.recipients.as_slice() {
                [only] if only.original.is_none() => Some(&only.address),
                _ => None,
            },
            at: message.arrived,
        };
        received(&arrival, draft.buffer());
        let trace = draft.in_memory().len();
        message.body = Some(Body { draft, trace, headers: None, broken: None, since: tick() });
        self.session.answer_begin(None, &mut self.out)
    }

    pub(crate) fn is_heavy(&self) -> bool {
        let body = self.message.as_ref().and_then(|message| message.body.as_ref());
        body.is_some_and(|body| body.broken.is_none() && body.draft.is_heavy())
    }

    /// Moves a large body out of memory as it comes.
    pub(crate) async fn lighten(&mut self) {
        let Some(body) = self.message.as_mut().and_then(|message| message.body.as_mut()) else { return };
        if body.headers.is_none() {
            body.headers = Some(Headers::walk(&body.draft.in_memory()[body.trace..]));
        }
        if let Err(error) = body.draft.lighten().await {
            tracing::error!(%error, session = %self.id, "message could not be stored as it came");
            self.mx.block().add(Counter::SpoolErrors, 1);
            body.broken = Some(if error.is_full() { replies::STORAGE_FULL } else { replies::STORAGE_FAILED });
        }
    }

    /// The machine refused a message by itself.
    pub(crate) fn abandon(&mut self, why: Abandoned) {
        self.mx.block().add(Counter::MessagesRejected, 1);
        let Some(message) = &mut self.message else { return };
        self.session.take_refusal();
        let reply = why.reply();
        if let Some(trace) = &mut message.trace {
            trace.answered(reply.code());
        }
        let id = message.id;
        let since = message.body.as_ref().map_or_else(tick, |body| body.since);
        let rule = match why {
            Abandoned::TooBig => "limits.message_size",
            Abandoned::BareNewline => "smtp.bare_newline",
        };
        self.note(Stage::Message, reply.code(), rule, since, &[("id", Value::Text(text_of(&id.text())))]);
        tracing::info!(session = %self.id, id = %id, peer = %self.client.address, code = u64::from(reply.code()),
            reason = reply.text(), "message refused");
    }

    /// The message is whole: evidence, decision, proof, 250.
    pub(crate) async fn finish(&mut self) -> Option<Step> {
        let (Some(mut message), block) = (self.message.take(), self.mx.block()) else {
            return self.session.refuse(replies::BAD_SEQUENCE, &mut self.out);
        };
        let Some(body) = message.body.take() else {
            return self.session.refuse(replies::BAD_SEQUENCE, &mut self.out);
        };
        let rules = self.mx.rules();
        self.seen.at(open::Stage::Committing);
        let since = tick();
        let took = since.since(body.since);
        block.observe(Timing::Body, took);
        block.observe(Timing::StageBody, took);
        if let Some(trace) = &mut message.trace {
            trace.step(name::BODY, body.since, false, vec![(key::SIZE, body.size().into())]);
            trace.tell(key::SIZE, body.size());
            trace.tell(key::RECIPIENTS, message.recipients.len() as u64);
        }
        let judged = contain(self.judge_message(&rules, message.id, &body)).await;
        let headers = match self.found(judged) {
            Ok(headers) => headers,
            Err(Refusal { reply, rule }) => return self.refuse(&mut message, reply, &rule),
        };
        let size = body.size();
        let id = message.id.text();
        let id = text_of(&id);
        let envelope = Rc::new(self.envelope(&mut message));
        let charged = self.take_charge(&rules, body.draft, &envelope).await;
        if let Some(trace) = &mut message.trace {
            trace.step(name::COMMIT, since, charged.is_err(), Attributes::new());
            if charged.is_ok() {
                trace.answered(250);
            }
        }
        match charged {
            Ok(proof) => {
                self.observe(Timing::StageSpoolWait, since);
                self.seen.accepted();
                self.session.accept(&proof, &mut self.out);
                let durability = proof.durability();
                block.add(Counter::MessagesAccepted, 1);
                block.add(counter_of(durability), 1);
                block.add(Counter::BytesAccepted, size);
                let inputs = [("id", Value::Text(id)), ("durability", Value::Text(durability.name()))];
                self.note(Stage::Commit, 250, "", since, &inputs);
                self.log_accepted(&envelope, &headers, size, durability, message.trace.is_some());
                None
            }
            Err(Refusal { reply, rule }) => self.refuse(&mut message, reply, &rule),
        }
    }

    /// What stands against a message that has come; else what its headers say.
    async fn judge_message(&self, rules: &Rules, id: SpoolId, body: &Body) -> Result<Headers, Refusal> {
        if let Some(reply) = &body.broken {
            return Err(Refusal::by("spool", reply.clone()));
        }
        let walk = || Headers::walk(&body.draft.in_memory()[body.trace..]);
        let headers = body.headers.clone().unwrap_or_else(walk);
        let id = id.text();
        let inputs = [
            ("id", Value::Text(text_of(&id))),
            ("bytes", Value::Number(body.size())),
            ("hops", Value::Number(headers.hops as u64)),
        ];
        self.note(Stage::Message, 0, "", body.since, &inputs);
        if let Some(reply) = rules.policy.message(&headers).refusal() {
            self.mx.block().add(Counter::LimitHops, 1);
            return Err(Refusal::by("limits.hops", reply));
        }
        Ok(headers)
    }

    /// Makes the message as durable as its routes promise, and sees to it that what is kept here goes on its way.
    async fn take_charge(&self, rules: &Rules, mut draft: Draft, envelope: &Rc<Envelope>) -> Result<Proof, Refusal> {
        let mut stored = Vec::with_capacity(256);
        envelope.encode(&mut stored);
        let size = draft.len();
        let mut done = Vec::new();
        match rules.routes.durability(envelope.recipients.iter().map(|recipient| &*recipient.address)) {
            Durability::Memory => match self.mx.store.keep(draft, &stored) {
                Ok(receipt) => {
                    (self.mx.accepted)(envelope, size, &[]);
                    return Ok(Proof::Kept(receipt));
                }
                // No room in memory: the disk promises more.
                Err(back) => draft = back,
            },
            Durability::NextHop => match self.hand_over(rules, &mut draft, envelope).await? {
                HandOver::Whole(handed_over) => return Ok(Proof::HandedOver(handed_over)),
                HandOver::Part(delivered) => done = delivered,
            },
            Durability::Fsync => {}
        }
        match self.mx.store.commit(draft, &stored).await {
            Ok(receipt) => {
                // First of all: whatever happens to this session, the message is on its way.
                (self.mx.accepted)(envelope, size, &done);
                Ok(Proof::Kept(receipt))
            }
            Err(Failure::Full) => Err(Refusal::by("spool", replies::STORAGE_FULL)),
            Err(Failure::Io) => Err(Refusal::by("spool", replies::STORAGE_FAILED)),
        }
    }

    /// Asks the next hop to answer for the message. Of one that it took for some recipients only, the others are ours.
    async fn hand_over(&self, rules: &Rules, draft: &mut Draft, envelope: &Rc<Envelope>) -> Result<HandOver, Refusal> {
        let unavailable = || Refusal::by("queue.next_hop_timeout", replies::NEXT_HOP_UNAVAILABLE);
        let content = draft.lend().await.map_err(|error| {
            tracing::error!(%error, session = %self.id, "message could not be lent to its delivery");
            Refusal::by("spool", replies::STORAGE_FAILED)
        })?;
        let asked = after(rules.next_hop_timeout, (self.mx.hand_over)(envelope.clone(), content));
        let answer = asked.await.ok_or_else(unavailable)?;
        draft.take_back();
        let (partial, reason) = match answer {
            Ok(proof) => return Ok(HandOver::Whole(proof)),
            Err(partial) => partial,
        };
        tracing::info!(session = %self.id, id = %envelope.id, code = u64::from(reason.code), status = %reason.status,
            remote = reason.remote.as_deref().unwrap_or(""), reason = &*reason.text,
            "next hop did not take the message for all recipients");
        if partial.is_refused() {
            return Err(Refusal::by("next-hop", replies::NEXT_HOP_REFUSED));
        }
        if partial.delivered.is_empty() && partial.failed.is_empty() {
            return Err(Refusal::by("next-hop", replies::NEXT_HOP_UNAVAILABLE));
        }
        // What is refused for one of several is told by a report, since there is one reply for all.
        Ok(HandOver::Part(partial.delivered.into_iter().map(|(number, _)| number).collect()))
    }

    fn envelope(&self, message: &mut Message<'_>) -> Envelope {
        let mail = &message.mail;
        Envelope {
            id: message.id,
            arrived: message.arrived,
            session: self.id.to_string().into(),
            client: self.client.address.to_string().into(),
            helo: self.session.helo().map_or("", |(name, _)| name).into(),
            from: mail.from.as_str().into(),
            utf8: mail.utf8,
            // RFC 6152 section 3.
            eight_bit: mail.body == BodyKind::EightBitMime,
            binary: mail.body == BodyKind::Binary,
            require_tls: mail.require_tls,
            ret: mail.dsn.ret.map(|ret| match ret {
                ringpost_smtp::Ret::Full => Ret::Full,
                ringpost_smtp::Ret::Headers => Ret::Headers,
            }),
            envid: mail.dsn.envid.clone(),
            recipients: std::mem::take(&mut message.recipients),
        }
    }

    fn refuse(&mut self, message: &mut Message<'_>, reply: Reply, rule: &str) -> Option<Step> {
        self.forwarded = None;
        if let Some(trace) = &mut message.trace {
            trace.answered(reply.code());
        }
        let permanent = reply.code() >= 500;
        self.mx.block().add(if permanent { Counter::MessagesRejected } else { Counter::MessagesDeferred }, 1);
        self.note(Stage::Message, reply.code(), rule, tick(), &[("id", Value::Text(text_of(&message.id.text())))]);
        tracing::info!(session = %self.id, id = %message.id, peer = %self.client.address, code = u64::from(reply.code()),
            reason = reply.text(), rule, "message refused");
        let step = self.session.refuse(reply, &mut self.out);
        self.session.take_refusal();
        step
    }

    fn log_accepted(
        &mut self,
        envelope: &Envelope,
        headers: &Headers,
        size: u64,
        durability: Durability,
        is_sampled: bool,
    ) {
        let forwarded = self.forwarded.take();
        let origin = forwarded.as_ref().and_then(|info| info.addr.as_deref()).unwrap_or("");
        tracing::info!(
            session = &*envelope.session,
            id = %envelope.id,
            peer = &*envelope.client,
            origin,
            helo = &*envelope.helo,
            tls = self.security.as_ref().map_or("", |security| security.version),
            from = &*envelope.from,
            to = envelope.recipients.first().map_or("", |first| &*first.address),
            recipients = envelope.recipients.len() as u64,
            bytes = size,
            message_id = headers.message_id.as_deref().unwrap_or(""),
            durability = durability.name(),
            trace_id = is_sampled.then(|| tracing::field::display(trace_id(envelope.id))),
            "accepted"
        );
    }
}

/// What has become of a message that the next hop was asked to take.
enum HandOver {
    /// It has it.
    Whole(HandedOver),
    /// It has it for these recipients; the others are still to be served.
    Part(Vec<u32>),
}

/// The row that counts messages by what had become of them at their 250.
fn counter_of(durability: Durability) -> Counter {
    match durability {
        Durability::Memory => Counter::AcceptedMemory,
        Durability::NextHop => Counter::AcceptedNextHop,
        Durability::Fsync => Counter::AcceptedFsync,
    }
}

/// The text of an id, which is ASCII.
fn text_of(id: &[u8]) -> &str {
    std::str::from_utf8(id).unwrap_or_default()
}

/// Whether a path names the postmaster of a domain, or of the server.
fn is_postmaster(path: &Path) -> bool {
    match path {
        Path::Postmaster => true,
        Path::Null => false,
        Path::Mailbox(mailbox) => mailbox.local().eq_ignore_ascii_case("postmaster"),
    }
}

/// What an ORCPT of our own says: the address as the client named it, before an alias (RFC 3461 section 4.2).
fn original_of(address: &str) -> Box<str> {
    ringpost_smtp::to_orcpt(address).into()
}

fn notify_of(rcpt: &Rcpt) -> Notify {
    rcpt.notify.and_then(|notify| Notify::from_bits(notify.bits())).unwrap_or_default()
}

/// The key in the config file that refuses a recipient.
fn rule_of(reply: &Reply, rcpt: &Rcpt) -> Box<str> {
    // As the config has it, and not as the client writes it.
    let domain = rcpt.to.mailbox().map_or("", |mailbox| mailbox.domain()).to_ascii_lowercase();
    let key = if reply.is(&replies::TLS_REQUIRED) {
        "tls_required"
    } else if reply.is(&replies::NO_SUCH_USER) {
        "recipients"
    } else {
        return "domain".into();
    };
    format!("domain[{domain}].{key}").into()
}
