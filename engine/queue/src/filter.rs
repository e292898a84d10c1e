//! What an operator sees of the queue, and how it is sought.

use crate::{DomainHash, Reason};
use ringpost_base::{ParseWordError, Priority, SpoolId, Timestamp};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

/// Where a message, or its part for one destination, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It waits for its turn.
    Ready,
    /// It waits for a later attempt.
    Deferred,
    /// An attempt is under way, or a report about it is.
    Active,
    /// An operator holds it: no attempt is made, and it is not given up.
    Held,
    /// It could be neither delivered nor reported, or its envelope can't be read, and it is kept for inspection.
    Dead,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Deferred, Self::Active, Self::Held, Self::Dead];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Deferred => "deferred",
            Self::Active => "active",
            Self::Held => "held",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(ParseWordError)
    }
}

/// Which messages are sought: those of which everything holds that is said here. Said nothing: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states. Empty: in any.
    pub states: Vec<State>,
    /// Of this priority.
    pub priority: Option<Priority>,
    /// With recipients that are left at this destination: still to be served, being reported, or dead. Who was served there,
    /// or goes elsewhere by now, is not there any more.
    pub destination: Option<String>,
    /// With a sender of a domain of this hash; for a null sender, [`DomainHash::of`] nothing.
    pub sender_domain: Option<DomainHash>,
    /// With a recipient of a domain of this hash.
    pub recipient_domain: Option<DomainHash>,
    /// At least so old.
    pub older_than: Option<Duration>,
    /// Younger than this.
    pub newer_than: Option<Duration>,
}

/// Messages that a filter found, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The messages.
    pub entries: Vec<View>,
    /// Where to go on: behind this. None: there is nothing more.
    pub next: Option<SpoolId>,
    /// Messages looked at.
    pub scanned: usize,
}

/// A message as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its id.
    pub id: SpoolId,
    /// When it was made.
    pub made: Timestamp,
    /// How old it is.
    pub age: Duration,
    /// Its size in bytes; up to 4 GiB.
    pub size: u64,
    /// Where it stands.
    pub state: State,
    /// How soon it gets its turn.
    pub priority: Priority,
    /// Recipients of its envelope; none if that can't be read.
    pub recipients: u32,
    /// Its sender has been told that it is late.
    pub delay_told: bool,
    /// Its parts that are not over.
    pub legs: Vec<LegView>,
}

/// The part of a message that goes to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegView {
    /// The destination. Empty: none is known, and the next attempt looks for one.
    pub destination: Rc<str>,
    /// Where it stands.
    pub state: State,
    /// Attempts that have failed, of this run of the server.
    pub attempts: u32,
    /// From now to the next attempt, where it waits for one.
    pub due_in: Option<Duration>,
    /// Recipients that are left.
    pub recipients: usize,
    /// Why it was put off last.
    pub last: Option<Reason>,
}

/// Where one recipient stands at one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientView {
    /// Its number.
    pub number: u32,
    /// The destination. None: all there were, or one that is no longer known.
    pub destination: Option<Rc<str>>,
    /// What became of it.
    pub state: RecipientState,
    /// Why.
    pub reason: Option<Reason>,
}

/// What became of a recipient at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecipientState {
    /// It is still to be served.
    Pending,
    /// It was served, or its failure was reported.
    Done,
    /// It was given up, and its report is being made.
    Reporting,
    /// It was given up, and could not be reported.
    Dead,
}

impl RecipientState {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Reporting => "reporting",
            Self::Dead => "dead",
        }
    }
}

/// The queue in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages by state, in the order of [`State::ALL`].
    pub by_state: [usize; 5],
    /// Messages by priority, in the order of [`Priority::ALL`].
    pub by_priority: [usize; 3],
    /// The oldest message, by its id.
    pub oldest: Option<SpoolId>,
    /// What goes where, by name.
    pub destinations: Vec<DestinationTotals>,
}

impl Totals {
    /// Messages in a state.
    pub fn of(&self, state: State) -> usize {
        self.by_state[state as usize]
    }

    /// All messages.
    pub fn messages(&self) -> usize {
        self.by_state.iter().sum()
    }
}

/// What goes to one destination. Counted are parts of messages, one for each message that has recipients there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationTotals {
    /// Its name. Empty: that of what has none.
    pub destination: Rc<str>,
    /// It is in the hands of the server itself.
    pub local: bool,
    /// It is no longer configured.
    pub gone: bool,
    /// Waiting for their turn.
    pub ready: u32,
    /// Waiting for a later attempt.
    pub deferred: u32,
    /// Attempts under way.
    pub active: u32,
    /// Held by an operator.
    pub held: u32,
    /// Recipients that could be neither served nor reported.
    pub dead_recipients: u32,
    /// Slots that this shard has of it.
    pub slots: u32,
    /// Why something was put off or given up last.
    pub last: Option<Reason>,
}
