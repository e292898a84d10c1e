//! Delivery into Maildirs and files, by the thread beside the shard.

use crate::maildir::{PathTemplate, file_name};
use crate::parcel::Done;
use crate::runner::{Runner, Underway, ours};
use crate::spans::Traced;
use ringpost_base::{SpoolId, Tick};
use ringpost_message::{Envelope, delivery_header};
use ringpost_metrics::Timing;
use ringpost_queue::{Asked, How, LegId, Outcome, Status};
use ringpost_runtime::tick;
use ringpost_store::{Job, JobContent, JobDone, JobKind, LoadedContent};
use ringpost_trace::SpanKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// An attempt that waits for the files thread.
pub(crate) struct InFiles {
    id: SpoolId,
    leg: LegId,
    destination: Rc<str>,
    envelope: Rc<Envelope>,
    /// Recipient numbers of each place, by the place's number.
    places: Vec<Vec<u32>>,
    /// Outcomes known already.
    outcomes: Vec<(u32, Outcome)>,
    since: Tick,
    traced: Option<Traced>,
}

impl Runner {
    /// One file for each Maildir, however many of the recipients have it.
    pub(crate) fn to_maildirs(&self, template: &PathTemplate, underway: Underway, elsewhere: Vec<(u32, Outcome)>) {
        let parcel = &underway.parcel;
        let mut maildirs: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
        for number in &parcel.recipients {
            let kept_in = parcel.envelope.recipients.get(*number as usize).map_or("", |recipient| recipient.kept_in());
            maildirs.entry(template.path(kept_in)).or_default().push(*number);
        }
        let (mut places, mut numbers) = (Vec::with_capacity(maildirs.len()), Vec::with_capacity(maildirs.len()));
        for (path, recipients) in maildirs {
            places.push((path, header(&parcel.envelope, &recipients), numbers.len()));
            numbers.push(recipients);
        }
        let name = file_name(parcel.id, parcel.envelope.arrived);
        self.submit(JobKind::Maildirs { name, places }, underway, numbers, elsewhere);
    }

    /// The message, and beside it who it was for.
    pub(crate) fn to_file(&self, directory: &Path, underway: Underway, elsewhere: Vec<(u32, Outcome)>) {
        let parcel = &underway.parcel;
        let mut envelope = serde_json::to_vec_pretty(&crate::description::describe(parcel)).unwrap_or_default();
        envelope.push(b'\n');
        let kind = JobKind::File { directory: directory.to_owned(), envelope };
        let numbers = vec![parcel.recipients.clone()];
        self.submit(kind, underway, numbers, elsewhere);
    }

    fn submit(&self, kind: JobKind, underway: Underway, places: Vec<Vec<u32>>, outcomes: Vec<(u32, Outcome)>) {
        let Underway { leg, destination, parcel, traced } = underway;
        let content = match parcel.content {
            LoadedContent::Memory(bytes) => JobContent::Memory(bytes),
            LoadedContent::File(path, file) => JobContent::File(path, file),
        };
        let number = self.next_job.get();
        self.next_job.set(number + 1);
        let (id, again) = (parcel.id, parcel.again);
        let envelope = parcel.envelope;
        let waiting = InFiles { id, leg, destination, envelope, places, outcomes, since: tick(), traced };
        self.in_files.borrow_mut().insert(number, waiting);
        self.files.submit(Job { number, id, kind, content, again });
    }

    /// The files thread has done a job.
    pub(crate) fn collected(self: &Rc<Self>, done: JobDone) {
        let Some(waiting) = self.in_files.borrow_mut().remove(&done.number) else { return };
        let InFiles { id, leg, destination, envelope, places, mut outcomes, since, traced } = waiting;
        self.block.observe(Timing::Attempt, tick().since(since));
        self.troubles.note(&destination, &done.places);
        for (place, result) in done.places {
            let outcome = match result {
                Ok(()) => Outcome::Delivered(How::Final),
                Err(reason) => {
                    // RFC 3463 section 3.3: mailbox status; it says why in words.
                    let mut reason = ours(&reason);
                    reason.status = Status(4, 2, 0);
                    Outcome::Deferred(reason)
                }
            };
            outcomes.extend(places.get(place).into_iter().flatten().map(|number| (*number, outcome.clone())));
        }
        let done = Done::of(outcomes, false);
        self.traced(traced, SpanKind::Internal, &done);
        self.finish(id, leg, Some(&envelope), done, Asked::Worked);
    }
}

fn header(envelope: &Envelope, recipients: &[u32]) -> Vec<u8> {
    let mut header = Vec::with_capacity(128);
    let addresses = recipients.iter().filter_map(|number| envelope.recipients.get(*number as usize));
    delivery_header(&envelope.from, addresses.map(|recipient| &*recipient.address), &mut header);
    header
}
