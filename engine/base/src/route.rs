//! What a route promises about a message: how durable it is when it is acknowledged, and how soon it gets its turn.

use std::fmt;
use std::str::FromStr;

/// What has become of a message when it is answered 250.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It is in memory. A crash loses it.
    Memory,
    /// The next hop has answered for it; nothing is kept here.
    NextHop,
    /// It is on the disk, and synced.
    #[default]
    Fsync,
}

impl Durability {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::NextHop, Self::Fsync];

    /// The word for it in the config file, the log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NextHop => "next-hop",
            Self::Fsync => "fsync",
        }
    }

    /// That of a message some of whose recipients are promised this and others that: where they differ it is on the disk,
    /// which keeps any promise.
    pub fn joined(self, other: Self) -> Self {
        if self == other { self } else { Self::Fsync }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How soon a message gets its turn, among those of the same destination. A lower one gets fewer turns, and never none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before others.
    High,
    /// As most.
    #[default]
    Normal,
    /// After others.
    Low,
}

impl Priority {
    /// All of them, the highest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that is not one of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseWordError;

impl fmt::Display for ParseWordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one of the words that there are for it")
    }
}

impl std::error::Error for ParseWordError {}

impl FromStr for Durability {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        Self::ALL.into_iter().find(|durability| durability.name() == text).ok_or(ParseWordError)
    }
}

impl FromStr for Priority {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        Self::ALL.into_iter().find(|priority| priority.name() == text).ok_or(ParseWordError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for durability in Durability::ALL {
            assert_eq!(durability.name().parse(), Ok(durability));
        }
        for priority in Priority::ALL {
            assert_eq!(priority.name().parse(), Ok(priority));
        }
        assert_eq!("quorum".parse::<Durability>(), Err(ParseWordError));
    }

    #[test]
    fn a_mix_is_on_the_disk() {
        use Durability::{Fsync, Memory, NextHop};
        assert_eq!(Memory.joined(Memory), Memory);
        assert_eq!(NextHop.joined(Memory), Fsync);
        assert_eq!(Fsync.joined(NextHop), Fsync);
    }
}
