//! The value of a field on its way into a line: as it is where no rule concerns it, else as redaction lets it be shown.
//!
//! Invariants: with no rule on, a value that is no secret is not even copied here. A value is redacted before it is
//! escaped, and whole: what of a long one would not be shown is left out before, at a blank, so that no cut goes through
//! an address.

use super::fields::Kind;
use super::{Redaction, escape, redact};
use std::fmt;
use tracing::field::Field;

/// Memory for values while they are redacted, which a thread keeps.
pub(super) struct Scratch {
    raw: String,
    shown: String,
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Self { raw: String::new(), shown: String::new() }
    }
}

/// What redaction goes by in one event.
pub(super) struct Cleaner<'a> {
    /// What each field holds, by its index.
    pub(super) kinds: &'a [Kind],
    pub(super) rules: Redaction,
    pub(super) scratch: &'a mut Scratch,
}

impl Cleaner<'_> {
    fn kind(&self, field: &Field) -> Kind {
        self.kinds.get(field.index()).copied().unwrap_or(Kind::Text)
    }

    /// Whether the field is never shown, whatever its value.
    pub(super) fn is_secret(&self, field: &Field) -> bool {
        self.kind(field) == Kind::Secret
    }

    /// Whether the field is shown as it is, whatever its value.
    pub(super) fn is_open(&self, field: &Field) -> bool {
        match self.kind(field) {
            Kind::Secret => false,
            Kind::Plain => true,
            _ => self.rules == Redaction::default(),
        }
    }

    /// The text of a field as it may be shown; nothing where it may be shown as it is.
    pub(super) fn clean(&mut self, field: &Field, value: fmt::Arguments<'_>) -> Option<&str> {
        match self.kind(field) {
            Kind::Secret => Some(redact::SECRET),
            Kind::Plain => None,
            kind => self.clean_as(kind, value),
        }
    }

    /// The same for a text of this kind.
    pub(super) fn clean_as(&mut self, kind: Kind, value: fmt::Arguments<'_>) -> Option<&str> {
        if self.rules == Redaction::default() {
            return None;
        }
        let Scratch { raw, shown } = &mut *self.scratch;
        raw.clear();
        shown.clear();
        let is_cut = escape::formatted(value, |part| raw.push_str(part));
        if is_cut {
            raw.truncate(raw.rfind(char::is_whitespace).unwrap_or(0));
        }
        redact::apply(shown, kind, self.rules, raw);
        if is_cut {
            shown.push('…');
        }
        Some(shown)
    }
}
