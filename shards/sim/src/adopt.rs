//! Taking over the logs of shards that are no more, in small: what `shards/store` does when the host has fewer cores than
//! before. Each message is durable in the other log before the old one goes, and that goes in one step; the power may fail
//! at every operation.

use crate::disk::{Disk, Name};
use crate::fault::Fault;
use crate::host::Digest;
use crate::world::World;
use ringpost_spool::{Op, Recovered, Spool, Token};

impl World {
    /// Takes what is in the log of a former shard into that of another; false if the power fails meanwhile.
    pub(crate) fn adopt(
        &mut self,
        shard: usize,
        spool: &mut Spool,
        live: &mut Vec<Recovered<Digest>>,
        former: usize,
    ) -> bool {
        let Some((log, found)) = self.read_back(former) else { return true };
        self.tell_recovered(former, &found);
        let (mut moved, mut taken) = (Vec::new(), Vec::new());
        for (token, message) in (0..).zip(found) {
            let (id, body) = (message.id, Name::Body(message.id));
            moved.push(id);
            let Some(location) = log.locate(id) else { continue };
            if message.has_body_file && !self.disks[shard].has(body) {
                let Some(bytes) = self.disks[former].whole(body).map(<[u8]>::to_vec) else {
                    self.body_is_gone(former, id);
                    continue;
                };
                // A link: the bytes are on the disk already, and the name is with the next sync of the directory.
                self.disks[shard].put(body, bytes);
                self.disks[shard].sync_directory();
            }
            if spool.locate(id).is_some() {
                continue;
            }
            let name = Name::Segment(location.slot.0);
            let record = self.disks[former].read(name, location.offset as usize, location.len as usize);
            let record = record.unwrap_or_default().to_vec();
            if !spool.adopt(Token(token), &record, location.key, &message.state) {
                self.book.violate(format!("{id} can't be taken over from {former}"));
            }
            taken.push(message);
            if self.dice.one_in(4) && !self.write_adopted(shard, spool) {
                return false;
            }
        }
        if !self.write_adopted(shard, spool) {
            return false;
        }
        self.note(format_args!("{shard} has taken over {} messages of {former}", taken.len()));
        self.disks[former] = Disk::new(self.plan.disk, self.disks[former].lies);
        moved.into_iter().for_each(|id| self.book.adopted(id, shard));
        live.extend(taken);
        live.sort_by_key(|message| message.id);
        true
    }

    /// Does all that the log wants to, right away; false if the power fails in the middle of it.
    fn write_adopted(&mut self, shard: usize, spool: &mut Spool) -> bool {
        while let Some(op) = spool.poll_op() {
            let fails = self.strikes(Fault::CrashInStart);
            match op {
                Op::Create(slot) => {
                    // A start has to find room, or fails and is tried again: here there is always some.
                    self.disks[shard].put(Name::Segment(slot.0), vec![0; self.plan.spool.segment_size.as_len()]);
                    self.disks[shard].sync_directory();
                    spool.created(slot, Ok(()));
                }
                Op::Write { slot, offset, bytes } => {
                    let (name, offset) = (Name::Segment(slot.0), offset as usize);
                    if fails {
                        self.disks[shard].write_in_part(name, offset, &bytes, &mut self.dice);
                        return false;
                    }
                    let written = self.disks[shard].write(name, offset, &bytes);
                    self.disks[shard].sync(name);
                    for completion in spool.written(written) {
                        if let Err(failure) = completion.result {
                            self.book.violate(format!("a message could not be taken over: {failure}"));
                        }
                    }
                }
                Op::Copy { id, location } => {
                    let name = Name::Segment(location.slot.0);
                    let bytes = self.disks[shard].read(name, location.offset as usize, location.len as usize);
                    spool.copied(id, bytes);
                }
                Op::Remove(slot) => self.disks[shard].remove(Name::Segment(slot.0)),
            }
            if fails {
                return false;
            }
        }
        true
    }
}
