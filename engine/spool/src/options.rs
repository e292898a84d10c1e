//! What an operator can choose about the spool.

use ringpost_base::{ByteCount, Span};

/// Options of one shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file. A multiple of [`crate::BLOCK`], at least four times `inline_max`.
    pub segment_size: ByteCount,
    /// A message up to this size lives in the log; a larger one in a body file of its own.
    pub inline_max: ByteCount,
    /// Most bytes joined in one write and sync.
    pub batch_max: ByteCount,
    /// How long a commit waits for other messages that are under way on the same core, so that they share its sync. A
    /// message that is alone does not wait.
    pub commit_delay: Span,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_size: ByteCount::mib(16),
            inline_max: ByteCount::kib(256),
            batch_max: ByteCount::mib(2),
            commit_delay: Span::millis(2),
        }
    }
}
