//! Runs `nft`, for a bounded time.

use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest that nft may run: some seconds are enough for all bans there can be.
const NFT_TIME_MAX: Duration = Duration::from_secs(30);

/// Octets of nft's complaint that are told: it repeats the command, which may be long.
const COMPLAINT_MAX: usize = 300;

/// How often it is looked at whether it has ended: soon at first.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// Runs a script, all of it or none.
pub(super) fn nft(script: &str) -> Result<(), String> {
    run(Command::new("nft").args(["-f", "-"]), script, NFT_TIME_MAX)
}

/// Runs a command with this input. Input and complaints are files in memory, so that neither side ever waits for the other.
pub(super) fn run(command: &mut Command, input: &str, time_max: Duration) -> Result<(), String> {
    let complaint = memory("").map_err(|error| error.to_string())?;
    let spawned = spawn(command, input, &complaint);
    let mut child = spawned.map_err(|error| format!("nft can't be run: {error}"))?;
    match wait(&mut child, time_max) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(beginning(&complaint).unwrap_or_else(|| status.to_string())),
        Ok(None) => Err(format!("nft did not end within {time_max:?}")),
        Err(error) => Err(format!("nft can't be waited for: {error}")),
    }
}

fn spawn(command: &mut Command, input: &str, complaint: &File) -> io::Result<Child> {
    let (input, complaint) = (memory(input)?, complaint.try_clone()?);
    command.stdin(input).stdout(Stdio::null()).stderr(complaint).spawn()
}

/// A file in memory, read and written from its beginning.
fn memory(text: &str) -> io::Result<File> {
    let file = File::from(memfd_create("nft", MemfdFlags::CLOEXEC)?);
    file.write_all_at(text.as_bytes(), 0)?;
    Ok(file)
}

/// Waits for the end; nothing if it had to be killed.
fn wait(child: &mut Child, time_max: Duration) -> io::Result<Option<ExitStatus>> {
    let (began, mut look) = (Instant::now(), LOOK_MIN);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= time_max {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(look);
        look = (look * 2).min(LOOK_MAX);
    }
}

/// The first line, if there is one.
fn beginning(complaint: &File) -> Option<String> {
    let mut bytes = [0; COMPLAINT_MAX];
    let len = complaint.read_at(&mut bytes, 0).ok()?;
    let text = String::from_utf8_lossy(&bytes[..len]);
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
