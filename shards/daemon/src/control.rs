//! What the admin socket can have done, carried out: by the keeper, or by the shards.

mod queue;

use crate::in_force::Publisher;
use crate::keeper::Request;
use crate::orders::{Explained, Order, Orders};
use crossbeam::channel::Sender;
use ringpost_admin::api::{BanAdd, BanView, Explanation, Moment, Reloaded, StepView};
use ringpost_admin::control::BoxFuture;
use ringpost_admin::{Control, Refusal};
use ringpost_base::{Network, SessionId, SpoolId};
use ringpost_policy::{Ban, OwnedValue, Stage, TrailStep};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a shard has for an answer; it gives them between two of its tasks.
const SHARD_PATIENCE: Duration = Duration::from_secs(3);

/// Carries out what the admin socket asks.
pub(crate) struct Commands {
    pub(crate) keeper: Sender<Request>,
    pub(crate) orders: Orders,
    pub(crate) publisher: Arc<Publisher>,
}

impl Commands {
    /// Has the keeper do something, and waits for its answer.
    fn keeper<T: Send + 'static>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> BoxFuture<'_, Result<T, Refusal>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.keeper.send(request(answer));
        Box::pin(async move {
            let gone = || Refusal::unavailable("the server is stopping");
            sent.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        })
    }
}

impl Control for Commands {
    fn bans(&self) -> BoxFuture<'_, Result<Vec<BanView>, Refusal>> {
        self.keeper(Request::Bans)
    }

    fn ban(&self, order: BanAdd) -> BoxFuture<'_, Result<BanView, Refusal>> {
        self.keeper(|answer| Request::Ban(order, answer))
    }

    fn unban(&self, network: Network) -> BoxFuture<'_, Result<BanView, Refusal>> {
        self.keeper(|answer| Request::Unban(network, answer))
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        self.keeper(|answer| Request::Reload(Some(answer)))
    }

    fn explain(&self, id: String) -> BoxFuture<'_, Result<Explanation, Refusal>> {
        Box::pin(async move {
            if self.publisher.current().source.config.explain.memory.0 == 0 {
                return Err(Refusal::unavailable("nothing is kept to explain: explain.memory is 0"));
            }
            let session = id.parse::<SessionId>().ok();
            let message = id.parse::<SpoolId>().map(|id| id.to_string()).unwrap_or_default();
            let mut since = None;
            for (shard, order) in self.orders.iter().enumerate() {
                let (answer, answered) = oneshot::channel();
                order.send(Order::Explain { session, message: message.clone(), answer });
                let Ok(Ok(Some(known))) = tokio::time::timeout(SHARD_PATIENCE, answered).await else { continue };
                since = since.or(known.since);
                if !known.steps.is_empty() {
                    return Ok(explanation(shard as u16, known, (!message.is_empty()).then_some(message)));
                }
            }
            let back = since.map_or(String::new(), |since| format!(" The trail reaches back to {:.0}.", Moment(since)));
            Err(Refusal::not_found(format!(
                "nothing is known of {id}: it is not of this server, or longer ago than explain.memory has room \
                 for.{back}"
            )))
        })
    }
}

fn explanation(shard: u16, known: Explained, message: Option<String>) -> Explanation {
    Explanation {
        session: known.session.to_string(),
        message,
        shard,
        complete: known.steps.first().is_some_and(begins),
        steps: known.steps.into_iter().map(view).collect(),
    }
}

/// Whether a session begins with this step.
fn begins(step: &TrailStep) -> bool {
    matches!(step.stage, Stage::Connect | Stage::Proxy | Stage::Ban)
}

fn view(step: TrailStep) -> StepView {
    let value = |value| match value {
        OwnedValue::Text(text) => Value::from(text),
        OwnedValue::Number(number) => Value::from(number),
        OwnedValue::Score(score) => Value::from(score),
    };
    StepView {
        at: Moment(step.at),
        stage: step.stage.name().to_owned(),
        outcome: (step.outcome != 0).then_some(step.outcome),
        rule: (!step.rule.is_empty()).then_some(step.rule),
        took_us: u64::try_from(step.took.as_micros()).unwrap_or(u64::MAX),
        inputs: step.inputs.into_iter().map(|(name, input)| (name, value(input))).collect(),
    }
}

/// A ban as the admin socket shows it.
pub(crate) fn ban_view(ban: &Ban) -> BanView {
    BanView {
        network: ban.network,
        reason: ban.reason.to_string(),
        by: ban.by.to_string(),
        since: Moment(ban.since),
        until: ban.until.map(Moment),
    }
}
