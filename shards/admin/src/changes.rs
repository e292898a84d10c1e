//! The handlers that change the server: bans, config, log levels, and its end.
//!
//! Invariants are those of [`orders`](crate::orders).

use crate::api::{BanAdd, DrainOrder, Draining, LogLevelsView, ReloadOrder, Reloaded, UpgradeOrder, Upgraded};
use crate::control::{BanChange, Refusal};
use crate::health::Health;
use crate::orders::{Change, PATIENCE, Ticket, answer, change, order as read_order, refuse, value};
use crate::route::Takes;
use crate::routes::Shared;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use ringpost_base::Network;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long another process may take to be ready before the client is told that it is not: it reads its config and every
/// certificate, and gets its cores going.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(240);

pub(crate) async fn ban(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Response {
    let order = match read_order(request, Takes::Always, BanAdd::check).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let told = |change: &BanChange| (value(&change.former), value(&change.ban)).into();
    let what = Change { ticket, subject: order.network.to_string(), told, patience: PATIENCE };
    let result = change(&shared, what, move |control| control.ban(order)).await;
    answer(result.map(|change| change.ban))
}

pub(crate) async fn unban(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    Path(network): Path<String>,
) -> Response {
    let parsed = network.parse::<Network>();
    let what =
        Change { ticket, subject: network.clone(), told: |ban| (value(ban), Value::Null).into(), patience: PATIENCE };
    let result = change(&shared, what, move |control| match parsed {
        Ok(network) => control.unban(network),
        Err(error) => Box::pin(async move { Err(Refusal::invalid(format!("{network:?}: {error}"))) }),
    });
    answer(result.await)
}

pub(crate) async fn reload(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Response {
    let order: ReloadOrder = match read_order(request, Takes::IfAny, ReloadOrder::check).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let former = shared.sources.board.state().epoch;
    let told = |(former, reloaded): &(u64, Reloaded)| (json!({ "epoch": former }), value(reloaded)).into();
    let canary = |canary| format!("canary {}", value(canary));
    let subject = order.canary.as_ref().map(canary).unwrap_or_default();
    let what = Change { ticket, subject, told, patience: PATIENCE };
    let result =
        change(&shared, what, move |control| Box::pin(async move { Ok((former, control.reload(order).await?)) }));
    answer(result.await.map(|(_, reloaded)| reloaded))
}

pub(crate) async fn stop_canary(State(shared): State<Arc<Shared>>, Extension(ticket): Extension<Ticket>) -> Response {
    let told = |canary: &_| (json!({ "state": "running" }), value(canary)).into();
    let what = Change { ticket, subject: String::new(), told, patience: PATIENCE };
    answer(change(&shared, what, |control| control.stop_canary()).await)
}

pub(crate) async fn drain(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Response {
    let order: DrainOrder = match read_order(request, Takes::IfAny, |_| Ok(())).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let former = Health::read(&shared.sources).state_name();
    let told = |(former, draining): &(&str, Draining)| (json!({ "state": former }), value(draining)).into();
    let subject = order.queue.map(|queue| format!("with the queue, for {queue} at most")).unwrap_or_default();
    let what = Change { ticket, subject, told, patience: PATIENCE };
    let result =
        change(&shared, what, move |control| Box::pin(async move { Ok((former, control.drain(order).await?)) }));
    answer(result.await.map(|(_, draining)| draining))
}

pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Response {
    let order = match read_order(request, Takes::IfAny, UpgradeOrder::check).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    // It is run with the rights of the server, which are more than an operator has.
    if order.binary.is_some() && !ticket.peer().is_own {
        return refuse(&Refusal::forbidden(
            "which program takes over is for root and the server's own user to say; without `binary` it is what is \
             installed now",
        ));
    }
    let version = shared.sources.version;
    let told = |(version, upgraded): &(&str, Upgraded)| {
        (json!({ "process": std::process::id(), "version": version }), value(upgraded)).into()
    };
    let subject = order.binary.clone().unwrap_or_default();
    let what = Change { ticket, subject, told, patience: UPGRADE_PATIENCE };
    let result =
        change(&shared, what, move |control| Box::pin(async move { Ok((version, control.upgrade(order).await?)) }));
    answer(result.await.map(|(_, upgraded)| upgraded))
}

pub(crate) async fn set_log_levels(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Response {
    match read_order(request, Takes::Always, LogLevelsView::check).await {
        Ok(levels) => change_log_levels(&shared, ticket, Some(levels)).await,
        Err(refusal) => refusal,
    }
}

pub(crate) async fn reset_log_levels(
    State(shared): State<Arc<Shared>>,
    Extension(ticket): Extension<Ticket>,
) -> Response {
    change_log_levels(&shared, ticket, None).await
}

async fn change_log_levels(shared: &Arc<Shared>, ticket: Ticket, levels: Option<LogLevelsView>) -> Response {
    let told = |(former, levels): &(LogLevelsView, LogLevelsView)| (value(former), value(levels)).into();
    let what = Change { ticket, subject: String::new(), told, patience: PATIENCE };
    let result = change(shared, what, move |control| {
        Box::pin(async move { Ok((control.log_levels().await?, control.set_log_levels(levels).await?)) })
    });
    answer(result.await.map(|(_, levels)| levels))
}
