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
    /// To a next hop that does not answer, so that it waits.
    Nobody,
}

/// What a server is to be, where it isn't the usual one: on all cores, with the limits that are the default.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Where its mail goes.
    pub(crate) target: Target,
    /// The CPUs it runs on; empty for all.
    pub(crate) cores: Vec<usize>,
    /// Connections that each of its cores may hold, and as many messages; none for the default.
    pub(crate) connections: Option<u64>,
}

impl Setting {
    /// The usual server.
    pub(crate) fn usual(target: Target) -> Self {
        Setting { target, cores: Vec::new(), connections: None }
    }
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
    /// The socket that commands talk to.
    pub(crate) socket: PathBuf,
    /// The certificate that it made for itself, and its key.
    pub(crate) certificate: (PathBuf, PathBuf),
}

/// Builds server and load tester as they are shipped.
pub(crate) fn build(workspace: &Workspace) -> Result<Binaries> {
    let arguments = ["build", "--release", "--package", "ringpost", "--package", "ringpost-load"];
    process::run(workspace.cargo().args(arguments))?;
    Ok(Binaries::in_folder(&workspace.target_directory().join("release")))
}

impl Binaries {
    /// Those that lie in a folder.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Binaries { ringpost: folder.join("ringpost"), load: folder.join("ringpost-load") }
    }
}

impl Ringpost {
    /// Starts a server whose files are all in `folder`, and waits until it is ready.
    pub(crate) fn start(binary: &Path, folder: &Path, target: Target) -> Result<Self> {
        Self::start_as(binary, folder, &Setting::usual(target))
    }

    /// The same for one that isn't the usual one.
    pub(crate) fn start_as(binary: &Path, folder: &Path, setting: &Setting) -> Result<Self> {
        Self::start_with(binary, folder, setting, READY_PATIENCE)
    }

    /// The same for one that may take longer.
    pub(crate) fn start_within(binary: &Path, folder: &Path, target: Target, patience: Duration) -> Result<Self> {
        Self::start_with(binary, folder, &Setting::usual(target), patience)
    }

    fn start_with(binary: &Path, folder: &Path, setting: &Setting, patience: Duration) -> Result<Self> {
        let (smtp, admin) = (throwaway::free_address()?, throwaway::free_address()?);
        let mail = folder.join("mail");
        std::fs::create_dir_all(&mail)?;
        let config = folder.join("ringpost.toml");
        std::fs::write(&config, configuration(folder, smtp, admin, setting))?;
        let log = folder.join("ringpost.log");
        let output = File::create(&log).context("cannot make the log file")?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--config").arg(&config).current_dir(folder);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = Guarded::spawn(&mut command, "ringpost")?;
        let tls = folder.join("state/tls");
        let certificate = (tls.join("self-signed.crt"), tls.join("self-signed.key"));
        let socket = folder.join("state/ringpost.sock");
        let mut server = Ringpost { child, log, smtp, admin, mail, socket, certificate };
        server.wait_until_ready(patience)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, patience: Duration) -> Result<()> {
        let outcome = process::wait_until(patience, || match self.child.ended() {
            Ok(None) if matches!(http::get(self.admin, "/readyz"), Ok((200, _))) => Some(Ok(())),
            Ok(None) => None,
            Ok(Some(status)) => Some(Err(format!("ended at once with {status}"))),
            Err(error) => Some(Err(format!("{error:#}"))),
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => bail!("the server {error}; its log:\n{}", self.last_lines()),
            None => bail!("the server isn't ready after {patience:?}; its log:\n{}", self.last_lines()),
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

    /// The connections that each of its cores holds at most, if it said that the limit on open files allows no more.
    pub(crate) fn connections_per_core(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().find_map(said_connections)
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The number in the line of the log that says how few connections a core gets.
fn said_connections(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?["connections_per_core"].as_u64()
}

fn configuration(folder: &Path, smtp: SocketAddr, admin: SocketAddr, setting: &Setting) -> String {
    let folder = folder.display();
    let target = match setting.target {
        Target::Maildir => format!("kind = \"maildir\"\npath = \"{folder}/mail/{{domain}}\""),
        Target::Discard => "kind = \"discard\"".to_owned(),
        // Port 9 is that of the discard protocol, which no mail server listens at.
        Target::Nobody => "kind = \"smtp\"\nhosts = [\"127.0.0.1:9\"]".to_owned(),
    };
    let cores = match setting.cores.as_slice() {
        [] => String::new(),
        cores => format!("[cores]\nuse = {cores:?}\n\n"),
    };
    let limits = match setting.connections {
        None => String::new(),
        Some(count) => format!("[cores.limits]\nconnections = {count}\nmessages_in_flight = {count}\n\n"),
    };
    format!(
        "[server]\nhostname = \"mx.example.com\"\nstate_dir = \"{folder}/state\"\n\n\
         {cores}{limits}\
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
        for target in [Target::Maildir, Target::Discard, Target::Nobody] {
            let text = configuration(Path::new("/tmp/x"), address, address, &Setting::usual(target));
            let file: toml_edit::DocumentMut = text.parse().expect("is TOML");
            assert_eq!(file["server"]["hostname"].as_str(), Some("mx.example.com"));
            let kind = match target {
                Target::Maildir => "maildir",
                Target::Discard => "discard",
                Target::Nobody => "smtp",
            };
            assert!(text.contains(&format!("kind = \"{kind}\"")));
        }
        let mut setting = Setting::usual(Target::Maildir);
        let text = configuration(Path::new("/tmp/x"), address, address, &setting);
        assert!(text.contains("path = \"/tmp/x/mail/{domain}\""));
        (setting.cores, setting.connections) = (vec![0, 1], Some(50_000));
        let text = configuration(Path::new("/tmp/x"), address, address, &setting);
        let file: toml_edit::DocumentMut = text.parse().expect("is TOML");
        assert_eq!(file["cores"]["use"].as_array().map(toml_edit::Array::len), Some(2));
        assert_eq!(file["cores"]["limits"]["connections"].as_integer(), Some(50_000));
    }

    #[test]
    fn the_room_of_a_server_is_in_its_log() {
        let line = r#"{"level":"WARN","message":"the limit on open files ...","connections_per_core":9112}"#;
        assert_eq!(said_connections(line), Some(9112));
        assert_eq!(said_connections(r#"{"message":"ready","cores":2}"#), None);
        assert_eq!(said_connections("text"), None);
    }
}
