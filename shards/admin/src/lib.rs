//! Health and metrics over HTTP, and the admin socket.
//!
//! Both are served on the services thread, at two places: `[admin] listen`, a TCP address for monitoring, and `[admin]
//! socket`, a unix socket for the server's own user and root.
//!
//! | route | where | answer |
//! | --- | --- | --- |
//! | `GET /livez` | both | 200 `ok` while the thread runs |
//! | `GET /readyz` | both | the phase, why, and each shard's phase, as JSON; 200 when ready or degraded, otherwise 503 |
//! | `GET /metrics` | both | every metric of the catalogue, Prometheus text format 0.0.4 |
//! | `GET /api/v1/status` | socket | [`api::Status`] |
//! | `GET /api/v1/bans` | socket | a list of [`api::BanView`] |
//! | `POST /api/v1/bans` | socket | takes [`api::BanAdd`], answers [`api::BanView`] |
//! | `DELETE /api/v1/bans/{network}` | socket | the [`api::BanView`] that was |
//! | `GET /api/v1/explain/{id}` | socket | [`api::Explanation`] |
//! | `POST /api/v1/reload` | socket | [`api::Reloaded`] |
//!
//! Invariants: no shard waits for anything here; shards are read through their single-writer blocks and the control board,
//! and whatever changes the server goes through [`Control`]. Connections, their headers, bodies and time are bounded, and
//! so are the orders under way. A scrape sees each count exactly once. An order that was begun is carried through, also
//! when whoever gave it has gone.
//!
//! What it refuses: to change anything over TCP, to authenticate or encrypt there (it listens on loopback unless told
//! otherwise; put a proxy in front to go further), and to answer any other user on the socket.
//!
//! ```
//! use ringpost_admin::{Admin, Options, Refusal, Sources, api, control::{BoxFuture, Control}};
//! use std::{sync::Arc, time::Instant};
//! # struct Nobody;
//! # impl Nobody {
//! #     fn no<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T, Refusal>> {
//! #         Box::pin(async { Err(Refusal::unavailable("an example")) })
//! #     }
//! # }
//! # impl Control for Nobody {
//! #     fn bans(&self) -> BoxFuture<'_, Result<Vec<api::BanView>, Refusal>> { self.no() }
//! #     fn ban(&self, _: api::BanAdd) -> BoxFuture<'_, Result<api::BanView, Refusal>> { self.no() }
//! #     fn unban(&self, _: ringpost_base::Network) -> BoxFuture<'_, Result<api::BanView, Refusal>> { self.no() }
//! #     fn explain(&self, _: String) -> BoxFuture<'_, Result<api::Explanation, Refusal>> { self.no() }
//! #     fn reload(&self) -> BoxFuture<'_, Result<api::Reloaded, Refusal>> { self.no() }
//! # }
//! let services = ringpost_runtime::Services::start().unwrap();
//! let sources = Sources {
//!     board: ringpost_control::Board::new(1),
//!     blocks: vec![Arc::new(ringpost_metrics::Block::new())],
//!     reasons: Arc::new(Vec::new),
//!     version: "0.1.0",
//!     started: Instant::now(),
//!     control: Arc::new(Nobody),
//! };
//! let options = Options { listen: "127.0.0.1:0".parse().ok(), socket: None };
//! let admin = Admin::start(&services.handle(), options, sources).unwrap();
//! println!("http://{}/readyz", admin.address().unwrap());
//! admin.stop();
//! services.stop();
//! ```

pub mod api;
pub mod control;
mod error;
mod exporter;
mod health;
mod orders;
mod routes;
mod server;
mod socket;
mod status;
#[cfg(test)]
mod tests;

pub use control::{Control, Refusal, RefusalStatus};
pub use error::Error;
pub use server::{Admin, Options, Sources};
