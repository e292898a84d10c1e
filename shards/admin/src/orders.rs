//! The handlers of the API: read what is asked, have it done, and answer.
//!
//! Invariants: whatever goes through [`Control`] runs in a task of its own, so that a client that hangs up cannot leave an
//! order half done; at most [`UNDER_WAY_MAX`] of them run at a time, and a client waits for one no longer than
//! [`PATIENCE`]. Every order that changes the server is logged with the user who gave it. A body is read up to
//! [`BODY_BYTES_MAX`] and [`BODY_TIMEOUT`].

use crate::api::{BanAdd, ErrorView};
use crate::control::{BoxFuture, Control, Refusal, RefusalStatus};
use crate::routes::Shared;
use crate::server::Peer;
use axum::body::{Bytes, HttpBody};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, FromRequest, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringpost_base::{Network, SessionId, SpoolId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a request's body: an order is a few fields.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Time for a body to come: it was ready before the client connected.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Orders under way: they come from people, and from scripts one after the other.
pub(crate) const UNDER_WAY_MAX: usize = 16;

/// How long an order may take before the client is told that it does: below the ten seconds that the command line waits.
const PATIENCE: Duration = Duration::from_secs(8);

const _: () = assert!(BODY_BYTES_MAX > 2 * crate::api::IDS_MAX * SpoolId::TEXT_LEN, "an order with the most ids fits");
const _: () = assert!(BODY_BYTES_MAX > 4 * crate::api::REASON_BYTES_MAX, "an order with the longest reason fits");

pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    answer(Ok(crate::status::status(&shared.sources)))
}

pub(crate) async fn bans(State(shared): State<Arc<Shared>>) -> Response {
    answer(carry_out(&shared, |control| control.bans()).await)
}

pub(crate) async fn ban(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let order = match order(request, BanAdd::check).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let network = order.network;
    let result = carry_out(&shared, move |control| control.ban(order)).await;
    note(peer, "ban", &network.to_string(), &result);
    answer(result)
}

pub(crate) async fn unban(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(network): Path<String>,
) -> Response {
    let result = match network.parse::<Network>() {
        Ok(network) => carry_out(&shared, move |control| control.unban(network)).await,
        Err(error) => Err(Refusal::invalid(format!("{network:?}: {error}"))),
    };
    note(peer, "unban", &network, &result);
    answer(result)
}

pub(crate) async fn explain(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    // As ids are printed, whatever the case they were typed in.
    let session = id.parse::<SessionId>().map(|id| id.to_string());
    match session.or_else(|_| id.parse::<SpoolId>().map(|id| id.to_string())) {
        Ok(id) => answer(carry_out(&shared, move |control| control.explain(id)).await),
        Err(error) => refuse(&Refusal::invalid(format!("{id:?}: {error}"))),
    }
}

pub(crate) async fn reload(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    let result = carry_out(&shared, |control| control.reload()).await;
    note(peer, "reload", "", &result);
    answer(result)
}

/// Has it done, in a task that outlives the request.
pub(crate) async fn carry_out<T, F>(shared: &Arc<Shared>, order: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a dyn Control) -> BoxFuture<'a, Result<T, Refusal>> + Send + 'static,
{
    let Ok(permit) = Arc::clone(&shared.orders).try_acquire_owned() else {
        return Err(Refusal::unavailable(format!("{UNDER_WAY_MAX} orders are under way already; try again")));
    };
    let shared = Arc::clone(shared);
    let task = tokio::spawn(async move {
        let result = order(&*shared.sources.control).await;
        drop(permit);
        result
    });
    match timeout(PATIENCE, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) if error.is_panic() => {
            tracing::error!("an order over the admin socket panicked; this is a bug");
            Err(Refusal::unavailable("the server failed at it; this is a bug, please report it"))
        }
        Ok(Err(_)) => Err(Refusal::unavailable("the server is stopping")),
        Err(_) => Err(Refusal::unavailable(format!(
            "not done within {} s, and still under way: a shard is slow to answer, `ringpost status` may tell which",
            PATIENCE.as_secs()
        ))),
    }
}

/// Reads an order, and refuses it if `check` does.
pub(crate) async fn order<T: DeserializeOwned>(
    request: Request,
    check: fn(&T) -> Result<(), String>,
) -> Result<T, Response> {
    // What is declared too large need not come first.
    if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let body = match timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(body) => body.map_err(|rejection| refuse_body(&rejection))?,
        Err(_) => return Err(error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let invalid = |message: String| refuse(&Refusal::invalid(message));
    let order = serde_json::from_slice(&body).map_err(|error| invalid(format!("the body: {error}")))?;
    check(&order).map_err(invalid)?;
    Ok(order)
}

fn refuse_body(rejection: &BytesRejection) -> Response {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => error(status, &rejection.body_text()),
    }
}

fn too_large() -> Response {
    let message = format!("the body is too large: {BODY_BYTES_MAX} bytes are the most");
    error(StatusCode::PAYLOAD_TOO_LARGE, &message)
}

/// Who changed what: for whoever wonders later.
pub(crate) fn note<T>(peer: Peer, order: &'static str, subject: &str, result: &Result<T, Refusal>) {
    match result {
        Ok(_) => tracing::info!(order, subject, uid = peer.uid, "order carried out"),
        Err(refusal) => tracing::info!(order, subject, uid = peer.uid, reason = refusal.message, "order refused"),
    }
}

pub(crate) fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result.map(|view| serde_json::to_string(&view)) {
        Ok(Ok(text)) => json(StatusCode::OK, text),
        Ok(Err(failure)) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
        Err(refusal) => refuse(&refusal),
    }
}

pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal.status {
        RefusalStatus::NotFound => StatusCode::NOT_FOUND,
        RefusalStatus::Invalid => StatusCode::BAD_REQUEST,
        RefusalStatus::Conflict => StatusCode::CONFLICT,
        RefusalStatus::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    error(status, &refusal.message)
}

fn error(status: StatusCode, message: &str) -> Response {
    let view = ErrorView { error: message.to_owned() };
    json(status, serde_json::to_string(&view).unwrap_or_default())
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
}
