//! What is asked, and what comes back.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use ringpost_base::Tick;
use thiserror::Error;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Ipv4,
    Ipv6,
    Pointer,
    Text,
    MailExchange,
}

/// A question. Its name is as [`crate::name`] makes it, so that equal questions are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) name: Box<str>,
    pub(crate) kind: Kind,
}

/// The records of an answer, of the kind that was asked for; at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Records {
    Ipv4(Vec<Ipv4Addr>),
    Ipv6(Vec<Ipv6Addr>),
    Names(Vec<Box<str>>),
    Texts(Vec<Box<[u8]>>),
    Exchanges(Vec<MailExchange>),
}

impl Records {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Ipv4(list) => list.is_empty(),
            Self::Ipv6(list) => list.is_empty(),
            Self::Names(list) => list.is_empty(),
            Self::Texts(list) => list.is_empty(),
            Self::Exchanges(list) => list.is_empty(),
        }
    }

    /// What they take in memory, in bytes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Ipv4(list) => size_of_val(list.as_slice()),
            Self::Ipv6(list) => size_of_val(list.as_slice()),
            Self::Names(list) => size_of_val(list.as_slice()) + list.iter().map(|name| name.len()).sum::<usize>(),
            Self::Texts(list) => size_of_val(list.as_slice()) + list.iter().map(|text| text.len()).sum::<usize>(),
            Self::Exchanges(list) => {
                size_of_val(list.as_slice()) + list.iter().map(|mx| mx.exchange.len()).sum::<usize>()
            }
        }
    }
}

/// Records, and until when they are good.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) records: Records,
    pub(crate) expires: Tick,
}

/// How a question came out.
pub(crate) type Outcome = Result<Rc<Found>, Failure>;

/// What a question has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup<T> {
    /// The records.
    pub records: T,
    /// How long they are still good.
    pub ttl: Duration,
    /// Whether they came from the shard's cache.
    pub cached: bool,
}

/// A host that takes mail for a domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MailExchange {
    /// The lower, the sooner it is tried.
    pub preference: u16,
    /// Its name; `.` alone says that the domain takes no mail, RFC 7505 section 3.
    pub exchange: Box<str>,
}

/// Why a question found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// There is no such name, or it has no records of the kind asked for; or what was asked is no name.
    #[error("no such name or record")]
    NoSuchName,
    /// No answer in time: the server's, or within the caller's deadline.
    #[error("no answer in time")]
    Timeout,
    /// The server answered with an error, by its number in RFC 1035 section 4.1.1; mostly 2, that it could not find out.
    #[error("the DNS server answers with error {code}")]
    Server {
        /// RCODE.
        code: u16,
    },
    /// The server doesn't answer such questions, or not to us.
    #[error("the DNS server refuses to answer")]
    Refused,
    /// The server can't be reached, or what it sends is no answer.
    #[error("no DNS server can be reached")]
    Unreachable,
    /// Too many questions are under way on this shard. Nothing was asked.
    #[error("too many DNS questions are under way")]
    Overload,
}

impl Failure {
    /// Whether asking again later may find something. All are, but that the name isn't there.
    pub fn is_temporary(self) -> bool {
        self != Self::NoSuchName
    }
}
