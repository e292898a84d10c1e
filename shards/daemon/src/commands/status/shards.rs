//! The shards as a table of 80 columns, and the limits they met. All their numbers are in `ringpost shards`.

use super::super::table::{Column, Side, draw};
use super::super::words::{plain, short_bytes, short_count};
use ringpost_admin::api::ShardStatus;
use std::collections::BTreeMap;

/// A count of a shard: the column's name, where it comes from, and how it is shown.
type Count = (&'static str, fn(&ShardStatus) -> u64, fn(u64) -> String);

/// The counts that add up over the shards.
const COUNTS: [Count; 7] = [
    ("SESSIONS", |shard| shard.sessions_open, short_count),
    ("QUEUE", |shard| shard.queue, short_count),
    ("ACCEPTED", |shard| shard.accepted, short_count),
    ("REJECTED", |shard| shard.rejected, short_count),
    ("DEFERRED", |shard| shard.deferred, short_count),
    ("BACKLOG", |shard| shard.backlog_bytes, short_bytes),
    ("MEMORY", |shard| shard.message_memory_bytes, short_bytes),
];

pub(super) fn table(shards: &[ShardStatus]) -> String {
    let columns: Vec<Column> = [("SHARD", Side::Left), ("PHASE", Side::Left)]
        .into_iter()
        .chain(COUNTS.map(|(name, ..)| (name, Side::Right)))
        .collect();
    let row = |shard: &ShardStatus| {
        let counts = COUNTS.iter().map(|(_, count, shown)| shown(count(shard)));
        [shard.shard.to_string(), plain(&shard.phase)].into_iter().chain(counts).collect()
    };
    let mut rows: Vec<Vec<String>> = shards.iter().map(row).collect();
    if shards.len() > 1 {
        let sums = COUNTS.iter().map(|(_, count, shown)| shown(shards.iter().map(count).sum()));
        rows.push(["all".to_owned(), String::new()].into_iter().chain(sums).collect());
    }
    let mut told = draw(&columns, &rows);
    let unasked: u64 = shards.iter().map(|shard| shard.mesh.full).sum();
    if unasked > 0 {
        told.push_str(&format!("questions between shards without an answer in time: {unasked}\n"));
    }
    told
}

pub(super) fn limits_met(shards: &[ShardStatus]) -> String {
    let mut met = BTreeMap::<&str, u64>::new();
    for (key, count) in shards.iter().flat_map(|shard| &shard.limits_hit) {
        *met.entry(key.as_str()).or_default() += count;
    }
    if met.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = met.iter().map(|(key, count)| vec![format!("  {}", plain(key)), count.to_string()]).collect();
    let table = draw(&[("", Side::Left), ("", Side::Right)], &rows);
    format!("\nlimits met since the start, see `ringpost limits`:\n{table}")
}
