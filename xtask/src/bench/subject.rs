//! What is measured: a mail server that can be asked for its CPU time and whether it has anything left to do.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Against, Context as Bench, crowd::SOURCES, postfix::Postfix};
use crate::server::{Ringpost, Target};
use crate::{http, proc, process};

/// How long a server may take to work off its queue.
const DRAIN_PATIENCE: Duration = Duration::from_secs(300);

/// How long nothing may be left to do until a server counts as drained. Long enough that looking costs it nothing.
const DRAIN_PAUSE: Duration = Duration::from_millis(200);

/// A server under measurement.
pub(crate) trait Subject {
    /// Its name in tables.
    fn name(&self) -> &'static str;
    /// Where it takes mail.
    fn smtp(&self) -> SocketAddr;
    /// What the load tester is told of where to connect from.
    fn sources(&self) -> String;
    /// The folder that its Maildirs are in.
    fn mail(&self) -> &Path;
    /// CPU time of all its processes and threads since their start, in milliseconds.
    fn cpu_ms(&self) -> Result<f64>;
    /// True when nothing accepted waits for delivery.
    fn is_drained(&self) -> Result<bool>;
    /// Stops it; an error when it doesn't end as it should.
    fn stop(self: Box<Self>) -> Result<()>;
}

impl Subject for Ringpost {
    fn name(&self) -> &'static str {
        "ringpost"
    }

    fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// From many networks, as mail comes: what is decided by address is spread over the cores by address.
    fn sources(&self) -> String {
        format!("--source {SOURCES}")
    }

    fn mail(&self) -> &Path {
        &self.mail
    }

    fn cpu_ms(&self) -> Result<f64> {
        Ok(proc::times(self.id()).context("ringpost is gone")?.own_ms)
    }

    fn is_drained(&self) -> Result<bool> {
        let waiting = http::metric(self.admin, "ringpost_queue_messages")?;
        Ok(waiting.context("ringpost doesn't say how many messages wait")? == 0.0)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ringpost::stop(*self)
    }
}

/// Starts the servers of a comparison, each in a folder of its own below `folder`.
pub(crate) fn start_all(bench: &Bench<'_>, folder: &Path, target: Target) -> Result<Vec<Box<dyn Subject>>> {
    let mut subjects: Vec<Box<dyn Subject>> =
        vec![Box::new(Ringpost::start(&bench.binaries.ringpost, folder, target)?)];
    if let Some(Against::Postfix) = bench.options.against {
        subjects.push(Box::new(Postfix::start(folder, target)?));
    }
    Ok(subjects)
}

/// Waits until the server has nothing left to do.
pub(crate) fn wait_until_drained(subject: &dyn Subject) -> Result<()> {
    let drained = process::wait_until(DRAIN_PATIENCE, || {
        std::thread::sleep(DRAIN_PAUSE);
        match subject.is_drained() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    });
    match drained {
        Some(outcome) => outcome,
        None => bail!("{} still has mail to deliver after {} s", subject.name(), DRAIN_PATIENCE.as_secs()),
    }
}
