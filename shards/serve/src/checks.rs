//! Where clients and messages are checked, and what becomes of a check that panics.
//!
//! A check looks at a client, a recipient or a message and says what stands against it. `judge_sender`, `judge_recipient` and
//! `judge_message` call them, one after the other, and each of the three runs contained: a check that panics is counted
//! and logged, and refuses for now what it was to look at, since nobody knows what it would have found. The session goes on
//! where its machine is, so the client keeps the mail and comes again. To add a check is to call it from one of the three.

use crate::dialogue::Dialogue;
use ringpost_metrics::Counter;
use ringpost_smtp::{Reply, replies};

/// Why a sender, a recipient or a message is refused: the words, and the rule by its key.
pub(crate) struct Refusal {
    pub(crate) reply: Reply,
    pub(crate) rule: Box<str>,
}

impl Refusal {
    pub(crate) fn by(rule: &str, reply: Reply) -> Self {
        Self { reply, rule: rule.into() }
    }

    /// A check panicked, which is counted and logged where it did.
    pub(crate) fn of_panic() -> Self {
        Self::by(PANIC, replies::CHECK_FAILED)
    }
}

/// The rule of what is refused since a check panicked.
const PANIC: &str = "check.panic";

impl Dialogue<'_> {
    /// What contained checks have found; a panic is a refusal.
    pub(crate) fn found<T>(&self, checked: Result<Result<T, Refusal>, String>) -> Result<T, Refusal> {
        checked.unwrap_or_else(|panic| {
            self.mx.block().add(Counter::FiltersPanicked, 1);
            tracing::error!(session = %self.id, peer = %self.client.address, panic, "check panicked");
            Err(Refusal::of_panic())
        })
    }
}
