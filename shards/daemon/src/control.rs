//! What the admin socket can have done, carried out: by the keeper, or by the shards.

mod limits;
mod log;
mod queue;
mod sessions;
mod setup;

pub(crate) use sessions::{SessionsWanted, ShardSessions};
pub(crate) use setup::{access, audit};

use crate::in_force::Publisher;
use crate::keeper::Request;
use crate::main_requests::{Answer, MainRequest};
use crate::orders::{Explained, Order, Orders};
use crossbeam::channel::Sender;
use ringpost_admin::api::{self, BanAdd, BanView, Explanation, Moment, Reloaded, StepView};
use ringpost_admin::control::BoxFuture;
use ringpost_admin::{BanChange, Control, ProfileContent, ProfileFormat, Refusal};
use ringpost_base::{Network, SessionId, SpoolId};
use ringpost_control::{Board, Phase};
use ringpost_metrics::Block;
use ringpost_policy::{Ban, OwnedValue, Stage, TrailStep};
use ringpost_runtime::log::LogControl;
use ringpost_runtime::{ProfileError, Pulse, profile};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a shard has for an answer; it gives them between two of its tasks.
const SHARD_PATIENCE: Duration = Duration::from_secs(3);

/// Stacks of a profile a second of CPU time: not a multiple of any beat of the server's.
const PROFILE_HERTZ: u32 = 199;

/// Carries out what the admin socket asks.
pub(crate) struct Commands {
    pub(crate) keeper: Sender<Request>,
    pub(crate) orders: Orders,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) main: Sender<MainRequest>,
    pub(crate) log: LogControl,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) blocks: Vec<Arc<Block>>,
    pub(crate) board: Arc<Board>,
}

impl Commands {
    /// Has the keeper do something, and waits for its answer.
    fn keeper<T: Send + 'static>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> BoxFuture<'_, Result<T, Refusal>> {
        if self.is_starting() {
            return Box::pin(async { Err(starting()) });
        }
        let (answer, answered) = oneshot::channel();
        answered_by(self.keeper.send(request(answer)).is_ok(), answered)
    }

    /// Has the main thread do something, and waits for its answer.
    fn main<T: Send + 'static>(
        &self,
        request: impl FnOnce(Answer<T>) -> MainRequest,
    ) -> BoxFuture<'_, Result<T, Refusal>> {
        if self.board.state().phase.is_final() {
            return Box::pin(async { Err(stopping()) });
        }
        if self.is_starting() {
            return Box::pin(async { Err(starting()) });
        }
        let (answer, answered) = oneshot::channel();
        answered_by(self.main.send(request(answer)).is_ok(), answered)
    }

    /// Whether the main thread is still busy with the start, and there is perhaps no keeper yet.
    fn is_starting(&self) -> bool {
        self.board.state().phase == Phase::Starting
    }
}

fn stopping() -> Refusal {
    Refusal::unavailable("the server is stopping")
}

fn starting() -> Refusal {
    Refusal::unavailable(
        "the server is starting: it reads its spools back, which may take long after a crash; try again",
    )
}

fn answered_by<'a, T: Send + 'static>(
    sent: bool,
    answered: oneshot::Receiver<Result<T, Refusal>>,
) -> BoxFuture<'a, Result<T, Refusal>> {
    Box::pin(async move { if sent { answered.await.map_err(|_| stopping())? } else { Err(stopping()) } })
}

impl Control for Commands {
    fn hostname(&self) -> String {
        self.publisher.current().source.config.server.hostname.clone()
    }

    fn bans(&self) -> BoxFuture<'_, Result<Vec<BanView>, Refusal>> {
        self.keeper(Request::Bans)
    }

    fn ban(&self, order: BanAdd) -> BoxFuture<'_, Result<BanChange, Refusal>> {
        self.keeper(|answer| Request::Ban(order, answer))
    }

    fn unban(&self, network: Network) -> BoxFuture<'_, Result<BanView, Refusal>> {
        self.keeper(|answer| Request::Unban(network, answer))
    }

    fn reload(&self, order: api::ReloadOrder) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        self.keeper(|answer| Request::Reload(order, Some(answer)))
    }

    fn canary(&self) -> BoxFuture<'_, Result<Option<api::CanaryView>, Refusal>> {
        self.keeper(Request::Canary)
    }

    fn stop_canary(&self) -> BoxFuture<'_, Result<api::CanaryView, Refusal>> {
        self.keeper(Request::StopCanary)
    }

    fn sessions(&self, query: api::SessionQuery) -> BoxFuture<'_, Result<api::Sessions, Refusal>> {
        Box::pin(async move {
            let limit = query.limit.unwrap_or(api::SESSIONS_DEFAULT);
            let wanted = SessionsWanted { limit, client: query.client };
            let answers = self.ask_all(|_| true, |_, answer| Order::Sessions(wanted, answer)).await;
            Ok(sessions::merged(answers, limit))
        })
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<api::LimitView>, Refusal>> {
        Box::pin(async { Ok(limits::limits(&self.publisher.current().source, &self.blocks)) })
    }

    fn config(&self) -> BoxFuture<'_, Result<api::ConfigView, Refusal>> {
        Box::pin(async {
            let source = self.publisher.current().source;
            Ok(api::ConfigView { epoch: source.epoch, toml: source.config.render(), file: None })
        })
    }

    fn drain(&self, order: api::DrainOrder) -> BoxFuture<'_, Result<api::Draining, Refusal>> {
        self.main(|answer| MainRequest::Drain(order, answer))
    }

    fn upgrade(&self, order: api::UpgradeOrder) -> BoxFuture<'_, Result<api::Upgraded, Refusal>> {
        self.main(|answer| MainRequest::Upgrade(order, answer))
    }

    fn log_levels(&self) -> BoxFuture<'_, Result<api::LogLevelsView, Refusal>> {
        Box::pin(async { Ok(log::levels(&self.log)) })
    }

    fn set_log_levels(&self, levels: Option<api::LogLevelsView>) -> BoxFuture<'_, Result<api::LogLevelsView, Refusal>> {
        Box::pin(async { log::set_levels(&self.log, levels) })
    }

    fn profile(
        &self,
        shard: u16,
        duration: Duration,
        format: ProfileFormat,
    ) -> BoxFuture<'_, Result<ProfileContent, Refusal>> {
        let pulse = self.pulses.iter().find(|pulse| pulse.shard().0 == shard).cloned();
        Box::pin(async move {
            let count = self.pulses.len();
            let none = || Refusal::not_found(format!("there is no shard {shard}; there are {count}, from 0"));
            let pulse = pulse.ok_or_else(none)?;
            let (answer, answered) = oneshot::channel();
            let work = move || {
                // Whoever asked may have given up.
                let _ = answer.send(profiled(&pulse, duration, format));
            };
            let started = std::thread::Builder::new().name("profile".to_owned()).spawn(work);
            started.map_err(|error| Refusal::unavailable(format!("no thread to take the profile: {error}")))?;
            answered.await.map_err(|_| Refusal::unavailable("the profile was given up; this is a bug"))?
        })
    }

    fn explain(&self, id: String) -> BoxFuture<'_, Result<Explanation, Refusal>> {
        Box::pin(async move {
            if self.publisher.current().source.config.explain.memory.0 == 0 {
                return Err(Refusal::unavailable("nothing is kept to explain: explain.memory is 0"));
            }
            let session = id.parse::<SessionId>().ok();
            let message = id.parse::<SpoolId>().map(|id| id.to_string()).unwrap_or_default();
            let question = |_, answer| Order::Explain { session, message: message.clone(), answer };
            let (mut since, mut silent) = (None, None);
            for (shard, told) in self.ask_all_within(SHARD_PATIENCE, |_| true, question).await {
                match told {
                    Some(Some(known)) if !known.steps.is_empty() => {
                        return Ok(explanation(shard, known, (!message.is_empty()).then_some(message)));
                    }
                    Some(known) => since = since.or(known.and_then(|known| known.since)),
                    None => silent = silent.or(Some(shard)),
                }
            }
            if let Some(shard) = silent {
                return Err(Refusal::unavailable(format!("shard {shard} did not answer in time; it may know {id}")));
            }
            let back = since.map_or(String::new(), |since| format!(" The trail reaches back to {:.0}.", Moment(since)));
            Err(Refusal::not_found(format!(
                "nothing is known of {id}: it is not of this server, or longer ago than explain.memory has room \
                 for.{back}"
            )))
        })
    }
}

/// Takes a profile; blocks for so long.
fn profiled(pulse: &Pulse, duration: Duration, format: ProfileFormat) -> Result<ProfileContent, Refusal> {
    let profile = profile(pulse, duration, PROFILE_HERTZ).map_err(|error| match error {
        ProfileError::Busy => Refusal::conflict(error.to_string()),
        _ => Refusal::unavailable(error.to_string()),
    })?;
    Ok(match format {
        ProfileFormat::Svg => ProfileContent { content_type: "image/svg+xml", text: profile.flame_graph() },
        ProfileFormat::Folded => ProfileContent { content_type: "text/plain; charset=utf-8", text: profile.folded() },
    })
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
