//! The histograms of all shards in Prometheus text format, written out from the blocks.
//!
//! They don't go through the facade: a histogram of that takes samples one by one, each with a reading of the clock, which would
//! cost more than all the measuring. What a block has is what is to be shown already.

use ringpost_metrics::{BUCKETS, Block, Family, Timing};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// Appends every histogram of the catalogue. A block's place in the list is its shard's number.
pub(super) fn render(blocks: &[Arc<Block>], help: impl Fn(&'static str) -> String, text: &mut String) {
    for rows in Timing::ALL.chunk_by(|one, other| one.family().name == other.family().name) {
        let name = rows[0].family().name;
        let _ = write!(text, "# HELP {name} {}\n# TYPE {name} histogram\n", help(name));
        for (shard, block) in blocks.iter().enumerate() {
            for row in rows {
                series(block, shard, *row, text);
            }
        }
        text.push('\n');
    }
}

fn series(block: &Block, shard: usize, row: Timing, text: &mut String) {
    let family = row.family();
    let (name, labels) = (family.name, Labels { shard, family });
    let (mut count, mut sum) = (0_u64, Duration::ZERO);
    let bounds = BUCKETS.iter().map(Some).chain([None]);
    for (bucket, bound) in block.timing(row).iter().zip(bounds) {
        count = count.wrapping_add(bucket.count);
        sum = sum.saturating_add(Duration::from_nanos(bucket.sum_nanos));
        let _ = match bound {
            Some(bound) => writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}"),
            None => writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}"),
        };
    }
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}", sum.as_secs_f64());
    let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
}

/// The labels of a series, but for that of a bucket.
struct Labels {
    shard: usize,
    family: Family,
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard=\"{}\"", self.shard)?;
        // The catalogue's values have nothing to be escaped.
        self.family.label.map_or(Ok(()), |(key, value)| write!(f, ",{key}=\"{value}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(blocks: &[Arc<Block>]) -> String {
        let mut text = String::new();
        render(blocks, |name| format!("Of {name}."), &mut text);
        text
    }

    #[track_caller]
    fn check(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }

    #[test]
    fn buckets_are_cumulative_and_sums_exact() {
        let blocks = [Arc::new(Block::new()), Arc::new(Block::new())];
        for micros in [10, 11, 25, 400_000_000] {
            blocks[1].observe(Timing::Delivery, Duration::from_micros(micros));
        }
        let text = rendered(&blocks);
        check(&text, r#"ringpost_delivery_seconds_bucket{shard="1",le="0.00001"} 1"#);
        check(&text, r#"ringpost_delivery_seconds_bucket{shard="1",le="0.000025"} 3"#);
        check(&text, r#"ringpost_delivery_seconds_bucket{shard="1",le="300"} 3"#);
        check(&text, r#"ringpost_delivery_seconds_bucket{shard="1",le="+Inf"} 4"#);
        check(&text, r#"ringpost_delivery_seconds_sum{shard="1"} 400.000046"#);
        check(&text, r#"ringpost_delivery_seconds_count{shard="1"} 4"#);
        check(&text, r#"ringpost_delivery_seconds_count{shard="0"} 0"#);
        check(&text, "# HELP ringpost_delivery_seconds Of ringpost_delivery_seconds.");
    }

    #[test]
    fn rows_of_one_name_are_told_apart_and_declared_once() {
        let block = Arc::new(Block::new());
        block.observe_many(Timing::StageMail, Duration::from_micros(5), 3);
        let text = rendered(&[block]);
        check(&text, r#"ringpost_stage_seconds_count{shard="0",stage="mail"} 3"#);
        check(&text, r#"ringpost_stage_seconds_bucket{shard="0",stage="mail",le="0.00001"} 3"#);
        check(&text, r#"ringpost_stage_seconds_count{shard="0",stage="rcpt"} 0"#);
        for row in Timing::ALL {
            let declared = text.matches(&format!("# TYPE {} histogram\n", row.family().name)).count();
            assert_eq!(declared, 1, "{}", row.family().name);
        }
    }
}
