//! Evidence in, decision out: the only place that makes a reply from evidence.
//!
//! Evidence is what is known about a connection, a sender, a recipient or a message, and about the core that would have to
//! carry it. A decision is to go on, or a [`Reply`] that says why not. [`Policy`] keeps no state and waits for nothing, and one
//! serves all shards. What has to be remembered between decisions is in machines beside it, each owned by somebody else: the
//! [`Ledger`] of a shard, the [`BanBook`] of the process.
//!
//! ```
//! use ringpost_policy::{Domain, Options, Policy, Recipients};
//! use ringpost_smtp::{Mailbox, Path, Rcpt};
//! use std::collections::HashMap;
//! let recipients = Recipients::Listed(vec!["ann".into()]);
//! let domain = Domain { name: "example.com".into(), recipients, ..Domain::default() };
//! let policy = Policy::new(Options { domains: vec![domain], ..Options::default() }, &HashMap::new()).unwrap();
//! let ask = |text| policy.recipient(&Rcpt::new(Path::Mailbox(Mailbox::parse(text).unwrap())), false);
//! assert_eq!(&*ask("Ann+news@Example.com").unwrap().addresses[0], "Ann+news@Example.com");
//! assert_eq!(ask("bob@example.com").unwrap_err().code(), 550);
//! assert_eq!(ask("ann@elsewhere.example").unwrap_err().code(), 550);
//! ```

mod bans;
mod canary;
mod directory;
mod domains;
mod greylist;
mod ledger;
mod limit;
mod options;
mod screen;
mod trail;

pub use bans::{
    Added, BANS_MAX, BadLine, Ban, BanBook, BanError, BanOptions, BanRule, BanSet, NftablesSet, OPERATOR, Offence,
    Protected,
};
pub use canary::{CanaryBands, CanaryJudge, Complaint, Conduct, Shares};
pub use directory::{
    ALIAS_DEPTH_MAX, Directory, DirectoryFault, Found, LINE_MAX, LINES_MAX, Match, PATTERNS_MAX, Target, without_detail,
};
pub use domains::{ALIAS_ADDRESSES_MAX, PolicyFault};
pub use greylist::{
    Grey, GreyKey, GreyPass, GreyRecord, GreySecret, GreySieve, Greylist, GreylistMode, GreylistOptions, RecordKind,
};
pub use ledger::{BanOrder, Counted, ENTRIES_MAX, Ledger, LedgerOptions, Totals};
pub use limit::Limit;
pub use options::{Domain, Options, Recipients};
pub use screen::{DnsList, Evidence, HeloKind, Listing, Part, Reverse, Score, ScreenOptions, Screening};
pub use trail::{Note, OwnedValue, RING_MIN, Stage, Trail, TrailStep, Value};

use domains::{Domains, POSTMASTER, plain};
use ringpost_base::{ByteCount, Span};
use ringpost_message::Headers;
use ringpost_smtp::{Path, Rcpt, Reply, replies};
use std::collections::HashMap;
use std::sync::Arc;

/// What policy makes of a message.
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

/// What policy makes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Serve it.
    Serve,
    /// Serve it, after so long.
    Delay(Span),
    /// Turn it away; [`Limit::reply`] says why.
    Refuse(Limit),
}

/// Why a core takes no message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Busy {
    /// It carries as much as it may.
    Limit(Limit),
    /// Its spool could not write, the last time it tried.
    SpoolFailing,
}

impl Busy {
    /// What a client is told.
    pub fn reply(self) -> Reply {
        match self {
            Busy::Limit(limit) => limit.reply(),
            Busy::SpoolFailing => replies::STORAGE_FULL,
        }
    }

    /// The limit that is met, if it is one.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Busy::Limit(limit) => Some(limit),
            Busy::SpoolFailing => None,
        }
    }
}

/// Where the mail of a recipient goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The addresses: the one that was named, as written but without needless quotes; or those that an alias leads to,
    /// each once.
    pub addresses: Vec<Box<str>>,
    /// How it was found.
    pub how: Match,
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

/// The rules of one configuration. It does not change: shards share one behind an [`Arc`] and are given another at a reload.
pub struct Policy {
    domains: Domains,
    hops_max: usize,
    connections_soft_percent: u8,
    banner_delay: Span,
}

impl Policy {
    /// The rules that the options say. `directories` has what the recipients files hold, by their paths in the options.
    /// Aliases are followed to their ends here, so that all faults are known before anything is served.
    pub fn new(options: Options, directories: &HashMap<String, Arc<Directory>>) -> Result<Self, Vec<PolicyFault>> {
        Ok(Self {
            domains: Domains::new(options.domains, directories)?,
            hops_max: options.hops_max,
            connections_soft_percent: options.connections_soft_percent,
            banner_delay: options.banner_delay,
        })
    }

    /// Whether a new connection is served, and whether at once.
    pub fn connection(&self, load: &Load, capacity: &Capacity) -> Admission {
        if load.connections >= capacity.connections {
            return Admission::Refuse(Limit::Connections);
        }
        let soft = capacity.connections.saturating_mul(usize::from(self.connections_soft_percent)).div_ceil(100);
        let is_crowded = load.connections >= soft && self.banner_delay > Span::millis(0);
        if is_crowded { Admission::Delay(self.banner_delay) } else { Admission::Serve }
    }

    /// Whether a message may begin: MAIL.
    pub fn sender(&self, load: &Load, capacity: &Capacity) -> Result<(), Busy> {
        if load.spool_failing {
            return Err(Busy::SpoolFailing);
        }
        let met = [
            (load.spool_backlog >= capacity.spool_backlog, Limit::SpoolBacklog),
            (load.messages_in_flight >= capacity.messages_in_flight, Limit::MessagesInFlight),
            (load.message_memory >= capacity.message_memory, Limit::MessageMemory),
        ];
        met.into_iter().find(|(is_met, _)| *is_met).map_or(Ok(()), |(_, limit)| Err(Busy::Limit(limit)))
    }

    /// Whether a recipient is served, and as which addresses: RCPT. `secure`: over TLS.
    pub fn recipient(&self, rcpt: &Rcpt, secure: bool) -> Result<Served, Reply> {
        let (domain, local) = match &rcpt.to {
            Path::Mailbox(mailbox) => (mailbox.domain(), plain(mailbox.local())),
            // RFC 5321 section 4.5.1: the postmaster of this server is that of its first domain.
            Path::Postmaster => (self.domains.first().ok_or(replies::RELAY_DENIED)?.name(), POSTMASTER.to_owned()),
            Path::Null => return Err(replies::BAD_RECIPIENT),
        };
        let home = self.domains.home(domain).ok_or(replies::RELAY_DENIED)?;
        if home.tls_required && !secure {
            return Err(replies::TLS_REQUIRED);
        }
        let found = home.find(&local).ok_or(replies::NO_SUCH_USER)?;
        let addresses = match found.how {
            Match::Alias => self.domains.expand(home, found.targets),
            _ => vec![format!("{local}@{domain}").into()],
        };
        // An alias leads nobody around the rule of the domain that it ends in.
        let wants_tls = |address: &str| {
            let home = address.rsplit_once('@').and_then(|(_, domain)| self.domains.home(domain));
            home.is_some_and(|home| home.tls_required)
        };
        if !secure && found.how == Match::Alias && addresses.iter().any(|address| wants_tls(address)) {
            return Err(replies::TLS_REQUIRED);
        }
        Ok(Served { addresses, how: found.how })
    }

    /// The address of the mailbox that one of our addresses is kept in, where that is another: the same without its detail
    /// (RFC 5233 section 4), unless the whole local part is a mailbox of its own.
    pub fn mailbox(&self, address: &str) -> Option<Box<str>> {
        let (local, domain) = address.rsplit_once('@')?;
        let home = self.domains.home(domain)?;
        if !home.separator().is_some_and(|separator| local.contains(separator)) {
            return None;
        }
        match home.find(local)?.how {
            Match::Any | Match::Subaddress => {}
            _ => return None,
        }
        let user = without_detail(local, home.separator());
        (user != local).then(|| format!("{user}@{domain}").into())
    }

    /// Where mail of this server's own to an address goes: to these mailboxes; nothing, if nobody of that name exists; and to
    /// the address itself where its domain is none of ours.
    pub fn reach(&self, address: &str) -> Vec<Box<str>> {
        let own =
            address.rsplit_once('@').and_then(|(local, domain)| Some((local, domain, self.domains.home(domain)?)));
        let Some((local, domain, home)) = own else { return vec![address.into()] };
        let local = plain(local);
        match home.find(&local) {
            Some(found) if found.how == Match::Alias => self.domains.expand(home, found.targets),
            Some(_) => vec![format!("{local}@{domain}").into()],
            None => Vec::new(),
        }
    }

    /// Whether a whole message is taken.
    pub fn message(&self, headers: &Headers) -> Decision {
        // RFC 5321 section 6.3.
        if headers.hops > self.hops_max { Decision::Refuse(replies::LOOP) } else { Decision::Accept }
    }

    /// Whether a client that calls itself this claims to be us: the server's host name, or a domain that it takes mail for.
    pub fn is_own_name(&self, name: &str, hostname: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        (!name.is_empty() && name.eq_ignore_ascii_case(hostname)) || self.domains.home(name).is_some()
    }
}

#[cfg(test)]
mod tests;
