//! Reports, in small: what `shards/deliver` does to tell senders what became of their mail. A report is a message of its own,
//! and durable before what it reports on is settled.

use crate::book::{Answer, Entry};
use crate::calendar::Task;
use crate::plan::{HOST, SECOND};
use crate::store::{Content, Waiter};
use crate::world::World;
use ringpost_base::{Durability, SpoolId};
use ringpost_message::Envelope;
use ringpost_message::report::{
    Report, ReportBody, ReportKind, ReportedRecipient, compose, envelope_of, returns_message, wanted,
};
use ringpost_queue::{DestinationHash, How, Reason, Status, Verdict};
use ringpost_spool::MessageParts;
use std::collections::VecDeque;
use std::rc::Rc;

/// How long the spool is left alone when it could not take a report.
const SPOOL_PAUSE: u64 = 5 * SECOND;

/// The reports that follow from one verdict.
#[derive(Debug)]
pub(crate) struct Reporting {
    about: SpoolId,
    shard: usize,
    /// Reports that are not durable yet.
    left: VecDeque<(Rc<Envelope>, Rc<Vec<u8>>)>,
    failed: Vec<(u32, Reason)>,
    /// What the queue calls the destination where it failed.
    hash: DestinationHash,
    /// Where it failed, if it was tried.
    destination: Option<Rc<str>>,
    /// No way leads to the sender.
    no_way: bool,
    settled: bool,
}

/// What is told of a recipient.
struct Told {
    number: u32,
    status: Status,
    reason: Option<Reason>,
}

/// What came of writing a report.
enum Written {
    Report(Rc<Envelope>, Rc<Vec<u8>>),
    /// The sender wants none.
    Unwanted,
    /// No way leads to the sender.
    NoWay,
}

impl World {
    /// Tells the sender what the verdict says, and then settles what is over.
    pub(crate) fn report(&mut self, shard: usize, id: SpoolId, verdict: Verdict, destination: Option<Rc<str>>) {
        let dropped = self.book.facts(id).is_some_and(|facts| facts.dropped);
        let content = if dropped { None } else { self.load(shard, id) };
        let mut reporting = Reporting {
            about: id,
            shard,
            left: VecDeque::new(),
            failed: verdict.failed.clone(),
            hash: verdict.destination,
            destination,
            no_way: content.as_ref().is_none_or(|content| content.envelope.from.is_empty()),
            settled: verdict.settled,
        };
        if let Some(content) = content.filter(|content| !content.envelope.from.is_empty()) {
            self.write_reports(&mut reporting, &content, &verdict);
        }
        let Some(own) = self.shard(shard) else { return };
        let number = own.number();
        own.reports.insert(number, reporting);
        self.task(1, shard, Task::Report(number));
    }

    fn write_reports(&mut self, reporting: &mut Reporting, content: &Content, verdict: &Verdict) {
        let delivered = |wanted: How| {
            let of = verdict.delivered.iter().filter(move |(_, how)| *how == wanted);
            of.map(|(number, _)| Told { number: *number, status: Status(2, 0, 0), reason: None }).collect::<Vec<_>>()
        };
        let with_reason = |all: &[(u32, Reason)]| {
            let told = |(number, reason): &(u32, Reason)| Told {
                number: *number,
                status: reason.status,
                reason: Some(reason.clone()),
            };
            all.iter().map(told).collect::<Vec<_>>()
        };
        for (kind, told) in [
            (ReportKind::Success, delivered(How::Final)),
            (ReportKind::Relayed, delivered(How::Relayed)),
            (ReportKind::Delay, with_reason(&verdict.delayed)),
            (ReportKind::Failure, with_reason(&verdict.failed)),
        ] {
            match self.write_report(reporting.shard, kind, content, told) {
                Written::Report(envelope, text) => reporting.left.push_back((envelope, text)),
                Written::Unwanted => {}
                Written::NoWay => reporting.no_way |= kind == ReportKind::Failure,
            }
        }
    }

    /// One report about those whose sender wants it.
    fn write_report(&mut self, shard: usize, kind: ReportKind, content: &Content, told: Vec<Told>) -> Written {
        let original = &*content.envelope;
        let recipient = |told: &Told| original.recipients.get(told.number as usize);
        let told: Vec<Told> =
            told.into_iter().filter(|told| recipient(told).is_some_and(|to| wanted(original, to, kind))).collect();
        if told.is_empty() {
            return Written::Unwanted;
        }
        if self.plan.routes.route(&original.from).is_none() {
            return Written::NoWay;
        }
        let at = self.clocks().wall;
        let Some(own) = self.shard(shard) else { return Written::Unwanted };
        let id = own.ids.next(at);
        let reported = |told: &Told| {
            let reason = told.reason.as_ref();
            Some((recipient(told)?, told.status, reason.map(|reason| (reason.code, reason.text.clone()))))
        };
        let reported: Vec<_> = told.iter().filter_map(reported).collect();
        let recipients: Vec<ReportedRecipient<'_>> = reported
            .iter()
            .map(|(recipient, status, diagnostic)| ReportedRecipient {
                recipient,
                status: (status.0, status.1, status.2),
                diagnostic: diagnostic.as_ref().map(|(code, text)| (*code, &**text)),
                remote: None,
                last_attempt: None,
                will_retry_until: None,
            })
            .collect();
        let whole = returns_message(original, kind, content.bytes.len() as u64);
        let body = if whole { ReportBody::Full(&content.bytes) } else { ReportBody::HeadersOnly };
        let header_section = &content.bytes[..];
        let report = Report { kind, host: HOST, id, original, recipients: &recipients, header_section, body, at };
        let mut text = Vec::new();
        compose(&report, &mut text);
        let envelope = envelope_of(&report);
        for recipient in &recipients {
            let name = format!("Final-Recipient: rfc822; {}", recipient.recipient.address);
            if !contains(&text, name.as_bytes()) {
                self.book.violate(format!("the report {id} about {} does not say: {name}", original.id));
            }
        }
        self.note(format_args!("{shard} {id} is a report of {kind:?} about {}", original.id));
        let duties = self.duties(&envelope);
        self.book.enter(Entry { id, shard, letter: None, trace: &[], body: &text, duties });
        Written::Report(Rc::new(envelope), Rc::new(text))
    }

    /// Has the next report made durable, or, if none is left, does what was waiting for them.
    pub(crate) fn go_on_reporting(&mut self, shard: usize, number: u32) {
        let Some(own) = self.shard(shard) else { return };
        let Some(reporting) = own.reports.get(&number) else { return };
        let Some((envelope, text)) = reporting.left.front().cloned() else { return self.all_reported(shard, number) };
        let mut stored = Vec::new();
        envelope.encode(&mut stored);
        let parts = MessageParts { id: envelope.id, envelope: &stored, bytes: &text, body_file: None };
        // A report that is larger than a segment goes into a body file, as any message does; here none is that large.
        if !self.stage(shard, Waiter::Report(number, envelope.id), &parts) {
            self.book.violate(format!("the report {} of {} octets is not taken", envelope.id, text.len()));
        }
    }

    pub(crate) fn report_committed(&mut self, shard: usize, number: u32, durable: bool) {
        if !durable {
            return self.task(SPOOL_PAUSE, shard, Task::Report(number));
        }
        let Some(reporting) = self.shard(shard).and_then(|own| own.reports.get_mut(&number)) else { return };
        if let Some((envelope, text)) = reporting.left.pop_front() {
            self.book.answered(envelope.id, Answer::Accepted, Durability::Fsync);
            let item = self.item(&envelope, text.len() as u64);
            self.push(shard, item);
        }
        self.task(1, shard, Task::Report(number));
    }

    fn all_reported(&mut self, shard: usize, number: u32) {
        let Some(own) = self.shard(shard) else { return };
        let Some(reporting) = own.reports.remove(&number) else { return };
        let Reporting { about, failed, hash, destination, no_way, settled, .. } = reporting;
        if failed.is_empty() {
            if settled {
                self.settle(shard, about);
            }
            return;
        }
        let over = if no_way {
            failed.iter().for_each(|(number, _)| self.book.buried(about, *number, destination.as_deref()));
            self.shard(shard).is_some_and(|own| own.queue.bury(about, hash, &failed))
        } else {
            let numbers: Vec<u32> = failed.iter().map(|(number, _)| *number).collect();
            numbers.iter().for_each(|number| self.book.told(about, *number, destination.as_deref()));
            self.shard(shard).is_some_and(|own| own.queue.reported(about, hash, &numbers))
        };
        self.look_at_queue(shard);
        if over {
            return self.settle(shard, about);
        }
        self.note_state(shard, about);
        // A dead letter is kept for somebody to look at, whatever its class.
        if no_way {
            self.persist(shard, about);
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
