//! One event as a JSON object on a line.
//!
//! Invariants: each line is one JSON object (RFC 8259) with `time`, `level`, `target`, `shard` if the thread has one,
//! and then the fields in the order of the macro's call, the message first; keys of our own are not repeated: a field
//! of that name gets an underscore behind it. Numbers and booleans are bare, everything else is a string; numbers that
//! JSON has no form for (NaN, infinities) are strings. Nesting is refused.

use super::escape;
use std::error::Error;
use std::fmt;
use std::io::Write as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Causes of an error that a line shows.
const CAUSES_MAX: usize = 8;

/// Appends the event's line, newline included.
pub(super) fn line(out: &mut Vec<u8>, time: &[u8], shard: Option<u16>, event: &Event<'_>) {
    let metadata = event.metadata();
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(time);
    out.extend_from_slice(level(*metadata.level()));
    escape::json(out, metadata.target());
    out.push(b'"');
    if let Some(shard) = shard {
        out.extend_from_slice(b",\"shard\":");
        escape::unsigned(out, shard.into());
    }
    event.record(&mut Fields(out));
    out.extend_from_slice(b"}\n");
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

struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn key(&mut self, field: &Field) {
        let name = field.name();
        self.0.extend_from_slice(b",\"");
        escape::json(self.0, name);
        if matches!(name, "time" | "level" | "target" | "shard") {
            self.0.push(b'_');
        }
        self.0.extend_from_slice(b"\":");
    }

    fn number(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.key(field);
        // A Vec takes everything.
        let _ = self.0.write_fmt(value);
    }

    fn string(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.key(field);
        self.0.push(b'"');
        escape::formatted(value, |part| escape::json(self.0, part));
        self.0.push(b'"');
    }
}

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field);
        escape::unsigned(self.0, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field);
        escape::signed(self.0, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.number(field, format_args!("{value}"));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.number(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field, format_args!("{value:?}"));
        } else {
            self.string(field, format_args!("{value}"));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field);
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        let (shown, cut) = escape::shortened(value);
        self.0.push(b'"');
        escape::json(self.0, shown);
        self.0.extend_from_slice(if cut { "…\"".as_bytes() } else { b"\"" });
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
