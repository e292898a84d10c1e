//! `ringpost shards`: every shard in all its numbers: what it is at, what it did of late, and what it did since the start.

use super::table::{Column, Side, draw};
use super::words::{bytes, in_words, plain, short_rate, short_seconds};
use super::{print, print_json};
use crate::cli::ViewOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::ShardView;
use std::time::Duration;

/// Where the shards' numbers are.
pub(super) const SHARDS: &str = "/api/v1/shards";

pub(crate) fn shards(options: &ViewOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    if options.json {
        return print_json(&client, SHARDS);
    }
    print(&report(&client.get::<Vec<ShardView>>(SHARDS)?))
}

/// A cell of a shard: the column's name, and what is in it.
type Cell = (&'static str, fn(&ShardView) -> String);

const NOW: [Cell; 10] = [
    ("CONFIG", |shard| shard.epoch.to_string()),
    ("BUSY", |shard| percent(shard.busy)),
    ("LAG P99", |shard| seconds(shard.lag_p99_seconds)),
    ("SESSIONS", |shard| shard.sessions_open.to_string()),
    ("IN TLS", |shard| shard.tls_open.to_string()),
    ("IN FLIGHT", |shard| shard.messages_in_flight.to_string()),
    ("MEMORY", |shard| bytes(shard.message_memory_bytes)),
    ("QUEUE", |shard| shard.queue.to_string()),
    ("RETRYING", |shard| shard.queue_deferred.to_string()),
    ("DELIVERIES", |shard| shard.deliveries.to_string()),
];

const OF_LATE: [Cell; 7] = [
    ("SESSIONS/S", |shard| short_rate(shard.recent.sessions)),
    ("ACCEPTED/S", |shard| short_rate(shard.recent.accepted)),
    ("REJECTED/S", |shard| short_rate(shard.recent.rejected)),
    ("DEFERRED/S", |shard| short_rate(shard.recent.deferred)),
    ("DELIVERED/S", |shard| short_rate(shard.recent.delivered)),
    ("COMMIT P50", |shard| seconds(shard.spool_commit_p50_seconds)),
    ("COMMIT P99", |shard| seconds(shard.spool_commit_p99_seconds)),
];

const SINCE_START: [Cell; 5] = [
    ("ACCEPTED", |shard| shard.accepted.to_string()),
    ("REJECTED", |shard| shard.rejected.to_string()),
    ("DEFERRED", |shard| shard.deferred.to_string()),
    ("DELIVERED", |shard| shard.delivered.to_string()),
    ("REFUSED", |shard| shard.refused.to_string()),
];

fn report(shards: &[ShardView]) -> String {
    let mut told = notes(shards);
    if !told.is_empty() {
        told.push('\n');
    }
    told.push_str(&table(shards, &NOW));
    told.push_str("\nover the last ten seconds:\n");
    told.push_str(&table(shards, &OF_LATE));
    told.push_str("\nsince the start:\n");
    told.push_str(&table(shards, &SINCE_START));
    told
}

/// What is not as usual with some of them, a line each.
pub(super) fn notes(shards: &[ShardView]) -> String {
    let mut told = String::new();
    for shard in shards {
        if let Some(silent) = shard.stalled_ms {
            let silent = in_words(Duration::from_millis(silent));
            told.push_str(&format!("shard {} is stalled: no sign of life for {silent}\n", shard.shard));
        }
        if shard.canary {
            told.push_str(&format!(
                "shard {} alone runs config {}: `ringpost canary show`\n",
                shard.shard, shard.epoch
            ));
        }
        if shard.phase == "ended" {
            told.push_str(&format!("shard {} has ended\n", shard.shard));
        }
    }
    told
}

fn table(shards: &[ShardView], cells: &[Cell]) -> String {
    let fixed = [("SHARD", Side::Left), ("CPU", Side::Right), ("PHASE", Side::Left)];
    let columns: Vec<Column> = fixed.into_iter().chain(cells.iter().map(|(name, _)| (*name, Side::Right))).collect();
    let row = |shard: &ShardView| {
        let cpu = shard.cpu.map_or(String::new(), |cpu| cpu.to_string());
        let fixed = [shard.shard.to_string(), cpu, plain(&shard.phase)];
        fixed.into_iter().chain(cells.iter().map(|(_, cell)| cell(shard))).collect()
    };
    draw(&columns, &shards.iter().map(row).collect::<Vec<_>>())
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), short_seconds)
}

/// A share in percent.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.0}%", (share * 100.0).clamp(0.0, 999.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_admin::api::Rates;

    fn shard(number: u16) -> ShardView {
        ShardView {
            shard: number,
            cpu: Some(u32::from(number) + 4),
            phase: "ready".to_owned(),
            epoch: 2,
            busy: Some(0.456),
            recent: Rates { sessions: 3.0, accepted: 12.4, rejected: 0.1, deferred: 0.0, delivered: 12_345.6 },
            sessions_open: 30,
            tls_open: 1,
            messages_in_flight: 4,
            message_memory_bytes: 2 << 20,
            queue: 12,
            queue_deferred: 5,
            deliveries: 2,
            accepted: 123_456_789,
            rejected: 4,
            deferred: 5,
            delivered: 6,
            refused: 7,
            spool_commit_p50_seconds: Some(0.000_5),
            spool_commit_p99_seconds: None,
            lag_p99_seconds: Some(0.002),
            ..ShardView::default()
        }
    }

    #[test]
    fn shards_as_tables() {
        let odd = ShardView { canary: true, epoch: 3, stalled_ms: Some(6_000), cpu: None, busy: None, ..shard(1) };
        let expected = "\
shard 1 is stalled: no sign of life for 6 seconds
shard 1 alone runs config 3: `ringpost canary show`

SHARD  CPU  PHASE  CONFIG  BUSY  LAG P99  SESSIONS  IN TLS  IN FLIGHT  MEMORY  QUEUE  RETRYING  DELIVERIES
0        4  ready       2   46%    2.0ms        30       1          4    2MiB     12         5           2
1           ready       3     -    2.0ms        30       1          4    2MiB     12         5           2

over the last ten seconds:
SHARD  CPU  PHASE  SESSIONS/S  ACCEPTED/S  REJECTED/S  DEFERRED/S  DELIVERED/S  COMMIT P50  COMMIT P99
0        4  ready         3.0          12         0.1         0.0        12346       500µs           -
1           ready         3.0          12         0.1         0.0        12346       500µs           -

since the start:
SHARD  CPU  PHASE   ACCEPTED  REJECTED  DEFERRED  DELIVERED  REFUSED
0        4  ready  123456789         4         5          6        7
1           ready  123456789         4         5          6        7
";
        assert_eq!(report(&[shard(0), odd]), expected);
    }

    #[test]
    fn a_shard_that_has_ended_is_named() {
        let ended = ShardView { phase: "ended".to_owned(), ..shard(7) };
        assert_eq!(notes(&[shard(0), ended]), "shard 7 has ended\n");
    }
}
