//! Whether the server is well, and why not: what is watched, and how each of it is.

use crate::in_force::Publisher;
use crate::lifecycle::{PhaseTook, Voice};
use ringpost_admin::api::ProbeView;
use ringpost_admin::{Situation, Vital};
use ringpost_control::Phase;
use ringpost_metrics::{Block, Gauge, ProcessGauge, ProcessReading};
use ringpost_runtime::watchdog::StalledView;
use std::sync::{Arc, Mutex, PoisonError};

/// What is watched.
#[derive(Clone)]
pub(crate) struct Health {
    publisher: Arc<Publisher>,
    blocks: Vec<Arc<Block>>,
    known: Arc<Mutex<Known>>,
}

/// What others have told of themselves.
#[derive(Default)]
struct Known {
    stalls: Option<StalledView>,
    /// How far an upgrade is, in words.
    upgrade: Option<String>,
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
    pub(crate) fn new(publisher: Arc<Publisher>, blocks: &[Arc<Block>]) -> Self {
        Self { publisher, blocks: blocks.to_vec(), known: Arc::default() }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn watch_stalls(&self, stalls: StalledView) {
        self.known(|known| known.stalls = Some(stalls));
    }

    pub(crate) fn upgrading(&self, how: Option<String>) {
        self.known(|known| known.upgrade = how);
    }

    pub(crate) fn is_upgrading(&self) -> bool {
        self.known(|known| known.upgrade.is_some())
    }

    pub(crate) fn look(&self) -> Verdict {
        let reasons = self.reasons();
        let stalled = self.known(|known| known.stalls.as_ref().is_some_and(|stalls| !stalls.stalled().is_empty()));
        let phase = if reasons.is_empty() { Phase::Ready } else { Phase::Degraded };
        Verdict { phase, reasons, stalled }
    }

    pub(crate) fn observed(self, voice: &Voice, phases: Arc<Mutex<Vec<PhaseTook>>>) -> Observed {
        let (probes, situation) = (self.clone(), self.clone());
        let (pulses, of_shards) = (voice.pulses.clone(), voice.pulses.clone());
        let telemetry = voice.telemetry.clone();
        Observed {
            probes: Arc::new(move || probes.probes()),
            process: Arc::new(move || {
                let mut readings = Vec::new();
                for took in phases.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let label = Some(took.phase.name().to_owned());
                    readings.push(ProcessReading { row: ProcessGauge::StartPhase, label, value: took.took.as_secs_f64() });
                }
                for pulse in &of_shards {
                    let label = || Some(pulse.shard().to_string());
                    let cpu = pulse.cpu_time().unwrap_or_default().as_secs_f64();
                    readings.push(ProcessReading { row: ProcessGauge::ShardCpu, label: label(), value: cpu });
                    let stalled = f64::from(u8::from(pulse.is_stalled()));
                    readings.push(ProcessReading { row: ProcessGauge::ShardStalled, label: label(), value: stalled });
                    let stalls = pulse.stalls() as f64;
                    readings.push(ProcessReading { row: ProcessGauge::ShardStalls, label: label(), value: stalls });
                }
                if let Some(telemetry) = &telemetry {
                    let (exported, dropped) = telemetry.readings();
                    for (row, value) in
                        [(ProcessGauge::SpansExported, exported), (ProcessGauge::SpansDropped, dropped)]
                    {
                        readings.push(ProcessReading { row, label: None, value: value as f64 });
                    }
                }
                readings
            }),
            vitals: Arc::new(move || {
                let vital = |pulse: &Arc<ringpost_runtime::Pulse>| Vital {
                    cpu: pulse.cpu_time(),
                    stalled: pulse.silent_for().filter(|_| pulse.is_stalled()),
                };
                pulses.iter().map(vital).collect()
            }),
            situation: Arc::new(move || Situation {
                upgrade: situation.known(|known| known.upgrade.clone()),
                ..Situation::default()
            }),
        }
    }

    fn probes(&self) -> Vec<ProbeView> {
        let view = |reason: String| ProbeView {
            name: "shard".to_owned(),
            ok: false,
            reason: Some(reason),
            serves: true,
            since: None,
            hint: None,
        };
        self.reasons().into_iter().map(view).collect()
    }

    /// Why the server is degraded; nothing if it is well.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let source = self.publisher.current().source;
        for (core, block) in source.cores.iter().zip(&self.blocks) {
            let shard = core.shard;
            if block.gauge(Gauge::SpoolFailing) > 0 {
                reasons.push(format!("shard {shard}: the spool can't be written, mail is refused with 451 or 452"));
            }
            match block.gauge(Gauge::SpaceState) {
                0 => {}
                1 => reasons.push(format!(
                    "shard {shard}: {} bytes are free for the spool, less than spool.space_soft",
                    block.gauge(Gauge::SpaceFree)
                )),
                _ => reasons.push(format!(
                    "shard {shard}: {} bytes are free for the spool, less than spool.space_hard: mail is refused with 452",
                    block.gauge(Gauge::SpaceFree)
                )),
            }
            let (backlog, limit) = (block.gauge(Gauge::SpoolBacklog), core.capacity.spool_backlog.0);
            if backlog >= limit {
                reasons.push(format!(
                    "shard {shard}: {backlog} bytes wait for delivery, the limit is {limit}: mail is refused with 452"
                ));
            }
        }
        reasons
    }
}
