//! A shell that goes on from block to block, as that of somebody who copies them out of a page.

use crate::support::programs::Guarded;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a block may take.
const BLOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Ends what a block has written.
const OVER: &str = "---the-block-is-over---";

/// Notes each command that fails, also in the middle of a block. The last one noted a second time is the block itself.
const TRAP: &str = "trap 'echo \"$? $BASH_COMMAND\" >>/tmp/.failed' ERR\n";

/// What came of a block.
pub(super) struct Told {
    /// All that it wrote, to standard output and standard error.
    pub(super) out: String,
    /// The statuses of the commands that failed.
    pub(super) failed: Vec<i32>,
}

pub(super) struct Shell {
    _child: Guarded,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Its /tmp.
    folder: PathBuf,
}

impl Shell {
    /// Starts it by a command that runs what it is given as arguments, on a stage whose /tmp is `folder`.
    pub(super) fn start(mut entering: Command, folder: &Path) -> Self {
        entering.args(["bash", "--noprofile", "--norc"]);
        let mut child = Guarded::spawn(entering.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()));
        let mut input = child.0.stdin.take().expect("piped");
        let output = BufReader::new(child.0.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // What is no text is shown as far as it is; nobody listens any more when the test is over.
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        input.write_all(TRAP.as_bytes()).expect("the shell listens");
        Self { _child: child, input, lines, folder: folder.to_owned() }
    }

    /// Runs a block to its end.
    #[track_caller]
    pub(super) fn run(&mut self, block: &str) -> Told {
        let failed = self.folder.join(".failed");
        fs::write(&failed, "").expect("written");
        fs::write(self.folder.join(".block"), block).expect("written");
        let line = format!(". /tmp/.block </dev/null 2>&1\nprintf '\\n%s\\n' {OVER}\n");
        self.input.write_all(line.as_bytes()).expect("the shell listens");
        let out = self.read(block);
        let noted = fs::read_to_string(&failed).expect("text");
        let statuses = noted.lines().filter(|line| !line.contains(". /tmp/.block"));
        let statuses = statuses.filter_map(|line| line.split(' ').next()?.parse().ok());
        Told { out, failed: statuses.collect() }
    }

    #[track_caller]
    fn read(&self, block: &str) -> String {
        let deadline = Instant::now() + BLOCK_PATIENCE;
        let mut out = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == OVER => return out,
                Ok(line) => {
                    out.push_str(&line);
                    out.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("longer than {BLOCK_PATIENCE:?}:\n{block}\nwhich wrote:\n{out}")
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the shell has ended:\n{block}\nwhich wrote:\n{out}"),
            }
        }
    }
}
