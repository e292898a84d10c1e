//! How a key of the file is described, once: for the reader, for the fault it reports, and for the reference page.
//!
//! A section file lists its keys in a [`Section`]. The reader takes from there which keys there are, what each takes
//! and in which range; the reference page prints the same rows. The default's text is for people: the value itself
//! comes from the `Default` of the type, and a test holds the two together.

use crate::secrets::Secret;
use ringpost_base::{ByteCount, Span};
use std::fmt;

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A string, or what else the words say.
    Text(&'static str),
    /// Yes or no.
    Flag,
    /// A whole number.
    Count { min: u64, max: u64 },
    /// A whole number that may be below zero.
    Integer { min: i64, max: i64 },
    /// A number from 0 to 1.
    Share,
    /// A whole number, or the word "off" for none.
    CountOrOff { min: u64, max: u64 },
    /// A number of bytes: a string with a unit, or a whole number.
    Size { min: ByteCount, max: ByteCount },
    /// A duration: a string with a unit.
    Time { min: Span, max: Span },
    /// One word of a closed set.
    Choice(fn() -> Vec<&'static str>),
    /// A table of texts, whose keys are the writer's to choose.
    Pairs(&'static str),
    /// A table, with a section of its own.
    Table,
    /// An array of tables, with a section of its own, written as the words say.
    Tables(&'static str),
}

impl Kind {
    /// What the key wants, to stand after "wants".
    pub(crate) fn wants(self) -> String {
        match self {
            Self::Text(words) | Self::Pairs(words) => words.to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Count { .. } | Self::Integer { .. } => "a whole number".to_owned(),
            Self::Share => "a number from 0 to 1".to_owned(),
            Self::CountOrOff { .. } => "a whole number, or \"off\"".to_owned(),
            Self::Size { .. } => "a size, such as \"50MiB\"".to_owned(),
            Self::Time { .. } => "a duration, such as \"5m\"".to_owned(),
            Self::Choice(names) => format!("one of {}", names().join(", ")),
            Self::Table => "a table".to_owned(),
            Self::Tables(header) => format!("an array of tables, written {header}"),
        }
    }

    /// The type as the reference page shows it.
    pub(crate) fn documented(self) -> String {
        match self {
            Self::Text(words) | Self::Pairs(words) => {
                ["an ", "a ", "the "].iter().find_map(|article| words.strip_prefix(article)).unwrap_or(words).to_owned()
            }
            Self::Flag => "`true`, `false`".to_owned(),
            Self::Count { min, max } => format!("whole number, {}", Range(min, max)),
            Self::Integer { min, max } => format!("whole number, {}", Range(min, max)),
            Self::Share => "number, 0 to 1".to_owned(),
            Self::CountOrOff { min, max } => format!("`\"off\"`, or a whole number, {}", Range(min, max)),
            Self::Size { min, max } => format!("size, {}", Range(min, max)),
            Self::Time { min, max } => format!("duration, {}", Range(min, max)),
            Self::Choice(names) => names().iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", "),
            Self::Table => "table".to_owned(),
            Self::Tables(_) => "array of tables".to_owned(),
        }
    }
}

/// A range as people read it.
pub(crate) struct Range<T>(pub(crate) T, pub(crate) T);

impl<T: fmt::Display> fmt::Display for Range<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.0, self.1)
    }
}

/// A key of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// The last part of its path.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// The default as it would be written. None: the key has to be given. Without meaning for tables.
    pub(crate) default: Option<&'static str>,
    /// What it means, its unit, and when to change it.
    pub(crate) doc: &'static str,
    /// Why its range is what it is, where that is not for a user to guess.
    pub(crate) because: Option<&'static str>,
    /// When a change of it takes effect.
    pub(crate) change: Change,
    /// The kinds of its table that have it, by their words. Empty: all of them.
    pub(crate) of: &'static [&'static str],
    /// What of its value is not shown.
    pub(crate) secret: Secret,
}

/// When a change of a key takes effect; what takes longer is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// When the file is read again.
    Reload,
    /// When the server is started again.
    Restart,
}

impl Key {
    /// A key that may be left out.
    pub(crate) const fn new(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            default: Some(default),
            doc,
            because: None,
            change: Change::Reload,
            of: &[],
            secret: Secret::None,
        }
    }

    /// A key that has to be given.
    pub(crate) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, default: None, doc, because: None, change: Change::Reload, of: &[], secret: Secret::None }
    }

    /// The table that a section of its own describes.
    pub(crate) const fn table(name: &'static str) -> Self {
        Self::new(name, Kind::Table, "", "")
    }

    /// The array of tables that a section of its own describes.
    pub(crate) const fn tables(name: &'static str, header: &'static str, default: &'static str) -> Self {
        Self::new(name, Kind::Tables(header), default, "")
    }

    /// Adds the reason of the range.
    pub(crate) const fn because(mut self, reason: &'static str) -> Self {
        self.because = Some(reason);
        self
    }

    /// The same, where a change of it waits for the next start.
    pub(crate) const fn at_restart(mut self) -> Self {
        self.change = Change::Restart;
        self
    }

    /// The same, where the value may hold a secret.
    pub(crate) const fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// The same, where only these kinds of the table have it.
    pub(crate) const fn of(mut self, kinds: &'static [&'static str]) -> Self {
        self.of = kinds;
        self
    }

    /// Whether a table of this kind has it.
    pub(crate) fn is_of(&self, kind: &str) -> bool {
        self.of.is_empty() || self.of.contains(&kind)
    }

    /// Whether a section of its own describes it.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.kind, Kind::Table | Kind::Tables(_))
    }
}

/// A table of the file.
#[derive(Debug)]
pub(crate) struct Section {
    /// The path without the numbers of array elements: `listener`, `cores.limits`. Empty for the file itself.
    pub(crate) path: &'static str,
    /// How its header is written.
    pub(crate) header: &'static str,
    /// What it is for.
    pub(crate) intro: &'static str,
    /// Its keys.
    pub(crate) keys: &'static [Key],
    /// What stands in for it where the file has none, for arrays of tables with a default.
    pub(crate) stand_in: Option<&'static str>,
}

impl Section {
    /// The row of a key.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The path of one of its keys.
    pub(crate) fn path_of(&self, name: &str) -> String {
        join(self.path, name)
    }
}

/// A dotted path.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A closed set of values that are words in the file.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Every value with its word.
    const ALL: &'static [(&'static str, Self)];
    /// Words that later versions will know.
    const LATER: &'static [&'static str] = &[];
}

/// The words of a choice.
pub(crate) fn names<T: Choice>() -> Vec<&'static str> {
    T::ALL.iter().map(|(name, _)| *name).collect()
}

/// The word of a value.
pub(crate) fn name_of<T: Choice>(value: T) -> &'static str {
    T::ALL.iter().find(|(_, other)| *other == value).map_or("", |(name, _)| name)
}
