//! The terminal that `ringpost top` fills: taken over, drawn on, and given back as it was.
//!
//! It is given back on every way out: when this value goes, by a panic before its message is printed, and by a signal, which
//! only wakes the loop; and for as long as the process is suspended.

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::low_level::pipe;
use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

/// The other screen, without a cursor, and lines that are cut where the screen ends.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";

/// The same back.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Bytes that one press of a key sends at most.
const KEY_BYTES_MAX: usize = 32;

/// Signals that end the process.
const ENDS: [c_int; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// The terminal as it was, while it is taken over.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// How large the screen is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Why a wait was over.
pub(super) enum Event {
    /// A key, as the bytes that it sends.
    Key(Vec<u8>),
    /// The screen has another size, or is ours again.
    Redraw,
    /// The process is to be suspended.
    Suspend,
    /// The process is to end, by this signal.
    End(c_int),
    /// The terminal is gone.
    Hangup,
    /// Time is up.
    Time,
}

/// A terminal that is taken over.
pub(super) struct Terminal {
    signals: UnixStream,
    /// The last signal that came; 0 for none.
    last: Arc<AtomicUsize>,
}

/// Whether there is a terminal to show something on and to take keys from.
pub(super) fn is_there() -> bool {
    let able = std::env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb");
    able && isatty(io::stdin()) && isatty(io::stdout())
}

impl Terminal {
    /// Takes the terminal over.
    pub(super) fn enter() -> Result<Self> {
        restore_before_panics();
        let (signals, wake) = UnixStream::pair().context("a pipe for signals")?;
        signals.set_nonblocking(true)?;
        let last = Arc::new(AtomicUsize::new(0));
        for signal in ENDS.into_iter().chain([SIGTSTP, SIGCONT, SIGWINCH]) {
            // The number first: it has to be there when the pipe wakes the loop.
            signal_hook::flag::register_usize(signal, Arc::clone(&last), usize::try_from(signal)?)?;
            pipe::register(signal, wake.try_clone()?)?;
        }
        take_over()?;
        Ok(Self { signals, last })
    }

    /// How large the screen is; where it doesn't tell, as it was in the days of glass.
    pub(super) fn size(&self) -> Size {
        let told = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        let (rows, columns) = told.map_or((24, 80), |size| (size.ws_row, size.ws_col));
        Size { rows: usize::from(rows), columns: usize::from(columns) }
    }

    /// Draws the lines of a screen over what is there.
    pub(super) fn draw(&self, lines: &[String]) -> Result<()> {
        let mut picture = "\x1b[H".to_owned();
        for (number, line) in lines.iter().enumerate() {
            let next = if number > 0 { "\r\n" } else { "" };
            picture.push_str(&format!("{next}{line}\x1b[K"));
        }
        picture.push_str("\x1b[J");
        write(&picture).context("the terminal")
    }

    /// Waits for a key, a signal, or the end of this time; without one, for as long as it takes.
    pub(super) fn wait(&self, patience: Option<Duration>) -> Result<Event> {
        let stdin = io::stdin();
        let mut ready = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        let patience = patience.map(Timespec::try_from).transpose()?;
        match poll(&mut ready, patience.as_ref()) {
            Ok(0) => return Ok(Event::Time),
            Ok(_) => {}
            // A signal, which the next look finds in the pipe.
            Err(Errno::INTR) => return Ok(Event::Redraw),
            Err(error) => return Err(error).context("waiting for a key"),
        }
        let [signals, keys] = ready.map(|ready| !ready.revents().is_empty());
        if signals && let Some(event) = self.signalled() {
            return Ok(event);
        }
        if keys { key() } else { Ok(Event::Redraw) }
    }

    /// What the last signal wants.
    fn signalled(&self) -> Option<Event> {
        let mut woken = [0; 64];
        // How many bytes there are is of no interest, nor whether another thread was quicker.
        let _ = (&self.signals).read(&mut woken);
        let signal = c_int::try_from(self.last.swap(0, Ordering::SeqCst)).unwrap_or(SIGTERM);
        match signal {
            0 => None,
            SIGTSTP => Some(Event::Suspend),
            SIGCONT | SIGWINCH => Some(Event::Redraw),
            signal => Some(Event::End(signal)),
        }
    }

    /// Gives the terminal back, stops the process, and takes the terminal over again when it goes on.
    pub(super) fn suspend(&self) -> Result<()> {
        restore();
        signal_hook::low_level::raise(signal_hook::consts::SIGSTOP).context("suspending")?;
        take_over()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn key() -> Result<Event> {
    let mut bytes = [0; KEY_BYTES_MAX];
    match rustix::io::read(io::stdin(), &mut bytes) {
        Ok(0) | Err(Errno::IO) => Ok(Event::Hangup),
        Ok(count) => Ok(Event::Key(bytes[..count].to_vec())),
        Err(Errno::INTR | Errno::AGAIN) => Ok(Event::Redraw),
        Err(error) => Err(error).context("reading a key"),
    }
}

fn take_over() -> Result<()> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).context("the terminal")?;
    let mut raw = before.clone();
    raw.make_raw();
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    tcsetattr(&stdin, OptionalActions::Flush, &raw).context("the terminal")?;
    write(ENTER).context("the terminal")
}

/// Gives the terminal back as it was; does nothing if it is not taken over.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that is gone needs neither.
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
    }
}

/// A panic's message has to be on the screen that stays.
fn restore_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told_by = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            told_by(panic);
        }));
    });
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
