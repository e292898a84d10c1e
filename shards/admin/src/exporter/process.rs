//! The metrics of the process in Prometheus text format, written out as they are read.
//!
//! They don't go through the facade: that never forgets a series, so a probe that is gone would fail for ever, and its counters
//! are whole numbers.

use ringpost_metrics::{ProcessGauge, ProcessReading};
use std::fmt::Write;

/// Appends every row of the catalogue, with what was read of it. Of readings with one label the first counts.
pub(super) fn render(readings: &[ProcessReading], text: &mut String) {
    for row in ProcessGauge::ALL {
        let family = row.family();
        let _ = write!(text, "# HELP {} {}\n# TYPE {} {}\n", family.name, family.help, family.name, family.kind());
        let of_row: Vec<&ProcessReading> = readings.iter().filter(|reading| reading.row == *row).collect();
        for (at, reading) in of_row.iter().enumerate() {
            if of_row[..at].iter().any(|earlier| earlier.label == reading.label) {
                continue;
            }
            text.push_str(family.name);
            if let (Some(name), Some(value)) = (family.label, &reading.label) {
                let _ = write!(text, "{{{name}=\"");
                escape(value, text);
                text.push_str("\"}");
            }
            let _ = writeln!(text, " {}", reading.value);
        }
        text.push('\n');
    }
}

/// The value of a label, as the text format has it.
fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            _ => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(readings: &[ProcessReading], want: &[&str]) {
        let mut text = String::new();
        render(readings, &mut text);
        let samples: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(samples, want);
        for row in ProcessGauge::ALL {
            let name = row.family().name;
            assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
            assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
        }
    }

    #[test]
    fn readings_are_samples() {
        check(&[], &[]);
        check(
            &[
                ProcessReading::labelled(ProcessGauge::ShardCpu, "0", 1.25),
                ProcessReading::new(ProcessGauge::StartTime, 1_793_000_000.5),
                ProcessReading::labelled(ProcessGauge::State, "ready", 1.0),
                ProcessReading::labelled(ProcessGauge::State, "starting", 0.0),
            ],
            &[
                "ringpost_start_time_seconds 1793000000.5",
                "ringpost_state{state=\"ready\"} 1",
                "ringpost_state{state=\"starting\"} 0",
                "ringpost_shard_cpu_seconds_total{shard=\"0\"} 1.25",
            ],
        );
    }

    #[test]
    fn a_label_cannot_forge_a_series() {
        let forged = "list:a\"} 1\nringpost_state{state=\"\\";
        let want = r#"ringpost_probe_failing{probe="list:a\"} 1\nringpost_state{state=\"\\"} 1"#;
        check(&[ProcessReading::labelled(ProcessGauge::ProbeFailing, forged, 1.0)], &[want]);
    }

    #[test]
    fn two_readings_of_one_label_are_one_sample() {
        let one = |value| ProcessReading::labelled(ProcessGauge::CertificateExpiry, "mx.example.com", value);
        check(
            &[one(5.0), one(7.0)],
            &["ringpost_certificate_expiry_timestamp_seconds{certificate=\"mx.example.com\"} 5"],
        );
    }
}
