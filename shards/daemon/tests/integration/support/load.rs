//! The bundled load tester.

use super::programs::{Finished, run};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program, built beside the server.
fn binary() -> PathBuf {
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

/// Whether every message noted in `acked` is in the Maildirs below `mail` exactly once and whole.
#[track_caller]
pub(crate) fn verify(acked: &[PathBuf], mail: &Path) -> Finished {
    let mut command = Command::new(binary());
    command.args(["verify", "--verify-timeout", "30s", "--maildir"]).arg(mail);
    for file in acked {
        command.arg("--acked").arg(file);
    }
    run(&mut command, "").ok()
}
