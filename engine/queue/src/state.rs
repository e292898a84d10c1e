//! What the spool keeps of a message's delivery, so that it is remembered over a restart.
//!
//! ```text
//! state    = version flags count *done [buried]        empty: nothing is to be remembered
//! version  = %x02
//! flags    = 1 byte: 1 held, 2 the sender was told of the delay, 4 there is a buried part
//! done     = destination set                           destination: 4 bytes, the hash of its name, 0 for all there were
//! buried   = time count *reason count *dead            time: 8 bytes, microseconds since 1970
//! reason   = code class subject detail text remote     text, remote: a length and UTF-8; an empty remote is none
//! dead     = destination index set                     the number of their reason
//! ```
//!
//! Numbers, counts, lengths and sets of recipients are as [`numbers`](crate::numbers) has them. What is longer than the spool
//! keeps loses the texts of its reasons, then the reasons. That is enough for the largest message with a handful of
//! destinations; with more, it loses who is done at the destinations with most of them, who have the message twice then.

use crate::hash::EVERYWHERE;
use crate::numbers::{NUMBERS_MAX, Reader, put, put_set};
use crate::reason::cut;
use crate::{Reason, Status};
use ringpost_base::Timestamp;
use std::collections::BTreeMap;

/// Bytes that the spool keeps for a message, at most.
const STATE_MAX: usize = 64 << 10;

/// Bytes of a text that are kept over a restart, at most; fewer, if the state would be too long with so many.
const TEXTS_MAX: [usize; 3] = [200, 25, 0];

const VERSION: u8 = 2;
const HELD: u8 = 1;
const DELAY_TOLD: u8 = 2;
const BURIED: u8 = 4;

/// What is remembered of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// An operator holds it.
    pub held: bool,
    /// Its sender has been told that it is late.
    pub delay_told: bool,
    /// Recipients that are done, and the hash of the destination where; 0 for all that there were. Ascending by
    /// destination, then recipient.
    pub done: Vec<(u32, u32)>,
    /// Recipients that could be neither served nor reported, ascending by recipient, then destination.
    pub dead: Vec<DeadRecipient>,
    /// When the first of them was buried.
    pub buried_at: Timestamp,
}

/// A recipient that could be neither served nor reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRecipient {
    /// Its number.
    pub recipient: u32,
    /// The hash of the destination where it was going.
    pub destination: u32,
    /// Why it could not be served.
    pub reason: Reason,
}

/// A state that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedState;

impl std::fmt::Display for DamagedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the state of a message can't be read")
    }
}

impl std::error::Error for DamagedState {}

impl Remembered {
    /// Its bytes, as many as the spool takes; none if there is nothing to remember.
    pub fn encode(&self) -> Vec<u8> {
        for text_max in TEXTS_MAX {
            if let Some(bytes) = self.encode_with(text_max) {
                return bytes;
            }
        }
        let mut less = self.clone();
        if !less.dead.is_empty() {
            let reason = Reason::ours(Status(5, 0, 0), "there were too many reasons to keep them");
            less.dead.iter_mut().for_each(|dead| dead.reason = reason.clone());
        }
        loop {
            match less.encode_with(TEXTS_MAX[0]) {
                Some(bytes) => return bytes,
                None => less.leave_out_the_most(),
            }
        }
    }

    /// Its bytes, unless they are too many.
    fn encode_with(&self, text_max: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let flag = |on, flag| if on { flag } else { 0 };
        let flags = flag(self.held, HELD) | flag(self.delay_told, DELAY_TOLD) | flag(!self.dead.is_empty(), BURIED);
        if flags == 0 && self.done.is_empty() {
            return Some(out);
        }
        if self.done.len() + self.dead.len() > NUMBERS_MAX {
            return None;
        }
        out.extend([VERSION, flags]);
        let by_destination = sets(self.done.iter().map(|(recipient, destination)| (*destination, *recipient)));
        put(&mut out, by_destination.len() as u64);
        for (destination, recipients) in by_destination {
            out.extend(destination.to_le_bytes());
            put_set(&mut out, &recipients);
        }
        if !self.dead.is_empty() {
            self.encode_dead(text_max, &mut out);
        }
        (out.len() <= STATE_MAX).then_some(out)
    }

    fn encode_dead(&self, text_max: usize, out: &mut Vec<u8>) {
        out.extend(self.buried_at.unix_micros().to_le_bytes());
        let mut reasons = Vec::new();
        let mut numbers = BTreeMap::new();
        let mut dead_by_reason = Vec::with_capacity(self.dead.len());
        for dead in &self.dead {
            let Reason { code, status, text, remote } = &dead.reason;
            let remote = cut(remote.as_deref().unwrap_or_default(), text_max);
            let key = (*code, *status, cut(text, text_max), remote);
            let number: u64 = *numbers.entry(key).or_insert_with(|| {
                reasons.push(key);
                reasons.len() as u64 - 1
            });
            dead_by_reason.push(((dead.destination, number), dead.recipient));
        }
        put(out, reasons.len() as u64);
        for (code, Status(class, subject, detail), text, remote) in &reasons {
            [*code, u16::from(*class), *subject, *detail].iter().for_each(|number| put(out, u64::from(*number)));
            for text in [text, remote] {
                put(out, text.len() as u64);
                out.extend(text.as_bytes());
            }
        }
        let by_reason = sets(dead_by_reason.into_iter());
        put(out, by_reason.len() as u64);
        for ((destination, number), recipients) in by_reason {
            out.extend(destination.to_le_bytes());
            put(out, number);
            put_set(out, &recipients);
        }
    }

    /// Leaves out who is done at one destination, where that says least for its length; or who is dead at one. They are
    /// tried again after a restart, which is better than that nothing of all this can be noted.
    fn leave_out_the_most(&mut self) {
        let most = |all: &mut dyn Iterator<Item = u32>| {
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            all.for_each(|destination| *counts.entry(destination).or_default() += 1);
            counts.into_iter().max_by_key(|(hash, count)| (*hash != EVERYWHERE, *count)).map(|(hash, _)| hash)
        };
        if let Some(most) = most(&mut self.done.iter().map(|(_, destination)| *destination)) {
            self.done.retain(|(_, destination)| *destination != most);
        } else if let Some(most) = most(&mut self.dead.iter().map(|dead| dead.destination)) {
            self.dead.retain(|dead| dead.destination != most);
        }
    }

    /// What bytes say. None of them say that there is nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedState> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader::new(bytes);
        read(&mut reader).filter(|_| reader.is_at_end()).ok_or(DamagedState)
    }
}

/// The recipients of each key, ascending and each once.
fn sets<K: Ord>(all: impl Iterator<Item = (K, u32)>) -> BTreeMap<K, Vec<u32>> {
    let mut sets: BTreeMap<K, Vec<u32>> = BTreeMap::new();
    all.for_each(|(key, recipient)| sets.entry(key).or_default().push(recipient));
    for recipients in sets.values_mut() {
        recipients.sort_unstable();
        recipients.dedup();
    }
    sets
}

fn read(reader: &mut Reader<'_>) -> Option<Remembered> {
    let [version, flags] = *reader.take(2)? else { return None };
    if version != VERSION || flags & !(HELD | DELAY_TOLD | BURIED) != 0 {
        return None;
    }
    let (held, delay_told) = (flags & HELD != 0, flags & DELAY_TOLD != 0);
    let mut state = Remembered { held, delay_told, ..Remembered::default() };
    for _ in 0..reader.count(6)? {
        let destination = read_hash(reader)?;
        state.done.extend(reader.set()?.into_iter().map(|recipient| (recipient, destination)));
    }
    if flags & BURIED != 0 {
        read_buried(reader, &mut state)?;
    }
    Some(state)
}

fn read_buried(reader: &mut Reader<'_>, state: &mut Remembered) -> Option<()> {
    let micros = reader.take(8)?.try_into().ok()?;
    state.buried_at = Timestamp::from_unix_micros(u64::from_le_bytes(micros));
    let mut reasons = Vec::new();
    for _ in 0..reader.count(6)? {
        reasons.push(read_reason(reader)?);
    }
    for _ in 0..reader.count(7)? {
        let destination = read_hash(reader)?;
        let reason = reasons.get(reader.number::<usize>()?)?;
        let dead = |recipient| DeadRecipient { recipient, destination, reason: reason.clone() };
        state.dead.extend(reader.set()?.into_iter().map(dead));
    }
    state.dead.sort_by_key(|dead| (dead.recipient, dead.destination));
    Some(())
}

fn read_reason(reader: &mut Reader<'_>) -> Option<Reason> {
    let code = reader.number()?;
    let status = Status(reader.number()?, reader.number()?, reader.number()?);
    let (text, remote) = (reader.text()?, reader.text()?);
    Some(Reason { code, status, text: text.into(), remote: (!remote.is_empty()).then(|| remote.into()) })
}

fn read_hash(reader: &mut Reader<'_>) -> Option<u32> {
    Some(u32::from_le_bytes(reader.take(4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason() -> impl Strategy<Value = Reason> {
        let status = (0..=9_u8, any::<u16>(), any::<u16>()).prop_map(|(class, a, b)| Status(class, a, b));
        let remote = prop::option::of("[a-z.]{1,20}").prop_map(|remote| remote.map(Into::into));
        (any::<u16>(), status, ".{0,30}", remote).prop_map(|(code, status, text, remote)| Reason {
            code,
            status,
            text: text.as_str().into(),
            remote,
        })
    }

    prop_compose! {
        fn remembered()(
            held in any::<bool>(),
            delay_told in any::<bool>(),
            mut done in prop::collection::vec((any::<u32>(), 0_u32..4), 0..20),
            dead in prop::collection::btree_map((any::<u32>(), 0_u32..4), reason(), 0..5),
            at in any::<u64>(),
        ) -> Remembered {
            done.sort_unstable_by_key(|(recipient, destination)| (*destination, *recipient));
            done.dedup();
            let dead: Vec<_> = dead
                .into_iter()
                .map(|((recipient, destination), reason)| DeadRecipient { recipient, destination, reason })
                .collect();
            let at = if dead.is_empty() { 0 } else { at };
            Remembered { held, delay_told, done, dead, buried_at: Timestamp::from_unix_micros(at) }
        }
    }

    proptest! {
        #[test]
        fn there_and_back(state in remembered()) {
            prop_assert_eq!(Remembered::decode(&state.encode()), Ok(state));
        }

        #[test]
        fn damaged_bytes_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Remembered::decode(&bytes);
        }

        #[test]
        fn a_flipped_or_missing_byte_is_no_panic(state in remembered(), at in any::<usize>(), byte in any::<u8>()) {
            let mut bytes = state.encode();
            let at = at % (bytes.len() + 1);
            let _ = Remembered::decode(&bytes[..at]);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Remembered::decode(&bytes);
        }
    }

    #[test]
    fn nothing_to_remember_takes_no_bytes() {
        assert!(Remembered::default().encode().is_empty());
        assert_eq!(Remembered::decode(&[]), Ok(Remembered::default()));
        let held = Remembered { held: true, ..Remembered::default() };
        assert_eq!(held.encode(), [2, 1, 0]);
    }

    #[test]
    fn counts_that_can_not_be_allocate_nothing() {
        assert_eq!(Remembered::decode(&[2, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(DamagedState));
        assert_eq!(Remembered::decode(&[3, 0, 0]), Err(DamagedState), "a version of the future");
    }

    fn dead(recipient: u32, destination: u32, text: String) -> DeadRecipient {
        let reason = Reason { code: 550, status: Status(5, 1, 1), text: text.into(), remote: None };
        DeadRecipient { recipient, destination, reason }
    }

    /// What is read of a state, which the spool must take.
    fn noted(state: &Remembered) -> Remembered {
        let bytes = state.encode();
        assert!(bytes.len() <= STATE_MAX, "{} bytes", bytes.len());
        Remembered::decode(&bytes).expect("whole")
    }

    /// Recipients of the largest message that may be permitted.
    const RECIPIENTS: u32 = 50_000;

    #[test]
    fn the_largest_message_that_is_half_done_fits_into_the_spool() {
        for step in [1, 2, 3, 7] {
            let at = |hash| (0..RECIPIENTS).step_by(step).map(move |recipient| (recipient, hash));
            let state = Remembered { done: at(7).chain(at(8)).collect(), ..Remembered::default() };
            assert_eq!(noted(&state), state, "every {step}th");
        }
    }

    #[test]
    fn dead_recipients_keep_their_reasons_as_far_as_they_fit() {
        let check = |count: u32, texts: u32, text_min: usize| {
            let dead = (0..count).map(|n| dead(n, 7, format!("no {:0150}", n % texts))).collect();
            let state = Remembered { dead, ..Remembered::default() };
            let read = noted(&state);
            assert!(read.dead.iter().map(|dead| dead.recipient).eq(0..count));
            let is_kept = |dead: &DeadRecipient| dead.reason.code == 550 && dead.reason.text.len() >= text_min;
            assert!(read.dead.iter().all(is_kept), "{:?}", read.dead[0]);
        };
        check(100, 100, 150);
        check(RECIPIENTS, 2, 150);
        check(1000, 1000, 25);
        check(RECIPIENTS, RECIPIENTS, 0);
    }

    #[test]
    fn with_more_reasons_than_fit_all_have_the_same() {
        let with_code = |n: u32| {
            let mut dead = dead(n, 7, String::new());
            (dead.reason.code, dead.reason.status.2) = (n as u16, n as u16);
            dead
        };
        let state = Remembered { dead: (0..RECIPIENTS).map(with_code).collect(), ..Remembered::default() };
        let read = noted(&state);
        assert!(read.dead.iter().map(|dead| dead.recipient).eq(0..RECIPIENTS));
        assert!(
            read.dead.iter().all(|dead| dead.reason == read.dead[0].reason && dead.reason.status == Status(5, 0, 0))
        );
    }

    #[test]
    fn whatever_is_to_be_remembered_something_can_be_noted() {
        let at = |hash: u32| (0..RECIPIENTS).filter(move |n| n % 2 == 0 || hash == 0).map(move |n| (n, hash));
        let done = (0..30).flat_map(at).collect();
        let dead = (0..RECIPIENTS).step_by(2).map(|n| dead(n, 99, String::new())).collect();
        let read = noted(&Remembered { held: true, done, dead, ..Remembered::default() });
        assert!(read.held && read.dead.len() == 25_000);
        assert_eq!(read.done.iter().filter(|(_, hash)| *hash == 0).count(), 50_000);
        assert!(read.done.len() > 150_000, "{}", read.done.len());
    }
}
