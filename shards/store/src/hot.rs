//! The bytes of accepted messages that are in memory, up to a budget.

use ringpost_base::SpoolId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// A message in memory.
#[derive(Clone)]
pub(crate) struct Hot {
    pub(crate) envelope: Rc<[u8]>,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// The messages in memory: few of perhaps very many that are in the log.
#[derive(Default)]
pub(crate) struct HotMessages {
    messages: RefCell<HashMap<SpoolId, Hot>>,
    bytes: Cell<u64>,
}

impl HotMessages {
    /// Whether so many bytes more stay within the budget.
    pub(crate) fn fits(&self, len: usize, budget: u64) -> bool {
        self.bytes.get().saturating_add(len as u64) <= budget
    }

    pub(crate) fn insert(&self, id: SpoolId, envelope: &[u8], bytes: Vec<u8>) {
        self.bytes.set(self.bytes.get() + bytes.len() as u64);
        let hot = Hot { envelope: envelope.into(), bytes: Arc::new(bytes) };
        self.messages.borrow_mut().insert(id, hot);
    }

    pub(crate) fn get(&self, id: SpoolId) -> Option<Hot> {
        self.messages.borrow().get(&id).cloned()
    }

    pub(crate) fn remove(&self, id: SpoolId) -> Option<Hot> {
        let mut messages = self.messages.borrow_mut();
        let hot = messages.remove(&id)?;
        self.bytes.set(self.bytes.get() - hot.bytes.len() as u64);
        // After a burst its room is given back: the map would keep it for good.
        if messages.capacity() > 1024 && messages.len() * 8 < messages.capacity() {
            messages.shrink_to_fit();
        }
        Some(hot)
    }
}
