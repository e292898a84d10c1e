//! The handlers that look at the server and change nothing.
//!
//! Invariants are those of [`orders`](crate::orders). The status and the shards are answered whatever else is under way.

use crate::access::Peer;
use crate::api::{AUDIT_DEFAULT, AUDIT_MAX, ConfigView, SESSIONS_DEFAULT, SessionQuery, limit};
use crate::control::{PROFILE_MAX, ProfileFormat, Refusal};
use crate::orders::{PATIENCE, answer, carry_out, carry_out_within, json, refuse};
use crate::routes::Shared;
use crate::status as told;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringpost_base::{SessionId, SpoolId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the status waits for what the shards have to be asked for.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);

/// How long each shard has for that, so that what the others tell comes in time.
const QUEUE_PATIENCE: Duration = Duration::from_millis(200);

/// How long a profile takes unless the query says so.
const PROFILE_DEFAULT: Duration = Duration::from_secs(10);

pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    // Of the shards that answer in time: one that does not is no reason to say nothing of the others.
    let queue = shared.sources.control.queue_status(Some(QUEUE_PATIENCE));
    let queue = timeout(STATUS_PATIENCE, queue).await;
    let mut status = told::status(&shared);
    status.queue_oldest_seconds = queue.ok().and_then(Result::ok).and_then(|queue| queue.oldest_seconds);
    answer(Ok(status))
}

pub(crate) async fn shards(State(shared): State<Arc<Shared>>) -> Response {
    answer(Ok(told::shards(&shared)))
}

pub(crate) async fn config(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    let config = carry_out(&shared, &peer, |control| control.config()).await;
    let file = shared.sources.identity.config_file.clone();
    answer(config.map(|config| ConfigView { file, ..config }))
}

pub(crate) async fn canary(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    answer(carry_out(&shared, &peer, |control| control.canary()).await)
}

pub(crate) async fn log_levels(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    answer(carry_out(&shared, &peer, |control| control.log_levels()).await)
}

pub(crate) async fn limits(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    answer(carry_out(&shared, &peer, |control| control.limits()).await)
}

pub(crate) async fn bans(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>) -> Response {
    answer(carry_out(&shared, &peer, |control| control.bans()).await)
}

pub(crate) async fn sessions(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
) -> Response {
    let mut query = match SessionQuery::parse(&query.unwrap_or_default()) {
        Ok(query) => query,
        Err(message) => return refuse(&Refusal::invalid(message)),
    };
    query.limit.get_or_insert(SESSIONS_DEFAULT);
    answer(carry_out(&shared, &peer, move |control| control.sessions(query)).await)
}

pub(crate) async fn explain(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Response {
    // As ids are printed, whatever the case they were typed in.
    let session = id.parse::<SessionId>().map(|id| id.to_string());
    match session.or_else(|_| id.parse::<SpoolId>().map(|id| id.to_string())) {
        Ok(id) => answer(carry_out(&shared, &peer, move |control| control.explain(id)).await),
        Err(error) => refuse(&Refusal::invalid(format!("{id:?}: {error}"))),
    }
}

pub(crate) async fn audit(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let mut most = AUDIT_DEFAULT;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let read = if key == "limit" {
            limit(&value, AUDIT_MAX)
        } else {
            Err(format!("there is no key {key:?}; there is limit"))
        };
        match read {
            Ok(read) => most = read,
            Err(message) => return refuse(&Refusal::invalid(message)),
        }
    }
    let off = || Refusal::not_found("there is no audit log: admin.audit is \"\"");
    match shared.audit.recent(most).await {
        Some(entries) => json(StatusCode::OK, format!("[{}]", entries.join(","))),
        None => refuse(&off()),
    }
}

pub(crate) async fn profile(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
) -> Response {
    let ProfileQuery { shard, duration, format } = match ProfileQuery::parse(&query.unwrap_or_default()) {
        Ok(query) => query,
        Err(message) => return refuse(&Refusal::invalid(message)),
    };
    let patience = duration + PATIENCE;
    match carry_out_within(&shared, &peer, patience, move |control| control.profile(shard, duration, format)).await {
        Ok(profile) => (StatusCode::OK, [(header::CONTENT_TYPE, profile.content_type)], profile.text).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// The query of `GET /debug/profile`.
#[derive(Debug, PartialEq, Eq)]
struct ProfileQuery {
    shard: u16,
    duration: Duration,
    format: ProfileFormat,
}

impl ProfileQuery {
    fn parse(query: &str) -> Result<Self, String> {
        let mut read = Self { shard: 0, duration: PROFILE_DEFAULT, format: ProfileFormat::default() };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("shard", number) => {
                    read.shard = number.parse().map_err(|_| format!("shard={number}: not the number of a shard"))?;
                }
                ("seconds", number) => {
                    let seconds = number.parse().ok().filter(|seconds| (1..=PROFILE_MAX.as_secs()).contains(seconds));
                    let wrong = || format!("seconds={number}: not a whole number from 1 to {}", PROFILE_MAX.as_secs());
                    read.duration = Duration::from_secs(seconds.ok_or_else(wrong)?);
                }
                ("format", "svg") => read.format = ProfileFormat::Svg,
                ("format", "folded") => read.format = ProfileFormat::Folded,
                ("format", other) => return Err(format!("format={other}: there are svg and folded")),
                (other, _) => return Err(format!("there is no key {other:?}; there are shard, seconds and format")),
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_profiles() {
        let of = |shard, seconds, format| ProfileQuery { shard, duration: Duration::from_secs(seconds), format };
        for (query, expected) in [
            ("", Ok(of(0, 10, ProfileFormat::Svg))),
            ("shard=3&seconds=60&format=folded", Ok(of(3, 60, ProfileFormat::Folded))),
            ("seconds=61", Err("seconds=61: not a whole number from 1 to 60")),
            ("seconds=0", Err("seconds=0: not a whole number from 1 to 60")),
            ("shard=-1", Err("shard=-1: not the number of a shard")),
            ("format=png", Err("format=png: there are svg and folded")),
            ("core=1", Err("there is no key \"core\"; there are shard, seconds and format")),
        ] {
            assert_eq!(ProfileQuery::parse(query), expected.map_err(str::to_owned), "{query}");
        }
    }
}
