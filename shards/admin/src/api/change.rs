//! What changes the server as a whole: its config, on all cores or on one, and its end.

use super::{Moment, text, text_or_nothing};
use ringpost_base::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes of a path in an order, as long as the kernel takes.
const PATH_BYTES_MAX: usize = 4_096;

/// `GET /api/v1/config`: the config in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    /// Its number: 0 from the start, one more for each reload.
    pub epoch: u64,
    /// Every key with its value as TOML, `***` in place of what may be a secret.
    pub toml: String,
    /// The file that it was read from; nothing if the server runs by the defaults.
    pub file: Option<String>,
}

/// The body of `POST /api/v1/reload`, which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadOrder {
    /// Only on one core at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryOrder>,
}

impl ReloadOrder {
    /// Why the order can't be meant, in words; `Ok` if it can.
    ///
    /// # Errors
    /// A canary of no duration.
    pub fn check(&self) -> Result<(), String> {
        match &self.canary {
            Some(canary) if canary.for_.0.is_zero() => {
                Err("a canary of no duration tells nothing: give `for`, such as 5m".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// A config that is to run on one core for a while before it does on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryOrder {
    /// The number of the CPU, as in `cores.use`.
    pub core: usize,
    /// For how long it has to do well.
    #[serde(rename = "for", with = "text")]
    #[schemars(with = "String")]
    pub for_: Span,
}

/// What came of reading the config file again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// The number of the config now in force; for a canary, of the one on its core.
    pub epoch: u64,
    /// The keys that differ and are in force.
    pub changed: Vec<String>,
    /// The keys that differ and come into force with a restart only.
    pub needs_restart: Vec<String>,
    /// What an operator should know besides.
    pub warnings: Vec<String>,
}

/// `GET /api/v1/canary`, which is `null` if there never was one, and `DELETE /api/v1/canary`: a config on one core, the
/// running one or the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CanaryView {
    /// The number of its CPU.
    pub core: usize,
    /// Its shard.
    pub shard: u16,
    /// The number of its config.
    pub epoch: u64,
    /// When it began.
    pub since: Moment,
    /// When it ends, or ended.
    pub until: Moment,
    /// `running`, `kept` (its config is in force everywhere), `taken back` (it did worse than the others) or `stopped` (by an
    /// operator, a reload or an upgrade).
    pub state: String,
    /// Why it is no longer running.
    pub why: Option<String>,
    /// What its core did.
    pub canary: CanaryNumbers,
    /// What the others did meanwhile, all together.
    pub others: CanaryNumbers,
}

/// What a canary is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CanaryNumbers {
    /// Messages answered after their last byte.
    pub messages: u64,
    /// Replies to commands and messages.
    #[serde(default)]
    pub replies: u64,
    /// Of these, 5xx.
    pub rejected: u64,
    /// Of these, 4xx.
    pub deferred: u64,
    /// What failed besides: TLS handshakes, writes, deliveries, those that are tried again too; and panics.
    pub errors: u64,
    /// How many milliseconds 95 of 100 clients waited at most for replies: to the connection, MAIL, RCPT, DATA and the message,
    /// added up; nothing if there were none.
    pub latency_p95_ms: Option<f64>,
}

/// The body of `POST /api/v1/drain`, which may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// For how long, at most, the mail that waits is still to be delivered before the server ends; nothing: not at all, it
    /// stays in the spool.
    #[serde(default, with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub queue: Option<Span>,
}

/// What is left to be done before the server ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    /// Connections that are open.
    pub sessions: u64,
    /// Messages accepted and not yet settled.
    pub queue: u64,
    /// When the server ends at the latest.
    pub until: Moment,
}

/// The body of `POST /api/v1/upgrade`, which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeOrder {
    /// The program that is to take over, by its absolute path; nothing: what is now at the path that the server was started
    /// from. It is run with the server's rights, so only root and the server's own user may name one; other operators are
    /// answered 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

impl UpgradeOrder {
    /// Why the order can't be meant, in words; `Ok` if it can.
    ///
    /// # Errors
    /// A path that is relative, to a directory that only the server knows, or longer than one can be.
    pub fn check(&self) -> Result<(), String> {
        match &self.binary {
            Some(path) if !path.starts_with('/') => Err(format!("binary: {path:?} is not an absolute path")),
            Some(path) if path.len() > PATH_BYTES_MAX || path.contains('\0') => {
                Err(format!("binary: not a path; it has at most {PATH_BYTES_MAX} bytes, none of them zero"))
            }
            _ => Ok(()),
        }
    }
}

/// Who has taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upgraded {
    /// The new process.
    pub process: u32,
    /// Its version.
    pub version: String,
    /// How long it took to be ready, in milliseconds.
    pub took_ms: u64,
}
