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
//! | `GET /api/v1/queue` | socket | [`api::QueueStatus`] |
//! | `GET /api/v1/queue/messages` | socket | takes [`api::QueueQuery`], answers [`api::QueuePage`] |
//! | `GET /api/v1/queue/messages/{id}` | socket | [`api::MessageView`], with the header section for `?headers=true` |
//! | `GET /api/v1/queue/messages/{id}/message` | socket | the message's bytes |
//! | `POST /api/v1/queue/orders` | socket | takes [`api::QueueOrder`], answers [`api::QueueOrdered`] |
//! | `POST /api/v1/queue/verification` | socket | begins; [`api::QueueVerification`] |
//! | `GET /api/v1/queue/verification` | socket | [`api::QueueVerification`] |
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
//! use ringpost_admin::control::{BoxFuture, Control, MessageContent, QueueControl};
//! use ringpost_admin::{Admin, Options, Refusal, Sources, api};
//! use ringpost_base::SpoolId;
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
//! # impl QueueControl for Nobody {
//! #     fn queue_status(&self) -> BoxFuture<'_, Result<api::QueueStatus, Refusal>> { self.no() }
//! #     fn queue_page(&self, _: api::QueueQuery) -> BoxFuture<'_, Result<api::QueuePage, Refusal>> { self.no() }
//! #     fn message(&self, _: SpoolId, _: bool) -> BoxFuture<'_, Result<api::MessageView, Refusal>> { self.no() }
//! #     fn message_content(&self, _: SpoolId) -> BoxFuture<'_, Result<MessageContent, Refusal>> { self.no() }
//! #     fn order_queue(&self, _: api::QueueOrder) -> BoxFuture<'_, Result<api::QueueOrdered, Refusal>> { self.no() }
//! #     fn verify_queue(&self) -> BoxFuture<'_, Result<api::QueueVerification, Refusal>> { self.no() }
//! #     fn queue_verification(&self) -> BoxFuture<'_, Result<api::QueueVerification, Refusal>> { self.no() }
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

mod access;
mod accounts;
pub mod api;
mod audit;
mod changes;
mod clock;
pub mod control;
mod error;
mod exporter;
mod health;
mod history;
mod orders;
mod queue;
mod reference;
mod route;
mod routes;
mod server;
mod socket;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod views;

pub use access::Access;
pub use accounts::Principal;
pub use audit::{Audit, Note};
pub use control::{
    BanChange, Control, MessageContent, PROFILE_MAX, ProfileContent, ProfileFormat, QueueControl, Refusal, RefusalStatus,
};
pub use error::Error;
pub use reference::markdown;
pub use server::{Admin, Identity, Options, Situation, Sources, Vital};
