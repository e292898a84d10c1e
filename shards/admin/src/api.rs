//! What goes over the admin socket, version 1: the routes' bodies as types, for the server and for its command line.
//!
//! Everything is JSON. Moments are RFC 3339 text in UTC, networks and durations the text that the config file has
//! (`192.0.2.0/24`, `90s`). A refusal is `{"error": "..."}` with the HTTP status that fits, see
//! [`RefusalStatus`](crate::RefusalStatus). Every answer carries the header [`VERSION_HEADER`].
//!
//! Within a version fields are added, and none is renamed, retyped or taken away; who reads ignores fields that it does
//! not know. Whatever breaks that is another version, at other paths.

mod filter;
mod queue;

pub use filter::{
    AddressFilter, PAGE_DEFAULT, PAGE_MAX, ParseAddressFilterError, ParseStateError, QueueFilter, QueueQuery,
    QueueState,
};
pub use queue::{
    DAMAGED_MAX, DamagedView, EnvelopeView, IDS_MAX, LegView, MessageRow, MessageView, QueueCursor, QueueOrder,
    QueueOrdered, QueuePage, QueueStatus, QueueVerb, QueueVerification, ReasonView, RecipientTarget, RecipientView,
    TargetStatus,
};

use ringpost_base::{Network, ParseIdError, Span, SpoolId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

/// The version of the API, as in the paths `/api/v1/...`.
pub const VERSION: u32 = 1;

/// The header of every answer that tells the version, so that a client of another one can say so.
pub const VERSION_HEADER: &str = "ringpost-api";

/// Bytes of a ban's reason: a sentence, for a column of a table.
pub const REASON_BYTES_MAX: usize = 200;

/// `GET /api/v1/status`: the server as a whole, and each shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The server's version.
    pub version: String,
    /// The state as `/readyz` tells it: `starting`, `ready`, `degraded` or `stopping`.
    pub state: String,
    /// Why it is not ready, in words for an operator; may be empty.
    pub reasons: Vec<String>,
    /// The process id.
    pub process: u32,
    /// Seconds since the server was started.
    pub uptime_seconds: u64,
    /// Number of the config in force: 0 from the start, one more for each reload.
    pub epoch: u64,
    /// The shards, by their number.
    pub shards: Vec<ShardStatus>,
}

/// One shard, by its own counts. Counts begin at 0 with the server's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard's number.
    pub shard: u16,
    /// The phase that it has acknowledged; `ended` if its thread has.
    pub phase: String,
    /// The config that it has acknowledged.
    pub epoch: u64,
    /// Connections now open.
    pub sessions_open: u64,
    /// Messages between MAIL and their final reply.
    pub messages_in_flight: u64,
    /// Bytes of messages in memory.
    pub message_memory_bytes: u64,
    /// Messages accepted and not yet settled.
    pub queue: u64,
    /// Of these, messages that wait for a later attempt.
    pub queue_deferred: u64,
    /// Of these, messages that an operator holds.
    #[serde(default)]
    pub queue_held: u64,
    /// Of these, messages that could neither be delivered nor reported.
    #[serde(default)]
    pub queue_dead: u64,
    /// Targets that are left alone for a while, of those that this shard keeps count of.
    #[serde(default)]
    pub breakers_open: u64,
    /// Bytes of accepted messages not yet settled.
    pub backlog_bytes: u64,
    /// Messages answered 250.
    pub accepted: u64,
    /// Messages answered 5xx after their last byte.
    pub rejected: u64,
    /// Messages answered 4xx after their last byte.
    pub deferred: u64,
    /// How often each limit was met, by its key in the config file; those never met are left out.
    pub limits_hit: BTreeMap<String, u64>,
    /// Bans in force, as this shard sees them.
    pub bans: u64,
    /// Questions to other shards.
    pub mesh: MeshStatus,
}

/// What a shard asked of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Questions asked of other shards.
    pub asked: u64,
    /// Questions that found no room or no answer in time; the client was served as if no limit were met.
    pub full: u64,
}

/// A ban: a row of `GET /api/v1/bans`, and the answer to one that is added or taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanView {
    /// Who is banned.
    #[serde(with = "text")]
    pub network: Network,
    /// Why, in words; may be empty.
    pub reason: String,
    /// Who banned it: `operator`, or the rule's name.
    pub by: String,
    /// Since when.
    pub since: Moment,
    /// Until when; nothing: for good.
    pub until: Option<Moment>,
}

/// The body of `POST /api/v1/bans`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanAdd {
    /// Who is to be banned.
    #[serde(with = "text")]
    pub network: Network,
    /// For how long; nothing: for good. Not zero.
    #[serde(default, with = "text_or_nothing")]
    pub ttl: Option<Span>,
    /// Why, in words: at most [`REASON_BYTES_MAX`] bytes, without control characters.
    #[serde(default)]
    pub reason: String,
}

impl BanAdd {
    /// Why the order can't be meant, in words; `Ok` if it can.
    ///
    /// # Errors
    /// A duration of nothing, or a reason too long for a table or not for one line.
    pub fn check(&self) -> Result<(), String> {
        if self.ttl.is_some_and(|ttl| ttl.0.is_zero()) {
            return Err("a ban of no duration bans nobody: give a ttl such as 1h, or none for good".to_owned());
        }
        if self.reason.len() > REASON_BYTES_MAX {
            let length = self.reason.len();
            return Err(format!("the reason has {length} bytes: {REASON_BYTES_MAX} are the most"));
        }
        if self.reason.chars().any(char::is_control) {
            return Err("the reason has a control character or a line end: it has to be one line of text".to_owned());
        }
        Ok(())
    }
}

/// `GET /api/v1/explain/{id}`: what was decided in a session, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The session's id.
    pub session: String,
    /// The message's id, if one was asked for.
    pub message: Option<String>,
    /// The shard that had the session.
    pub shard: u16,
    /// Whether the steps reach back to the session's beginning: they are kept for the recent past only.
    pub complete: bool,
    /// What happened, in order.
    pub steps: Vec<StepView>,
}

/// A step of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// When.
    pub at: Moment,
    /// What was being done: `connect`, `tls`, `mail`, `limit`, ...
    pub stage: String,
    /// The code of the SMTP reply that came of it; nothing if none did.
    pub outcome: Option<u16>,
    /// The rule or limit that decided, as in the config file; nothing if none did.
    pub rule: Option<String>,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What the decision was made from, by name: text or numbers.
    pub inputs: Vec<(String, serde_json::Value)>,
}

/// `POST /api/v1/reload`: what came of reading the config file again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The number of the config now in force.
    pub epoch: u64,
    /// The keys that differ and are in force on every shard.
    pub changed: Vec<String>,
    /// The keys that differ and come into force with a restart only.
    pub needs_restart: Vec<String>,
    /// What an operator should know besides.
    pub warnings: Vec<String>,
}

/// A refusal's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorView {
    pub(crate) error: String,
}

/// A refusal, read from an answer's body; nothing if it is none.
pub fn error_of(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<ErrorView>(body).ok().map(|view| view.error)
}

/// A moment of the wall clock, as RFC 3339 text with as many digits of a second as it has; with a precision, as in
/// `{:.0}`, that many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Timestamp);

impl From<Timestamp> for Moment {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }
}

impl Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i64::try_from(self.0.unix_micros()).unwrap_or(i64::MAX);
        // RFC 3339 ends with the year 9999; what is later is as good as for ever.
        jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX).fmt(f)
    }
}

/// Text that is not a moment since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseMomentError;

impl Display for ParseMomentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a moment since 1970 in RFC 3339 form, such as 2026-11-20T13:00:00Z")
    }
}

impl std::error::Error for ParseMomentError {}

impl FromStr for Moment {
    type Err = ParseMomentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| ParseMomentError)?;
        let micros = u64::try_from(moment.as_microsecond()).map_err(|_| ParseMomentError)?;
        Ok(Self(Timestamp::from_unix_micros(micros)))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

/// A message's id, as the 26 characters that it is printed in everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub SpoolId);

impl From<SpoolId> for MessageId {
    fn from(id: SpoolId) -> Self {
        Self(id)
    }
}

impl Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.parse().map(Self)
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

/// A value that goes as the text that people write.
mod text {
    use super::*;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format_args!("{text:?}: {error}")))
    }
}

/// The same, of a value that may be missing or null.
mod text_or_nothing {
    use super::*;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error| de::Error::custom(format_args!("{text:?}: {error}")))
    }
}
