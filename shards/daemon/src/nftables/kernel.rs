//! The sets in the kernel, and what is known to be in them.

use super::elements::{Difference, ELEMENTS_MAX, Elements, emptying, putting_in, taking_out};
use ringpost_base::Timestamp;
use ringpost_policy::NftablesSet;

/// The sets, changed by scripts that a function runs.
pub(super) struct Kernel<N> {
    nft: N,
    /// What is in the sets; nothing if that is not known.
    mirrored: Option<Elements>,
}

impl<N: FnMut(&str) -> Result<(), String>> Kernel<N> {
    pub(super) fn new(nft: N) -> Self {
        Self { nft, mirrored: None }
    }

    /// What is in the sets is not known any more.
    pub(super) fn forget(&mut self) {
        self.mirrored = None;
    }

    /// Brings the sets to have these elements. What can't be changed is replaced as a whole.
    pub(super) fn bring(&mut self, sets: &NftablesSet, wanted: Elements, now: Timestamp) -> Result<(), String> {
        if let Some(mut mirrored) = self.mirrored.take() {
            let difference = Difference::between(&mirrored, &wanted, now);
            if self.change(sets, &difference, now).is_ok() {
                difference.apply(&mut mirrored, now);
                self.mirrored = Some(mirrored);
                return Ok(());
            }
        }
        self.replace(sets, &wanted, now)?;
        self.mirrored = Some(wanted);
        Ok(())
    }

    /// In two scripts, since nft does not see that what the first half of one takes out makes room for the second.
    fn change(&mut self, sets: &NftablesSet, difference: &Difference, now: Timestamp) -> Result<(), String> {
        let Difference { gone, new } = difference;
        // To take one out is as much work as to put some dozens in.
        if gone.len() > ELEMENTS_MAX || new.len() > ELEMENTS_MAX {
            return Err("to replace all is less work".into());
        }
        if !gone.is_empty() {
            (self.nft)(&taking_out(sets, gone))?;
        }
        if new.is_empty() { Ok(()) } else { (self.nft)(&putting_in(sets, new.iter(), now)) }
    }

    /// All in one script, so that nobody slips through between. Where that is too much at once, as it is for a process
    /// that may not make the buffers of its sockets larger, in parts; one that fails does not take the others along.
    fn replace(&mut self, sets: &NftablesSet, wanted: &Elements, now: Timestamp) -> Result<(), String> {
        let whole = (self.nft)(&(emptying(sets) + &putting_in(sets, wanted.iter(), now)));
        if whole.is_ok() || wanted.len() <= ELEMENTS_MAX {
            return whole;
        }
        (self.nft)(&emptying(sets))?;
        let mut elements = wanted.iter().peekable();
        let mut result = Ok(());
        while elements.peek().is_some() {
            let part = putting_in(sets, elements.by_ref().take(ELEMENTS_MAX), now);
            result = result.and((self.nft)(&part));
        }
        result
    }
}
