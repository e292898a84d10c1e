//! Whether the server is well, and why not.
//!
//! What is watched are **probes**. One place looks at all of them, the main thread five times a second, and makes a picture of
//! it; whoever asks, by HTTP, over the socket or for metrics, gets the last picture, and the service manager and the log are
//! told from the same. A look reads memory only: what has to be waited for, the shards' answers, the DNS, a file system, is
//! waited for elsewhere and looked at when it is there.
//!
//! A server that serves is ready if all probes are well, else degraded; `/readyz` refuses only if one of them fails without which
//! no mail is taken.

mod certificates;
mod cores;
mod elsewhere;
mod memory;
mod readings;
mod survey;

pub(crate) use elsewhere::ShardReport;

use crate::in_force::{CertificateEnd, Publisher, Source};
use crate::lifecycle::{PhaseTook, Voice};
use crate::orders::{Order, Orders};
use crate::plan::Core;
use memory::{Change, Finding, Memory};
use readings::{Instruments, Told, unix_seconds};
use ringpost_admin::api::{CanaryView, ProbeView};
use ringpost_admin::{Situation, Vital, standing};
use ringpost_base::{Now, ShardId, Tick};
use ringpost_control::{Phase, State};
use ringpost_metrics::{Block, ProcessReading};
use ringpost_runtime::watchdog::StalledView;
use ringpost_runtime::{Pulse, now};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use survey::Survey;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How often the shards are asked for what they know. One that does not answer is not asked again before it has.
const ASK_SHARDS: Duration = Duration::from_secs(2);

/// Watches the server.
#[derive(Clone)]
pub(crate) struct Health {
    publisher: Arc<Publisher>,
    blocks: Arc<[Arc<Block>]>,
    orders: Arc<Orders>,
    known: Arc<Mutex<Known>>,
}

/// What was found, and what others have told of themselves. Held for moments only, by threads that may wait so long.
#[derive(Default)]
struct Known {
    stalls: Option<StalledView>,
    /// How far an upgrade is, in words.
    upgrade: Option<String>,
    upgrades_failed: u64,
    canary: Option<CanaryView>,
    survey: Survey,
    picture: Arc<Picture>,
    memory: Memory,
    shards: Shards,
}

/// What the shards have told, and when they were told something last.
#[derive(Default)]
struct Shards {
    reports: Vec<ShardReport>,
    awaited: Vec<Option<oneshot::Receiver<ShardReport>>>,
    asked: Option<Tick>,
    /// The state of the board, and since when it is that.
    told: Option<(State, Tick)>,
}

/// How the server was at the last look.
#[derive(Clone, Default)]
struct Picture {
    probes: Vec<ProbeView>,
    stalled: Vec<(ShardId, Duration)>,
    certificates: Vec<CertificateEnd>,
}

/// What the main thread makes of it.
pub(crate) struct Verdict {
    pub(crate) phase: Phase,
    pub(crate) reasons: Vec<String>,
    /// Whether a shard gives no sign of life.
    pub(crate) stalled: bool,
}

/// What is told to those who ask over HTTP.
pub(crate) struct Observed {
    pub(crate) probes: Arc<dyn Fn() -> Vec<ProbeView> + Send + Sync>,
    pub(crate) process: Arc<dyn Fn() -> Vec<ProcessReading> + Send + Sync>,
    pub(crate) vitals: Arc<dyn Fn() -> Vec<Vital> + Send + Sync>,
    pub(crate) situation: Arc<dyn Fn() -> Situation + Send + Sync>,
}

impl Health {
    pub(crate) fn new(publisher: Arc<Publisher>, blocks: &[Arc<Block>], orders: Orders) -> Self {
        Self { publisher, blocks: blocks.into(), orders: Arc::new(orders), known: Arc::default() }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn source(&self) -> Arc<Source> {
        self.publisher.current().source
    }

    /// Begins to look at what has to be waited for. Relative paths of the config are below `state_dir`.
    pub(crate) fn begin_survey(&self, services: &Handle, state_dir: PathBuf) {
        services.spawn(survey::survey(self.clone(), state_dir));
    }

    fn surveyed(&self, survey: Survey) {
        self.known(|known| known.survey = survey);
    }

    pub(crate) fn watch_stalls(&self, stalls: StalledView) {
        self.known(|known| known.stalls = Some(stalls));
    }

    pub(crate) fn upgrading(&self, how: Option<String>) {
        self.known(|known| {
            known.upgrades_failed += u64::from(how.is_none() && known.upgrade.is_some());
            known.upgrade = how;
        });
    }

    pub(crate) fn is_upgrading(&self) -> bool {
        self.known(|known| known.upgrade.is_some())
    }

    /// How the canary does, the running one or the last.
    pub(crate) fn canary(&self, canary: CanaryView) {
        self.known(|known| known.canary = Some(canary));
    }

    /// Looks at everything, and remembers it for those who ask.
    pub(crate) fn look(&self) -> Verdict {
        let (source, at) = (self.source(), now());
        let stalls = self.known(|known| known.stalls.clone());
        let stalled = stalls.map_or_else(Vec::new, |stalls| stalls.stalled());
        let (verdict, changes) = self.known(|known| {
            known.shards.ask(&self.orders, at.tick);
            let findings = self.findings(known, &source, &stalled, at);
            let changes = known.memory.take(findings, at);
            known.picture = Arc::new(Picture {
                probes: known.memory.views(),
                stalled: stalled.clone(),
                certificates: source.certificates.clone(),
            });
            (verdict(&known.memory, !stalled.is_empty()), changes)
        });
        changes.into_iter().for_each(tell);
        verdict
    }

    fn findings(&self, known: &mut Known, source: &Source, stalled: &[(ShardId, Duration)], at: Now) -> Vec<Finding> {
        let config = &source.config;
        // The one that tries another config may carry something else.
        let core = |core: &Core| self.publisher.current_for(core.shard).source.cores.get(core.shard.index()).cloned();
        let carried: Vec<Core> = source.cores.iter().filter_map(core).collect();
        let (ended, late) = known.shards.lateness(&self.publisher, at.tick);
        let mut findings = vec![
            cores::stall(stalled),
            cores::shards(&ended, &late),
            cores::disk(&carried, &self.blocks),
            cores::backlog(&carried, &self.blocks, known.memory.is_failing("backlog")),
            certificates::certificate(&source.certificates, config.tls.expiry_warning, at.wall),
        ];
        findings.extend(elsewhere::dns(config, &known.survey));
        findings.extend(elsewhere::targets(config, &known.shards.reports, &known.survey));
        findings.extend(elsewhere::lists(config, &known.shards.reports));
        findings
    }

    pub(crate) fn observed(self, voice: &Voice, since: Instant, phases: Arc<Mutex<Vec<PhaseTook>>>) -> Observed {
        let (pulses, started) = (voice.pulses.clone(), unix_seconds(since));
        let instruments = Instruments { phases, pulses: pulses.clone(), telemetry: voice.telemetry.clone(), started };
        let (probes, process, situation) = (self.clone(), self.clone(), self);
        Observed {
            probes: Arc::new(move || probes.picture().probes.clone()),
            process: Arc::new(move || instruments.read(&process.told())),
            vitals: Arc::new(move || pulses.iter().map(vital).collect()),
            situation: Arc::new(move || situation.situation()),
        }
    }

    fn picture(&self) -> Arc<Picture> {
        self.known(|known| known.picture.clone())
    }

    fn told(&self) -> Told {
        let state = self.standing();
        self.known(|known| Told {
            state,
            picture: known.picture.clone(),
            canary: known.canary.clone(),
            upgrades_failed: known.upgrades_failed,
        })
    }

    /// The state as it is told: both phases of the stop are one.
    fn standing(&self) -> Phase {
        match standing(self.publisher.board()) {
            Phase::Draining => Phase::Stopping,
            other => other,
        }
    }

    fn situation(&self) -> Situation {
        let certificate_expires = certificates::first_end(&self.source().certificates);
        self.known(|known| Situation {
            canary: known.canary.clone().filter(|canary| canary.state == "running"),
            upgrade: known.upgrade.clone(),
            certificate_expires,
        })
    }
}

impl Shards {
    /// Takes the answers that are there, and asks those who have none outstanding.
    fn ask(&mut self, orders: &Orders, at: Tick) {
        self.reports.resize_with(orders.len(), ShardReport::default);
        self.awaited.resize_with(orders.len(), || None);
        for (report, awaited) in self.reports.iter_mut().zip(&mut self.awaited) {
            let Some(receiver) = awaited else { continue };
            match receiver.try_recv() {
                Ok(told) => {
                    *report = told;
                    *awaited = None;
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => *awaited = None,
            }
        }
        if self.asked.is_some_and(|asked| at.since(asked) < ASK_SHARDS) {
            return;
        }
        self.asked = Some(at);
        for (order, awaited) in orders.iter().zip(&mut self.awaited).filter(|(_, awaited)| awaited.is_none()) {
            let (answer, receiver) = oneshot::channel();
            order.send(Order::Health(answer));
            *awaited = Some(receiver);
        }
    }

    /// The shards that have ended, and those that have not taken up for too long what all are told.
    fn lateness(&mut self, publisher: &Publisher, at: Tick) -> (Vec<ShardId>, Vec<ShardId>) {
        let board = publisher.board();
        let state = board.state();
        let (_, since) = *self.told.insert(self.told.filter(|(told, _)| *told == state).unwrap_or((state, at)));
        let (ended, alive): (Vec<_>, Vec<_>) = board.shards().partition(|shard| board.has_departed(*shard));
        let is_late = |shard: &ShardId| board.acknowledged(*shard) != state && at.since(since) >= cores::LATE;
        (ended, alive.into_iter().filter(is_late).collect())
    }
}

fn verdict(memory: &Memory, stalled: bool) -> Verdict {
    let reason = |finding: &Finding| {
        let why = finding.trouble.as_ref().map_or("", |trouble| &trouble.reason);
        format!("{}: {why}", finding.name)
    };
    let reasons: Vec<String> = memory.failing().map(reason).collect();
    let phase = if reasons.is_empty() { Phase::Ready } else { Phase::Degraded };
    Verdict { phase, reasons, stalled }
}

fn tell(Change { name, trouble }: Change) {
    match trouble {
        Some(trouble) => tracing::warn!(probe = name, reason = trouble.reason, hint = trouble.hint, "probe fails"),
        None => tracing::info!(probe = name, "probe is well again"),
    }
}

fn vital(pulse: &Arc<Pulse>) -> Vital {
    Vital { cpu: pulse.cpu_time(), stalled: pulse.silent_for().filter(|_| pulse.is_stalled()) }
}
