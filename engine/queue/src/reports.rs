//! What follows from a report: who was given up is done with when its report is durable, and a dead letter when there can be
//! none.

use crate::record::Buried;
use crate::{DestinationHash, Queue, Reason};
use ringpost_base::SpoolId;
use std::collections::BTreeSet;

impl Queue {
    /// The reports of these recipients' failures at a destination, which the verdict has said, are durable, or none are
    /// wanted. True: the message is settled. If not, its state is to be noted in the spool.
    pub fn reported(&mut self, id: SpoolId, destination: DestinationHash, recipients: &[u32]) -> bool {
        let Some(message) = self.find(id) else { return false };
        let reported = self.take_reporting(message, destination, recipients.iter().copied());
        if !reported.is_empty() {
            let reported = reported.into_iter().map(|recipient| (recipient, destination.0));
            self.extra_mut(message).done.extend(reported);
        }
        self.settle_if_over(message)
    }

    /// No report can be made of these recipients' failures at a destination, which the verdict has said: they are kept, as a
    /// dead letter. Its state is to be noted in the spool. True: the message is settled, as there was nobody to bury.
    pub fn bury(&mut self, id: SpoolId, destination: DestinationHash, recipients: &[(u32, Reason)]) -> bool {
        let Some(message) = self.find(id) else { return false };
        let mut taken = self.take_reporting(message, destination, recipients.iter().map(|(recipient, _)| *recipient));
        if !taken.is_empty() {
            let own = recipients.iter().filter(|(recipient, _)| taken.remove(recipient));
            let buried: Vec<_> = own
                .map(|(recipient, reason)| Buried {
                    recipient: *recipient,
                    destination: destination.0,
                    reason: self.reasons.intern(reason),
                })
                .collect();
            self.count_buried(message, -1);
            let (tick, wall) = (self.tick_nanos(), self.now.wall);
            let extra = self.extra_mut(message);
            if extra.dead.is_empty() {
                (extra.buried_at, extra.buried_tick) = (wall, tick);
            }
            extra.dead.extend(buried);
            self.count_buried(message, 1);
        }
        self.settle_if_over(message)
    }

    /// Takes those of these recipients out of the ones being reported who failed at this destination.
    fn take_reporting(
        &mut self,
        message: u32,
        destination: DestinationHash,
        recipients: impl Iterator<Item = u32>,
    ) -> BTreeSet<u32> {
        let mut taken = BTreeSet::new();
        if self.extra(message).is_some_and(|extra| !extra.reporting.is_empty()) {
            let named: BTreeSet<u32> = recipients.collect();
            self.extra_mut(message).reporting.retain(|(recipient, at)| {
                let takes = *at == destination.0 && named.contains(recipient);
                if takes {
                    taken.insert(*recipient);
                }
                !takes
            });
        }
        taken
    }
}
