//! Why a recipient could not be served, and the shared store of such reasons.
//!
//! A million messages that wait for one dead server wait for one reason. So reasons are kept once, and what a message holds
//! is a pointer. Who writes them is the other side, so they are bounded: in length, and in how many different ones
//! are alive. Beyond that a reason loses its text, and in the end all but its class.

use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

/// Bytes of a reason's text, at most. A reply line has 512 (RFC 5321 section 4.5.3.1.5); of several lines the first say it.
pub const REASON_TEXT_MAX: usize = 512;

/// Different reasons that one shard keeps with their text. Some megabytes, were all as long as they can be.
pub const REASONS_MAX: usize = 4096;

/// Different reasons that it keeps without text, beside those: codes and statuses are chosen by strangers too.
const BARE_REASONS_MAX: usize = 1024;

/// An enhanced status code: class, subject, detail (RFC 3463).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u8, pub u16, pub u16);

impl Status {
    /// The time for delivery is over (RFC 3463 section 3.5).
    pub const EXPIRED: Self = Self(5, 4, 7);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Why a recipient was not served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// The code of the SMTP reply; 0 where there was none.
    pub code: u16,
    /// What it means.
    pub status: Status,
    /// In words; what the other side said, if it said something.
    pub text: Rc<str>,
    /// The host that said it. None: it comes from here.
    pub remote: Option<Rc<str>>,
}

impl Reason {
    /// A reason of our own.
    pub fn ours(status: Status, text: &str) -> Self {
        Self { code: 0, status, text: text.into(), remote: None }
    }

    /// The reason for giving up what was put off for too long; it keeps what was said last.
    pub(crate) fn expired(last: Option<&Reason>) -> Self {
        match last {
            Some(last) => Self { status: Status::EXPIRED, ..last.clone() },
            None => Self::ours(Status::EXPIRED, "delivery time expired"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code > 0 {
            write!(f, "{} ", self.code)?;
        }
        write!(f, "{} {}", self.status, self.text)
    }
}

/// The text without what is behind so many bytes.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The reasons of one shard, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    known: HashSet<Rc<Reason>>,
    /// How many more may come before it is worth looking for those that nobody holds any more.
    until_sweep: usize,
}

impl Reasons {
    /// The one kept copy of a reason, or what may be kept of it.
    pub(crate) fn intern(&mut self, reason: &Reason) -> Rc<Reason> {
        if let Some(kept) = self.known.get(reason) {
            return kept.clone();
        }
        self.make_room();
        if self.known.len() < REASONS_MAX {
            return self.keep(Reason { text: cut(&reason.text, REASON_TEXT_MAX).into(), ..reason.clone() });
        }
        let bare = Reason { text: "".into(), remote: None, ..*reason };
        if self.known.contains(&bare) || self.known.len() < REASONS_MAX + BARE_REASONS_MAX {
            return self.keep(bare);
        }
        self.keep(Reason { code: 0, status: Status(reason.status.0.min(9), 0, 0), ..bare })
    }

    fn keep(&mut self, reason: Reason) -> Rc<Reason> {
        if let Some(kept) = self.known.get(&reason) {
            return kept.clone();
        }
        let kept = Rc::new(reason);
        self.known.insert(kept.clone());
        kept
    }

    /// Lets those go that nobody else holds. Looked for once in a quarter of the bound, so that it costs little each.
    fn make_room(&mut self) {
        if self.known.len() < REASONS_MAX {
            return;
        }
        match self.until_sweep.checked_sub(1) {
            Some(left) => self.until_sweep = left,
            None => {
                self.known.retain(|reason| Rc::strong_count(reason) > 1);
                self.known.shrink_to(REASONS_MAX);
                self.until_sweep = REASONS_MAX / 4;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Reason {
        Reason { code: 451, status: Status(4, 3, 0), text: text.into(), remote: Some("mx.example".into()) }
    }

    #[test]
    fn equal_reasons_are_one() {
        let mut reasons = Reasons::default();
        let (a, b) = (reasons.intern(&said("busy")), reasons.intern(&said("busy")));
        assert!(Rc::ptr_eq(&a, &b));
        assert!(!Rc::ptr_eq(&a, &reasons.intern(&said("full"))));
    }

    #[test]
    fn a_text_that_never_repeats_fills_nothing() {
        let mut reasons = Reasons::default();
        let held: Vec<_> = (0..10_000).map(|n| reasons.intern(&said(&format!("busy, ask for {n}")))).collect();
        assert!(reasons.known.len() <= REASONS_MAX + BARE_REASONS_MAX + 10);
        assert_eq!((held[9_999].code, held[9_999].status, &*held[9_999].text), (451, Status(4, 3, 0), ""));
        drop(held);
        for n in 0..REASONS_MAX {
            reasons.intern(&said(&format!("again {n}")));
        }
        assert_eq!(&*reasons.intern(&said("kept again")).text, "kept again");
    }

    #[test]
    fn codes_that_never_repeat_fill_nothing() {
        let mut reasons = Reasons::default();
        let odd = |n: u16| Reason { code: n, status: Status(4, n, n), text: "".into(), remote: None };
        let held: Vec<_> = (0..20_000).map(|n| reasons.intern(&odd(n))).collect();
        assert!(reasons.known.len() <= REASONS_MAX + BARE_REASONS_MAX + 10);
        assert_eq!(*held[19_999], Reason { code: 0, status: Status(4, 0, 0), text: "".into(), remote: None });
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let long = "é".repeat(REASON_TEXT_MAX);
        let kept = Reasons::default().intern(&said(&long));
        assert_eq!(kept.text.len(), REASON_TEXT_MAX);
        assert_eq!(cut("aé", 2), "a");
    }

    #[test]
    fn what_expired_keeps_what_was_said_last() {
        let expired = Reason::expired(Some(&said("busy")));
        assert_eq!((expired.to_string().as_str(), expired.remote.as_deref()), ("451 5.4.7 busy", Some("mx.example")));
        assert_eq!(Reason::expired(None).to_string(), "5.4.7 delivery time expired");
    }
}
