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
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
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
    /// Whether somebody keeps the sockets open when all processes end.
    pub(crate) kept_open: bool,
    pub(crate) keeper: Sender<Request>,
}

/// The new process serves: this one is to end.
pub(crate) struct Served {
    line: Line,
    process: u32,
    answer: Option<(Answer<api::Upgraded>, api::Upgraded)>,
}

/// Begins on a thread of its own. `served` hears if it comes to that; if not, whoever asked is told why, and everything is as
/// before.
pub(crate) fn begin(
    parts: Parts,
    binary: PathBuf,
    answer: Answer<api::Upgraded>,
    served: Sender<Option<Served>>,
) -> Result<()> {
    let work = move || {
        let since = Instant::now();
        match hand_over(&parts, &binary) {
            Ok((line, process, version)) => {
                let upgraded = api::Upgraded { process, version, took_ms: since.elapsed().as_millis() as u64 };
                // It fails only when the main thread is gone.
                let _ = served.send(Some(Served { line, process, answer: Some((answer, upgraded)) }));
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(binary = %binary.display(), error = reason, "upgrade failed; this process serves on");
                // Whoever asked may have given up.
                let _ = answer.send(Err(Refusal::conflict(format!("the new process does not serve: {reason}"))));
                let _ = served.send(None);
            }
        }
    };
    std::thread::Builder::new().name("upgrade".into()).spawn(work).context("no thread for the upgrade")?;
    Ok(())
}

fn hand_over(parts: &Parts, binary: &PathBuf) -> Result<(Line, u32, String)> {
    let (line, other) = Line::pair()?;
    let newborn = start(binary, &other)?;
    drop(other);
    let process = newborn.process();
    tracing::info!(binary = %binary.display(), process, "a new process is started to take over");
    let outcome = converse(parts, &line, process);
    match outcome {
        Ok(version) => Ok((line, process, version)),
        Err(error) => {
            // With the line it loses what it would go by; it may hang all the same.
            drop(line);
            newborn.end();
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
    let pause = |pause: bool| {
        let (answer, answered) = tokio::sync::oneshot::channel();
        parts.keeper.send(Request::Pause(pause, answer)).map_err(|_| anyhow!("the keeper has ended"))?;
        let since = Instant::now();
        let mut answered = answered;
        while since.elapsed() < PAUSE {
            if answered.try_recv().is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the keeper does not answer")
    };
    pause(true)?;
    let served = line.say(&Word::YourTurn, &[]).and_then(|()| match hear(line, BEGIN)? {
        Word::Serving { version } => Ok(version),
        other => Err(unexpected(other)),
    });
    if served.is_err() {
        tracing::info!(process, "the turn is taken back");
        pause(false)?;
    }
    served
}

fn offer(parts: &Parts, line: &Line) -> Result<()> {
    let Parts { listening, admin_tcp, admin_unix, lock, state_dir, kept_open, .. } = parts;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (process, state_dir, kept_open) = (std::process::id(), state_dir.clone(), *kept_open);
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
        self.process
    }

    /// Tells whoever asked for the upgrade.
    pub(crate) fn tell(&mut self) {
        if let Some((answer, upgraded)) = self.answer.take() {
            // Whoever asked may have given up.
            let _ = answer.send(Ok(upgraded));
        }
    }

    /// Hands a connection over that nobody here began to serve.
    pub(crate) fn give_stray(&self, address: SocketAddr, stray: &OwnedFd) -> Result<()> {
        self.line.say(&Word::Strays { address }, &[stray.as_fd()])
    }

    /// Says that everything of this process is closed.
    pub(crate) fn done(self) {
        // A new process that is gone already has no use for it; the next start finds what there is.
        let _ = self.line.say(&Word::Done, &[]);
    }
}
