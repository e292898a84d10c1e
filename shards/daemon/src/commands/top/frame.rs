//! A frame of `ringpost top`, as lines: the verdict, the sums, the shards.
//!
//! Columns have fixed widths, so that nothing jumps from one frame to the next; all of them together fit on 80.

use super::super::shards::{notes, percent};
use super::super::words::{in_words, plain, short_bytes, short_count, short_rate, short_seconds, wrapped};
use super::terminal::Size;
use super::view::{Sort, View};
use ringpost_admin::api::{Moment, Rates, ShardView, Status};
use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// What the last line of a screen says.
const KEYS: &str = "q quit   p pause   s sort   + - interval";

/// The width of frames that are not for a terminal.
const WIDTH: usize = 80;

/// Counts as they were at a moment.
pub(super) struct Reading {
    pub(super) status: Status,
    pub(super) shards: Vec<ShardView>,
    pub(super) read: Instant,
    pub(super) at: Moment,
}

/// What a frame is made of.
pub(super) struct Frame<'a> {
    /// The reading before, of which rates are made; without it they are the server's own, of ten seconds.
    pub(super) before: Option<&'a Reading>,
    pub(super) reading: &'a Reading,
    pub(super) view: &'a View,
    /// Why there is no newer reading.
    pub(super) trouble: Option<&'a str>,
}

/// A shard, and what it does a second.
struct Row<'a> {
    shard: &'a ShardView,
    rates: Rates,
}

/// A column: its name, its width, a shard's cell, and the cell of the sums.
type Column = (&'static str, usize, fn(&Row<'_>) -> String, fn(&[Row<'_>]) -> String);

fn sum(rows: &[Row<'_>], count: impl Fn(&Row<'_>) -> u64) -> u64 {
    rows.iter().map(count).sum()
}

fn total(rows: &[Row<'_>], rate: impl Fn(&Row<'_>) -> f64) -> f64 {
    rows.iter().map(rate).sum()
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), short_seconds)
}

const NONE: fn(&[Row<'_>]) -> String = |_| String::new();

const COLUMNS: [Column; 13] = [
    ("SHARD", 5, |row| row.shard.shard.to_string(), |_| "all".to_owned()),
    ("CPU", 4, |row| row.shard.cpu.map_or("-".to_owned(), |cpu| cpu.to_string()), NONE),
    ("BUSY", 5, |row| percent(row.shard.busy), |rows| percent(busy(rows))),
    (
        "SESS",
        6,
        |row| short_count(row.shard.sessions_open),
        |rows| short_count(sum(rows, |row| row.shard.sessions_open)),
    ),
    ("IN/s", 6, |row| short_rate(row.rates.accepted), |rows| short_rate(total(rows, |row| row.rates.accepted))),
    ("REJ/s", 6, |row| short_rate(row.rates.rejected), |rows| short_rate(total(rows, |row| row.rates.rejected))),
    ("DEF/s", 6, |row| short_rate(row.rates.deferred), |rows| short_rate(total(rows, |row| row.rates.deferred))),
    ("OUT/s", 6, |row| short_rate(row.rates.delivered), |rows| short_rate(total(rows, |row| row.rates.delivered))),
    ("P50", 6, |row| seconds(row.shard.spool_commit_p50_seconds), NONE),
    ("P99", 6, |row| seconds(row.shard.spool_commit_p99_seconds), NONE),
    ("LAG", 6, |row| seconds(row.shard.lag_p99_seconds), NONE),
    ("QUEUE", 6, |row| short_count(row.shard.queue), |rows| short_count(sum(rows, |row| row.shard.queue))),
    (
        "MEM",
        6,
        |row| short_bytes(row.shard.message_memory_bytes),
        |rows| short_bytes(sum(rows, |row| row.shard.message_memory_bytes)),
    ),
];

/// The mean of what is known.
fn busy(rows: &[Row<'_>]) -> Option<f64> {
    let known: Vec<f64> = rows.iter().filter_map(|row| row.shard.busy).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

impl Frame<'_> {
    /// The frame as text.
    pub(super) fn plain(&self) -> String {
        self.lines(WIDTH).into_iter().map(|line| line + "\n").collect()
    }

    /// The frame as the lines of a screen, none longer, and no more of them; the last says which keys there are.
    pub(super) fn live(&self, size: Size) -> Vec<String> {
        let mut lines = self.lines(size.columns.max(1));
        let room = size.rows.saturating_sub(1);
        if lines.len() > room {
            lines.truncate(room.saturating_sub(1));
            lines.push("... more than the screen has room for".to_owned());
        }
        lines.resize(room, String::new());
        lines.push(KEYS.to_owned());
        let cut = |line: String| line.chars().take(size.columns).collect();
        lines.into_iter().map(cut).collect()
    }

    fn lines(&self, width: usize) -> Vec<String> {
        let Status { hostname, state, uptime_seconds, version, .. } = &self.reading.status;
        let up = in_words(Duration::from_secs(*uptime_seconds));
        let mut lines = vec![
            format!("{}: {}, up {up}, ringpost {}", plain(hostname), plain(state), plain(version)),
            format!("{:.0}, {}", self.reading.at, self.looking()),
        ];
        if let Some(trouble) = self.trouble {
            lines.extend(wrapped(&format!("no answer: {}", plain(trouble)), width));
        }
        let failing: Vec<String> =
            self.reading.status.probes.iter().filter(|probe| !probe.ok).map(|probe| plain(&probe.name)).collect();
        if !failing.is_empty() {
            lines.extend(wrapped(&format!("not well, see `ringpost status`: {}", failing.join(", ")), width));
        }
        lines.extend(notes(&self.reading.shards).lines().map(str::to_owned));
        lines.push(String::new());
        lines.extend(self.table());
        lines
    }

    /// How it is looked at.
    fn looking(&self) -> String {
        let Self { view, .. } = self;
        let pace = if view.paused() { "paused".to_owned() } else { format!("every {:?}", view.interval()) };
        match view.sort() {
            Sort::Shard => pace,
            sort => format!("{pace}, sorted by {}", sort.column()),
        }
    }

    fn table(&self) -> Vec<String> {
        let mut rows: Vec<Row<'_>> =
            self.reading.shards.iter().map(|shard| Row { shard, rates: self.rates(shard) }).collect();
        sort(&mut rows, self.view.sort());
        let line = |cells: &dyn Fn(&Column) -> String| {
            let padded = COLUMNS.iter().map(|column| format!("{:>width$}", cells(column), width = column.1));
            padded.collect::<String>().trim_end().to_owned()
        };
        let mut lines = vec![line(&|column| column.0.to_owned())];
        lines.extend(rows.iter().map(|row| line(&|column| column.2(row))));
        if rows.len() > 1 {
            lines.push(line(&|column| column.3(&rows)));
        }
        lines
    }

    /// What a shard did a second since the reading before, if that was of the same process.
    fn rates(&self, shard: &ShardView) -> Rates {
        let same = self.before.filter(|before| before.status.process == self.reading.status.process);
        let earlier = same.and_then(|before| {
            let earlier = before.shards.iter().find(|earlier| earlier.shard == shard.shard)?;
            Some((earlier, self.reading.read.saturating_duration_since(before.read).as_secs_f64()))
        });
        let Some((earlier, seconds)) = earlier.filter(|(_, seconds)| *seconds > 0.0) else {
            return shard.recent;
        };
        let rate = |count: fn(&ShardView) -> u64| count(shard).saturating_sub(count(earlier)) as f64 / seconds;
        Rates {
            sessions: shard.recent.sessions,
            accepted: rate(|shard| shard.accepted),
            rejected: rate(|shard| shard.rejected),
            deferred: rate(|shard| shard.deferred),
            delivered: rate(|shard| shard.delivered),
        }
    }
}

/// Sorts the shards; those that are alike keep the order of their numbers.
fn sort(rows: &mut [Row<'_>], by: Sort) {
    let down = |one: f64, other: f64| other.partial_cmp(&one).unwrap_or(Ordering::Equal);
    let known = |value: Option<f64>| value.unwrap_or(-1.0);
    rows.sort_by(|one, other| match by {
        Sort::Shard => one.shard.shard.cmp(&other.shard.shard),
        Sort::Busy => down(known(one.shard.busy), known(other.shard.busy)),
        Sort::Sessions => other.shard.sessions_open.cmp(&one.shard.sessions_open),
        Sort::Accepted => down(one.rates.accepted, other.rates.accepted),
        Sort::Commit => down(known(one.shard.spool_commit_p99_seconds), known(other.shard.spool_commit_p99_seconds)),
        Sort::Lag => down(known(one.shard.lag_p99_seconds), known(other.shard.lag_p99_seconds)),
        Sort::Queue => other.shard.queue.cmp(&one.shard.queue),
        Sort::Memory => other.shard.message_memory_bytes.cmp(&one.shard.message_memory_bytes),
    });
}

#[cfg(test)]
mod tests;
