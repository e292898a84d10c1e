//! Handing a message over while its sender waits: the durability class `next-hop`, in which the next hop answers for it.

use crate::leases::Asker;
use crate::parcel::{Done, Parcel};
use crate::runner::{Runner, deliver, ours};
use ringpost_message::Envelope;
use ringpost_metrics::Timing;
use ringpost_queue::{HandedOver, How, Lease, LeaseReport, NotHandedOver, Outcome, Reason};
use ringpost_runtime::local::{Promise, promise};
use ringpost_runtime::{contain, sleep, spawn, tick};
use ringpost_store::LoadedContent;
use ringpost_trace::SpanKind;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How long a session waits before it asks again whether a destination that is busy has room.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The longest wait of sessions for a destination's rate before it is asked again: its rate may have been changed.
const RATE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The sessions that wait for one destination.
#[derive(Default)]
pub(crate) struct Sessions {
    waiting: VecDeque<Promise<Turn>>,
    /// Slots that sessions hold.
    held: u32,
    /// Whether a task asks for them.
    ushered: bool,
}

/// What a session waits for.
enum Turn {
    /// It may send.
    Slot(Slot),
    /// Nobody may, for a while.
    Closed,
}

/// A slot of a destination, for some messages one after the other; given back when this ends, however it ends.
struct Slot {
    runner: Rc<Runner>,
    destination: Rc<str>,
    report: LeaseReport,
    /// Messages that it is still good for.
    left: u32,
    /// A message is on its way. If this ends then, it was given up: the destination took too long.
    begun: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(sessions) = self.runner.sessions.borrow_mut().get_mut(&self.destination) {
            sessions.held -= 1;
        }
        self.report.unused = self.left;
        self.report.hop_failures += u32::from(self.begun);
        self.runner.leases.give(Asker::Sessions, &self.destination, 1, self.report);
    }
}

impl Runner {
    /// Takes a message to its next hops and waits for what they say. Dropped meanwhile, it ends the connection.
    ///
    /// # Errors
    /// Unless every next hop took it for every recipient: which of them have it, and the first reason why another has not.
    pub async fn hand_over(
        self: Rc<Self>,
        envelope: Rc<Envelope>,
        content: LoadedContent,
    ) -> Result<HandedOver, (NotHandedOver, Reason)> {
        let mut outcomes = Vec::with_capacity(envelope.recipients.len());
        for (destination, recipients) in self.by_next_hop(&envelope) {
            let (id, envelope, content) = (envelope.id, envelope.clone(), content.clone());
            let parcel = Parcel { id, envelope, content, recipients, number: 1, again: false, context: None };
            outcomes.extend(self.take_there(destination, parcel).await.outcomes);
        }
        self.count(&outcomes);
        let recipients: Vec<u32> = (0..envelope.recipients.len() as u32).collect();
        let proof = HandedOver::proof(envelope.id, &outcomes, &recipients);
        let delivered = match &proof {
            Ok(_) => delivered_of(&outcomes),
            Err(not) => not.delivered.clone(),
        };
        self.report_handed_over(&envelope, &content, delivered).await;
        proof.map_err(|not| {
            let reason = outcomes.into_iter().find_map(|(_, outcome)| match outcome {
                Outcome::Deferred(reason) | Outcome::Failed(reason) => Some(reason),
                Outcome::Delivered(_) | Outcome::Moved { .. } => None,
            });
            (not, reason.unwrap_or_else(|| ours("a recipient was not served")))
        })
    }

    fn by_next_hop(&self, envelope: &Envelope) -> Vec<(Rc<str>, Vec<u32>)> {
        let mut groups: Vec<(Rc<str>, Vec<u32>)> = Vec::with_capacity(1);
        let directions = self.directions.borrow();
        for (number, recipient) in (0..).zip(&envelope.recipients) {
            let route = directions.routes.route(&recipient.address);
            for destination in route.map_or(&[][..], |route| route.destinations) {
                match groups.iter_mut().find(|(name, _)| *name == destination.name) {
                    Some((_, numbers)) => numbers.push(number),
                    None => groups.push((destination.name.clone(), vec![number])),
                }
            }
        }
        groups
    }

    /// Waits for a slot.
    async fn turn(self: &Rc<Self>, destination: &Rc<str>) -> Option<Turn> {
        let (promise, answer) = promise();
        let ushered = {
            let mut all = self.sessions.borrow_mut();
            let sessions = all.entry(destination.clone()).or_default();
            sessions.waiting.push_back(promise);
            std::mem::replace(&mut sessions.ushered, true)
        };
        if !ushered {
            spawn("ask for slots of sessions", self.clone().usher(destination.clone()));
        }
        answer.wait().await
    }

    /// Asks for slots as long as sessions wait for them.
    async fn usher(self: Rc<Self>, destination: Rc<str>) {
        self.ask_for_turns(&destination).await;
        // The owner may still keep a place in the line for a question that will not come.
        self.leases.give(Asker::Sessions, &destination, 0, LeaseReport::default());
    }

    async fn ask_for_turns(self: &Rc<Self>, destination: &Rc<str>) {
        loop {
            let held = {
                let mut all = self.sessions.borrow_mut();
                let Some(sessions) = all.get_mut(destination) else { return };
                // A slot that is asked for somebody who has gone is one that somebody else does not get.
                sessions.waiting.retain(Promise::is_wanted);
                if sessions.waiting.is_empty() {
                    sessions.ushered = false;
                    return;
                }
                sessions.held
            };
            match self.leases.ask(Asker::Sessions, destination, held).await {
                Lease::Granted { messages } => self.seat(destination, messages),
                // A destination that its owner does not know has come with a config that it is still taking up.
                Lease::Busy | Lease::Unknown => sleep(BUSY_PAUSE).await,
                Lease::Wait { open: true, .. } => self.turn_away(destination),
                Lease::Wait { span, .. } => sleep(span.clamp(BUSY_PAUSE, RATE_PAUSE_MAX)).await,
            }
        }
    }

    /// Takes a slot for sessions.
    fn seat(self: &Rc<Self>, destination: &Rc<str>, messages: u32) {
        if let Some(sessions) = self.sessions.borrow_mut().get_mut(destination) {
            sessions.held += 1;
        }
        let (runner, destination, report) = (self.clone(), destination.clone(), LeaseReport::default());
        self.pass_on(Slot { runner, destination, report, left: messages, begun: false });
    }

    /// Gives a slot to the session that has waited the longest; back, if none does.
    fn pass_on(&self, mut slot: Slot) {
        loop {
            let next = match self.sessions.borrow_mut().get_mut(&slot.destination) {
                Some(sessions) => sessions.waiting.pop_front(),
                None => None,
            };
            let Some(promise) = next else { return };
            match promise.keep(Turn::Slot(slot)) {
                Err(Turn::Slot(back)) => slot = back,
                Ok(()) | Err(Turn::Closed) => return,
            }
        }
    }

    fn turn_away(&self, destination: &Rc<str>) {
        let waiting = match self.sessions.borrow_mut().get_mut(destination) {
            Some(sessions) => std::mem::take(&mut sessions.waiting),
            None => return,
        };
        for promise in waiting {
            let _ = promise.keep(Turn::Closed);
        }
    }

    async fn take_there(self: &Rc<Self>, destination: Rc<str>, mut parcel: Parcel) -> Done {
        let traced = self.trace(parcel.id, &destination, parcel.number);
        parcel.context = self.context(parcel.id, traced.as_ref());
        let done = self.take_in_turn(destination, &parcel).await;
        self.traced(traced, SpanKind::Client, &done);
        done
    }

    async fn take_in_turn(self: &Rc<Self>, destination: Rc<str>, parcel: &Parcel) -> Done {
        let target = self.directions.borrow().targets.find(&destination).cloned();
        let Some(target) = target else {
            return Done::all(&parcel.recipients, &Outcome::Deferred(ours("there is no such target any more")), false);
        };
        let turn = self.turn(&destination).await;
        let Some(Turn::Slot(mut slot)) = turn else {
            let reason = ours("the target is left alone for a while because it failed");
            return Done::all(&parcel.recipients, &Outcome::Deferred(reason), true);
        };
        let since = tick();
        slot.begun = true;
        slot.left = slot.left.saturating_sub(1);
        let done = contain(deliver(&target, parcel, &destination)).await;
        slot.begun = false;
        self.block.observe(Timing::Attempt, tick().since(since));
        let done = match done {
            Ok(Some(done)) => done,
            Ok(None) => return Done::of(Vec::new(), false),
            Err(panic) => {
                self.panicked(parcel.id, &destination, panic);
                return Done::all(&parcel.recipients, &Outcome::Deferred(ours("a fault of this server")), false);
            }
        };
        if done.hop_failed {
            slot.report.hop_failures += 1;
        } else {
            slot.report.delivered += 1;
            if slot.left > 0 {
                self.pass_on(slot);
            }
        }
        done
    }
}

/// How each recipient was delivered, by its number: of one with several targets, to the last of them.
fn delivered_of(outcomes: &[(u32, Outcome)]) -> Vec<(u32, How)> {
    let mut delivered = BTreeMap::new();
    for (number, outcome) in outcomes {
        if let Outcome::Delivered(how) = outcome {
            delivered.insert(*number, *how);
        }
    }
    delivered.into_iter().collect()
}
