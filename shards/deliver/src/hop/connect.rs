//! From a server's place to a session that can take a message: addresses, connection, greeting, TLS.

use super::session::{Peer, Session};
use super::trouble::{BAD_CONNECTION, NO_ANSWER, NO_DIRECTORY, NO_TLS, Trouble};
use super::{Hop, label};
use ringpost_config::{HopPlace, HopTls};
use ringpost_metrics::Counter;
use ringpost_net::{Endpoint, Outbound};
use ringpost_runtime::tick;
use ringpost_smtp::sender::{Sender, SenderSetup, SenderStep, SenderTls};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Addresses of one host that are tried. Where four don't answer a fifth hardly will, and each takes its time.
const ADDRESSES_MAX: usize = 4;

/// Why a session did not come about.
enum Unopened {
    /// TLS was offered, and failed.
    Insecure(Trouble),
    /// Anything else.
    Failed(Trouble),
}

impl Hop {
    /// Opens a session with a host, at the first of its addresses where that is possible. If TLS is opportunistic and fails,
    /// `clear` says whether it may be gone without.
    pub(super) async fn open(&self, host: usize, place: &HopPlace, clear: bool) -> Result<Session, Trouble> {
        let opened = self.open_any(host, place, clear).await;
        let counter = if opened.is_ok() { Counter::HopConnections } else { Counter::HopConnectionsFailed };
        self.block.add(counter, 1);
        opened
    }

    async fn open_any(&self, host: usize, place: &HopPlace, clear: bool) -> Result<Session, Trouble> {
        let label = label(place);
        let mut last = Trouble::own(NO_DIRECTORY, &format!("{label}: it has no address"));
        // RFC 5321 section 5.1: one address after the other, until one works.
        for endpoint in self.endpoints(place).await? {
            let peer = Peer { host, label: label.as_str().into(), name: name(place), local: is_local(&endpoint) };
            match self.open_at(&endpoint, peer, clear).await {
                Ok(session) => return Ok(session),
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    async fn open_at(&self, endpoint: &Endpoint, peer: Peer, clear: bool) -> Result<Session, Trouble> {
        let tls = match self.options.tls {
            HopTls::Off => SenderTls::Off,
            HopTls::Opportunistic => SenderTls::Opportunistic,
            HopTls::Required | HopTls::Verified => SenderTls::Required,
        };
        let label = peer.label.clone();
        let trouble = match self.greet(endpoint, peer.clone(), tls).await {
            Ok(session) => return Ok(session),
            Err(Unopened::Insecure(trouble)) if clear && tls == SenderTls::Opportunistic => trouble,
            Err(Unopened::Insecure(trouble) | Unopened::Failed(trouble)) => return Err(trouble),
        };
        // A connection whose handshake failed is of no use for anything else.
        let reason = &*trouble.reason.text;
        tracing::warn!(
            destination = &*self.name,
            host = &*label,
            reason,
            "TLS that is offered does not work; sending without"
        );
        match self.greet(endpoint, peer, SenderTls::Off).await {
            Ok(session) => Ok(session),
            Err(Unopened::Insecure(trouble) | Unopened::Failed(trouble)) => Err(trouble),
        }
    }

    async fn greet(&self, endpoint: &Endpoint, peer: Peer, tls: SenderTls) -> Result<Session, Unopened> {
        let patience = self.options.connect_timeout.0;
        let in_words = |label: &str, error: &dyn std::fmt::Display| format!("{label}: {error}");
        let outbound = Outbound::connect(endpoint, patience, None)
            .await
            .map_err(|error| Unopened::Failed(Trouble::own(NO_ANSWER, &in_words(&peer.label, &error))))?;
        let setup = SenderSetup { protocol: self.protocol, helo: (*self.helo).into(), tls, secure: false };
        let mut session = Session::new(outbound, Sender::new(setup), peer);
        loop {
            let step = session.step("greeting", self.options.command_timeout.0).await.map_err(Unopened::Failed)?;
            match (step, &self.tls) {
                (SenderStep::Idle, _) => return Ok(session),
                (SenderStep::StartTls, Some(tls)) => {
                    let name = self.tls_name(&session.peer);
                    if let Err(error) = session.secure(&name, tls, patience).await {
                        return Err(Unopened::Insecure(Trouble::own(NO_TLS, &in_words(&session.peer.label, &error))));
                    }
                }
                (SenderStep::Refused(fault), _) => {
                    let trouble = session.trouble(&fault);
                    session.quit().await;
                    return Err(Unopened::Failed(trouble));
                }
                _ => {
                    let text = in_words(&session.peer.label, &"the session did not begin");
                    return Err(Unopened::Failed(Trouble::own(BAD_CONNECTION, &text)));
                }
            }
        }
    }

    /// What the server's certificate has to be for.
    fn tls_name(&self, peer: &Peer) -> String {
        let of_host = || peer.name.as_deref().unwrap_or("localhost").to_owned();
        self.options.tls_name.clone().unwrap_or_else(of_host)
    }

    /// Where a host can be reached.
    async fn endpoints(&self, place: &HopPlace) -> Result<Vec<Endpoint>, Trouble> {
        let (host, port) = match place {
            HopPlace::Unix(path) => return Ok(vec![Endpoint::Unix(PathBuf::from(path))]),
            HopPlace::Tcp { host, port } => (host, *port),
        };
        let addresses = match known(host) {
            Some(addresses) => addresses,
            None => {
                let deadline = tick().deadline(self.options.connect_timeout.0);
                let found = self.resolver.addresses(host, deadline).await;
                found.map_err(|failure| Trouble::own(NO_DIRECTORY, &format!("{host}: {failure}")))?.records
            }
        };
        let endpoint = |address: IpAddr| Endpoint::Tcp(SocketAddr::new(address, port));
        Ok(addresses.into_iter().take(ADDRESSES_MAX).map(endpoint).collect())
    }
}

/// The addresses of hosts about which nobody has to be asked: of an address itself, and of this machine, whose name a DNS
/// server might not know.
fn known(host: &str) -> Option<Vec<IpAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    host.parse().ok().map(|address| vec![address])
}

fn name(place: &HopPlace) -> Option<std::rc::Rc<str>> {
    match place {
        HopPlace::Tcp { host, .. } => Some(host.as_str().into()),
        HopPlace::Unix(_) => None,
    }
}

fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp(address) => address.ip().is_loopback(),
        Endpoint::Unix(_) => true,
    }
}
