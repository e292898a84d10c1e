//! What happened: a hash of everything, by which two runs are compared, and the last of it in words.

use std::collections::VecDeque;

/// Events that are kept in words, for whoever reads about a violation.
const KEPT_MAX: usize = 120;

/// The trace of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    last: VecDeque<String>,
    /// All of it is kept, not only the last.
    whole: bool,
}

impl Trace {
    pub(crate) fn new(whole: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, last: VecDeque::new(), whole }
    }

    /// Takes an event at a moment in nanoseconds.
    pub(crate) fn note(&mut self, at: u64, what: std::fmt::Arguments<'_>) {
        let line = format!("{}.{:09} {what}", at / 1_000_000_000, at % 1_000_000_000);
        self.hash = hash_of(self.hash, line.as_bytes());
        if self.last.len() == KEPT_MAX && !self.whole {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_last(self) -> Vec<String> {
        self.last.into()
    }
}

/// FNV-1a of 64 bits, eight octets at a time: quick, and good enough to tell two contents apart.
pub(crate) fn hash_of(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    let hash = words.iter().fold(start, |hash, word| step(hash, u64::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, byte| step(hash, u64::from(*byte)));
    step(hash, bytes.len() as u64)
}
