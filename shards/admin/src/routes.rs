//! The routes and what they answer.
//!
//! Invariants: a handler neither awaits nor reads a body; `/readyz` judges every shard by the same state of the board;
//! `/metrics` runs one scrape at a time, since all handlers run on one thread. Any other path is answered with
//! the list of routes.

use crate::exporter::Exporter;
use crate::server::Sources;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use ringpost_control::Phase;
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) sources: Sources,
    /// Handlers are `Send` to axum, hence a mutex; only the services thread ever takes it.
    pub(crate) exporter: Mutex<Exporter>,
}

type Handler = MethodRouter<Arc<Shared>>;

/// Every route: path, what it is for, and its handler. To add one is to add a row.
fn table() -> [(&'static str, &'static str, Handler); 3] {
    [
        ("/livez", "whether the process lives", get(livez)),
        ("/readyz", "whether it takes mail, and why not", get(readyz)),
        ("/metrics", "Prometheus metrics", get(metrics)),
    ]
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let router = table().into_iter().fold(Router::new(), |router, (path, _, handler)| router.route(path, handler));
    router.fallback(unknown).with_state(shared)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let board = &shared.sources.board;
    let state = board.state();
    // A shard listens before it acknowledges that it is ready; until all have, a client could still be turned away.
    let opening = board.shards().any(|shard| board.acknowledged(shard).phase == Phase::Starting);
    let phase = match state.phase {
        Phase::Ready | Phase::Degraded if opening => Phase::Starting,
        phase => phase,
    };
    let status = match phase {
        Phase::Ready | Phase::Degraded => StatusCode::OK,
        Phase::Starting | Phase::Draining | Phase::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut reasons = (shared.sources.reasons)();
    let mut shards = Vec::new();
    for shard in board.shards() {
        let acknowledged = board.acknowledged(shard);
        let departed = board.has_departed(shard);
        if departed {
            reasons.push(format!("shard {shard} has ended"));
        } else if acknowledged != state {
            reasons.push(format!("shard {shard} has not acknowledged {state} yet; it is at {acknowledged}"));
        }
        let phase = if departed { "ended" } else { acknowledged.phase.name() };
        shards.push(json!({ "shard": shard.0, "phase": phase }));
    }
    reasons.extend(words_of(phase).map(str::to_owned));
    let body = json!({
        "state": state_name(phase),
        "reasons": reasons,
        "shards": shards,
        "version": shared.sources.version,
    });
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// The state as probes know it: both phases of the stop are one to them.
fn state_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Draining => Phase::Stopping.name(),
        other => other.name(),
    }
}

/// Why a server in this phase takes no mail, where the phase itself is the reason.
fn words_of(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Starting => Some("the shards are reading their spools back, or about to listen"),
        Phase::Draining => Some("no new connections are taken, sessions finish their messages"),
        Phase::Stopping => Some("everything is being closed"),
        Phase::Ready | Phase::Degraded => None,
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    // A scrape that panicked leaves counts at worst unpublished; the next one publishes them.
    let text = shared.exporter.lock().unwrap_or_else(PoisonError::into_inner).render();
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

async fn unknown() -> Response {
    let routes = table().map(|(path, purpose, _)| format!("GET {path}  {purpose}\n")).concat();
    (StatusCode::NOT_FOUND, format!("no such path; there are:\n{routes}")).into_response()
}

/// Publishes what the shards counted, between scrapes.
pub(crate) fn upkeep(shared: &Shared) {
    shared.exporter.lock().unwrap_or_else(PoisonError::into_inner).publish();
}
