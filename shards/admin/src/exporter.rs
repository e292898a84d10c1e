//! The blocks of all shards, and what is read of the process, rendered for Prometheus.
//!
//! Counters and gauges are published through the `metrics` facade; histograms (`histograms.rs`) and the metrics of the process
//! (`process.rs`) are written out as they are. Invariants: all values are the blocks' own. Every row of the catalogues is
//! there from the first scrape on, with HELP and TYPE. It refuses to invent metrics that the catalogues do not list.

mod histograms;
mod process;

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use ringpost_base::ShardId;
use ringpost_metrics::{Block, Counter as CounterRow, Family, Gauge as GaugeRow, ProcessReading, Timing};
use std::sync::Arc;

/// What is registered.
pub(crate) struct Exporter {
    handle: PrometheusHandle,
    shards: Vec<Shard>,
    blocks: Vec<Arc<Block>>,
}

/// One shard's block and its series, in the catalogue's order.
struct Shard {
    block: Arc<Block>,
    counters: Vec<Counter>,
    gauges: Vec<Gauge>,
}

impl Exporter {
    /// Registers every row of the catalogue for every block; a block's place in the list is its shard's number.
    pub(crate) fn new(blocks: Vec<Arc<Block>>) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        describe(&recorder);
        let numbered = (0..).map(ShardId).zip(&blocks);
        let shards = numbered.map(|(shard, block)| Shard::new(&recorder, shard, block.clone())).collect();
        Self { handle: recorder.handle(), shards, blocks }
    }

    /// What the shards have counted, and what was read of the process.
    pub(crate) fn render(&mut self, of_process: &[ProcessReading]) -> String {
        self.publish();
        let mut text = self.handle.render();
        let families: Vec<Family> = Timing::ALL.iter().map(|row| row.family()).collect();
        let of = |name| families.iter().copied().filter(|family| family.name == name).collect::<Vec<_>>();
        histograms::render(&self.blocks, |name| help(&of(name)).to_string(), &mut text);
        process::render(of_process, &mut text);
        text
    }

    fn publish(&self) {
        for shard in &self.shards {
            for (row, counter) in CounterRow::ALL.iter().zip(&shard.counters) {
                counter.absolute(shard.block.counter(*row));
            }
            for (row, gauge) in GaugeRow::ALL.iter().zip(&shard.gauges) {
                gauge.set(shard.block.gauge(*row) as f64);
            }
        }
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
        }
    }
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
    fn names_of_a_group_stand_together_in_the_catalogue() {
        let families: Vec<_> = CounterRow::ALL.iter().map(|row| row.family()).collect();
        let mut names: Vec<_> = helps(families.into_iter()).into_iter().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "each name has one help text");
    }
}
