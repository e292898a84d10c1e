//! The last lines of the audit log, to be shown.

use crate::api::AUDIT_MAX;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of the lines that are kept: hundreds of entries of the largest kind, and of the usual kind as many as are shown.
pub(super) const LINES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// At most [`AUDIT_MAX`] lines, of [`LINES_BYTES_MAX`] bytes together; the newest last.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Lines {
    /// Adds a line; the oldest go for it.
    pub(super) fn push(&mut self, line: &str) {
        if line.len() > LINES_BYTES_MAX {
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line.into());
        while self.lines.len() > AUDIT_MAX || self.bytes > LINES_BYTES_MAX {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }

    /// The last so many, the newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<Arc<str>> {
        self.lines.iter().rev().take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let mut lines = Lines::default();
        let long = "x".repeat(LINES_BYTES_MAX / 3);
        for number in 0..10 {
            lines.push(&format!("{number}{long}"));
        }
        lines.push("short");
        lines.push(&"y".repeat(LINES_BYTES_MAX + 1));
        let first = |line: Arc<str>| line.chars().next();
        let kept: Vec<_> = lines.newest(AUDIT_MAX).into_iter().map(first).collect();
        assert_eq!(kept, [Some('s'), Some('9'), Some('8')]);
        assert!(lines.bytes <= LINES_BYTES_MAX);
    }
}
