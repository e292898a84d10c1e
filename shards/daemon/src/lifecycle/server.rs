//! What the phases of the start make, each for those after it.

use super::registry::PhaseTook;
use super::shards::Shards;
use crate::bans::BanFile;
use crate::cli::ConfigFile;
use crate::greylist::GreylistFile;
use crate::health::Health;
use crate::in_force::Publisher;
use crate::keeper::{Request, Running};
use crate::main_requests::MainRequest;
use crate::notify::Signs;
use crate::orders::{Order, Orders};
use crate::plan::Core;
use crate::privileges::Settled;
use crate::signals::Signal;
use crate::state::StateDir;
use crate::upgrade::{Attempt, Bequest, Inheritance, Predecessor, Served};
use anyhow::{Result, anyhow};
use crossbeam::channel::{Receiver, Sender};
use ringpost_admin::Admin;
use ringpost_config::{Config, Listener};
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_net::{Group, Ticketing};
use ringpost_policy::{BanBook, GreyRecord, GreySecret};
use ringpost_runtime::log::LogGuard;
use ringpost_runtime::watchdog::Watchdog;
use ringpost_runtime::{Inbox, Pulse, Services};
use ringpost_telemetry::Telemetry;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A server, as far as it has come.
pub(crate) struct Server {
    pub(crate) options: ConfigFile,
    /// When the process began.
    pub(crate) since: Instant,
    pub(crate) ground: Option<Ground>,
    pub(crate) voice: Option<Voice>,
    pub(crate) rules: Option<Rules>,
    pub(crate) storage: Option<Storage>,
    pub(crate) keeper: Option<Running>,
    pub(crate) phases: Arc<std::sync::Mutex<Vec<PhaseTook>>>,
    /// An upgrade under way.
    pub(crate) attempt: Option<Attempt>,
    /// The process that goes on, if this one ends because of it.
    pub(crate) successor: Option<Served>,
}

/// Of the phase config: what the server is to be, and what it has of the system.
pub(crate) struct Ground {
    pub(crate) config: Config,
    pub(crate) cores: Vec<Core>,
    /// Connections that the limit on open files leaves room for.
    pub(crate) descriptors: u64,
    /// What this process was given to begin with, less what is in use.
    pub(crate) inheritance: Inheritance,
    pub(crate) predecessor: Option<Predecessor>,
    /// The sockets of each address, until they are let listen.
    pub(crate) groups: Vec<(Listener, Group)>,
    /// The same for a process that takes over some day. Dropped first of all in a stop.
    pub(crate) heirlooms: Vec<(SocketAddr, Vec<OwnedFd>)>,
    /// Who the process has become.
    pub(crate) settled: Option<Settled>,
    pub(crate) state: Option<Arc<StateDir>>,
    pub(crate) signals: Receiver<Signal>,
}

/// Of the phase logging: who tells what happens.
pub(crate) struct Voice {
    pub(crate) log: Option<LogGuard>,
    pub(crate) board: Arc<Board>,
    pub(crate) blocks: Vec<Arc<Block>>,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) services: Option<Services>,
    pub(crate) watchdog: Option<Watchdog>,
    pub(crate) telemetry: Option<Telemetry>,
    pub(crate) signs: Signs,
}

/// Of the phase tls: what sessions go by.
pub(crate) struct Rules {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) ticketing: Ticketing,
    pub(crate) health: Health,
    pub(crate) keeper: Sender<Request>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) main: Sender<MainRequest>,
    pub(crate) asked: Receiver<MainRequest>,
    pub(crate) orders: Orders,
    pub(crate) inboxes: Vec<Inbox<Order>>,
}

/// Of the phase storage: what outlives the process, and who answers for it meanwhile.
#[derive(Default)]
pub(crate) struct Storage {
    pub(crate) admin: Option<Admin>,
    pub(crate) bans: Option<(BanFile, BanBook)>,
    pub(crate) greylist: Option<GreylistFile>,
    pub(crate) greylisted: Vec<GreyRecord>,
    pub(crate) secret: Option<GreySecret>,
    pub(crate) shards: Option<Shards>,
    /// Where the shards' spools are.
    pub(crate) spools: Vec<PathBuf>,
    /// What a former process leaves behind.
    pub(crate) bequests: Option<Receiver<Bequest>>,
    /// Whether it has not ended yet.
    pub(crate) former_finishes: bool,
}

impl Ground {
    pub(crate) fn state(&self) -> Result<Arc<StateDir>> {
        self.state.clone().ok_or_else(|| early("config"))
    }
}

impl Server {
    pub(crate) fn new(options: ConfigFile) -> Self {
        Self {
            options,
            since: Instant::now(),
            ground: None,
            voice: None,
            rules: None,
            storage: None,
            keeper: None,
            phases: Arc::default(),
            attempt: None,
            successor: None,
        }
    }

    pub(crate) fn ground(&mut self) -> Result<&mut Ground> {
        self.ground.as_mut().ok_or_else(|| early("config"))
    }

    pub(crate) fn voice(&mut self) -> Result<&mut Voice> {
        self.voice.as_mut().ok_or_else(|| early("logging"))
    }

    pub(crate) fn rules(&mut self) -> Result<&mut Rules> {
        self.rules.as_mut().ok_or_else(|| early("tls"))
    }

    pub(crate) fn storage(&mut self) -> &mut Storage {
        self.storage.get_or_insert_default()
    }

    pub(crate) fn services(&mut self) -> Result<&Services> {
        self.voice()?.services.as_ref().ok_or_else(|| early("logging"))
    }
}

/// A fault of the order in which subsystems are registered.
fn early(phase: &str) -> anyhow::Error {
    anyhow!("a subsystem needs what the phase {phase} makes, and comes before it")
}
