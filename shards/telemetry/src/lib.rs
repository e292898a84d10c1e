//! Sends the spans of sampled messages to a collector, by OTLP over HTTP.
//!
//! Each shard has a [`Tracer`]: it says which messages are sampled, and takes their spans into a lane of its own, bounded, where
//! the exporter on the services thread picks them up (`exporter.rs`). A batch goes out when 512 spans wait or a second has
//! passed, as a POST of the protocol's encoding (`wire.rs`) to ENDPOINT/v1/traces (`request.rs`).
//!
//! Invariants: a shard never waits for anything here, and no two shards write the same atomic; a collector that is away, slow
//! or wrong costs spans and nothing else, and each lost one is counted; memory is bounded by [`LANE_SPANS_MAX`] spans a
//! shard and one batch under way.
//!
//! What it refuses: to follow redirections, to believe a server whose certificate is not right, and to keep spans over a
//! restart.

mod exporter;
mod headers;
mod lane;
mod options;
mod request;
mod telemetry;
#[cfg(test)]
mod tests;
mod tracer;
mod wire;

pub use headers::{HeadersError, read_headers};
pub use lane::LANE_SPANS_MAX;
pub use options::{Error, Headers, Options};
pub use telemetry::Telemetry;
pub use tracer::Tracer;
