//! What the admin socket can have done, and the refusals of those who do it.
//!
//! The daemon implements [`Control`]. Each call runs in a task of its own on the services thread and is carried through
//! also when the client has gone away or waited too long; so a future must not block the thread, and should end by itself
//! within seconds.

use crate::api::{
    BanAdd, BanView, CanaryView, ConfigView, DrainOrder, Draining, Explanation, LimitView, LogLevelsView, MessageView,
    QueueOrder, QueueOrdered, QueuePage, QueueQuery, QueueStatus, QueueVerification, ReloadOrder, Reloaded,
    SessionQuery, Sessions, UpgradeOrder, Upgraded,
};
use ringpost_base::{Network, SpoolId};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A future that an object behind a trait gives out.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who carries out what is asked over the admin socket.
pub trait Control: QueueControl {
    /// The name by which the server greets, by the config in force.
    fn hostname(&self) -> String;

    /// The bans in force.
    fn bans(&self) -> BoxFuture<'_, Result<Vec<BanView>, Refusal>>;

    /// Bans a network; done once it is in force on every shard. The order has passed [`BanAdd::check`].
    fn ban(&self, order: BanAdd) -> BoxFuture<'_, Result<BanChange, Refusal>>;

    /// Lifts a ban; done once it is lifted on every shard, with the ban that was.
    fn unban(&self, network: Network) -> BoxFuture<'_, Result<BanView, Refusal>>;

    /// What was decided in a session, by its id or by the id of one of its messages. The text is one or the other, in
    /// the form in which ids are printed.
    fn explain(&self, id: String) -> BoxFuture<'_, Result<Explanation, Refusal>>;

    /// Reads the config file again; done once it is in force on every shard. A file with faults is refused with all of
    /// them, as [`RefusalStatus::Invalid`], and changes nothing. With a canary it is in force on one core only; done once it
    /// is there. The order has passed [`ReloadOrder::check`].
    fn reload(&self, order: ReloadOrder) -> BoxFuture<'_, Result<Reloaded, Refusal>>;

    /// The canary that runs, or the last one; nothing if there never was one.
    fn canary(&self) -> BoxFuture<'_, Result<Option<CanaryView>, Refusal>>;

    /// Takes back the canary that runs.
    fn stop_canary(&self) -> BoxFuture<'_, Result<CanaryView, Refusal>>;

    /// The sessions that are open, the oldest first. The limit is there, and at most
    /// [`SESSIONS_MAX`](crate::api::SESSIONS_MAX).
    fn sessions(&self, query: SessionQuery) -> BoxFuture<'_, Result<Sessions, Refusal>>;

    /// Every limit.
    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitView>, Refusal>>;

    /// The config in force, without secrets.
    fn config(&self) -> BoxFuture<'_, Result<ConfigView, Refusal>>;

    /// Begins the end: no new connections from now on.
    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Result<Draining, Refusal>>;

    /// Has another process take over; done once it serves. May take minutes. The order has passed
    /// [`UpgradeOrder::check`].
    fn upgrade(&self, order: UpgradeOrder) -> BoxFuture<'_, Result<Upgraded, Refusal>>;

    /// How much is logged.
    fn log_levels(&self) -> BoxFuture<'_, Result<LogLevelsView, Refusal>>;

    /// Changes how much is logged; nothing: as the config says. Answers what is so since. The order has passed
    /// [`LogLevelsView::check`].
    fn set_log_levels(&self, levels: Option<LogLevelsView>) -> BoxFuture<'_, Result<LogLevelsView, Refusal>>;

    /// What a shard's thread spends its time on, sampled for so long: at most [`PROFILE_MAX`]. A second one meanwhile is
    /// refused as [`RefusalStatus::Conflict`].
    fn profile(
        &self,
        shard: u16,
        duration: Duration,
        format: ProfileFormat,
    ) -> BoxFuture<'_, Result<ProfileContent, Refusal>>;
}

/// The longest profile.
pub const PROFILE_MAX: Duration = Duration::from_secs(60);

/// What has become of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanChange {
    /// The ban that was there before; nothing if there was none.
    pub former: Option<BanView>,
    /// The ban that is in force.
    pub ban: BanView,
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProfileFormat {
    /// A flame graph to be opened in a browser.
    #[default]
    Svg,
    /// A line for each stack, with its count: what other tools take.
    Folded,
}

/// A profile, as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileContent {
    /// Its type, as in `Content-Type`.
    pub content_type: &'static str,
    /// It.
    pub text: String,
}

/// Who carries out what concerns the queue.
pub trait QueueControl: Send + Sync {
    /// The queues of all shards, added up: of those that answer within so long, or within what any question has.
    fn queue_status(&self, within: Option<Duration>) -> BoxFuture<'_, Result<QueueStatus, Refusal>>;

    /// Messages that fit. The limit is there, and at most [`PAGE_MAX`](crate::api::PAGE_MAX).
    fn queue_page(&self, query: QueueQuery) -> BoxFuture<'_, Result<QueuePage, Refusal>>;

    /// All about a message, its header section too if `headers` says so.
    fn message(&self, id: SpoolId, headers: bool) -> BoxFuture<'_, Result<MessageView, Refusal>>;

    /// The bytes of a message as they are stored.
    fn message_content(&self, id: SpoolId) -> BoxFuture<'_, Result<MessageContent, Refusal>>;

    /// Does something to messages: to those named, or to a bounded number of those that fit; the answer tells where to go
    /// on. The order has passed [`QueueOrder::check`].
    fn order_queue(&self, order: QueueOrder) -> BoxFuture<'_, Result<QueueOrdered, Refusal>>;

    /// Begins to read all stored messages back, unless that is under way; done once it has begun.
    fn verify_queue(&self) -> BoxFuture<'_, Result<QueueVerification, Refusal>>;

    /// How far that has come.
    fn queue_verification(&self) -> BoxFuture<'_, Result<QueueVerification, Refusal>>;
}

/// Where the bytes of a message are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageContent {
    /// Here.
    Memory(Arc<Vec<u8>>),
    /// In a file that is theirs alone, and goes when the message is settled.
    File(PathBuf),
}

/// Why something was not done, and nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub status: RefusalStatus,
    /// The reason, for people: what is wrong and what to do about it.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalStatus {
    /// There is no such thing: HTTP 404.
    NotFound,
    /// What was asked is wrong in itself, or the config file is: HTTP 400.
    Invalid,
    /// Whoever asks may not: HTTP 403.
    Forbidden,
    /// It contradicts something else that is in force: HTTP 409.
    Conflict,
    /// Not at this moment: HTTP 503.
    Unavailable,
}

impl Refusal {
    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: RefusalStatus::NotFound, message: message.into() }
    }

    /// What was asked is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: RefusalStatus::Invalid, message: message.into() }
    }

    /// Whoever asks may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { status: RefusalStatus::Forbidden, message: message.into() }
    }

    /// It contradicts something that is in force.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { status: RefusalStatus::Conflict, message: message.into() }
    }

    /// Not at this moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: RefusalStatus::Unavailable, message: message.into() }
    }
}
