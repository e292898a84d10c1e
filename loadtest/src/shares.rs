//! A crowd spread over processes of this tool, since the limit on open files counts for each process.
//!
//! The first process starts the others with its own command line and `--share INDEX/COUNT`. Each writes a [`Line`] of JSON
//! to its standard output every so often, and a last one with its numbers when it has ended. It ends when its standard
//! input does; so none outlives the first, however that ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::args::Share;
use crate::crowd::{Counts, Crowd, TICK};
use crate::stats::{PackedStats, Stats};

/// What a process with a share says.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    counts: Counts,
    /// In the last line only.
    stats: Option<PackedStats>,
}

/// The processes that have a share each.
pub(crate) struct Shares(Vec<Process>);

struct Process {
    child: Child,
    /// Closed to tell it to end.
    stdin: Option<ChildStdin>,
    counts: Arc<Mutex<Counts>>,
    /// Reads what it says; ends with it, and gives its last numbers.
    reader: Option<JoinHandle<Result<Stats>>>,
}

impl Shares {
    /// Starts so many processes with the command line of this one.
    pub(crate) fn start(command: &str, count: u32) -> Result<Self> {
        let program = std::env::current_exe().context("can't find out the path of this program")?;
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        ensure!(arguments.first().is_some_and(|first| first == command), "the subcommand must come first");
        let start = |index| {
            let share = Share { index, count };
            let mut child = Command::new(&program);
            child.args(&arguments).args(["--share", &share.to_string()]);
            Process::start(child.stdin(Stdio::piped()).stdout(Stdio::piped())).with_context(|| format!("share {share}"))
        };
        (0..count).map(start).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.0.iter().for_each(|process| sum.add(&process.counts.lock().unwrap_or_else(PoisonError::into_inner)));
        sum
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.iter().all(|process| process.reader.as_ref().is_none_or(JoinHandle::is_finished))
    }

    /// Has all of them leave at the same time.
    pub(crate) fn leave(mut self) -> Result<(Counts, Stats)> {
        self.0.iter_mut().for_each(|process| drop(process.stdin.take()));
        let mut sum = Stats::new();
        for process in &mut self.0 {
            let reader = process.reader.take().context("a share was asked twice")?;
            sum.merge(&reader.join().map_err(|_| anyhow!("a reader panicked"))??);
            let status = process.child.wait()?;
            ensure!(status.success(), "a process with a share of the sessions ended with {status}");
        }
        Ok((self.counts(), sum))
    }
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let stdin = child.stdin.take();
        let counts = Arc::new(Mutex::new(Counts::default()));
        let own = Arc::clone(&counts);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line: Line = serde_json::from_str(&line?).context("a share said something else than JSON")?;
                *own.lock().unwrap_or_else(PoisonError::into_inner) = line.counts;
                if let Some(packed) = line.stats {
                    return Ok(Stats::unpack(packed));
                }
            }
            Err(anyhow!("a process with a share of the sessions ended before its time"))
        });
        Ok(Self { child, stdin, counts, reader: Some(reader) })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends with its standard input; an end that was waited for already is no error here.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// The other side: follows a crowd of this process and says what it comes to.
pub(crate) fn serve(crowd: Crowd, stop: &Arc<AtomicBool>) -> Result<()> {
    let ended = Arc::clone(stop);
    std::thread::spawn(move || {
        // Nothing is written there; its end is the sign, and so is an error.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    while !stop.load(Ordering::Relaxed) {
        say(&Line { counts: crowd.counts(), stats: None })?;
        std::thread::sleep(TICK);
    }
    let (counts, stats) = crowd.leave()?;
    say(&Line { counts, stats: Some(stats.pack()) })
}

fn say(line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&text)?;
    Ok(stdout.flush()?)
}
