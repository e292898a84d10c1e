//! The order of start and stop: subsystems by phase and priority, forward to start, backward to stop.
//!
//! A subsystem says in which phase it starts, what it has to be before or after within it, how long its start may take, and
//! what it does in which phase of the stop. [`Registry::start`] begins one after the other and ends at the first that
//! fails; [`Registry::stop`] goes through the phases of the stop, and in each through what was started, last first. So a
//! start that fails is undone by the same code as a server that has run for a year.
//!
//! A start or stop that outlives its deadline can't be called off, as it may be anywhere. A start is then the end of the
//! process: nothing was accepted yet, and whoever waits for the server should not wait for good. A stop is told and waited for:
//! what bounds it is in the subsystem, and behind all of them the [`Guard`] of the whole stop.

use anyhow::{Context, Result};
use crossbeam::channel::{Sender, bounded};
use std::time::{Duration, Instant};

/// The phases of the start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StartPhase {
    /// What the server is to be, and whether the system lets it.
    Config,
    /// Who tells what happens.
    Logging,
    /// What sessions go by.
    Tls,
    /// What outlives the process.
    Storage,
    /// What works beside the shards.
    Services,
    /// Who answers clients.
    Servers,
}

impl StartPhase {
    pub(crate) const ALL: [Self; 6] =
        [Self::Config, Self::Logging, Self::Tls, Self::Storage, Self::Services, Self::Servers];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Logging => "logging",
            Self::Tls => "tls",
            Self::Storage => "storage",
            Self::Services => "services",
            Self::Servers => "servers",
        }
    }
}

/// The phases of the stop, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopPhase {
    /// No new connection is taken.
    Accept,
    /// Who is there finishes.
    Drain,
    /// Everything is closed.
    Close,
}

impl StopPhase {
    pub(crate) const ALL: [Self; 3] = [Self::Accept, Self::Drain, Self::Close];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}

/// What a subsystem does in one phase of the stop.
pub(crate) struct Stop<S> {
    pub(crate) phase: StopPhase,
    /// How long it may take; asked when it begins, since a reload may have changed it.
    pub(crate) deadline: fn(&S) -> Duration,
    /// Does it, within the time that it is given.
    pub(crate) act: fn(&mut S, Duration) -> Result<()>,
}

/// A part of the server that is started and stopped.
pub(crate) struct Subsystem<S> {
    pub(crate) name: &'static str,
    pub(crate) phase: StartPhase,
    /// Its place within the phase: lower first.
    pub(crate) priority: u8,
    /// How long its start may take; nothing for what may take as long as it has to.
    pub(crate) deadline: Option<Duration>,
    pub(crate) start: fn(&mut S) -> Result<()>,
    pub(crate) stops: Vec<Stop<S>>,
}

/// How long a phase of the start took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PhaseTook {
    pub(crate) phase: StartPhase,
    pub(crate) subsystems: usize,
    pub(crate) took: Duration,
}

/// The subsystems of a server, and how far they have come.
pub(crate) struct Registry<S> {
    /// In the order of their start.
    subsystems: Vec<Subsystem<S>>,
    started: usize,
}

impl<S> Registry<S> {
    pub(crate) fn new(mut subsystems: Vec<Subsystem<S>>) -> Self {
        subsystems.sort_by_key(|subsystem| (subsystem.phase, subsystem.priority));
        Self { subsystems, started: 0 }
    }

    /// Starts all of them. `told` hears of each phase that is complete.
    pub(crate) fn start(&mut self, server: &mut S, mut told: impl FnMut(&mut S, PhaseTook)) -> Result<()> {
        for phase in StartPhase::ALL {
            let since = Instant::now();
            let before = self.started;
            while let Some(next) = self.subsystems.get(self.started).filter(|next| next.phase == phase) {
                // From here on it may have made something: its own stops undo that as well.
                self.started += 1;
                let began = Instant::now();
                let guard = next.deadline.map(|deadline| Guard::new(deadline, next.name)).transpose()?;
                let started = if ringpost_runtime::faults::is_injected("start", next.name) {
                    Err(anyhow::anyhow!("a fault on purpose keeps {} from starting", next.name))
                } else {
                    (next.start)(server)
                };
                drop(guard);
                if let Err(error) = started {
                    tracing::error!(phase = phase.name(), subsystem = next.name, "start failed");
                    return Err(error);
                }
                tracing::debug!(
                    phase = phase.name(),
                    subsystem = next.name,
                    took_us = began.elapsed().as_micros() as u64,
                    "subsystem started"
                );
            }
            told(server, PhaseTook { phase, subsystems: self.started - before, took: since.elapsed() });
        }
        Ok(())
    }

    /// Stops what was started: phase by phase, and in each the last started first. Goes on where one fails; gives the first
    /// failure.
    pub(crate) fn stop(&mut self, server: &mut S) -> Result<()> {
        let mut outcome = Ok(());
        for phase in StopPhase::ALL {
            let since = Instant::now();
            for subsystem in self.subsystems[..self.started].iter().rev() {
                for stop in subsystem.stops.iter().filter(|stop| stop.phase == phase) {
                    let done = stop_one(server, subsystem.name, stop);
                    outcome = outcome.and(done);
                }
            }
            tracing::info!(phase = phase.name(), took_ms = since.elapsed().as_millis() as u64, "stop phase complete");
        }
        self.started = 0;
        outcome
    }
}

fn stop_one<S>(server: &mut S, name: &'static str, stop: &Stop<S>) -> Result<()> {
    let (deadline, began) = ((stop.deadline)(server), Instant::now());
    let done = (stop.act)(server, deadline);
    let took = began.elapsed();
    let (phase, took_ms) = (stop.phase.name(), took.as_millis() as u64);
    match &done {
        Err(error) => {
            tracing::error!(phase, subsystem = name, error = format!("{error:#}"), "subsystem did not stop in order");
        }
        Ok(()) if took > deadline => {
            let deadline_ms = deadline.as_millis() as u64;
            tracing::warn!(phase, subsystem = name, took_ms, deadline_ms, "subsystem stopped after its deadline");
        }
        Ok(()) => tracing::debug!(phase, subsystem = name, took_ms, "subsystem stopped"),
    }
    done.with_context(|| format!("{name} did not stop in order"))
}

/// Ends the process if it is not dropped in time.
pub(crate) struct Guard {
    /// Dropped with the guard.
    _held: Sender<()>,
}

impl Guard {
    pub(crate) fn new(deadline: Duration, what: &'static str) -> Result<Self> {
        let (held, released) = bounded::<()>(0);
        let watch = move || {
            if released.recv_timeout(deadline).is_err_and(|ended| ended.is_timeout()) {
                eprintln!("ringpost: {what} takes longer than {deadline:?}, ending at once");
                std::process::exit(1);
            }
        };
        std::thread::Builder::new().name("guard".into()).spawn(watch).context("no thread for a deadline")?;
        Ok(Self { _held: held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[derive(Default)]
    struct Book {
        lines: Vec<String>,
        fails: Option<&'static str>,
    }

    impl Book {
        fn start(&mut self, name: &'static str) -> Result<()> {
            if self.fails == Some(name) {
                bail!("{name} fails");
            }
            self.lines.push(format!("+{name}"));
            Ok(())
        }

        fn stop(&mut self, name: &'static str) -> Result<()> {
            self.lines.push(format!("-{name}"));
            if self.fails == Some(name) { bail!("{name} fails") } else { Ok(()) }
        }
    }

    macro_rules! part {
        ($name:literal, $phase:ident, $priority:literal, [$($stop:ident),*]) => {
            Subsystem {
                name: $name,
                phase: StartPhase::$phase,
                priority: $priority,
                deadline: Some(Duration::from_secs(60)),
                start: |book: &mut Book| book.start($name),
                stops: vec![$(Stop {
                    phase: StopPhase::$stop,
                    deadline: |_| Duration::from_secs(60),
                    act: |book, _| book.stop(concat!($name, ".", stringify!($stop))),
                }),*],
            }
        };
    }

    fn house() -> Registry<Book> {
        Registry::new(vec![
            part!("listeners", Servers, 1, [Accept]),
            part!("sessions", Servers, 0, [Drain, Close]),
            part!("log", Logging, 0, [Close]),
            part!("file", Config, 0, []),
            part!("certificates", Tls, 0, [Close]),
            part!("spool", Storage, 9, [Close]),
            part!("lock", Storage, 1, [Close]),
            part!("keeper", Services, 0, [Drain, Close]),
        ])
    }

    const ORDER: [&str; 8] = ["file", "log", "certificates", "lock", "spool", "keeper", "sessions", "listeners"];

    const STOPS: [&str; 9] = [
        "listeners.Accept",
        "sessions.Drain",
        "keeper.Drain",
        "sessions.Close",
        "keeper.Close",
        "spool.Close",
        "lock.Close",
        "certificates.Close",
        "log.Close",
    ];

    /// What the book must say when the first `started` have started and were stopped again.
    fn expected(started: usize) -> Vec<String> {
        let begun = ORDER[..started].iter().map(|name| format!("+{name}"));
        let touched = &ORDER[..ORDER.len().min(started + 1)];
        let mine = |stop: &&&str| touched.iter().any(|name| stop.starts_with(&format!("{name}.")));
        begun.chain(STOPS.iter().filter(mine).map(|stop| format!("-{stop}"))).collect()
    }

    #[test]
    fn a_failure_of_each_undoes_those_before_it_in_reverse() {
        for (at, name) in ORDER.into_iter().enumerate() {
            let mut book = Book { fails: Some(name), ..Book::default() };
            let mut house = house();
            let error = house.start(&mut book, |_, _| {}).expect_err("it fails");
            assert_eq!(error.to_string(), format!("{name} fails"));
            house.stop(&mut book).expect("stopped");
            assert_eq!(book.lines, expected(at), "{name}");
        }
    }

    #[test]
    fn phases_come_in_their_order_and_are_told() {
        let (mut book, mut house) = (Book::default(), house());
        let mut phases = Vec::new();
        house.start(&mut book, |_, took| phases.push((took.phase, took.subsystems))).expect("started");
        let counts = [1, 1, 1, 2, 1, 2];
        assert_eq!(phases, StartPhase::ALL.into_iter().zip(counts).collect::<Vec<_>>());
        house.stop(&mut book).expect("stopped");
        assert_eq!(book.lines, expected(ORDER.len()));
        house.stop(&mut book).expect("nothing is left to stop");
        assert_eq!(book.lines.len(), ORDER.len() + STOPS.len());
    }

    #[test]
    fn a_stop_that_fails_holds_up_no_other() {
        let (mut book, mut house) = (Book::default(), house());
        house.start(&mut book, |_, _| {}).expect("started");
        book.fails = Some("keeper.Drain");
        let error = house.stop(&mut book).expect_err("one fails");
        assert_eq!(error.to_string(), "keeper did not stop in order");
        assert_eq!(book.lines, expected(ORDER.len()));
    }
}
