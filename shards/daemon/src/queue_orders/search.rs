//! The search for the messages that fit a filter, in the order of their ids.
//!
//! Of addresses the index knows the hash of the domain, so envelopes are read of those messages only that may fit, and
//! of those that are shown. A search does a bounded amount of work, and then tells how far it has come.

use super::{Desk, views};
use ringpost_admin::api::{AddressFilter, QueueFilter};
use ringpost_base::{SpoolId, Tick};
use ringpost_message::Envelope;
use ringpost_queue::{Filter, Page, View};
use ringpost_runtime::{Pace, now, tick};
use std::time::Duration;

/// Entries of the index that are looked at without giving way: well below a millisecond.
pub(super) const SLICE_ENTRIES_MAX: usize = 2_000;

/// Entries of the index that are looked at for one question.
const SCAN_ENTRIES_MAX: u64 = 500_000;

/// Envelopes that are read from the log for one question.
const READS_MAX: u64 = 5_000;

/// How long one question keeps a shard looking: below what those who ask wait for.
const TIME_MAX: Duration = Duration::from_secs(2);

/// A walk over the messages that fit, in the order of their ids.
pub(super) struct Search<'a> {
    desk: &'a Desk,
    filter: Filter,
    from: Option<&'a AddressFilter>,
    to: Option<&'a AddressFilter>,
    /// Entries to be found at a time.
    batch: usize,
    /// Entries found and not given out yet.
    found: std::vec::IntoIter<View>,
    /// How far the index has been looked through; nothing: not at all.
    reached: Option<SpoolId>,
    /// Whether there is more of it.
    more: bool,
    /// Where it began.
    begun_after: Option<SpoolId>,
    /// The last message given out or passed over.
    last: Option<SpoolId>,
    scanned: u64,
    reads: u64,
    until: Tick,
    pace: Pace,
}

impl<'a> Search<'a> {
    /// Of a search for one page no more entries than those of the page are made at a time.
    pub(super) fn new(desk: &'a Desk, filter: &'a QueueFilter, after: Option<SpoolId>, batch: usize) -> Self {
        let until = tick().deadline(TIME_MAX).0;
        Self {
            desk,
            filter: views::index_filter(filter),
            from: filter.from.as_ref(),
            to: filter.to.as_ref(),
            batch: batch.min(SLICE_ENTRIES_MAX),
            found: Vec::new().into_iter(),
            reached: after,
            begun_after: after,
            more: true,
            last: after,
            scanned: 0,
            reads: 0,
            until,
            pace: Pace::default(),
        }
    }

    /// The next message that fits, with its envelope if that is `shown` or was needed to find out; nothing at the end, or
    /// when enough has been done for one question.
    pub(super) async fn next(&mut self, shown: bool) -> Option<(View, Option<Envelope>)> {
        let by_address = self.from.is_some() || self.to.is_some();
        loop {
            let view = self.next_entry().await?;
            self.last = Some(view.id);
            if !shown && !by_address {
                return Some((view, None));
            }
            self.reads += 1;
            let loaded = self.desk.store().load(view.id).await;
            self.pace.breathe().await;
            let envelope = match &loaded {
                Ok(loaded) => Envelope::decode(&loaded.envelope).ok(),
                // Delivered since it was found.
                Err(_) if self.desk.runner.queue().borrow().show(view.id, now()).is_none() => continue,
                Err(_) => None,
            };
            if !by_address || envelope.as_ref().is_some_and(|envelope| self.fits(envelope)) {
                return Some((view, envelope));
            }
        }
    }

    /// The next entry that may fit.
    async fn next_entry(&mut self) -> Option<View> {
        loop {
            if self.is_spent() {
                return None;
            }
            if let Some(view) = self.found.next() {
                return Some(view);
            }
            if !self.more {
                return None;
            }
            let page = self.look();
            self.scanned += page.scanned as u64;
            (self.more, self.reached) = (page.next.is_some(), page.next.or(self.reached));
            self.found = page.entries.into_iter();
            if self.found.len() == 0 {
                self.last = self.reached;
            }
            self.pace.breathe().await;
        }
    }

    fn look(&self) -> Page {
        let queue = self.desk.runner.queue().borrow();
        queue.page(&self.filter, self.reached, self.batch, SLICE_ENTRIES_MAX, now())
    }

    /// Whether a message that was found fits now, too, as far as the index can tell. Its addresses don't change.
    pub(super) fn still_finds(&self, id: SpoolId) -> bool {
        self.desk.runner.queue().borrow().fits(&self.filter, id, now())
    }

    /// Entries looked at.
    pub(super) fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Whether enough has been done. Whatever happens, a search gets further than it began.
    fn is_spent(&self) -> bool {
        let enough = self.reads >= READS_MAX || self.scanned >= SCAN_ENTRIES_MAX || tick() > self.until;
        enough && self.last != self.begun_after
    }

    /// Where to go on; nothing if all has been looked at.
    pub(super) fn stopped_at(&self) -> Option<SpoolId> {
        let over = !self.more && self.found.len() == 0;
        if over { None } else { self.last }
    }

    fn fits(&self, envelope: &Envelope) -> bool {
        let from = self.from.is_none_or(|from| from.fits(&envelope.from));
        from && self.to.is_none_or(|to| envelope.recipients.iter().any(|recipient| to.fits(&recipient.address)))
    }
}
