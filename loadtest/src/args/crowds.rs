//! The command lines of the commands that send no mail: `idle`, `slow`, `flood` and `handshakes`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{DURATION_DEFAULT, DialArgs, RecordArgs, TlsMode, TlsVersion, ensure_plain, parse_threads};
use crate::units::{Rate, parse_span, serialize_span, serialize_span_option};

/// Processes that a crowd may be spread over; with the usual limits on open files that is more than a million sessions.
pub(crate) const PROCESSES_MAX: u32 = 64;

#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct IdleArgs {
    /// Sessions to open
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) connections: u32,
    /// How long to hold them once all are open; ms, s, min or h. Longer than the server's idle timeout they will fall
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span")]
    pub(crate) hold: Duration,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) dial: DialArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) record: RecordArgs,
}

#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct SlowArgs {
    /// Sessions to open
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) sessions: u32,
    /// How long each session waits between two bytes; ms, s, min or h. The sessions are spread over the interval
    #[arg(long, value_name = "SPAN", default_value = "3s", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span")]
    pub(crate) interval: Duration,
    /// What is sent a byte at a time; with --tls inside of TLS, but for the handshake itself
    #[arg(long, value_enum, default_value_t = SlowStyle::Command)]
    pub(crate) style: SlowStyle,
    /// How long to go on once all are open; s, ms, min or h
    #[arg(long, visible_alias = "seconds", value_name = "SPAN", default_value = "30s", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span")]
    pub(crate) duration: Duration,
    /// Recipient of the message of --style data
    #[arg(long, value_name = "ADDRESS", default_value = "user0@example.com")]
    pub(crate) rcpt: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) dial: DialArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) record: RecordArgs,
}

/// What a slow client sends slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SlowStyle {
    /// Commands: NOOP after NOOP, behind an EHLO
    Command,
    /// A message without an end, behind DATA
    Data,
    /// The TLS handshake: after STARTTLS, also where --tls is off, or from the first byte
    Tls,
}

/// How a crowd is opened, and over how many processes it is spread.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Crowd")]
pub(crate) struct ProcessArgs {
    /// How many sessions may be opening or closing at one time, all threads together
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) at_once: u32,
    /// Processes to spread the sessions over, where one may not have as many open files as there are sessions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(PROCESSES_MAX)))]
    pub(crate) processes: u32,
    /// The part of the sessions that is this process's, as INDEX/COUNT; it then reports in lines of JSON on standard
    /// output, and ends with its standard input. This is how --processes starts its processes
    #[arg(long, value_name = "INDEX/COUNT", hide = true)]
    #[serde(skip)]
    pub(crate) share: Option<Share>,
}

/// One process's part of a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) index: u32,
    pub(crate) count: u32,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parsed {
            Some((index, count)) if index < count && count <= PROCESSES_MAX => Ok(Self { index, count }),
            _ => Err(format!("'{text}' is not a share; write it as 0/3")),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct FloodArgs {
    /// What each connection does
    #[arg(long, value_enum, default_value_t = FloodKind::Connect)]
    pub(crate) kind: FloodKind,
    /// End after this many connections [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Start no connection after this span (ms, s, min or h); with --count, whichever ends first [default: 10s, or no
    /// limit if --count is given]
    #[arg(long, visible_alias = "seconds", value_name = "SPAN", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span_option")]
    pub(crate) duration: Option<Duration>,
    /// Connections at one time, each followed by the next as soon as it is over. With --rate: the ceiling on them
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) concurrency: u32,
    /// Start connections at this rate (200/s, 1000/min, 5/h), whatever the server does [default: as fast as they end]
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<Rate>,
    /// NOOPs that --kind connect sends one by one before QUIT: so many round trips more
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub(crate) noops: u32,
    /// Recipient of the messages that --kind reset breaks off, or doesn't wait for the answer to
    #[arg(long, value_name = "ADDRESS", default_value = "user0@example.com")]
    pub(crate) rcpt: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) dial: DialArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) record: RecordArgs,
}

/// What the connections of a flood do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FloodKind {
    /// Take the banner, say EHLO and QUIT, and close in order
    Connect,
    /// End with RST, in turn: before the banner, after it, within a command, behind the envelope, within the message,
    /// before the answer to it, within the ClientHello, before the end of the TLS handshake
    Reset,
    /// Shake hands and close: after STARTTLS, also where --tls is off, or from the first byte; in full, without --tls-resume
    Handshake,
    /// Say EHLO and QUIT before the banner comes, and take whatever the server makes of it
    Pregreet,
}

#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct HandshakesArgs {
    /// Certificate chain of the server's side, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The only TLS version to offer [default: 1.2 and 1.3]
    #[arg(long, value_enum, value_name = "VERSION")]
    pub(crate) tls_version: Option<TlsVersion>,
    /// How long to measure; ms, s, min or h
    #[arg(long, visible_alias = "seconds", value_name = "SPAN", default_value = "5s", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span")]
    pub(crate) duration: Duration,
    /// Threads that do the same at one time, 1 to 256: as many as there are busy cores in what this is compared with
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    pub(crate) threads: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) record: RecordArgs,
}

impl SlowArgs {
    /// How to dial for it: a slow handshake needs TLS.
    pub(crate) fn dial(&self) -> DialArgs {
        with_tls(&self.dial, self.style == SlowStyle::Tls)
    }

    /// Refuses what no session could make sense of.
    pub(crate) fn check(&self) -> Result<()> {
        anyhow::ensure!(!self.interval.is_zero(), "--interval must be longer than nothing");
        ensure_plain("--rcpt", &self.rcpt)
    }
}

impl FloodArgs {
    /// How to dial for it: handshakes, and some of the places where a reset comes, need TLS.
    pub(crate) fn dial(&self) -> DialArgs {
        with_tls(&self.dial, matches!(self.kind, FloodKind::Handshake | FloodKind::Reset))
    }

    /// How long connections are started, if there is an end to it.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.duration.or(if self.count.is_none() { Some(DURATION_DEFAULT) } else { None })
    }

    /// Refuses what no connection could make sense of.
    pub(crate) fn check(&self) -> Result<()> {
        let silent = self.noops == 0 || self.kind == FloodKind::Connect;
        anyhow::ensure!(silent, "--noops goes with --kind connect");
        ensure_plain("--rcpt", &self.rcpt)
    }
}

fn with_tls(dial: &DialArgs, needed: bool) -> DialArgs {
    let tls = if needed && dial.tls == TlsMode::Off { TlsMode::Starttls } else { dial.tls };
    DialArgs { tls, ..dial.clone() }
}
