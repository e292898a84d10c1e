//! Slow clients: a byte now and then, so that a session is neither idle nor ever done.
//!
//! The bytes are good SMTP, or the start of a good TLS handshake, as far as they come; only their pace is that of an
//! attack. Replies are taken as they come, so that the server is never kept from writing.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::args::{SlowStyle, TlsMode};
use crate::client::{Connection, Dial, Trouble};
use crate::reply::Reply;
use crate::stats::Recorder;
use crate::stream::Break;

/// The share of the interval by which each session is behind the one before: the golden section spreads any number of
/// them evenly.
const STAGGER: f64 = 0.618_033_988_749_894_9;

/// What is sent over and over.
const COMMAND: &[u8] = b"NOOP\r\n";
const DATA: &[u8] = b"A slow client sends its message a byte at a time, and never comes to its end.\r\n";

/// How a slow client behaves.
pub(crate) struct Drip {
    pub(crate) style: SlowStyle,
    /// Between two bytes.
    pub(crate) interval: Duration,
    pub(crate) rcpt: String,
}

impl Drip {
    /// Opens a session up to where it becomes slow.
    pub(crate) async fn open(&self, dial: &Dial, index: usize, recorder: &Recorder) -> Result<Connection, Trouble> {
        match self.style {
            SlowStyle::Command => Connection::open(dial, index, recorder).await,
            SlowStyle::Data => {
                let mut connection = Connection::open(dial, index, recorder).await?;
                connection.command("MAIL", b"MAIL FROM:<load@example.org>\r\n", 250).await?;
                let rcpt = format!("RCPT TO:<{}>\r\n", self.rcpt);
                connection.command("RCPT", rcpt.as_bytes(), 250).await?;
                connection.command("DATA", b"DATA\r\n", 354).await?;
                Ok(connection)
            }
            SlowStyle::Tls => {
                let mut connection = Connection::reach(dial, index, recorder).await?;
                if dial.tls == TlsMode::Starttls {
                    connection.expect("banner", 220).await?;
                    connection.ehlo(dial).await?;
                    connection.ask_for_tls().await?;
                }
                recorder.stats().connections += 1;
                Ok(connection)
            }
        }
    }

    /// Sends and listens until the server ends the session; then notes how it did.
    pub(crate) async fn live(
        &self,
        connection: &mut Connection,
        recorder: &Recorder,
        dial: &Dial,
        index: usize,
        sent: &AtomicU64,
    ) {
        let script = match self.script(dial, index) {
            Ok(script) => script,
            Err(broken) => return recorder.stats().broken(broken.kind, &broken.detail),
        };
        let first = Instant::now() + self.interval.mul_f64((index as f64 * STAGGER).fract());
        let mut pace = interval_at(first, self.interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = 0;
        let mut refusal = None;
        let broken = loop {
            tokio::select! {
                biased;
                heard = self.hear(connection) => match heard {
                    Ok(reply) if reply.code >= 400 => {
                        refusal = Some((reply.code, connection.text(&reply).to_vec()));
                    }
                    Ok(_) => {}
                    Err(broken) => break broken,
                },
                _ = pace.tick(), if self.has_more(&script, next) => {
                    if let Err(broken) = connection.write(&[script[next % script.len()]]).await {
                        break broken;
                    }
                    next += 1;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        match refusal {
            Some((code, text)) => recorder.stats().refusal(code, self.what(), &text),
            None => recorder.stats().broken(broken.kind, &broken.detail),
        }
    }

    fn script(&self, dial: &Dial, index: usize) -> Result<Cow<'static, [u8]>, Break> {
        Ok(match self.style {
            SlowStyle::Command => COMMAND.into(),
            SlowStyle::Data => DATA.into(),
            SlowStyle::Tls => Connection::client_hello(dial, index)?.into(),
        })
    }

    /// Commands and data go round; a second ClientHello would be no slowness but a fault.
    fn has_more(&self, script: &[u8], next: usize) -> bool {
        self.style != SlowStyle::Tls || next < script.len()
    }

    async fn hear(&self, connection: &mut Connection) -> Result<Reply, Break> {
        match self.style {
            SlowStyle::Command | SlowStyle::Data => connection.hear().await,
            SlowStyle::Tls => Err(connection.hear_the_end().await),
        }
    }

    /// What the server answers when it ends such a session.
    fn what(&self) -> &'static str {
        match self.style {
            SlowStyle::Command => "slow commands",
            SlowStyle::Data => "a slow message",
            SlowStyle::Tls => "a slow handshake",
        }
    }
}
