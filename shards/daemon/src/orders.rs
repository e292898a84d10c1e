//! What is asked of a shard from outside, and answered between two of its tasks.

use crate::control::{SessionsWanted, ShardSessions};
use crate::health::ShardReport;
use crate::in_force::Publisher;
use crate::queue_orders::{Desk, QueueQuestion};
use crate::shard::{Ending, Moving, routes};
use ringpost_base::{SessionId, ShardId, Timestamp};
use ringpost_deliver::Runner;
use ringpost_net::{Connection, Table};
use ringpost_policy::TrailStep;
use ringpost_runtime::{Inbox, InboxSender, now, spawn};
use ringpost_serve::Mx;
use ringpost_store::Orphans;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A question to a shard. Where the answer is no longer wanted it goes nowhere.
pub(crate) enum Order {
    /// What is known of a session, by its id or by the id of a message.
    Explain { session: Option<SessionId>, message: String, answer: oneshot::Sender<Option<Explained>> },
    /// Something about the mail that waits.
    Queue(QueueQuestion),
    /// The sessions that are open.
    Sessions(SessionsWanted, oneshot::Sender<ShardSessions>),
    /// How targets and DNS lists do, as the shard knows it.
    Health(oneshot::Sender<ShardReport>),
    /// A connection that came to a former process, to be served by the listener of this name.
    Stray { listener: String, connection: OwnedFd },
    /// Spools of a former process are to be taken over, one group after the other.
    TakeOver { groups: Vec<Orphans> },
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

/// What a shard answers from.
pub(crate) struct Desks {
    pub(crate) mx: Rc<Mx>,
    pub(crate) runner: Rc<Runner>,
    pub(crate) table: Rc<Table>,
    pub(crate) moving: Moving,
    pub(crate) ending: Arc<Ending>,
    pub(crate) publisher: Arc<Publisher>,
}

/// Answers for as long as the shard lives.
pub(crate) async fn serve(mut inbox: Inbox<Order>, desks: Desks, shard: ShardId) {
    let Desks { mx, runner, table, moving, ending, publisher } = desks;
    let desk = Desk::new(shard, runner.clone());
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
            Order::Sessions(wanted, answer) => {
                // Whoever asked may have given up.
                let _ = answer.send(ShardSessions::of(&mx, shard, wanted, now()));
            }
            Order::Health(answer) => {
                // Whoever asked may have ended.
                let _ = answer.send(ShardReport { targets: runner.target_states(), lists: mx.list_states() });
            }
            Order::Stray { listener, connection } => {
                if let Some(connection) = Connection::from_inherited(connection, &table) {
                    mx.listener(&listener).take(connection);
                }
            }
            Order::TakeOver { groups } => {
                let routes = Rc::new(routes(&publisher.current_for(shard).source.config));
                let (moving, runner, ending) = (moving.clone(), runner.clone(), ending.clone());
                let work = async move { moving.take_over(runner, routes, groups, ending).await };
                spawn("take a spool over", work);
            }
        }
    }
}
