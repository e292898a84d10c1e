//! Health as metrics: what belongs to the process and to no shard.

use super::Picture;
use crate::lifecycle::PhaseTook;
use ringpost_admin::api::CanaryView;
use ringpost_control::Phase;
use ringpost_metrics::{ProcessGauge, ProcessReading};
use ringpost_runtime::Pulse;
use ringpost_telemetry::Telemetry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The states, as they are told.
const STATES: [Phase; 4] = [Phase::Starting, Phase::Ready, Phase::Degraded, Phase::Stopping];

/// The states of a canary, as `CanaryView` has them.
const CANARY_STATES: [&str; 4] = ["running", "kept", "taken back", "stopped"];

/// What the readings are made of.
pub(super) struct Told {
    pub(super) state: Phase,
    pub(super) picture: Arc<Picture>,
    pub(super) canary: Option<CanaryView>,
    pub(super) upgrades_failed: u64,
}

/// Where
pub(super) struct Instruments {
    pub(super) phases: Arc<Mutex<Vec<PhaseTook>>>,
    pub(super) pulses: Vec<Arc<Pulse>>,
    pub(super) telemetry: Option<Telemetry>,
    /// When the process began, in seconds of the Unix clock.
    pub(super) started: f64,
}

/// When something that was so long ago was, by the wall clock.
pub(super) fn unix_seconds(since: Instant) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(since.elapsed()).as_secs_f64()
}

impl Instruments {
    pub(super) fn read(&self, told: &Told) -> Vec<ProcessReading> {
        let mut readings = vec![
            ProcessReading::labelled(ProcessGauge::BuildInfo, env!("CARGO_PKG_VERSION"), 1.0),
            ProcessReading::new(ProcessGauge::StartTime, self.started),
        ];
        self.of_the_start(&mut readings);
        self.of_shards(&told.picture, &mut readings);
        of_health(told, &mut readings);
        if let Some(telemetry) = &self.telemetry {
            let (exported, dropped) = telemetry.readings();
            for (row, value) in [(ProcessGauge::SpansExported, exported), (ProcessGauge::SpansDropped, dropped)] {
                readings.push(ProcessReading::new(row, value as f64));
            }
        }
        readings
    }

    fn of_the_start(&self, readings: &mut Vec<ProcessReading>) {
        for took in self.phases.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let (row, name) = (ProcessGauge::StartPhase, took.phase.name());
            readings.push(ProcessReading::labelled(row, name, took.took.as_secs_f64()));
        }
    }

    fn of_shards(&self, picture: &Picture, readings: &mut Vec<ProcessReading>) {
        for pulse in &self.pulses {
            let stalled = picture.stalled.iter().any(|(shard, _)| *shard == pulse.shard());
            for (row, value) in [
                (ProcessGauge::ShardCpu, pulse.cpu_time().unwrap_or_default().as_secs_f64()),
                (ProcessGauge::ShardStalled, f64::from(u8::from(stalled))),
                (ProcessGauge::ShardStalls, pulse.stalls() as f64),
            ] {
                readings.push(ProcessReading::labelled(row, pulse.shard().to_string(), value));
            }
        }
    }
}

fn of_health(told: &Told, readings: &mut Vec<ProcessReading>) {
    let Told { state, picture, canary, upgrades_failed } = told;
    for one in STATES {
        let value = f64::from(u8::from(one == *state));
        readings.push(ProcessReading::labelled(ProcessGauge::State, one.name(), value));
    }
    for probe in &picture.probes {
        let value = f64::from(u8::from(!probe.ok));
        readings.push(ProcessReading::labelled(ProcessGauge::ProbeFailing, probe.name.as_str(), value));
    }
    for end in &picture.certificates {
        let seconds = end.expires.unix_seconds() as f64;
        readings.push(ProcessReading::labelled(ProcessGauge::CertificateExpiry, end.file.as_str(), seconds));
    }
    if let Some(canary) = canary {
        for one in CANARY_STATES {
            let (label, value) = (one.replace(' ', "_"), f64::from(u8::from(one == canary.state)));
            readings.push(ProcessReading::labelled(ProcessGauge::CanaryState, label, value));
        }
    }
    readings.push(ProcessReading::labelled(ProcessGauge::UpgradesTotal, "failed", *upgrades_failed as f64));
}
