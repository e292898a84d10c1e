//! The `flood` command: connections one after the other that send no mail, to see what they cost a server and others.
//!
//! Each worker thread has a runtime of its own and its share of the connections at one time; they share only the
//! schedule, which numbers the connections. One that doesn't come to the end that its kind wants is counted as refused,
//! by the server's reply, or as failed, by how it broke. None is tried again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::args::{FloodArgs, FloodKind, TlsMode};
use crate::client::{Connection, Dial, Trouble};
use crate::limits::{Demand, raise_open_files};
use crate::progress::Progress;
use crate::record::{Refusal, StageSummary, Used};
use crate::report::{stage_summaries, write_errors, write_stages, write_used};
use crate::reset::Place;
use crate::run::{Readings, dial, stop_on_signals};
use crate::schedule::{Pacer, Schedule};
use crate::stats::{BreakKind, Incident, Recorder, Stage, Stats};
use crate::tls::Trust;

/// How often the counts are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Ports that may rest in TIME_WAIT from a flood without a count. They rest for a minute, in which many more connections than
/// are open at one time come and go.
const RESTING_MAX: u64 = 1_000_000;

/// What all connections share.
struct Flood {
    dial: Dial,
    kind: FloodKind,
    noops: u32,
    rcpt: String,
    schedule: Schedule,
    started: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    places: [AtomicU64; Place::ALL.len()],
}

/// What a flood came to.
pub(crate) struct Flooded {
    pub(crate) started: u64,
    /// Came to the end that their kind wants.
    pub(crate) done: u64,
    /// The server said no.
    pub(crate) refused: u64,
    /// Broke, or couldn't be made.
    pub(crate) failed: u64,
    /// Resets by where they came.
    places: BTreeMap<&'static str, u64>,
    elapsed: Duration,
    stats: Stats,
    server: Option<Used>,
    generator: Option<Used>,
}

impl Flooded {
    fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    fn server_cpu_us_per_connection(&self) -> Option<f64> {
        Some(self.server?.cpu_ms_per(self.done)? * 1000.0)
    }
}

/// The result for the record.
#[derive(Serialize)]
pub(crate) struct FloodResult<'a> {
    started: u64,
    done: u64,
    refused: u64,
    failed: u64,
    elapsed_seconds: f64,
    connections_per_second: f64,
    reset_places: &'a BTreeMap<&'static str, u64>,
    replies: &'a BTreeMap<u16, u64>,
    refusals: Vec<Refusal<'a>>,
    breaks: &'a BTreeMap<BreakKind, Incident>,
    tls: &'a BTreeMap<String, u64>,
    stages: BTreeMap<&'static str, StageSummary>,
    server: Option<Used>,
    server_cpu_us_per_connection: Option<f64>,
    generator: Option<Used>,
}

impl Flooded {
    /// The result for the record, with these stages.
    pub(crate) fn result<'a>(&'a self, stages: &[(Stage, StageSummary)]) -> FloodResult<'a> {
        FloodResult {
            started: self.started,
            done: self.done,
            refused: self.refused,
            failed: self.failed,
            elapsed_seconds: self.elapsed.as_secs_f64(),
            connections_per_second: self.per_second(),
            reset_places: &self.places,
            replies: &self.stats.replies,
            refusals: Refusal::all(&self.stats),
            breaks: &self.stats.breaks,
            tls: &self.stats.tls,
            stages: stages.iter().map(|(stage, summary)| (stage.name(), summary.clone())).collect(),
            server: self.server,
            server_cpu_us_per_connection: self.server_cpu_us_per_connection(),
            generator: self.generator,
        }
    }

    pub(crate) fn stages(&self) -> Vec<(Stage, StageSummary)> {
        stage_summaries(&self.stats)
    }
}

/// Opens connections until the schedule ends.
pub(crate) fn flood(args: &FloodArgs) -> Result<Flooded> {
    args.check()?;
    let concurrency = u64::from(args.concurrency);
    // A socket each, and with a rate a timer too.
    raise_open_files(concurrency, 1 + u64::from(args.rate.is_some()))?;
    let resting = args.count.unwrap_or(RESTING_MAX).min(RESTING_MAX);
    let demand = Demand { at_once: concurrency, with_resting: concurrency.max(resting) };
    let dial = dial(&args.dial(), demand, Trust::of_flood(&args.dial))?;
    let stop = stop_on_signals()?;
    let before = Readings::take(args.record.server_pid)?;
    let schedule = Schedule::of(args.rate, args.count, args.duration(), Instant::now());
    let flood = Arc::new(Flood {
        dial,
        kind: args.kind,
        noops: args.noops,
        rcpt: args.rcpt.clone(),
        schedule,
        started: AtomicU64::new(0),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        places: Default::default(),
    });
    let workers = start_workers(&flood, args.dial.thread_count(), args.concurrency as usize)?;
    let mut progress = Progress::new(flood.schedule.start(), args.record.quiet);
    while !workers.iter().all(|worker| worker.1.is_finished()) {
        if stop.load(Ordering::Relaxed) {
            flood.schedule.stop();
        }
        flood.show(&mut progress);
        std::thread::sleep(TICK);
    }
    progress.end();
    let elapsed = flood.schedule.start().elapsed();
    let (server, generator) = before.until_now(args.record.server_pid);
    let mut stats = Stats::new();
    for (recorder, thread) in workers {
        thread.join().map_err(|_| anyhow!("a worker panicked"))??;
        stats.merge(&recorder.stats());
    }
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let places = Place::ALL.iter().map(|place| (place.name(), read(&flood.places[*place as usize])));
    Ok(Flooded {
        started: read(&flood.started),
        done: read(&flood.done),
        refused: read(&flood.refused),
        failed: read(&flood.failed),
        places: places.filter(|(_, count)| *count > 0).collect(),
        elapsed,
        stats,
        server,
        generator,
    })
}

type Worker = (Recorder, JoinHandle<Result<()>>);

fn start_workers(flood: &Arc<Flood>, threads: usize, concurrency: usize) -> Result<Vec<Worker>> {
    let threads = threads.min(concurrency);
    let start = |thread: usize| {
        let recorder = Recorder::new();
        let (flood, own) = (Arc::clone(flood), recorder.clone());
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let connect = |_| tokio::spawn(Arc::clone(&flood).connect_in_turn(own.clone()));
                let tasks: Vec<_> = (thread..concurrency).step_by(threads).map(connect).collect();
                for task in tasks {
                    task.await.context("a connection panicked")??;
                }
                Ok(())
            })
        };
        Ok((recorder, std::thread::Builder::new().name(format!("flood-{thread}")).spawn(work)?))
    };
    (0..threads).map(start).collect()
}

impl Flood {
    /// One connection after the other, to the end of the schedule.
    async fn connect_in_turn(self: Arc<Self>, recorder: Recorder) -> Result<()> {
        let mut pacer = None;
        let mut stop = self.schedule.stop_signal();
        while let Some(ticket) = self.schedule.next(Instant::now()) {
            if let Some(due) = ticket.due {
                let pacer = match &pacer {
                    Some(pacer) => pacer,
                    None => pacer.insert(Pacer::new()?),
                };
                tokio::select! {
                    biased;
                    slept = pacer.sleep_until(due) => slept?,
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
            self.started.fetch_add(1, Ordering::Relaxed);
            let count = match self.connect(ticket.sequence, &recorder).await {
                Ok(()) => &self.done,
                Err(Trouble::Refused { .. }) => &self.refused,
                Err(Trouble::Broken(broken)) => {
                    recorder.stats().broken(broken.kind, &broken.detail);
                    &self.failed
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn connect(&self, number: u64, recorder: &Recorder) -> Result<(), Trouble> {
        let turn = number as usize;
        match self.kind {
            FloodKind::Connect => self.to_the_end(turn, recorder).await,
            FloodKind::Handshake => self.shake_hands(turn, recorder).await,
            FloodKind::Pregreet => self.talk_first(turn, recorder).await,
            FloodKind::Reset => {
                let place = Place::of_turn(number);
                place.reset(&self.dial, turn, recorder, &self.rcpt).await?;
                self.places[place as usize].fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn to_the_end(&self, turn: usize, recorder: &Recorder) -> Result<(), Trouble> {
        let mut connection = Connection::open(&self.dial, turn, recorder).await?;
        for _ in 0..self.noops {
            connection.command("NOOP", b"NOOP\r\n", 250).await?;
        }
        connection.farewell().await
    }

    async fn shake_hands(&self, turn: usize, recorder: &Recorder) -> Result<(), Trouble> {
        let connection = if self.dial.tls == TlsMode::Implicit {
            Connection::reach(&self.dial, turn, recorder).await?.encrypt(&self.dial, turn).await?
        } else {
            Connection::greet(&self.dial, turn, recorder).await?.starttls(&self.dial, turn).await?
        };
        Ok(connection.hang_up().await?)
    }

    /// Speaks before the banner; what refuses it is a banner that isn't 220, or any other reply that isn't positive.
    async fn talk_first(&self, turn: usize, recorder: &Recorder) -> Result<(), Trouble> {
        let mut connection = Connection::reach(&self.dial, turn, recorder).await?;
        if self.dial.tls == TlsMode::Implicit {
            connection = connection.encrypt(&self.dial, turn).await?;
        }
        let begin = Instant::now();
        connection.write(format!("EHLO {}\r\nQUIT\r\n", self.dial.ehlo).as_bytes()).await?;
        connection.expect("talking first", 220).await?;
        recorder.stats().time(Stage::Connect, begin.elapsed());
        connection.expect("EHLO before the banner", 250).await?;
        connection.expect("QUIT before the banner", 221).await?;
        Ok(())
    }

    fn show(&self, progress: &mut Progress) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        progress.show_text(format_args!(
            "{:4}s  {} done  {} refused  {} failed",
            self.schedule.start().elapsed().as_secs(),
            read(&self.done),
            read(&self.refused),
            read(&self.failed)
        ));
    }
}

/// The report of the command.
pub(crate) fn report(
    args: &FloodArgs,
    flooded: &Flooded,
    stages: &[(Stage, StageSummary)],
    record: Option<&Path>,
) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_report(&mut out, args, flooded, stages, record);
    out
}

fn write_report(
    out: &mut String,
    args: &FloodArgs,
    flooded: &Flooded,
    stages: &[(Stage, StageSummary)],
    record: Option<&Path>,
) -> std::fmt::Result {
    let kind = match args.kind {
        FloodKind::Connect => "sessions to the end",
        FloodKind::Reset => "resets",
        FloodKind::Handshake => "TLS handshakes",
        FloodKind::Pregreet => "clients that talk first",
    };
    writeln!(out, "{kind}, {} at one time, with {}", args.concurrency, args.dial.to.join(" "))?;
    writeln!(out, "\n  done         {:>12}   in {:.3} s", flooded.done, flooded.elapsed.as_secs_f64())?;
    writeln!(out, "  refused      {:>12}   by the server", flooded.refused)?;
    writeln!(out, "  failed       {:>12}", flooded.failed)?;
    writeln!(out, "  rate         {:>12.1}   a second", flooded.per_second())?;
    for (place, count) in &flooded.places {
        writeln!(out, "  reset        {count:>12}   {place}")?;
    }
    for (label, count) in &flooded.stats.tls {
        writeln!(out, "  handshakes   {count:>12}   {label}")?;
    }
    write_errors(out, &flooded.stats)?;
    write_stages(out, stages)?;
    writeln!(out)?;
    write_used(out, "server", flooded.server, flooded.done, "connection")?;
    write_used(out, "generator", flooded.generator, flooded.done, "connection")?;
    if let Some(path) = record {
        writeln!(out, "\nrecord: {}", path.display())?;
    }
    Ok(())
}
