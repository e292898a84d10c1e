//! What the main thread is asked for, besides by signals: to begin the stop, and to hand over to another process.

use ringpost_admin::{Refusal, api};
use tokio::sync::oneshot;

/// Where the answer goes; whoever asked may have given up.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request to the main thread.
pub(crate) enum MainRequest {
    /// No new connections; sessions end, and, if asked for, the queue is delivered; then the server ends.
    Drain(api::DrainOrder, Answer<api::Draining>),
    /// Another process takes over.
    Upgrade(api::UpgradeOrder, Answer<api::Upgraded>),
}
