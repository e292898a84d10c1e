//! The envelope, the trace header, the header walk.
//!
//! What a message is on its way through ringpost: an [`Envelope`] (who, to whom, when, from where) and its bytes. The
//! bytes are never changed; a trace header is put in front of them. What becomes of it is told to its sender in a
//! [`Report`](report::Report), which is a message of its own.
//!
//! ```
//! use ringpost_message::Headers;
//! let headers = Headers::walk(b"Received: from a\r\n\tby b\r\nMessage-ID: <1@a>\r\n\r\nbody\r\n");
//! assert_eq!((headers.hops, headers.message_id.as_deref()), (1, Some("1@a")));
//! ```

mod envelope;
mod headers;
pub mod report;
mod reports;
mod trace;

pub use envelope::{DecodeError, Envelope, Recipient};
pub use headers::{HEADERS_MAX, Headers};
pub use reports::{Notify, Ret};
pub use trace::{Arrival, Security, delivery_header, received};
