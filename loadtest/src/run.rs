//! The `run` command: builds the plan, starts the workers, watches them, and gathers what they found.
//!
//! Each worker thread has a runtime of its own and its share of the sessions; they share only the plan. The calling
//! thread flushes the file of acknowledged messages, shows progress, and ends the run on SIGINT or SIGTERM: what is
//! under way is finished and reported (a second signal ends the process at once).

use std::hash::{BuildHasher, RandomState};
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::acked::AckedFile;
use crate::args::{DialArgs, LoadArgs, RunArgs, TlsMode, ensure_plain};
use crate::client::{Dial, Target};
use crate::limits::{Demand, raise_open_files, sources_for};
use crate::message::{Composer, Framing};
use crate::process::{Usage, usage_of, usage_of_self};
use crate::progress::Progress;
use crate::record::{Outcome, Used};
use crate::schedule::Schedule;
use crate::session::{Plan, run_session};
use crate::stats::{Recorder, Stats};
use crate::tls::{self, Trust};
use crate::transaction::Manner;
use crate::verify::verify;

/// How often acknowledged ids are handed to the system, and a signal to stop is looked for.
const TICK: Duration = Duration::from_millis(100);

/// How long after it is planned an open loop starts.
const START_AHEAD: Duration = Duration::from_millis(20);

/// Runs the load and the verification.
pub(crate) fn run(args: &RunArgs) -> Result<Outcome> {
    args.check()?;
    let sessions = u64::from(args.load.sessions);
    // A socket and a timer for each session.
    raise_open_files(sessions, 2)?;
    // 53 bits, so that the record's readers in any language get it back unrounded.
    let seed = args.mail.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 11);
    let framing = if args.mail.bdat { Framing::Bdat } else { Framing::Data };
    let dial = dial(&args.dial, Demand::at_once(sessions), Trust::of(&args.dial))?;
    let composer = Composer::new(seed, &args.mail, framing)?;
    let acked = args.proof.acked.as_deref().map(AckedFile::open).transpose()?;
    let stop = stop_on_signals()?;
    let before = Readings::take(args.record.server_pid)?;
    let plan = Arc::new(Plan {
        dial,
        composer,
        manner: Manner {
            framing,
            pipelining: !args.mail.no_pipelining,
            chunk: args.mail.chunk_size.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        },
        schedule: Schedule::new(&args.load, start(&args.load)),
        acked,
        messages_per_connection: args.load.messages_per_connection,
        reconnect: args.load.reconnect,
        remember: !args.proof.verify_maildir.is_empty(),
    });
    let workers = start_workers(&plan, args.dial.thread_count(), args.load.sessions as usize)?;
    let noted = watch(&plan, &workers, &stop, args.record.quiet);
    let mut stats = Stats::new();
    for worker in workers {
        worker.thread.join().map_err(|_| anyhow!("a worker panicked"))??;
        stats.merge(&worker.recorder.stats());
    }
    let elapsed = plan.schedule.start().elapsed();
    let noted = noted.and(plan.acked.as_ref().map_or(Ok(()), AckedFile::flush));
    let (server, generator) = before.until_now(args.record.server_pid);
    let verification = if args.proof.verify_maildir.is_empty() {
        None
    } else {
        let ids = stats.acknowledged_list.iter().map(|&sequence| plan.composer.id(sequence)).collect();
        Some(verify(ids, &[plan.composer.run()], &args.proof.verify_maildir, args.proof.verify_timeout)?)
    };
    Ok(Outcome {
        run: plan.composer.run(),
        seed,
        elapsed,
        not_started: plan.schedule.not_started(elapsed, stats.started),
        stats,
        server,
        generator,
        verification,
        acked_error: noted.err().map(|error| format!("{error:#}")),
    })
}

/// When the run starts. The first messages of an open loop aren't to be late because threads are still starting.
fn start(load: &LoadArgs) -> Instant {
    let ahead = if load.rate.is_some() { START_AHEAD } else { Duration::ZERO };
    Instant::now() + ahead
}

/// Readings of the server's process and of this one.
pub(crate) struct Readings {
    server: Option<Usage>,
    generator: Option<Usage>,
}

impl Readings {
    pub(crate) fn take(server: Option<u32>) -> Result<Self> {
        let read = |pid| usage_of(pid).with_context(|| format!("--server-pid {pid}: there is no such process"));
        Ok(Self { server: server.map(read).transpose()?, generator: usage_of_self() })
    }

    /// What the server and this process used since. The server may have died meanwhile, or be another by now.
    pub(crate) fn until_now(&self, server: Option<u32>) -> (Option<Used>, Option<Used>) {
        let used = |before: Option<Usage>, after: Option<Usage>| Some(Used::between(before?, after?));
        (used(self.server, server.and_then(usage_of)), used(self.generator, usage_of_self()))
    }
}

struct Worker {
    recorder: Recorder,
    thread: JoinHandle<Result<()>>,
}

fn start_workers(plan: &Arc<Plan>, threads: usize, sessions: usize) -> Result<Vec<Worker>> {
    let threads = threads.min(sessions);
    let start = |index: usize| {
        let recorder = Recorder::new();
        let (plan, own) = (Arc::clone(plan), recorder.clone());
        let mine = (index..sessions).step_by(threads);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let tasks: Vec<_> =
                    mine.map(|index| tokio::spawn(run_session(Arc::clone(&plan), own.clone(), index))).collect();
                for task in tasks {
                    task.await.context("a session panicked")??;
                }
                Ok(())
            })
        };
        let thread = std::thread::Builder::new().name(format!("load-{index}")).spawn(work)?;
        Ok(Worker { recorder, thread })
    };
    (0..threads).map(start).collect()
}

/// Stays until all workers are done. A file of acknowledged messages that can't be written ends the run.
fn watch(plan: &Plan, workers: &[Worker], stop: &AtomicBool, quiet: bool) -> Result<()> {
    let mut progress = Progress::new(plan.schedule.start(), quiet);
    let mut result = Ok(());
    loop {
        if let Some(acked) = &plan.acked {
            let flushed = acked.flush();
            if flushed.is_err() {
                plan.schedule.stop();
            }
            result = result.and(flushed);
        }
        if stop.load(Ordering::Relaxed) {
            plan.schedule.stop();
        }
        if workers.iter().all(|worker| worker.thread.is_finished()) {
            progress.end();
            return result;
        }
        progress.show(workers.iter().map(|worker| &worker.recorder));
        std::thread::sleep(TICK);
    }
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process.
pub(crate) fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Looks up targets and sources, and prepares TLS with this trust.
pub(crate) fn dial(args: &DialArgs, demand: Demand, trust: Trust<'_>) -> Result<Dial> {
    ensure_plain("--ehlo", &args.ehlo)?;
    let mut targets = Vec::with_capacity(args.to.len());
    for target in &args.to {
        let mut addresses = target.to_socket_addrs().with_context(|| format!("--to {target} can't be looked up"))?;
        let address = addresses.next().with_context(|| format!("--to {target} has no address"))?;
        targets.push(Target { address, name: tls::server_name(args, target)? });
    }
    let given: Vec<_> = args.source.iter().flat_map(|range| range.addresses()).collect();
    let v4 = targets[0].address.is_ipv4();
    let alike = targets.iter().all(|target| target.address.is_ipv4() == v4) && given.iter().all(|a| a.is_ipv4() == v4);
    ensure!(given.is_empty() || alike, "--source and --to must be all IPv4, or all IPv6");
    let connector = if args.tls == TlsMode::Off { None } else { Some(tls::connector(args, trust)?) };
    Ok(Dial {
        sources: sources_for(given, &targets, demand)?,
        targets,
        tls: args.tls,
        connector,
        ehlo: args.ehlo.clone(),
        timeout: args.timeout,
    })
}
