//! What an operator can have done with a message.

use crate::record::{Message, Place};
use crate::{Changed, Queue};
use ringpost_base::{Now, SpoolId};

impl Queue {
    /// Has a message that waits for a later attempt be tried at once. Its attempts go on counting, and it is no younger for
    /// it: if that attempt fails, it waits for as long as it would have after it anyway, or is given up. A dead letter lives
    /// again: everybody of it who was buried has another attempt, and if that fails too, and the message is too old, is given
    /// up again.
    pub fn retry(&mut self, id: SpoolId, now: Now) -> Changed {
        self.see(now);
        let Some(message) = self.find(id) else { return Changed::Unknown };
        if self.messages[message].has(Message::HELD) {
            return Changed::No;
        }
        let revived = self.revive(message);
        let waiting = |leg: &u32| self.legs[*leg].place == Place::Waiting;
        let legs: Vec<_> = self.legs_of(message).filter(waiting).collect();
        for leg in &legs {
            self.put(*leg, Place::Ready);
        }
        self.recount(message);
        if revived || !legs.is_empty() { Changed::Yes } else { Changed::No }
    }

    fn revive(&mut self, message: u32) -> bool {
        let Some(extra) = self.extra(message).filter(|extra| !extra.dead.is_empty()) else { return false };
        self.dead.remove(&(extra.buried_tick, self.messages[message].id()));
        let dead = self.unbury_all(message);
        let legs: Vec<_> = self.legs_of(message).collect();
        for leg in legs {
            let hash = self.lanes[self.legs[leg].lane].hash;
            let own = dead.iter().filter(|dead| dead.destination == hash).map(|dead| dead.recipient);
            let own: Vec<u32> = own.collect();
            if own.is_empty() {
                continue;
            }
            self.add_recipients(leg, own);
            if self.legs[leg].place == Place::Over {
                self.make_ready(leg);
            }
        }
        true
    }

    /// Has no further attempt be made for a message until it is released; one under way goes on. While it is held it is
    /// not given up, nor is its sender told that it is late. A dead letter can't be held.
    pub fn hold(&mut self, id: SpoolId, now: Now) -> Changed {
        self.see(now);
        let Some(message) = self.find(id) else { return Changed::Unknown };
        let over = self.legs_of(message).all(|leg| self.legs[leg].place == Place::Over);
        if over || self.messages[message].has(Message::HELD) {
            return Changed::No;
        }
        self.messages[message].set(Message::HELD, true);
        let legs: Vec<_> = self.legs_of(message).collect();
        for leg in legs {
            if matches!(self.legs[leg].place, Place::Ready | Place::Waiting) {
                self.put(leg, Place::Parked);
                self.arrange(self.legs[leg].lane);
            }
        }
        self.recount(message);
        Changed::Yes
    }

    /// Lets a held message go on, due at once. One that is too old by now has that attempt, and then is given up.
    pub fn release(&mut self, id: SpoolId, now: Now) -> Changed {
        self.see(now);
        let Some(message) = self.find(id) else { return Changed::Unknown };
        if !self.messages[message].has(Message::HELD) {
            return Changed::No;
        }
        self.messages[message].set(Message::HELD, false);
        let legs: Vec<_> = self.legs_of(message).collect();
        for leg in legs {
            if self.legs[leg].place == Place::Parked {
                self.put(leg, Place::Ready);
            }
        }
        self.settle_if_over(message);
        Changed::Yes
    }

    /// Takes a message out, whatever its state, so that the spool can settle it. An attempt under way goes on; its outcome
    /// is unknown then. False: there is no such message.
    pub fn drop_message(&mut self, id: SpoolId) -> bool {
        let found = self.find(id);
        if let Some(message) = found {
            self.remove(message);
        }
        found.is_some()
    }
}
