//! A server of a test's own.

use super::maildir::Maildir;
use super::metrics::Metrics;
use super::net::{free_port, http_get, listening_sockets, own_address};
use super::programs::{Finished, Guarded, run};
use super::settings::Settings;
use super::{PATIENCE, eventually, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// Lines of a log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ringpost");

/// The directories and addresses of a server, which stay the same over its restarts.
pub(crate) struct Home {
    folder: TempDir,
    /// The address of each listener.
    pub(crate) smtp: Vec<SocketAddr>,
    /// Health and metrics.
    pub(crate) admin: SocketAddr,
}

impl Home {
    pub(crate) fn new(listeners: usize) -> Self {
        let address = own_address();
        let mut all: Vec<SocketAddr> = Vec::new();
        while all.len() <= listeners {
            let free = free_port(address);
            if !all.contains(&free) {
                all.push(free);
            }
        }
        let admin = all.remove(0);
        let folder = tempfile::Builder::new().prefix("ringpost-test-").tempdir().expect("a folder");
        Self { folder, smtp: all, admin }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Writes the config file and gives its path.
    pub(crate) fn configure(&self, settings: &Settings) -> PathBuf {
        let path = self.path().join("ringpost.toml");
        fs::write(&path, settings.render(&self.state_dir(), &self.smtp, self.admin)).expect("written");
        path
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) home: Home,
    settings: Settings,
    child: Option<Guarded>,
    /// How often it was started.
    starts: usize,
}

impl Server {
    /// Starts a server and waits until it takes mail.
    pub(crate) fn start(settings: Settings) -> Self {
        Self::start_at(Home::new(settings.listener_count()), settings)
    }

    /// The same in a home that a test has prepared.
    pub(crate) fn start_at(home: Home, settings: Settings) -> Self {
        let mut server = Self { home, settings, child: None, starts: 0 };
        server.begin();
        server
    }

    fn begin(&mut self) {
        self.spawn();
        self.wait_until_up();
    }

    /// Starts it again without waiting until it takes mail.
    pub(crate) fn start_unchecked(&mut self) {
        assert!(self.child.is_none(), "it is still running");
        self.spawn();
    }

    /// Whether it says that it is ready.
    pub(crate) fn answers_ready(&self) -> bool {
        matches!(http_get(self.home.admin, "/readyz"), Ok((200, _)))
    }

    fn spawn(&mut self) {
        self.starts += 1;
        let config = self.home.configure(&self.settings);
        let file = |name: &str| File::create(self.file(name)).expect("a file for output");
        let mut command = self.settings.command(BINARY);
        command.arg("serve").arg("--config").arg(config).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(file("log")).stderr(file("err"));
        command.envs(self.settings.faults().map(|faults| ("RINGPOST_FAULTS", faults)));
        self.child = Some(Guarded::spawn(&mut command));
    }

    fn wait_until_up(&mut self) {
        let ready = eventually(|| match self.ended() {
            None => self.is_up().then_some(Ok(())),
            Some(status) => Some(Err(status)),
        });
        match ready {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("the server ended at once with {status}"),
            None => panic!("the server is not ready after {PATIENCE:?}"),
        }
    }

    fn is_up(&self) -> bool {
        let listening: usize = self.home.smtp.iter().map(|address| listening_sockets(*address)).sum();
        listening == self.settings.socket_count() && self.answers_ready()
    }

    /// The address of the first listener.
    pub(crate) fn smtp(&self) -> SocketAddr {
        self.home.smtp[0]
    }

    /// Starts it again where it was, after it has ended and its port is free.
    pub(crate) fn start_again(&mut self) {
        // A killed process is gone a moment before its io_uring, which still holds its sockets.
        let listening = |address: &SocketAddr| listening_sockets(*address) > 0;
        wait_until("the port is free", || !self.home.smtp.iter().any(listening));
        self.start_again_at_once();
    }

    /// The same without waiting for the port.
    pub(crate) fn start_again_at_once(&mut self) {
        assert!(self.child.is_none(), "it is still running");
        self.begin();
    }

    /// Lets the next start have other settings.
    pub(crate) fn change(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.settings = change(self.settings.clone());
    }

    /// Changes the config file of the running server, which it reads when it is told to.
    pub(crate) fn reconfigure(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.change(change);
        self.home.configure(&self.settings);
    }

    /// Runs a command of the binary that talks to the running server, such as `ban list`.
    pub(crate) fn tell(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.home.path().join("ringpost.toml"));
        run(command.current_dir(self.home.path()), "")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it is running").0.id()
    }

    /// The status, if it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.0.try_wait().expect("a child can be waited for"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("a signal can be sent");
    }

    /// Pulls the plug.
    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// Waits for its end after a signal.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        child.wait_for(PATIENCE).unwrap_or_else(|| panic!("the server does not end within {PATIENCE:?}"))
    }

    /// Stops it as an operator would; it must end with status 0.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    /// Where mail goes by default.
    pub(crate) fn mail(&self) -> PathBuf {
        self.home.state_dir().join("mail")
    }

    /// A Maildir, by its path below that.
    pub(crate) fn maildir(&self, path: &str) -> Maildir {
        Maildir(self.mail().join(path))
    }

    /// Makes delivery to a path below [`Server::mail`] impossible: a plain file stands there.
    pub(crate) fn block(&self, path: &str) {
        let path = self.mail().join(path);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        fs::write(path, "in the way").expect("written");
    }

    /// Makes it possible again.
    pub(crate) fn unblock(&self, path: &str) {
        fs::remove_file(self.mail().join(path)).expect("removed");
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        http_get(self.home.admin, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").1)
    }

    /// Waits until a metric, summed over the shards, has a value.
    #[track_caller]
    pub(crate) fn wait_for_metric(&self, name: &str, value: u64) {
        let mut last = None;
        let reached = eventually(|| {
            last = Some(self.metrics().total(name));
            (last == Some(value)).then_some(())
        });
        assert!(reached.is_some(), "{name} is {last:?} and not {value}");
    }

    /// Waits until everything that was accepted is settled, whoever is still connected.
    #[track_caller]
    pub(crate) fn wait_until_delivered(&self) {
        for name in ["ringpost_messages_in_flight", "ringpost_queue_messages", "ringpost_spool_backlog_bytes"] {
            self.wait_for_metric(name, 0);
        }
    }

    /// Waits until nothing is under way: no session, no message, nothing held in memory or in the spool.
    #[track_caller]
    pub(crate) fn wait_for_rest(&self) {
        for name in [
            "ringpost_sessions_open",
            "ringpost_messages_in_flight",
            "ringpost_queue_messages",
            "ringpost_queue_deferred_messages",
            "ringpost_spool_backlog_bytes",
            "ringpost_message_memory_bytes",
        ] {
            self.wait_for_metric(name, 0);
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("{name}.{}", self.starts))
    }

    /// What this start has written to standard output.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.file("log")).expect("the log is text")
    }

    /// What this start has written to standard error.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.file("err")).expect("standard error is text")
    }

    /// The log's whole lines as JSON.
    pub(crate) fn log(&self) -> Vec<serde_json::Value> {
        let text = self.log_text();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))).collect()
    }

    /// Waits for a line with this message, and for which `fits` holds.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, message: &str, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let found = || self.log().into_iter().find(|line| line["message"] == message && fits(line));
        let mut line = None;
        wait_until(&format!("a log line {message:?}"), || {
            line = found();
            line.is_some()
        });
        line.expect("was found")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child = None;
        if std::thread::panicking() {
            for name in ["log", "err"] {
                let text = fs::read_to_string(self.file(name)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                eprintln!("--- the server's {name}, start {}:\n{}", self.starts, last.join("\n"));
            }
        }
    }
}
