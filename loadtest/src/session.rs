//! One session of a run: takes tickets, sends their messages, and notes what became of each.
//!
//! A message is tried once. If its connection breaks before the last reply, it counts as failed, and nobody knows
//! whether it will arrive; its id isn't used again. Only what never left (a connection that couldn't be made) is tried
//! again, and only with `--reconnect`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::acked::AckedFile;
use crate::client::{Connection, Dial, Trouble};
use crate::message::{Composer, DateLine};
use crate::schedule::{Pacer, Schedule, Ticket};
use crate::stats::{LATE_START, Recorder, Stage};
use crate::transaction::{Manner, Sender};

/// After a connection that couldn't be made, or was refused in its banner or EHLO, how long a session leaves the server alone.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Without `--reconnect`, how many connections in a row may fail to be made before a session gives up.
const CONNECT_FAILURES_MAX: u32 = 10;

/// An open connection that won't be needed for longer than this is closed rather than held against the server's
/// timeouts.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// What all sessions of a run share, unchanging but for the schedule's counter and the file.
pub(crate) struct Plan {
    pub(crate) dial: Dial,
    pub(crate) composer: Composer,
    pub(crate) manner: Manner,
    pub(crate) schedule: Schedule,
    pub(crate) acked: Option<AckedFile>,
    pub(crate) messages_per_connection: u64,
    pub(crate) reconnect: bool,
    /// Whether to remember which messages were acknowledged.
    pub(crate) remember: bool,
}

/// Runs one session to the end of the run. `index` numbers the sessions of all threads.
pub(crate) async fn run_session(plan: Arc<Plan>, recorder: Recorder, index: usize) -> Result<()> {
    let mut session = Session {
        plan: &plan,
        sender: Sender {
            composer: &plan.composer,
            manner: &plan.manner,
            recorder: recorder.clone(),
            date: DateLine::default(),
            header: Vec::new(),
        },
        recorder,
        connection: None,
        carried: 0,
        connect_failures: 0,
        turned_away: false,
        turn: index,
    };
    let pacer = Pacer::new()?;
    while let Some(ticket) = plan.schedule.next(Instant::now()) {
        if !session.wait(&pacer, ticket).await? {
            break;
        }
        session.deliver(ticket).await;
        if session.connect_failures >= CONNECT_FAILURES_MAX && !plan.reconnect {
            break;
        }
    }
    session.close().await;
    Ok(())
}

struct Session<'a> {
    plan: &'a Plan,
    sender: Sender<'a>,
    recorder: Recorder,
    connection: Option<Connection>,
    /// Messages that the connection has carried.
    carried: u64,
    /// Connections in a row that couldn't be made, refusals by a server that is there left out.
    connect_failures: u32,
    /// Whether the last connection couldn't be made, for whatever reason.
    turned_away: bool,
    /// Numbers the connections, to spread them over targets and sources.
    turn: usize,
}

impl Session<'_> {
    /// Waits until the ticket is due; `false` if the run was stopped meanwhile.
    async fn wait(&mut self, pacer: &Pacer, ticket: Ticket) -> Result<bool> {
        let Some(due) = ticket.due else { return Ok(true) };
        let now = Instant::now();
        if now > due + LATE_START {
            self.recorder.stats().late_starts += 1;
        }
        if due <= now {
            return Ok(true);
        }
        if due - now > IDLE_MAX {
            self.close().await;
        }
        let mut stop = self.plan.schedule.stop_signal();
        tokio::select! {
            biased;
            slept = pacer.sleep_until(due) => slept.map(|()| true).map_err(Into::into),
            _ = stop.wait_for(|stop| *stop) => Ok(false),
        }
    }

    /// Sends one message and counts what became of it.
    async fn deliver(&mut self, ticket: Ticket) {
        let begin = Instant::now();
        {
            let mut stats = self.recorder.stats();
            stats.started += 1;
            if let Some(due) = ticket.due {
                stats.time(Stage::Wait, begin.saturating_duration_since(due));
            }
        }
        let outcome = self.attempt(ticket.sequence).await;
        match outcome {
            Ok(bytes) => self.acknowledge(ticket, begin, bytes),
            Err(Trouble::Refused { code }) => {
                self.recorder.stats().refused += 1;
                self.after_refusal(code).await;
            }
            Err(Trouble::Broken(broken)) => {
                let mut stats = self.recorder.stats();
                stats.failed += 1;
                stats.broken(broken.kind, &broken.detail);
                drop(stats);
                self.connection = None;
            }
        }
        if self.turned_away && !self.plan.schedule.is_over(Instant::now()) {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        if self.carried >= self.plan.messages_per_connection {
            self.close().await;
        }
    }

    async fn attempt(&mut self, sequence: u64) -> Result<u64, Trouble> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
            self.carried = 0;
        }
        let connection = self.connection.as_mut().expect("just made, if there was none");
        self.carried += 1;
        self.sender.send(connection, sequence).await
    }

    /// Opens a connection; with `--reconnect`, until one stands or the run is over.
    async fn connect(&mut self) -> Result<Connection, Trouble> {
        loop {
            let turn = self.turn;
            self.turn = self.turn.wrapping_add(1);
            match Connection::open(&self.plan.dial, turn, &self.recorder).await {
                Ok(connection) => {
                    self.connect_failures = 0;
                    self.turned_away = false;
                    return Ok(connection);
                }
                Err(trouble) => {
                    self.turned_away = true;
                    match &trouble {
                        Trouble::Broken(_) => self.connect_failures += 1,
                        Trouble::Refused { .. } => self.connect_failures = 0,
                    }
                    if !self.plan.reconnect || self.plan.schedule.is_over(Instant::now()) {
                        return Err(trouble);
                    }
                    if let Trouble::Broken(broken) = &trouble {
                        self.recorder.stats().broken(broken.kind, &broken.detail);
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn acknowledge(&self, ticket: Ticket, begin: Instant, bytes: u64) {
        let now = Instant::now();
        if let Some(acked) = &self.plan.acked {
            acked.append(self.plan.composer.id(ticket.sequence));
        }
        let mut stats = self.recorder.stats();
        stats.time(Stage::Message, now.saturating_duration_since(ticket.due.unwrap_or(begin)));
        stats.acknowledge(bytes, now.saturating_duration_since(self.plan.schedule.start()));
        if self.plan.remember {
            stats.acknowledged_list.push(ticket.sequence);
        }
    }

    /// Makes the connection fit for the next message, or gives it up.
    async fn after_refusal(&mut self, code: u16) {
        let Some(mut connection) = self.connection.take() else { return };
        // RFC 5321 section 3.8: after a 421 the server closes.
        if code == 421 {
            return;
        }
        let last = self.carried >= self.plan.messages_per_connection;
        if last || connection.reset().await {
            self.connection = Some(connection);
        }
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.quit().await;
        }
        self.carried = 0;
    }
}
