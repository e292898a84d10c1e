//! The new process: what it is given, and when it says what.

use super::VARIABLE;
use super::wire::{Line, PROTOCOL, Word};
use crate::notify;
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::Sender;
use ringpost_config::Config;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::{FdFlags, fcntl_setfd, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use socket2::Socket;
use std::cell::OnceCell;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// How long each word of the former process may take while both start this.
const WORD_PATIENCE: Duration = Duration::from_secs(30);

/// How long a former process that closes the line may take to end, if it does: the kernel closes what it had open first.
const GONE_PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Sockets of health, metrics and the API that were given.
#[derive(Default)]
pub(crate) struct AdminSockets {
    pub(crate) tcp: Option<TcpListener>,
    pub(crate) unix: Option<UnixListener>,
}

/// What a process was given to begin with.
#[derive(Default)]
pub(crate) struct Inheritance {
    /// Listening sockets, by address.
    pub(crate) listening: Vec<(SocketAddr, Vec<OwnedFd>)>,
    pub(crate) admin: AdminSockets,
    /// The lock of the state directory.
    pub(crate) lock: Option<OwnedFd>,
    /// The addresses of listeners whose sockets somebody keeps open when this process ends, so that clients wait instead of
    /// being refused.
    pub(crate) kept_open: Vec<SocketAddr>,
}

/// The process that this one takes over from.
pub(crate) struct Predecessor {
    line: Line,
    /// Means the former process, also when its number is another's.
    process: OnceCell<OwnedFd>,
}

/// What the former process leaves behind.
pub(crate) enum Bequest {
    /// A connection that it did not begin to serve, of the listener with this address.
    Stray(SocketAddr, OwnedFd),
    /// Its spools: nobody holds them any more.
    Spools,
}

impl Inheritance {
    /// What a former process offers, or the service manager; nothing of either is usual.
    pub(crate) fn receive(config: &Config) -> Result<(Self, Option<Predecessor>)> {
        let Some(line) = line()? else { return Ok((from_service_manager(config)?, None)) };
        let predecessor = Predecessor { line, process: OnceCell::new() };
        match predecessor.offer(config) {
            Ok(inheritance) => Ok((inheritance, Some(predecessor))),
            Err(error) => {
                predecessor.give_up(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    /// The sockets of an address, if there are any.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<Vec<OwnedFd>> {
        let at = self.listening.iter().position(|(of, _)| *of == address)?;
        Some(self.listening.swap_remove(at).1)
    }
}

/// Tells a former process, if there is one, that this one can't even begin.
pub(crate) fn refuse(reason: &str) {
    if let Ok(Some(line)) = line() {
        Predecessor { line, process: OnceCell::new() }.give_up(reason);
    }
}

/// The line to a former process; nothing if there is none. To be asked for once.
fn line() -> Result<Option<Line>> {
    let Some(number) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let number = number.to_str().and_then(|number| number.parse::<RawFd>().ok()).filter(|number| *number > 2);
    let number = number.ok_or_else(|| anyhow!("{VARIABLE} is not the number of a descriptor"))?;
    // SAFETY: the variable is set by a former process that left this descriptor open for this one, and nobody else here
    // knows of it. That it is open is looked at before it is owned.
    let line = unsafe {
        fstat(BorrowedFd::borrow_raw(number)).with_context(|| format!("{VARIABLE}={number}"))?;
        OwnedFd::from_raw_fd(number)
    };
    // No program that this one starts may hold the line open.
    fcntl_setfd(&line, FdFlags::CLOEXEC).context("the line to the former process")?;
    Ok(Some(Line::new(line)))
}

fn add(listening: &mut Vec<(SocketAddr, Vec<OwnedFd>)>, address: SocketAddr, sockets: Vec<OwnedFd>) {
    match listening.iter_mut().find(|(of, _)| *of == address) {
        Some((_, known)) => known.extend(sockets),
        None => listening.push((address, sockets)),
    }
}

/// Sorts the sockets of a service manager by what the config has at their addresses.
fn from_service_manager(config: &Config) -> Result<Inheritance> {
    let mut inheritance = Inheritance::default();
    for (number, name) in notify::sockets().context("the sockets of the service manager (LISTEN_FDS)")? {
        // SAFETY: the service manager has opened this descriptor for this process, which takes it here and nowhere else.
        let socket = unsafe { Socket::from_raw_fd(number) };
        let at = socket.local_addr().with_context(|| format!("{name:?} of the service manager is no socket"))?;
        socket.set_nonblocking(true)?;
        if let Some(path) = at.as_pathname() {
            let own = config.admin.socket.as_ref().map(|own| Path::new(&config.server.state_dir).join(own));
            if own.as_deref() != Some(path) {
                bail!("the service manager opens {}, and admin.socket is another path", path.display());
            }
            inheritance.admin.unix = Some(OwnedFd::from(socket).into());
            continue;
        }
        let address = at.as_socket().ok_or_else(|| anyhow!("{name:?} of the service manager has no address"))?;
        if config.listeners.iter().any(|listener| listener.address.contains(&address)) {
            add(&mut inheritance.listening, address, vec![socket.into()]);
            inheritance.kept_open.push(address);
        } else if config.admin.listen == Some(address) {
            inheritance.admin.tcp = Some(OwnedFd::from(socket).into());
        } else {
            bail!(
                "the service manager opens {address} ({name:?}), and no listener of the config has this address: make \
                 the socket unit and the config agree"
            );
        }
    }
    Ok(inheritance)
}

impl Predecessor {
    /// What the former process has to offer.
    fn offer(&self, config: &Config) -> Result<Inheritance> {
        let hear = || self.line.hear(Some(WORD_PATIENCE))?.ok_or_else(|| anyhow!("the former process is gone"));
        let Word::Offer { protocol, version, process, state_dir, kept_open } = hear()?.0 else {
            bail!("the former process does not begin with an offer")
        };
        if protocol != PROTOCOL {
            bail!(
                "process {process} (ringpost {version}) hands over by version {protocol}, this one takes over by \
                 {PROTOCOL}: restart instead"
            );
        }
        let number = i32::try_from(process).ok().and_then(Pid::from_raw);
        let number = number.ok_or_else(|| anyhow!("the former process has no number"))?;
        let handle = pidfd_open(number, PidfdFlags::empty()).context("the former process can't be watched")?;
        self.process.get_or_init(|| handle);
        let configured = Path::new(&config.server.state_dir).canonicalize();
        if !configured.as_ref().is_ok_and(|own| *own == state_dir) {
            let running = state_dir.display();
            bail!(
                "server.state_dir is {}, the running server's is {running}: restart instead",
                config.server.state_dir
            );
        }
        let mut inheritance = Inheritance { kept_open, ..Inheritance::default() };
        loop {
            let (word, mut beside) = hear()?;
            match word {
                Word::Listening { address } => add(&mut inheritance.listening, address, beside),
                Word::AdminTcp => inheritance.admin.tcp = beside.pop().map(TcpListener::from),
                Word::AdminSocket { .. } => inheritance.admin.unix = beside.pop().map(UnixListener::from),
                Word::Lock => inheritance.lock = beside.pop(),
                Word::OfferEnds => break,
                other => bail!("the former process says {other:?} in the middle of its offer"),
            }
        }
        if inheritance.lock.is_none() {
            bail!("the former process does not hand over the lock of its state directory");
        }
        Ok(inheritance)
    }

    /// Says that everything is checked, and waits for the turn. A former process that has died meanwhile leaves the turn as well.
    pub(crate) fn wait_for_turn(&self) -> Result<()> {
        self.ask(&Word::Prepared, &Word::YourTurn)
    }

    /// Says that this process would serve, and waits until the former one lets it. Before that, nothing may be promised to a
    /// client; after it, the former one only finishes.
    pub(crate) fn wait_for_go(&self) -> Result<()> {
        self.ask(&Word::Serving { version: env!("CARGO_PKG_VERSION").to_owned() }, &Word::Go)
    }

    fn ask(&self, word: &Word, expected: &Word) -> Result<()> {
        // It can't be told if it is gone; then nothing comes either.
        let _ = self.line.say(word, &[]);
        match self.line.hear(Some(WORD_PATIENCE))? {
            Some((heard, _)) if heard == *expected => Ok(()),
            Some((other, _)) => bail!("the former process says {other:?} instead of {expected:?}"),
            // One that has called it off is still there, and has everything that this process was to have.
            None if self.is_gone(Some(GONE_PATIENCE)) => Ok(()),
            None => bail!("the former process has called the upgrade off"),
        }
    }

    /// Whether the former process has ended, or does in time.
    fn is_gone(&self, patience: Option<Timespec>) -> bool {
        let Some(process) = self.process.get() else { return false };
        // A process that was ended is told by its handle becoming readable.
        retry_on_intr(|| poll(&mut [PollFd::new(process, PollFlags::IN)], patience.as_ref()))
            .is_ok_and(|ready| ready > 0)
    }

    /// Says that this process gives up.
    pub(crate) fn give_up(&self, reason: &str) {
        let reason = reason.chars().take(4_000).collect();
        // Whoever is gone has noticed already.
        let _ = self.line.say(&Word::Failed { reason }, &[]);
    }

    /// Sends on what the former process leaves behind, on a thread of its own.
    pub(crate) fn succeed(self, bequests: Sender<Bequest>) -> Result<()> {
        let listen = move || {
            loop {
                match self.line.hear(None) {
                    Ok(Some((Word::Strays { address }, beside))) => {
                        for stray in beside {
                            // It fails only when the main thread is gone.
                            let _ = bequests.send(Bequest::Stray(address, stray));
                        }
                    }
                    Ok(Some((Word::Done, _))) => break,
                    Ok(Some((other, _))) => tracing::warn!(?other, "the former process says what is not expected"),
                    Ok(None) => {
                        tracing::warn!("the former process died before it was done; its spools are read as they are");
                        break;
                    }
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "the former process is not understood");
                        break;
                    }
                }
            }
            // What it said is one thing; with its end it has certainly let go of everything.
            self.is_gone(None);
            let _ = bequests.send(Bequest::Spools);
        };
        std::thread::Builder::new().name("predecessor".into()).spawn(listen).context("no thread for the take-over")?;
        Ok(())
    }
}
