//! The types of a config, and their defaults.
//!
//! These are plain values: whoever holds one need not know that it came from a file. What belongs to one machine of
//! `engine/` is that crate's own `Options`, kept here as it is; what belongs to the process is defined here. The
//! defaults in this file and in those `Options` are the only ones; the reader, the reference page and
//! `config/ringpost.toml` are held to them by tests.

use crate::{
    routing::{DOMAIN_NAME, Routing},
    targets::Target,
};
use ringpost_base::{ByteCount, Network, Span};
use ringpost_smtp::TlsUse;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

/// The effective config: every key has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who the server is, and where its state lives.
    pub server: Server,
    /// Which cores it runs on, and what each may hold.
    pub cores: Cores,
    /// Where it listens. Never empty when it comes from a file.
    pub listeners: Vec<Listener>,
    /// Certificates and versions.
    pub tls: Tls,
    /// Where names are looked up.
    pub dns: Dns,
    /// Maxima of the whole process, and timeouts.
    pub limits: Limits,
    /// What a session allows. Its `hostname` is `server.hostname` where that is given.
    pub smtp: ringpost_smtp::Options,
    /// The log of one core.
    pub spool: ringpost_spool::Options,
    /// What the disk is to keep free.
    pub space: Space,
    /// When deliveries are tried again.
    pub queue: ringpost_queue::Options,
    /// The domains mail is accepted for, and who may send how much to them.
    pub policy: ringpost_policy::Options,
    /// Which targets a recipient's mail goes to.
    pub routing: Routing,
    /// Where mail goes. Every target that `routing` names is one of them.
    pub targets: Vec<Target>,
    /// What is kept of recent sessions, to be asked about.
    pub explain: Explain,
    /// Health, metrics and the API.
    pub admin: Admin,
    /// When a config that is tried on one core is taken back.
    pub canary: Canary,
    /// What is logged, and how.
    pub log: Log,
    /// Traces of messages.
    pub telemetry: Telemetry,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            cores: Cores::default(),
            listeners: vec![Listener::default()],
            tls: Tls::default(),
            dns: Dns::default(),
            limits: Limits::default(),
            smtp: ringpost_smtp::Options::default(),
            spool: ringpost_spool::Options::default(),
            space: Space::default(),
            queue: ringpost_queue::Options::default(),
            policy: ringpost_policy::Options { domains: vec![domain_default()], ..Default::default() },
            routing: Routing::default(),
            targets: vec![Target::default()],
            explain: Explain::default(),
            admin: Admin::default(),
            canary: Canary::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
        }
    }
}

/// The domain of a server that nobody has configured.
pub(crate) fn domain_default() -> ringpost_policy::Domain {
    ringpost_policy::Domain { name: DOMAIN_NAME.into(), ..Default::default() }
}

impl Config {
    /// Gives the server the name it goes by, where the file leaves it to the system: in `server` and in `smtp`.
    pub fn set_hostname(&mut self, hostname: &str) {
        hostname.clone_into(&mut self.server.hostname);
        hostname.clone_into(&mut self.smtp.hostname);
    }
}

/// Who the server is, and where its state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The server's domain name. Empty: the system's host name, filled in by [`Config::set_hostname`].
    pub hostname: String,
    /// The directory of spool, self-signed certificate and relative mail paths; relative to the working directory.
    pub state_dir: String,
    /// How long sessions may finish what they are at when the server stops.
    pub drain_timeout: Span,
    /// How long a shard's thread may give no sign of life before it counts as stalled; zero: nobody looks.
    pub stall_timeout: Span,
    /// Who a server that is started as root becomes once its sockets are bound, as a name or a number. None: it stays root.
    pub user: Option<String>,
    /// Its group. None: that of the user.
    pub group: Option<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            state_dir: "ringpost-state".into(),
            drain_timeout: Span::seconds(30),
            stall_timeout: Span::seconds(5),
            user: None,
            group: None,
        }
    }
}

/// Which cores the server runs on, and what each may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// The cores in use. `use` in the file.
    pub using: CoreUse,
    /// What every core may hold that `overrides` does not name.
    pub limits: CoreLimits,
    /// What single cores may hold, in the order of the file.
    pub overrides: Vec<CoreOverride>,
}

impl Cores {
    /// What the core with this CPU number may hold.
    pub fn limits_of(&self, core: usize) -> &CoreLimits {
        self.overrides.iter().find(|entry| entry.core == core).map_or(&self.limits, |entry| &entry.limits)
    }
}

/// The cores in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreUse {
    /// Every core the process may run on.
    #[default]
    All,
    /// This many of them; the runtime picks which. Never 0.
    Count(usize),
    /// The cores with these CPU numbers, each once. Never empty.
    Ids(Vec<usize>),
}

/// What one core may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreLimits {
    /// Connections open at the same time; further ones get 421.
    pub connections: usize,
    /// Messages between MAIL and their reply at the same time; further ones get 452.
    pub messages_in_flight: usize,
    /// Bytes of messages held in memory.
    pub message_memory: ByteCount,
    /// Accepted, unsettled bytes above which MAIL gets 452.
    pub spool_backlog: ByteCount,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            messages_in_flight: 4096,
            message_memory: ByteCount::mib(256),
            spool_backlog: ByteCount::gib(8),
        }
    }
}

/// What one named core may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreOverride {
    /// The CPU's number.
    pub core: usize,
    /// Its limits; those that the override leaves out are the ones of [`Cores::limits`].
    pub limits: CoreLimits,
}

/// Where the server listens, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The name in log lines and metrics.
    pub name: String,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// The addresses; each core has a socket of its own on each.
    pub address: Vec<SocketAddr>,
    /// How TLS is used.
    pub tls: TlsUse,
    /// From where a PROXY header is required, which says the client's address; from everywhere else it is an error.
    pub proxy_from: Vec<Network>,
    /// Who may use XCLIENT, and so say of itself to be another client.
    pub xclient_from: Vec<Network>,
    /// Who may use XFORWARD, and so say whose mail it hands on.
    pub xforward_from: Vec<Network>,
    /// Whether the file asks for connections to be steered; [`Listener::is_steered`] is what counts.
    pub steer: bool,
}

impl Listener {
    /// Whether the kernel gives each connection to the core that owns its address. Behind proxies it can't: the
    /// address it sees is theirs.
    pub fn is_steered(&self) -> bool {
        self.steer && self.proxy_from.is_empty()
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: "mx".into(),
            kind: ListenerKind::Mx,
            address: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 2525))],
            tls: TlsUse::Starttls,
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
            xforward_from: Vec::new(),
            steer: true,
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenerKind {
    /// SMTP from other servers, for the domains of the config.
    #[default]
    Mx,
    /// LMTP from a mail system of one's own (RFC 2033), for the same domains: one reply for each recipient.
    Lmtp,
}

/// Certificates, versions, and who has to use TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whether mail is taken over TLS only, by every listener.
    pub required: bool,
    /// The certificates, chosen by the name a client asks for; the first where none fits. Empty: a self-signed one
    /// is made in the state directory.
    pub certificates: Vec<Certificate>,
    /// The oldest version a client may speak.
    pub min_version: TlsVersion,
    /// The weakest cipher a client may choose.
    pub min_strength: TlsStrength,
    /// Whether the key exchange that quantum computers don't break is offered.
    pub post_quantum: bool,
    /// Whether clients are asked for a certificate of theirs.
    pub client_certificates: ClientCertificates,
    /// The PEM file of the authorities that certificates of clients are verified against.
    pub client_ca: Option<String>,
    /// How long before the end of a certificate the server says so.
    pub expiry_warning: Span,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            required: false,
            certificates: Vec::new(),
            min_version: TlsVersion::default(),
            min_strength: TlsStrength::default(),
            post_quantum: true,
            client_certificates: ClientCertificates::default(),
            client_ca: None,
            expiry_warning: Span::seconds(14 * 86_400),
        }
    }
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The PEM file of the certificate, followed by its intermediates.
    pub cert: String,
    /// The PEM file of its private key.
    pub key: String,
    /// The DER file of an OCSP response, which is stapled to the certificate.
    pub ocsp: Option<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V12,
    /// TLS 1.3.
    V13,
}

/// The strength of a cipher: bits of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsStrength {
    /// AES-128 and all that is stronger.
    #[default]
    Bits128,
    /// AES-256 and ChaCha20.
    Bits256,
}

/// Whether clients are asked for a certificate of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not.
    #[default]
    Off,
    /// They are asked; what they show is logged, and nobody is refused for it.
    Ask,
}

/// Where names are looked up, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The servers, two of which are asked at a time, in turn. Empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// How long an answer is waited for, each time a server is asked.
    pub timeout: Span,
    /// How often a server is asked.
    pub attempts: u8,
    /// Answers that each core keeps.
    pub cache: usize,
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Span::seconds(1), attempts: 2, cache: 10_000 }
    }
}

/// Maxima of the whole process, and timeouts. The other keys of `[limits]` are in `smtp` and `policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a session waits for a command. RFC 5321 section 4.5.3.2.7 asks for at least 5 minutes.
    pub command_timeout: Span,
    /// How long a session waits for a further byte of a message.
    pub data_timeout: Span,
    /// How long a session may last. None (0s in the file): as long as it likes.
    pub session_timeout: Option<Span>,
    /// Connections of the whole process, split evenly among the cores. None (0 in the file): only the cores' own
    /// limits count.
    pub connections: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_timeout: Span::seconds(300),
            data_timeout: Span::seconds(300),
            session_timeout: Some(Span::seconds(3600)),
            connections: None,
        }
    }
}

/// What the disk of the state directory is to keep free. 0: that mark is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Below it the server is degraded, and says so.
    pub soft: ByteCount,
    /// Below it no mail is taken. Never more than `soft`, where both are watched.
    pub hard: ByteCount,
}

impl Default for Space {
    fn default() -> Self {
        Self { soft: ByteCount::mib(512), hard: ByteCount::mib(128) }
    }
}

/// What is kept of recent sessions, to be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explain {
    /// Bytes that each core keeps it in. 0: nothing is kept.
    pub memory: ByteCount,
}

impl Default for Explain {
    fn default() -> Self {
        Self { memory: ByteCount::mib(4) }
    }
}

/// Health, metrics and the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where health and metrics are served. None ("off" in the file): nowhere.
    pub listen: Option<SocketAddr>,
    /// The unix socket of the API, which the commands talk to; relative to the state directory. None ("off" in the
    /// file): there is none.
    pub socket: Option<String>,
    /// Who besides the server's own user and root may do everything over it: users, and groups behind an at sign.
    pub operators: Vec<String>,
    /// Who may look.
    pub readers: Vec<String>,
    /// The audit log; relative to the state directory. None ("" in the file): there is none.
    pub audit: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8025))),
            socket: Some("ringpost.sock".into()),
            operators: Vec::new(),
            readers: Vec::new(),
            audit: Some("audit.log".into()),
        }
    }
}

/// When a config that is tried on one core is taken back: how much worse than the others that core may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// By how much the share of replies that are 5xx may be higher.
    pub rejects: Share,
    /// The same for what fails or is put off.
    pub errors: Share,
    /// How many times as long replies may take.
    pub latency_factor: u32,
    /// Time that counts as none: replies that take less are never too slow.
    pub latency_min: Span,
    /// Connections or messages that the core must have had before it is judged.
    pub messages_min: u32,
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            rejects: Share(50_000),
            errors: Share(50_000),
            latency_factor: 3,
            latency_min: Span::millis(100),
            messages_min: 50,
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: LogLevel,
    /// The same for single modules, by name, in the order of the file.
    pub modules: Vec<(String, LogLevel)>,
    /// What does not show as it is, each once.
    pub redact: Vec<LogRedaction>,
    /// Lines a second of one kind that a core writes. None: any number.
    pub flood: Option<u32>,
}

impl Default for Log {
    fn default() -> Self {
        let (format, level) = (LogFormat::default(), LogLevel::default());
        Self { format, level, modules: Vec::new(), redact: Vec::new(), flood: Some(200) }
    }
}

/// What log lines do not show as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRedaction {
    /// Addresses of mail: a hash stands before their domain.
    Mail,
    /// Addresses and names of hosts: their network is shown.
    Client,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something will break, or a client misbehaves.
    Warn,
    /// What a message goes through.
    #[default]
    Info,
    /// What a session goes through.
    Debug,
    /// Every event.
    Trace,
}

/// Traces of messages, for a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector, as a URL. None: nothing is traced.
    pub endpoint: Option<String>,
    /// The share of messages that are traced.
    pub sample: Share,
    /// How long a request to it may take.
    pub timeout: Span,
    /// The PEM file of the authorities that its certificate is verified against. None: those of the system.
    pub ca: Option<String>,
    /// The file with header fields for it.
    pub headers_file: Option<String>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { endpoint: None, sample: Share(10_000), timeout: Span::seconds(5), ca: None, headers_file: None }
    }
}

/// A part of a whole, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    const WHOLE: f64 = 1_000_000.0;

    /// The nearest share to a number from 0 to 1; of another number none.
    pub fn of(number: f64) -> Option<Self> {
        (0.0..=1.0).contains(&number).then_some(Self((number * Self::WHOLE).round() as u32))
    }

    /// As a number from 0 to 1.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / Self::WHOLE
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_f64().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_empty_text() {
        assert_eq!(Config::parse("empty", ""), Ok(Config::default()));
    }

    #[test]
    fn the_host_name_is_one_name_in_both_places() {
        let mut config = Config::default();
        config.set_hostname("mx.example.org");
        assert_eq!(
            (config.server.hostname.as_str(), config.smtp.hostname.as_str()),
            ("mx.example.org", "mx.example.org")
        );
        assert_eq!(Config::parse("x", "server.hostname = 'mx.example.org'"), Ok(config));
    }
}
