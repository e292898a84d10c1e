//! The MX of one shard: takes connections, says which are served, and contains their panics.

use crate::admission::End;
use crate::dialogue::Dialogue;
use crate::open::{self, Open, OpenSessions};
use crate::owners::Owners;
use crate::proof::Proof;
use crate::rules::{ListenerRules, Rules, among};
use ringpost_base::{
    ByteCount, Entropy, MessageIds, SessionId, SessionIds, ShardId, SpoolId, Tick, Timestamp, canonical,
};
use ringpost_dns::{Answers, BreakerOptions, Dns, List, ListState, Lists, Resolver};
use ringpost_message::Envelope;
use ringpost_metrics::{Block, Counter, Gauge};
use ringpost_net::{Closed, Connection, Table};
use ringpost_policy::{Admission, BanSet, DnsList, GreySecret, Limit, Load, Note, Stage, Trail, TrailStep, Value};
use ringpost_queue::{HandedOver, NotHandedOver, Reason};
use ringpost_runtime::{contain, now, spawn, tick};
use ringpost_smtp::{Reply, Session, Setup, TlsUse, replies};
use ringpost_store::{LoadedContent, Store};
use ringpost_telemetry::Tracer;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a client has to take the last words it is told.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Connections told at one time why they are not served; further ones are closed without a word.
const TURNING_AWAY_MAX: usize = 256;

/// Takes a message that is kept here: its envelope, its length in bytes, and the recipients, by number, that are done already.
pub type TakeAccepted = dyn Fn(&Envelope, u64, &[u32]);

/// Asks the next hop to answer for a message, and waits for what it says.
pub type HandOver = dyn Fn(Rc<Envelope>, LoadedContent) -> Pin<Box<dyn Future<Output = HandedOverOrNot>>>;

/// What came of it: the proof, or who has it and the first reason why another has not.
pub type HandedOverOrNot = Result<HandedOver, (NotHandedOver, Reason)>;

/// What an MX is made of.
pub struct MxSetup {
    /// Which shard.
    pub shard: ShardId,
    /// Randomness for ids of sessions.
    pub entropy: Entropy,
    /// Makes the ids of messages; the same maker as that of reports.
    pub ids: Rc<RefCell<MessageIds>>,
    /// The rules it begins with.
    pub rules: Rules,
    /// Who is shut out, and who never is.
    pub bans: Arc<BanSet>,
    /// Who counts what addresses do.
    pub owners: Rc<Owners>,
    /// What triplets of greylisting are hashed with.
    pub secret: GreySecret,
    /// Looks names and lists up.
    pub resolver: Rc<Resolver>,
    /// Bytes of the trail that explains sessions; 0: none.
    pub trail_bytes: usize,
    /// The spool.
    pub store: Rc<Store>,
    /// Where it counts.
    pub block: Arc<Block>,
    /// Takes the spans of sampled messages.
    pub tracer: Rc<Tracer>,
    /// Where accepted messages go.
    pub accepted: Box<TakeAccepted>,
    /// Asks the next hop to answer for a message.
    pub hand_over: Box<HandOver>,
}

/// The MX of one shard, shared by its listeners.
pub struct Mx {
    rules: RefCell<Rc<Rules>>,
    bans: RefCell<Arc<BanSet>>,
    trail: RefCell<Trail>,
    pub(crate) owners: Rc<Owners>,
    pub(crate) secret: GreySecret,
    pub(crate) resolver: Rc<Resolver>,
    /// The DNS lists, if there are any, with the options that they were made from.
    lists: RefCell<(Vec<DnsList>, Option<Rc<Lists>>)>,
    pub(crate) store: Rc<Store>,
    block: Arc<Block>,
    pub(crate) tracer: Rc<Tracer>,
    pub(crate) accepted: Box<TakeAccepted>,
    pub(crate) hand_over: Box<HandOver>,
    message_ids: Rc<RefCell<MessageIds>>,
    session_ids: RefCell<SessionIds>,
    /// Connections being told that they are not served.
    turning_away: Cell<usize>,
    /// Those that are served.
    pub(crate) open: OpenSessions,
}

/// One listener of an MX.
#[derive(Clone)]
pub struct MxListener {
    mx: Rc<Mx>,
    name: Rc<str>,
}

impl Mx {
    /// An MX with nothing connected.
    pub fn new(setup: MxSetup) -> Rc<Self> {
        let session_ids = RefCell::new(SessionIds::new(setup.shard, setup.entropy));
        setup.block.set(Gauge::ConfigEpoch, setup.rules.epoch);
        setup.block.set(Gauge::Bans, setup.bans.len() as u64);
        let lists = RefCell::new((setup.rules.screen.lists.clone(), lists_of(&setup.rules, &setup.resolver)));
        Rc::new(Self {
            lists,
            rules: RefCell::new(Rc::new(setup.rules)),
            bans: RefCell::new(setup.bans),
            trail: RefCell::new(Trail::new(setup.trail_bytes)),
            owners: setup.owners,
            secret: setup.secret,
            resolver: setup.resolver,
            store: setup.store,
            block: setup.block,
            tracer: setup.tracer,
            accepted: setup.accepted,
            hand_over: setup.hand_over,
            message_ids: setup.ids,
            session_ids,
            turning_away: Cell::new(0),
            open: OpenSessions::default(),
        })
    }

    /// A listener of it. The rules have one of that name.
    pub fn listener(self: &Rc<Self>, name: &str) -> MxListener {
        MxListener { mx: self.clone(), name: name.into() }
    }

    /// The rules in force.
    pub fn rules(&self) -> Rc<Rules> {
        self.rules.borrow().clone()
    }

    /// Puts other rules in force, for sessions under way too.
    pub fn replace_rules(&self, rules: Rules, trail_bytes: usize) {
        self.block.set(Gauge::ConfigEpoch, rules.epoch);
        self.trail.borrow_mut().resize(trail_bytes);
        // Lists that stay keep what is known of their health.
        if self.lists.borrow().0 != rules.screen.lists {
            self.lists.replace((rules.screen.lists.clone(), lists_of(&rules, &self.resolver)));
        }
        self.rules.replace(Rc::new(rules));
    }

    /// Puts other bans in force, and ends the sessions that they are against.
    pub fn replace_bans(&self, bans: Arc<BanSet>, table: &Table) {
        self.block.set(Gauge::Bans, bans.len() as u64);
        let at = now().wall;
        table.evict(|address| bans.find(canonical(address), at).is_some());
        self.bans.replace(bans);
    }

    /// Asks other servers of the DNS from now on; with those in force nothing changes.
    pub fn replace_dns(&self, dns: &Dns) {
        self.resolver.replace(dns.clone());
    }

    /// How the DNS lists do, as this shard sees them.
    pub fn list_states(&self) -> Vec<ListState> {
        self.lists().map_or_else(Vec::new, |lists| lists.states())
    }

    /// What is known of a session, or of the session of a message: the steps that the trail still has.
    pub fn explain(&self, session: Option<SessionId>, message: &str) -> Option<(SessionId, Vec<TrailStep>)> {
        let trail = self.trail.borrow();
        let session = session.or_else(|| trail.find(message))?;
        Some((session, trail.explain(session)))
    }

    /// How far back the trail reaches.
    pub fn explains_since(&self) -> Option<Timestamp> {
        self.trail.borrow().oldest()
    }

    pub(crate) fn bans(&self) -> Arc<BanSet> {
        self.bans.borrow().clone()
    }

    /// Leaves a note of what began at `since` and is done now on the trail.
    pub(crate) fn note(
        &self,
        session: SessionId,
        stage: Stage,
        outcome: u16,
        rule: &str,
        since: Tick,
        inputs: &[(&str, Value<'_>)],
    ) {
        let mut trail = self.trail.borrow_mut();
        if trail.is_on() {
            let now = now();
            trail.note(session, now.wall, &Note { stage, outcome, rule, took: now.tick.since(since), inputs });
        }
    }

    pub(crate) fn next_message_id(&self, at: Timestamp) -> SpoolId {
        self.message_ids.borrow_mut().next(at)
    }

    /// What the core carries now, as evidence for policy.
    pub(crate) fn load(&self) -> Load {
        let block = &self.block;
        Load {
            connections: block.gauge(Gauge::SessionsOpen) as usize,
            messages_in_flight: block.gauge(Gauge::MessagesInFlight) as usize,
            message_memory: ByteCount(block.gauge(Gauge::MessageMemory)),
            spool_backlog: ByteCount(block.gauge(Gauge::SpoolBacklog)),
            spool_failing: self.store.is_refusing(),
        }
    }

    /// Whether the core is at half of its messages in flight, or more.
    pub(crate) fn is_crowded(&self, rules: &Rules) -> bool {
        self.block.gauge(Gauge::MessagesInFlight) as usize >= rules.capacity.messages_in_flight.div_ceil(2)
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// The same for a task that outlives the session.
    pub(crate) fn shared_block(&self) -> Arc<Block> {
        self.block.clone()
    }

    pub(crate) fn lists(&self) -> Option<Rc<Lists>> {
        self.lists.borrow().1.clone()
    }

    /// A limit was met.
    pub(crate) fn count_limit(&self, limit: Limit) {
        self.block.add(counter_of(limit), 1);
    }
}

/// Keeps the count of those who are turned away.
struct TurningAway<'a>(&'a Mx);

impl<'a> TurningAway<'a> {
    fn new(mx: &'a Mx) -> Self {
        mx.turning_away.set(mx.turning_away.get() + 1);
        Self(mx)
    }
}

impl Drop for TurningAway<'_> {
    fn drop(&mut self) {
        self.0.turning_away.set(self.0.turning_away.get() - 1);
    }
}

/// How a session ends.
struct Ending {
    /// The metric that counts it.
    how: Counter,
    /// The last words to its client.
    words: Option<Reply>,
    /// The limit that ends it, by its key.
    rule: &'static str,
}

impl Ending {
    /// Without a word, and by no limit.
    fn of(how: Counter) -> Self {
        Self { how, words: None, rule: "" }
    }
}

impl MxListener {
    /// Serves a connection, in a task of its own.
    pub fn take(&self, connection: Connection) {
        let mx = &self.mx;
        let rules = mx.rules();
        // A listener's name can't change without a restart; a connection to one without rules is a fault, and is closed.
        let Some(listener) = rules.listener(&self.name) else { return };
        mx.block().add(Counter::SessionsOpened, 1);
        let id = mx.session_ids.borrow_mut().next(now().wall);
        let address = canonical(connection.peer().ip());
        let since = tick();
        let proxied = among(&listener.proxy_from, address);
        // What a proxy presents comes later, and is looked at then; a proxy itself is never banned.
        if !proxied && mx.is_banned(id, address, since, 554) {
            mx.block().add(Counter::BansRefused, 1);
            return self.refuse(connection, id, listener, replies::BANNED);
        }
        match rules.policy.connection(&mx.load(), &rules.capacity) {
            Admission::Serve => spawn("session", self.clone().serve(Box::new(connection), id, Duration::ZERO)),
            Admission::Delay(span) => {
                mx.block().add(Counter::BannersDelayed, 1);
                spawn("session", self.clone().serve(Box::new(connection), id, span.0));
            }
            Admission::Refuse(limit) => {
                mx.met(id, limit, Stage::Connect, since, &[("address", Value::Address(address))]);
                self.refuse(connection, id, listener, limit.reply());
            }
        }
    }

    fn refuse(&self, connection: Connection, id: SessionId, listener: &ListenerRules, reply: Reply) {
        let mx = &self.mx;
        mx.block().add(Counter::SessionsRefused, 1);
        if mx.turning_away.get() >= TURNING_AWAY_MAX {
            return;
        }
        // Where TLS comes first there is no way to say why.
        let words = (listener.tls != TlsUse::Implicit).then_some(reply);
        spawn("refusal", self.clone().turn_away(Box::new(connection), id, words));
    }

    async fn serve(self, mut connection: Box<Connection>, id: SessionId, delay: Duration) {
        let mx = self.mx.clone();
        let open = Open::new(&mx, id, &self.name, canonical(connection.peer().ip()));
        tracing::debug!(session = %id, peer = %connection.peer(), listener = &*self.name, "connected");
        let outcome = contain(Box::pin(self.converse(&mut connection, &open, delay))).await;
        open.seen.at(open::Stage::Closing);
        let how = match outcome {
            Ok(how) => how,
            Err(panic) => {
                mx.block().add(Counter::SessionsPanicked, 1);
                tracing::error!(session = %id, peer = %connection.peer(), panic, "session panicked");
                Box::pin(self.last_words(&mut connection, id, &replies::INTERNAL)).await;
                Counter::SessionsClosedServer
            }
        };
        mx.block().add(how, 1);
        tracing::debug!(session = %id, how = words_of(how), "disconnected");
        connection.allow(LAST_WORDS, false);
        let linger =
            !matches!(how, Counter::SessionsClosedQuit | Counter::SessionsClosedPeer | Counter::SessionsClosedTls);
        Box::pin(connection.close(linger)).await;
        // As long as the socket is open it counts: who is sent away and stays would otherwise cost descriptors for nothing.
        drop(open);
    }

    /// The whole of a session; says how it ended.
    async fn converse(&self, connection: &mut Connection, open: &Open<'_>, delay: Duration) -> Counter {
        let id = open.id();
        let rules = self.mx.rules();
        let Some(listener) = rules.listener(&self.name) else { return Counter::SessionsClosedServer };
        let tls_first = listener.tls == TlsUse::Implicit;
        let session = self.session(&rules, listener, id, connection);
        let mut dialogue = Dialogue::new(open, session, canonical(connection.peer().ip()));
        let ended = match Box::pin(dialogue.admit(connection, listener, delay)).await {
            Ok(()) => {
                drop(rules);
                dialogue.run(connection).await.map(End::Closed)
            }
            Err(end) => Some(end),
        };
        let Ending { how, words, rule } = match ended {
            None if dialogue.has_quit() => Ending::of(Counter::SessionsClosedQuit),
            None => Ending::of(Counter::SessionsClosedServer),
            // Which rule it was is noted where it refused.
            Some(End::Refused(reply)) => Ending { words: Some(reply), ..Ending::of(Counter::SessionsRefused) },
            Some(End::Closed(closed)) => self.farewell(&dialogue, closed),
        };
        // Where TLS comes first there is no way to say anything before it.
        let words = words.filter(|_| !tls_first || dialogue.session.is_secure());
        let code = words.as_ref().map_or(0, Reply::code);
        open.seen.at(open::Stage::Closing);
        dialogue.note(Stage::Close, code, rule, dialogue.since(), &[("how", Value::Text(words_of(how)))]);
        if let Some(reply) = words {
            connection.allow(LAST_WORDS, false);
            dialogue.end(connection, &reply).await;
        }
        how
    }

    /// How a session ends that was closed.
    fn farewell(&self, dialogue: &Dialogue<'_>, closed: Closed) -> Ending {
        let block = self.mx.block();
        let timeout = |row, rule, words| {
            block.add(row, 1);
            Ending { how: Counter::SessionsClosedTimeout, words: Some(words), rule }
        };
        match closed {
            Closed::Stopping => Ending { words: Some(replies::SHUTDOWN), ..Ending::of(Counter::SessionsClosedServer) },
            Closed::Peer => Ending::of(Counter::SessionsClosedPeer),
            Closed::Tls => Ending::of(Counter::SessionsClosedTls),
            Closed::Evicted => {
                block.add(Counter::BansEvicted, 1);
                // The trail tells which ban it is.
                self.mx.is_banned(dialogue.id, dialogue.client.address, tick(), replies::BANNED_SESSION.code());
                Ending { words: Some(replies::BANNED_SESSION), ..Ending::of(Counter::SessionsClosedServer) }
            }
            Closed::Overtime => {
                let rule = "limits.session_timeout";
                timeout(Counter::LimitSessionTimeout, rule, replies::SESSION_TOO_LONG.with_detail(rule))
            }
            Closed::Timeout if dialogue.in_body() => {
                timeout(Counter::LimitDataTimeout, "limits.data_timeout", replies::DATA_TIMEOUT)
            }
            Closed::Timeout => timeout(Counter::LimitCommandTimeout, "limits.command_timeout", replies::TIMEOUT),
        }
    }

    fn session(
        &self,
        rules: &Rules,
        listener: &ListenerRules,
        id: SessionId,
        connection: &Connection,
    ) -> Session<Proof> {
        let trust = listener.trust(canonical(connection.peer().ip()));
        Session::new(Setup {
            options: rules.options.clone(),
            protocol: listener.protocol,
            tls: listener.tls,
            tls_required: rules.tls_required,
            secure: false,
            trust,
            id,
        })
    }

    async fn turn_away(self, mut connection: Box<Connection>, id: SessionId, words: Option<Reply>) {
        let _turning = TurningAway::new(&self.mx);
        connection.allow(LAST_WORDS, false);
        if let Some(reply) = words {
            self.last_words(&mut connection, id, &reply).await;
        }
        connection.close(true).await;
    }

    /// Says one thing to a client whose session is over or never was.
    async fn last_words(&self, connection: &mut Connection, id: SessionId, reply: &Reply) {
        let rules = self.mx.rules();
        let Some(listener) = rules.listener(&self.name) else { return };
        let mut session = self.session(&rules, listener, id, connection);
        let mut out = Vec::new();
        session.end(reply, &mut out);
        let tally = session.take_tally();
        self.mx.block().add(Counter::RepliesTransient, u64::from(tally.transient));
        self.mx.block().add(Counter::RepliesPermanent, u64::from(tally.permanent));
        connection.allow(LAST_WORDS, false);
        // The client may be gone; then nobody is left to be told.
        let _ = connection.send(&mut out).await;
    }
}

impl Mx {
    /// Whether an address is banned; what is known of the ban goes to the trail and the log.
    pub(crate) fn is_banned(&self, id: SessionId, address: IpAddr, since: Tick, code: u16) -> bool {
        let bans = self.bans.borrow();
        let Some(ban) = bans.find(address, now().wall) else { return false };
        let (text, network) = (address.to_string(), ban.network.to_string());
        tracing::debug!(session = %id, peer = text, network, reason = &*ban.reason, by = &*ban.by, "banned");
        let inputs =
            [("address", Value::Text(&text)), ("network", Value::Text(&network)), ("reason", Value::Text(&ban.reason))];
        self.note(id, Stage::Ban, code, &ban.by, since, &inputs);
        true
    }

    /// A limit was met: counted, and noted.
    pub(crate) fn met(&self, id: SessionId, limit: Limit, stage: Stage, since: Tick, inputs: &[(&str, Value<'_>)]) {
        self.block().add(counter_of(limit), 1);
        self.note(id, stage, limit.reply().code(), limit.key(), since, inputs);
    }
}

/// The DNS lists of the rules. Their weights are policy's; here they are only asked.
fn lists_of(rules: &Rules, resolver: &Rc<Resolver>) -> Option<Rc<Lists>> {
    let list = |list: &DnsList| {
        let answers = list.answers.iter().map(|(first, last)| Answers { first: *first, last: *last, weight: None });
        List {
            zone: list.zone.as_str().into(),
            shown: list.shown.clone(),
            weight: list.weight,
            answers: answers.collect(),
        }
    };
    let lists: Vec<List> = rules.screen.lists.iter().map(list).collect();
    if lists.is_empty() {
        return None;
    }
    match Lists::new(resolver.clone(), lists, BreakerOptions::default()) {
        Ok(lists) => Some(Rc::new(lists)),
        Err(error) => {
            tracing::error!(%error, "DNS lists can't be asked");
            None
        }
    }
}

/// How a session ended, as its metric's label says it.
fn words_of(how: Counter) -> &'static str {
    how.family().label.map_or("refused", |(_, how)| how)
}

/// The metric of a limit.
fn counter_of(limit: Limit) -> Counter {
    match limit {
        Limit::Connections => Counter::LimitConnections,
        Limit::ConnectionsPerIp => Counter::LimitConnectionsPerIp,
        Limit::ConnectionsPerNetwork => Counter::LimitConnectionsPerNetwork,
        Limit::ConnectionRatePerIp => Counter::LimitConnectionRatePerIp,
        Limit::ConnectionRatePerNetwork => Counter::LimitConnectionRatePerNetwork,
        Limit::MessagesPerIp => Counter::LimitMessagesPerIp,
        Limit::MessagesPerNetwork => Counter::LimitMessagesPerNetwork,
        Limit::RecipientsPerIp => Counter::LimitRecipientsPerIp,
        Limit::RecipientsPerNetwork => Counter::LimitRecipientsPerNetwork,
        Limit::BytesPerIp => Counter::LimitBytesPerIp,
        Limit::BytesPerNetwork => Counter::LimitBytesPerNetwork,
        Limit::MessagesInFlight => Counter::LimitMessagesInFlight,
        Limit::MessageMemory => Counter::LimitMessageMemory,
        Limit::SpoolBacklog => Counter::LimitSpoolBacklog,
    }
}
