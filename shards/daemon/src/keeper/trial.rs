//! A canary: a new config on one core, for a while, beside the others.
//!
//! All of it is made and checked as for any reload, and then put in force on one shard, but for what all cores decide together
//! (`Config::trial`). Each round the keeper compares that core with the others. It takes the config back when the core does
//! worse, and else puts it in force on all of them when its time is over: as it was read at the start, not as the file is by
//! then.
//!
//! While it runs, files that the config names are not taken up, since it is not known yet by which config; and another reload
//! ends it.

use super::Keeper;
use super::readings::Reading;
use super::reloading::{Made, Read, Watch};
use crate::in_force::Source;
use ringpost_admin::api::{AuditWho, CanaryNumbers, CanaryOrder, CanaryView, Moment, Reloaded};
use ringpost_admin::{Note, Refusal};
use ringpost_base::{ShardId, Timestamp};
use ringpost_config::{Canary, Trial as Tried};
use ringpost_metrics::Block;
use ringpost_policy::{CanaryBands, CanaryJudge, Conduct};
use ringpost_runtime::now;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time. Changes of certificates and other files wait for its end.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// The one that runs.
pub(super) struct Trial {
    core: usize,
    shard: ShardId,
    since: Timestamp,
    begun: Instant,
    span: Duration,
    /// What all are to serve by in the end.
    made: Made,
    watches: Vec<Watch>,
    judge: CanaryJudge,
    at_start: Sides<Reading>,
    /// What all did before it.
    before: Conduct,
}

/// The core, and the others together.
struct Sides<T> {
    canary: T,
    others: T,
}

impl Sides<Reading> {
    fn read(shard: ShardId, blocks: &[Arc<Block>]) -> Self {
        let others = blocks.iter().enumerate().filter(|(at, _)| *at != shard.index()).map(|(_, block)| block);
        Self { canary: Reading::of(blocks.get(shard.index())), others: Reading::of(others) }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self { canary: self.canary.since(&earlier.canary), others: self.others.since(&earlier.others) }
    }
}

impl Trial {
    fn so_far(&self, blocks: &[Arc<Block>]) -> Sides<Reading> {
        Sides::read(self.shard, blocks).since(&self.at_start)
    }

    fn view(&self, state: &str, why: Option<String>, blocks: &[Arc<Block>]) -> CanaryView {
        let Sides { canary, others } = self.so_far(blocks);
        let ends = if state == RUNNING { self.since.after(self.span) } else { now().wall };
        let numbers: [CanaryNumbers; 2] = [canary.numbers(), others.numbers()];
        CanaryView {
            core: self.core,
            shard: self.shard.0,
            epoch: self.made.source.epoch,
            since: Moment(self.since),
            until: Moment(ends),
            state: state.to_owned(),
            why,
            canary: numbers[0],
            others: numbers[1],
        }
    }
}

const RUNNING: &str = "running";
const KEPT: &str = "kept";
const TAKEN_BACK: &str = "taken back";
const STOPPED: &str = "stopped";

impl Keeper {
    /// Reads the config and puts it in force on one core.
    pub(super) fn begin_trial(&mut self, order: CanaryOrder) -> Result<Reloaded, Refusal> {
        let former = self.publisher.current().source;
        let shard = self.shard_to_try(&order, &former)?;
        let invalid = |error: anyhow::Error| Refusal::invalid(format!("{error:#}"));
        let Read { config, changed, needs_restart, watches } = self.read(&former).map_err(invalid)?;
        if changed.is_empty() {
            return Ok(Reloaded { epoch: former.epoch, changed, needs_restart, warnings: Vec::new() });
        }
        let Tried { config: tried, held } = former.config.trial(&config).map_err(|reasons| {
            Refusal::conflict(format!("this config can't be tried on one core alone\n{}", reasons.join("\n")))
        })?;
        if changed.iter().all(|key| held.contains(key)) {
            return Err(Refusal::conflict(format!(
                "nothing that has changed can be tried on one core alone: {}. Reload without a canary",
                held.join(", ")
            )));
        }
        let bands = bands(&config.canary);
        let epoch = self.standing.epoch + 1;
        let made = self.make(config, &former, epoch).map_err(invalid)?;
        let source = self.make(tried, &made.source, epoch).map_err(invalid)?.source;
        self.standing.epoch = epoch;
        let before = self.standing.before.conduct(&self.blocks);
        let late = self.publisher.try_on(shard, Arc::new(source));
        if let Some(reason) = self.not_taken_up(shard, epoch) {
            self.publisher.end_trial(None);
            return Err(Refusal::conflict(format!("the core can't take it up and goes on as before: {reason}")));
        }
        let trial = Trial {
            core: order.core,
            shard,
            since: now().wall,
            begun: Instant::now(),
            span: order.for_.0,
            made,
            watches,
            judge: CanaryJudge::new(bands),
            at_start: Sides::read(shard, &self.blocks),
            before,
        };
        tracing::info!(core = order.core, epoch, span = %order.for_, ?changed, ?held, "canary begins");
        self.health.canary(trial.view(RUNNING, None, &self.blocks));
        self.standing.trial = Some(trial);
        let mut warnings: Vec<String> =
            late.iter().map(|shard| format!("shard {shard} has not taken it up yet")).collect();
        if !held.is_empty() {
            warnings.push(format!(
                "not tried, as all cores decide it together, until it is in force on all: {}",
                held.join(", ")
            ));
        }
        Ok(Reloaded { epoch, changed, needs_restart, warnings })
    }

    fn shard_to_try(&self, order: &CanaryOrder, former: &Source) -> Result<ShardId, Refusal> {
        if let Some(trial) = &self.standing.trial {
            return Err(Refusal::conflict(format!(
                "a config is tried on core {} already; `ringpost canary stop` takes it back",
                trial.core
            )));
        }
        if order.for_.0 > LONGEST {
            return Err(Refusal::invalid("a canary runs for a day at most"));
        }
        let core = former.cores.iter().find(|core| core.cpu == order.core);
        core.map(|core| core.shard).ok_or_else(|| {
            let cpus: Vec<String> = former.cores.iter().map(|core| core.cpu.to_string()).collect();
            Refusal::invalid(format!("core {} is not in use, only these are: {}", order.core, cpus.join(", ")))
        })
    }

    fn not_taken_up(&self, shard: ShardId, epoch: u64) -> Option<String> {
        let mut failures = self.publisher.failures_of(epoch).into_iter();
        failures.find(|(failed, _)| *failed == shard).map(|(_, reason)| reason)
    }

    /// The one that runs, or the last.
    pub(super) fn canary(&self) -> Option<CanaryView> {
        let running = self.standing.trial.as_ref().map(|trial| trial.view(RUNNING, None, &self.blocks));
        running.or_else(|| self.standing.last.clone())
    }

    /// Compares the core with the others, and draws the consequence.
    pub(super) fn judge(&mut self) {
        let Some(trial) = &self.standing.trial else { return };
        let (shard, epoch) = (trial.shard, trial.made.source.epoch);
        let Sides { canary, others } = trial.so_far(&self.blocks);
        let complaint = trial.judge.judge(&canary.conduct(), &others.conduct(), &trial.before);
        let is_over = trial.begun.elapsed() >= trial.span;
        let complaint = self.not_taken_up(shard, epoch).or_else(|| complaint.map(|complaint| complaint.to_string()));
        match complaint {
            Some(complaint) => drop(self.take_back(TAKEN_BACK, Some(complaint))),
            None if is_over => self.keep(),
            None => self.health.canary(trial.view(RUNNING, None, &self.blocks)),
        }
    }

    /// Puts it in force everywhere.
    fn keep(&mut self) {
        let Some(trial) = self.standing.trial.take() else { return };
        let view = trial.view(KEPT, None, &self.blocks);
        let tries = trial.so_far(&self.blocks).canary.conduct().tries;
        match self.put_in_force(trial.made) {
            Ok((_, warnings)) => {
                self.standing.watches = trial.watches;
                let idle = (tries == 0).then(|| "nothing came to it meanwhile".to_owned());
                let why: Vec<String> = idle.into_iter().chain(warnings).collect();
                let why = (!why.is_empty()).then(|| why.join("; "));
                self.ended(CanaryView { why, ..view });
            }
            Err(error) => {
                self.publisher.end_trial(None);
                let why = Some(format!("it can't be put in force everywhere: {error:#}"));
                self.ended(CanaryView { state: TAKEN_BACK.to_owned(), why, ..view });
            }
        }
    }

    /// Has its core serve as the others again.
    fn take_back(&mut self, state: &str, why: Option<String>) -> Option<CanaryView> {
        let trial = self.standing.trial.take()?;
        self.publisher.end_trial(None);
        let view = trial.view(state, why, &self.blocks);
        self.ended(view.clone());
        Some(view)
    }

    /// Takes it back since something else comes, if one runs.
    pub(super) fn give_up_trial(&mut self, why: &str) {
        self.take_back(STOPPED, Some(why.to_owned()));
    }

    /// Takes it back as an operator asks for, which is noted where he asks.
    pub(super) fn stop_trial(&mut self) -> Result<CanaryView, Refusal> {
        self.take_back(STOPPED, None).ok_or_else(|| Refusal::conflict("no canary is running"))
    }

    fn ended(&mut self, view: CanaryView) {
        let CanaryView { core, epoch, state, why, canary, others, .. } = &view;
        let reason = why.as_deref().unwrap_or("");
        let (messages, of_others) = (canary.messages, others.messages);
        if state == TAKEN_BACK {
            tracing::warn!(core, epoch, reason, messages, of_others, "canary taken back");
        } else {
            tracing::info!(core, epoch, state, reason, messages, of_others, "canary ended");
        }
        if state != STOPPED || why.is_some() {
            let who = AuditWho { via: "server".to_owned(), ..AuditWho::default() };
            let before = json!({ "epoch": epoch, "state": RUNNING });
            let after = serde_json::to_value(&view).unwrap_or_default();
            let subject = format!("core {core}");
            self.audit.note(Note { who, what: "canary", subject, before, after, refused: None });
        }
        self.health.canary(view.clone());
        self.standing.last = Some(view);
    }
}

fn bands(canary: &Canary) -> CanaryBands {
    CanaryBands {
        rejects: canary.rejects.as_f64(),
        errors: canary.errors.as_f64(),
        latency_factor: canary.latency_factor,
        latency_min: canary.latency_min.0,
        tries_min: canary.messages_min.into(),
    }
}
