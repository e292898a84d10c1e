//! The machine that a runbook is tried on: a server where the pages say it is, in namespaces of the test's own.

use super::shell::Shell;
use crate::nftables::in_own_network;
use crate::support::load::{Verified, look};
use crate::support::maildir::Maildir;
use crate::support::metrics::Metrics;
use crate::support::net::http_get;
use crate::support::programs::{Finished, Guarded, program, run};
use crate::support::server::BINARY;
use crate::support::settings::Settings;
use crate::support::{eventually, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/runbooks/stage.sh");

const SHIMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/runbooks/shims");

/// The state directory of the pages.
pub(super) const STATE_DIR: &str = "/var/lib/ringpost";

/// The number of the user of the pages, to whom files may be given; the server of the stage runs as root.
const USER: u32 = 64990;

/// The config file of the pages.
pub(super) const CONFIG: &str = "/etc/ringpost/ringpost.toml";

/// Where clients reach the server: an address that the stage's network has, with the port of the pages.
pub(super) const SMTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 25)), 25);

/// Health and metrics, as in the pages.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8025);

/// Everything that the addresses of documentation stand for is this machine: the server, its next hops, its clients.
const NETWORKS: [&str; 3] = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];

/// Lines of the log that are shown when a test fails.
const LOG_LINES: usize = 30;

/// Runs a test in a thread with a network of its own, which has these addresses.
pub(super) fn on_stage(test: impl FnOnce() + Send) {
    in_own_network(|| {
        for network in NETWORKS {
            let mut command = Command::new(program("ip", "iproute2"));
            run(command.args(["route", "add", "local", network, "dev", "lo"]), "").ok();
        }
        test();
    });
}

/// A running stage. It has to be made within [`on_stage`].
pub(super) struct Stage {
    folder: TempDir,
    settings: Settings,
    /// What it has as /var/lib, if that is a disk of its own.
    disk: Option<PathBuf>,
    /// Its first process, as the machine that the test runs on sees it.
    init: String,
    unshare: Option<Guarded>,
}

impl Stage {
    /// Sets it up, with a server that takes mail. Its /var/lib is `disk` if there is one.
    pub(super) fn start(settings: Settings, disk: Option<&Path>) -> Self {
        Self::start_with(settings, disk, |_| ())
    }

    /// The same with files that are put below /etc/ringpost before the server starts.
    pub(super) fn start_with(settings: Settings, disk: Option<&Path>, prepare: impl FnOnce(&Path)) -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root can make a stage: run this test as root");
        let folder = tempfile::Builder::new().prefix("ringpost-runbook-").tempdir().expect("a folder");
        lay_out(folder.path());
        let disk = disk.map(Path::to_owned);
        let mut stage = Self { folder, settings, disk, init: String::new(), unshare: None };
        prepare(&stage.path("/etc/ringpost"));
        stage.configure();
        let file = File::create(stage.folder.path().join("err")).expect("a file");
        let mut command = Command::new(program("unshare", "util-linux"));
        command.args(["--pid", "--mount", "--fork", "--kill-child", "sh", SCRIPT]).arg(stage.folder.path());
        command.args(&stage.disk);
        stage.unshare = Some(Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file)));
        stage.wait_until_up();
        stage.inside(&["systemctl", "start", "ringpost"]).ok();
        stage
    }

    fn wait_until_up(&mut self) {
        let id = self.unshare.as_ref().expect("it was started").0.id().to_string();
        let pgrep = program("pgrep", "procps");
        let up = eventually(|| {
            let children = run(Command::new(&pgrep).args(["-P", &id]), "").out;
            self.init = children.trim().to_owned();
            let there = !self.init.is_empty() && self.inside(&["test", "-e", "/run/stage-is-up"]).status.success();
            there.then_some(())
        });
        let told = fs::read_to_string(self.folder.path().join("err")).unwrap_or_default();
        assert!(up.is_some(), "the stage does not come up: {told}");
    }

    /// A file below /etc, /var, /tmp or /usr/local/bin of the stage.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        if let (Some(disk), Some(inner)) = (&self.disk, path.strip_prefix("/var/lib/")) {
            return disk.join(inner);
        }
        let inner = path.strip_prefix("/usr/local/").unwrap_or(path);
        self.folder.path().join(inner.trim_start_matches('/'))
    }

    /// Writes the config file.
    fn configure(&self) {
        let text = self.settings.render(Path::new(STATE_DIR), &[SMTP], ADMIN);
        let (one, both) = (format!("[\"{SMTP}\"]"), format!("[\"{SMTP}\", \"127.0.0.1:25\"]"));
        fs::write(self.path(CONFIG), text.replace(&one, &both)).expect("written");
    }

    /// Changes the config file, as with an editor. The server does not know of it yet.
    pub(super) fn edit(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.settings = change(self.settings.clone());
        self.configure();
    }

    /// Runs a program on the stage, not as part of a page.
    pub(super) fn inside(&self, words: &[&str]) -> Finished {
        run(self.entering().args(words), "")
    }

    /// The start of a program on the stage.
    fn entering(&self) -> Command {
        let mut command = Command::new(program("nsenter", "util-linux"));
        command.args(["-t", &self.init, "-m", "-p", "--", "env", "-i", "LC_ALL=C.UTF-8", "HOME=/tmp", "TERM=dumb"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(self.settings.faults().map(|faults| format!("RINGPOST_FAULTS={faults}")));
        command
    }

    /// A shell as the reader of a page has it.
    pub(super) fn shell(&self) -> Shell {
        Shell::start(self.entering(), &self.path("/tmp"))
    }

    pub(super) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").1)
    }

    pub(super) fn get(&self, path: &str) -> (u16, String) {
        http_get(ADMIN, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The state that it tells, and what it says of why.
    pub(super) fn readiness(&self) -> (String, String) {
        let (_, body) = self.get("/readyz");
        let told: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        (told["state"].as_str().unwrap_or_default().to_owned(), body)
    }

    #[track_caller]
    pub(super) fn wait_until_ready(&self) {
        let mut last = String::new();
        let ready = eventually(|| {
            let (state, body) = self.readiness();
            last = body;
            (state == "ready").then_some(())
        });
        assert!(ready.is_some(), "it is not ready: {last}");
    }

    #[track_caller]
    pub(super) fn wait_until_degraded(&self, words: &str) {
        wait_until(&format!("it is degraded because of {words:?}"), || {
            let (state, body) = self.readiness();
            state == "degraded" && body.contains(words)
        });
    }

    /// The process that holds the state directory, as the stage numbers it.
    pub(super) fn main_process(&self) -> String {
        fs::read_to_string(self.path("/var/lib/ringpost/lock")).unwrap_or_default().trim().to_owned()
    }

    /// A Maildir of a server that keeps mail where the defaults have it.
    pub(super) fn maildir(&self, path: &str) -> Maildir {
        Maildir(self.mail().join(path))
    }

    /// Where these are.
    pub(super) fn mail(&self) -> PathBuf {
        self.path("/var/lib/ringpost/mail")
    }

    /// Whether all of what a load noted as acknowledged is there once and whole.
    #[track_caller]
    pub(super) fn verify(&self, acked: &[PathBuf]) -> Verified {
        let found = eventually(|| Some(look(acked, &self.mail())).filter(|found| found.holds));
        found.unwrap_or_else(|| panic!("{}", look(acked, &self.mail()).report))
    }

    /// Waits until everything that was accepted is settled.
    #[track_caller]
    pub(super) fn wait_until_settled(&self) {
        wait_until("everything is settled", || {
            let metrics = self.metrics();
            ["ringpost_messages_in_flight", "ringpost_queue_messages"].iter().all(|name| metrics.total(name) == 0)
        });
    }

    /// Everything the server has written.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("/var/log/ringpost.log")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // With its first process everything on it ends.
        self.unshare = None;
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the server's log:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
    }
}

/// What the stage finds as /etc, /var, /tmp and /usr/local.
fn lay_out(folder: &Path) {
    for name in ["bin", "shims", "tmp", "var/backups", "var/lib", "var/log", "var/tmp"] {
        fs::create_dir_all(folder.join(name)).expect("made");
    }
    let etc = folder.join("etc");
    run(Command::new("cp").args(["-a", "/etc"]).arg(&etc), "").ok();
    fs::create_dir(etc.join("ringpost")).expect("made");
    for (file, line) in [
        ("passwd", format!("ringpost:x:{USER}:{USER}::{STATE_DIR}:/usr/sbin/nologin")),
        ("group", format!("ringpost:x:{USER}:")),
    ] {
        let text = fs::read_to_string(etc.join(file)).expect("text");
        fs::write(etc.join(file), format!("{}\n{line}\n", text.trim_end())).expect("written");
    }
    std::os::unix::fs::symlink(BINARY, folder.join("bin/ringpost")).expect("linked");
    for entry in fs::read_dir(SHIMS).expect("a folder") {
        let from = entry.expect("an entry").path();
        let to = folder.join("shims").join(from.file_name().expect("a name"));
        fs::copy(&from, &to).expect("copied");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("changed");
    }
}
