//! The command line: every option with its unit and its default.
//!
//! Parsing is all that happens here. What can only be found wrong with two options in view is checked by
//! [`RunArgs::check`], so that a run fails before it opens its first connection.

mod crowds;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

pub(crate) use crowds::{
    FloodArgs, FloodKind, HandshakesArgs, IdleArgs, PROCESSES_MAX, ProcessArgs, Share, SlowArgs, SlowStyle,
};

use crate::units::{Rate, Size, SourceRange, parse_bytes, parse_span, serialize_span, serialize_span_option};

/// Without `--messages` and `--duration`, a run takes this long.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Smaller chunks would measure nothing but their own command lines.
const CHUNK_BYTES_MIN: u64 = 1024;

/// More worker threads than this are a typing error.
const THREADS_MAX: usize = 256;

/// Loads an SMTP server, measures every stage of the dialogue, and proves what arrived.
///
/// Without a subcommand, `run` is meant.
#[derive(Debug, Parser)]
#[command(name = "ringpost-load", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  every message was acknowledged, and what was to be verified holds; every session stood, every connection went as asked
  1  messages or connections were refused or failed, sessions didn't stand, or the file of --acked or --json couldn't be
     written (with --reconnect, broken connections and 421 replies don't count)
  2  the command line is wrong, or the run couldn't start
  3  verification failed: an acknowledged message is missing, doubled or damaged, or a damaged one arrived";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sends messages, measures, and reports (the default command)
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Opens sessions, holds them idle, and reports how many stand and what they cost the server
    #[command(after_help = EXIT_CODES, mut_arg("source", also_from))]
    Idle(IdleArgs),
    /// Opens sessions that send a byte now and then, and reports how many the server bears and how it ends the others
    #[command(after_help = EXIT_CODES, mut_arg("source", also_from))]
    Slow(SlowArgs),
    /// Opens connections one after the other and sends no mail: to the end, with a reset, for the TLS handshake alone
    #[command(after_help = EXIT_CODES, mut_arg("source", also_from))]
    Flood(FloodArgs),
    /// Measures what a TLS handshake costs rustls alone, without a network and without a server, to compare one with
    #[command(after_help = EXIT_CODES)]
    Handshakes(HandshakesArgs),
    /// Checks the messages that earlier runs noted with --acked against Maildirs
    #[command(after_help = EXIT_CODES)]
    Verify(VerifyArgs),
}

#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) dial: DialArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) mail: MailArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) proof: ProofArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) record: RecordArgs,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Connections")]
pub(crate) struct DialArgs {
    /// Server to connect to, as HOST:PORT; repeatable, connections take turns
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2525")]
    pub(crate) to: Vec<String>,
    /// Local address to connect from, one, a range such as 127.0.0.2-127.0.0.9, or a network such as 127.1.0.0/16, of
    /// which neighbours in turn are far from each other; repeatable, connections take turns [default: the system's choice]
    #[arg(long, value_name = "ADDR[-ADDR]|NETWORK")]
    pub(crate) source: Vec<SourceRange>,
    /// TLS: none, after STARTTLS, or from the first byte
    #[arg(long, value_enum, default_value_t = TlsMode::Off)]
    pub(crate) tls: TlsMode,
    /// The only TLS version to offer [default: 1.2 and 1.3]
    #[arg(long, value_enum, value_name = "VERSION")]
    pub(crate) tls_version: Option<TlsVersion>,
    /// Verify the server's certificate against the roots in this PEM file [default: any certificate will do, as this is a
    /// test tool]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Name for SNI and for --ca [default: the host of --to; no SNI if that is an IP address]
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Resume TLS sessions with tickets [default: a full handshake on each connection, as from strangers]
    #[arg(long)]
    pub(crate) tls_resume: bool,
    /// Name to give in EHLO
    #[arg(long, value_name = "NAME", default_value = "ringpost-load.example.com")]
    pub(crate) ehlo: String,
    /// Longest wait for a connection, a TLS handshake, a write or a reply, each; ms, s, min or h
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span")]
    pub(crate) timeout: Duration,
    /// Worker threads, 1 to 256 [default: half the cores, but 1 or 2]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub(crate) threads: Option<usize>,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Concurrent sessions. Closed loop: each sends its next message as soon as the last one is answered. With --rate:
    /// the ceiling on concurrent sessions
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) sessions: u32,
    /// Open loop: start messages at this rate (200/s, 1000/min, 5/h), whatever the server does, and measure each from
    /// the time it was due, so that waiting for a free session counts [default: closed loop]
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<Rate>,
    /// End after this many messages [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) messages: Option<u64>,
    /// Start no message after this span (ms, s, min or h); with --messages, whichever ends first [default: 10s, or no
    /// limit if --messages is given]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span_option")]
    pub(crate) duration: Option<Duration>,
    /// Messages a connection carries before QUIT
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages_per_connection: u64,
    /// After a broken or refused connection keep trying until the end of the run, and don't count broken connections
    /// and 421 replies as a failure of the run (for crash tests). Without it, a session gives up after 10 connections
    /// in a row that couldn't be made
    #[arg(long)]
    pub(crate) reconnect: bool,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Messages")]
pub(crate) struct MailArgs {
    /// Size of a message with its headers: bytes (4096, 4KiB, 5MB; exact to a few tens of bytes) or 'mix', a mixture
    /// like real mail: 2 KiB 15%, 4 KiB 20%, 9 KiB 20%, 16 KiB 20%, 32 KiB 12%, 64 KiB 8%, 150 KiB 3%, 400 KiB 1.4%,
    /// 1 MiB 0.5%, 5 MiB 0.1%; median 9 KiB, mean 35 KiB
    #[arg(long, value_name = "BYTES|mix", default_value = "4KiB")]
    pub(crate) size: Size,
    /// Recipients of a message
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) recipients: u32,
    /// Recipient; an n in braces, as in the default, stands for a running number modulo --rcpt-spread; repeatable,
    /// recipients take turns
    #[arg(long, value_name = "ADDRESS", default_value = "user{n}@example.com")]
    pub(crate) rcpt: Vec<String>,
    /// How many numbers the n in braces runs through, from 0
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rcpt_spread: u32,
    /// Sender; empty for the null reverse-path <>
    #[arg(long, value_name = "ADDRESS", default_value = "load@example.org")]
    pub(crate) from: String,
    /// Send one command at a time, even if the server offers PIPELINING
    #[arg(long)]
    pub(crate) no_pipelining: bool,
    /// Send with BDAT (RFC 3030) in place of DATA
    #[arg(long)]
    pub(crate) bdat: bool,
    /// Largest chunk for --bdat, in bytes, at least 1KiB [default: the whole message in one]
    #[arg(long, value_name = "BYTES", requires = "bdat", value_parser = parse_bytes)]
    pub(crate) chunk_size: Option<u64>,
    /// Seed of the run's id and of its messages; two runs with one seed send the same ids [default: random]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Proof")]
pub(crate) struct ProofArgs {
    /// Append the id of every acknowledged message, one a line, to this file: before the message counts as
    /// acknowledged; flushed every 100 ms and at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) acked: Option<PathBuf>,
    /// After the run, look for every acknowledged message in the Maildirs (new and cur) at any depth below this
    /// directory; repeatable. A message must be in at least one Maildir, in none twice, and whole byte for byte
    #[arg(long, value_name = "DIR")]
    pub(crate) verify_maildir: Vec<PathBuf>,
    /// How long to wait for the last acknowledged message to arrive; ms, s, min or h
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = parse_span)]
    #[serde(serialize_with = "serialize_span")]
    pub(crate) verify_timeout: Duration,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Record")]
pub(crate) struct RecordArgs {
    /// Write one JSON file a run into this directory [default: bench-results, if there is one here]
    #[arg(long, value_name = "DIR")]
    pub(crate) json: Option<PathBuf>,
    /// Write no JSON file
    #[arg(long, conflicts_with = "json")]
    pub(crate) no_json: bool,
    /// What the server promises with its 250 (memory, fsync, ...), noted in the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) durability_label: Option<String>,
    /// The server's process id: its CPU time and memory are read from /proc before and after
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// No progress on standard error
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// File written by `run --acked`; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) acked: Vec<PathBuf>,
    /// Directory with Maildirs (new and cur) at any depth below; repeatable
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) maildir: Vec<PathBuf>,
    /// How long to wait for the last acknowledged message to arrive; ms, s, min or h
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = parse_span)]
    pub(crate) verify_timeout: Duration,
}

/// How a session comes to be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsMode {
    /// Not at all
    Off,
    /// After STARTTLS (RFC 3207)
    Starttls,
    /// From the first byte (RFC 8314)
    Implicit,
}

/// A TLS version that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum TlsVersion {
    /// RFC 5246
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    Tls13,
}

impl RunArgs {
    /// Refuses combinations that no run could make sense of.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(chunk) = self.mail.chunk_size {
            anyhow::ensure!(chunk >= CHUNK_BYTES_MIN, "--chunk-size must be at least 1KiB");
        }
        ensure_plain("--from", &self.mail.from)?;
        anyhow::ensure!(
            self.proof.verify_maildir.iter().all(|dir| dir.is_dir()),
            "--verify-maildir names something that isn't a directory"
        );
        Ok(())
    }
}

impl LoadArgs {
    /// How long messages are started, if there is an end to it.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.duration.or(if self.messages.is_none() { Some(DURATION_DEFAULT) } else { None })
    }
}

impl DialArgs {
    /// How many worker threads to start: on a small machine the server needs the cores more than its load does.
    pub(crate) fn thread_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or((cores / 2).clamp(1, 2))
    }
}

/// What is told apart from a sender's address elsewhere is called after it here too.
fn also_from(source: Arg) -> Arg {
    source.visible_alias("from")
}

/// Refuses a text that can't stand in an SMTP command.
pub(crate) fn ensure_plain(name: &str, text: &str) -> anyhow::Result<()> {
    anyhow::ensure!(is_plain(text), "{name} '{text}' has a space, a bracket or a control character in it");
    Ok(())
}

/// Whether a text can stand in an SMTP command without ending it or changing its meaning.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<' && byte != b'>')
}

fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads) if (1..=THREADS_MAX).contains(&threads) => Ok(threads),
        _ => Err(format!("'{text}' is not a number from 1 to {THREADS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// clap turns an n in braces into a line break.
    #[test]
    fn help_has_no_template_of_ours() {
        let cli = Cli::command();
        for argument in cli.get_subcommands().chain([&cli]).flat_map(clap::Command::get_arguments) {
            let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
            assert!(!help.contains('{') && !help.contains('\n'), "{help}");
        }
    }

    #[test]
    fn run_is_the_default_command() {
        let cli = Cli::try_parse_from(["ringpost-load", "--messages", "5", "--rate", "10/s"]).expect("parses");
        assert!(cli.command.is_none());
        assert_eq!(cli.run.load.messages, Some(5));
        assert_eq!(cli.run.load.duration(), None);
        let cli = Cli::try_parse_from(["ringpost-load", "run", "--sessions", "2"]).expect("parses");
        match cli.command {
            Some(Command::Run(run)) => assert_eq!(run.load.duration(), Some(DURATION_DEFAULT)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn injected_commands_are_refused() {
        for from in ["a@b>\r\nDATA", "a b@c", "<a@b>"] {
            let cli = Cli::try_parse_from(["ringpost-load", "--from", from]).expect("parses");
            assert!(cli.run.check().is_err(), "{from}");
        }
    }

    #[test]
    fn crowds_and_floods_parse() {
        for line in [
            "idle --connections 50000 --processes 3 --from 127.0.0.0/8",
            "slow --sessions 10000 --interval 3s --style data --seconds 60",
            "slow --style tls --tls implicit --duration 1min --source 127.0.0.2-127.0.0.9",
            "flood --kind reset --count 1000000 --concurrency 100 --from 127.0.1.0/24",
            "flood --kind handshake --duration 5s --rate 100/s",
            "handshakes --cert a.crt --key a.key",
        ] {
            let words = ["ringpost-load"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        let cli = Cli::try_parse_from(["ringpost-load", "slow", "--seconds", "60"]).expect("parses");
        assert!(matches!(cli.command, Some(Command::Slow(slow)) if slow.duration == Duration::from_secs(60)));
    }
}
