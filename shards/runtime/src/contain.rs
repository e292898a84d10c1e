//! Tasks whose panic ends the task and not the shard.

use futures_lite::FutureExt;
use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs a future; a panic in it comes back as an error with the panic's message.
pub async fn contain<T>(future: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(message)
}

/// Does something; a panic in it comes back as an error with the panic's message.
///
/// # Errors
/// If it panicked. What it had done until then is done.
pub fn contain_now<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(message)
}

/// Runs a future as a detached task of this shard. A panic in it is logged with the task's name and goes no further.
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + 'static) {
    // Boxed once: each layer of async around it would otherwise keep room for it twice.
    let future = Box::pin(future);
    let task = async move {
        if let Err(panic) = contain(future).await {
            tracing::error!(task = name, panic, "task panicked");
        }
    };
    glommio::spawn_local(task).detach();
}

/// Runs a future as a detached task that the shard can't do without: a panic in it ends the shard, and with it, in order,
/// the process.
pub fn spawn_vital(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

pub(crate) fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast::<&str>().map_or_else(|_| "unknown panic".to_owned(), |text| (*text).to_owned()),
    }
}
