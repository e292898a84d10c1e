//! What a run came to, in the form of its JSON record.
//!
//! One file a run, named after its time and the commit, never overwritten. Times are in microseconds (`_us`) or seconds
//! (`_seconds`). Each stage carries its histogram in HdrHistogram's V2 format, compressed and in base64, as the
//! HdrHistogram libraries of other languages read it; so runs can be merged and drawn again without being made again.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::RecordArgs;
use crate::hardware::{Hardware, Source, kernel};
use crate::process::Usage;
use crate::stats::{BreakKind, Command, Incident, Stage, Stats};
use crate::units::serialize_span;
use crate::verify::Verification;

/// Version of the record's shape; it grows when a field changes its meaning.
const FORMAT: u32 = 1;

/// Where records go when `--json` doesn't say, if it exists.
const DIRECTORY_DEFAULT: &str = "bench-results";

/// How many files of one second and commit are told apart.
const NAMES_MAX: u32 = 1000;

/// What a run came to, before it is written up.
pub(crate) struct Outcome {
    pub(crate) run: u64,
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    /// Messages of an open loop that were due and found no session before the end.
    pub(crate) not_started: u64,
    pub(crate) stats: Stats,
    pub(crate) server: Option<Used>,
    pub(crate) generator: Option<Used>,
    pub(crate) verification: Option<Verification>,
    /// Why the file of acknowledged messages couldn't be written.
    pub(crate) acked_error: Option<String>,
}

/// What a process used during a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Used {
    #[serde(rename = "cpu_seconds", serialize_with = "serialize_span")]
    pub(crate) cpu: Duration,
    pub(crate) rss_bytes_before: u64,
    pub(crate) rss_bytes_after: u64,
}

impl Used {
    pub(crate) fn between(before: Usage, after: Usage) -> Self {
        Self {
            cpu: after.cpu.saturating_sub(before.cpu),
            rss_bytes_before: before.rss_bytes,
            rss_bytes_after: after.rss_bytes,
        }
    }

    /// CPU time for each of so many messages or connections, in milliseconds.
    pub(crate) fn cpu_ms_per(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.cpu.as_secs_f64() * 1000.0 / count as f64)
    }
}

/// The latencies of one stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StageSummary {
    pub(crate) count: u64,
    pub(crate) min_us: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
    /// HdrHistogram V2, compressed, base64.
    pub(crate) histogram: String,
}

impl StageSummary {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        // Writing to memory can't fail; a histogram that couldn't be coded would be an empty text, and not a lost run.
        let _ = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
        Self {
            count: histogram.len(),
            min_us: histogram.min(),
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
            histogram: base64(&bytes),
        }
    }
}

/// The frame of every record: what, when, where, with which options.
#[derive(Serialize)]
pub(crate) struct Record<'a, P: Serialize, R: Serialize> {
    format: u32,
    tool: &'static str,
    version: &'static str,
    command: &'static str,
    date: String,
    #[serde(flatten)]
    source: Source,
    hardware: Hardware,
    kernel: Option<String>,
    durability: Option<&'a str>,
    parameters: &'a P,
    result: R,
}

impl<'a, P: Serialize, R: Serialize> Record<'a, P, R> {
    pub(crate) fn new(command: &'static str, options: &'a RecordArgs, parameters: &'a P, result: R) -> Self {
        Self {
            format: FORMAT,
            tool: "ringpost-load",
            version: env!("CARGO_PKG_VERSION"),
            command,
            date: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            source: Source::read(),
            hardware: Hardware::read(),
            kernel: kernel(),
            durability: options.durability_label.as_deref(),
            parameters,
            result,
        }
    }

    /// Writes the record where the options want it; the answer is its path, if it was wanted.
    pub(crate) fn write(&self, options: &RecordArgs) -> Result<Option<PathBuf>> {
        let directory = match &options.json {
            _ if options.no_json => return Ok(None),
            Some(directory) => directory.as_path(),
            None if Path::new(DIRECTORY_DEFAULT).is_dir() => Path::new(DIRECTORY_DEFAULT),
            None => return Ok(None),
        };
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let stem = format!("{}-{}", self.date.replace(['-', ':'], ""), self.source.short());
        let path = write_new(directory, &stem, &text);
        path.map(Some).with_context(|| format!("can't write a record into {}", directory.display()))
    }
}

/// Writes a file under the first name that isn't taken.
fn write_new(directory: &Path, stem: &str, text: &[u8]) -> std::io::Result<PathBuf> {
    for number in 1..NAMES_MAX {
        let name = if number == 1 { format!("{stem}.json") } else { format!("{stem}-{number}.json") };
        let path = directory.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => return file.write_all(text).map(|()| path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::ErrorKind::AlreadyExists.into())
}

/// The result of a run, as its record tells it.
#[derive(Serialize)]
pub(crate) struct RunResult<'a> {
    run_id: String,
    seed: u64,
    elapsed_seconds: f64,
    messages_per_second: f64,
    bytes_per_second: f64,
    counts: Counts,
    replies: &'a BTreeMap<u16, u64>,
    refusals: Vec<Refusal<'a>>,
    breaks: &'a BTreeMap<BreakKind, Incident>,
    tls: &'a BTreeMap<String, u64>,
    stages: BTreeMap<&'static str, StageSummary>,
    acknowledged_per_second: &'a [u64],
    server: Option<Used>,
    server_cpu_ms_per_message: Option<f64>,
    generator: Option<Used>,
    verification: Option<&'a Verification>,
}

#[derive(Serialize)]
struct Counts {
    started: u64,
    acknowledged: u64,
    refused: u64,
    failed: u64,
    late_starts: u64,
    not_started: u64,
    connections: u64,
    bytes_acknowledged: u64,
}

/// A row of the table of refusals.
#[derive(Serialize)]
pub(crate) struct Refusal<'a> {
    code: u16,
    command: &'a str,
    #[serde(flatten)]
    incident: &'a Incident,
}

impl<'a> Refusal<'a> {
    /// All rows of the table.
    pub(crate) fn all(stats: &'a Stats) -> Vec<Self> {
        let row = |((code, command), incident): (&'a (u16, Command), _)| Refusal { code: *code, command, incident };
        stats.refusals.iter().map(row).collect()
    }
}

impl Outcome {
    /// The span that rates are taken over: until the last message was acknowledged, so that waiting for a timeout at
    /// the end doesn't count.
    pub(crate) fn active_seconds(&self) -> f64 {
        let last = self.stats.last_acknowledged;
        if last.is_zero() { self.elapsed.as_secs_f64() } else { last.as_secs_f64() }
    }

    pub(crate) fn messages_per_second(&self) -> f64 {
        self.stats.acknowledged as f64 / self.active_seconds().max(1e-6)
    }

    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.stats.bytes as f64 / self.active_seconds().max(1e-6)
    }

    /// The result for the record. The stages are those of [`StageSummary::of`] for each stage that was timed.
    pub(crate) fn result<'a>(&'a self, stages: &[(Stage, StageSummary)]) -> RunResult<'a> {
        let stats = &self.stats;
        RunResult {
            run_id: format!("{:016x}", self.run),
            seed: self.seed,
            elapsed_seconds: self.elapsed.as_secs_f64(),
            messages_per_second: self.messages_per_second(),
            bytes_per_second: self.bytes_per_second(),
            counts: Counts {
                started: stats.started,
                acknowledged: stats.acknowledged,
                refused: stats.refused,
                failed: stats.failed,
                late_starts: stats.late_starts,
                not_started: self.not_started,
                connections: stats.connections,
                bytes_acknowledged: stats.bytes,
            },
            replies: &stats.replies,
            refusals: Refusal::all(stats),
            breaks: &stats.breaks,
            tls: &stats.tls,
            stages: stages.iter().map(|(stage, summary)| (stage.name(), summary.clone())).collect(),
            acknowledged_per_second: &stats.per_second,
            server: self.server,
            server_cpu_ms_per_message: self.server.and_then(|used| used.cpu_ms_per(stats.acknowledged)),
            generator: self.generator,
            verification: self.verification.as_ref(),
        }
    }
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648_section_10() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn names_are_never_taken_twice() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let one = write_new(dir.path(), "x", b"1").expect("writes");
        let two = write_new(dir.path(), "x", b"2").expect("writes");
        assert_eq!((one.file_name(), two.file_name()), (Some("x.json".as_ref()), Some("x-2.json".as_ref())));
        assert_eq!(std::fs::read(one).expect("reads"), b"1");
    }

    #[test]
    fn stage_summary_is_readable_by_others() {
        let mut stats = Stats::new();
        for ms in 1..=100 {
            stats.time(Stage::Data, Duration::from_millis(ms));
        }
        let summary = StageSummary::of(stats.stage(Stage::Data));
        assert_eq!(summary.count, 100);
        assert!(summary.p90_us.abs_diff(90_000) < 100);
        // The cookie that every compressed V2 histogram begins with.
        assert!(summary.histogram.starts_with("HISTFAAA"), "{}", summary.histogram);
    }
}
