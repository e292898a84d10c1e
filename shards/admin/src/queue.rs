//! The handlers of the API that concern the queue.
//!
//! Invariants are those of [`orders`](crate::orders). What changes messages is noted with the ids or the filter, and with how
//! many messages it was done to; and whoever is handed out somebody's mail is noted too.

use crate::access::{Peer, Role};
use crate::api::{MessageView, PAGE_DEFAULT, QueueOrder, QueueOrdered, QueueQuery, QueueVerification};
use crate::control::{MessageContent, Refusal};
use crate::orders::{
    Change, PATIENCE, Ticket, Told, answer, carry_out, change, forbid, order as read_order, refuse, value,
};
use crate::route::Takes;
use crate::routes::Shared;
use crate::stream;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringpost_base::SpoolId;
use serde_json::{Value, json};
use std::sync::Arc;

/// What a message is, to programs that ask.
const MESSAGE_TYPE: &str = "message/rfc822";

/// Ids of an order that are named in a line of the log; the audit log has all of them.
const NAMED_MAX: usize = 10;

pub(crate) async fn status(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    answer(carry_out(&shared, &peer, |control| control.queue_status(None)).await)
}

pub(crate) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
) -> Response {
    let mut query = match QueueQuery::parse(&query.unwrap_or_default()) {
        Ok(query) => query,
        Err(message) => return refuse(&Refusal::invalid(message)),
    };
    query.limit.get_or_insert(PAGE_DEFAULT);
    answer(carry_out(&shared, &peer, move |control| control.queue_page(query)).await)
}

pub(crate) async fn message(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let headers = match query.as_deref() {
        None | Some("" | "headers=false") => false,
        Some("headers=true") => true,
        Some(other) => return refuse(&Refusal::invalid(format!("{other:?}: there is ?headers=true"))),
    };
    if headers && peer.role < Role::Operator {
        return forbid(&shared, &peer, None, "GET /api/v1/queue/messages/{id} with headers=true");
    }
    let message = match message_id(&id) {
        Ok(id) => carry_out(&shared, &peer, move |control| control.message(id, headers)).await,
        Err(refusal) => Err(refusal),
    };
    if let Ok(MessageView { headers: Some(headers), .. }) = &message {
        note_reading(&shared, peer, id, headers.len() as u64, "headers");
    }
    answer(message)
}

/// It changes nothing, but somebody reads somebody's mail.
fn note_reading(shared: &Shared, peer: Peer, id: String, length: u64, what: &str) {
    let handed_out = (Value::Null, json!({ "bytes": length, "of": what }));
    Ticket::for_reading(shared, peer, "read message").note(id, Ok(handed_out.into()));
}

pub(crate) async fn content(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Response {
    let content = match message_id(&id) {
        Ok(id) => carry_out(&shared, &peer, move |control| control.message_content(id)).await,
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
    note_reading(&shared, peer, id, length, "message");
    let headers = [(header::CONTENT_TYPE, MESSAGE_TYPE.to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    (StatusCode::OK, headers, body).into_response()
}

pub(crate) async fn order(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Response {
    let order = match read_order(request, Takes::Always, QueueOrder::check).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    if order.dry {
        ticket.waive();
        return answer(carry_out(&shared, ticket.peer(), move |control| control.order_queue(order)).await);
    }
    let told = |(order, ordered): &(QueueOrder, QueueOrdered)| Told::of_many(done(order, ordered), ordered.changed);
    let ticket = ticket.called(order.order.name());
    let what = Change { ticket, subject: subject(&order), told, patience: PATIENCE };
    let result = change(&shared, what, move |control| {
        Box::pin(async move { Ok((order.clone(), control.order_queue(order).await?)) })
    });
    answer(result.await.map(|(_, ordered)| ordered))
}

pub(crate) async fn verify(State(shared): State<Arc<Shared>>, Extension(ticket): Extension<Ticket>) -> Response {
    let told =
        |begun: &QueueVerification| (Value::Null, json!({ "running": begun.running, "bytes": begun.bytes })).into();
    let what = Change { ticket, subject: String::new(), told, patience: PATIENCE };
    answer(change(&shared, what, |control| control.verify_queue()).await)
}

pub(crate) async fn verification(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    answer(carry_out(&shared, &peer, |control| control.queue_verification()).await)
}

fn message_id(text: &str) -> Result<SpoolId, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(format!("{text:?}: {error}")))
}

/// What an order asked for and what came of it, for the audit log: which messages, exactly, if they were named.
fn done(order: &QueueOrder, ordered: &QueueOrdered) -> Value {
    json!({
        "order": value(order),
        "changed": ordered.changed,
        "unchanged": ordered.unchanged,
        "unknown": ordered.unknown.len(),
        "silent": value(&ordered.silent),
    })
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
