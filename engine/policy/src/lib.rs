//! Evidence in, decision out: the only place that makes a reply from evidence.
//!
//! Evidence is what is known about a connection, a sender, a recipient or a message, and about the core that would have to
//! carry it. A decision is to go on, or a [`Reply`] that says why not. Nothing here keeps state or waits.
//!
//! ```
//! use ringpost_policy::{Capacity, Domain, Load, Options, Policy, Recipients};
//! use ringpost_smtp::{Mailbox, Path, Rcpt};
//! let domain = Domain { name: "example.com".into(), recipients: Recipients::Any, target: "local".into() };
//! let policy = Policy::new(Options { domains: vec![domain], ..Options::default() });
//! let rcpt = |text| Rcpt { to: Path::Mailbox(Mailbox::parse(text).unwrap()) };
//! assert_eq!(&*policy.recipient(&rcpt("a@Example.com")).unwrap(), "a@Example.com");
//! assert_eq!(policy.recipient(&rcpt("a@elsewhere.example")).unwrap_err().code(), 550);
//! ```

mod options;

pub use options::{Domain, Options, Recipients};

use ringpost_base::ByteCount;
use ringpost_message::Headers;
use ringpost_smtp::{Path, Rcpt, Reply, replies};
use std::collections::{HashMap, HashSet};

/// What policy makes of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Accept,
    /// Answer this.
    Refuse(Reply),
}

impl Decision {
    /// The reply that refuses, if one does.
    pub fn refusal(self) -> Option<Reply> {
        match self {
            Decision::Accept => None,
            Decision::Refuse(reply) => Some(reply),
        }
    }
}

/// What one core may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Open connections.
    pub connections: usize,
    /// Messages between MAIL and their final reply.
    pub messages_in_flight: usize,
    /// Bytes of messages in memory.
    pub message_memory: ByteCount,
    /// Bytes of messages accepted and not settled.
    pub spool_backlog: ByteCount,
}

/// What one core carries now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Open connections, without the one asked about.
    pub connections: usize,
    /// Messages between MAIL and their final reply.
    pub messages_in_flight: usize,
    /// Bytes of messages in memory.
    pub message_memory: ByteCount,
    /// Bytes of messages accepted and not settled.
    pub spool_backlog: ByteCount,
    /// The spool could not write, the last time it tried.
    pub spool_failing: bool,
}

enum Locals {
    Any,
    Listed(HashSet<Box<str>>),
}

/// The rules of one configuration.
pub struct Policy {
    domains: HashMap<Box<str>, Locals>,
    postmaster_domain: Option<Box<str>>,
    hops_max: usize,
}

impl Policy {
    /// The rules that the options say.
    pub fn new(options: Options) -> Self {
        let postmaster_domain = options.domains.first().map(|domain| domain.name.as_str().into());
        let domains = options.domains.into_iter().map(|domain| {
            let locals = match domain.recipients {
                Recipients::Any => Locals::Any,
                Recipients::Listed(names) => Locals::Listed(names.into_iter().map(|name| folded(&name)).collect()),
            };
            (folded(&domain.name), locals)
        });
        Self { domains: domains.collect(), postmaster_domain, hops_max: options.hops_max }
    }

    /// Whether a new connection is served.
    pub fn connection(&self, load: &Load, capacity: &Capacity) -> Decision {
        refuse_if(load.connections >= capacity.connections, replies::TOO_MANY_SESSIONS)
    }

    /// Whether a message may begin: MAIL.
    pub fn sender(&self, load: &Load, capacity: &Capacity) -> Decision {
        if load.spool_backlog >= capacity.spool_backlog {
            return Decision::Refuse(replies::STORAGE_FULL);
        }
        if load.spool_failing {
            return Decision::Refuse(replies::STORAGE_FULL);
        }
        let busy = load.messages_in_flight >= capacity.messages_in_flight;
        refuse_if(busy || load.message_memory >= capacity.message_memory, replies::BUSY)
    }

    /// Whether a recipient is served, and as which address: RCPT.
    pub fn recipient(&self, rcpt: &Rcpt) -> Result<Box<str>, Reply> {
        let mailbox = match &rcpt.to {
            Path::Mailbox(mailbox) => mailbox,
            Path::Postmaster => {
                let domain = self.postmaster_domain.as_ref().ok_or(replies::RELAY_DENIED)?;
                return Ok(format!("postmaster@{domain}").into());
            }
            Path::Null => return Err(replies::BAD_RECIPIENT),
        };
        match self.domains.get(&folded(mailbox.domain())) {
            None => Err(replies::RELAY_DENIED),
            Some(Locals::Any) => Ok(mailbox.as_str().into()),
            // RFC 5321 section 4.5.1: postmaster exists in every domain that takes mail.
            Some(Locals::Listed(names)) => {
                let local = folded(mailbox.local());
                let known = names.contains(&local) || &*local == "postmaster";
                if known { Ok(mailbox.as_str().into()) } else { Err(replies::NO_SUCH_USER) }
            }
        }
    }

    /// Whether a whole message is taken.
    pub fn message(&self, headers: &Headers) -> Decision {
        refuse_if(headers.hops > self.hops_max, replies::LOOP)
    }
}

fn refuse_if(condition: bool, reply: Reply) -> Decision {
    if condition { Decision::Refuse(reply) } else { Decision::Accept }
}

/// For comparing: ASCII case does not count.
fn folded(text: &str) -> Box<str> {
    text.to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_smtp::Mailbox;

    const CAPACITY: Capacity = Capacity {
        connections: 2,
        messages_in_flight: 2,
        message_memory: ByteCount(100),
        spool_backlog: ByteCount(100),
    };

    fn policy() -> Policy {
        let domain = |name: &str, recipients| Domain { name: name.into(), recipients, target: "local".into() };
        let listed = Recipients::Listed(vec!["Alice".into()]);
        let domains = vec![domain("any.example", Recipients::Any), domain("listed.example", listed)];
        Policy::new(Options { domains, hops_max: 3 })
    }

    fn check(address: &str, want: Result<&str, u16>) {
        let rcpt = Rcpt { to: Path::Mailbox(Mailbox::parse(address).expect("address")) };
        let got = policy().recipient(&rcpt);
        assert_eq!(got.as_deref().map_err(Reply::code), want, "{address}");
    }

    #[test]
    fn recipients() {
        check("x@any.example", Ok("x@any.example"));
        check("x@ANY.example", Ok("x@ANY.example"));
        check("aLiCe@listed.example", Ok("aLiCe@listed.example"));
        check("Postmaster@listed.example", Ok("Postmaster@listed.example"));
        check("bob@listed.example", Err(550));
        check("x@other.example", Err(550));
        check("x@[192.0.2.1]", Err(550));
        assert_eq!(policy().recipient(&Rcpt { to: Path::Postmaster }).as_deref(), Ok("postmaster@any.example"));
    }

    #[test]
    fn a_core_at_its_limit_refuses_for_a_while() {
        let code = |decision: Decision| decision.refusal().map(|reply| reply.code());
        let load = Load::default();
        assert_eq!(code(policy().connection(&load, &CAPACITY)), None);
        assert_eq!(code(policy().connection(&Load { connections: 2, ..load }, &CAPACITY)), Some(421));
        assert_eq!(code(policy().sender(&load, &CAPACITY)), None);
        for full in [
            Load { messages_in_flight: 2, ..load },
            Load { message_memory: ByteCount(100), ..load },
            Load { spool_backlog: ByteCount(100), ..load },
            Load { spool_failing: true, ..load },
        ] {
            assert_eq!(code(policy().sender(&full, &CAPACITY)), Some(452), "{full:?}");
        }
    }

    #[test]
    fn a_looping_message_is_refused() {
        let headers = |hops| Headers { hops, message_id: None };
        assert_eq!(policy().message(&headers(3)), Decision::Accept);
        assert_ne!(policy().message(&headers(4)), Decision::Accept);
    }
}
