//! What goes over the admin socket, version 1: the routes' bodies as types, for the server and for its command line.
//!
//! Everything is JSON. Moments are RFC 3339 text in UTC, networks and durations the text that the config file has
//! (`192.0.2.0/24`, `90s`). A refusal is `{"error": "..."}` with the HTTP status that fits, see
//! [`RefusalStatus`](crate::RefusalStatus). Every answer carries the header [`VERSION_HEADER`].
//!
//! Within a version fields are added, and none is renamed, retyped or taken away; who reads ignores fields that it does
//! not know. Whatever breaks that is another version, at other paths.

mod audit;
mod change;
mod filter;
mod limits;
mod log;
mod queue;
mod sessions;
mod shards;
mod status;

pub use audit::{AUDIT_DEFAULT, AUDIT_MAX, AuditEntry, AuditWho};
pub use change::{
    CanaryNumbers, CanaryOrder, CanaryView, ConfigView, DrainOrder, Draining, ReloadOrder, Reloaded, UpgradeOrder,
    Upgraded,
};

pub use filter::{
    AddressFilter, PAGE_DEFAULT, PAGE_MAX, ParseAddressFilterError, ParseStateError, QueueFilter, QueueQuery,
    QueueState,
};
pub use queue::{
    DAMAGED_MAX, DamagedView, EnvelopeView, IDS_MAX, LegView, MessageRow, MessageView, QueueCursor, QueueOrder,
    QueueOrdered, QueuePage, QueueStatus, QueueVerb, QueueVerification, ReasonView, RecipientTarget, RecipientView,
    TargetStatus,
};

pub use limits::LimitView;
pub use log::LogLevelsView;
pub use sessions::{SESSIONS_DEFAULT, SESSIONS_MAX, SessionQuery, SessionView, Sessions};
pub use shards::ShardView;
pub use status::{MeshStatus, ProbeView, Rates, Readiness, ShardPhase, ShardStatus, Status};

use ringpost_base::{Network, ParseIdError, Span, SpoolId, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::str::FromStr;

/// The version of the API, as in the paths `/api/v1/...`.
pub const VERSION: u32 = 1;

/// The header of every answer that tells the version, so that a client of another one can say so.
pub const VERSION_HEADER: &str = "ringpost-api";

/// Bytes of a ban's reason: a sentence, for a column of a table.
pub const REASON_BYTES_MAX: usize = 200;

/// A ban: a row of `GET /api/v1/bans`, and the answer to one that is added or taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BanView {
    /// Who is banned.
    #[serde(with = "text")]
    #[schemars(with = "String")]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BanAdd {
    /// Who is to be banned.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub network: Network,
    /// For how long; nothing: for good. Not zero.
    #[serde(default, with = "text_or_nothing")]
    #[schemars(with = "Option<String>")]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// A refusal's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ErrorView {
    pub(crate) error: String,
}

/// A refusal, read from an answer's body; nothing if it is none.
pub fn error_of(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<ErrorView>(body).ok().map(|view| view.error)
}

/// A moment of the wall clock, as RFC 3339 text with as many digits of a second as it has; with a precision, as in
/// `{:.0}`, that many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl JsonSchema for Moment {
    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "description": "A moment: RFC 3339 text in UTC." })
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

impl JsonSchema for MessageId {
    fn schema_name() -> Cow<'static, str> {
        "MessageId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A message's id: 26 letters and digits." })
    }
}

/// A number of rows that a query asks for.
pub(crate) fn limit(text: &str, most: usize) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| format!("limit={text}: not a whole number from 1 to {most}"))
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
