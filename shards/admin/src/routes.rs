//! The routes, and what the handlers share.
//!
//! Invariants: a handler of the routes that both places have neither awaits nor reads a body; `/metrics` runs one scrape
//! at a time, since all handlers run on one thread. Any other path is answered with the list of routes. A route of the
//! socket names who may, and nobody else gets to its handler; one that changes something leaves an entry in the audit log,
//! whatever comes of it.

use crate::api::{
    self, AuditEntry, BanAdd, BanView, CanaryView, ConfigView, DrainOrder, Draining, Explanation, LimitView,
};
use crate::api::{
    LogLevelsView, MessageView, Moment, QueueOrder, QueueOrdered, QueuePage, QueueStatus, QueueVerification,
};
use crate::api::{Readiness, ReloadOrder, Reloaded, Sessions, ShardView, Status, UpgradeOrder, Upgraded};
use crate::audit::Audit;
use crate::changes;
use crate::clock::wall;
use crate::exporter::Exporter;
use crate::health::Health;
use crate::history::History;
use crate::orders::{self, Forbidden, Permits, permit};
use crate::queue;
use crate::route::{Route, Takes};
use crate::server::Sources;
use crate::views;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringpost_metrics::{ProcessGauge, ProcessReading};
use std::sync::{Arc, Mutex, PoisonError};

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) sources: Sources,
    pub(crate) audit: Audit,
    /// Handlers are `Send` to axum, hence a mutex, here and below; only the services thread ever takes it.
    pub(crate) exporter: Mutex<Exporter>,
    pub(crate) history: Mutex<History>,
    /// The state that was told last, and since when it is that.
    state: Mutex<Option<(&'static str, Moment)>>,
    /// For what is under way.
    pub(crate) permits: Permits,
    /// Requests that were refused for the user's role, of late.
    pub(crate) forbidden: Mutex<Forbidden>,
}

impl Shared {
    pub(crate) fn new(sources: Sources, audit: Audit) -> Self {
        Self {
            exporter: Mutex::new(Exporter::new(sources.blocks.clone())),
            sources,
            audit,
            history: Mutex::default(),
            state: Mutex::default(),
            permits: Permits::default(),
            forbidden: Mutex::default(),
        }
    }

    /// Notes how the server is at this moment, to tell later what it did of late.
    pub(crate) fn observe(&self) {
        let vitals = (self.sources.vitals)();
        self.history.lock().unwrap_or_else(PoisonError::into_inner).take(&self.sources.blocks, &vitals);
        self.since(Health::read(&self.sources).state_name());
        self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).note_overdue(&self.audit);
    }

    /// Since when the server is in the state that it is in now.
    pub(crate) fn since(&self, state: &'static str) -> Moment {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((same, since)) if same == state => since,
            _ => known.insert((state, Moment(wall()))).1,
        }
    }
}

/// The routes that both places have. To add one is to add a row.
pub(crate) fn watching() -> Vec<Route> {
    vec![
        Route::get("/livez", "whether the process lives: `ok`", livez).text("text/plain"),
        Route::get("/readyz", "whether it takes mail, and why not: 200, or 503 with the same body", readyz)
            .gives::<Readiness>(),
        Route::get("/metrics", "Prometheus metrics, see metrics.md", metrics).text("text/plain"),
    ]
}

/// The routes that only the socket has. To add one is to add a row.
pub(crate) fn acting() -> Vec<Route> {
    let mut rows = about_the_server();
    rows.extend(about_clients());
    rows.extend(about_the_queue());
    rows
}

pub(crate) fn about_the_server() -> Vec<Route> {
    vec![
        Route::get(
            "/api/v1/status",
            "how the server is: what is wrong with it, and its shards in numbers",
            views::status,
        )
        .gives::<Status>(),
        Route::get("/api/v1/shards", "each shard: what it has, what it did of late, how quickly", views::shards)
            .gives::<Vec<ShardView>>(),
        Route::get("/api/v1/config", "the config in force, without secrets", views::config).gives::<ConfigView>(),
        Route::post(
            "reload",
            "/api/v1/reload",
            "reads the config file again; on one core only for a canary",
            changes::reload,
        )
        .takes::<ReloadOrder>(Takes::IfAny)
        .gives::<Reloaded>(),
        Route::get("/api/v1/canary", "the canary that runs, or the last", views::canary).gives::<Option<CanaryView>>(),
        Route::delete("stop canary", "/api/v1/canary", "takes the canary back", changes::stop_canary)
            .gives::<CanaryView>(),
        Route::post("drain", "/api/v1/drain", "no new connections; sessions end, then the server", changes::drain)
            .takes::<DrainOrder>(Takes::IfAny)
            .gives::<Draining>(),
        Route::post(
            "upgrade",
            "/api/v1/upgrade",
            "has another process take over, and waits until it serves; with `binary` for root and the server's own user only",
            changes::upgrade,
        )
        .takes::<UpgradeOrder>(Takes::IfAny)
        .gives::<Upgraded>(),
        Route::get("/api/v1/log/levels", "how much is logged", views::log_levels).gives::<LogLevelsView>(),
        Route::put(
            "set log levels",
            "/api/v1/log/levels",
            "changes how much is logged, until a restart or a reload that changes the config's own levels",
            changes::set_log_levels,
        )
        .takes::<LogLevelsView>(Takes::Always)
        .gives::<LogLevelsView>(),
        Route::delete("reset log levels", "/api/v1/log/levels", "logs as the config says", changes::reset_log_levels)
            .gives::<LogLevelsView>(),
        Route::get("/api/v1/audit", "what was changed, by whom; the newest first", views::audit)
            .query(&[("limit", "entries at most, 1 to 1000; else 50")])
            .gives::<Vec<AuditEntry>>(),
        Route::get("/debug/profile", "what a shard's thread spends its time on", views::profile)
            .query(&[
                ("shard", "its number; else 0"),
                ("seconds", "for how long it is sampled, 1 to 60; else 10"),
                ("format", "`svg`, a flame graph for a browser, or `folded`, a line for each stack; else `svg`"),
            ])
            .text("image/svg+xml or text/plain")
            .for_operators(),
    ]
}

pub(crate) fn about_clients() -> Vec<Route> {
    vec![
        Route::get("/api/v1/sessions", "the sessions that are open, the oldest first", views::sessions)
            .query(&[
                ("limit", "sessions at most, 1 to 10000; else 100"),
                ("client", "an address or a network: only sessions of clients in it"),
            ])
            .gives::<Sessions>(),
        Route::get("/api/v1/limits", "every limit, how often it was met, how much of it is used", views::limits)
            .gives::<Vec<LimitView>>(),
        Route::get("/api/v1/bans", "the bans in force", views::bans).gives::<Vec<BanView>>(),
        Route::post("ban", "/api/v1/bans", "bans a network", changes::ban)
            .takes::<BanAdd>(Takes::Always)
            .gives::<BanView>(),
        Route::delete("unban", "/api/v1/bans/{network}", "lifts a ban; answers what it was", changes::unban)
            .gives::<BanView>(),
        Route::get(
            "/api/v1/explain/{id}",
            "what was decided in a session, and why; by its id or a message's",
            views::explain,
        )
        .gives::<Explanation>(),
    ]
}

pub(crate) fn about_the_queue() -> Vec<Route> {
    vec![
        Route::get("/api/v1/queue", "the queue in numbers", queue::status).gives::<QueueStatus>(),
        Route::get("/api/v1/queue/messages", "messages in the queue, a page of them", queue::page)
            .query(&[
                ("state", "states, separated by commas: `ready`, `deferred`, `active`, `held`, `dead`"),
                ("from", "an address, `@domain`, or `<>` for reports"),
                ("to", "the same of a recipient"),
                ("target", "the name of a target"),
                ("priority", "`high`, `normal` or `low`"),
                ("older", "a duration since they were accepted, at least"),
                ("newer", "a duration since they were accepted, at most"),
                ("limit", "messages at most, 1 to 1000; else 50"),
                ("after", "an id: only messages behind it"),
            ])
            .gives::<QueuePage>(),
        Route::get("/api/v1/queue/messages/{id}", "all about one message", queue::message)
            .query(&[("headers", "`true`: with its header section; for operators, and noted in the audit log")])
            .gives::<MessageView>(),
        Route::get(
            "/api/v1/queue/messages/{id}/message",
            "its bytes as they are stored; noted in the audit log",
            queue::content,
        )
        .text("message/rfc822")
        .for_operators(),
        Route::post(
            "queue order",
            "/api/v1/queue/orders",
            "retry, hold, release or drop: noted by that word once understood",
            queue::order,
        )
        .takes::<QueueOrder>(Takes::Always)
        .gives::<QueueOrdered>(),
        Route::get("/api/v1/queue/verification", "how far reading all messages back has come", queue::verification)
            .gives::<QueueVerification>(),
        Route::post("verify", "/api/v1/queue/verification", "begins to read all messages back", queue::verify)
            .gives::<QueueVerification>(),
    ]
}

/// What is answered over TCP.
pub(crate) fn public(shared: Arc<Shared>) -> Router {
    router(shared, watching())
}

/// What is answered on the socket.
pub(crate) fn private(shared: Arc<Shared>) -> Router {
    let acting = acting().into_iter().map(|route| permit(&shared, route));
    let rows = watching().into_iter().chain(acting).collect();
    router(shared, rows).layer(DefaultBodyLimit::max(orders::BODY_BYTES_MAX))
}

fn router(shared: Arc<Shared>, rows: Vec<Route>) -> Router {
    let listed: String = rows.iter().map(|row| format!("{} {}  {}\n", row.method, row.path, row.purpose)).collect();
    let unknown = move || async move { (StatusCode::NOT_FOUND, format!("no such path; there are:\n{listed}")) };
    let add = |router: Router<_>, row: Route| router.route(row.path, row.handler);
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
    let body = serde_json::to_string(&health.readiness(shared.sources.version)).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    // A scrape that panicked leaves nothing half done that the next one does not do again.
    let mut of_process = (shared.sources.process)();
    let lost = shared.audit.lost() as f64;
    of_process.push(ProcessReading { row: ProcessGauge::AuditLost, label: None, value: lost });
    let text = shared.exporter.lock().unwrap_or_else(PoisonError::into_inner).render(&of_process);
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}
