//! The questions of a shard that are under way, and who waits for each.
//!
//! Invariants: equal questions are one; each has at most [`WAITERS_MAX`] waiting for it; and each [`Share`] has room of its
//! own, so that what is asked out of one never keeps a question of the other from being asked. Whoever sends a name can see
//! to it that its servers keep silent, and so can hold the room of such names for as long as the attempts last.

use crate::answer::{Outcome, Question};
use ringpost_runtime::local::{Answer, Promise, promise};
use std::collections::HashMap;
use std::rc::Rc;

/// Questions of DNS lists under way of one shard: at 5 ms a question these are nearly 40,000 a second.
pub const LISTS_IN_FLIGHT_MAX: usize = 192;

/// Questions under way of one shard for names that strangers choose: HELO names, the names of addresses, and whatever these
/// lead to. At 50 ms a question, as they mostly are in no cache nearby, these are 1,280 a second.
pub const STRANGERS_IN_FLIGHT_MAX: usize = 64;

/// Questions under way of one shard. Each holds a socket or two, and up to six if its server keeps silent, so sixteen shards
/// stay within the descriptors that a server has beside its connections.
pub const IN_FLIGHT_MAX: usize = LISTS_IN_FLIGHT_MAX + STRANGERS_IN_FLIGHT_MAX;

/// Tasks that wait for one question. A shard has more sessions than that only where all of them ask the same.
pub const WAITERS_MAX: usize = 4_096;

/// Whose room a question takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Of the DNS lists, whose zones the configuration names.
    Lists,
    /// Of everything else: names that clients choose, or who answers for their addresses.
    Strangers,
}

impl Share {
    fn in_flight_max(self) -> usize {
        match self {
            Self::Lists => LISTS_IN_FLIGHT_MAX,
            Self::Strangers => STRANGERS_IN_FLIGHT_MAX,
        }
    }
}

/// What became of a question that was to be entered.
pub(crate) enum Entered {
    /// It is new, and to be asked now.
    New(Answer<Outcome>),
    /// It is under way already.
    Joined(Answer<Outcome>),
    /// There is no room: in its share, or among those who wait for it.
    Full,
}

struct Asking {
    /// Of who asked first.
    share: Share,
    waiters: Vec<Promise<Outcome>>,
}

/// The questions under way.
#[derive(Default)]
pub(crate) struct UnderWay {
    questions: HashMap<Rc<Question>, Asking>,
    lists: usize,
    strangers: usize,
}

impl UnderWay {
    /// Enters a question, or whoever asks it with those who have asked it already.
    pub(crate) fn enter(&mut self, question: &Question, share: Share) -> Entered {
        if let Some(asking) = self.questions.get_mut(question) {
            if asking.waiters.len() >= WAITERS_MAX {
                return Entered::Full;
            }
            let (promise, answer) = promise();
            asking.waiters.push(promise);
            return Entered::Joined(answer);
        }
        let count = self.count(share);
        if *count >= share.in_flight_max() {
            return Entered::Full;
        }
        *count += 1;
        let (promise, answer) = promise();
        self.questions.insert(Rc::new(question.clone()), Asking { share, waiters: vec![promise] });
        Entered::New(answer)
    }

    /// Takes a question out that has come out; gives who waits for it.
    pub(crate) fn leave(&mut self, question: &Question) -> Option<(Rc<Question>, Vec<Promise<Outcome>>)> {
        let (question, Asking { share, waiters }) = self.questions.remove_entry(question)?;
        *self.count(share) -= 1;
        Some((question, waiters))
    }

    fn count(&mut self, share: Share) -> &mut usize {
        match share {
            Share::Lists => &mut self.lists,
            Share::Strangers => &mut self.strangers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Kind;

    fn question(number: usize) -> Question {
        Question { name: format!("n{number}.example").into(), kind: Kind::Ipv4 }
    }

    fn enters(under_way: &mut UnderWay, number: usize, share: Share) -> bool {
        matches!(under_way.enter(&question(number), share), Entered::New(_))
    }

    /// Fills one share to its last place, and asserts that the other has all of its own.
    fn check(full: Share, other: Share) {
        let mut under_way = UnderWay::default();
        let (first, second) = (full.in_flight_max(), other.in_flight_max());
        assert!((0..first).all(|number| enters(&mut under_way, number, full)), "{full:?}");
        assert!(!enters(&mut under_way, IN_FLIGHT_MAX, full), "{full:?}");
        assert!((first..first + second).all(|number| enters(&mut under_way, number, other)), "{other:?}");
        assert!(!enters(&mut under_way, IN_FLIGHT_MAX, other), "{other:?}");
        // What comes out makes room in its own share, whoever has joined it.
        assert!(matches!(under_way.enter(&question(0), other), Entered::Joined(_)));
        let (_, waiters) = under_way.leave(&question(0)).expect("under way");
        assert_eq!(waiters.len(), 2);
        assert!(under_way.leave(&question(0)).is_none(), "it has come out");
        assert!(!enters(&mut under_way, IN_FLIGHT_MAX, other), "{other:?}");
        assert!(enters(&mut under_way, IN_FLIGHT_MAX, full), "{full:?}");
        assert!(!enters(&mut under_way, IN_FLIGHT_MAX + 1, full), "{full:?}");
    }

    #[test]
    fn each_share_has_room_of_its_own() {
        check(Share::Strangers, Share::Lists);
        check(Share::Lists, Share::Strangers);
    }

    #[test]
    fn no_more_wait_for_a_question_than_there_is_room_for() {
        let mut under_way = UnderWay::default();
        assert!(enters(&mut under_way, 0, Share::Lists));
        let joins = |under_way: &mut UnderWay| under_way.enter(&question(0), Share::Strangers);
        assert!((1..WAITERS_MAX).all(|_| matches!(joins(&mut under_way), Entered::Joined(_))));
        assert!(matches!(joins(&mut under_way), Entered::Full));
    }
}
