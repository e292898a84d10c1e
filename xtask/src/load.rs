//! Runs of `ringpost-load`, and what they report.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::throwaway::Folder;

/// What a run reported.
pub(crate) struct Report(Value);

impl Report {
    /// Messages answered 250.
    pub(crate) fn acknowledged(&self) -> Result<f64> {
        self.number("/result/counts/acknowledged")
    }

    /// Messages answered 250, a second.
    pub(crate) fn rate(&self) -> Result<f64> {
        self.number("/result/messages_per_second")
    }

    /// 99th percentile of the time from the end of the mail data to its reply, in milliseconds.
    pub(crate) fn data_p99_ms(&self) -> Result<f64> {
        Ok(self.number("/result/stages/data/p99_us")? / 1000.0)
    }

    /// Growth of the server's resident memory for each idle session, in bytes.
    pub(crate) fn bytes_a_session(&self) -> Result<f64> {
        self.number("/result/server_rss_bytes_per_session")
    }

    fn number(&self, place: &str) -> Result<f64> {
        let value = self.0.pointer(place).and_then(Value::as_f64);
        value.with_context(|| format!("ringpost-load's record has no number at {place}"))
    }
}

/// Runs the load tester with `arguments` against `to` and reads its record. Its own table isn't shown; when it fails,
/// what it printed is the error.
pub(crate) fn run(load: &Path, subcommand: &str, to: SocketAddr, arguments: &[String]) -> Result<Report> {
    let records = Folder::new(None)?;
    let mut command = Command::new(load);
    command.arg(subcommand).args(["--to", &to.to_string(), "--quiet", "--json"]).arg(records.path()).args(arguments);
    let output = command.stdin(Stdio::null()).output().context("cannot start ringpost-load")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "ringpost-load {subcommand} {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&said).trim()
        );
    }
    let entry = std::fs::read_dir(records.path())?.next().context("ringpost-load wrote no record")??;
    let text = std::fs::read_to_string(entry.path())?;
    Ok(Report(serde_json::from_str(&text).context("ringpost-load's record")?))
}

/// Runs the load tester and shows what it prints.
pub(crate) fn show(load: &Path, to: SocketAddr, arguments: &[String]) -> Result<()> {
    let mut command = Command::new(load);
    command.args(["run", "--no-json", "--to", &to.to_string()]).args(arguments);
    process::run(&mut command)
}

/// A command line, split at spaces.
pub(crate) fn arguments(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
