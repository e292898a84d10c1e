//! Phase and config epoch, and how the two share one word.
//!
//! Invariant: `State::unpack(state.pack()) == state` for every state with an epoch below 2^56. Nothing here is shared or
//! atomic.

use std::fmt;

/// What the server as a whole is doing.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Components come up; no listener answers yet.
    Starting = 0,
    /// Mail is taken.
    Ready = 1,
    /// Mail is taken, but something that should work does not.
    Degraded = 2,
    /// No new sessions; those under way finish their message. There is no way back.
    Draining = 3,
    /// Sockets, threads and logs are closed. There is no way back.
    Stopping = 4,
}

impl Phase {
    /// Every phase, in the order in which a server goes through them.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Ready, Self::Degraded, Self::Draining, Self::Stopping];

    /// The phase as a number.
    pub const fn to_u8(self) -> u8 {
        self as u8
    }

    /// The phase of a number; none if there is no such phase.
    pub const fn from_u8(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() { Some(Self::ALL[number as usize]) } else { None }
    }

    /// The phase in lower case, as in `/readyz` and the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }

    /// Whether the server is on its way out, from where no earlier phase can be reached.
    pub const fn is_final(self) -> bool {
        self as u8 >= Self::Draining as u8
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the board says: the phase, and the number of the config in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the server is doing.
    pub phase: Phase,
    /// Config epoch: 0 at start, one more for each config taken into use. Below 2^56.
    pub epoch: u64,
}

/// Bits of the word below the epoch.
const PHASE_BITS: u32 = 8;

impl State {
    /// What a new board says, and what a shard that never acknowledged counts as having acknowledged.
    pub const FIRST: Self = Self { phase: Phase::Starting, epoch: 0 };

    pub(crate) const fn pack(self) -> u64 {
        self.epoch << PHASE_BITS | self.phase as u64
    }

    pub(crate) const fn unpack(word: u64) -> Self {
        // A word that no `pack` made can't occur; reading it as the last phase errs on the side of stopping.
        let phase = match Phase::from_u8((word & 0xff) as u8) {
            Some(phase) => phase,
            None => Phase::Stopping,
        };
        Self { phase, epoch: word >> PHASE_BITS }
    }

    /// The state after `phase` is asked for: the same if that would undo draining or stopping.
    pub(crate) const fn with_phase(self, phase: Phase) -> Self {
        if self.phase.is_final() && (phase as u8) < self.phase as u8 { self } else { Self { phase, ..self } }
    }

    pub(crate) const fn with_next_epoch(self) -> Self {
        Self { epoch: self.epoch + 1, ..self }
    }

    /// Whether who acted on this state has also done what `asked` wants. Between ready and degraded a server goes back
    /// and forth, so neither stands for the other; every other phase stands for those before it.
    pub(crate) fn covers(self, asked: Self) -> bool {
        let both_serve = asked.phase == Phase::Ready && self.phase == Phase::Degraded;
        self.epoch >= asked.epoch && self.phase >= asked.phase && !both_serve
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, config epoch {}", self.phase, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_packing() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_u8(phase.to_u8()), Some(phase));
            for epoch in [0, 1, 255, 256, (1 << 56) - 1] {
                let state = State { phase, epoch };
                assert_eq!(State::unpack(state.pack()), state);
            }
        }
        assert_eq!(Phase::from_u8(5), None);
        assert_eq!(format!("{:>9}", Phase::Ready), "    ready");
    }

    #[test]
    fn draining_and_stopping_are_not_undone() {
        let draining = State { phase: Phase::Draining, epoch: 3 };
        assert_eq!(draining.with_phase(Phase::Ready), draining);
        let stopping = draining.with_phase(Phase::Stopping);
        assert_eq!(stopping, State { phase: Phase::Stopping, epoch: 3 });
        assert_eq!(stopping.with_phase(Phase::Draining), stopping);
        let degraded = State { phase: Phase::Degraded, epoch: 3 };
        assert_eq!(degraded.with_phase(Phase::Ready).phase, Phase::Ready);
    }

    #[test]
    fn a_later_state_covers_an_earlier_one() {
        let state = |phase, epoch| State { phase, epoch };
        assert!(state(Phase::Stopping, 2).covers(state(Phase::Draining, 2)));
        assert!(state(Phase::Draining, 2).covers(state(Phase::Ready, 1)));
        assert!(!state(Phase::Draining, 1).covers(state(Phase::Ready, 2)), "an older config");
        assert!(!state(Phase::Ready, 2).covers(state(Phase::Draining, 2)));
        assert!(!state(Phase::Degraded, 2).covers(state(Phase::Ready, 2)), "may be from before it became ready again");
        assert!(!state(Phase::Ready, 2).covers(state(Phase::Degraded, 2)));
    }
}
