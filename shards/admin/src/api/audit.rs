//! What was changed, and by whom.

use super::Moment;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Entries of an answer when the query does not say.
pub const AUDIT_DEFAULT: usize = 50;

/// Entries of an answer at most: those that the server keeps in memory.
pub const AUDIT_MAX: usize = 1_000;

/// A row of `GET /api/v1/audit`, the newest first, and a line of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// When it was done or refused.
    pub at: Moment,
    /// Who ordered it.
    pub who: AuditWho,
    /// What was ordered: `ban`, `reload`, `drop`, ...
    pub what: String,
    /// What it was ordered for: a network, an id, a filter; may be empty.
    #[serde(default)]
    pub subject: String,
    /// What it was like before, as far as the order is about it; may be null.
    pub before: Value,
    /// What it is like since, or what came of it; null if it was refused.
    pub after: Value,
    /// `done`, or `refused: ` and why.
    pub outcome: String,
}

/// Who ordered something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditWho {
    /// How: `socket`, or `signal`, of which the kernel does not say who sent it.
    pub via: String,
    /// The user's number.
    pub uid: Option<u32>,
    /// The number of the user's group.
    pub gid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
    /// The user's name, if the number has one.
    pub user: Option<String>,
}
