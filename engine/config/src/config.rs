//! The types of a config, and their defaults.
//!
//! These are plain values: whoever holds one need not know that it came from a file. What belongs to one machine of
//! `engine/` is that crate's own `Options`, kept here as it is; what belongs to the process is defined here. The
//! defaults in this file and in those `Options` are the only ones; the reader, the reference page and
//! `config/ringpost.toml` are held to them by tests.

use ringpost_base::{ByteCount, Span};
use ringpost_smtp::TlsUse;
use std::net::{Ipv4Addr, SocketAddr};

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
    /// Maxima of the whole process, and timeouts.
    pub limits: Limits,
    /// What a session allows. Its `hostname` is `server.hostname` where that is given.
    pub smtp: ringpost_smtp::Options,
    /// The log of one core.
    pub spool: ringpost_spool::Options,
    /// When deliveries are tried again.
    pub queue: ringpost_queue::Options,
    /// The domains mail is accepted for.
    pub policy: ringpost_policy::Options,
    /// Where mail goes. Every domain's target is one of them.
    pub targets: Vec<Target>,
    /// Health, metrics and the API.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            cores: Cores::default(),
            listeners: vec![Listener::default()],
            tls: Tls::default(),
            limits: Limits::default(),
            smtp: ringpost_smtp::Options::default(),
            spool: ringpost_spool::Options::default(),
            queue: ringpost_queue::Options::default(),
            policy: ringpost_policy::Options { domains: vec![domain_default()], ..Default::default() },
            targets: vec![Target::default()],
            admin: Admin::default(),
            log: Log::default(),
        }
    }
}

/// The domain of a server that nobody has configured: one reserved for examples, so that no real mail is taken.
pub(crate) fn domain_default() -> ringpost_policy::Domain {
    ringpost_policy::Domain {
        name: "example.com".into(),
        recipients: ringpost_policy::Recipients::Any,
        target: Target::default().name,
    }
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
}

impl Default for Server {
    fn default() -> Self {
        Self { hostname: String::new(), state_dir: "ringpost-state".into(), drain_timeout: Span::seconds(30) }
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
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: "mx".into(),
            kind: ListenerKind::Mx,
            address: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 2525))],
            tls: TlsUse::Starttls,
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
}

/// Certificates and versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificates, chosen by the name a client asks for; the first where none fits. Empty: a self-signed one
    /// is made in the state directory.
    pub certificates: Vec<Certificate>,
    /// The oldest version a client may speak.
    pub min_version: TlsVersion,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The PEM file of the certificate, followed by its intermediates.
    pub cert: String,
    /// The PEM file of its private key.
    pub key: String,
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

/// Maxima of the whole process, and timeouts. The other keys of `[limits]` are in `smtp` and `policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a session waits for a command. RFC 5321 section 4.5.3.2.7 asks for at least 5 minutes.
    pub command_timeout: Span,
    /// How long a session waits for a further byte of a message.
    pub data_timeout: Span,
    /// Connections of the whole process, split evenly among the cores. None (0 in the file): only the cores' own
    /// limits count.
    pub connections: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { command_timeout: Span::seconds(300), data_timeout: Span::seconds(300), connections: None }
    }
}

/// Where mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name that domains call it by.
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
}

impl Default for Target {
    fn default() -> Self {
        Self { name: "local".into(), kind: TargetKind::Maildir { path: MAILDIR_PATH.into() } }
    }
}

/// The path of a Maildir target that gives none.
pub(crate) const MAILDIR_PATH: &str = "mail/{domain}/{local}";

/// What a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetKind {
    /// A Maildir for each recipient or domain.
    Maildir {
        /// The directory, relative to the state directory, with the placeholders `{domain}`, `{local}` and `{address}`.
        path: String,
    },
    /// Nowhere: for measurements.
    Discard,
}

/// Health, metrics and the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where they are served. None ("off" in the file): nowhere.
    pub listen: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8025))) }
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: LogLevel,
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
