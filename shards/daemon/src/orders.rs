//! What is asked of a shard from outside, and answered between two of its tasks.

use crate::queue_orders::{Desk, QueueQuestion};
use ringpost_base::{SessionId, ShardId, Timestamp};
use ringpost_deliver::Runner;
use ringpost_policy::TrailStep;
use ringpost_runtime::{Inbox, InboxSender};
use ringpost_serve::Mx;
use std::rc::Rc;
use tokio::sync::oneshot;

/// A question to a shard. Where the answer is no longer wanted it goes nowhere.
pub(crate) enum Order {
    /// What is known of a session, by its id or by the id of a message.
    Explain { session: Option<SessionId>, message: String, answer: oneshot::Sender<Option<Explained>> },
    /// Something about the mail that waits.
    Queue(QueueQuestion),
}

/// What a shard knows of a session.
pub(crate) struct Explained {
    pub(crate) session: SessionId,
    pub(crate) steps: Vec<TrailStep>,
    /// How far back the shard's trail reaches.
    pub(crate) since: Option<Timestamp>,
}

/// The main thread's ends, by shard.
pub(crate) type Orders = Vec<InboxSender<Order>>;

/// Answers for as long as the shard lives.
pub(crate) async fn serve(mut inbox: Inbox<Order>, mx: Rc<Mx>, runner: Rc<Runner>, shard: ShardId) {
    let desk = Desk::new(shard, runner);
    loop {
        match inbox.receive().await {
            Order::Explain { session, message, answer } => {
                let found = mx.explain(session, &message);
                let since = mx.explains_since();
                let known = found.map(|(session, steps)| Explained { session, steps, since });
                // Whoever asked may have given up.
                let _ = answer.send(known);
            }
            Order::Queue(question) => desk.take(question),
        }
    }
}
