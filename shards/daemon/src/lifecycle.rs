//! Start and stop of the server: which subsystems there are, and in which order.
//!
//! The phases of the start come in order: config, logging, TLS, storage, services, servers. Each can fail; no listener answers
//! before the last has succeeded, and what was started is stopped in reverse. The stop has three: accept no more, drain,
//! close.

mod ground;
mod registry;
mod rules;
mod server;
mod serving;
mod shards;
mod storage;
mod voice;
mod watch;

pub(crate) use registry::{PhaseTook, StartPhase};
pub(crate) use server::Voice;

use crate::cli::ConfigFile;
use crate::keeper::Request;
use anyhow::Result;
use registry::{Guard, Registry, Stop, StopPhase, Subsystem};
use server::Server;
use serving::Totals;
use shards::CalledOff;
use std::time::Duration;

/// What the close phase may take after the drain's deadline before the process ends regardless.
const CLOSE: Duration = Duration::from_secs(20);

/// What closing the listeners may take: the last call, and what a busy shard needs until it hears of it.
const ACCEPT: Duration = Duration::from_secs(3);

/// What a subsystem may take that only makes things.
const SHORT: Duration = Duration::from_secs(10);

/// What one may take that asks a program or reads many files.
const LONG: Duration = Duration::from_secs(60);

/// What the process may take beyond all deadlines before it ends regardless.
const BEYOND: Duration = Duration::from_secs(10);

/// Runs the server.
pub(crate) fn serve(options: &ConfigFile) -> Result<()> {
    let mut server = Server::new(options.clone());
    let mut registry = Registry::new(subsystems());
    let started = registry.start(&mut server, complete);
    let outcome = match started {
        Ok(()) => watch::watch(&mut server),
        Err(error) => {
            if let Some(predecessor) = server.ground.as_ref().and_then(|ground| ground.predecessor.as_ref()) {
                predecessor.give_up(&format!("{error:#}"));
            }
            match error.downcast::<CalledOff>() {
                Ok(CalledOff(signal)) => {
                    tracing::info!(signal, "stopping before the start was complete");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
    };
    if let Some(attempt) = server.attempt.take() {
        // A process that is about to take over would go on where the end of the server is wanted.
        attempt.call_off();
        let keeper = server.rules.as_ref().map(|rules| &rules.keeper);
        keeper.map(|keeper| keeper.send(Request::Pause(false, tokio::sync::oneshot::channel().0)));
    }
    let guard = Guard::new(ACCEPT + serving::drain_timeout(&server) + CLOSE + BEYOND, "the stop");
    let closed = registry.stop(&mut server);
    drop(guard);
    let result = match (outcome, closed) {
        (Err(outcome), Err(closed)) => Err(outcome.context(closed.to_string())),
        (outcome, closed) => outcome.and(closed),
    };
    finish(server, &result);
    result
}

/// The last record, and the end of the log.
fn finish(server: Server, result: &Result<()>) {
    if let Some(successor) = &server.successor {
        successor.done();
    }
    let Totals { sessions, accepted, rejected, deferred, delivered } = Totals::of(&server);
    if let Err(error) = result {
        tracing::error!(error = format!("{error:#}"), "server failed");
    }
    let last = || {
        tracing::info!(
            clean = result.is_ok(),
            uptime_ms = server.since.elapsed().as_millis() as u64,
            sessions,
            accepted,
            rejected,
            deferred,
            delivered,
            "shutdown_complete"
        );
    };
    // Whoever still runs has no say after this.
    if let Some(log) = server.voice.and_then(|voice| voice.log) {
        log.finish_with(last);
    }
}

/// Tells of a phase of the start that is complete. Those before the log are told once there is one.
fn complete(server: &mut Server, took: PhaseTook) {
    let mut phases = server.phases.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let first = if took.phase == StartPhase::Logging { 0 } else { phases.len() };
    phases.push(took);
    if took.phase == StartPhase::Config {
        return;
    }
    for PhaseTook { phase, subsystems, took } in &phases[first..] {
        let took_us = took.as_micros() as u64;
        tracing::info!(phase = phase.name(), subsystems = *subsystems as u64, took_us, "start phase complete");
    }
}

/// Where a subsystem's start is in the order, and how long it may take.
type Place = (StartPhase, u8, Option<Duration>);

fn part(
    name: &'static str,
    (phase, priority, deadline): Place,
    start: fn(&mut Server) -> Result<()>,
) -> Subsystem<Server> {
    Subsystem { name, phase, priority, deadline, start, stops: Vec::new() }
}

impl Subsystem<Server> {
    /// With something to do in a phase of the stop.
    fn stopped_by(
        mut self,
        phase: StopPhase,
        deadline: fn(&Server) -> Duration,
        act: fn(&mut Server, Duration) -> Result<()>,
    ) -> Self {
        self.stops.push(Stop { phase, deadline, act });
        self
    }

    /// With something short to close.
    fn closed_by(self, act: fn(&mut Server, Duration) -> Result<()>) -> Self {
        self.stopped_by(StopPhase::Close, |_| SHORT, act)
    }
}

/// Every subsystem. To add one is to add a row.
fn subsystems() -> Vec<Subsystem<Server>> {
    use StartPhase::{Config, Logging, Servers, Services, Storage, Tls};
    vec![
        // No deadlines before privileges are settled: they are threads, and there must be none by then.
        part("config", (Config, 0, None), ground::config),
        part("limits", (Config, 1, None), ground::limits),
        part("sockets", (Config, 2, None), ground::sockets),
        part("privileges", (Config, 3, None), ground::privileges),
        part("state", (Config, 4, Some(SHORT)), ground::state),
        part("signals", (Config, 5, Some(SHORT)), ground::signals),
        part("log", (Logging, 0, Some(SHORT)), voice::log),
        part("crash reports", (Logging, 1, Some(SHORT)), voice::crash_reports),
        part("services thread", (Logging, 2, Some(SHORT)), voice::services).closed_by(voice::stop_services),
        part("telemetry", (Logging, 3, Some(SHORT)), voice::telemetry).closed_by(voice::stop_telemetry),
        part("rules", (Tls, 0, Some(LONG)), rules::make),
        part("health", (Storage, 0, Some(SHORT)), storage::admin).closed_by(storage::stop_admin),
        part("turn", (Storage, 1, Some(LONG)), storage::turn),
        part("bans", (Storage, 2, Some(LONG)), storage::bans),
        part("greylist", (Storage, 3, Some(LONG)), storage::greylist),
        // Reading a spool back takes as long as it takes.
        part("spools", (Storage, 4, None), storage::spools).stopped_by(
            StopPhase::Close,
            |_| CLOSE,
            storage::stop_spools,
        ),
        part("keeper", (Services, 0, Some(SHORT)), serving::keeper).closed_by(serving::stop_keeper),
        part("watchdog", (Services, 1, Some(SHORT)), serving::watchdog).closed_by(serving::stop_watchdog),
        part("listeners", (Servers, 0, Some(SHORT)), shards::listen),
        part("sessions", (Servers, 1, Some(SHORT)), serving::sessions)
            .stopped_by(StopPhase::Accept, |_| ACCEPT, serving::stop_accepting)
            .stopped_by(StopPhase::Drain, serving::drain_timeout, serving::drain)
            .stopped_by(StopPhase::Close, |_| CLOSE, serving::close),
    ]
}
