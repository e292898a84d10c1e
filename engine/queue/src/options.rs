//! What an operator can choose about the queue and about destinations.

use ringpost_base::Span;

/// Options of one shard's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Wait after the first failed attempt; each further wait is twice as long.
    pub retry_first: Span,
    /// Longest wait between two attempts.
    pub retry_max: Span,
    /// How far a wait may be off, in percent of it, so that messages that failed together don't come again together.
    pub retry_jitter_percent: u8,
    /// Local deliveries of one shard under way at the same time. What goes elsewhere is bounded by its destination.
    pub attempts_max: usize,
    /// Age at which a message that could not be delivered is given up.
    pub expire_after: Span,
    /// Age at which the sender is told that a message is late. None: never.
    pub delay_notice: Option<Span>,
    /// How long a message is kept that could neither be delivered nor reported.
    pub dead_letters_keep: Span,
    /// Such messages of one shard, at most; beyond, the oldest go.
    pub dead_letters_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retry_first: Span::seconds(60),
            retry_max: Span::seconds(3600),
            retry_jitter_percent: 10,
            attempts_max: 256,
            expire_after: Span::seconds(5 * 86_400),
            delay_notice: Some(Span::seconds(4 * 3600)),
            dead_letters_keep: Span::seconds(30 * 86_400),
            dead_letters_max: 10_000,
        }
    }
}

/// How much of a destination is used at a time, and when it is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationOptions {
    /// Deliveries to it at the same time, of all shards together.
    pub concurrency: u32,
    /// Messages a minute. None: as many as there are.
    pub messages_per_minute: Option<u32>,
    /// Failures in a row of the destination itself after which it is left alone. 0: it never is.
    pub breaker_failures: u32,
    /// How long it is left alone the first time; then one message tries it, and each further time is twice as long.
    pub breaker_pause: Span,
    /// The longest time it is left alone.
    pub breaker_pause_max: Span,
    /// Messages that a shard may send before it has to ask again.
    pub lease_messages: u32,
}

impl Default for DestinationOptions {
    fn default() -> Self {
        Self {
            concurrency: 20,
            messages_per_minute: None,
            breaker_failures: 5,
            breaker_pause: Span::seconds(30),
            breaker_pause_max: Span::seconds(600),
            lease_messages: 100,
        }
    }
}
