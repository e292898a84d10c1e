//! What the queue and the spool know, as the admin socket shows it.

use super::{OwnedTarget, ShardQueue};
use ringpost_admin::api::{
    EnvelopeView, LegView, MessageRow, MessageView, QueueFilter, QueueState, ReasonView, RecipientTarget,
    RecipientView, TargetStatus,
};
use ringpost_base::{Priority, Timestamp};
use ringpost_message::{Envelope, Recipient, Ret};
use ringpost_queue::{DestinationTotals, DestinationView, DomainHash, Filter, Reason, State, Totals, View};

/// Recipients that a row of a page names.
const NAMED_MAX: usize = 3;

/// The filter as far as the index can tell: of addresses, their domain.
pub(super) fn index_filter(filter: &QueueFilter) -> Filter {
    Filter {
        states: filter.state.iter().copied().map(to_state).collect(),
        priority: filter.priority,
        destination: filter.target.clone(),
        sender_domain: filter.from.as_ref().map(|from| DomainHash::of(from.domain())),
        recipient_domain: filter.to.as_ref().map(|to| DomainHash::of(to.domain())),
        older_than: filter.older.map(|span| span.0),
        newer_than: filter.newer.map(|span| span.0),
    }
}

fn to_state(state: QueueState) -> State {
    match state {
        QueueState::Ready => State::Ready,
        QueueState::Deferred => State::Deferred,
        QueueState::Active => State::Active,
        QueueState::Held => State::Held,
        QueueState::Dead => State::Dead,
    }
}

fn of_state(state: State) -> QueueState {
    match state {
        State::Ready => QueueState::Ready,
        State::Deferred => QueueState::Deferred,
        State::Active => QueueState::Active,
        State::Held => QueueState::Held,
        State::Dead => QueueState::Dead,
    }
}

fn of_reason(reason: &Reason) -> ReasonView {
    ReasonView {
        code: (reason.code > 0).then_some(reason.code),
        status: reason.status.to_string(),
        text: reason.text.to_string(),
        remote: reason.remote.as_deref().map(str::to_owned),
    }
}

/// A message in a page.
pub(super) fn row(shard: u16, view: &View, envelope: Option<&Envelope>) -> MessageRow {
    let named = envelope.iter().flat_map(|envelope| &envelope.recipients).take(NAMED_MAX);
    MessageRow {
        id: view.id.into(),
        shard,
        age_seconds: view.age.as_secs(),
        size: view.size,
        state: of_state(view.state),
        priority: view.priority,
        from: envelope.map(|envelope| envelope.from.to_string()),
        to: named.map(|recipient| recipient.address.to_string()).collect(),
        recipients: u64::from(view.recipients),
        targets: view.legs.iter().map(leg).collect(),
    }
}

fn leg(leg: &ringpost_queue::LegView) -> LegView {
    LegView {
        target: leg.destination.to_string(),
        state: of_state(leg.state),
        attempts: u64::from(leg.attempts),
        next_seconds: leg.due_in.map(|span| span.as_secs()),
        recipients: leg.recipients as u64,
        last: leg.last.as_ref().map(of_reason),
    }
}

/// A message by itself; where it is kept is still to be filled in.
pub(super) fn message(
    shard: u16,
    view: &View,
    standing: &[ringpost_queue::RecipientView],
    envelope: Option<&Envelope>,
) -> MessageView {
    MessageView {
        row: row(shard, view, envelope),
        envelope: envelope.map(|envelope| of_envelope(envelope, standing)),
        fault: None,
        kept: String::new(),
        body_file: None,
        headers: None,
    }
}

fn of_envelope(envelope: &Envelope, standing: &[ringpost_queue::RecipientView]) -> EnvelopeView {
    let recipients = (0..).zip(&envelope.recipients);
    EnvelopeView {
        arrived: Some(envelope.arrived.into()),
        session: envelope.session.to_string(),
        client: envelope.client.to_string(),
        helo: envelope.helo.to_string(),
        from: envelope.from.to_string(),
        recipients: recipients.map(|(number, recipient)| of_recipient(number, recipient, standing)).collect(),
        parameters: parameters(envelope),
    }
}

/// What was said with MAIL.
fn parameters(envelope: &Envelope) -> Vec<String> {
    let said = [
        (envelope.utf8, "SMTPUTF8"),
        (envelope.eight_bit, "BODY=8BITMIME"),
        (envelope.binary, "BODY=BINARYMIME"),
        (envelope.require_tls, "REQUIRETLS"),
        (envelope.ret == Some(Ret::Full), "RET=FULL"),
        (envelope.ret == Some(Ret::Headers), "RET=HDRS"),
    ];
    let mut said: Vec<String> =
        said.into_iter().filter(|(said, _)| *said).map(|(_, parameter)| parameter.to_owned()).collect();
    said.extend(envelope.envid.as_ref().map(|envid| format!("ENVID={envid}")));
    said
}

fn of_recipient(number: u32, recipient: &Recipient, standing: &[ringpost_queue::RecipientView]) -> RecipientView {
    let notify = recipient.notify;
    let failure = notify.failure() && !notify.is_unsaid();
    let notify =
        [(notify.never(), "NEVER"), (notify.success(), "SUCCESS"), (failure, "FAILURE"), (notify.delay(), "DELAY")];
    let target = |standing: &ringpost_queue::RecipientView| RecipientTarget {
        target: standing.destination.as_deref().map(str::to_owned),
        state: standing.state.name().to_owned(),
        reason: standing.reason.as_ref().map(of_reason),
    };
    // They are in order of the numbers, and there may be tens of thousands.
    let own = &standing[standing.partition_point(|standing| standing.number < number)..];
    let own = &own[..own.partition_point(|standing| standing.number == number)];
    RecipientView {
        address: recipient.address.to_string(),
        original: recipient.original.as_deref().map(str::to_owned),
        mailbox: recipient.mailbox.as_deref().map(str::to_owned),
        notify: notify.into_iter().filter(|(said, _)| *said).map(|(_, value)| value.to_owned()).collect(),
        targets: own.iter().map(target).collect(),
    }
}

/// A shard's queue in numbers, and the targets that it owns.
pub(super) fn status(totals: &Totals, owned: &[DestinationView], now: Timestamp) -> ShardQueue {
    let count = |count: usize| count as u64;
    let states = State::ALL.into_iter().zip(totals.by_state);
    let priorities = Priority::ALL.into_iter().zip(totals.by_priority);
    let waits = |target: &&DestinationTotals| {
        target.ready + target.deferred + target.active + target.held + target.dead_recipients > 0
    };
    ShardQueue {
        messages: count(totals.messages()),
        states: states.map(|(state, messages)| (state.name().to_owned(), count(messages))).collect(),
        priorities: priorities.map(|(priority, messages)| (priority.name().to_owned(), count(messages))).collect(),
        oldest_seconds: totals.oldest.map(|id| now.since(id.made()).as_secs()),
        targets: totals.destinations.iter().filter(waits).map(target).collect(),
        owned: owned.iter().map(|view| of_owned(view, now)).collect(),
    }
}

fn target(totals: &DestinationTotals) -> TargetStatus {
    TargetStatus {
        target: totals.destination.to_string(),
        ready: u64::from(totals.ready),
        deferred: u64::from(totals.deferred),
        active: u64::from(totals.active),
        held: u64::from(totals.held),
        last_error: totals.last.as_ref().map(of_reason),
        ..TargetStatus::default()
    }
}

fn of_owned(view: &DestinationView, now: Timestamp) -> OwnedTarget {
    OwnedTarget {
        target: view.name.to_string(),
        in_use: u64::from(view.in_use),
        concurrency: u64::from(view.concurrency),
        breaker: view.breaker.name().to_owned(),
        breaker_until: view.open_for.map(|span| now.after(span).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::{Span, SpoolId};
    use ringpost_message::Notify;
    use ringpost_queue::{RecipientState, Status};
    use std::time::Duration;

    fn refused() -> Reason {
        Reason { code: 550, status: Status(5, 1, 1), text: "nobody".into(), remote: Some("mx.example.org".into()) }
    }

    fn example() -> (View, Envelope) {
        let leg = ringpost_queue::LegView {
            destination: "hop".into(),
            state: State::Deferred,
            attempts: 2,
            due_in: Some(Duration::from_millis(61_500)),
            recipients: 1,
            last: Some(refused()),
        };
        let id = SpoolId::from_bytes([7; 16]);
        let view = View {
            id,
            made: id.made(),
            age: Duration::from_secs(90),
            size: 1_000,
            state: State::Deferred,
            priority: Priority::High,
            recipients: 4,
            delay_told: false,
            legs: vec![leg],
        };
        let notify = Notify::from_bits(2 | 4).expect("success and failure");
        let second =
            Recipient { notify, original: Some("rfc822;b@example.org".into()), ..Recipient::new("b@example.com") };
        let envelope = Envelope {
            id,
            arrived: Timestamp::from_unix_micros(1_000_000),
            session: "S".into(),
            client: "192.0.2.1".into(),
            helo: "c.example".into(),
            from: "".into(),
            recipients: vec![Recipient::new("a@example.com"), second, Recipient::new("c@x"), Recipient::new("d@x")],
            utf8: true,
            eight_bit: true,
            binary: false,
            require_tls: true,
            ret: Some(Ret::Headers),
            envid: Some("QQ+2B".into()),
        };
        (view, envelope)
    }

    #[test]
    fn a_row_names_the_first_recipients() {
        let (view, envelope) = example();
        let shown = row(3, &view, Some(&envelope));
        assert_eq!((shown.shard, shown.age_seconds, shown.size, shown.recipients), (3, 90, 1_000, 4));
        assert_eq!(
            (shown.from.as_deref(), shown.to),
            (Some(""), ["a@example.com", "b@example.com", "c@x"].map(Into::into).to_vec())
        );
        let [leg] = &shown.targets[..] else { panic!("{:?}", shown.targets) };
        assert_eq!(
            (leg.target.as_str(), leg.state, leg.attempts, leg.next_seconds),
            ("hop", QueueState::Deferred, 2, Some(61))
        );
        let last = leg.last.as_ref().expect("a reason");
        assert_eq!(
            (last.code, last.status.as_str(), last.remote.as_deref()),
            (Some(550), "5.1.1", Some("mx.example.org"))
        );
        let unreadable = row(3, &view, None);
        assert_eq!((unreadable.from, unreadable.to.len(), unreadable.recipients), (None, 0, 4));
    }

    #[test]
    fn a_message_says_where_each_recipient_stands() {
        let (view, envelope) = example();
        let standing = |number, state, reason| ringpost_queue::RecipientView {
            number,
            destination: Some("hop".into()),
            state,
            reason,
        };
        let all = [standing(0, RecipientState::Done, None), standing(1, RecipientState::Dead, Some(refused()))];
        let shown = message(0, &view, &all, Some(&envelope)).envelope.expect("an envelope");
        assert_eq!(shown.parameters, ["SMTPUTF8", "BODY=8BITMIME", "REQUIRETLS", "RET=HDRS", "ENVID=QQ+2B"]);
        let [first, second, third, _] = &shown.recipients[..] else { panic!("{:?}", shown.recipients) };
        assert_eq!((first.targets[0].state.as_str(), &first.notify[..]), ("done", &[][..]));
        assert_eq!(
            (second.targets[0].state.as_str(), &second.notify[..]),
            ("dead", &["SUCCESS".into(), "FAILURE".into()][..])
        );
        assert_eq!(second.targets[0].reason.as_ref().map(|reason| reason.text.as_str()), Some("nobody"));
        assert_eq!((third.targets.len(), second.original.as_deref()), (0, Some("rfc822;b@example.org")));
    }

    #[test]
    fn a_filter_for_the_index_knows_domains() {
        let filter = QueueFilter {
            state: QueueState::ALL.to_vec(),
            from: "<>".parse().ok(),
            to: "a@Example.com".parse().ok(),
            target: Some("hop".to_owned()),
            priority: Some(Priority::Low),
            older: Some(Span::seconds(5)),
            newer: None,
        };
        let index = index_filter(&filter);
        assert_eq!((&index.states[..], index.destination.as_deref()), (&State::ALL[..], Some("hop")));
        assert_eq!(index.sender_domain, Some(DomainHash::of_address("")));
        assert_eq!(index.recipient_domain, Some(DomainHash::of_address("b@example.COM")));
        assert_eq!((index.older_than, index.newer_than), (Some(Duration::from_secs(5)), None));
        assert_eq!(index_filter(&QueueFilter::default()), Filter::default());
    }
}
