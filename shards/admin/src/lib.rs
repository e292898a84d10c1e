//! Health and metrics over HTTP, and the admin socket.
//!
//! Both are served on the services thread, at two places: `[admin] listen`, a TCP address for monitoring, and `[admin]
//! socket`, a unix socket for the server's own user and root, and for those that the config names. The TCP address has
//! `/livez`, `/readyz` and `/metrics`, the socket the API too; `docs/api.md` has all of it, made from the rows of
//! `routes.rs` and from the types of [`api`] by [`markdown`].
//!
//! Invariants: no shard waits for anything here; shards are read through their single-writer blocks and the control board,
//! and whatever changes the server goes through [`Control`]. Connections, their headers, bodies and time are bounded, and
//! so are the orders under way. A scrape sees each count exactly once. An order that was begun is carried through, also
//! when whoever gave it has gone; and it leaves an entry in the audit log, done or refused.
//!
//! What it refuses: to change anything over TCP, to authenticate or encrypt there (it listens on loopback unless told
//! otherwise; put a proxy in front to go further), and to answer any user on the socket who is not named.
//!
//! ```
//! use ringpost_admin::control::{BoxFuture, Control, MessageContent, QueueControl};
//! use ringpost_admin::{Admin, BanChange, Options, ProfileContent, ProfileFormat, Refusal, Sources, api};
//! use ringpost_base::SpoolId;
//! use std::{sync::Arc, time::{Duration, Instant}};
//! # struct Nobody;
//! # impl Nobody {
//! #     fn no<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T, Refusal>> {
//! #         Box::pin(async { Err(Refusal::unavailable("an example")) })
//! #     }
//! # }
//! # impl Control for Nobody {
//! #     fn hostname(&self) -> String { "mx.example.org".to_owned() }
//! #     fn bans(&self) -> BoxFuture<'_, Result<Vec<api::BanView>, Refusal>> { self.no() }
//! #     fn ban(&self, _: api::BanAdd) -> BoxFuture<'_, Result<BanChange, Refusal>> { self.no() }
//! #     fn unban(&self, _: ringpost_base::Network) -> BoxFuture<'_, Result<api::BanView, Refusal>> { self.no() }
//! #     fn explain(&self, _: String) -> BoxFuture<'_, Result<api::Explanation, Refusal>> { self.no() }
//! #     fn reload(&self, _: api::ReloadOrder) -> BoxFuture<'_, Result<api::Reloaded, Refusal>> { self.no() }
//! #     fn canary(&self) -> BoxFuture<'_, Result<Option<api::CanaryView>, Refusal>> { self.no() }
//! #     fn stop_canary(&self) -> BoxFuture<'_, Result<api::CanaryView, Refusal>> { self.no() }
//! #     fn sessions(&self, _: api::SessionQuery) -> BoxFuture<'_, Result<api::Sessions, Refusal>> { self.no() }
//! #     fn limits(&self) -> BoxFuture<'_, Result<Vec<api::LimitView>, Refusal>> { self.no() }
//! #     fn config(&self) -> BoxFuture<'_, Result<api::ConfigView, Refusal>> { self.no() }
//! #     fn drain(&self, _: api::DrainOrder) -> BoxFuture<'_, Result<api::Draining, Refusal>> { self.no() }
//! #     fn upgrade(&self, _: api::UpgradeOrder) -> BoxFuture<'_, Result<api::Upgraded, Refusal>> { self.no() }
//! #     fn log_levels(&self) -> BoxFuture<'_, Result<api::LogLevelsView, Refusal>> { self.no() }
//! #     fn set_log_levels(&self, _: Option<api::LogLevelsView>) -> BoxFuture<'_, Result<api::LogLevelsView, Refusal>> {
//! #         self.no()
//! #     }
//! #     fn profile(&self, _: u16, _: Duration, _: ProfileFormat) -> BoxFuture<'_, Result<ProfileContent, Refusal>> {
//! #         self.no()
//! #     }
//! # }
//! # impl QueueControl for Nobody {
//! #     fn queue_status(&self, _: Option<Duration>) -> BoxFuture<'_, Result<api::QueueStatus, Refusal>> { self.no() }
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
//!     probes: Arc::new(Vec::new),
//!     process: Arc::new(Vec::new),
//!     vitals: Arc::new(Vec::new),
//!     situation: Arc::new(Default::default),
//!     identity: Default::default(),
//!     version: "0.1.0",
//!     started: Instant::now(),
//!     control: Arc::new(Nobody),
//! };
//! let options = Options { listen: "127.0.0.1:0".parse().ok(), ..Options::default() };
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
mod seldom;
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
    BanChange, Control, MessageContent, PROFILE_MAX, ProfileContent, ProfileFormat, QueueControl, Refusal,
    RefusalStatus,
};
pub use error::Error;
pub use health::standing;
pub use reference::markdown;
pub use server::{Admin, Identity, Options, Situation, Sources, Vital};
