//! A real Debian Postfix of a test's own.

use super::eventually;
use super::net::{free_port, own_address};
use super::programs::{program, run};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The services that sending takes; none of them in a chroot.
const SERVICES: &str = "\
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
proxymap  unix  -  -  n  -     -  proxymap
proxywrite unix -  -  n  -     1  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
lmtp      unix  -  -  n  -     -  lmtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
postlog   unix-dgram n -  n  -     1  postlogd
";

/// A Postfix with private configuration, queue and log, stopped when this value goes.
pub(crate) struct Postfix {
    folder: TempDir,
    /// Where it takes mail.
    pub(crate) smtp: SocketAddr,
}

impl Postfix {
    /// Starts one that relays everything to `next`. `settings` are further lines of its main.cf.
    pub(crate) fn start(next: SocketAddr, settings: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "a Postfix can only be started by root: run this test as root");
        let folder = tempfile::Builder::new().prefix("ringpost-test-").tempdir().expect("a folder");
        let home = folder.path();
        for path in [home.to_owned(), home.join("conf"), home.join("queue"), home.join("data")] {
            fs::create_dir_all(&path).expect("made");
            // Its daemons change to a user of their own, who must get in here.
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("may be set");
        }
        run(Command::new("chown").arg("postfix").arg(home.join("data")), "").ok();
        let smtp = free_port(own_address());
        fs::write(home.join("conf/main.cf"), main_cf(home, next) + settings).expect("written");
        fs::write(home.join("conf/master.cf"), format!("{smtp} inet n - n - - smtpd\n{SERVICES}")).expect("written");
        let postfix = Self { folder, smtp };
        postfix.command("start");
        let log = || fs::read_to_string(postfix.home().join("log")).unwrap_or_default();
        let up = eventually(|| TcpStream::connect(smtp).ok());
        assert!(up.is_some(), "Postfix does not answer; its log:\n{}", log());
        postfix
    }

    pub(crate) fn home(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, what: &str) -> bool {
        let mut command = Command::new(program("postfix", "postfix"));
        command.arg("-c").arg(self.home().join("conf")).arg(what);
        // Its daemons keep what they are born with: no pipe of ours, which would then never end.
        let notes = fs::File::create(self.home().join("notes")).expect("a file");
        command.stdin(Stdio::null()).stdout(notes.try_clone().expect("a copy")).stderr(notes);
        command.status().is_ok_and(|status| status.success())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home().join("log")).unwrap_or_default()
    }

    fn master(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.home().join("queue/pid/master.pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let Some(master) = self.master() else { return };
        self.command("stop");
        let gone = eventually(|| test_kill_process(master).is_err().then_some(()));
        if gone.is_none() {
            // It is ours by its id, and did not go when it was asked to.
            let _ = kill_process(master, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("--- the log of Postfix:\n{}", self.log());
        }
    }
}

fn main_cf(home: &Path, next: SocketAddr) -> String {
    let (home, host, port) = (home.display(), next.ip(), next.port());
    format!(
        "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
         maillog_file = {home}/log\nmaillog_file_prefixes = {home}\nmyhostname = postfix.example.net\n\
         mydestination =\nmynetworks = 127.0.0.0/8\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
         alias_maps =\nalias_database =\nbiff = no\nsmtp_dns_support_level = disabled\n\
         relayhost = [{host}]:{port}\nsmtp_tls_security_level = encrypt\nsmtp_tls_loglevel = 1\n"
    )
}
