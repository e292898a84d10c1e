//! The `idle` command: many sessions that say EHLO and then nothing, to see how many a server holds and at what price.
//!
//! Sessions open a limited number at a time, so that the server's backlog isn't what is measured. While they rest,
//! each costs this process a socket and a few hundred bytes (some ten KiB with TLS). A session falls when the server
//! closes it or says anything unasked; those that still stand at the end are closed with QUIT.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::args::IdleArgs;
use crate::client::{Connection, Dial, Trouble};
use crate::limits::raise_open_files;
use crate::process::usage_of;
use crate::progress::Progress;
use crate::report::{mib, stage_summaries, write_errors, write_stages};
use crate::run::{dial, stop_on_signals};
use crate::stats::{Recorder, Stats};

/// How often the counts are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What all idle sessions share.
struct Crowd {
    dial: Dial,
    /// Who may open or close just now.
    gate: Semaphore,
    opened: AtomicU64,
    failed: AtomicU64,
    fallen: AtomicU64,
    leave: watch::Sender<bool>,
}

/// What became of the sessions.
#[derive(Debug, Serialize)]
pub(crate) struct IdleResult {
    pub(crate) asked: u64,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Opened, but closed by the server before they were to leave.
    pub(crate) fallen: u64,
    /// Still there at the end.
    pub(crate) standing: u64,
    opening_seconds: f64,
    held_seconds: f64,
    server_rss_bytes_before: Option<u64>,
    /// With all sessions open.
    server_rss_bytes_open: Option<u64>,
    /// After they were held.
    server_rss_bytes_held: Option<u64>,
    server_rss_bytes_per_session: Option<f64>,
}

/// Opens, holds and closes; the numbers come with those of the dialogues.
pub(crate) fn idle(args: &IdleArgs) -> Result<(IdleResult, Stats)> {
    let asked = u64::from(args.connections);
    raise_open_files(asked, 1)?;
    let crowd = Arc::new(Crowd {
        dial: dial(&args.dial, asked)?,
        gate: Semaphore::new(args.at_once as usize),
        opened: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        fallen: AtomicU64::new(0),
        leave: watch::Sender::new(false),
    });
    let stop = stop_on_signals()?;
    let rss = || args.record.server_pid.and_then(usage_of).map(|usage| usage.rss_bytes);
    let before = rss();
    anyhow::ensure!(before.is_some() || args.record.server_pid.is_none(), "--server-pid: there is no such process");
    let begin = Instant::now();
    let recorder = Recorder::new();
    let workers = start_workers(&crowd, &recorder, args.dial.thread_count(), args.connections as usize)?;
    let mut progress = Progress::new(begin, args.record.quiet);
    let wait = |progress: &mut Progress, done: &dyn Fn(u64, u64) -> bool| {
        loop {
            let (opened, failed) = (crowd.opened.load(Ordering::Relaxed), crowd.failed.load(Ordering::Relaxed));
            if done(opened, failed) || stop.load(Ordering::Relaxed) || finished(&workers) {
                return (opened, failed);
            }
            let standing = opened - crowd.fallen.load(Ordering::Relaxed);
            progress.show_text(format_args!("{standing} of {asked} sessions stand, {failed} failed"));
            std::thread::sleep(TICK);
        }
    };
    wait(&mut progress, &|opened, failed| opened + failed >= asked);
    let (opening, held) = (begin.elapsed(), Instant::now());
    let open = rss();
    wait(&mut progress, &|_, _| held.elapsed() >= args.hold);
    let held_seconds = held.elapsed().as_secs_f64();
    let at_end = rss();
    let (opened, fallen) = (crowd.opened.load(Ordering::Relaxed), crowd.fallen.load(Ordering::Relaxed));
    let failed = crowd.failed.load(Ordering::Relaxed);
    crowd.leave.send_replace(true);
    progress.end();
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a worker panicked"))??;
    }
    let standing = opened - fallen;
    let per_session = match (before, at_end) {
        (Some(before), Some(at_end)) if standing > 0 => Some((at_end as f64 - before as f64) / standing as f64),
        _ => None,
    };
    let result = IdleResult {
        asked,
        opened,
        failed,
        fallen,
        standing,
        opening_seconds: opening.as_secs_f64(),
        held_seconds,
        server_rss_bytes_before: before,
        server_rss_bytes_open: open,
        server_rss_bytes_held: at_end,
        server_rss_bytes_per_session: per_session,
    };
    let stats = recorder.stats().clone();
    Ok((result, stats))
}

fn finished(workers: &[JoinHandle<Result<()>>]) -> bool {
    workers.iter().all(JoinHandle::is_finished)
}

fn start_workers(
    crowd: &Arc<Crowd>,
    recorder: &Recorder,
    threads: usize,
    connections: usize,
) -> Result<Vec<JoinHandle<Result<()>>>> {
    let threads = threads.min(connections);
    let start = |index: usize| {
        let (crowd, recorder) = (Arc::clone(crowd), recorder.clone());
        let mine = (index..connections).step_by(threads);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let tasks: Vec<_> =
                    mine.map(|index| tokio::spawn(stand(Arc::clone(&crowd), recorder.clone(), index))).collect();
                for task in tasks {
                    task.await.context("a session panicked")?;
                }
                Ok(())
            })
        };
        Ok(std::thread::Builder::new().name(format!("idle-{index}")).spawn(work)?)
    };
    (0..threads).map(start).collect()
}

/// One session, from its connection to its QUIT or its fall.
async fn stand(crowd: Arc<Crowd>, recorder: Recorder, index: usize) {
    let mut leave = crowd.leave.subscribe();
    let opened = {
        let Ok(_permit) = crowd.gate.acquire().await else { return };
        if *leave.borrow() {
            return;
        }
        // Boxed, as its many states aren't to be carried through the whole rest of the session.
        Box::pin(Connection::open(&crowd.dial, index, &recorder)).await
    };
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(trouble) => {
            if let Trouble::Broken(broken) = trouble {
                recorder.stats().broken(broken.kind, &broken.detail);
            }
            crowd.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    crowd.opened.fetch_add(1, Ordering::Relaxed);
    let stood = tokio::select! {
        biased;
        _ = leave.wait_for(|leave| *leave) => true,
        () = connection.rest() => false,
    };
    if stood {
        let Ok(_permit) = crowd.gate.acquire().await else { return };
        Box::pin(connection.quit()).await;
    } else {
        crowd.fallen.fetch_add(1, Ordering::Relaxed);
    }
}

/// The report of the command.
pub(crate) fn report(args: &IdleArgs, result: &IdleResult, stats: &Stats, record: Option<&Path>) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_report(&mut out, args, result, stats, record);
    out
}

fn write_report(
    out: &mut String,
    args: &IdleArgs,
    result: &IdleResult,
    stats: &Stats,
    record: Option<&Path>,
) -> std::fmt::Result {
    writeln!(out, "idle sessions with {}", args.dial.to.join(" "))?;
    writeln!(out, "\n  asked for  {:>10}", result.asked)?;
    writeln!(out, "  opened     {:>10}   in {:.2} s", result.opened, result.opening_seconds)?;
    writeln!(out, "  failed     {:>10}", result.failed)?;
    writeln!(out, "  fallen     {:>10}   closed by the server", result.fallen)?;
    writeln!(out, "  standing   {:>10}   after {:.1} s", result.standing, result.held_seconds)?;
    write_errors(out, stats)?;
    write_stages(out, &stage_summaries(stats))?;
    let rss = [result.server_rss_bytes_before, result.server_rss_bytes_open, result.server_rss_bytes_held];
    if let [Some(before), Some(open), Some(held)] = rss {
        writeln!(
            out,
            "\n  server RSS {:.1} MiB before, {:.1} MiB with all open, {:.1} MiB at the end",
            mib(before),
            mib(open),
            mib(held)
        )?;
    }
    if let Some(each) = result.server_rss_bytes_per_session {
        writeln!(out, "  {:.2} KiB a session", each / 1024.0)?;
    }
    if let Some(path) = record {
        writeln!(out, "\nrecord: {}", path.display())?;
    }
    Ok(())
}
