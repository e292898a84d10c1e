//! What a run counts and times.
//!
//! Each worker thread has one [`Stats`] behind a [`Recorder`]; only the progress line reads it from another thread, once
//! a second, so its lock is practically never contended. At the end they are merged.
//!
//! Latencies are in microseconds with three significant digits, up to ten minutes; what is longer counts as ten minutes.
//! Under an open loop (`--rate`) a message is timed from the instant it was due, so a stalled server can't hide the
//! messages it kept from being sent (coordinated omission). hdrhistogram's own correction (`record_correct`) invents
//! samples from an expected interval; here the real ones are known, so it isn't used: both would count a stall twice.
//! A closed loop has no interval that could be expected, and its numbers say only what they say: how long a server took
//! that was never sent more than `--sessions` messages at one time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart: 10 minutes, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// A message that starts this much later than it was due, for want of a free session, is a late start.
pub(crate) const LATE_START: Duration = Duration::from_millis(1);

/// Longest text of a reply or an error that is kept as an example.
const EXAMPLE_BYTES_MAX: usize = 300;

/// The parts of a message's way that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// From when a message was due to when a session took it up (open loop only).
    Wait,
    /// From the connect call to the banner, without an implicit TLS handshake.
    Connect,
    /// The TLS handshake, and before it STARTTLS.
    Tls,
    /// EHLO to its reply.
    Ehlo,
    /// MAIL to its reply; with pipelining, from the write of the whole group.
    Mail,
    /// RCPT to its reply; with pipelining, from the write of the whole group.
    Rcpt,
    /// DATA to its 354; with pipelining, from the write of the whole group.
    Go,
    /// From the last write, which carries the end of the mail data, to its reply. It begins before that write and not
    /// after: on one machine, the reply may be there by the time the write returns.
    Data,
    /// From when the message was due (open loop) or started (closed loop) to its last reply.
    Message,
}

impl Stage {
    pub(crate) const ALL: [Self; 9] =
        [Self::Wait, Self::Connect, Self::Tls, Self::Ehlo, Self::Mail, Self::Rcpt, Self::Go, Self::Data, Self::Message];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Ehlo => "ehlo",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Go => "go-ahead",
            Self::Data => "data",
            Self::Message => "message",
        }
    }
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BreakKind {
    /// Nobody listens there.
    Refused,
    /// The server or something on the way ended it with a reset.
    Reset,
    /// No answer within `--timeout`.
    Timeout,
    /// The server closed it where a reply was due.
    Eof,
    /// The handshake or a record failed.
    Tls,
    /// What came back wasn't SMTP, or the server lacks an extension the run needs.
    Protocol,
    /// This machine ran out of ports, addresses or descriptors.
    Local,
    /// Anything else, such as no route.
    Other,
}

impl BreakKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Eof => "eof",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

/// What a reply answered, in words; it comes as text from another process of this tool.
pub(crate) type Command = Cow<'static, str>;

/// How often something went wrong, and what it looked like the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incident {
    pub(crate) count: u64,
    pub(crate) example: String,
}

impl Incident {
    fn add(&mut self, example: &str) {
        if self.count == 0 {
            let end = example.floor_char_boundary(EXAMPLE_BYTES_MAX);
            example[..end].trim_end().clone_into(&mut self.example);
        }
        self.count += 1;
    }

    fn merge(&mut self, other: &Self) {
        if self.count == 0 {
            self.example.clone_from(&other.example);
        }
        self.count += other.count;
    }
}

/// The numbers of one worker, or of the whole run.
#[derive(Clone)]
pub(crate) struct Stats {
    stages: Vec<Histogram<u64>>,
    /// Messages a session took up.
    pub(crate) started: u64,
    /// Messages that got their 250.
    pub(crate) acknowledged: u64,
    /// Messages the server said no to.
    pub(crate) refused: u64,
    /// Messages whose connection broke, or was never made.
    pub(crate) failed: u64,
    /// Bytes of the acknowledged messages, headers included.
    pub(crate) bytes: u64,
    /// Connections that came as far as the answer to EHLO.
    pub(crate) connections: u64,
    /// Messages that found no free session when they were due.
    pub(crate) late_starts: u64,
    /// Every reply, by its code.
    pub(crate) replies: BTreeMap<u16, u64>,
    /// Replies that turned something down, by code and command.
    pub(crate) refusals: BTreeMap<(u16, Command), Incident>,
    /// Broken connections.
    pub(crate) breaks: BTreeMap<BreakKind, Incident>,
    /// TLS handshakes by version and cipher suite.
    pub(crate) tls: BTreeMap<String, u64>,
    /// Messages acknowledged in each second of the run.
    pub(crate) per_second: Vec<u64>,
    /// When the last message was acknowledged, counted from the start of the run.
    pub(crate) last_acknowledged: Duration,
    /// Sequence numbers of the acknowledged messages, if they are to be verified.
    pub(crate) acknowledged_list: Vec<u64>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS);
        let histogram = histogram.expect("the bounds are constants that hdrhistogram takes");
        Self {
            stages: vec![histogram; Stage::ALL.len()],
            started: 0,
            acknowledged: 0,
            refused: 0,
            failed: 0,
            bytes: 0,
            connections: 0,
            late_starts: 0,
            replies: BTreeMap::new(),
            refusals: BTreeMap::new(),
            breaks: BTreeMap::new(),
            tls: BTreeMap::new(),
            per_second: Vec::new(),
            last_acknowledged: Duration::ZERO,
            acknowledged_list: Vec::new(),
        }
    }

    pub(crate) fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.stages[stage as usize]
    }

    pub(crate) fn time(&mut self, stage: Stage, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.stages[stage as usize].saturating_record(us);
    }

    pub(crate) fn reply(&mut self, code: u16) {
        *self.replies.entry(code).or_default() += 1;
    }

    pub(crate) fn refusal(&mut self, code: u16, command: &'static str, reply: &[u8]) {
        let text = String::from_utf8_lossy(reply);
        self.refusals.entry((code, Cow::Borrowed(command))).or_default().add(&text);
    }

    pub(crate) fn broken(&mut self, kind: BreakKind, detail: &str) {
        self.breaks.entry(kind).or_default().add(detail);
    }

    /// Counts an acknowledged message: its size, and when after the start of the run it was acknowledged.
    pub(crate) fn acknowledge(&mut self, bytes: u64, at: Duration) {
        self.acknowledged += 1;
        self.bytes += bytes;
        self.last_acknowledged = self.last_acknowledged.max(at);
        let second = at.as_secs() as usize;
        if self.per_second.len() <= second {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += 1;
    }

    /// Messages that are under way.
    pub(crate) fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.acknowledged + self.refused + self.failed)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        self.started += other.started;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.late_starts += other.late_starts;
        for (code, count) in &other.replies {
            *self.replies.entry(*code).or_default() += count;
        }
        for (key, incident) in &other.refusals {
            self.refusals.entry(key.clone()).or_default().merge(incident);
        }
        for (kind, incident) in &other.breaks {
            self.breaks.entry(*kind).or_default().merge(incident);
        }
        for (name, count) in &other.tls {
            *self.tls.entry(name.clone()).or_default() += count;
        }
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (mine, theirs) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += theirs;
        }
        self.last_acknowledged = self.last_acknowledged.max(other.last_acknowledged);
        self.acknowledged_list.extend_from_slice(&other.acknowledged_list);
    }
}

/// What a crowd's [`Stats`] are when they go from one process to another; what only runs count is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackedStats {
    /// For each stage, values in microseconds and how often each was measured.
    stages: Vec<Vec<(u64, u64)>>,
    connections: u64,
    replies: BTreeMap<u16, u64>,
    refusals: Vec<(u16, String, Incident)>,
    breaks: Vec<(BreakKind, Incident)>,
    tls: BTreeMap<String, u64>,
}

impl Stats {
    /// The form in which they go to another process.
    pub(crate) fn pack(&self) -> PackedStats {
        let samples = |stage: &Histogram<u64>| {
            stage.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect()
        };
        let refusal = |(key, incident): (&(u16, Command), &Incident)| (key.0, key.1.to_string(), incident.clone());
        PackedStats {
            stages: self.stages.iter().map(samples).collect(),
            connections: self.connections,
            replies: self.replies.clone(),
            refusals: self.refusals.iter().map(refusal).collect(),
            breaks: self.breaks.iter().map(|(kind, incident)| (*kind, incident.clone())).collect(),
            tls: self.tls.clone(),
        }
    }

    /// What another process packed.
    pub(crate) fn unpack(packed: PackedStats) -> Self {
        let mut stats = Self::new();
        for (stage, samples) in stats.stages.iter_mut().zip(packed.stages) {
            samples.into_iter().for_each(|(us, count)| stage.saturating_record_n(us, count));
        }
        stats.connections = packed.connections;
        stats.replies = packed.replies;
        let refusals = packed.refusals.into_iter();
        stats.refusals = refusals.map(|(code, command, incident)| ((code, Cow::Owned(command)), incident)).collect();
        stats.breaks = packed.breaks.into_iter().collect();
        stats.tls = packed.tls;
        stats
    }
}

/// One worker's way to its [`Stats`].
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Mutex<Stats>>);

impl Recorder {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Stats::new())))
    }

    /// The numbers, for as short as possible and never across an await.
    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_in_the_order_of_their_list() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }

    #[test]
    fn merging_adds_everything() {
        let mut one = Stats::new();
        one.acknowledge(10, Duration::from_millis(2500));
        one.time(Stage::Data, Duration::from_millis(3));
        one.refusal(451, "MAIL", b"451 later\r\n");
        let mut two = Stats::new();
        two.acknowledge(20, Duration::from_millis(500));
        two.time(Stage::Data, Duration::from_secs(3600));
        two.refusal(451, "MAIL", b"451 another\r\n");
        two.reply(451);
        one.merge(&two);
        assert_eq!((one.acknowledged, one.bytes), (2, 30));
        assert_eq!(one.per_second, [1, 0, 1]);
        assert_eq!(one.last_acknowledged, Duration::from_millis(2500));
        assert_eq!(one.stage(Stage::Data).len(), 2);
        assert!(one.stage(Stage::Data).max().abs_diff(LATENCY_US_MAX) < LATENCY_US_MAX / 1000);
        let incident = &one.refusals[&(451, "MAIL".into())];
        assert_eq!((incident.count, incident.example.as_str()), (2, "451 later"));
        assert_eq!(one.replies[&451], 1);
    }

    #[test]
    fn stats_survive_the_way_to_another_process() {
        let mut stats = Stats::new();
        for us in [1, 70, 900, 123_456, 123_456] {
            stats.time(Stage::Connect, Duration::from_micros(us));
        }
        stats.refusal(421, "the banner", b"421 later\r\n");
        stats.broken(BreakKind::Reset, "gone");
        stats.reply(220);
        stats.connections = 3;
        stats.tls.insert("TLSv1.3".to_owned(), 2);
        let text = serde_json::to_string(&stats.pack()).expect("serializes");
        let there = Stats::unpack(serde_json::from_str(&text).expect("parses"));
        assert_eq!(there.pack(), stats.pack());
        let (here, there) = (stats.stage(Stage::Connect), there.stage(Stage::Connect));
        assert_eq!((here.len(), here.max()), (there.len(), there.max()));
    }
}
