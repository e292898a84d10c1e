//! A shard with one hop on it, that is given messages.

use super::server::Server;
use crate::hop::{Hop, HopSetup};
use crate::parcel::{Done, Parcel};
use crossbeam::channel::unbounded;
use ringpost_base::{ShardId, Span, SpoolId, Timestamp};
use ringpost_config::{HopHost, HopOptions, HopPlace, HopTls, TargetKind};
use ringpost_control::Board;
use ringpost_dns::{Dns, Options as DnsOptions};
use ringpost_message::{Envelope, Recipient};
use ringpost_metrics::{Block, Counter};
use ringpost_queue::{How, Outcome, Reason};
use ringpost_runtime::{Plan, Services, after, cores, sleep, start};
use ringpost_store::{BodyFile, LoadedContent};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the next hop is told we are.
pub(super) const HELO: &str = "mx.example.org";

/// Long enough for a task of the shard to do something, also on a busy machine.
pub(super) const A_WHILE: Duration = Duration::from_secs(1);

/// A message to deliver.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) recipients: u32,
    pub(super) content: Content,
    /// What is special about its envelope.
    pub(super) envelope: fn(&mut Envelope),
}

#[derive(Clone)]
pub(super) enum Content {
    Memory(Vec<u8>),
    File(PathBuf, BodyFile),
}

impl Default for Message {
    fn default() -> Self {
        let content = Content::Memory(b"Subject: x\r\n\r\nHello.\r\n".to_vec());
        Self { recipients: 1, content, envelope: |_| {} }
    }
}

/// What happens one after the other.
#[derive(Clone)]
pub(super) enum Act {
    Deliver(Message),
    /// All at the same time.
    DeliverAll(Vec<Message>),
    /// One that is dropped if it is not done by then.
    GiveUp(Message, Duration),
    Wait(Duration),
    Close,
}

/// Deliveries of one message each.
pub(super) fn times(count: usize) -> Vec<Act> {
    vec![Act::Deliver(Message::default()); count]
}

/// Options for the tests: patient where nothing is to fail, so that a busy machine breaks nothing.
pub(super) fn patient() -> HopOptions {
    HopOptions {
        tls: HopTls::Off,
        connect_timeout: Span::seconds(20),
        command_timeout: Span::seconds(20),
        data_timeout: Span::seconds(20),
        ..HopOptions::default()
    }
}

/// Options for servers that keep silent: long enough that the others are never taken for silent.
pub(super) fn hasty() -> HopOptions {
    HopOptions { command_timeout: Span::seconds(1), data_timeout: Span::seconds(1), ..patient() }
}

pub(super) fn place(server: &Server) -> HopPlace {
    HopPlace::Tcp { host: server.address.ip().to_string(), port: server.address.port() }
}

/// A host of the config.
pub(super) fn host(place: HopPlace, weight: u32) -> HopHost {
    HopHost { place, weight }
}

/// What came of it: for each delivery a line, and the connections opened, used again and failed.
pub(super) struct Came {
    pub(super) deliveries: Vec<String>,
    pub(super) connections: [u64; 3],
}

/// Makes the hop on a shard and lets the acts happen.
pub(super) fn play(kind: TargetKind, acts: Vec<Act>) -> Came {
    let services = Services::start().expect("starts");
    let nobody = "127.0.0.1:9".parse().expect("address");
    let options =
        DnsOptions { servers: vec![nobody], timeout: Span::millis(100), attempts: 1, ..DnsOptions::default() };
    let dns = Dns::start(services.handle(), &options).expect("has servers");
    let board = Board::new(1);
    let seat = board.seat(ShardId(0)).expect("the first");
    let (ended, _departures) = unbounded();
    let block = Arc::new(Block::new());
    let counted = block.clone();
    let plan = Plan {
        shard: ShardId(0),
        cpu: cores()[0],
        block: block.clone(),
        seat,
        pulse: ringpost_runtime::Pulse::new(ShardId(0)),
        ended,
    };
    let body = async move || {
        let setup = HopSetup { name: "next".into(), kind, helo: HELO.into(), resolver: dns.resolver(), block };
        let hop = Hop::new(setup).expect("can be made");
        let mut deliveries = Vec::new();
        for act in acts {
            act_out(&hop, act, &mut deliveries).await;
        }
        // The runtime closes sockets when it comes to it, and not any more once the shard has ended.
        drop(hop);
        sleep(Duration::from_millis(10)).await;
        deliveries
    };
    let thread = start(plan, move |_| body()).expect("starts");
    let result = thread.join();
    services.stop();
    let deliveries = result.expect("nothing panics");
    let rows = [Counter::HopConnections, Counter::HopConnectionsReused, Counter::HopConnectionsFailed];
    Came { deliveries, connections: rows.map(|row| counted.counter(row)) }
}

async fn act_out(hop: &Rc<Hop>, act: Act, deliveries: &mut Vec<String>) {
    match act {
        Act::Deliver(message) => deliveries.push(told(&hop.deliver(&parcel(&message)).await)),
        Act::DeliverAll(messages) => {
            let parcels: Vec<Parcel> = messages.iter().map(parcel).collect();
            let mut under_way: Vec<_> = parcels.iter().map(|parcel| Box::pin(hop.deliver(parcel))).collect();
            let mut left: Vec<_> = under_way.iter_mut().map(|delivery| delivery.as_mut()).collect();
            let mut done: Vec<Option<String>> = vec![None; left.len()];
            std::future::poll_fn(|cx| {
                for (delivery, done) in left.iter_mut().zip(&mut done) {
                    if done.is_none()
                        && let std::task::Poll::Ready(came) = delivery.as_mut().poll(cx)
                    {
                        *done = Some(told(&came));
                    }
                }
                if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            deliveries.extend(done.into_iter().flatten());
        }
        Act::GiveUp(message, patience) => {
            let done = after(patience, hop.deliver(&parcel(&message))).await;
            deliveries.push(done.map_or("given up".to_owned(), |done| told(&done)));
        }
        Act::Wait(span) => sleep(span).await,
        Act::Close => {
            hop.close();
            // Farewells are said by tasks of their own.
            sleep(A_WHILE).await;
        }
    }
}

fn parcel(message: &Message) -> Parcel {
    let recipient = |number| Recipient::new(format!("r{number}@example.net"));
    let mut envelope = Envelope {
        id: SpoolId::from_bytes([7; 16]),
        arrived: Timestamp::default(),
        session: "S".into(),
        client: "192.0.2.7".into(),
        helo: "client.example".into(),
        from: "sender@example.com".into(),
        recipients: (0..message.recipients).map(recipient).collect(),
        utf8: false,
        eight_bit: false,
        binary: false,
        require_tls: false,
        ret: None,
        envid: None,
    };
    (message.envelope)(&mut envelope);
    let content = match &message.content {
        Content::Memory(bytes) => LoadedContent::Memory(Arc::new(bytes.clone())),
        Content::File(path, file) => LoadedContent::File(path.clone(), *file),
    };
    let recipients = (0..message.recipients).collect();
    Parcel { id: envelope.id, envelope: Rc::new(envelope), content, recipients, number: 1, again: false, context: None }
}

/// A delivery in words: an outcome for each recipient in order, and whether the hop failed.
fn told(done: &Done) -> String {
    let mut outcomes = done.outcomes.clone();
    outcomes.sort_by_key(|(number, _)| *number);
    let numbers: Vec<u32> = outcomes.iter().map(|(number, _)| *number).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u32), "each recipient once: {numbers:?}");
    let mut words: Vec<String> = outcomes.iter().map(|(_, outcome)| in_words(outcome)).collect();
    // Fifty times the same is said once.
    let count = words.len();
    words.dedup();
    let mut told = if words.len() == 1 && count > 1 { format!("{count}x {}", words[0]) } else { words.join(", ") };
    if done.hop_failed {
        told.push_str("; hop failed");
    }
    told
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered(How::Final) => "final".to_owned(),
        Outcome::Delivered(How::Relayed) => "relayed".to_owned(),
        Outcome::Delivered(How::Passed) => "passed".to_owned(),
        Outcome::Deferred(reason) => format!("deferred {}", reason_in_words(reason)),
        Outcome::Failed(reason) => format!("failed {}", reason_in_words(reason)),
        Outcome::Moved { .. } => "moved".to_owned(),
    }
}

/// What we say ourselves has ports and paths in it: its status is enough then.
fn reason_in_words(reason: &Reason) -> String {
    let ringpost_queue::Status(class, subject, detail) = reason.status;
    let status = format!("{class}.{subject}.{detail}");
    match reason.code {
        0 => {
            assert_eq!(reason.remote, None, "nobody said it: {reason:?}");
            status
        }
        code => format!("{code} {status} {}", reason.text),
    }
}
