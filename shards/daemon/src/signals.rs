//! Signals that end the server, as messages to the main thread.

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Listens for SIGTERM and SIGINT on a thread of its own. The second one ends the process at once: whoever sends it
/// does not want to wait for the drain, and what was acknowledged is on disk.
pub(crate) fn listen() -> Result<Receiver<&'static str>> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("signals can't be listened for")?;
    let (sender, receiver) = bounded(1);
    let work = move || {
        for (number, signal) in signals.forever().enumerate() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            if number > 0 {
                eprintln!("ringpost: second signal ({name}), ending at once");
                std::process::exit(1);
            }
            // The main thread listens until it has ended.
            let _ = sender.send(name);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(work).context("no thread for signals")?;
    Ok(receiver)
}
