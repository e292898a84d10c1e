//! A Postfix of one's own to compare with: private configuration, queue and mail folder, Debian's defaults otherwise.
//!
//! Its queue files are synced before 250, as Debian ships it. What differs from a fresh installation: no chroot, a
//! self-signed certificate, a log file, and where the mail of example.com goes. Its logger writes for every message and
//! would be the system's on a real machine, so its CPU time isn't counted.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::subject::Subject;
use crate::server::Target;
use crate::{proc, process, smtp_probe, throwaway};

/// How long it may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// Queues that hold mail not yet delivered, below the queue directory.
const QUEUES: [&str; 4] = ["maildrop", "incoming", "active", "deferred"];

/// The daemon whose CPU time isn't counted, as the kernel names it.
const LOGGER: &str = "postlogd";

/// The services a Postfix needs; none of them in a chroot. The logger never ends, so that its CPU time stays its own.
const SERVICES: &str = "\
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd -o max_idle=100000s -o max_use=1000000000
";

/// A running Postfix.
pub(crate) struct Postfix {
    configuration: PathBuf,
    queue: PathBuf,
    mail: PathBuf,
    log: PathBuf,
    smtp: SocketAddr,
    master: u32,
}

impl Postfix {
    /// Starts one whose files are all below `folder`, and waits for its banner.
    pub(crate) fn start(folder: &Path, target: Target) -> Result<Self> {
        if !process::is_root() {
            bail!("a Postfix can only be started by root: run this as root, or without --against");
        }
        let program =
            |name| process::find_program(name).with_context(|| format!("{name} is missing: apt-get install {name}"));
        let (postfix, openssl) = (program("postfix")?, program("openssl")?);
        let home = folder.join("postfix");
        let configuration = home.join("conf");
        let (queue, data, mail) = (home.join("queue"), home.join("data"), home.join("mail"));
        for folder in [&configuration, &queue, &data, &mail] {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
        }
        // Its daemons change to users of their own, who must get in here.
        for folder in [folder, &home] {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
        }
        process::run(Command::new("chown").arg("postfix").arg(&data))?;
        process::run(Command::new("chown").arg("nobody").arg(&mail))?;
        make_certificate(&openssl, &home)?;
        let smtp = throwaway::free_address()?;
        std::fs::write(configuration.join("main.cf"), main_cf(&home, target))?;
        let listener = format!("{smtp} inet n - n - - smtpd\n{SERVICES}");
        std::fs::write(configuration.join("master.cf"), listener)?;
        start(&postfix, &configuration)?;
        let log = home.join("log");
        let mut server = Postfix { configuration, queue, mail, log, smtp, master: 0 };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let file = self.queue.join("pid/master.pid");
        let ready = process::wait_until(PATIENCE, || {
            let text = std::fs::read_to_string(&file).ok()?;
            self.master = text.trim().parse().ok()?;
            smtp_probe::banner(self.smtp).filter(|banner| banner.starts_with("220"))
        });
        if self.master != 0 {
            process::remember_process(self.master);
        }
        match ready {
            Some(_) => Ok(()),
            None => {
                bail!("Postfix doesn't answer; its log:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default())
            }
        }
    }

    fn end(&mut self) {
        let family = proc::family(self.master);
        if let Some(postfix) = process::find_program("postfix") {
            let mut command = Command::new(postfix);
            command.arg("-c").arg(&self.configuration).arg("abort").stdout(Stdio::null()).stderr(Stdio::null());
            let _ = process::succeeds(&mut command);
        }
        let gone = |id: &u32| !proc::is_alive(*id);
        let ended = process::wait_until(PATIENCE, || family.iter().all(gone).then_some(()));
        if ended.is_none() {
            family.iter().for_each(|id| process::send(*id, Signal::KILL));
        }
        process::forget_process(self.master);
    }
}

impl Subject for Postfix {
    fn name(&self) -> &'static str {
        "postfix"
    }

    fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// From one address, whose name is in /etc/hosts: it looks up the name of each, and is not to be slowed down by that.
    fn sources(&self) -> String {
        String::new()
    }

    fn mail(&self) -> &Path {
        &self.mail
    }

    fn cpu_ms(&self) -> Result<f64> {
        let processes = proc::family(self.master).into_iter().filter_map(proc::times);
        let counted = processes.filter(|times| times.name != LOGGER);
        Ok(counted.map(|times| times.own_ms + times.children_ms).sum())
    }

    fn is_drained(&self) -> Result<bool> {
        Ok(QUEUES.iter().all(|queue| proc::count_files(&self.queue.join(queue)) == 0))
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.end();
        self.master = 0;
        Ok(())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if self.master != 0 {
            self.end();
        }
    }
}

fn start(postfix: &Path, configuration: &Path) -> Result<()> {
    let mut command = Command::new(postfix);
    command.arg("-c").arg(configuration).arg("start").stdin(Stdio::null()).stdout(Stdio::null());
    // Its daemons keep the descriptors that they are born with, so they must not get a pipe of ours.
    let notes = configuration.join("start.log");
    command.stderr(std::fs::File::create(&notes)?);
    if !process::succeeds(&mut command)? {
        bail!("postfix start failed: {}", std::fs::read_to_string(&notes).unwrap_or_default().trim());
    }
    Ok(())
}

fn make_certificate(openssl: &Path, home: &Path) -> Result<()> {
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=postfix.example.com"]).arg("-keyout").arg(home.join("key.pem"));
    command.arg("-out").arg(home.join("cert.pem")).stderr(Stdio::null());
    process::run(&mut command)
}

fn main_cf(home: &Path, target: Target) -> String {
    let home = home.display();
    let delivery = match target {
        // Queued and synced as any mail, then taken by the transport that throws it away.
        Target::Discard => "relay_domains = example.com\nrelay_transport = discard:\n".to_owned(),
        Target::Nobody => "relay_domains = example.com\nrelay_transport = smtp:[127.0.0.1]:9\n".to_owned(),
        // One Maildir for the domain, as ringpost's target is set up.
        Target::Maildir => format!(
            "virtual_mailbox_domains = example.com\nvirtual_mailbox_base = {home}/mail\n\
             virtual_mailbox_maps = static:example.com/\nvirtual_uid_maps = static:65534\n\
             virtual_gid_maps = static:65534\n"
        ),
    };
    format!(
        "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
         maillog_file = {home}/log\nmaillog_file_prefixes = {home}\nmyhostname = postfix.example.com\n\
         mydestination =\nmynetworks = 127.0.0.0/8\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
         alias_maps =\nalias_database =\nbiff = no\nsmtpd_tls_security_level = may\n\
         smtpd_tls_cert_file = {home}/cert.pem\nsmtpd_tls_key_file = {home}/key.pem\n{delivery}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_targets_sync_the_queue_as_shipped() {
        for target in [Target::Discard, Target::Maildir] {
            let text = main_cf(Path::new("/tmp/x"), target);
            assert!(!text.contains("fsync") && text.contains("queue_directory = /tmp/x/queue\n"));
            assert!(text.lines().all(|line| line.contains(" =")));
        }
        assert!(SERVICES.lines().all(|line| line.split_whitespace().count() >= 8));
    }

    /// The real thing takes mail on a machine that has it, and leaves nothing behind.
    #[test]
    fn a_real_postfix_takes_mail_and_goes() {
        let Some(source) = process::find_program("smtp-source").filter(|_| process::is_root()) else {
            eprintln!("not tested: it takes root and Debian's postfix");
            return;
        };
        for (target, files) in [(Target::Discard, 0), (Target::Maildir, 100)] {
            let folder = throwaway::Folder::new(None).expect("a folder");
            let server = Box::new(Postfix::start(folder.path(), target).expect("Postfix starts"));
            let (before, family) = (server.cpu_ms().expect("has CPU time"), proc::family(server.master));
            assert!(family.len() > 2, "{family:?}");
            let mut load = Command::new(&source);
            load.args(["-s", "5", "-m", "100", "-l", "4096", "-f", "a@example.org", "-t", "b@example.com"]);
            assert!(process::succeeds(load.arg(server.smtp.to_string())).expect("smtp-source runs"));
            super::super::subject::wait_until_drained(server.as_ref()).expect("is drained");
            assert_eq!(proc::count_files(server.mail()), files, "{target:?}");
            assert!(server.cpu_ms().expect("has CPU time") > before);
            Subject::stop(server).expect("stops");
            assert!(family.iter().all(|id| !proc::is_alive(*id)), "{target:?}: something stayed");
        }
    }
}
