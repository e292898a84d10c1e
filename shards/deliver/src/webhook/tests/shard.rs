//! A shard with one webhook on it.

use super::server::Server;
use crate::parcel::{Done, Parcel};
use crate::webhook::{Webhook, WebhookDesk, WebhookSetup};
use crossbeam::channel::unbounded;
use ringpost_base::{ShardId, Span, SpoolId, Timestamp};
use ringpost_config::WebhookOptions;
use ringpost_control::Board;
use ringpost_message::{Envelope, Recipient};
use ringpost_metrics::{Block, Counter};
use ringpost_queue::{How, Outcome};
use ringpost_runtime::{Plan, Services, cores, start};
use ringpost_store::{BodyFile, LoadedContent};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// What the target is called, and what we call ourselves.
pub(super) const NAME: &str = "hook";
pub(super) const HOST: &str = "mx.example.org";

/// The message that is delivered where it does not matter which.
pub(super) const MESSAGE: &[u8] = b"Subject: x\r\n\r\nHello.\r\n";

/// Options to reach a server, patient where nothing is to fail.
pub(super) fn options(server: &Server) -> WebhookOptions {
    WebhookOptions { url: format!("http://{}/mail", server.address), timeout: Span::seconds(20), ..Default::default() }
}

/// Runs a body on a shard that has a webhook. Gives what the body does, and the requests counted: accepted, deferred, failed.
pub(super) fn on_shard<T: Send + 'static>(
    options: WebhookOptions,
    body: impl AsyncFnOnce(Rc<Webhook>, Services) -> T + Send + 'static,
) -> (T, [u64; 3]) {
    let services = Services::start().expect("starts");
    let board = Board::new(1);
    let seat = board.seat(ShardId(0)).expect("the first");
    let (ended, _departures) = unbounded();
    let block = Arc::new(Block::new());
    let plan = Plan {
        shard: ShardId(0),
        cpu: cores()[0],
        block: block.clone(),
        seat,
        pulse: ringpost_runtime::Pulse::new(ShardId(0)),
        ended,
    };
    let counted = block.clone();
    let run = async move || {
        let (name, host) = (NAME.into(), HOST.into());
        let (handle, desk) = (services.handle(), WebhookDesk::default());
        let webhook = Webhook::new(WebhookSetup { name, options, host, handle, desk, block }).expect("can be made");
        body(webhook, services).await
    };
    let thread = start(plan, move |_| run()).expect("starts");
    let result = thread.join().expect("nothing panics");
    let rows = [Counter::WebhookRequests, Counter::WebhookDeferred, Counter::WebhookFailed];
    (result, rows.map(|row| counted.counter(row)))
}

/// Delivers parcels one after the other, and says how that came out.
pub(super) fn deliver(options: WebhookOptions, parcels: Vec<Given>) -> Vec<String> {
    let (told, counted) = on_shard(options, async move |webhook, _services| {
        let mut all = Vec::new();
        for given in parcels {
            all.push(told(&webhook.deliver(&given.parcel()).await));
        }
        all
    });
    assert_eq!(counted.iter().sum::<u64>(), told.len() as u64, "each request is counted once: {counted:?}");
    told
}

/// What a parcel is made of, on any thread.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) recipients: Vec<u32>,
    pub(super) content: Content,
    pub(super) number: u32,
    pub(super) require_tls: bool,
}

#[derive(Clone)]
pub(super) enum Content {
    Memory(Vec<u8>),
    File(PathBuf, BodyFile),
}

impl Default for Given {
    fn default() -> Self {
        Self { recipients: vec![0], content: Content::Memory(MESSAGE.to_vec()), number: 1, require_tls: false }
    }
}

impl Given {
    pub(super) fn parcel(&self) -> Parcel {
        let recipient = |number| Recipient::new(format!("r{number}@example.net"));
        let envelope = Envelope {
            id: SpoolId::from_bytes([7; 16]),
            arrived: Timestamp::from_unix_micros(1_700_000_000_250_000),
            session: "S".into(),
            client: "192.0.2.7".into(),
            helo: "client.example".into(),
            from: "sender@example.com".into(),
            recipients: (0..3).map(recipient).collect(),
            utf8: false,
            eight_bit: true,
            binary: false,
            require_tls: self.require_tls,
            ret: None,
            envid: None,
        };
        let content = match &self.content {
            Content::Memory(bytes) => LoadedContent::Memory(Arc::new(bytes.clone())),
            Content::File(path, file) => LoadedContent::File(path.clone(), *file),
        };
        let recipients = self.recipients.clone();
        Parcel {
            id: envelope.id,
            envelope: Rc::new(envelope),
            content,
            recipients,
            number: self.number,
            again: false,
            context: None,
        }
    }
}

/// A delivery in words: an outcome for each recipient, and whether the target failed.
pub(super) fn told(done: &Done) -> String {
    let told = |(number, outcome): &(u32, Outcome)| match outcome {
        Outcome::Delivered(How::Final) => format!("{number} delivered"),
        Outcome::Deferred(reason) => format!("{number} deferred {reason}"),
        Outcome::Failed(reason) => format!("{number} failed {reason}"),
        other => panic!("{other:?}"),
    };
    let mut words = done.outcomes.iter().map(told).collect::<Vec<_>>().join(", ");
    if done.hop_failed {
        words.push_str("; hop failed");
    }
    words
}
