//! A real unbound that knows what a test tells it, asks nobody else, and is stopped when it goes.

use super::net::own_address;
use super::programs::{Guarded, program};
use super::{eventually, wait_until};
use std::fmt::Write;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The name that is there in every zone, to see that the server is up.
const PROBE: &str = "probe.up.example";

/// What an unbound is to know: a config file to be.
#[derive(Clone, Default)]
pub(crate) struct Names {
    data: String,
    zones: String,
}

impl Names {
    /// A record in master-file form, such as `mail.example.org A 192.0.2.1`. All other names of its kind do not exist.
    pub(crate) fn record(mut self, record: &str) -> Self {
        // A String takes everything.
        let _ = writeln!(self.data, "  local-data: \"{record}\"");
        self
    }

    /// An address, on a list, with an answer.
    pub(crate) fn listed(self, zone: &str, address: impl Into<IpAddr>, answer: &str) -> Self {
        self.record(&format!("{}.{zone} A {answer}", reversed(address.into())))
    }

    /// The name that an address has.
    pub(crate) fn pointer(self, address: Ipv4Addr, name: &str) -> Self {
        self.record(&format!("{}.in-addr.arpa PTR {name}", reversed(address.into())))
    }

    /// A zone whose servers never answer.
    pub(crate) fn dead(mut self, zone: &str, servers: &Silent) -> Self {
        let _ = writeln!(self.data, "  local-zone: \"{zone}\" transparent");
        let at = format!("{}@{}", servers.address.ip(), servers.address.port());
        let _ = write!(self.zones, "forward-zone:\n  name: \"{zone}\"\n  forward-addr: {at}\n");
        self
    }
}

/// An address as it stands in names: RFC 5782 section 2.1, RFC 5782 section 2.4.
fn reversed(address: IpAddr) -> String {
    let parts: Vec<String> = match address {
        IpAddr::V4(address) => address.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect()
        }
    };
    parts.join(".")
}

/// A running unbound.
pub(crate) struct Unbound {
    folder: TempDir,
    _child: Guarded,
    /// Where it answers.
    pub(crate) address: SocketAddr,
}

impl Unbound {
    pub(crate) fn start(names: &Names) -> Self {
        let ip = own_address();
        let address = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).expect("a free port");
        Self::start_at(address, names)
    }

    /// The same at an address of the test's choice.
    pub(crate) fn start_at(address: SocketAddr, names: &Names) -> Self {
        let folder = tempfile::Builder::new().prefix("ringpost-test-").tempdir().expect("a folder");
        let config = folder.path().join("unbound.conf");
        fs::write(&config, file(address, names)).expect("written");
        let output = File::create(folder.path().join("log")).expect("a file");
        let mut command = Command::new(program("unbound", "unbound"));
        command.arg("-d").arg("-c").arg(&config).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a copy")).stderr(output);
        let unbound = Self { _child: Guarded::spawn(&mut command), folder, address };
        let up = eventually(|| unbound.answers().then_some(()));
        assert!(up.is_some(), "unbound does not answer; its log:\n{}", unbound.log());
        unbound
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Whether it answers a question, put together by hand (RFC 1035 section 4.1).
    fn answers(&self) -> bool {
        let mut question = vec![0x52, 0x50, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in PROBE.split('.') {
            question.push(label.len() as u8);
            question.extend(label.bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let ask = || -> std::io::Result<usize> {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.connect(self.address)?;
            socket.send(&question)?;
            socket.recv(&mut [0; 512])
        };
        ask().is_ok()
    }

    /// The server as a line of `[dns]`.
    pub(crate) fn servers(&self) -> String {
        format!("servers = [\"{}\"]", self.address)
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of unbound:\n{}", self.log());
        }
    }
}

fn file(address: SocketAddr, names: &Names) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "server:\n  interface: {ip}\n  port: {port}\n  access-control: 127.0.0.0/8 allow\n  \
         access-control: 192.0.2.0/24 allow\n  do-daemonize: no\n  \
         chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  verbosity: 1\n  do-ip6: no\n  \
         num-threads: 1\n  module-config: \"iterator\"\n  do-not-query-localhost: no\n  \
         local-zone: \".\" static\n  local-zone: \"in-addr.arpa\" static\n  local-data: \"{PROBE} A 192.0.2.1\"\n\
         {}remote-control:\n  control-enable: no\n{}",
        names.data, names.zones
    )
}

/// A name server that hears and never answers.
pub(crate) struct Silent {
    pub(crate) address: SocketAddr,
    heard: Arc<AtomicUsize>,
}

impl Silent {
    /// One that listens until the test's process ends.
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind((own_address(), 0)).expect("a free port");
        let address = socket.local_addr().expect("bound");
        let heard = Arc::new(AtomicUsize::new(0));
        let count = heard.clone();
        std::thread::spawn(move || {
            while socket.recv(&mut [0; 1500]).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, heard }
    }

    /// Questions that it was asked.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }

    /// Waits until it was asked something.
    pub(crate) fn wait_until_asked(&self) {
        wait_until("a question to the server that keeps silent", || self.heard() > 0);
    }
}
