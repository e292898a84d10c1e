//! Signals as messages to the main thread.

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT, by its name: the server stops.
    Stop(&'static str),
    /// SIGHUP: the config file is read again.
    Reload,
}

/// Listens on a thread of its own. The second signal to stop ends the process at once: whoever sends it does not want to
/// wait for the drain, and what was acknowledged is on disk.
pub(crate) fn listen() -> Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals can't be listened for")?;
    let (sender, receiver) = unbounded();
    let work = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            let name = match signal {
                SIGHUP => {
                    // The main thread listens until it has ended.
                    let _ = sender.send(Signal::Reload);
                    continue;
                }
                SIGTERM => "SIGTERM",
                _ => "SIGINT",
            };
            if std::mem::replace(&mut stopping, true) {
                eprintln!("ringpost: second signal ({name}), ending at once");
                std::process::exit(1);
            }
            let _ = sender.send(Signal::Stop(name));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(work).context("no thread for signals")?;
    Ok(receiver)
}
