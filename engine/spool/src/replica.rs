//! What a class stronger than one disk builds on: records that are given to other hosts before the receipt is made.
//!
//! Nothing uses it yet. The class `quorum` puts a [`Replica`] for each other host beside the log, gives it every record
//! that the log stages for a message of that class, and makes the receipt only when [`Quorum`] says so.

use ringpost_base::SpoolId;

/// Another place that keeps records: its number in the list of all that were configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u8);

/// A place on another host that keeps records of this log.
///
/// What it is given: the bytes of whole records, as [`crate::parse_message`] reads them, sealed with a key that is the
/// replica's to know, in the order in which the log stages them; a record of one message is never given before the earlier
/// ones of the same message. What it must do with one: write and sync it, and only then acknowledge its id. What it
/// must not do: acknowledge what it has only received, acknowledge out of order for one message, or forget a message that
/// no settlement was given for, whatever becomes of the host that sent it.
///
/// When the receipt may be made: when the log's own write and sync have succeeded, if the log itself is among those that
/// count, and as many replicas as the class demands have acknowledged, which [`Quorum`] counts. An acknowledgement counts
/// once for each replica.
///
/// What happens when too few answer: when so many have refused, or so much time has passed, that the number can't be
/// reached, the message is refused for now (451), settled here, and a settlement is given to every replica that had the
/// record, since the client will send the message again. One that can't be reached then gets the settlement later: it may
/// hold a message that nobody was promised, and must not deliver it while another host owns the log. Late
/// acknowledgements change nothing.
///
/// The implementation is a machine as the log is: it buffers, and somebody else does the sending. A majority of three, in
/// memory:
///
/// ```
/// use ringpost_base::SpoolId;
/// use ringpost_spool::{Quorum, QuorumState, Replica, ReplicaId};
///
/// #[derive(Default)]
/// struct InMemory {
///     kept: Vec<(SpoolId, Vec<u8>)>,
///     unplugged: bool,
/// }
///
/// impl Replica for InMemory {
///     fn replicate(&mut self, id: SpoolId, record: &[u8]) {
///         self.kept.push((id, record.to_vec()));
///     }
///
///     fn settle(&mut self, id: SpoolId) {
///         self.kept.retain(|(kept, _)| *kept != id);
///     }
///
///     fn poll_answer(&mut self) -> Option<(SpoolId, bool)> {
///         self.kept.last().filter(|_| !self.unplugged).map(|(id, _)| (*id, true))
///     }
/// }
///
/// let id = SpoolId::from_bytes([1; 16]);
/// let mut replicas = [InMemory::default(), InMemory { unplugged: true, ..Default::default() }, InMemory::default()];
/// let mut quorum = Quorum::new(3, 2);
/// for (number, replica) in (0..).zip(&mut replicas) {
///     replica.replicate(id, b"a record");
///     if let Some((acknowledged, kept)) = replica.poll_answer() {
///         assert_eq!((acknowledged, kept), (id, true));
///         quorum.answer(ReplicaId(number), kept);
///     }
/// }
/// assert_eq!(quorum.state(), QuorumState::Reached);
/// ```
pub trait Replica {
    /// Takes a record to keep. Nothing is acknowledged by returning.
    fn replicate(&mut self, id: SpoolId, record: &[u8]);

    /// The message is delivered, or was refused after all: it need not be kept any more.
    fn settle(&mut self, id: SpoolId);

    /// The next answer: a message whose record is synced there (true), or that was refused (false). Nothing where there is
    /// none at the moment.
    fn poll_answer(&mut self) -> Option<(SpoolId, bool)>;
}

/// How the count for one message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuorumState {
    /// It may still come out either way.
    Open,
    /// As many have it as are needed: the receipt may be made.
    Reached,
    /// So many have refused that the number can't be reached, or it was given up.
    Missed,
}

/// Counts who has the record of one message. Once it is decided it stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    of: u8,
    needed: u8,
    acknowledged: u64,
    refused: u64,
    state: QuorumState,
}

impl Quorum {
    /// Most replicas: what one word counts, and more than anybody has.
    pub const OF_MAX: u8 = 64;

    /// A count of answers by the replicas 0 to `of`, of which `needed` must have the record. Where fewer are there than
    /// are needed it is missed from the beginning; where none are needed it is reached.
    pub fn new(of: u8, needed: u8) -> Self {
        let of = of.min(Self::OF_MAX);
        let mut quorum = Self { of, needed, acknowledged: 0, refused: 0, state: QuorumState::Open };
        quorum.decide();
        quorum
    }

    /// A replica has the record, or has refused it. Its first answer counts; one of a replica that does not belong to the
    /// count, or that comes after the decision, changes nothing.
    pub fn answer(&mut self, replica: ReplicaId, has_it: bool) -> QuorumState {
        let bit = 1u64.checked_shl(u32::from(replica.0)).filter(|_| replica.0 < self.of).unwrap_or(0);
        let answered = (self.acknowledged | self.refused) & bit != 0;
        if self.state == QuorumState::Open && !answered {
            if has_it {
                self.acknowledged |= bit;
            } else {
                self.refused |= bit;
            }
            self.decide();
        }
        self.state
    }

    /// Nobody waits any longer: what is not reached is missed.
    pub fn give_up(&mut self) -> QuorumState {
        if self.state == QuorumState::Open {
            self.state = QuorumState::Missed;
        }
        self.state
    }

    /// How it stands.
    pub fn state(&self) -> QuorumState {
        self.state
    }

    fn decide(&mut self) {
        let (of, needed) = (u32::from(self.of), u32::from(self.needed));
        if self.acknowledged.count_ones() >= needed {
            self.state = QuorumState::Reached;
        } else if of - self.refused.count_ones() < needed {
            self.state = QuorumState::Missed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use QuorumState::{Missed, Open, Reached};

    /// The states after each answer.
    fn check(of: u8, needed: u8, answers: &[(u8, bool)], expected: &[QuorumState]) {
        let mut quorum = Quorum::new(of, needed);
        let states: Vec<_> =
            answers.iter().map(|(replica, has_it)| quorum.answer(ReplicaId(*replica), *has_it)).collect();
        assert_eq!(states, expected, "{needed} of {of}: {answers:?}");
        assert_eq!(states.last().copied().unwrap_or(Quorum::new(of, needed).state()), quorum.state());
    }

    #[test]
    fn a_majority_decides() {
        check(3, 2, &[(0, true), (2, true)], &[Open, Reached]);
        check(3, 2, &[(0, false), (2, true), (1, true)], &[Open, Open, Reached]);
        check(3, 2, &[(0, false), (1, false)], &[Open, Missed]);
        check(64, 64, &[(63, false)], &[Missed]);
    }

    #[test]
    fn nobody_counts_twice() {
        check(3, 2, &[(0, true), (0, true), (0, false), (1, false)], &[Open, Open, Open, Open]);
        check(3, 2, &[(0, false), (0, true), (1, true)], &[Open, Open, Open]);
        check(2, 1, &[(7, true), (255, true), (1, true)], &[Open, Open, Reached]);
    }

    #[test]
    fn late_answers_change_nothing() {
        check(3, 1, &[(0, true), (1, false), (2, false)], &[Reached, Reached, Reached]);
        let mut quorum = Quorum::new(3, 2);
        assert_eq!(quorum.give_up(), Missed);
        assert_eq!(quorum.answer(ReplicaId(0), true), Missed);
        assert_eq!(quorum.answer(ReplicaId(1), true), Missed);
    }

    #[test]
    fn what_can_not_be_is_missed_at_once() {
        assert_eq!(Quorum::new(2, 3).state(), Missed);
        assert_eq!(Quorum::new(0, 0).state(), Reached);
    }
}
