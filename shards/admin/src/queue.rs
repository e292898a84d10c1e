//! The handlers of the API that concern the queue.
//!
//! Invariants are those of [`orders`](crate::orders). What changes messages is logged with the user who ordered it, with
//! the ids or the filter, and with how many messages it was done to.

use crate::api::{PAGE_DEFAULT, QueueOrder, QueueOrdered, QueueQuery};
use crate::control::{MessageContent, Refusal};
use crate::orders::{answer, carry_out, note, order as read_order, refuse};
use crate::routes::Shared;
use crate::server::Peer;
use crate::stream;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringpost_base::SpoolId;
use std::sync::Arc;

/// What a message is, to programs that ask.
const MESSAGE_TYPE: &str = "message/rfc822";

/// Ids of an order that are named in the log; the count is of all.
const NAMED_MAX: usize = 10;

pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    answer(carry_out(&shared, |control| control.queue_status()).await)
}

pub(crate) async fn page(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let mut query = match QueueQuery::parse(&query.unwrap_or_default()) {
        Ok(query) => query,
        Err(message) => return refuse(&Refusal::invalid(message)),
    };
    query.limit.get_or_insert(PAGE_DEFAULT);
    answer(carry_out(&shared, move |control| control.queue_page(query)).await)
}

pub(crate) async fn message(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let headers = match query.as_deref() {
        None | Some("" | "headers=false") => false,
        Some("headers=true") => true,
        Some(other) => return refuse(&Refusal::invalid(format!("{other:?}: there is ?headers=true"))),
    };
    match message_id(&id) {
        Ok(id) => answer(carry_out(&shared, move |control| control.message(id, headers)).await),
        Err(refusal) => refuse(&refusal),
    }
}

pub(crate) async fn content(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Response {
    let content = match message_id(&id) {
        Ok(id) => carry_out(&shared, move |control| control.message_content(id)).await,
        Err(refusal) => Err(refusal),
    };
    let (length, body) = match content {
        Ok(MessageContent::Memory(bytes)) => (bytes.len() as u64, stream::memory(bytes)),
        Ok(MessageContent::File(path)) => match stream::file(path).await {
            Ok((length, body)) => (length, Body::new(body)),
            Err(error) => return refuse(&Refusal::not_found(format!("the body file of {id}: {error}"))),
        },
        Err(refusal) => return refuse(&refusal),
    };
    // It changes nothing, but somebody reads somebody's mail.
    tracing::info!(id, uid = peer.uid, bytes = length, "message handed out over the admin socket");
    let headers = [(header::CONTENT_TYPE, MESSAGE_TYPE.to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    (StatusCode::OK, headers, body).into_response()
}

pub(crate) async fn order(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let order = match read_order(request, QueueOrder::check).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let (name, subject, dry) = (order.order.name(), subject(&order), order.dry);
    let result = carry_out(&shared, move |control| control.order_queue(order)).await;
    if !dry {
        let counted = |ordered: &QueueOrdered| format!("{subject}: {} changed", ordered.changed);
        let subject = result.as_ref().map_or_else(|_| subject.clone(), counted);
        note(peer, name, &subject, &result);
    }
    answer(result)
}

pub(crate) async fn verify(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    let result = carry_out(&shared, |control| control.verify_queue()).await;
    note(peer, "verify", "", &result);
    answer(result)
}

pub(crate) async fn verification(State(shared): State<Arc<Shared>>) -> Response {
    answer(carry_out(&shared, |control| control.queue_verification()).await)
}

fn message_id(text: &str) -> Result<SpoolId, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(format!("{text:?}: {error}")))
}

/// Which messages an order names, in a few words.
fn subject(order: &QueueOrder) -> String {
    let Some(filter) = &order.filter else {
        let named: Vec<String> = order.ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let more = order.ids.len() - named.len();
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        return named.join(" ") + &rest;
    };
    let query = QueueQuery { filter: filter.clone(), ..QueueQuery::default() };
    if filter.is_empty() { "all messages".to_owned() } else { format!("messages with {}", query.text()) }
}
