//! The queue over the admin socket: how it answers, and what can be done to it.

use super::filter::{QueueFilter, QueueState};
use super::{MessageId, Moment, text};
use ringpost_base::Priority;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ids of an order at most, so that they fit into a request's body.
pub const IDS_MAX: usize = 1_000;

/// `GET /api/v1/queue`: the queues of all shards, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueStatus {
    /// Messages accepted and not settled.
    pub messages: u64,
    /// How many are in each state, by its name.
    pub states: BTreeMap<String, u64>,
    /// How many have each priority, by its name.
    pub priorities: BTreeMap<String, u64>,
    /// Seconds since the oldest was accepted; nothing if there is none.
    pub oldest_seconds: Option<u64>,
    /// The targets that have mail waiting or that are in use, by name.
    pub targets: Vec<TargetStatus>,
    /// Shards that did not answer in time: what they have is not in here.
    pub silent: Vec<u16>,
}

/// A target, as the queue sees it. A message that goes to several counts in each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetStatus {
    /// Its name.
    pub target: String,
    /// Messages whose turn it is.
    pub ready: u64,
    /// Messages that wait for a later attempt.
    pub deferred: u64,
    /// Messages of which an attempt is under way.
    pub active: u64,
    /// Messages that an operator holds.
    #[serde(default)]
    pub held: u64,
    /// Deliveries that the shards may make now, of `concurrency`; nothing for a target of this machine.
    pub in_use: Option<u64>,
    /// Deliveries at a time.
    pub concurrency: Option<u64>,
    /// The circuit breaker: `closed`, `open` or `half-open`.
    pub breaker: Option<String>,
    /// Until when it is left alone.
    pub breaker_until: Option<Moment>,
    /// What went wrong last.
    pub last_error: Option<ReasonView>,
}

/// Why something was not delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonView {
    /// The code of the SMTP reply; nothing if there was none.
    pub code: Option<u16>,
    /// The enhanced status code, such as `4.4.1`.
    pub status: String,
    /// In words; may be of another server's making.
    pub text: String,
    /// The host that said it.
    pub remote: Option<String>,
}

/// The answer to a [`QueueQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueuePage {
    /// The messages, in the order of their ids, which is that of their age.
    pub messages: Vec<MessageRow>,
    /// What `after` has to be for the messages that follow; nothing if there are none.
    pub next: Option<MessageId>,
    /// Whether looking was given up, after a bounded amount of work, before there were as many as asked for.
    pub early: bool,
    /// Messages that were looked at.
    pub scanned: u64,
    /// Shards that did not answer in time: what they have is not in here.
    pub silent: Vec<u16>,
}

/// A message of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageRow {
    /// Its id.
    pub id: MessageId,
    /// The shard that has it.
    pub shard: u16,
    /// Seconds since it was accepted.
    pub age_seconds: u64,
    /// Its bytes.
    pub size: u64,
    /// What it is at, all its targets taken together.
    pub state: QueueState,
    /// Its priority.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub priority: Priority,
    /// The sender; empty for a report, nothing if its envelope can't be read.
    pub from: Option<String>,
    /// The first recipients.
    pub to: Vec<String>,
    /// How many there are.
    pub recipients: u64,
    /// Each target that it is still to go to.
    pub targets: Vec<LegView>,
}

/// A message's way to one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LegView {
    /// The target's name.
    pub target: String,
    /// What it is at there.
    pub state: QueueState,
    /// Attempts so far, since the server was started.
    pub attempts: u64,
    /// Seconds until the next one is due; nothing if none is planned.
    pub next_seconds: Option<u64>,
    /// Recipients still to be served there.
    pub recipients: u64,
    /// Why the last attempt failed.
    pub last: Option<ReasonView>,
}

/// `GET /api/v1/queue/messages/{id}`: all about one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageView {
    /// What a page would say of it.
    #[serde(flatten)]
    pub row: MessageRow,
    /// Its envelope; nothing if it can't be read, which `fault` then explains.
    pub envelope: Option<EnvelopeView>,
    /// What is wrong with the message as it is stored.
    pub fault: Option<String>,
    /// Where its bytes are: `memory` only, `log`, or `file`.
    pub kept: String,
    /// The file with its bytes.
    pub body_file: Option<String>,
    /// Its header section, if it was asked for; what is no UTF-8 in it is replaced.
    pub headers: Option<String>,
}

/// Who a message is from, to whom it goes, and how it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvelopeView {
    /// When MAIL was accepted.
    pub arrived: Option<Moment>,
    /// The session that it came in.
    pub session: String,
    /// The client's address.
    pub client: String,
    /// The name that the client gave.
    pub helo: String,
    /// The sender; empty for a report.
    pub from: String,
    /// All recipients.
    pub recipients: Vec<RecipientView>,
    /// What was said with MAIL: `SMTPUTF8`, `BODY=8BITMIME`, `RET=HDRS`, ...
    pub parameters: Vec<String>,
}

/// A recipient of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecipientView {
    /// Where the message goes.
    pub address: String,
    /// What the sender called the recipient, if that was something else: an ORCPT value.
    pub original: Option<String>,
    /// The mailbox that it is kept in, if that is another address.
    pub mailbox: Option<String>,
    /// When the sender wants a report: NOTIFY values; empty if nothing was said.
    pub notify: Vec<String>,
    /// Where it stands at each target.
    pub targets: Vec<RecipientTarget>,
}

/// Where a recipient stands at a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecipientTarget {
    /// The target's name; nothing: at all there were.
    pub target: Option<String>,
    /// `pending`, `done`, `reporting` (given up, and the sender is being told) or `dead`.
    pub state: String,
    /// Why it was put off or given up.
    pub reason: Option<ReasonView>,
}

/// What can be done to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueVerb {
    /// Tried at once, as if new; a dead letter comes to life again.
    Retry,
    /// Neither tried nor given up until released.
    Hold,
    /// Held no longer.
    Release,
    /// Destroyed: neither delivered nor reported.
    Drop,
}

impl QueueVerb {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Drop => "drop",
        }
    }
}

/// The body of `POST /api/v1/queue/orders`. Either `ids` or `filter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueOrder {
    /// What is to be done.
    pub order: QueueVerb,
    /// To these messages: at most [`IDS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<MessageId>,
    /// To those that fit; an empty filter fits all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<QueueFilter>,
    /// Where to go on: what the answer to the last order said. An order by filter is carried out piece by piece, so that
    /// it doesn't hold up the mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<QueueCursor>,
    /// Only count what it would be done to.
    #[serde(default)]
    pub dry: bool,
}

impl QueueOrder {
    /// Why the order can't be meant, in words; `Ok` if it can.
    ///
    /// # Errors
    /// Neither ids nor a filter or both; too many ids; a place to go on at without a filter.
    pub fn check(&self) -> Result<(), String> {
        match (self.ids.len(), &self.filter) {
            (0, None) => Err("the order names no messages: give ids, or a filter (an empty one fits all)".to_owned()),
            (1.., Some(_)) => Err("the order has both ids and a filter: give one of them".to_owned()),
            (count, _) if count > IDS_MAX => Err(format!("the order has {count} ids: {IDS_MAX} are the most")),
            (1.., None) if self.after.is_some() => Err("an order by ids has nothing to go on at".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Where an order by filter goes on: the last id done of each shard that is not through. Shards not named are.
pub type QueueCursor = BTreeMap<u16, MessageId>;

/// What came of a [`QueueOrder`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueOrdered {
    /// Messages that it was done to, or would be.
    pub changed: u64,
    /// Messages that it made no difference to: those held already, for one.
    pub unchanged: u64,
    /// Ids that no shard knows: settled meanwhile, or not of this server.
    pub unknown: Vec<MessageId>,
    /// Where to go on; nothing: it is done.
    pub next: Option<QueueCursor>,
    /// Shards that did not answer in time. Whether it was done to their messages is not known.
    pub silent: Vec<u16>,
}

/// `POST` and `GET /api/v1/queue/verification`: how far reading back all that is stored has come. The first begins it,
/// unless it is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueVerification {
    /// Whether a shard is still at it.
    pub running: bool,
    /// Messages read back so far.
    pub checked: u64,
    /// Bytes of the log read back so far.
    pub read_bytes: u64,
    /// Bytes of the log to be read back.
    pub bytes: u64,
    /// Those that can't be delivered as they were accepted; at most [`DAMAGED_MAX`] of each shard.
    pub damaged: Vec<DamagedView>,
    /// How many there are beyond that.
    pub damaged_more: u64,
    /// Shards that did not answer in time.
    pub silent: Vec<u16>,
}

/// Damaged messages that a shard names.
pub const DAMAGED_MAX: usize = 10_000;

/// A message whose stored bytes are not what was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DamagedView {
    /// Its id.
    pub id: MessageId,
    /// The shard that has it.
    pub shard: u16,
    /// What is wrong, in words.
    pub fault: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_with_a_misspelt_key_is_not_carried_out_on_everything() {
        for body in [
            r#"{"order":"drop","filter":{"form":"@example.org"}}"#,
            r#"{"order":"drop","filter":{},"form":"@example.org"}"#,
            r#"{"order":"destroy","filter":{}}"#,
            r#"{"order":"drop","ids":["x"]}"#,
        ] {
            assert!(serde_json::from_str::<QueueOrder>(body).is_err(), "{body}");
        }
        let id = "01JD4VXK2Q000000020000000A";
        let many = format!(r#"{{"order":"hold","ids":[{}]}}"#, vec![format!("\"{id}\""); IDS_MAX + 1].join(","));
        for (body, words) in [
            (r#"{"order":"drop"}"#, "names no messages"),
            (&format!(r#"{{"order":"drop","ids":["{id}"],"filter":{{}}}}"#), "both"),
            (&format!(r#"{{"order":"drop","ids":["{id}"],"after":{{}}}}"#), "nothing to go on at"),
            (&many, "1000 are the most"),
        ] {
            let order: QueueOrder = serde_json::from_str(body).expect("an order");
            let error = order.check().expect_err(body);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn orders_text_and_back() {
        let id: MessageId = "01JD4VXK2Q000000020000000A".parse().expect("an id");
        let filter = QueueFilter { target: Some("moon".to_owned()), ..QueueFilter::default() };
        let after = Some(QueueCursor::from([(1, id)]));
        let order = QueueOrder { order: QueueVerb::Hold, ids: Vec::new(), filter: Some(filter), after, dry: true };
        let text = serde_json::to_string(&order).expect("JSON");
        let expected = format!(r#"{{"order":"hold","filter":{{"target":"moon"}},"after":{{"1":"{id}"}},"dry":true}}"#);
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<QueueOrder>(&text).expect("an order"), order);
        assert_eq!(order.check(), Ok(()));
    }
}
