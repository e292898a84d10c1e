//! The former process: starts the new one, hands everything over, and goes on if that fails.

use super::VARIABLE;
use super::newborn::Newborn;
use super::wire::{DESCRIPTORS_MAX, Line, PROTOCOL, Word};
use crate::keeper::Request;
use crate::main_requests::Answer;
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::Sender;
use ringpost_admin::{Refusal, api};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, pidfd_send_signal};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the new process may take until it has read and checked everything.
const PREPARE: Duration = Duration::from_secs(60);

/// How long it may take from its turn until it serves.
const BEGIN: Duration = Duration::from_secs(60);

/// How long the keeper may take to write bans and greylist down.
const PAUSE: Duration = Duration::from_secs(10);

/// How the reason of a process begins that gives up by itself.
const GIVES_UP: &str = "it gives up: ";

/// What is handed over: duplicates, so that whatever becomes of the attempt the server still has its own.
pub(crate) struct Parts {
    pub(crate) listening: Vec<(SocketAddr, Vec<OwnedFd>)>,
    pub(crate) admin_tcp: Option<OwnedFd>,
    pub(crate) admin_unix: Option<(PathBuf, OwnedFd)>,
    pub(crate) lock: OwnedFd,
    pub(crate) state_dir: PathBuf,
    /// The addresses of listeners whose sockets somebody keeps open when all processes end.
    pub(crate) kept_open: Vec<SocketAddr>,
    pub(crate) keeper: Sender<Request>,
}

/// The new process would serve. If this is dropped before it was let, it is ended.
pub(crate) struct Served {
    line: Line,
    newborn: Newborn,
    committed: bool,
    keeper: Sender<Request>,
    answer: Option<(Answer<api::Upgraded>, api::Upgraded)>,
}

/// An attempt under way.
pub(crate) struct Attempt(Arc<Mutex<Watched>>);

/// What may have to be ended.
#[derive(Default)]
struct Watched {
    newborn: Option<OwnedFd>,
    called_off: bool,
}

impl Attempt {
    /// Ends the new process, as this one ends by itself and not because of it.
    pub(crate) fn call_off(&self) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.called_off = true;
        if let Some(newborn) = watched.newborn.take() {
            // It may have ended in this moment.
            let _ = pidfd_send_signal(newborn, Signal::KILL);
        }
    }
}

/// Begins on a thread of its own. `served` hears if it comes to that; if not, whoever asked is told why, and everything is as
/// before.
pub(crate) fn begin(
    parts: Parts,
    binary: PathBuf,
    answer: Answer<api::Upgraded>,
    served: Sender<Option<Served>>,
) -> Result<Attempt, (Answer<api::Upgraded>, anyhow::Error)> {
    let watched: Arc<Mutex<Watched>> = Arc::default();
    let (attempt, keeper) = (Attempt(watched.clone()), parts.keeper.clone());
    let answer = Arc::new(Mutex::new(Some(answer)));
    let asked = answer.clone();
    let work = move || {
        let since = Instant::now();
        let answer = asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = hand_over(&parts, &binary, &watched);
        // What the new process has is held by nobody else here, so that what is closed is closed.
        drop(parts);
        match outcome {
            Ok((line, newborn, version)) => {
                let took_ms = since.elapsed().as_millis() as u64;
                let upgraded = api::Upgraded { process: newborn.process(), version, took_ms };
                let answer = answer.map(|answer| (answer, upgraded));
                // It fails only when the main thread is gone; then the new process ends with what comes back.
                let _ = served.send(Some(Served { line, newborn, committed: false, keeper, answer }));
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(binary = %binary.display(), error = reason, "upgrade failed; this process serves on");
                // Whoever asked may have given up.
                answer.map(|answer| answer.send(Err(refusal(&reason))));
                let _ = served.send(None);
            }
        }
    };
    match std::thread::Builder::new().name("upgrade".into()).spawn(work) {
        Ok(_) => Ok(attempt),
        Err(error) => match answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(answer) => Err((answer, anyhow!(error).context("no thread for the upgrade"))),
            // Taken only by the thread.
            None => Ok(attempt),
        },
    }
}

fn refusal(reason: &str) -> Refusal {
    Refusal::conflict(format!("the new process does not serve: {reason}"))
}

fn hand_over(parts: &Parts, binary: &PathBuf, watched: &Mutex<Watched>) -> Result<(Line, Newborn, String)> {
    let (line, other) = Line::pair()?;
    let newborn = start(binary, &other)?;
    drop(other);
    {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.newborn = newborn.handle();
        if watched.called_off {
            newborn.kill();
            bail!("this process ends");
        }
    }
    let process = newborn.process();
    tracing::info!(binary = %binary.display(), process, "a new process is started to take over");
    match converse(parts, &line, process) {
        Ok(version) => Ok((line, newborn, version)),
        Err(error) => {
            // One that gives up by itself ends; another one may hang, and must not find out that it is alone.
            if format!("{error:#}").starts_with(GIVES_UP) {
                newborn.end()
            } else {
                newborn.kill()
            }
            drop(line);
            Err(error)
        }
    }
}

/// Starts the program with the other end of the line as the only descriptor that it inherits besides the standard ones.
fn start(binary: &PathBuf, other: &Line) -> Result<Newborn> {
    let number = other.descriptor().as_raw_fd();
    let mut command = Command::new(binary);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, number.to_string());
    // What a service manager meant for this process by its id.
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"].iter().for_each(|name| {
        command.env_remove(name);
    });
    // SAFETY: between fork and exec only one system call is made, on a descriptor that is open; it allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(BorrowedFd::borrow_raw(number), FdFlags::empty())?));
    }
    Newborn::start(&mut command).with_context(|| format!("{} can't be started", binary.display()))
}

fn converse(parts: &Parts, line: &Line, process: u32) -> Result<String> {
    // One that is gone before it has heard the offer may have said why.
    offer(parts, line).or_else(|_| Err(unexpected(hear(line, PREPARE)?)))?;
    match hear(line, PREPARE)? {
        Word::Prepared => {}
        other => return Err(unexpected(other)),
    }
    let served = pause(parts, true).and_then(|()| {
        line.say(&Word::YourTurn, &[])?;
        match hear(line, BEGIN)? {
            Word::Serving { version } => Ok(version),
            other => Err(unexpected(other)),
        }
    });
    if served.is_err() {
        tracing::info!(process, "the turn is taken back");
        // Also where the keeper was only slow: it hears one after the other.
        pause(parts, false)?;
    }
    served
}

/// Has the keeper leave its files alone, or take them up again.
fn pause(parts: &Parts, pause: bool) -> Result<()> {
    let (answer, mut answered) = tokio::sync::oneshot::channel();
    parts.keeper.send(Request::Pause(pause, answer)).map_err(|_| anyhow!("the keeper has ended"))?;
    let since = Instant::now();
    while since.elapsed() < PAUSE {
        if answered.try_recv().is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("the keeper does not answer")
}

fn offer(parts: &Parts, line: &Line) -> Result<()> {
    let Parts { listening, admin_tcp, admin_unix, lock, state_dir, kept_open, .. } = parts;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (process, state_dir, kept_open) = (std::process::id(), state_dir.clone(), kept_open.clone());
    line.say(&Word::Offer { protocol: PROTOCOL, version, process, state_dir, kept_open }, &[])?;
    for (address, sockets) in listening {
        for some in sockets.chunks(DESCRIPTORS_MAX) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            line.say(&Word::Listening { address: *address }, &some)?;
        }
    }
    if let Some(socket) = admin_tcp {
        line.say(&Word::AdminTcp, &[socket.as_fd()])?;
    }
    if let Some((path, socket)) = admin_unix {
        line.say(&Word::AdminSocket { path: path.clone() }, &[socket.as_fd()])?;
    }
    line.say(&Word::Lock, &[lock.as_fd()])?;
    line.say(&Word::OfferEnds, &[])
}

fn hear(line: &Line, patience: Duration) -> Result<Word> {
    match line.hear(Some(patience))? {
        Some((word, _)) => Ok(word),
        None => bail!("the new process ended before it served; its last words are in its log and on standard error"),
    }
}

fn unexpected(word: Word) -> anyhow::Error {
    match word {
        Word::Failed { reason } => anyhow!("{GIVES_UP}{reason}"),
        other => anyhow!("the new process says {other:?}, which is not expected"),
    }
}

impl Served {
    /// The new process.
    pub(crate) fn process(&self) -> u32 {
        self.newborn.process()
    }

    /// Lets the new process serve, and tells whoever asked for the upgrade. If that can't be, everything is as before.
    pub(crate) fn go(&mut self) -> Result<()> {
        let told = self.line.say(&Word::Go, &[]);
        self.committed = told.is_ok();
        if let Some((answer, upgraded)) = self.answer.take() {
            let outcome = told.as_ref().map(|()| upgraded).map_err(|error| refusal(&format!("{error:#}")));
            // Whoever asked may have given up.
            let _ = answer.send(outcome);
        }
        told
    }

    /// Hands a connection over that nobody here began to serve.
    pub(crate) fn give_stray(&self, address: SocketAddr, stray: &OwnedFd) -> Result<()> {
        self.line.say(&Word::Strays { address }, &[stray.as_fd()])
    }

    /// Says that everything of this process is closed.
    pub(crate) fn done(&self) {
        // A new process that is gone already has no use for it; the next start finds what there is.
        let _ = self.line.say(&Word::Done, &[]);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !self.committed {
            self.newborn.kill();
            // It is gone as well where this process ends.
            let _ = self.keeper.send(Request::Pause(false, tokio::sync::oneshot::channel().0));
        }
    }
}
