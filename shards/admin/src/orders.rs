//! What all handlers of the API do: see who may, read what is asked, have it done, note it, and answer.
//!
//! Invariants: whatever goes through [`Control`] runs in a task of its own, so that a client that hangs up cannot leave an
//! order half done; at most [`UNDER_WAY_MAX`] of a kind run at a time, where what readers look up, what operators look up and
//! what changes something are three kinds; and a client waits for one no longer than [`PATIENCE`], unless the order is one
//! that takes longer. Every order that changes the server leaves one entry in the
//! audit log, with the user who gave it, done or refused. A body is read up to [`BODY_BYTES_MAX`] and [`BODY_TIMEOUT`].

use crate::access::{Peer, Role};
use crate::api::{AuditWho, ErrorView};
use crate::audit::{Audit, Note};
use crate::control::{BoxFuture, Control, Refusal, RefusalStatus};
use crate::route::{Route, Takes};
use crate::routes::Shared;
use crate::seldom::SeldomByUser;
use axum::body::{Bytes, HttpBody};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use ringpost_base::SpoolId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bytes of a request's body: an order is a few fields.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Time for a body to come: it was ready before the client connected.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Orders under way, of each kind: they come from people, and from scripts one after the other.
pub(crate) const UNDER_WAY_MAX: usize = 16;

/// How often each of both logs tells of a user's requests that were refused for the user's role.
const FORBIDDEN_EVERY: Duration = Duration::from_secs(1);

/// How long an order may take before the client is told that it does: below the ten seconds that the command line waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

const _: () = assert!(BODY_BYTES_MAX > 2 * crate::api::IDS_MAX * SpoolId::TEXT_LEN, "an order with the most ids fits");
const _: () = assert!(BODY_BYTES_MAX > 4 * crate::api::REASON_BYTES_MAX, "an order with the longest reason fits");

/// The right of a request to be noted, once.
#[derive(Clone)]
pub(crate) struct Ticket {
    audit: Audit,
    peer: Peer,
    what: &'static str,
    noted: Arc<AtomicBool>,
}

/// What has come of an order.
#[derive(Default)]
pub(crate) struct Told {
    /// What it was like before.
    before: Value,
    /// What it is like since.
    after: Value,
    /// How many things were changed, if it was about many.
    changed: Option<u64>,
}

impl Told {
    /// Of an order about many things.
    pub(crate) fn of_many(after: Value, changed: u64) -> Self {
        Self { before: Value::Null, after, changed: Some(changed) }
    }
}

impl From<(Value, Value)> for Told {
    fn from((before, after): (Value, Value)) -> Self {
        Self { before, after, changed: None }
    }
}

impl Ticket {
    fn new(audit: &Audit, peer: Peer, what: &'static str) -> Self {
        Self { audit: audit.clone(), peer, what, noted: Arc::default() }
    }

    /// The same by a name that says more of what is ordered.
    pub(crate) fn called(self, what: &'static str) -> Self {
        Self { what, ..self }
    }

    /// A ticket for something that changes nothing and is noted all the same.
    pub(crate) fn for_reading(shared: &Shared, peer: Peer, what: &'static str) -> Self {
        Self::new(&shared.audit, peer, what)
    }

    /// Says that there is nothing to be noted.
    pub(crate) fn waive(&self) {
        self.noted.store(true, Relaxed);
    }

    /// Notes what came of it, in the audit log and in the log.
    pub(crate) fn note(&self, subject: String, outcome: Result<Told, &str>) {
        let Self { audit, peer, what, noted } = self;
        noted.store(true, Relaxed);
        let (refused, Told { before, after, changed }) = match outcome {
            Ok(told) => (None, told),
            Err(reason) => (Some(reason.to_owned()), Told::default()),
        };
        let counted = changed.map(|changed| format!("{subject}: {changed} changed"));
        let words = counted.as_deref().unwrap_or(&subject);
        match &refused {
            None => tracing::info!(order = what, subject = words, uid = peer.uid, "order carried out"),
            Some(reason) => tracing::info!(order = what, subject = words, uid = peer.uid, reason, "order refused"),
        }
        audit.note(Note { who: who(peer), what, subject, before, after, refused });
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    fn is_noted(&self) -> bool {
        self.noted.load(Relaxed)
    }
}

fn who(peer: &Peer) -> AuditWho {
    AuditWho { via: "socket".to_owned(), uid: Some(peer.uid), gid: Some(peer.gid), pid: peer.pid, user: None }
}

/// What a refused request is noted with.
#[derive(Clone)]
struct Refused(String);

/// The route with its doorkeeper: lets those in who may, and sees to it that a change is noted.
pub(crate) fn permit(shared: &Arc<Shared>, route: Route) -> Route {
    let (shared, who, what) = (Arc::clone(shared), route.who, route.changes);
    let method_and_path = format!("{} {}", route.method, route.path);
    let doorkeeper = move |Extension(peer): Extension<Peer>, mut request: Request, next: Next| {
        let ticket = what.map(|what| Ticket::new(&shared.audit, peer, what));
        let (shared, method_and_path) = (Arc::clone(&shared), method_and_path.clone());
        async move {
            if let Some(ticket) = &ticket {
                request.extensions_mut().insert(ticket.clone());
            }
            let response = if peer.role >= who {
                next.run(request).await
            } else {
                forbid(&shared, &peer, ticket.as_ref(), &method_and_path)
            };
            if let Some(ticket) = ticket.filter(|ticket| !ticket.is_noted()) {
                let reason = response.extensions().get::<Refused>().map(|refused| refused.0.as_str());
                let outcome = if response.status().is_success() { Ok(Told::default()) } else { Err(reason) };
                ticket.note(String::new(), outcome.map_err(|reason| reason.unwrap_or("not understood")));
            }
            response
        }
    };
    Route { handler: route.handler.route_layer(from_fn(doorkeeper)), ..route }
}

/// Refuses what a role is too small for. A reader can have that as often as it likes, and neither log is to be filled with
/// it: each tells of a user's refusals once a second, with how many there were between.
pub(crate) fn forbid(shared: &Shared, peer: &Peer, ticket: Option<&Ticket>, request: &str) -> Response {
    let (now, mut forbidden) = (Instant::now(), shared.forbidden.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(unsaid) = forbidden.logged.turn(peer.uid, now) {
        tracing::warn!(uid = peer.uid, request, unsaid, "refused on the admin socket");
    }
    let words = format!("a {} may not {request}: it takes an {}", peer.role.name(), Role::Operator.name());
    let mut response = error(StatusCode::FORBIDDEN, &words);
    if let Some(ticket) = ticket {
        match forbidden.noted.turn(peer.uid, now) {
            None => ticket.waive(),
            Some(0) => {}
            Some(unsaid) => {
                response.extensions_mut().insert(Refused(format!("{words}; so were {unsaid} requests before it")));
            }
        }
    }
    response
}

/// When users were last told of whose requests were refused for their role.
pub(crate) struct Forbidden {
    logged: SeldomByUser,
    noted: SeldomByUser,
}

impl Default for Forbidden {
    fn default() -> Self {
        Self { logged: SeldomByUser::new(FORBIDDEN_EVERY), noted: SeldomByUser::new(FORBIDDEN_EVERY) }
    }
}

impl Forbidden {
    /// Notes those that nothing came after.
    pub(crate) fn note_overdue(&mut self, audit: &Audit) {
        for (uid, unsaid) in self.noted.overdue(Instant::now()) {
            let who = AuditWho { via: "socket".to_owned(), uid: Some(uid), ..AuditWho::default() };
            let refused = Some("a reader may not; of those in a second the first is noted by itself".to_owned());
            let (subject, before, after) = (format!("{unsaid} requests"), Value::Null, Value::Null);
            audit.note(Note { who, what: "requests", subject, before, after, refused });
        }
    }
}

/// How many more of each kind may be under way.
pub(crate) struct Permits {
    readers: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        let [readers, operators, changes] = [(); 3].map(|()| Arc::new(Semaphore::new(UNDER_WAY_MAX)));
        Self { readers, operators, changes }
    }
}

impl Permits {
    fn looking(&self, role: Role) -> &Arc<Semaphore> {
        match role {
            Role::Reader => &self.readers,
            Role::Operator => &self.operators,
        }
    }
}

/// Has something looked up, in a task that outlives the request.
pub(crate) async fn carry_out<T, F>(shared: &Arc<Shared>, peer: &Peer, order: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a dyn Control) -> BoxFuture<'a, Result<T, Refusal>> + Send + 'static,
{
    carry_out_within(shared, peer, PATIENCE, order).await
}

/// The same of what takes longer than most.
pub(crate) async fn carry_out_within<T, F>(
    shared: &Arc<Shared>,
    peer: &Peer,
    patience: Duration,
    order: F,
) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a dyn Control) -> BoxFuture<'a, Result<T, Refusal>> + Send + 'static,
{
    begin(shared, shared.permits.looking(peer.role), patience, order, |_| {}).await
}

/// A change that is to be made: who is to be noted for it, and with what.
pub(crate) struct Change<T> {
    pub(crate) ticket: Ticket,
    pub(crate) subject: String,
    /// What it was like before and what it is like since, of what came of it.
    pub(crate) told: fn(&T) -> Told,
    pub(crate) patience: Duration,
}

/// Has something changed, in a task that outlives the request, and notes what came of it.
pub(crate) async fn change<T, F>(shared: &Arc<Shared>, change: Change<T>, order: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a dyn Control) -> BoxFuture<'a, Result<T, Refusal>> + Send + 'static,
{
    let Change { ticket, subject, told, patience } = change;
    let noting = Noting { ticket: ticket.clone(), subject, unnoted: true };
    let result = begin(shared, &shared.permits.changes, patience, order, move |result: &Result<T, Refusal>| {
        noting.end(result, told)
    })
    .await;
    // It is under way, and will be noted when it is done; the answer does not say what came of it.
    ticket.waive();
    result
}

/// Sees to it that an order that was begun is noted, also if it panics or the server stops meanwhile.
struct Noting {
    ticket: Ticket,
    subject: String,
    unnoted: bool,
}

impl Noting {
    fn end<T>(mut self, result: &Result<T, Refusal>, told: fn(&T) -> Told) {
        self.unnoted = false;
        let outcome = result.as_ref().map(told).map_err(|refusal| refusal.message.as_str());
        self.ticket.note(std::mem::take(&mut self.subject), outcome);
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        if self.unnoted {
            self.ticket
                .note(std::mem::take(&mut self.subject), Err("it was not carried through; what it did is not known"));
        }
    }
}

async fn begin<T, F>(
    shared: &Arc<Shared>,
    permits: &Arc<Semaphore>,
    patience: Duration,
    order: F,
    ended: impl FnOnce(&Result<T, Refusal>) + Send + 'static,
) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a dyn Control) -> BoxFuture<'a, Result<T, Refusal>> + Send + 'static,
{
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        let busy = Err(Refusal::unavailable(format!("{UNDER_WAY_MAX} orders are under way already; try again")));
        ended(&busy);
        return busy;
    };
    let shared = Arc::clone(shared);
    let task = tokio::spawn(async move {
        // Dropped with what is below it, so that a panic gives the permit back.
        let _permit = permit;
        let result = order(&*shared.sources.control).await;
        ended(&result);
        result
    });
    match timeout(patience, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) if error.is_panic() => {
            tracing::error!("an order over the admin socket panicked; this is a bug");
            Err(Refusal::unavailable("the server failed at it; this is a bug, please report it"))
        }
        Ok(Err(_)) => Err(Refusal::unavailable("the server is stopping")),
        Err(_) => Err(Refusal::unavailable(format!(
            "not done within {} s, and still under way: a shard is slow to answer, `ringpost status` may tell which",
            patience.as_secs()
        ))),
    }
}

/// Reads an order, and refuses it if `check` does.
pub(crate) async fn order<T: DeserializeOwned>(
    request: Request,
    takes: Takes,
    check: fn(&T) -> Result<(), String>,
) -> Result<T, Response> {
    // What is declared too large need not come first.
    if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut body = match timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(body) => body.map_err(|rejection| refuse_body(&rejection))?,
        Err(_) => return Err(error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    if takes == Takes::IfAny && body.trim_ascii().is_empty() {
        body = Bytes::from_static(b"{}");
    }
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
        RefusalStatus::Forbidden => StatusCode::FORBIDDEN,
        RefusalStatus::Conflict => StatusCode::CONFLICT,
        RefusalStatus::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    error(status, &refusal.message)
}

fn error(status: StatusCode, message: &str) -> Response {
    let view = ErrorView { error: message.to_owned() };
    let mut response = json(status, serde_json::to_string(&view).unwrap_or_default());
    response.extensions_mut().insert(Refused(message.to_owned()));
    response
}

pub(crate) fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
}

/// As JSON for the audit log.
pub(crate) fn value(view: impl Serialize) -> Value {
    // It fails only for maps whose keys are no text, and there are none.
    serde_json::to_value(view).unwrap_or_default()
}
