//! What clients are told of limits, held against what the server counts.

use super::server::Server;
use super::smtp::Reply;
use std::collections::BTreeMap;

/// How often clients were told of each limit, by its key in the config file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(BTreeMap<String, u64>);

impl Told {
    /// Takes note of a reply; gives the limit that it names.
    pub(crate) fn hear(&mut self, reply: &Reply) -> Option<String> {
        let limit = named_limit(reply)?.to_owned();
        *self.0.entry(limit.clone()).or_default() += 1;
        Some(limit)
    }

    /// How often a limit was told.
    pub(crate) fn count(&self, limit: &str) -> u64 {
        self.0.get(limit).copied().unwrap_or(0)
    }

    /// The server must have counted each limit as often as clients were told of it, and no other.
    #[track_caller]
    pub(crate) fn check(&self, server: &Server) {
        let counted = server.metrics().by_label("ringpost_limits_hit_total", "limit");
        assert_eq!(counted, self.0, "what the server counted is not what its clients were told");
    }
}

/// The limit that a refusal names.
pub(crate) fn named_limit(reply: &Reply) -> Option<&str> {
    let mut words = reply.lines.last()?.split(' ');
    let limit = words.find(|word| word.starts_with("limits.") || word.starts_with("cores.limits."))?;
    assert!(reply.code >= 400, "a limit is named and nothing refused: {}", reply.text());
    Some(limit)
}
