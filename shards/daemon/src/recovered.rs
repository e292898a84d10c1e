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
    /// The envelope can't be read; the message is kept as it is, for an operator to look at.
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
        // What the spool has noted of it stays there, and is not the queue's business: not even its recipients are known.
        Digest::Damaged => return NewItem { size, unreadable: true, recipients: 0, ..bare(id, Vec::new()) },
    };
    NewItem { id, size, recovered: true, state, legacy_done, ..item }
}

fn bare(id: SpoolId, legs: Vec<NewLeg>) -> NewItem {
    NewItem {
        id,
        priority: Priority::Normal,
        size: 0,
        null_sender: false,
        sender_domain: DomainHash::SEVERAL,
        legs,
        recovered: true,
        state: Box::default(),
        legacy_done: Vec::new(),
        recipients: 1,
        unreadable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::{Entropy, Now};
    use ringpost_queue::{Options, Queue, State};

    fn found(envelope: &[u8]) -> Recovered<Digest> {
        let id = SpoolId::from_bytes([1; 16]);
        Recovered {
            id,
            digest: digest(&Routes::default(), id, envelope),
            size: 1234,
            has_body_file: false,
            state: Box::new([1, 2, 3]),
            legacy_done: vec![0],
        }
    }

    #[test]
    fn a_message_whose_envelope_is_damaged_is_kept_as_it_is() {
        let item = requeued(found(b"no envelope"));
        assert!(item.legacy_done.is_empty(), "it would be noted");
        let (id, now) = (item.id, Now::default());
        let mut queue = Queue::new(Options::default(), Entropy([7; 16]));
        let pushed = queue.push(item, now);
        assert!(pushed.new && !pushed.damaged);
        assert_eq!((queue.next(now), queue.next_due()), (None, None), "neither tried nor forgotten");
        let view = queue.show(id, now).expect("it is kept");
        assert_eq!((view.state, view.size), (State::Dead, 1234));
    }
}
