//! Routing again what waits, after a reload has changed where mail goes.
//!
//! Each attempt looks at the routes by itself. But a message may wait for an attempt as long as its former target is busy,
//! or is left alone because it fails, and that is when operators send mail elsewhere. So what waits is gone through once, in
//! the background.

use crate::runner::Runner;
use ringpost_base::SpoolId;
use ringpost_message::Envelope;
use ringpost_queue::{Filter, NewItem, RecipientState, RecipientView};
use ringpost_runtime::{Pace, now, spawn};
use std::rc::Rc;

/// Messages looked up together.
const PAGE: usize = 256;

impl Runner {
    /// Begins to route again what waits; a former round ends.
    pub(crate) fn route_again(self: &Rc<Self>) {
        let round = self.round.get() + 1;
        self.round.set(round);
        spawn("route again what waits", self.clone().go_through(round));
    }

    async fn go_through(self: Rc<Self>, round: u64) {
        let (mut after, mut moved, mut pace) = (None, 0_u64, Pace::default());
        loop {
            let page = self.queue.borrow().page(&Filter::default(), after, PAGE, PAGE, now());
            for view in page.entries {
                if self.round.get() != round {
                    return;
                }
                moved += u64::from(self.route_one(view.id).await);
                pace.breathe().await;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        if moved > 0 {
            tracing::info!(messages = moved, "messages that wait go elsewhere now");
            self.ring();
        }
    }

    /// Routes one message again, if a recipient that is still to be served goes elsewhere; whether it was.
    async fn route_one(&self, id: SpoolId) -> bool {
        // One that can't be read is dealt with at its attempt.
        let Ok(loaded) = self.store.load(id).await else { return false };
        let Ok(envelope) = Envelope::decode(&loaded.envelope) else { return false };
        let size = match &loaded.content {
            ringpost_store::LoadedContent::Memory(bytes) => bytes.len() as u64,
            ringpost_store::LoadedContent::File(_, file) => file.len,
        };
        let item = self.item(&envelope, size);
        let recipients = self.queue.borrow().recipients(id);
        if recipients.iter().all(|recipient| stays(&item, recipient)) {
            return false;
        }
        self.queue.borrow_mut().reroute(id, item, now())
    }
}

/// Whether a recipient is over, or its route still has the destination that it waits for.
fn stays(item: &NewItem, recipient: &RecipientView) -> bool {
    let goes = |name: &Rc<str>| {
        item.legs.iter().any(|leg| leg.destination == *name && leg.recipients.binary_search(&recipient.number).is_ok())
    };
    recipient.state != RecipientState::Pending || recipient.destination.as_ref().is_some_and(goes)
}
