//! What spans are called, and what the keys of their attributes are. Names of OpenTelemetry's conventions where it has one.

/// Names of spans.
pub mod name {
    /// The root: from MAIL to the final reply.
    pub const MESSAGE: &str = "smtp.message";
    /// The score of the sending host, with its lookups in the DNS.
    pub const SCREEN: &str = "smtp.screen";
    /// Whether the sender has to come again.
    pub const GREYLIST: &str = "smtp.greylist";
    /// Whether there is such a recipient.
    pub const RECIPIENT: &str = "smtp.recipient";
    /// From the reply that invites the message to its last byte.
    pub const BODY: &str = "smtp.body";
    /// From the last byte to the receipt.
    pub const COMMIT: &str = "spool.commit";
    /// One attempt at one target.
    pub const ATTEMPT: &str = "delivery.attempt";
    /// A report about the message to its sender: in the trace of the message, and the root of the report's own.
    pub const REPORT: &str = "report";
}

/// Keys of attributes.
pub mod key {
    /// The message's id.
    pub const MESSAGE_ID: &str = "ringpost.message.id";
    /// The session that it came in.
    pub const SESSION_ID: &str = "ringpost.session.id";
    /// The sender of its envelope. An address.
    pub const FROM: &str = "ringpost.message.from";
    /// Its size in bytes.
    pub const SIZE: &str = "ringpost.message.size";
    /// How many recipients it has, or a step is for.
    pub const RECIPIENTS: &str = "ringpost.recipients";
    /// The address of the client. An address.
    pub const CLIENT: &str = "client.address";
    /// What the client calls itself.
    pub const HELO: &str = "ringpost.helo";
    /// The code of the final reply.
    pub const REPLY: &str = "ringpost.reply.code";
    /// The shard.
    pub const SHARD: &str = "ringpost.shard";
    /// The target.
    pub const DESTINATION: &str = "ringpost.destination";
    /// Which attempt of the message at the target, from 1.
    pub const ATTEMPT: &str = "ringpost.attempt";
    /// What became of it, in a word.
    pub const OUTCOME: &str = "ringpost.outcome";
    /// Why, in words.
    pub const REASON: &str = "ringpost.reason";
    /// The server that was asked. An address.
    pub const REMOTE: &str = "server.address";
    /// The kind of a report.
    pub const REPORT_KIND: &str = "ringpost.report.kind";
    /// The message of the report.
    pub const REPORT_ID: &str = "ringpost.report.id";
    /// The message that a report is about.
    pub const REPORT_ABOUT: &str = "ringpost.report.about";

    /// Keys whose values are or may quote addresses of mail, as `log.redact` has them in `mail`.
    pub const OF_MAIL: &[&str] = &[FROM, REASON];
    /// Keys whose values are or may quote addresses and names of hosts, as `log.redact` has them in `client`.
    pub const OF_HOSTS: &[&str] = &[CLIENT, HELO, REMOTE, REASON];
}
