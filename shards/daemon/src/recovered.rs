//! Messages of an earlier run: what is made of each while the spool is read, and what the queue is given of it.
//!
//! A spool may hold a million of them, so nothing larger than the queue's own entry is made of one.

use ringpost_base::{Priority, SpoolId};
use ringpost_deliver::item;
use ringpost_message::Envelope;
use ringpost_queue::{DomainHash, NewItem, NewLeg, Routes};
use ringpost_store::Recovered;
use std::rc::Rc;

/// What is made of an envelope.
pub(crate) enum Digest {
    /// All recipients go to one destination: most messages.
    One(Box<One>),
    /// They don't.
    Many(Box<NewItem>),
    /// The envelope can't be read; the message is kept, and reported at every try.
    Damaged,
}

/// A message for one destination.
pub(crate) struct One {
    destination: Rc<str>,
    local: bool,
    priority: Priority,
    null_sender: bool,
    sender_domain: DomainHash,
    domain: DomainHash,
    recipients: u32,
}

/// Looks at an envelope.
pub(crate) fn digest(routes: &Routes, id: SpoolId, stored: &[u8]) -> Digest {
    let Ok(envelope) = Envelope::decode(stored) else {
        tracing::error!(id = %id, "the envelope of a message in the spool can't be read; it is kept");
        return Digest::Damaged;
    };
    let mut item = item(routes, &envelope, 0);
    let whole = matches!(item.legs.as_slice(), [leg] if leg.recipients.len() == item.recipients as usize);
    match item.legs.pop() {
        Some(NewLeg { destination, local, domain, .. }) if whole => Digest::One(Box::new(One {
            destination,
            local,
            domain,
            priority: item.priority,
            null_sender: item.null_sender,
            sender_domain: item.sender_domain,
            recipients: item.recipients,
        })),
        last => {
            item.legs.extend(last);
            Digest::Many(Box::new(item))
        }
    }
}

/// What the queue is given of a message that was found.
pub(crate) fn requeued(found: Recovered<Digest>) -> NewItem {
    let Recovered { id, digest, size, state, legacy_done, .. } = found;
    let item = match digest {
        Digest::Many(item) => *item,
        Digest::One(one) => {
            let recipients = (0..one.recipients).collect();
            let leg = NewLeg { destination: one.destination, local: one.local, recipients, domain: one.domain };
            NewItem {
                priority: one.priority,
                null_sender: one.null_sender,
                sender_domain: one.sender_domain,
                recipients: one.recipients,
                ..bare(id, vec![leg])
            }
        }
        Digest::Damaged => {
            let nowhere =
                NewLeg { destination: "".into(), local: true, recipients: vec![0], domain: DomainHash::of("") };
            bare(id, vec![nowhere])
        }
    };
    NewItem { id, size, recovered: true, state, legacy_done, ..item }
}

fn bare(id: SpoolId, legs: Vec<NewLeg>) -> NewItem {
    NewItem {
        id,
        priority: Priority::Normal,
        size: 0,
        null_sender: false,
        sender_domain: DomainHash::of(""),
        legs,
        recovered: true,
        state: Box::default(),
        legacy_done: Vec::new(),
        recipients: 1,
    }
}
