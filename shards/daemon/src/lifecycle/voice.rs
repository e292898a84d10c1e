//! The phase logging: who tells what happens, from a line of the log to the report of a crash.

use super::server::{Server, Voice};
use crate::logging;
use anyhow::{Context, Result};
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_runtime::crash;
use ringpost_runtime::{Pulse, Services};
use ringpost_telemetry::Telemetry;
use std::sync::Arc;
use std::time::Duration;

/// The log. It has no stop of its own: its last record comes after the last subsystem's.
pub(crate) fn log(server: &mut Server) -> Result<()> {
    let ground = server.ground()?;
    let log = logging::start_log(&ground.config)?;
    let count = ground.cores.len();
    let blocks: Vec<Arc<Block>> = (0..count).map(|_| Arc::new(Block::new())).collect();
    let pulses = ground.cores.iter().map(|core| Pulse::new(core.shard)).collect();
    server.voice = Some(Voice {
        log: Some(log),
        board: Board::new(count),
        blocks,
        pulses,
        services: None,
        watchdog: None,
        telemetry: None,
        signs: crate::notify::Signs::new(),
    });
    if let Some(settled) = &server.ground()?.settled {
        settled.tell();
    }
    super::ground::fit(server)
}

/// Reports of fatal signals.
pub(crate) fn crash_reports(server: &mut Server) -> Result<()> {
    let directory = server.ground()?.state()?.path().join("crash");
    let voice = server.voice()?;
    let options = crash::Options {
        directory,
        version: env!("CARGO_PKG_VERSION"),
        pulses: voice.pulses.clone(),
        blocks: voice.blocks.clone(),
    };
    crash::install(options).context("crash reports can't be prepared")
}

/// The thread for what only exists on tokio.
pub(crate) fn services(server: &mut Server) -> Result<()> {
    server.voice()?.services = Some(Services::start().context("no thread for the services")?);
    Ok(())
}

pub(crate) fn stop_services(server: &mut Server, _: Duration) -> Result<()> {
    if let Some(services) = server.voice()?.services.take() {
        services.stop();
    }
    Ok(())
}

/// Traces.
pub(crate) fn telemetry(server: &mut Server) -> Result<()> {
    let handle = server.services()?.handle();
    let options = crate::telemetry::telemetry_options(&server.ground()?.config)?;
    server.voice()?.telemetry = Some(Telemetry::start(&handle, options).context("telemetry")?);
    Ok(())
}

pub(crate) fn stop_telemetry(server: &mut Server, _: Duration) -> Result<()> {
    if let Some(telemetry) = server.voice()?.telemetry.take() {
        telemetry.stop();
    }
    Ok(())
}
