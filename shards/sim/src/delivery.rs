//! A delivery to a next hop, in small: what `shards/deliver` does around the sending machine. Connections are kept and used
//! again, and what a lost one had under way may have arrived or not.

use crate::calendar::Task;
use crate::fault::Fault;
use crate::link::{End, LinkId};
use crate::plan::{HOPS, SECOND};
use crate::runner::{all, ours};
use crate::store::Content;
use crate::world::World;
use ringpost_base::SpoolId;
use ringpost_message::{Envelope, Notify, Ret};
use ringpost_queue::{How, LegId, Outcome, Reason, Status};
use ringpost_smtp::Protocol;
use ringpost_smtp::sender::{
    Outgoing, OutgoingRecipient, RecipientReply, Sender, SenderSetup, SenderStep, SenderTls, Stage, Unsendable,
};
use std::rc::Rc;

/// How long an answer of a next hop is waited for.
const PATIENCE: u64 = 30 * SECOND;

/// How long a connection is kept that nothing goes over.
const KEPT_FOR: u64 = 20 * SECOND;

/// Octets that a sending machine ever wants to have sent at once, beside the message.
const COMMANDS_BOUND: usize = 64 << 10;

/// Who waits for a job.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// The queue.
    Queue(LegId),
    /// A session whose client waits, with a lease for so many messages.
    Session(u32, u32),
}

/// A message to be taken to a destination.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: SpoolId,
    pub(crate) owner: Owner,
    pub(crate) destination: Rc<str>,
    pub(crate) recipients: Vec<u32>,
    pub(crate) content: Option<Content>,
}

/// A connection to a next hop.
#[derive(Debug)]
pub(crate) struct Delivery {
    link: LinkId,
    hop: usize,
    sender: Sender,
    input: Vec<u8>,
    job: Option<Job>,
    begun: bool,
    /// The last octet of the message is on its way.
    handed_over: bool,
    /// It has brought a message before this one.
    kept: bool,
    heard: u64,
}

impl World {
    /// Takes a job to its next hop, over a connection that was kept or a new one.
    pub(crate) fn start_delivery(&mut self, shard: usize, job: Job) {
        let Some(hop) = HOPS.iter().position(|(name, _)| **name == *job.destination) else {
            let outcomes = all(&job.recipients, &Outcome::Deferred(ours("there is no such target")));
            return self.job_done(shard, &job, outcomes, false);
        };
        let concurrency = self.plan.destinations[hop].1.concurrency;
        if let Some(host) = &mut self.host {
            let under_way = host.under_way.entry(job.destination.clone()).or_default();
            *under_way += 1;
            if *under_way > concurrency {
                let (many, name) = (*under_way, &job.destination);
                self.book.violate(format!("{many} deliveries to {name} are under way, and {concurrency} may be"));
            }
        }
        let again = !self.dice.one_in(3);
        let Some(own) = self.shard(shard) else { return };
        let idle = |delivery: &Delivery| delivery.hop == hop && delivery.job.is_none() && delivery.sender.can_begin();
        let kept = own.deliveries.iter().find(|(_, delivery)| idle(delivery)).map(|(number, _)| *number);
        match kept.filter(|_| again) {
            Some(number) => {
                if let Some(delivery) = own.deliveries.get_mut(&number) {
                    delivery.take(job);
                }
                self.drive(shard, number);
            }
            None => self.open(shard, hop, job),
        }
    }

    fn open(&mut self, shard: usize, hop: usize, job: Job) {
        let now = self.now;
        let Some(number) = self.shard(shard).map(|own| own.number()) else { return };
        let session = number | (shard as u32) << 28;
        if self.hops[hop].down {
            let outcomes = all(&job.recipients, &Outcome::Deferred(ours("the next hop takes no connection")));
            return self.delivered(shard, &job, outcomes, true);
        }
        let link = self.connect([End::Outbound(shard, number), End::Hop(hop, session)], Fault::HopCut);
        let setup = SenderSetup { protocol: HOPS[hop].1, helo: "mx.sim".into(), tls: SenderTls::Off, secure: false };
        let mut delivery = Delivery {
            link,
            hop,
            sender: Sender::new(setup),
            input: Vec::new(),
            job: None,
            begun: false,
            handed_over: false,
            kept: false,
            heard: now,
        };
        delivery.take(job);
        if let Some(own) = self.shard(shard) {
            own.deliveries.insert(number, delivery);
        }
        self.task(PATIENCE, shard, Task::Delivery(number));
        self.hop_accepts(hop, session, link);
    }

    pub(crate) fn delivery_reads(&mut self, shard: usize, number: u32, bytes: &[u8]) {
        let now = self.now;
        let Some(delivery) = self.shard(shard).and_then(|own| own.deliveries.get_mut(&number)) else { return };
        delivery.input.extend_from_slice(bytes);
        delivery.heard = now;
        self.drive(shard, number);
    }

    /// Feeds the machine until it wants more.
    fn drive(&mut self, shard: usize, number: u32) {
        let Some(mut delivery) = self.shard(shard).and_then(|own| own.deliveries.remove(&number)) else { return };
        let mut out = Vec::new();
        let over = loop {
            let (used, step) = delivery.sender.advance(&delivery.input, &mut out);
            delivery.input.drain(..used);
            if out.len() > COMMANDS_BOUND {
                self.book.violate(format!("a delivery wants {} octets sent at once", out.len()));
            }
            match step {
                SenderStep::Need => break false,
                SenderStep::Idle => match delivery.begin(&mut out) {
                    Ok(true) => {}
                    Ok(false) => break false,
                    Err(unsendable) => self.unsendable(shard, &mut delivery, &unsendable),
                },
                SenderStep::Body => {
                    self.send(delivery.link, 0, &std::mem::take(&mut out));
                    self.send_body(&mut delivery, &mut out);
                    self.send(delivery.link, 0, &std::mem::take(&mut out));
                }
                SenderStep::Done(replies) => self.answered_by_hop(shard, &mut delivery, &replies),
                SenderStep::Refused(_) => {
                    self.send(delivery.link, 0, &std::mem::take(&mut out));
                    self.lost_delivery(shard, &mut delivery, Vec::new());
                    delivery.sender.quit(&mut out);
                }
                SenderStep::Closed => break true,
                SenderStep::StartTls => {
                    self.book.violate("TLS is begun though it is off".into());
                    break true;
                }
            }
        };
        self.send(delivery.link, 0, &out);
        if over {
            return self.hang_up(delivery.link, 0);
        }
        if let Some(own) = self.shard(shard) {
            own.deliveries.insert(number, delivery);
        }
    }

    fn send_body(&mut self, delivery: &mut Delivery, out: &mut Vec<u8>) {
        let Some(content) = delivery.job.as_ref().and_then(|job| job.content.clone()) else { return };
        let mut rest = &content.bytes[..];
        loop {
            let most = if self.dice.one_in(2) { rest.len() } else { self.dice.range(1, 3000) as usize };
            let (piece, behind) = rest.split_at(rest.len().min(most));
            rest = behind;
            delivery.handed_over |= rest.is_empty();
            delivery.sender.body(piece, rest.is_empty(), out);
            if rest.is_empty() {
                return;
            }
        }
    }

    /// There is a reply for each recipient.
    fn answered_by_hop(&mut self, shard: usize, delivery: &mut Delivery, replies: &[RecipientReply]) {
        let Some(job) = delivery.job.take() else {
            return self.book.violate("replies came for a message that nobody sent".into());
        };
        delivery.kept = true;
        if replies.len() != job.recipients.len() {
            self.book.violate(format!("{} replies came for {} recipients", replies.len(), job.recipients.len()));
        }
        let how = if delivery.sender.reports() {
            How::Passed
        } else if HOPS[delivery.hop].1 == Protocol::Lmtp {
            How::Final
        } else {
            How::Relayed
        };
        let closing = replies.iter().any(|reply| matches!(reply.code, 0 | 421));
        if closing {
            self.book.excuse(job.id);
        }
        let outcomes = job.recipients.iter().zip(replies).map(|(number, reply)| (*number, judge(reply, how))).collect();
        self.delivered(shard, &job, outcomes, closing);
    }

    fn unsendable(&mut self, shard: usize, delivery: &mut Delivery, unsendable: &Unsendable) {
        let Some(job) = delivery.job.take() else { return };
        let (class, subject, detail) = unsendable.status;
        let reason = Reason::ours(Status(class, subject, detail), &unsendable.text);
        let permanent = unsendable.is_permanent();
        let outcome = if permanent { Outcome::Failed(reason) } else { Outcome::Deferred(reason) };
        self.delivered(shard, &job, all(&job.recipients, &outcome), false);
    }

    /// The session is over, with or without a message under way.
    fn lost_delivery(&mut self, shard: usize, delivery: &mut Delivery, replies: Vec<RecipientReply>) {
        let Some(job) = delivery.job.take() else { return };
        let unheard = replies.iter().all(|reply| matches!(reply.stage, Stage::Unsent | Stage::Mail));
        if delivery.kept && unheard && !delivery.handed_over {
            // It was kept for too long: that says nothing of the message, nor of the hop.
            return self.open(shard, delivery.hop, job);
        }
        if delivery.handed_over {
            self.book.excuse(job.id);
        }
        let outcomes = match replies.len() == job.recipients.len() && delivery.handed_over {
            true => job
                .recipients
                .iter()
                .zip(&replies)
                .map(|(number, reply)| (*number, judge(reply, How::Passed)))
                .collect(),
            false => all(&job.recipients, &Outcome::Deferred(ours("the connection to the next hop was lost"))),
        };
        self.delivered(shard, &job, outcomes, true);
    }

    fn delivered(&mut self, shard: usize, job: &Job, outcomes: Vec<(u32, Outcome)>, hop_failed: bool) {
        if let Some(under_way) = self.host.as_mut().and_then(|host| host.under_way.get_mut(&job.destination)) {
            *under_way -= 1;
        }
        self.job_done(shard, job, outcomes, hop_failed);
    }

    /// The connection is gone.
    pub(crate) fn delivery_cut_off(&mut self, shard: usize, number: u32, by_fault: bool) {
        let Some(mut delivery) = self.shard(shard).and_then(|own| own.deliveries.remove(&number)) else { return };
        self.note(format_args!("{shard} connection {number} to a next hop is gone, by a fault: {by_fault}"));
        let unread = std::mem::take(&mut delivery.input);
        let replies = delivery.sender.lost(&unread);
        self.lost_delivery(shard, &mut delivery, replies);
        self.links.cut(delivery.link);
    }

    pub(crate) fn delivery_timer(&mut self, shard: usize, number: u32) {
        let now = self.now;
        let Some(delivery) = self.shard(shard).and_then(|own| own.deliveries.get_mut(&number)) else { return };
        let patience = if delivery.job.is_some() { PATIENCE } else { KEPT_FOR };
        let due = delivery.heard + patience;
        if now < due {
            return self.task(due - now, shard, Task::Delivery(number));
        }
        let link = delivery.link;
        if delivery.job.is_none() {
            let Some(own) = self.shard(shard) else { return };
            own.deliveries.remove(&number);
            return self.hang_up(link, 0);
        }
        self.delivery_cut_off_here(shard, number);
    }

    /// The next hop is waited for no longer.
    fn delivery_cut_off_here(&mut self, shard: usize, number: u32) {
        let Some(mut delivery) = self.shard(shard).and_then(|own| own.deliveries.remove(&number)) else { return };
        self.tear(delivery.link, 0);
        let replies = delivery.sender.lost(&[]);
        self.lost_delivery(shard, &mut delivery, replies);
    }

    /// A session does not wait any more for what it has asked of a next hop: the connection ends.
    pub(crate) fn call_off(&mut self, shard: usize, session: u32) -> Option<Job> {
        let own = self.shard(shard)?;
        let of_session = |delivery: &Delivery| {
            delivery.job.as_ref().is_some_and(|job| matches!(job.owner, Owner::Session(owner, _) if owner == session))
        };
        let number = *own.deliveries.iter().find(|(_, delivery)| of_session(delivery))?.0;
        let delivery = own.deliveries.remove(&number)?;
        self.tear(delivery.link, 0);
        let job = delivery.job?;
        if let Some(under_way) = self.host.as_mut().and_then(|host| host.under_way.get_mut(&job.destination)) {
            *under_way -= 1;
        }
        Some(job)
    }
}

impl Delivery {
    fn take(&mut self, job: Job) {
        (self.job, self.begun, self.handed_over) = (Some(job), false, false);
    }

    /// Says the envelope if there is a message to send; false if there is none, or it is said.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<bool, Unsendable> {
        let Some(job) = self.job.as_ref().filter(|_| !self.begun) else { return Ok(false) };
        let Some(Content { envelope, bytes }) = &job.content else { return Ok(false) };
        self.begun = true;
        let words: Vec<Option<String>> = job
            .recipients
            .iter()
            .map(|number| envelope.recipients.get(*number as usize).and_then(|to| words(to.notify)))
            .collect();
        let recipients: Vec<OutgoingRecipient<'_>> = job
            .recipients
            .iter()
            .zip(&words)
            .filter_map(|(number, words)| {
                let recipient = envelope.recipients.get(*number as usize)?;
                Some(OutgoingRecipient {
                    address: &recipient.address,
                    notify: words.as_deref(),
                    orcpt: recipient.original.as_deref(),
                })
            })
            .collect();
        let outgoing = outgoing(envelope, &recipients, bytes.len() as u64);
        self.sender.begin(&outgoing, out)?;
        Ok(true)
    }
}

fn outgoing<'a>(envelope: &'a Envelope, recipients: &'a [OutgoingRecipient<'a>], size: u64) -> Outgoing<'a> {
    Outgoing {
        from: &envelope.from,
        recipients,
        size,
        eight_bit: envelope.eight_bit,
        binary: envelope.binary,
        utf8: envelope.utf8,
        require_tls: envelope.require_tls,
        ret: envelope.ret.map(|ret| match ret {
            Ret::Full => ringpost_smtp::Ret::Full,
            Ret::Headers => ringpost_smtp::Ret::Headers,
        }),
        envid: envelope.envid.as_deref(),
    }
}

fn words(notify: Notify) -> Option<String> {
    let words = [
        (notify.never(), "NEVER"),
        (notify.success(), "SUCCESS"),
        (notify.failure(), "FAILURE"),
        (notify.delay(), "DELAY"),
    ];
    let said: Vec<&str> = words.iter().filter(|(said, _)| *said).map(|(_, word)| *word).collect();
    (!notify.is_unsaid()).then(|| said.join(","))
}

fn judge(reply: &RecipientReply, how: How) -> Outcome {
    let reason = |class: u8| Reason {
        code: reply.code,
        status: reply.status.map_or(Status(class, 0, 0), |(_, subject, detail)| Status(class, subject, detail)),
        text: reply.text.clone(),
        remote: Some("hop.sim".into()),
    };
    match reply.code {
        200..=299 => Outcome::Delivered(how),
        500..=599 => Outcome::Failed(reason(5)),
        _ => Outcome::Deferred(reason(4)),
    }
}

impl Delivery {
    /// Whether a message is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.job.is_some()
    }
}
