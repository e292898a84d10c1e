//! Webhooks against a server of our own, over real connections.

mod answers;
mod certificates;
mod faults;
mod files;
mod forms;
mod server;
mod shard;
mod tls;
