//! The rules a shard serves by: replaced as a whole when the configuration changes.
//!
//! A session keeps what it announced to its client and how TLS is used on it; everything else it looks up here when it
//! needs it, so that a change is in force with the next command.

use ringpost_base::Network;
use ringpost_net::Acceptor;
use ringpost_policy::{Capacity, GreylistMode, Policy, ScreenOptions};
use ringpost_queue::Routes;
use ringpost_smtp::{Options, Protocol, TlsUse, Trust};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The rules of one configuration, for one shard.
pub struct Rules {
    /// How many configurations came before this one.
    pub epoch: u64,
    /// Options of the protocol.
    pub options: Rc<Options>,
    /// Who may send what to whom.
    pub policy: Arc<Policy>,
    /// How a sending host is looked at.
    pub screen: ScreenOptions,
    /// Who is asked to come back.
    pub greylist: GreylistMode,
    /// Whether there are rules of automatic bans, so that offences are worth counting.
    pub counts_offences: bool,
    /// What this core may carry.
    pub capacity: Capacity,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// Where mail goes, and what is promised of it.
    pub routes: Rc<Routes>,
    /// How long a client waits for the next hop to answer for a message.
    pub next_hop_timeout: Duration,
    /// Makes TLS sessions.
    pub acceptor: Acceptor,
    /// Mail is taken over TLS only, on every listener.
    pub tls_required: bool,
    /// The listeners.
    pub listeners: Vec<ListenerRules>,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a command.
    pub command: Duration,
    /// Between two pieces of a message.
    pub data: Duration,
    /// For the whole session; nothing: as long as it likes.
    pub session: Option<Duration>,
}

/// The rules of one listener.
#[derive(Clone, Debug)]
pub struct ListenerRules {
    /// Its name.
    pub name: Rc<str>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// How TLS is used.
    pub tls: TlsUse,
    /// Peers that must begin with a PROXY header.
    pub proxy_from: Vec<Network>,
    /// Peers that may say XCLIENT.
    pub xclient_from: Vec<Network>,
    /// Peers that may say XFORWARD.
    pub xforward_from: Vec<Network>,
}

impl ListenerRules {
    /// What a client of this address may say of others.
    pub(crate) fn trust(&self, address: IpAddr) -> Trust {
        Trust { xclient: among(&self.xclient_from, address), xforward: among(&self.xforward_from, address) }
    }
}

impl Rules {
    /// The rules of a listener, by its name.
    pub fn listener(&self, name: &str) -> Option<&ListenerRules> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }
}

/// Whether one of the networks has the address.
pub(crate) fn among(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}
