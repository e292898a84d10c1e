//! The resolver on the services thread: hickory, its sockets, and what becomes of its answers.
//!
//! Invariants: every question that was handed over is answered exactly once, also when its task panics or the services
//! thread is gone; none takes longer than all its attempts. No waker of a shard comes here: answers go into an inbox.
//!
//! hickory's own cache is off: it is bounded in entries only, and a zone of a stranger may have entries of 64 KiB each.
//! The shards' caches are bounded in bytes too, and a miss costs a question to a server that mostly stands nearby.

use crate::answer::{Failure, Kind, MailExchange, Question, Records};
use crate::{DnsError, Resolver, name};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Answer, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use ringpost_base::Span;
use ringpost_runtime::InboxSender;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Records taken from one answer: more are of no use to a mail exchanger, and whoever answers decides how many there are.
const RECORDS_MAX: usize = 100;

/// Servers asked at the same time: one that is dead then costs nothing, where otherwise it would cost its timeout.
const SERVERS_AT_ONCE: usize = 2;

/// Questions under way on one TCP connection to a server, after truncated answers.
const TCP_QUESTIONS_MAX: usize = 256;

/// Longest time that an answer is remembered, whatever it says: a day.
const TTL_MAX: Duration = Duration::from_secs(86_400);

/// The same for an answer that there is nothing; RFC 2308 section 5 recommends one to three hours.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3_600);

/// How long a failure is remembered, RFC 9520 section 3.2: a domain whose servers are dead costs its senders one timeout and
/// not each of them one.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// How to resolve, from the config's `[dns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The servers to ask, two at a time and in turn; none means those of `/etc/resolv.conf`, which is read once, at the
    /// start.
    pub servers: Vec<SocketAddr>,
    /// How long one attempt may take; lost datagrams are repeated within it.
    pub timeout: Span,
    /// Attempts altogether; 0 counts as 1.
    pub attempts: u8,
    /// Answers remembered by each shard; with 512 bytes an answer on average at most.
    pub cache: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Span::seconds(1), attempts: 2, cache: 10_000 }
    }
}

/// The resolver. Cheap to clone, carried to every shard.
#[derive(Clone)]
pub struct Dns(Arc<Parts>);

struct Parts {
    handle: Handle,
    hickory: TokioResolver,
    servers: Vec<SocketAddr>,
    limit: Duration,
    cache: usize,
}

impl Dns {
    /// Sets the resolver up; its sockets will live on the thread of `handle`. Reads `/etc/resolv.conf` if no servers are
    /// given, so it is not for a shard. Nothing is asked yet.
    ///
    /// # Errors
    /// If there are no servers.
    pub fn start(handle: Handle, options: &Options) -> Result<Self, DnsError> {
        let servers = servers(options)?;
        let addresses = servers.iter().filter_map(address).collect();
        let config = ResolverConfig::from_name_servers(servers);
        let hickory = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(hickory_options(options))
            .build()
            .map_err(|error| DnsError::Resolver(error.to_string()))?;
        let limit = options.timeout.0.saturating_mul(options.attempts.max(1).into());
        let parts = Parts { handle, hickory, servers: addresses, limit, cache: options.cache };
        Ok(Self(Arc::new(parts)))
    }

    /// The servers that are asked.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.0.servers
    }

    /// Whether `other` is a clone of this one. Two that were started apart are not the same, even with equal options.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A shard's resolver, with its cache and the task that collects its answers. To be called on the shard.
    pub fn resolver(&self) -> Rc<Resolver> {
        Resolver::start(self.clone())
    }

    /// Looks whether a server answers at all, by a question about a name of one's own: an answer that there is nothing is one,
    /// and so is a refusal. Not for a shard: to be awaited on the thread where the sockets are.
    ///
    /// # Errors
    /// That none did.
    pub async fn reach(&self, name: &str) -> Result<(), Failure> {
        let question = Question { name: name.into(), kind: Kind::Ipv4 };
        match resolve(&self.0.hickory, &question, self.0.limit).await.result {
            Err(failure @ (Failure::Timeout | Failure::Unreachable)) => Err(failure),
            _ => Ok(()),
        }
    }

    pub(crate) fn cache(&self) -> usize {
        self.0.cache
    }

    /// Asks; the answer comes into the inbox, with the question and the `generation` that it was asked by.
    pub(crate) fn ask(&self, question: Question, generation: u64, inbox: InboxSender<Done>) {
        let parts = self.0.clone();
        let debt = Debt { question: Some(question.clone()), generation, inbox };
        // The task is not joined: what it owes comes by the inbox, whatever happens to it.
        self.0.handle.spawn(async move {
            let reply = resolve(&parts.hickory, &question, parts.limit).await;
            debt.pay(reply);
        });
    }
}

/// What a question found: records, or a failure, and how long that is good to know; not at all if there is no time.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) result: Result<Records, Failure>,
    pub(crate) ttl: Option<Duration>,
}

impl Reply {
    fn failed(failure: Failure) -> Self {
        let lasts = !matches!(failure, Failure::NoSuchName | Failure::Overload);
        Self { result: Err(failure), ttl: lasts.then_some(FAILURE_TTL) }
    }

    fn nothing(ttl: Option<u32>) -> Self {
        // Without the SOA record, from which the time comes, the answer is not to be kept: RFC 2308 section 5.
        let ttl = ttl.map(|seconds| Duration::from_secs(seconds.into()).min(NEGATIVE_TTL_MAX));
        Self { result: Err(Failure::NoSuchName), ttl }
    }
}

/// A question that has come out.
pub(crate) struct Done {
    pub(crate) question: Question,
    pub(crate) generation: u64,
    pub(crate) reply: Reply,
}

/// An answer owed to a shard. Dropped unpaid, it says that nothing could be asked.
struct Debt {
    question: Option<Question>,
    generation: u64,
    inbox: InboxSender<Done>,
}

impl Debt {
    fn pay(mut self, reply: Reply) {
        self.settle(reply);
    }

    fn settle(&mut self, reply: Reply) {
        if let Some(question) = self.question.take() {
            self.inbox.send(Done { question, generation: self.generation, reply });
        }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.settle(Reply::failed(Failure::Unreachable));
    }
}

fn servers(options: &Options) -> Result<Vec<NameServerConfig>, DnsError> {
    let system = if options.servers.is_empty() { system_servers() } else { Vec::new() };
    if !system.is_empty() {
        return Ok(system);
    }
    // Where the system names none, it is the server on this machine: resolv.conf(5).
    let own = [SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
    let chosen = if options.servers.is_empty() { &own[..] } else { &options.servers };
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    Ok(chosen.iter().map(server).collect())
}

fn system_servers() -> Vec<NameServerConfig> {
    match read_system_conf() {
        Ok((config, _)) => config.name_servers().to_vec(),
        Err(error) => {
            tracing::info!(%error, "the system names no DNS servers, taking the one of this machine");
            Vec::new()
        }
    }
}

fn address(server: &NameServerConfig) -> Option<SocketAddr> {
    Some(SocketAddr::new(server.ip, server.connections.first()?.port))
}

fn hickory_options(options: &Options) -> ResolverOpts {
    let mut own = ResolverOpts::default();
    own.timeout = options.timeout.0;
    // hickory counts the attempts after the first.
    own.attempts = usize::from(options.attempts.max(1)) - 1;
    own.cache_size = 0;
    // Evidence about strangers comes out of the DNS and not out of a file of this machine.
    own.use_hosts_file = ResolveHosts::Never;
    own.num_concurrent_reqs = SERVERS_AT_ONCE;
    own.max_active_requests = TCP_QUESTIONS_MAX;
    // In turn, so that the next attempt asks others. hickory's statistics would ask the dead ones again: they don't tell
    // them from those that say "no such name", and lists mostly say that.
    own.server_ordering_strategy = ServerOrderingStrategy::RoundRobin;
    // The aliases' times count too.
    own.preserve_intermediates = true;
    own
}

async fn resolve(hickory: &TokioResolver, question: &Question, limit: Duration) -> Reply {
    let Some(name) = wire_name(&question.name) else { return Reply::nothing(None) };
    match timeout(limit, hickory.lookup(name.clone(), record_type(question.kind))).await {
        Err(_) => Reply::failed(Failure::Timeout),
        Ok(Err(error)) => failed(&error),
        Ok(Ok(lookup)) => found(&name, question.kind, &lookup),
    }
}

/// The name on the wire. Made of its labels: hickory's reading of text knows escapes and rules of its own.
fn wire_name(text: &str) -> Option<Name> {
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::Ipv4 => RecordType::A,
        Kind::Ipv6 => RecordType::AAAA,
        Kind::Pointer => RecordType::PTR,
        Kind::Text => RecordType::TXT,
        Kind::MailExchange => RecordType::MX,
    }
}

fn failed(error: &NetError) -> Reply {
    match error {
        NetError::Dns(Answer::NoRecordsFound(nothing)) => match nothing.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => Reply::nothing(nothing.negative_ttl),
            code => Reply::failed(server_failure(code)),
        },
        NetError::Dns(Answer::ResponseCode(code)) => Reply::failed(server_failure(*code)),
        NetError::Timeout => Reply::failed(Failure::Timeout),
        NetError::Busy => Reply::failed(Failure::Overload),
        error => {
            tracing::debug!(%error, "DNS question failed");
            Reply::failed(Failure::Unreachable)
        }
    }
}

fn server_failure(code: ResponseCode) -> Failure {
    match code {
        ResponseCode::Refused => Failure::Refused,
        code => Failure::Server { code: code.into() },
    }
}

/// Reads the answer: the records that belong to the name, or to what it is an alias of.
fn found(name: &Name, kind: Kind, lookup: &Lookup) -> Reply {
    let mut name = name;
    for record in lookup.answers() {
        if let RData::CNAME(target) = &record.data
            && record.name == *name
        {
            name = &target.0;
        }
    }
    let data = lookup.answers().iter().filter(|record| record.name == *name).map(|record| &record.data);
    let records = records(kind, data);
    let ttl = lookup.answers().iter().map(|record: &Record| record.ttl).min();
    if records.is_empty() {
        return Reply::nothing(ttl);
    }
    let ttl = ttl.map(|seconds| Duration::from_secs(seconds.into()).min(TTL_MAX));
    Reply { result: Ok(records), ttl }
}

fn records<'a>(kind: Kind, data: impl Iterator<Item = &'a RData>) -> Records {
    match kind {
        Kind::Ipv4 => Records::Ipv4(collect(data, |data| if let RData::A(a) = data { Some(a.0) } else { None })),
        Kind::Ipv6 => Records::Ipv6(collect(data, |data| if let RData::AAAA(a) = data { Some(a.0) } else { None })),
        Kind::Pointer => {
            Records::Names(collect(data, |data| if let RData::PTR(to) = data { name::received(&to.0) } else { None }))
        }
        Kind::Text => Records::Texts(collect(data, |data| {
            // The strings of a record are one text, cut for the wire.
            if let RData::TXT(text) = data { Some(text.txt_data.concat().into()) } else { None }
        })),
        Kind::MailExchange => {
            let mut exchanges = collect(data, |data| {
                let RData::MX(mx) = data else { return None };
                let exchange = if mx.exchange.is_root() { Some(".".into()) } else { name::received(&mx.exchange) };
                Some(MailExchange { preference: mx.preference, exchange: exchange? })
            });
            exchanges.sort_unstable();
            Records::Exchanges(exchanges)
        }
    }
}

fn collect<'a, T>(data: impl Iterator<Item = &'a RData>, pick: impl Fn(&RData) -> Option<T>) -> Vec<T> {
    data.filter_map(pick).take(RECORDS_MAX).collect()
}
