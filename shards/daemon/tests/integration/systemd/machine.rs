//! A systemd of the test's own, as process 1 of namespaces, with the shipped units and no others.

use crate::support::net::own_address;
use crate::support::programs::{Finished, Guarded, program, run};
use crate::support::server::BINARY;
use crate::support::settings::Settings;
use crate::support::{eventually, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/systemd/machine.sh");

/// The units, as they are shipped.
pub(super) const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd");

/// The first systemd that knows Type=notify-reload.
pub(super) const NOTIFY_RELOAD: u32 = 253;

/// The user of the service, whom the test's own /etc knows.
pub(super) const USER: u32 = 64990;

/// What the units ask for, which here has nothing to do.
const TARGETS: [&str; 9] =
    ["basic", "multi-user", "network-online", "paths", "shutdown", "slices", "sockets", "sysinit", "time-sync"];

/// The version of the installed systemd.
pub(crate) fn version() -> u32 {
    let told = run(Command::new(program("systemctl", "systemd")).arg("--version"), "").ok().out;
    let number = told.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no version: {told}"))
}

/// The running systemd.
pub(super) struct Machine {
    folder: TempDir,
    control_group: PathBuf,
    /// Process 1, as the machine that the test runs on sees it.
    init: String,
    unshare: Option<Guarded>,
    pub(super) smtp: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Machine {
    /// Starts it. Nothing where it is not allowed, which is said.
    pub(super) fn start() -> Option<Self> {
        match Self::try_start() {
            Ok(machine) => Some(machine),
            Err(reason) => {
                eprintln!("skipped, no systemd can be started here: {reason}");
                None
            }
        }
    }

    fn try_start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make its namespaces".to_owned());
        }
        let probe =
            run(Command::new(program("unshare", "util-linux")).args(["--pid", "--mount", "--fork", "true"]), "");
        if !probe.status.success() {
            return Err(format!("no namespaces: {}", probe.err));
        }
        let control_group = make_control_group()?;
        let folder = tempfile::Builder::new().prefix("ringpost-systemd-").tempdir().expect("a folder");
        prepare(folder.path());
        let file = fs::File::create(folder.path().join("err")).expect("a file");
        let mut command = Command::new(program("unshare", "util-linux"));
        command.args(["--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child", "sh", SCRIPT]);
        command.arg(folder.path()).arg(&control_group).arg(BINARY).stdin(Stdio::null()).stderr(file);
        let unshare = Guarded::spawn(&mut command);
        let address = own_address();
        let mut machine = Self {
            folder,
            control_group,
            init: String::new(),
            unshare: Some(unshare),
            smtp: (address, 25).into(),
            admin: (address, 8025).into(),
        };
        machine.wait_until_up().map(|()| machine)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let unshare = self.unshare.as_mut().expect("it was started");
        let id = unshare.0.id().to_string();
        let pgrep = program("pgrep", "procps");
        let up = eventually(|| {
            if let Some(status) = unshare.0.try_wait().expect("a child can be waited for") {
                return Some(Err(status));
            }
            self.init = run(Command::new(&pgrep).args(["-P", &id]), "").out.trim().to_owned();
            let told = (!self.init.is_empty()).then(|| inside(&self.init, &["systemctl", "is-system-running"]))?;
            matches!(told.out.trim(), "running" | "degraded").then_some(Ok(()))
        });
        let told = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        match up {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => Err(format!("{status}: {}{}", told("err"), told("console"))),
            None => Err(format!("it does not come up: {}{}", told("err"), told("console"))),
        }
    }

    /// A file as the service sees it below /etc or /var/lib.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        let inner = path.strip_prefix("/var/lib").map(|rest| format!("var-lib{rest}"));
        let inner = inner.unwrap_or_else(|| path.trim_start_matches('/').to_owned());
        self.folder.path().join(inner)
    }

    /// Writes the config file.
    pub(super) fn configure(&self, settings: &Settings) {
        let text = settings.render(Path::new("/var/lib/ringpost"), &[self.smtp], self.admin);
        fs::write(self.path("/etc/ringpost/ringpost.toml"), text).expect("written");
    }

    /// Installs a shipped drop-in, or one of the test's own.
    pub(super) fn drop_in(&self, unit: &str, name: &str, text: Option<&str>) {
        let folder = self.path(&format!("/etc/systemd/system/{unit}.d"));
        fs::create_dir_all(&folder).expect("made");
        let shipped = || fs::read_to_string(format!("{UNITS}/drop-ins/{name}")).expect("a drop-in");
        fs::write(folder.join(name), text.map_or_else(shipped, str::to_owned)).expect("written");
        self.control(&["daemon-reload"]).ok();
    }

    /// Runs a program beside the service, as root.
    pub(super) fn inside(&self, words: &[&str]) -> Finished {
        inside(&self.init, words)
    }

    /// Runs systemctl.
    pub(super) fn control(&self, arguments: &[&str]) -> Finished {
        self.inside(&[&["systemctl"], arguments].concat())
    }

    /// A property of the service.
    pub(super) fn property(&self, name: &str) -> String {
        self.control(&["show", "--value", "-p", name, "ringpost.service"]).ok().out.trim().to_owned()
    }

    #[track_caller]
    pub(super) fn wait_for_property(&self, name: &str, value: &str) {
        wait_until(&format!("{name} is {value}"), || self.property(name) == value);
    }

    /// What the service has written, over all its starts.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("/var/lib/log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = fs::read_to_string(self.folder.path().join("console")).unwrap_or_default();
            let status = self.control(&["status", "--no-pager", "--full", "ringpost"]).all();
            eprintln!("--- systemd:\n{console}\n{status}\n--- the service:\n{}", self.log());
        }
        // With its process 1 everything of the namespace ends.
        self.unshare = None;
        let _ = eventually(|| remove_control_group(&self.control_group).then_some(()));
    }
}

fn inside(init: &str, words: &[&str]) -> Finished {
    let mut command = Command::new(program("nsenter", "util-linux"));
    run(command.args(["-t", init, "-m", "-p", "-u", "-i", "--"]).args(words), "")
}

/// A control group below none of the machine's own.
fn make_control_group() -> Result<PathBuf, String> {
    let find = ["-n", "-t", "cgroup2", "-o", "TARGET"];
    let found = run(Command::new(program("findmnt", "util-linux")).args(find), "").out;
    let Some(root) = found.lines().next() else { return Err("no unified control groups are mounted".to_owned()) };
    let made = tempfile::Builder::new().prefix("ringpost-test-").tempdir_in(root);
    made.map(TempDir::keep).map_err(|error| format!("no control group can be made: {error}"))
}

/// Whether it is gone, with those in it.
fn remove_control_group(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_control_group(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok() || !path.exists()
}

/// What the machine finds as /etc and /var/lib.
fn prepare(folder: &Path) {
    for name in ["bin", "var-lib"] {
        fs::create_dir(folder.join(name)).expect("made");
    }
    for name in ["console", "bin/ringpost"] {
        fs::write(folder.join(name), "").expect("written");
    }
    let etc = folder.join("etc");
    run(Command::new("cp").args(["-a", "/etc"]).arg(&etc), "").ok();
    let units = etc.join("systemd/system");
    fs::remove_dir_all(&units).expect("removed");
    for folder in [&units, &units.join("ringpost.service.d"), &etc.join("ringpost")] {
        fs::create_dir_all(folder).expect("made");
    }
    append(&etc.join("passwd"), &format!("ringpost:x:{USER}:{USER}::/var/lib/ringpost:/usr/sbin/nologin\n"));
    append(&etc.join("group"), &format!("ringpost:x:{USER}:\n"));
    for target in TARGETS {
        let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
        fs::write(units.join(format!("{target}.target")), text).expect("written");
    }
    fs::write(units.join("test.target"), "[Unit]\nDefaultDependencies=no\n").expect("written");
    for name in ["ringpost.service", "ringpost.socket"] {
        fs::copy(format!("{UNITS}/{name}"), units.join(name)).expect("copied");
    }
    // There is no journal here.
    let log = "[Service]\nStandardOutput=append:/var/lib/log\nStandardError=append:/var/lib/log\n";
    fs::write(units.join("ringpost.service.d/log.conf"), log).expect("written");
    if version() < NOTIFY_RELOAD {
        let name = "before-253.conf";
        fs::copy(format!("{UNITS}/drop-ins/{name}"), units.join("ringpost.service.d").join(name)).expect("copied");
    }
}

fn append(path: &Path, line: &str) {
    let text = fs::read_to_string(path).expect("text");
    fs::write(path, format!("{}\n{line}", text.trim_end())).expect("written");
}
