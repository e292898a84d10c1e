//! A real Debian Dovecot of a test's own, which takes mail by LMTP and keeps it in Maildirs.

use super::maildir::Maildir;
use super::net::{free_port, own_address};
use super::programs::{Guarded, program};
use super::{PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The user and the group `nobody`, which own the mail: Dovecot gives none to root.
const NOBODY: u32 = 65_534;

/// A Dovecot with private configuration, mail and log, stopped when this value goes.
pub(crate) struct Dovecot {
    folder: TempDir,
    child: Option<Guarded>,
    /// Where it takes mail over TCP.
    pub(crate) address: SocketAddr,
}

impl Dovecot {
    /// Starts one that keeps mail for these addresses.
    pub(crate) fn start(users: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "a Dovecot can only be started by root: run this test as root");
        let folder = tempfile::Builder::new().prefix("ringpost-test-").tempdir().expect("a folder");
        let home = folder.path();
        let open = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("may be set");
        open(home);
        for name in ["run", "state", "mail"] {
            fs::create_dir(home.join(name)).expect("made");
            open(&home.join(name));
        }
        chown(home.join("mail"), Some(NOBODY), Some(NOBODY)).expect("may be given away");
        let mut passwd = String::new();
        for user in users {
            // A String takes everything.
            let _ = writeln!(passwd, "{user}::{NOBODY}:{NOBODY}::{}/mail/{user}::", home.display());
        }
        fs::write(home.join("users"), passwd).expect("written");
        open(&home.join("users"));
        let address = free_port(own_address());
        fs::write(home.join("dovecot.conf"), config(home, address)).expect("written");
        let mut dovecot = Self { folder, child: None, address };
        dovecot.start_again();
        dovecot
    }

    /// Starts it where it was.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it is still running");
        let mut command = Command::new(program("dovecot", "dovecot-core"));
        command.arg("-F").arg("-c").arg(self.home().join("dovecot.conf"));
        // Its processes keep what they are born with: no pipe of ours, which would then never end.
        let notes = File::create(self.home().join("notes")).expect("a file");
        command.stdin(Stdio::null()).stdout(notes.try_clone().expect("a copy")).stderr(notes);
        self.child = Some(Guarded::spawn(&mut command));
        let up = eventually(|| UnixStream::connect(self.socket()).ok());
        assert!(up.is_some(), "Dovecot does not answer; its log:\n{}", self.log());
    }

    /// Stops it; it must do that in time.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let id = i32::try_from(child.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // One that has ended already can't be signalled, and need not be.
        let _ = kill_process(id, Signal::TERM);
        let ended = child.wait_for(PATIENCE).is_some();
        // Those of its processes that serve nobody are gone with it.
        assert!(ended || std::thread::panicking(), "Dovecot does not stop");
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The socket that it takes mail at.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home().join("lmtp")
    }

    /// The mail of an address.
    pub(crate) fn maildir(&self, user: &str) -> Maildir {
        Maildir(self.home().join("mail").join(user).join("Maildir"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home().join("log")).unwrap_or_default()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- the log of Dovecot:\n{}", self.log());
        }
    }
}

fn config(home: &Path, address: SocketAddr) -> String {
    let (home, ip, port) = (home.display(), address.ip(), address.port());
    format!(
        "protocols = lmtp\nbase_dir = {home}/run\nstate_dir = {home}/state\nlog_path = {home}/log\n\
         mail_location = maildir:~/Maildir\nmail_save_crlf = yes\nfirst_valid_uid = 1\nssl = no\n\
         hostname = store.example.com\npostmaster_address = postmaster@example.com\nrecipient_delimiter = +\n\
         auth_username_format = %Lu\n\
         passdb {{\n  driver = passwd-file\n  args = {home}/users\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = {home}/users\n}}\n\
         service lmtp {{\n  unix_listener {home}/lmtp {{\n    mode = 0666\n  }}\n  \
         inet_listener lmtp {{\n    address = {ip}\n    port = {port}\n  }}\n}}\n"
    )
}
