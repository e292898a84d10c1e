//! The keeper: a thread that holds what all shards share and what outlives the process.
//!
//! It reads the config file again, watches the files that the config names, keeps the bans and writes them down, writes the
//! greylist down, and publishes what is new. All that may wait for a disk happens here, and one thing after the other,
//! so that nothing can overtake anything.

use crate::bans::BanFile;
use crate::check;
use crate::cli::ConfigFile;
use crate::control::ban_view;
use crate::greylist::GreylistFile;
use crate::in_force::{InForce, Publisher, Source};
use crate::logging::log_options;
use crate::nftables::Mirror;
use crate::notify;
use crate::reload::{self, Stamp};
use crate::state::StateDir;
use crate::telemetry::telemetry_options;
use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use ringpost_admin::{Audit, BanChange, Note, Refusal};
use ringpost_admin::api::{BanAdd, BanView, CanaryView, ReloadOrder, Reloaded};
use ringpost_base::Network;
use ringpost_config::Config;
use ringpost_dns::Dns;
use ringpost_metrics::Block;
use ringpost_net::Ticketing;
use ringpost_policy::{BanBook, BanError, BanOrder, GreyRecord, GreySieve, OPERATOR};
use ringpost_runtime::log::LogControl;
use ringpost_runtime::now;
use ringpost_telemetry::Telemetry;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

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
}

/// A file that the config names, and what is known of its changes.
struct Watch {
    path: PathBuf,
    /// As it was when it was last taken up.
    taken: Option<Stamp>,
    /// As it was at the last look: a file is taken up once it has stayed the same for a round, since one that is being
    /// written would be read in half.
    seen: Option<Stamp>,
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
        let mut watches = self.watches();
        let mut mirror = self.mirror(None);
        let mut last_round = Instant::now();
        let mut next = None;
        loop {
            let wait = ROUND.saturating_sub(last_round.elapsed());
            match next.take().map_or_else(|| self.requests.recv_timeout(wait), Ok) {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return self.end(),
                Ok(Request::Ordered(order)) => next = self.ordered(order, mirror.as_ref()),
                Ok(Request::Reload(ReloadOrder { canary: Some(_) }, answer)) => {
                    let refusal = Refusal::unavailable("this server can't try a config on one core yet");
                    // Whoever asked may have given up.
                    answer.into_iter().for_each(|answer| drop(answer.send(Err(refusal.clone()))));
                }
                Ok(Request::Reload(_, answer)) => {
                    let former = self.publisher.current().source.epoch;
                    notify::reloading();
                    let result = self.reload(&watches);
                    if result.is_ok() {
                        watches = self.watches();
                        mirror = self.mirror(mirror);
                    }
                    notify::ready();
                    if answer.is_none() {
                        self.audit.note(noted(former, &result));
                    }
                    report(result, answer);
                }
                Ok(request) => self.serve(request, mirror.as_ref()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if last_round.elapsed() >= ROUND {
                last_round = Instant::now();
                self.expire(mirror.as_ref());
                self.greylist.finish();
                self.look(&mut watches);
            }
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

    fn serve(&mut self, request: Request, mirror: Option<&Mirror>) {
        match request {
            Request::Bans(answer) => {
                let bans = self.book.list(now().wall).iter().map(|ban| ban_view(ban)).collect();
                // Whoever asked may have given up, here and below.
                let _ = answer.send(Ok(bans));
            }
            Request::Ban(order, answer) => {
                let _ = answer.send(self.ban(order, mirror));
            }
            Request::Unban(network, answer) => {
                let _ = answer.send(self.unban(network, mirror));
            }
            Request::Greylisted(records) => self.write_greylist(&records),
            Request::Canary(answer) => {
                let _ = answer.send(Ok(None));
            }
            Request::StopCanary(answer) => {
                let _ = answer.send(Err(Refusal::conflict("no canary is running")));
            }
            Request::Audit(audit) => self.audit = audit,
            Request::Pause(pause, done) => {
                self.pause(pause);
                let _ = done.send(());
            }
            Request::Ordered(_) | Request::Reload(..) | Request::Stop => {}
        }
    }

    fn ban(&mut self, order: BanAdd, mirror: Option<&Mirror>) -> Result<BanChange, Refusal> {
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
        self.put_bans_in_force(mirror);
        Ok(BanChange { former: added.replaced.as_deref().map(ban_view), ban: ban_view(&ban) })
    }

    fn unban(&mut self, network: Network, mirror: Option<&Mirror>) -> Result<BanView, Refusal> {
        let Some(ban) = self.book.remove(network) else {
            return Err(Refusal::not_found(format!("{network} is not banned; `ringpost ban list` shows what is")));
        };
        tracing::info!(%network, "ban lifted");
        self.put_bans_in_force(mirror);
        Ok(ban_view(&ban))
    }

    /// Bans that rules ask for: all that have come by now, with one publication. Gives the request behind them, if it was
    /// seen to be another.
    fn ordered(&mut self, first: BanOrder, mirror: Option<&Mirror>) -> Option<Request> {
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
        self.put_bans_in_force(mirror);
        next
    }

    fn expire(&mut self, mirror: Option<&Mirror>) {
        if !self.book.expire(now().wall).is_empty() {
            self.put_bans_in_force(mirror);
        }
    }

    fn put_bans_in_force(&mut self, mirror: Option<&Mirror>) {
        let bans = Arc::new(self.book.snapshot());
        if let Some(mirror) = mirror {
            mirror.show(bans.clone());
        }
        let next = InForce { bans, ..self.publisher.current() };
        self.publisher.publish(next);
        self.save_bans();
    }

    /// Leaves the files to another process, or takes them back.
    fn pause(&mut self, pause: bool) {
        if pause {
            self.save_bans();
            self.greylist.finish();
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

    /// The mirror, begun if the config wants one, and told what it wants.
    fn mirror(&self, running: Option<Mirror>) -> Option<Mirror> {
        let InForce { source, bans, .. } = self.publisher.current();
        let sets = source.config.policy.bans.nftables.clone();
        if running.is_none() && sets.is_none() {
            return None;
        }
        match running.map_or_else(Mirror::start, Ok) {
            Ok(mirror) => {
                mirror.anew(sets, bans);
                Some(mirror)
            }
            Err(error) => {
                tracing::error!(%error, "no thread for nftables");
                None
            }
        }
    }

    /// Reads the config file, and everything that it names; puts it in force if nothing is wrong with it.
    fn reload(&mut self, watches: &[Watch]) -> Result<Reloaded> {
        let config = check::load(&self.options)?;
        let former = self.publisher.current().source;
        let needs_restart = former.config.differences_that_need_restart(&config);
        let changed = former.config.differences(&config);
        let mut changed: Vec<String> = changed.into_iter().filter(|key| !needs_restart.contains(key)).collect();
        let now = reload::stamps(&former.config);
        let files = watches.iter().zip(now).filter(|(watch, (_, stamp))| watch.taken != *stamp);
        changed.extend(files.map(|(watch, _)| format!("the contents of {}", watch.path.display())));
        let config = former.config.reloaded(&config).context("the config does not go with what needs a restart")?;
        let epoch = self.take_up(config, &former)?;
        Ok(Reloaded { epoch, changed, needs_restart, warnings: Vec::new() })
    }

    fn take_up(&mut self, config: Config, former: &Source) -> Result<u64> {
        let policy = reload::policy(&config)?;
        reload::check_targets(&config)?;
        let cores = reload::cores_again(&config, &former.cores, self.descriptors)?;
        let acceptors = reload::acceptors(&config, &self.state, &self.ticketing, cores.len())?;
        let dns = if config.dns == former.config.dns {
            former.dns.clone()
        } else {
            Dns::start(self.services.clone(), &reload::dns_options(&config)).context("dns.servers")?
        };
        let telemetry = telemetry_options(&config)?;
        reload::set_bans(&mut self.book, &config);
        let epoch = former.epoch + 1;
        let certificates = reload::certificates(&config, &self.state)?;
        let source = Arc::new(Source { epoch, config, cores, policy, acceptors, certificates, dns });
        let bans = Arc::new(self.book.snapshot());
        self.log.change(log_options(&source.config));
        self.telemetry.change(telemetry)?;
        self.publisher.publish(InForce { source, bans });
        tracing::info!(epoch, "configuration taken up");
        Ok(epoch)
    }

    fn watches(&self) -> Vec<Watch> {
        let stamps = reload::stamps(&self.publisher.current().source.config);
        stamps.into_iter().map(|(path, stamp)| Watch { path, taken: stamp, seen: stamp }).collect()
    }

    /// Takes up the files that have changed and come to rest.
    fn look(&mut self, watches: &mut [Watch]) {
        let former = self.publisher.current().source;
        let stamps = reload::stamps(&former.config);
        let mut changed = Vec::new();
        for (watch, (_, stamp)) in watches.iter_mut().zip(stamps) {
            let rests = watch.seen == stamp;
            watch.seen = stamp;
            if rests && stamp.is_some() && watch.taken != stamp {
                watch.taken = stamp;
                changed.push(watch.path.display().to_string());
            }
        }
        if changed.is_empty() {
            return;
        }
        match self.take_up(former.config.clone(), &former) {
            Ok(_) => tracing::info!(files = changed.join(", "), "changed files taken up"),
            Err(error) => {
                tracing::error!(
                    files = changed.join(", "),
                    error = format!("{error:#}"),
                    "changed files can't be taken up; the former ones stay in force"
                );
            }
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
