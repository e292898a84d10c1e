//! Every limit, how often it was met, and how much of it is used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A row of `GET /api/v1/limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// Its key in the config file.
    pub key: String,
    /// What it is a limit of: `session`, `address`, `network`, `core` or `process`.
    pub scope: String,
    /// Its value, as in the config file; `off` if there is none.
    pub value: String,
    /// How often it was met since the start, on all shards.
    pub met: u64,
    /// How much of it is used, on the shard that uses the most of it; nothing where that can't be told in one number.
    pub used: Option<u64>,
    /// Of how much, on that shard.
    pub of: Option<u64>,
}
