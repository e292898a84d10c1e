//! Telling senders what became of their mail: reports are messages of their own, durable before what they report on is
//! settled.

use crate::runner::Runner;
use crate::spans::Reported;
use ringpost_base::{SpoolId, Timestamp};
use ringpost_message::report::{
    REPORT_RETURN_MAX, Report, ReportBody, ReportKind, ReportedRecipient, compose, envelope_of, wanted,
};
use ringpost_message::{Envelope, HEADERS_MAX, Recipient, Ret};
use ringpost_metrics::Counter;
use ringpost_queue::{DestinationHash, How, Reason, Status, Verdict};
use ringpost_runtime::{now, sleep, spawn};
use ringpost_store::{BodyReader, Failure, LoadedContent, StoreError};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How long the spool is left alone when it could not take a report.
const SPOOL_PAUSE: Duration = Duration::from_secs(5);

/// How often a message that can't be read is read again before it is given up: a disk may come back.
const READS_MAX: usize = 3;

/// Bytes of a message that a report brings back, at most, where its sender asked for all of it.
const RETURNED_MAX: usize = REPORT_RETURN_MAX;

/// Counts reports that are being made, also where making one panics.
struct Making<'a>(&'a Cell<usize>);

impl<'a> Making<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What is told of a recipient.
struct Told {
    number: u32,
    status: Status,
    /// What the next hop said, if it was one.
    reason: Option<Reason>,
}

fn told(all: &[(u32, Reason)]) -> Vec<Told> {
    let one = |(number, reason): &(u32, Reason)| Told {
        number: *number,
        status: reason.status,
        reason: Some(reason.clone()),
    };
    all.iter().map(one).collect()
}

/// What became of a report.
enum Sent {
    /// It is durable and on its way, or nobody wants it.
    Yes,
    /// There is no way to its recipient.
    NoWay,
}

impl Runner {
    /// Tells the sender what the verdict says, and then settles what is over.
    pub(crate) fn report(self: &Rc<Self>, id: SpoolId, envelope: Option<Rc<Envelope>>, verdict: Verdict) {
        let runner = self.clone();
        spawn("report to a sender", async move {
            let _making = Making::new(&runner.reporting);
            runner.clone().reported(id, envelope, verdict).await;
            runner.ring();
        });
    }

    async fn reported(self: Rc<Self>, id: SpoolId, envelope: Option<Rc<Envelope>>, verdict: Verdict) {
        let Some((envelope, content)) = self.original(id, envelope).await else {
            // Not even who sent it can be read.
            if !verdict.failed.is_empty() {
                self.bury(id, verdict.destination, &verdict.failed);
            }
            return;
        };
        // Nothing is said of what an operator has dropped meanwhile.
        if !verdict.settled && self.queue.borrow().show(id, now()).is_none() {
            return;
        }
        self.tell_success(&envelope, &content, &verdict.delivered).await;
        // Without a way back it is lost, too.
        let _ = self.send(ReportKind::Delay, &envelope, &content, told(&verdict.delayed)).await;
        if verdict.failed.is_empty() {
            if verdict.settled {
                self.settle(id, Some(&envelope));
            }
            return;
        }
        // A report that can't be delivered is not reported (RFC 5321 section 6.1); it is kept for somebody to look at.
        let sent = if envelope.from.is_empty() {
            Sent::NoWay
        } else {
            self.send(ReportKind::Failure, &envelope, &content, told(&verdict.failed)).await
        };
        let buried = |number: u32| {
            let recipient = envelope.recipients.get(number as usize);
            // Of whom nobody wants to hear, nothing is kept.
            envelope.from.is_empty() || recipient.is_none_or(|to| wanted(&envelope, to, ReportKind::Failure))
        };
        let (bury, done): (Vec<_>, Vec<_>) = match sent {
            Sent::Yes => (Vec::new(), verdict.failed),
            Sent::NoWay => verdict.failed.into_iter().partition(|(number, _)| buried(*number)),
        };
        if !done.is_empty() {
            let numbers: Vec<u32> = done.iter().map(|(number, _)| *number).collect();
            let settled = self.queue.borrow_mut().reported(id, verdict.destination, &numbers);
            self.note_or_settle(id, settled, &envelope);
        }
        if !bury.is_empty() {
            self.bury(id, verdict.destination, &bury);
        }
    }

    fn note_or_settle(&self, id: SpoolId, settled: bool, envelope: &Rc<Envelope>) {
        if settled {
            self.settle(id, Some(envelope));
        } else {
            self.store.note(id, &self.queue.borrow().state(id));
        }
    }

    /// Keeps a message for inspection.
    fn bury(self: &Rc<Self>, id: SpoolId, destination: DestinationHash, failed: &[(u32, Reason)]) {
        if self.queue.borrow_mut().bury(id, destination, failed) {
            return self.settle(id, None);
        }
        self.store.note(id, &self.queue.borrow().state(id));
        self.persist(id);
        self.block.add(Counter::DeadLettersBuried, 1);
        let reason = failed.first().map_or("", |(_, reason)| &*reason.text);
        tracing::error!(id = %id, recipients = failed.len() as u64, reason,
            "message can neither be delivered nor reported; kept as a dead letter");
    }

    /// The envelope of the message, and the start of its bytes.
    async fn original(&self, id: SpoolId, known: Option<Rc<Envelope>>) -> Option<(Rc<Envelope>, Content)> {
        let mut loaded = self.store.load(id).await;
        for _ in 0..READS_MAX {
            if loaded.is_ok() || self.queue.borrow().show(id, now()).is_none() {
                break;
            }
            sleep(SPOOL_PAUSE).await;
            loaded = self.store.load(id).await;
        }
        match loaded {
            Ok(loaded) => {
                let envelope = match known {
                    Some(envelope) => envelope,
                    None => Rc::new(Envelope::decode(&loaded.envelope).ok()?),
                };
                Some((envelope, Content::of(id, &loaded.content).await))
            }
            Err(error) => {
                tracing::error!(%error, id = %id, "message can't be read for a report about it");
                known.map(|envelope| (envelope, Content::default()))
            }
        }
    }

    /// Has the sender of a message that its next hop took at once told what it asked to be told. The message need not be
    /// there any longer when this has returned.
    pub(crate) async fn report_handed_over(
        self: &Rc<Self>,
        envelope: &Rc<Envelope>,
        content: &LoadedContent,
        mut delivered: Vec<(u32, How)>,
    ) {
        delivered.retain(|(number, how)| {
            let recipient = envelope.recipients.get(*number as usize);
            *how != How::Passed && recipient.is_some_and(|recipient| recipient.notify.success())
        });
        if delivered.is_empty() {
            return;
        }
        let (runner, envelope) = (self.clone(), envelope.clone());
        let content = Content::of(envelope.id, content).await;
        spawn("report to a sender", async move {
            let _making = Making::new(&runner.reporting);
            runner.tell_success(&envelope, &content, &delivered).await;
        });
    }

    async fn tell_success(&self, envelope: &Rc<Envelope>, content: &Content, delivered: &[(u32, How)]) {
        for (kind, wanted) in [(ReportKind::Success, How::Final), (ReportKind::Relayed, How::Relayed)] {
            let of = delivered.iter().filter(|(_, how)| *how == wanted);
            let told = of.map(|(number, _)| Told { number: *number, status: Status(2, 0, 0), reason: None }).collect();
            // Without a way back it is lost, which is what its sender would find without this server, too.
            let _ = self.send(kind, envelope, content, told).await;
        }
    }

    /// Makes one report about those recipients whose sender wants it, and commits it.
    async fn send(&self, kind: ReportKind, original: &Rc<Envelope>, content: &Content, told: Vec<Told>) -> Sent {
        let recipient = |told: &Told| original.recipients.get(told.number as usize);
        let told: Vec<Told> =
            told.into_iter().filter(|told| recipient(told).is_some_and(|to| wanted(original, to, kind))).collect();
        if told.is_empty() {
            return Sent::Yes;
        }
        let since = now();
        let at = since.wall;
        let id = self.ids.borrow_mut().next(at);
        let host = self.directions.borrow().targets.host().clone();
        let recipients: Vec<ReportedRecipient<'_>> = told
            .iter()
            .filter_map(|told| {
                let reason = told.reason.as_ref();
                Some(ReportedRecipient {
                    recipient: recipient(told)?,
                    status: (told.status.0, told.status.1, told.status.2),
                    diagnostic: reason.map(|reason| (reason.code, &*reason.text)),
                    remote: reason.and_then(|reason| reason.remote.as_deref()),
                    last_attempt: None,
                    will_retry_until: (kind == ReportKind::Delay).then(|| self.gives_up(original)),
                })
            })
            .collect();
        let (headers, body) = content.parts(original.ret);
        let report =
            Report { kind, host: &host, id, original, recipients: &recipients, header_section: headers, body, at };
        let mut text = Vec::with_capacity(4096);
        compose(&report, &mut text);
        let mut envelope = envelope_of(&report);
        if !self.address(&mut envelope) {
            tracing::warn!(id = %original.id, to = &*original.from, kind = kind.name(),
                "no domain, route or queue.default_target takes the report to its sender");
            return Sent::NoWay;
        }
        self.commit(&envelope, &text).await;
        self.block.add(row(kind), 1);
        let made = Reported { about: original.id, id, kind: kind.name(), recipients: told.len(), since };
        self.trace_report(&made);
        tracing::info!(id = %envelope.id, about = %original.id, to = &*original.from, kind = kind.name(),
            recipients = told.len() as u64, "report made");
        Sent::Yes
    }

    /// When a message is given up.
    fn gives_up(&self, original: &Envelope) -> Timestamp {
        original.arrived.after(self.queue.borrow().options().expire_after.0)
    }

    /// Addresses a report to the mailboxes that its recipient has; false if there is no way to it.
    fn address(&self, envelope: &mut Envelope) -> bool {
        let directions = self.directions.borrow();
        let named = std::mem::take(&mut envelope.recipients);
        envelope.recipients = named.iter().flat_map(|recipient| (directions.reach)(&recipient.address)).collect();
        let routed = |recipient: &Recipient| directions.routes.route(&recipient.address).is_some();
        !envelope.recipients.is_empty() && envelope.recipients.iter().all(routed)
    }

    /// Makes a report durable, however long the spool takes to work again.
    async fn commit(&self, envelope: &Envelope, text: &[u8]) {
        let mut stored = Vec::with_capacity(256);
        envelope.encode(&mut stored);
        loop {
            let mut draft = self.store.draft(envelope.id);
            draft.buffer().extend_from_slice(text);
            let size = draft.len();
            match self.store.commit(draft, &stored).await {
                Ok(_receipt) => {
                    self.push(self.item(envelope, size));
                    return;
                }
                Err(Failure::Full | Failure::Io) => sleep(SPOOL_PAUSE).await,
            }
        }
    }
}

/// The start of a message, or all of it.
#[derive(Default)]
struct Content {
    whole: bool,
    bytes: Vec<u8>,
}

impl Content {
    /// As much as a report may bring back; nothing of what can't be read.
    async fn of(id: SpoolId, content: &LoadedContent) -> Self {
        let (whole, size) = match content {
            LoadedContent::Memory(bytes) => (bytes.len() <= RETURNED_MAX, bytes.len() as u64),
            LoadedContent::File(_, file) => (false, file.len),
        };
        let max = if whole { RETURNED_MAX } else { HEADERS_MAX };
        match start_of(content, max).await {
            Ok(bytes) => Self { whole: whole && bytes.len() as u64 == size, bytes },
            Err(error) => {
                tracing::error!(%error, id = %id, "message can't be read for a report about it");
                Self::default()
            }
        }
    }

    /// The header section, and what comes back of the rest (RFC 3461 section 4.3).
    fn parts(&self, ret: Option<Ret>) -> (&[u8], ReportBody<'_>) {
        let end = memchr::memmem::find(&self.bytes, b"\r\n\r\n").map_or(self.bytes.len(), |at| at + 2);
        let body = match ret {
            Some(Ret::Full) if self.whole => ReportBody::Full(&self.bytes),
            _ => ReportBody::HeadersOnly,
        };
        (&self.bytes[..end], body)
    }
}

/// The first bytes of a message, at most so many.
async fn start_of(content: &LoadedContent, max: usize) -> Result<Vec<u8>, StoreError> {
    match content {
        LoadedContent::Memory(bytes) => Ok(bytes[..bytes.len().min(max)].to_vec()),
        LoadedContent::File(path, file) => {
            let piece = BodyReader::open(path, *file).await?.next().await?;
            Ok(piece[..piece.len().min(max)].to_vec())
        }
    }
}

fn row(kind: ReportKind) -> Counter {
    match kind {
        ReportKind::Failure => Counter::ReportsFailure,
        ReportKind::Delay => Counter::ReportsDelay,
        ReportKind::Success => Counter::ReportsSuccess,
        ReportKind::Relayed => Counter::ReportsRelayed,
    }
}
