//! The services thread: health and metrics over HTTP.
//!
//! One OS thread, named `services`, runs a tokio runtime of its own and answers on `[admin] listen`:
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /livez` | 200 `ok` while the thread runs |
//! | `GET /readyz` | the phase, why, and each shard's phase, as JSON; 200 when ready or degraded, otherwise 503 |
//! | `GET /metrics` | every metric of the catalogue, Prometheus text format 0.0.4 |
//!
//! Invariants: nothing here is waited for by a shard; shards are read through their single-writer blocks and the control
//! board only. Connections, their headers and their time are bounded. A scrape sees each count exactly once.
//!
//! What it refuses: to change anything in the server, to read a request's body, to authenticate or encrypt (it listens on
//! loopback unless told otherwise; put a proxy in front to go further).
//!
//! ```
//! use ringpost_admin::{Options, Services, Sources};
//! use std::sync::Arc;
//! let sources = Sources {
//!     board: ringpost_control::Board::new(1),
//!     blocks: vec![Arc::new(ringpost_metrics::Block::new())],
//!     reasons: Arc::new(Vec::new),
//!     version: "0.1.0",
//! };
//! let services = Services::start(Options { listen: "127.0.0.1:0".parse().unwrap() }, sources).unwrap();
//! println!("http://{}/readyz", services.address());
//! services.stop();
//! ```

mod error;
mod exporter;
mod routes;
mod server;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use server::{Options, Services, Sources};
