//! What a sender asks of reports about a message (RFC 3461), as it is kept with the envelope.

/// How much of the message a report of failure returns (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header section.
    Headers,
}

/// When a report is wanted about a recipient (RFC 3461 section 4.1), as bits: 1 never, 2 on success, 4 on failure, 8 on
/// delay. No bits: nothing was said, which means on failure, and on delay if the server likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify(u8);

impl Notify {
    const NEVER: u8 = 1;
    const SUCCESS: u8 = 2;
    const FAILURE: u8 = 4;
    const DELAY: u8 = 8;
    pub(crate) const ALL: u8 = Self::NEVER | Self::SUCCESS | Self::FAILURE | Self::DELAY;

    /// What is said of a report, which is not reported on (RFC 3461 section 6.1).
    pub(crate) const OF_REPORTS: Self = Self(Self::NEVER);

    /// Reads bits; never excludes the others.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let holds = bits & !Self::ALL == 0 && (bits & Self::NEVER == 0 || bits == Self::NEVER);
        holds.then_some(Self(bits))
    }

    /// The bits.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Nothing was said.
    pub fn is_unsaid(self) -> bool {
        self.0 == 0
    }

    /// Never.
    pub fn never(self) -> bool {
        self.0 & Self::NEVER != 0
    }

    /// When it is delivered.
    pub fn success(self) -> bool {
        self.0 & Self::SUCCESS != 0
    }

    /// When it can't be delivered, which is what is wanted if nothing was said.
    pub fn failure(self) -> bool {
        self.is_unsaid() || self.0 & Self::FAILURE != 0
    }

    /// When its delivery takes long.
    pub fn delay(self) -> bool {
        self.0 & Self::DELAY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits() {
        for bits in 0..=u8::MAX {
            let want = bits < 16 && (bits % 2 == 0 || bits == 1);
            assert_eq!(Notify::from_bits(bits).map(Notify::bits), want.then_some(bits));
        }
        let says = |bits| Notify::from_bits(bits).map(|n| (n.never(), n.success(), n.failure(), n.delay()));
        assert_eq!(says(0), Some((false, false, true, false)));
        assert_eq!(says(1), Some((true, false, false, false)));
        assert_eq!(says(10), Some((false, true, false, true)));
        assert_eq!(says(4), Some((false, false, true, false)));
    }
}
