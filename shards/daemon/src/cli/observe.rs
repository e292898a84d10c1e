//! The options of the commands that look at a running server and change nothing.

use super::RunningServer;
use clap::Args;
use ringpost_admin::api::{AUDIT_MAX, SESSIONS_MAX};
use ringpost_base::{Network, Span};
use std::path::PathBuf;
use std::time::Duration;

/// Seconds of a profile at most, as the server has it: it keeps one thread of it busy.
const PROFILE_SECONDS_MAX: i64 = 60;

/// Frames at most; more are got by asking for no number.
const FRAMES_MAX: i64 = 1_000_000;

/// The statuses of `ringpost status`, for its help.
pub(super) const STATUS_EXITS: &str = "\
Exit status:
  0  ready
  1  the server can't be reached, or something else went wrong
  2  the command line is wrong
  3  degraded: something needs to be seen to
  4  starting or stopping";

/// The keys of `ringpost top`, for its help.
pub(super) const TOP_KEYS: &str = "\
Keys:
  q      quit, as do Escape and Ctrl-C
  p      pause, and go on
  s      sort by the next column
  +  -   look less often, look more often";

/// Of commands that only look at one thing.
#[derive(Args)]
pub(crate) struct ViewOptions {
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct TopOptions {
    /// How often to look, such as 500ms or 5s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Span,
    /// Prints one frame and ends. It comes after one interval, since rates are counted over it.
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// Prints so many frames and ends.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=FRAMES_MAX))]
    pub(crate) count: Option<u32>,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct SessionsOptions {
    /// Only of clients in this network or with this address.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) client: Option<Network>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=SESSIONS_MAX as i64))]
    pub(crate) limit: u32,
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct AuditOptions {
    /// How many entries at most, the latest ones.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=AUDIT_MAX as i64))]
    pub(crate) limit: u32,
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct ProfileOptions {
    /// The shard, by its number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) shard: u16,
    /// For how long to look.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=PROFILE_SECONDS_MAX))]
    pub(crate) seconds: u32,
    /// The file to write. It must not be there yet. "-" is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Writes a line for each stack, with how often it was seen, for other tools; not a flame graph.
    #[arg(long)]
    pub(crate) folded: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

/// Less than a tenth of a second would show the looking itself; more than an hour is not watching.
fn interval(text: &str) -> Result<Span, String> {
    let interval: Span = text.parse().map_err(|error: ringpost_base::ParseSpanError| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&interval.0) {
        Ok(interval)
    } else {
        Err("from 100ms to 1h".to_owned())
    }
}
