//! Runs of `ringpost-load`, and what they report.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{self, Guarded};
use crate::throwaway::Folder;

/// How long a run may take to end once it is told to: tens of thousands of sessions take their leave.
const FINISH_PATIENCE: Duration = Duration::from_secs(120);

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

    /// The number at a place of the record.
    pub(crate) fn number(&self, place: &str) -> Result<f64> {
        let value = self.0.pointer(place).and_then(Value::as_f64);
        value.with_context(|| format!("ringpost-load's record has no number at {place}"))
    }

    /// The text at a place of the record.
    pub(crate) fn text(&self, place: &str) -> Result<&str> {
        let value = self.0.pointer(place).and_then(Value::as_str);
        value.with_context(|| format!("ringpost-load's record has no text at {place}"))
    }

    /// What the server said no to, and how connections broke, in words; empty if all went well.
    pub(crate) fn complaints(&self) -> String {
        let empty = Vec::new();
        let refusals = self.0.pointer("/result/refusals").and_then(Value::as_array).unwrap_or(&empty).iter();
        let refusals = refusals.map(|row| format!("{} times {} after {}", row["count"], row["code"], row["command"]));
        let breaks = self.0.pointer("/result/breaks").and_then(Value::as_object).into_iter().flatten();
        let breaks = breaks.map(|(kind, row)| format!("{} times {kind}: {}", row["count"], row["example"]));
        refusals.chain(breaks).collect::<Vec<_>>().join("; ")
    }
}

/// A run that goes on beside others; it ends with this value.
pub(crate) struct Running {
    child: Guarded,
    records: Folder,
    subcommand: String,
}

impl Running {
    /// Starts the load tester with `arguments` against `to`, and of the lowest priority, so that it takes from others
    /// beside it no more than they leave.
    pub(crate) fn start(load: &Path, subcommand: &str, to: SocketAddr, arguments: &[String]) -> Result<Self> {
        let records = Folder::new(None)?;
        // `nice` turns into the program that it starts, so the process is the load tester's own.
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(load);
        command.arg(subcommand).args(["--to", &to.to_string(), "--quiet", "--json"]).arg(records.path());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let child = Guarded::spawn(&mut command, &format!("ringpost-load {subcommand}"))?;
        Ok(Running { child, records, subcommand: subcommand.to_owned() })
    }

    /// An error if it has ended already.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.ended()? {
            None => Ok(()),
            Some(status) => bail!("ringpost-load {} ended before its time with {status}", self.subcommand),
        }
    }

    /// Ends it with what is under way, and reads its record. Whether all of it went well, the record tells.
    pub(crate) fn finish(mut self) -> Result<Report> {
        let status = self.child.stop(Signal::TERM, FINISH_PATIENCE)?;
        read_record(&self.records).with_context(|| format!("ringpost-load {} ended with {status}", self.subcommand))
    }
}

/// Runs the load tester with `arguments` against `to` and reads its record. Its own table isn't shown; when it fails,
/// what it printed is the error.
pub(crate) fn run(load: &Path, subcommand: &str, to: SocketAddr, arguments: &[String]) -> Result<Report> {
    let to = ["--to".to_owned(), to.to_string()];
    let (report, good) = run_alone(load, subcommand, &[to.as_slice(), arguments].concat())?;
    good.map(|()| report)
}

/// The same, where the command line has it all. The second part is an error when not all went well, with what the load
/// tester printed.
pub(crate) fn run_alone(load: &Path, subcommand: &str, arguments: &[String]) -> Result<(Report, Result<()>)> {
    let records = Folder::new(None)?;
    let mut command = Command::new(load);
    command.arg(subcommand).args(["--quiet", "--json"]).arg(records.path()).args(arguments);
    let output = command.stdin(Stdio::null()).output().context("cannot start ringpost-load")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let words = format!("ringpost-load {subcommand} {}: {}\n{}", arguments.join(" "), output.status, said.trim());
    let report = read_record(&records).context(words.clone())?;
    let good = if output.status.success() { Ok(()) } else { Err(anyhow!(words)) };
    Ok((report, good))
}

fn read_record(records: &Folder) -> Result<Report> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_in_words() {
        let report = |text: &str| Report(serde_json::from_str(text).expect("is JSON"));
        let some = report(
            r#"{"result":{"refusals":[{"code":421,"command":"banner","count":3}],
                "breaks":{"reset":{"count":2,"example":"gone"}}}}"#,
        );
        assert_eq!(some.complaints(), "3 times 421 after \"banner\"; 2 times reset: \"gone\"");
        assert_eq!(report(r#"{"result":{"refusals":[],"breaks":{}}}"#).complaints(), "");
        assert_eq!(report(r#"{"result":{"a":{"b":2}}}"#).number("/result/a/b").ok(), Some(2.0));
    }
}
