//! From a taken connection to its banner: where it really comes from, whether it is served, and whether it can wait.

use crate::dialogue::Dialogue;
use crate::lookups::Lookups;
use crate::owners::{Counted, Question};
use crate::rules::{ListenerRules, Rules, among};
use ringpost_base::{Tick, canonical};
use ringpost_metrics::{Counter, Timing};
use ringpost_net::{Closed, Connection};
use ringpost_policy::{Offence, Screening, Stage, Value};
use ringpost_runtime::tick;
use ringpost_smtp::proxy::{self, Parsed, Source};
use ringpost_smtp::{ClientInfo, ClientName, Protocol, Reply, Step, TlsUse, replies};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// How long a proxy has for its header. It sends it first of all, so this is the time of a lost packet or two.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a session ends, other than by its own words.
pub(crate) enum End {
    /// The connection is over.
    Closed(Closed),
    /// The client is not served, and told why.
    Refused(Reply),
}

impl From<Closed> for End {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// Who is at the other end, and what is known of it.
pub(crate) struct Client {
    /// The address that everything is decided by: the presented one, if a trusted peer presents one.
    pub(crate) address: IpAddr,
    /// LMTP is spoken.
    pub(crate) lmtp: bool,
    /// On the allow list, or on a listener for mail systems of one's own: never limited by address, nor screened.
    pub(crate) exempt: bool,
    /// Its place in the ledger of its address's owner.
    counted: Option<Counted>,
    /// It spoke before the banner.
    pub(crate) pregreet: bool,
    /// What the DNS is asked about it.
    pub(crate) lookups: Option<Rc<Lookups>>,
    /// What the evidence came to, once it was judged.
    pub(crate) screening: Option<Screening>,
    /// The name that a trusted peer presents for it.
    pub(crate) name: Option<Box<str>>,
    /// When the connection was taken.
    pub(crate) since: Tick,
}

impl Client {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self {
            address,
            lmtp: false,
            exempt: false,
            counted: None,
            pregreet: false,
            lookups: None,
            screening: None,
            name: None,
            since: tick(),
        }
    }
}

impl Dialogue<'_> {
    /// Does all that comes before the first command; the banner is sent then.
    pub(crate) async fn admit(
        &mut self,
        connection: &mut Connection,
        listener: &ListenerRules,
        delay: Duration,
    ) -> Result<(), End> {
        let rules = self.mx.rules();
        if let Some(span) = rules.timeouts.session {
            connection.allow_session(span);
        }
        let peer = connection.peer();
        let proxied = among(&listener.proxy_from, canonical(peer.ip()));
        if proxied {
            self.read_proxy_header(connection).await?;
            // What it may say of others depends on who it is, and not on who its proxy is.
            self.session.trust(listener.trust(self.client.address));
        }
        self.welcome(listener, proxied).await.map_err(End::Refused)?;
        let silence = self.silence(&rules, listener);
        self.look_up(&rules, silence);
        let inputs = [
            ("listener", Value::Text(&listener.name)),
            ("peer", Value::Address(peer.ip())),
            ("port", Value::Number(peer.port().into())),
            ("address", Value::Address(self.client.address)),
        ];
        self.note(Stage::Connect, 0, "", self.client.since, &inputs);
        if listener.tls == TlsUse::Implicit {
            connection.pause(delay).await?;
            Box::pin(self.secure(connection, true)).await?;
        } else {
            self.await_silence(connection, silence, delay).await?;
        }
        self.greet(connection).await?;
        self.observe(Timing::StageAccept, self.client.since);
        self.note(Stage::Banner, 220, "", self.client.since, &[]);
        Ok(())
    }

    /// Reads the header that a proxy begins with; what it presents is the client from then on.
    async fn read_proxy_header(&mut self, connection: &mut Connection) -> Result<(), End> {
        let since = tick();
        connection.allow(PROXY_TIMEOUT, false);
        connection.await_presentation();
        let read = connection
            .feed(true, |input| match proxy::parse(input) {
                Parsed::NeedMore => (0, None),
                Parsed::Header { used, source } => (used, Some(Ok(source))),
                Parsed::Malformed(error) => (input.len(), Some(Err(error))),
            })
            .await;
        let hop = connection.peer().to_string();
        match read {
            Ok(Ok(source)) => {
                self.mx.block().add(Counter::ProxyHeaders, 1);
                // Where the proxy speaks for itself, it is the client: a health check, mostly.
                let source = match source {
                    Source::Proxied { source, .. } => source,
                    Source::Local => {
                        self.client.exempt = true;
                        connection.peer()
                    }
                };
                connection.present(source);
                connection.allow(self.mx.rules().timeouts.command, false);
                self.client.address = connection.peer().ip();
                self.seen.from(self.client.address);
                let address = self.client.address.to_string();
                self.note(
                    Stage::Proxy,
                    0,
                    "",
                    since,
                    &[("peer", Value::Text(&hop)), ("address", Value::Text(&address))],
                );
                Ok(())
            }
            Ok(Err(error)) => {
                let reason = error.to_string();
                Err(self.no_header(&hop, &reason, since))
            }
            Err(Closed::Timeout) => Err(self.no_header(&hop, "none came in time", since)),
            Err(closed) => Err(End::Closed(closed)),
        }
    }

    fn no_header(&self, hop: &str, reason: &str, since: Tick) -> End {
        self.mx.block().add(Counter::ProxyMalformed, 1);
        tracing::warn!(session = %self.id, peer = hop, reason, "no PROXY header that can be read");
        let inputs = [("peer", Value::Text(hop)), ("reason", Value::Text(reason))];
        self.note(Stage::Proxy, replies::PROXY_MALFORMED.code(), "listener.proxy_from", since, &inputs);
        End::Refused(replies::PROXY_MALFORMED)
    }

    /// Whether the client of this address is served: bans, then what its address may do.
    async fn welcome(&mut self, listener: &ListenerRules, presented: bool) -> Result<(), Reply> {
        let address = self.client.address;
        let since = tick();
        if presented && self.mx.is_banned(self.id, address, since, replies::BANNED.code()) {
            self.mx.block().add(Counter::BansRefused, 1);
            return Err(replies::BANNED);
        }
        // The clients of LMTP are mail systems of one's own.
        self.client.lmtp = listener.protocol == Protocol::Lmtp;
        self.client.exempt |= self.client.lmtp || self.mx.bans().allows(address);
        if self.client.exempt {
            return Ok(());
        }
        match Counted::begin(&self.mx.owners, address).await {
            Ok(counted) => self.client.counted = counted,
            Err(limit) => {
                let text = address.to_string();
                self.mx.met(self.id, limit, Stage::Connect, since, &[("address", Value::Text(&text))]);
                self.offend(Offence::LimitHit, 1);
                tracing::info!(session = %self.id, peer = text, limit = limit.key(), "connection refused");
                return Err(limit.reply());
            }
        }
        Ok(())
    }

    /// How long the client must keep silent before its banner.
    fn silence(&self, rules: &Rules, listener: &ListenerRules) -> Duration {
        // Whoever must shake hands first can't speak too early.
        let tested = !self.client.exempt && listener.protocol == Protocol::Smtp && listener.tls != TlsUse::Implicit;
        if tested { rules.screen.pregreet_wait.0 } else { Duration::ZERO }
    }

    /// Begins to ask the DNS about the client, which has its banner after `silence`.
    fn look_up(&mut self, rules: &Rules, silence: Duration) {
        if !self.client.exempt {
            self.client.lookups = Lookups::begin(self.mx, &rules.screen, self.client.address, silence);
        }
    }

    /// Holds the banner back: as long as the core is near its limit, and to see whether the client speaks first.
    async fn await_silence(
        &mut self,
        connection: &mut Connection,
        silence: Duration,
        delay: Duration,
    ) -> Result<(), End> {
        let since = tick();
        if silence.is_zero() {
            if !delay.is_zero() {
                connection.pause(delay).await?;
            }
            return Ok(());
        }
        let silent = connection.quiet(silence).await?;
        if !silent {
            self.client.pregreet = true;
            self.mx.block().add(Counter::Pregreets, 1);
            self.offend(Offence::Pregreet, 1);
            tracing::info!(session = %self.id, peer = %self.client.address, "client spoke before the banner");
        }
        let rule = if silent { "" } else { "screen.pregreet_wait" };
        let waited = tick().since(since).as_millis() as u64;
        self.note(Stage::Pregreet, 0, rule, since, &[("waited_ms", Value::Number(waited))]);
        if let Some(rest) = delay.checked_sub(tick().since(since)) {
            connection.pause(rest).await?;
        }
        Ok(())
    }

    /// XCLIENT: a trusted peer says for whom it speaks. The session begins anew, as that client's.
    pub(crate) async fn present(&mut self, info: ClientInfo, connection: &mut Connection) -> Option<Step> {
        let rules = self.mx.rules();
        let since = tick();
        self.message = None;
        self.greeted = false;
        self.seen.greeted(None);
        let listener = rules.listener(self.seen.listener()).cloned();
        if let (Some(address), Some(listener)) = (info.addr, &listener) {
            let address = canonical(address);
            connection.present(SocketAddr::new(address, info.port.unwrap_or(0)));
            *self.client = Client::new(address);
            self.seen.from(address);
            self.tarpit = false;
            if let Err(reply) = self.welcome(listener, true).await {
                // Whoever is turned away must not go on as anybody.
                self.session.answer_client(Some(reply), &mut self.out);
                return Some(Step::Close);
            }
            self.look_up(&rules, Duration::ZERO);
        }
        self.client.name = match info.name {
            Some(ClientName::Known(name)) => Some(name),
            Some(ClientName::Missing | ClientName::Unknown) | None => None,
        };
        let address = self.client.address.to_string();
        let name = self.client.name.as_deref().unwrap_or("");
        self.note(Stage::Client, 220, "", since, &[("address", Value::Text(&address)), ("name", Value::Text(name))]);
        tracing::info!(session = %self.id, hop = %connection.hop(), peer = address, name, "XCLIENT");
        self.session.answer_client(None, &mut self.out)
    }

    /// Tells the owner of the client's address that it offended.
    pub(crate) fn offend(&self, offence: Offence, count: u32) {
        if !self.client.exempt && self.mx.rules().counts_offences {
            self.mx.owners.tell(Question::Offence { address: self.client.address, offence, count });
        }
    }
}
