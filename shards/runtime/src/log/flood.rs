//! What a thread knows of each place in the code that logs: what its fields hold, and how many lines it wrote of late.
//!
//! Invariants: of one place at most the limit's number of lines is written in a second of the clock; what is above is
//! counted, and told in one line for each place that left something out. Places whose events have a field `id`, which is
//! that of a message, and those of level ERROR are spared. A thread counts for itself and shares nothing. The table has an
//! entry for each place in the code that has logged: as many as the program has.

use super::escape;
use super::fields::{self, Kind};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

/// Where the line comes from that tells what was left out, and its message.
pub(super) const TARGET: &str = module_path!();
pub(super) const MESSAGE: &str = "lines left out";

/// Bytes of a message that tell which kind of line was left out.
const KIND_BYTES_MAX: usize = 200;

/// The places in the code that this thread has logged from.
pub(super) struct Sites {
    known: HashMap<usize, Site, BuildHasherDefault<Pointer>>,
    /// The first second in which lines were left out of which nobody was told yet.
    left_out_in: Option<u64>,
    /// Lines left out and not yet taken for the metric.
    sampled: u64,
}

/// A place in the code that logs.
pub(super) struct Site {
    /// What each field holds, by its index.
    pub(super) kinds: Box<[Kind]>,
    target: &'static str,
    is_spared: bool,
    second: u64,
    written: u32,
    left_out: u64,
    /// The message of a line that was left out.
    message: String,
}

/// What was left out at one place in a second.
pub(super) struct Notice<'a> {
    pub(super) message: &'a str,
    pub(super) target: &'static str,
    pub(super) count: u64,
}

impl Site {
    fn of(metadata: &'static Metadata<'static>) -> Self {
        Self {
            kinds: metadata.fields().iter().map(|field| fields::kind(field.name())).collect(),
            target: metadata.target(),
            is_spared: *metadata.level() == Level::ERROR || metadata.fields().field("id").is_some(),
            second: 0,
            written: 0,
            left_out: 0,
            message: String::new(),
        }
    }

    fn has_room(&mut self, limit: u32, second: u64) -> bool {
        if self.is_spared {
            return true;
        }
        if self.second != second {
            (self.second, self.written) = (second, 0);
        }
        self.written = self.written.saturating_add(1);
        self.written <= limit
    }
}

impl Sites {
    pub(super) const fn new() -> Self {
        Self { known: HashMap::with_hasher(BuildHasherDefault::new()), left_out_in: None, sampled: 0 }
    }

    /// The place that the event comes from; nothing if the event is above the limit, and left out.
    pub(super) fn admit(&mut self, event: &Event<'_>, limit: Option<u32>, second: u64) -> Option<&Site> {
        let metadata = event.metadata();
        // Each place has one description, which lives as long as the program.
        let site = self.known.entry(std::ptr::from_ref(metadata).addr()).or_insert_with(|| Site::of(metadata));
        if limit.is_none_or(|limit| site.has_room(limit, second)) {
            return Some(site);
        }
        if site.left_out == 0 && site.message.is_empty() {
            event.record(&mut Message(&mut site.message));
        }
        site.left_out += 1;
        self.sampled += 1;
        self.left_out_in.get_or_insert(second);
        None
    }

    /// Whether lines were left out in a second before this one, of which nobody was told yet.
    pub(super) fn is_due(&self, second: impl FnOnce() -> u64) -> bool {
        self.left_out_in.is_some_and(|left_out_in| left_out_in != second())
    }

    /// Takes what was left out, place by place.
    pub(super) fn take_notices(&mut self, mut tell: impl FnMut(Notice<'_>)) {
        if self.left_out_in.take().is_none() {
            return;
        }
        for site in self.known.values_mut().filter(|site| site.left_out > 0) {
            let count = std::mem::take(&mut site.left_out);
            tell(Notice { message: &site.message, target: site.target, count });
        }
    }

    /// The lines left out since the last call.
    pub(super) fn take_sampled(&mut self) -> u64 {
        std::mem::take(&mut self.sampled)
    }
}

/// Takes the message of an event.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            escape::formatted(format_args!("{value:?}"), |part| self.0.push_str(part));
            self.0.truncate(self.0.floor_char_boundary(KIND_BYTES_MAX));
        }
    }
}

/// Spreads addresses of descriptions, which nobody outside can choose.
#[derive(Default)]
struct Pointer(u64);

impl Hasher for Pointer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, value: usize) {
        // 2^64 divided by the golden ratio; the table takes its bits from both ends.
        self.0 = (self.0 ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}
