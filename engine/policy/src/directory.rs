//! The recipients of a domain, from a file.
//!
//! One entry a line; blank lines mean nothing, nor does what follows a `#` at the start of a line or after a blank:
//!
//! ```text
//! alice                            a mailbox
//! "john doe"                       a mailbox whose name needs quotes
//! sales-*                          every local part that fits; a `*` stands for any characters, also for none
//! *                                every local part
//! info: alice, bob, c@b.example    an alias: mail goes to all of these instead
//! ```
//!
//! Names are local parts (RFC 5321 section 4.1.2), in UTF-8 if need be. Case of ASCII letters does not count, nor whether a
//! name is quoted that need not be; within quotes a `*` is a `*`. A target of an alias without an `@` is in the domain that is
//! asked about, so one file can serve several domains. Aliases may name aliases, [`ALIAS_DEPTH_MAX`] deep, but not
//! themselves.
//!
//! A lookup takes the first that fits: the whole local part as a mailbox or alias; what stands before its detail
//! (`user` of `user+detail`, RFC 5233 section 4) as a mailbox or alias; a pattern, in the order of the file; `*`. A mailbox
//! keeps the detail in its address; an alias's targets don't get it.
//!
//! A name costs its length and four bytes; a million of twelve letters is 16 MB. An alias costs some 100 bytes more, and
//! each of its targets some 50.

mod names;
mod parse;

pub use parse::DirectoryFault;
pub(crate) use parse::{FAULTS_MAX, cut};

use names::{Names, Pattern};
use std::borrow::Cow;
use std::collections::HashMap;

/// Lines of a file.
pub const LINES_MAX: usize = 1_000_000;

/// Longest line in octets, its end left out.
pub const LINE_MAX: usize = 8 << 10;

/// Patterns with a `*` among other characters in a file: an unknown recipient is held against all of them.
pub const PATTERNS_MAX: usize = 1_000;

/// Aliases that lead to each other on the way to a mailbox.
pub const ALIAS_DEPTH_MAX: usize = 10;

/// How a recipient was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// The domain takes mail for any local part.
    Any,
    /// Its local part is listed.
    Exact,
    /// What stands before its detail is listed.
    Subaddress,
    /// It is an alias, perhaps with a detail behind it.
    Alias,
    /// A pattern fits it.
    Pattern,
    /// Nothing else fits it, and the file has a `*`.
    Everybody,
    /// It is the postmaster, who exists everywhere.
    Postmaster,
}

impl Match {
    /// A word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Match::Any => "any",
            Match::Exact => "exact",
            Match::Subaddress => "subaddress",
            Match::Alias => "alias",
            Match::Pattern => "pattern",
            Match::Everybody => "everybody",
            Match::Postmaster => "postmaster",
        }
    }
}

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: Box<str>,
    /// Where the `@` is, if there is one.
    at: Option<u16>,
    line: u32,
    column: u32,
}

impl Target {
    /// The local part, as written.
    pub fn local(&self) -> &str {
        &self.text[..self.at.map_or(self.text.len(), usize::from)]
    }

    /// The domain in lower case, unless it is the one that is asked about.
    pub fn domain(&self) -> Option<&str> {
        self.at.map(|at| &self.text[usize::from(at) + 1..])
    }
}

#[derive(Debug)]
struct Alias {
    line: u32,
    column: u32,
    targets: Box<[Target]>,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// How.
    pub how: Match,
    /// Where the mail goes instead, if it is an alias; else nothing.
    pub targets: &'a [Target],
}

/// The recipients of a domain.
#[derive(Debug, Default)]
pub struct Directory {
    file: Box<str>,
    names: Names,
    aliases: HashMap<Box<str>, Alias>,
    patterns: Vec<Pattern>,
    everybody: bool,
}

impl Directory {
    /// Of a list of mailboxes.
    pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().map(|name| (folded(name).into(), 0)).collect();
        Self { names: Names::new(names, |_, _| ()), ..Self::default() }
    }

    /// Finds a local part, as it stands in an address. `separator` is what separates a detail from it.
    pub fn find(&self, local: &str, separator: Option<char>) -> Option<Found<'_>> {
        let local = folded(local);
        let mailbox = |how| Some(Found { how, targets: &[] });
        if self.names.contain(&local) {
            return mailbox(Match::Exact);
        }
        if let Some(alias) = self.aliases.get(&*local) {
            return Some(Found { how: Match::Alias, targets: &alias.targets });
        }
        let user = without_detail(&local, separator);
        if user.len() < local.len() {
            if self.names.contain(user) {
                return mailbox(Match::Subaddress);
            }
            if let Some(alias) = self.aliases.get(user) {
                return Some(Found { how: Match::Alias, targets: &alias.targets });
            }
        }
        if self.patterns.iter().any(|pattern| pattern.fits(&local)) {
            return mailbox(Match::Pattern);
        }
        if self.everybody { mailbox(Match::Everybody) } else { None }
    }

    /// Mailboxes, aliases and patterns.
    pub fn len(&self) -> usize {
        self.names.len() + self.aliases.len() + self.patterns.len() + usize::from(self.everybody)
    }

    /// Whether nobody is listed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The aliases and their targets.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = (&str, &[Target])> {
        self.aliases.iter().map(|(name, alias)| (&**name, &*alias.targets))
    }

    /// A fault at the place of an alias.
    pub(crate) fn fault_of_alias(&self, name: &str, reason: String) -> DirectoryFault {
        let (line, column) = self.aliases.get(name).map_or((1, 1), |alias| (alias.line, alias.column));
        DirectoryFault::new(&self.file, line, column, reason)
    }

    /// A fault at the place of a target.
    pub(crate) fn fault_of_target(&self, target: &Target, reason: String) -> DirectoryFault {
        DirectoryFault::new(&self.file, target.line, target.column, reason)
    }

    /// The mailbox or alias that was most likely meant by this one.
    pub(crate) fn nearest(&self, local: &str) -> Option<&str> {
        let aliases = self.aliases.keys().map(|name| &**name);
        let all = self.names.iter().chain(aliases).take(SUGGESTED_FROM_MAX);
        let distance_max = (local.chars().count() / 3).max(1);
        all.map(|name| (strsim::osa_distance(&folded(local), name), name))
            .filter(|(distance, name)| *distance <= distance_max && *distance < name.chars().count())
            .min()
            .map(|(_, name)| name)
    }
}

/// Names that are compared with a misspelt one: a guess may take a few milliseconds.
const SUGGESTED_FROM_MAX: usize = 10_000;

/// What stands before the detail of a local part: `user` of `user+detail`. The first separator counts; without one, or without
/// anything before it, that is all of it. What a separator is and what it means is up to the site (RFC 5233 section 4).
pub fn without_detail(local: &str, separator: Option<char>) -> &str {
    match separator.and_then(|separator| local.split_once(separator)) {
        Some((user, _)) if !user.is_empty() => user,
        _ => local,
    }
}

/// A local part for comparing: without its quotes, since all ways to quote it mean the same (RFC 5321 section 4.1.2), and in
/// lower case as far as it is ASCII.
pub(crate) fn folded(local: &str) -> Cow<'_, str> {
    let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if quoted.is_none() && !local.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Borrowed(local);
    }
    let mut plain = String::with_capacity(local.len());
    let mut escaped = false;
    for c in quoted.unwrap_or(local).chars() {
        escaped = quoted.is_some() && c == '\\' && !escaped;
        if !escaped {
            plain.push(c.to_ascii_lowercase());
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests;
