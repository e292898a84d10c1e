//! The proof that a message is accepted, as a trait, so that the session machine can demand one without knowing the
//! spool it comes from.

use crate::SpoolId;

/// What stands for "this message is as durable as its route promises".
///
/// `ringpost-smtp` builds the one positive answer to a message only from a value of its session's `Accepted` type.
/// The server's is `ringpost_spool::Receipt`, which nothing but the spool can make; answering 250 earlier does not
/// compile.
pub trait Accepted {
    /// The id under which the message is spooled, as shown in the reply.
    fn id(&self) -> SpoolId;
}
