//! What an operator can choose about delivery attempts.

use ringpost_base::Span;

/// Options of one shard's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Wait after the first failed attempt; each further wait is twice as long.
    pub retry_first: Span,
    /// Longest wait between two attempts.
    pub retry_max: Span,
    /// Messages of one shard under delivery at the same time.
    pub attempts_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { retry_first: Span::seconds(60), retry_max: Span::seconds(3600), attempts_max: 256 }
    }
}
