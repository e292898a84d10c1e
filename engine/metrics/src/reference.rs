//! The reference page of the catalogue, as Markdown.

use crate::catalogue::{BUCKETS, Counter, Family, Gauge, Timing};
use crate::process::ProcessGauge;
use std::fmt::Write;

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\nGenerated from `engine/metrics/src/catalogue.rs` and `engine/metrics/src/process.rs` by `cargo xtask \
         docs`. Served at `/metrics` in Prometheus text format. Every series of a shard also has the label `shard`, the \
         number of the core's engine from 0; a sum over `shard` is the server's value.\n",
    );
    section(&mut page, "Counters", Counter::ALL.iter().map(|row| row.family()));
    section(&mut page, "Gauges", Gauge::ALL.iter().map(|row| row.family()));
    section(&mut page, "Histograms", Timing::ALL.iter().map(|row| row.family()));
    let bounds: Vec<String> = BUCKETS.iter().map(f64::to_string).collect();
    let _ = writeln!(page, "\nBucket bounds of every histogram, in seconds: {}.", bounds.join(", "));
    of_process(&mut page);
    page
}

fn section(page: &mut String, title: &str, families: impl Iterator<Item = Family>) {
    let _ = writeln!(page, "\n## {title}\n\n| name | label | meaning |\n| --- | --- | --- |");
    for family in families {
        let label = family.label.map(|(key, value)| format!("`{key}=\"{value}\"`")).unwrap_or_default();
        let _ = writeln!(page, "| `{}` | {label} | {} |", family.name, family.help);
    }
}

/// The metrics of the process: their labels have values that no catalogue knows.
fn of_process(page: &mut String) {
    page.push_str("\n## Of the process\n\n| name | type | label | meaning |\n| --- | --- | --- | --- |\n");
    for family in ProcessGauge::ALL.iter().map(|row| row.family()) {
        let label = family.label.map(|key| format!("`{key}`")).unwrap_or_default();
        let _ = writeln!(page, "| `{}` | {} | {label} | {} |", family.name, family.kind(), family.help);
    }
}
