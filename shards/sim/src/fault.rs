//! What can break, and how often it does in a run.

use crate::dice::Dice;

macro_rules! faults {
    ($($name:ident = $one_in:literal, $text:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $(#[doc = $text] $name),* }

        impl Fault {
            /// All kinds.
            pub const ALL: [Self; [$($one_in),*].len()] = [$(Self::$name),*];

            /// In words.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// How often it strikes where it can: once in so many times, at the middle rate.
            fn one_in(self) -> u64 {
                match self { $(Self::$name => $one_in),* }
            }
        }
    };
}

faults! {
    Crash = 40, "the process dies";
    PowerLoss = 40, "the power fails";
    CrashInStart = 15, "the power fails again while the spool is read back";
    OrderlyStop = 60, "the server is stopped and started";
    FewerCores = 12, "the host is started with a core less";
    SectorLost = 1, "a sector that was not synced is lost or old";
    WriteError = 60, "a write or sync of the log fails";
    ReadError = 60, "a record can't be read";
    CreateError = 12, "a segment file can't be made";
    RemoveError = 8, "a segment file can't be removed";
    BodyError = 25, "a body file can't be written or synced";
    DiskFull = 30, "the disk is full for a while";
    SlowOperation = 40, "an operation of the disk takes seconds";
    ClientCut = 12, "a client's connection is cut";
    ClientHang = 30, "a client falls silent";
    ClientRude = 25, "a client breaks off, or says what makes no sense";
    HopCut = 15, "the connection to a next hop is cut";
    HopDown = 25, "a next hop takes no connections for a while";
    HopHang = 40, "a next hop falls silent";
    HopDeadBefore = 30, "a next hop dies after DATA, before it has the message";
    HopDeadAfter = 30, "a next hop dies after DATA, with the message";
    HopPutsOff = 10, "a next hop answers 4xx";
    HopRefuses = 25, "a next hop answers 5xx";
    HopCloses = 40, "a next hop answers 421";
    LocalFails = 25, "a mailbox can't be written";
    ClockJump = 30, "the wall clock jumps";
    LeaseLost = 12, "the answer of an owner is lost";
    LeaseLate = 12, "the answer of an owner comes too late";
    Operator = 12, "an operator holds, releases, retries or drops a message";
}

/// How many of each kind struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultTally([u64; Fault::ALL.len()]);

impl Default for FaultTally {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl FaultTally {
    /// Of one kind.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    pub(crate) fn count(&mut self, fault: Fault, times: u64) {
        self.0[fault as usize] += times;
    }
}

/// How often each kind strikes in a run. Every run has its own mixture, and some kinds not at all: what only shows where
/// nothing else breaks is found too.
#[derive(Clone, Debug)]
pub(crate) struct Mood([u64; Fault::ALL.len()]);

impl Mood {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let calm = dice.one_in(4);
        Self(Fault::ALL.map(|fault| {
            let factor = dice.pick(if calm { &[0, 0, 0, 2] } else { &[0, 0, 2, 4, 4, 8] });
            if fault == Fault::SectorLost { 1 } else { (fault.one_in() * 4).checked_div(factor).unwrap_or(0) }
        }))
    }

    /// Once in so many times; 0: never.
    pub(crate) fn one_in(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }
}
