//! The keeper: a thread that holds what all shards share and what outlives the process.
//!
//! It reads the config file again, watches the files that the config names, keeps the bans and writes them down, writes the
//! greylist down, and publishes what is new. All that may wait for a disk happens here, and one thing after the other,
//! so that nothing can overtake anything.

mod readings;
mod reloading;
mod trial;

use crate::bans::BanFile;
use crate::cli::ConfigFile;
use crate::control::ban_view;
use crate::greylist::GreylistFile;
use crate::health::Health;
use crate::in_force::{InForce, Publisher};
use crate::nftables::Mirror;
use crate::notify;
use crate::state::StateDir;
use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use readings::Before;
use reloading::Watch;
use ringpost_admin::api::{BanAdd, BanView, CanaryView, ReloadOrder, Reloaded};
use ringpost_admin::{Audit, BanChange, Note, Refusal};
use ringpost_base::Network;
use ringpost_metrics::Block;
use ringpost_net::Ticketing;
use ringpost_policy::{BanBook, BanError, BanOrder, GreyRecord, GreySieve, OPERATOR};
use ringpost_runtime::log::LogControl;
use ringpost_runtime::now;
use ringpost_telemetry::Telemetry;
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use trial::Trial;

/// How often files are looked at, ended bans dropped, and changes of the greylist written.
const ROUND: Duration = Duration::from_secs(1);

/// Bans that rules ask for in one moment are put in force together.
const ORDERS_TOGETHER: usize = 10_000;

/// Changes of the greylist that are kept while another process may have the file: what is above is put off once more.
const PAUSED_RECORDS_MAX: usize = 100_000;

type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the keeper is asked.
pub(crate) enum Request {
    /// The bans in force.
    Bans(Answer<Vec<BanView>>),
    /// A ban by the operator.
    Ban(BanAdd, Answer<BanChange>),
    /// The end of one.
    Unban(Network, Answer<BanView>),
    /// The config file is to be read again; without an answer for SIGHUP.
    Reload(ReloadOrder, Option<Answer<Reloaded>>),
    /// The canary that runs, or the last one.
    Canary(Answer<Option<CanaryView>>),
    /// The canary that runs is to be taken back.
    StopCanary(Answer<CanaryView>),
    /// Where reloads that a signal asks for are noted from now on.
    Audit(Audit),
    /// While another process takes over, the files of bans and greylist are its own: nothing is written, or it is again.
    Pause(bool, oneshot::Sender<()>),
    /// A ban that a rule asks for.
    Ordered(BanOrder),
    /// Changes of a shard's greylist.
    Greylisted(Vec<GreyRecord>),
    /// The server stops: write down what is left.
    Stop,
}

impl Request {
    /// What SIGHUP asks for.
    pub(crate) fn reload_by_signal() -> Self {
        Self::Reload(ReloadOrder::default(), None)
    }
}

/// What the keeper is made of.
pub(crate) struct Keeper {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) options: ConfigFile,
    pub(crate) state: Arc<StateDir>,
    pub(crate) ticketing: Ticketing,
    pub(crate) log: LogControl,
    pub(crate) telemetry: Telemetry,
    pub(crate) descriptors: u64,
    pub(crate) services: Handle,
    pub(crate) blocks: Vec<Arc<Block>>,
    pub(crate) book: BanBook,
    pub(crate) ban_file: BanFile,
    pub(crate) greylist: GreylistFile,
    pub(crate) requests: Receiver<Request>,
    pub(crate) audit: Audit,
    /// While another process has the files: changes of the greylist that wait for the case that it fails.
    pub(crate) paused: Option<Vec<GreyRecord>>,
    pub(crate) health: Health,
    pub(crate) standing: Standing,
}

/// What the keeper keeps from one round to the next.
#[derive(Default)]
pub(crate) struct Standing {
    watches: Vec<Watch>,
    mirror: Option<Mirror>,
    /// The number of the last source that any shard was to serve by.
    epoch: u64,
    /// The config that runs on one core.
    trial: Option<Trial>,
    /// How the last one that did came out.
    last: Option<CanaryView>,
    before: Before,
}

/// The running keeper.
pub(crate) struct Running {
    requests: Sender<Request>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Has what is left written down, and waits for it.
    pub(crate) fn stop(self) {
        // It fails only when the thread has ended already.
        let _ = self.requests.send(Request::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the keeper had panicked; bans and greylist were not written since");
        }
    }
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn start(self, requests: Sender<Request>) -> Result<Running> {
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || self.run());
        Ok(Running { requests, thread: thread.context("no thread for the keeper")? })
    }

    fn run(mut self) {
        self.standing.watches = self.watches();
        self.standing.before.note(&self.blocks);
        self.mirror();
        let mut last_round = Instant::now();
        let mut next = None;
        loop {
            let wait = ROUND.saturating_sub(last_round.elapsed());
            match next.take().map_or_else(|| self.requests.recv_timeout(wait), Ok) {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return self.end(),
                Ok(Request::Ordered(order)) => next = self.ordered(order),
                Ok(request) => self.serve(request),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if last_round.elapsed() >= ROUND {
                last_round = Instant::now();
                self.round();
            }
        }
    }

    fn round(&mut self) {
        self.expire();
        if self.paused.is_none() {
            self.greylist.finish();
        }
        self.standing.before.note(&self.blocks);
        self.judge();
        // What has changed meanwhile is taken up when it is known by which config.
        if self.standing.trial.is_none() && self.paused.is_none() {
            self.look();
        }
    }

    fn end(mut self) {
        let left: Vec<Request> = self.requests.try_iter().collect();
        for request in left {
            if let Request::Greylisted(records) = request {
                self.write_greylist(&records);
            }
        }
        self.save_bans();
    }

    fn serve(&mut self, request: Request) {
        let Some(request) = self.while_paused(request) else { return };
        match request {
            Request::Bans(answer) => {
                let bans = self.book.list(now().wall).iter().map(|ban| ban_view(ban)).collect();
                // Whoever asked may have given up, here and below.
                let _ = answer.send(Ok(bans));
            }
            Request::Ban(order, answer) => {
                let _ = answer.send(self.ban(order));
            }
            Request::Unban(network, answer) => {
                let _ = answer.send(self.unban(network));
            }
            Request::Greylisted(records) => self.write_greylist(&records),
            Request::Reload(ReloadOrder { canary: Some(order) }, answer) => {
                let result = self.begin_trial(order);
                answer.into_iter().for_each(|answer| drop(answer.send(result.clone())));
            }
            Request::Reload(_, answer) => self.reload_all(answer),
            Request::Canary(answer) => {
                let _ = answer.send(Ok(self.canary()));
            }
            Request::StopCanary(answer) => {
                let _ = answer.send(self.stop_trial());
            }
            Request::Audit(audit) => self.audit = audit,
            Request::Pause(pause, done) => {
                self.pause(pause);
                let _ = done.send(());
            }
            Request::Ordered(_) | Request::Stop => {}
        }
    }

    /// Refuses what the process that takes over would know nothing of: it has read its files already. Gives other requests back.
    fn while_paused(&self, request: Request) -> Option<Request> {
        if self.paused.is_none() {
            return Some(request);
        }
        let busy = || Refusal::unavailable("another process is taking over: try again in a moment");
        // Whoever asked may have given up.
        match request {
            Request::Ban(_, answer) => drop(answer.send(Err(busy()))),
            Request::Unban(_, answer) => drop(answer.send(Err(busy()))),
            Request::Reload(_, Some(answer)) => drop(answer.send(Err(busy()))),
            Request::Reload(_, None) => tracing::warn!("SIGHUP while another process takes over changes nothing"),
            other => return Some(other),
        }
        None
    }

    fn reload_all(&mut self, answer: Option<Answer<Reloaded>>) {
        let former = self.publisher.current().source.epoch;
        self.give_up_trial("the config was read again");
        notify::reloading();
        let result = self.reload();
        notify::ready();
        if answer.is_none() {
            self.audit.note(noted(former, &result));
        }
        report(result, answer);
    }

    fn ban(&mut self, order: BanAdd) -> Result<BanChange, Refusal> {
        let at = now().wall;
        let ttl = order.ttl.map(|ttl| ttl.0);
        let added = self.book.add(order.network, &order.reason, OPERATOR, ttl, at);
        let added = added.map_err(|error| {
            let words = format!("{} {error}", order.network);
            match error {
                BanError::Protected(_) | BanError::Allowed(_) => Refusal::conflict(words),
                _ => Refusal::invalid(words),
            }
        })?;
        let ban = added.ban;
        tracing::info!(network = %ban.network, reason = &*ban.reason, "ban added");
        self.put_bans_in_force();
        Ok(BanChange { former: added.replaced.as_deref().map(ban_view), ban: ban_view(&ban) })
    }

    fn unban(&mut self, network: Network) -> Result<BanView, Refusal> {
        let Some(ban) = self.book.remove(network) else {
            return Err(Refusal::not_found(format!("{network} is not banned; `ringpost ban list` shows what is")));
        };
        tracing::info!(%network, "ban lifted");
        self.put_bans_in_force();
        Ok(ban_view(&ban))
    }

    /// Bans that rules ask for: all that have come by now, with one publication. Gives the request behind them, if it was
    /// seen to be another.
    fn ordered(&mut self, first: BanOrder) -> Option<Request> {
        let mut next = None;
        let mut orders = vec![first];
        while orders.len() < ORDERS_TOGETHER
            && let Ok(request) = self.requests.try_recv()
        {
            match request {
                Request::Ordered(order) => orders.push(order),
                other => {
                    next = Some(other);
                    break;
                }
            }
        }
        let at = now().wall;
        for order in orders {
            match self.book.add(order.network, &order.reason, order.by, Some(order.duration.0), at) {
                Ok(added) => {
                    let ban = added.ban;
                    tracing::warn!(network = %ban.network, reason = &*ban.reason, by = &*ban.by, "banned by a rule");
                }
                Err(error) => tracing::warn!(network = %order.network, %error, "a rule's ban is not put in force"),
            }
        }
        self.put_bans_in_force();
        next
    }

    fn expire(&mut self) {
        if !self.book.expire(now().wall).is_empty() {
            self.put_bans_in_force();
        }
    }

    fn put_bans_in_force(&mut self) {
        let bans = Arc::new(self.book.snapshot());
        if let Some(mirror) = &self.standing.mirror {
            mirror.show(bans.clone());
        }
        let next = InForce { bans, ..self.publisher.current() };
        self.publisher.publish(next);
        self.save_bans();
    }

    /// Leaves the files to another process, or takes them back.
    fn pause(&mut self, pause: bool) {
        if pause {
            self.give_up_trial("another process takes over");
            self.save_bans();
            self.greylist.settle();
            self.paused.get_or_insert_default();
        } else if let Some(waiting) = self.paused.take() {
            self.save_bans();
            self.write_greylist(&waiting);
        }
    }

    fn save_bans(&self) {
        if self.paused.is_some() {
            return;
        }
        if let Err(error) = self.ban_file.save(&self.book) {
            tracing::error!(error = format!("{error:#}"), "bans are not written down");
        }
    }

    fn write_greylist(&mut self, records: &[GreyRecord]) {
        if let Some(waiting) = &mut self.paused {
            let room = PAUSED_RECORDS_MAX.saturating_sub(waiting.len());
            waiting.extend(records.iter().take(room).cloned());
            return;
        }
        let source = self.publisher.current().source;
        let options = source.config.policy.greylist.clone();
        self.greylist.append(records, GreySieve::new(options, source.cores.len(), now().wall));
    }

    /// Has a mirror, if the config wants one or did before, and tells it what it wants.
    fn mirror(&mut self) {
        let InForce { source, bans, .. } = self.publisher.current();
        let sets = source.config.policy.bans.nftables.clone();
        if self.standing.mirror.is_none() && sets.is_some() {
            match Mirror::start() {
                Ok(mirror) => self.standing.mirror = Some(mirror),
                Err(error) => tracing::error!(%error, "no thread for nftables"),
            }
        }
        if let Some(mirror) = &self.standing.mirror {
            mirror.anew(sets, bans);
        }
    }
}

/// A reload that a signal asked for.
fn noted(former: u64, result: &Result<Reloaded>) -> Note {
    let (after, refused) = match result {
        Ok(reloaded) => (serde_json::to_value(reloaded).unwrap_or_default(), None),
        Err(error) => (Value::Null, Some(format!("{error:#}"))),
    };
    Note { refused, ..Note::of_signal("reload", "SIGHUP", json!({ "epoch": former }), after) }
}

/// Tells who asked how a reload went; for a signal, the log.
fn report(result: Result<Reloaded>, answer: Option<Answer<Reloaded>>) {
    match &result {
        Ok(reloaded) => tracing::info!(
            epoch = reloaded.epoch,
            changed = ?reloaded.changed,
            needs_restart = ?reloaded.needs_restart,
            "reloaded"
        ),
        Err(error) => tracing::error!(error = format!("{error:#}"), "reload refused; the former config stays in force"),
    }
    if let Some(answer) = answer {
        // Whoever asked may have given up.
        let _ = answer.send(result.map_err(|error| Refusal::invalid(format!("{error:#}"))));
    }
}
