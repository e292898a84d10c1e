//! Every limit of the config, how often it was met, and how much of it is used.
//!
//! Which limits there are is what the catalogue of metrics counts refusals of, and the connections of a core, which are
//! counted with those of the process.

use crate::in_force::Source;
use ringpost_admin::api::LimitView;
use ringpost_metrics::{Block, Counter, Gauge};
use std::sync::Arc;

/// The label of the metrics that count how often a limit was met.
const LABEL: &str = "limit";

/// The limit of the process, and that of a core, whose refusals are one count.
const CONNECTIONS: &str = "limits.connections";
const CONNECTIONS_OF_A_CORE: &str = "cores.limits.connections";

pub(super) fn limits(source: &Source, blocks: &[Arc<Block>]) -> Vec<LimitView> {
    let values = source.config.values();
    let mut limits: Vec<LimitView> = Vec::new();
    for key in keys() {
        let counted = if key == CONNECTIONS_OF_A_CORE { CONNECTIONS } else { key };
        let (used, of) = usage(key, source, blocks).unzip();
        limits.push(LimitView {
            key: key.to_owned(),
            scope: scope(key).to_owned(),
            value: values.get(key).map(|value| in_words(value)).unwrap_or_default(),
            met: met(counted, blocks),
            used,
            of,
        });
    }
    limits
}

/// The key of every limit, in the order of the catalogue.
fn keys() -> Vec<&'static str> {
    let mut keys = vec![CONNECTIONS_OF_A_CORE];
    for row in Counter::ALL {
        if let Some((LABEL, key)) = row.family().label
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    keys
}

fn met(key: &str, blocks: &[Arc<Block>]) -> u64 {
    let rows = Counter::ALL.iter().filter(|row| row.family().label == Some((LABEL, key)));
    rows.flat_map(|row| blocks.iter().map(|block| block.counter(*row))).sum()
}

/// What a limit is a limit of, as the names of the keys say it.
fn scope(key: &str) -> &'static str {
    match key {
        CONNECTIONS | "spool.space_hard" => "process",
        key if key.starts_with("cores.limits.") => "core",
        key if key.ends_with("_per_ip") => "address",
        key if key.ends_with("_per_network") => "network",
        _ => "session",
    }
}

/// How much is used and of how much; of a core's limit, on the core that is nearest to it.
fn usage(key: &str, source: &Source, blocks: &[Arc<Block>]) -> Option<(u64, u64)> {
    if key == CONNECTIONS {
        let most = source.config.limits.connections?;
        return Some((blocks.iter().map(|block| block.gauge(Gauge::SessionsOpen)).sum(), most as u64));
    }
    let gauge = match key {
        CONNECTIONS_OF_A_CORE => Gauge::SessionsOpen,
        "cores.limits.messages_in_flight" => Gauge::MessagesInFlight,
        "cores.limits.message_memory" => Gauge::MessageMemory,
        "cores.limits.spool_backlog" => Gauge::SpoolBacklog,
        _ => return None,
    };
    let shards = source.cores.iter().zip(blocks).map(|(core, block)| {
        let capacity = &core.capacity;
        let of = match gauge {
            Gauge::SessionsOpen => capacity.connections as u64,
            Gauge::MessagesInFlight => capacity.messages_in_flight as u64,
            Gauge::MessageMemory => capacity.message_memory.0,
            _ => capacity.spool_backlog.0,
        };
        (block.gauge(gauge), of)
    });
    // As fractions, without dividing: a limit may be zero.
    shards.max_by(|one, other| {
        let (one, other) = (u128::from(one.0) * u128::from(other.1), u128::from(other.0) * u128::from(one.1));
        one.cmp(&other)
    })
}

/// A value as people write it; nothing at all is no limit.
fn in_words(value: &str) -> String {
    let bare = value.trim_matches('"');
    let is_nothing = bare.strip_prefix('0').is_some_and(|unit| unit.chars().all(char::is_alphabetic));
    if is_nothing { "off".to_owned() } else { bare.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_config::Config;
    use ringpost_policy::Limit;
    use ringpost_smtp::SessionLimit;

    #[test]
    fn every_limit_has_a_row_and_a_value() {
        let (keys, values) = (keys(), Config::default().values());
        let named = Limit::ALL.iter().map(|limit| limit.key()).chain(SessionLimit::ALL.iter().map(|limit| limit.key()));
        for key in named {
            assert!(keys.contains(&key), "{key} has no row");
        }
        for key in &keys {
            assert!(values.contains_key(*key), "{key} is no key of the config");
        }
    }

    #[test]
    fn scopes_follow_from_the_keys() {
        for (key, expected) in [
            ("limits.connections", "process"),
            ("cores.limits.connections", "core"),
            ("cores.limits.spool_backlog", "core"),
            ("limits.bytes_per_ip", "address"),
            ("limits.bytes_per_network", "network"),
            ("limits.errors_per_session", "session"),
            ("limits.message_size", "session"),
            ("spool.space_hard", "process"),
        ] {
            assert_eq!(scope(key), expected, "{key}");
        }
    }

    #[test]
    fn values_in_words() {
        for (value, expected) in [
            ("0", "off"),
            ("\"0s\"", "off"),
            ("\"0ms\"", "off"),
            ("100", "100"),
            ("\"50MiB\"", "50MiB"),
            ("\"05\"", "05"),
        ] {
            assert_eq!(in_words(value), expected, "{value}");
        }
    }
}
