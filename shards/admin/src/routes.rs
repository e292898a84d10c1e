//! The routes and what they answer.
//!
//! Invariants: a handler of the routes that both places have neither awaits nor reads a body; `/metrics` runs one scrape
//! at a time, since all handlers run on one thread. Any other path is answered with the list of routes.

use crate::Error;
use crate::api;
use crate::exporter::Exporter;
use crate::health::Health;
use crate::orders;
use crate::queue;
use crate::server::Sources;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) sources: Sources,
    /// Handlers are `Send` to axum, hence a mutex; only the services thread ever takes it.
    pub(crate) exporter: Mutex<Exporter>,
    /// A permit for each order under way.
    pub(crate) orders: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(sources: Sources) -> Result<Self, Error> {
        let exporter = Mutex::new(Exporter::new(sources.blocks.clone())?);
        Ok(Self { sources, exporter, orders: Arc::new(Semaphore::new(orders::UNDER_WAY_MAX)) })
    }

    /// Publishes what the shards counted, between scrapes.
    pub(crate) fn upkeep(&self) {
        self.exporter.lock().unwrap_or_else(PoisonError::into_inner).publish();
    }
}

type Handler = MethodRouter<Arc<Shared>>;

/// A route: method, path, what it is for, and its handler.
type Row = (&'static str, &'static str, &'static str, Handler);

/// The routes that both places have. To add one is to add a row.
fn watching() -> Vec<Row> {
    vec![
        ("GET", "/livez", "whether the process lives", get(livez)),
        ("GET", "/readyz", "whether it takes mail, and why not", get(readyz)),
        ("GET", "/metrics", "Prometheus metrics", get(metrics)),
    ]
}

/// The routes that only the socket has. To add one is to add a row.
fn acting() -> Vec<Row> {
    vec![
        ("GET", "/api/v1/status", "the server and its shards in numbers", get(orders::status)),
        ("GET", "/api/v1/bans", "the bans in force", get(orders::bans)),
        ("POST", "/api/v1/bans", "bans a network: {network, ttl, reason}", post(orders::ban)),
        ("DELETE", "/api/v1/bans/{network}", "lifts a ban", delete(orders::unban)),
        ("GET", "/api/v1/explain/{id}", "what was decided in a session, and why", get(orders::explain)),
        ("POST", "/api/v1/reload", "reads the config file again", post(orders::reload)),
        ("GET", "/api/v1/queue", "the queue in numbers", get(queue::status)),
        (
            "GET",
            "/api/v1/queue/messages",
            "messages in the queue: ?state=&from=&to=&target=&older=...",
            get(queue::page),
        ),
        ("GET", "/api/v1/queue/messages/{id}", "all about one message; ?headers=true", get(queue::message)),
        ("GET", "/api/v1/queue/messages/{id}/message", "its bytes as they are stored", get(queue::content)),
        ("POST", "/api/v1/queue/orders", "retry, hold, release or drop: {order, ids | filter}", post(queue::order)),
        ("GET", "/api/v1/queue/verification", "how far reading all messages back has come", get(queue::verification)),
        ("POST", "/api/v1/queue/verification", "begins to read all messages back", post(queue::verify)),
    ]
}

/// What is answered over TCP.
pub(crate) fn public(shared: Arc<Shared>) -> Router {
    router(shared, watching())
}

/// What is answered on the socket.
pub(crate) fn private(shared: Arc<Shared>) -> Router {
    router(shared, watching().into_iter().chain(acting()).collect())
        .layer(DefaultBodyLimit::max(orders::BODY_BYTES_MAX))
}

fn router(shared: Arc<Shared>, rows: Vec<Row>) -> Router {
    let listed: String =
        rows.iter().map(|(method, path, purpose, _)| format!("{method} {path}  {purpose}\n")).collect();
    let unknown = move || async move { (StatusCode::NOT_FOUND, format!("no such path; there are:\n{listed}")) };
    let add = |router: Router<_>, (_, path, _, handler): Row| router.route(path, handler);
    let version = HeaderValue::from(api::VERSION);
    rows.into_iter().fold(Router::new(), add).fallback(unknown).with_state(shared).layer(
        axum::middleware::map_response(move |mut response: Response| {
            response.headers_mut().insert(api::VERSION_HEADER, version.clone());
            std::future::ready(response)
        }),
    )
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let health = Health::read(&shared.sources);
    let status = if health.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let shard = |shard: &crate::health::ShardHealth| json!({ "shard": shard.shard.0, "phase": shard.phase });
    let body = json!({
        "state": health.state_name(),
        "reasons": health.reasons,
        "shards": health.shards.iter().map(shard).collect::<Vec<_>>(),
        "version": shared.sources.version,
    });
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    // A scrape that panicked leaves counts at worst unpublished; the next one publishes them.
    let text = shared.exporter.lock().unwrap_or_else(PoisonError::into_inner).render();
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}
