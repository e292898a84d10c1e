//! Taking over the logs of a process that has ended, while this one serves.

use crate::adopt::adopt_all;
use crate::directories::Orphans;
use crate::error::StoreError;
use crate::lost::LostFiles;
use crate::recover::Reader;
use crate::store::Store;
use ringpost_base::SpoolId;
use ringpost_metrics::Counter;
use ringpost_spool::Recovered;
use std::rc::Rc;

/// A group of directories that is taken over, and how far that has come: after an error it is tried again with the same one.
pub struct TakeOver<D> {
    orphans: Orphans,
    taken: Vec<Recovered<D>>,
}

impl<D> TakeOver<D> {
    /// Of a group of [`crate::orphan_groups`].
    pub fn new(orphans: Orphans) -> Self {
        Self { orphans, taken: Vec::new() }
    }
}

impl Store {
    /// Takes the messages of a group of directories into this shard's log while it serves, and gives them when the
    /// directories are gone: not before that may any of them be delivered. `digest` makes of each envelope what the caller
    /// wants to keep of it.
    ///
    /// Everything is done in small steps, between which sessions have their turn. After an error, as of a disk that is full,
    /// what has come over is kept in `under_way`; nothing is lost, and the next try goes on from there. Dropped in the middle,
    /// or ended by a crash, it is left to the next start, which finds each message once.
    pub async fn take_over<D>(
        self: &Rc<Self>,
        under_way: &mut TakeOver<D>,
        mut digest: impl FnMut(SpoolId, &[u8]) -> D,
    ) -> Result<Vec<Recovered<D>>, StoreError> {
        let TakeOver { orphans, taken } = under_way;
        let lost = LostFiles::new(&self.disk, self.directory());
        let mut reader = Reader::new(&self.disk, &self.block, &mut digest, &|_| {});
        let spare = self.space_limits.get().hard.0;
        adopt_all(self, orphans, &mut reader, &lost, (spare, &mut *taken)).await?;
        lost.tell();
        self.block.add(Counter::SpoolRecovered, taken.len() as u64);
        Ok(std::mem::take(taken))
    }
}
