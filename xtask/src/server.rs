//! A ringpost of one's own on throw-away folders and free loopback ports, stopped when its value goes.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::process::{self, Guarded};
use crate::workspace::Workspace;
use crate::{http, throwaway};

/// How long a server may take until it says it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to drain and close.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Lines of its log that are shown when it fails.
const LOG_LINES: usize = 20;

/// Where accepted mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Into one Maildir for the domain.
    Maildir,
    /// Nowhere, once it is durable.
    Discard,
}

/// The release binaries.
pub(crate) struct Binaries {
    /// The server.
    pub(crate) ringpost: PathBuf,
    /// The load tester.
    pub(crate) load: PathBuf,
}

/// A running server.
pub(crate) struct Ringpost {
    child: Guarded,
    log: PathBuf,
    /// Its SMTP listener, with STARTTLS.
    pub(crate) smtp: SocketAddr,
    /// Health and metrics.
    pub(crate) admin: SocketAddr,
    /// The folder that its Maildirs are in.
    pub(crate) mail: PathBuf,
}

/// Builds server and load tester as they are shipped.
pub(crate) fn build(workspace: &Workspace) -> Result<Binaries> {
    let arguments = ["build", "--release", "--package", "ringpost", "--package", "ringpost-load"];
    process::run(workspace.cargo().args(arguments))?;
    let folder = workspace.target_directory().join("release");
    Ok(Binaries { ringpost: folder.join("ringpost"), load: folder.join("ringpost-load") })
}

impl Ringpost {
    /// Starts a server whose files are all in `folder`, and waits until it is ready.
    pub(crate) fn start(binary: &Path, folder: &Path, target: Target) -> Result<Self> {
        let (smtp, admin) = (throwaway::free_address()?, throwaway::free_address()?);
        let mail = folder.join("mail");
        std::fs::create_dir_all(&mail)?;
        let config = folder.join("ringpost.toml");
        std::fs::write(&config, configuration(folder, smtp, admin, target))?;
        let log = folder.join("ringpost.log");
        let output = File::create(&log).context("cannot make the log file")?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--config").arg(&config).current_dir(folder);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = Guarded::spawn(&mut command, "ringpost")?;
        let mut server = Ringpost { child, log, smtp, admin, mail };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let outcome = process::wait_until(READY_PATIENCE, || match self.child.ended() {
            Ok(None) if matches!(http::get(self.admin, "/readyz"), Ok((200, _))) => Some(Ok(())),
            Ok(None) => None,
            Ok(Some(status)) => Some(Err(format!("ended at once with {status}"))),
            Err(error) => Some(Err(format!("{error:#}"))),
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => bail!("the server {error}; its log:\n{}", self.last_lines()),
            None => bail!("the server isn't ready after {READY_PATIENCE:?}; its log:\n{}", self.last_lines()),
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as an operator would; an error when it doesn't end with status 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.child.stop(Signal::TERM, STOP_PATIENCE)?;
        if !status.success() {
            bail!("the server ended with {status}; its log:\n{}", self.last_lines());
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

fn configuration(folder: &Path, smtp: SocketAddr, admin: SocketAddr, target: Target) -> String {
    let folder = folder.display();
    let target = match target {
        Target::Maildir => format!("kind = \"maildir\"\npath = \"{folder}/mail/{{domain}}\""),
        Target::Discard => "kind = \"discard\"".to_owned(),
    };
    format!(
        "[server]\nhostname = \"mx.example.com\"\nstate_dir = \"{folder}/state\"\n\n\
         [[listener]]\nname = \"mx\"\nkind = \"mx\"\naddress = [\"{smtp}\"]\ntls = \"starttls\"\n\n\
         [[domain]]\nname = \"example.com\"\nrecipients = \"any\"\ntarget = \"local\"\n\n\
         [[target]]\nname = \"local\"\n{target}\n\n\
         [admin]\nlisten = \"{admin}\"\n\n\
         [log]\nformat = \"json\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml() {
        let address = "127.0.0.1:2525".parse().expect("is an address");
        for target in [Target::Maildir, Target::Discard] {
            let text = configuration(Path::new("/tmp/x"), address, address, target);
            let file: toml_edit::DocumentMut = text.parse().expect("is TOML");
            assert_eq!(file["server"]["hostname"].as_str(), Some("mx.example.com"));
            let kind = if target == Target::Maildir { "maildir" } else { "discard" };
            assert!(text.contains(&format!("kind = \"{kind}\"")));
        }
        let text = configuration(Path::new("/tmp/x"), address, address, Target::Maildir);
        assert!(text.contains("path = \"/tmp/x/mail/{domain}\""));
    }
}
