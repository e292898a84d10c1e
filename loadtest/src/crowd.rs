//! A crowd: many sessions that are open at one time, each of which stays until all are to leave.
//!
//! Sessions open a limited number at a time, so that the server's backlog isn't what is measured. What each does while it
//! stands is its [`Conduct`]. A session falls when the server ends it, and then stays away. Those that still stand at the
//! end leave in order.
//!
//! A crowd lives in this process ([`Crowd`]) or is spread over several ([`crate::shares`]); [`watch`] follows either.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use crate::args::{DialArgs, ProcessArgs, RecordArgs};
use crate::client::{Connection, Dial, Trouble};
use crate::drip::Drip;
use crate::limits::{Demand, raise_open_files, raise_open_files_of_crowd};
use crate::process::usage_of;
use crate::progress::Progress;
use crate::run::{dial, stop_on_signals};
use crate::shares::Shares;
use crate::stats::{Recorder, Stats};
use crate::tls::Trust;

/// How often the counts are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// What a session does while it stands.
pub(crate) enum Conduct {
    /// Nothing, behind its EHLO.
    Rest,
    /// A byte now and then.
    Drip(Drip),
}

/// What a command asks of a crowd.
pub(crate) struct Plan<'a> {
    /// What the subcommand is called, for the processes that take a share.
    pub(crate) command: &'static str,
    pub(crate) dial: DialArgs,
    pub(crate) sessions: u32,
    pub(crate) conduct: Conduct,
    /// How long it is to stand once all are open.
    pub(crate) hold: Duration,
    pub(crate) process: &'a ProcessArgs,
    pub(crate) record: &'a RecordArgs,
}

/// How many sessions came how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) opened: u64,
    /// Couldn't be opened.
    pub(crate) failed: u64,
    /// Opened, but ended by the server before they were to leave.
    pub(crate) fallen: u64,
    /// Single bytes sent by all of them together.
    pub(crate) bytes: u64,
}

impl Counts {
    /// Sessions that are there.
    pub(crate) fn standing(&self) -> u64 {
        self.opened.saturating_sub(self.fallen)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.fallen += other.fallen;
        self.bytes += other.bytes;
    }
}

/// What became of a crowd.
pub(crate) struct Watched {
    pub(crate) asked: u64,
    pub(crate) counts: Counts,
    pub(crate) stats: Stats,
    pub(crate) opening: Duration,
    pub(crate) held: Duration,
    /// The server's resident memory before, with all sessions open, and after they were held.
    pub(crate) server_rss: [Option<u64>; 3],
}

impl Watched {
    /// What a session cost the server in resident memory, in bytes.
    pub(crate) fn server_rss_per_session(&self) -> Option<f64> {
        match self.server_rss {
            [Some(before), _, Some(held)] if self.counts.standing() > 0 => {
                Some((held as f64 - before as f64) / self.counts.standing() as f64)
            }
            _ => None,
        }
    }
}

/// Where the sessions are.
enum Host {
    Here(Crowd),
    Spread(Shares),
}

/// Opens a crowd, holds it, has it leave, and tells what became of it.
pub(crate) fn watch(plan: Plan<'_>) -> Result<Watched> {
    let asked = u64::from(plan.sessions);
    let (hold, record) = (plan.hold, plan.record);
    let stop = stop_on_signals()?;
    let rss = || record.server_pid.and_then(usage_of).map(|usage| usage.rss_bytes);
    let before = rss();
    ensure!(before.is_some() || record.server_pid.is_none(), "--server-pid: there is no such process");
    let processes = plan.process.processes.min(plan.sessions);
    raise_open_files_of_crowd(asked, u64::from(processes))?;
    let begin = Instant::now();
    let host = match processes {
        1 => Host::Here(Crowd::start(plan)?),
        _ => Host::Spread(Shares::start(plan.command, processes)?),
    };
    let mut progress = Progress::new(begin, record.quiet);
    let mut wait = |done: &dyn Fn(&Counts) -> bool| {
        loop {
            let counts = host.counts();
            if done(&counts) || stop.load(Ordering::Relaxed) || host.is_finished() {
                return counts;
            }
            let standing = counts.standing();
            progress.show_text(format_args!("{standing} of {asked} sessions stand, {} failed", counts.failed));
            std::thread::sleep(TICK);
        }
    };
    wait(&|counts| counts.opened + counts.failed >= asked);
    let (opening, since) = (begin.elapsed(), Instant::now());
    let open = rss();
    wait(&|_| since.elapsed() >= hold);
    let held = since.elapsed();
    let server_rss = [before, open, rss()];
    progress.end();
    let (counts, stats) = host.leave()?;
    Ok(Watched { asked, counts, stats, opening, held, server_rss })
}

impl Host {
    fn counts(&self) -> Counts {
        match self {
            Self::Here(crowd) => crowd.counts(),
            Self::Spread(shares) => shares.counts(),
        }
    }

    /// Whether no session is left to wait for.
    fn is_finished(&self) -> bool {
        match self {
            Self::Here(crowd) => crowd.is_finished(),
            Self::Spread(shares) => shares.is_finished(),
        }
    }

    fn leave(self) -> Result<(Counts, Stats)> {
        match self {
            Self::Here(crowd) => crowd.leave(),
            Self::Spread(shares) => shares.leave(),
        }
    }
}

/// The sessions of this process.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    recorder: Recorder,
    workers: Vec<JoinHandle<Result<()>>>,
}

/// What all sessions share.
struct Shared {
    dial: Dial,
    conduct: Conduct,
    /// Who may open or close just now.
    gate: Semaphore,
    opened: AtomicU64,
    failed: AtomicU64,
    fallen: AtomicU64,
    bytes: AtomicU64,
    leave: watch::Sender<bool>,
}

impl Crowd {
    /// Starts to open the sessions of a plan, or this process's share of them.
    pub(crate) fn start(plan: Plan<'_>) -> Result<Self> {
        let (index, count) = plan.process.share.map_or((0, 1), |share| (share.index as usize, share.count as usize));
        let sessions = plan.sessions as usize;
        let mine: Vec<usize> = (index..sessions).step_by(count).collect();
        raise_open_files(mine.len() as u64, 1)?;
        let shared = Arc::new(Shared {
            dial: dial(&plan.dial, Demand::at_once(u64::from(plan.sessions)), Trust::of(&plan.dial))?,
            conduct: plan.conduct,
            gate: Semaphore::new((plan.process.at_once as usize).div_ceil(count)),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            fallen: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            leave: watch::Sender::new(false),
        });
        let recorder = Recorder::new();
        let threads = plan.dial.thread_count().min(mine.len());
        let start = |thread: usize| {
            let (shared, recorder) = (Arc::clone(&shared), recorder.clone());
            let mine: Vec<usize> = mine.iter().copied().skip(thread).step_by(threads).collect();
            let work = move || work(&shared, &recorder, &mine);
            Ok(std::thread::Builder::new().name(format!("crowd-{thread}")).spawn(work)?)
        };
        let workers = (0..threads).map(start).collect::<Result<_>>()?;
        Ok(Self { shared, recorder, workers })
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        // In this order, so that none has fallen that wasn't opened.
        let (fallen, failed) = (read(&shared.fallen), read(&shared.failed));
        Counts { opened: read(&shared.opened), failed, fallen, bytes: read(&shared.bytes) }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Ends the sessions that stand. They count as standing in what is returned, as they left of their own will.
    pub(crate) fn leave(mut self) -> Result<(Counts, Stats)> {
        self.shared.leave.send_replace(true);
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        let stats = self.recorder.stats().clone();
        Ok((self.counts(), stats))
    }
}

/// The work of a thread: all sessions with these numbers.
fn work(shared: &Arc<Shared>, recorder: &Recorder, mine: &[usize]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stand = |&index| tokio::spawn(stand(Arc::clone(shared), recorder.clone(), index));
        let tasks: Vec<_> = mine.iter().map(stand).collect();
        for task in tasks {
            task.await.context("a session panicked")?;
        }
        Ok(())
    })
}

/// One session, from its connection to its QUIT or its fall.
async fn stand(shared: Arc<Shared>, recorder: Recorder, index: usize) {
    let mut leave = shared.leave.subscribe();
    let opened = {
        let Ok(_permit) = shared.gate.acquire().await else { return };
        if *leave.borrow() {
            return;
        }
        // Boxed, as its many states aren't to be carried through the whole rest of the session.
        Box::pin(shared.open(&recorder, index)).await
    };
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(trouble) => {
            if let Trouble::Broken(broken) = trouble {
                recorder.stats().broken(broken.kind, &broken.detail);
            }
            shared.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    shared.opened.fetch_add(1, Ordering::Relaxed);
    let stood = tokio::select! {
        biased;
        _ = leave.wait_for(|leave| *leave) => true,
        () = shared.live(&mut connection, &recorder, index) => false,
    };
    if stood {
        let Ok(_permit) = shared.gate.acquire().await else { return };
        Box::pin(shared.end(connection)).await;
    } else {
        shared.fallen.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    async fn open(&self, recorder: &Recorder, index: usize) -> Result<Connection, Trouble> {
        match &self.conduct {
            Conduct::Rest => Connection::open(&self.dial, index, recorder).await,
            Conduct::Drip(drip) => drip.open(&self.dial, index, recorder).await,
        }
    }

    /// Stays until the server ends it, and notes how it did.
    async fn live(&self, connection: &mut Connection, recorder: &Recorder, index: usize) {
        match &self.conduct {
            Conduct::Rest => match connection.rest().await {
                Ok(reply) => connection.note_refusal("nothing", &reply),
                Err(broken) => recorder.stats().broken(broken.kind, &broken.detail),
            },
            Conduct::Drip(drip) => drip.live(connection, recorder, &self.dial, index, &self.bytes).await,
        }
    }

    async fn end(&self, connection: Connection) {
        match &self.conduct {
            Conduct::Rest => connection.quit().await,
            // In the middle of a line there is no way to say QUIT. The server may be gone; nobody is left to tell then.
            Conduct::Drip(_) => drop(connection.hang_up().await),
        }
    }
}

/// The part of a crowd that another process of this tool asked for: reports what it comes to, line by line, until the
/// other closes the standard input of this one, or a signal comes.
pub(crate) fn serve_share(plan: Plan<'_>) -> Result<()> {
    let stop: Arc<AtomicBool> = stop_on_signals()?;
    let crowd = Crowd::start(plan)?;
    crate::shares::serve(crowd, &stop)
}
