//! Whether the server takes mail, and why not: what `/readyz` and the status tell alike.
//!
//! Every shard is judged by one and the same state of the board.

use crate::api::{ProbeView, Readiness, ShardPhase};
use crate::server::Sources;
use ringpost_base::ShardId;
use ringpost_control::{Board, Phase, State};

/// The server's health at a moment.
pub(crate) struct Health {
    /// The phase as clients meet it.
    pub(crate) phase: Phase,
    /// Number of the config in force.
    pub(crate) epoch: u64,
    pub(crate) reasons: Vec<String>,
    /// Those that are not well first.
    pub(crate) probes: Vec<ProbeView>,
    pub(crate) shards: Vec<ShardHealth>,
}

/// What a shard has acknowledged.
pub(crate) struct ShardHealth {
    pub(crate) shard: ShardId,
    /// `ended` once its thread has.
    pub(crate) phase: &'static str,
    pub(crate) epoch: u64,
}

/// The phase that the server is in as clients meet it: it has not begun to serve before every shard has.
pub fn standing(board: &Board) -> Phase {
    // A shard listens before it acknowledges that it is ready; until all have, a client could still be turned away.
    let opening = board.shards().any(|shard| board.acknowledged(shard).phase == Phase::Starting);
    match board.state().phase {
        Phase::Ready | Phase::Degraded if opening => Phase::Starting,
        phase => phase,
    }
}

impl Health {
    pub(crate) fn read(sources: &Sources) -> Self {
        let board = &sources.board;
        let state = board.state();
        let phase = standing(board);
        let mut probes = (sources.probes)();
        probes.sort_by_key(|probe| (probe.ok, probe.serves));
        let mut reasons: Vec<String> = probes.iter().filter(|probe| !probe.ok).map(reason).collect();
        let mut shards = Vec::new();
        for shard in board.shards() {
            let acknowledged = board.acknowledged(shard);
            let departed = board.has_departed(shard);
            reasons.extend(lateness(shard, state, acknowledged, departed));
            let phase = if departed { "ended" } else { acknowledged.phase.name() };
            shards.push(ShardHealth { shard, phase, epoch: acknowledged.epoch });
        }
        reasons.extend(words_of(phase).map(str::to_owned));
        Self { phase, epoch: state.epoch, reasons, probes, shards }
    }

    /// Whether mail is taken.
    pub(crate) fn serves(&self) -> bool {
        match self.phase {
            Phase::Ready | Phase::Degraded => self.probes.iter().all(|probe| probe.ok || probe.serves),
            Phase::Starting | Phase::Draining | Phase::Stopping => false,
        }
    }

    /// The state as probes know it: both phases of the stop are one to them.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Draining => Phase::Stopping.name(),
            other => other.name(),
        }
    }

    /// What `/readyz` tells.
    pub(crate) fn readiness(self, version: &str) -> Readiness {
        let state = self.state_name().to_owned();
        let phase = |shard: ShardHealth| ShardPhase { shard: shard.shard.0, phase: shard.phase.to_owned() };
        Readiness {
            state,
            reasons: self.reasons,
            probes: self.probes,
            shards: self.shards.into_iter().map(phase).collect(),
            version: version.to_owned(),
        }
    }
}

fn reason(probe: &ProbeView) -> String {
    probe.reason.clone().unwrap_or_else(|| format!("{} is not well", probe.name))
}

fn lateness(shard: ShardId, state: State, acknowledged: State, departed: bool) -> Option<String> {
    if departed {
        return Some(format!("shard {shard} has ended"));
    }
    let late = acknowledged != state;
    late.then(|| format!("shard {shard} has not acknowledged {state} yet; it is at {acknowledged}"))
}

/// Why a server in this phase takes no mail, where the phase itself is the reason.
fn words_of(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Starting => Some("the shards are reading their spools back, or about to listen"),
        Phase::Draining => Some("no new connections are taken, sessions finish their messages"),
        Phase::Stopping => Some("everything is being closed"),
        Phase::Ready | Phase::Degraded => None,
    }
}
