//! One event as a JSON object on a line.
//!
//! Invariants: each line is one JSON object (RFC 8259) with `time`, `level`, `target`, `shard` if the thread has one,
//! and then the fields in the order of the macro's call, the message first; keys of our own are not repeated: a field
//! of that name gets an underscore behind it. Numbers and booleans are bare, everything else is a string; numbers that
//! JSON has no form for (NaN, infinities) are strings. Nesting is refused.

use super::clean::Cleaner;
use super::escape;
use super::fields::Kind;
use super::flood::{self, Notice};
use std::error::Error;
use std::fmt;
use std::io::Write as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Causes of an error that a line shows.
const CAUSES_MAX: usize = 8;

/// What a line starts with.
pub(super) struct Head<'a> {
    /// RFC 3339 time stamp.
    pub(super) time: &'a [u8],
    pub(super) shard: Option<u16>,
}

/// Appends the event's line, newline included.
pub(super) fn line(out: &mut Vec<u8>, head: &Head<'_>, cleaner: Cleaner<'_>, event: &Event<'_>) {
    let metadata = event.metadata();
    begin(out, head, *metadata.level(), metadata.target());
    event.record(&mut Fields { out, cleaner });
    out.extend_from_slice(b"}\n");
}

/// Appends the line that tells what was left out.
pub(super) fn notice(out: &mut Vec<u8>, head: &Head<'_>, mut cleaner: Cleaner<'_>, notice: &Notice<'_>) {
    begin(out, head, Level::WARN, flood::TARGET);
    out.extend_from_slice(b",\"message\":\"");
    escape::json(out, flood::MESSAGE);
    out.extend_from_slice(b"\",\"kind\":\"");
    escape::json(out, cleaner.clean_as(Kind::Text, format_args!("{}", notice.message)).unwrap_or(notice.message));
    out.extend_from_slice(b"\",\"module\":\"");
    escape::json(out, notice.target);
    out.extend_from_slice(b"\",\"count\":");
    escape::unsigned(out, notice.count);
    out.extend_from_slice(b"}\n");
}

fn begin(out: &mut Vec<u8>, head: &Head<'_>, severity: Level, target: &str) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(head.time);
    out.extend_from_slice(level(severity));
    escape::json(out, target);
    out.push(b'"');
    if let Some(shard) = head.shard {
        out.extend_from_slice(b",\"shard\":");
        escape::unsigned(out, shard.into());
    }
}

fn level(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"\",\"level\":\"error\",\"target\":\"",
        Level::WARN => b"\",\"level\":\"warn\",\"target\":\"",
        Level::INFO => b"\",\"level\":\"info\",\"target\":\"",
        Level::DEBUG => b"\",\"level\":\"debug\",\"target\":\"",
        Level::TRACE => b"\",\"level\":\"trace\",\"target\":\"",
    }
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    cleaner: Cleaner<'a>,
}

impl Fields<'_> {
    fn key(&mut self, field: &Field) {
        let name = field.name();
        self.out.extend_from_slice(b",\"");
        escape::json(self.out, name);
        if matches!(name, "time" | "level" | "target" | "shard") {
            self.out.push(b'_');
        }
        self.out.extend_from_slice(b"\":");
    }

    /// A value that stands bare, unless it is a secret.
    fn bare(&mut self, field: &Field, put: impl FnOnce(&mut Vec<u8>)) {
        if self.cleaner.is_secret(field) {
            return self.string(field, format_args!(""));
        }
        self.key(field);
        put(self.out);
    }

    fn string(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.key(field);
        self.out.push(b'"');
        match self.cleaner.clean(field, value) {
            Some(shown) => escape::json(self.out, shown),
            None => {
                escape::formatted(value, |part| escape::json(self.out, part));
            }
        }
        self.out.push(b'"');
    }
}

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, |out| escape::unsigned(out, value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, |out| escape::signed(out, value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        // A Vec takes everything.
        self.bare(field, |out| drop(write!(out, "{value}")));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field, |out| drop(write!(out, "{value}")));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, |out| drop(write!(out, "{value:?}")));
        } else {
            self.string(field, format_args!("{value}"));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, |out| out.extend_from_slice(if value { b"true" } else { b"false" }));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !self.cleaner.is_open(field) {
            return self.string(field, format_args!("{value}"));
        }
        self.key(field);
        let (shown, cut) = escape::shortened(value);
        self.out.push(b'"');
        escape::json(self.out, shown);
        self.out.extend_from_slice(if cut { "…\"".as_bytes() } else { b"\"" });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.string(field, format_args!("{}", WithCauses(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.string(field, format_args!("{value:?}"));
    }
}

/// An error and what caused it, as in `cannot write: No space left on device`.
pub(super) struct WithCauses<'a>(pub(super) &'a (dyn Error + 'static));

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut next = self.0.source();
        for _ in 0..CAUSES_MAX {
            let Some(cause) = next else { break };
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
