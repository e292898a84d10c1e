//! SMTP as a sans-IO machine: the server session over a verb table, and the grammar it is built on.
//!
//! Bytes go in, replies come out into a buffer of the caller, and a [`Step`] says what the caller must do next. The
//! machine holds no socket, no buffer and no clock. Its invariants, whatever the input:
//!
//! - only CRLF.CRLF ends DATA, and only as the client sent it, never as made by a repair (RFC 5321 section 4.1.1.4),
//!   and only the last chunk ends BDAT;
//! - the positive reply to a message can only be made from a value of the session's [`Accepted`] type;
//! - nothing sent in plain text before a TLS handshake is remembered after it (RFC 3207 section 4.2).
//!
//! ```
//! use ringpost_base::{Accepted, SpoolId};
//! use ringpost_smtp::{Options, Session, Setup, Step};
//! struct Stored;
//! impl Accepted for Stored {
//!     fn id(&self) -> SpoolId { SpoolId::from_bytes([0; 16]) }
//! }
//! let setup = Setup::example();
//! let mut session = Session::<Stored>::new(setup);
//! let (mut out, mut body) = (Vec::new(), Vec::new());
//! let (used, step) = session.advance(b"EHLO client.example\r\n", &mut body, &mut out);
//! assert_eq!((used, step), (21, Step::Need));
//! assert!(out.starts_with(b"250-"));
//! ```

mod address;
mod body;
mod client;
mod command;
mod dsn;
mod greeting;
mod machine;
mod options;
pub mod proxy;
mod reply;
pub mod sender;
mod session;
mod verbs;

pub use address::{AddressError, Mailbox, Path};
pub use client::{ClientInfo, ClientName, ClientProtocol, ForwardInfo};
pub use command::{BodyKind, Mail, Rcpt};
pub use dsn::{MailDsn, Notify, Ret, to_orcpt};
pub use options::{BareNewline, Options, Protocol, TlsUse, Trust};
pub use reply::{Answered, Class, Reply, SessionLimit, Tally, replies};
pub use ringpost_base::Accepted;
pub use session::{Abandoned, Session, Setup, Step};

/// Longest command line accepted, CRLF included, where extensions add parameters (MAIL and RCPT) or attributes. RFC
/// 5321 section 4.5.3.1.4 has 512; SIZE, BODY, SMTPUTF8, REQUIRETLS and DSN add to it, the last more than 500.
pub const LINE_MAX: usize = 2048;

/// Longest line of a command without extension parameters, CRLF included (RFC 5321 section 4.5.3.1.4).
pub const PLAIN_LINE_MAX: usize = 512;

const _: () = assert!(PLAIN_LINE_MAX < LINE_MAX);
