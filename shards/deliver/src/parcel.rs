//! What a target is given, and what it gives back.

use ringpost_base::SpoolId;
use ringpost_message::Envelope;
use ringpost_queue::Outcome;
use ringpost_store::LoadedContent;
use std::rc::Rc;

/// A message on its way to a target, for some of its recipients.
pub(crate) struct Parcel {
    /// The message.
    pub(crate) id: SpoolId,
    /// Who it is from, to whom it goes, and how it came.
    pub(crate) envelope: Rc<Envelope>,
    /// Its bytes.
    pub(crate) content: LoadedContent,
    /// Whom it is to be delivered to here, by their numbers in the envelope.
    pub(crate) recipients: Vec<u32>,
    /// Which attempt this is, from 1.
    pub(crate) number: u32,
    /// Whether an earlier attempt may have delivered it without our knowing.
    pub(crate) again: bool,
    /// The trace context of this attempt, for a server that can be told it (W3C Trace Context, `traceparent`).
    pub(crate) context: Option<String>,
}

/// How a delivery came out.
pub(crate) struct Done {
    /// By recipient number. One that is not named was not served.
    pub(crate) outcomes: Vec<(u32, Outcome)>,
    /// Whether it was the destination that did not work, and not this message that it would not have.
    pub(crate) hop_failed: bool,
    /// The server that answered, or that did not; nothing where there is none.
    pub(crate) remote: Option<Rc<str>>,
}

impl Done {
    /// Outcomes that no server is known for.
    pub(crate) fn of(outcomes: Vec<(u32, Outcome)>, hop_failed: bool) -> Self {
        Self { outcomes, hop_failed, remote: None }
    }

    /// The same outcome for every recipient of a parcel.
    pub(crate) fn all(recipients: &[u32], outcome: &Outcome, hop_failed: bool) -> Self {
        Self::of(recipients.iter().map(|number| (*number, outcome.clone())).collect(), hop_failed)
    }
}
