//! The disk of one shard: files whose unsynced sectors a power loss takes, one by one and in any order.
//!
//! What a process sees of a file is its `view`. Each sector that was written and not synced remembers what else may be found
//! there after the power fails: everything that it held since the last sync. A process that dies leaves the view as it is, as
//! the cache belongs to the kernel and to the device. A file's name is as uncertain as its bytes until the directory is
//! synced, and so is its absence after it was removed.

use crate::dice::Dice;
use ringpost_base::SpoolId;
use ringpost_spool::Failure;
use std::collections::BTreeMap;

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// A file of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Segment(u32),
    Body(SpoolId),
}

#[derive(Clone, Debug, Default)]
struct File {
    view: Vec<u8>,
    /// Sectors not synced, and what may stand there instead of what the view has.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Bytes that are certain to belong to the file.
    len_synced: usize,
    /// The directory entry is on the disk.
    named: bool,
}

impl File {
    fn sector(&self, number: usize) -> Vec<u8> {
        let from = (number * SECTOR).min(self.view.len());
        let mut bytes = self.view[from..self.view.len().min(from + SECTOR)].to_vec();
        bytes.resize(SECTOR, 0);
        bytes
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        for number in offset / SECTOR..end.div_ceil(SECTOR) {
            let before = self.sector(number);
            self.unsynced.entry(number).or_default().push(before);
        }
        if self.view.len() < end {
            self.view.resize(end, 0);
        }
        self.view[offset..end].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.len_synced = self.view.len();
    }

    /// Puts into each unsynced sector one of the things that may stand there; says how many are not what was written last.
    fn lose(&mut self, dice: &mut Dice) -> u64 {
        let mut lost = 0;
        for (number, others) in std::mem::take(&mut self.unsynced) {
            let Some(old) = others.get(dice.place(others.len() + 1)) else { continue };
            let from = number * SECTOR;
            let to = self.view.len().min(from + SECTOR);
            if from < to && self.view[from..to] != old[..to - from] {
                self.view[from..to].copy_from_slice(&old[..to - from]);
                lost += 1;
            }
        }
        if self.len_synced < self.view.len() {
            let len = dice.range(self.len_synced as u64, self.view.len() as u64) as usize;
            self.view.truncate(len);
        }
        self.len_synced = self.view.len();
        lost
    }
}

/// One shard's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    files: BTreeMap<Name, File>,
    /// Removed, but the directory was not synced since.
    ghosts: BTreeMap<Name, File>,
    used: u64,
    /// Bytes that there is room for.
    pub(crate) capacity: u64,
    /// It says that it has synced, now and then, and has not.
    pub(crate) lies: bool,
    syncs: u32,
}

impl Disk {
    pub(crate) fn new(capacity: u64, lies: bool) -> Self {
        Self { files: BTreeMap::new(), ghosts: BTreeMap::new(), used: 0, capacity, lies, syncs: 0 }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        self.files.keys().copied().collect()
    }

    pub(crate) fn has(&self, name: Name) -> bool {
        self.files.contains_key(&name)
    }

    pub(crate) fn len(&self, name: Name) -> usize {
        self.files.get(&name).map_or(0, |file| file.view.len())
    }

    /// Makes a file of zeros, or makes it anew.
    pub(crate) fn create(&mut self, name: Name, len: usize) -> Result<(), Failure> {
        let before = self.len(name) as u64;
        let used = self.used - before + len as u64;
        if len as u64 > before && used > self.capacity {
            return Err(Failure::Full);
        }
        self.used = used;
        let named = self.files.get(&name).is_some_and(|file| file.named);
        self.files.insert(name, File { view: vec![0; len], named, ..File::default() });
        Ok(())
    }

    /// Puts a file there that is on the disk, but for its name. There is always room for it.
    pub(crate) fn put(&mut self, name: Name, bytes: Vec<u8>) {
        self.remove(name);
        self.used += bytes.len() as u64;
        self.files.insert(name, File { len_synced: bytes.len(), view: bytes, ..File::default() });
    }

    /// Writes into a file. One that grows may find no room.
    pub(crate) fn write(&mut self, name: Name, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        let Some(file) = self.files.get_mut(&name) else { return Err(Failure::Io) };
        let growth = (offset + bytes.len()).saturating_sub(file.view.len()) as u64;
        if growth > 0 && self.used + growth > self.capacity {
            return Err(Failure::Full);
        }
        self.used += growth;
        file.write(offset, bytes);
        Ok(())
    }

    /// A write that failed: each sector of it is on the disk, or in a cache, or nowhere.
    pub(crate) fn write_in_part(&mut self, name: Name, offset: usize, bytes: &[u8], dice: &mut Dice) {
        let Some(file) = self.files.get_mut(&name) else { return };
        let all = dice.one_in(4);
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            if !all && dice.one_in(2) {
                continue;
            }
            file.write(offset + number * SECTOR, sector);
            if dice.one_in(2) {
                file.unsynced.remove(&(offset / SECTOR + number));
            }
        }
    }

    pub(crate) fn sync(&mut self, name: Name) {
        self.syncs = self.syncs.wrapping_add(1);
        if self.lies && self.syncs.is_multiple_of(4) {
            return;
        }
        if let Some(file) = self.files.get_mut(&name) {
            file.sync();
        }
    }

    pub(crate) fn sync_directory(&mut self) {
        self.files.values_mut().for_each(|file| file.named = true);
        self.ghosts.clear();
    }

    pub(crate) fn read(&self, name: Name, offset: usize, len: usize) -> Option<&[u8]> {
        let view = &self.files.get(&name)?.view;
        view.get(offset..(offset + len).min(view.len()))
    }

    pub(crate) fn whole(&self, name: Name) -> Option<&[u8]> {
        Some(&self.files.get(&name)?.view)
    }

    pub(crate) fn remove(&mut self, name: Name) {
        let Some(file) = self.files.remove(&name) else { return };
        self.used -= file.view.len() as u64;
        if file.named {
            self.ghosts.insert(name, file);
        }
    }

    /// The power fails. Says how many sectors and names are not what they were.
    pub(crate) fn lose_power(&mut self, dice: &mut Dice) -> u64 {
        let mut lost = 0;
        for (name, file) in std::mem::take(&mut self.ghosts) {
            if dice.one_in(2) {
                lost += 1;
                self.files.entry(name).or_insert(file);
            }
        }
        self.files.retain(|_, file| {
            let gone = !file.named && dice.one_in(2);
            lost += u64::from(gone);
            if !gone {
                lost += file.lose(dice);
                file.named = true;
            }
            !gone
        });
        self.used = self.files.values().map(|file| file.view.len() as u64).sum();
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Name = Name::Segment(1);

    fn disk() -> Disk {
        let mut disk = Disk::new(1 << 20, false);
        disk.create(FILE, 4 * SECTOR).expect("room");
        disk.sync(FILE);
        disk.sync_directory();
        disk
    }

    #[test]
    fn what_is_synced_stays_and_what_is_not_may_go() {
        let (mut kept, mut old) = (0, 0);
        for seed in 0..200 {
            let mut disk = disk();
            disk.write(FILE, 0, &[1; 2 * SECTOR]).expect("room");
            disk.sync(FILE);
            disk.write(FILE, SECTOR, &[2; 2 * SECTOR]).expect("room");
            disk.lose_power(&mut Dice::new(seed));
            let bytes = disk.whole(FILE).expect("there");
            assert_eq!(bytes[..SECTOR], [1; SECTOR]);
            assert_eq!(bytes[3 * SECTOR..], [0; SECTOR]);
            for (at, before) in [(SECTOR, 1), (2 * SECTOR, 0)] {
                let sector = &bytes[at..at + SECTOR];
                assert!(sector == [2; SECTOR] || sector == [before; SECTOR]);
                *(if sector[0] == 2 { &mut kept } else { &mut old }) += 1;
            }
        }
        assert!(kept > 100 && old > 100, "{kept} {old}");
    }

    #[test]
    fn a_liar_loses_what_it_said_it_had() {
        let loses = |lies: bool, seed: u64| {
            let mut disk = Disk { lies, syncs: 0, ..disk() };
            // One of four is no sync.
            for byte in 1..=4 {
                disk.write(FILE, 0, &[byte; SECTOR]).expect("room");
                disk.sync(FILE);
            }
            disk.lose_power(&mut Dice::new(seed));
            disk.whole(FILE).is_some_and(|bytes| bytes[..SECTOR] != [4; SECTOR])
        };
        assert!((0..50).any(|seed| loses(true, seed)));
        assert!(!(0..50).any(|seed| loses(false, seed)));
    }

    #[test]
    fn names_need_their_directory_synced() {
        let outcomes: Vec<(bool, bool)> = (0..64)
            .map(|seed| {
                let mut disk = disk();
                disk.create(Name::Segment(2), SECTOR).expect("room");
                disk.remove(FILE);
                disk.lose_power(&mut Dice::new(seed));
                (disk.has(FILE), disk.has(Name::Segment(2)))
            })
            .collect();
        for outcome in [(false, false), (false, true), (true, false), (true, true)] {
            assert!(outcomes.contains(&outcome), "{outcome:?}");
        }
    }

    #[test]
    fn a_full_disk_takes_nothing_that_grows() {
        let mut disk = disk();
        disk.capacity = disk.used();
        assert_eq!(disk.create(Name::Segment(2), 1), Err(Failure::Full));
        assert_eq!(disk.write(FILE, 3 * SECTOR, &[1; SECTOR + 1]), Err(Failure::Full));
        assert_eq!(disk.write(FILE, 3 * SECTOR, &[1; SECTOR]), Ok(()));
        disk.remove(FILE);
        assert_eq!(disk.create(Name::Segment(2), 1), Ok(()));
    }
}
