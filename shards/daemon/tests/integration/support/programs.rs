//! Other programs: found, run with a deadline, and never left behind.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take.
const RUN_PATIENCE: Duration = Duration::from_secs(60);

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(5);

/// Where Debian puts programs that are not in everybody's PATH.
const MORE_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program that a test talks to. It is a failure if it is not there.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(MORE_FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}, or run `cargo xtask test`"))
}

/// What came of a program.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Finished {
    /// Fails with the program's own words unless it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.success(), "{}\n--- out\n{}\n--- err\n{}", self.status, self.out, self.err);
        self
    }

    /// Everything it wrote.
    pub(crate) fn all(&self) -> String {
        format!("{}\n{}", self.out, self.err)
    }
}

/// A child that is killed when this value goes.
pub(crate) struct Guarded(pub(crate) Child);

impl Guarded {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}")))
    }

    /// Waits for its end; nothing if it takes longer than `patience`.
    pub(crate) fn wait_for(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // One that has ended already can't be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, with `input` on its standard input.
pub(crate) fn run(command: &mut Command, input: &str) -> Finished {
    let since = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded::spawn(command);
    let mut stdin = child.0.stdin.take().expect("piped");
    let (stdout, stderr) = (child.0.stdout.take().expect("piped"), child.0.stderr.take().expect("piped"));
    std::thread::scope(|scope| {
        let out = scope.spawn(|| read_all(stdout));
        let err = scope.spawn(|| read_all(stderr));
        // A program that does not read its input to the end says by its status whether that is well.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let status = child.wait_for(RUN_PATIENCE);
        if status.is_none() {
            let _ = child.0.kill();
        }
        let took = since.elapsed();
        let (out, err) = (out.join().expect("read"), err.join().expect("read"));
        match status {
            Some(status) => Finished { status, out, err, took },
            None => panic!("{command:?} takes longer than {RUN_PATIENCE:?}\n--- out\n{out}\n--- err\n{err}"),
        }
    })
}

fn read_all(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is what there is to show.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a Python script; it must end well.
#[track_caller]
pub(crate) fn python(script: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("python3", "python3"));
    run(command.arg("-c").arg(script).args(arguments), "").ok()
}

/// Makes a self-signed certificate for some names and its key, both PEM files, in a folder. `kind` is what openssl calls
/// the key, as `rsa:2048`.
pub(crate) fn make_certificate(folder: &Path, file: &str, kind: &str, names: &[&str]) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
    let alternatives: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", kind]);
    if kind == "ec" {
        command.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
    }
    command.args(["-subj", &format!("/CN={file}")]);
    command.args(["-addext", &format!("subjectAltName={}", alternatives.join(","))]);
    run(command.arg("-keyout").arg(&key).arg("-out").arg(&cert), "").ok();
    (cert, key)
}
