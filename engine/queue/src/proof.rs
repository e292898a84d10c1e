//! The proof that the next hop has taken a message, so that it may be acknowledged without being kept here.

use crate::{How, Outcome, Reason};
use ringpost_base::{Accepted, SpoolId};
use std::collections::BTreeMap;

/// The destinations of a message have it, all of them, for every recipient. Made by [`HandedOver::proof`] alone.
#[derive(Debug)]
pub struct HandedOver {
    id: SpoolId,
}

impl HandedOver {
    /// The proof, if all outcomes of every one of these recipients are deliveries; and what there is instead, if not. A
    /// recipient with several destinations has several outcomes.
    pub fn proof(id: SpoolId, outcomes: &[(u32, Outcome)], recipients: &[u32]) -> Result<Self, NotHandedOver> {
        let mut not = NotHandedOver::default();
        let mut by_recipient: BTreeMap<u32, Vec<&Outcome>> = BTreeMap::new();
        for (number, outcome) in outcomes {
            by_recipient.entry(*number).or_default().push(outcome);
        }
        for number in recipients {
            let own = by_recipient.get(number).map_or(&[][..], Vec::as_slice);
            let unnamed = own.is_empty();
            let (mut delivered, mut failed) = (None, None);
            let mut waiting = unnamed;
            for outcome in own {
                match outcome {
                    Outcome::Delivered(how) => delivered = Some(*how),
                    Outcome::Failed(reason) => failed = failed.or(Some(reason.clone())),
                    Outcome::Deferred(_) | Outcome::Moved { .. } => waiting = true,
                }
            }
            match (waiting, failed, delivered) {
                (false, None, Some(how)) => not.delivered.push((*number, how)),
                (false, Some(reason), None) => not.failed.push((*number, reason)),
                _ => not.others.push(*number),
            }
        }
        let all = !recipients.is_empty() && not.delivered.len() == recipients.len();
        if all { Ok(Self { id }) } else { Err(not) }
    }
}

impl Accepted for HandedOver {
    fn id(&self) -> SpoolId {
        self.id
    }
}

/// What became of a message that was not handed over as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotHandedOver {
    /// Recipients that all their destinations have taken.
    pub delivered: Vec<(u32, How)>,
    /// Recipients that were refused for good, and nothing else.
    pub failed: Vec<(u32, Reason)>,
    /// The others: put off, unanswered, moved, or taken by one destination and refused by another.
    pub others: Vec<u32>,
}

impl NotHandedOver {
    /// Every recipient was refused for good, so the message can be.
    pub fn is_refused(&self) -> bool {
        !self.failed.is_empty() && self.delivered.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    fn reason() -> Reason {
        Reason::ours(Status(5, 1, 1), "nobody")
    }

    fn check(outcomes: &[(u32, Outcome)], recipients: &[u32], handed_over: bool, refused: bool) {
        let proof = HandedOver::proof(SpoolId::from_bytes([7; 16]), outcomes, recipients);
        assert_eq!(proof.as_ref().is_ok_and(|proof| proof.id() == SpoolId::from_bytes([7; 16])), handed_over);
        assert_eq!(proof.is_err_and(|not| not.is_refused()), refused, "{outcomes:?}");
    }

    #[test]
    fn only_all_deliveries_of_all_recipients_are_a_proof() {
        let taken = Outcome::Delivered(How::Passed);
        let elsewhere = Outcome::Moved { destination: "b".into(), local: false };
        let (put_off, refused) = (Outcome::Deferred(reason()), Outcome::Failed(reason()));
        check(&[(0, taken.clone()), (1, taken.clone()), (0, taken.clone())], &[0, 1], true, false);
        check(&[(0, taken.clone())], &[0, 1], false, false);
        check(&[], &[], false, false);
        check(&[(0, taken.clone()), (0, put_off.clone())], &[0], false, false);
        check(&[(0, taken.clone()), (0, refused.clone())], &[0], false, false);
        check(&[(0, refused.clone()), (1, refused.clone())], &[0, 1], false, true);
        check(&[(0, refused.clone()), (1, taken)], &[0, 1], false, false);
        check(&[(0, refused), (1, put_off)], &[0, 1], false, false);
        check(&[(0, elsewhere)], &[0], false, false);
    }
}
