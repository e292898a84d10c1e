//! What the spool keeps of a message's delivery, so that it is remembered over a restart.
//!
//! ```text
//! state    = version flags count *done [buried]        empty: nothing is to be remembered
//! version  = %x01
//! flags    = 1 byte: 1 held, 2 the sender was told of the delay, 4 there is a buried part
//! done     = destination count *step                   destination: 4 bytes, the hash of its name, 0 for all there were
//! buried   = time count *reason count *dead            time: 8 bytes, microseconds since 1970
//! reason   = code class subject detail text remote     text, remote: a length and UTF-8; an empty remote is none
//! dead     = step destination index                    the number of its reason
//! ```
//!
//! Counts, lengths, numbers, codes and steps are in groups of 7 bits, the lowest first. A step is the difference to the
//! recipient before. What is longer than the spool keeps loses the texts of its reasons.

use crate::reason::cut;
use crate::{Reason, Status};
use ringpost_base::Timestamp;
use std::collections::BTreeMap;

/// Bytes of a text that are kept over a restart, at most.
const TEXT_MAX: usize = 200;

/// Bytes that the spool keeps for a message, at most.
const STATE_MAX: usize = 64 << 10;

const VERSION: u8 = 1;
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
    /// Recipients that could be neither served nor reported, ascending.
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
    /// Its bytes; none if there is nothing to remember.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text_max in [TEXT_MAX, TEXT_MAX / 8, 0] {
            bytes = self.encode_with(text_max);
            if bytes.len() <= STATE_MAX {
                break;
            }
        }
        bytes
    }

    fn encode_with(&self, text_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let flag = |on, flag| if on { flag } else { 0 };
        let flags = flag(self.held, HELD) | flag(self.delay_told, DELAY_TOLD) | flag(!self.dead.is_empty(), BURIED);
        if flags == 0 && self.done.is_empty() {
            return out;
        }
        out.extend([VERSION, flags]);
        let mut by_destination: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (recipient, destination) in &self.done {
            by_destination.entry(*destination).or_default().push(*recipient);
        }
        put(&mut out, by_destination.len() as u64);
        for (destination, mut recipients) in by_destination {
            recipients.sort_unstable();
            recipients.dedup();
            out.extend(destination.to_le_bytes());
            put(&mut out, recipients.len() as u64);
            let mut before = 0;
            for recipient in recipients {
                put(&mut out, u64::from(recipient - before));
                before = recipient;
            }
        }
        if !self.dead.is_empty() {
            self.encode_dead(text_max, &mut out);
        }
        out
    }

    fn encode_dead(&self, text_max: usize, out: &mut Vec<u8>) {
        out.extend(self.buried_at.unix_micros().to_le_bytes());
        let mut reasons = Vec::new();
        let mut numbers = BTreeMap::new();
        for dead in &self.dead {
            let Reason { code, status, text, remote } = &dead.reason;
            let remote = cut(remote.as_deref().unwrap_or_default(), text_max);
            let key = (*code, *status, cut(text, text_max), remote);
            numbers.entry(key).or_insert_with(|| {
                reasons.push(key);
                reasons.len() as u64 - 1
            });
        }
        put(out, reasons.len() as u64);
        for (code, Status(class, subject, detail), text, remote) in &reasons {
            [*code, u16::from(*class), *subject, *detail].iter().for_each(|number| put(out, u64::from(*number)));
            for text in [text, remote] {
                put(out, text.len() as u64);
                out.extend(text.as_bytes());
            }
        }
        put(out, self.dead.len() as u64);
        let mut dead: Vec<_> = self.dead.iter().collect();
        dead.sort_by_key(|dead| (dead.recipient, dead.destination));
        let mut before = 0;
        for DeadRecipient { recipient, destination, reason } in dead {
            put(out, u64::from(recipient - before));
            before = *recipient;
            out.extend(destination.to_le_bytes());
            let remote = cut(reason.remote.as_deref().unwrap_or_default(), text_max);
            let key = (reason.code, reason.status, cut(&reason.text, text_max), remote);
            put(out, numbers.get(&key).copied().unwrap_or_default());
        }
    }

    /// What bytes say. None of them say that there is nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedState> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        Reader { bytes }.state().ok_or(DamagedState)
    }
}

/// Groups of 7 bits, the lowest first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn state(&mut self) -> Option<Remembered> {
        let [version, flags] = *self.take(2)? else { return None };
        if version != VERSION || flags & !(HELD | DELAY_TOLD | BURIED) != 0 {
            return None;
        }
        let held = flags & HELD != 0;
        let mut state = Remembered { held, delay_told: flags & DELAY_TOLD != 0, ..Remembered::default() };
        for _ in 0..self.count(6)? {
            let destination = self.hash()?;
            let mut recipient = 0_u32;
            for _ in 0..self.count(1)? {
                recipient = recipient.checked_add(self.number()?)?;
                state.done.push((recipient, destination));
            }
        }
        if flags & BURIED != 0 {
            self.buried(&mut state)?;
        }
        self.bytes.is_empty().then_some(state)
    }

    fn buried(&mut self, state: &mut Remembered) -> Option<()> {
        let micros = self.take(8)?.try_into().ok()?;
        state.buried_at = Timestamp::from_unix_micros(u64::from_le_bytes(micros));
        let mut reasons = Vec::new();
        for _ in 0..self.count(6)? {
            reasons.push(self.reason()?);
        }
        let mut recipient = 0_u32;
        for _ in 0..self.count(6)? {
            recipient = recipient.checked_add(self.number()?)?;
            let destination = self.hash()?;
            let reason = reasons.get(self.number::<usize>()?)?.clone();
            state.dead.push(DeadRecipient { recipient, destination, reason });
        }
        Some(())
    }

    fn reason(&mut self) -> Option<Reason> {
        let code = self.number()?;
        let status = Status(self.number()?, self.number()?, self.number()?);
        let (text, remote) = (self.text()?, self.text()?);
        Some(Reason { code, status, text: text.into(), remote: (!remote.is_empty()).then(|| remote.into()) })
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn hash(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let [byte] = *self.take(1)? else { return None };
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return T::try_from(number).ok();
            }
        }
        None
    }

    /// A number of things of at least so many bytes each: no more than there can be.
    fn count(&mut self, bytes_min: usize) -> Option<usize> {
        self.number()
            .filter(|count: &usize| count.checked_mul(bytes_min).is_some_and(|least| least <= self.bytes.len()))
    }
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
        assert_eq!(held.encode(), [1, 1, 0]);
    }

    #[test]
    fn counts_that_can_not_be_allocate_nothing() {
        assert_eq!(Remembered::decode(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(DamagedState));
        assert_eq!(Remembered::decode(&[2, 0, 0]), Err(DamagedState), "a version of the future");
    }

    #[test]
    fn thousands_of_dead_recipients_fit_into_the_spool() {
        let reason =
            |n| Reason { code: 550, status: Status(5, 1, 1), text: format!("no {n:0150}").into(), remote: None };
        let dead = |n| DeadRecipient { recipient: n, destination: 7, reason: reason(n) };
        let state = Remembered { dead: (0..1000).map(dead).collect(), ..Remembered::default() };
        assert!(state.encode().len() <= STATE_MAX);
        let read = Remembered::decode(&state.encode()).expect("whole");
        assert_eq!((read.dead.len(), read.dead[999].recipient, read.dead[999].reason.code), (1000, 999, 550));
        assert!(read.dead[999].reason.text.len() < TEXT_MAX);
        let state = Remembered { dead: (0..9000).map(dead).collect(), ..Remembered::default() };
        assert!(state.encode().len() <= STATE_MAX);
        assert_eq!(Remembered::decode(&state.encode()).map(|read| read.dead.len()), Ok(9000));
    }
}
