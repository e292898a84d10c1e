//! How much is logged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Modules that may have levels of their own: more than there are.
const MODULES_MAX: usize = 64;

/// Bytes of a module's name.
const MODULE_BYTES_MAX: usize = 128;

/// `GET` and `PUT /api/v1/log/levels`: the least important lines that are written. `DELETE` goes back to what the config says,
/// and so does a reload that changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelsView {
    /// For all modules that have no level of their own: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// For single modules, by name as in `log.modules`.
    #[serde(default)]
    pub modules: BTreeMap<String, String>,
    /// Whether they are as the config says; without meaning in an order.
    #[serde(default)]
    pub config: bool,
}

impl LogLevelsView {
    /// The words for the levels, from the fewest lines to the most.
    pub const LEVELS: [&'static str; 5] = ["error", "warn", "info", "debug", "trace"];

    /// Why the order can't be meant, in words; `Ok` if it can.
    ///
    /// # Errors
    /// A word that is no level, a name that can't be a module's, or too many of them.
    pub fn check(&self) -> Result<(), String> {
        if self.modules.len() > MODULES_MAX {
            return Err(format!("{} modules are named: {MODULES_MAX} are the most", self.modules.len()));
        }
        for level in self.modules.values().chain([&self.level]) {
            if !Self::LEVELS.contains(&level.as_str()) {
                return Err(format!("{level:?} is not one of {}", Self::LEVELS.join(", ")));
            }
        }
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
        let named = |name: &&String| (1..=MODULE_BYTES_MAX).contains(&name.len()) && name.bytes().all(letter);
        match self.modules.keys().find(|name| !named(name)) {
            Some(name) => Err(format!("{name:?} is not the name of a module, such as serve or serve::lookups")),
            None => Ok(()),
        }
    }
}
