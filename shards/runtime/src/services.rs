//! The thread for what only exists on tokio: health and metrics over HTTP, the sockets of DNS.
//!
//! One OS thread, named `services`, drives a tokio runtime of its own. Tasks come to it from any thread through
//! [`Services::handle`]; what they find out goes back to a shard through an [`inbox`](crate::inbox()) and no other way.
//!
//! Invariants: a panic in a task ends that task and nothing else; [`Services::stop`] returns within a second, whatever the
//! tasks do. It refuses to be waited for: a shard that asks something of this thread sets itself a deadline and knows
//! what to do without an answer. It doesn't let tasks finish either: who has something to end in order does so before
//! the thread is stopped.
//!
//! ```
//! let services = ringpost_runtime::Services::start().unwrap();
//! let (sender, receiver) = std::sync::mpsc::channel();
//! services.handle().spawn(async move { sender.send(7) });
//! assert_eq!(receiver.recv(), Ok(7));
//! services.stop();
//! ```

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long the stop waits for a task that computes or blocks. Those that merely wait for something end at once.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// The running services thread. Dropped without [`stop`](Self::stop), it is told to end and not waited for.
pub struct Services {
    handle: Handle,
    stop: oneshot::Sender<()>,
    /// Disconnected once the thread is done.
    done: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Services {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the kernel gives no thread, or no descriptors for the event loop on it.
    pub fn start() -> Result<Self, io::Error> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (ended, done) = channel();
        let drive = move || {
            let _ended = ended;
            drive(runtime, stopped);
        };
        let thread = std::thread::Builder::new().name("services".to_owned()).spawn(drive)?;
        Ok(Self { handle, stop, done, thread })
    }

    /// Starts tasks on the thread, from any thread; a task started after the stop is dropped at once.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Drops all tasks, each where it waits, and ends the thread. A task that still runs after half a second is left to the
    /// end of the process.
    pub fn stop(self) {
        let Self { stop, done, thread, .. } = self;
        // It fails only when the thread has ended already.
        let _ = stop.send(());
        match done.recv_timeout(STOP_PATIENCE) {
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("a task of the services thread doesn't end; it is left behind")
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                if thread.join().is_err() {
                    tracing::error!("the services thread had panicked; nothing was served by it since");
                }
            }
        }
    }
}

/// Runs the tasks until the stop, or until the [`Services`] are dropped.
fn drive(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    // An error means that the sender was dropped, which says the same.
    let _ = runtime.block_on(stopped);
    // Threads that tokio made for blocking work are not waited for: the stop is bounded.
    runtime.shutdown_background();
}
