//! One event as a line for a person at a terminal: `10:31:25.123  INFO  shard 0  message  key=value key="two words"`.
//!
//! Invariants: the only control characters of a line are our own colours and the newline at its end; a value that could
//! be taken for several, or for none, stands in quotes. The line is for reading: it leaves out the date and the target,
//! and nothing should parse it. The time is UTC.

use super::clean::Cleaner;
use super::fields::Kind;
use super::flood::{self, Notice};
use super::{escape, json::WithCauses};
use std::error::Error;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Width of the column that says which thread speaks.
const SPEAKER_WIDTH: usize = 8;

/// Where the time of day with milliseconds stands in an RFC 3339 time stamp.
const TIME_OF_DAY: std::ops::Range<usize> = 11..23;

/// What a line starts with.
pub(super) struct Head<'a> {
    /// RFC 3339 time stamp with at least milliseconds.
    pub(super) time: &'a [u8],
    /// Which thread speaks: a shard, or the thread's name.
    pub(super) speaker: &'a str,
    /// Whether to colour.
    pub(super) colour: bool,
}

/// Appends the event's line, newline included.
pub(super) fn line(out: &mut Vec<u8>, head: &Head<'_>, cleaner: Cleaner<'_>, event: &Event<'_>) {
    begin(out, head, *event.metadata().level());
    event.record(&mut Fields { line: Line { out, paint: Paint(head.colour), any: false }, cleaner });
    out.push(b'\n');
}

/// Appends the line that tells what was left out.
pub(super) fn notice(out: &mut Vec<u8>, head: &Head<'_>, mut cleaner: Cleaner<'_>, notice: &Notice<'_>) {
    begin(out, head, Level::WARN);
    let mut line = Line { out, paint: Paint(head.colour), any: false };
    line.message(format_args!("{}", flood::MESSAGE));
    let kind = cleaner.clean_as(Kind::Text, format_args!("{}", notice.message)).unwrap_or(notice.message);
    line.field("kind", format_args!("{kind}"));
    line.field("module", format_args!("{}", notice.target));
    line.field("count", format_args!("{}", notice.count));
    out.push(b'\n');
}

fn begin(out: &mut Vec<u8>, head: &Head<'_>, severity: Level) {
    let (name, colour) = level(severity);
    let paint = Paint(head.colour);
    paint.with(out, DIM, |out| out.extend_from_slice(head.time.get(TIME_OF_DAY).unwrap_or_default()));
    out.extend_from_slice(b"  ");
    paint.with(out, colour, |out| out.extend_from_slice(name));
    out.extend_from_slice(b"  ");
    let start = out.len();
    escape::message(out, head.speaker);
    let width = out.len() - start;
    out.resize(out.len() + SPEAKER_WIDTH.saturating_sub(width) + 1, b' ');
}

const DIM: &[u8] = b"\x1b[2m";
const RESET: &[u8] = b"\x1b[0m";

fn level(level: Level) -> (&'static [u8], &'static [u8]) {
    match level {
        Level::ERROR => (b"ERROR", b"\x1b[1;31m"),
        Level::WARN => (b"WARN ", b"\x1b[33m"),
        Level::INFO => (b"INFO ", b"\x1b[32m"),
        Level::DEBUG => (b"DEBUG", b"\x1b[36m"),
        Level::TRACE => (b"TRACE", DIM),
    }
}

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, out: &mut Vec<u8>, colour: &[u8], put: impl FnOnce(&mut Vec<u8>)) {
        if self.0 {
            out.extend_from_slice(colour);
        }
        put(out);
        if self.0 {
            out.extend_from_slice(RESET);
        }
    }
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    paint: Paint,
    /// Whether a key was written already: the first stands apart from the message.
    any: bool,
}

impl Line<'_> {
    fn message(&mut self, value: fmt::Arguments<'_>) {
        self.out.push(b' ');
        escape::formatted(value, |part| escape::message(self.out, part));
    }

    fn field(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.out.extend_from_slice(if self.any { b" " } else { b"  " });
        self.any = true;
        self.paint.with(self.out, DIM, |out| {
            escape::text(out, name);
            out.push(b'=');
        });
        let start = self.out.len();
        let mut wants_quotes = false;
        escape::formatted(value, |part| wants_quotes |= escape::text(self.out, part));
        if wants_quotes || self.out.len() == start {
            self.out.insert(start, b'"');
            self.out.push(b'"');
        }
    }
}

struct Fields<'a> {
    line: Line<'a>,
    cleaner: Cleaner<'a>,
}

impl Fields<'_> {
    fn value(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let Self { line, cleaner } = self;
        let mut put = |value: fmt::Arguments<'_>| match field.name() {
            "message" => line.message(value),
            name => line.field(name, value),
        };
        match cleaner.clean(field, value) {
            Some(shown) => put(format_args!("{shown}")),
            None => put(value),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.value(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.value(field, format_args!("{}", WithCauses(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.value(field, format_args!("{value:?}"));
    }
}
