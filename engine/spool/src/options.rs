//! What an operator can choose about the spool.

use crate::BLOCK;
use ringpost_base::{ByteCount, Span};

/// Most bytes of a segment: a place in one fits 32 bits, of which the index has one for each message.
pub const SEGMENT_SIZE_MAX: ByteCount = ByteCount(u32::MAX as u64 + 1 - BLOCK as u64);

/// Options of one shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file. A multiple of [`crate::BLOCK`], at least four times `inline_max`, at most
    /// [`SEGMENT_SIZE_MAX`], which a larger one is taken for.
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

impl Options {
    /// The largest record that a segment holds behind its header, the padding of its batch included.
    pub(crate) fn record_max(&self) -> usize {
        self.segment_size.as_len().saturating_sub(2 * BLOCK)
    }

    /// Most bytes that are joined in a batch, so that a batch always fits into an empty segment.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.batch_max.as_len().min(self.record_max())
    }
}
