//! A span: one step of a message's way, with its time and what is to be said of it.

use crate::{SpanId, TraceId};
use ringpost_base::Timestamp;
use std::time::Duration;

/// What a span says of its message or of the step.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A text.
    Text(Box<str>),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Attribute {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Which part of an exchange a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Nothing but ours.
    Internal,
    /// What a client asked of us.
    Server,
    /// What we asked of a server.
    Client,
}

/// A step of a message's way that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace it belongs to.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// The step that it is part of; nothing for the root.
    pub parent: Option<SpanId>,
    /// What it is called: one of [`crate::name`].
    pub name: &'static str,
    /// Which part of an exchange it is.
    pub kind: SpanKind,
    /// When it began, by the wall clock.
    pub start: Timestamp,
    /// How long it took, by the monotonic clock.
    pub took: Duration,
    /// What is to be said of it, by keys of [`crate::key`].
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Whether it failed.
    pub failed: bool,
}
