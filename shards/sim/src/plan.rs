//! What one run is made of: everything that is chosen once, from the seed, and holds to its end.

use crate::dice::Dice;
use ringpost_base::{ByteCount, Durability, Priority, Span};
use ringpost_policy::{Capacity, Domain, LedgerOptions, Options as PolicyOptions, Policy, Recipients};
use ringpost_queue::{
    Destination, DestinationOptions, DomainRoute, Options as QueueOptions, PatternRoute, Routes, RoutesSetup,
};
use ringpost_smtp::{Options as SessionOptions, Protocol};
use ringpost_spool::Options as SpoolOptions;
use std::collections::HashMap;
use std::rc::Rc;

/// A second in the nanoseconds of the simulation.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The name of the host.
pub(crate) const HOST: &str = "mx.sim";

/// The local destination: mailboxes on a file system of its own.
pub(crate) const BOXES: &str = "boxes";

/// The next hops.
pub(crate) const HOPS: [(&str, Protocol); 3] =
    [("relay", Protocol::Smtp), ("store", Protocol::Lmtp), ("back", Protocol::Smtp)];

/// Domains that mail is taken for, where it goes, and what is promised. Senders live in `sender.sim`, whose reports go
/// `back`, or in `lost.sim`, to which no way leads.
const DOMAINS: [(&str, &[&str], Durability); 7] = [
    ("box.sim", &[BOXES], Durability::Fsync),
    ("hop.sim", &["relay"], Durability::Fsync),
    ("lmtp.sim", &["store"], Durability::Fsync),
    ("both.sim", &[BOXES, "relay"], Durability::Fsync),
    ("next.sim", &["relay"], Durability::NextHop),
    ("far.sim", &["store", "relay"], Durability::NextHop),
    ("mem.sim", &["store"], Durability::Memory),
];

/// What is chosen once.
pub(crate) struct Plan {
    pub(crate) shards: usize,
    pub(crate) clients: usize,
    pub(crate) letters: usize,
    /// When faults cease at the latest.
    pub(crate) horizon: u64,
    pub(crate) spool: SpoolOptions,
    pub(crate) queue: QueueOptions,
    pub(crate) destinations: Vec<(Rc<str>, DestinationOptions)>,
    pub(crate) session: Rc<SessionOptions>,
    pub(crate) capacity: Capacity,
    pub(crate) policy: Policy,
    /// What one client may do.
    pub(crate) ledger: LedgerOptions,
    pub(crate) routes: Routes,
    /// Bytes of each shard's disk.
    pub(crate) disk: u64,
    /// How long a session waits for the next hop.
    pub(crate) next_hop_timeout: u64,
    /// The longest operation of the disk in ordinary times.
    pub(crate) latency: u64,
}

impl Plan {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let spool = spool(dice);
        let destination = |dice: &mut Dice| DestinationOptions {
            concurrency: dice.range(1, 4) as u32,
            messages_per_minute: dice.one_in(4).then(|| dice.range(60, 600) as u32),
            breaker_failures: dice.pick(&[0, 2, 5]),
            breaker_pause: Span::seconds(dice.range(2, 20)),
            breaker_pause_max: Span::seconds(60),
            lease_messages: dice.range(1, 12) as u32,
        };
        Self {
            shards: dice.range(1, 3) as usize,
            clients: dice.range(2, 8) as usize,
            letters: dice.range(40, 240) as usize,
            horizon: dice.range(200, 900) * SECOND,
            queue: queue(dice),
            destinations: HOPS.iter().map(|(name, _)| (Rc::from(*name), destination(dice))).collect(),
            session: Rc::new(SessionOptions {
                hostname: HOST.into(),
                message_size_max: ByteCount(64 << 10),
                recipients_max: 8,
                messages_per_session: dice.pick(&[0, 0, 3]),
                ..SessionOptions::default()
            }),
            capacity: Capacity {
                connections: 100,
                messages_in_flight: dice.range(2, 12) as usize,
                message_memory: ByteCount(dice.range(64, 512) << 10),
                spool_backlog: ByteCount(dice.range(256, 2048) << 10),
            },
            policy: policy(),
            ledger: ledger(dice),
            routes: routes(dice),
            disk: (dice.range(12, 60) + 16) * spool.segment_size.0,
            next_hop_timeout: dice.range(5, 40) * SECOND,
            latency: dice.pick(&[SECOND / 1000, SECOND / 100, SECOND / 5]),
            spool,
        }
    }
}

fn spool(dice: &mut Dice) -> SpoolOptions {
    let segment = dice.pick(&[32, 32, 64, 128]);
    SpoolOptions {
        segment_size: ByteCount::kib(segment),
        inline_max: ByteCount::kib(dice.range(1, segment / 8)),
        batch_max: ByteCount::kib(dice.range(4, segment)),
        commit_delay: Span::millis(2),
    }
}

fn queue(dice: &mut Dice) -> QueueOptions {
    QueueOptions {
        retry_first: Span::seconds(dice.range(1, 20)),
        retry_max: Span::seconds(dice.range(30, 120)),
        retry_jitter_percent: 20,
        attempts_max: dice.range(1, 8) as usize,
        expire_after: Span::seconds(dice.range(120, 1800)),
        delay_notice: dice.one_in(2).then(|| Span::seconds(dice.range(20, 90))),
        // Longer than any run: a dead letter is looked for at its end.
        dead_letters_keep: Span::seconds(30 * 86_400),
        dead_letters_max: 10_000,
    }
}

fn ledger(dice: &mut Dice) -> LedgerOptions {
    let mut limit = |low, high| dice.one_in(3).then(|| dice.range(low, high) as u32);
    LedgerOptions {
        connections_per_ip: limit(1, 2),
        connections_per_network: limit(2, 6),
        connection_rate_per_ip: limit(4, 30),
        messages_per_ip: limit(10, 120),
        recipients_per_ip: limit(20, 200),
        bytes_per_ip: limit(10_000, 200_000).map(|bytes| ByteCount(u64::from(bytes))),
        ..LedgerOptions::default()
    }
}

fn policy() -> Policy {
    let recipients = |name: &str| match name {
        "box.sim" => Recipients::Listed(vec!["u0".into(), "u1".into(), "u2".into()]),
        _ => Recipients::Any,
    };
    let domain = |name: &str| Domain { name: name.into(), recipients: recipients(name), ..Domain::default() };
    let domains = DOMAINS.iter().map(|(name, ..)| domain(name)).collect();
    let made = Policy::new(PolicyOptions { domains, hops_max: 5, ..PolicyOptions::default() }, &HashMap::new());
    let Ok(policy) = made else { unreachable!("the domains name no files and have no aliases") };
    policy
}

fn routes(dice: &mut Dice) -> Routes {
    let all = |names: &[&str]| {
        names.iter().map(|name| Destination { name: Rc::from(*name), local: *name == BOXES }).collect::<Vec<_>>()
    };
    let mut domains: Vec<DomainRoute> = Vec::new();
    for (domain, names, durability) in DOMAINS {
        let (destinations, priority) = (all(names), dice.pick(&Priority::ALL));
        domains.push(DomainRoute { domain: domain.into(), destinations, durability, priority });
    }
    let pattern = PatternRoute {
        patterns: vec!["*@sender.sim".into()],
        destinations: all(&["back"]),
        durability: Durability::Fsync,
        priority: Priority::High,
    };
    Routes::new(RoutesSetup { patterns: vec![pattern], domains, default: None })
}

/// A recipient that somebody writes to.
pub(crate) fn recipient(dice: &mut Dice) -> String {
    let (domain, ..) = dice.pick(&DOMAINS);
    format!("u{}@{domain}", dice.roll(4))
}

/// Somebody who writes.
pub(crate) fn sender(dice: &mut Dice) -> String {
    match dice.roll(8) {
        0 => String::new(),
        1 => "somebody@lost.sim".into(),
        _ => format!("s{}@sender.sim", dice.roll(5)),
    }
}
