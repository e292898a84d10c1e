//! The blocks of all shards, published through the `metrics` facade and rendered for Prometheus.
//!
//! Invariants: counters are the blocks' own values; the counts of a histogram are the blocks' own too, and its sum
//! differs from theirs by rounding only, however often it is published. Every row of the catalogue is there from the
//! first scrape on, with HELP and TYPE. Samples in flight are bounded by [`SAMPLES_MAX`]. It refuses to invent metrics
//! that the catalogue does not list.
//!
//! A histogram of the facade takes samples, not counts. So each publication hands it, per bucket, as many samples as
//! there are new values, each of their mean: the mean of values in a bucket is in that bucket.

use crate::Error;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use ringpost_base::ShardId;
use ringpost_metrics::{BUCKETS, Block, BucketReading, Counter as CounterRow, Family, Gauge as GaugeRow, Timing};
use std::sync::Arc;

/// Samples handed over before the exporter sums them up: 24 bytes each while they wait.
const SAMPLES_MAX: usize = 8192;

const NANOS_OF_SECOND: f64 = 1e9;

/// What is registered and what was published so far.
pub(crate) struct Exporter {
    handle: PrometheusHandle,
    shards: Vec<Shard>,
    /// Samples handed over since the exporter last summed up.
    waiting: usize,
}

/// One shard's block and its series, in the catalogue's order.
struct Shard {
    block: Arc<Block>,
    counters: Vec<Counter>,
    gauges: Vec<Gauge>,
    timings: Vec<Series>,
}

struct Series {
    histogram: Histogram,
    published: [BucketReading; BUCKETS.len() + 1],
}

impl Exporter {
    /// Registers every row of the catalogue for every block; a block's place in the list is its shard's number.
    pub(crate) fn new(blocks: Vec<Arc<Block>>) -> Result<Self, Error> {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS);
        let recorder = builder.map_err(|error| Error::Exporter(error.to_string()))?.build_recorder();
        describe(&recorder);
        let shards = (0..).map(ShardId).zip(blocks).map(|(shard, block)| Shard::new(&recorder, shard, block)).collect();
        Ok(Self { handle: recorder.handle(), shards, waiting: 0 })
    }

    /// Publishes what the shards counted since the last time. To be called every few seconds also when nobody scrapes,
    /// so that a scrape finds little to do.
    pub(crate) fn publish(&mut self) {
        for shard in &mut self.shards {
            for (row, counter) in CounterRow::ALL.iter().zip(&shard.counters) {
                counter.absolute(shard.block.counter(*row));
            }
            for (row, gauge) in GaugeRow::ALL.iter().zip(&shard.gauges) {
                gauge.set(shard.block.gauge(*row) as f64);
            }
            for (row, series) in Timing::ALL.iter().zip(&mut shard.timings) {
                series.publish(&shard.block.timing(*row), &self.handle, &mut self.waiting);
            }
        }
        self.sum_up();
    }

    /// Publishes and renders.
    pub(crate) fn render(&mut self) -> String {
        self.publish();
        self.handle.render()
    }

    fn sum_up(&mut self) {
        self.handle.run_upkeep();
        self.waiting = 0;
    }
}

impl Shard {
    fn new(recorder: &PrometheusRecorder, shard: ShardId, block: Arc<Block>) -> Self {
        // Level and target are for recorders that filter; this one does not.
        let metadata = Metadata::new(module_path!(), Level::INFO, None);
        let series = |family: Family| key(shard, family);
        Self {
            block,
            counters: CounterRow::ALL
                .iter()
                .map(|row| recorder.register_counter(&series(row.family()), &metadata))
                .collect(),
            gauges: GaugeRow::ALL.iter().map(|row| recorder.register_gauge(&series(row.family()), &metadata)).collect(),
            timings: Timing::ALL
                .iter()
                .map(|row| Series {
                    histogram: recorder.register_histogram(&series(row.family()), &metadata),
                    published: Default::default(),
                })
                .collect(),
        }
    }
}

impl Series {
    fn publish(&mut self, read: &[BucketReading], handle: &PrometheusHandle, waiting: &mut usize) {
        for (at, (read, published)) in read.iter().zip(&mut self.published).enumerate() {
            let mut new = read.count.wrapping_sub(published.count);
            if new == 0 {
                continue;
            }
            // The shard counts a value before it adds it to the sum, and may be read in between. What a sum lacks now,
            // or what clamping changes, stays owed and is made good with the bucket's next values.
            let owed = read.sum_nanos.wrapping_sub(published.sum_nanos) as i64;
            let mean = clamp(at, owed as f64 / new as f64 / NANOS_OF_SECOND);
            published.count = read.count;
            let given = mean * NANOS_OF_SECOND * new as f64;
            published.sum_nanos = published.sum_nanos.wrapping_add(given.round() as u64);
            while new > 0 {
                let some = new.min((SAMPLES_MAX - *waiting) as u64);
                self.histogram.record_many(mean, some as usize);
                new -= some;
                *waiting += some as usize;
                if *waiting == SAMPLES_MAX {
                    handle.run_upkeep();
                    *waiting = 0;
                }
            }
        }
    }
}

/// The value nearest to `mean` that Prometheus counts into the bucket at `at`: above the bound below, up to its own.
fn clamp(at: usize, mean: f64) -> f64 {
    let lowest = if at == 0 { 0.0 } else { BUCKETS[at - 1].next_up() };
    let highest = BUCKETS.get(at).copied().unwrap_or(f64::MAX);
    mean.clamp(lowest, highest)
}

fn key(shard: ShardId, family: Family) -> Key {
    let mut labels = vec![Label::new("shard", shard.to_string())];
    labels.extend(family.label.map(|(name, value)| Label::from_static_parts(name, value)));
    Key::from_parts(family.name, labels)
}

fn describe(recorder: &PrometheusRecorder) {
    for (name, help) in helps(CounterRow::ALL.iter().map(|row| row.family())) {
        recorder.describe_counter(KeyName::from_const_str(name), None, help);
    }
    for (name, help) in helps(GaugeRow::ALL.iter().map(|row| row.family())) {
        recorder.describe_gauge(KeyName::from_const_str(name), None, help);
    }
    for (name, help) in helps(Timing::ALL.iter().map(|row| row.family())) {
        recorder.describe_histogram(KeyName::from_const_str(name), None, help);
    }
}

/// Each name once with one help text, which tells its rows apart where they mean different things.
fn helps(families: impl Iterator<Item = Family>) -> Vec<(&'static str, SharedString)> {
    let families: Vec<Family> = families.collect();
    let groups = families.chunk_by(|one, other| one.name == other.name);
    groups.map(|rows| (rows[0].name, help(rows))).collect()
}

fn help(rows: &[Family]) -> SharedString {
    let first = rows[0].help;
    if rows.iter().all(|row| row.help == first) {
        return first.into();
    }
    // The catalogue's habit: "What is counted, by how: this row."
    let common = first.split_once(": ").map_or("", |(common, _)| common);
    if !common.is_empty() && rows.iter().all(|row| row.help.starts_with(common)) {
        return format!("{common}.").into();
    }
    let each = rows.iter().map(|row| format!("{}: {}", row.label.map_or("", |(_, value)| value), row.help));
    each.collect::<Vec<_>>().join(" ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_stay_in_their_bucket() {
        for (at, bound) in BUCKETS.iter().enumerate() {
            assert_eq!(clamp(at, *bound), *bound, "a bound belongs to its bucket");
            assert!(clamp(at + 1, *bound) > *bound);
            assert_eq!(clamp(at, bound + 1.0), *bound);
        }
        assert_eq!(clamp(0, 0.0), 0.0);
        assert_eq!(clamp(BUCKETS.len(), 1e6), 1e6);
    }

    #[test]
    fn names_of_a_group_stand_together_in_the_catalogue() {
        let families: Vec<_> = CounterRow::ALL.iter().map(|row| row.family()).collect();
        let mut names: Vec<_> = helps(families.into_iter()).into_iter().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "each name has one help text");
    }

    #[test]
    fn what_a_torn_reading_lacks_is_made_good() {
        let block = Arc::new(Block::new());
        let mut exporter = Exporter::new(vec![Arc::clone(&block)]).expect("buckets");
        let series = &mut exporter.shards[0].timings[0];
        let reading = |count, sum_nanos| {
            let mut read: [BucketReading; BUCKETS.len() + 1] = Default::default();
            read[3] = BucketReading { count, sum_nanos };
            read
        };
        let mut waiting = 0;
        // Two values of 0.8 ms in the bucket up to 1 ms; the second is not in the sum yet.
        series.publish(&reading(2, 800_000), &exporter.handle, &mut waiting);
        assert!(series.published[3].sum_nanos >= 1_000_000, "clamped into the bucket");
        for count in (4..=8).step_by(2) {
            series.publish(&reading(count, count * 800_000), &exporter.handle, &mut waiting);
        }
        assert_eq!(series.published[3], BucketReading { count: 8, sum_nanos: 6_400_000 });
    }
}
