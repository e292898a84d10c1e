//! What the tests stand on: a server with a control that only writes down what it is asked.

mod access;
mod changes;
mod http;
mod queue;
mod socket;
mod views;

use crate::api::{
    BanAdd, BanView, CanaryView, ConfigView, DrainOrder, Draining, Explanation, LimitView, LogLevelsView, Moment,
    ProbeView, ReloadOrder, Reloaded, SessionQuery, Sessions, StepView, UpgradeOrder, Upgraded,
};
use crate::control::BoxFuture;
use crate::{
    Admin, BanChange, Control, Error, Identity, Options, ProfileContent, ProfileFormat, Refusal, Situation, Sources,
    Vital,
};
use ringpost_base::{Network, Timestamp};
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_runtime::Services;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The moment of whatever happens in these tests.
const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

/// A network that the fake can't ban, one that it panics at, and one that it takes its time for.
const PROTECTED: &str = "10.0.0.0/24";
const PANICKING: &str = "10.0.1.0/24";
const SLOW: &str = "10.0.2.0/24";

#[derive(Default)]
struct Fake {
    bans: Mutex<Vec<BanView>>,
    /// Told to go on with what is slow.
    gate: tokio::sync::Notify,
    /// What was asked about the queue.
    queue: queue::Asked,
    /// What was asked about sessions.
    sessions: Mutex<Vec<SessionQuery>>,
    /// The log levels that were set.
    levels: Mutex<Option<LogLevelsView>>,
}

impl Control for Fake {
    fn hostname(&self) -> String {
        "mx.example.org".to_owned()
    }

    fn bans(&self) -> BoxFuture<'_, Result<Vec<BanView>, Refusal>> {
        Box::pin(async { Ok(self.bans.lock().expect("whole").clone()) })
    }

    fn ban(&self, order: BanAdd) -> BoxFuture<'_, Result<BanChange, Refusal>> {
        Box::pin(async move {
            match order.network.to_string().as_str() {
                PROTECTED => return Err(Refusal::conflict("the proxy is in it")),
                PANICKING => panic!("as asked"),
                SLOW => self.gate.notified().await,
                _ => {}
            }
            let until = order.ttl.map(|ttl| NOW.after(ttl.0).into());
            let (network, reason) = (order.network, order.reason);
            let ban = BanView { network, reason, by: "operator".to_owned(), since: NOW.into(), until };
            let mut bans = self.bans.lock().expect("whole");
            let place = bans.iter().position(|standing| standing.network == ban.network);
            let former = place.map(|place| bans.remove(place));
            bans.push(ban.clone());
            Ok(BanChange { former, ban })
        })
    }

    fn unban(&self, network: Network) -> BoxFuture<'_, Result<BanView, Refusal>> {
        Box::pin(async move {
            let mut bans = self.bans.lock().expect("whole");
            let place = bans.iter().position(|ban| ban.network == network);
            place.map(|place| bans.remove(place)).ok_or_else(|| Refusal::not_found(format!("{network} is not banned")))
        })
    }

    fn explain(&self, id: String) -> BoxFuture<'_, Result<Explanation, Refusal>> {
        Box::pin(async move {
            let step = StepView {
                at: Moment(NOW),
                stage: "limit".to_owned(),
                outcome: Some(421),
                rule: Some("limits.connections_per_ip".to_owned()),
                took_us: 3,
                inputs: vec![("open".to_owned(), 10.into()), ("peer".to_owned(), "192.0.2.1".into())],
            };
            Ok(Explanation { session: id, message: None, shard: 1, complete: true, steps: vec![step] })
        })
    }

    fn reload(&self, order: ReloadOrder) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        Box::pin(async move {
            match order.canary {
                Some(canary) => {
                    Ok(Reloaded { epoch: 1, warnings: vec![canary.core.to_string()], ..Reloaded::default() })
                }
                None => Err(Refusal::invalid("f:1:1: one fault\nf:2:1: another")),
            }
        })
    }

    fn canary(&self) -> BoxFuture<'_, Result<Option<CanaryView>, Refusal>> {
        Box::pin(async { Ok(None) })
    }

    fn stop_canary(&self) -> BoxFuture<'_, Result<CanaryView, Refusal>> {
        Box::pin(async { Err(Refusal::conflict("no canary is running")) })
    }

    fn sessions(&self, query: SessionQuery) -> BoxFuture<'_, Result<Sessions, Refusal>> {
        self.sessions.lock().expect("whole").push(query);
        Box::pin(async { Ok(Sessions { total: 7, more: true, ..Sessions::default() }) })
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitView>, Refusal>> {
        let key = "limits.connections".to_owned();
        Box::pin(async { Ok(vec![LimitView { key, met: 3, used: Some(5), of: Some(100), ..LimitView::default() }]) })
    }

    fn config(&self) -> BoxFuture<'_, Result<ConfigView, Refusal>> {
        Box::pin(async { Ok(ConfigView { epoch: 3, toml: "[server]\n".to_owned(), file: None }) })
    }

    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Result<Draining, Refusal>> {
        Box::pin(async move {
            let until = Moment(NOW.after(order.queue.map_or(Duration::ZERO, |queue| queue.0)));
            Ok(Draining { sessions: 2, queue: 5, until })
        })
    }

    fn upgrade(&self, order: UpgradeOrder) -> BoxFuture<'_, Result<Upgraded, Refusal>> {
        Box::pin(async move { Ok(Upgraded { process: 42, version: order.binary.unwrap_or_default(), took_ms: 7 }) })
    }

    fn log_levels(&self) -> BoxFuture<'_, Result<LogLevelsView, Refusal>> {
        Box::pin(async { Ok(self.levels.lock().expect("whole").clone().unwrap_or_else(configured)) })
    }

    fn set_log_levels(&self, levels: Option<LogLevelsView>) -> BoxFuture<'_, Result<LogLevelsView, Refusal>> {
        Box::pin(async {
            *self.levels.lock().expect("whole") = levels;
            self.log_levels().await
        })
    }

    fn profile(
        &self,
        shard: u16,
        duration: Duration,
        format: ProfileFormat,
    ) -> BoxFuture<'_, Result<ProfileContent, Refusal>> {
        Box::pin(async move {
            match (shard, format) {
                (1.., _) => Err(Refusal::not_found("there is one shard")),
                (0, ProfileFormat::Svg) => {
                    Ok(ProfileContent { content_type: "image/svg+xml", text: "<svg/>".to_owned() })
                }
                (0, ProfileFormat::Folded) => {
                    Ok(ProfileContent { content_type: "text/plain", text: format!("a;b {}\n", duration.as_secs()) })
                }
            }
        })
    }
}

/// The levels of a config that nobody has changed.
fn configured() -> LogLevelsView {
    LogLevelsView { level: "info".to_owned(), modules: BTreeMap::new(), config: true }
}

struct Server {
    admin: Admin,
    services: Services,
    board: Arc<Board>,
    blocks: Vec<Arc<Block>>,
    control: Arc<Fake>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn sources(shards: usize, reasons: &'static [&'static str], control: Arc<Fake>) -> Sources {
    Sources {
        board: Board::new(shards),
        blocks: (0..shards).map(|_| Arc::new(Block::new())).collect(),
        probes: Arc::new(|| reasons.iter().map(|reason| failing_probe(reason)).collect()),
        process: Arc::new(Vec::new),
        vitals: Arc::new(move || vec![Vital::default(); shards]),
        situation: Arc::new(Situation::default),
        identity: Identity { config_file: None, cpus: (4..4 + shards).collect() },
        version: "0.1.0",
        started: Instant::now(),
        control,
    }
}

/// A probe that is not well and keeps nobody from sending.
fn failing_probe(reason: &str) -> ProbeView {
    ProbeView { name: "disk".to_owned(), reason: Some(reason.to_owned()), serves: true, ..ProbeView::default() }
}

/// Why a server with these options does not start.
fn failing(options: Options) -> Error {
    let services = Services::start().expect("a thread");
    let error = Admin::start(&services.handle(), options, sources(0, &[], Arc::default())).err().expect("no start");
    services.stop();
    error
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// What is said of a refusal.
    fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error").to_owned()
    }
}

/// Sends a request that asks for the connection to be closed, and reads the answer.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Reply {
    stream.write_all(request).expect("sent");
    let mut bytes = Vec::new();
    // A server that has not read all of a request resets the connection behind its answer.
    let end = stream.read_to_end(&mut bytes);
    assert!(end.is_ok() || !bytes.is_empty(), "an answer, then the end: {end:?}");
    let reply = String::from_utf8_lossy(&bytes);
    let (head, body) = reply.split_once("\r\n\r\n").expect("a header");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}

impl Server {
    fn start(shards: usize, reasons: &'static [&'static str]) -> Self {
        Self::start_at(Options { listen: Some(any_port()), ..Options::default() }, shards, reasons)
    }

    fn start_at(options: Options, shards: usize, reasons: &'static [&'static str]) -> Self {
        Self::start_with(options, shards, reasons, |_| {})
    }

    /// The same with other sources.
    fn start_with(
        options: Options,
        shards: usize,
        reasons: &'static [&'static str],
        change: impl FnOnce(&mut Sources),
    ) -> Self {
        let control = Arc::new(Fake::default());
        let mut sources = sources(shards, reasons, Arc::clone(&control));
        change(&mut sources);
        let (board, blocks) = (Arc::clone(&sources.board), sources.blocks.clone());
        let services = Services::start().expect("a thread");
        let admin = Admin::start(&services.handle(), options, sources).expect("both places are free");
        Self { admin, services, board, blocks, control }
    }

    fn stop(self) {
        self.admin.stop();
        self.services.stop();
    }

    fn address(&self) -> SocketAddr {
        self.admin.address().expect("listening")
    }

    fn ask(&self, request: &str) -> Reply {
        let stream = TcpStream::connect(self.address()).expect("listening");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        exchange(stream, request.as_bytes())
    }

    fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    fn readyz(&self) -> (u16, Value) {
        let reply = self.get("/readyz");
        (reply.status, reply.json())
    }
}
