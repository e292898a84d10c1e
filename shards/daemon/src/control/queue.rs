//! What the admin socket asks about the queue: put to all shards at once, and their answers made one.
//!
//! Invariants: a page holds every message that fits up to its end, from whichever shard; a shard that does not answer in
//! time is named in what is told, and never passed over in silence.

use super::Commands;
use crate::orders::Order;
use crate::queue_orders::{
    Content, MessageParts, OrderDone, OrderPart, OwnedTarget, PageWanted, QueueQuestion, ShardPage, ShardQueue,
};
use ringpost_admin::api::{
    MessageView, PAGE_DEFAULT, QueueCursor, QueueOrder, QueueOrdered, QueuePage, QueueQuery, QueueStatus,
    QueueVerification, TargetStatus,
};
use ringpost_admin::control::BoxFuture;
use ringpost_admin::{MessageContent, QueueControl, Refusal};
use ringpost_base::SpoolId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long the shards have for an answer: longer than they take for what is bounded by time, and below what a client of
/// the socket is let wait.
const PATIENCE: Duration = Duration::from_secs(6);

/// Bytes of a header section that are shown.
const HEADERS_BYTES_MAX: u64 = 64 * 1024;

/// The answer of each shard, by its number; nothing from one that did not answer in time.
pub(super) type Answers<T> = Vec<(u16, Option<T>)>;

impl Commands {
    /// Asks those shards that are `wanted`, all at once.
    pub(super) async fn ask_all<T>(
        &self,
        wanted: impl Fn(u16) -> bool,
        question: impl Fn(u16, oneshot::Sender<T>) -> Order,
    ) -> Answers<T> {
        self.ask_all_within(PATIENCE, wanted, question).await
    }

    /// The same in so long.
    pub(super) async fn ask_all_within<T>(
        &self,
        patience: Duration,
        wanted: impl Fn(u16) -> bool,
        question: impl Fn(u16, oneshot::Sender<T>) -> Order,
    ) -> Answers<T> {
        let mut asked = Vec::new();
        for (shard, orders) in (0..).zip(&self.orders).filter(|(shard, _)| wanted(*shard)) {
            let (answer, answered) = oneshot::channel();
            orders.send(question(shard, answer));
            asked.push((shard, answered));
        }
        let deadline = Instant::now() + patience;
        let mut answers = Vec::with_capacity(asked.len());
        for (shard, answered) in asked {
            answers.push((shard, timeout_at(deadline, answered).await.ok().and_then(Result::ok)));
        }
        answers
    }

    async fn ask<T>(
        &self,
        wanted: impl Fn(u16) -> bool,
        question: impl Fn(u16, oneshot::Sender<T>) -> QueueQuestion,
    ) -> Answers<T> {
        self.ask_all(wanted, |shard, answer| Order::Queue(question(shard, answer))).await
    }

    /// Asks for the one thing that one shard has.
    async fn find<T>(
        &self,
        id: SpoolId,
        question: impl Fn(oneshot::Sender<Option<T>>) -> QueueQuestion,
    ) -> Result<(u16, T), Refusal> {
        let mut answers = self.ask(|_| true, |_, answer| question(answer)).await;
        let silent = silent(&answers);
        let found = answers.iter_mut().find_map(|(shard, answer)| Some((*shard, answer.take()??)));
        found.ok_or_else(|| match silent.first() {
            Some(shard) => Refusal::unavailable(format!("shard {shard} did not answer in time; it may have {id}")),
            None => Refusal::not_found(format!(
                "there is no message {id}: it has been delivered or given up, or is not of this server"
            )),
        })
    }
}

fn silent<T>(answers: &Answers<T>) -> Vec<u16> {
    answers.iter().filter(|(_, answer)| answer.is_none()).map(|(shard, _)| *shard).collect()
}

impl QueueControl for Commands {
    fn queue_status(&self, within: Option<Duration>) -> BoxFuture<'_, Result<QueueStatus, Refusal>> {
        Box::pin(async move {
            let question = |_, answer| Order::Queue(QueueQuestion::Status(answer));
            let answers = self.ask_all_within(within.unwrap_or(PATIENCE), |_| true, question).await;
            let silent = silent(&answers);
            Ok(added_up(answers.into_iter().filter_map(|(_, answer)| answer), silent))
        })
    }

    fn queue_page(&self, query: QueueQuery) -> BoxFuture<'_, Result<QueuePage, Refusal>> {
        Box::pin(async move {
            let QueueQuery { filter, limit, after } = query;
            let limit = limit.unwrap_or(PAGE_DEFAULT);
            let wanted = PageWanted { filter, limit, after: after.map(|after| after.0) };
            let answers = self.ask(|_| true, |_, answer| QueueQuestion::Page(wanted.clone(), answer)).await;
            let silent = silent(&answers);
            Ok(merged(answers.into_iter().filter_map(|(_, answer)| answer).collect(), limit, silent))
        })
    }

    fn message(&self, id: SpoolId, headers: bool) -> BoxFuture<'_, Result<MessageView, Refusal>> {
        Box::pin(async move {
            let (_, parts) = self.find(id, |answer| QueueQuestion::Show(id, answer)).await?;
            let MessageParts { mut view, content } = parts;
            if headers {
                match content {
                    Some(content) => match header_section(content).await {
                        Ok(text) => view.headers = Some(text),
                        Err(error) => view.fault = Some(format!("its bytes can't be read: {error}")),
                    },
                    None => view.headers = Some(String::new()),
                }
            }
            Ok(view)
        })
    }

    fn message_content(&self, id: SpoolId) -> BoxFuture<'_, Result<MessageContent, Refusal>> {
        Box::pin(async move {
            let (_, content) = self.find(id, |answer| QueueQuestion::Content(id, answer)).await?;
            content.map(given_out).map_err(Refusal::unavailable)
        })
    }

    fn order_queue(&self, order: QueueOrder) -> BoxFuture<'_, Result<QueueOrdered, Refusal>> {
        Box::pin(async move {
            let QueueOrder { order: verb, ids, filter, after, dry } = order;
            let ids: Vec<SpoolId> = ids.into_iter().map(|id| id.0).collect();
            let wanted = |shard| after.as_ref().is_none_or(|after: &QueueCursor| after.contains_key(&shard));
            let part = |shard| OrderPart {
                verb,
                ids: ids.clone(),
                filter: filter.clone(),
                after: after.as_ref().and_then(|after| after.get(&shard)).map(|id| id.0),
                dry,
            };
            let answers = self.ask(wanted, |shard, answer| QueueQuestion::Order(part(shard), answer)).await;
            Ok(done(answers, &ids))
        })
    }

    fn verify_queue(&self) -> BoxFuture<'_, Result<QueueVerification, Refusal>> {
        self.verification(true)
    }

    fn queue_verification(&self) -> BoxFuture<'_, Result<QueueVerification, Refusal>> {
        self.verification(false)
    }
}

impl Commands {
    fn verification(&self, begin: bool) -> BoxFuture<'_, Result<QueueVerification, Refusal>> {
        Box::pin(async move {
            let question = |_, answer| QueueQuestion::Verify { begin, answer };
            let answers = self.ask(|_| true, question).await;
            let mut whole = QueueVerification { silent: silent(&answers), ..QueueVerification::default() };
            for reached in answers.into_iter().filter_map(|(_, answer)| answer) {
                whole.running |= reached.running;
                whole.checked += reached.checked;
                whole.read_bytes += reached.read_bytes;
                whole.bytes += reached.bytes;
                whole.damaged.extend(reached.damaged);
                whole.damaged_more += reached.damaged_more;
            }
            whole.damaged.sort_by_key(|damaged| damaged.id);
            Ok(whole)
        })
    }
}

/// One status of those of the shards.
fn added_up(shards: impl Iterator<Item = ShardQueue>, silent: Vec<u16>) -> QueueStatus {
    let mut whole = QueueStatus { silent, ..QueueStatus::default() };
    let mut targets: BTreeMap<String, TargetStatus> = BTreeMap::new();
    for shard in shards {
        whole.messages += shard.messages;
        shard.states.into_iter().for_each(|(name, count)| *whole.states.entry(name).or_default() += count);
        shard.priorities.into_iter().for_each(|(name, count)| *whole.priorities.entry(name).or_default() += count);
        whole.oldest_seconds = whole.oldest_seconds.max(shard.oldest_seconds);
        for waiting in shard.targets {
            let target = targets.entry(waiting.target).or_default();
            target.ready += waiting.ready;
            target.deferred += waiting.deferred;
            target.active += waiting.active;
            target.held += waiting.held;
            target.last_error = target.last_error.take().or(waiting.last_error);
        }
        for OwnedTarget { target, in_use, concurrency, breaker, breaker_until } in shard.owned {
            let target = targets.entry(target).or_default();
            (target.in_use, target.concurrency) = (Some(in_use), Some(concurrency));
            (target.breaker, target.breaker_until) = (Some(breaker), breaker_until);
        }
    }
    whole.targets = targets.into_iter().map(|(target, status)| TargetStatus { target, ..status }).collect();
    whole
}

/// One page of those of the shards: as far as all of them have looked.
fn merged(shards: Vec<ShardPage>, limit: usize, silent: Vec<u16>) -> QueuePage {
    let scanned = shards.iter().map(|page| page.scanned).sum();
    let horizon = shards.iter().filter_map(|page| page.next).min();
    let mut messages: Vec<_> = shards.into_iter().flat_map(|page| page.messages).collect();
    messages.sort_by_key(|message| message.id);
    messages.retain(|message| horizon.is_none_or(|horizon| message.id.0 <= horizon));
    let full = messages.len() > limit || (messages.len() == limit && horizon.is_some());
    messages.truncate(limit);
    let next = match messages.last() {
        Some(last) if full => Some(last.id),
        _ => horizon.map(Into::into),
    };
    let early = !full && next.is_some();
    QueuePage { messages, next, early, scanned, silent }
}

/// One outcome of those of the shards.
fn done(answers: Answers<OrderDone>, ids: &[SpoolId]) -> QueueOrdered {
    let silent = silent(&answers);
    let mut whole = QueueOrdered::default();
    let mut next = QueueCursor::new();
    let mut known = BTreeSet::new();
    for (shard, answer) in answers {
        let Some(done) = answer else { continue };
        whole.changed += done.changed;
        whole.unchanged += done.unchanged;
        known.extend(done.known);
        next.extend(done.next.map(|id| (shard, id.into())));
    }
    // What a silent shard has is not known.
    if silent.is_empty() {
        whole.unknown = ids.iter().filter(|id| !known.contains(*id)).map(|id| (*id).into()).collect();
    }
    QueueOrdered { next: (!next.is_empty()).then_some(next), silent, ..whole }
}

fn given_out(content: Content) -> MessageContent {
    match content {
        Content::Memory(bytes) => MessageContent::Memory(bytes),
        Content::File(path) => MessageContent::File(path),
    }
}

/// The header section as text.
async fn header_section(content: Content) -> io::Result<String> {
    match content {
        Content::Memory(bytes) => Ok(headers_of(&bytes[..bytes.len().min(HEADERS_BYTES_MAX as usize)])),
        Content::File(path) => {
            let beginning = tokio::task::spawn_blocking(move || beginning(&path));
            beginning.await.map_err(io::Error::other)?.map(|bytes| headers_of(&bytes))
        }
    }
}

fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(HEADERS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What comes before the first empty line.
fn headers_of(bytes: &[u8]) -> String {
    let mut end = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if matches!(line, b"\r\n" | b"\n") {
            break;
        }
        end += line.len();
    }
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_admin::api::{MessageRow, QueueState};
    use ringpost_base::Priority;

    fn id(number: u8) -> SpoolId {
        SpoolId::from_bytes([number; 16])
    }

    fn row(number: u8, shard: u16) -> MessageRow {
        MessageRow {
            id: id(number).into(),
            shard,
            age_seconds: 0,
            size: 1,
            state: QueueState::Ready,
            priority: Priority::Normal,
            from: None,
            to: Vec::new(),
            recipients: 1,
            targets: Vec::new(),
        }
    }

    fn page(shard: u16, numbers: &[u8], next: Option<u8>) -> ShardPage {
        let messages = numbers.iter().map(|number| row(*number, shard)).collect();
        ShardPage { messages, next: next.map(id), scanned: 10 }
    }

    /// Checks which messages are on the page, where it goes on, and whether it ended early.
    fn check_merged(shards: &[(&[u8], Option<u8>)], limit: usize, expected: (&[u8], Option<u8>, bool)) {
        let pages = (0..).zip(shards).map(|(shard, (numbers, next))| page(shard, numbers, *next)).collect();
        let merged = merged(pages, limit, Vec::new());
        let numbers: Vec<u8> = merged.messages.iter().map(|message| message.id.0.to_bytes()[0]).collect();
        let next = merged.next.map(|next| next.0.to_bytes()[0]);
        assert_eq!((&numbers[..], next, merged.early), expected, "{shards:?}");
    }

    #[test]
    fn a_page_ends_where_the_first_shard_stopped_looking() {
        check_merged(&[(&[1, 4], None), (&[2, 3], None)], 4, (&[1, 2, 3, 4], None, false));
        check_merged(&[(&[1, 4], None), (&[2, 3], None)], 3, (&[1, 2, 3], Some(3), false));
        // Both had as many as they were asked for, and more behind.
        check_merged(&[(&[1, 4], Some(4)), (&[2, 3], Some(3))], 2, (&[1, 2], Some(2), false));
        // One gave up looking at 5: what the other has behind that may not come before what is still to be found.
        check_merged(&[(&[1, 9], None), (&[2], Some(5))], 4, (&[1, 2], Some(5), true));
        check_merged(&[(&[], Some(7)), (&[], Some(5))], 4, (&[], Some(5), true));
        check_merged(&[(&[], None), (&[], None)], 4, (&[], None, false));
        check_merged(&[], 4, (&[], None, false));
    }

    #[test]
    fn what_no_shard_knows_is_told_unless_one_is_silent() {
        let part = |known: &[u8], next: Option<u8>| OrderDone {
            changed: known.len() as u64,
            unchanged: 1,
            known: known.iter().copied().map(id).collect(),
            next: next.map(id),
        };
        let whole = done(vec![(0, Some(part(&[1], None))), (1, Some(part(&[2], Some(7))))], &[id(1), id(2), id(3)]);
        assert_eq!((whole.changed, whole.unchanged, whole.silent.len()), (2, 2, 0));
        assert_eq!((whole.unknown, whole.next), (vec![id(3).into()], Some(QueueCursor::from([(1, id(7).into())]))));
        let half = done(vec![(0, Some(part(&[1], None))), (1, None)], &[id(1), id(2)]);
        assert_eq!((half.changed, half.unknown, half.silent, half.next), (1, Vec::new(), vec![1], None));
    }

    #[test]
    fn counts_of_all_shards_are_added_up() {
        let shard = |messages, oldest_seconds, in_use: Option<u64>| ShardQueue {
            messages,
            states: vec![("ready".to_owned(), messages)],
            priorities: vec![("normal".to_owned(), messages)],
            oldest_seconds,
            targets: vec![TargetStatus { target: "hop".to_owned(), ready: messages, ..TargetStatus::default() }],
            owned: in_use
                .map(|in_use| OwnedTarget {
                    target: "hop".to_owned(),
                    in_use,
                    concurrency: 20,
                    breaker: "closed".to_owned(),
                    breaker_until: None,
                })
                .into_iter()
                .collect(),
        };
        let whole = added_up([shard(2, Some(7), None), shard(3, None, Some(1))].into_iter(), vec![2]);
        assert_eq!((whole.messages, whole.oldest_seconds, whole.silent), (5, Some(7), vec![2]));
        assert_eq!((whole.states["ready"], whole.priorities["normal"]), (5, 5));
        let [hop] = &whole.targets[..] else { panic!("{:?}", whole.targets) };
        assert_eq!((hop.target.as_str(), hop.ready, hop.in_use, hop.concurrency), ("hop", 5, Some(1), Some(20)));
    }

    #[test]
    fn header_sections_end_at_the_first_empty_line() {
        for (bytes, headers) in [
            (&b"A: b\r\n\r\nbody\r\n\r\n"[..], "A: b\r\n"),
            (b"A: b\n\nbody", "A: b\n"),
            (b"A: b\r\n c\r\n", "A: b\r\n c\r\n"),
            (b"\r\nbody", ""),
            (b"", ""),
            (b"A: \xff\r\n\r\n", "A: \u{fffd}\r\n"),
        ] {
            assert_eq!(headers_of(bytes), headers);
        }
    }
}
