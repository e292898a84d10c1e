//! The task on the services thread that takes spans out of the lanes and sends them.

use crate::lane::Lane;
use crate::request::{Answer, Collector};
use crate::telemetry::{Shared, locked};
use hyper::body::Bytes;
use ringpost_runtime::entropy;
use ringpost_trace::Span;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Spans in a request, at most: some 150 KB.
pub(crate) const BATCH_SPANS_MAX: usize = 512;

/// How long a span waits for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How often a batch is sent before it is given up, and the pauses in between: doubling, off by some jitter. What comes
/// meanwhile waits in the lanes, and is dropped once these are full.
const TRIES_MAX: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sends spans until the end; `_ended` goes then.
pub(crate) async fn run(shared: Arc<Shared>, _ended: Sender<()>) {
    let mut exporter = Exporter { shared, first: 0, failing: false };
    while !exporter.is_stopping() {
        exporter.wait().await;
        exporter.send_all().await;
    }
    exporter.send_all().await;
}

/// Spans that wait in all lanes.
pub(crate) fn waiting(shared: &Shared) -> usize {
    locked(&shared.lanes).iter().map(|lane| lane.len()).sum()
}

struct Exporter {
    shared: Arc<Shared>,
    /// The lane whose turn it is, so that none is served before the others for good.
    first: usize,
    /// Whether the last request came to nothing: told once, and not at each batch.
    failing: bool,
}

impl Exporter {
    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    fn collector(&self) -> Option<Arc<Collector>> {
        locked(&self.shared.collector).clone()
    }

    /// Until a batch is full, the time for one has come, or the options change or the end comes; without a collector until there
    /// is one.
    async fn wait(&self) {
        if self.collector().is_none() {
            return self.shared.control.notified().await;
        }
        // Whichever comes first, all that waits is sent.
        let mut full = pin!(timeout(BATCH_DELAY, self.shared.full.notified()));
        let mut control = pin!(self.shared.control.notified());
        poll_fn(|context| {
            let is_over = full.as_mut().poll(context).is_ready() || control.as_mut().poll(context).is_ready();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn send_all(&mut self) {
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                return;
            }
            let count = batch.len() as u64;
            let taken = self.send(batch).await;
            self.shared.exported.fetch_add(taken, Ordering::Relaxed);
            self.shared.lost.fetch_add(count - taken, Ordering::Relaxed);
        }
    }

    /// Takes spans from the lanes in turn.
    fn batch(&mut self) -> Vec<Span> {
        let lanes: Vec<Arc<Lane>> = locked(&self.shared.lanes).clone();
        let mut batch = Vec::with_capacity(BATCH_SPANS_MAX.min(lanes.iter().map(|lane| lane.len()).sum()));
        self.first += 1;
        let mut empty = 0;
        for lane in (0..lanes.len()).cycle().skip(self.first % lanes.len().max(1)) {
            match lanes[lane].take() {
                Some(span) => {
                    batch.push(span);
                    empty = 0;
                }
                None => empty += 1,
            }
            if empty == lanes.len() || batch.len() == BATCH_SPANS_MAX {
                break;
            }
        }
        batch
    }

    /// Sends a batch, if need be more than once; how many of its spans the collector has taken.
    async fn send(&mut self, batch: Vec<Span>) -> u64 {
        let count = batch.len() as u64;
        let Some(mut collector) = self.collector() else { return 0 };
        let mut body: Bytes = collector.encoded(&batch);
        let mut tries = 0;
        loop {
            tries += 1;
            let (why, after) = match collector.post(body.clone()).await {
                Answer::Taken { rejected: 0, .. } => {
                    self.works(&collector);
                    return count;
                }
                Answer::Taken { rejected, why } => {
                    self.fails(&collector, &format!("{rejected} of {count} spans rejected: {why}"));
                    return count - rejected.min(count);
                }
                Answer::Refused(why) => {
                    self.fails(&collector, &why);
                    return 0;
                }
                Answer::Later { why, after } => (why, after),
            };
            self.fails(&collector, &why);
            if tries == TRIES_MAX || self.is_stopping() {
                return 0;
            }
            self.pause(tries, after).await;
            // Perhaps there is another by now, for which the address of this one was the mistake.
            let Some(next) = self.collector() else { return 0 };
            if !Arc::ptr_eq(&next, &collector) {
                body = next.encoded(&batch);
                collector = next;
            }
        }
    }

    /// Rests before the next try; not when the options change or the end has come.
    async fn pause(&self, tries: u32, after: Option<Duration>) {
        let pause = after.unwrap_or_else(|| jittered(PAUSE_FIRST * (1 << (tries - 1)), entropy().long()));
        let until = Instant::now() + pause.min(PAUSE_MAX);
        // It ends early by a notice, which is all there is to know.
        let _ = timeout_at(until, self.shared.control.notified()).await;
    }

    fn works(&mut self, collector: &Collector) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(endpoint = collector.shown(), "spans are taken again");
        }
    }

    fn fails(&mut self, collector: &Collector, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(endpoint = collector.shown(), reason = why, "spans can't be sent");
        } else {
            tracing::debug!(endpoint = collector.shown(), reason = why, "spans can't be sent");
        }
    }
}

/// Between half of a pause and all of it, so that many servers do not come back at one moment.
fn jittered(pause: Duration, random: u64) -> Duration {
    pause / 2 + pause.mul_f64((random >> 11) as f64 / (1_u64 << 54) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use ringpost_runtime::Services;
    use std::task::{Context, Waker};

    /// The stop took up to a second longer once, which is half of the time that it has.
    #[test]
    fn the_stop_is_noticed_while_a_batch_waits_for_more_spans() {
        let services = Services::start().expect("starts");
        let handle = services.handle();
        let _inside = handle.enter();
        let shared = Arc::new(Shared::default());
        let endpoint = Some("http://127.0.0.1:9".to_owned());
        let collector = Collector::new(Options { endpoint, ..Options::off() }).expect("the endpoint is one");
        *locked(&shared.collector) = collector.map(Arc::new);
        for notice in [&shared.control, &shared.full] {
            let exporter = Exporter { shared: shared.clone(), first: 0, failing: false };
            let mut wait = pin!(exporter.wait());
            let mut context = Context::from_waker(Waker::noop());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            notice.notify_one();
            assert!(wait.as_mut().poll(&mut context).is_ready());
        }
        services.stop();
    }
}
