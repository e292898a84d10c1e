//! The bundled load tester.

use super::PATIENCE;
use super::programs::{Finished, Guarded, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program, built beside the server.
pub(crate) fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ringpost")).with_file_name("ringpost-load");
    assert!(path.is_file(), "{} is not there: cargo build --package ringpost-load", path.display());
    path
}

/// `ringpost-load run` against a server, quiet and without a record.
pub(crate) fn load(to: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["run", "--no-json", "--quiet", "--to", &to.to_string()]).args(arguments);
    command
}

/// A run that goes on until it is told to end. It notes what was acknowledged.
pub(crate) struct Running {
    child: Guarded,
    out: PathBuf,
    /// The ids of what was acknowledged.
    pub(crate) acked: PathBuf,
}

impl Running {
    /// Begins it; its files, which `name` tells apart, are in `folder`.
    pub(crate) fn start(to: SocketAddr, folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (out, acked) = (file("out"), file("acked"));
        let output = File::create(&out).expect("a file for output");
        let mut command = load(to, arguments);
        command.args(["--duration", "10min", "--acked"]).arg(&acked).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a second handle")).stderr(output);
        Self { child: Guarded::spawn(&mut command), out, acked }
    }

    /// Ends it, with what is under way; gives what it reports.
    pub(crate) fn stop(mut self) -> String {
        let id = i32::try_from(self.child.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, Signal::TERM).expect("a signal can be sent");
        assert!(self.child.wait_for(PATIENCE).is_some(), "the load does not end within {PATIENCE:?}");
        fs::read_to_string(&self.out).expect("a report")
    }
}

/// What a run was refused: each code with the first reply that had it.
pub(crate) fn refusals(report: &str) -> Vec<(u16, String)> {
    let rows = report.lines().skip_while(|line| !line.starts_with("  refusals ")).skip(1);
    let rows = rows.take_while(|line| !line.is_empty()).filter_map(|line| line.trim().split_once(' '));
    rows.map(|(code, rest)| (code.parse().expect("a code"), rest.trim().to_owned())).collect()
}

/// Whether every message noted in `acked` is in the Maildirs below `mail` exactly once and whole.
#[track_caller]
pub(crate) fn verify(acked: &[PathBuf], mail: &Path) -> Verified {
    let verified = look(acked, mail);
    assert!(verified.holds, "{}", verified.report);
    verified
}

/// What became of the messages noted in `acked`.
pub(crate) fn look(acked: &[PathBuf], mail: &Path) -> Verified {
    let mut command = Command::new(binary());
    command.args(["verify", "--verify-timeout", "30s", "--maildir"]).arg(mail);
    for file in acked {
        command.arg("--acked").arg(file);
    }
    Verified::read(run(&mut command, ""))
}

/// What was found in Maildirs of what was acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verified {
    pub(crate) acknowledged: u64,
    /// Acknowledged and not there.
    pub(crate) lost: u64,
    /// In some Maildir more than once.
    pub(crate) duplicated: u64,
    /// Not byte for byte what was sent.
    pub(crate) altered: u64,
    /// Messages of other runs.
    pub(crate) strangers: u64,
    /// Whether all of it is there once and whole.
    pub(crate) holds: bool,
    /// All that the program said.
    pub(crate) report: String,
}

impl Verified {
    fn read(finished: Finished) -> Self {
        let report = finished.all();
        let rows: Vec<&str> = report.lines().map(str::trim).collect();
        let count = |name: &str| {
            let row = rows.iter().find_map(|row| row.strip_prefix(name));
            row.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        };
        let must = |name: &str| count(name).unwrap_or_else(|| panic!("no {name} in {report}"));
        let (unclaimed_damaged, holds) = (count("of these").unwrap_or(0), finished.status.success());
        Self {
            acknowledged: must("acknowledged"),
            lost: must("missing"),
            duplicated: must("duplicated"),
            altered: must("damaged") + unclaimed_damaged,
            strangers: count("other files").unwrap_or(0),
            holds,
            report,
        }
    }
}
