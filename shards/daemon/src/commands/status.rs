//! `ringpost status`: the server in a line, its troubles, its shards as a table.

use super::table::{Column, Side, draw};
use super::words::{bytes, in_words, plain};
use super::{print, print_json};
use crate::cli::StatusOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{ShardStatus, Status};
use std::collections::BTreeMap;
use std::time::Duration;

const STATUS: &str = "/api/v1/status";

pub(crate) fn status(options: &StatusOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    if options.json {
        return print_json(&client, STATUS);
    }
    print(&report(&client.get(STATUS)?))
}

fn report(status: &Status) -> String {
    let up = in_words(Duration::from_secs(status.uptime_seconds));
    let (version, state) = (plain(&status.version), plain(&status.state));
    let mut told =
        format!("ringpost {version}, process {}: {state}, up {up}, config {}\n", status.process, status.epoch);
    for reason in &status.reasons {
        told.push_str(&format!("  {}\n", plain(reason)));
    }
    told.push_str(&set_aside(&status.shards));
    told.push('\n');
    told.push_str(&shards(&status.shards));
    let limits = limits_hit(&status.shards);
    if !limits.is_empty() {
        told.push_str("\nlimits met:\n");
        let rows: Vec<_> =
            limits.iter().map(|(key, count)| vec![format!("  {}", plain(key)), count.to_string()]).collect();
        told.push_str(&draw(&[("", Side::Left), ("", Side::Right)], &rows));
    }
    told
}

/// What an operator may have to see to, a line each.
fn set_aside(shards: &[ShardStatus]) -> String {
    let sum = |count: fn(&ShardStatus) -> u64| shards.iter().map(count).sum::<u64>();
    let counts = [
        ("held messages", sum(|shard| shard.queue_held), "ringpost queue list --state held"),
        ("dead letters", sum(|shard| shard.queue_dead), "ringpost queue list --state dead"),
        ("targets that are left alone", sum(|shard| shard.breakers_open), "ringpost queue status"),
    ];
    let line = |(name, count, command): &(&str, u64, &str)| format!("  {name}: {count}, see `{command}`\n");
    counts.iter().filter(|(_, count, _)| *count > 0).map(line).collect()
}

/// A count of a shard: the column's name, and where it comes from.
type Count = (&'static str, fn(&ShardStatus) -> u64);

/// The counts that add up over the shards.
const COUNTS: [Count; 9] = [
    ("SESSIONS", |shard| shard.sessions_open),
    ("IN FLIGHT", |shard| shard.messages_in_flight),
    ("QUEUE", |shard| shard.queue),
    ("RETRYING", |shard| shard.queue_deferred),
    ("ACCEPTED", |shard| shard.accepted),
    ("REJECTED", |shard| shard.rejected),
    ("DEFERRED", |shard| shard.deferred),
    ("MESH", |shard| shard.mesh.asked),
    ("MESH FULL", |shard| shard.mesh.full),
];

fn shards(shards: &[ShardStatus]) -> String {
    let columns: Vec<Column> = [("SHARD", Side::Left), ("PHASE", Side::Left)]
        .into_iter()
        .chain(COUNTS.map(|(name, _)| (name, Side::Right)))
        .chain(["BACKLOG", "MEMORY", "BANS"].map(|name| (name, Side::Right)))
        .collect();
    let mut rows: Vec<Vec<String>> = shards.iter().map(row).collect();
    if shards.len() > 1 {
        rows.push(total(shards));
    }
    draw(&columns, &rows)
}

fn row(shard: &ShardStatus) -> Vec<String> {
    let mut cells = vec![shard.shard.to_string(), plain(&shard.phase)];
    cells.extend(COUNTS.map(|(_, count)| count(shard).to_string()));
    cells.extend([bytes(shard.backlog_bytes), bytes(shard.message_memory_bytes), shard.bans.to_string()]);
    cells
}

/// The sums; bans are the same set on every shard and have none.
fn total(shards: &[ShardStatus]) -> Vec<String> {
    let sum = |count: fn(&ShardStatus) -> u64| shards.iter().map(count).sum::<u64>();
    let mut cells = vec!["all".to_owned(), String::new()];
    cells.extend(COUNTS.map(|(_, count)| sum(count).to_string()));
    let (backlog, memory) = (sum(|shard| shard.backlog_bytes), sum(|shard| shard.message_memory_bytes));
    cells.extend([bytes(backlog), bytes(memory), String::new()]);
    cells
}

fn limits_hit(shards: &[ShardStatus]) -> BTreeMap<&str, u64> {
    let mut hit = BTreeMap::new();
    for (key, count) in shards.iter().flat_map(|shard| &shard.limits_hit) {
        *hit.entry(key.as_str()).or_default() += count;
    }
    hit
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_admin::api::MeshStatus;

    fn shard(number: u16, scale: u64, limits: &[(&str, u64)]) -> ShardStatus {
        ShardStatus {
            shard: number,
            phase: "ready".to_owned(),
            epoch: 0,
            sessions_open: 3 * scale,
            messages_in_flight: scale,
            message_memory_bytes: 20_000 * scale,
            queue: 2 * scale,
            queue_deferred: 0,
            queue_held: scale / 10,
            queue_dead: 0,
            breakers_open: 0,
            backlog_bytes: 30_000_000 * scale,
            accepted: 1_000 * scale,
            rejected: 4,
            deferred: 5,
            limits_hit: limits.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect(),
            bans: 7,
            mesh: MeshStatus { asked: 8, full: 0 },
        }
    }

    fn server(shards: Vec<ShardStatus>, reasons: &[&str]) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            state: "degraded".to_owned(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            process: 42,
            uptime_seconds: 3_700,
            epoch: 1,
            shards,
        }
    }

    fn check(status: &Status, expected: &str) {
        assert_eq!(report(status), expected);
    }

    #[test]
    fn a_server_of_two_shards() {
        let limits = [("limits.connections_per_ip", 2), ("limits.recipients", 1)];
        let shards = vec![shard(0, 1, &limits), shard(1, 10, &limits[..1])];
        check(
            &server(shards, &["shard 1: the spool can't be written"]),
            "\
ringpost 0.1.0, process 42: degraded, up 1 hour 1 minute, config 1
  shard 1: the spool can't be written
  held messages: 1, see `ringpost queue list --state held`

SHARD  PHASE  SESSIONS  IN FLIGHT  QUEUE  RETRYING  ACCEPTED  REJECTED  DEFERRED  MESH  MESH FULL  BACKLOG  MEMORY  BANS
0      ready         3          1      2         0      1000         4         5     8          0    28MiB   19KiB     7
1      ready        30         10     20         0     10000         4         5     8          0   286MiB  195KiB     7
all                 33         11     22         0     11000         8        10    16          0   314MiB  214KiB

limits met:
  limits.connections_per_ip  4
  limits.recipients          1
",
        );
    }

    #[test]
    fn a_server_of_one_shard_has_no_sums() {
        let drawn = report(&server(vec![shard(0, 0, &[])], &[]));
        assert_eq!(drawn.lines().count(), 4, "{drawn}");
        assert!(!drawn.contains("all ") && !drawn.contains("limits met"), "{drawn}");
    }
}
