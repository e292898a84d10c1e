//! Running other programs: streamed, timed, and never left behind.
//!
//! Whatever is started here, and whatever folder is made for it, is also known to one list, so that an interrupt
//! (Ctrl-C, or SIGTERM from a supervisor) cleans up as the ordinary way out does.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::proc;

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// What an interrupt has to undo.
static LEFTOVERS: Mutex<Leftovers> = Mutex::new(Leftovers { processes: Vec::new(), folders: Vec::new() });

#[derive(Default)]
struct Leftovers {
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

/// Starts the thread that undoes what is running when the command is interrupted.
pub(crate) fn clean_up_when_interrupted() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let mut leftovers = leftovers(std::mem::take);
            let processes: Vec<u32> = leftovers.processes.drain(..).flat_map(proc::family).collect();
            processes.iter().for_each(|id| send(*id, Signal::KILL));
            // Until they are gone they may still write into the folders.
            wait_until(KILL_PATIENCE, || (!processes.iter().any(|id| proc::is_alive(*id))).then_some(()));
            for folder in leftovers.folders.drain(..) {
                let _ = std::fs::remove_dir_all(folder);
            }
            std::process::exit(128 + signal);
        }
    });
}

fn leftovers<T>(change: impl FnOnce(&mut Leftovers) -> T) -> T {
    change(&mut LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Notes a process that isn't a child of ours and would outlive us.
pub(crate) fn remember_process(id: u32) {
    leftovers(|all| all.processes.push(id));
}

/// Drops the note.
pub(crate) fn forget_process(id: u32) {
    leftovers(|all| all.processes.retain(|other| *other != id));
}

/// Notes a folder to be removed.
pub(crate) fn remember_folder(folder: &Path) {
    leftovers(|all| all.folders.push(folder.to_path_buf()));
}

/// Removes the folders noted.
pub(crate) fn remove_folders() {
    let mut folders = Vec::new();
    leftovers(|all| folders = std::mem::take(&mut all.folders));
    for folder in folders {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Drops the note.
pub(crate) fn forget_folder(folder: &Path) {
    leftovers(|all| all.folders.retain(|other| other != folder));
}

/// Sends a signal; a process that is gone has had it.
pub(crate) fn send(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A child that is killed when this value goes, on whatever way.
pub(crate) struct Guarded {
    child: Child,
    name: String,
}

impl Guarded {
    /// Starts `command`; `name` is for messages.
    pub(crate) fn spawn(command: &mut Command, name: &str) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name} ({command:?})"))?;
        remember_process(child.id());
        Ok(Guarded { child, name: name.to_owned() })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Sends `signal` and waits at most `patience` for the end.
    pub(crate) fn stop(&mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        send(self.id(), signal);
        match wait_until(patience, || self.ended().transpose()) {
            Some(status) => status,
            None => bail!("{} is still there {} s after the signal", self.name, patience.as_secs()),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget_process(self.child.id());
    }
}

/// Looks again and again until `look` finds something or `patience` is over.
pub(crate) fn wait_until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Runs a command with our input and outputs; true when it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let mut child = Guarded::spawn(command, &program(command))?;
    let status = child.child.wait().context("cannot wait")?;
    Ok(status.success())
}

/// Runs a command with our input and outputs; an error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    match succeeds(command)? {
        true => Ok(()),
        false => bail!("{} failed", program(command)),
    }
}

/// Runs a command and hands each line of its standard output to `line` as it comes; true when it succeeded.
pub(crate) fn each_line(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let name = program(command);
    let mut child = Guarded::spawn(command.stdout(Stdio::piped()), &name)?;
    let output = child.child.stdout.take().context("no output")?;
    for text in BufReader::new(output).split(b'\n') {
        line(&String::from_utf8_lossy(&text?));
    }
    Ok(child.child.wait()?.success())
}

/// Runs a command and gives its standard output, trimmed; none when it can't be run or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is, looked up as a shell would, and in the folders for administration too.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// True when we may do what only root may.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets us and what we start have as many open files as the system allows: ten thousand sessions have two ends.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it isn't allowed, the part that needs it says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn program(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let first = command.get_args().next().unwrap_or_default();
    format!("{} {}", name.to_string_lossy(), first.to_string_lossy()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_child_does_not_outlive_its_guard() {
        let child = Guarded::spawn(Command::new("sleep").arg("60"), "sleep").expect("sleep starts");
        let id = child.id();
        assert!(proc::is_alive(id));
        drop(child);
        assert!(!proc::is_alive(id));
    }

    #[test]
    fn lines_come_one_by_one() {
        let mut lines = Vec::new();
        let ok = each_line(Command::new("printf").arg("a\nb"), |line| lines.push(line.to_owned())).expect("runs");
        assert!(ok);
        assert_eq!(lines, ["a", "b"]);
        assert!(!succeeds(&mut Command::new("false")).expect("runs"));
    }

    #[test]
    fn programs_are_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }
}
